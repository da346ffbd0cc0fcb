"""Coarser stages answer while the network learns, lose no lesion, and leave no trace."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from brainmets.config import Architecture, Training
from brainmets.network.unet import UNet
from brainmets.training import loop
from brainmets.training.augment import Batch
from brainmets.training.deep import DeepHeads, coarser, shares, total
from brainmets.training.loop import train, weights_of
from brainmets.training.patches import draw_batch
from training_cases import prepared_case

ARCHITECTURE = Architecture(width=4, full_resolution_channels=4)
DEEP = Training(
    steps=3, batch=2, patch_vox=32, warmup_steps=1, checkpoint_every=1, precision="f32", seed=1,
    deep_supervision=3,
)  # fmt: skip
CASES = [prepared_case(seed=n, name=str(n)) for n in range(3)]


@pytest.fixture(autouse=True)
def _one_settling_batch(monkeypatch):
    monkeypatch.setattr(loop, "SETTLING_BATCHES", 1)


@pytest.mark.parametrize("levels", range(5))
def test_each_stage_answers_at_its_resolution(levels):
    network = UNet(ARCHITECTURE).eval()
    image = torch.randn(2, 1, 32, 32, 32)
    answers = DeepHeads(network, levels).answers(network, image)
    assert [tuple(a.shape) for a in answers] == [
        (2, 1, *(32 // 2**level,) * 3) for level in range(levels + 1)
    ]
    torch.testing.assert_close(answers[0], network(image))


@pytest.mark.parametrize("count", range(1, 6))
def test_each_answer_counts_half_of_the_next_finer_one(count):
    found = shares(count)
    assert sum(found) == pytest.approx(1)
    assert all(a == pytest.approx(2 * b) for a, b in pairwise(found))
    losses = [torch.tensor(n + 1.0) for n in range(count)]
    expected = sum(share * (n + 1) for n, share in enumerate(found))
    assert float(total(losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_no_lesion_is_lost_however_coarse(factor):
    """Voxel by voxel: lesion where any is, of the weight and the number of that lesion."""
    rng = np.random.default_rng(factor)
    regions = rng.integers(1, 5, (2, 1, 8, 8, 8)).astype(np.int16)
    target = (rng.random(regions.shape) < 0.02).astype(np.float32)
    weight = np.where(target > 0, rng.uniform(2, 8, target.shape), 1).astype(np.float32)
    batch = Batch(*(torch.from_numpy(a) for a in (target, target, weight, regions)))
    found = coarser(batch, factor)
    n = 8 // factor
    for place in np.ndindex(2, 1, n, n, n):
        cube = (*place[:2], *(slice(i * factor, (i + 1) * factor) for i in place[2:]))
        assert found.target[place] == target[cube].max()
        assert found.weight[place] == weight[cube].max()
        inside = regions[cube][target[cube] > 0]
        if inside.size:
            assert found.regions[place] == inside.max()


@pytest.mark.parametrize("pool", ["batch", "patch"])
@pytest.mark.parametrize("loss", ["dice+ce", "dice+ce+cc", "dice+ce+blob"])
def test_the_loss_of_a_step_is_that_of_all_answers(loss, pool):
    training = replace(DEEP, loss=loss, pool=pool)
    state = loop._start(ARCHITECTURE, training, "cpu", None)
    batch = draw_batch(CASES, training, 0)
    with torch.no_grad():
        answers = state.heads.answers(state.network, batch.image)
    singles = [
        float(loop.loss_of(a, coarser(batch, 2**n), training)) for n, a in enumerate(answers)
    ]
    state = loop._start(ARCHITECTURE, training, "cpu", None)
    assert loop._advance(state, [batch], training, "cpu") == pytest.approx(
        np.dot(shares(4), singles), rel=1e-4
    )
    moved = [conv.weight.grad.abs().max() > 0 for conv in state.heads.convs]
    assert moved == [True] * 3


def test_the_model_has_no_more_tensors_than_without(tmp_path):
    plain = train(CASES, ARCHITECTURE, replace(DEEP, deep_supervision=0), tmp_path / "a.pt")
    deep = train(CASES, ARCHITECTURE, DEEP, tmp_path / "b.pt")
    assert weights_of(plain).keys() == weights_of(deep).keys()
    assert any(not torch.equal(v, weights_of(deep)[k]) for k, v in weights_of(plain).items())


def test_it_resumes_to_the_same_weights(tmp_path):
    straight = train(CASES, ARCHITECTURE, DEEP, tmp_path / "a.pt")
    train(CASES, ARCHITECTURE, DEEP, tmp_path / "b.pt", until=2)
    again = train(CASES, ARCHITECTURE, DEEP, tmp_path / "b.pt")
    assert all(torch.equal(v, weights_of(again)[k]) for k, v in weights_of(straight).items())
