"""The networks as OpenVINO graphs, built operation by operation from their weights.

PyTorch is not needed. Batch normalisation, which is a scale and a shift once a network is
trained, is folded into the convolution before it in float64. The shapes of
:mod:`brainmets.network.unet` and :mod:`brainmets.network.synthstrip` are written down a
second time here; tests hold the two against each other.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from brainmets.errors import BundleError
from brainmets.network.bundle import LAST, Bundle, Int8, Tensors
from brainmets.network.rounding import WHOLE_NUMBERS, to_bfloat16

if TYPE_CHECKING:
    from openvino import Model

EPSILON = 1e-5
"""What PyTorch's batch normalisation adds to the variance."""
COUNTER = "num_batches_tracked"
"""A tensor of PyTorch's batch normalisation that has no part in inference."""
HEADROOM = 1.1
"""How far beyond the largest value seen 8 bits reach."""
FEWER = 64
"""Up to which the weights go in 8 bits where sums of two products are cut off."""
LEAST = 0.02
"""Of the largest channel: what a channel's largest value counts for at least."""
STAGES = ((1, 3), (2, 4), (4, 6), (8, 3))
"""ResNet-34: width, in multiples of the first, and blocks of each stage."""

Array = npt.NDArray[Any]
Node = Any
"""An operation's output; OpenVINO's Python classes carry no annotations."""


class Weights:
    """Tensors handed out by name, each checked, so that none is missed or left over."""

    def __init__(
        self, owner: str, tensors: Tensors, *, bf16: bool = False, exact: Collection[str] = ()
    ) -> None:
        """Tensors to hand out.

        Args:
            owner: names the model in errors.
            tensors: name → array.
            bf16: whether kernels are to be numbers of bfloat16.
            exact: layers whose kernels are not.
        """
        self._owner, self._tensors, self._left = owner, tensors, set(tensors)
        self._bf16, self._exact = bf16, exact

    def take(self, name: str, shape: tuple[int, ...]) -> Array:
        """One tensor as float64.

        Raises:
            BundleError: it is missing, of another shape, or not finite.
        """
        if name not in self._tensors:
            raise BundleError(f"{self._owner}: tensor {name!r} is missing from the model file")
        tensor = np.asarray(self._tensors[name])
        if tensor.shape != shape:
            raise BundleError(
                f"{self._owner}: tensor {name!r} has shape {tensor.shape}, expected {shape}"
            )
        values = tensor.astype(np.float64)
        if not np.isfinite(values).all():
            raise BundleError(f"{self._owner}: tensor {name!r} holds NaN or infinite values")
        self._left.discard(name)
        return values

    def normalised(
        self, convolution: str, norm: str, shape: tuple[int, int], kernel: int = 3
    ) -> tuple[Array, Array]:
        """A convolution's kernel and bias with the batch normalisation after it folded in.

        Args:
            convolution: name of the layer without bias.
            norm: name of the layer after it.
            shape: outputs, inputs.
            kernel: side of the kernel.
        """
        outputs = (shape[0],)
        weight = self.take(f"{convolution}.weight", (*shape, kernel, kernel, kernel))
        mean = self.take(f"{norm}.running_mean", outputs)
        variance = self.take(f"{norm}.running_var", outputs)
        scale = self.take(f"{norm}.weight", outputs) / np.sqrt(variance + EPSILON)
        bias = self.take(f"{norm}.bias", outputs) - mean * scale
        self._left.discard(f"{norm}.{COUNTER}")
        return self._fitted(convolution, weight * scale[:, None, None, None, None]), bias

    def plain(self, name: str, shape: tuple[int, int]) -> tuple[Array, Array]:
        """A convolution's kernel, 3³, and its bias, with no normalisation after it.

        Args:
            name: of the layer.
            shape: outputs, inputs.
        """
        kernel = self.take(f"{name}.weight", (*shape, 3, 3, 3))
        return self._fitted(name, kernel), self.take(f"{name}.bias", shape[:1])

    def _fitted(self, name: str, kernel: Array) -> Array:
        return to_bfloat16(kernel) if self._bf16 and name not in self._exact else kernel

    def require_none_left(self) -> None:
        """Refuse tensors that nobody asked for.

        Raises:
            BundleError: there is one.
        """
        for name in sorted(self._left):
            raise BundleError(f"{self._owner}: tensor {name!r} is not expected in the model file")


def unet_graph(
    bundle: Bundle,
    shape: tuple[int, int, int],
    *,
    int8: int = 0,
    bf16: bool = False,
    watched: bool = False,
) -> "Model":
    """The bundle's network with sigmoid: (1, channels, X, Y, Z) → (1, 1, X, Y, Z) probabilities.

    Args:
        bundle: the model.
        shape: X, Y, Z: multiples of 32.
        int8: up to which whole number the weights of those of the layers ``LAST`` go that the
            bundle says something of, which are then computed in 8 bits; 0: none is.
        bf16: whether the others are computed in bfloat16; their weights are then rounded here.
        watched: whether what reaches the layers ``LAST`` is given too, as further outputs.

    Raises:
        BundleError: a tensor is missing, superfluous, of another shape, or not finite; or
            nothing is said for ``int8``.
    """
    import openvino as ov
    from openvino import opset13 as op

    width, full = bundle.architecture.width, bundle.architecture.full_resolution_channels
    channels = bundle.architecture.in_channels
    if int8 and not bundle.int8:
        raise BundleError(f"{bundle.name} holds nothing for int8")
    eight = Eight(bundle.name, bundle.int8 if int8 else None, int8)
    weights = Weights(bundle.name, bundle.weights, bf16=bf16, exact=eight.layers)
    image = op.parameter([1, channels, *shape], np.float32)
    skips = [*_encoder(image, weights, channels, width)]
    deep = skips.pop()
    sizes = [width, width, 2 * width, 4 * width]
    if full:
        folded = weights.normalised("full_resolution.0", "full_resolution.1", (full, channels))
        skips.insert(0, op.relu(convolution(image, *folded)))
        sizes.insert(0, full)
    inner, seen = _decoder(deep, skips, weights, sizes, width, eight)
    plain = weights.plain("head", (1, _decoder_widths(width)[-1]))
    logits = eight.convolution("head", inner, *plain)
    weights.require_none_left()
    further = [x.output(0) for x in (*seen, inner) if watched]
    return ov.Model([op.sigmoid(logits).output(0), *further], [image], "unet")


def last_kernels(bundle: Bundle) -> dict[str, Array]:
    """The kernels of ``LAST``: (outputs, inputs, 3, 3, 3), float64.

    Args:
        bundle: of one network.

    Raises:
        BundleError: as :func:`unet_graph`.
    """
    width, full = bundle.architecture.width, bundle.architecture.full_resolution_channels
    *_, deep, half, outputs = _decoder_widths(width)
    inputs = {3: (half, deep + width), 4: (outputs, half + full)}
    weights = Weights(bundle.name, bundle.weights)
    kernels = {}
    for name in LAST[:-1]:
        level, layer = int(name.split(".")[1]), name[-1]
        count, joined = inputs[level]
        shape = (count, joined if layer == "1" else count)
        kernels[name], _ = weights.normalised(name, f"decoder.{level}.bn{layer}", shape)
    kernels["head"], _ = weights.plain("head", (1, outputs))
    return kernels


@dataclass(frozen=True)
class Eight:
    """Which layers are computed in 8 bits, and how.

    Every channel of a layer's input is divided by its largest value on the way into 8 bits, and
    the weights it meets are multiplied by it, so that all share the steps of 8 bits (after Nagel
    et al. 2019, arXiv:1906.04721).

    Attributes:
        owner: names the model in errors.
        said: what the model says; None: no layer is.
        whole_numbers: up to which the weights go.
    """

    owner: str
    said: Int8 | None
    whole_numbers: int

    @property
    def layers(self) -> tuple[str, ...]:
        """Those in 8 bits."""
        return tuple(self.said.largest) if self.said else ()

    def ranges(self, name: str, channels: int) -> Array:
        """What each channel of a layer's input is divided by; of next to none what counts little.

        Raises:
            BundleError: they are not as many as the layer has.
        """
        said = self.said.largest[name] if self.said else ()
        if len(said) != channels:
            raise BundleError(
                f"{self.owner}: for int8 it gives {len(said)} channels before {name!r}, "
                f"expected {channels}"
            )
        return np.maximum(said, LEAST * max(said))

    def scaled(self, name: str, kernel: Array) -> Array:
        """A layer's kernel for input whose channels are divided by ``ranges``."""
        return np.asarray(kernel * self.ranges(name, kernel.shape[1])[:, None, None, None])

    def convolution(self, name: str, x: Node, kernel: Array, bias: Array) -> Node:
        """The layer ``name``, in 8 bits if the model says so.

        Raises:
            BundleError: rounded weights, or channels, that are not as many as the layer's.
        """
        if self.said is None or name not in self.layers:
            return convolution(x, kernel, bias)
        ranges, kernel = self.ranges(name, kernel.shape[1]), self.scaled(name, kernel)
        step = step_of(kernel)
        if self.whole_numbers == WHOLE_NUMBERS and name in self.said.rounded:
            whole = np.frombuffer(self.said.rounded[name], np.int8)
            if whole.size != kernel.size:
                raise BundleError(
                    f"{self.owner}: for int8 it gives {whole.size} rounded weights of {name!r}, "
                    f"expected {kernel.size}"
                )
            kernel = whole.reshape(kernel.shape) * step
        return convolution_in_8_bits(
            x, ranges, kernel, bias, step * (WHOLE_NUMBERS / self.whole_numbers)
        )


def step_of(kernel: Array) -> Array:
    """What a whole number stands for in each output channel: 127 for the largest weight."""
    largest = np.abs(kernel).max((1, 2, 3, 4), keepdims=True)
    return np.asarray(np.maximum(largest, np.finfo(np.float32).tiny) / WHOLE_NUMBERS)


def _encoder(image: Node, weights: Weights, channels: int, width: int) -> list[Node]:
    """Features at strides 2, 4, 8, 16 and 32."""
    from openvino import opset13 as op

    folded = weights.normalised("encoder.conv1", "encoder.bn1", (width, channels), 7)
    x = op.relu(convolution(image, *folded, stride=2))
    features = [x]
    x = op.max_pool(x, [2] * 3, [1] * 3, [1] * 3, [1] * 3, [3] * 3).output(0)
    inputs = width
    for number, (times, blocks) in enumerate(STAGES, start=1):
        outputs = times * width
        for block in range(blocks):
            stride = 2 if block == 0 and number > 1 else 1
            name = f"encoder.layer{number}.{block}"
            x = _basic_block(x, weights, name, (outputs, inputs), stride)
            inputs = outputs
        features.append(x)
    return features


def _basic_block(x: Node, weights: Weights, name: str, shape: tuple[int, int], stride: int) -> Node:
    from openvino import opset13 as op

    outputs, inputs = shape
    shortcut = x
    if stride != 1 or inputs != outputs:
        folded = weights.normalised(f"{name}.downsample.0", f"{name}.downsample.1", shape, 1)
        shortcut = convolution(x, *folded, stride=stride)
    folded = weights.normalised(f"{name}.conv1", f"{name}.bn1", shape)
    x = op.relu(convolution(x, *folded, stride=stride))
    folded = weights.normalised(f"{name}.conv2", f"{name}.bn2", (outputs, outputs))
    return op.relu(op.add(convolution(x, *folded), shortcut))


def _decoder_widths(width: int) -> list[int]:
    return [4 * width, 2 * width, width, max(8, width // 2), max(8, width // 4)]


def _decoder(
    deep: Node,
    skips: list[Node],
    weights: Weights,
    sizes: list[int],
    width: int,
    eight: Eight,
) -> tuple[Node, list[Node]]:
    """Five doublings of resolution; ``skips`` and their ``sizes`` from fine to coarse.

    Returns:
        The output, and the inputs of those layers that are among ``LAST``.
    """
    from openvino import opset13 as op

    inputs, seen = 8 * width, []
    for number, outputs in enumerate(_decoder_widths(width)):
        x, joined = doubled(deep), inputs
        if skips:
            x, joined = op.concat([x, skips.pop()], 1), inputs + sizes.pop()
        for layer, shape in ((1, (outputs, joined)), (2, (outputs, outputs))):
            name = f"decoder.{number}.conv{layer}"
            seen += [x] if name in LAST else []
            folded = weights.normalised(name, f"decoder.{number}.bn{layer}", shape)
            x = op.relu(eight.convolution(name, x, *folded))
        deep, inputs = x, outputs
    return deep, seen


def synthstrip_graph(
    tensors: Tensors, widths: Sequence[int], repeats: int, ends: tuple[int, int],
    shape: tuple[int, int, int],
) -> "Model":  # fmt: skip
    """SynthStrip's U-Net: (1, inputs, X, Y, Z) → (1, outputs, X, Y, Z).

    Args:
        tensors: its state dict.
        widths: channels at each level, full resolution first.
        repeats: convolutions at each level.
        ends: channels of the input and of the output.
        shape: X, Y, Z: multiples of 2 to the power of levels - 1.

    Raises:
        BundleError: a tensor is missing, superfluous, of another shape, or not finite.
    """
    import openvino as ov
    from openvino import opset13 as op

    weights = Weights("brain extractor", tensors)
    image = op.parameter([1, ends[0], *shape], np.float32)
    x, inputs = image, ends[0]
    skips = []
    for level, width in enumerate(widths[:-1]):
        x = _chain(x, weights, f"encoder.{level}", (inputs, *[width] * repeats))
        skips.append((x, width))
        x = op.max_pool(x, [2] * 3, [1] * 3, [0] * 3, [0] * 3, [2] * 3).output(0)
        inputs = width
    levels = [(f"decoder.{n}", width) for n, width in enumerate(reversed(widths[1:]))]
    for name, width in [*levels, ("remaining", widths[0])]:
        if name != "decoder.0":
            skip, more = skips.pop()
            x, inputs = op.concat([doubled(x), skip], 1), inputs + more
        x = _chain(x, weights, name, (inputs, *[width] * repeats))
        inputs = width
    last = f"remaining.{repeats}.conv"
    x = convolution(x, *weights.plain(last, (ends[1], inputs)))
    weights.require_none_left()
    return ov.Model([x], [image], "synthstrip")


def _chain(x: Node, weights: Weights, name: str, sizes: Sequence[int]) -> Node:
    from openvino import opset13 as op

    slope = op.constant(np.array([0.2], np.float32))
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        folded = weights.plain(f"{name}.{number}.conv", (outputs, inputs))
        x = op.prelu(convolution(x, *folded), slope)
    return x


def convolution(x: Node, kernel: Array, bias: Array, *, stride: int = 1) -> Node:
    """A convolution of a kernel (outputs, inputs, side, side, side), padded with 0."""
    from openvino import opset13 as op

    return _convolved(x, op.constant(kernel.astype(np.float32)), kernel.shape[-1], bias, stride)


def convolution_in_8_bits(x: Node, ranges: Array, kernel: Array, bias: Array, step: Array) -> Node:
    """A convolution whose input and weights are whole numbers of 8 bits.

    Args:
        x: input, not negative.
        ranges: what each of its channels is divided by; it then reaches to ``HEADROOM``.
        kernel: for the channels divided: (outputs, inputs, side, side, side).
        bias: of each output.
        step: what a whole number stands for in the kernel, (outputs, 1, 1, 1, 1).
    """
    from openvino import opset13 as op

    reach = (HEADROOM * ranges).astype(np.float32).reshape(1, -1, 1, 1, 1)
    nothing, top = np.float32(0), np.float32(HEADROOM)
    x = op.fake_quantize(x, np.zeros_like(reach), reach, nothing, top, 256)
    most = np.maximum(step * WHOLE_NUMBERS, np.finfo(np.float32).tiny).astype(np.float32)
    weight = op.constant(kernel.astype(np.float32))
    weight = op.fake_quantize(weight, -most, most, -most, most, 255)
    return _convolved(x, weight, kernel.shape[-1], bias)


def _convolved(x: Node, weight: Node, side: int, bias: Array, stride: int = 1) -> Node:
    from openvino import opset13 as op

    pad = [side // 2] * 3
    shift = op.constant(bias.astype(np.float32).reshape(1, -1, 1, 1, 1))
    return op.add(op.convolution(x, weight, [stride] * 3, pad, pad, [1] * 3), shift)


def largest_sums(whole_numbers: int) -> "Model":
    """One convolution in 8 bits: from inputs at their largest, its sums over what they should be.

    (1, 16, 8, 8, 8) → one number, 1 where nothing is cut off. All weights are alike, which makes
    the sums of two products as large as they get. Processors without VNNI add them in 16 bits,
    and cut larger ones than those of weights to ``FEWER`` off without a word.
    """
    import openvino as ov
    from openvino import opset13 as op

    image = op.parameter([1, 16, 8, 8, 8], np.float32)
    kernel = np.ones((8, 16, 3, 3, 3))
    step = step_of(kernel) * (WHOLE_NUMBERS / whole_numbers)
    sums = convolution_in_8_bits(image, np.ones(16), kernel, np.zeros(8), step)
    largest = op.reduce_max(sums, np.arange(5))
    return ov.Model([op.divide(largest, op.constant(np.float32(HEADROOM * 16 * 27)))], [image])


def doubled(x: Node) -> Node:
    """Each voxel becomes 2³ of the same value."""
    from openvino import opset13 as op

    scales = op.constant(np.full(3, 2, np.float32))
    axes = op.constant(np.array([2, 3, 4]))
    return op.interpolate(
        x, scales, "nearest", "scales", axes=axes,
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
