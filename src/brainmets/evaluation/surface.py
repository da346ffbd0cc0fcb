"""How far apart the surfaces of two masks are: HD95, mean surface distance, NSD, in mm.

A surface is a set of points with weights. There are two kinds:

``"elements"`` (the default): one point in each cube of 2×2×2 voxel centres that is neither
all inside nor all outside, weighted by the area of the surface in the cube; see
:mod:`brainmets.evaluation.elements`. As Nikolov et al. 2021, J Med Internet Res 23:e26151 and
their package surface-distance, and as MONAI's ``use_subvoxels=True``.

``"voxels"``: the centre of each inside voxel with one of its six neighbours outside, all of
one weight, as in MONAI's defaults. It counts faces, edges and corners alike, so the weight
of a surface depends on how it lies to the axes and on the spacing.

The outside of the grid is outside of the mask. Distances are Euclidean, from each point of one
surface to the nearest point of the other. Spacing counts, and so does the shear of tilted
gantries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from brainmets.errors import ConfigError
from brainmets.evaluation.elements import areas_mm2, neighbour_codes
from brainmets.evaluation.scores import Score, ratio, undefined
from brainmets.lesions import bounding_box
from brainmets.volume import Array, Volume, require_same_grid

Kind = Literal["elements", "voxels"]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

TOLERANCES_MM = (1.0, 2.0)
"""At which NSD is tabulated; tools differ in their default, so the name of each score says it."""

ROUNDING = 1e-9
"""Relative play, so that a distance of 3 × 0.1 mm lies within a tolerance of 0.3 mm."""


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces.

    Attributes:
        reference_mm: for each point of the reference's surface the distance to the
            prediction's; infinite if the prediction has none.
        prediction_mm: the same the other way round.
        reference_weight: area in mm² of each point of the reference's surface, or 1.
        prediction_weight: the same for the prediction's.
        kind: of the surfaces.
    """

    reference_mm: FloatArray
    prediction_mm: FloatArray
    reference_weight: FloatArray
    prediction_weight: FloatArray
    kind: Kind

    @property
    def gap(self) -> str | None:
        """Why there is no distance; None when both surfaces exist."""
        empty = (not self.reference_mm.size, not self.prediction_mm.size)
        return {
            (True, True): "reference and prediction are both empty",
            (True, False): "the reference is empty",
            (False, True): "the prediction is empty",
        }.get(empty)


def surface_distances(
    reference: Volume, prediction: Volume, *, kind: Kind = "elements"
) -> SurfaceDistances:
    """Distances between the surfaces of two masks (> 0 is inside) on one grid.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
    """
    require_same_grid(reference.grid, prediction.grid, "reference and prediction")
    truth, found = np.greater(reference.data, 0), np.greater(prediction.data, 0)
    return mask_distances(truth, found, _metric(reference.grid.affine), kind=kind)


def mask_distances(
    reference: BoolArray, prediction: BoolArray, metric: FloatArray, *, kind: Kind = "elements"
) -> SurfaceDistances:
    """Distances between the surfaces of two arrays of one shape.

    Args:
        reference: True inside.
        prediction: True inside.
        metric: 3×3 matrix from voxels to mm, for example ``np.diag(spacing_mm)``.
        kind: of the surfaces.
    """
    truth, found = _boxed(reference, prediction)
    draw = _elements if kind == "elements" else _voxels
    one, other = draw(truth, metric), draw(found, metric)
    return SurfaceDistances(
        _to_nearest(one, other, metric),
        _to_nearest(other, one, metric),
        one.weight,
        other.weight,
        kind,
    )


def hausdorff(distances: SurfaceDistances, percentile: float = 100.0) -> Score:
    """Hausdorff distance: the larger of both directed percentiles, in mm.

    Over elements, the percentile is the smallest distance that at least so much of the
    area does not exceed. Over voxels it is interpolated linearly, as numpy, torch and MONAI do.

    Args:
        distances: from :func:`surface_distances`.
        percentile: 0 to 100; 95 gives HD95.

    Raises:
        ConfigError: another percentile.
    """
    if not 0 <= percentile <= 100:
        raise ConfigError(f"percentile {percentile}; expected 0 to 100")
    if distances.gap is not None:
        return undefined(distances.gap)
    directed = (
        (distances.reference_mm, distances.reference_weight),
        (distances.prediction_mm, distances.prediction_weight),
    )
    if distances.kind == "voxels":
        return Score(max(float(np.percentile(values, percentile)) for values, _ in directed))
    return Score(max(_percentile(values, weight, percentile) for values, weight in directed))


def mean_distance(distances: SurfaceDistances) -> Score:
    """Average symmetric surface distance in mm: the weighted mean over both surfaces together.

    Heimann et al. 2009, IEEE Trans Med Imaging 28:1251. Some tools report the mean of
    the two directed means instead, which weighs the smaller surface's points more.
    """
    if distances.gap is not None:
        return undefined(distances.gap)
    total = distances.reference_mm @ distances.reference_weight
    total += distances.prediction_mm @ distances.prediction_weight
    area = distances.reference_weight.sum() + distances.prediction_weight.sum()
    return Score(float(total / area))


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> Score:
    """Normalised surface Dice (NSD): the share of both surfaces within a tolerance of the other.

    It is 0 when one mask alone is empty, as Dice is, and undefined when both are.

    Args:
        distances: from :func:`surface_distances`.
        tolerance_mm: largest distance that is taken for none.

    Raises:
        ConfigError: a negative tolerance.
    """
    if not tolerance_mm >= 0:
        raise ConfigError(f"tolerance {tolerance_mm} mm; expected 0 or more")
    limit = tolerance_mm * (1 + ROUNDING)
    near = distances.reference_weight[distances.reference_mm <= limit].sum()
    near += distances.prediction_weight[distances.prediction_mm <= limit].sum()
    area = distances.reference_weight.sum() + distances.prediction_weight.sum()
    return ratio(float(near), float(area), "reference and prediction are both empty")


def surface_scores(
    reference: Volume,
    prediction: Volume,
    *,
    tolerances_mm: Sequence[float] = TOLERANCES_MM,
    kind: Kind = "elements",
) -> dict[str, Score]:
    """HD95, HD, mean surface distance and NSD at each tolerance, which its name states."""
    distances = surface_distances(reference, prediction, kind=kind)
    return {
        "hd95_mm": hausdorff(distances, 95),
        "hd_mm": hausdorff(distances),
        "mean_surface_distance_mm": mean_distance(distances),
        **{f"nsd_{t:g}mm": surface_dice(distances, t) for t in tolerances_mm},
    }


FEW_PAIRS = 50_000
"""Pairs of points, at most, that are all looked at."""


class _Surface(NamedTuple):
    """Points of a surface: where they lie in an array of ``shape``, flat, ascending."""

    flat: npt.NDArray[np.intp]
    weight: FloatArray
    shape: tuple[int, ...]


def _metric(affine: FloatArray) -> FloatArray:
    """3×3 matrix from voxels to mm that leaves out where the grid lies and how it is turned.

    For axes at right angles it is diagonal and holds the spacing.
    """
    columns = affine[:3, :3]
    return np.asarray(np.linalg.cholesky(columns.T @ columns).T, np.float64)


def _boxed(one: BoolArray, other: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Both masks within the smallest box that holds them, with one voxel of air around."""
    box = bounding_box(one | other)
    return np.pad(one[box], 1), np.pad(other[box], 1)


def _elements(mask: BoolArray, metric: FloatArray) -> _Surface:
    codes = neighbour_codes(mask)
    flat = np.flatnonzero((codes != 0) & (codes != 255))
    return _Surface(flat, areas_mm2(metric)[codes.ravel()[flat]], codes.shape)


def _voxels(mask: BoolArray, _metric: FloatArray) -> _Surface:
    core = mask[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, mask.shape[axis] - 2 + start)
            core &= mask[tuple(window)]
    edge = mask.copy()
    edge[1:-1, 1:-1, 1:-1] &= ~core
    flat = np.flatnonzero(edge)
    return _Surface(flat, np.ones(flat.size), edge.shape)


def _to_nearest(surface: _Surface, other: _Surface, metric: FloatArray) -> FloatArray:
    """Distance in mm from each point of a surface to the nearest one of another.

    Where both surfaces have the same point it is 0 without a search. A tree over the
    points needs no map of the box, which for lesions all over a brain is most of a head; for
    small lesions looking at all pairs is quicker than growing a tree.
    """
    if not other.flat.size:
        return np.full(surface.flat.size, np.inf)
    distance = np.zeros(surface.flat.size)
    apart = np.flatnonzero(~np.isin(surface.flat, other.flat, assume_unique=True))
    if apart.size:
        here = _places(surface.flat[apart], surface.shape, metric)
        there = _places(other.flat, other.shape, metric)
        if len(here) * len(there) <= FEW_PAIRS:
            distance[apart] = cdist(here, there).min(axis=1)
        else:
            distance[apart] = KDTree(there, balanced_tree=False).query(here)[0]
    return distance


def _places(flat: Array, shape: tuple[int, ...], metric: FloatArray) -> FloatArray:
    """Positions (n, 3) in mm, about an origin of no meaning."""
    return np.column_stack(np.unravel_index(flat, shape)) @ metric.T


def _percentile(values: FloatArray, weight: FloatArray, percentile: float) -> float:
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weight[order])
    wanted = percentile / 100 * share[-1] * (1 - ROUNDING)
    return float(values[order[min(int(np.searchsorted(share, wanted)), values.size - 1)]])
