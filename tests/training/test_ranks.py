"""Two processes that share every batch learn what one process learns from it."""

import os
import pickle
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from brainmets.config import Architecture, Training
from brainmets.errors import ConfigError
from brainmets.training import loop
from brainmets.training.patches import draw, draw_batch
from brainmets.training.ranks import Ranks, join
from training_cases import prepared_case

ARCHITECTURE = Architecture(width=4, full_resolution_channels=4)
SHARED = Training(
    steps=3, batch=4, patch_vox=32, warmup_steps=1, precision="f32", seed=1, pool="patch",
    freeze_statistics=True, checkpoint_every=1,
)  # fmt: skip
CASES = [prepared_case(seed=n, name=str(n)) for n in range(5)]
WORKER = """
import pickle, sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_ranks as t
from brainmets.training.ranks import in_company, join
torch.set_num_threads(1)
settings = pickle.loads(Path({folder!r}, "settings.pkl").read_bytes())
with in_company():
    ranks = join("cpu")
    out = Path({folder!r}) / f"{{ranks.rank}}.pt"
    torch.save(t.learnt(settings, Path({folder!r}), ranks), out)
"""


def learnt(training, folder, ranks):
    """The first step's gradients, and the weights after all steps."""
    state = loop._start(ARCHITECTURE, training, "cpu", None)
    batch = draw_batch(CASES, training, 0, share=ranks.share(training.batch))
    loop._advance(state, [batch], training, "cpu", ranks)
    gradients = {k: p.grad for k, p in state.network.named_parameters()}
    network = loop.train(CASES, ARCHITECTURE, training, folder / "run.pt", ranks=ranks)
    return gradients, dict(network.state_dict()), state.losses


def together(training, folder):
    """What two processes make of it."""
    folder.mkdir()
    (folder / "settings.pkl").write_bytes(pickle.dumps(training))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = WORKER.format(tests=os.path.dirname(__file__), folder=str(folder))  # noqa: PTH120
    path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), *sys.path])  # noqa: PTH120
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
              "PYTHONPATH": path}  # fmt: skip
    processes = [
        subprocess.Popen(  # noqa: S603  # own script
            [sys.executable, "-c", script], env={**common, "RANK": str(n), "LOCAL_RANK": str(n)}
        )
        for n in (0, 1)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    return [torch.load(folder / f"{n}.pt", weights_only=True) for n in (0, 1)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return together(SHARED, tmp_path_factory.mktemp("ranks") / "two")


def largest_difference(one, other):
    """Norm of the difference over the norm, of the tensor where it is largest."""
    return max(float((one[k] - other[k]).norm() / one[k].norm().clamp_min(1e-12)) for k in one)


def test_two_processes_give_the_gradients_of_one(shared, tmp_path):
    """To 1e-5 of each tensor's norm: statistics frozen, and a loss of each patch by itself."""
    gradients, _, losses = learnt(SHARED, tmp_path, Ranks())
    for theirs, _, their_losses in shared:
        assert largest_difference(gradients, theirs) < 1e-5
        assert their_losses == pytest.approx(losses, rel=1e-6)


def test_they_end_with_the_weights_of_one(shared, tmp_path):
    _, weights, _ = learnt(SHARED, tmp_path, Ranks())
    floats = [k for k, v in weights.items() if v.is_floating_point()]
    first = shared[0][1]
    assert largest_difference({k: weights[k] for k in floats}, first) < 1e-3


def test_with_live_statistics_they_differ(tmp_path):
    """As documented: each process normalises its own share."""
    live = replace(SHARED, freeze_statistics=False, steps=1)
    alone, _, _ = learnt(live, tmp_path, Ranks())
    theirs = together(live, tmp_path / "two")
    assert largest_difference(theirs[0][0], theirs[1][0]) == 0  # but do not part
    assert largest_difference(alone, theirs[0][0]) > 1e-3


def test_a_share_holds_the_patches_of_the_whole_batch():
    whole = draw_batch(CASES, SHARED, 3)
    halves = [draw_batch(CASES, SHARED, 3, share=Ranks(n, 2).share(4)) for n in (0, 1)]
    assert torch.equal(torch.cat([half.image for half in halves]), whole.image)
    assert torch.equal(torch.cat([half.target for half in halves]), whole.target)
    assert len(draw(CASES, SHARED, 3, share=range(1))) == 1


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ConfigError, match="a batch of 3 cannot be shared by 2 processes"):
        Ranks(0, 2).share(3)


def test_a_share_too_small_to_normalise_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="leaves normalisation a single value"):
        loop.train(
            CASES, ARCHITECTURE, replace(SHARED, batch=2), tmp_path / "r.pt", ranks=Ranks(0, 2)
        )


def test_alone_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join("cpu") == Ranks()
    assert Ranks().mean(0.5) == 0.5


@pytest.mark.parametrize("environment", [{}, {"RANK": "x"}, {"RANK": "0", "LOCAL_RANK": "-"}])
def test_an_environment_that_torchrun_would_not_set_is_refused(monkeypatch, environment):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WORLD_SIZE": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"RANK=.*expected a whole number as torchrun sets it"):
        join("cpu")


def test_an_error_of_another_process_is_told(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from brainmets.apps.cli import main; main()", "train", "nowhere",
         "-o", "m.brainmets"],
        env={**os.environ, "RANK": "1", "WORLD_SIZE": "2"}, capture_output=True, text=True,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("process 1: error: ")


def test_the_pool_of_a_patch_is_the_mean_of_single_losses():
    batch = draw_batch(CASES, SHARED, 0)
    logits = torch.randn(batch.image.shape, generator=torch.Generator().manual_seed(0))
    singles = [
        loop.loss_of(logits[n : n + 1], loop.Batch(*(t[n : n + 1] for t in vars(batch).values())),
                     replace(SHARED, pool="batch"))
        for n in range(4)
    ]  # fmt: skip
    assert float(loop.loss_of(logits, batch, SHARED)) == pytest.approx(float(sum(singles)) / 4)


def test_frozen_statistics_stay(tmp_path):
    network = loop.train(CASES, ARCHITECTURE, replace(SHARED, steps=1), tmp_path / "run.pt")
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            assert not value.any()
