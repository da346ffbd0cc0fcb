"""What age and disease other than metastases do to a brain, as far as T1 shows it.

Wide ventricles, and white matter that is dark around them or in patches elsewhere
(leukoaraiosis, lacunes), are common where metastases are: in the elderly and after radiation.
None of it takes up contrast.
"""

import numpy as np
from scipy import ndimage

from brainmets.simulate.anatomy import LATERAL_VENTRICLES, WHITE, Field, Labels
from brainmets.simulate.noise import smooth_noise


def ventricle_pull(labels: Labels, amount_mm: float) -> tuple[Field, Field, Field]:
    """Where each voxel's tissue comes from, relative to itself, when ventricles widen.

    Args:
        labels: shape (X, Y, Z), 1 mm.
        amount_mm: largest shift; negative narrows the ventricles.

    Returns:
        Three arrays of shape (X, Y, Z): shifts along the axes in mm. They point to the
        ventricles from all sides and fade within about 2 cm.
    """
    nearness = ndimage.gaussian_filter(
        np.isin(labels[::2, ::2, ::2], LATERAL_VENTRICLES).astype(np.float32), 4
    )
    slopes = np.gradient(nearness)
    steepest = float(np.sqrt(sum(s**2 for s in slopes)).max()) or 1.0
    x, y, z = (
        _doubled(np.asarray(s * (amount_mm / steepest), np.float32), labels.shape) for s in slopes
    )
    return x, y, z


def _doubled(coarse: Field, shape: tuple[int, ...]) -> Field:
    fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    return np.ascontiguousarray(fine[tuple(slice(n) for n in shape)])


def darken_white_matter(image: Field, labels: Labels, rng: np.random.Generator) -> None:
    """Leukoaraiosis: a dark halo of uneven width around the ventricles, and patches, in place."""
    white = np.isin(labels, WHITE)
    near = ndimage.gaussian_filter(np.isin(labels, LATERAL_VENTRICLES).astype(np.float32), 4)
    halo = near + 0.06 * smooth_noise(image.shape, 14, rng) - rng.uniform(0.06, 0.3)
    patches = smooth_noise(image.shape, rng.uniform(7, 16), rng) - rng.uniform(1.7, 2.8)
    share = np.clip(np.maximum(8 * halo, 3 * patches), 0, 1) * white
    image *= 1 - rng.uniform(0.05, 0.28) * ndimage.gaussian_filter(share, 1.0)
