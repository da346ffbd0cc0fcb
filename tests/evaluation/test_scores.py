"""Voxel and lesion scores against other people's code, slow references and odd masks."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn import metrics

from brainmets.errors import GridMismatchError
from brainmets.evaluation.case import score
from brainmets.evaluation.lesionwise import (
    SIZE_BINS,
    detection_scores,
    lesion_scores,
    overlaps,
    size_bin,
)
from brainmets.evaluation.matching import IouAtLeast, match
from brainmets.evaluation.voxel import Counts, count, target, voxel_scores
from brainmets.lesions import components
from brainmets.volume import Grid, Volume

SHAPE = (6, 5, 4)
masks = hnp.arrays(np.bool_, SHAPE)
sparse = hnp.arrays(np.bool_, SHAPE, elements=st.sampled_from([False] * 5 + [True]))
quick = settings(max_examples=50, deadline=None)


def volume(data, spacing=(1.0, 1.0, 1.0)):
    return Volume(np.asarray(data), Grid(np.shape(data), np.diag([*spacing, 1.0])))


def values(scores):
    return {name: s.value for name, s in scores.items()}


# Voxels


@quick
@given(masks, masks)
def test_voxel_scores_are_scikit_learns(reference, prediction):
    scores = voxel_scores(count(volume(reference), volume(prediction)))
    truth, found = reference.ravel(), prediction.ravel()
    oracle = {
        "dice": metrics.f1_score(truth, found, zero_division=np.nan),
        "iou": metrics.jaccard_score(truth, found, zero_division=0)
        if (truth | found).any()
        else np.nan,
        "precision": metrics.precision_score(truth, found, zero_division=np.nan),
        "sensitivity": metrics.recall_score(truth, found, zero_division=np.nan),
        "specificity": metrics.recall_score(~truth, ~found, zero_division=np.nan),
    }
    for name, value in oracle.items():
        assert scores[name].value == pytest.approx(value, nan_ok=True), name
        assert scores[name].defined == (not np.isnan(value))


@pytest.mark.slow  # importing MONAI takes longer than all tests here
def test_voxel_scores_are_monais():
    import torch
    from monai.metrics import ConfusionMatrixMetric, DiceMetric

    rng = np.random.default_rng(3)
    reference, prediction = rng.random((2, *SHAPE)) > 0.6
    scores = values(voxel_scores(count(volume(reference), volume(prediction))))
    pair = [torch.from_numpy(m[None, None].astype(np.float32)) for m in (prediction, reference)]
    assert scores["dice"] == pytest.approx(float(DiceMetric()(*pair)))
    names = ("precision", "sensitivity", "specificity", "threat score")
    metric = ConfusionMatrixMetric(metric_name=names)
    metric(*pair)
    for name, value in zip(
        ("precision", "sensitivity", "specificity", "iou"), metric.aggregate(), strict=True
    ):
        assert scores[name] == pytest.approx(float(value)), name


@quick
@given(masks, masks, masks)
def test_a_domain_leaves_out_what_lies_outside_it(reference, prediction, domain):
    counts = count(volume(reference), volume(prediction), domain=volume(domain))
    inside = [
        (r, p) for r, p, d in zip(reference.flat, prediction.flat, domain.flat, strict=True) if d
    ]
    expected = [
        inside.count(k) for k in ((True, True), (False, True), (True, False), (False, False))
    ]
    assert counts == Counts(*expected)


@pytest.mark.parametrize(
    ("reference", "prediction", "undefined"),
    [
        (0, 0, {"dice", "iou", "precision", "sensitivity"}),
        (1, 0, {"precision", "specificity"}),
        (0, 1, {"sensitivity"}),
        (1, 1, {"specificity"}),
    ],
)
def test_empty_and_full_masks_leave_scores_undefined_with_a_reason(
    reference, prediction, undefined
):
    pair = (volume(np.full(SHAPE, bool(m))) for m in (reference, prediction))
    scores = voxel_scores(count(*pair))
    assert {name for name, s in scores.items() if np.isnan(s.value)} == undefined
    assert {name for name, s in scores.items() if s.reason} == undefined


def test_masks_on_different_grids_are_not_compared():
    one, other = volume(np.ones(SHAPE)), volume(np.ones(SHAPE), (1, 1, 2))
    for attempt in (
        lambda: count(one, other),
        lambda: count(one, one, domain=other),
        lambda: match(volume(np.ones(SHAPE, int)), volume(np.ones(SHAPE, int), (1, 1, 2))),
        lambda: score(one, other),
    ):
        with pytest.raises(GridMismatchError):
            attempt()


# Lesions


def slow_detection(reference, prediction):
    """Found and total reference lesions, matched and total predictions, by scipy's labels."""
    cube = np.ones((3, 3, 3))
    truth, n = ndimage.label(reference, cube)
    found, m = ndimage.label(prediction, cube)
    hit = sum(prediction[truth == i + 1].any() for i in range(n))
    right = sum(reference[found == i + 1].any() for i in range(m))
    return hit, n, right, m


@quick
@given(sparse, sparse)
def test_detection_counts_equal_a_look_at_every_lesion(reference, prediction):
    hit, n, right, m = slow_detection(reference, prediction)
    got = values(
        lesion_scores(match(components(volume(reference)), components(volume(prediction))))
    )
    assert (got["reference_lesions"], got["predicted_lesions"]) == (n, m)
    assert got["false_positives"] == m - right
    assert got["lesion_sensitivity"] == pytest.approx(hit / n if n else np.nan, nan_ok=True)
    assert got["lesion_precision"] == pytest.approx(right / m if m else np.nan, nan_ok=True)
    if n and m:
        s, p = hit / n, right / m
        assert got["lesion_f1"] == pytest.approx(2 * s * p / (s + p) if s + p else 0)


@quick
@given(sparse, sparse)
def test_swapping_the_masks_swaps_sensitivity_and_precision(reference, prediction):
    there = score(volume(prediction), volume(reference))
    back = score(volume(reference), volume(prediction))
    one, other = values(there.scores), values(back.scores)
    for a, b in (
        ("dice", "dice"),
        ("sensitivity", "precision"),
        ("lesion_sensitivity", "lesion_precision"),
        ("lesion_f1", "lesion_f1"),
        ("reference_mm3", "predicted_mm3"),
    ):
        assert one[a] == pytest.approx(other[b], nan_ok=True)
    assert [r.partners for r in there.lesions.reference] == [
        p.partners for p in back.lesions.prediction
    ]


@quick
@given(sparse)
def test_a_mask_scored_against_itself_is_perfect(mask):
    result = score(volume(mask), volume(mask))
    expected = 1.0 if mask.any() else np.nan
    for name in (
        "dice",
        "iou",
        "lesion_sensitivity",
        "lesion_precision",
        "lesion_f1",
        "matched_lesion_dice",
    ):
        assert result.scores[name].value == pytest.approx(expected, nan_ok=True)


@quick
@given(
    hnp.arrays(np.int8, SHAPE, elements=st.integers(0, 3)),
    hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 3)),
)
def test_overlaps_count_the_shared_voxels_of_each_pair(reference, prediction):
    found = {(o.reference_label, o.prediction_label): o for o in overlaps(reference, prediction)}
    for a, b in product(range(1, 4), repeat=2):
        shared = int(((reference == a) & (prediction == b)).sum())
        assert ((a, b) in found) == (shared > 0)
        if shared:
            o = found[a, b]
            assert (o.shared_vox, o.reference_vox, o.prediction_vox) == (
                shared,
                (reference == a).sum(),
                (prediction == b).sum(),
            )
            assert o.dice == pytest.approx(
                2 * shared / ((reference == a).sum() + (prediction == b).sum())
            )


def line(*runs):
    """A mask with runs of voxels along its first axis."""
    data = np.zeros((20, 3, 3), bool)
    for start, stop in runs:
        data[start:stop, 1, 1] = True
    return volume(data)


def test_one_prediction_over_two_lesions_finds_both_and_is_right_once():
    found = match(components(line((2, 5), (8, 11))), components(line((3, 10))))
    assert [r.partners for r in found.reference] == [(1,), (1,)]
    assert found.prediction[0].partners == (1, 2)
    assert found.prediction[0].dice.value == pytest.approx(2 * 4 / (7 + 6))
    assert found.reference[0].dice.value == pytest.approx(2 * 2 / (3 + 7))
    assert values(lesion_scores(found))["lesion_f1"] == 1


def test_a_lesion_in_two_pieces_is_found_once_and_scored_against_both():
    found = match(components(line((2, 12))), components(line((2, 5), (8, 12), (15, 17))))
    assert found.reference[0].partners == (1, 2)
    assert found.reference[0].dice.value == pytest.approx(2 * 7 / (10 + 7))
    got = values(lesion_scores(found))
    assert (got["lesion_sensitivity"], got["false_positives"]) == (1, 1)
    assert got["lesion_precision"] == pytest.approx(2 / 3)
    assert found.prediction[2].dice.reason == "false positive"


def test_touching_without_sharing_a_voxel_is_no_match():
    found = match(components(line((2, 5))), components(line((5, 8))))
    assert not found.reference[0].matched
    assert found.reference[0].dice.reason == "missed"
    got = lesion_scores(found)
    assert (got["lesion_sensitivity"].value, got["lesion_f1"].value) == (0, 0)
    assert got["matched_lesion_dice"].reason == "no lesion was found"


def test_diagonal_voxels_are_one_lesion_and_a_gap_makes_two():
    data = np.zeros((5, 5, 5), bool)
    data[0, 0, 0] = data[1, 1, 1] = data[3, 3, 3] = True
    assert len(score(volume(data), volume(data)).lesions.reference) == 2


def test_lesions_of_the_files_labels_do_not_matter():
    data = np.zeros((8, 3, 3), np.int32)
    data[1:3], data[3:5] = 1, 2  # two labels, one component
    result = score(volume(data), volume(data > 0))
    assert len(result.lesions.prediction) == len(result.lesions.reference) == 1


def test_lesions_on_one_side_only_have_an_f1_of_zero_and_on_neither_none():
    some, none = line((2, 5)), line()
    assert score(some, none).scores["lesion_f1"].value == 0
    assert score(none, some).scores["lesion_f1"].value == 0
    assert score(none, some).scores["lesion_precision"].reason == "the prediction has no lesion"
    assert not score(none, none).scores["lesion_f1"].defined


def test_a_stricter_rule_can_be_given():
    truth, found = components(line((2, 12))), components(line((11, 16)))
    assert match(truth, found).reference[0].matched
    strict = match(truth, found, IouAtLeast(0.5))
    assert not strict.reference[0].matched
    assert not strict.prediction[0].matched


def test_sizes_are_binned_by_equivalent_diameter_with_the_lower_edge_inside():
    assert [size_bin(d) for d in (0.1, 2.999, 3, 4, 5.99, 6, 9.99, 10, 99)] == [
        SIZE_BINS[i] for i in (0, 0, 1, 2, 2, 3, 3, 4, 4)
    ]
    ball = (np.indices((15, 15, 15)) - 7.0) ** 2
    mask = volume(ball.sum(axis=0) <= 2.5**2)  # 81 voxels: 5.4 mm
    assert score(mask, mask).lesions.reference[0].size_bin == "4–6 mm"
    larger = volume(mask.data, (2.0, 2.0, 2.0))
    assert score(larger, larger).lesions.reference[0].size_bin == "≥ 10 mm"


def test_volumes_are_in_mm3_on_anisotropic_grids():
    data = np.zeros((4, 4, 4), np.int32)
    data[1, 1, 1:3] = 1
    result = score(volume(data, (0.5, 0.5, 5)), volume(np.zeros((4, 4, 4)), (0.5, 0.5, 5)))
    assert result.scores["predicted_mm3"].value == pytest.approx(2.5)
    assert result.scores["reference_mm3"].value == 0


def test_only_the_target_labels_of_the_reference_count():
    data = np.zeros((4, 4, 4), np.int32)
    data[0, 0, 0], data[1, 0, 0], data[2, 0, 0] = 1, 2, 3
    assert target(volume(data)).data.sum() == 3
    core = target(volume(data), (1, 3)).data
    assert core[0, 0, 0]
    assert core[2, 0, 0]
    assert core.sum() == 2
    result = score(volume(data > 2), volume(data), target_labels={3})
    assert result.scores["dice"].value == 1


def test_pooled_detection_is_over_lesions_not_over_scans():
    scans = [
        match(components(line((2, 4))), components(line((2, 4)))),
        match(components(line((1, 3), (5, 7), (9, 12))), components(line())),
    ]
    pooled = detection_scores(
        [r for s in scans for r in s.reference], [p for s in scans for p in s.prediction]
    )
    assert pooled["lesion_sensitivity"].value == 0.25
    assert pooled["lesion_precision"].value == 1
