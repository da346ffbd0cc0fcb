"""Places of a prepared scan with a bright shell around them: metastases that are dark inside.

From a place, rays go out in 26 directions. A shell crosses a ray where it is brighter than the
place and brighter than what lies a little further out, so that a ventricle in white matter or a
sulcus has none. A place is as ringed as the shell is bright in the worst direction but a few:
those in which a ring may be open, or touch something brighter.
"""

import itertools

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.concurrency import on_threads

STEP_MM = 1.67
"""Of rays, and of the grid of places; rounded to voxels."""
SMOOTH_MM = 0.5
"""Of the image that is looked at: a shell is thin."""
REACH_MM, OUTSIDE_MM = 6.67, 3.33
"""From a place to the furthest shell, and from a shell to what must be darker."""
OPEN = 4
"""Directions, of 26, in which there need be no shell."""
LEAST = 0.03
"""Z-scores by which a shell is brighter."""
BETWEEN = 5
"""Steps along each side of the cube in which only the most ringed place is taken."""
SLAB = 16
"""Steps along x that are looked at at a time."""
CORNERS = [np.array(c) for c in itertools.product((-1, 0, 1), repeat=3) if any(c)]
WAYS = [corner / np.linalg.norm(corner) for corner in CORNERS]

Float32 = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


def ringed(image: Float32, brain: npt.NDArray[np.bool_], spacing_mm: float) -> Places:
    """Places with a bright shell of 7 to 13 mm around them, the most ringed first.

    Args:
        image: Z-scores (X, Y, Z), limited, so that no vessel outshines a shell.
        brain: where places may lie.
        spacing_mm: of its voxels.

    Returns:
        Voxels (N, 3).
    """
    step = max(1, round(STEP_MM / spacing_mm))
    smooth = ndimage.gaussian_filter(image, SMOOTH_MM / spacing_mm)[::step, ::step, ::step]
    reach, outside = (max(1, round(mm / step / spacing_mm)) for mm in (REACH_MM, OUTSIDE_MM))
    wide = reach + outside
    around = np.pad(smooth, wide, mode="edge")
    shell = np.empty(smooth.shape, np.float32)

    def look(first: int) -> None:
        part = slice(first, first + SLAB)
        shell[part] = _shell(around[first : first + SLAB + 2 * wide], smooth[part], reach, outside)

    on_threads(look, range(0, len(smooth), SLAB))
    shell[~brain[::step, ::step, ::step]] = 0
    shell = ndimage.gaussian_filter(shell, 0.7)
    peaks = (shell == ndimage.maximum_filter(shell, BETWEEN)) & (shell > LEAST)
    peaks &= brain[::step, ::step, ::step]
    places = np.argwhere(peaks)
    return np.asarray(places[np.argsort(-shell[peaks], kind="stable")] * step)


def _shell(around: Float32, middle: Float32, reach: int, outside: int) -> Float32:
    """How much brighter a shell is in the worst direction but :data:`OPEN`, at each place."""
    wide = reach + outside

    def at(way: npt.NDArray[np.float64], steps: int) -> Float32:
        shift = np.rint(way * steps).astype(int) + wide
        sides = zip(shift.tolist(), middle.shape, strict=True)
        return around[tuple(slice(start, start + n) for start, n in sides)]

    best = np.zeros((len(WAYS), *middle.shape), np.float32)
    for way, brightest in zip(WAYS, best, strict=True):
        for steps in range(1, reach + 1):
            here, beyond = at(way, steps), at(way, steps + outside)
            np.maximum(brightest, here - np.maximum(middle, beyond), out=brightest)
    best.partition(OPEN, axis=0)
    return np.asarray(best[OPEN])
