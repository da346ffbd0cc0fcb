"""Reports whose content is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from brainmets.cohort import Scan
from brainmets.lesions import Lesion
from brainmets.report.content import Check, Report
from brainmets.volume import Volume, apply
from phantoms import Ball, Head, make_head

CARD = {
    "trained_on": "simulated heads",
    "limits": ["never tested on <real> scans"],
    "licence": "Apache-2.0",
    "results": {"sensitivity": 0.8, "precision": float("nan")},
    "sensitivity_by_size": {"3–4 mm": 0.62, "< 3 mm": {"sensitivity": 0.41, "n": 120}},
}
PROVENANCE: dict[str, Any] = {
    "brainmets_version": "0.0.1",
    "model": {"name": "a model", "sha256": "ab" * 32, "card": CARD},
    "extractor": {"name": "builtin", "version": "1", "sha256": None, "notes": ["small brain"]},
    "recipe": {"spacing_mm": 0.833},
    "decision_rule": {"low": 0.3, "high": 0.6},
    "engine": "torch float32",
    "options": {},
}


def plain_lesions(labels: Volume) -> tuple[Lesion, ...]:
    """Lesions with true volume and centroid; the diameters are their extent along x and y."""
    lesions = []
    for label in range(1, int(labels.data.max()) + 1):
        points = apply(labels.grid.affine, np.argwhere(labels.data == label))
        centre, volume = points.mean(axis=0), len(points) * labels.grid.voxel_volume_mm3
        half = (np.ptp(points, axis=0) + 1e-3) / 2
        ends = [
            tuple(
                tuple(float(x) for x in centre + sign * half * np.eye(3)[axis]) for sign in (-1, 1)
            )
            for axis in (0, 1)
        ]
        x, y, z = (float(v) for v in centre)
        lesions.append(
            Lesion(
                label=label,
                volume_mm3=float(volume),
                equivalent_diameter_mm=float((6 * volume / np.pi) ** (1 / 3)),
                longest_diameter_mm=float(2 * half[0]),
                perpendicular_diameter_mm=float(2 * half[1]),
                centroid_ras_mm=(x, y, z),
                mean_probability=0.75,
                max_probability=0.9,
                side="right" if x > 0 else "left",
                touches_mask_edge=False,
                longest_diameter_ends_ras_mm=ends[0],
                perpendicular_diameter_ends_ras_mm=ends[1],
            )
        )
    return tuple(lesions)


def report_of(head: Head, **changes: Any) -> Report:
    """A report on a head, with its true lesions unless ``changes`` say otherwise."""
    content: dict[str, Any] = {
        "case_id": "case 1",
        "scan": Scan(head.scan, sequence="T1c"),
        "mask": head.lesions,
        "lesions": plain_lesions(head.lesions),
        "checks": (Check("slice thickness", True, "voxels of 2.5 mm"),),
        "probability": None,
        "brain": head.brain,
        "provenance": PROVENANCE,
    }
    return Report(**content | changes)


@pytest.fixture(scope="session")
def head() -> Head:
    """A head with a lesion at the right, front and top, and one at the left and back."""
    return make_head(balls=[Ball((25, 30, 20), 9.0), Ball((-25.0, -30.0, -10.0), 6.0)])


@pytest.fixture(scope="session")
def healthy() -> Head:
    """A head without a lesion."""
    return make_head()


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Report]:
    """:func:`report_of`."""
    return report_of
