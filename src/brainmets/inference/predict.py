"""Run the network over a prepared scan, tile by tile."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from brainmets.config import Tiling
from brainmets.errors import RunError
from brainmets.inference.tiles import Box, clip, gaussian_weights, plan, read_tile
from brainmets.network.engines import Engine
from brainmets.preprocess.prepare import Prepared
from brainmets.volume import Volume

Float32 = npt.NDArray[np.float32]


def predict(
    prepared: Prepared,
    engine: Engine,
    tiling: Tiling,
    *,
    largest_vox: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Volume:
    """Probability of metastasis for every voxel of the brain.

    Overlapping tiles are averaged with weights that fall off towards a tile's border. The
    mean is kept up to date tile by tile (West 1979, doi:10.1145/359146.359153), which
    takes one array of the brain box's size beside the result and leaves what tiles agree on
    untouched.

    Args:
        prepared: the scan, from :func:`brainmets.preprocess.prepare.prepare`.
        engine: float32 (X, Y, Z) → float32 probabilities of the same shape.
        tiling: size and overlap of the tiles.
        largest_vox: see :func:`brainmets.inference.tiles.plan`.
        progress: called after each tile with the number done and the number in all.

    Returns:
        float32 on ``prepared.volume.grid``; 0 outside the brain mask.

    Raises:
        RunError: the engine returned another shape, or numbers that are not finite.
    """
    data = np.asarray(prepared.volume.data, np.float32)
    brain = np.asarray(prepared.brain.data, bool)
    tiles = tiles_of(prepared, tiling, largest_vox)
    x, y, z = (side.stop - side.start for side in tiles[0])
    weights = gaussian_weights((x, y, z))
    result = np.zeros(data.shape, np.float32)
    mean = result[prepared.box]
    weight = np.zeros_like(mean)
    for done, tile in enumerate(tiles, start=1):
        probability = run(engine, read_tile(data, tile))
        blend(mean, weight, probability, weights, in_box(tile, prepared.box))
        if progress is not None:
            progress(done, len(tiles))
    mean[~brain[prepared.box]] = 0
    return prepared.volume.with_data(result)


def tiles_of(prepared: Prepared, tiling: Tiling, largest_vox: int = 0) -> tuple[Box, ...]:
    """The tiles of a scan that hold brain, in the order in which they are averaged."""
    return tuple(
        tile
        for tile in plan(prepared.volume.grid.shape, prepared.box, tiling, largest_vox)
        if np.any(prepared.brain.data[clip(tile, prepared.box)[0]])
    )


def run(engine: Engine, tile: Float32) -> Float32:
    """One tile's probabilities.

    Raises:
        RunError: they have another shape, or are not finite.
    """
    probability = np.asarray(engine(tile), np.float32)
    if probability.shape != tile.shape or not np.isfinite(probability).all():
        raise RunError(
            f"the network returned shape {probability.shape} for a tile of {tile.shape}, or values "
            "that are not finite; try another engine, and verify the model file"
        )
    return probability


def in_box(tile: Box, box: Box) -> tuple[Box, Box]:
    """The tile's part of the box: counted from the box's first voxel, and from the tile's."""
    inside, here = clip(tile, box)
    x, y, z = (
        slice(part.start - side.start, part.stop - side.start)
        for part, side in zip(inside, box, strict=True)
    )
    return (x, y, z), here


def blend(
    mean: Float32,
    weight: Float32,
    probability: Float32,
    weights: Float32,
    where: tuple[Box, Box],
) -> None:
    """Take one tile into the running mean: mean += (p - mean) · w / Σw; both change in place."""
    there, here = where
    weight[there] += weights[here]
    mean[there] += (probability[here] - mean[there]) * (weights[here] / weight[there])


def calibrated(probability: Volume, temperature: float) -> Volume:
    """Probabilities whose log odds are divided by a temperature.

    After Guo et al. 2017 (arXiv:1706.04599). 0, ½ and 1 stay as they are; of two the larger stays
    no smaller.

    Args:
        probability: float32, 0 to 1; changed in place, since a second one takes as much memory as
            the scan twice over.
        temperature: above 1 where the network is too sure of itself; 1 changes nothing.
    """
    if temperature == 1:
        return probability
    data = np.asarray(probability.data, np.float32)
    with np.errstate(divide="ignore", over="ignore"):
        for slab in data:
            inside = slab > 0
            slab[inside] = 1 / (1 + (1 / slab[inside] - 1) ** np.float32(1 / temperature))
    return probability.with_data(data)
