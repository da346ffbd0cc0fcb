"""The job that DeepMind's surface-distance can do."""

from typing import Any, NamedTuple

import surface_distance as sd

PACKAGES = ("surface-distance", "numpy", "scipy")
TOLERANCES_MM = (1.0, 2.0)


class Pair(NamedTuple):
    """Two masks."""

    reference: Any
    prediction: Any
    spacing_mm: tuple[float, float, float]


def prepare(reference: Any, prediction: Any, spacing_mm: tuple[float, float, float]) -> Pair:
    """Masks as they are."""
    return Pair(reference, prediction, spacing_mm)


def surfaces(pair: Pair) -> dict[str, float]:
    """See with_brainmets.surfaces."""
    found = sd.compute_surface_distances(pair.reference, pair.prediction, pair.spacing_mm)
    there, back = sd.compute_average_surface_distance(found)
    return {
        "dice": sd.compute_dice_coefficient(pair.reference, pair.prediction),
        "hd95_mm": sd.compute_robust_hausdorff(found, 95),
        "hd_mm": sd.compute_robust_hausdorff(found, 100),
        "reference_to_prediction_mm": there,
        "prediction_to_reference_mm": back,
        **{f"nsd_{t:g}mm": sd.compute_surface_dice_at_tolerance(found, t) for t in TOLERANCES_MM},
    }


JOBS = {"surfaces": surfaces}
