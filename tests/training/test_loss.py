"""The loss is the formula its docstring states, and teaches in the right direction."""

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from scipy import ndimage

from brainmets.training.loss import (
    HARDEST_SHARE,
    SLIGHT,
    blob_dice,
    component_dice,
    dice_and_cross_entropy,
    dice_and_hardest,
    focal_tversky,
    surroundings,
)

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


def lesions(*centres, shape=(20, 18, 16), radius=2):
    at = np.indices(shape)
    target = np.zeros(shape, bool)
    for centre in centres:
        target |= ((at - np.array(centre)[:, None, None, None]) ** 2).sum(0) <= radius**2
    return target


@pytest.mark.parametrize("odd", [0, 1])
def test_each_voxel_belongs_to_the_nearest_lesion(odd):
    """Or to one that is at most 3.5 voxels further: a cube's diagonal."""
    target = lesions((4, 4, 4), (15, 12, 10), (4, 14, 12))[odd:, :, odd:]
    found = surroundings(target)
    labels, count = ndimage.label(target, np.ones((3, 3, 3)))
    distances = np.stack([
        ndimage.distance_transform_edt(labels != n) for n in range(1, count + 1)
    ])  # fmt: skip
    chosen = np.take_along_axis(distances, (found - 1)[None], 0)[0]
    assert (chosen - distances.min(0)).max() <= 2 * np.sqrt(3) + 1e-6
    assert (chosen == distances.min(0)).mean() > 0.9
    assert (found[target] == labels[target]).all()
    assert not surroundings(np.zeros((4, 4, 4), bool)).any()


def slow_components(logits, target, weight, regions):
    """Patch by patch, lesion by lesion."""
    losses = []
    for z, t, w, r in zip(logits[:, 0], target[:, 0], weight[:, 0], regions[:, 0], strict=True):
        for lesion in range(1, r.max() + 1):
            p = 1 / (1 + np.exp(-z[r == lesion].astype(float)))
            t_in, w_in = t[r == lesion], w[r == lesion]
            dice = (2 * (w_in * p * t_in).sum() + 0.01) / ((w_in * (p + t_in)).sum() + 0.01)
            losses.append(1 - dice)
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize("empty", [False, True])
def test_component_dice_equals_the_formula(empty):
    rng = np.random.default_rng(3)
    masks = [lesions((4, 4, 4), (14, 12, 10)), lesions((9, 9, 8)), lesions()]
    target = np.stack(masks)[:, None] & (not empty)
    regions = np.stack([surroundings(m & (not empty)) for m in masks])[:, None]
    logits = rng.normal(0, 2, target.shape).astype(np.float32)
    weight = rng.uniform(1, 8, target.shape).astype(np.float32)
    given = torch.from_numpy(logits).requires_grad_()
    found = component_dice(
        given, torch.from_numpy(target.astype(np.float32)), torch.from_numpy(weight),
        torch.from_numpy(regions),
    )  # fmt: skip
    assert float(found.detach()) == pytest.approx(
        slow_components(logits, target, weight, regions), rel=1e-5
    )
    found.backward()
    assert torch.isfinite(given.grad).all()


def test_a_region_whose_lesion_is_hidden_does_not_count():
    target = lesions((4, 4, 4), (13, 11, 9))
    regions = torch.from_numpy(surroundings(target))[None, None]
    even = torch.ones(regions.shape)
    shown = torch.from_numpy((target & (regions[0, 0] == 1).numpy()).astype(np.float32))[None, None]
    found = component_dice(40 * shown - 20, shown, even, regions)
    assert float(found) == pytest.approx(0, abs=1e-3)
    assert float(component_dice(even, 0 * shown, even, regions)) == 0


def test_a_small_lesion_missed_costs_as_much_as_a_large_one():
    target = lesions((4, 4, 4), radius=1) | lesions((13, 11, 9), radius=4)
    regions = torch.from_numpy(surroundings(target))[None, None]
    truth = torch.from_numpy(target.astype(np.float32))[None, None]
    even = torch.ones_like(truth)

    def loss_without(lesion):
        seen = truth * (regions != lesion)
        return float(component_dice(40 * seen - 20, truth, even, regions))

    assert loss_without(1) == pytest.approx(0.5, abs=0.002)  # one of two is lost wholly
    assert loss_without(2) == pytest.approx(0.5, abs=0.002)
    both = float(dice_and_cross_entropy(40 * truth - 20, truth, even))
    one = float(dice_and_cross_entropy(40 * truth * (regions != 1) - 20, truth, even))
    assert one - both < 0.5 * loss_without(1)


@pytest.mark.parametrize("seed", range(4))
def test_focal_tversky_equals_the_formula_voxel_by_voxel(seed):
    logits, target, weight = draw(seed)
    found = missed = false = 0.0
    for z, t, w in zip(logits.flat, target.flat, weight.flat, strict=True):
        p = 1 / (1 + np.exp(-float(z)))
        found += w * p * t
        missed += w * (1 - p) * t
        false += w * p * (1 - t)
    index = (found + 1) / (found + 0.7 * missed + 0.3 * false + 1)
    loss = focal_tversky(*map(torch.from_numpy, (logits, target, weight)))
    assert float(loss) == pytest.approx((1 - index) ** 0.75, rel=1e-5)


def test_focal_tversky_has_a_finite_gradient_where_nothing_is_wrong():
    logits = torch.full(SHAPE, 200.0, requires_grad=True)
    focal_tversky(logits, torch.ones(SHAPE), torch.ones(SHAPE)).backward()
    assert torch.isfinite(logits.grad).all()


def test_focal_tversky_blames_a_miss_more_than_a_false_alarm():
    target = torch.zeros(SHAPE)
    target[..., :3] = 1
    missed, false = 8 * target - 4, 8 * target - 4
    missed[0, 0, 0, 0, 0], false[0, 0, 0, 0, 5] = -4, 4
    weight = torch.ones(SHAPE)
    assert focal_tversky(missed, target, weight) > focal_tversky(false, target, weight)


def patches_with_lesions(seed):
    rng = np.random.default_rng(seed)
    target = ndimage.binary_opening(rng.random((3, 9, 10, 11)) < 0.55, np.ones((1, 2, 2, 2)))
    target[2] = False
    logits = rng.normal(0, 2, target.shape).astype(np.float32)[:, None]
    weight = rng.uniform(1, 4, target.shape).astype(np.float32)[:, None]
    regions = np.stack([surroundings(patch) for patch in target])[:, None]
    return logits, target.astype(np.float32)[:, None], weight, regions


@pytest.mark.parametrize("seed", range(3))
def test_blob_dice_equals_the_mean_over_lesions_one_by_one(seed):
    logits, target, weight, regions = patches_with_lesions(seed)
    losses = []
    for z, t, w in zip(logits, target, weight, strict=True):
        labels, count = ndimage.label(t[0], np.ones((3, 3, 3)))
        for lesion in range(1, count + 1):
            kept = (labels == 0) | (labels == lesion)
            p = 1 / (1 + np.exp(-z[0][kept].astype(float)))
            own, weights = (labels == lesion)[kept], w[0][kept]
            overlap, total = (weights * p * own).sum(), (weights * (p + own)).sum()
            losses.append(1 - (2 * overlap + SLIGHT) / (total + SLIGHT))
    assert len(losses) > 3
    found = blob_dice(*map(torch.from_numpy, (logits, target, weight, regions)))
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-4)


def test_blob_dice_of_patches_without_a_lesion_is_0_and_teaches_nothing():
    logits = torch.randn(SHAPE, requires_grad=True)
    nothing = torch.zeros(SHAPE)
    loss = blob_dice(logits, nothing, torch.ones(SHAPE), nothing.to(torch.int16))
    loss.backward()
    assert float(loss.detach()) == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_hardest_hundredth_of_each_patch_counts(seed):
    rng = np.random.default_rng(seed)
    shape = (2, 1, 10, 10, 10)
    logits = rng.normal(0, 3, shape).astype(np.float32)
    target = (rng.random(shape) < 0.1).astype(np.float32)
    weight = rng.uniform(1, 8, shape).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    entropy = -weight * (target * np.log(p) + (1 - target) * np.log(1 - p))
    hardest = [np.sort(patch.ravel())[-round(HARDEST_SHARE * 1000) :] for patch in entropy]
    dice = (2 * (weight * p * target).sum() + 1) / ((weight * (p + target)).sum() + 1)
    found = dice_and_hardest(*map(torch.from_numpy, (logits, target, weight)))
    assert float(found) == pytest.approx(1 - dice + np.mean(hardest), rel=1e-5)


def test_a_small_lesion_missed_with_certainty_is_learnt_from():
    """Where Dice and a mean over all voxels have next to no slope."""
    target = torch.zeros((1, 1, 64, 64, 64))
    target[0, 0, :20, :20, :20] = 1  # found
    target[0, 0, 40:43, 40:43, 40:43] = 1  # missed
    slopes = []
    for loss in (dice_and_cross_entropy, dice_and_hardest):
        logits = torch.full_like(target, -9.0)
        logits[0, 0, :20, :20, :20] = 9
        logits.requires_grad_()
        loss(logits, target, torch.ones_like(target)).backward()
        slopes.append(-float(logits.grad[0, 0, 41, 41, 41]))
    assert slopes[1] > 50 * slopes[0] > 0
