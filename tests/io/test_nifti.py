"""NIfTI: what is accepted, what is refused, and that geometry survives, by nibabel's reading."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings

from brainmets.errors import InputError, ReadError, VolumeError, WriteError
from brainmets.io import nifti
from brainmets.volume import Volume
from phantoms import make_grid, rotation
from strategies import AXIS_ORDERS, volumes

SHAPE = (3, 4, 5)
COUNTING = np.arange(60, dtype=np.int16).reshape(SHAPE)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
MIRRORED = np.diag([-1.0, 2.0, 3.0, 1.0])
PIXDIM, SCL_SLOPE, FORM_CODES, SROW_X, DIM, DATATYPE = 76, 112, 252, 280, 40, 70  # byte offsets


def save(path, data=COUNTING, affine=AFFINE, kind=nib.Nifti1Image, **options):
    nib.save(kind(data, affine, **options), path)
    return path


def patched(path, offset, layout, *values):
    """A good file with a few bytes of its header changed."""
    content = bytearray(save(path).read_bytes())
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(content)
    return path


def with_forms(path, sform, qform, sform_code, qform_code):
    image = nib.Nifti1Image(COUNTING, None)
    image.set_sform(sform, sform_code)
    image.set_qform(qform, qform_code)
    nib.save(image, path)
    return path


# Voxels


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_both_versions_are_read_packed_or_not(tmp_path, name, kind):
    save(tmp_path / "a.nii", kind=kind)
    content = (tmp_path / "a.nii").read_bytes()
    packed = name.lower().endswith(".gz")
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    scan = nifti.read(tmp_path / name, sequence="T1c")
    assert np.array_equal(scan.volume.data, COUNTING)
    assert np.array_equal(scan.volume.grid.affine, AFFINE)
    assert scan.sequence == "T1c"


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "f4", ">f4", "f8"])
def test_every_real_type_becomes_float32(tmp_path, dtype):
    data = COUNTING.astype(dtype)
    got = nifti.read(save(tmp_path / "a.nii.gz", data)).volume.data
    assert got.dtype == np.float32
    assert np.array_equal(got, COUNTING)


def test_scale_factors_are_applied(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE), AFFINE)
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, -7)
    nib.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<2f", content, SCL_SLOPE, 0.5, -7)
    content[352:] = COUNTING.tobytes(order="F")
    (tmp_path / "a.nii").write_bytes(content)
    got = nifti.read(tmp_path / "a.nii").volume.data
    assert np.array_equal(got, COUNTING * 0.5 - 7)


def test_one_frame_is_a_volume(tmp_path):
    got = nifti.read(save(tmp_path / "a.nii", COUNTING[..., None])).volume
    assert np.array_equal(got.data, COUNTING)


@pytest.mark.parametrize("shape", [(*SHAPE, 2), (*SHAPE, 1, 3)])
def test_many_frames_are_refused(tmp_path, shape):
    with pytest.raises(VolumeError, match=r"frames in one file.*Split"):
        nifti.read(save(tmp_path / "a.nii", np.zeros(shape, np.int16)))


@pytest.mark.parametrize("shape", [(30, 40), (30,), (30, 40, 1)])
def test_a_slice_is_no_volume(tmp_path, shape):
    with pytest.raises(VolumeError, match="not a volume"):
        nifti.read(save(tmp_path / "a.nii", np.zeros(shape, np.int16)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_counted_and_refused(tmp_path, value):
    data = COUNTING.astype(float)
    data[1, 1, 1] = data[2, 2, 2] = value
    with pytest.raises(VolumeError, match="2 voxels are NaN or infinite"):
        nifti.read(save(tmp_path / "a.nii", data))


@pytest.mark.parametrize("dtype", ["c8", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_complex_and_colour_are_refused(tmp_path, dtype):
    with pytest.raises(VolumeError, match="one grey value each"):
        nifti.read(save(tmp_path / "a.nii", np.zeros(SHAPE, dtype)))


# Damage


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.nii", tmp_path):
        with pytest.raises(ReadError, match="no such file"):
            nifti.read(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ReadError, match="is empty"):
        nifti.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_text_under_a_nifti_name_is_refused(tmp_path, name):
    (tmp_path / name).write_text("case\timage\n" * 99)
    with pytest.raises(ReadError, match="not a readable NIfTI"):
        nifti.read(tmp_path / name)


def test_other_formats_of_nibabel_are_refused(tmp_path):
    nib.save(nib.MGHImage(COUNTING.astype(np.float32), AFFINE), tmp_path / "a.mgz")
    nib.save(nib.Nifti1Pair(COUNTING, AFFINE), tmp_path / "a.hdr")
    for name in ("a.mgz", "a.hdr"):
        with pytest.raises(ReadError, match="expected NIfTI"):
            nifti.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 999, (12, 12, 12)).astype(np.int16)
    content = save(tmp_path / name, noise).read_bytes()
    for length in [*range(1, len(content), 97), len(content) - 9, len(content) - 1]:
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(ReadError):
            nifti.read(tmp_path / name)


def test_a_flipped_bit_in_a_packed_file_is_noticed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 999, (12, 12, 12)).astype(np.int16)
    content = save(tmp_path / "a.nii.gz", noise).read_bytes()
    for position in [*range(len(content) // 2, len(content), 211), len(content) - 6]:
        damaged = bytearray(content)
        damaged[position] ^= 16
        (tmp_path / "a.nii.gz").write_bytes(damaged)
        with pytest.raises(ReadError, match="damaged"):
            nifti.read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("shape", [(32767,) * 3, (1000,) * 3])
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_announces_more_than_there_is_is_refused(tmp_path, shape, packed):
    path = patched(tmp_path / "a.nii", DIM, "<4h", 3, *shape)
    if packed:
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "b.nii.gz"
    with pytest.raises(ReadError, match="damaged"):
        nifti.read(path)


@pytest.mark.parametrize(
    ("offset", "layout", "values"),
    [
        (DIM, "<4h", (3, 0, 4, 5)),
        (DIM, "<4h", (3, -3, 4, 5)),
        (DIM, "<h", (9,)),
        (DATATYPE, "<h", (999,)),
        (DATATYPE, "<h", (0,)),
        (108, "<f", (1e9,)),  # where the voxels start
        (108, "<f", (float("nan"),)),
        (344, "<4s", (b"abc\0",)),
        (PIXDIM + 4, "<f", (0.0,)),
        (PIXDIM + 4, "<f", (float("nan"),)),
        (PIXDIM + 12, "<f", (float("inf"),)),
        (SROW_X, "<4f", (0.0,) * 4),
        (SROW_X, "<4f", (float("nan"),) * 4),
        (SROW_X, "<4f", (0.0, 2.0, 0.0, 0.0)),  # same direction as the second axis
    ],
)
def test_a_nonsensical_header_is_refused(tmp_path, offset, layout, values):
    with pytest.raises(InputError, match=r"a\.nii: "):
        nifti.read(patched(tmp_path / "a.nii", offset, layout, *values))


def test_errors_name_the_file_but_not_its_folder(tmp_path):
    secret = tmp_path / "Jane_Doe"
    secret.mkdir()
    (secret / "a.nii").write_bytes(b"")
    with pytest.raises(ReadError) as caught:
        nifti.read(secret / "a.nii")
    assert "Jane" not in str(caught.value)


# Geometry


def test_two_valid_forms_that_disagree_give_the_sform_and_a_note(tmp_path):
    scan = nifti.read(with_forms(tmp_path / "a.nii", AFFINE, MIRRORED, 1, 1))
    assert np.array_equal(scan.volume.grid.affine, AFFINE)
    assert "disagree" in scan.notes[0]


def test_a_qform_that_is_no_rotation_does_not_spoil_a_valid_sform(tmp_path):
    path = patched(tmp_path / "a.nii", FORM_CODES, "<2h3f", 1, 1, 3.0, 3.0, 3.0)
    scan = nifti.read(path)
    assert np.array_equal(scan.volume.grid.affine, AFFINE)
    assert "disagree" in scan.notes[0]


def test_two_valid_forms_that_agree_need_no_note(tmp_path):
    assert nifti.read(with_forms(tmp_path / "a.nii", AFFINE, AFFINE, 1, 1)).notes == ()


def test_a_valid_form_wins_over_one_that_is_not(tmp_path):
    from_sform = nifti.read(with_forms(tmp_path / "a.nii", AFFINE, MIRRORED, 2, 0))
    assert np.array_equal(from_sform.volume.grid.affine, AFFINE)
    from_qform = nifti.read(with_forms(tmp_path / "a.nii", MIRRORED, AFFINE, 0, 1))
    assert np.allclose(from_qform.volume.grid.affine, AFFINE)
    assert "qform" in from_qform.notes[0]


def test_forms_that_are_not_marked_valid_must_agree(tmp_path):
    scan = nifti.read(with_forms(tmp_path / "a.nii", AFFINE, AFFINE, 0, 0))
    assert np.array_equal(scan.volume.grid.affine, AFFINE)
    assert "neither" in scan.notes[0]
    with pytest.raises(VolumeError, match="sform and qform disagree and neither is marked valid"):
        nifti.read(with_forms(tmp_path / "a.nii", AFFINE, MIRRORED, 0, 0))


def test_without_any_form_left_and_right_are_unknown(tmp_path):
    with pytest.raises(VolumeError, match="left and right are unknown"):
        nifti.read(with_forms(tmp_path / "a.nii", np.zeros((4, 4)), AFFINE, 0, 0))


# Writing


@settings(max_examples=40, deadline=None)
@given(volume=volumes())
def test_what_is_written_is_read_back(tmp_path_factory, volume):
    path = tmp_path_factory.mktemp("out") / "a.nii.gz"
    nifti.write(volume, path)
    scan = nifti.read(path)
    assert np.array_equal(scan.volume.data, volume.data)
    assert scan.volume.grid == volume.grid
    assert scan.notes == ()
    theirs = nib.load(path)
    assert np.allclose(theirs.get_qform(), volume.grid.affine, atol=1e-3)
    assert theirs.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("axes", AXIS_ORDERS[::5])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_every_axis_order_survives(tmp_path, axes, name):
    grid = make_grid(SHAPE, (0.5, 1, 5), axes=rotation(25, (3, 2, 1)) @ axes)
    nifti.write(Volume(COUNTING, grid), tmp_path / name)
    assert np.allclose(nib.load(tmp_path / name).affine, grid.affine, atol=1e-5)


@pytest.mark.parametrize("slope", [1.0, 1 / 65535])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_the_same_voxels_give_the_same_bytes(tmp_path, slope, name):
    data = np.random.default_rng(0).integers(0, 65536, SHAPE).astype(np.uint16)
    grid = make_grid(SHAPE, 1.5, axes=rotation(25, (3, 2, 1)))
    nifti.write(Volume(data, grid), tmp_path / name, slope=slope)
    (tmp_path / "later").mkdir()
    nifti.write(Volume(np.asfortranarray(data), grid), tmp_path / "later" / name, slope=slope)
    assert (tmp_path / name).read_bytes() == (tmp_path / "later" / name).read_bytes()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_stored_numbers_and_slope_stay_as_given(tmp_path, name):
    stored = np.linspace(0, 65535, 60).reshape(SHAPE).astype(np.uint16)
    nifti.write(Volume(stored, make_grid(SHAPE)), tmp_path / name, slope=1 / 65535)
    theirs = nib.load(tmp_path / name)
    assert np.array_equal(theirs.dataobj.get_unscaled(), stored)
    assert np.allclose(nifti.read(tmp_path / name).volume.data, stored / 65535, atol=1e-7)
    assert nifti.read(tmp_path / name).volume.data.max() <= 1


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_arrays_keep_their_type_and_bool_becomes_uint8(tmp_path, dtype):
    data = (COUNTING % 2).astype(dtype)
    nifti.write(Volume(data, make_grid(SHAPE)), tmp_path / "a.nii")
    theirs = nib.load(tmp_path / "a.nii")
    assert theirs.get_data_dtype() == (np.uint8 if dtype is bool else dtype)
    assert np.array_equal(np.asarray(theirs.dataobj), data)


def test_a_place_that_cannot_be_written_to_is_reported(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match=r"cannot write 'a\.nii'"):
        nifti.write(Volume(COUNTING, make_grid(SHAPE)), tmp_path / "file" / "a.nii")


# Labels


def test_labels_are_whole_numbers(tmp_path):
    labels = nifti.read_labels(save(tmp_path / "a.nii", COUNTING.astype(np.float32) + 1e-5))
    assert labels.data.dtype == np.int32
    assert np.array_equal(labels.data, COUNTING)


@pytest.mark.parametrize("change", [0.5, -1.0, 0.0009, 1e-4])
def test_labels_that_are_negative_or_fractions_are_refused(tmp_path, change):
    with pytest.raises(VolumeError, match="whole numbers of 0 or more"):
        nifti.read_labels(save(tmp_path / "a.nii", COUNTING.astype(np.float32) + change))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("label", [2**31, 2**32 - 1])
def test_labels_too_large_for_int32_are_refused(tmp_path, label):
    data = np.zeros(SHAPE, np.uint32)
    data[1] = label
    with pytest.raises(VolumeError, match="expected whole numbers below 2³¹"):
        nifti.read_labels(save(tmp_path / "a.nii", data))


@pytest.mark.parametrize("slope", [1 / 3, 1 / 255, 1 / 65535, 0.1])
def test_labels_may_be_rounded_by_a_scale_factor(tmp_path, slope):
    stored = np.rint(np.arange(60).reshape(SHAPE) % 2 / slope).astype(np.uint16)
    image = Volume(stored, make_grid(SHAPE))
    nifti.write(image, tmp_path / "a.nii", slope=slope)
    assert np.array_equal(nifti.read_labels(tmp_path / "a.nii").data, COUNTING % 2)


def test_names_are_told_apart(tmp_path):
    assert nifti.is_nifti(tmp_path / "a.nii.gz")
    assert nifti.is_nifti(tmp_path / "A.NII")
    assert not nifti.is_nifti(tmp_path / "a.gz")
    assert not nifti.is_nifti(tmp_path / "nii")
