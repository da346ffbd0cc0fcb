"""One door for scans of any format: NIfTI by its name, and DICOM for everything else."""

from collections.abc import Sequence
from pathlib import Path

from brainmets.cohort import Case, Scan
from brainmets.io import nifti
from brainmets.io.archive import content_sha256


def read(path: str | Path, members: Sequence[str] = (), *, series: str | None = None) -> Scan:
    """Read one scan.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file, which is taken for T1 after contrast; else a
            DICOM file, folder or zip, whose header says what it is.
        members: names of files within a folder or zip to look at; all if none.
        series: the series to read of a DICOM study; see :func:`brainmets.io.dicom.read`.

    Raises:
        InputError: as :func:`brainmets.io.nifti.read` or :func:`brainmets.io.dicom.read`.
    """
    path = Path(path)
    if nifti.is_nifti(path):
        return nifti.read(path, sequence="T1c")
    from brainmets.io import dicom  # pydicom takes a moment, which NIfTI need not wait for

    return dicom.read(path, members, series=series)


def read_case(case: Case) -> Scan:
    """Read a case's scan; as :func:`read`."""
    return read(case.image, case.members, series=case.series)


def voxels_announced(case: Case) -> int:
    """Voxels of a case's scan, from headers alone; 0 where they are not known."""
    if case.voxels or not case.image.is_file():
        return case.voxels
    return nifti.voxels_announced(case.image)


def image_sha256(case: Case) -> bytes:
    """Hash of everything that a case's scan is a function of.

    Raises:
        ReadError: the files cannot be read.
    """
    return content_sha256(case.image, case.members)
