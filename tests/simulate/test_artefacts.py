"""Artefacts do what they are named for, and no more."""

import numpy as np
import pytest
from scipy import fft

from brainmets.simulate.artefacts import Artefacts, add_ghost, disturb, truncate

IMAGE = np.zeros((32, 40, 36), np.float32)
IMAGE[8:20, 10:25, 9:30] = 1.0


@pytest.mark.parametrize("axis", range(3))
def test_truncation_removes_the_high_frequencies_of_one_axis_only(axis):
    cut = truncate(IMAGE, axis, 0.5)
    spectrum = np.abs(fft.rfft(cut, axis=axis))
    lines = np.moveaxis(spectrum, axis, 0)
    kept = int(np.ceil(0.5 * len(lines)))
    assert lines[kept:].max() < 1e-4 * lines.max()
    np.testing.assert_allclose(cut.sum(axis=axis), IMAGE.sum(axis=axis), atol=1e-3)
    assert cut.max() > 1.02  # it rings
    np.testing.assert_allclose(truncate(IMAGE, axis, 1.0), IMAGE, atol=1e-5)


def test_a_ghost_is_a_faint_shifted_copy_that_takes_its_signal_from_the_image():
    ghosted = add_ghost(IMAGE, 1, 0.1, np.random.default_rng(0))
    assert ghosted.sum() == pytest.approx(IMAGE.sum(), rel=1e-5)
    assert ghosted[IMAGE == 0].max() == pytest.approx(0.05, abs=0.051)
    assert ghosted[IMAGE == 0].max() > 0.01
    assert ghosted[IMAGE == 1].min() >= 0.9 - 1e-6


def test_disturbing_is_a_function_of_the_seed_and_leaves_its_input_alone():
    before = IMAGE.copy()
    changed = 0
    for seed in range(24):
        (one, told), (same, _) = (disturb(IMAGE, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(one, same)
        assert one.shape == IMAGE.shape
        disturbed = bool(np.abs(one - IMAGE).max() > 1e-3)
        assert disturbed == (told != Artefacts())
        changed += disturbed
    np.testing.assert_array_equal(IMAGE, before)
    assert 4 <= changed <= 18
