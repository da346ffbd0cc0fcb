"""The brain extractor's network on OpenVINO, float32."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainmets.network.bundle import Tensors
from brainmets.network.openvino_engine import Compiled, core
from brainmets.network.openvino_graph import synthstrip_graph
from brainmets.network.strip_sizes import StripSizes, blocks_of, voxels_of

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OpenVinoStrip:
    """Stands in for :class:`brainmets.network.synthstrip.SynthStrip` out of training.

    Attributes:
        sizes: of the network.
        compiled: the network between blocks and channels.
    """

    sizes: StripSizes
    compiled: Compiled

    def distances(self, image: Array) -> Array:
        """(x, y, z) → (fields, x, y, z), mm; sides must be multiples of ``sizes.multiple``."""
        found = self.compiled(blocks_of(image, self.sizes.block))
        return voxels_of(found, self.sizes.block)

    def release(self) -> None:
        """Give memory back until the next image comes."""
        self.compiled.release()


def openvino_strip(sizes: StripSizes, weights: Tensors, identity: str) -> OpenVinoStrip:
    """The network with these weights; compiled when the first image comes.

    Raises:
        ConfigError: OpenVINO is not installed.
    """
    core()
    voxels = sizes.block**3
    ends = (voxels, sizes.fields * voxels)

    def graph(shape: tuple[int, int, int]) -> object:
        return synthstrip_graph(weights, sizes.widths, sizes.convolutions, ends, shape)

    return OpenVinoStrip(sizes, Compiled(graph, f"{sizes} {identity}", "f32"))
