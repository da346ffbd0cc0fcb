"""Places of a prepared scan where something small, compact and bright lies.

Peaks of the image at five scales, ranked by how sharply it falls off in the direction in which it
falls off least (smallest curvature; Lindeberg 1998, Int J Comput Vis 30:79): a ball has it, a
vessel or a sheet of dura has hardly any. That is held against how much the image varies around
the place, so that a weak metastasis in quiet tissue comes before what lies among vessels.
Metastases that are dark inside have no peak in their middle: what is ringed
(:mod:`brainmets.inference.rings`) is taken besides.
"""

import itertools

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from brainmets.concurrency import on_threads
from brainmets.inference.rings import ringed
from brainmets.preprocess.prepare import Prepared

SIGMAS_MM = (0.8, 1.2, 1.8, 2.7, 4.0)
"""A ball of diameter 2 √3 σ answers most: 3 to 14 mm."""
DARKEST, BRIGHTEST = -1.0, 3.5
"""Z-scores beyond which an image is flat, so that vessels do not outshine metastases."""
LEAST_CURVATURE = 0.02
"""Of the smoothed Z-scores, per square of its scale."""
APART_MM, APART_SIGMAS = 2.5, 1.2
"""Of two places nearer to each other than either of these only the sharper one stays."""
AROUND_MM, LEAST_UNREST, HALF = 6.0, 0.05, 2
"""How far around a place the image's standard deviation is taken, what is added to it, and the step
in voxels of the grid that it is computed on."""
RING_MM = 2.7
"""What is told as the scale of a ringed place."""

Float32 = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


def candidates(
    prepared: Prepared, most: int, rings: int = 0
) -> tuple[Places, npt.NDArray[np.float64]]:
    """Bright places in the brain, sharpest for their surroundings first, then ringed ones.

    Args:
        prepared: the scan.
        most: bright places at most.
        rings: ringed places at most, where no bright one is near.

    Returns:
        Voxels of ``prepared.volume`` (N, 3), and the scale in mm of each (N,).
    """
    spacing = prepared.volume.grid.spacing_mm[0]
    brain = np.asarray(prepared.brain.data[prepared.box], bool)
    image = np.asarray(prepared.volume.data[prepared.box], np.float32)
    middle = np.float32(np.median(image[brain]))
    image = np.where(brain, np.clip(image, DARKEST, BRIGHTEST), middle)
    found: dict[float, tuple[Places, Float32]] = {}

    def look(sigma_mm: float) -> None:
        found[sigma_mm] = _peaks(image, brain, sigma_mm / spacing)

    on_threads(look, SIGMAS_MM)
    places = np.concatenate([found[sigma][0] for sigma in SIGMAS_MM])
    sharpness = np.concatenate([found[sigma][1] for sigma in SIGMAS_MM])
    sharpness /= _unrest(image, brain, spacing)[tuple((places // HALF).T)] + LEAST_UNREST
    scales = np.repeat(SIGMAS_MM, [len(found[sigma][0]) for sigma in SIGMAS_MM])
    kept = _apart(places * spacing, sharpness, scales, most)
    places, scales = places[kept], scales[kept]
    if rings:
        round_ = _away(ringed(image, brain, spacing), places, APART_MM / spacing)
        order, wide = -np.arange(len(round_), dtype=np.float32), np.full(len(round_), RING_MM)
        round_ = round_[_apart(np.asarray(round_ * spacing), order, wide, rings)]
        places = np.concatenate([places, round_])
        scales = np.concatenate([scales, wide[: len(round_)]])
    return places + [side.start for side in prepared.box], scales


def _unrest(image: Float32, brain: npt.NDArray[np.bool_], spacing_mm: float) -> Float32:
    """Standard deviation of the brain around each place, at half the resolution."""
    sigma = AROUND_MM / HALF / spacing_mm
    inside, image = brain.astype(np.float32), np.where(brain, image, np.float32(0))
    share, mean, square = (
        ndimage.gaussian_filter(_halved(each), sigma, truncate=3)
        for each in (inside, image, image * image)
    )
    share = np.maximum(share, np.float32(1e-6))
    variance = square / share - (mean / share) ** 2
    return np.asarray(np.sqrt(np.maximum(variance, np.float32(0))), np.float32)


def _halved(image: Float32) -> Float32:
    whole = np.pad(image, [(0, -n % HALF) for n in image.shape], mode="edge")
    x, y, z = (n // HALF for n in whole.shape)
    return np.asarray(whole.reshape(x, HALF, y, HALF, z, HALF).mean((1, 3, 5)), np.float32)


def _away(places: Places, others: Places, apart_vox: float) -> Places:
    """Places that lie further than this from all others."""
    away, _ = cKDTree(others).query(places)
    return places[away > apart_vox]


def _peaks(image: Float32, brain: npt.NDArray[np.bool_], sigma: float) -> tuple[Places, Float32]:
    """Voxels brighter than their neighbours once smoothed, and their smallest curvature."""
    smooth = ndimage.gaussian_filter(image, sigma, truncate=3)
    places = np.argwhere((smooth == ndimage.maximum_filter(smooth, 3)) & brain)
    sharpness = -_curvatures(smooth, places, max(1, round(sigma)))[:, 2]
    bright = sharpness > LEAST_CURVATURE
    return places[bright], sharpness[bright]


def _curvatures(smooth: Float32, places: Places, step: int) -> Float32:
    """Eigenvalues, ascending, of the second differences ``step`` voxels apart (N, 3)."""
    last = np.array(smooth.shape) - 1
    unit = step * np.eye(3, dtype=np.int64)

    def value(shift: Places) -> Float32:
        there = np.clip(places + shift, 0, last)
        return np.asarray(smooth[tuple(there.T)])

    middle = value(0 * unit[0])
    hessian = np.empty((len(places), 3, 3), np.float32)
    for i, j in itertools.combinations_with_replacement(range(3), 2):
        if i == j:
            curved = value(unit[i]) + value(-unit[i]) - 2 * middle
        else:
            both, across = unit[i] + unit[j], unit[i] - unit[j]
            curved = (value(both) + value(-both) - value(across) - value(-across)) / 4
        hessian[:, i, j] = hessian[:, j, i] = curved
    return np.asarray(np.linalg.eigvalsh(hessian))


def _apart(
    places_mm: npt.NDArray[np.float64],
    sharpness: Float32,
    scales: npt.NDArray[np.float64],
    most: int,
) -> npt.NDArray[np.int64]:
    """Numbers of the sharpest, none within the reach of a sharper one."""
    if not len(places_mm):
        return np.zeros(0, np.int64)
    tree = cKDTree(places_mm)
    taken = np.zeros(len(places_mm), bool)
    kept: list[int] = []
    for number in np.argsort(-sharpness, kind="stable"):
        if taken[number]:
            continue
        kept.append(int(number))
        if len(kept) == most:
            break
        reach = max(APART_MM, APART_SIGMAS * scales[number])
        taken[tree.query_ball_point(places_mm[number], reach)] = True
    return np.array(kept, np.int64)
