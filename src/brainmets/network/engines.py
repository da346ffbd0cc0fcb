"""What runs the network: one seam, so that faster engines can stand in.

An engine takes one tile and gives probabilities; it knows nothing of scans. This module
imports no numerical framework, so that an engine brings only its own.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from brainmets.errors import BundleError
from brainmets.network.bundle import Bundle

Tile = npt.NDArray[np.float32]
LARGEST_DIFFERENCE = 1e-3
"""Probabilities of the bundle's example may differ by this much in float32."""
LARGEST_DIFFERENCE_BFLOAT16 = 0.1
"""And by this much in bfloat16, whose numbers have 8 significant bits."""
LARGEST_DIFFERENCE_INT8 = 0.15
"""And by this much where the last layers are computed in 8 bits besides."""


class Engine(Protocol):
    """Runs a network on tiles."""

    @property
    def name(self) -> str:
        """For reports: library, device, precision."""
        ...

    def __call__(self, tile: Tile) -> Tile:
        """Z-scores (X, Y, Z), sides multiples of 32 → probabilities of the same shape."""
        ...


def verify(bundle: Bundle, engine: Engine) -> float:
    """Run the bundle's example; return the largest difference in probability.

    Raises:
        BundleError: it exceeds what :func:`tolerance` allows, the engine returns another
            shape, or the example does not span < 0.1 to > 0.9 and so proves nothing.
    """
    expected = np.asarray(bundle.example["output"], np.float32)
    if not (expected.min() < 0.1 and expected.max() > 0.9):  # NaN fails too
        raise BundleError(
            f"{bundle.name}: its example spans {expected.min():.2f} to {expected.max():.2f} only, "
            "so it cannot be verified"
        )
    found = engine(np.asarray(bundle.example["input"], np.float32))
    if found.shape != expected.shape:
        raise BundleError(
            f"{bundle.name}: {engine.name} returns shape {found.shape}, expected {expected.shape}"
        )
    difference = float(np.abs(found - expected).max())
    if not difference <= tolerance(engine):
        raise BundleError(
            f"{bundle.name}: {engine.name} differs from the expected output by {difference:.2g}, "
            f"more than {tolerance(engine)}; this machine does not compute the model as published"
        )
    return difference


def tolerance(engine: Engine) -> float:
    """The largest difference in probability that :func:`verify` accepts of an engine."""
    if "int8" in engine.name:
        return LARGEST_DIFFERENCE_INT8
    is_rounded = "bfloat16" in engine.name
    return LARGEST_DIFFERENCE_BFLOAT16 if is_rounded else LARGEST_DIFFERENCE
