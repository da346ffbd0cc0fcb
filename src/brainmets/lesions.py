"""Lesions: from a probability map to labelled, measured findings.

All work is done on the array in nearest-RAS order, so that the same patient stored with
other array axes gives the same lesions in the same order.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from brainmets.config import DecisionRule
from brainmets.errors import VolumeError
from brainmets.volume import (
    Array,
    Grid,
    Volume,
    apply,
    nearest_ras_order,
    require_same_grid,
    spacing_of,
    to_nearest_ras,
)

Point = tuple[float, float, float]
"""A position in RAS+ mm."""

Box = tuple[slice, slice, slice]
BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

CUBE = np.ones((3, 3, 3), bool)
"""26-connectivity, as BraTS-METS counts lesions (Moawad et al. 2023, arXiv:2306.00838)."""

MIDLINE_MM = 3.0
"""A centroid at most this far from the middle of the brain has no side."""

LARGEST_TILT_DEG = 35.0
"""Array slices tilted further than this against the axial plane are resliced to it.

Axial series are angled by up to 20° or so (parallel to the line between the commissures
or the skull base) and are read as they were acquired; three array axes can be at most
54.7° away from a world axis.
"""

DOUBT = 0.2
"""In log odds: four times what fewer bits change where outlines can move, root mean square."""
NOISE_SHARE = 0.5
"""Of how far DOUBT moves a finding's volume, what fewer bits may."""
CLOSE_SHARE, CLOSE_VOXELS = 0.05, 2
"""How far the volumes of the same lesion may lie apart: the larger of the two."""

ROUNDING = 1e-9
"""Relative play against rounding, so that a turned header cannot flip ``volume ≥ smallest``."""

TIE_MM = 1e-6
"""Lengths closer than this are equal; differences of this size come from rounding alone."""


@dataclass(frozen=True)
class Lesion:
    """One lesion, measured on the grid of its mask.

    Attributes:
        label: its value in the mask, 1 or more.
        volume_mm3: voxels × voxel volume.
        equivalent_diameter_mm: diameter of the sphere of equal volume; "size" everywhere.
        longest_diameter_mm: RANO-BM's longest in-plane diameter, see :func:`measure`.
        perpendicular_diameter_mm: the longest diameter across it, on the same slice.
        centroid_ras_mm: centre of mass, in RAS+ mm.
        mean_probability: mean over its voxels; None when no probability was given.
        max_probability: largest over its voxels; None when no probability was given.
        side: ``"left"``, ``"right"`` or ``"midline"``: the patient's.
        touches_mask_edge: whether it reaches the brain mask's surface, where part of it
            may be cut away; None when no brain mask was given.
        longest_diameter_ends_ras_mm: where the longest diameter starts and ends.
        perpendicular_diameter_ends_ras_mm: where the perpendicular one starts and ends.
    """

    label: int
    volume_mm3: float
    equivalent_diameter_mm: float
    longest_diameter_mm: float
    perpendicular_diameter_mm: float
    centroid_ras_mm: Point
    mean_probability: float | None
    max_probability: float | None
    side: str
    touches_mask_edge: bool | None
    longest_diameter_ends_ras_mm: tuple[Point, Point]
    perpendicular_diameter_ends_ras_mm: tuple[Point, Point]


def find(probability: Volume, rule: DecisionRule) -> Volume:
    """Turn probabilities into lesions by hysteresis.

    A 26-connected component of voxels ≥ ``rule.low`` is a lesion if it holds a voxel
    ≥ ``rule.high`` and voxels × voxel volume ≥ ``rule.smallest_mm3``.

    Args:
        probability: floating point, 0 to 1, on the scanner's grid.
        rule: the two thresholds and the smallest volume.

    Returns:
        int32 labels on the same grid: 0 background, 1…n lesions, most voxels first.
        Lesions of equal size are ordered by where the first voxel of each comes when
        the array in nearest-RAS order is read, x slowest: a property of the patient, not
        of how the file stores the array.
    """
    order = nearest_ras_order(probability.grid)
    data = order.forward(probability.data)
    box = bounding_box(np.greater_equal(data, rule.low))
    inside = data[box]
    parts = _label(np.greater_equal(inside, rule.low))
    keep = np.zeros(parts.max(initial=0) + 1, bool)
    keep[parts[np.greater_equal(inside, rule.high)]] = True
    least_vox = rule.smallest_mm3 / probability.grid.voxel_volume_mm3 * (1 - ROUNDING)
    return _ranked(parts, box, probability.grid, keep, least_vox)


def shares_outside(labels: Volume, brain: Volume) -> dict[int, float]:
    """How much of each lesion lies outside the brain, by label.

    Args:
        labels: whole numbers; 0 and below are background.
        brain: mask of brain and CSF on the same grid, > 0 inside.

    Raises:
        GridMismatchError: the two do not lie on the same voxels.
    """
    require_same_grid(labels.grid, brain.grid, "labels and brain mask")
    found = labels.data > 0
    owner, outside = labels.data[found], brain.data[found] <= 0
    numbers, at = np.unique(owner, return_inverse=True)
    voxels, beyond = np.bincount(at), np.bincount(at, outside)
    return dict(zip(numbers.tolist(), (beyond / voxels).tolist(), strict=True))


def doubtful(probability: Volume, rule: DecisionRule) -> tuple[Box, ...]:
    """Findings that a little more or less probability would make, unmake, split or join.

    Arithmetic in bfloat16 and in 8 bits moves probabilities a little. Outlines hardly feel it, but
    whether a finding is one at all hangs on thresholds.

    A finding by thresholds that are lower by ``DOUBT`` is beyond doubt if exactly one is left of it
    by thresholds that are higher by as much, and about as large. Thresholds of 0 and 1 stay as they
    are.

    Args:
        probability: 0 to 1, on the scanner's grid.
        rule: what a finding is.

    Returns:
        The voxels of each in a box.
    """
    (low_less, low_more), (high_less, high_more) = (
        [np.float32(_likelier(value, by)) for by in (-DOUBT, DOUBT)]
        for value in (rule.low, rule.high)
    )
    least_vox = rule.smallest_mm3 / probability.grid.voxel_volume_mm3 * (1 - ROUNDING)
    box = bounding_box(np.greater_equal(probability.data, low_less))
    if box[0].start == box[0].stop:
        return ()
    values = np.asarray(probability.data[box], np.float32)
    parts = _label(values >= low_less)
    bright = np.zeros(parts.max() + 1, bool)
    bright[parts[values >= high_less]] = True
    places = []
    for number, where in enumerate(ndimage.find_objects(parts), start=1):
        if not bright[number]:
            continue
        inside = parts[where] == number
        most = int(np.count_nonzero(inside))
        if most < least_vox:
            continue
        left = _left(values[where], inside & (values[where] >= low_more), high_more, least_vox)
        if len(left) != 1 or _is_vague(most, left[0]):
            x, y, z = (
                slice(s.start + b.start, s.stop + b.start) for s, b in zip(where, box, strict=True)
            )
            places.append((x, y, z))
    return tuple(places)


def _likelier(value: float, by: float) -> float:
    """A probability whose log odds are moved; 0 and 1 stay."""
    if not 0 < value < 1:
        return value
    return 1 / (1 + math.exp(-by) * (1 - value) / value)


def _left(
    values: Float32Array, inside: npt.NDArray[np.bool_], high: np.float32, least_vox: float
) -> list[int]:
    """Voxels of each finding that the components of ``inside`` make."""
    parts = _label(inside)
    bright = np.zeros(parts.max() + 1, bool)
    bright[parts[values >= high]] = True
    voxels = np.bincount(parts.ravel())
    return [int(n) for n in voxels[1:][(bright & (voxels >= least_vox))[1:]]]


def _is_vague(most: int, least: int) -> bool:
    """Whether noise can change a volume by more than is allowed."""
    return NOISE_SHARE * (most - least) > max(CLOSE_VOXELS, CLOSE_SHARE * least)


def components(mask: Volume) -> Volume:
    """Label the 26-connected components of ``mask > 0``, ordered as :func:`find` does.

    Whatever labels the mask has are ignored: touching labels are one component.
    """
    data = nearest_ras_order(mask.grid).forward(mask.data)
    box = bounding_box(np.greater(data, 0))
    parts = _label(np.greater(data[box], 0))
    return _ranked(parts, box, mask.grid, np.ones(parts.max(initial=0) + 1, bool), 0)


def measure(
    labels: Volume, *, probability: Volume | None = None, brain: Volume | None = None
) -> tuple[Lesion, ...]:
    """Measure every lesion of a label image.

    Diameters follow RANO-BM (Lin et al. 2015, Lancet Oncol 16:e270): the longest
    diameter on any one slice, and the longest one perpendicular to it on that slice.
    Slices are those across the array axis nearest to the patient's S axis: the acquired
    ones of an axial series, the axial reformat of another. If they are tilted by more
    than 35° against the axial plane, the lesion is first resliced to axial planes
    (nearest voxel, at half the smallest spacing).

    On a slice, a voxel reaches from the middle of each of its four edges to the middle of
    the opposite one, so that a single voxel measures its larger by its smaller side; a
    diameter is a line between two points of the convex hull of these, measured in world
    millimetres. Against the continuous shape this errs by less than one in-plane voxel,
    one and a half where it had to be resliced; the mean error is + 0.4.

    Args:
        labels: whole numbers; 0 and below are background, each other value one lesion.
        probability: on the same grid, for the mean and the largest probability.
        brain: mask of brain and CSF on the same grid, > 0 inside. A lesion that after
            growth by one voxel (26 neighbours) leaves it touches its edge. Its centre of
            mass is the midline that ``side`` refers to; without it the grid's centre is.

    Returns:
        One Lesion per label, ascending.

    Raises:
        VolumeError: labels that are not whole numbers.
        GridMismatchError: the three images do not lie on the same voxels.
    """
    if labels.data.dtype.kind not in "biu":
        raise VolumeError(f"labels of type {labels.data.dtype}; expected whole numbers")
    turned = to_nearest_ras(labels)
    likely = None if probability is None else _beside(labels, probability, "probability")
    head = None if brain is None else _beside(labels, brain, "brain mask")
    midline_mm = _midline_mm(turned.grid, head)
    return tuple(
        _measure_one(label, box, turned, likely, head, midline_mm)
        for label, box in _each(turned.data)
    )


def _beside(labels: Volume, other: Volume, name: str) -> Array:
    """The other image's array in the order of the turned labels, if the grids agree."""
    require_same_grid(labels.grid, other.grid, f"labels and {name}")
    return nearest_ras_order(labels.grid).forward(other.data)


def bounding_box(mask: BoolArray) -> Box:
    """The smallest box that holds every true voxel; an empty box when there is none."""
    box = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0))
    return box[0], box[1], box[2]


def _label(mask: BoolArray) -> npt.NDArray[np.int32]:
    return np.asarray(ndimage.label(mask, CUBE)[0], np.int32)


def _ranked(
    parts: npt.NDArray[np.int32], box: Box, grid: Grid, keep: BoolArray, least_vox: float
) -> Volume:
    """Number the components to keep by size, then by first voxel, and put them in place.

    Args:
        parts: component numbers inside ``box`` of the array in nearest-RAS order.
        box: where ``parts`` lies.
        grid: of the array as it is stored.
        keep: for each component number whether it may stay.
        least_vox: fewest voxels of a component that stays.
    """
    flat = parts.ravel()
    where = np.flatnonzero(flat)
    owner = flat[where]
    sizes = np.bincount(owner, minlength=keep.size)
    first = np.zeros(keep.size, np.int64)
    first[owner[::-1]] = where[::-1]  # of repeated indices the last assignment stays
    chosen = np.flatnonzero(keep & (sizes >= max(least_vox, 1)))
    chosen = chosen[np.lexsort((first[chosen], -sizes[chosen]))]
    renumber = np.zeros(keep.size, np.int32)
    renumber[chosen] = np.arange(1, chosen.size + 1)
    labels = np.zeros(grid.shape, np.int32)
    nearest_ras_order(grid).forward(labels)[box] = renumber[parts]
    return Volume(labels, grid)


def _each(labels: Array) -> Iterator[tuple[int, Box]]:
    """Each label > 0, ascending, with its bounding box."""
    box = bounding_box(np.greater(labels, 0))
    inside = labels[box].astype(np.int64)
    values, index = np.unique(inside[inside > 0], return_inverse=True)
    compact = np.zeros(inside.shape, np.int32)  # find_objects would list every number up to the max
    compact[inside > 0] = index + 1
    found_boxes = ndimage.find_objects(compact) if values.size else []  # it refuses empty arrays
    for value, found in zip(values, found_boxes, strict=True):
        shifted = [
            slice(b.start + f.start, b.start + f.stop) for b, f in zip(box, found, strict=True)
        ]
        yield int(value), (shifted[0], shifted[1], shifted[2])


def _measure_one(
    label: int,
    box: Box,
    labels: Volume,
    probability: Array | None,
    brain: Array | None,
    midline_mm: float,
) -> Lesion:
    inside = labels.data[box] == label
    affine = _shifted(labels.grid.affine, box)
    centroid = apply(affine, np.argwhere(inside).mean(axis=0))
    values = None if probability is None else probability[box][inside].astype(np.float64)
    volume_mm3 = int(inside.sum()) * labels.grid.voxel_volume_mm3
    longest, across = _diameters(*_axial(inside, affine))
    return Lesion(
        label=label,
        volume_mm3=volume_mm3,
        equivalent_diameter_mm=float(np.cbrt(6 * volume_mm3 / np.pi)),
        longest_diameter_mm=float(np.linalg.norm(longest[1] - longest[0])),
        perpendicular_diameter_mm=float(np.linalg.norm(across[1] - across[0])),
        centroid_ras_mm=_point(centroid),
        mean_probability=None if values is None else float(values.mean()),
        max_probability=None if values is None else float(values.max()),
        side=_side(float(centroid[0]) - midline_mm),
        touches_mask_edge=None if brain is None else _leaves(inside, box, brain),
        longest_diameter_ends_ras_mm=(_point(longest[0]), _point(longest[1])),
        perpendicular_diameter_ends_ras_mm=(_point(across[0]), _point(across[1])),
    )


def _point(position: Float64Array) -> Point:
    x, y, z = (float(v) for v in position)
    return x, y, z


def _shifted(affine: Float64Array, box: Box) -> Float64Array:
    """The affine of the part of an array that lies in ``box``."""
    shifted = affine.copy()
    shifted[:3, 3] = apply(affine, [s.start for s in box])
    return shifted


def _midline_mm(grid: Grid, brain: Array | None) -> float:
    """World x of the brain's centre of mass, or of the grid's centre without a brain."""
    centre = (np.array(grid.shape) - 1) / 2
    if brain is not None:
        mask = np.greater(brain, 0)
        sums = [
            np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis))
            for axis in range(3)
        ]
        if sums[0].any():
            centre = np.array([np.average(np.arange(s.size), weights=s) for s in sums])
    return float(apply(grid.affine, centre)[0])


def _side(offset_mm: float) -> str:
    if abs(offset_mm) <= MIDLINE_MM:
        return "midline"
    return "right" if offset_mm > 0 else "left"


def _leaves(inside: BoolArray, box: Box, brain: Array) -> bool:
    """Whether a lesion grown by one voxel has a voxel outside the brain, or the array."""
    grown = ndimage.binary_dilation(np.pad(inside, 1), CUBE)
    outside = np.ones(grown.shape, bool)
    source = [slice(max(s.start - 1, 0), s.stop + 1) for s in box]
    part = np.less_equal(brain[tuple(source)], 0)
    starts = [w.start - (s.start - 1) for w, s in zip(source, box, strict=True)]
    outside[tuple(slice(a, a + n) for a, n in zip(starts, part.shape, strict=True))] = part
    return bool((grown & outside).any())


def _axial(inside: BoolArray, affine: Float64Array) -> tuple[BoolArray, Float64Array]:
    """Lesion and affine such that its slices [:, :, k] are as nearly axial as they have to be."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    cosine = abs(normal[2]) / np.linalg.norm(normal)
    if np.degrees(np.arccos(min(cosine, 1.0))) <= LARGEST_TILT_DEG:
        return inside, affine
    edges = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in inside.shape])).reshape(3, -1).T
    corners = apply(affine, edges)
    low, extent = corners.min(axis=0), np.ptp(corners, axis=0)
    # Points half a voxel apart hit every voxel (its inscribed sphere is wider than their
    # gaps); 192 a side bound the memory for a lesion far larger than its voxels.
    step = max(min(spacing_of(affine)) / 2, float(extent.max()) / 192)
    straight = np.diag([step, step, step, 1.0])
    straight[:3, 3] = low + step / 2
    to_index = np.linalg.inv(affine) @ straight
    resliced = ndimage.affine_transform(
        np.pad(inside, 1).astype(np.uint8),
        to_index[:3, :3],
        to_index[:3, 3] + 1,
        output_shape=tuple(int(n) for n in np.ceil(extent / step)),
        order=0,
    )
    return resliced > 0, straight


def _diameters(inside: BoolArray, affine: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Ends of the longest and of the perpendicular diameter, each (2, 3) in mm.

    Of slices and pairs with equal longest diameters the one with the larger
    perpendicular diameter wins, then the first.
    """
    first = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    second = affine[:3, 1] - (affine[:3, 1] @ first) * first  # sheared grids exist (gantry tilt)
    frame = np.stack([first, second / np.linalg.norm(second)])
    to_plane = affine[:3, :2].T @ frame.T
    pairs: dict[int, tuple[Float64Array, Float64Array]] = {}
    best = 0.0
    for k, bound in _slices(inside, to_plane):
        if bound < best - TIE_MM:
            break
        longest, across = _calipers(_hull(inside[:, :, k]) @ to_plane)
        best = max(best, _length(longest))
        origin = apply(affine, (0, 0, k))
        pairs[k] = longest @ frame + origin, across @ frame + origin
    return _largest([pairs[k] for k in sorted(pairs)])


def _slices(inside: BoolArray, to_plane: Float64Array) -> list[tuple[int, float]]:
    """Slices that hold some of the lesion and what no diameter on them exceeds, largest first.

    The bound is the diagonal of the box around a slice's voxels: slices below the longest
    diameter found so far need no convex hull, which is what takes the time.
    """
    across, down = np.asarray(inside.any(axis=1)), np.asarray(inside.any(axis=0))
    found = []
    for k in np.flatnonzero(across.any(axis=0)):
        i, j = np.flatnonzero(across[:, k]), np.flatnonzero(down[:, k])
        sides = np.array([i[-1] - i[0] + 1, j[-1] - j[0] + 1], np.float64)
        diagonals = np.array([sides, sides * (1, -1)]) @ to_plane
        found.append((int(k), float(np.linalg.norm(diagonals, axis=1).max())))
    return sorted(found, key=lambda slice_: -slice_[1])


def _hull(mask: BoolArray) -> Float64Array:
    """Vertices (m, 2) of the convex hull of a slice's voxel edge middles, in voxels.

    Computed on whole numbers, twice the index, so that rounding cannot change it.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    corners = [
        np.column_stack([2 * rows + di, 2 * columns + dj])
        for columns, side in ((left, -1), (right, 1))
        for di, dj in ((0, side), (-1, 0), (1, 0))
    ]
    points = np.concatenate(corners).astype(np.float64)
    return np.asarray(points[ConvexHull(points).vertices] / 2, np.float64)


def _calipers(hull: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Longest diameter of a convex polygon (m, 2), and the longest one across it; (2, 2) each."""
    one, other = np.triu_indices(len(hull), 1)  # the order of pdist
    lengths = pdist(hull)
    ends = [hull[[one[i], other[i]]] for i in np.flatnonzero(lengths >= lengths.max() - TIE_MM)]
    return _largest([(longest, _across(hull, longest)) for longest in ends])


def _largest(pairs: list[tuple[Float64Array, Float64Array]]) -> tuple[Float64Array, Float64Array]:
    """The first pair with the longest diameter, and of those with the longest across."""
    longest = np.array([_length(pair[0]) for pair in pairs])
    across = np.array([_length(pair[1]) for pair in pairs])
    ties = longest >= longest.max() - TIE_MM
    ties &= across >= across[ties].max() - TIE_MM
    return pairs[int(np.flatnonzero(ties)[0])]


def _across(hull: Float64Array, longest: Float64Array) -> Float64Array:
    """The longest chord of a convex polygon perpendicular to ``longest``, (2, 2).

    Chord length is concave and piecewise linear along ``longest`` with its breaks at the
    vertices, so that it is enough to look at the chords through vertices.
    """
    along = (longest[1] - longest[0]) / _length(longest)
    turn = np.array([along, [-along[1], along[0]]])  # world → (along, across)
    s, t = (hull @ turn.T).T
    s_next, t_next = np.roll(s, -1), np.roll(t, -1)
    run = s_next - s
    share = (s[:, None] - s) / np.where(np.abs(run) < TIE_MM, np.inf, run)
    height = t + share * (t_next - t)  # (query, edge)
    lower = np.minimum(s, s_next) - TIE_MM
    upper = np.maximum(s, s_next) + TIE_MM
    met = (s[:, None] >= lower) & (s[:, None] <= upper)
    low = np.where(met, height, np.inf).min(axis=1)
    high = np.where(met, height, -np.inf).max(axis=1)
    chord = high - low
    at = int(np.flatnonzero(chord >= chord.max() - TIE_MM)[0])
    return np.asarray(np.array([[s[at], low[at]], [s[at], high[at]]]) @ turn, np.float64)


def _length(ends: Float64Array) -> float:
    return float(np.linalg.norm(ends[1] - ends[0]))
