"""The jobs that panoptica can do, with its options set to the rules that brainmets names."""

from typing import Any, NamedTuple

import numpy as np
from panoptica import (
    ConnectedComponentsInstanceApproximator,
    InputType,
    MaxBipartiteMatching,
    Metric,
    Panoptica_Evaluator,
    PanopticaResult,
    disable_citation_reminder,
)
from panoptica.utils import EdgeCaseHandler
from panoptica.utils.edge_case_handling import EdgeCaseResult, MetricZeroTPEdgeCaseHandling

PACKAGES = ("panoptica", "connected-components-3d", "numpy", "scipy")
disable_citation_reminder()


class Pair(NamedTuple):
    """Two masks as panoptica takes them."""

    reference: Any
    prediction: Any
    spacing_mm: tuple[float, float, float]


def prepare(reference: Any, prediction: Any, spacing_mm: tuple[float, float, float]) -> Pair:
    """Masks of whole numbers."""
    return Pair(reference.astype(np.uint8), prediction.astype(np.uint8), spacing_mm)


def _without_pairs() -> EdgeCaseHandler:
    """What surface scores are where no lesions are paired, or no voxel is shared.

    There is no default: panoptica raises.
    """
    handling = EdgeCaseHandler().listmetric_zeroTP_handling
    zero, nan = (
        MetricZeroTPEdgeCaseHandling(default_result=result)
        for result in (EdgeCaseResult.ZERO, EdgeCaseResult.NAN)
    )
    return EdgeCaseHandler({**handling, Metric.NSD: zero, Metric.HD95: nan})


def _evaluator(instance: list[Metric], whole: list[Metric]) -> Panoptica_Evaluator:
    return Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=MaxBipartiteMatching(Metric.DSC, 1e-6),
        instance_metrics=instance,
        global_metrics=whole,
        edge_case_handler=_without_pairs(),
    )


def _result(evaluator: Panoptica_Evaluator, pair: Pair) -> PanopticaResult:
    (result,) = evaluator.evaluate(
        pair.prediction, pair.reference, voxelspacing=pair.spacing_mm, verbose=False
    ).values()
    return result


def lesions(pair: Pair) -> dict[str, float]:
    """See with_brainmets.lesions."""
    got = _result(LESIONS, pair)
    names = ("tp", "fp", "fn", "rq")
    return {
        **{name: getattr(got, name) for name in names},
        "sq_iou": got.sq,
        "pq_iou": got.pq,
        "sq_dice": got.sq_dsc,
        "pq_dice": got.pq_dsc,
        "dice": got.global_bin_dsc,
    }


def lesion_surfaces(pair: Pair) -> dict[str, float]:
    """See with_brainmets.lesion_surfaces."""
    got = _result(SURFACES, pair)
    return {
        **{name: getattr(got, name) for name in ("tp", "fp", "fn", "rq")},
        "sq_dice": got.sq_dsc,
        "pq_dice": got.pq_dsc,
        "sq_nsd": got.sq_nsd,
        "sq_hd95_mm": got.sq_hd95,
        "dice": got.global_bin_dsc,
        "whole_nsd": got.global_bin_nsd,
        "whole_hd95_mm": got.global_bin_hd95,
    }


def whole_in_voxels(pair: Pair) -> dict[str, float]:
    """See with_brainmets.whole_in_voxels."""
    got = _result(SURFACES, pair)
    return {"whole_nsd": got.global_bin_nsd, "whole_hd95": got.global_bin_hd95}


LESIONS = _evaluator([Metric.IOU, Metric.DSC], [Metric.DSC])
SURFACES = _evaluator([Metric.DSC, Metric.NSD, Metric.HD95], [Metric.DSC, Metric.NSD, Metric.HD95])
JOBS = {
    "lesions": lesions,
    "lesion surfaces": lesion_surfaces,
    "whole masks in voxels": whole_in_voxels,
}
