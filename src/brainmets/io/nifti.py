"""NIfTI-1/-2 in and out (nibabel reads the format; this file decides what is acceptable).

Header fields after the NIfTI-1 definition, https://nifti.nimh.nih.gov/nifti-1.
"""

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from brainmets.cohort import Scan
from brainmets.errors import ReadError, VolumeError
from brainmets.io.storage import whole_file
from brainmets.volume import GRID_TOLERANCE_VOX, Grid, Volume, apply

SUFFIXES = (".nii", ".nii.gz")
LABEL_TOLERANCE = 2e-5
"""How far a label may lie from a whole number (large ones 1e-6 of it): rounding, no fraction."""

MOST_VOXELS = 1_500_000_000
"""A header that announces more (6 GB as float32) is taken for damaged."""


def is_nifti(path: Path) -> bool:
    """Whether the name ends as a NIfTI file's does."""
    return path.name.lower().endswith(SUFFIXES)


def read(path: str | Path, *, sequence: str | None = None) -> Scan:
    """Read one 3D image.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.
        sequence: what the image is, for example ``"T1c"``; kept with the scan.

    Returns:
        A Scan with float32 voxels (scale factors applied) whose ``notes`` say which
        of qform and sform gave the geometry.

    Raises:
        ReadError: missing, empty, cut short, or not NIfTI.
        VolumeError: not 3D, colour or complex, NaN or infinite voxels, or a geometry
            that no scan can have.
    """
    path = Path(path)
    image = _open(path)
    _check_header(path, image)
    try:
        affine, notes = _affine_of(image)
        grid = Grid(image.shape[:3], affine)
    except VolumeError as error:
        raise VolumeError(f"{path.name}: {error}") from error
    data = _voxels(path, image)
    if not np.isfinite(data).all():
        count = int((~np.isfinite(data)).sum())
        voxels = "1 voxel is" if count == 1 else f"{count} voxels are"
        raise VolumeError(f"{path.name}: {voxels} NaN or infinite; repair the scan")
    return Scan(Volume(data, grid), sequence=sequence, notes=notes)


def read_labels(path: str | Path) -> Volume:
    """Read a mask: whole numbers ≥ 0 and below 2³¹, as int32.

    Raises:
        ReadError, VolumeError: as :func:`read`, and for labels that are negative, not whole
            numbers but for the rounding of a scale factor, or too large.
    """
    if not is_nifti(Path(path)) and Path(path).exists():
        raise ReadError("the mask is no NIfTI file; expected a mask as .nii or .nii.gz")
    volume = read(path).volume
    labels = np.rint(volume.data)
    play = np.maximum(LABEL_TOLERANCE, 1e-6 * labels)
    if (np.abs(volume.data - labels) > play).any() or labels.min() < 0:
        raise VolumeError(
            f"{Path(path).name}: labels must be whole numbers of 0 or more; "
            f"found values between {volume.data.min():.4g} and {volume.data.max():.4g}"
        )
    if labels.max() >= 2.0**31:
        raise VolumeError(
            f"{Path(path).name}: labels up to {labels.max():.10g}; expected whole numbers below "
            "2³¹. Number the labels from 1"
        )
    return volume.with_data(labels.astype(np.int32))


def voxels_announced(path: Path) -> int:
    """Voxels that a file's header announces, 0 where it cannot be read as NIfTI."""
    try:
        return int(np.prod(nib.load(path).shape[:3]))
    except Exception:  # noqa: BLE001  # reading says later, in full, what is wrong with the file
        return 0


def write(volume: Volume, path: str | Path, *, slope: float = 1.0) -> None:
    """Write one image; the same voxels give the same bytes.

    Args:
        volume: stored in its array's own type, bool as uint8.
        path: ``.nii`` or ``.nii.gz``; gets its name only once it is whole.
        slope: scale factor stored in the header; value = stored × slope.

    Raises:
        WriteError: the place cannot be written to.
    """
    path = Path(path)
    stored = volume.data.astype(np.uint8) if volume.data.dtype == bool else volume.data
    image = nib.Nifti1Image(stored, volume.grid.affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, 0)
    image.set_sform(volume.grid.affine, code=1)
    image.set_qform(volume.grid.affine, code=1, strip_shears=True)
    payload = image.to_bytes()
    if slope != 1.0:
        payload = _with_stored_voxels(image, stored, slope)
    with whole_file(path) as temporary:
        if path.name.endswith(".gz"):
            with (
                temporary.open("wb") as raw,
                gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0) as packed,
            ):
                packed.write(payload)
        else:
            temporary.write_bytes(payload)


def _with_stored_voxels(
    image: nib.Nifti1Image, stored: npt.NDArray[np.generic], slope: float
) -> bytes:
    """Header with a slope, followed by voxels exactly as given (nibabel would rescale them)."""
    header = image.header.copy()
    header["scl_slope"], header["scl_inter"] = slope, 0
    header["magic"], header["vox_offset"] = b"n+1", 352
    return bytes(header.binaryblock) + b"\0" * 4 + stored.tobytes(order="F")


def _open(path: Path) -> nib.Nifti1Image:
    if not path.is_file():
        raise ReadError(f"{path.name}: no such file; check the name")
    if path.stat().st_size == 0:
        raise ReadError(f"{path.name}: the file is empty; copy it again")
    try:
        image = nib.load(path, mmap=False)  # the file may change while the scan is in use
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise ReadError(
            f"{path.name}: not a readable NIfTI file ({_reason(error)}); "
            "expected .nii or .nii.gz as scanners' converters write it"
        ) from error
    if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is a subclass
        raise ReadError(f"{path.name}: is {type(image).__name__}, expected NIfTI (.nii, .nii.gz)")
    return image


def _check_header(path: Path, image: nib.Nifti1Image) -> None:
    shape = image.shape
    with ImageOpener(path) as file:  # nibabel turns a spacing of 0 into 1 without a word
        pixdim = type(image.header).from_fileobj(file, check=False)["pixdim"][1:4]
    if not np.isfinite(pixdim).all() or (pixdim == 0).any():
        raise VolumeError(f"{path.name}: voxel spacing {pixdim.tolist()} mm; repair the header")
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise VolumeError(f"{path.name}: shape {shape} is not a volume; expected a 3D scan")
    if any(n != 1 for n in shape[3:]):
        raise VolumeError(
            f"{path.name}: {shape[3:]} frames in one file; expected one 3D scan. Split the series "
            "and give the post-contrast frame"
        )
    if int(np.prod(shape, dtype=np.float64)) > MOST_VOXELS:
        raise ReadError(f"{path.name}: header announces shape {shape}; it is probably damaged")
    if image.get_data_dtype().kind not in "iuf":
        raise VolumeError(
            f"{path.name}: voxels of type {image.get_data_dtype()}; expected one grey value each"
        )


def _voxels(path: Path, image: nib.Nifti1Image) -> npt.NDArray[np.float32]:
    needed = int(image.dataobj.offset)
    needed += int(np.prod(image.shape)) * image.get_data_dtype().itemsize
    try:
        whole = _whole(path, image, needed)
        with np.errstate(over="ignore"):  # too large for float32: infinite, and refused as such
            data = whole.get_fdata(caching="unchanged", dtype=np.float32)
    except (OSError, EOFError, ValueError, MemoryError, zlib.error) as error:
        raise ReadError(
            f"{path.name}: the voxels end early or are damaged ({_reason(error)}); copy it again"
        ) from error
    return np.asarray(data.reshape(data.shape[:3]), np.float32)


def _whole(path: Path, image: nib.Nifti1Image, needed: int) -> nib.Nifti1Image:
    """The image, if its file holds the ``needed`` bytes; EOFError if not.

    gzip keeps its checksum at the end, which nibabel leaves unread; here it is checked.
    """
    if not path.name.lower().endswith(".gz"):
        if path.stat().st_size < needed:
            raise EOFError
        return image
    with gzip.open(path) as file:
        payload = file.read(needed)
        if len(payload) < needed:
            raise EOFError
        while file.read(1 << 20):
            pass
    return type(image).from_bytes(payload)


def _affine_of(image: nib.Nifti1Image) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """The affine and a note on where it came from.

    sform wins when its code says it is valid, then qform; when neither is marked valid
    they must agree, since nothing says which one is meant.
    """
    header = image.header
    sform, qform = np.asarray(image.get_sform(), float), _qform(image)
    shape = ((*image.shape, 1, 1, 1))[:3]
    if header["sform_code"] > 0:
        note: tuple[str, ...] = ()
        if header["qform_code"] > 0 and not _agree(sform, qform, shape):
            note = ("sform and qform disagree although both are marked valid; the sform was used",)
        return sform, note
    if header["qform_code"] > 0 and qform is not None:
        return qform, ("geometry taken from the qform; the sform is not marked valid",)
    if not sform[:3, :3].any():
        raise VolumeError(
            "neither sform nor qform is marked valid, so left and right are unknown; "
            "convert the scan again from DICOM, or set the qform code if you know the orientation"
        )
    if not _agree(sform, qform, shape):
        raise VolumeError(
            "sform and qform disagree and neither is marked valid; set the right one's code to 1"
        )
    return sform, ("neither sform nor qform is marked valid; they agree, and were believed",)


def _qform(image: nib.Nifti1Image) -> npt.NDArray[np.float64] | None:
    try:
        return np.asarray(image.get_qform(), float)
    except (HeaderDataError, ValueError):
        return None


def _agree(
    one: npt.NDArray[np.float64], other: npt.NDArray[np.float64] | None, shape: tuple[int, ...]
) -> bool:
    if other is None:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]])).reshape(3, -1).T
    apart = np.abs(apply(one, corners) - apply(other, corners)).max()
    spacing = np.sqrt((one[:3, :3] ** 2).sum(axis=0)).min()
    return bool(apart <= max(GRID_TOLERANCE_VOX * spacing, 1e-3))


def _reason(error: Exception) -> str:
    return type(error).__name__
