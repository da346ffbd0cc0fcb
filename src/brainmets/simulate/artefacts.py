"""What a scanner adds to an image besides noise: ringing, ghosts, blur."""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from brainmets.simulate.anatomy import Field


@dataclass(frozen=True)
class Artefacts:
    """What disturbs a scan; 0 is nothing.

    Attributes:
        ringing: share of the spatial frequencies along one axis that were not measured.
        ghosts: signal of the copies relative to the image.
        blur_mm: standard deviation along one axis.
    """

    ringing: float = 0.0
    ghosts: float = 0.0
    blur_mm: float = 0.0


def truncate(image: Field, axis: int, kept: float) -> Field:
    """Gibbs ringing: the image with only the lowest spatial frequencies along one axis.

    Args:
        image: shape (X, Y, Z).
        axis: along which fewer lines were measured.
        kept: share of the frequencies that were measured, in (0, 1].
    """
    spectrum = fft.rfft(image, axis=axis)
    lines = spectrum.shape[axis]
    cut = [slice(None)] * 3
    cut[axis] = slice(max(1, int(np.ceil(kept * lines))), None)
    spectrum[tuple(cut)] = 0
    return np.asarray(fft.irfft(spectrum, image.shape[axis], axis=axis), np.float32)


def add_ghost(image: Field, axis: int, strength: float, rng: np.random.Generator) -> Field:
    """A pulsating or moving head: faint copies shifted by a part of the field of view.

    Args:
        image: shape (X, Y, Z).
        axis: phase-encoding axis.
        strength: of the copy, relative to the image.
        rng: source of the shift.
    """
    shift = int(image.shape[axis] / rng.integers(2, 5))
    copies = np.roll(image, shift, axis) + np.roll(image, -shift, axis)
    return np.asarray(image + strength * (0.5 * copies - image), np.float32)


def disturb(image: Field, rng: np.random.Generator) -> tuple[Field, Artefacts]:
    """Each artefact by chance: ringing in one scan of five, ghosts and blur in one of eight.

    Args:
        image: shape (X, Y, Z), 1 mm.
        rng: source of chance.
    """
    ringing = ghosts = blur_mm = 0.0
    if rng.random() < 0.2:
        axis, kept = int(rng.integers(3)), float(rng.uniform(0.55, 0.9))
        image, ringing = truncate(image, axis, kept), 1 - kept
    if rng.random() < 0.12:
        axis, ghosts = int(rng.integers(2)), float(rng.uniform(0.02, 0.12))
        image = add_ghost(image, axis, ghosts, rng)
    if rng.random() < 0.12:
        blur_mm, axis = float(rng.uniform(0.4, 1.1)), int(rng.integers(3))
        image = np.asarray(ndimage.gaussian_filter1d(image, blur_mm, axis), np.float32)
    return image, Artefacts(ringing, ghosts, blur_mm)
