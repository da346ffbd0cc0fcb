"""The jobs of every peer, done by brainmets: the same rules, the same kinds of surface."""

import math
from typing import Any

import numpy as np

from brainmets.evaluation.brats_mets import Rules2025, scores_2025
from brainmets.evaluation.matching import (
    IouAtLeast,
    OneToOne,
    Pairing,
    Rule,
    look_at,
    pair_up,
    panoptic_scores,
)
from brainmets.evaluation.surface import (
    hausdorff,
    mean_distance,
    surface_dice,
    surface_distances,
)
from brainmets.evaluation.voxel import agreement_scores, count, voxel_scores
from brainmets.lesions import components
from brainmets.volume import Grid, Volume

PACKAGES = ("brainmets", "numpy", "scipy")
TOLERANCES_MM = (1.0, 2.0)
Pair = tuple[Volume, Volume]
Scores = dict[str, float]


def prepare(reference: Any, prediction: Any, spacing_mm: tuple[float, float, float]) -> Pair:
    """Two volumes on one grid."""
    grid = Grid(reference.shape, np.diag([*spacing_mm, 1.0]))
    return Volume(reference, grid), Volume(prediction, grid)


def lesions(pair: Pair) -> Scores:
    """26-connected lesions, paired one-to-one by the largest summed Dice."""
    found = _paired(pair, OneToOne("dice", 1e-6))
    overlap, volume = panoptic_scores(found, "iou"), panoptic_scores(found, "dice")
    return {
        **_counts(found),
        "rq": overlap["recognition_quality"].value,
        "sq_iou": overlap["segmentation_quality"].value,
        "pq_iou": overlap["panoptic_quality"].value,
        "sq_dice": volume["segmentation_quality"].value,
        "pq_dice": volume["panoptic_quality"].value,
        "dice": voxel_scores(count(*pair))["dice"].value,
    }


def lesion_surfaces(pair: Pair) -> Scores:
    """The same pairing; mean NSD and HD95 of the pairs, and both of the whole masks.

    Surfaces are voxels, HD95 is of both directions together, and the tolerance is the smallest
    spacing. From the BraTS-METS scores with every lesion taken for a large one and no penalty,
    so that only pairs add to the sums.
    """
    got = scores_2025(*pair, Rules2025(large_mm3=1e-9, penalty_mm=0.0))
    values = {name: score.value for name, score in got.items()}
    terms = values["tp"] + values["fn"] + values["fp"]
    return {
        **{name: values[name] for name in ("tp", "fp", "fn")},
        "rq": values["f1"],
        "sq_dice": values["sq_dice"],
        "pq_dice": values["pq_dice"],
        "sq_nsd": values["lesionwise_nsd"] * terms / values["tp"] if values["tp"] else math.nan,
        "sq_hd95_mm": (
            values["lesionwise_hd95_mm"] * terms / values["tp"] if values["tp"] else math.nan
        ),
        "dice": values["dice"],
        "whole_nsd": values["nsd"],
        "whole_hd95_mm": values["hd95_mm"],
    }


def whole_in_voxels(pair: Pair) -> Scores:
    """NSD and HD95 of whole masks as if voxels measured 1 mm, with a tolerance of 0.5.

    Masks that share no voxel have no HD95: NaN stands where the challenge has its penalty.
    """
    flat = [Volume(mask.data, Grid(mask.grid.shape, np.eye(4))) for mask in pair]
    got = scores_2025(*flat, Rules2025(tolerance_mm=0.5, penalty_mm=math.nan))
    return {"whole_nsd": got["nsd"].value, "whole_hd95": got["hd95_mm"].value}


def numbered_lesions(pair: Pair) -> Scores:
    """Lesions that are numbered already, paired from an IoU above 0.5."""
    found = pair_up(look_at(*pair), IouAtLeast(math.nextafter(0.5, 1)))
    overlap = panoptic_scores(found, "iou")
    return {
        **_counts(found),
        "rq": overlap["recognition_quality"].value,
        "sq_iou": overlap["segmentation_quality"].value,
        "pq_iou": overlap["panoptic_quality"].value,
    }


def masks(pair: Pair) -> Scores:
    """Voxel scores, distances between surface voxels, and surface Dice over areas."""
    counts = count(*pair)
    shared = {**voxel_scores(counts), **agreement_scores(counts)}
    voxels, elements = (surface_distances(*pair, kind=k) for k in ("voxels", "elements"))
    return {
        **{name: score.value for name, score in shared.items() if name != "kappa"},
        "hd95_mm": hausdorff(voxels, 95).value,
        "hd_mm": hausdorff(voxels).value,
        "mean_surface_distance_mm": mean_distance(voxels).value,
        **{f"nsd_{t:g}mm": surface_dice(elements, t).value for t in TOLERANCES_MM},
    }


def hd95_exact(pair: Pair) -> Scores:
    """HD95 between surface voxels alone."""
    return {"hd95_mm": hausdorff(surface_distances(*pair, kind="voxels"), 95).value}


def surfaces(pair: Pair) -> Scores:
    """Distances between surface elements, weighted by area."""
    found = surface_distances(*pair)
    return {
        "dice": voxel_scores(count(*pair))["dice"].value,
        "hd95_mm": hausdorff(found, 95).value,
        "hd_mm": hausdorff(found).value,
        "reference_to_prediction_mm": float(
            np.average(found.reference_mm, weights=found.reference_weight)
        ),
        "prediction_to_reference_mm": float(
            np.average(found.prediction_mm, weights=found.prediction_weight)
        ),
        **{f"nsd_{t:g}mm": surface_dice(found, t).value for t in TOLERANCES_MM},
    }


def _paired(pair: Pair, rule: Rule) -> Pairing:
    return pair_up(look_at(*(components(mask) for mask in pair)), rule)


def _counts(found: Pairing) -> Scores:
    return {
        "tp": len(found.pairs),
        "fp": sum(not lesion.matched for lesion in found.match.prediction),
        "fn": sum(not lesion.matched for lesion in found.match.reference),
    }


JOBS = {
    "lesions": lesions,
    "lesion surfaces": lesion_surfaces,
    "whole masks in voxels": whole_in_voxels,
    "numbered lesions": numbered_lesions,
    "masks": masks,
    "HD95 in float64": hd95_exact,
    "surfaces": surfaces,
}
