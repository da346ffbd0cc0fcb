"""Whether a brain mask can be believed, and what lies bright just outside it.

Each look gives sentences for the report; none means nothing unusual. Images, masks and
fields are in nearest-RAS order.
"""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, find_objects, label

from brainmets.preprocess.pieces import sizes_of
from brainmets.preprocess.prepare import bounding_box
from brainmets.volume import Grid, Volume

USUAL_LITRES = (0.8, 2.2)
"""Brain + CSF of children and adults; outside it the mask deserves a look."""
CUT_SHARE = 0.08
"""Share of its widest cross-section that a whole brain never shows on a face of the field."""
SECOND_SHARE = 0.03
"""A second piece of more than this share of the first is one too many."""
NEAR_MM = 2.0
"""Distances are judged within this of the surface."""
SLOPE = (0.45, 1.35)
"""Median slope (mm per mm) of a distance field that knows where its surface is; 0.74 to 0.80 on
tuning heads."""
MIRRORED_MM = 1.0
"""More than this between an image and its mirror image is a guess; 0.52 at most on tuning heads."""
APART_MM = 1.5
"""More than this between where the surface most likely is and where it may be is a guess; 0.88 at
most on tuning heads."""

SPOT_REACH_MM = 5.0
"""How far outside the mask bright spots are looked for."""
SPOT_MM3 = (14.0, 1500.0)
"""A sphere of 3 mm … one of 14 mm: smaller ones are noise, larger ones no spot."""
SPOT_LEVEL = 1.35
"""Brighter than this times the brain's 90th percentile is bright."""
SPOT_LENGTH = 2.2
"""A spot's longest half-axis over its shortest; vessels, dura and scalp are longer."""
SPOT_THICKEST_MM = 3.0
"""Across thicker slices a spot's shape cannot be told."""

Mask = npt.NDArray[np.bool_]


def quality_notes(mask: Mask, grid: Grid) -> tuple[str, ...]:
    """What is unusual about a brain mask: its volume, the field's edge, a second piece."""
    notes = []
    litres = float(np.count_nonzero(mask)) * grid.voxel_volume_mm3 / 1e6
    if not USUAL_LITRES[0] <= litres <= USUAL_LITRES[1]:
        usual = "–".join(map(str, USUAL_LITRES))
        notes.append(f"brain mask of {litres:.2f} litres; usual are {usual}. Check it")
    if edge_contact(mask) > CUT_SHARE:
        notes.append("the brain mask is cut by the edge of the field of view")
    if _second_share(mask) > SECOND_SHARE:
        notes.append("the brain mask has a second large piece; check it")
    return tuple(notes)


def edge_contact(mask: Mask) -> float:
    """The largest share of its widest cross-section that the mask shows on a face of the field."""
    contact = 0.0
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        areas = mask.sum(axis=others)
        contact = max(contact, float(max(areas[0], areas[-1]) / max(areas.max(), 1)))
    return contact


def _second_share(mask: Mask) -> float:
    """The second piece's share of the first; 0 where there is one piece."""
    if not mask.any():
        return 0.0
    pieces, count = label(mask[bounding_box(mask)])
    if count < 2:
        return 0.0
    sizes = np.sort(sizes_of(pieces, count)[1:])[::-1]
    return float(sizes[1] / sizes[0])


def field_notes(distance: Volume, border_mm: float) -> tuple[str, ...]:
    """What a signed distance field says against itself: a second piece, a slope that is not 1.

    A field that knows where its surface is rises by 1 mm for each mm across it.
    """
    notes = []
    if _second_share(distance.data < border_mm) > SECOND_SHARE:
        notes.append("the extractor found a second large piece and left it out; check the mask")
    slope = edge_slope(distance)
    if not SLOPE[0] <= slope <= SLOPE[1]:
        notes.append(
            f"the extractor is uncertain where the brain ends (its distances rise by {slope:.2f} "
            "mm for each mm); check the mask"
        )
    return tuple(notes)


def edge_slope(distance: Volume) -> float:
    """Median slope (mm per mm) of a distance field near its surface; NaN without a surface."""
    data = np.asarray(distance.data, np.float32)
    steps = np.gradient(data, *distance.grid.spacing_mm)
    slope = np.sqrt(sum(np.square(step) for step in steps))
    near = np.abs(data) < NEAR_MM
    return float(np.median(slope[near])) if near.any() else float("nan")


def agreement_notes(brain: Volume, outer: Volume, mirrored_mm: float) -> tuple[str, ...]:
    """Whether two ways to the same surface agree: the mirror image, and the outer surface."""
    notes = []
    if mirrored_mm > MIRRORED_MM:
        notes.append(
            f"the extractor says otherwise of the mirrored scan (by {mirrored_mm:.1f} mm at the "
            "surface); check the mask"
        )
    apart = surfaces_apart(brain, outer)
    if apart > APART_MM:
        notes.append(
            f"the extractor is in doubt where the brain ends (by {apart:.1f} mm on average); "
            "check the mask"
        )
    return tuple(notes)


def surfaces_apart(brain: Volume, outer: Volume) -> float:
    """Mean distance (mm) from the likeliest surface to the outer one; NaN without a surface."""
    near = np.abs(brain.data) < NEAR_MM
    return float((brain.data - outer.data)[near].mean()) if near.any() else float("nan")


# --- bright spots outside -----------------------------------------------------------


def spot_notes(scan: Volume, mask: Mask, kept: Mask) -> tuple[str, ...]:
    """One sentence if bright spots lie just outside the mask, in what is not kept."""
    count = len(bright_spots(scan, mask, kept))
    if count == 0:
        return ()
    spots = "1 bright spot" if count == 1 else f"{count} bright spots"
    return (f"{spots} within {SPOT_REACH_MM:g} mm outside the brain mask; look there",)


def bright_spots(scan: Volume, mask: Mask, kept: Mask) -> tuple[tuple[float, float, float], ...]:
    """Compact bright blobs that lie within 5 mm outside the mask: their centres in voxels.

    A blob that goes on into bone or scalp, or into what is kept, is none; nor is one that is
    long, like a vessel, or flat, like dura. Nothing is looked for across slices above 3 mm.

    Args:
        scan: the whole scan.
        mask: brain + CSF.
        kept: what is looked at besides; holds ``mask``.
    """
    spacing = np.asarray(scan.grid.spacing_mm)
    if spacing.max() > SPOT_THICKEST_MM or not mask.any():
        return ()
    box = _around(mask, np.ceil((SPOT_REACH_MM + 3) / spacing).astype(int))
    inside, seen, data = mask[box], kept[box], scan.data[box]
    level = SPOT_LEVEL * (np.percentile(data[inside], 90) - data.min()) + data.min()
    pieces, count = label(data > level, np.ones((3, 3, 3)))
    low, high = np.divide(SPOT_MM3, scan.grid.voxel_volume_mm3)
    sizes = sizes_of(pieces, count)
    found, parts = [], find_objects(pieces)
    for number in 1 + np.flatnonzero((sizes[1:] >= low) & (sizes[1:] <= high)):
        part = parts[number - 1]
        places = np.argwhere(pieces[part] == number) + [side.start for side in part]
        if not seen[tuple(places.T)].any() and _is_spot(places, inside, spacing):
            x, y, z = places.mean(axis=0) + [side.start for side in box]
            found.append((float(x), float(y), float(z)))
    return tuple(found)


def _is_spot(places: npt.NDArray[np.int_], inside: Mask, spacing: npt.NDArray[np.float64]) -> bool:
    """Whether voxels (n, 3) lie within reach of the mask, in a compact blob."""
    if not _compact(places * spacing):
        return False
    margin = np.ceil(SPOT_REACH_MM / spacing).astype(int)
    low = np.maximum(places.min(axis=0) - margin, 0)
    near = inside[tuple(slice(a, b) for a, b in zip(low, places.max(0) + margin + 1, strict=True))]
    if not near.any():
        return False
    away = distance_transform_edt(~near, sampling=spacing)
    return bool(away[tuple((places - low).T)].max() <= SPOT_REACH_MM)


def _around(mask: Mask, margin: npt.NDArray[np.int_]) -> tuple[slice, slice, slice]:
    box = bounding_box(mask)
    x, y, z = (
        slice(max(0, side.start - more), min(n, side.stop + more))
        for side, n, more in zip(box, mask.shape, margin.tolist(), strict=True)
    )
    return x, y, z


def _compact(points_mm: npt.NDArray[np.float64]) -> bool:
    """Whether a cloud of points is about as wide in every direction."""
    if len(points_mm) < 3:
        return False
    spread = np.linalg.eigvalsh(np.cov(points_mm.T) + np.eye(3) / 12)
    return bool(spread[2] <= SPOT_LENGTH**2 * spread[0])
