"""The loss is the formula its docstring states, and teaches in the right direction."""

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss

from brainmets.training.loss import dice_and_cross_entropy

SHAPE = (2, 1, 4, 5, 6)


def draw(seed, *, weighted=True):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, SHAPE).astype(np.float32)
    target = (rng.random(SHAPE) < 0.3).astype(np.float32)
    weight = rng.uniform(1, 8, SHAPE).astype(np.float32) if weighted else np.ones_like(target)
    return logits, target, weight


def slow(logits, target, weight):
    """Voxel by voxel, in Python's own floats."""
    overlap = total = entropy = 0.0
    for z, t, w in zip(logits.flat, target.flat, weight.flat, strict=True):
        p = 1 / (1 + np.exp(-float(z)))
        overlap += w * p * t
        total += w * (p + t)
        entropy -= w * (t * np.log(p) + (1 - t) * np.log(1 - p))
    return 1 - (2 * overlap + 1) / (total + 1) + entropy / logits.size


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_formula_voxel_by_voxel(seed):
    values = draw(seed)
    found = dice_and_cross_entropy(*map(torch.from_numpy, values))
    assert float(found) == pytest.approx(slow(*values), rel=1e-5)


def test_without_weights_equals_monais_dice_and_torchs_entropy():
    """Smoothing of one voxel above and below, over the whole batch."""
    logits, target, weight = map(torch.from_numpy, draw(9, weighted=False))
    dice = DiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1, batch=True)(logits, target)
    entropy = torch.nn.BCEWithLogitsLoss()(logits, target)
    found = dice_and_cross_entropy(logits, target, weight)
    torch.testing.assert_close(found, dice + entropy)


def test_an_empty_target_gives_a_finite_gradient_that_lowers_every_probability():
    logits = torch.randn(SHAPE, generator=torch.manual_seed(0)).requires_grad_()
    loss = dice_and_cross_entropy(logits, torch.zeros(SHAPE), torch.ones(SHAPE))
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad > 0).all()


@pytest.mark.parametrize("extreme", [-200.0, 200.0])
def test_extreme_logits_give_finite_loss_and_gradient(extreme):
    logits = torch.full(SHAPE, extreme, requires_grad=True)
    target = torch.from_numpy(draw(0)[1])
    loss = dice_and_cross_entropy(logits, target, torch.ones(SHAPE))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_falls_as_the_prediction_gets_better():
    _, target, weight = map(torch.from_numpy, draw(3))
    truth = 2 * target - 1
    values = [
        float(dice_and_cross_entropy(s * truth, target, weight)) for s in (-4, -1, 0, 1, 4, 9)
    ]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.01


def test_a_heavier_voxel_missed_costs_more():
    target, weight = torch.zeros(SHAPE), torch.ones(SHAPE)
    target[0, 0, 0, 0, :2] = 1
    weight[0, 0, 0, 0, 0] = 8
    seen = torch.full(SHAPE, -5.0)
    light, heavy = seen.clone(), seen.clone()
    light[0, 0, 0, 0, 0] = heavy[0, 0, 0, 0, 1] = 5
    assert dice_and_cross_entropy(light, target, weight) < dice_and_cross_entropy(
        heavy, target, weight
    )
