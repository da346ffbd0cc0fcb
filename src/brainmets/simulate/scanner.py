"""From a head at 1 mm to what a scanner stores: slices, bias field, noise, orientation."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainmets.preprocess.resample import resample
from brainmets.simulate.anatomy import Field
from brainmets.simulate.contrast import rotation, smooth_noise
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
    """

    spacing_mm: tuple[float, float, float]
    order: AxisOrder
    tilt_deg: tuple[float, float, float]
    noise: float
    bias: float


AXIAL_LPS = AxisOrder((0, 1, 2), (True, True, False))
CORONAL = AxisOrder((0, 2, 1), (True, True, True))
SAGITTAL = AxisOrder((1, 2, 0), (True, True, False))
NEUROLOGICAL = AxisOrder((0, 1, 2), (False, False, False))


def draw_protocol(rng: np.random.Generator, *, thick: bool) -> Protocol:
    """A plausible protocol: isotropic 3D, or with thick slices of 3 to 6.5 mm."""
    orders = (AXIAL_LPS, NEUROLOGICAL, SAGITTAL, CORONAL)
    order = AXIAL_LPS if thick else orders[rng.integers(len(orders))]
    fine = float(rng.uniform(0.75, 1.0))
    spacing = (fine, fine, fine) if rng.random() < 0.3 else (1.0, 1.0, 1.0)
    if thick:
        spacing = (fine, fine, float(rng.uniform(3, 6.5)))
    a, b, c = rng.uniform(-8, 8, 3)
    noise = float(np.exp(rng.uniform(np.log(0.008), np.log(0.06))))
    return Protocol(spacing, order, (a, b, c), noise, float(rng.uniform(0.02, 0.25)))


def acquire(image: Field, protocol: Protocol, rng: np.random.Generator) -> Volume:
    """What the scanner stores: int16 magnitudes with Rician noise on the protocol's grid.

    Args:
        image: signal at 1 mm in RAS order, white matter = 1.
        protocol: see :class:`Protocol`.
        rng: source of the noise.
    """
    clean = _sample(image, protocol)
    field = np.exp(protocol.bias * smooth_noise(clean.data.shape, max(clean.data.shape) / 2.5, rng))
    signal = clean.data * field
    real, imaginary = (
        protocol.noise * rng.standard_normal(signal.shape, dtype=np.float32) for _ in range(2)
    )
    magnitude = np.hypot(signal + real, imaginary) * rng.uniform(200, 900)
    stored = np.clip(np.rint(magnitude), 0, 32767).astype(np.int16)
    return reorient(clean.with_data(stored), protocol.order)


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
