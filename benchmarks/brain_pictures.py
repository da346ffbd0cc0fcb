"""Pictures of the brain masks of real whole heads, to be looked at; nothing is measured.

Axial slices at the cerebellum, the temporal poles and the vertex, two coronal and two sagittal
ones: the mask's outline in red, that of what is kept in yellow. Scans may not be published: the
folder is ignored by git.

    BRAINMETS_DATA=FOLDER python benchmarks/brain_pictures.py [--out pictures]
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_erosion

from brain_scans import data_folder
from brainmets.io import nifti
from brainmets.preprocess.brain import extract_brain
from brainmets.preprocess.prepare import bounding_box
from brainmets.preprocess.resample import resample
from brainmets.volume import Volume, to_nearest_ras

HEADS = (
    "heads/chris_t1",
    "heads/mni152_t1_1mm_head",
    *(f"heads/nichart/Subj{n}_T1" for n in range(1, 9)),
    "scans/head_fg6692/t1c",
    "scans/head_thick/t1c",
)
HEIGHTS = (0.06, 0.15, 0.25, 0.4, 0.85, 0.95)
"""Of the mask's box from below: medulla, cerebellum, temporal poles, middle, vertex."""
SIDE = 260
RED, YELLOW = (255, 40, 40), (255, 220, 0)
Mask = npt.NDArray[np.bool_]


def main() -> None:
    """One picture a head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for head in HEADS:
        scan = nifti.read(data_folder() / f"{head}.nii.gz").volume
        brain = extract_brain(scan, extractor="builtin")
        path = out / f"brain_{head.replace('/', '_')}.png"
        _picture(scan, brain.mask, brain.kept).save(path)
        print(path.name, brain.notes, flush=True)


def _picture(scan: Volume, brain: Volume, kept: Volume) -> Image.Image:
    volumes = [to_nearest_ras(v) for v in (scan, brain, kept)]
    image, inside, wide = (resample(v.with_data(v.data.astype(np.float32)), 1.0) for v in volumes)
    shown = np.clip(image.data / np.percentile(image.data, 99.3), 0, 1)
    masks = (inside.data >= 0.5, wide.data >= 0.5)
    box = bounding_box(masks[0])
    at = [box[2].start + round(h * (box[2].stop - box[2].start)) for h in HEIGHTS]
    x = (box[0].start + box[0].stop) // 2
    third = (box[0].stop - box[0].start) // 4
    y = round(0.6 * box[1].stop + 0.4 * box[1].start)
    places = [(2, z) for z in at] + [(1, y), (1, y - 40), (0, x), (0, x - third)]
    tiles = [_tile(*(np.take(v, n, axis) for v in (shown, *masks))) for axis, n in places]
    rows = [np.hstack(tiles[:5]), np.hstack(tiles[5:])]
    return Image.fromarray(np.vstack(rows))


def _tile(image: npt.NDArray[np.float32], inside: Mask, wide: Mask) -> npt.NDArray[np.uint8]:
    colours = np.repeat((image * 255).astype(np.uint8)[..., None], 3, axis=2)
    for mask, colour in ((wide, YELLOW), (inside, RED)):
        colours[mask & ~binary_erosion(mask)] = colour
    tile = np.zeros((SIDE, SIDE, 3), np.uint8)
    part = colours.transpose(1, 0, 2)[::-1][:SIDE, :SIDE]
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


if __name__ == "__main__":
    main()
