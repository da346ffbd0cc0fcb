"""Lesions of one scan by MONAI's transforms and sliding window, with a brainmets model's network.

As MONAI's own tutorials have it: to 0.833 mm, Z-scores of what is not 0, cubes of the model's
side, probabilities back on the scan's grid, a mask. ``--same`` cuts to what is not 0, blends as
brainmets does and computes in bfloat16. No measurements, no report.

    python benchmarks/peers/slide_with_monai.py SCAN OUT [--same] [--model starter]
"""

import argparse
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import (
    CropForeground,
    EnsureChannelFirst,
    LoadImage,
    NormalizeIntensity,
    Orientation,
    ResampleToMatch,
    SaveImage,
    Spacing,
)

from brainmets.network.bundle import find, read
from brainmets.network.torch_engine import build

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("scan", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--same", action="store_true")
parser.add_argument("--model", default="starter")
given = parser.parse_args()

bundle = read(find(given.model))
network = build(bundle)
scan = EnsureChannelFirst()(LoadImage(image_only=True)(given.scan))
spacing = (bundle.recipe.spacing_mm,) * 3
image = Spacing(pixdim=spacing, mode="bilinear")(Orientation("RAS")(scan))
if given.same:
    image = CropForeground(select_fn=lambda x: x != 0)(image)
image = NormalizeIntensity(nonzero=True)(image)
side = bundle.tiling.tile_vox
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=given.same):
    logits = sliding_window_inference(
        image.as_tensor()[None], (side,) * 3, sw_batch_size=1, predictor=network,
        overlap=bundle.tiling.overlap, mode="gaussian" if given.same else "constant",
    )  # fmt: skip
probability = MetaTensor(logits[0].float().sigmoid(), meta=image.meta)
restored = ResampleToMatch(mode="bilinear")(probability, scan)
mask = (restored > bundle.rule.high).to(torch.uint8)
SaveImage(given.out, output_postfix="mask", print_log=False, separate_folder=False)(mask)
