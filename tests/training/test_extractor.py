"""The built-in extractor's training: targets, images, loop, checkpoints, choice of border."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.ndimage import binary_closing, binary_fill_holes, generate_binary_structure

from brainmets.errors import ConfigError, ReadError
from brainmets.network.synthstrip import StripSizes
from brainmets.preprocess.brain import load_synthstrip
from brainmets.training import extractor, extractor_scores, synthetic_heads
from brainmets.training.chance import Chance
from brainmets.training.extractor import (
    OUTER_QUANTILE,
    Design,
    Schedule,
    distance_loss,
    example,
    fit,
    learning_rate,
    read_start,
    train_extractor,
)
from brainmets.training.extractor_scores import BORDERS_MM, choose_border, mask_scores
from brainmets.training.heads import (
    FURTHEST_MM,
    brain_of,
    one_object,
    read_heads,
    signed_distance,
)
from brainmets.training.synthetic_heads import Example, Frame

FRAME = Frame((16, 24, 20), 3.0)
TINY = StripSizes(features=2, most_features=4, levels=2, convolutions=1, block=2, fields=2)
DESIGN = Design(TINY, FRAME)


def label_map():
    """Nested boxes in nearest-RAS order: skin, bone, CSF, white matter; a stem below."""
    labels = np.zeros((80, 90, 84), np.float32)
    for label, margin in ((511, 4), (515, 8), (24, 14), (2, 20)):
        labels[margin:-margin, margin:-margin, margin:-margin] = label
    labels[36:44, 40:48, 10:22] = 16
    return labels


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "training_seg_01.nii.gz"
    nib.save(nib.Nifti1Image(label_map(), np.eye(4)), path)
    return read_heads([path])


# --- targets --------------------------------------------------------------------


def test_distance_is_0_at_the_surface_and_negative_inside():
    mask = np.zeros((9, 9, 9), bool)
    mask[2:7, 2:7, 2:7] = True
    line = signed_distance(mask)[:, 4, 4]
    np.testing.assert_allclose(line, [1.5, 0.5, -0.5, -1.5, -2.5, -1.5, -0.5, 0.5, 1.5])


def test_brain_is_one_solid_object_that_ends_below_the_stem():
    labels = label_map().astype(np.int16)
    labels[40, 45, 40] = 0  # a hole
    labels[2, 2, 2] = 24  # a stray voxel
    labels[38:42, 42:46, 0:10] = 24  # the spinal canal
    labels[30:32, 20:70, 60:70] = 509  # a gap of 2 mm
    labels[46:50, 20:70, 60:70] = 509  # the groove of a sinus
    brain = brain_of(labels)
    assert brain[30:32, 45, 64].all()
    assert not brain[46:50, 45, 66].any()
    assert brain[40, 45, 40]
    assert not brain[2, 2, 2]
    assert brain[40, 44, 7]
    assert not brain[:, :, :5].any()


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_gaps_are_closed_as_a_plain_closing_does(radius):
    """Against scipy's closing by a digital ball of the same radius."""
    labels = label_map().astype(np.int16)
    labels[30:33, 20:70, 54:64] = 24
    mask = np.pad(np.isin(labels, (2, 16)), radius)
    side = 2 * radius + 1
    ball = np.sum(np.square(np.indices((side,) * 3) - radius), axis=0) <= radius**2
    expected = binary_fill_holes(binary_closing(mask, ball))[(slice(radius, -radius),) * 3]
    np.testing.assert_array_equal(one_object(np.isin(labels, (2, 16)), radius), expected)
    assert generate_binary_structure(3, 1).sum() == 7  # the core is found with 6 neighbours


# --- images ----------------------------------------------------------------------


def test_an_example_is_a_function_of_seed_and_number(heads):
    one, other, third = (example(heads, FRAME, 1, n) for n in (5, 5, 6))
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.distance, other.distance)
    assert not torch.equal(one.image, third.image)


def test_examples_have_the_shape_and_range_that_the_network_expects(heads):
    for number in range(12):
        drawn = example(heads, FRAME, 2, number)
        assert drawn.image.shape == drawn.distance.shape == drawn.seen.shape == FRAME.shape
        assert torch.isfinite(drawn.image).all()
        assert drawn.image.min() >= 0
        assert drawn.image.max() <= 1
        assert drawn.distance.abs().max() <= FURTHEST_MM
        assert set(drawn.seen.unique().tolist()) <= {0.0, 1.0}
        assert not drawn.image[drawn.seen == 0].any()


def fading(brain_mm):
    return (1 - brain_mm.abs() / FURTHEST_MM).clamp_min(0)


def test_a_brain_that_draws_back_leaves_fluid_and_its_dura_where_they_were(heads, monkeypatch):
    """The further it does, the less tissue; neither brain + CSF nor what is outside changes."""
    scenes = []
    for amount in (0.0, 2.0, 5.0):
        monkeypatch.setattr(synthetic_heads, "_pull", lambda mm, *_, by=amount: by * fading(mm))
        chance = Chance(4)
        monkeypatch.setattr(chance, "happens", lambda _probability: True)
        scenes.append(synthetic_heads._pose(heads[0], Frame((40, 40, 40), 2.0), chance))
    outside = scenes[0].distance > 2
    for scene in scenes[1:]:
        assert torch.equal(scene.distance, scenes[0].distance)
        assert torch.equal(scene.tissue[:, outside], scenes[0].tissue[:, outside])
    tissue, fluid = ([s.share(name).sum().item() for s in scenes] for name in ("white", "csf"))
    assert tissue[0] > tissue[1] > tissue[2]
    assert fluid[0] < fluid[1] < fluid[2]


def test_a_wandering_window_is_centred_on_the_surface(heads):
    """For windows that hold a part of the head only."""
    frame = Frame((16, 16, 16), 1.0, wander=True)
    for number in range(5):
        middle = example(heads, frame, 1, number).distance[7:9, 7:9, 7:9]
        assert middle.abs().min() < 4


# --- the loop ----------------------------------------------------------------------


def test_training_is_deterministic_and_learns(heads, tmp_path):
    losses = []

    def told(*report):
        losses.append(report)

    first = fit(heads, DESIGN, Schedule(3, 4), tmp_path / "a.pt", progress=told)
    second = fit(heads, DESIGN, Schedule(3, 4), tmp_path / "b.pt")
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, second.state_dict()[name])
    assert [report[:2] for report in losses] == [(3, 3)]
    assert np.isfinite(losses[0][2])


def test_two_legs_give_the_weights_of_one(heads, tmp_path, monkeypatch):
    """Bit for bit in float32."""
    whole = fit(heads, DESIGN, Schedule(6, 4), tmp_path / "whole.pt")
    clock = iter([0, 0, 0, 9, 9, 9])
    with monkeypatch.context() as patch:
        patch.setattr(extractor.time, "monotonic", lambda: next(clock))
        assert fit(heads, DESIGN, Schedule(6, 4), tmp_path / "legs.pt", deadline=5) is None
    assert torch.load(tmp_path / "legs.pt", weights_only=True)["step"] == 3
    legs = fit(heads, DESIGN, Schedule(6, 4), tmp_path / "legs.pt")
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, legs.state_dict()[name])


def test_a_checkpoint_of_other_settings_is_refused(heads, tmp_path):
    fit(heads, DESIGN, Schedule(2, 4), tmp_path / "run.pt")
    with pytest.raises(ConfigError, match="other settings"):
        fit(heads, DESIGN, Schedule(2, 5), tmp_path / "run.pt")


def test_the_learning_rate_rises_and_falls_to_nothing():
    schedule = Schedule(steps=100, learning_rate=1e-3)
    rates = [learning_rate(schedule, step) for step in range(100)]
    assert rates[0] == pytest.approx(2e-4)
    assert max(rates) == rates[4] == pytest.approx(1e-3)
    assert rates[-1] < 1e-5
    assert sorted(rates[4:], reverse=True) == rates[4:]


def test_loss_is_0_for_the_truth_and_ignores_what_is_not_seen():
    distance = torch.linspace(-15, 15, 20).expand(1, 1, 20)
    seen = (torch.arange(20) < 15).float().view(1, 1, 20)
    wrong = torch.where(seen > 0, distance, 99.0).expand(2, 1, 1, 20)
    assert distance_loss(wrong, distance, seen) == 0
    assert distance_loss(wrong[:1], distance, seen) == 0  # a network of one surface
    larger = distance - torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    assert distance_loss(larger, distance, seen).item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("field", "share"), [(0, 0.5), (1, 1 - OUTER_QUANTILE)])
def test_the_likeliest_surface_is_the_median_and_the_outer_one_a_quantile(field, share):
    """Of distances 0 to 12 mm at places that look alike: the guess of least cost, each alone."""
    true = torch.linspace(0, 12, 121).view(121, 1, 1)
    seen = torch.ones(121, 1, 1)
    guesses = torch.arange(0, 12, 0.25)
    costs = []
    for guess in guesses:
        predicted = true.expand(2, -1, -1, -1).clone()
        predicted[field] = guess
        costs.append(distance_loss(predicted, true, seen).item())
    weight = 1 + 4 * torch.exp(-true.flatten() / 3)
    below = weight.cumsum(0) / weight.sum()
    expected = true.flatten()[int((below >= share).nonzero()[0, 0])]
    assert guesses[int(np.argmin(costs))].item() == pytest.approx(expected.item(), abs=0.25)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0}, {"precision": "f64"}])
def test_a_schedule_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        Schedule(**wrong)


# --- scores ------------------------------------------------------------------------


def test_border_is_the_best_dice_among_those_with_enough_recall():
    scores = np.array([[[0.9, 0.95], [0.992, 0.93], [0.999, 0.90]], [[np.nan] * 2] * 3])
    assert choose_border(scores, [-1, 0, 1], recall=0.99) == 0
    assert choose_border(scores, [-1, 0, 1], recall=0.995) == 1
    assert choose_border(scores, [-1, 0, 1], recall=0) == -1
    assert choose_border(scores, [-1, 0, 1], recall=0.9999) == 1  # none: the closest


def test_border_keeps_enough_in_all_but_one_image_in_twenty():
    kept = np.linspace(0.95, 1, 100)
    scores = np.stack([np.stack([kept, kept], 1), np.stack([kept * 0 + 1, kept * 0.9], 1)], 1)
    assert choose_border(scores, [0, 1], recall=0.995) == 1


def test_the_likeliest_surface_is_cut_to_fit_and_the_outer_one_to_hold(heads, monkeypatch):
    """Recall rises with the border while Dice falls: only the second has to pay for it."""
    recall = np.linspace(0.98, 1.0, len(BORDERS_MM))
    rows = np.stack([recall, 1 - np.abs(recall - 0.985)], -1)
    asked = []

    def known(_network, _frame, _heads, borders_mm, *, seed):
        asked.append(list(borders_mm))
        places = [BORDERS_MM.index(border) for border in borders_mm]
        return np.repeat(rows[None, None, places], 2, axis=0)

    monkeypatch.setattr(extractor_scores, "mask_scores", known)
    card = extractor_scores.measure(None, FRAME, heads, heads)
    likely, outer = card["border_mm"], card["outer_border_mm"]
    assert recall[BORDERS_MM.index(likely)] == pytest.approx(0.985, abs=0.0005)
    assert recall[BORDERS_MM.index(outer)] >= 0.995 > recall[BORDERS_MM.index(outer) - 1]
    assert asked[1] == [likely, outer]


def test_a_perfect_prediction_scores_1(heads, monkeypatch):
    drawn = example(heads, FRAME, 3, 0)
    drawn = Example(drawn.image, drawn.distance, torch.ones_like(drawn.seen))
    both = drawn.distance.expand(1, 2, *FRAME.shape)
    monkeypatch.setattr(extractor_scores, "draw", lambda *_, **__: drawn)
    scores = mask_scores(lambda _: both, FRAME, heads, [0.0], seed=3, images=1)
    np.testing.assert_allclose(scores, np.ones((2, 1, 1, 2)))


# --- what is written ------------------------------------------------------------------


@pytest.fixture
def maps(heads, tmp_path, monkeypatch):
    for number in range(1, 21):
        (tmp_path / f"training_seg_{number:02d}.nii.gz").touch()
    monkeypatch.setattr(extractor, "read_heads", lambda _: heads)
    tiny = Design(StripSizes(features=2, most_features=2, levels=7), Frame((64, 64, 64), 1.0))
    monkeypatch.setattr(extractor, "DESIGNS", {"builtin": DESIGN, "synthstrip": tiny})
    monkeypatch.setattr(extractor_scores, "MEASURED_IMAGES", 1)
    return tmp_path


def test_weights_and_card_belong_together(maps):
    out = maps / "weights.safetensors"
    card = train_extractor(maps, out, Schedule(2, 1))
    assert json.loads(out.with_suffix(".json").read_text()) == card
    assert card["architecture"]["features"] == 2
    assert card["recipe"]["seed"] == 1
    assert "--steps 2 --seed 1" in card["recipe"]["command"]
    assert len(card["sha256"]) == 64
    assert {"border_mm", "outer_border_mm", "spacing_mm"} <= set(card)


def test_training_may_begin_with_an_earlier_extractor(maps):
    """At a rate of next to nothing it stays what it was; its card tells the whole history."""
    first = maps / "first.safetensors"
    train_extractor(maps, first, Schedule(2, 1))
    start = read_start(first)
    second = maps / "second.safetensors"
    card = train_extractor(maps, second, Schedule(1, 5, 1e-9), start=start)
    was, became = (load_file(path) for path in (first, second))
    for name, weights in was.items():
        torch.testing.assert_close(became[name], weights, rtol=2e-3, atol=1e-6)
    assert card["recipe"]["start"]["sha256"] == start.card["sha256"]
    assert card["recipe"]["start"]["recipe"]["seed"] == 1
    assert card["recipe"]["command"].endswith("--start FILE")


def test_a_run_that_began_with_other_weights_is_not_gone_on_with(maps, heads):
    first = maps / "first.safetensors"
    train_extractor(maps, first, Schedule(2, 1))
    fit(heads, DESIGN, Schedule(1, 1), maps / "run.pt")
    with pytest.raises(ConfigError, match="other settings"):
        fit(heads, DESIGN, Schedule(1, 1), maps / "run.pt", start=read_start(first))


def test_a_start_that_does_not_fit_is_refused(maps, monkeypatch):
    first = maps / "first.safetensors"
    train_extractor(maps, first, Schedule(1, 1))
    start = read_start(first)
    wider = Design(StripSizes(features=4, most_features=4, levels=2, block=2, fields=2), FRAME)
    monkeypatch.setattr(extractor, "DESIGNS", {"builtin": wider})
    with pytest.raises(ConfigError, match="not of the shape"):
        train_extractor(maps, maps / "second.safetensors", Schedule(1, 1), start=start)
    first.write_bytes(first.read_bytes() + b" ")
    with pytest.raises(ReadError, match="not the card of"):
        read_start(first)
    first.with_suffix(".json").write_text("{}")
    with pytest.raises(ReadError, match="version, sha256, recipe, architecture missing"):
        read_start(first)
    first.with_suffix(".json").write_text("{")
    with pytest.raises(ReadError, match="not JSON"):
        read_start(first)
    first.with_suffix(".json").unlink()
    with pytest.raises(ReadError, match="their card, beside"):
        read_start(first)


def test_synthstrips_shape_is_written_as_its_checkpoint(maps):
    out = maps / "trial.pt"
    assert train_extractor(maps, out, Schedule(1, 1), design="synthstrip") is None
    stored = torch.load(out, weights_only=True)
    assert set(stored) == {"model_state_dict"}


def test_missing_label_maps_are_named(tmp_path):
    with pytest.raises(ReadError, match=r"training_seg_01\.nii\.gz"):
        train_extractor(tmp_path, tmp_path / "out.safetensors", Schedule(1))


def test_an_unknown_design_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="builtin, synthstrip"):
        train_extractor(tmp_path, tmp_path / "out", Schedule(1), design="other")


@pytest.mark.slow
def test_a_trial_of_synthstrips_shape_is_read_as_its_weights(heads, tmp_path):
    network = fit(heads, extractor.DESIGNS["synthstrip"], Schedule(1), tmp_path / "run.pt")
    extractor._write_checkpoint(network, tmp_path / "trial.pt")
    read = load_synthstrip(tmp_path / "trial.pt")
    for name, weights in network.state_dict().items():
        assert torch.equal(weights, read.state_dict()[name])
