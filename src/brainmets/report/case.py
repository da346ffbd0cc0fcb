"""One case's folder: mask, probabilities, table, document and page."""

from pathlib import Path

import numpy as np

from brainmets.concurrency import meanwhile
from brainmets.errors import InputError, VolumeError
from brainmets.io import nifti
from brainmets.io.storage import whole_file, write_json
from brainmets.report.content import Report
from brainmets.report.page import render
from brainmets.report.tables import document, lesions_csv
from brainmets.volume import Volume

FULL_SCALE = 65535
"""Probability 1 as stored; the header's slope is its inverse."""


def write_case(report: Report, folder: Path, *, save_probability: bool) -> None:
    """Fill an existing folder with everything said of a case.

    Every file is a function of ``report`` alone, byte for byte: ``mask.nii.gz``,
    ``lesions.csv``, ``report.json``, ``report.html`` and, if asked for,
    ``probability.nii.gz``.

    Raises:
        InputError: probabilities are asked for, but no model made any.
        VolumeError: more lesions than a 16-bit mask can number.
        WriteError: the folder cannot be written to.
    """
    if save_probability and report.probability is None:
        raise InputError(
            f"case {report.case_id}: asked to save probabilities, but the mask was given, not "
            "predicted; leave the option out or run a model"
        )
    mask = _stored_mask(report)
    with meanwhile(lambda: nifti.write(mask, folder / "mask.nii.gz")) as written:
        page = render(report)
    written()
    if save_probability and report.probability is not None:
        stored = _stored_probability(report.probability)
        nifti.write(stored, folder / "probability.nii.gz", slope=1 / FULL_SCALE)
    _write_text(folder / "lesions.csv", lesions_csv(report))
    write_json(folder / "report.json", document(report))
    _write_text(folder / "report.html", page)


def _stored_mask(report: Report) -> Volume:
    """Labels in the smallest unsigned type, on the scan's very own grid."""
    count = len(report.lesions)
    if count > np.iinfo(np.uint16).max:
        raise VolumeError(f"case {report.case_id}: {count} lesions; the mask is probably noise")
    kind = np.uint8 if count <= np.iinfo(np.uint8).max else np.uint16
    return report.scan.volume.with_data(report.mask.data.astype(kind))


def _stored_probability(probability: Volume) -> Volume:
    scaled = np.clip(np.asarray(probability.data, np.float32), 0, 1) * FULL_SCALE
    return probability.with_data(np.rint(scaled, out=scaled).astype(np.uint16))


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
