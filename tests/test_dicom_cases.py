"""DICOM through the whole line: cases, names, resuming, measuring, training, and no secrets."""

import csv
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
import zipfile

import nibabel as nib
import numpy as np
import pytest

from brainmets.apps.inputs import case_to_measure, cases_of
from brainmets.apps.series_table import rows_of
from brainmets.apps.terminal import say_memory
from brainmets.batch import DONE, FAILED, KEPT, measure_cases, predict_cases
from brainmets.cohort import read_cohort
from brainmets.errors import CohortError, ReadError
from brainmets.evaluation.evaluate import evaluate
from brainmets.io import images, nifti
from brainmets.io.dicom import studies
from brainmets.io.dicom_header import digest
from brainmets.volume import AxisOrder, Volume, reorient
from dicom_series import SAGITTAL, Layout, enhanced, slices_of, turned, write
from stand_ins import COARSE_BALLS, coarse_grid, coarse_model, stripped_head

# whole dates: four digits alone also turn up in times and hashes
SECRETS = (
    "Doe", "Jane", "PAT-77", "ACC-55", "19700101", "1970-01-01", "20200102", "2020-01-02",
    "1.2.3", "secret-place", "MPRAGE +C",
)  # fmt: skip
STUDY = f"study-{digest('1.2.3.4')}"


def head_slices(study="1.2.3.4", balls=COARSE_BALLS, seed=0, tags=None):
    """A stripped head on the coarse grid, as an axial DICOM series."""
    head = stripped_head(coarse_grid(), balls, seed=seed).scan
    columns, rows, count = head.grid.shape
    recipe = Layout(shape=(rows, columns, count), spacing_mm=(5.0, 5.0, 5.0))
    recipe.tags = {"StudyInstanceUID": study, **(tags or {})}
    made = slices_of(recipe, f"{study}.5")
    for place, data in enumerate(made):
        # rows run to the back and columns to the left in DICOM's axial images
        values = head.data[::-1, ::-1, place].T
        data.PixelData = np.ascontiguousarray(np.rint(values).astype("<u2")).tobytes()
    return made


@pytest.fixture
def folder(tmp_path):
    """Two studies in one folder whose name must not be found in any output."""
    place = tmp_path / "secret-place"
    write(place / "Doe Jane" / "1", head_slices())
    write(place / "Doe Jane" / "2", head_slices("1.2.9.4", seed=1))
    return place


def content(out):
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name != "run.json"
    }


def test_each_study_is_a_case_named_after_nobody(folder, tmp_path):
    cases = cases_of([folder], None)
    assert {c.case_id for c in cases} == {STUDY, f"study-{digest('1.2.9.4')}"}
    outcomes = predict_cases(cases, tmp_path / "out", coarse_model())
    assert [(o.status, o.lesions) for o in outcomes] == [(DONE, 2), (DONE, 2)]


def test_headers_announce_how_large_a_scan_is(folder, tmp_path, capsys):
    """Of both studies, and of one object with many frames, as it turns out when it is read."""
    write(tmp_path / "one", [enhanced()])
    cases = [*cases_of([folder], None), *cases_of([tmp_path / "one"], None)]
    assert [case.voxels for case in cases] == [images.read_case(c).volume.data.size for c in cases]
    assert [images.voxels_announced(case) for case in cases] == [case.voxels for case in cases]
    say_memory(cases, coarse_model())
    assert "memory: at most about" in capsys.readouterr().err


def test_a_study_without_a_series_to_read_announces_nothing(folder):
    assert [case.voxels for case in cases_of([folder], None, series="99")] == [0, 0]


def test_nothing_that_identifies_is_in_any_output(folder, tmp_path, capsys):
    out = tmp_path / "out"
    predict_cases(cases_of([folder], None), out, coarse_model(), save_probability=True)
    for path in out.rglob("*"):
        assert not [word for word in SECRETS if word in path.name]
        if path.suffix in (".json", ".csv", ".html"):
            found = path.read_text(encoding="utf-8")
            assert not [word for word in SECRETS if word in found], path.name
        elif path.is_file():
            packed = nib.load(path)
            assert not bytes(packed.header["descrip"].tobytes()).strip(b"\0")
    printed = capsys.readouterr()
    assert not [word for word in SECRETS if word in printed.out + printed.err]


def test_the_mask_lies_where_the_lesions_are(folder, tmp_path):
    out = tmp_path / "out"
    predict_cases(cases_of([folder / "Doe Jane" / "1"], None), out, coarse_model())
    report = json.loads((out / STUDY / "report.json").read_text())
    found = np.array([lesion["centroid_ras_mm"] for lesion in report["lesions"]])
    for ball in COARSE_BALLS:
        assert np.linalg.norm(found - ball.centre_ras_mm, axis=1).min() < 2.5
    assert "chosen among 1" in str(report["checks"])


def test_a_second_start_keeps_what_is_done_though_files_were_renamed(folder, tmp_path):
    out = tmp_path / "out"
    predict_cases(cases_of([folder], None), out, coarse_model())
    for number, file in enumerate(sorted((folder / "Doe Jane" / "1").iterdir())):
        file.rename(file.with_name(f"renamed{-number}"))
    outcomes = predict_cases(cases_of([folder], None), out, coarse_model())
    assert [o.status for o in outcomes] == [KEPT, KEPT]


def test_one_changed_slice_makes_its_case_anew_and_no_other(folder, tmp_path):
    out = tmp_path / "out"
    predict_cases(cases_of([folder], None), out, coarse_model())
    shutil.rmtree(folder / "Doe Jane" / "1")
    write(folder / "Doe Jane" / "1", head_slices(balls=COARSE_BALLS[:1]))
    outcomes = {o.case_id: o for o in predict_cases(cases_of([folder], None), out, coarse_model())}
    assert {k: o.status for k, o in outcomes.items()} == {
        STUDY: DONE,
        f"study-{digest('1.2.9.4')}": KEPT,
    }
    assert outcomes[STUDY].lesions == 1


def test_another_series_is_another_result(folder, tmp_path):
    place = folder / "Doe Jane" / "1"
    tags = {"SeriesInstanceUID": "1.2.3.4.6", "SeriesNumber": 4, "SeriesDescription": "T1"}
    write(place, head_slices(balls=COARSE_BALLS[:1], tags=tags), prefix="other")
    out = tmp_path / "out"
    for series, lesions in ((None, 2), ("4", 1)):
        for status in (DONE, KEPT):
            (outcome,) = predict_cases(cases_of([place], None, series=series), out, coarse_model())
            assert (outcome.status, outcome.lesions) == (status, lesions)


def test_a_study_with_a_damaged_file_fails_alone(folder, tmp_path):
    (folder / "Doe Jane" / "1" / "cut").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\x04")
    outcomes = predict_cases(cases_of([folder], None), tmp_path / "out", coarse_model())
    status = {o.case_id: o.status for o in outcomes}
    assert status == {STUDY: FAILED, f"study-{digest('1.2.9.4')}": DONE}
    (failed,) = (o for o in outcomes if o.status == FAILED)
    assert "1 damaged DICOM file" in failed.message
    assert failed.exit_code == 2
    assert not [word for word in SECRETS if word in failed.message and word != "secret-place"]


def test_a_hostile_zip_among_others_fails_alone(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("../evil", b"x")
    cases = cases_of([tmp_path / "bad.zip", folder], None)
    outcomes = predict_cases(cases, tmp_path / "out", coarse_model())
    assert sorted(o.status for o in outcomes) == [DONE, DONE, FAILED]
    assert not (tmp_path / "evil").exists()


def test_a_folder_s_name_is_not_in_what_is_written_where_no_series_fits(tmp_path):
    place = tmp_path / "SECRET^NAME"
    write(place, head_slices(tags={"SeriesDescription": "FLAIR"}))
    (outcome,) = predict_cases(cases_of([place], None), tmp_path / "out", coarse_model())
    assert outcome.status == FAILED
    assert outcome.message.startswith(f"study {digest('1.2.3.4')}: no series")
    assert "SECRET" not in (tmp_path / "out" / "summary.csv").read_text()


def test_bad_inputs_fail_alone_and_are_called_after_their_place(folder, tmp_path):
    bad = [tmp_path / "SECRET1", tmp_path / "SECRET2", tmp_path / "SECRET.zip", tmp_path / "SECRET"]
    for place in bad[:2]:
        place.mkdir()
    (bad[0] / "nested.zip").write_bytes(b"PK\x03\x04")
    (bad[1] / "only.txt").write_text("nothing")
    bad[2].write_bytes(b"PK\x03\x04")
    out = tmp_path / "out"
    outcomes = predict_cases(cases_of([*bad, folder], None), out, coarse_model())
    failed = [o.case_id for o in outcomes if o.status == FAILED]
    assert failed == ["input-1", "input-2", "input-3", "input-4"]
    assert len(outcomes) == 6
    assert "SECRET" not in (out / "summary.csv").read_text()


def test_documents_built_as_zips_beside_the_slices_are_left_out(folder):
    with zipfile.ZipFile(folder / "SECRETNAME.jar", "w") as file:
        file.writestr("../evil", b"x")
    assert len(cases_of([folder], None)) == 2


def test_the_table_of_series_says_what_would_be_refused(tmp_path):
    slices = head_slices()
    del slices[5]
    (study,) = studies(write(tmp_path / "s", slices))
    ((_, _, _, verdict, _),) = rows_of(study)[1]
    assert verdict.startswith("refused: slices are missing")


def test_a_description_that_breaks_the_standard_prints_no_warning(tmp_path, recwarn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(tmp_path / "s", head_slices(tags={"SeriesDescription": "T1 +C " + "x" * 90}))
    recwarn.clear()
    (study,) = studies(tmp_path / "s")
    rows_of(study, descriptions=True)
    assert not recwarn.list


def test_dicom_given_as_a_mask_is_told_to_be_none(folder):
    with pytest.raises(ReadError, match="expected a mask as"):
        nifti.read_labels(folder)


def test_nifti_folders_are_what_they_were(folder, tmp_path):
    nifti.write(stripped_head(coarse_grid()).scan, folder / "a.nii.gz")
    assert [c.case_id for c in cases_of([folder], None)] == ["a"]


# Names


@pytest.mark.parametrize(
    ("source", "names"),
    [("folder", {"1", "2"}), ("patient-id", None), ("accession", None), ("hash", {STUDY})],
)
def test_cases_are_called_after_what_was_asked_for(folder, source, names):
    if names is None:
        with pytest.raises(CohortError, match="2 studies, but only 1 names"):
            cases_of([folder], None, id_from=source)
        (case,) = cases_of([folder / "Doe Jane" / "1"], None, id_from=source)
        assert case.case_id == {"patient-id": "PAT-77", "accession": "ACC-55"}[source]
    else:
        assert names <= {c.case_id for c in cases_of([folder], None, id_from=source)}


def test_a_name_that_is_not_there_is_an_error(tmp_path):
    write(tmp_path / "s", head_slices(tags={"AccessionNumber": None}))
    with pytest.raises(CohortError, match="no 'accession'"):
        cases_of([tmp_path / "s"], None, id_from="accession")


def test_the_same_study_twice_is_refused(folder):
    place = folder / "Doe Jane" / "1"
    with pytest.raises(CohortError, match="leave one out"):
        cases_of([place, place], None)


# Masks in another axis order, as converters write them


ORDERS = [((2, 0, 1), (True, False, True)), ((0, 1, 2), (False, True, False)),
          ((1, 0, 2), (True, True, True))]  # fmt: skip


@pytest.mark.parametrize(("axes", "flips"), ORDERS)
def test_a_mask_whose_axes_run_otherwise_is_turned_and_that_is_said(tmp_path, axes, flips):
    recipe = Layout(turned(SAGITTAL), shape=(36, 40, 12), spacing_mm=(3.5, 3.0, 8.0))
    place = write(tmp_path / "s", slices_of(recipe))
    scan = images.read(place).volume
    truth = scan.with_data((scan.data >= 1000).astype(np.uint8))
    other = reorient(truth, AxisOrder(axes, flips))
    nifti.write(truth, tmp_path / "same.nii.gz")
    nifti.write(Volume(np.ascontiguousarray(other.data), other.grid), tmp_path / "turned.nii.gz")
    for name in ("same", "turned"):
        case = case_to_measure(place, tmp_path / f"{name}.nii.gz")
        assert measure_cases([case], tmp_path / name)[0].status == DONE
    same, other = content(tmp_path / "same" / STUDY), content(tmp_path / "turned" / STUDY)
    assert same["mask.nii.gz"] == other["mask.nii.gz"]
    assert same["lesions.csv"] == other["lesions.csv"]
    assert b"turned, nothing interpolated" in other["report.json"]
    assert b"turned, nothing interpolated" not in same["report.json"]


def test_a_mask_of_other_voxels_is_refused(tmp_path):
    place = write(tmp_path / "s", head_slices())
    scan = images.read(place).volume
    affine = scan.grid.affine.copy()
    affine[0, 3] += 2.0
    nib.save(nib.Nifti1Image(np.ones(scan.data.shape, np.uint8), affine), tmp_path / "m.nii")
    (outcome,) = measure_cases([case_to_measure(place, tmp_path / "m.nii")], tmp_path / "out")
    assert (outcome.status, outcome.exit_code) == (FAILED, 2)
    assert "different grids" in outcome.message


def test_one_mask_fits_one_study(folder, tmp_path):
    with pytest.raises(CohortError, match="2 studies for one mask"):
        case_to_measure(folder, tmp_path / "m.nii")


# Cohorts


def test_a_table_may_name_dicom_and_its_series(folder, tmp_path):
    scan = images.read(folder / "Doe Jane" / "1").volume
    truth = stripped_head(coarse_grid(), COARSE_BALLS).lesions
    nifti.write(truth, folder / "truth.nii.gz")
    (folder / "cohort.tsv").write_text(
        "case\timage\tseries\tmask\nx\tDoe Jane/1\t3\ttruth.nii.gz\ny\tDoe Jane/2\t\t\n"
    )
    cases = cases_of([folder], None)
    assert [(c.case_id, c.series) for c in cases] == [("x", "3"), ("y", None)]
    outcomes = predict_cases(cases, tmp_path / "out", coarse_model())
    assert [o.status for o in outcomes] == [DONE, DONE]
    assert not scan.grid.agrees(truth.grid)
    (scores,) = evaluate(tmp_path / "out", read_cohort(folder).with_masks())
    assert scores.scores["dice"].value > 0.8
    assert scores.scores["lesion_f1"].value == 1


def test_a_table_must_name_its_dicom_cases(folder):
    (folder / "cohort.csv").write_text("image\nDoe Jane/1\n")
    with pytest.raises(CohortError, match="line 2: a DICOM image needs a name"):
        read_cohort(folder / "cohort.csv")


def test_training_prepares_dicom_as_it_does_nifti(folder, tmp_path):
    from brainmets.config import Recipe as Preparation
    from brainmets.training.preparing import prepare_cohort

    head = stripped_head(coarse_grid(), COARSE_BALLS)
    nifti.write(head.scan.with_data(np.rint(head.scan.data)), folder / "scan.nii.gz")
    nifti.write(head.lesions, folder / "truth.nii.gz")
    nifti.write(head.brain, folder / "brain.nii.gz")
    (folder / "cohort.tsv").write_text(
        "case\timage\tmask\tbrain_mask\n"
        "dicom\tDoe Jane/1\ttruth.nii.gz\tbrain.nii.gz\n"
        "nifti\tscan.nii.gz\ttruth.nii.gz\tbrain.nii.gz\n"
    )
    one, other = prepare_cohort(
        read_cohort(folder), Preparation(spacing_mm=5.0), tmp_path / "store"
    )
    np.testing.assert_array_equal(one.labels[:], other.labels[:])
    np.testing.assert_allclose(one.image[:], other.image[:], atol=0.02)


# Killed at any moment


RUN = """
import sys
from pathlib import Path
from brainmets.apps.inputs import cases_of
from brainmets.batch import predict_cases
from stand_ins import coarse_model
print("ready", flush=True)
predict_cases(cases_of([Path(sys.argv[1])], None), Path(sys.argv[2]), coarse_model(pause_s=0.02))
print("finished", flush=True)
"""


def start(scans, out):
    import subprocess
    from pathlib import Path

    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(  # noqa: S603 - own script
        [sys.executable, "-c", RUN, str(scans), str(out)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_a_run_over_dicom_killed_at_any_moment_goes_on(folder, tmp_path):
    clean = tmp_path / "clean"
    predict_cases(cases_of([folder], None), clean, coarse_model())
    chance = random.Random(3)  # noqa: S311 - moments, not secrets
    for attempt in range(3):
        out = tmp_path / f"out{attempt}"
        process = start(folder, out)
        time.sleep(chance.uniform(0.1, 2.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = start(folder, out)
        assert process.communicate(timeout=240)[0] == "finished\n"
        assert content(out) == content(clean)
        with (out / "summary.csv").open(newline="") as file:
            assert {row["status"] for row in csv.DictReader(file)} == {"done"}


def test_a_folder_of_damaged_dicom_alone_is_an_error(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "x").write_bytes(b"\0" * 128 + b"DICM" + b"junk" * 40)
    with pytest.raises(ReadError, match="DICOM"):
        cases_of([tmp_path / "s"], None)
