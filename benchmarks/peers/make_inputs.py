"""What whole_patient.py needs: a large scan, the paper's network, `starter`'s first network.

The last as a model of its own, and as TorchScript.

In a process of its own, for a child's peak memory begins with its parent's.

    python benchmarks/peers/make_inputs.py OUT
"""

import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))

from brainmets.config import Architecture, DecisionRule, Recipe, Tiling
from brainmets.network.bundle import Bundle, find, read, write
from brainmets.network.torch_engine import build, torch_engine
from brainmets.network.unet import UNet
from brainmets.simulate.examination import simulate_cohort
from predict import enlarge

folder = Path(sys.argv[1])
simulate_cohort(folder / "simulated", cases=1, seed=7)
head = folder / "simulated" / "sim-0000" / "t1c.nii.gz"
enlarge(head, folder / "large.nii.gz", (512, 512, 176), (0.5, 0.5, 1.0))

torch.manual_seed(0)
whole = np.asarray(nib.load(head).dataobj, np.float32)
image = whole[tuple(slice(side // 2 - 32, side // 2 + 32) for side in whole.shape)]
image = (image - image.mean()) / image.std()
network = UNet(Architecture(64)).train()
with torch.no_grad():
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            layer.momentum = None  # statistics of this image, as training leaves them
            if name.endswith("bn2"):
                layer.weight *= 0.2  # without, rounding grows from block to block
    odds = network(torch.from_numpy(image)[None, None]) - network.head.bias
    network.head.weight *= 1.5 / odds.std()
    network.head.bias.fill_(-1.5 * float(odds.mean() / odds.std()))
weights = {  # rounded as the file rounds them
    name: values.half().float().numpy() for name, values in network.state_dict().items()
}
nothing = DecisionRule(1, 1, 1000)  # random weights see lesions everywhere: let none be measured
paper = Bundle("paper", Architecture(64), Recipe(), Tiling(), nothing, weights, {})
example = {"input": image, "output": torch_engine(paper, "cpu", "f32")(image)}
write(replace(paper, example=example), folder / "paper.brainmets")

starter = replace(read(find("starter")), detail=None)
write(starter, folder / "first.brainmets")
side = starter.tiling.tile_vox
with torch.inference_mode():
    traced = torch.jit.trace(build(starter).eval(), torch.zeros(1, 1, side, side, side))
traced.save(folder / "starter.ts")
