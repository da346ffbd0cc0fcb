"""The detail network's word is added where it looked, and nowhere else."""

import itertools

import numpy as np
import pytest
from scipy.special import expit

from brainmets.errors import RunError
from brainmets.inference.details import (
    DOUBT,
    IMPOSSIBLE,
    LARGE_LOOKS,
    LARGE_ONES,
    LEAST,
    LOOKS,
    MAY_BE,
    NEARLY,
    SMALL_MM,
    Details,
    Judged,
    Pyramid,
    Seen,
    _log_odds,
    add,
    central,
    drop,
    judge,
    look_closely,
    pyramid_of,
)
from brainmets.network.bundle import MOST_LOOKS, SIDE
from brainmets.network.detail_engine import COUNT, DetailEngine
from bright_places import SHAPE, ball, noise, scan_of

BALLS = ((20, 30, 25), (3, 4, 45))
"""One of them in a corner of the brain."""


def network(log_odds=2.0, asked=None, veto=None, shift=0.0):
    """Calls bright places metastases, and outlines what is bright."""

    def see(patches, outlined):
        assert len(patches) == COUNT
        bright = patches[:, 0, 11:14, 11:14, 11:14].mean((1, 2, 3)) > 1
        if asked is not None:
            asked.append((bright.sum(), outlined))
        outlines = (patches[:, 0] > 1).astype(np.float32)
        return np.where(bright, log_odds, -9.0).astype(np.float32), outlines if outlined else None

    return DetailEngine(40, shift, see, veto)


def seen_in(prepared, detail):
    return look_closely(prepared, detail, pyramid_of(prepared))


def scan():
    image = noise()
    for centre in BALLS:
        image[ball(centre, 5)] += 2
    return scan_of(image)


@pytest.mark.parametrize("rings", [0, 5])
def test_a_ring_is_looked_at_in_its_middle_where_rings_are_asked_for(rings):
    image = noise()
    middle = (30, 28, 26)
    image[ball(middle, 13)] = 2
    image[ball(middle, 9)] = -1
    looked = []

    def see(patches, outlined):
        dark = patches[:, 0, 11:14, 11:14, 11:14].mean((1, 2, 3)) < -0.5
        looked.append(dark.any())
        outlines = np.ones_like(patches[:, 0])
        return np.where(dark, 3.0, -9.0).astype(np.float32), outlines if outlined else None

    seen = seen_in(scan_of(image), DetailEngine(40, 0.0, see, rings=rings))
    assert any(looked) == bool(seen) == bool(rings)


def test_the_larger_probability_counts_where_the_network_looked():
    prepared = scan()
    before = np.full(SHAPE, 0.1, np.float32)
    before[20, 30, 25] = 0.95
    details = seen_in(prepared, network())
    after = add(prepared.volume.with_data(before.copy()), details).data
    wanted = before.copy()
    for centre in BALLS:
        inside = ball(centre, 5) & prepared.brain.data & (prepared.volume.data > 1)
        wanted[inside] = np.maximum(wanted[inside], expit(2.0))
    np.testing.assert_allclose(after, wanted, atol=1e-6)
    again = add(prepared.volume.with_data(after.copy()), details).data
    assert np.array_equal(again, after)


def test_what_it_thinks_unlikely_is_not_outlined():
    asked = []
    assert seen_in(scan(), network(LEAST - 0.1, asked)) == ()
    assert not any(outlined for _, outlined in asked)


def test_a_scan_with_nothing_bright_needs_no_network():
    assert seen_in(scan_of(np.ones(SHAPE)), network()) == ()


def test_numbers_that_are_not_finite_are_an_error():
    broken = DetailEngine(40, 0.0, lambda patches, _: (np.full(len(patches), np.nan), None))
    with pytest.raises(RunError, match="not finite"):
        seen_in(scan(), broken)


def test_log_odds_of_bright_places_are_shifted():
    plain, moved = (seen_in(scan(), network(shift=shift)) for shift in (0.0, 1.5))
    assert [each.log_odds - 1.5 for each in plain] == pytest.approx(
        [each.log_odds for each in moved]
    )


# --- looks -----------------------------------------------------------------------------


def test_a_place_that_may_be_one_is_looked_at_from_all_sides():
    asked = []
    pyramid = pyramid_of(scan_of(np.random.default_rng(3).normal(size=SHAPE)))
    unlikely, place = np.array([30, 30, 30]), np.array([24, 20, 28])

    def see(patches, _):
        asked.extend(patches)
        hardly = [np.array_equal(patch, pyramid.around(unlikely[None])[0]) for patch in patches]
        return np.where(hardly, MAY_BE - 0.1, MAY_BE + 0.1).astype(np.float32), None

    engine = DetailEngine(40, 0.0, see, looks=MOST_LOOKS)
    _log_odds(engine, pyramid, np.array([unlikely, place]))
    wanted = [
        patch
        for aside in ((0, 0, 0), *np.eye(3, dtype=int), *-np.eye(3, dtype=int))
        for (plain,) in [pyramid.around((place + aside)[None])]
        for patch in (plain, plain[:, ::-1])
    ]
    assert len(wanted) == len(LOOKS) == MOST_LOOKS
    seen = [patch for patch in asked if patch.any()]  # filled up with empty ones
    for patch in wanted:
        assert sum(np.array_equal(patch, each) for each in seen) == 1
    assert len(seen) == MOST_LOOKS + 1  # the other place once


@pytest.mark.parametrize(
    ("looks", "first", "wanted"),
    [
        (1, 0.0, 0.0),
        (2, 0.0, (0 + 1) / 2),
        (MOST_LOOKS, 0.0, (10 + 11 + 12 + 13) / 4),
    ],
)
def test_the_surest_looks_count_where_there_may_be_something(looks, first, wanted):
    engine = DetailEngine(40, 0.0, counting(first), looks=looks)
    found = _log_odds(engine, pyramid_of(scan()), np.array([[8, 8, 8]]))
    assert found.tolist() == [wanted]


def counting(*first):
    """Calls the first looks so likely, and each later one likelier by 1."""
    said = itertools.chain(first, itertools.count(1))

    def see(patches, _):
        shown = patches.any((1, 2, 3, 4))
        return np.array([next(said) if each else 0 for each in shown], np.float32), None

    return see


def test_places_that_hardly_are_one_are_looked_at_once():
    engine = DetailEngine(40, 0.0, counting(-2.0, 0.0, -3.0), looks=MOST_LOOKS)
    places = np.array([[8, 8, 8], [9, 9, 9], [20, 20, 20]])
    found = _log_odds(engine, pyramid_of(scan()), places)
    assert found.tolist() == [-2, (10 + 11 + 12 + 13) / 4, -3]


def test_places_at_the_edge_are_looked_at_from_within():
    prepared = scan()
    ends = [side.stop - side.start - 1 for side in prepared.box]
    corners = np.array([[0, 0, 0], ends])

    def see(patches, outlined):
        return np.zeros(len(patches), np.float32), patches[:, 0] if outlined else None

    found = _log_odds(DetailEngine(40, 0.0, see, looks=MOST_LOOKS), pyramid_of(prepared), corners)
    assert found.tolist() == [0, 0]


def off_the_middle(value):
    """Says ``value``, and 4 more once a patch is mirrored."""

    def see(patches, outlined):
        right = patches[:, 0, 12:].sum((1, 2, 3))
        mirrored = right < patches[:, 0, :12].sum((1, 2, 3))
        outlines = np.ones_like(patches[:, 0]) if outlined else None
        return np.where(mirrored, value + 4, value).astype(np.float32), outlines

    return see


def brighter_to_the_right():
    return scan_of(noise() + np.linspace(0, 1.5, SHAPE[0])[:, None, None])


@pytest.mark.parametrize(("looks", "wanted"), [(1, 1.0), (MOST_LOOKS, 5.0)])
def test_bright_places_are_looked_at_as_often_as_the_model_says(looks, wanted):
    seen = seen_in(brighter_to_the_right(), DetailEngine(40, 0.0, off_the_middle(1), looks=looks))
    assert len(seen) > 5
    assert np.median([each.log_odds for each in seen]) == wanted


@pytest.mark.parametrize(("looks", "wanted"), [(1, -5.0), (MOST_LOOKS, -1.0)])
def test_findings_are_all_looked_at_as_often_however_unlikely(looks, wanted):
    detail = DetailEngine(40, 0.0, off_the_middle(-5), looks=looks)
    (judged,) = judged_in(brighter_to_the_right(), findings(((30, 28, 26), 5)), detail)
    assert judged.log_odds == wanted


# --- small findings of the other network ------------------------------------------


def findings(*balls, peak=0.9):
    probability = np.zeros(SHAPE, np.float32)
    for centre, diameter in balls:
        probability[ball(centre, diameter)] = 0.4
        probability[centre] = peak
    return probability


def judged_in(prepared, probability, detail):
    return judge(prepared.volume.with_data(probability), prepared, detail, pyramid_of(prepared))


def test_small_findings_are_judged_where_they_lie():
    prepared = scan()
    dark = (40, 20, 20)
    probability = findings((BALLS[0], 5), (dark, 5))
    judged = judged_in(prepared, probability, network(shift=7.0))
    found = {tuple(np.mean(each.voxels, 1)): each for each in judged}
    assert {place: each.log_odds for place, each in found.items()} == {BALLS[0]: 2.0, dark: -9.0}
    for each in judged:
        assert (probability[each.voxels] > 0).all()
    assert sum(len(each.voxels[0]) for each in judged) == (probability > 0).sum()


@pytest.mark.parametrize("spacing", [1.0, 0.8])
def test_findings_are_large_by_their_volume_and_what_is_unsure_is_not_judged(spacing):
    prepared = scan_of(noise(), spacing=spacing)
    middle = (30, 28, 26)

    def judged(diameter_mm, peak=0.9):
        probability = np.where(ball(middle, diameter_mm, spacing), np.float32(0.4), np.float32(0))
        probability[middle] = peak
        return judged_in(prepared, probability, network())

    assert [each.size < 1 for each in judged(SMALL_MM - 1)] == [True]
    assert [each.size > NEARLY for each in judged(SMALL_MM + 1)] == [True]
    assert not judged(SMALL_MM - 1, peak=0.45)


def test_of_very_many_findings_the_largest_are_judged():
    probability = np.zeros(SHAPE, np.float32)
    probability[4:56:4, 4:52:4, 4:48:4] = 0.9
    probability[4:6, 4:6, 4:6] = 0.9
    judged = judged_in(scan(), probability, network())
    assert len(judged) == network().most
    assert len(judged[0].voxels[0]) == 8


@pytest.mark.parametrize(
    ("log_odds", "size", "veto", "dropped"),
    [(-9.0, 1.0, 0.0, True), (0.1, 1.0, 0.0, False), (-9.0, 0.5, None, False),
     (-99.0, 1.01, 0.0, False), (-99.0, NEARLY, 0.0, False),
     (IMPOSSIBLE - 0.1, NEARLY + 0.01, 0.0, True), (IMPOSSIBLE - 0.1, 50.0, 0.0, True),
     (IMPOSSIBLE + 0.1, 50.0, 9.0, False), (-99.0, 50.0, None, False)],
)  # fmt: skip
def test_a_small_finding_is_dropped_by_the_veto_and_a_large_one_if_it_is_impossible(
    log_odds, size, veto, dropped
):
    assert Judged((np.zeros(1, int),) * 3, log_odds, size).is_dropped(veto) == dropped


def half_bright(bright_from):
    """A finding of 20 mm; of what lies in it the part from a plane on looks like a metastasis."""
    image = noise()
    middle = (30, 28, 26)
    where = ball(middle, 20)
    image[where & (np.arange(SHAPE[0])[:, None, None] >= bright_from)] = 2
    return scan_of(image), where


@pytest.mark.parametrize(("bright_from", "wanted"), [(0, 2.0), (36, 2.0), (60, -9.0)])
def test_a_large_finding_is_as_likely_as_its_surest_part(bright_from, wanted):
    prepared, where = half_bright(bright_from)
    probability = np.where(where, np.float32(0.9), np.float32(0))
    (judged,) = judged_in(prepared, probability, network())
    assert judged.log_odds == wanted
    assert judged.size == pytest.approx(8, rel=0.05)
    there = np.zeros(SHAPE, bool)
    there[judged.voxels] = True
    assert np.array_equal(there, where)


@pytest.mark.parametrize(("bright_from", "kept"), [(36, True), (60, False)])
def test_a_large_finding_goes_only_if_nothing_in_it_looks_like_a_metastasis(bright_from, kept):
    prepared, where = half_bright(bright_from)
    probability = prepared.volume.with_data(np.where(where, np.float32(0.9), np.float32(0)))
    after = Details(prepared, network(veto=0.0)).apply(probability).data
    assert (after[where] > 0.5).all() if kept else not after.any()


def test_a_large_finding_costs_few_looks_and_so_do_many():
    asked = []

    def see(patches, outlined):
        asked.append(len(patches))
        return np.full(len(patches), -9.0, np.float32), None

    probability = np.zeros(SHAPE, np.float32)
    probability[2:-2, 2:-2, 2:-2] = 0.9
    judged = judged_in(scan(), probability, DetailEngine(40, 0.0, see))
    assert [each.is_dropped(0.0) for each in judged] == [True]
    assert sum(asked) <= LARGE_LOOKS + 1 + COUNT
    prepared = scan_of(noise(), spacing=3.0)  # a finding of 3³ voxels is large
    probability = np.zeros(SHAPE, np.float32)
    for x, y, z in itertools.product(range(6, 54, 12), range(6, 50, 12), range(6, 46, 12)):
        probability[x : x + 3, y : y + 3, z : z + 3] = 0.9
    probability[30:36, 18:22, 18:22] = 0.9
    judged = judged_in(prepared, probability, DetailEngine(40, 0.0, see))
    assert len(judged) == LARGE_ONES
    assert max(each.size for each in judged) < 2


@pytest.mark.parametrize(
    ("log_odds", "size", "doubted"),
    [(1 - 0.9 * DOUBT, 0.1, True), (1 + 0.9 * DOUBT, 0.1, True), (1 + 1.1 * DOUBT, 0.1, False),
     (1 - 1.1 * DOUBT, 0.1, False), (1 - 1.1 * DOUBT, 0.99, True), (1 - 1.1 * DOUBT, 1.01, True),
     (1 + 1.1 * DOUBT, 1.01, False), (1 - 1.1 * DOUBT, 0.95 / NEARLY, False),
     (1.0, 2.0, False), (IMPOSSIBLE + 0.9 * DOUBT, 2.0, True),
     (IMPOSSIBLE - 0.9 * DOUBT, 2.0, True), (IMPOSSIBLE + 1.1 * DOUBT, 2.0, False),
     (IMPOSSIBLE - 1.1 * DOUBT, 2.0, False),
     (IMPOSSIBLE - 1.1 * DOUBT, 1.01 * NEARLY, True)],
)  # fmt: skip
def test_what_fewer_bits_may_decide_otherwise_is_in_doubt(log_odds, size, doubted):
    judged = Judged((np.array([3, 5]), np.array([4, 4]), np.array([7, 7])), log_odds, size)
    assert judged.is_in_doubt(1.0) == doubted
    assert not judged.is_in_doubt(None)
    assert judged.box == (slice(3, 6), slice(4, 5), slice(7, 8))


def test_unlikely_findings_are_dropped_and_nothing_else():
    probability = scan().volume.with_data(findings((BALLS[0], 5), ((40, 20, 20), 5)))
    probability.data[5, 5, 5] = 0.2
    there = np.nonzero(ball((40, 20, 20), 5))
    judged = (Judged(np.nonzero(ball(BALLS[0], 5)), 2.0), Judged(there, -1.0))
    wanted = probability.data.copy()
    wanted[there] = 0
    kept = drop(probability.with_data(probability.data.copy()), judged, None)
    assert np.array_equal(kept.data, probability.data)
    assert np.array_equal(drop(probability, judged, -0.5).data, wanted)


def test_its_word_can_be_taken_back():
    prepared = scan()
    before = findings(((40, 20, 20), 5))
    probability = prepared.volume.with_data(before.copy())
    details = Details(prepared, network(veto=0.0))
    details.apply(probability, keep=True)
    assert details.in_doubt == ()
    assert probability.data[40, 20, 20] == 0
    assert probability.data[BALLS[0]] > 0.8
    once = probability.data.copy()
    details.undo(probability)
    assert np.array_equal(probability.data, before)
    details.apply(probability)
    assert np.array_equal(probability.data, once)


def test_a_finding_that_was_added_is_not_judged():
    """Only the other network's findings are dropped."""
    prepared = scan()
    details = Details(prepared, network(veto=3.0))  # above the log odds of bright places
    probability = prepared.volume.with_data(np.zeros(SHAPE, np.float32))
    details.apply(probability)
    assert probability.data[BALLS[0]] > 0.8


# --- patches and outlines ----------------------------------------------------------


def test_patches_show_the_scan_at_three_scales():
    image = np.random.default_rng(4).standard_normal((30, 29, 26)).astype(np.float32)
    place = np.array([[13, 6, 20]])
    fine, middle, coarse = Pyramid(image).around(place)[0]
    for patch, scale in ((fine, 1), (middle, 2), (coarse, 4)):
        for shift in ((0, 0, 0), (-2, 3, 1), (-12, 11, 0)):
            block = place[0] // scale + shift
            low = block * scale
            wanted = 0.0
            if (low >= 0).all():
                cut = np.zeros((scale,) * 3)
                part = image[tuple(slice(a, a + scale) for a in low)]
                cut[tuple(map(slice, part.shape))] = part
                wanted = cut.mean()  # beyond the image lies 0
            found = patch[tuple(np.array(shift) + SIDE // 2)]
            assert found == pytest.approx(wanted, abs=1e-5)


def test_an_outline_keeps_to_its_own_metastasis():
    outline = np.zeros((SIDE,) * 3, np.float32)
    outline[10:15, 10:15, 10:15] = 0.9
    outline[18:22, 18:22, 18:22] = 0.9
    kept = central(outline)
    assert (kept[10:15, 10:15, 10:15] == 1).all()
    assert kept[16:].max() == 0
    outline[12, 12, 12] = 0.6
    assert central(outline)[12, 12, 12] == pytest.approx(0.6 / 0.9)


def test_an_outline_that_is_sure_of_nothing_is_none():
    outline = np.full((SIDE,) * 3, 0.4, np.float32)
    assert not central(outline).any()


def test_a_probability_is_the_odds_of_the_place_times_the_outline():
    seen = Seen((slice(0, 1),) * 3, 0.0, np.full((1, 1, 1), 0.8, np.float32))
    assert seen.probability[0, 0, 0] == pytest.approx(0.4)


def test_at_the_surface_a_finding_is_as_likely_as_its_place():
    """What is outlined outside the brain does not count, and makes the rest no less likely."""
    prepared = scan()

    def see(patches, outlined):
        outlines = np.full((COUNT, SIDE, SIDE, SIDE), 0.6, np.float32)
        outlines[:, : SIDE // 2] = 1  # more likely towards the left, where the brain ends
        return np.full(COUNT, 3.0, np.float32), outlines if outlined else None

    at_the_left = [
        each for each in seen_in(prepared, DetailEngine(40, 0.0, see)) if each.box[0].start == 0
    ]
    assert at_the_left
    for each in at_the_left:
        assert each.probability.max() == pytest.approx(expit(3.0))


@pytest.mark.parametrize("kind", [np.float64, "read-only"])
def test_arrays_of_any_kind_are_given_the_same_word(kind):
    prepared, before = scan(), np.zeros(SHAPE, np.float32)
    wanted = Details(prepared, network()).apply(prepared.volume.with_data(before.copy())).data
    given = before.copy() if kind == "read-only" else before.astype(kind)
    given.flags.writeable = kind != "read-only"
    found = Details(prepared, network()).apply(prepared.volume.with_data(given)).data
    assert np.array_equal(found, wanted)
    assert found.max() > 0.8
