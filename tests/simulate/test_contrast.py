"""Tissue is ordered as in T1, and only contrast agent makes vessels bright."""

from dataclasses import replace

import numpy as np
import pytest

from brainmets.simulate.anatomy import CEREBELLUM, Structure, read_anatomy
from brainmets.simulate.contrast import (
    WHITE,
    Style,
    brain_and_csf,
    render,
    rotation,
    warp,
)
from brainmets.simulate.noise import smooth_noise
from label_heads import label_map, write_label_map

SINUSES = (Structure.SAGITTAL_SINUS, Structure.TRANSVERSE_SINUS)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return read_anatomy(write_label_map(tmp_path_factory.mktemp("head") / "small.nii.gz"))


def signal(head, style, seed):
    image = render(head, style, np.random.default_rng(seed))
    free = head.structures == 0
    medians = {
        "white": image[np.isin(head.labels, WHITE) & free],
        "grey": image[np.isin(head.labels, (3, 42)) & free],
        "fluid": image[np.isin(head.labels, (4, 43)) & free],
        "sinus": image[np.isin(head.structures, SINUSES)],
    }
    return {name: float(np.median(values)) for name, values in medians.items()}


@pytest.mark.parametrize("spin_echo", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_white_is_brighter_than_grey_and_grey_than_fluid(head, spin_echo, seed):
    found = signal(head, Style(spin_echo=spin_echo, contrast=True), seed)
    assert found["white"] == pytest.approx(1, abs=0.06)
    assert found["fluid"] < found["grey"] < found["white"] + 0.03


@pytest.mark.parametrize("seed", range(3))
def test_sinuses_are_bright_with_contrast_agent_only(head, seed):
    given = signal(head, Style(spin_echo=False, contrast=True), seed)
    without = signal(head, Style(spin_echo=False, contrast=False), seed)
    assert given["sinus"] > 1.15 * given["white"]
    assert without["sinus"] < 1.1 * without["white"]


def test_an_image_is_a_function_of_the_seed(head):
    style = Style(spin_echo=False, contrast=True)
    one, same, other = (render(head, style, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.dtype == np.float32
    assert np.isfinite(one).all()


def test_warping_keeps_what_there_is(head):
    """No new codes; labels and structures stay together; volumes within the stated scale."""
    for seed in range(3):
        warped = warp(head, np.random.default_rng(seed))
        assert warped.labels.shape == warped.structures.shape
        assert set(np.unique(warped.labels)) <= {0, *np.unique(head.labels)}
        share = (warped.labels == 2).sum() / (head.labels == 2).sum()
        other = (warped.labels == 41).sum() / (head.labels == 41).sum()
        assert 0.6 < share < 1.5
        assert 0.6 < other < 1.5
        plexus = warped.structures == Structure.CHOROID_PLEXUS
        assert np.isin(warped.labels[plexus], (4, 5, 43, 44)).all()
        assert np.isin(warped.labels, CEREBELLUM).any()


def test_warping_leaves_the_head_as_it_was(head):
    before = replace(head, labels=head.labels.copy(), structures=head.structures.copy())
    warp(head, np.random.default_rng(0))
    np.testing.assert_array_equal(head.labels, before.labels)
    np.testing.assert_array_equal(head.structures, before.structures)


def test_some_heads_are_mirrored(head):
    """Left and right lie swapped in about half of them."""

    def left_first(anatomy):
        left, right = (np.argwhere(anatomy.labels == c)[:, 0].mean() for c in (2, 41))
        return left < right

    sides = {left_first(warp(head, np.random.default_rng(s))) for s in range(6)}
    assert sides == {False, True}


def test_brain_and_csf_are_one_without_holes():
    labels = np.array(label_map().data)
    labels[44, 50, 44] = 0  # a hole in the map
    labels[40:43, 50, 44] = 515
    found = brain_and_csf(labels)
    inside = (labels > 0) & (labels < 500)
    assert found[44, 50, 44]
    assert found[41, 50, 44]
    assert (found[inside]).all()
    assert found.sum() == inside.sum() + 4


def test_smooth_noise_has_about_unit_variance_and_is_smooth():
    noise = smooth_noise((60, 50, 40), 6, np.random.default_rng(0))
    assert noise.shape == (60, 50, 40)
    assert abs(noise.mean()) < 0.15
    assert 0.3 < noise.var() < 1.1
    assert np.abs(np.diff(noise, axis=0)).std() < 0.4 * noise.std()


def test_rotations_turn_about_x_then_y_then_z():
    found = rotation((90, 0, 90))
    np.testing.assert_allclose(found @ (0, 1, 0), (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(found @ (0, 0, 1), (1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(rotation((3, 4, 5)) @ rotation((3, 4, 5)).T, np.eye(3), atol=1e-12)
