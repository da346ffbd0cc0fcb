"""DICOM series: voxels where the patient has them, or refused with the reason and the place."""

import shutil
import struct
import warnings
import zipfile

import numpy as np
import pytest
from pydicom.dataset import Dataset
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

from brainmets.errors import BrainmetsError, CohortError, InputError, ReadError, VolumeError
from brainmets.io import dicom, images
from dicom_series import (
    AXIAL,
    CORONAL,
    LESIONS_RAS_MM,
    SAGITTAL,
    SECRET,
    Layout,
    encoded,
    enhanced,
    found_balls,
    pixels,
    positions,
    slices_of,
    turned,
    write,
)

NEGATED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
FLIPPED = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0))
GEOMETRIES = {
    "axial": Layout(),
    "sagittal": Layout(SAGITTAL),
    "coronal": Layout(CORONAL),
    "oblique": Layout(turned(AXIAL)),
    "oblique sagittal": Layout(turned(SAGITTAL)),
    "negated": Layout(NEGATED),
    "turned by a right angle": Layout(FLIPPED),
    "reversed": Layout(reverse=True),
    "0.5 mm": Layout(shape=(40, 40, 170), spacing_mm=(3.0, 3.0, 0.5)),
    "6.5 mm": Layout(turned(CORONAL), shape=(90, 100, 22), spacing_mm=(1.0, 1.0, 6.5)),
    "leaning by 10°": Layout(shear_mm=0.7),
}
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG 2000": JPEG2000Lossless,
    "JPEG-LS": JPEGLSLossless,
    "RLE": RLELossless,
}


def small(**options):
    return Layout(shape=(36, 40, 12), spacing_mm=(3.5, 3.0, 8.0), **options)


def refused(folder, slices, match, kind=VolumeError):
    """Refused with the reason; the message names the series, and nothing of the patient."""
    write(folder, slices)
    with pytest.raises(kind, match=match) as caught:
        dicom.read(folder)
    assert "series 3 (" in str(caught.value)
    assert SECRET.split("^")[0] not in str(caught.value)
    assert "1.2.3" not in str(caught.value)
    assert str(folder.parent) not in str(caught.value)
    return str(caught.value)


def truth_of(recipe):
    """The stored values, array axes as the reader promises: columns, rows, slices."""
    return np.stack(pixels(recipe), axis=-1).transpose(1, 0, 2)


# Where voxels lie


@pytest.mark.parametrize("name", GEOMETRIES)
def test_lesions_are_found_where_they_are(tmp_path, name):
    recipe = GEOMETRIES[name]
    scan = dicom.read(write(tmp_path / "s", slices_of(recipe)))
    half = np.array(scan.volume.grid.spacing_mm).max() / 2
    apart = np.linalg.norm(found_balls(scan) - LESIONS_RAS_MM, axis=1)
    assert (apart <= half).all(), apart
    assert scan.volume.data.dtype == np.float32
    assert np.array_equal(scan.volume.data, truth_of(recipe))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_slice_lies_where_its_own_header_says(tmp_path, name):
    recipe = GEOMETRIES[name]
    grid = dicom.read(write(tmp_path / "s", slices_of(recipe))).volume.grid
    for place, position in enumerate(positions(recipe)):
        here = grid.affine @ [0, 0, place, 1]
        np.testing.assert_allclose(here[:3] * [-1, -1, 1], position, atol=1e-5)
    assert grid.frame_of_reference == "1.2.3.9"


@pytest.mark.parametrize("name", ["axial", "oblique sagittal", "reversed", "6.5 mm"])
def test_simpleitk_agrees_on_voxels_and_places(tmp_path, name):
    import SimpleITK as sitk  # noqa: N813 - the package's own abbreviation

    folder = write(tmp_path / "s", slices_of(GEOMETRIES[name]))
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(files)
    volume = dicom.read(folder).volume
    assert np.array_equal(volume.data, sitk.GetArrayFromImage(image).T)
    end = [int(n) - 1 for n in volume.grid.shape]
    for index in ([0, 0, 0], end, [end[0], 0, end[2]]):
        expected = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose((volume.grid.affine @ [*index, 1])[:3], expected, atol=1e-3)


@pytest.mark.parametrize("own_geometry", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
def test_an_enhanced_object_is_the_same_volume(tmp_path, own_geometry, reverse):
    recipe = Layout(turned(SAGITTAL), reverse=reverse)
    (tmp_path / "one").write_bytes(encoded(enhanced(recipe, own_geometry=own_geometry)))
    scan = dicom.read(tmp_path / "one")
    apart = np.linalg.norm(found_balls(scan) - LESIONS_RAS_MM, axis=1)
    assert (apart <= 2.0).all()
    count = recipe.shape[2]
    frame = np.arange(count)[::-1] if reverse else np.arange(count)
    assert np.array_equal(scan.volume.data, 2 * truth_of(recipe).astype(float) + frame)


# Pixels


@pytest.mark.parametrize("name", SYNTAXES)
def test_every_transfer_syntax_gives_the_same_values(tmp_path, name):
    folder = write(tmp_path / "s", slices_of(small()), SYNTAXES[name])
    assert np.array_equal(dicom.read(folder).volume.data, truth_of(small()))


@pytest.mark.parametrize("name", ["explicit", "JPEG 2000", "JPEG-LS", "RLE"])
def test_every_transfer_syntax_serves_many_frames_too(tmp_path, name):
    (tmp_path / "one").write_bytes(encoded(enhanced(small()), SYNTAXES[name]))
    expected = 2 * truth_of(small()).astype(float) + np.arange(12)
    assert np.array_equal(dicom.read(tmp_path / "one").volume.data, expected)


def test_lossy_jpeg_is_read_and_said_to_be_lossy(tmp_path):
    scan = dicom.read(write(tmp_path / "s", slices_of(small()), JPEGBaseline8Bit))
    assert np.abs(scan.volume.data - truth_of(small()) // 5).max() < 12
    assert any("loss of detail" in note for note in scan.notes)


@pytest.mark.parametrize("name", SYNTAXES)
def test_signed_values_of_twelve_bits_keep_their_sign(tmp_path, name):
    slices = slices_of(small())
    for data in slices:
        values = np.frombuffer(data.PixelData, "<u2").astype(np.int16) - 600
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, 1
        data.PixelData = values.tobytes()
    folder = write(tmp_path / "s", slices, SYNTAXES[name])
    assert np.array_equal(dicom.read(folder).volume.data, truth_of(small()) - 600.0)


def test_bits_above_those_stored_are_no_part_of_the_value(tmp_path):
    """Old scanners kept graphics there."""
    slices = slices_of(small())
    for data in slices:
        values = np.frombuffer(data.PixelData, "<u2") | 0xF000
        data.BitsStored, data.HighBit, data.PixelData = 12, 11, values.tobytes()
    scan = dicom.read(write(tmp_path / "s", slices))
    assert np.array_equal(scan.volume.data, truth_of(small()))


def test_each_slice_has_its_own_rescaling(tmp_path):
    slices = slices_of(small())
    for number, data in enumerate(slices):
        data.RescaleSlope, data.RescaleIntercept = str(1 + number / 4), str(-number)
    scan = dicom.read(write(tmp_path / "s", slices))
    place = np.arange(12)
    np.testing.assert_allclose(scan.volume.data, truth_of(small()) * (1 + place / 4) - place)


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
def test_padding_becomes_the_lowest_value_and_is_said(tmp_path, syntax):
    slices = slices_of(small(tags={"PixelRepresentation": 1}))
    for data in slices:
        values = np.frombuffer(data.PixelData, "<i2").copy()
        values[:40] = -2000
        data.PixelData, data.PixelPaddingValue = values.tobytes(), -2000
    scan = dicom.read(write(tmp_path / "s", slices, SYNTAXES[syntax]))
    assert scan.volume.data.min() == truth_of(small())[:, 1:].min()
    assert any("padding" in note for note in scan.notes)


# Refused, with the reason and the place


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path):
    slices = slices_of(small())
    del slices[5]
    message = refused(tmp_path / "s", slices, "slices are missing")
    assert "between instance 5 and instance 7" in message
    assert "16 mm" in message


def test_uneven_slices_are_noted_first_and_then_refused(tmp_path):
    for shift, noted in ((0.4, True), (1.2, None)):
        slices = slices_of(small())
        slices[5].ImagePositionPatient[2] += shift
        if noted:
            scan = dicom.read(write(tmp_path / "noted", slices))
            assert any("off an even grid (instance 6)" in note for note in scan.notes)
        else:
            refused(tmp_path / "s", slices, "unevenly spaced.*instance 6")


@pytest.mark.parametrize("axis", [0, 1])
def test_a_slice_shifted_in_its_own_plane_is_refused(tmp_path, axis):
    slices = slices_of(small())
    slices[7].ImagePositionPatient[axis] += 1.0
    refused(tmp_path / "s", slices, "instance 8 lies 1 mm beside")


def test_the_same_slice_twice_is_left_out_and_said(tmp_path):
    slices = slices_of(small())
    again = slices_of(small())[4]
    again.SOPInstanceUID, again.InstanceNumber = "1.2.3.77", 40
    scan = dicom.read(write(tmp_path / "s", [*slices, again]))
    assert np.array_equal(scan.volume.data, truth_of(small()))
    assert any("1 images that repeat another" in note for note in scan.notes)


def test_two_images_of_one_number_are_told_apart_by_their_place(tmp_path):
    slices = slices_of(small())
    again = slices_of(small())[4]
    again.SOPInstanceUID = "1.2.3.77"
    again.PixelData = bytes(len(again.PixelData))
    refused(tmp_path / "s", [*slices, again], r"two images called instance 5, at \(.*mm LPS")


def test_two_images_of_one_place_are_refused(tmp_path):
    slices = slices_of(small())
    again = slices_of(small())[4]
    again.SOPInstanceUID, again.InstanceNumber = "1.2.3.77", 40
    again.PixelData = (np.frombuffer(again.PixelData, "<u2") + 1).astype("<u2").tobytes()
    message = refused(tmp_path / "s", [*slices, again], "one place differently")
    assert "instance 40" in message
    assert "instance 5" in message


@pytest.mark.parametrize(
    ("tag", "values", "said"),
    [
        ("EchoTime", (4.0, 12.0), "echo time"),
        ("TemporalPositionIdentifier", (1, 2), "temporal position"),
        ("InversionTime", (700, 2500), "inversion time"),
        ("DiffusionBValue", (0.0, 1000.0), "b-value"),
        ("AcquisitionNumber", (1, 2), "acquisition"),
    ],
)
def test_two_volumes_in_one_series_are_refused(tmp_path, tag, values, said):
    """Two echoes, phases, inversions, b-values or acquisitions of the same places."""
    slices = []
    for number, value in enumerate(values):
        for data in slices_of(small(tags={tag: value})):
            data.SOPInstanceUID += f".{number}"
            data.InstanceNumber += 100 * number
            shifted = np.frombuffer(data.PixelData, "<u2") + 7 * number
            data.PixelData = shifted.astype("<u2").tobytes()
            slices.append(data)
    message = refused(tmp_path / "s", slices, f"2 values of {said}")
    assert "instance 1" in message


def test_slices_of_two_echoes_make_no_volume(tmp_path):
    slices = slices_of(small())
    for data in slices[6:]:
        data.EchoTime = 12.0
    refused(tmp_path / "s", slices, "instance .* and instance .* differ in echo time")


def test_magnitude_is_read_where_phase_lies_beside_it(tmp_path):
    slices = slices_of(small())
    for data in slices_of(small(tags={"ImageType": ["ORIGINAL", "PRIMARY", "P"]})):
        data.SOPInstanceUID += ".9"
        data.PixelData = bytes(len(data.PixelData))
        slices.append(data)
    scan = dicom.read(write(tmp_path / "s", slices))
    assert np.array_equal(scan.volume.data, truth_of(small()))
    assert any("12 phase" in note for note in scan.notes)


@pytest.mark.parametrize(
    ("tag", "value", "match"),
    [
        ("PixelSpacing", ["3.5", "3.3"], "pixel spacings.*instance 4"),
        ("FrameOfReferenceUID", "1.2.3.10", "frames of reference.*instance 4"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0, -1], "angle"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0.9, 0], "instance 4.*square"),
        ("ImageOrientationPatient", [1, 0, 0, 0.5, 0.8, 0], "instance 4.*square"),
        ("ImageOrientationPatient", None, "instance 4.*is missing"),
        ("ImagePositionPatient", None, "instance 4.*is missing"),
        ("PixelSpacing", None, "instance 4.*is missing"),
        ("PixelSpacing", ["0", "5"], "instance 4.*PixelSpacing.*expected"),
        ("Rows", 0, "instance 4.*Rows.*expected"),
        ("PhotometricInterpretation", None, "instance 4.*PhotometricInterpretation.*missing"),
        ("SamplesPerPixel", None, "instance 4.*SamplesPerPixel.*missing"),
        ("RescaleSlope", "0", "instance 4.*leaves no image"),
        ("PhotometricInterpretation", "MONOCHROME1", "instance 4.*inverted"),
        ("PhotometricInterpretation", "RGB", "instance 4.*colour"),
        ("SamplesPerPixel", 3, "instance 4.*colour"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "instance 4.*mosaic"),
        ("NumberOfFrames", 3, "instance 4.*3 frames"),
        ("HighBit", 14, "instance 4.*HighBit"),
        ("BitsAllocated", 12, "instance 4.*BitsAllocated.*expected"),
    ],
)
def test_what_is_missing_or_odd_in_one_slice_is_named(tmp_path, tag, value, match):
    slices = slices_of(small())
    if value is None:
        delattr(slices[3], tag)
    else:
        setattr(slices[3], tag, value)
    refused(tmp_path / "s", slices, match)


def test_images_of_two_sizes_are_refused(tmp_path):
    slices = slices_of(small())
    slices[3].Rows, slices[3].PixelData = 10, slices[3].PixelData[: 10 * 40 * 2]
    refused(tmp_path / "s", slices, "image sizes.*instance 4")


def test_missing_pixels_are_named_by_slice(tmp_path):
    slices = slices_of(small())
    del slices[2].PixelData
    refused(tmp_path / "s", slices, "instance 3.*missing", ReadError)


def test_a_file_cut_short_is_named_by_slice(tmp_path):
    folder = write(tmp_path / "s", slices_of(small()))
    content = (folder / "im000000").read_bytes()
    (folder / "im000000").write_bytes(content[:-200])
    with pytest.raises(ReadError, match=r"series 3 .*instance 1: .*damaged|missing"):
        dicom.read(folder)


def test_a_file_cut_within_its_header_is_refused_with_the_series(tmp_path):
    folder = write(tmp_path / "s", slices_of(small()))
    content = (folder / "im000000").read_bytes()
    (folder / "im000000").write_bytes(content[:420])
    with pytest.raises(BrainmetsError, match="damaged"):
        dicom.read(folder)


def test_a_single_slice_asks_for_the_series(tmp_path):
    write(tmp_path / "s", slices_of(small())[:1])
    with pytest.raises(VolumeError, match="too few"):
        dicom.read(tmp_path / "s")
    with pytest.raises(VolumeError, match="single slice"):
        dicom.read(tmp_path / "s", series="3")


def test_a_stack_that_leans_too_much_is_refused(tmp_path):
    refused(tmp_path / "s", slices_of(small(shear_mm=3.0)), "leans by 20")


def test_fewer_images_than_announced_are_noted(tmp_path):
    scan = dicom.read(write(tmp_path / "s", slices_of(small(tags={"ImagesInAcquisition": 14}))))
    assert any("announces 14 images, 12 are there" in note for note in scan.notes)


def test_gaps_between_slices_are_noted_and_spacing_comes_from_positions(tmp_path):
    scan = dicom.read(write(tmp_path / "s", slices_of(small(tags={"SliceThickness": 5.0}))))
    assert scan.volume.grid.spacing_mm == pytest.approx((3.0, 3.5, 8.0))
    assert any("slices of 5 mm lie 8 mm apart" in note for note in scan.notes)


def test_a_series_that_is_deflated_as_a_whole_is_refused(tmp_path):
    content = encoded(slices_of(small())[0])
    marked = content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    (tmp_path / "x.dcm").write_bytes(marked)
    with pytest.raises(ReadError, match="deflated"):
        dicom.read(tmp_path / "x.dcm")


# Several people, several acquisitions, and slices that are no longer there


@pytest.mark.parametrize("tag", ["PatientID", "PatientName", "PatientBirthDate"])
def test_images_of_two_patients_are_refused_without_naming_them(tmp_path, tag):
    slices = slices_of(small())
    setattr(slices[3], tag, "19800202")
    assert "19800202" not in refused(tmp_path / "s", slices, f"2 values of {tag}")


def acquisitions(numbers, **tags):
    """Slices of acquisitions 1 and 2; further tags hold a pair of values, one for each."""
    slices = slices_of(small())
    for data, number in zip(slices, numbers, strict=True):
        data.AcquisitionNumber = number
        for tag, values in tags.items():
            setattr(data, tag, values[number - 1])
    return slices


@pytest.mark.parametrize("numbers", [[1, 2] * 6, [1] * 6 + [2] * 6], ids=["mixed", "end to end"])
@pytest.mark.parametrize(
    "tags",
    [{"AcquisitionTime": ("101010", "111111")}, {"ContrastBolusAgent": ("", "Gadovist")}],
    ids=["time", "agent"],
)
def test_two_acquisitions_are_no_volume(tmp_path, numbers, tags):
    refused(tmp_path / "s", acquisitions(numbers, **tags), "several acquisitions")


def test_acquisitions_mixed_without_order_are_no_volume(tmp_path):
    numbers = [1, 2, 2, 1, 2, 1, 1, 1, 2, 1, 2, 2]
    refused(tmp_path / "s", acquisitions(numbers), "without order")


def test_packages_of_one_volume_are_read_and_noted(tmp_path):
    same = {"AcquisitionTime": ("101010", "101010")}
    scan = dicom.read(write(tmp_path / "s", acquisitions([1, 2] * 6, **same)))
    assert np.array_equal(scan.volume.data, truth_of(small()))
    assert any("2 packages" in note for note in scan.notes)


@pytest.mark.parametrize("content", [b"", b"\0" * 9000, b"abc"], ids=["empty", "blank", "cut"])
def test_a_hollow_file_among_the_slices_may_be_one(tmp_path, content):
    folder = write(tmp_path / "s", slices_of(small()))
    (folder / "readme.txt").write_bytes(content)
    dicom.read(folder)
    (folder / "im999").write_bytes(content)
    with pytest.raises(ReadError, match="1 damaged DICOM files"):
        dicom.read(folder)


def test_a_file_that_is_gone_before_it_is_read_is_an_error(tmp_path):
    folder = write(tmp_path / "s", slices_of(small()))
    (study,) = dicom.studies(folder)
    (folder / study.members[-1]).unlink()
    with pytest.raises(ReadError, match="1 of 12 files"):
        dicom.read(folder, study.members)


def test_every_second_instance_alone_is_noted(tmp_path):
    slices = slices_of(small(tags={"SliceThickness": 4.0}))
    for data in slices:
        data.InstanceNumber = 2 * data.InstanceNumber - 1
    scan = dicom.read(write(tmp_path / "s", slices))
    assert any("in steps of 2" in note for note in scan.notes)


# Enhanced objects


def broken_enhanced(change):
    data = enhanced(small())
    change(data)
    return encoded(data)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: setattr(d, "NumberOfFrames", 11), "11 frames, but 12"),
        (lambda d: d.PerFrameFunctionalGroupsSequence.pop(), "12 frames, but 11"),
        (
            lambda d: delattr(d.PerFrameFunctionalGroupsSequence[4], "PlanePositionSequence"),
            "frame 5.*is missing",
        ),
        (
            lambda d: setattr(
                d.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence[0],
                "ImagePositionPatient",
                [0, 0, 300],
            ),
            "frame 5",
        ),
        (lambda d: setattr(d, "PixelData", d.PixelData[:-880]), "end early"),
    ],
    ids=["fewer announced", "fewer described", "no place", "elsewhere", "cut"],
)
def test_a_broken_enhanced_object_is_refused_with_its_frame(tmp_path, change, match):
    (tmp_path / "one").write_bytes(broken_enhanced(change))
    with pytest.raises(InputError, match=match):
        dicom.read(tmp_path / "one")


def test_an_enhanced_object_with_two_time_points_is_refused(tmp_path):
    data = enhanced(small())
    for index, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
        content = Dataset()
        content.TemporalPositionIndex = 1 + index % 2
        frame.FrameContentSequence = Sequence([content])
        place = data.PerFrameFunctionalGroupsSequence[index - index % 2].PlanePositionSequence
        frame.PlanePositionSequence = place
    (tmp_path / "one").write_bytes(encoded(data))
    with pytest.raises(VolumeError, match="2 values of temporal position"):
        dicom.read(tmp_path / "one")


# Files, folders and zips


def packed(path, folder):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def test_zip_folder_and_shuffled_copies_give_the_same_scan(tmp_path):
    deep = tmp_path / "top" / "a" / "b"
    write(deep, slices_of(small()))
    (tmp_path / "top" / "readme.txt").write_text("hello")
    (tmp_path / "top" / "empty").write_bytes(b"")
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    for number, file in enumerate(sorted(deep.iterdir(), reverse=True)):
        place = shuffled / str(number % 3)
        place.mkdir(exist_ok=True)
        shutil.copy(file, place / f"{number}.bin")
    zipped = packed(tmp_path / "scan.zip", tmp_path / "top")
    (tmp_path / "outer").mkdir()
    shutil.copy(zipped, tmp_path / "outer" / "inner.zip")
    scans = [images.read(p) for p in (deep, tmp_path / "top", shuffled, zipped, tmp_path / "outer")]
    for scan in scans:
        assert np.array_equal(scan.volume.data, truth_of(small()))
        assert np.array_equal(scan.volume.grid.affine, scans[0].volume.grid.affine)
        assert scan.notes == scans[0].notes
        assert scan.case_id == scans[0].case_id


def test_files_without_preamble_are_dicom_all_the_same(tmp_path):
    """As old exports are: no 128 bytes, no DICM, no meta group."""
    folder = tmp_path / "s"
    folder.mkdir()
    for number, data in enumerate(slices_of(small())):
        content = encoded(data, ImplicitVRLittleEndian)
        length = struct.unpack("<I", content[140:144])[0]
        (folder / str(number)).write_bytes(content[144 + length :])
    assert np.array_equal(dicom.read(folder).volume.data, truth_of(small()))


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 400, b"\x08\x00" + b"\x05" * 300])
def test_what_is_no_dicom_is_said_to_be_none(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ReadError, match="neither NIfTI"):
        images.read(tmp_path / "x")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ReadError, match="No such file"):
        images.read(tmp_path / "absent.dcm")


def test_two_studies_are_no_scan(tmp_path):
    write(tmp_path / "a", slices_of(small()))
    write(tmp_path / "b", slices_of(small(tags={"StudyInstanceUID": "1.2.9"}), "1.2.9.1"))
    with pytest.raises(CohortError, match="2 studies"):
        dicom.read(tmp_path)


def test_nothing_is_said_on_the_screen_and_no_warning_escapes(tmp_path, capsys, caplog):
    """The parser warns of values that break the standard, and quotes them."""
    tags = {"PatientName": "x" * 90, "StudyDate": "notadate", "FrameOfReferenceUID": "1.2.3.x"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(tmp_path / "s", slices_of(small(tags=tags)))
    caplog.clear()
    scan = dicom.read(tmp_path / "s")
    printed = capsys.readouterr()
    assert (printed.out, printed.err, caplog.text) == ("", "", "")
    assert not [note for note in scan.notes if "xxx" in note or "1.2.3" in note]
