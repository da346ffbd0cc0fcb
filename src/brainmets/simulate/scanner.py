"""From a head at 1 mm to what a scanner stores: slices, bias field, noise, orientation."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainmets.preprocess.resample import resample
from brainmets.simulate.anatomy import Field
from brainmets.simulate.artefacts import Artefacts, disturb
from brainmets.simulate.contrast import rotation
from brainmets.simulate.noise import smooth_noise
from brainmets.volume import AxisOrder, Grid, Volume, reorient


@dataclass(frozen=True)
class Protocol:
    """How the scan is taken.

    Attributes:
        spacing_mm: voxel size along right–left, posterior–anterior, inferior–superior.
        order: axis order in which the array is stored.
        tilt_deg: rotation of the field of view about the three axes.
        noise: standard deviation of the complex noise, relative to white matter.
        bias: amplitude of the receive field's logarithm.
        centre_noise: how much more noise parallel imaging leaves in the middle of the head.
    """

    spacing_mm: tuple[float, float, float]
    order: AxisOrder
    tilt_deg: tuple[float, float, float]
    noise: float
    bias: float
    centre_noise: float = 0.0


AXIAL_LPS = AxisOrder((0, 1, 2), (True, True, False))
CORONAL = AxisOrder((0, 2, 1), (True, True, True))
SAGITTAL = AxisOrder((1, 2, 0), (True, True, False))
NEUROLOGICAL = AxisOrder((0, 1, 2), (False, False, False))
THIN = (
    (1.0, 1.0, 1.0),
    (1.0, 1.0, 1.0),
    (0.8, 0.8, 0.8),
    (0.5, 0.5, 1.0),
    (0.86, 0.86, 1.5),
    (0.6, 1.0, 1.0),
    (0.9, 0.9, 0.9),
)
"""Voxel sizes of common 3D protocols (mm, right–left, posterior–anterior, inferior–superior)."""


def draw_protocol(rng: np.random.Generator, *, thick: bool) -> Protocol:
    """A plausible protocol: 3D with voxels of 0.5 to 1.5 mm, or slices of 3 to 6.5 mm.

    Seven in ten of the thick stacks are axial, the others coronal or sagittal.
    """
    orders = (AXIAL_LPS, NEUROLOGICAL, SAGITTAL, CORONAL)
    order = AXIAL_LPS if thick else orders[rng.integers(len(orders))]
    across = 2
    if thick:
        fine = float(rng.uniform(0.6, 1.0))
        spacing = [fine, fine, fine]
        if rng.random() < 0.3:
            order, across = ((SAGITTAL, 0), (CORONAL, 1))[rng.integers(2)]
        spacing[across] = float(rng.uniform(3, 6.5))
    else:
        spacing = list(THIN[rng.integers(len(THIN))])
        if rng.random() < 0.3:
            spacing = [float(rng.uniform(0.75, 1.25))] * 3
    a, b, c = rng.uniform(-8, 8, 3)
    noise = float(np.exp(rng.uniform(np.log(0.008), np.log(0.06))))
    centre_noise = float(rng.uniform(0.2, 1.2)) if rng.random() < 0.3 else 0.0
    x, y, z = spacing
    return Protocol(
        (x, y, z), order, (a, b, c), noise, float(rng.uniform(0.02, 0.25)), centre_noise
    )


def acquire(image: Field, protocol: Protocol, rng: np.random.Generator) -> tuple[Volume, Artefacts]:
    """What the scanner stores: int16 magnitudes with Rician noise on the protocol's grid.

    Args:
        image: signal at 1 mm in RAS order, white matter = 1.
        protocol: see :class:`Protocol`.
        rng: source of artefacts and noise.

    Returns:
        The scan, and what disturbs it.
    """
    disturbed, artefacts = disturb(image, rng)
    clean = _sample(disturbed, protocol)
    field = np.exp(protocol.bias * smooth_noise(clean.data.shape, max(clean.data.shape) / 2.5, rng))
    signal = clean.data * field
    level = protocol.noise * _unevenness(signal.shape, protocol.centre_noise)
    real, imaginary = (
        level * rng.standard_normal(signal.shape, dtype=np.float32) for _ in range(2)
    )
    magnitude = np.hypot(signal + real, imaginary) * rng.uniform(200, 900)
    stored = np.clip(np.rint(magnitude), 0, 32767).astype(np.int16)
    return reorient(clean.with_data(stored), protocol.order), artefacts


def _unevenness(shape: tuple[int, ...], centre_noise: float) -> npt.NDArray[np.float32]:
    """Noise relative to that at the head's surface, largest in the middle."""
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape)]
    squared = sum(np.square(a) for a in axes)
    return np.asarray(1 + centre_noise * np.exp(-3 * squared), np.float32)


def acquire_truth(share: Field, protocol: Protocol) -> Volume:
    """A tissue share in [0, 1] on the protocol's grid, without noise, as a mask of ≥ 0.5."""
    sampled = _sample(share, protocol)
    return reorient(sampled.with_data((sampled.data >= 0.5).astype(np.uint8)), protocol.order)


def _sample(image: npt.NDArray[np.floating], protocol: Protocol) -> Volume:
    shape = (image.shape[0], image.shape[1], image.shape[2])
    affine = np.eye(4)
    affine[:3, 3] = -(np.asarray(shape) - 1) / 2
    tilted = np.eye(4)
    tilted[:3, :3] = rotation(protocol.tilt_deg)
    grid = Grid(shape, tilted @ affine)
    return resample(Volume(np.asarray(image, np.float32), grid), protocol.spacing_mm)
