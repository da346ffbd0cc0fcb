"""Ventricles widen, white matter darkens, everything else stays."""

import numpy as np
import pytest

from brainmets.simulate.ageing import darken_white_matter, ventricle_pull
from brainmets.simulate.anatomy import LATERAL_VENTRICLES, WHITE, read_anatomy
from label_heads import write_label_map


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return read_anatomy(write_label_map(tmp_path_factory.mktemp("head") / "small.nii.gz")).labels


def ventricle_share(labels, amount_mm):
    shifts = ventricle_pull(labels, amount_mm)
    axes = np.ogrid[tuple(slice(n) for n in labels.shape)]
    index = tuple(
        np.clip(np.rint(a + s), 0, n - 1).astype(int)
        for a, s, n in zip(axes, shifts, labels.shape, strict=True)
    )
    return np.isin(labels[index], LATERAL_VENTRICLES).mean()


def test_ventricles_grow_with_the_pull_and_shrink_against_it(labels):
    shares = [ventricle_share(labels, amount) for amount in (-1.5, 0, 2, 5)]
    assert shares[0] < shares[1] < shares[2] < shares[3]
    assert shares[1] == np.isin(labels, LATERAL_VENTRICLES).mean()


def test_no_shift_is_larger_than_stated(labels):
    length = np.sqrt(sum(s**2 for s in ventricle_pull(labels, 4.0)))
    assert length.max() == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_white_matter_only_ever_darkens_and_grey_hardly(labels, seed):
    image = np.ones(labels.shape, np.float32)
    darken_white_matter(image, labels, np.random.default_rng(seed))
    white = np.isin(labels, WHITE)
    assert image.max() <= 1 + 1e-6
    assert image.min() > 0.7
    assert image[white].min() < image[~white].min() + 1e-6
