"""What a scanner adds to an image besides noise: ringing, ghosts, blur."""

import numpy as np
from scipy import fft, ndimage

from brainmets.simulate.anatomy import Field


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


def disturb(image: Field, rng: np.random.Generator) -> Field:
    """Each artefact by chance: ringing in one scan of five, ghosts and blur in one of eight."""
    if rng.random() < 0.2:
        image = truncate(image, int(rng.integers(3)), float(rng.uniform(0.55, 0.9)))
    if rng.random() < 0.12:
        image = add_ghost(image, int(rng.integers(2)), float(rng.uniform(0.02, 0.12)), rng)
    if rng.random() < 0.12:
        sigma = np.zeros(3)
        sigma[rng.integers(3)] = rng.uniform(0.4, 1.1)
        image = np.asarray(ndimage.gaussian_filter(image, sigma), np.float32)
    return image
