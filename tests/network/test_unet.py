"""The network has the published encoder, keeps its input's shape, and sees single voxels."""

import pytest
import torch
from torch import nn

from brainmets.config import Architecture
from brainmets.network.unet import STRIDE, UNet


def resnet34(width=64, in_channels=1):
    """Names and 3D shapes of torchvision's resnet34 without ``fc``, written out by hand.

    He et al. 2016, table 1: a 7×7 convolution, then 3, 4, 6 and 3 blocks of two 3×3
    convolutions; stages 2 to 4 begin with stride 2 and a 1×1 shortcut.
    """
    shapes = {"conv1.weight": (width, in_channels, 7, 7, 7), **norm("bn1", width)}
    into = width
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        out = width * 2 ** (stage - 1)
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (out, into, 3, 3, 3)
            shapes |= norm(f"{name}.bn1", out)
            shapes[f"{name}.conv2.weight"] = (out, out, 3, 3, 3)
            shapes |= norm(f"{name}.bn2", out)
            if stage > 1 and block == 0:
                shapes[f"{name}.downsample.0.weight"] = (out, into, 1, 1, 1)
                shapes |= norm(f"{name}.downsample.1", out)
            into = out
    return shapes


def norm(name, channels):
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def on_meta(**architecture):
    """The network without memory: for names and shapes."""
    with torch.device("meta"):
        return UNet(Architecture(**architecture))


@pytest.mark.parametrize(("width", "channels"), [(64, 1), (16, 1), (4, 2)])
def test_the_encoder_has_resnet34s_names_and_shapes(width, channels):
    state = on_meta(width=width, in_channels=channels).encoder.state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == resnet34(width, channels)


def test_the_papers_encoder_has_63_5_million_parameters():
    """21.28 M 2D weights of ResNet-34; cubic kernels make 63.5 M of them."""
    count = sum(p.numel() for p in on_meta(width=64).encoder.parameters())
    assert count == pytest.approx(63.5e6, abs=0.05e6)
    named = {k for k, _ in on_meta(width=64).encoder.named_parameters()}
    written = sum(torch.Size(s).numel() for k, s in resnet34().items() if k in named)
    assert count == written


def test_the_strides_are_resnet34s():
    encoder = on_meta(width=4).encoder
    strides = {k: m.stride[0] for k, m in encoder.named_modules() if isinstance(m, nn.Conv3d)}
    twos = {k for k, stride in strides.items() if stride == 2}
    firsts = {f"layer{n}.0.{part}" for n in (2, 3, 4) for part in ("conv1", "downsample.0")}
    assert twos == {"conv1", *firsts}
    with torch.device("meta"):
        features = encoder(torch.empty(1, 1, 64, 64, 64))
    assert [f.shape[-1] for f in features] == [32, 16, 8, 4, 2]
    assert STRIDE == 32


@pytest.mark.parametrize("full", [0, 8])
@pytest.mark.parametrize("width", [4, 16, 64])
@pytest.mark.parametrize("shape", [(32, 32, 32), (64, 32, 96)])
def test_output_has_the_inputs_shape(width, full, shape):
    network = on_meta(width=width, full_resolution_channels=full, in_channels=2)
    with torch.device("meta"):
        assert network(torch.empty(2, 2, *shape)).shape == (2, 1, *shape)


def test_values_are_finite_and_begin_at_a_prevalence_of_1_percent():
    torch.manual_seed(0)
    network = UNet(Architecture(width=4, full_resolution_channels=4)).eval()
    with torch.inference_mode():
        probability = network(torch.randn(1, 1, 32, 32, 32)).sigmoid()
    assert 0.002 < probability.mean() < 0.05


@pytest.mark.parametrize("shape", [(33, 32, 32), (32, 48, 32), (32, 32, 16)])
def test_sides_that_are_no_multiple_of_the_stride_fail(shape):
    network = on_meta(width=4).eval()
    with torch.device("meta"), pytest.raises(RuntimeError):
        network(torch.empty(1, 1, *shape))


@pytest.mark.parametrize(("full", "differs"), [(0, False), (8, True)])
def test_only_the_full_resolution_path_tells_neighbouring_voxels_apart(full, differs):
    """With the encoder silenced, one voxel moves the output only through that path."""
    torch.manual_seed(1)
    network = UNet(Architecture(width=4, full_resolution_channels=full)).eval()
    nn.init.zeros_(network.encoder.conv1.weight)
    nn.init.normal_(network.head.weight)
    one = torch.zeros(1, 1, 32, 32, 32)
    one[0, 0, 15, 16, 17] = 10
    with torch.inference_mode():
        change = (network(one) - network(torch.zeros_like(one))).abs()[0, 0]
    assert bool(change.max() > 1e-4) is differs
    if differs:  # four 3³ convolutions reach four voxels, no further
        moved = change.nonzero()
        assert (moved - torch.tensor([15, 16, 17])).abs().max() <= 4
        assert change.argmax() != 0


def test_every_parameter_takes_part():
    torch.manual_seed(2)
    network = UNet(Architecture(width=4, full_resolution_channels=4)).train()
    network(torch.randn(2, 1, 32, 32, 32)).square().sum().backward()
    still = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
