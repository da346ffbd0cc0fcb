"""Places computed again by another engine: float32's, where fewer bits leave doubt.

See :func:`brainmets.lesions.doubtful`. Only the tiles that see such a place are computed.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from brainmets.config import Tiling
from brainmets.inference.predict import blend, in_box, run, tiles_of
from brainmets.inference.tiles import Box, clip, gaussian_weights, read_tile
from brainmets.network.engines import Engine
from brainmets.preprocess.prepare import Prepared
from brainmets.volume import Volume, apply

LITTLE = 0.005
"""Share of the weight, and so of a probability, that a tile is not computed for."""
AROUND_VOX = 2
"""Voxels of the network's grid around a doubtful finding that are computed again too."""

Float32 = npt.NDArray[np.float32]


def looked_at_again(
    prepared: Prepared,
    probability: Volume,
    places: Sequence[Box],
    engine: Engine,
    tiling: Tiling,
    *,
    besides: Sequence[Box] = (),
    largest_vox: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Volume:
    """The probabilities with those of some places as another engine gives them.

    They are what it would give for the whole scan, but for tiles that have less than ``LITTLE`` of
    the weight everywhere in a place: these are left out.

    Args:
        prepared: the scan.
        probability: on ``prepared.volume.grid``, from :func:`brainmets.inference.predict.predict`;
            changed in place.
        places: boxes of the scanner's voxels.
        engine: the other one.
        tiling: as for ``predict``.
        besides: more places, as boxes of the network's grid.
        largest_vox: as for ``predict``.
        progress: called after each tile with the number done and the number in all.

    Raises:
        RunError: as ``predict``.
    """
    wanted = [*(_within(place, prepared) for place in places),
              *(_widened(place, prepared) for place in besides)]  # fmt: skip
    boxes = [box for box in wanted if box is not None]
    data = np.asarray(prepared.volume.data, np.float32)
    planned = tiles_of(prepared, tiling, largest_vox)
    falling = gaussian_weights(_sides(planned[0]))
    needed = [_needed(box, planned, falling) for box in boxes]
    tiles = [
        (tile, near)
        for number, tile in enumerate(planned)
        if (near := [n for n, numbers in enumerate(needed) if number in numbers])
    ]
    means, weights = ([np.zeros(_sides(box), np.float32) for box in boxes] for _ in range(2))
    for done, (tile, near) in enumerate(tiles, start=1):
        found = run(engine, read_tile(data, tile))
        for n in near:
            blend(means[n], weights[n], found, falling, in_box(tile, boxes[n]))
        if progress is not None:
            progress(done, len(tiles))
    result = np.asarray(probability.data, np.float32)
    for box, mean in zip(boxes, means, strict=True):
        result[box] = np.where(prepared.brain.data[box], mean, 0)
    return probability.with_data(result)


def _within(place: Box, prepared: Prepared) -> Box | None:
    """A box of the scanner's voxels on the network's grid, somewhat larger; None: no brain."""
    ends = [[side.start - 1.0, float(side.stop)] for side in place]
    corners = np.stack(np.meshgrid(*ends), -1).reshape(-1, 3)
    between = np.linalg.inv(prepared.volume.grid.affine) @ prepared.source.affine
    there = apply(between, corners)
    start = np.floor(there.min(0)).astype(int) - AROUND_VOX
    stop = np.ceil(there.max(0)).astype(int) + AROUND_VOX + 1
    return _clipped(start, stop, prepared)


def _widened(place: Box, prepared: Prepared) -> Box | None:
    """A box of the network's grid, somewhat larger; None: no brain."""
    start = np.array([side.start for side in place]) - AROUND_VOX
    return _clipped(start, np.array([side.stop for side in place]) + AROUND_VOX, prepared)


def _clipped(
    start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], prepared: Prepared
) -> Box | None:
    first, last = start.tolist(), stop.tolist()
    whole = (slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2]))
    box, _ = clip(whole, prepared.box)
    return box if all(side.stop > side.start for side in box) else None


def _needed(box: Box, tiles: Sequence[Box], falling: Float32) -> frozenset[int]:
    """Numbers of the tiles that count somewhere in a box."""
    whole = np.zeros(_sides(box), np.float32)
    near = {n: in_box(tile, box) for n, tile in enumerate(tiles) if _meet(tile, box)}
    for there, here in near.values():
        whole[there] += falling[here]
    return frozenset(
        n for n, (there, here) in near.items() if (falling[here] >= LITTLE * whole[there]).any()
    )


def _sides(box: Box) -> tuple[int, int, int]:
    x, y, z = (side.stop - side.start for side in box)
    return x, y, z


def _meet(one: Box, other: Box) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))
