"""What one tool answers where a score has no value: python probes.py TOOL, JSON out.

Run with the Python of the tool's environment. An answer is the number, ``NaN``, ``inf`` or the
name of the exception, and the warning that came with it.
"""

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SPACING_MM = (1.0, 1.0, 1.0)
TOLERANCE_MM = 1.0
EMPTY, FULL = np.zeros((12, 10, 8), bool), np.ones((12, 10, 8), bool)
LESION = EMPTY.copy()
LESION[4:8, 3:7, 2:5] = True  # 48 voxels of 1 mm³: a large lesion for any scorer
RISING = np.linspace(0, 1, LESION.size, dtype=np.float32).reshape(LESION.shape)

CASES = {
    "empty reference": (EMPTY, LESION),
    "empty prediction": (LESION, EMPTY),
    "both empty": (EMPTY, EMPTY),
    "full reference": (FULL, LESION),
    "full prediction": (LESION, FULL),
    "both full": (FULL, FULL),
}
"""Reference and prediction of each case."""

CURVES = {"no voxel inside": EMPTY, "every voxel inside": FULL}
"""References with one class only."""

Asked = Mapping[str, Callable[[], Any]]
"""Scores of a tool by the column they stand in."""


def main() -> None:
    """Ask one tool everything."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    name = sys.argv[1]
    tool = TOOLS[name]
    found: dict[str, Any] = {
        "versions": {p: version(p) for p in tool.get("packages", (name,))},
        "cases": {case: _answers(tool["masks"], *masks) for case, masks in CASES.items()},
        "curves": {},
    }
    if "curves" in tool:
        found["curves"] = {case: _answers(tool["curves"], r, RISING) for case, r in CURVES.items()}
    print(json.dumps(found), file=answers, flush=True)


def _answers(probe: Callable[..., Asked], *args: Any) -> dict[str, Any]:
    return {name: _answer(ask) for name, ask in probe(*args).items()}


def _answer(ask: Callable[[], Any]) -> dict[str, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = _told(ask())
        except Exception as error:  # noqa: BLE001 (that it raises is the answer)
            answer = {"shows": type(error).__name__}
    names = [w.category.__name__ for w in caught if not issubclass(w.category, IGNORED)]
    return answer | ({"warning": names[0]} if names else {})


IGNORED = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)


def _told(value: Any) -> dict[str, str]:
    """A number, or a Score of brainmets with its reason."""
    reason = getattr(value, "reason", None)
    number = float(getattr(value, "value", value))
    shows = "NaN" if np.isnan(number) else f"{number:.3g}"
    return {"shows": shows} | ({"reason": reason} if reason else {})


# brainmets


def _brainmets(reference: Any, prediction: Any) -> Asked:
    from brainmets.evaluation import lesionwise, matching, surface, voxel
    from brainmets.lesions import components
    from brainmets.volume import Grid, Volume

    pair = [Volume(mask, Grid(mask.shape, np.eye(4))) for mask in (reference, prediction)]
    counts = voxel.count(*pair)
    scores = {**voxel.voxel_scores(counts), **voxel.agreement_scores(counts)}
    scores |= surface.surface_scores(*pair, tolerances_mm=[TOLERANCE_MM])
    paired = matching.pair_up(matching.look_at(*map(components, pair)), matching.OneToOne())
    scores |= lesionwise.detection_scores(paired.match.reference, paired.match.prediction)
    scores |= matching.panoptic_scores(paired, "dice")
    named = {
        "hd95_mm": "HD95",
        "mean_surface_distance_mm": "mean surface distance",
        "nsd_1mm": "NSD",
        "lesion_sensitivity": "lesion sensitivity",
        "lesion_precision": "lesion precision",
        "lesion_f1": "lesion F1",
        "segmentation_quality": "lesion Dice",
        "panoptic_quality": "PQ",
    }
    return {
        named.get(n, n): (lambda s=s: s) for n, s in scores.items() if n in COLUMNS | named.keys()
    }


def _brainmets_curves(reference: Any, probability: Any) -> Asked:
    from brainmets.evaluation.curves import curve_scores
    from brainmets.volume import Grid, Volume

    grid = Grid(reference.shape, np.eye(4))
    got = curve_scores(Volume(reference, grid), Volume(probability, grid))
    return {"ROC AUC": lambda: got["roc_auc"], "PR AUC": lambda: got["pr_auc"]}


def _brainmets_brats(year: int) -> Callable[..., Asked]:
    def probe(reference: Any, prediction: Any) -> Asked:
        from brainmets.evaluation import brats_mets
        from brainmets.volume import Grid, Volume

        pair = [Volume(mask, Grid(mask.shape, np.eye(4))) for mask in (reference, prediction)]
        scores = {2023: brats_mets.scores_2023, 2025: brats_mets.scores_2025}[year](*pair)
        named = {
            "dice": "dice",
            "hd95_mm": "HD95",
            "nsd": "NSD",
            "sensitivity": "lesion sensitivity",
            "precision": "lesion precision",
            "f1": "lesion F1",
            "lesionwise_dice": "lesion Dice",
            "lesionwise_hd95_mm": "lesion HD95",
            "pq_dice": "PQ",
        }
        return {named[n]: (lambda s=s: s) for n, s in scores.items() if n in named}

    return probe


# Public tools


def _sklearn(reference: Any, prediction: Any) -> Asked:
    from sklearn import metrics

    flat = reference.ravel(), prediction.ravel()
    return {
        "dice": lambda: metrics.f1_score(*flat),
        "iou": lambda: metrics.jaccard_score(*flat),
        "precision": lambda: metrics.precision_score(*flat),
        "sensitivity": lambda: metrics.recall_score(*flat),
        "specificity": lambda: metrics.recall_score(*flat, pos_label=False),
        "mcc": lambda: metrics.matthews_corrcoef(*flat),
        "kappa": lambda: metrics.cohen_kappa_score(*flat),
    }


def _sklearn_curves(reference: Any, probability: Any) -> Asked:
    from sklearn import metrics

    flat = reference.ravel(), probability.ravel()
    return {
        "ROC AUC": lambda: metrics.roc_auc_score(*flat),
        "PR AUC": lambda: metrics.average_precision_score(*flat),
    }


def _monai(reference: Any, prediction: Any) -> Asked:
    import torch
    from monai import metrics
    from monai.metrics import confusion_matrix as cm

    pair = [torch.from_numpy(mask.astype(np.uint8))[None, None] for mask in (prediction, reference)]
    counts = cm.get_confusion_matrix(*pair)
    here: dict[str, Any] = {"include_background": True, "spacing": SPACING_MM}

    def counted(name: str) -> Callable[[], Any]:
        return lambda: cm.compute_confusion_matrix_metric(name, counts)

    instances = [torch.cat([m, m], 1).int() for m in pair]
    return {
        "dice": lambda: metrics.compute_dice(*pair),
        "iou": lambda: metrics.compute_iou(*pair),
        "precision": counted("precision"),
        "sensitivity": counted("sensitivity"),
        "specificity": counted("specificity"),
        "mcc": counted("matthews correlation coefficient"),
        "HD95": lambda: metrics.compute_hausdorff_distance(*pair, percentile=95, **here),
        "mean surface distance": lambda: metrics.compute_average_surface_distance(
            *pair, symmetric=True, **here
        ),
        "NSD": lambda: metrics.compute_surface_dice(
            *pair, [TOLERANCE_MM], use_subvoxels=True, **here
        ),
        "lesion F1": lambda: _monai_lesions("rq", instances),
        "PQ": lambda: _monai_lesions("pq", instances),
    }


def _monai_lesions(name: str, instances: list[Any]) -> float:
    from monai.metrics import PanopticQualityMetric

    metric = PanopticQualityMetric(num_classes=1, metric_name=name)
    metric(*instances)
    return float(metric.aggregate())


def _monai_means(reference: Any, prediction: Any) -> Asked:
    """What the metric classes return as the mean over cases, for this case alone."""
    import torch
    from monai import metrics

    pair = [torch.from_numpy(mask.astype(np.uint8))[None, None] for mask in (prediction, reference)]

    def mean(metric: Any, **options: Any) -> Callable[[], float]:
        def ask() -> float:
            metric(*pair, **options)
            return float(metric.aggregate())

        return ask

    here: dict[str, Any] = {"include_background": True}
    return {
        "dice": mean(metrics.DiceMetric()),
        "iou": mean(metrics.MeanIoU()),
        "HD95": mean(metrics.HausdorffDistanceMetric(percentile=95, **here), spacing=SPACING_MM),
        "mean surface distance": mean(
            metrics.SurfaceDistanceMetric(symmetric=True, **here), spacing=SPACING_MM
        ),
        "NSD": mean(
            metrics.SurfaceDiceMetric([TOLERANCE_MM], use_subvoxels=True, **here),
            spacing=SPACING_MM,
        ),
    }


def _monai_curves(reference: Any, probability: Any) -> Asked:
    import torch
    from monai import metrics

    flat = [torch.from_numpy(a.astype(np.float32).ravel()) for a in (probability, reference)]
    return {
        "ROC AUC": lambda: metrics.compute_roc_auc(*flat),
        "PR AUC": lambda: metrics.compute_average_precision(*flat),
    }


def _simpleitk(reference: Any, prediction: Any) -> Asked:
    import SimpleITK as sitk  # noqa: N813 (as its own documentation does)

    pair = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (reference, prediction)]

    def overlap(method: str) -> Callable[[], Any]:
        def ask() -> Any:
            measures = sitk.LabelOverlapMeasuresImageFilter()
            measures.Execute(*pair)
            return getattr(measures, method)()

        return ask

    def distance(method: str) -> Callable[[], Any]:
        def ask() -> Any:
            measures = sitk.HausdorffDistanceImageFilter()
            measures.Execute(*pair)
            return getattr(measures, method)()

        return ask

    return {
        "dice": overlap("GetDiceCoefficient"),
        "iou": overlap("GetJaccardCoefficient"),
        "HD95": distance("GetHausdorffDistance"),
        "mean surface distance": distance("GetAverageHausdorffDistance"),
    }


def _panoptica(reference: Any, prediction: Any) -> Asked:
    from panoptica import (
        ConnectedComponentsInstanceApproximator,
        InputType,
        MaxBipartiteMatching,
        Metric,
        Panoptica_Evaluator,
        disable_citation_reminder,
    )

    disable_citation_reminder()

    def of(attribute: str, instance: str = "DSC", whole: str = "DSC") -> Callable[[], Any]:
        def ask() -> Any:
            evaluator = Panoptica_Evaluator(
                expected_input=InputType.SEMANTIC,
                instance_approximator=ConnectedComponentsInstanceApproximator(),
                instance_matcher=MaxBipartiteMatching(Metric.DSC, 1e-6),
                instance_metrics=[Metric[instance]],
                global_metrics=[Metric[whole]],
            )
            masks = [mask.astype(np.uint8) for mask in (prediction, reference)]
            (result,) = evaluator.evaluate(*masks, voxelspacing=SPACING_MM).values()
            return getattr(result, attribute)

        return ask

    return {
        "dice": of("global_bin_dsc"),
        "iou": of("global_bin_iou", whole="IOU"),
        "HD95": of("global_bin_hd95", whole="HD95"),
        "mean surface distance": of("global_bin_assd", whole="ASSD"),
        "NSD": of("global_bin_nsd", whole="NSD"),
        "lesion sensitivity": of("rec"),
        "lesion precision": of("prec"),
        "lesion F1": of("rq"),
        "lesion Dice": of("sq_dsc"),
        "lesion HD95": of("sq_hd95", instance="HD95"),
        "PQ": of("pq_dsc"),
    }


def _surface_distance(reference: Any, prediction: Any) -> Asked:
    import surface_distance as sd

    def found() -> Any:
        return sd.compute_surface_distances(reference, prediction, SPACING_MM)

    return {
        "dice": lambda: sd.compute_dice_coefficient(reference, prediction),
        "HD95": lambda: sd.compute_robust_hausdorff(found(), 95),
        "mean surface distance": lambda: np.mean(sd.compute_average_surface_distance(found())),
        "NSD": lambda: sd.compute_surface_dice_at_tolerance(found(), TOLERANCE_MM),
    }


def _brats_evaluation(reference: Any, prediction: Any) -> Asked:
    """The scorer of BraTS-METS from 2025 on, with the server's limits."""
    columns = {
        "dice": "global_dsc",
        "HD95": "global_hd95",
        "NSD": "global_nsd",
        "lesion sensitivity": "all_instance_rec",
        "lesion precision": "all_instance_prec",
        "lesion F1": "all_instance_f1",
        "lesion Dice": "lesionwise_dsc_mean",
        "lesion HD95": "lesionwise_hd95_mean",
    }

    def of(column: str) -> Callable[[], Any]:
        return lambda: _brats_row(reference, prediction)[f"{column}_tc"]

    return {name: of(column) for name, column in columns.items()}


def _brats_row(reference: Any, prediction: Any) -> Any:
    import pandas as pd
    from brats_evaluation import config_path, parse_mets_results
    from panoptica import Panoptica_Evaluator, disable_citation_reminder

    disable_citation_reminder()
    evaluator = Panoptica_Evaluator.load_from_config(str(config_path("mets")))
    labels = [mask.astype(np.uint8) * 3 for mask in (prediction, reference)]
    groups = evaluator.evaluate(*labels, voxelspacing=SPACING_MM)
    metrics = {name: result.to_dict(True) for name, result in groups.items()}
    with tempfile.TemporaryDirectory() as folder:
        found, rows = Path(folder) / "found.json", Path(folder) / "rows.csv"
        found.write_text(json.dumps({"metrics": [{"subject_name": "case", **metrics}]}))
        parse_mets_results(str(found), 27.0, 0.2, str(rows))
        return pd.read_csv(rows).iloc[0]


COLUMNS = {"dice", "iou", "precision", "sensitivity", "specificity", "mcc", "kappa"}
TOOLS: dict[str, dict[str, Any]] = {
    "brainmets": {"masks": _brainmets, "curves": _brainmets_curves},
    "brainmets, BraTS-METS 2023": {"masks": _brainmets_brats(2023), "packages": ("brainmets",)},
    "brainmets, BraTS-METS 2025": {"masks": _brainmets_brats(2025), "packages": ("brainmets",)},
    "scikit-learn": {"masks": _sklearn, "curves": _sklearn_curves},
    "SimpleITK": {"masks": _simpleitk},
    "monai": {"masks": _monai, "curves": _monai_curves},
    "monai, mean over cases": {"masks": _monai_means, "packages": ("monai",)},
    "panoptica": {"masks": _panoptica},
    "surface-distance": {"masks": _surface_distance},
    "brats-evaluation": {"masks": _brats_evaluation},
}

if __name__ == "__main__":
    main()
