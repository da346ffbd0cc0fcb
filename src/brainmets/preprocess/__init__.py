"""From a scan to the network's input, and back."""
