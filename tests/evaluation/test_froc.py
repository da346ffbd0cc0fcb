"""Free-response curves against a look at every threshold, and MONAI's."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainmets.errors import ConfigError
from brainmets.evaluation.froc import (
    Candidate,
    ScanCandidates,
    area,
    free_response_auc,
    froc,
    mean_sensitivity,
    operating_point,
    scan_candidates,
)
from brainmets.volume import Grid, Volume

quick = settings(max_examples=60, deadline=None)
scores = st.sampled_from([0.1, 0.2, 0.35, 0.5, 0.8, 0.99])


@st.composite
def scans(draw, most=4):
    number = draw(st.integers(0, 3))
    hits = st.frozensets(st.integers(1, number), max_size=2) if number else st.just(frozenset())
    found = draw(st.lists(st.builds(Candidate, scores, hits), max_size=6))
    return ScanCandidates(tuple(found), number)


groups = st.lists(scans(), min_size=1, max_size=4)


def slow_point(group, threshold):
    """False positives per scan and sensitivity at one threshold, by counting."""
    wrong, hit = 0, 0
    for scan in group:
        admitted = [c for c in scan.candidates if c.score >= threshold]
        wrong += sum(not c.hits for c in admitted)
        hit += len({lesion for c in admitted for lesion in c.hits})
    lesions = sum(scan.lesions for scan in group)
    return wrong / len(group), hit / lesions if lesions else math.nan


@quick
@given(groups)
def test_the_curve_is_what_counting_at_every_threshold_gives(group):
    curve = froc(group)
    for t, fp, sensitivity in zip(
        curve.thresholds, curve.false_positives, curve.sensitivity, strict=True
    ):
        assert (fp, sensitivity) == pytest.approx(slow_point(group, t), nan_ok=True)
    assert (np.diff(curve.thresholds) < 0).all()
    assert (np.diff(curve.false_positives) >= 0).all()
    announced = {c.score for s in group for c in s.candidates}
    assert slow_point(group, min(announced, default=1)) == pytest.approx(
        (curve.false_positives[-1], curve.sensitivity[-1]), nan_ok=True
    )


@quick
@given(groups, st.sampled_from([0, 0.25, 0.5, 1, 2, 8]))
def test_an_operating_point_is_the_best_threshold_that_keeps_to_it(group, allowed):
    got = operating_point(froc(group), allowed)
    points = [slow_point(group, t) for t in (0.0, 0.1, 0.2, 0.35, 0.5, 0.8, 0.99, math.inf)]
    if not sum(scan.lesions for scan in group):
        assert got.sensitivity.reason == "no scan has a lesion"
        return
    best = max(s for fp, s in points if fp <= allowed)
    assert got.sensitivity.value == pytest.approx(best)
    assert got.false_positives == min(fp for fp, s in points if s == best)
    assert slow_point(group, got.threshold) == (got.false_positives, got.sensitivity.value)


@quick
@given(groups, st.sampled_from([0.3, 1.0, 5.0]))
def test_the_area_is_the_mean_of_operating_points(group, limit):
    curve = froc(group)
    steps = 20_000
    middles = (np.arange(steps) + 0.5) / steps * limit
    at = np.searchsorted(curve.false_positives, middles, side="right") - 1
    got = area(curve, limit)
    if curve.lesions:
        assert got.value == pytest.approx(curve.sensitivity[at].mean(), abs=1e-3)
    else:
        assert not got.defined


@quick
@given(groups)
def test_the_free_response_auc_is_the_share_of_pairs_that_are_ordered(group):
    wins, pairs = 0.0, 0
    noise = [max((c.score for c in s.candidates if not c.hits), default=-1) for s in group]
    for scan in group:
        for lesion in range(1, scan.lesions + 1):
            best = max((c.score for c in scan.candidates if lesion in c.hits), default=-1)
            for other in noise:
                wins += 1.0 if best > other else 0.5 if best == other else 0.0
                pairs += 1
    got = free_response_auc(group)
    assert got.value == pytest.approx(wins / pairs if pairs else math.nan, nan_ok=True)


@quick
@given(groups)
def test_only_the_order_of_scores_counts(group):
    moved = [
        ScanCandidates(tuple(Candidate(c.score**3 / 2, c.hits) for c in s.candidates), s.lesions)
        for s in group
    ]
    one, other = froc(group), froc(moved)
    assert np.array_equal(one.false_positives, other.false_positives)
    assert np.array_equal(one.sensitivity, other.sensitivity, equal_nan=True)
    for figure in (lambda g: area(froc(g)), free_response_auc, lambda g: mean_sensitivity(froc(g))):
        assert figure(group).value == pytest.approx(figure(moved).value, nan_ok=True)


def test_a_perfect_a_blind_and_a_silent_model():
    lesions = tuple(Candidate(0.9, frozenset({n})) for n in (1, 2))
    perfect = [ScanCandidates((*lesions, Candidate(0.1)), 2), ScanCandidates((), 0)]
    assert free_response_auc(perfect).value == 1
    assert area(froc(perfect)).value == mean_sensitivity(froc(perfect)).value == 1
    assert operating_point(froc(perfect), 0).threshold == 0.9
    silent = [ScanCandidates((), 3)]
    assert free_response_auc(silent).value == 0.5
    assert area(froc(silent)).value == 0
    assert operating_point(froc(silent), 8).threshold == math.inf
    blind = [ScanCandidates((Candidate(0.9),), 3)]
    assert free_response_auc(blind).value == 0


def test_a_curve_by_hand():
    group = [
        ScanCandidates((Candidate(0.9, frozenset({1})), Candidate(0.6), Candidate(0.6)), 2),
        ScanCandidates((Candidate(0.7, frozenset({1, 2})), Candidate(0.8)), 2),
    ]
    curve = froc(group)
    assert curve.thresholds.tolist() == [math.inf, 0.9, 0.8, 0.7, 0.6]
    assert curve.false_positives.tolist() == [0, 0, 0.5, 0.5, 1.5]
    assert curve.sensitivity.tolist() == [0, 0.25, 0.25, 0.75, 0.75]
    assert operating_point(curve, 1).sensitivity.value == 0.75
    assert operating_point(curve, 0.4).sensitivity.value == 0.25
    assert area(curve, 1.0).value == pytest.approx(0.5 * 0.25 + 0.5 * 0.75)
    assert mean_sensitivity(curve, (0.25, 0.5)).value == pytest.approx(0.5)


def test_impossible_candidates_and_limits_are_refused():
    good = froc([ScanCandidates((), 1)])
    for attempt in (
        lambda: ScanCandidates((Candidate(math.nan),), 1),
        lambda: ScanCandidates((Candidate(0.5, frozenset({1, 2})),), 1),
        lambda: froc([]),
        lambda: operating_point(good, -1),
        lambda: area(good, 0),
    ):
        with pytest.raises(ConfigError):
            attempt()
    assert not mean_sensitivity(froc([ScanCandidates((), 0)])).defined


def test_candidates_come_from_label_images_with_their_largest_probability():
    grid = Grid((8, 3, 3), np.eye(4))
    reference, prediction = np.zeros((2, *grid.shape), np.int32)
    reference[0:2], reference[3:5], reference[7] = 4, 2, 9
    prediction[1:4], prediction[6] = 1, 2
    probability = np.linspace(0, 1, 8, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), "f4")
    got = scan_candidates(*(Volume(v, grid) for v in (reference, prediction, probability)))
    assert got.lesions == 3
    assert [c.hits for c in got.candidates] == [{4, 2}, set()]
    assert [c.score for c in got.candidates] == pytest.approx([3 / 7, 6 / 7])


@pytest.mark.slow  # importing MONAI takes longer than all tests here
def test_curve_and_score_are_monais():
    """MONAI leaves out the lowest threshold and draws lines; both are allowed for."""
    from monai.metrics import compute_froc_curve_data, compute_froc_score

    rng = np.random.default_rng(5)
    for scans_, lesions in product((1, 7), (4, 30)):
        right, wrong = rng.random(lesions - 1), rng.random(3 * scans_)
        group = [ScanCandidates(tuple(map(Candidate, w)), 0) for w in wrong.reshape(scans_, 3)]
        hits = tuple(Candidate(s, frozenset({i})) for i, s in enumerate(right))
        group[0] = ScanCandidates((*group[0].candidates, *hits), lesions)
        curve = froc(group)
        lowest = np.array([-1.0])  # a threshold that MONAI may leave out
        fp, sensitivity = compute_froc_curve_data(
            np.append(wrong, lowest), right, num_targets=lesions, num_images=scans_
        )
        assert curve.false_positives[::-1] == pytest.approx(fp)
        assert curve.sensitivity[::-1] == pytest.approx(sensitivity)
        # At counts that the curve has, a line between points is a point.
        at = np.unique(curve.false_positives)
        best = [operating_point(curve, x).sensitivity.value for x in at]
        keep = np.append(np.diff(curve.false_positives) > 0, [True])  # the last of each count
        score = compute_froc_score(
            curve.false_positives[keep][::-1], curve.sensitivity[keep][::-1], tuple(at)
        )
        assert np.mean(best) == pytest.approx(score)
