"""A run that was killed and started again ends bit for bit where a straight one does."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from brainmets.config import Architecture, DecisionRule, Tiling, Training
from brainmets.errors import ConfigError, RunError
from brainmets.network.unet import UNet
from brainmets.training import loop, patches, report
from brainmets.training.loop import learning_rate, train, weights_of
from brainmets.training.rules import Tally
from brainmets.training.validation import Look
from training_cases import prepared_case

ARCHITECTURE = Architecture(width=4, full_resolution_channels=4)
TILING = Tiling(32)
TRAINING = Training(
    steps=4, batch=2, patch_vox=32, warmup_steps=2, checkpoint_every=2, precision="f32", seed=1
)


@pytest.fixture(autouse=True)
def _one_settling_batch(monkeypatch):
    monkeypatch.setattr(loop, "SETTLING_BATCHES", 2)


@pytest.fixture(scope="module")
def cases():
    return [prepared_case(seed=n, name=str(n)) for n in range(3)]


def equal(one, other):
    a, b = weights_of(one), weights_of(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def kill_at(monkeypatch, step):
    """The next run dies when it asks for the batch of ``step``."""
    draw = patches.draw_batch

    def dies(cases, training, number, device, share=None):
        if number == step and len(cases) > 1:  # a single case is held out
            raise KeyboardInterrupt
        return draw(cases, training, number, device, share)

    monkeypatch.setattr(patches, "draw_batch", dies)
    return lambda: monkeypatch.setattr(patches, "draw_batch", draw)


@pytest.mark.parametrize("killed_at", [2, 3])
def test_killed_and_resumed_equals_straight(cases, tmp_path, monkeypatch, killed_at):
    """Killed right after the checkpoint of step 2, or one step later."""
    training = TRAINING
    straight = train(cases, ARCHITECTURE, training, tmp_path / "straight.pt")
    heal = kill_at(monkeypatch, killed_at)
    with pytest.raises(KeyboardInterrupt):
        train(cases, ARCHITECTURE, training, tmp_path / "killed.pt")
    heal()
    torch.manual_seed(99)  # the state of the global generators is of no account
    np.random.seed(99)  # noqa: NPY002
    moments = []
    resumed = train(cases, ARCHITECTURE, training, tmp_path / "killed.pt", report=moments.append)
    assert moments[0].step == 3  # it did not begin anew
    assert equal(straight, resumed)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "loss": "dice+ce+cc"}])
def test_recomputing_gives_the_same_weights(cases, tmp_path, changes):
    kept = replace(TRAINING, **changes)
    one = train(cases, ARCHITECTURE, kept, tmp_path / "kept.pt")
    other = train(cases, ARCHITECTURE, replace(kept, recompute=True), tmp_path / "again.pt")
    assert equal(one, other)


def test_recomputing_keeps_less(cases):
    """Bytes that autograd keeps between the two passes."""
    kept = {}
    for recompute in (False, True):
        network = UNet(ARCHITECTURE)
        network.encoder.recompute = recompute
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.nbytes) or t, lambda t: t
        ):
            network.encoder(torch.zeros(1, 1, 64, 64, 64))
        kept[recompute] = sum(saved)
    assert kept[True] < 0.65 * kept[False]


def test_a_finished_run_started_again_gives_the_same_without_training(cases, tmp_path, monkeypatch):
    first = train(cases, ARCHITECTURE, TRAINING, tmp_path / "run.pt")
    monkeypatch.setattr(loop, "_advance", lambda *_: pytest.fail("trained on"))
    assert equal(train(cases, ARCHITECTURE, TRAINING, tmp_path / "run.pt"), first)


def test_killed_while_the_checkpoint_is_written_leaves_the_old_one(cases, tmp_path, monkeypatch):
    save, count = torch.save, []

    def dies(value, file):
        count.append(file)
        if len(count) == 2:
            file.write(b"half")
            raise KeyboardInterrupt
        save(value, file)

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        train(cases, ARCHITECTURE, TRAINING, tmp_path / "run.pt")
    monkeypatch.setattr(torch, "save", save)
    assert {p.name for p in tmp_path.iterdir()} == {"run.pt", "losses.csv", "tensorboard"}
    assert torch.load(tmp_path / "run.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        (ARCHITECTURE, {"seed": 2}),
        (ARCHITECTURE, {"steps": 8}),
        (ARCHITECTURE, {"learning_rate": 1e-4}),
        (replace(ARCHITECTURE, full_resolution_channels=0), {}),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(cases, tmp_path, architecture, change):
    checkpoint = tmp_path / "run.pt"
    train(cases, ARCHITECTURE, replace(TRAINING, steps=1), checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(ConfigError, match=r"run\.pt: holds a run of other settings"):
        train(cases, architecture, replace(TRAINING, **{"steps": 1, **change}), checkpoint)
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_of_other_cases_is_refused(cases, tmp_path):
    train(cases, ARCHITECTURE, replace(TRAINING, steps=1), tmp_path / "run.pt")
    changed = [replace(cases[0], key="another mask"), *cases[1:]]
    for others in (cases[:2], changed):
        with pytest.raises(ConfigError, match="other settings or cases"):
            train(others, ARCHITECTURE, replace(TRAINING, steps=1), tmp_path / "run.pt")


def test_looking_at_validation_cases_teaches_nothing(cases, tmp_path):
    training = replace(TRAINING, validate_every=1, keep="last")
    blind = train(cases[:2], ARCHITECTURE, training, tmp_path / "a.pt")
    moments = []
    seeing = train(
        cases[:2], ARCHITECTURE, training, tmp_path / "b.pt", validation=cases[2:], tiling=TILING,
        report=moments.append,
    )  # fmt: skip
    assert equal(blind, seeing)
    assert math.isfinite(moments[-1].checked.loss)
    assert 0 <= moments[-1].checked.f1 <= 1


def scripted(monkeypatch, scores):
    """Looks whose lesion F1 is as told; gives the weights that were looked at."""
    seen = []

    def look(engine, held_out, recipe, tiling):
        assert not engine.network.training
        seen.append({k: v.clone() for k, v in engine.network.named_parameters()})
        found = Tally(scores[len(seen) - 1], scores[len(seen) - 1], 0)
        return Look(DecisionRule(), found, 10, len(held_out))

    monkeypatch.setattr(loop, "look", look)
    return seen


@pytest.mark.parametrize(("scores", "best"), [((3, 7, 5, 6), 1), ((3, 7, 7, 6), 2)])
def test_the_weights_that_found_most_are_kept(cases, tmp_path, monkeypatch, scores, best):
    """Of equals the later."""
    seen = scripted(monkeypatch, scores)
    often = replace(TRAINING, validate_every=1)
    kept = train(
        cases[:2], ARCHITECTURE, often, tmp_path / "run.pt", validation=cases[2:], tiling=TILING
    )
    assert len(seen) == 4
    for name, value in kept.named_parameters():
        assert torch.equal(value, seen[best][name])


def test_training_on_does_not_leave_with_less_than_it_began_with(cases, tmp_path, monkeypatch):
    """What it starts from is looked at first, and kept if no later step finds as much."""
    start = weights_of(train(cases[:2], ARCHITECTURE, TRAINING, tmp_path / "a.pt"))
    seen = scripted(monkeypatch, (8, 7))
    kept = train(
        cases[:2], ARCHITECTURE, replace(TRAINING, learning_rate=0.1), tmp_path / "b.pt",
        validation=cases[2:], tiling=TILING, start=start, is_model=True,
    )  # fmt: skip
    assert len(seen) == 2
    assert all(torch.equal(value, start[name]) for name, value in kept.state_dict().items())
    history = report._history(tmp_path / "losses.csv")
    assert len(history.losses) == len(history.rates) == TRAINING.steps
    assert list(history.found) == [0, TRAINING.steps]
    assert history.found[0] > history.found[TRAINING.steps]


def test_a_run_that_ends_before_a_look_keeps_what_it_learnt(cases, tmp_path, monkeypatch):
    start = weights_of(train(cases[:2], ARCHITECTURE, TRAINING, tmp_path / "a.pt"))
    scripted(monkeypatch, (8,))
    learnt = train(
        cases[:2], ARCHITECTURE, TRAINING, tmp_path / "b.pt", validation=cases[2:], tiling=TILING,
        start=start, is_model=True, until=2,
    )  # fmt: skip
    assert not all(torch.equal(v, start[name]) for name, v in learnt.named_parameters())


def test_an_encoders_random_decoder_is_not_looked_at(cases, tmp_path, monkeypatch):
    start = weights_of(train(cases[:2], ARCHITECTURE, TRAINING, tmp_path / "a.pt"))
    seen = scripted(monkeypatch, (7,))
    train(
        cases[:2], ARCHITECTURE, TRAINING, tmp_path / "b.pt", validation=cases[2:], tiling=TILING,
        start=start,
    )  # fmt: skip
    assert len(seen) == 1


def test_what_was_kept_survives_a_break(cases, tmp_path, monkeypatch):
    """The best step comes before the last checkpoint: its weights are in it."""
    often = replace(TRAINING, validate_every=1)
    scripted(monkeypatch, (3, 7, 5, 6))
    straight = train(
        cases[:2], ARCHITECTURE, often, tmp_path / "a.pt", validation=cases[2:], tiling=TILING
    )
    heal = kill_at(monkeypatch, 3)
    scripted(monkeypatch, (3, 7, 5))
    with pytest.raises(KeyboardInterrupt):
        train(
            cases[:2], ARCHITECTURE, often, tmp_path / "b.pt", validation=cases[2:], tiling=TILING
        )
    heal()
    scripted(monkeypatch, (5, 6))
    again = train(
        cases[:2], ARCHITECTURE, often, tmp_path / "b.pt", validation=cases[2:], tiling=TILING
    )
    assert equal(again, straight)


def test_a_run_does_not_resume_with_other_validation_cases(cases, tmp_path):
    """They choose the weights: of two cohorts the best of either would be compared."""
    train(
        cases[:1],
        ARCHITECTURE,
        TRAINING,
        tmp_path / "r.pt",
        validation=cases[1:2],
        tiling=TILING,
        until=2,
    )
    with pytest.raises(ConfigError, match="other settings or cases"):
        train(
            cases[:1],
            ARCHITECTURE,
            TRAINING,
            tmp_path / "r.pt",
            validation=cases[2:],
            tiling=TILING,
        )


def test_no_whole_case_is_looked_at_if_none_is_asked_for(cases, tmp_path, monkeypatch):
    seen = scripted(monkeypatch, ())
    blind = replace(TRAINING, validate_every=1, validation_cases=0)
    moments = []
    train(
        cases[:2], ARCHITECTURE, blind, tmp_path / "a.pt", validation=cases[2:], tiling=TILING,
        report=moments.append,
    )  # fmt: skip
    assert not seen
    assert math.isnan(moments[-1].checked.f1)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    cases, tmp_path, monkeypatch
):
    checkpoint = tmp_path / "run.pt"
    heal = kill_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(cases, ARCHITECTURE, TRAINING, checkpoint)
    heal()
    before = checkpoint.read_bytes()
    broken = [replace(c, image=np.full_like(c.image, np.nan)) for c in cases]
    with pytest.raises(RunError, match="loss is nan at step 2; the last checkpoint is kept"):
        train(broken, ARCHITECTURE, TRAINING, checkpoint)
    assert checkpoint.read_bytes() == before


def test_the_patches_of_a_step_that_diverged_are_kept(cases, tmp_path, monkeypatch):
    def spoilt(*_):
        return torch.tensor(math.nan, requires_grad=True)

    monkeypatch.setattr(loop, "loss_of", spoilt)
    with pytest.raises(RunError, match=r"loss is nan at step 0.* diverged\.pt"):
        train(cases, ARCHITECTURE, TRAINING, tmp_path / "run.pt")
    kept = torch.load(tmp_path / "diverged.pt", weights_only=True)
    (batch,) = kept["batches"]
    assert kept["step"] == 0
    assert torch.equal(batch["image"], patches.draw_batch(cases, TRAINING, 0).image)


def test_the_log_has_every_step_and_survives_a_break(cases, tmp_path, monkeypatch):
    often = replace(TRAINING, validate_every=2)
    train(
        cases[:2],
        ARCHITECTURE,
        often,
        tmp_path / "a" / "run.pt",
        validation=cases[2:],
        tiling=TILING,
    )
    heal = kill_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(
            cases[:2],
            ARCHITECTURE,
            often,
            tmp_path / "b" / "run.pt",
            validation=cases[2:],
            tiling=TILING,
        )
    heal()
    train(
        cases[:2],
        ARCHITECTURE,
        often,
        tmp_path / "b" / "run.pt",
        validation=cases[2:],
        tiling=TILING,
    )
    one, other = ((tmp_path / x / "losses.csv").read_text(encoding="utf-8") for x in "ab")
    assert one == other
    rows = list(csv.DictReader(one.splitlines()))
    assert [bool(row["lesion_f1"]) for row in rows] == [False, True, False, True]
    rows = [line.split(",") for line in one.splitlines()]
    assert [row[0] for row in rows] == ["step", "1", "2", "3", "4"]
    assert [bool(row[3]) for row in rows[1:]] == [False, True, False, True]
    assert [float(r[1]) for r in rows[1:]] == [
        pytest.approx(learning_rate(often, n), rel=1e-5) for n in range(4)
    ]


def test_the_same_batch_twice_makes_the_step_of_the_batch(cases, monkeypatch):
    batch = patches.draw_batch(cases, TRAINING, 0)
    networks = []
    for batches in ([batch], [batch, batch]):
        state = loop._start(ARCHITECTURE, TRAINING, "cpu", None)
        loop._advance(state, batches, TRAINING, "cpu")
        networks.append(dict(state.network.named_parameters()))
    for name, value in networks[0].items():
        torch.testing.assert_close(networks[1][name], value, rtol=1e-4, atol=1e-6)


def test_accumulated_steps_take_batches_in_turn_and_resume(cases, tmp_path, monkeypatch):
    twofold = replace(TRAINING, accumulate=2)
    asked = []
    draw = patches.draw_batch
    monkeypatch.setattr(
        patches, "draw_batch", lambda c, t, n, d, s: asked.append(n) or draw(c, t, n, d, s)
    )
    straight = train(cases, ARCHITECTURE, twofold, tmp_path / "straight.pt")
    assert asked == list(range(8 + 2))  # the last two to settle the statistics
    monkeypatch.setattr(patches, "draw_batch", draw)
    heal = kill_at(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        train(cases, ARCHITECTURE, twofold, tmp_path / "killed.pt")
    heal()
    assert equal(train(cases, ARCHITECTURE, twofold, tmp_path / "killed.pt"), straight)


def test_the_polynomial_rate_falls_to_a_hundredth():
    training = Training(steps=1000, warmup_steps=100, schedule="polynomial")
    peak = training.learning_rate
    rates = [learning_rate(training, step) for step in range(1000)]
    assert rates[100] == pytest.approx(peak)
    assert rates[550] == pytest.approx(peak * 0.5**0.9)
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.01 * peak)


@pytest.mark.parametrize("loss", ["dice+hard", "dice+ce+blob", "focal-tversky+ce"])
def test_every_loss_teaches_and_resumes(cases, tmp_path, monkeypatch, loss):
    training = replace(TRAINING, loss=loss)
    straight = train(cases, ARCHITECTURE, training, tmp_path / "straight.pt")
    heal = kill_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(cases, ARCHITECTURE, training, tmp_path / "killed.pt")
    heal()
    assert equal(train(cases, ARCHITECTURE, training, tmp_path / "killed.pt"), straight)
    plain = train(cases, ARCHITECTURE, TRAINING, tmp_path / "plain.pt")
    assert not equal(plain, straight)


def test_the_rate_rises_linearly_then_falls_half_a_cosine():
    training = Training(steps=1000, warmup_steps=100, learning_rate=2e-3)
    rates = [learning_rate(training, step) for step in range(1001)]
    assert rates[0] == pytest.approx(2e-3 / 100)
    assert rates[99] == rates[100] == pytest.approx(2e-3)
    assert rates[49] == pytest.approx(1e-3)
    assert rates[550] == pytest.approx(2e-3 * (0.01 + 0.99 / 2))
    assert rates[1000] == pytest.approx(2e-5)
    assert np.all(np.diff(rates[:100]) > 0)
    assert np.all(np.diff(rates[100:]) < 0)


@pytest.mark.parametrize("warmup", [0, 5, 10])
def test_the_rate_is_defined_for_runs_shorter_than_the_warm_up(warmup):
    training = Training(steps=5, warmup_steps=warmup)
    rates = [learning_rate(training, step) for step in range(5)]
    assert all(0 < rate <= training.learning_rate for rate in rates)


def test_the_seed_decides_the_weights(cases, tmp_path):
    short = replace(TRAINING, steps=1)
    one, same, other = (
        train(cases, ARCHITECTURE, replace(short, seed=seed), tmp_path / f"{n}.pt")
        for n, seed in enumerate((1, 1, 2))
    )
    assert equal(one, same)
    assert not equal(one, other)


def test_the_network_comes_back_ready_for_use(cases, tmp_path):
    network = train(cases, ARCHITECTURE, TRAINING, tmp_path / "run.pt")
    assert not network.training
    assert all(m.momentum == 0.1 for m in network.modules() if hasattr(m, "momentum"))
    assert all(torch.isfinite(v).all() for v in weights_of(network).values())
    assert all(v.is_contiguous() and not v.requires_grad for v in weights_of(network).values())


def test_statistics_are_those_of_the_averaged_weights(cases, tmp_path):
    """Mean over the settling batches of what the first layer gives with the final weights."""
    network = train(cases, ARCHITECTURE, TRAINING, tmp_path / "run.pt")
    with torch.no_grad():
        means = [
            network.encoder.conv1(patches.draw_batch(cases, TRAINING, 4 + n).image).mean(
                (0, 2, 3, 4)
            )
            for n in range(2)
        ]
    torch.testing.assert_close(network.encoder.bn1.running_mean, (means[0] + means[1]) / 2)


def test_the_loss_is_reported_at_the_first_and_every_20th_step(cases, tmp_path, monkeypatch):
    losses = iter(range(100))

    def advance(state, *_):
        state.step += 1
        return float(next(losses))

    monkeypatch.setattr(loop, "_advance", advance)
    moments = []
    training = replace(TRAINING, steps=45, checkpoint_every=1000)
    train(cases, ARCHITECTURE, training, tmp_path / "run.pt", report=moments.append)
    assert [(m.step, m.steps) for m in moments] == [(1, 45), (20, 45), (40, 45)]
    assert [m.loss for m in moments] == [0, 9.5, 29.5]


@pytest.mark.slow
def test_a_bright_ball_is_learnt(tmp_path):
    """Loss falls well below where it starts, and the ball is brighter than the rest."""
    cases = [prepared_case((32, 32, 32), ((16, 16, 16),), radius=5, seed=n) for n in range(2)]
    training = replace(
        TRAINING, steps=120, checkpoint_every=120, learning_rate=5e-3, lesion_share=1.0, average=0.9
    )
    moments = []
    network = train(cases, ARCHITECTURE, training, tmp_path / "run.pt", report=moments.append)
    assert moments[-1].loss < 0.5 * moments[0].loss
    with torch.inference_mode():
        image = torch.from_numpy(cases[0].image.astype(np.float32))
        probability = network(image[None, None]).sigmoid()[0, 0].numpy()
    lesion = cases[0].labels > 0
    assert probability[lesion].mean() > 0.5
    assert probability[~lesion].mean() < 0.1
    assert math.isfinite(moments[-1].loss)


@pytest.mark.parametrize(
    ("units", "precision"),
    [({}, "f32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
)
def test_auto_takes_bf16_only_where_the_processor_has_units_for_it(monkeypatch, units, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **units})
    assert loop.settle_precision(Training(), "cpu").precision == precision
    for stated in ("f32", "bf16"):
        assert loop.settle_precision(Training(precision=stated), "cpu").precision == stated


def test_the_other_loss_reaches_the_weights_and_resumes(cases, tmp_path):
    other = replace(TRAINING, loss="dice+ce+cc")
    plain = weights_of(train(cases, ARCHITECTURE, TRAINING, tmp_path / "a.pt"))
    with_components = weights_of(train(cases, ARCHITECTURE, other, tmp_path / "b.pt"))
    assert any(not torch.equal(plain[k], with_components[k]) for k in plain)
    train(cases, ARCHITECTURE, other, tmp_path / "c.pt", until=2)
    again = weights_of(train(cases, ARCHITECTURE, other, tmp_path / "c.pt"))
    assert all(torch.equal(again[k], with_components[k]) for k in again)


def test_a_run_does_not_resume_from_another_start(cases, tmp_path):
    checkpoint = tmp_path / "run.pt"
    first, second = (
        weights_of(train(cases, ARCHITECTURE, replace(TRAINING, seed=s), tmp_path / f"{s}.pt"))
        for s in (1, 2)
    )
    train(cases, ARCHITECTURE, TRAINING, checkpoint, start=first, until=2)
    with pytest.raises(ConfigError, match="other settings"):
        train(cases, ARCHITECTURE, TRAINING, checkpoint, start=second)


def test_validation_patches_hold_no_pasted_metastases(cases, tmp_path, monkeypatch):
    asked, drawn_ahead = {}, loop.drawn_ahead

    def noted(of, training, *words):
        asked.setdefault(tuple(case.case_id for case in of), []).append(training.paste_share)
        return drawn_ahead(of, training, *words)

    monkeypatch.setattr(loop, "drawn_ahead", noted)
    learnt, held_out = list(cases)[:-1], list(cases)[-1:]
    pasting = replace(TRAINING, steps=1, paste_share=0.5)
    train(learnt, ARCHITECTURE, pasting, tmp_path / "run.pt", validation=held_out)
    assert set(asked[tuple(case.case_id for case in held_out)]) == {0.0}
    assert set(asked[tuple(case.case_id for case in learnt)]) == {0.5}


def test_a_run_begun_before_a_setting_existed_goes_on(cases, tmp_path):
    whole = train(cases, ARCHITECTURE, TRAINING, tmp_path / "whole.pt")
    train(cases, ARCHITECTURE, TRAINING, tmp_path / "old.pt", until=2)
    saved = torch.load(tmp_path / "old.pt", weights_only=True)
    del saved["settings"]["training"]["paste_share"]
    torch.save(saved, tmp_path / "old.pt")
    assert equal(train(cases, ARCHITECTURE, TRAINING, tmp_path / "old.pt"), whole)
