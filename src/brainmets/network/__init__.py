"""The network: the U-Net, SynthStrip, bundles of weights, and the engines that run them."""
