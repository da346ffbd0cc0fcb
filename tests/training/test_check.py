"""Each way in which a cohort can be bad is one line that names case and column."""

import csv
import sys

import numpy as np
import pytest

from brainmets.apps import cli
from brainmets.cohort import read_cohort
from brainmets.config import Recipe
from brainmets.io import nifti
from brainmets.training import preparing
from brainmets.training.model import FrozenSplit, plan_training
from brainmets.training.preparing import prepare_cohort
from brainmets.volume import Grid, Volume
from training_cases import all_is_brain, write_case


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate("abcdefg"):
        write_case(tmp_path, name, seed=number)
    rows = [
        {"case": n, "image": f"{n}-t1c.nii.gz", "mask": f"{n}-seg.nii.gz", "patient": f"p{n}"}
        for n in "abcdefg"
    ]
    save(tmp_path, rows)
    return tmp_path


def save(folder, rows, name="cohort.tsv"):
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def load(folder):
    with (folder / "cohort.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def run(*words):
    sys.argv = ["brainmets", *map(str, words)]
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_a_sound_cohort_passes_with_its_lesions_counted(folder, capsys):
    assert run("cohort", "check", folder / "cohort.tsv", "--labels", 1) == 0
    assert "Cohorts" in capsys.readouterr().out


def other_grid(folder):
    mask = nifti.read_labels(folder / "c-seg.nii.gz")
    moved = Grid(mask.grid.shape, mask.grid.affine + np.diag([0.5, 0, 0, 0]))
    nifti.write(Volume(mask.data.astype(np.uint8), moved), folder / "c-seg.nii.gz")


def other_label(folder):
    mask = nifti.read_labels(folder / "b-seg.nii.gz")
    nifti.write(mask.with_data((mask.data * 7).astype(np.uint8)), folder / "b-seg.nii.gz")


def missing(folder):
    (folder / "d-seg.nii.gz").unlink()


def two_of_one_name(folder):
    rows = load(folder)
    rows[1]["case"] = "a"
    save(folder, rows)


def misspelt(folder):
    path = folder / "cohort.tsv"
    path.write_text(path.read_text().replace("patient", "pateint"))


def twice(folder):
    (folder / "e-t1c.nii.gz").write_bytes((folder / "b-t1c.nii.gz").read_bytes())


def in_air(folder):
    mask = nifti.read_labels(folder / "f-seg.nii.gz")
    data = np.zeros(mask.grid.shape, np.uint8)
    data[:3, :3, :3] = 1
    nifti.write(mask.with_data(data), folder / "f-seg.nii.gz")


def damaged(folder):
    path = folder / "g-t1c.nii.gz"
    path.write_bytes(path.read_bytes()[:900])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (other_grid, "case c, column 'mask': "),
        (other_label, "case b, column 'mask': labels [7]; expected 0 and [1]"),
        (missing, "case d, column 'mask': no file 'd-seg.nii.gz'"),
        (two_of_one_name, "case 'a' occurs twice"),
        (misspelt, "unknown column 'pateint'; did you mean 'patient'?"),
        (twice, "case e, column 'image': the same scan as case b"),
        (in_air, "case f, column 'mask': 100 % of the lesion lies where the scan holds no tissue"),
        (damaged, "case g, column 'image': "),
    ],
)
def test_a_bad_cohort_is_one_line_that_names_case_and_column(folder, capsys, spoil, said):
    spoil(folder)
    assert run("cohort", "check", folder / "cohort.tsv", "--labels", 1) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert str(folder) not in printed.err


def test_one_bad_case_hides_no_other(folder, capsys):
    other_grid(folder)
    damaged(folder)
    assert run("cohort", "check", folder / "cohort.tsv", "--workers", 2) == 2
    error = capsys.readouterr().err
    assert "case c, column 'mask'" in error
    assert "case g, column 'image'" in error
    assert "2 faults" in error


def test_a_scan_of_an_external_cohort_that_was_learnt_from_is_named(folder, capsys):
    row = {**load(folder)[0], "case": "x"}
    save(folder, [row], "external.tsv")
    assert run("cohort", "check", folder / "cohort.tsv", folder / "external.tsv") == 2
    assert (
        "case x, column 'image': the same scan as case a of cohort.tsv" in capsys.readouterr().err
    )


def test_an_empty_mask_is_remarked_and_is_no_fault(folder, capsys):
    mask = nifti.read_labels(folder / "a-seg.nii.gz")
    nifti.write(mask.with_data(np.zeros(mask.grid.shape, np.uint8)), folder / "a-seg.nii.gz")
    assert run("cohort", "check", folder / "cohort.tsv") == 0
    assert "case a: no lesion in the mask" in capsys.readouterr().err


def test_the_split_command_freezes_what_training_obeys(folder, capsys):
    split = folder / "split.tsv"
    assert run("cohort", "split", folder / "cohort.tsv", "-o", split, "--sizes", "5,2") == 0
    assert "split.tsv" in capsys.readouterr().out
    plan = plan_training(folder / "cohort.tsv", "m", frozen=FrozenSplit(split))
    tested = {c.case_id for c in plan.test}
    assert tested == {"b", "f"}
    assert not tested & {c.case_id for c in (*plan.training, *plan.validation)}
    assert len(plan.training) + len(plan.validation) == 5
    assert plan.card["split"]["sha256"] in split.read_text()
    assert run("cohort", "split", folder / "cohort.tsv", "-o", split, "--sizes", "5,3") == 2
    assert "8 in all; the cohort has 7 patients" in capsys.readouterr().err
    assert run("cohort", "split", folder / "cohort.tsv", "-o", split, "--sizes", "many") == 2
    assert run("cohort", "split", folder / "cohort.tsv", "-o", split, "--folds", 3) == 0
    folded = plan_training(folder / "cohort.tsv", "m", frozen=FrozenSplit(split, 1))
    assert {c.case_id for c in folded.test} == {"a", "d", "g"}


def test_what_was_prepared_is_what_training_uses(folder, capsys, monkeypatch):
    monkeypatch.setattr(preparing, "extract_brain", all_is_brain)
    work = folder / "work"
    assert run("cohort", "prepare", folder / "cohort.tsv", "--work", work) == 0
    assert "7 cases prepared" in capsys.readouterr().out
    before = {p.name: p.stat().st_mtime_ns for p in (work / "store").iterdir()}
    cohort = read_cohort(folder / "cohort.tsv")
    opened = prepare_cohort(cohort.with_masks(), Recipe(), work / "store")
    assert {case.key for case in opened} == before.keys()
    assert {p.name: p.stat().st_mtime_ns for p in (work / "store").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--encoder", "absent.pth"), "absent.pth: no such file; give torchvision's resnet34"),
        (("--loss", "blob"), "loss is 'blob', expected one of dice+ce, dice+hard, dice+ce+cc"),
        (("--split", "absent.tsv"), "absent.tsv: not a readable split"),
    ],
)
def test_options_of_training_that_cannot_be_are_refused(folder, capsys, words, said):
    assert run("train", folder / "cohort.tsv", "-o", folder / "m.brainmets", *words) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "m.brainmets").exists()
