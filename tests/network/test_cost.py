"""Arithmetic is counted as PyTorch counts it."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from brainmets.config import Architecture
from brainmets.network import openvino_engine
from brainmets.network.cost import Timed, floating_point_operations, matrix_product, matrix_rate
from brainmets.network.unet import UNet
from stand_ins import Bright


@pytest.mark.parametrize(
    "architecture", [Architecture(4, 4), Architecture(16, 8), Architecture(64), Architecture(8)]
)
def test_operations_are_those_that_pytorch_counts(architecture):
    shape = (32, 64, 32)
    with torch.device("meta"):
        network = UNet(architecture).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 1, *shape))
    assert floating_point_operations(architecture, shape) == counter.get_total_flops()


@pytest.mark.parametrize("installed", [True, False])
def test_the_timed_product_is_the_product(installed, monkeypatch):
    monkeypatch.setattr(openvino_engine, "is_installed", lambda: installed)
    found = matrix_product(64, "f32")()
    one, other = np.random.default_rng(0).standard_normal((2, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(
        np.asarray(found if not installed else found[0]), one @ other, atol=1e-4
    )
    assert matrix_rate("f32", 64, 2) > 0


def test_timing_an_engine_changes_nothing():
    engine, tile = Bright(), np.full((4, 4, 4), 2.5, np.float32)
    timed = Timed(engine)
    np.testing.assert_array_equal(timed(tile), engine(tile))
    assert (timed.tiles, timed.name) == (1, "bright")
    assert timed.seconds > 0
