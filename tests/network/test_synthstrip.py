import numpy as np
import pytest
import torch

from brainmets.errors import ConfigError
from brainmets.network.synthstrip import StripSizes, SynthStrip, scale_intensity

PUBLISHED = {
    "encoder": [
        [(1, 16), (16, 16)],
        [(16, 32), (32, 32)],
        [(32, 64), (64, 64)],
        [(64, 64), (64, 64)],
        [(64, 64), (64, 64)],
        [(64, 64), (64, 64)],
    ],
    "decoder": [
        [(64, 64), (64, 64)],
        [(128, 64), (64, 64)],
        [(128, 64), (64, 64)],
        [(128, 64), (64, 64)],
        [(128, 64), (64, 64)],
        [(96, 32), (32, 32)],
    ],
}
"""Channels in and out of each convolution of the published checkpoint."""


def published_shapes():
    shapes = {}
    pairs = [
        (f"{part}.{level}.{number}", pair)
        for part, levels in PUBLISHED.items()
        for level, convolutions in enumerate(levels)
        for number, pair in enumerate(convolutions)
    ]
    pairs += [(f"remaining.{n}", pair) for n, pair in enumerate([(48, 16), (16, 16), (16, 1)])]
    for name, (inputs, outputs) in pairs:
        shapes[f"{name}.conv.weight"] = (outputs, inputs, 3, 3, 3)
        shapes[f"{name}.conv.bias"] = (outputs,)
    return shapes


def test_state_dict_has_the_published_names_and_shapes():
    found = {name: tuple(value.shape) for name, value in SynthStrip().state_dict().items()}
    assert found == published_shapes()


def test_skips_join_the_matching_resolution():
    """A network that only copies its full-resolution skip returns the image itself."""
    network = SynthStrip(StripSizes(features=2, most_features=4, levels=3))
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    for name in ("encoder.0.0", "encoder.0.1", "remaining.1", "remaining.2"):
        state[f"{name}.conv.weight"][0, 0, 1, 1, 1] = 1
    state["remaining.0.conv.weight"][0, 4, 1, 1, 1] = 1  # the first channel after 4 upsampled
    network.load_state_dict(state)
    image = torch.rand(1, 1, 8, 12, 4)
    assert torch.equal(network(image), image)


def test_output_has_the_shape_of_the_input():
    network = SynthStrip(StripSizes(features=2, most_features=4, levels=4, convolutions=1))
    assert network(torch.zeros(2, 1, 16, 8, 24)).shape == (2, 1, 16, 8, 24)


@pytest.mark.parametrize("wrong", [{"levels": 1}, {"features": 0}, {"convolutions": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        StripSizes(**wrong)


def test_scaling_is_minimum_to_0_and_99th_percentile_to_1():
    image = np.random.default_rng(0).gamma(2, 50, (13, 7, 9)).astype(np.float32)
    shifted = image - image.min()
    expected = np.clip(shifted / np.percentile(shifted, 99), 0, 1)
    np.testing.assert_allclose(scale_intensity(torch.from_numpy(image)), expected, atol=1e-6)


def test_scaling_a_constant_gives_0():
    assert not scale_intensity(torch.full((4, 4, 4), 7.0)).any()
