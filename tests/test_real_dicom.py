"""A real DICOM series, against SimpleITK and dcm2niix, and through the whole line."""

import json
import random
import shutil
import subprocess
import sys
import zipfile
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainmets.apps.inputs import case_to_measure, cases_of
from brainmets.batch import DONE, measure_cases, predict_cases
from brainmets.io import images
from brainmets.pipeline import load_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def series(data_folder, tmp_path_factory):
    """The zip, its folder, and a copy with shuffled names in several folders."""
    zipped = data_folder / "dicom" / "head_t1_dicom.zip"
    folder = tmp_path_factory.mktemp("real") / "folder"
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(folder)
    shuffled = folder.with_name("shuffled")
    files = sorted(folder.rglob("*.dcm"))
    random.Random(4).shuffle(files)  # noqa: S311 - an order, not a secret
    for number, file in enumerate(files):
        place = shuffled / str(number % 5)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / f"{number:03d}")
    return {"zip": zipped, "folder": folder, "shuffled": shuffled}


@pytest.fixture(scope="module")
def converted(series, tmp_path_factory):
    """What dcm2niix makes of it."""
    out = tmp_path_factory.mktemp("nii")
    program = Path(sys.executable).with_name("dcm2niix")
    words = [str(program), "-z", "n", "-o", str(out), "-f", "head", str(series["folder"])]
    subprocess.run(words, check=True, capture_output=True)  # noqa: S603 - a test's own oracle
    return out / "head.nii"


def corners(shape):
    return np.array(list(product(*[(0, n - 1) for n in shape])), float)


def values_at(image, points):
    """Voxels of a NIfTI image at world positions, and how far each lies from its voxel's centre."""
    index = nib.affines.apply_affine(np.linalg.inv(image.affine), points)
    nearest = np.rint(index).astype(int)
    apart = nib.affines.apply_affine(image.affine, nearest) - points
    return np.asarray(image.dataobj)[tuple(nearest.T)], np.abs(apart).max()


@pytest.mark.parametrize("source", ["zip", "folder", "shuffled"])
def test_voxels_and_places_are_simpleitks(series, source):
    import SimpleITK as sitk  # noqa: N813 - the package's own abbreviation

    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series["folder"]))
    image = sitk.ReadImage(names)
    volume = images.read(series[source]).volume
    assert np.array_equal(volume.data, sitk.GetArrayFromImage(image).T)
    for index in corners(volume.grid.shape):
        whole = [int(i) for i in index]
        expected = np.array(image.TransformIndexToPhysicalPoint(whole)) * [-1, -1, 1]
        found = (volume.grid.affine @ [*index, 1])[:3]
        assert np.abs(found - expected).max() <= 1e-3


@pytest.mark.parametrize("source", ["zip", "folder", "shuffled"])
def test_voxels_and_places_are_dcm2niixs(series, converted, source):
    image = nib.load(converted)
    volume = images.read(series[source]).volume
    chance = np.random.default_rng(2)
    index = np.vstack(
        [corners(volume.grid.shape), chance.integers(0, volume.grid.shape, (9999, 3))]
    )
    points = nib.affines.apply_affine(volume.grid.affine, index)
    values, apart = values_at(image, points)
    assert apart <= 1e-3
    assert np.array_equal(values, volume.data[tuple(index.astype(int).T)])


@pytest.fixture(scope="module")
def analysed(series, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    cases = cases_of([series["zip"]], None)
    return predict_cases(cases, out, load_model("starter")), out


def test_the_whole_line_runs_on_it(analysed):
    (outcome,), out = analysed
    assert outcome.status == DONE, outcome.message
    report = (out / outcome.case_id / "report.json").read_text(encoding="utf-8")
    assert "T1, contrast not stated" in report
    (line,) = [c for c in json.loads(report)["checks"] if c["name"] == "contrast"]
    assert line["passed"] is False
    assert "seems absent" in line["detail"]
    assert "45152" not in report  # the scanner's serial number, which its UIDs hold


def test_its_mask_lies_on_dcm2niixs_image_and_comes_back(analysed, series, converted, tmp_path):
    """A reader outlines on the converted image; the mask is measured on the DICOM series."""
    (outcome,), out = analysed
    mask = nib.load(out / outcome.case_id / "mask.nii.gz")
    image = nib.load(converted)
    points = nib.affines.apply_affine(mask.affine, corners(mask.shape))
    _, apart = values_at(image, points)
    assert apart <= 1e-3
    drawn = np.zeros(image.shape, np.uint8)
    drawn[100:110, 120:135, 90:100] = 1
    nib.save(nib.Nifti1Image(drawn, image.affine), tmp_path / "drawn.nii.gz")
    case = case_to_measure(series["zip"], tmp_path / "drawn.nii.gz")
    (measured,) = measure_cases([case], tmp_path / "measured")
    assert (measured.status, measured.lesions) == (DONE, 1), measured.message
    found = nib.load(tmp_path / "measured" / case.case_id / "mask.nii.gz")
    centre = nib.affines.apply_affine(
        found.affine, np.argwhere(np.asarray(found.dataobj) > 0).mean(axis=0)
    )
    expected = nib.affines.apply_affine(image.affine, np.argwhere(drawn).mean(axis=0))
    assert np.abs(centre - expected).max() <= 1e-2
