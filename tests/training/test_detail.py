"""The detail network learns what a metastasis is, in legs, and is fitted to a model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from brainmets.cohort import Cohort
from brainmets.config import Recipe
from brainmets.errors import CohortError, ConfigError
from brainmets.inference.details import Pyramid
from brainmets.network import openvino_engine
from brainmets.network.bundle import MOST_LOOKS, SIDE, Detail, Int8, write
from brainmets.network.detail import DetailNet
from brainmets.network.detail_engine import DetailEngine, verify_detail
from brainmets.pipeline import Model, analyse, run_by
from brainmets.training import detail_fit
from brainmets.training.detail import (
    LEAST_HARD,
    LEAST_HARD_LESION,
    MIDDLES,
    MOST_HARD,
    MOST_HARD_LESION,
    PLACES,
    RINGS,
    SHOWN,
    Beginning,
    Schedule,
    Source,
    _drawn,
    _place_in,
    learning_rate,
    lesion_weights,
    log_odds_of,
    outline_loss,
    patches_of,
    source,
    sources,
    survey,
    train_detail,
    trained,
    weights_of,
)
from brainmets.training.detail_fit import (
    CHECKPOINT,
    fit,
    model_to_start_from,
    train_model_detail,
)
from stand_ins import Bright, bright_model
from training_cases import BALLS, prepared_case, write_case

RECIPE = Recipe(spacing_mm=1.0)
CENTRES = ((20, 20, 18), (10, 30, 25), (30, 12, 12))


class Nothing(Bright):
    """An engine that finds nothing."""

    def __call__(self, tile):
        """See :class:`brainmets.network.engines.Engine`."""
        return np.zeros_like(tile)


@pytest.fixture(scope="module")
def data():
    cases = [
        prepared_case(lesions=CENTRES, radius=2, seed=n, name=str(n)) for n in range(2)
    ]  # fmt: skip
    return sources(cases, RECIPE, 60)


def quick(**options):
    return Schedule(**{"steps": 12, "lesions": 3, "others": 5, "width": 2, **options})


def test_a_source_holds_every_lesion_and_bright_places_that_are_none(data):
    for case in data:
        assert [np.rint(v.mean(0)).astype(int).tolist() for v in case.lesions] == [
            list(centre) for centre in CENTRES
        ]
        away = np.linalg.norm(case.others[:, None] - np.array(CENTRES)[None], axis=2)
        assert len(case.others) > 20
        assert away.min() > 2  # no place in a lesion


def test_a_source_knows_where_lesions_will_be_looked_at(data):
    for case in data:
        for voxels, shown in zip(case.lesions, case.shown, strict=True):
            assert len(shown)
            assert set(map(tuple, shown.tolist())) <= set(map(tuple, voxels.tolist()))


def test_ringed_places_are_learnt_from_too():
    case = prepared_case(lesions=())
    image = np.array(case.image)
    middle = np.array([20, 20, 18])
    away = sum((axis - c) ** 2 for axis, c in zip(np.ogrid[tuple(map(slice, image.shape))], middle,
                                                  strict=True))  # fmt: skip
    image[away <= 36] = 3
    image[away <= 16] = -1
    ringed = replace(case, image=image)
    without, with_them = (source(ringed, RECIPE, 60, rings).others for rings in (0, 10))
    assert np.abs(without - middle).max(1).min() > 2
    assert np.abs(with_them - middle).max(1).min() <= 2


def test_lesions_are_seen_where_they_will_be_looked_at(data):
    case = replace(data[0], shown=[np.array([[1, 2, 3]]), *data[0].shown[1:]])
    rng = np.random.default_rng(0)
    drawn = [tuple(_place_in(case, 0, rng).tolist()) for _ in range(400)]
    assert drawn.count((1, 2, 3)) / 400 == pytest.approx(SHOWN, abs=0.08)
    assert drawn.count(CENTRES[0]) / 400 == pytest.approx(MIDDLES, abs=0.08)
    never = replace(case, shown=[np.zeros((0, 3), int), *data[0].shown[1:]])
    assert (1, 2, 3) not in {tuple(_place_in(never, 0, rng).tolist()) for _ in range(100)}


def test_the_brain_ends_where_it_does_in_use():
    case = prepared_case()
    depth = np.array(case.depth)
    depth[:10] = 9  # 2.25 mm outside the surface, where the margin is 2
    (source,) = sources([replace(case, depth=depth)], RECIPE, 40)
    half = SIDE // 2
    level = source.pyramid.levels[0][half:-half, half:-half, half:-half]
    assert not level[:10].any()
    assert level[10:40].all()


def test_training_in_legs_gives_the_same_network(data, tmp_path):
    whole = train_detail(data, 1.0, quick(), tmp_path / "whole.pt")
    legs = tmp_path / "legs.pt"
    stops = 0
    while (network := train_detail(data, 1.0, quick(), legs, most_seconds=0.05)) is None:
        stops += 1
        assert legs.is_file()
    assert stops > 1
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_another_seed_gives_another_network(data, tmp_path):
    one, other = (
        train_detail(data, 1.0, quick(steps=2, seed=seed), tmp_path / f"{seed}.pt")
        for seed in (1, 2)
    )
    assert not torch.equal(one.score.weight, other.score.weight)


def test_a_checkpoint_of_another_run_is_refused(data, tmp_path):
    train_detail(data, 1.0, quick(steps=1), tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="other settings"):
        train_detail(data, 1.0, quick(steps=2), tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="other settings"):
        train_detail(data, 1.0, quick(steps=1), tmp_path / "a.pt", learnt_from=["another"])


def test_training_begins_with_the_network_it_is_given(data, tmp_path):
    first = train_detail(data, 1.0, quick(), tmp_path / "first.pt")
    hardly = quick(steps=1, seed=9, learning_rate=1e-9)
    on, afresh = (
        train_detail(data, 1.0, hardly, tmp_path / f"{begun is None}.pt", start=begun)
        for begun in (Beginning(first), None)
    )
    assert torch.allclose(on.score.weight, first.score.weight, atol=1e-6)
    assert not torch.allclose(afresh.score.weight, first.score.weight, atol=1e-3)
    with pytest.raises(ConfigError, match="other settings"):
        train_detail(data, 1.0, hardly, tmp_path / "False.pt", start=Beginning(afresh))
    assert trained(hardly, tmp_path / "False.pt", (), first) is not None


def test_what_was_hard_comes_more_often_and_the_rest_still_comes():
    weights, hardness = np.ones(200), np.full(200, 0.001, np.float32)
    weights[:100], hardness[150] = 0, 3
    drawn = [
        _drawn(weights, hardness, 20, 0.75, np.random.default_rng(seed)) for seed in range(200)
    ]
    assert all(len(numbers) == 20 and numbers.min() >= 100 for numbers in drawn)
    shares = np.bincount(np.concatenate(drawn), minlength=200) / (200 * 20)
    assert shares[150] == pytest.approx(0.75 * 3 / 3.099 + 0.25 / 100, abs=0.02)
    assert np.delete(shares, 150)[100:].min() > 0


def test_a_lesion_that_was_missed_comes_more_often(data, tmp_path):
    drawn = []

    def remembers(places, outlined, rng):
        drawn.extend(int(np.flatnonzero([case is one for one in data])[0])
                     for case, _ in places[:outlined])  # fmt: skip
        return patches_of(places, outlined, rng)

    def misses_the_second(network, patches, outlined):
        scores, outlines = forward(network, patches, outlined)
        which = torch.tensor(drawn[-outlined:] + [0] * (len(patches) - outlined))
        return scores * 0 + torch.where(which == 1, -20.0, 20.0), outlines

    forward = DetailNet.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainmets.training.detail.patches_of", remembers)
        patch.setattr(DetailNet, "forward", misses_the_second)
        train_detail(data, 1.0, quick(steps=40, lesions=6), tmp_path / "a.pt")
    later = drawn[len(drawn) // 2 :]
    assert 0.6 < later.count(1) / len(later) < 0.95
    kept = torch.load(tmp_path / "a.pt", weights_only=True)["lesion_hardness"]
    assert kept.unique().tolist() == pytest.approx([LEAST_HARD_LESION, MOST_HARD_LESION])


def _interrupted(*_):
    raise KeyboardInterrupt


def test_places_that_the_first_network_mistakes_come_more_often(data, tmp_path):
    first = train_detail(data, 1.0, quick(), tmp_path / "first.pt")
    count = sum(len(case.others) for case in data)
    hard = np.full(count, 0.01, np.float32)
    hard[7] = 3
    asked, drawn = [], []

    def told():
        asked.append(1)
        return hard.copy()

    def remembers(places, outlined, rng):
        drawn.extend(tuple(place) for _, place in places[outlined:])
        return patches_of(places, outlined, rng)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainmets.training.detail.patches_of", remembers)
        schedule = quick(steps=6, others=20, learning_rate=1e-9)
        beginning = Beginning(first, told)
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr("brainmets.training.detail._learn", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                train_detail(data, 1.0, schedule, tmp_path / "a.pt", start=beginning)
        while train_detail(data, 1.0, schedule, tmp_path / "a.pt", start=beginning,
                           most_seconds=0.01) is None:  # fmt: skip
            pass
    assert asked == [1]  # once, in however many legs, and kept before anything is learnt
    places = [tuple(place) for case in data for place in case.others]
    assert drawn.count(places[7]) > 5 * len(drawn) / count


def test_a_survey_of_other_places_is_not_kept(data, tmp_path):
    first = train_detail(data, 1.0, quick(steps=1), tmp_path / "first.pt")
    beginning = Beginning(first, lambda: np.ones(3, np.float32))
    with pytest.raises(ValueError, match="a survey of"):
        train_detail(data, 1.0, quick(), tmp_path / "a.pt", start=beginning)
    assert not (tmp_path / "a.pt").exists()


def test_a_survey_is_the_cost_of_every_place(data):
    told = []

    def log_odds(patches):
        return patches[:, 0, 12, 12, 12] - 9

    costs = survey(data, log_odds, lambda *m: told.append(m))
    centres = np.concatenate([log_odds(case.pyramid.around(case.others)) for case in data])
    assert np.allclose(costs, np.log1p(np.exp(centres)).clip(LEAST_HARD, MOST_HARD), atol=1e-5)
    assert costs.min() == np.float32(LEAST_HARD)
    assert told == [(1, 2), (2, 2)]


def test_a_checkpoint_of_other_places_is_refused(data, tmp_path):
    train_detail(data, 1.0, quick(steps=1), tmp_path / "a.pt")
    fewer = [replace(case, others=case.others[:-1]) for case in data]
    one_less = replace(data[0], lesions=data[0].lesions[1:], shown=data[0].shown[1:])
    for other in (fewer, [one_less, *data[1:]]):
        with pytest.raises(ConfigError, match="bright places, and here there are"):
            train_detail(other, 1.0, quick(steps=1), tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK" + bytes(100)])
def test_a_damaged_checkpoint_is_said_to_be(content, data, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.pt: damaged, or no checkpoint"):
        train_detail(data, 1.0, quick(steps=1), tmp_path / "a.pt")


def test_scores_without_limits_are_seen_as_they_are():
    free = source(prepared_case(lesions=CENTRES), replace(RECIPE, clip_z=0), 60)
    assert len(free.others)
    assert np.abs(free.pyramid.levels[0]).max() > 1


def test_a_finished_run_needs_its_data_no_more(data, tmp_path):
    checkpoint = tmp_path / "a.pt"
    assert trained(quick(steps=2), checkpoint, ["a"]) is None
    assert (
        train_detail(data, 1.0, quick(steps=2), checkpoint, learnt_from=["a"], most_seconds=0)
        is None
    )
    assert trained(quick(steps=2), checkpoint, ["a"]) is None
    network = train_detail(data, 1.0, quick(steps=2), checkpoint, learnt_from=["a"])
    again = trained(quick(steps=2), checkpoint, ["a"])
    assert torch.equal(network.score.weight, again.score.weight)
    with pytest.raises(ConfigError, match="other settings"):
        trained(quick(steps=2), checkpoint, ["b"])


def test_without_a_lesion_there_is_nothing_to_learn(tmp_path):
    nothing = sources([prepared_case(lesions=())], RECIPE, 10)
    with pytest.raises(CohortError, match="0 lesions"):
        train_detail(nothing, 1.0, quick(), tmp_path / "a.pt")


@pytest.mark.slow
def test_it_learns_to_tell_balls_from_noise(data, tmp_path):
    schedule = quick(steps=150, lesions=6, others=10, width=4)
    network = train_detail(data, 1.0, schedule, tmp_path / "a.pt")
    (fresh,) = sources([prepared_case(lesions=CENTRES, radius=2, seed=9)], RECIPE, 60)
    inside = np.array(CENTRES)
    with torch.inference_mode():
        right, outlines = network(torch.from_numpy(fresh.pyramid.around(inside)))
        wrong, _ = network(torch.from_numpy(fresh.pyramid.around(fresh.others)))
    assert right.min() > wrong.quantile(0.95)
    away = sum((axis - SIDE // 2) ** 2 for axis in np.ogrid[:SIDE, :SIDE, :SIDE])
    drawn = torch.sigmoid(outlines).numpy()
    assert drawn[:, away <= 4].mean() > drawn[:, away > 16].mean() + 0.1


def test_patches_and_their_lesions_are_moved_and_mirrored_together(data):
    places = [(data[0], np.array(CENTRES[0]))] * 40
    patches, truths = patches_of(places, 40, np.random.default_rng(0))
    assert patches.shape == (40, 3, SIDE, SIDE, SIDE)
    for patch, truth in zip(patches.numpy(), truths.numpy(), strict=True):
        assert truth.sum() > 20
        inside, outside = patch[0][truth > 0], patch[0][truth == 0]
        assert inside.mean() > outside.mean() + 2
    starts = {tuple(np.argwhere(truth)[0]) for truth in truths.numpy()}
    assert len(starts) > 10


def test_contrast_varies_beyond_a_scale_and_what_was_brighter_stays_brighter():
    image = np.ones((64, 64, 64), np.float32)
    image[20:32], image[32:] = 2, 4
    case = Source(Pyramid(image), np.zeros((88, 88, 88), np.uint8), [], [], np.zeros((0, 3), int))
    patches, _ = patches_of([(case, np.array([26, 32, 32]))] * 40, 0, np.random.default_rng(0))
    middles = np.sort([np.unique(patch[1, :, 12, 12].numpy())[[0, 1, -1]] for patch in patches])
    dark, grey, bright = middles.T
    assert np.all((dark < grey) & (grey < bright))
    steps = (bright - grey) / (grey - dark)
    assert steps.min() < 1.8
    assert steps.max() > 2.2


def test_large_lesions_are_drawn_less_often(data):
    one = replace(data[0], lesions=[np.zeros((20, 3), int), np.zeros((5000, 3), int)])
    small, large = lesion_weights([(one, 0), (one, 1)], 1.0)
    assert small == pytest.approx(2.5 * large)


def test_the_rate_rises_and_falls():
    schedule = Schedule(steps=1000)
    rates = [learning_rate(schedule, step) for step in range(1000)]
    assert max(rates) == pytest.approx(schedule.learning_rate, rel=0.02)
    assert rates.index(max(rates)) < 60
    assert rates[-1] < 0.01 * max(rates)


def test_the_loss_of_a_right_outline_is_less():
    truth = torch.zeros(1, SIDE, SIDE, SIDE)
    truth[0, 10:14, 10:14, 10:14] = 1
    right, wrong = 16 * truth - 8, -16 * truth + 8
    assert float(outline_loss(right, truth)) < 0.02
    assert float(outline_loss(wrong, truth)) > 4


@pytest.mark.parametrize("options", [{"steps": 0}, {"others": 1}, {"learning_rate": 0.0}])
def test_impossible_schedules_are_refused(options):
    with pytest.raises(ConfigError, match="expected whole numbers"):
        Schedule(**options)


def test_an_unknown_arithmetic_is_refused():
    with pytest.raises(ConfigError, match="expected precision 'bf16' or 'f32'"):
        Schedule(precision="f16")


@pytest.mark.parametrize(("precision", "most"), [("f32", 1e-5), ("bf16", 0.1)])
def test_a_survey_hears_what_the_network_says(data, precision, most):
    torch.manual_seed(0)
    network = DetailNet(2).eval()
    patches = data[0].pyramid.around(data[0].others[:20])
    with torch.inference_mode():
        expected = network(torch.from_numpy(patches))[0].numpy()
    said = log_odds_of(network, quick(precision=precision))(patches)
    assert said.dtype == np.float32
    assert np.abs(said - expected).max() <= most


def test_fewer_bits_learn_much_the_same(data, tmp_path):
    found = {}
    for precision in ("f32", "bf16"):
        losses: list[float] = []
        train_detail(
            data, 1.0, quick(steps=25, precision=precision), tmp_path / f"{precision}.pt",
            progress=lambda *moment: losses.append(moment[2]),  # noqa: B023  # used at once
        )  # fmt: skip
        found[precision] = losses[-1]
    assert found["bf16"] != found["f32"]
    assert found["bf16"] == pytest.approx(found["f32"], rel=0.05)


# --- with a model -----------------------------------------------------------------


@pytest.fixture
def cohort(tmp_path):
    return Cohort(tuple(write_case(tmp_path, name, seed=n) for n, name in enumerate("abc")))


@pytest.fixture
def blind(monkeypatch, tmp_path):
    """A model whose first network finds nothing."""
    monkeypatch.setattr(openvino_engine, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(detail_fit, "choose_engine", lambda *_: (Nothing(), ""))
    return replace(bright_model(spacing_mm=1.0).bundle, example={
        name: np.zeros((32, 32, 32), np.float32) for name in ("input", "output")
    })  # fmt: skip


def test_the_model_gets_it_with_what_it_finds(blind, cohort, tmp_path):
    looked, told, surveyed = [], [], []
    out = tmp_path / "model.brainmets"
    ready = replace(blind, int8=Int8({"head": (1.0,)}, is_default=True), card={
        "trained_on": "nothing", "int8": {"is_default": True}, "results": {"lesion_f1": 0.9}
    })  # fmt: skip
    done = train_model_detail(
        ready, cohort, cohort, out, tmp_path / "work",
        quick(steps=60, lesions=4, others=8, width=4),
        listeners=detail_fit.Listeners(
            looking=lambda *moment: looked.append(moment),
            surveying=lambda *moment: surveyed.append(moment),
            choosing=lambda *moment: told.append(moment),
        ),
    )  # fmt: skip
    said = done.card["detail"]
    assert looked[-1] == told[-1] == (3, 3)
    assert done.name == "model"
    assert said["cases"] == 3
    assert set(done.card) == {"trained_on", "detail"}  # the rest was said of another rule
    assert not done.int8.is_default
    assert said["training"]["steps"] == 60
    assert said["validation_without_it"]["lesion_sensitivity"] == 0
    assert said["validation"]["lesion_f1"] > 0.5
    assert (said["shift"], said["veto"]) == (done.detail.shift, done.detail.veto)
    assert (tmp_path / "work" / CHECKPOINT).is_file()
    assert verify_detail(done, run_by(done, Nothing()).detail) < 2e-3
    assert "start" not in said
    assert not surveyed  # by nobody: it begins with random weights
    seen = (done.detail.most, done.detail.rings, done.detail.looks)
    assert seen == (PLACES, RINGS, MOST_LOOKS)


def test_it_begins_with_the_network_that_a_model_has(blind, cohort, tmp_path):
    surveyed = []
    card = {"detail": {"cases": 9, "validation": {"lesion_f1": 1.0}}}
    first = replace(blind, name="first", card=card, detail=Detail(weights_of(DetailNet(3)), 3))
    done = train_model_detail(
        blind, cohort, cohort, tmp_path / "m.brainmets", tmp_path / "work",
        quick(steps=1, learning_rate=1e-9), start=first,
        listeners=detail_fit.Listeners(surveying=lambda *moment: surveyed.append(moment)),
    )  # fmt: skip
    assert surveyed[-1] == (3, 3)
    said = done.card["detail"]
    assert said["start"] == {
        "model": "first", "detail_network": first.detail.identity(), "cases": 9
    }  # fmt: skip
    assert done.detail.width == said["training"]["width"] == 3
    wanted = first.detail.weights["score.weight"]
    assert np.allclose(done.detail.weights["score.weight"], wanted, atol=1e-3)


def test_where_it_begins_unless_told_otherwise(blind, tmp_path):
    ready = replace(blind, detail=Detail(weights_of(DetailNet(2)), 2))
    assert model_to_start_from(blind, None) is None
    assert model_to_start_from(ready, None) is ready
    assert model_to_start_from(ready, "none") is None
    write(ready, tmp_path / "other.brainmets")
    other = model_to_start_from(blind, str(tmp_path / "other.brainmets"))
    assert other.detail.identity() == ready.detail.identity()


def test_a_start_that_sees_other_voxels_is_refused(blind, cohort, tmp_path):
    other = replace(blind, detail=Detail(weights_of(DetailNet(2)), 2),
                    recipe=replace(blind.recipe, spacing_mm=1.2))  # fmt: skip
    with pytest.raises(ConfigError, match=r"sees voxels of 1\.2 mm"):
        train_model_detail(
            blind, cohort, cohort, tmp_path / "m.brainmets", tmp_path / "w", quick(), start=other
        )


def test_a_start_without_one_is_refused(blind, cohort, tmp_path):
    with pytest.raises(ConfigError, match="no detail network to start from"):
        train_model_detail(
            blind, cohort, cohort, tmp_path / "m.brainmets", tmp_path / "w", quick(), start=blind
        )


def test_false_findings_of_the_other_network_are_vetoed(blind, cohort, tmp_path, monkeypatch):
    def with_a_false_one(prepared, *_, **__):
        """Every metastasis, and a place of plain brain."""
        found = np.where(prepared.volume.data > 1.5, np.float32(0.99), np.float32(0))
        x, y, z = (side.start + 4 for side in prepared.box)
        found[x : x + 3, y : y + 3, z : z + 3] = 0.99
        return prepared.volume.with_data(found)

    monkeypatch.setattr(detail_fit, "predict", with_a_false_one)
    done = train_model_detail(
        blind, cohort, cohort, tmp_path / "model.brainmets", tmp_path / "work",
        quick(steps=60, lesions=4, others=8, width=4),
    )  # fmt: skip
    said = done.card["detail"]
    assert said["validation_without_it"]["false_positives_per_scan"] >= 1
    assert said["validation"]["false_positives_per_scan"] == 0
    assert said["veto"] == done.detail.veto is not None


def test_few_false_alarms_are_worth_more_than_many_findings(blind, cohort, tmp_path, monkeypatch):
    """Where no rule of a setting keeps the limit, another setting that does is better."""

    def many(prepared, *_, **__):
        found = np.where(prepared.volume.data > 1.5, np.float32(0.99), np.float32(0))
        x, y, z = (side.start for side in prepared.box)
        found[x + 1 : x + 25 : 6, y + 1 : y + 4, z + 1 : z + 4] = 0.99
        found[x + 2 : x + 25 : 6, y + 1 : y + 4, z + 1 : z + 4] = 0.99
        return prepared.volume.with_data(found)

    monkeypatch.setattr(detail_fit, "predict", many)
    done = train_model_detail(
        blind, cohort, cohort, tmp_path / "model.brainmets", tmp_path / "work",
        quick(steps=60, lesions=4, others=8, width=4), false_positives=0.5,
    )  # fmt: skip
    assert done.card["detail"]["validation"]["false_positives_per_scan"] <= 0.5
    assert done.temperature == 1


def test_a_run_that_was_stopped_writes_no_model(blind, cohort, tmp_path):
    out = tmp_path / "model.brainmets"
    done = train_model_detail(
        blind, cohort, cohort, out, tmp_path / "work", quick(), most_seconds=0
    )
    assert done is None
    assert not out.exists()


def test_without_a_case_to_choose_on_it_stops_at_once(blind, cohort, tmp_path):
    with pytest.raises(CohortError, match="to choose the decision rule on"):
        train_model_detail(
            blind, cohort, Cohort(()), tmp_path / "m.brainmets", tmp_path / "w", quick()
        )


def test_a_model_without_one_cannot_be_fitted(blind, cohort):
    with pytest.raises(CohortError, match="no detail network"):
        fit(blind, cohort)


def test_a_loaded_model_runs_it(blind):
    assert run_by(blind, Bright()).detail is None
    network = DetailNet(2)
    ready = run_by(replace(blind, detail=Detail(weights_of(network), 2, shift=1.0)), Bright())
    assert isinstance(ready, Model)
    assert ready.detail.shift == 1.0


def test_a_case_is_looked_at_closely_in_use(blind, cohort):
    """The line adds what the detail network sees to what the first network does."""

    def see(patches, outlined):
        bright = patches[:, 0, 11:14, 11:14, 11:14].mean((1, 2, 3)) > 1.5
        outlines = (patches[:, 0] > 1.5).astype(np.float32) if outlined else None
        return np.where(bright, 4.0, -9.0).astype(np.float32), outlines

    case = cohort.cases[0]
    alone, both = (
        analyse(case.image, brain_mask=case.brain_mask, model=Model(blind, Nothing(), detail=d))
        for d in (None, DetailEngine(50, 0.0, see))
    )
    assert not alone.lesions
    assert len(both.lesions) == len(BALLS)


def test_a_report_tells_models_of_other_vetoes_apart(blind, cohort):
    detail = Detail(weights_of(DetailNet(2)), 2)
    case = cohort.cases[0]
    said = [
        analyse(
            case.image, brain_mask=case.brain_mask,
            model=Model(replace(blind, detail=each), Nothing()),
        ).provenance["options"]["detail"]
        for each in (None, detail, replace(detail, veto=0.5))
    ]  # fmt: skip
    assert said[0] is None
    assert [each["veto"] for each in said[1:]] == [None, 0.5]
    assert said[1]["identity"] != said[2]["identity"]
