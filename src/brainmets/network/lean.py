"""Convolution, normalisation and ReLU for learning on a CPU: less memory, less time, same values.

As PyTorch does it, a normalisation keeps its input for the gradient, and the convolution after it
keeps what ReLU makes of the outcome, though the one follows from the other in a single cheap pass.
Here only the first is kept, and the second is made again when the gradient asks for it (Pleiss et
al. 2017, arXiv:1707.06990, did so for DenseNets). What doubling the resolution gives is made
again too.

With few channels PyTorch's normalisation is slow, as it runs over channels only. Here voxels that
lie side by side in memory are taken together as if they were channels.

All of it is for training on a CPU, with statistics of the batch; elsewhere these functions do what
their names say in PyTorch's own way. Only the first convolution is in float32 on every CPU.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

LANES = 64
"""Channels that one pass takes at least, if need be those of several voxels."""

FEWEST = 3
"""Voxels along each axis from which on a convolution's gradient in bfloat16 is right."""

_AGAIN = WeakTensorKeyDictionary()  # tensor → how to make it again


def is_lean(x: Tensor, norm: nn.BatchNorm3d) -> bool:
    """Whether the lean way is taken: in training on a CPU, by the statistics of the batch."""
    usual = norm.training and norm.affine and norm.momentum is not None
    exact = norm.weight.dtype in (torch.float32, torch.float64)
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last_3d)
    return usual and exact and dense and torch.is_grad_enabled() and x.device.type == "cpu"


def last(x: Tensor) -> Tensor:
    """The same tensor, channels last in memory, also where there is one channel.

    For one channel the two layouts are the same bytes, and PyTorch takes it for the other.
    """
    n, channels, *sides = x.shape
    x = x.contiguous(memory_format=torch.channels_last_3d)
    if channels > 1:
        return x
    a, b, c = sides
    return x.as_strided((n, 1, a, b, c), (a * b * c, 1, b * c, c, 1))


def first_convolved(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """The network's first convolution, of an image.

    With one channel there is nothing that bfloat16 units could speed up: on a CPU it is computed
    in float32, and rounded.
    """
    if x.device.type != "cpu":
        convolved: Tensor = conv(x)
        return convolved
    rounded = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    with torch.autocast("cpu", enabled=False):
        exact: Tensor = conv(last(x.to(conv.weight.dtype)))
    return exact.to(rounded)


def plain(conv: nn.Conv3d, x: Tensor, channels: slice = slice(None)) -> Tensor:
    """A convolution as PyTorch computes it, in float32 where its bfloat16 cannot be trusted.

    On a CPU, the weight gradient in bfloat16 of as few as 2³ voxels holds memory that nobody wrote
    (PyTorch 2.13, oneDNN): finite, infinite or right, as it happens.
    """
    if not _is_too_small(conv, x):
        return _convolved(conv, x, channels)
    with torch.autocast("cpu", enabled=False):
        exact = _convolved(conv, x.to(conv.weight.dtype), channels)
    return exact.to(torch.get_autocast_dtype("cpu"))


def _is_too_small(conv: nn.Conv3d, x: Tensor) -> bool:
    in_bf16 = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return in_bf16 and min(x.shape[2:]) <= (FEWEST - 1) * conv.stride[0]


def _convolved(conv: nn.Conv3d, x: Tensor, channels: slice) -> Tensor:
    if channels == slice(None):
        usual: Tensor = conv(x)
        return usual
    weight = conv.weight[:, channels]
    return functional.conv3d(
        x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )


def convolved(conv: nn.Conv3d, x: Tensor, channels: slice = slice(None)) -> Tensor:
    """A convolution, with some of its input channels; what can be made again is not kept."""
    if _is_too_small(conv, x) or (channels == slice(None) and _recipe(x) is None):
        return plain(conv, x, channels)
    return _forgetful(lambda: _convolved(conv, x, channels), x)


def _forgetful(function: Callable[[], Tensor], x: Tensor) -> Tensor:
    """What a function makes of ``x``, which is not kept if it can be made again."""
    again = _recipe(x)
    if again is None:
        return function()
    looks = _looks(x)  # not x itself: the hook lives as long as what it packs

    def pack(kept: Tensor) -> Tensor | Callable[[], Tensor]:
        return again if _looks(kept) == looks else kept

    with saved_tensors_hooks(pack, lambda kept: kept() if callable(kept) else kept):
        return function()


def _recipe(x: Tensor) -> Callable[[], Tensor] | None:
    recipe: Callable[[], Tensor] | None = _AGAIN.get(x)  # type: ignore[no-untyped-call]
    return recipe


def _looks(x: Tensor) -> tuple[Any, ...]:
    return x.data_ptr(), x.shape, x.dtype


def pooled(x: Tensor) -> Tensor:
    """The largest of 3³ voxels around every second one."""
    return _forgetful(lambda: functional.max_pool3d(x, 3, 2, 1), x)


def doubled(x: Tensor) -> Tensor:
    """Every voxel twice along each axis."""
    twice = _doubled(x)
    if torch.is_grad_enabled() and x.device.type == "cpu":
        kept = x.detach()
        own = _recipe(x) or (lambda: kept)
        _AGAIN[twice] = lambda: _doubled(own())
    return twice


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def normalised(norm: nn.BatchNorm3d, x: Tensor) -> Tensor:
    """ReLU of a normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167).

    The gradient that comes back to what this gives is overwritten: it is for layers that follow,
    not for whoever wants to look at it (``retain_grad``, ``torch.autograd.grad``).
    """
    if not is_lean(x, norm):
        return functional.relu(norm(x))
    mean, variance = _statistics(x.detach())
    _follow(norm, mean, variance, x.numel() // x.shape[1])
    affine = (norm.weight.detach(), norm.bias.detach(), mean, variance)
    again = _Again(x.detach(), affine, norm.eps)
    positive: Tensor = _NormRelu.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, mean, variance, norm.eps, again.handed
    )
    _AGAIN[positive] = again
    return positive


class _Again:
    """ReLU of a normalised tensor, made when asked for.

    The convolution asks first, the normalisation after it: what was made for the one is handed
    over to the other.
    """

    def __init__(self, x: Tensor, affine: tuple[Tensor, ...], eps: float) -> None:
        self.x, self.affine, self.eps = x, affine, eps
        self.handed: list[Tensor] = []

    def __call__(self) -> Tensor:
        self.handed[:] = [_scaled(self.x, self.affine, self.eps).relu_()]
        return self.handed[0]


@torch.no_grad()
def _follow(norm: nn.BatchNorm3d, mean: Tensor, variance: Tensor, values: int) -> None:
    """Move the running statistics, as PyTorch does."""
    momentum = norm.momentum or 0.0
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(variance * (values / (values - 1)), momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, *affine, ctx.eps, ctx.handed = given
        ctx.save_for_backward(x, *affine)
        return _scaled(x, affine, ctx.eps).relu_()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, *affine = ctx.saved_tensors
        weight, _, mean, variance = affine
        made = ctx.handed.pop() if ctx.handed else _scaled(x, affine, ctx.eps)
        slope = slopes[0].contiguous(memory_format=_format(x))
        # In place: in the network it comes from the layers after this, and nobody else holds it.
        torch.ops.aten.threshold_backward.grad_input(slope, made, 0, grad_input=slope)
        del made
        inverse = (variance + ctx.eps).rsqrt()
        of_weight, of_bias = _sums(slope, x, mean, inverse)
        # slope of x: w / σ · (slope − mean of slope − (x − µ) / σ · mean of (slope · (x − µ) / σ))
        n = x.numel() // x.shape[1]
        scale = weight * inverse
        shift = scale * inverse * of_weight / n
        offset = shift * mean - scale * of_bias / n
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)
        of_x = _scaled(x, (-shift, offset, zero, one), 0.0)
        wide, several = _wide(of_x)
        wide.addcmul_(_wide(slope)[0], scale.repeat(several).to(slope.dtype).view(1, -1, 1, 1, 1))
        return of_x, of_weight, of_bias, None, None, None, None


def _format(x: Tensor) -> torch.memory_format:
    last_ = x.is_contiguous(memory_format=torch.channels_last_3d)
    return torch.channels_last_3d if last_ else torch.contiguous_format


def _wide(x: Tensor) -> tuple[Tensor, int]:
    """A view with the channels of several voxels as if of one, and of how many."""
    channels = x.shape[1]
    voxels = x.numel() // channels
    several = 1
    while several * channels < LANES and voxels % (2 * several) == 0:
        several *= 2
    if several == 1 or _format(x) != torch.channels_last_3d:
        return x, 1
    flat = x.permute(0, 2, 3, 4, 1).reshape(1, voxels // several, 1, 1, several * channels)
    return flat.permute(0, 4, 1, 2, 3), several


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, float32."""
    wide, several = _wide(x)
    kind = torch.promote_types(x.dtype, torch.float32)
    exact = torch.zeros(wide.shape[1], dtype=kind)  # makes the answers as exact
    mean, variance = torch.batch_norm_update_stats(wide, exact, exact, 0.0)
    if several == 1:
        return mean, variance
    means, variances = mean.view(several, -1), variance.view(several, -1)
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def _scaled(x: Tensor, affine: Sequence[Tensor], eps: float) -> Tensor:
    """Normalised by weight, bias, mean and variance."""
    wide, several = _wide(x)
    tiled = [t.repeat(several) for t in affine]
    made: Tensor = torch.ops.aten.native_batch_norm(wide, *tiled, False, 0.0, eps)[0]
    return made if several == 1 else _narrow(made, x)


def _narrow(wide: Tensor, like: Tensor) -> Tensor:
    n, channels, *sides = like.shape
    return wide.permute(0, 2, 3, 4, 1).reshape(n, *sides, channels).permute(0, 4, 1, 2, 3)


def _sums(slope: Tensor, x: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel: Σ slope · (x − µ) / σ and Σ slope."""
    (wide, several), (of, _) = _wide(x), _wide(slope)
    mean, inverse = mean.repeat(several), inverse.repeat(several)
    _, weighed, plain = torch.ops.aten.native_batch_norm_backward(
        of, wide, torch.ones_like(mean), mean, inverse.square().reciprocal(), mean, inverse,
        False, 0.0, [False, True, True],
    )  # fmt: skip
    return weighed.view(several, -1).sum(0), plain.view(several, -1).sum(0)
