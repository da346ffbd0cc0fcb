import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from brainmets.config import Architecture
from brainmets.network import lean, unet
from brainmets.network.lean import convolved, doubled, last, normalised, plain, pooled
from brainmets.network.unet import UNet


def volume(channels, sides=(6, 4, 8), *, kind=torch.float64, layout=torch.channels_last_3d):
    x = torch.randn(2, channels, *sides, dtype=kind).contiguous(memory_format=layout)
    return x.requires_grad_()


def norm_of(channels, kind=torch.float64):
    norm = nn.BatchNorm3d(channels).to(kind)
    nn.init.uniform_(norm.weight, -1.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
    return norm


def slopes(made, *of):
    torch.manual_seed(1)
    return torch.autograd.grad(made, of, torch.randn_like(made))


@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format])
@pytest.mark.parametrize("channels", [1, 3, 8, 64, 80])
def test_normalisation_is_pytorchs(channels, layout):
    torch.manual_seed(0)
    x, norm = volume(channels, layout=layout), norm_of(channels)
    own = copy.deepcopy(norm)
    found, expected = normalised(norm, x), functional.relu(own(x))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(norm.buffers(), own.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    ours = slopes(found, x, norm.weight, norm.bias)
    theirs = slopes(expected, x, own.weight, own.bias)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_chain_has_pytorchs_gradients():
    torch.manual_seed(0)
    x, skip = volume(8), volume(4, (12, 8, 16))
    norms = [norm_of(8), norm_of(4)]
    convs = [nn.Conv3d(12, 4, 3, padding=1).double(), nn.Conv3d(4, 2, 3, padding=1).double()]
    y = doubled(normalised(norms[0], x))
    both = convolved(convs[0], y, slice(8)) + convolved(convs[0], skip, slice(8, None))
    found = pooled(
        convolved(convs[1], normalised(norms[1], both - convs[0].bias.view(1, -1, 1, 1, 1)))
    )
    y = functional.relu(norms[0](x)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    y = torch.cat([y.repeat_interleave(2, 4), skip], dim=1)
    y = convs[1](functional.relu(norms[1](convs[0](y))))
    expected = functional.max_pool3d(y, 3, 2, 1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    learnt = [p for module in (*norms, convs[1]) for p in module.parameters()]
    learnt += [x, skip, convs[0].weight]
    for a, b in zip(slopes(found, *learnt), slopes(expected, *learnt), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_the_network_learns_as_without(kind, monkeypatch):
    torch.manual_seed(0)
    network = UNet(Architecture(width=8, full_resolution_channels=8))
    network = network.to(memory_format=torch.channels_last_3d).train()
    exact = copy.deepcopy(network).double()
    image = torch.randn(2, 1, 64, 64, 64)
    truth = (torch.rand(image.shape) > 0.9).float()

    def gradient(of, given, wanted, kind="float32"):
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
            logits = of(given)
        of.zero_grad()
        functional.binary_cross_entropy_with_logits(logits.to(wanted.dtype), wanted).backward()
        return torch.cat([p.grad.double().flatten() for p in of.parameters()])

    lean_one = gradient(copy.deepcopy(network), image, truth, kind)
    for module in (lean, unet):
        monkeypatch.setattr(module, "is_lean", lambda *_: False)
    best = gradient(exact, image.double(), truth.double())
    usual = gradient(network, image, truth, kind)
    error, usual_error = ((g - best).norm() / best.norm() for g in (lean_one, usual))
    assert error < 1.3 * usual_error


def test_nothing_is_kept_that_can_be_made_again():
    torch.manual_seed(0)
    x, norm, conv = volume(8, kind=torch.float32), norm_of(8, torch.float32), nn.Conv3d(8, 8, 3)
    positive = normalised(norm, x)
    made = convolved(conv, positive)
    gone = weakref.ref(positive)
    place = positive.data_ptr()
    kept = [t.data_ptr() for t in tensors_kept(made.grad_fn)]
    assert place not in kept
    del positive
    gc.collect()
    assert gone() is None
    made.sum().backward()
    assert x.grad.isfinite().all()


def tensors_kept(node):
    """Every tensor that a graph holds for its gradient without hooks of its own."""
    found = []
    for name in dir(node):
        if name.startswith("_raw_saved_"):
            packed = getattr(node, name)
            for one in packed if isinstance(packed, tuple) else [packed]:
                held = getattr(one, "data", None)
                found += [held] if isinstance(held, torch.Tensor) else []
    for following, _ in node.next_functions:
        found += tensors_kept(following) if following else []
    return found


def test_a_part_of_a_tensor_takes_pytorchs_way():
    whole = volume(8)
    norm = norm_of(4)
    part = whole[:, :4]
    found, expected = normalised(norm, part), functional.relu(copy.deepcopy(norm)(part))
    for a, b in zip(slopes(found, whole), slopes(expected, whole), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_one_channel_has_channels_last_too():
    x = torch.randn(2, 1, 3, 4, 5)
    same = last(x)
    assert torch.equal(same, x)
    conv = nn.Conv3d(1, 8, 3, padding=1)
    assert conv(same).is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(conv(same), conv(x), rtol=1e-5, atol=1e-6)


def test_frozen_statistics_are_used_and_stay():
    norm = norm_of(4, torch.float32).eval()
    before = [b.clone() for b in norm.buffers()]
    x = volume(4, kind=torch.float32)
    torch.testing.assert_close(normalised(norm, x), functional.relu(norm(x)))
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))


def spoil_memory():
    """Leave large numbers in memory that is free, for whoever reads what was not written."""
    for count in (5_000, 70_000, 442_368, 900_000):
        torch.full((count,), 3e30)


@pytest.mark.parametrize("way", [plain, convolved])
@pytest.mark.parametrize("sides", [(2, 2, 2), (1, 2, 2), (2, 4, 4), (4, 4, 4)])
def test_gradients_in_bfloat16_hold_nothing_that_nobody_wrote(way, sides):
    torch.manual_seed(0)
    conv = nn.Conv3d(128, 128, 3, padding=1, bias=False)
    conv = conv.to(memory_format=torch.channels_last_3d)
    x = volume(128, sides, kind=torch.float32)
    (exact,) = torch.autograd.grad(conv(x).square().mean(), conv.weight)
    for _ in range(6):
        spoil_memory()
        with torch.autocast("cpu", torch.bfloat16):
            found = way(conv, x)
        assert found.dtype == torch.bfloat16
        (slope,) = torch.autograd.grad(found.float().square().mean(), conv.weight)
        assert (slope - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("lean_way", [True, False])
def test_a_block_of_2_voxels_a_side_is_right_in_bfloat16(lean_way):
    """What patches of 64³ come down to in the encoder's last stage."""
    torch.manual_seed(0)
    block = unet.BasicBlock(128, 128).to(memory_format=torch.channels_last_3d)
    x = volume(128, (2, 2, 2), kind=torch.float32).detach()
    exact = torch.autograd.grad(block(x).square().mean(), block.conv1.weight)[0]
    for _ in range(6):
        spoil_memory()
        with torch.autocast("cpu", torch.bfloat16):
            loss = block(x, lean=lean_way).float().square().mean()
        (slope,) = torch.autograd.grad(loss, block.conv1.weight)
        assert (slope - exact).norm() < 0.1 * exact.norm()


def test_a_block_that_ends_at_2_voxels_a_side_is_right_in_bfloat16():
    torch.manual_seed(0)
    block = unet.BasicBlock(64, 128, 2).to(memory_format=torch.channels_last_3d)
    x = volume(64, (4, 4, 4), kind=torch.float32).detach()
    weights = [block.conv1.weight, block.conv2.weight, block.downsample[0].weight]
    exact = torch.autograd.grad(block(x).square().mean(), weights)
    for _ in range(6):
        spoil_memory()
        with torch.autocast("cpu", torch.bfloat16):
            loss = block(x).float().square().mean()
        found = torch.autograd.grad(loss, weights)
        for one, other in zip(found, exact, strict=True):
            assert (one - other).norm() < 0.1 * other.norm() + 1e-4


def test_some_input_channels_of_2_voxels_a_side_are_right_in_bfloat16():
    torch.manual_seed(0)
    conv = nn.Conv3d(192, 128, 3, padding=1, bias=False)
    x = volume(128, (2, 2, 2), kind=torch.float32).detach()
    part = slice(128)
    (exact,) = torch.autograd.grad(convolved(conv, x, part).square().mean(), conv.weight)
    for _ in range(6):
        spoil_memory()
        with torch.autocast("cpu", torch.bfloat16):
            loss = convolved(conv, x, part).float().square().mean()
        (found,) = torch.autograd.grad(loss, conv.weight)
        assert (found - exact).norm() < 0.02 * exact.norm()
