"""Whether simulated metastases have the sizes and shapes of real ones.

Both sides are masks: 26-connected components, on the grid of each mask. The real ones are the
tumour cores (labels 1 and 3) in ``lesion_masks`` of BRAINMETS_DATA; the simulated ones lie in
label maps 15 and 16, as the scanner's grid leaves them. Printed: the Kolmogorov–Smirnov
distance of log10 volume, its scatter for equal distributions of that many lesions, and
the sphericity of lesions of 50 mm³ or more.

    BRAINMETS_DATA=FOLDER python benchmarks/lesion_sizes.py [--cases N] [--seed S] [--workers N]
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import ks_2samp, kstwobign
from skimage.measure import marching_cubes, mesh_surface_area

from brainmets.concurrency import in_order
from brainmets.io import nifti
from brainmets.lesions import components
from brainmets.simulate.anatomy import read_anatomy
from brainmets.simulate.examination import simulate
from brainmets.volume import Volume
from record import write

CORE = (1, 3)
SHAPED_MM3 = 50.0
PERCENTILES = (5, 10, 25, 50, 75, 90, 95)
MAPS = ("training_seg_15.nii.gz", "training_seg_16.nii.gz")
Found = tuple[list[float], list[float]]
"""Volumes in mm³ of all lesions of a scan, and sphericities of the larger ones."""


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    data = Path(os.environ["BRAINMETS_DATA"])
    masks = sorted((data / "lesion_masks").glob("*-seg.nii.gz"))
    real = [measured(core_of(path)) for path in masks]
    half = (options.cases + 1) // 2
    jobs = [  # map by map: reading one takes longer than simulating in it
        (data / "anatomy" / MAPS[number // half], options.seed, number)
        for number in range(options.cases)
    ]
    with in_order(options.workers) as run:
        simulated = [found for found in run(simulated_lesions, jobs) if found[0]]
    value = compared(real, simulated) | {"cases": options.cases, "seed": options.seed}
    print(write("lesion_sizes", value).read_text())


def core_of(path: Path) -> Volume:
    """The tumour cores of a real mask."""
    labels = nifti.read_labels(path)
    return labels.with_data(np.isin(labels.data, CORE))


def simulated_lesions(job: tuple[Path, int, int]) -> Found:
    """The lesions of one simulated scan."""
    path, seed, number = job
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
    return measured(simulate(read_anatomy(path), rng).mask)


def measured(mask: Volume) -> Found:
    """Volumes and sphericities of the components of a mask."""
    labels = components(mask).data
    voxel_mm3 = mask.grid.voxel_volume_mm3
    sizes = np.bincount(labels.ravel())[1:] * voxel_mm3
    shaped = [n for n, mm3 in enumerate(sizes, start=1) if mm3 >= SHAPED_MM3]
    return sizes.tolist(), [sphericity(labels == n, mask.grid.spacing_mm) for n in shaped]


def sphericity(inside: npt.NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
    """Surface of the sphere of equal volume over the surface, both of the mesh.

    IBSI's definition (Zwanenburg et al. 2020, Radiology 295:328): marching cubes at 0.5 on the
    mask as it stands. Its steps make a sphere of 1 mm voxels 0.92, one of 0.9 × 0.9 × 1.5 mm
    0.90.
    """
    places = np.argwhere(inside)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    cut = inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    points, faces, _, _ = marching_cubes(np.pad(cut, 1).astype(np.float32), 0.5, spacing=spacing_mm)
    corners = points[faces]
    signed = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    volume = abs(float(signed.sum())) / 6
    return float(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / mesh_surface_area(points, faces))


def compared(real: Sequence[Found], simulated: Sequence[Found]) -> dict[str, Any]:
    """Distances between both sides, and each side's percentiles."""
    volumes = [np.log10([v for found in side for v in found[0]]) for side in (real, simulated)]
    shapes = [np.array([s for found in side for s in found[1]]) for side in (real, simulated)]
    effective = np.sqrt(np.prod([v.size for v in volumes]) / np.sum([v.size for v in volumes]))
    return {
        "ks_log10_volume": round(float(ks_2samp(*volumes).statistic), 4),
        "ks_of_equal_distributions_95": round(float(kstwobign.ppf(0.95) / effective), 4),
        "ks_sphericity": round(float(ks_2samp(*shapes).statistic), 4),
        "real": described(volumes[0], shapes[0], real),
        "simulated": described(volumes[1], shapes[1], simulated),
    }


def described(
    volumes: npt.NDArray[np.float64], shapes: npt.NDArray[np.float64], scans: Sequence[Found]
) -> dict[str, Any]:
    """Counts and percentiles of one side."""
    return {
        "scans": len(scans),
        "lesions": int(volumes.size),
        "lesions_per_scan": percentiles([len(found[0]) for found in scans]),
        "log10_volume_mm3": percentiles(volumes),
        "sphericity": percentiles(shapes),
        "sphericity_lesions": int(shapes.size),
    }


def percentiles(values: npt.ArrayLike) -> dict[str, float]:
    """Percentiles by name."""
    found = np.percentile(np.asarray(values, np.float64), PERCENTILES)
    return {f"p{p:02d}": round(float(x), 3) for p, x in zip(PERCENTILES, found, strict=True)}


if __name__ == "__main__":
    main()
