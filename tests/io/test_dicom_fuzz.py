"""Damage of any kind: one clear error, or the volume that is there; never another geometry."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from brainmets.errors import BrainmetsError
from brainmets.io import dicom
from dicom_series import Layout, encoded, enhanced, positions, slices_of, turned, write

RECIPE = Layout(turned(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))), shape=(8, 10, 12),
                spacing_mm=(9.0, 8.0, 7.0))  # fmt: skip
PIXELS = 8 * 10 * 2
WORTH = (
    b"", b"0", b"-1", b"1e308", b"nan", b"inf", b"1\\2", b"1\\2\\3", b"\0" * 8, b"\xff" * 8, b"T1",
    b"99999999999999", b"1.2.3", b"-7.5\\3\\0", b"0\\0\\0\\0\\0\\0", b"1\\0\\0\\0\\1\\0",
)  # fmt: skip
"""Values that a tag may be replaced with."""


def require_true_geometry(scan):
    """Every slice of the volume lies where one of the series' own slices does, in their order.

    Slices at the ends may be missing: nothing in a series says where it should end.
    """
    assert scan.volume.grid.shape[:2] == (10, 8)
    truth = positions(RECIPE) * [-1, -1, 1]
    affine, count = scan.volume.grid.affine, scan.volume.grid.shape[2]
    found = affine[:3, 3] + np.arange(count)[:, None] * affine[:3, 2]
    first = int(np.linalg.norm(truth - found[0], axis=1).argmin())
    apart = np.abs(found - truth[first : first + count])
    assert apart.max() < 0.2 * 7.0
    row, column = (np.array(v) * [-1, -1, 1] for v in RECIPE.cosines)
    np.testing.assert_allclose(affine[:3, 0], row * 8.0, atol=0.2)
    np.testing.assert_allclose(affine[:3, 1], column * 9.0, atol=0.2)


def survives(folder, **options):
    """A clear error, in one line and without a path, or the volume that is there."""
    try:
        scan = dicom.read(folder, **options)
    except BrainmetsError as error:
        message = str(error)
        assert len(message) > 20
        assert "\n" not in message
        assert str(folder) not in message
        return False
    require_true_geometry(scan)
    return True


def mutated(content, chance):
    """A file with some bytes changed, cut out or put in; mostly in its header."""
    changed = bytearray(content)
    reach = len(changed) - (PIXELS if chance.random() < 0.8 else 0)
    for _ in range(chance.choice((1, 1, 1, 2, 5, 20))):
        at = chance.randrange(128, reach)
        how = chance.random()
        if how < 0.6:
            changed[at] = chance.choice((0, 255, chance.randrange(256), changed[at] ^ 1))
        elif how < 0.75:
            del changed[at : at + chance.randrange(1, 9)]
        elif how < 0.9:
            changed[at:at] = chance.randbytes(chance.randrange(1, 9))
        else:
            del changed[at:]
            break
        reach = max(129, min(reach, len(changed)))
    return bytes(changed)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("fuzz") / "s", slices_of(RECIPE))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def laid_out(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_untouched_series_survives(files, tmp_path):
    assert survives(laid_out(tmp_path / "s", files))


@pytest.mark.parametrize(
    "rounds", [40, pytest.param(600, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_damaged_slices_give_an_error_or_the_true_geometry(files, tmp_path, rounds):
    chance = random.Random(7)  # noqa: S311 - damage, not secrets
    folder = laid_out(tmp_path / "s", files)
    outcomes = []
    for _ in range(rounds):
        names = chance.sample(sorted(files), chance.choice((1, 1, 2)))
        for name in names:
            (folder / name).write_bytes(mutated(files[name], chance))
        outcomes.append(survives(folder, **chance.choice(({}, {"series": "3"}))))
        for name in names:
            (folder / name).write_bytes(files[name])
    assert 0 < sum(outcomes) < rounds


TAGS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
        "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
        "NumberOfFrames", "InstanceNumber", "SeriesNumber", "RescaleSlope", "RescaleIntercept",
        "EchoTime", "ImageType", "SliceThickness", "PixelPaddingValue", "SOPClassUID", "Modality",
        "PhotometricInterpretation", "FrameOfReferenceUID", "SeriesInstanceUID",
        "StudyInstanceUID", "SeriesDescription", "SharedFunctionalGroupsSequence")  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_of_nonsense_gives_an_error_or_the_true_geometry(files, tmp_path, tag):
    """The value's bytes are replaced in the file itself, so that no writer objects."""
    from pydicom.datadict import tag_for_keyword

    number = tag_for_keyword(tag)
    group, element = (number >> 16).to_bytes(2, "little"), (number & 0xFFFF).to_bytes(2, "little")
    folder = laid_out(tmp_path / "s", files)
    name = sorted(files)[5]
    content = files[name]
    at = content.find(group + element, 132)
    for value in WORTH:
        padded = value + b" " * (len(value) % 2)
        if at < 0:
            vr = b"SQ\0\0" + len(padded).to_bytes(4, "little") if tag.endswith("Sequence") else (
                b"SS" + len(padded).to_bytes(2, "little"))  # fmt: skip
            end = content.rfind(b"\xe0\x7f\x10\x00")
            changed = content[:end] + group + element + vr + padded + content[end:]
        else:
            length = int.from_bytes(content[at + 6 : at + 8], "little")
            changed = (
                content[: at + 6]
                + len(padded).to_bytes(2, "little")
                + padded
                + content[at + 8 + length :]
            )
        (folder / name).write_bytes(changed)
        survives(folder)


@settings(max_examples=60)
@given(content=st.binary(max_size=600), start=st.sampled_from([b"", b"meta", b"old"]))
@example(content=b"", start=b"meta")
def test_random_bytes_are_one_clear_error(tmp_path_factory, content, start):
    starts = {b"": b"", b"meta": b"\0" * 128 + b"DICM", b"old": b"\x08\x00\x05\x00CS\x02\x00"}
    path = tmp_path_factory.mktemp("fuzz") / "x"
    path.write_bytes(starts[start] + content)
    with pytest.raises(BrainmetsError):
        dicom.read(path)


@pytest.mark.slow
def test_a_damaged_enhanced_object_gives_an_error_or_the_true_geometry(tmp_path):
    """One file holds all: where frames say less than they should, none is guessed."""
    content = encoded(enhanced(RECIPE))
    chance = random.Random(11)  # noqa: S311 - damage, not secrets
    path = tmp_path / "x"
    shared = content.rfind(b"\xe0\x7f\x10\x00")
    for _ in range(300):
        changed = bytearray(content)
        at = chance.randrange(140, shared)
        kind = chance.random()
        if kind < 0.5:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind < 0.8:
            del changed[at : at + chance.randrange(1, 200)]
        else:
            del changed[at:]
        path.write_bytes(changed)
        try:
            scan = dicom.read(path)
        except BrainmetsError:
            continue
        assert scan.volume.grid.shape[2] == 12
        truth = positions(RECIPE) * [-1, -1, 1]
        step = (truth[-1] - truth[0]) / 11
        assert np.abs(scan.volume.grid.affine[:3, 2] - step).max() < 1.0


CRASH = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from brainmets.errors import BrainmetsError
from brainmets.io.dicom_pixels import Pixels
content = Path(sys.argv[2]).read_bytes()
at = content.find(b"\\xe0\\x7f\\x10\\x00")
chance = random.Random(5)
for _ in range(int(sys.argv[3])):
    changed = bytearray(content)
    for _ in range(chance.choice((1, 2, 8))):
        changed[chance.randrange(at + 20, len(changed))] = chance.randrange(256)
    if chance.random() < 0.3:
        del changed[chance.randrange(at + 20, len(changed)):]
    try:
        (frame,) = Pixels(bytes(changed)).frames([0])
    except BrainmetsError:
        continue
print("survived")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["JPEG lossless", "JPEG 2000", "JPEG-LS", "RLE", "JPEG"])
def test_damaged_compressed_pixels_never_take_the_process_down(tmp_path, name):
    from pydicom import uid

    syntax = {"JPEG lossless": uid.JPEGLosslessSV1, "JPEG 2000": uid.JPEG2000Lossless,
              "JPEG-LS": uid.JPEGLSLossless, "RLE": uid.RLELossless,
              "JPEG": uid.JPEGBaseline8Bit}[name]  # fmt: skip
    data = slices_of(Layout(shape=(40, 44, 3)))[1]
    (tmp_path / "x").write_bytes(encoded(data, syntax))
    words = [
        sys.executable,
        "-c",
        CRASH,
        str(Path(__file__).parents[1]),
        str(tmp_path / "x"),
        "400",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-500:]
