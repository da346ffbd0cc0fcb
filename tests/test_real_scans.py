"""The shipped model on every real scan: it runs, the mask fits, the plain lesions are hit."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainmets.batch import predict_cases
from brainmets.cohort import Case
from brainmets.pipeline import load_model

CYST_BOX_MM = ((70, 112), (277, 337), (53, 101))
"""The metastasis of met_00110, drawn by eye before any model saw it (RAS+ mm)."""


def _scans(data: Path) -> dict[str, Path]:
    scans = {path.parent.name: path for path in sorted((data / "scans").glob("*/*t1c*.nii.gz"))}
    heads = sorted((data / "heads").glob("*.nii.gz"))
    nichart = sorted((data / "heads" / "nichart").glob("*_T1.nii.gz"))
    return scans | {path.name.removesuffix(".nii.gz"): path for path in [*heads, *nichart]}


@pytest.fixture(scope="module")
def analysed(data_folder, tmp_path_factory):
    """All scans through one process with one loaded model."""
    scans = _scans(data_folder)
    out = tmp_path_factory.mktemp("real")
    cases = [Case(name, path) for name, path in scans.items()]
    outcomes = predict_cases(cases, out, load_model("starter"))
    return scans, out, {outcome.case_id: outcome for outcome in outcomes}


@pytest.mark.slow
def test_every_real_scan_is_analysed_in_one_process(analysed):
    scans, _, outcomes = analysed
    assert len(scans) == 16
    assert {name: o.message for name, o in outcomes.items() if o.status != "done"} == {}


@pytest.mark.slow
def test_every_mask_has_exactly_its_scans_grid(analysed):
    scans, out, _ = analysed
    for name, path in scans.items():
        scan, mask = nib.load(path), nib.load(out / name / "mask.nii.gz")
        assert mask.shape == scan.shape[:3], name
        np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_cystic_metastasis_is_hit(analysed):
    _, out, _ = analysed
    mask = nib.load(out / "met_00110" / "mask.nii.gz")
    labels = np.asarray(mask.dataobj)
    centroids = [
        nib.affines.apply_affine(mask.affine, np.argwhere(labels == n).mean(axis=0))
        for n in range(1, labels.max() + 1)
    ]
    inside = [
        all(low <= x <= high for x, (low, high) in zip(c, CYST_BOX_MM, strict=True))
        for c in centroids
    ]
    assert any(inside)


@pytest.mark.slow
def test_the_larger_tumour_of_the_thick_slices_is_hit(analysed, data_folder):
    from scipy import ndimage

    _, out, _ = analysed
    truth = np.asarray(nib.load(data_folder / "scans/head_thick/labels.nii.gz").dataobj) > 0
    tumours, _ = ndimage.label(truth, np.ones((3, 3, 3)))
    larger = tumours == np.bincount(tumours.ravel())[1:].argmax() + 1
    found = np.asarray(nib.load(out / "head_thick" / "mask.nii.gz").dataobj) > 0
    assert (larger & found).any()
