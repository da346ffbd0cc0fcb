"""Lesion-wise scores as the BraTS-METS challenges count them.

Two rule sets. That of 2023 (Moawad et al. 2023, arXiv:2306.00838; used for 2024 too) merges
reference lesions whose dilations touch, and gives a reference lesion every prediction that
touches its dilation. The newer one, used from 2025 on, pairs lesions one-to-one and scores
large and small lesions apart.

Both scorers give a number to an empty region; here it is NaN with its reason:

=============================  ======================  ==================
case                           public scorer of 2023   newer public scorer
=============================  ======================  ==================
no lesion counts, none found   Dice 1, HD95 0 mm       no value
no large reference lesion      –                       no value, even with false positives
=============================  ======================  ==================
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.errors import ConfigError
from brainmets.evaluation.lesionwise import Overlap, overlaps
from brainmets.evaluation.matching import best_pairs
from brainmets.evaluation.scores import Score, ratio, undefined
from brainmets.evaluation.surface import ROUNDING, hausdorff, mask_distances
from brainmets.evaluation.voxel import target
from brainmets.lesions import CUBE, bounding_box
from brainmets.volume import Array, Volume, require_same_grid

BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]
Spacing = tuple[float, float, float]
Box = tuple[slice, ...]

REGIONS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}
)
"""Labels of enhancing tumour, tumour core and whole tumour."""

SIZE_PLAY = 1e-6
"""Relative play of size limits: NIfTI spacings are float32, so 2 mm³ may read 2.0000001."""

NO_LESION = "neither reference nor prediction has a lesion that counts"


@dataclass(frozen=True)
class Rules2023:
    """Parameters of the 2023 scores.

    Attributes:
        dilations: how often reference lesions are dilated, to merge and to match them.
        dropped_mm3: reference lesions of at most this volume do not count, found or not.
        penalty_mm: HD95 of a missed lesion and of a false positive.
    """

    dilations: int = 1
    dropped_mm3: float = 2.0
    penalty_mm: float = 374.0


@dataclass(frozen=True)
class Rules2025:
    """Parameters of the newer scores.

    The challenge's server scored with 27 mm³ and Dice 0.2; the scorer's own defaults are
    20 mm³ and 0.1; the challenge's page speaks of 275 mm³ for Dice and surface Dice.

    Attributes:
        large_mm3: reference lesions of at least this volume are large.
        detected_dice: a paired lesion counts as detected from this Dice on.
        paired_dice: lesions that agree less are never paired.
        penalty_mm: HD95 of a missed lesion and of a false positive.
        tolerance_mm: surface points this near agree; None: the smallest voxel spacing.
    """

    large_mm3: float = 27.0
    detected_dice: float = 0.2
    paired_dice: float = 1e-6
    penalty_mm: float = 373.0
    tolerance_mm: float | None = None


def region(mask: Volume, name: str) -> Volume:
    """One of REGIONS as a bool mask.

    Raises:
        ConfigError: no such region.
    """
    if name not in REGIONS:
        raise ConfigError(f"region {name!r}; expected one of {', '.join(REGIONS)}")
    return target(mask, REGIONS[name])


# The rules of 2023


@dataclass(frozen=True)
class _Found:
    """A reference lesion and the predictions that touch its dilation."""

    partners: tuple[int, ...]
    counts: bool
    dice: float
    hd95_mm: float


def scores_2023(
    reference: Volume, prediction: Volume, rules: Rules2023 | None = None
) -> dict[str, Score]:
    """Score one region of one scan by the rules of 2023.

    ``lesionwise_dice`` and ``lesionwise_hd95_mm`` are sums over the reference lesions that
    count, divided by their number plus that of the false positives; a missed lesion and
    a false positive have Dice 0 and the penalty as HD95. A prediction that touches
    only lesions too small to count is no false positive, but small false positives count.
    ``dice`` and ``hd95_mm`` are those of the whole region.

    Args:
        reference: mask, > 0 inside; its lesions are 26-connected.
        prediction: mask on the same grid.
        rules: parameters; None: those of BraTS-METS.

    Raises:
        GridMismatchError: the masks do not lie on the same voxels.
    """
    rules = rules or Rules2023()
    truth, found = _masks(reference, prediction, rules.dilations)
    parts, number = _components(found)
    lesions = tuple(_lesions_2023(truth, parts, reference, rules))
    used = {partner for lesion in lesions for partner in lesion.partners}
    counted = [lesion for lesion in lesions if lesion.counts]
    extra = number - len(used)
    whole_mm = _robust_hausdorff_mm(truth, found, reference.grid.spacing_mm, rules)
    total, hits = len(counted) + extra, sum(bool(lesion.partners) for lesion in counted)
    distance = sum(lesion.hd95_mm for lesion in counted) + extra * rules.penalty_mm
    empty = not (truth.any() or found.any())
    return {
        "lesionwise_dice": ratio(sum(lesion.dice for lesion in counted), total, NO_LESION),
        "lesionwise_hd95_mm": ratio(distance, total, NO_LESION),
        "true_positives": Score(float(hits)),
        "false_positives": Score(float(extra)),
        "false_negatives": Score(float(len(counted) - hits)),
        "dice": _whole_dice(truth, found),
        "hd95_mm": undefined(NO_LESION) if empty else Score(whole_mm),
    }


def _lesions_2023(
    truth: BoolArray, parts: Array, grid_of: Volume, rules: Rules2023
) -> Iterator[_Found]:
    """Each merged reference lesion with its predictions.

    Args:
        truth: the reference.
        parts: predicted components, numbered.
        grid_of: an image on their grid.
        rules: parameters.
    """
    merged = _components(_dilated(truth, rules.dilations))[0] * truth
    part_boxes = ndimage.find_objects(parts)
    limit_vox = rules.dropped_mm3 * (1 + SIZE_PLAY) / grid_of.grid.voxel_volume_mm3
    for label, box in enumerate(ndimage.find_objects(merged), start=1):
        wide = _widened(box, rules.dilations)
        near = _dilated(merged[wide] == label, rules.dilations)
        partners = tuple(int(p) for p in np.unique(parts[wide][near]) if p)
        both = _hull([box, *(part_boxes[p - 1] for p in partners)])
        lesion, hit = merged[both] == label, np.isin(parts[both], partners)
        yield _Found(
            partners,
            int(np.count_nonzero(lesion)) > limit_vox,
            _whole_dice(lesion, hit).value,
            _robust_hausdorff_mm(lesion, hit, grid_of.grid.spacing_mm, rules),
        )


def _robust_hausdorff_mm(
    one: BoolArray, other: BoolArray, spacing: Spacing, rules: Rules2023
) -> float:
    """HD95 by area; the penalty where a mask is empty."""
    distance = hausdorff(mask_distances(one, other, np.diag(spacing)), 95)
    return distance.value if distance.defined else rules.penalty_mm


def _dilated(mask: BoolArray, times: int) -> BoolArray:
    """Grown ``times`` by the 18 neighbours that share a face or an edge.

    Those are the three planes of 9 through a voxel, each a step along two axes in turn.
    """
    for _ in range(times):
        along = [_stepped(mask, axis) for axis in range(3)]
        mask = _stepped(along[0], 1) | _stepped(along[1], 2) | _stepped(along[2], 0)
    return mask


def _stepped(mask: BoolArray, axis: int) -> BoolArray:
    """Grown by a voxel forth and back along one axis."""
    grown = mask.copy()
    there, here = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
    there[1:] |= here[:-1]
    there[:-1] |= here[1:]
    return grown


# The newer rules


@dataclass(frozen=True)
class _Paired:
    """A reference lesion; agreement 0 and an infinite distance without a partner."""

    volume_mm3: float
    dice: float = 0.0
    nsd: float = 0.0
    hd95_mm: float = float("inf")


def scores_2025(
    reference: Volume, prediction: Volume, rules: Rules2025 | None = None
) -> dict[str, Score]:
    """Score one region of one scan by the newer rules.

    Lesions (26-connected) are paired one-to-one by the largest summed Dice. ``tp`` … ``f1``
    count pairs. ``large_…`` and ``small_…`` count the reference lesions of that size as
    detected from a Dice of ``detected_dice`` on, against *all* false positives of the
    scan, whatever their size: that is how the public scorer counts. ``lesionwise_…`` are
    mean and standard deviation over the large reference lesions and, with 0 or the
    penalty, all false positives. HD95 is the 95th percentile of the distances of both
    surfaces together, surfaces being the voxels with an outside face neighbour; NSD is
    the mean of the two shares of surface voxels within the tolerance. ``sq_dice`` and
    ``pq_dice`` are the segmentation and panoptic quality of the pairs; their recognition
    quality is ``f1``. ``dice``, ``nsd`` and ``hd95_mm`` are those of the whole region; masks
    that share no voxel have NSD 0 and the penalty, as if one were empty.

    Args:
        reference: mask, > 0 inside.
        prediction: mask on the same grid.
        rules: parameters; None: those of the challenge's server.

    Raises:
        GridMismatchError: the masks do not lie on the same voxels.
    """
    rules = rules or Rules2025()
    truth, found = _masks(reference, prediction)
    spacing = reference.grid.spacing_mm
    tolerance = min(spacing) if rules.tolerance_mm is None else rules.tolerance_mm
    (lesions, _), (parts, number) = _components(truth), _components(found)
    pairs = best_pairs(overlaps(lesions, parts), "dice", rules.paired_dice)
    all_paired = _pairs_2025(lesions, parts, pairs, reference, tolerance)
    extra = number - len(pairs)
    limit = rules.large_mm3 * (1 - SIZE_PLAY)
    large = [lesion for lesion in all_paired if lesion.volume_mm3 >= limit]
    small = [lesion for lesion in all_paired if lesion.volume_mm3 < limit]
    return {
        **_detection(len(pairs), extra, len(all_paired) - len(pairs)),
        **_panoptic(pairs, len(all_paired) + number),
        **_detection_of("large", large, extra, rules),
        **_detection_of("small", small, extra, rules),
        **_lesionwise(large, extra, rules),
        **_whole(truth, found, spacing, tolerance, rules),
    }


def _pairs_2025(
    lesions: Array, parts: Array, pairs: Sequence[Overlap], grid_of: Volume, tolerance_mm: float
) -> list[_Paired]:
    """Every reference lesion, in the order of its labels."""
    partner = {pair.reference_label: pair for pair in pairs}
    part_boxes = ndimage.find_objects(parts)
    sizes = np.bincount(lesions.ravel())
    paired = []
    for label, box in enumerate(ndimage.find_objects(lesions), start=1):
        volume_mm3 = int(sizes[label]) * grid_of.grid.voxel_volume_mm3
        if label not in partner:
            paired.append(_Paired(volume_mm3))
            continue
        pair = partner[label]
        both = _hull([box, part_boxes[pair.prediction_label - 1]])
        nsd, hd95_mm = _surface_scores(
            lesions[both] == label,
            parts[both] == pair.prediction_label,
            grid_of.grid.spacing_mm,
            tolerance_mm,
        )
        paired.append(_Paired(volume_mm3, pair.dice, nsd, hd95_mm))
    return paired


def _detection(hits: int, extra: int, missed: int, prefix: str = "") -> dict[str, Score]:
    return {
        f"{prefix}tp": Score(float(hits)),
        f"{prefix}fp": Score(float(extra)),
        f"{prefix}fn": Score(float(missed)),
        f"{prefix}precision": ratio(hits, hits + extra, "the prediction has no lesion"),
        f"{prefix}sensitivity": ratio(hits, hits + missed, "the reference has no lesion"),
        f"{prefix}f1": ratio(2 * hits, 2 * hits + extra + missed, NO_LESION),
    }


def _detection_of(
    size: str, lesions: Sequence[_Paired], extra: int, rules: Rules2025
) -> dict[str, Score]:
    hits = sum(lesion.dice >= rules.detected_dice for lesion in lesions)
    scores = _detection(hits, extra, len(lesions) - hits, f"{size}_")
    if lesions:
        return scores
    return dict.fromkeys(scores, undefined(f"the reference has no {size} lesion"))


def _panoptic(pairs: Sequence[Overlap], lesions: int) -> dict[str, Score]:
    agreement = sum(pair.dice for pair in pairs)
    return {
        "sq_dice": ratio(agreement, len(pairs), "no lesion was paired"),
        "pq_dice": ratio(2 * agreement, lesions, NO_LESION),
    }


def _lesionwise(large: Sequence[_Paired], extra: int, rules: Rules2025) -> dict[str, Score]:
    """Mean and standard deviation (of the population) over large lesions and false positives."""
    distances = [
        lesion.hd95_mm if np.isfinite(lesion.hd95_mm) else rules.penalty_mm for lesion in large
    ]
    values = {
        "dice": [lesion.dice for lesion in large] + [0.0] * extra,
        "nsd": [lesion.nsd for lesion in large] + [0.0] * extra,
        "hd95_mm": distances + [rules.penalty_mm] * extra,
    }
    none = undefined("the reference has no large lesion")
    return {
        f"lesionwise_{name}{suffix}": Score(float(reduce(v))) if large else none
        for name, v in values.items()
        for suffix, reduce in (("", np.mean), ("_sd", np.std))
    }


def _whole(
    truth: BoolArray, found: BoolArray, spacing: Spacing, tolerance_mm: float, rules: Rules2025
) -> dict[str, Score]:
    if not (truth.any() or found.any()):
        return dict.fromkeys(("dice", "nsd", "hd95_mm"), undefined(NO_LESION))
    nsd, hd95_mm = 0.0, rules.penalty_mm
    if (truth & found).any():
        nsd, hd95_mm = _surface_scores(truth, found, spacing, tolerance_mm)
    return {"dice": _whole_dice(truth, found), "nsd": Score(nsd), "hd95_mm": Score(hd95_mm)}


def _surface_scores(
    one: BoolArray, other: BoolArray, spacing: Spacing, tolerance_mm: float
) -> tuple[float, float]:
    """NSD and HD95 of two masks that are not empty, over surface voxels."""
    found = mask_distances(one, other, np.diag(spacing), kind="voxels")
    directed = (found.reference_mm, found.prediction_mm)
    limit = tolerance_mm * (1 + ROUNDING)
    shares = [float(np.mean(distances <= limit)) for distances in directed]
    return sum(shares) / 2, float(np.percentile(np.concatenate(directed), 95))


# Both


def _masks(
    reference: Volume, prediction: Volume, margin_vox: int = 0
) -> tuple[BoolArray, BoolArray]:
    """Both masks within the box that holds them, widened as far as the grid goes."""
    require_same_grid(reference.grid, prediction.grid, "reference and prediction")
    truth, found = np.greater(reference.data, 0), np.greater(prediction.data, 0)
    either = truth | found
    inner: Box = bounding_box(either) if either.any() else (slice(0, 1),) * 3
    box = _widened(inner, margin_vox)
    return truth[box], found[box]


def _components(mask: BoolArray) -> tuple[npt.NDArray[np.int32], int]:
    labels, number = ndimage.label(mask, CUBE)
    return np.asarray(labels, np.int32), int(number)


def _whole_dice(one: BoolArray, other: BoolArray) -> Score:
    shared = int(np.count_nonzero(one & other))
    both = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return ratio(2 * shared, both, NO_LESION)


def _widened(box: Box, by: int) -> Box:
    return tuple(slice(max(s.start - by, 0), s.stop + by) for s in box)


def _hull(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all boxes."""
    return tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis))
        for axis in zip(*boxes, strict=True)
    )
