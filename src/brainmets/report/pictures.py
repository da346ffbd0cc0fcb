"""Pictures of a case: grey values as JPEG, all that is drawn on them as vectors in mm.

Every picture is cut from the scan in nearest-RAS order, never from raw array axes, and
shown as radiologists do: the patient's right on the left, front or top upwards. Since
all three display axes run against R, A and S, one formula places everything: voxel
``i`` of ``n`` along an axis has its centre ``(n - 0.5 - i) * spacing`` mm from the
left or upper edge of the full image.
"""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from brainmets.lesions import Lesion, Point, bounding_box
from brainmets.report.content import Report
from brainmets.volume import AxisOrder, FloatArray, Volume, apply, nearest_ras_order, reorient

Bools = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]
CROP_PX = 240
OVERVIEW_PX = 420
LEAST_CROP_MM = 50.0
CONTEXT_MM = 14.0
"""Surroundings shown on each side of a lesion that does not fit the least crop."""
MARGIN_MM = 6.0
"""Room left around the head in the overview."""
SHOWN_PERCENTILES = (1.0, 99.7)
JPEG_QUALITY = 88
MANY = 15
"""Above this number of lesions their numbers are written smaller."""
TEXT = 0.042
"""Height of letters as a share of a picture's side."""
SUPPORT_VOX = 4
"""Voxels kept around a crop, so that its border is interpolated from real neighbours."""


@dataclass(frozen=True)
class Plane:
    """One viewing direction: which RAS axes run across, down and into the picture."""

    name: str
    across: int
    down: int
    into: int
    markers: tuple[str, str, str, str]
    """What lies left, right, up and down in the picture."""


AXIAL = Plane("axial", 0, 1, 2, ("R", "L", "A", "P"))
CORONAL = Plane("coronal", 0, 2, 1, ("R", "L", "S", "I"))
SAGITTAL = Plane("sagittal", 1, 2, 0, ("A", "P", "S", "I"))
PLANES = (AXIAL, CORONAL, SAGITTAL)
DIRECTIONS = (("R", "L"), ("A", "P"), ("S", "I"))


@dataclass(frozen=True)
class Region:
    """A rectangle of a plane, in mm from the full image's left and upper edge."""

    left_mm: float
    top_mm: float
    width_mm: float
    height_mm: float


@dataclass(frozen=True)
class Outline:
    """A lesion's edge: an SVG path along voxel edges, in picture mm."""

    label: int
    chosen: bool
    path: str


@dataclass(frozen=True)
class Tag:
    """A lesion's number at (x, y), with a line to the lesion at (to_x, to_y), in picture mm."""

    label: int
    x: float
    y: float
    to_x: float
    to_y: float


@dataclass(frozen=True)
class Line:
    """A straight line, in picture mm."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Picture:
    """One picture: grey image and what is drawn on it; letters are ``text_mm`` high."""

    plane: Plane
    caption: str
    width_mm: float
    height_mm: float
    text_mm: float
    jpeg: bytes
    outlines: tuple[Outline, ...]
    bar_mm: int
    tags: tuple[Tag, ...] = ()
    diameters: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Display:
    """What all pictures of a case share: images in nearest-RAS order, and the grey window."""

    scan: Volume
    labels: Volume
    order: AxisOrder
    boxes: tuple[Box, ...]
    brain: Bools | None
    darkest: float
    brightest: float

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel sides along R, A and S."""
        return self.scan.grid.spacing_mm


def display_of(report: Report) -> Display:
    """Turn a case's images to nearest-RAS order and choose the grey window."""
    order = nearest_ras_order(report.scan.volume.grid)
    scan, labels = reorient(report.scan.volume, order), reorient(report.mask, order)
    brain = None
    if report.brain is not None:
        brain = np.asarray(order.forward(report.brain.data), bool)
        brain = brain if brain.any() else None
    darkest, brightest = window(scan.data, brain)
    return Display(scan, labels, order, _boxes(labels.data), brain, darkest, brightest)


def _boxes(labels: npt.NDArray[np.generic]) -> tuple[Box, ...]:
    """Where each lesion lies; looked for only where there is one."""
    whole = bounding_box(np.asarray(labels, bool))
    part = np.ascontiguousarray(labels[whole]).astype(np.int32)
    found = ndimage.find_objects(part) if part.size else []
    boxes = [
        [slice(o.start + s.start, o.start + s.stop) for o, s in zip(whole, box, strict=True)]
        for box in found
    ]
    return tuple((x, y, z) for x, y, z in boxes)


def window(data: npt.NDArray[np.generic], brain: Bools | None) -> tuple[float, float]:
    """Grey values shown as black and as white: percentiles within the brain.

    Without a brain mask they are taken over all voxels that are not zero. A flat image
    gets a window of width 1, so that it is shown as black.
    """
    sparse = data[::2, ::2, ::2]  # an eighth of the voxels gives the same percentiles
    inside = sparse[brain[::2, ::2, ::2]] if brain is not None else sparse[sparse != 0]
    if inside.size == 0:
        inside = np.asarray(data).ravel()
    low, high = np.percentile(inside.astype(np.float32), SHOWN_PERCENTILES)
    return float(low), float(high) if high > low else float(low) + 1.0


def crops(shown: Display, lesion: Lesion) -> tuple[Picture, ...]:
    """Three planes through one lesion, all to one scale."""
    box = shown.boxes[lesion.label - 1]
    sides = [(b.stop - b.start) * s for b, s in zip(box, shown.spacing_mm, strict=True)]
    side = max(LEAST_CROP_MM, max(sides) + 2 * CONTEXT_MM)
    return tuple(_crop(shown, lesion, plane, side) for plane in PLANES)


def overview(shown: Display) -> tuple[Picture, ...]:
    """The whole head from above, from the front and from the side, with every lesion."""
    extent = _extent_of_head(shown)
    longest = max(stop - start for start, stop in extent)
    return tuple(_projection(shown, plane, extent, longest / OVERVIEW_PX) for plane in PLANES)


def place(shown: Display, axis: int, index: float) -> float:
    """Display position in mm of a voxel index along a RAS axis."""
    return (shown.scan.grid.shape[axis] - 0.5 - index) * shown.spacing_mm[axis]


def edge_path(mask: Bools, plane: Plane, shown: Display, region: Region) -> str:
    """The border between ``mask`` and the rest as an SVG path, exactly along voxel edges.

    Args:
        mask: bool, shape (across, down) in nearest-RAS order.
        plane: the viewing direction.
        shown: gives voxel sides and counts.
        region: its left upper corner becomes (0, 0).

    Returns:
        ``M x y H x2`` and ``M x y V y2`` pieces in mm, neighbours joined into one.
    """
    padded = np.pad(mask, 1)
    upright = _runs(padded[1:, 1:-1] != padded[:-1, 1:-1])
    level = _runs((padded[1:-1, 1:] != padded[1:-1, :-1]).T)
    x = [place(shown, plane.across, -0.5) - region.left_mm, -shown.spacing_mm[plane.across]]
    y = [place(shown, plane.down, -0.5) - region.top_mm, -shown.spacing_mm[plane.down]]
    pieces = [
        f"M{_mm(x[0] + i * x[1])} {_mm(y[0] + a * y[1])}V{_mm(y[0] + b * y[1])}"
        for i, a, b in upright
    ]
    pieces += [
        f"M{_mm(x[0] + a * x[1])} {_mm(y[0] + i * y[1])}H{_mm(x[0] + b * x[1])}"
        for i, a, b in level
    ]
    return "".join(pieces)


def grey(
    shown: Display, plane: Plane, values: FloatArray, region: Region, mm_per_px: float
) -> bytes:
    """Square-pixel JPEG of a region of a plane; black outside the scan.

    Args:
        shown: gives window, voxel sides and counts.
        plane: the viewing direction.
        values: shape (across, down) in nearest-RAS order.
        region: what to show.
        mm_per_px: the side of a pixel; the last row and column may differ by a rounding.
    """
    picture = np.clip((values - shown.darkest) / (shown.brightest - shown.darkest), 0, 1)
    picture = picture[::-1, ::-1].T.astype(np.float32)
    sx, sy = shown.spacing_mm[plane.across], shown.spacing_mm[plane.down]
    box = [region.left_mm / sx, region.top_mm / sy, 0, 0]
    box[2:] = [box[0] + region.width_mm / sx, box[1] + region.height_mm / sy]
    picture, corner = _cut(picture, box)
    image = Image.fromarray(picture).resize(
        (max(1, round(region.width_mm / mm_per_px)), max(1, round(region.height_mm / mm_per_px))),
        Image.Resampling.BICUBIC,
        box=(box[0] - corner[0], box[1] - corner[1], box[2] - corner[0], box[3] - corner[1]),
    )
    levels = np.rint(np.clip(np.asarray(image), 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _cut(
    picture: npt.NDArray[np.float32], box: list[float]
) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """The part of ``picture`` around ``box``, padded with black where it sticks out.

    Returns:
        The part, and the column and row at which it starts.
    """
    rows, columns = picture.shape
    x0, y0 = math.floor(box[0]) - SUPPORT_VOX, math.floor(box[1]) - SUPPORT_VOX
    x1, y1 = math.ceil(box[2]) + SUPPORT_VOX, math.ceil(box[3]) + SUPPORT_VOX
    part = picture[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    before, after = (max(-y0, 0), max(-x0, 0)), (max(y1 - rows, 0), max(x1 - columns, 0))
    return np.pad(part, list(zip(before, after, strict=True))), (x0, y0)


def _crop(shown: Display, lesion: Lesion, plane: Plane, side: float) -> Picture:
    box = shown.boxes[lesion.label - 1]
    index = _slice_index(shown, lesion, plane)
    centre = [place(shown, axis, (b.start + b.stop - 1) / 2) for axis, b in enumerate(box)]
    region = Region(centre[plane.across] - side / 2, centre[plane.down] - side / 2, side, side)
    at = (slice(None),) * plane.into + (index,)
    values, labels = shown.scan.data[at].astype(np.float32), shown.labels.data[at]
    return Picture(
        plane,
        _caption(shown, plane, index),
        side,
        side,
        TEXT * side,
        grey(shown, plane, values, region, side / CROP_PX),
        tuple(_outlines(shown, plane, labels, region, lesion.label)),
        bar_mm=10,
        diameters=_diameters(shown, lesion, plane, index, region),
    )


def _outlines(
    shown: Display, plane: Plane, labels: npt.NDArray[np.generic], region: Region, chosen: int
) -> Iterator[Outline]:
    """Outlines of all lesions within a region of one slice; the chosen one last, on top."""
    window_of = tuple(
        _within(shown, axis, start, length)
        for axis, start, length in (
            (plane.across, region.left_mm, region.width_mm),
            (plane.down, region.top_mm, region.height_mm),
        )
    )
    found = [int(label) for label in np.unique(labels[window_of]) if label > 0]
    for label in sorted(found, key=lambda x: (x == chosen, x)):
        path = edge_path(labels == label, plane, shown, region)
        yield Outline(label, label == chosen, path)


def _within(shown: Display, axis: int, start_mm: float, length_mm: float) -> slice:
    """Voxels along a RAS axis that a stretch of the display shows."""
    count, spacing = shown.scan.grid.shape[axis], shown.spacing_mm[axis]
    first = count - (start_mm + length_mm) / spacing
    return slice(max(0, math.floor(first)), max(0, math.ceil(count - start_mm / spacing)))


def _slice_index(shown: Display, lesion: Lesion, plane: Plane) -> int:
    """The slice on which the diameters were taken, where it is one; else the largest section."""
    if plane is AXIAL and (index := _diameter_slice(shown, lesion)) is not None:
        return index
    box = shown.boxes[lesion.label - 1]
    inside = shown.labels.data[box] == lesion.label
    areas = inside.sum(axis=(plane.across, plane.down))
    largest = np.flatnonzero(areas == areas.max())
    return int(box[plane.into].start + largest[len(largest) // 2])


def _diameter_slice(shown: Display, lesion: Lesion) -> int | None:
    """The axial slice both ends of the longest diameter lie in, to half a voxel."""
    ends = _voxels(shown, lesion.longest_diameter_ends_ras_mm)[:, AXIAL.into]
    if not np.isfinite(ends).all():
        return None
    index = round(float(ends.mean()))
    inside = 0 <= index < shown.scan.grid.shape[AXIAL.into]
    return index if inside and np.abs(ends - index).max() <= 0.5 else None


def _diameters(
    shown: Display, lesion: Lesion, plane: Plane, index: int, region: Region
) -> tuple[Line, ...]:
    """Both diameters, on the slice they were measured on only."""
    if plane is not AXIAL or _diameter_slice(shown, lesion) != index:
        return ()
    lines = []
    pairs = (lesion.longest_diameter_ends_ras_mm, lesion.perpendicular_diameter_ends_ras_mm)
    for ends in (_voxels(shown, pair) for pair in pairs):
        if np.isfinite(ends).all() and np.abs(ends[:, plane.into] - index).max() <= 0.5:
            x = [place(shown, plane.across, i) - region.left_mm for i in ends[:, plane.across]]
            y = [place(shown, plane.down, i) - region.top_mm for i in ends[:, plane.down]]
            lines.append(Line(x[0], y[0], x[1], y[1]))
    return tuple(lines)


def _voxels(shown: Display, points: Iterable[Point]) -> FloatArray:
    """World positions as (fractional) voxel indices of the displayed grid."""
    return apply(np.linalg.inv(shown.scan.grid.affine), np.array(list(points), np.float64))


def _caption(shown: Display, plane: Plane, index: int) -> str:
    """Plane, position at the slice's centre in scanner coordinates, and count in the file."""
    middle = [(n - 1) / 2 for n in shown.scan.grid.shape]
    middle[plane.into] = index
    position = apply(shown.scan.grid.affine, middle)[plane.into]
    count = shown.scan.grid.shape[plane.into]
    stored = count - index if shown.order.flips[plane.into] else index + 1
    position_mm = direction(plane.into, float(position))
    return f"{plane.name}, {position_mm} mm, slice {stored} of {count}"


def direction(axis: int, position_mm: float) -> str:
    """A RAS coordinate in words: ``direction(0, -12.34)`` is ``"L 12.3"``."""
    tenths = round(position_mm, 1)  # first, so that a rounding error below zero has no side
    return f"{DIRECTIONS[axis][tenths < 0]} {abs(tenths):.1f}"


def _projection(
    shown: Display, plane: Plane, extent: tuple[tuple[float, float], ...], mm_per_px: float
) -> Picture:
    (left, right), (top, bottom) = extent[plane.across], extent[plane.down]
    region = Region(left, top, right - left, bottom - top)
    outlines, spots = [], []
    for label, box in enumerate(shown.boxes, start=1):
        shadow = (shown.labels.data[box] == label).any(axis=plane.into)
        whole = np.zeros([shown.scan.grid.shape[a] for a in (plane.across, plane.down)], bool)
        whole[box[plane.across], box[plane.down]] = shadow
        outlines.append(Outline(label, chosen=True, path=edge_path(whole, plane, shown, region)))
        spots.append(_spot(shown, plane, box, region))
    return Picture(
        plane,
        f"{plane.name}, projection",
        region.width_mm,
        region.height_mm,
        TEXT * OVERVIEW_PX * mm_per_px,
        grey(shown, plane, _projected(shown, plane), region, mm_per_px),
        tuple(outlines),
        bar_mm=50,
        tags=_tags(spots, region),
    )


def _projected(shown: Display, plane: Plane) -> FloatArray:
    """Brightest value within the brain along each line of sight.

    Where the brain is not known the scalp would outshine it: the mean is shown instead,
    like an X-ray.
    """
    if shown.brain is not None:
        box = bounding_box(shown.brain)
        data = np.asarray(shown.scan.data[box], np.float32)
        inside = np.where(shown.brain[box], data, np.float32(shown.darkest))
        sides = (plane.across, plane.down)
        seen = np.full([shown.brain.shape[a] for a in sides], shown.darkest, np.float32)
        seen[box[plane.across], box[plane.down]] = inside.max(axis=plane.into)
        return seen
    data = np.asarray(shown.scan.data, np.float32)
    mean = data.mean(axis=plane.into)
    span = max(float(np.percentile(mean, SHOWN_PERCENTILES[1]) - mean.min()), 1e-6)
    scaled = (mean - mean.min()) / span * (shown.brightest - shown.darkest)
    return np.asarray(scaled + shown.darkest)


def _extent_of_head(shown: Display) -> tuple[tuple[float, float], ...]:
    """Display positions along R, A and S between which there is something to see."""
    seen = shown.brain
    if seen is None:
        level = shown.darkest + 0.15 * (shown.brightest - shown.darkest)
        seen = np.asarray(np.asarray(shown.scan.data, np.float32) > level)
    seen = seen | np.asarray(shown.labels.data, bool)
    extent = []
    for axis in range(3):
        there = np.flatnonzero(seen.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (there[0], there[-1]) if there.size else (0, seen.shape[axis] - 1)
        start = place(shown, axis, high + 0.5) - MARGIN_MM
        extent.append((start, place(shown, axis, low - 0.5) + MARGIN_MM))
    return tuple(extent)


def _spot(shown: Display, plane: Plane, box: Box, region: Region) -> tuple[float, float, float]:
    """Centre of a lesion's box in picture mm, and its half diagonal."""
    x = place(shown, plane.across, (box[plane.across].start + box[plane.across].stop - 1) / 2)
    y = place(shown, plane.down, (box[plane.down].start + box[plane.down].stop - 1) / 2)
    half = [
        (box[a].stop - box[a].start) * shown.spacing_mm[a] / 2 for a in (plane.across, plane.down)
    ]
    return x - region.left_mm, y - region.top_mm, math.hypot(*half)


def _tags(spots: list[tuple[float, float, float]], region: Region) -> tuple[Tag, ...]:
    """A free place for each number: the nearest of ever wider rings round its lesion."""
    crowd = 1.0 if len(spots) <= MANY else 0.75
    apart = crowd * 1.25 * TEXT * max(region.width_mm, region.height_mm)
    taken: list[tuple[float, float]] = []
    tags = []
    for label, (x, y, radius) in enumerate(spots, start=1):
        choices = list(_ring_places(x, y, radius, apart, region))
        free = (p for p in choices if all(math.dist(p, q) >= apart for q in taken))
        chosen = next(free, choices[0] if choices else (x, y))
        taken.append(chosen)
        tags.append(Tag(label, chosen[0], chosen[1], x, y))
    return tuple(tags)


def _ring_places(
    x: float, y: float, radius: float, apart: float, region: Region
) -> Iterator[tuple[float, float]]:
    for ring in range(8):
        distance = radius + apart * (0.8 + 0.6 * ring)
        for turn in range(16):
            angle = math.tau * turn / 16 - math.pi / 4  # upper right first
            px, py = x + distance * math.cos(angle), y + distance * math.sin(angle)
            if apart <= px <= region.width_mm - apart and apart <= py <= region.height_mm - apart:
                yield px, py


def _runs(edges: Bools) -> list[tuple[int, int, int]]:
    """Unbroken stretches of True in each row: (row, first, one past the last)."""
    steps = np.diff(np.pad(edges.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    starts, stops = np.argwhere(steps == 1), np.argwhere(steps == -1)
    return [
        (int(row), int(a), int(b))
        for (row, a), (_, b) in zip(starts.tolist(), stops.tolist(), strict=True)
    ]


def _mm(value: float) -> str:
    """A length in a path: to a hundredth of a millimetre, without trailing zeros."""
    return f"{round(value, 2) + 0.0:g}"
