"""Synthetic DICOM series whose truth is known: bright balls at stated patient coordinates.

Geometry is written straight from the definition (PS3.3, C.7.6.2.1.1), slice by slice, and
shares no code with the reader.
"""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import gdcm
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
LESIONS_RAS_MM = ((22.0, 14.0, 18.0), (-17.0, -21.0, -9.0), (6.0, 30.0, -15.0))
RADII_MM = (9.0, 7.0, 8.0)
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
SECRET = "Doe^Jane"  # noqa: S105 - a name, which must not be found in any output


def turned(cosines, degrees=(17.0, -11.0, 23.0)):
    """Cosines after turns about x, y and z."""
    a, b, c = np.deg2rad(degrees)
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    turn = np.array(about_x) @ about_y @ about_z
    return tuple(tuple(turn @ v) for v in np.array(cosines))


@dataclass
class Layout:
    """How a series is made.

    Attributes:
        cosines: directions of rows and columns in LPS.
        shape: rows, columns, slices.
        spacing_mm: between rows, between columns, between slices.
        reverse: instance numbers run against the positions.
        shear_mm: shift of each slice against the one before, along the row.
        tags: further or other tags of every file.
    """

    cosines: tuple = AXIAL
    shape: tuple = (40, 44, 30)
    spacing_mm: tuple = (3.0, 2.5, 4.0)
    reverse: bool = False
    shear_mm: float = 0.0
    tags: dict = field(default_factory=dict)


def normal_of(recipe):
    return np.cross(*np.array(recipe.cosines))


def positions(recipe):
    """Image Position of every slice, LPS mm, shape (slices, 3); the stack is about the origin."""
    row, column = np.array(recipe.cosines)
    rows, columns, count = recipe.shape
    between_rows, between_columns, between = recipe.spacing_mm
    step = normal_of(recipe) * between + row * recipe.shear_mm
    corner = -row * between_columns * (columns - 1) / 2 - column * between_rows * (rows - 1) / 2
    return corner + (np.arange(count)[:, None] - (count - 1) / 2) * step


def pixels(recipe):
    """Stored values of every slice: a ramp as background, balls of 1000 to 1200 on it."""
    row, column = np.array(recipe.cosines)
    rows, columns, _ = recipe.shape
    down, across = np.mgrid[:rows, :columns]
    slices = []
    for place, position in enumerate(positions(recipe)):
        lps = (
            position
            + across[..., None] * row * recipe.spacing_mm[1]
            + down[..., None] * column * recipe.spacing_mm[0]
        )
        ras = lps * [-1, -1, 1]
        values = 100 + across + 2 * down + place
        for number, (centre, radius) in enumerate(zip(LESIONS_RAS_MM, RADII_MM, strict=True)):
            inside = np.linalg.norm(ras - centre, axis=-1) <= radius
            values[inside] = 1000 + 100 * number
        slices.append(values.astype(np.uint16))
    return slices


def header(recipe, number, position, series="1.2.3.4.5"):
    """Tags of one slice, pixels left out."""
    rows, columns, _ = recipe.shape
    tags = {
        "SOPClassUID": MR, "SOPInstanceUID": f"{series}.{number}", "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": series, "FrameOfReferenceUID": "1.2.3.9", "Modality": "MR",
        "PatientName": SECRET, "PatientID": "PAT-77", "AccessionNumber": "ACC-55",
        "PatientBirthDate": "19700101", "StudyDate": "20200102",
        "SeriesDescription": "T1 MPRAGE +C", "SeriesNumber": 3, "InstanceNumber": number,
        "ImageType": ["ORIGINAL", "PRIMARY", "M"], "MRAcquisitionType": "3D",
        "ScanningSequence": "GR", "EchoTime": 3.0, "RepetitionTime": 9.0, "SliceThickness": 1.0,
        "ImagePositionPatient": [f"{x:.8g}" for x in position],
        "ImageOrientationPatient": [f"{x:.8g}" for x in np.ravel(recipe.cosines)],
        "PixelSpacing": [str(s) for s in recipe.spacing_mm[:2]], "Rows": rows, "Columns": columns,
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16,
        "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
    }  # fmt: skip
    data = Dataset()
    for keyword, value in (tags | recipe.tags).items():
        if value is not None:
            setattr(data, keyword, value)
    return data


def slices_of(recipe=None, series="1.2.3.4.5", values=None):
    """Datasets of all slices with their pixels (or those given), by instance number."""
    recipe = recipe or Layout()
    made = list(zip(positions(recipe), values or pixels(recipe), strict=True))
    if recipe.reverse:
        made.reverse()
    found = []
    for number, (position, stored) in enumerate(made, start=1):
        data = header(recipe, number, position, series)
        data.PixelData = stored.tobytes()
        found.append(data)
    return found


def enhanced(recipe=None, *, own_geometry=True, values=None):
    """The series as one Enhanced MR object; geometry per frame, the rest shared."""
    recipe = recipe or Layout()
    made = list(zip(positions(recipe), values or pixels(recipe), strict=True))
    if recipe.reverse:
        made.reverse()
    data = header(recipe, 1, made[0][0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(data, keyword)
    data.SOPClassUID = ENHANCED_MR
    data.NumberOfFrames = len(made)
    data.PixelData = b"".join(stored.tobytes() for _, stored in made)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [f"{x:.8g}" for x in np.ravel(recipe.cosines)]
    measures.PixelSpacing = [str(s) for s in recipe.spacing_mm[:2]]
    measures.SliceThickness = 1.0
    shared.PixelMeasuresSequence = Sequence([measures])
    if not own_geometry:
        shared.PlaneOrientationSequence = Sequence([orientation])
    frames = []
    for number, (position, _) in enumerate(made):
        frame, place, scaling = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [f"{x:.8g}" for x in position]
        frame.PlanePositionSequence = Sequence([place])
        if own_geometry:
            frame.PlaneOrientationSequence = Sequence([orientation])
        scaling.RescaleSlope, scaling.RescaleIntercept, scaling.RescaleType = 2.0, number, "US"
        frame.PixelValueTransformationSequence = Sequence([scaling])
        frames.append(frame)
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return data


def encoded(data, syntax=ExplicitVRLittleEndian):
    """The bytes of a DICOM file in a transfer syntax; pixels are compressed where it says so."""
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            data["PixelData"].VR = "OW"
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    elif syntax == JPEGBaseline8Bit:
        _compress_as_jpeg(data)
    elif syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        data.compress(syntax, generate_instance_uid=False)
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    return _through_gdcm(content) if syntax == JPEGLosslessSV1 else content


def _compress_as_jpeg(data):
    """8-bit JPEG by Pillow; values are quartered to fit."""
    size = (data.Rows, data.Columns)
    values = (np.frombuffer(data.PixelData, "<u2").reshape(size) // 5).clip(0, 255)
    packed = BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(packed, "JPEG", quality=95)
    data.PixelData = encapsulate([packed.getvalue()])
    data["PixelData"].is_undefined_length = True
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit


def _through_gdcm(content):
    """Lossless JPEG, which pydicom cannot write, by gdcm."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        before, after = str(Path(folder) / "a"), str(Path(folder) / "b")
        Path(before).write_bytes(content)
        reader = gdcm.ImageReader()
        reader.SetFileName(before)
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(after)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return Path(after).read_bytes()


def write(folder, slices, syntax=ExplicitVRLittleEndian, prefix="im"):
    """Write slices as files whose names say nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(slices):
        name = f"{prefix}{(index * 7919) % 100003:06d}"
        (folder / name).write_bytes(encoded(data, syntax))
    return folder


def found_balls(scan):
    """Centres of mass of the three balls, RAS mm, by their brightness alone."""
    affine = scan.volume.grid.affine
    levels = [1000, 1100, 1200]
    top = scan.volume.data.max()
    centres = []
    for level in levels:
        inside = np.abs(scan.volume.data / top * 1200 - level) < 25
        index = np.argwhere(inside).mean(axis=0)
        centres.append(affine[:3, :3] @ index + affine[:3, 3])
    return np.array(centres)
