"""How large a network of SynthStrip's kind is, and what it sees; no framework is imported."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainmets.errors import ConfigError

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StripSizes:
    """How large the network is; the defaults are the published ones.

    Attributes:
        features: channels at full resolution, doubled at each level.
        most_features: the most channels at any level.
        levels: resolutions, the full one included.
        convolutions: convolutions at each level, in the encoder and in the decoder.
        block: side of the cube of voxels that become the channels of one; 1: none do.
        fields: distances given for each voxel.
    """

    features: int = 16
    most_features: int = 64
    levels: int = 7
    convolutions: int = 2
    block: int = 1
    fields: int = 1

    def __post_init__(self) -> None:
        """Refuse sizes that describe no U-Net."""
        counts = (self.features, self.most_features, self.convolutions, self.block, self.fields)
        if min(counts) < 1 or self.levels < 2:
            raise ConfigError(f"{self}: expected at least 1 feature, 1 convolution and 2 levels")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level, full resolution first.

        >>> StripSizes().widths
        (16, 32, 64, 64, 64, 64, 64)
        """
        return tuple(min(self.features * 2**n, self.most_features) for n in range(self.levels))

    @property
    def multiple(self) -> int:
        """Each side of the input must be a multiple of this many voxels."""
        return int(self.block * 2 ** (self.levels - 1))


def scale_array(image: Array) -> Array:
    """Minimum to 0, 99th percentile to 1, clipped: the input that the network expects.

    Bit for bit :func:`brainmets.network.synthstrip.scale_intensity`.
    """
    image = image - image.min()
    flat = image.ravel()
    place = 0.99 * (len(flat) - 1)
    ranks = [int(place), min(int(place) + 1, len(flat) - 1)]
    ordered = np.partition(flat, ranks)
    below, above = ordered[ranks[0]], ordered[ranks[1]]
    top = below + np.float32(place - int(place)) * (above - below)
    scaled = image / np.maximum(top, np.float32(1e-20))
    return np.asarray(np.clip(scaled, 0, 1), np.float32)


def blocks_of(image: Array, side: int) -> Array:
    """Each cube of ``side``³ voxels becomes the channels of one: (x, y, z) → (side³, …)."""
    x, y, z = (n // side for n in image.shape)
    cubes = image.reshape(x, side, y, side, z, side).transpose(1, 3, 5, 0, 2, 4)
    return np.ascontiguousarray(cubes.reshape(side**3, x, y, z))


def voxels_of(channels: Array, side: int) -> Array:
    """(fields × side³, x, y, z) → (fields, x × side, …): back from :func:`blocks_of`."""
    count, x, y, z = channels.shape
    cubes = channels.reshape(count // side**3, side, side, side, x, y, z)
    ordered = cubes.transpose(0, 4, 1, 5, 2, 6, 3)
    return np.ascontiguousarray(ordered.reshape(-1, x * side, y * side, z * side))
