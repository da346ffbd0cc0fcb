"""Odd masks, each against each: every family of scores beside other people's code or plain loops.

Empty, full, one voxel, touching lesions, diagonal neighbours, on cubic voxels and on
0.5×0.5×6 mm.
"""

import math
import warnings
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import cdist
from sklearn import metrics

from brainmets.evaluation.case import score
from brainmets.evaluation.curves import curve_scores
from brainmets.evaluation.surface import hausdorff, surface_distances
from brainmets.volume import Grid, Volume

SHAPE = (7, 6, 5)
SPACINGS = ((1.0, 1.0, 1.0), (0.5, 0.5, 6.0))
CLOSE = 1e-6


def block(*slices):
    data = np.zeros(SHAPE, bool)
    for one in slices:
        data[one] = True
    return data


ODD = {
    "empty": block(),
    "full": np.ones(SHAPE, bool),
    "one voxel": block((3, 2, 2)),
    "corner voxel": block((0, 0, 0)),
    "touching": block(np.s_[1:3, 1:3, 1:3], np.s_[3:5, 1:3, 1:3]),
    "diagonal": block((1, 1, 1), (2, 2, 2), (4, 4, 4)),
    "apart": block(np.s_[0:2, 0:2, 0:2], np.s_[5:7, 3:6, 2:5], (0, 5, 4)),
}
noise = hnp.arrays(np.bool_, SHAPE, elements=st.sampled_from([False, False, False, True]))
pairs = [pytest.param(ODD[a], ODD[b], id=f"{a}-{b}") for a, b in product(ODD, ODD)]


def volume(data, spacing=SPACINGS[0]):
    return Volume(np.asarray(data), Grid(np.shape(data), np.diag([*spacing, 1.0])))


def image(data, spacing=SPACINGS[0]):
    made = sitk.GetImageFromArray(np.ascontiguousarray(data.astype(np.uint8).T))
    made.SetSpacing(spacing)
    return made


def check_voxels(reference, prediction, spacing):
    scores = score(volume(prediction, spacing), volume(reference, spacing)).scores
    truth, found = reference.ravel(), prediction.ravel()
    oracles = {
        "dice": metrics.f1_score(truth, found, zero_division=np.nan),
        "precision": metrics.precision_score(truth, found, zero_division=np.nan),
        "sensitivity": metrics.recall_score(truth, found, zero_division=np.nan),
        "specificity": metrics.recall_score(~truth, ~found, zero_division=np.nan),
        "accuracy": metrics.accuracy_score(truth, found),
    }
    for name, expected in oracles.items():
        assert scores[name].value == pytest.approx(expected, abs=CLOSE, nan_ok=True), name
        assert scores[name].defined == (not math.isnan(expected)), name
    if truth.any() or found.any():
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(image(prediction), image(reference))
        assert scores["dice"].value == pytest.approx(overlap.GetDiceCoefficient(), abs=CLOSE)
        assert scores["iou"].value == pytest.approx(overlap.GetJaccardCoefficient(), abs=CLOSE)


def check_surfaces(reference, prediction, spacing):
    """Voxels with a face neighbour outside, all pairs of them."""
    distances = surface_distances(
        volume(reference, spacing), volume(prediction, spacing), kind="voxels"
    )
    edges = []
    for mask in (reference, prediction):
        inner = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1))
        edges.append(np.argwhere(mask & ~inner) * spacing)
    if not (reference.any() and prediction.any()):
        assert not hausdorff(distances).defined
        return
    apart = cdist(*edges)
    directed = apart.min(axis=1), apart.min(axis=0)
    for percentile in (95, 100):
        expected = max(float(np.percentile(d, percentile)) for d in directed)
        assert hausdorff(distances, percentile).value == pytest.approx(expected, abs=CLOSE)


def slow_lesions(mask):
    """Sets of voxels that hang together by faces, edges or corners, by flooding."""
    left = {tuple(v) for v in np.argwhere(mask).tolist()}
    lesions = []
    while left:
        lesion, border = set(), [left.pop()]
        while border:
            voxel = border.pop()
            lesion.add(voxel)
            near = {tuple(a + d for a, d in zip(voxel, step, strict=True))
                    for step in product((-1, 0, 1), repeat=3)}  # fmt: skip
            border += near & left
            left -= near
        lesions.append(lesion)
    return lesions


def check_lesions(reference, prediction, spacing):
    got = {
        name: s.value
        for name, s in score(volume(prediction, spacing), volume(reference, spacing)).scores.items()
    }
    truth, found = slow_lesions(reference), slow_lesions(prediction)
    hit = [r for r in truth if any(r & p for p in found)]
    wrong = [p for p in found if not any(r & p for r in truth)]
    dice = []
    for r in hit:
        partners = [p for p in found if r & p]
        union = set().union(*partners)
        dice.append(2 * len(r & union) / (len(r) + len(union)))
    expected = {
        "reference_lesions": len(truth),
        "predicted_lesions": len(found),
        "false_positives": len(wrong),
        "lesion_sensitivity": len(hit) / len(truth) if truth else math.nan,
        "lesion_precision": 1 - len(wrong) / len(found) if found else math.nan,
        "matched_lesion_dice": sum(dice) / len(dice) if dice else math.nan,
        "merging_predictions": sum(sum(bool(r & p) for r in truth) > 1 for p in found),
        "split_lesions": sum(sum(bool(r & p) for p in found) > 1 for r in truth),
    }
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=CLOSE, nan_ok=True), name


CHECKS = [check_voxels, check_surfaces, check_lesions]


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize(("reference", "prediction"), pairs)
def test_odd_masks_have_the_scores_of_others(reference, prediction, spacing):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one class alone
        for check in CHECKS:
            check(reference, prediction, spacing)


@settings(max_examples=25, deadline=None)
@given(noise, noise, st.sampled_from(SPACINGS), st.sampled_from(CHECKS))
def test_noise_has_the_scores_of_others(reference, prediction, spacing, check):
    check(reference, prediction, spacing)


@pytest.mark.parametrize("name", ODD)
def test_areas_under_curves_of_odd_references_are_scikit_learns(name):
    reference = ODD[name]
    codes = np.random.default_rng(4).integers(0, 40, SHAPE)
    probability = (codes / 65535 * 1000).astype(np.float32)
    scores = curve_scores(volume(reference), volume(probability))
    if reference.all() or not reference.any():
        assert not any(s.defined for s in scores.values())
        return
    truth, values = reference.ravel(), probability.ravel()
    assert scores["roc_auc"].value == pytest.approx(metrics.roc_auc_score(truth, values), abs=CLOSE)
    expected = metrics.average_precision_score(truth, values)
    assert scores["pr_auc"].value == pytest.approx(expected, abs=CLOSE)
