"""The report as rows and as a document: lesions.csv and report.json.

Numbers are rounded to a ten-thousandth of their unit (of a millimetre, say): below any
scanner's precision, above the last bits in which processors differ.
"""

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

from brainmets.lesions import Lesion
from brainmets.report.content import Report, measurable

SCHEMA_VERSION = "1.0"
DECIMALS = 4
COLUMNS = (
    "case",
    "lesion",
    "volume_mm3",
    "equivalent_diameter_mm",
    "longest_diameter_mm",
    "perpendicular_diameter_mm",
    "side",
    "centroid_r_mm",
    "centroid_a_mm",
    "centroid_s_mm",
    "mean_probability",
    "max_probability",
    "touches_mask_edge",
    "rano_bm_measurable",
)
"""Columns of lesions.csv, one row per lesion; an undefined value is an empty field."""


def rounded(value: float | None) -> float | None:
    """``value`` to four decimals; None for what is undefined (None, NaN or infinite).

    >>> rounded(1 / 3), rounded(float("nan"))
    (0.3333, None)
    """
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0


def total_volume_mm3(report: Report) -> float:
    """Sum of the lesions' volumes."""
    return math.fsum(lesion.volume_mm3 for lesion in report.lesions)


def lesion_values(lesion: Lesion) -> dict[str, Any]:
    """One lesion as it stands in report.json."""
    return {
        "label": lesion.label,
        "volume_mm3": rounded(lesion.volume_mm3),
        "equivalent_diameter_mm": rounded(lesion.equivalent_diameter_mm),
        "longest_diameter_mm": rounded(lesion.longest_diameter_mm),
        "perpendicular_diameter_mm": rounded(lesion.perpendicular_diameter_mm),
        "longest_diameter_ends_ras_mm": [
            [rounded(x) for x in end] for end in lesion.longest_diameter_ends_ras_mm
        ],
        "perpendicular_diameter_ends_ras_mm": [
            [rounded(x) for x in end] for end in lesion.perpendicular_diameter_ends_ras_mm
        ],
        "side": lesion.side,
        "centroid_ras_mm": [rounded(x) for x in lesion.centroid_ras_mm],
        "mean_probability": rounded(lesion.mean_probability),
        "max_probability": rounded(lesion.max_probability),
        "touches_mask_edge": lesion.touches_mask_edge,
        "rano_bm_measurable": measurable(lesion),
    }


def document(report: Report) -> dict[str, Any]:
    """The content of report.json, as ``report.schema.json`` describes it."""
    grid = report.scan.volume.grid
    return {
        "schema_version": SCHEMA_VERSION,
        "case_id": report.case_id,
        "scan": {
            "sequence": report.scan.sequence,
            "shape": list(grid.shape),
            "spacing_mm": [rounded(x) for x in grid.spacing_mm],
            "affine_ras_mm": [[round(float(x), 6) + 0.0 for x in row] for row in grid.affine],
        },
        "summary": {
            "finding": "lesions found" if report.lesions else "none found",
            "lesion_count": len(report.lesions),
            "rano_bm_measurable_count": sum(measurable(x) is True for x in report.lesions),
            "total_volume_mm3": rounded(total_volume_mm3(report)),
        },
        "lesions": [lesion_values(lesion) for lesion in report.lesions],
        "checks": [
            {"name": check.name, "passed": check.passed, "detail": check.detail}
            for check in report.checks
        ],
        "provenance": _plain(report.provenance),
    }


def lesions_csv(report: Report) -> str:
    """The content of lesions.csv (RFC 4180 quoting, lines end in a line feed)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for lesion in report.lesions:
        writer.writerow({"case": report.case_id, **_row(lesion)})
    return text.getvalue()


def _row(lesion: Lesion) -> dict[str, Any]:
    values = lesion_values(lesion)
    values["lesion"] = values.pop("label")
    centroid = values.pop("centroid_ras_mm")
    values |= dict(zip(("centroid_r_mm", "centroid_a_mm", "centroid_s_mm"), centroid, strict=True))
    for name in ("touches_mask_edge", "rano_bm_measurable"):
        values[name] = {True: "yes", False: "no", None: None}[values[name]]
    return {name: values[name] for name in COLUMNS if name != "case"}


def _plain(value: Any) -> Any:
    """Provenance with text keys, lists for tuples, and null for what is not a number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
