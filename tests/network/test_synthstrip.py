import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from brainmets.errors import ConfigError
from brainmets.network.synthstrip import (
    StripSizes,
    SynthStrip,
    blocks_to_channels,
    channels_to_blocks,
    scale_intensity,
)

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


def convolved(image, state, name, *, activate=True):
    """A 3³ convolution with zeros around, channel by channel, then LeakyReLU 0.2."""
    weight, bias = (state[f"{name}.conv.{part}"].numpy() for part in ("weight", "bias"))
    found = np.stack([
        sum(correlate(i, w, mode="constant") for i, w in zip(image, kernel, strict=True)) + b
        for kernel, b in zip(weight, bias, strict=True)
    ])  # fmt: skip
    return np.where(found >= 0, found, 0.2 * found) if activate else found


def slow_network(image, state, levels):
    """From the description: max-pool 2, nearest upsampling, skips, a linear end."""
    skips, image = [], image[None]
    for level in range(levels - 1):
        for n in range(2):
            image = convolved(image, state, f"encoder.{level}.{n}")
        skips.append(image)
        c, x, y, z = image.shape
        image = image.reshape(c, x // 2, 2, y // 2, 2, z // 2, 2).max(axis=(2, 4, 6))
    for level in range(levels - 1):
        for n in range(2):
            image = convolved(image, state, f"decoder.{level}.{n}")
        image = image.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
        image = np.concatenate([image, skips.pop()])
    for n in range(2):
        image = convolved(image, state, f"remaining.{n}")
    return convolved(image, state, "remaining.2", activate=False)[0]


def test_the_network_computes_what_a_slow_reference_does():
    torch.manual_seed(2)
    network = SynthStrip(StripSizes(features=2, most_features=4, levels=3)).double().eval()
    image = torch.rand(8, 12, 4, dtype=torch.float64)
    with torch.inference_mode():
        found = network(image[None, None])[0, 0].numpy()
    expected = slow_network(image.numpy(), network.state_dict(), 3)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_upsampling_at_its_own_resolution_gives_the_same_sum():
    """As trained, in float64: the shortcut is the same arithmetic, not an approximation."""
    torch.manual_seed(3)
    network = SynthStrip(StripSizes(features=3, most_features=5, levels=4)).double()
    image = torch.rand(1, 1, 16, 8, 24, dtype=torch.float64)
    with torch.inference_mode():
        plain, short = network.train()(image), network.eval()(image)
    torch.testing.assert_close(short, plain, atol=1e-12, rtol=0)


def test_blocks_of_voxels_become_channels_and_come_back():
    image = torch.arange(2 * 3 * 4 * 6 * 2).view(2, 3, 4, 6, 2)
    channels = blocks_to_channels(image, 2)
    assert channels.shape == (2, 24, 2, 3, 1)
    assert channels[0, :8, 1, 2, 0].tolist() == image[0, 0, 2:4, 4:6, 0:2].flatten().tolist()
    assert torch.equal(channels_to_blocks(channels, 2), image)
    assert blocks_to_channels(image, 1) is image


def test_a_network_of_blocks_gives_every_field_for_every_voxel():
    sizes = StripSizes(features=2, most_features=4, levels=3, block=2, fields=2)
    assert sizes.multiple == 8
    assert SynthStrip(sizes)(torch.zeros(1, 1, 16, 8, 24)).shape == (1, 2, 16, 8, 24)


@pytest.mark.parametrize(
    "wrong", [{"block": 0}, {"fields": 0}, {"levels": 1}, {"features": 0}, {"convolutions": 0}]
)
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
