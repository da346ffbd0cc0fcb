"""Matching rules against slow references, and what must hold of any pairing."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from brainmets.errors import ConfigError, GridMismatchError
from brainmets.evaluation.lesionwise import lesion_scores
from brainmets.evaluation.matching import (
    AGREEMENTS,
    RULES,
    AnyOverlap,
    CentroidWithin,
    IouAtLeast,
    OneToOne,
    in_words,
    iou,
    look_at,
    merges_and_splits,
    pair_up,
    panoptic_scores,
    rule_named,
)
from brainmets.lesions import components
from brainmets.volume import Grid, Volume

SHAPE = (6, 4, 3)
labels = hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 5))
sparse = hnp.arrays(np.bool_, SHAPE, elements=st.sampled_from([False] * 4 + [True]))
rules = st.sampled_from(
    [
        AnyOverlap(),
        IouAtLeast(0.2),
        IouAtLeast(0.6),
        OneToOne(),
        OneToOne("iou", 0.1),
        CentroidWithin(2.0),
    ]
)
quick = settings(max_examples=15, deadline=None)  # each lesion is measured, which takes longest


def volume(data, spacing=(1.0, 1.0, 1.0)):
    return Volume(np.asarray(data), Grid(np.shape(data), np.diag([*spacing, 1.0])))


def line(*runs):
    """A label image with runs of voxels along its first axis, numbered."""
    data = np.zeros((30, 3, 3), np.int32)
    for number, (start, stop) in enumerate(runs, start=1):
        data[start:stop, 1, 1] = number
    return volume(data)


def paired(reference, prediction, rule):
    return pair_up(look_at(reference, prediction), rule)


def keys(pairing):
    return [(p.reference_label, p.prediction_label) for p in pairing.pairs]


def values(scores):
    return {name: s.value for name, s in scores.items()}


# Rules


@quick
@given(labels, labels)
def test_any_overlap_pairs_are_those_that_share_a_voxel(reference, prediction):
    expected = [
        (a, b)
        for a in range(1, 6)
        for b in range(1, 6)
        if ((reference == a) & (prediction == b)).any()
    ]
    assert keys(paired(volume(reference), volume(prediction), AnyOverlap())) == expected


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("any-overlap", AnyOverlap()),
        ("iou", IouAtLeast(0.1)),
        ("iou:0.5", IouAtLeast(0.5)),
        ("one-to-one:0.2", OneToOne("dice", 0.2)),
        ("centroid:2", CentroidWithin(2.0)),
    ],
)
def test_rules_have_names_and_numbers(text, rule):
    assert rule_named(text) == rule
    assert in_words(rule).startswith(text.partition(":")[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("overlap", "expected one of any-overlap, iou"),
        ("any-overlap:2", "takes no number"),
        ("iou:half", "'half' is not a number"),
        ("iou:1.5", "least is 1.5"),
        ("centroid:-1", "distance_mm is -1"),
        ("centroid:nan", "distance_mm is nan"),
    ],
)
def test_a_rule_that_is_none_is_refused_with_what_there_is(text, message):
    with pytest.raises(ConfigError, match=message):
        rule_named(text)


@quick
@given(labels, labels, st.sampled_from([0.05, 0.3, 0.5, 0.9]))
def test_iou_pairs_are_those_that_a_look_at_every_pair_gives(reference, prediction, least):
    expected = []
    for a in range(1, 6):
        for b in range(1, 6):
            one, other = reference == a, prediction == b
            if (one | other).any() and (one & other).sum() / (one | other).sum() >= least:
                expected.append((a, b))
    assert keys(paired(volume(reference), volume(prediction), IouAtLeast(least))) == expected


@quick
@given(
    hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 4)),
    hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 4)),
    st.sampled_from(list(AGREEMENTS)),
)
def test_one_to_one_is_the_best_of_all_assignments(reference, prediction, agreement):
    found = look_at(volume(reference), volume(prediction))
    worth = {
        (o.reference_label, o.prediction_label): AGREEMENTS[agreement](o) for o in found.overlaps
    }
    best = max(
        sum(worth.get((a, b), 0) for a, b in enumerate(order, start=1))
        for order in permutations(range(1, 5))
    )
    got = pair_up(found, OneToOne(agreement))
    assert sum(worth[key] for key in keys(got)) == pytest.approx(best)


def greedy(overlaps, measured):
    chosen, used = [], (set(), set())
    for pair in sorted(overlaps, key=measured, reverse=True):
        if pair.reference_label not in used[0] and pair.prediction_label not in used[1]:
            chosen.append(pair)
            used[0].add(pair.reference_label)
            used[1].add(pair.prediction_label)
    return chosen


@quick
@given(labels, labels)
def test_one_to_one_uses_each_lesion_once_and_is_never_worse_than_greedy(reference, prediction):
    found = look_at(volume(reference), volume(prediction))
    pairs = OneToOne("iou").pairs(found)
    assert len({p.reference_label for p in pairs}) == len(pairs)
    assert len({p.prediction_label for p in pairs}) == len(pairs)
    assert sum(map(iou, pairs)) >= sum(map(iou, greedy(found.overlaps, iou))) - 1e-12


def test_one_to_one_gives_each_lesion_its_own_partner():
    reference, prediction = line((0, 10), (12, 16)), line((1, 6), (6, 16))
    assert keys(paired(reference, prediction, OneToOne())) == [(1, 1), (2, 2)]
    assert keys(paired(reference, prediction, AnyOverlap())) == [(1, 1), (1, 2), (2, 2)]


def slow_centroid_pairs(found, distance):
    """Number of pairs and summed distance of the best pairing, over all of them."""
    apart = {
        (i, j): np.linalg.norm(np.subtract(r.centroid_ras_mm, p.centroid_ras_mm))
        for i, r in enumerate(found.reference)
        for j, p in enumerate(found.prediction)
    }
    n, m = len(found.reference), len(found.prediction)
    best = (0, 0.0)
    for order in permutations(range(max(n, m)), n):
        near = [apart[i, j] for i, j in enumerate(order) if j < m and apart[i, j] <= distance]
        best = min(best, (-len(near), sum(near)))
    return -best[0], best[1]


@quick
@given(
    hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 4)),
    hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 4)),
    st.sampled_from([0.4, 1.0, 2.5]),
)
def test_centroids_are_paired_as_many_and_as_near_as_can_be(reference, prediction, distance):
    spacing = (0.5, 1.0, 3.0)
    found = look_at(volume(reference, spacing), volume(prediction, spacing))
    pairs = CentroidWithin(distance).pairs(found)
    where = [{x.label: x.centroid_ras_mm for x in s} for s in (found.reference, found.prediction)]
    total = sum(
        np.linalg.norm(np.subtract(where[0][p.reference_label], where[1][p.prediction_label]))
        for p in pairs
    )
    number, least = slow_centroid_pairs(found, distance)
    assert len(pairs) == number
    assert total == pytest.approx(least)


def test_near_centroids_match_without_a_shared_voxel_and_in_millimetres():
    reference, prediction = line((2, 5)), line((5, 8))
    assert keys(paired(reference, prediction, CentroidWithin(3.0))) == [(1, 1)]
    assert keys(paired(reference, prediction, CentroidWithin(2.9))) == []
    got = paired(reference, prediction, CentroidWithin(3.0))
    assert got.match.reference[0].matched
    assert got.match.reference[0].dice.value == 0
    assert (got.pairs[0].reference_vox, got.pairs[0].prediction_vox) == (3, 3)
    wide = [volume(v.data, (2.0, 1.0, 1.0)) for v in (reference, prediction)]
    assert keys(paired(*wide, CentroidWithin(5.9))) == []


@quick
@given(labels, labels, rules, st.permutations(range(1, 6)), st.permutations(range(1, 6)))
def test_other_numbers_for_the_same_lesions_change_no_score(reference, prediction, rule, p, q):
    one = paired(volume(reference), volume(prediction), rule)
    renamed = [np.array([0, *order], np.int32)[x] for order, x in ((p, reference), (q, prediction))]
    other = paired(*map(volume, renamed), rule)
    if not isinstance(rule, OneToOne):
        assert len(one.pairs) == len(other.pairs)
    if isinstance(rule, AnyOverlap | IouAtLeast):
        a, b = (values(lesion_scores(pairing.match)) for pairing in (one, other))
        assert a == pytest.approx(b, nan_ok=True)
    elif isinstance(rule, OneToOne):  # equally good assignments may pair other lesions
        total = [sum(AGREEMENTS[rule.agreement](o) for o in x.pairs) for x in (one, other)]
        assert total[0] == pytest.approx(total[1])


@quick
@given(sparse, rules)
def test_a_mask_paired_with_itself_is_perfect(mask, rule):
    lesions = components(volume(mask))
    got = paired(lesions, lesions, rule)
    assert all(lesion.matched for lesion in (*got.match.reference, *got.match.prediction))
    if isinstance(rule, CentroidWithin):
        return  # two lesions may have the same centroid
    assert keys(got) == [(i, i) for i in range(1, lesions.data.max() + 1)]
    quality = panoptic_scores(got).values()
    if mask.any():
        assert [score.value for score in quality] == [1, 1, 1]
    else:
        assert not any(score.defined for score in quality)


def test_unknown_options_are_refused():
    for attempt in (
        lambda: IouAtLeast(0),
        lambda: IouAtLeast(float("nan")),
        lambda: OneToOne("hausdorff"),
        lambda: OneToOne(least=2),
        lambda: CentroidWithin(-1),
    ):
        with pytest.raises(ConfigError):
            attempt()
    assert {type(make()) for make in RULES.values()} == {
        AnyOverlap,
        IouAtLeast,
        OneToOne,
        CentroidWithin,
    }


def test_lesions_on_different_grids_are_not_paired():
    with pytest.raises(GridMismatchError):
        look_at(line((1, 2)), volume(line((1, 2)).data, (1, 1, 2)))


# What follows


def test_one_to_one_beats_greedy_where_greedy_is_short_sighted():
    # 2–1 shares most (Dice 10/13), but then 1 and 2 have no partner left.
    reference, prediction = line((0, 4), (4, 10)), line((2, 9), (9, 11))
    found = look_at(reference, prediction)
    assert len(greedy(found.overlaps, iou)) == 1
    assert keys(pair_up(found, OneToOne("iou"))) == [(2, 1)]
    tight = look_at(line((0, 7), (7, 11)), line((4, 10), (10, 12)))
    assert keys(pair_up(tight, OneToOne("iou"))) == [(1, 1), (2, 2)]


def test_merged_and_split_lesions_are_named():
    found = look_at(line((2, 5), (7, 10), (12, 20)), line((3, 9), (12, 14), (16, 19), (25, 26)))
    got = merges_and_splits(found.overlaps)
    assert got.merged == {1: (1, 2)}
    assert got.split == {3: (2, 3)}
    assert merges_and_splits(look_at(line(), line((1, 3))).overlaps).split == {}


def test_panoptic_quality_by_hand():
    # Pairs: 4 of 6 shared (IoU 4/6, Dice 8/10) and 2 of 2; one missed, two false positives.
    reference = line((0, 5), (10, 12), (20, 22))
    prediction = line((1, 6), (10, 12), (25, 26), (28, 29))
    got = values(panoptic_scores(paired(reference, prediction, OneToOne())))
    assert got["recognition_quality"] == pytest.approx(2 / (2 + 2 / 2 + 1 / 2))
    assert got["segmentation_quality"] == pytest.approx((4 / 6 + 1) / 2)
    assert got["panoptic_quality"] == pytest.approx((4 / 6 + 1) / 3.5)
    by_dice = values(panoptic_scores(paired(reference, prediction, OneToOne()), "dice"))
    assert by_dice["segmentation_quality"] == pytest.approx(0.9)


def test_panoptic_quality_where_one_side_or_both_are_empty():
    missed = panoptic_scores(paired(line((1, 3)), line(), OneToOne()))
    assert missed["recognition_quality"].value == missed["panoptic_quality"].value == 0
    assert missed["segmentation_quality"].reason == "no lesion was found"
    nothing = panoptic_scores(paired(line(), line(), OneToOne()))
    assert not any(score.defined for score in nothing.values())


def test_panoptic_quality_refuses_several_partners():
    with pytest.raises(ConfigError, match="one-to-one"):
        panoptic_scores(paired(line((0, 10)), line((0, 4), (6, 10)), AnyOverlap()))
