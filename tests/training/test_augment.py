"""What chance does to patches: image and truth stay together, and everything stays in bounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from brainmets.config import Training
from brainmets.training.augment import (
    LARGEST_SCALE,
    LARGEST_STRETCH,
    Crop,
    augment,
    bend,
    blur,
    coarsen,
    distort,
    grown,
    vary,
    weigh_lesions,
)

SIDE = 32
TRAINING = Training(patch_vox=SIDE, deform_share=1.0)
SEEDS = range(60)
EVERYWHERE = np.full((2, 2, 2), 1000, np.float32)


def drawn(seed, training=TRAINING, **but):
    return replace(vary(training, np.random.default_rng(seed)), **but)


def unlit(seed=0, **but):
    """A variation in space alone."""
    still = {
        "flips": (), "matrix": None, "shifts": None, "waves_mm": EVERYWHERE, "gain": 1.0,
        "offset": 0.0, "gamma": 1.0, "field": None, "blur_vox": (0, 0, 0), "coarse": (1, 1, 1),
        "noise": 0.0,
    }  # fmt: skip
    return drawn(seed, **{**still, **but})


def crop_of(image, does, labels=None, centre=None):
    image = np.asarray(image, np.float16)
    labels = np.zeros(image.shape) if labels is None else labels
    centre = (np.asarray(image.shape) - 1) / 2 if centre is None else centre
    depth = np.zeros(image.shape, np.int8)
    labels = np.asarray(labels, np.uint8)
    return Crop(image, labels, depth, None, centre, 0.0, 1.0, does)


def smooth_noise(shape, seed=0):
    return 20 * ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3)


def patch_of(crop):
    batch = augment([crop], TRAINING)
    return batch.image[0, 0].numpy(), batch.target[0, 0].numpy()


@pytest.mark.parametrize("seed", range(6))
def test_turned_as_scipy_turns(seed):
    """Against an affine transform of another library: image linear, labels nearest."""
    matrix = drawn(seed).matrix
    image = smooth_noise((64, 60, 62), seed)
    labels = image > 1
    crop = crop_of(image, unlit(matrix=matrix), labels)
    offset = crop.centre - matrix @ np.full(3, (SIDE - 1) / 2)
    shape = (SIDE,) * 3
    stored = image.astype(np.float16).astype(np.float32)
    expected = ndimage.affine_transform(stored, matrix, offset, shape, order=1)
    truth = ndimage.affine_transform(labels.astype(np.uint8), matrix, offset, shape, order=0)
    found, target = patch_of(crop)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (target != truth).mean() < 1e-3  # halves are rounded by either in its own way


def test_deformed_as_scipy_deforms():
    image = smooth_noise((60, 60, 60))
    does = unlit(matrix=np.eye(3), shifts=drawn(3, shifts=None).waves_mm[None].repeat(3, 0))
    shifts = grown(does.shifts, SIDE, torch.device("cpu")).numpy()
    points = np.indices((SIDE,) * 3) + (60 - SIDE) / 2 + shifts
    stored = image.astype(np.float16).astype(np.float32)
    found, _ = patch_of(crop_of(image, does))
    expected = ndimage.map_coordinates(stored, points, order=1)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("seed", range(12))
def test_image_and_truth_stay_together(seed):
    """What is bright in the image is lesion in the target, whatever was done in space."""
    shape = (56, 58, 60)
    distance = np.linalg.norm(np.indices(shape).T - np.array([28, 30, 27]), axis=-1).T
    lesion = distance < 8
    does = drawn(seed)
    does = unlit(matrix=does.matrix, shifts=does.shifts, flips=does.flips)
    found, target = patch_of(crop_of(10 * lesion, does, lesion))
    bright = found > 5
    assert 2 * (bright * target).sum() / (bright.sum() + target.sum()) > 0.95


def test_a_patch_sees_as_far_as_it_says():
    """Not one voxel of a turned and deformed patch lies outside the box that is read for it."""
    for seed in SEEDS:
        does = drawn(seed)
        corners = np.indices((SIDE,) * 3).reshape(3, -1) - (SIDE - 1) / 2
        places = does.matrix @ corners
        if does.shifts is not None:
            places = places + grown(does.shifts, SIDE, torch.device("cpu")).numpy().reshape(3, -1)
        assert (np.abs(places).max(1) <= does.reach(SIDE) + 1e-3).all()


def test_nothing_is_folded_torn_or_blown_up():
    """Volumes change by the stated scales and a little; nowhere is space turned inside out."""
    for seed in SEEDS:
        does = drawn(seed)
        size = np.linalg.det(does.matrix)
        largest = (LARGEST_SCALE * LARGEST_STRETCH) ** 3
        assert 1 / largest <= size <= largest
        if does.shifts is not None:
            moved = grown(does.shifts, SIDE, torch.device("cpu")).numpy()
            slopes = np.stack([np.stack(np.gradient(m)) for m in moved])
            local = np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)) + does.matrix)
            assert local.min() > 0.1


def test_the_stated_share_is_deformed_and_all_eight_mirrors_occur():
    rng = np.random.default_rng(0)
    many = [vary(replace(TRAINING, deform_share=0.3), rng) for _ in range(600)]
    assert abs(np.mean([v.matrix is not None for v in many]) - 0.3) < 0.08
    assert len({v.flips for v in many}) == 8
    assert not any(
        v.matrix is not None for v in [drawn(s, Training(deform_share=0)) for s in SEEDS]
    )


def test_patches_vary_with_the_seed_and_stay_in_range():
    image = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (8, 8, 8)).astype(np.float32))
    versions = [distort(image.clone(), drawn(seed)) for seed in SEEDS]
    assert torch.equal(distort(image.clone(), drawn(5)), versions[5])
    assert len({v.sum().item() for v in versions}) == len(versions)
    assert all(v.dtype == torch.float32 and v.shape == image.shape for v in versions)
    assert max(v.abs().max() for v in versions) < 10


def test_bending_keeps_the_order_of_grey_values():
    values = torch.linspace(-6, 10, 200)
    for gamma in (0.7, 1.0, 1.4):
        assert (bend(values, gamma).diff() > 0).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("width", [0.3, 0.8, 2.5])
def test_blurred_as_scipy_blurs(axis, width):
    image = np.random.default_rng(1).standard_normal((14, 16, 18)).astype(np.float32)
    expected = ndimage.gaussian_filter1d(
        image, width, axis, mode="nearest", radius=int(np.ceil(4 * width))
    )
    found = blur(torch.from_numpy(image), axis, width).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_coarse_voxels_lose_detail_and_keep_the_mean():
    image = torch.from_numpy(smooth_noise((32, 32, 32)).astype(np.float32))
    noisy = image + torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    coarse = coarsen(noisy, (4, 1, 1))
    assert coarse.shape == image.shape
    assert abs(float(coarse.mean() - noisy.mean())) < 0.05
    assert coarse.diff(dim=0).abs().mean() < 0.5 * noisy.diff(dim=0).abs().mean()
    assert torch.equal(coarsen(image, (1, 1, 1)), image)


@pytest.mark.parametrize("shape", [(5, 5, 5), (3, 6, 6, 6)])
def test_nodes_grow_as_pytorch_resamples_them(shape):
    nodes = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    channels = torch.from_numpy(nodes).reshape(1, -1, *shape[-3:])
    expected = torch.nn.functional.interpolate(
        channels, (SIDE,) * 3, mode="trilinear", align_corners=True
    )
    found = grown(nodes, SIDE, torch.device("cpu"))
    assert found.shape == (*shape[:-3], SIDE, SIDE, SIDE)
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=0, atol=1e-5)


def test_the_receive_field_is_smooth_and_leaves_darkness_dark():
    field = drawn(0, field=np.random.default_rng(0).normal(0, 0.1, (4, 4, 4)).astype(np.float32))
    image = torch.full((SIDE,) * 3, 2.0)
    lit = distort(image.clone(), unlit(field=field.field))
    assert 0.5 < float(lit.min() + 4) / 6 < 1 < float(lit.max() + 4) / 6 < 1.6
    assert max(float(lit.diff(dim=d).abs().max()) for d in range(3)) < 0.3
    assert torch.allclose(distort(image - 6, unlit(field=field.field)), image - 6)


def test_noise_has_the_stated_deviation():
    image = torch.zeros((SIDE,) * 3)
    noise = distort(image.clone(), unlit(noise=0.2))
    assert abs(float(noise.std()) - 0.2) < 0.01
    assert torch.equal(noise, distort(image.clone(), unlit(noise=0.2)))


def test_weights_follow_the_stated_formula():
    sizes = {1: 1, 2: 15, 3: 16, 4: 500, 5: 1000, 6: 4000}
    labels = torch.zeros(30, 30, 30, dtype=torch.uint8)
    flat = labels.view(-1)
    start = 0
    for label, size in sizes.items():
        flat[start : start + size] = label
        start += size
    found = torch.empty(labels.shape)
    weigh_lesions(labels, found)
    for label, size in sizes.items():
        expected = min(8, max(1, np.sqrt(1000 / size)))
        np.testing.assert_allclose(found[labels == label].numpy(), expected, rtol=1e-6)
    assert (found[labels == 0] == 1).all()
