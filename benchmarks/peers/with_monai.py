"""The jobs that MONAI can do, with its options set to the rules that brainmets names."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from monai import metrics
from monai.metrics import confusion_matrix
from monai.metrics.utils import get_edge_surface_distance

PACKAGES = ("monai", "torch", "numpy", "scipy")
TOLERANCES_MM = (1.0, 2.0)
COUNTED = {
    "iou": "threat score",
    "precision": "precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "mcc": "matthews correlation coefficient",
}


class Pair(NamedTuple):
    """Two masks as MONAI takes them: shape (1, 1, x, y, z)."""

    reference: torch.Tensor
    prediction: torch.Tensor
    spacing_mm: tuple[float, float, float]


def prepare(reference: Any, prediction: Any, spacing_mm: tuple[float, float, float]) -> Pair:
    """Masks, or numbered lesions, as tensors; of numbers, since MONAI miscounts bool ones."""
    return Pair(
        *(torch.from_numpy(m * np.uint8(1))[None, None] for m in (reference, prediction)),
        spacing_mm,
    )


def masks(pair: Pair) -> dict[str, float]:
    """See with_brainmets.masks."""
    args = (pair.prediction, pair.reference)
    counts = confusion_matrix.get_confusion_matrix(*args)
    found = {
        name: float(confusion_matrix.compute_confusion_matrix_metric(metric, counts))
        for name, metric in COUNTED.items()
    }
    return {
        "dice": _value(metrics.DiceMetric(), args),
        **found,
        "hd95_mm": _value(metrics.HausdorffDistanceMetric(percentile=95, **KEPT), args, pair),
        "hd_mm": _value(metrics.HausdorffDistanceMetric(**KEPT), args, pair),
        "mean_surface_distance_mm": _value(
            metrics.SurfaceDistanceMetric(symmetric=True, **KEPT), args, pair
        ),
        **{
            f"nsd_{t:g}mm": _value(
                metrics.SurfaceDiceMetric([t], use_subvoxels=True, **KEPT), args, pair
            )
            for t in TOLERANCES_MM
        },
    }


def hd95_exact(pair: Pair) -> dict[str, float]:
    """MONAI's distances; their percentile in float64."""
    directed = get_edge_surface_distance(
        pair.prediction[0, 0], pair.reference[0, 0], spacing=pair.spacing_mm, symmetric=True
    )[1]
    return {"hd95_mm": max(float(np.percentile(d.double().numpy(), 95)) for d in directed)}


def numbered_lesions(pair: Pair) -> dict[str, float]:
    """See with_brainmets.numbered_lesions."""
    metric = metrics.PanopticQualityMetric(
        num_classes=1, metric_name=("rq", "sq", "pq"), smooth_numerator=0.0
    )
    metric(*(torch.cat([m, m > 0], 1) for m in (pair.prediction, pair.reference)))
    tp, fp, fn, _ = metric.get_buffer().flatten().tolist()
    rq, sq, pq = (float(value) for value in metric.aggregate())
    return {"tp": tp, "fp": fp, "fn": fn, "rq": rq, "sq_iou": sq, "pq_iou": pq}


def _value(metric: Any, args: tuple[Any, ...], pair: Pair | None = None) -> float:
    """Of the case; the metric's mean over cases would make 0 of NaN."""
    return float(metric(*args, **({} if pair is None else {"spacing": pair.spacing_mm})))


warnings.filterwarnings("ignore")
KEPT = {"include_background": True}
JOBS = {"masks": masks, "HD95 in float64": hd95_exact, "numbered lesions": numbered_lesions}
