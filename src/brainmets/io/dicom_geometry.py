"""From planes, each at its own place, to one grid; refused if they make none.

Only ImagePositionPatient and ImageOrientationPatient count. Slice Location, Spacing Between
Slices, Slice Thickness and Instance Number are often wrong, or of another meaning.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from brainmets.errors import VolumeError
from brainmets.io.dicom_planes import Plane
from brainmets.volume import Grid, apply

Points = npt.NDArray[np.float64]
NOTED_VOX = 0.01
"""Corners of a plane may lie this far off the common grid without a word."""
REFUSED_VOX = 0.1
"""Further off than this, in voxels along any axis, and the series is refused."""
TILT_NOTED_DEG = 0.5
"""A stack that leans more than this is noted; its affine is sheared, as the slices lie."""
TILT_REFUSED_DEG = 15.0
"""A stack that leans more than this is refused: brain and lesions would be seen skewed."""
SPACING_MM = 0.001
"""Pixel spacings of one series may differ by this much, for rounding."""
SAME_PLACE_MM = 0.01
"""Planes nearer than this, along their normal and across, are images of one place."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Planes in order, and the grid they fill.

    Attributes:
        planes: along the normal of the planes, that is rows × columns.
        grid: array axes are columns, rows, planes; the affine is RAS+ mm.
        notes: what was tolerated.
    """

    planes: tuple[Plane, ...]
    grid: Grid
    notes: tuple[str, ...]


def stack(planes: Sequence[Plane]) -> Stack:
    """Put planes in order and lay a grid through them.

    Every corner of every plane must lie within REFUSED_VOX of where the grid has it, so that
    no order, gap or tilt can shift a voxel unnoticed.

    Args:
        planes: no two of one place.

    Raises:
        VolumeError: fewer than two; several sizes, spacings, orientations or frames of
            reference; missing or unevenly spaced slices; a stack that leans too much. The
            message names the planes.
    """
    if len(planes) < 2:
        raise VolumeError(
            "a single slice is no volume; give the folder or zip that holds the whole series"
        )
    _require_one("image sizes", planes, lambda p: p.size)
    _require_one("pixel spacings", planes, lambda p: _spacing_like(p, planes[0]))
    _require_one("frames of reference", planes, lambda p: p.frame_of_reference)
    cosines = _common_cosines(planes)
    ordered = sorted(planes, key=lambda p: float(p.position_lps_mm @ np.cross(*cosines)))
    step = (ordered[-1].position_lps_mm - ordered[0].position_lps_mm) / (len(ordered) - 1)
    affine = _affine(ordered[0], cosines, step)
    notes = (*_fit_notes(ordered, affine), *_tilt_notes(cosines, step), *_gap_notes(ordered, step))
    rows, columns = ordered[0].size
    grid = Grid((columns, rows, len(ordered)), LPS_TO_RAS @ affine, ordered[0].frame_of_reference)
    return Stack(tuple(ordered), grid, notes)


def same_place(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes gathered by place; groups and their members in a fixed order."""
    if len(planes) < 2:
        return [list(planes)]
    normal = np.cross(*_common_cosines(planes))
    groups: list[list[Plane]] = []
    for plane in sorted(
        planes, key=lambda p: (round(float(p.position_lps_mm @ normal), 4), p.name)
    ):
        if groups and _is_at(plane, groups[-1][0]):
            groups[-1].append(plane)
        else:
            groups.append([plane])
    return groups


def _is_at(one: Plane, other: Plane) -> bool:
    apart = np.abs(one.position_lps_mm - other.position_lps_mm).max()
    turned = np.abs(one.cosines_lps - other.cosines_lps).max()
    return bool(apart < SAME_PLACE_MM and turned < 1e-3)


def _common_cosines(planes: Sequence[Plane]) -> Points:
    """The planes' median orientation, shape (2, 3), so that one odd plane does not set it."""
    cosines = np.median([p.cosines_lps for p in planes], axis=0)
    lengths = np.linalg.norm(cosines, axis=1)
    nearest = min(planes, key=lambda p: float(np.abs(p.cosines_lps - cosines).max()))
    if (lengths < 0.99).any():
        return nearest.cosines_lps
    return np.asarray(cosines / lengths[:, None])


def _affine(first: Plane, cosines: Points, step: Points) -> Points:
    """Voxel (column, row, plane) → LPS mm, 4×4 (PS3.3, C.7.6.2.1.1)."""
    between_rows, between_columns = first.spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = cosines[0] * between_columns
    affine[:3, 1] = cosines[1] * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = first.position_lps_mm
    return affine


def _require_one(what: str, planes: Sequence[Plane], key: Callable[[Plane], Hashable]) -> None:
    """Refuse planes that differ in ``key``, and name one of the rarer kind."""
    found: dict[Any, list[str]] = {}
    for plane in planes:
        found.setdefault(key(plane), []).append(plane.name)
    if len(found) > 1:
        odd = min(found.values(), key=len)
        raise VolumeError(
            f"{len(found)} {what} in one series, {odd[0]} among the rarer; expected one. A "
            "localiser may be mixed in: give the images of one volume alone"
        )


def _spacing_like(plane: Plane, first: Plane) -> tuple[float, ...]:
    """The first plane's spacing if this one's is the same up to rounding, else its own."""
    apart = np.abs(np.subtract(plane.spacing_mm, first.spacing_mm)).max()
    return first.spacing_mm if apart <= SPACING_MM else plane.spacing_mm


def _fit_notes(ordered: Sequence[Plane], affine: Points) -> tuple[str, ...]:
    """Hold each plane's own corners against the grid, in voxels along its axes.

    Raises:
        VolumeError: further apart than REFUSED_VOX.
    """
    try:
        to_voxel = np.asarray(np.linalg.inv(affine), np.float64)
    except np.linalg.LinAlgError as error:
        raise _uneven(ordered, affine) from error
    apart = np.array([_off_grid(plane, k, to_voxel) for k, plane in enumerate(ordered)])
    worst = int(apart.argmax())
    if not apart[worst] <= REFUSED_VOX:
        raise _uneven(ordered, affine)
    if apart[worst] > NOTED_VOX:
        note = (
            f"slices lie up to {apart[worst]:.2f} voxel off an even grid ({ordered[worst].name}); "
            "the even grid was used"
        )
        return (note,)
    return ()


def _off_grid(plane: Plane, index: int, to_voxel: Points) -> float:
    """How far a plane's corners lie from where its grid has them, the largest over all axes."""
    rows, columns = plane.size
    corners = np.array([[c, r, 0.0] for c in (0, columns - 1) for r in (0, rows - 1)])
    own = _affine(plane, plane.cosines_lps, np.zeros(3))
    found = apply(to_voxel, apply(own, corners))
    return float(np.abs(found - corners - [0, 0, index]).max())


def _uneven(ordered: Sequence[Plane], affine: Points) -> VolumeError:
    """Say what is wrong with planes that fill no grid: turned, missing, or uneven."""
    cosines = affine[:3, :2].T / np.linalg.norm(affine[:3, :2], axis=0)[:, None]
    turned = [float(np.abs(p.cosines_lps - cosines).max()) for p in ordered]
    if max(turned) > 2e-3:
        odd = ordered[int(np.argmax(turned))]
        return VolumeError(
            f"the slices are not parallel: {odd.name} lies at another angle than most. A localiser "
            "or several stacks may be mixed in: give the images of one volume alone"
        )
    heights = np.array([float(p.position_lps_mm @ np.cross(*cosines)) for p in ordered])
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    wide = int(gaps.argmax())
    between = f"between {ordered[wide].name} and {ordered[wide + 1].name}"
    missing = round(gaps[wide] / usual) - 1 if usual > SAME_PLACE_MM else 0
    if missing >= 1:
        return VolumeError(
            f"slices are missing: {gaps[wide]:.3g} mm {between}, where {usual:.3g} mm is usual; "
            f"about {missing} not there. Export the series again"
        )
    if gaps.max() - gaps.min() < REFUSED_VOX / 2 * usual:
        return _shifted(ordered)
    return VolumeError(
        f"slices are unevenly spaced or shifted: {gaps.min():.3g} to {gaps.max():.3g} mm apart, "
        f"widest {between}; at most {REFUSED_VOX:g} voxel off an even grid is read. Give the "
        "images of one volume alone"
    )


def _shifted(ordered: Sequence[Plane]) -> VolumeError:
    """Slices evenly spaced, but one beside its neighbours: say which, and how far."""
    places = np.array([p.position_lps_mm for p in ordered])
    steps = np.diff(places, axis=0)
    even = np.median(steps, axis=0) * np.arange(len(places))[:, None]
    off = np.linalg.norm(places - even - np.median(places - even, axis=0), axis=1)
    worst = int(off.argmax())
    return VolumeError(
        f"slices are shifted in their own plane: {ordered[worst].name} lies {off[worst]:.3g} mm "
        f"beside the line of the others; at most {REFUSED_VOX:g} voxel off an even grid is read. "
        "Give the images of one volume alone"
    )


def _tilt_notes(cosines: Points, step: Points) -> tuple[str, ...]:
    normal = np.cross(*cosines)
    length = float(np.linalg.norm(step))
    if length < SAME_PLACE_MM:
        raise VolumeError("the slices all lie at one place; expected one slice per place")
    tilt = float(np.degrees(np.arccos(np.clip(normal @ step / length, -1, 1))))
    if tilt > TILT_REFUSED_DEG:
        raise VolumeError(
            f"the stack of slices leans by {tilt:.1f}°; at most {TILT_REFUSED_DEG:g}° is read. "
            "Give a series that was not sheared"
        )
    if tilt > TILT_NOTED_DEG:
        return (f"the stack of slices leans by {tilt:.1f}°; positions are exact, pictures skewed",)
    return ()


def _gap_notes(ordered: Sequence[Plane], step: Points) -> tuple[str, ...]:
    """Spacing comes from the positions; thinner slices leave tissue that no slice shows."""
    thickness = {p.thickness_mm for p in ordered}
    apart = float(np.linalg.norm(step))
    thick = thickness.pop() if len(thickness) == 1 else None
    if thick is None or not 0 < thick < 0.9 * apart:
        return ()
    return (
        f"slices of {thick:.3g} mm lie {apart:.3g} mm apart: what lies between them is not seen",
    )
