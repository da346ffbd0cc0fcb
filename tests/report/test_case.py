"""A case's folder: whole, valid, and the same bytes each time."""

import csv
import json
from dataclasses import replace
from importlib import resources

import jsonschema
import nibabel as nib
import numpy as np
import pytest

from brainmets import lesions
from brainmets.errors import InputError, VolumeError, WriteError
from brainmets.io import nifti
from brainmets.report.case import write_case
from brainmets.report.content import check_scan
from brainmets.report.tables import COLUMNS, document
from brainmets.volume import Grid, Volume
from phantoms import Ball, Head, axes_of, make_grid, make_head

FILES = {"mask.nii.gz", "lesions.csv", "report.json", "report.html"}


@pytest.fixture(scope="module")
def schema():
    text = resources.files("brainmets.report").joinpath("report.schema.json").read_text("utf-8")
    jsonschema.Draft202012Validator.check_schema(loaded := json.loads(text))
    return loaded


@pytest.fixture
def scored(head, make_report):
    """A report with probabilities."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, head.scan.grid.shape).astype(np.float32)
    return make_report(head, probability=Volume(values, head.scan.grid))


def test_the_folder_holds_what_was_asked_for(scored, tmp_path):
    write_case(scored, tmp_path, save_probability=False)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    write_case(scored, tmp_path, save_probability=True)
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"probability.nii.gz"}


def test_the_same_report_gives_the_same_bytes(scored, tmp_path):
    reordered = dict(reversed(scored.provenance.items()))
    reordered["model"] = dict(reversed(reordered["model"].items()))
    for name, report in (("a", scored), ("b", replace(scored, provenance=reordered))):
        (tmp_path / name).mkdir()
        write_case(report, tmp_path / name, save_probability=True)
    for one in (tmp_path / "a").iterdir():
        assert one.read_bytes() == (tmp_path / "b" / one.name).read_bytes()


@pytest.mark.parametrize("code", ["RAS", "LPS", "SRP"])
def test_the_mask_lies_on_the_scans_very_grid(code, make_report, tmp_path):
    head = make_head(make_grid((30, 34, 28), (5, 5, 6), axes=axes_of(code)), [Ball((20, 9, 9), 9)])
    off = head.scan.grid.affine + np.outer((0.01, 0.01, 0.01, 0), (0, 0, 0, 1))
    mask = Volume(head.lesions.data, Grid(head.scan.grid.shape, off))  # agrees, to 0.05 voxel
    write_case(make_report(head, mask=mask), tmp_path, save_probability=False)
    image = nib.load(tmp_path / "mask.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.affine, head.scan.grid.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj), head.lesions.data)


def test_more_than_255_lesions_fit_and_more_than_65535_are_refused(head, make_report, tmp_path):
    numbers = np.zeros(head.scan.grid.shape, np.int32)
    numbers.flat[:300] = np.arange(1, 301)
    one = make_report(head).lesions[0]
    many = tuple(replace(one, label=label) for label in range(1, 301))
    report = make_report(head, mask=head.lesions.with_data(numbers), lesions=many)
    from brainmets.report.case import _stored_mask

    stored = _stored_mask(report)
    assert stored.data.dtype == np.uint16
    np.testing.assert_array_equal(stored.data, numbers)
    object.__setattr__(report, "lesions", many * 219)
    with pytest.raises(VolumeError, match="65700 lesions"):
        write_case(report, tmp_path, save_probability=False)


def test_a_mask_that_cannot_be_written_is_not_passed_over(scored, tmp_path, monkeypatch):
    def full(volume, path, **_):
        raise WriteError("the disk is full")

    monkeypatch.setattr(nifti, "write", full)
    with pytest.raises(WriteError, match="full"):
        write_case(scored, tmp_path, save_probability=False)
    assert list(tmp_path.iterdir()) == []


def test_probabilities_come_back_to_sixteen_bits(scored, tmp_path):
    write_case(scored, tmp_path, save_probability=True)
    back = nifti.read(tmp_path / "probability.nii.gz").volume.data
    assert np.abs(back - scored.probability.data).max() <= 0.51 / 65535
    assert nib.load(tmp_path / "probability.nii.gz").get_data_dtype() == np.uint16


def test_probabilities_that_do_not_exist_cannot_be_saved(head, make_report, tmp_path):
    with pytest.raises(InputError, match="asked to save probabilities"):
        write_case(make_report(head), tmp_path, save_probability=True)
    assert list(tmp_path.iterdir()) == []


def test_the_document_is_what_the_schema_says(scored, healthy, make_report, schema, tmp_path):
    undefined = replace(
        scored.lesions[0], perpendicular_diameter_mm=float("nan"), mean_probability=None
    )
    for report in (
        scored,
        replace(scored, lesions=(undefined, *scored.lesions[1:])),
        make_report(healthy, provenance={**scored.provenance, "model": None, "extractor": None}),
    ):
        write_case(report, tmp_path, save_probability=False)
        read = json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=pytest.fail)
        jsonschema.validate(read, schema)
        assert read == json.loads(json.dumps(document(report)))


def test_the_schema_refuses_what_it_does_not_know(scored, schema):
    valid = document(scored)
    for broken in (
        valid | {"extra": 1},
        valid | {"schema_version": "2.0"},
        valid | {"lesions": [valid["lesions"][0] | {"side": "links"}]},
        {key: value for key, value in valid.items() if key != "checks"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def test_undefined_is_null_in_json_and_empty_in_csv(head, make_report, tmp_path):
    report = make_report(head)
    undefined = replace(
        report.lesions[0],
        perpendicular_diameter_mm=float("nan"),
        mean_probability=None,
        touches_mask_edge=None,
    )
    report = replace(report, lesions=(undefined, report.lesions[1]))
    write_case(report, tmp_path, save_probability=False)
    lesion = document(report)["lesions"][0]
    with (tmp_path / "lesions.csv").open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    names = ("perpendicular_diameter_mm", "mean_probability", "touches_mask_edge")
    for name in (*names, "rano_bm_measurable"):
        assert lesion[name] is None
        assert row[name] == ""


def test_the_table_has_a_row_per_lesion_and_says_what_the_document_says(scored, tmp_path):
    awkward = replace(scored, case_id='a,"b"\nc')
    write_case(awkward, tmp_path, save_probability=False)
    with (tmp_path / "lesions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["lesion"] for row in rows] == ["1", "2"]
    for row, lesion in zip(rows, document(awkward)["lesions"], strict=True):
        assert row["case"] == 'a,"b"\nc'
        assert float(row["volume_mm3"]) == lesion["volume_mm3"]
        centroid = [float(row[f"centroid_{axis}_mm"]) for axis in "ras"]
        assert centroid == lesion["centroid_ras_mm"]


def test_without_lesions_the_table_is_its_header(healthy, make_report, tmp_path):
    write_case(make_report(healthy), tmp_path, save_probability=False)
    assert (tmp_path / "lesions.csv").read_text("utf-8") == ",".join(COLUMNS) + "\n"


def test_the_total_is_the_masks_volume(scored, tmp_path):
    voxels = int((scored.mask.data > 0).sum())
    total = voxels * scored.mask.grid.voxel_volume_mm3
    assert document(scored)["summary"]["total_volume_mm3"] == pytest.approx(total, abs=1e-4)


@pytest.mark.slow
def test_a_real_thick_scan_reports_its_two_tumours(data_folder, make_report, tmp_path):
    """13,981 and 2,432 mm³, as the data set's own documentation counts them."""
    folder = data_folder / "scans" / "head_thick"
    scan = nifti.read(folder / "t1c.nii.gz", sequence="T1c")
    labels = lesions.components(nifti.read_labels(folder / "labels.nii.gz"))
    content = {"mask": labels, "lesions": lesions.measure(labels), "checks": check_scan(scan)}
    head = Head(scan.volume, scan.volume, labels)
    write_case(make_report(head, **content, brain=None), tmp_path, save_probability=False)
    read = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert [round(lesion["volume_mm3"]) for lesion in read["lesions"]] == [13981, 2432]
    assert not {c["name"]: c["passed"] for c in read["checks"]}["slice thickness"]
