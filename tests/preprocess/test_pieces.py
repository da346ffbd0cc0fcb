"""Pieces are counted as numpy counts them, however they lie in memory."""

import numpy as np
import pytest

from brainmets.preprocess import pieces
from brainmets.preprocess.pieces import sizes_of


@pytest.mark.parametrize("slab_vox", [1, 50, 10**9])
@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_sizes_are_those_of_a_plain_count(monkeypatch, slab_vox, kind, order):
    monkeypatch.setattr(pieces, "SLAB_VOX", slab_vox)
    labels = np.random.default_rng(0).integers(0, 30, (9, 11, 7)).astype(kind).transpose(order)
    assert np.array_equal(sizes_of(labels[:, 1:], 33), np.bincount(labels[:, 1:].ravel(), None, 34))
    assert np.array_equal(sizes_of(labels[:0], 3), np.zeros(4))
