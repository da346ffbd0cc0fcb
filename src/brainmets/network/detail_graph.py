"""The detail network as an OpenVINO graph; see :mod:`brainmets.network.detail`."""

from typing import TYPE_CHECKING, Any

import numpy as np

from brainmets.network.bundle import SIDE, Detail
from brainmets.network.openvino_graph import Weights, convolution, doubled

if TYPE_CHECKING:
    from openvino import Model

Node = Any


def detail_graph(owner: str, detail: Detail, count: int, *, outlined: bool) -> "Model":
    """(1, 3 · count, 24, 24, 24) patches → (1, count) log odds of places.

    Args:
        owner: names the model in errors.
        detail: the network.
        count: places at a time.
        outlined: whether their outlines are given besides, (1, count, 24, 24, 24): the
            probability of each voxel, given that the place is a metastasis.

    Raises:
        BundleError: a tensor is missing, superfluous, of another shape, or not finite.
    """
    import openvino as ov
    from openvino import opset13 as op

    weights = Weights(f"{owner}, detail network", detail.weights)
    one, two, four = detail.width, 2 * detail.width, 4 * detail.width
    image = op.parameter([1, 3 * count, SIDE, SIDE, SIDE], np.float32)
    patches = op.reshape(image, op.constant(np.array([count, 3, SIDE, SIDE, SIDE])), False)
    x, middle, coarse = op.split(patches, op.constant(np.int64(1)), 3).outputs()
    fine = []
    for number, (into, out) in enumerate(((1, one), (one, two), (two, four))):
        x = _pooled(x) if number else x
        for layer, inputs in ((1, into), (2, out)):
            x = _normalised(x, weights, f"fine.{number}", layer, (out, inputs))
        fine.append(x)
    around = [
        part
        for name, path in (("middle", middle), ("coarse", coarse))
        for part in _summed(_through(path, weights, name, (one, two, two)))
    ]
    context = op.concat(around, 1)
    largest = op.reduce_max(fine[2], np.array([2, 3, 4]))
    seen = op.concat([_core(fine[2]), largest, context], 1)
    hidden = op.relu(_linear(seen, weights, "hidden", (64, 2 * four + 4 * two)))
    scores = op.reshape(_linear(hidden, weights, "score", (1, 64)),
                        op.constant(np.array([1, count])), False)  # fmt: skip
    added = op.reshape(_linear(context, weights, "context", (four, 4 * two)),
                       op.constant(np.array([count, four, 1, 1, 1])), False)  # fmt: skip
    x = op.add(fine[2], added)
    for number, (into, out) in enumerate(((four, two), (two, one))):
        larger = doubled(_plain(x, weights, f"narrow.{number}", (out, into)))
        x = op.relu(op.add(larger, fine[1 - number]))
        x = _normalised(x, weights, f"wide.{number}", 1, (out, out))
    whole = op.constant(np.array([1, count, SIDE, SIDE, SIDE]))
    outline = op.sigmoid(op.reshape(_plain(x, weights, "outline", (1, one)), whole, False))
    weights.require_none_left()
    outputs = [scores.output(0)] + ([outline.output(0)] if outlined else [])
    return ov.Model(outputs, [image], "detail")


def _normalised(x: Node, weights: Weights, block: str, layer: int, shape: tuple[int, int]) -> Node:
    from openvino import opset13 as op

    folded = weights.normalised(f"{block}.conv{layer}", f"{block}.bn{layer}", shape)
    return op.relu(convolution(x, *folded))


def _plain(x: Node, weights: Weights, name: str, shape: tuple[int, int]) -> Node:
    """A 1³ convolution."""
    kernel = weights.take(f"{name}.weight", (*shape, 1, 1, 1))
    return convolution(x, kernel, weights.take(f"{name}.bias", shape[:1]))


def _linear(x: Node, weights: Weights, name: str, shape: tuple[int, int]) -> Node:
    from openvino import opset13 as op

    matrix = op.constant(weights.take(f"{name}.weight", shape).astype(np.float32))
    bias = op.constant(weights.take(f"{name}.bias", shape[:1]).astype(np.float32))
    return op.add(op.matmul(x, matrix, transpose_a=False, transpose_b=True), bias)


def _through(x: Node, weights: Weights, name: str, outs: tuple[int, ...]) -> Node:
    into = 1
    for number, out in enumerate(outs):
        x = _normalised(_pooled(x) if number else x, weights, f"{name}.{number}", 1, (out, into))
        into = out
    return x


def _pooled(x: Node) -> Node:
    from openvino import opset13 as op

    return op.max_pool(x, [2] * 3, [1] * 3, [0] * 3, [0] * 3, [2] * 3).output(0)


def _summed(x: Node) -> tuple[Node, Node]:
    from openvino import opset13 as op

    return _core(x), op.reduce_mean(x, np.array([2, 3, 4]), keep_dims=False)


def _core(x: Node) -> Node:
    """The mean of the 2³ values in the middle of 6³."""
    from openvino import opset13 as op

    start, stop, step = (np.full(3, n) for n in (2, 4, 1))
    inner = op.slice(x, start, stop, step, np.array([2, 3, 4]))
    return op.reduce_mean(inner, np.array([2, 3, 4]), keep_dims=False)
