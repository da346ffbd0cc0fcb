"""Scores over many cases: slow sums, scipy's bootstrap, and draws that are repetitions."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from brainmets.evaluation.case import score
from brainmets.evaluation.froc import (
    Candidate,
    ScanCandidates,
    area,
    free_response_auc,
    froc,
    operating_point,
)
from brainmets.evaluation.froc_intervals import free_response_auc_of, froc_summary, resampled
from brainmets.evaluation.lesionwise import SIZE_BINS, detection_scores
from brainmets.evaluation.matching import OneToOne, Pairing, panoptic_scores
from brainmets.evaluation.patientwise import (
    Patient,
    any_metastasis,
    burden_agreement,
    count_agreement,
    statistics_of,
)
from brainmets.evaluation.pooled import POOLED, pooled_scores, scores_by_size, tally
from brainmets.evaluation.statistics import draw
from brainmets.volume import Grid, Volume

SHAPE = (6, 5, 4)
sparse = hnp.arrays(np.bool_, SHAPE, elements=st.sampled_from([False] * 7 + [True]))
quick = settings(max_examples=15, deadline=None)


def volume(data):
    return Volume(np.asarray(data), Grid(np.shape(data), np.diag([1.5, 1.0, 2.0, 1.0])))


def cases_of(pairs):
    return [score(volume(p), volume(r), case_id=str(i)) for i, (r, p) in enumerate(pairs)]


@quick
@given(st.lists(st.tuples(sparse, sparse), min_size=1, max_size=3))
def test_pooled_scores_are_those_of_all_lesions_in_one_list(pairs):
    cases = cases_of(pairs)
    every, by_size = pooled_scores(cases, range(len(cases)), draw(len(cases), rng(), 20))
    reference = list(chain.from_iterable(case.lesions.reference for case in cases))
    prediction = list(chain.from_iterable(case.lesions.prediction for case in cases))
    for name, expected in detection_scores(reference, prediction).items():
        assert every[name]["value"] == pytest.approx(expected.value, nan_ok=True)
        assert (every[name]["reason"] is None) == expected.defined
    for name in SIZE_BINS:
        inside = [r for r in reference if r.size_bin == name]
        assert by_size[name]["found"] == sum(r.matched for r in inside)
        assert by_size[name]["reference_lesions"] == len(inside)
    extra = sum(not p.matched for p in prediction)
    assert every["false_positives_per_scan"]["value"] == extra / len(cases)


@quick
@given(sparse, sparse)
def test_pooled_panoptic_quality_of_one_case_is_the_cases_own(reference, prediction):
    (case,) = cases_of([(reference, prediction)])
    every, _ = pooled_scores([case], [0], draw(1, rng(), 5))
    own = case.scores["one_to_one_panoptic_quality"]
    got = every["one_to_one_panoptic_quality"]
    assert got["value"] == pytest.approx(own.value, nan_ok=True)
    assert (got["reason"] is None) == own.defined
    assert got["interval"]["reason"] == "fewer than two patients"


def test_sizes_are_those_of_the_reference_and_of_the_false_positive():
    grid = Grid((30, 3, 3), np.diag([3.0, 3.0, 3.0, 1.0]))  # a voxel is 27 mm³: 3.7 mm; 4: 5.9 mm
    reference, prediction = np.zeros((2, *grid.shape), bool)
    for start, stop in ((0, 4), (10, 11), (20, 24)):
        reference[start:stop, 1, 1] = True
    for start, stop in ((0, 3), (14, 15), (20, 24)):
        prediction[start:stop, 1, 1] = True
    got = scores_by_size(score(Volume(prediction, grid), Volume(reference, grid)))
    assert got["4–6 mm"]["lesion_sensitivity"].value == 1
    assert got["4–6 mm"]["matched_lesion_dice"].value == pytest.approx((6 / 7 + 1) / 2)
    assert got["4–6 mm"]["one_to_one_panoptic_quality"].value == pytest.approx((3 / 4 + 1) / 2)
    assert got["3–4 mm"]["lesion_sensitivity"].value == 0
    assert got["3–4 mm"]["false_positives_per_scan"].value == 1
    assert got["3–4 mm"]["one_to_one_panoptic_quality"].value == 0
    assert got["≥ 10 mm"]["lesion_f1"].reason == "neither reference nor prediction has a lesion"
    assert sum(s["reference_lesions"].value for s in got.values()) == 3


def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("name", ["lesion_sensitivity", "lesion_f1", "matched_lesion_dice"])
def test_intervals_of_pooled_scores_are_scipys(name):
    """Patients are drawn, each with all lesions of all scans; the ratio is of sums."""
    source = np.random.default_rng(2)
    pairs = [(source.random(SHAPE) > 0.85, source.random(SHAPE) > 0.85) for _ in range(14)]
    cases, owner = cases_of(pairs), [i // 2 for i in range(14)]
    every, _ = pooled_scores(cases, owner, draw(7, rng(), 999))
    sums = np.zeros((7, 9))
    for number, case in zip(owner, cases, strict=True):
        sums[number] += tally(case)
    statistic, _ = POOLED[name]

    def plain(index):
        total = sums[np.asarray(index, int)].sum(axis=0)
        return float(statistic(type(tally(cases[0]))(*total)))

    oracle = stats.bootstrap(
        (np.arange(7),), plain, n_resamples=999, vectorized=False, rng=rng()
    ).confidence_interval
    got = every[name]["interval"]
    assert (got["low"], got["high"]) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    assert (got["method"], got["patients"]) == ("BCa", 7)


# Free-response curves

scores = st.sampled_from([0.1, 0.2, 0.35, 0.5, 0.8, 0.99])


@st.composite
def scans(draw_):
    number = draw_(st.integers(0, 3))
    hits = st.frozensets(st.integers(1, number), max_size=2) if number else st.just(frozenset())
    found = draw_(st.lists(st.builds(Candidate, scores, hits), max_size=5))
    return ScanCandidates(tuple(found), number)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(scans(), st.integers(0, 1), st.integers(0, 2)), min_size=2, max_size=5))
def test_a_draw_of_patients_gives_the_curve_of_their_repeated_scans(rows):
    group, owner = [row[0] for row in rows], [row[1] for row in rows]
    times = np.array([rows[0][2], rows[1][2]], float)
    repeated = [
        scan for scan, who in zip(group, owner, strict=True) for _ in range(int(times[who]))
    ]
    at = np.array([0.0, 0.3, 1.0, 2.5])
    (got,) = resampled(group, owner, times[None], at)
    if not sum(scan.lesions for scan in repeated):
        assert np.isnan(got).all()
        return
    curve = froc(repeated)
    assert got == pytest.approx([operating_point(curve, x).sensitivity.value for x in at])
    pairs = free_response_auc_of(group, owner, 2)(times)
    assert pairs == pytest.approx(free_response_auc(repeated).value)


def test_the_summary_of_a_curve_holds_what_the_curve_gives():
    source = np.random.default_rng(3)
    group = [
        ScanCandidates(
            (
                *(Candidate(s) for s in source.random(4)),
                *(Candidate(s, frozenset({i})) for i, s in enumerate(source.random(3))),
            ),
            4,
        )
        for _ in range(12)
    ]
    got = froc_summary(group, range(12), draw(12, rng(), 500), (0.5, 1.0, 2.0))
    curve = froc(group)
    assert (got["scans"], got["lesions"]) == (12, 48)
    for point in got["operating_points"]:
        expected = operating_point(curve, point["allowed"])
        assert point["sensitivity"]["value"] == expected.sensitivity.value
        assert point["threshold"] == expected.threshold
        bounds = point["sensitivity"]["interval"]
        assert bounds["low"] <= expected.sensitivity.value <= bounds["high"]
    assert got["area_to_2"]["value"] == area(curve, 2).value
    bounds = got["area_to_2"]["interval"]
    assert bounds["low"] < got["area_to_2"]["value"] < bounds["high"]
    assert got["free_response_auc"]["interval"]["method"] == "BCa"
    drawn = got["curve"]
    assert len(drawn["sensitivity"]) == len(drawn["low"]) == len(drawn["high"]) == 17


# Patients


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 3), st.integers(0, 50), st.integers(0, 50),
            st.integers(0, 2),
        ),
        min_size=3,
        max_size=6,
    ).filter(lambda rows: sum(row[-1] for row in rows) >= 2)
)  # fmt: skip
def test_weights_of_patients_are_repetitions(rows):
    patients = [Patient(str(i), *map(float, row[:4])) for i, row in enumerate(rows)]
    times = np.array([row[-1] for row in rows], float)
    repeated = [p for p, n in zip(patients, times.astype(int), strict=True) for _ in range(n)]
    expected = {
        **any_metastasis(repeated),
        **count_agreement(repeated),
        **burden_agreement(repeated),
    }
    functions = statistics_of(patients)
    assert list(functions) == list(expected)
    for name, function in functions.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            got = float(function(times))
        if expected[name].defined and not (name.endswith("icc") and abs(got) > 1e6):
            assert got == pytest.approx(expected[name].value, abs=1e-6), name


def test_one_to_one_is_what_panoptic_quality_rests_on():
    reference, prediction = np.zeros((2, *SHAPE), bool)
    reference[0:2], prediction[1:4] = True, True
    (case,) = cases_of([(reference, prediction)])
    alone = panoptic_scores(Pairing(case.pairs, case.lesions))
    assert case.scores["one_to_one_panoptic_quality"] == alone["panoptic_quality"]
    assert OneToOne().least > 0
