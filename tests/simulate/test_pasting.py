"""Pasted metastases lie in the brain, apart from what is there, and leave the rest of the scan."""

import numpy as np
import pytest
from scipy import ndimage

from brainmets.simulate.pasting import paste

SHAPE = (64, 60, 56)
MIDDLE = np.array(SHAPE) / 2
DISTANCE = np.sqrt(sum((a - m) ** 2 for a, m in zip(np.ogrid[:64, :60, :56], MIDDLE, strict=True)))
BRAIN = DISTANCE < 25


def head(seed=0):
    """Fluid within white matter, noise on both; grey values of any scale, 0 outside."""
    rng = np.random.default_rng(seed)
    values = np.where(DISTANCE < 10, 60.0, 200.0) + rng.normal(0, 4, SHAPE)
    return np.where(BRAIN, values, 0).astype(np.float32)


def pasted(seed, image=None, taken=None, count=2, brain=BRAIN):
    taken = np.zeros(SHAPE, bool) if taken is None else taken
    rng = np.random.default_rng(seed)
    return paste(head() if image is None else image, brain, taken, count, rng, spacing_mm=1.0)


@pytest.mark.parametrize("seed", range(8))
def test_cores_lie_in_the_brain_apart_from_lesions_that_are_there(seed):
    taken = np.zeros(SHAPE, bool)
    taken[40:48, 20:30, 20:30] = True
    _, cores = pasted(seed, taken=taken)
    assert not (cores & ~BRAIN).any()
    assert not (cores & ndimage.binary_dilation(taken, iterations=3)).any()


def test_fluid_and_what_takes_up_contrast_are_no_place_to_begin():
    image = head()
    image[DISTANCE < 14] = 60
    image[48:, :, :][BRAIN[48:]] = 450
    tissue = (DISTANCE >= 14) & BRAIN & (np.indices(SHAPE)[0] < 48)
    middles = [np.argwhere(cores).mean(axis=0) for seed in range(30)
               for cores in [pasted(seed, image, count=1)[1]] if cores.any()]  # fmt: skip
    assert all(tissue[tuple(np.rint(middle).astype(int))] for middle in middles)


def test_at_most_as_many_are_pasted_as_asked_for_and_mostly_as_many():
    counts = [ndimage.label(pasted(s, count=2)[1], np.ones((3, 3, 3)))[1] for s in range(30)]
    assert np.mean([n >= 1 for n in counts]) > 0.9
    assert np.mean(counts) < 3


def test_the_seed_alone_decides_and_the_input_stays_as_it_was():
    image = head()
    before = image.copy()
    (one, cores), (same, same_cores), (other, _) = (pasted(s, image) for s in (5, 5, 6))
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(cores, same_cores)
    assert (one != other).any()


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.02, -3.0), (50.0, 1000.0)])
def test_any_linear_scale_of_grey_values_gives_the_same_metastases(gain, offset):
    plain, cores = pasted(3)
    scaled, scaled_cores = pasted(3, head() * gain + offset)
    np.testing.assert_array_equal(cores, scaled_cores)
    np.testing.assert_allclose((scaled - offset) / gain, plain, atol=0.05)


def test_what_is_far_from_them_stays_and_most_are_brighter_than_white_matter():
    brighter, found = 0, 0
    for seed in range(20):
        image, cores = pasted(seed, count=1)
        far = ndimage.distance_transform_edt(~cores) > 45 if cores.any() else np.ones(SHAPE, bool)
        np.testing.assert_allclose(image[far], head()[far], atol=1e-3)
        np.testing.assert_allclose(image[~BRAIN], head()[~BRAIN], atol=1e-3)
        if cores.sum() > 10:
            found += 1
            brighter += np.percentile(image[cores], 75) > 215
    assert found > 8
    assert brighter > 0.6 * found


def test_the_scans_noise_goes_on_across_a_metastasis():
    quiet = np.where(DISTANCE < 10, 60.0, np.where(BRAIN, 200.0, 0)).astype(np.float32)
    (noisy, cores), (smooth, _) = pasted(2), pasted(2, quiet)
    deep = ndimage.binary_erosion(cores, iterations=2)
    grain = ndimage.laplace(noisy - smooth)
    assert deep.sum() > 20
    assert grain[deep].std() > 0.3 * grain[BRAIN & ~cores].std()


@pytest.mark.parametrize("seed", range(6))
def test_metastases_lie_apart_from_one_another(seed):
    first, both = (pasted(seed, count=count)[1] for count in (1, 2))
    assert not (first & ~both).any()
    assert not (both & ~first & ndimage.binary_dilation(first, iterations=3)).any()


def test_sizes_are_in_mm():
    def volumes(spacing_mm):
        cores = [
            paste(head(), BRAIN, np.zeros(SHAPE, bool), 1, np.random.default_rng(n),
                  spacing_mm=spacing_mm)[1]
            for n in range(40)
        ]  # fmt: skip
        return np.median([c.sum() for c in cores if c.any()]) * spacing_mm**3

    assert 1 / 3 < volumes(1.0) / volumes(0.5) < 3  # 8 if they were in voxels
    assert volumes(1.0) < 600  # most are small, as in patients


def test_around_some_white_matter_darkens():
    darker = 0
    for seed in range(20):
        image, cores = pasted(seed, count=1)
        away = ndimage.distance_transform_edt(~cores) if cores.any() else np.zeros(SHAPE)
        ring = (away > 2.5) & (away < 4.5) & (DISTANCE > 12) & (DISTANCE < 23)
        darker += bool(ring.any() and np.median(image[ring]) < 192)
    assert 3 <= darker <= 17


@pytest.mark.parametrize("brain", [np.zeros(SHAPE, bool), DISTANCE < 3])
def test_without_enough_brain_nothing_is_pasted(brain):
    image, cores = pasted(0, brain=brain)
    assert not cores.any()
    np.testing.assert_array_equal(image, head())


def test_a_flat_image_gives_no_scale_and_stays():
    image, cores = pasted(0, np.full(SHAPE, 5, np.float32))
    assert not cores.any()
    assert (image == 5).all()
