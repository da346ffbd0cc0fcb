"""Folders of public datasets: who is there, whose mask is whose, and which labels are lesion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainmets.apps import cli
from brainmets.cohort import read_cohort
from brainmets.errors import CohortError, ConfigError
from brainmets.evaluation.paper.run import run_paper
from brainmets.io import nifti
from brainmets.training import preparing
from brainmets.training.check import check_cohorts
from brainmets.training.model import plan_training
from training_cases import all_is_brain, write_case


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def bids(folder, *names):
    touch(folder, "dataset_description.json", *names)
    return folder


def masks(cohort):
    return {case.case_id: case.mask and case.mask.name for case in cohort}


SCAN = "sub-01/ses-a/anat/sub-01_ses-a_ce-gadolinium_T1w.nii.gz"
DERIVED = "derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a"


def test_bids_scans_after_contrast_are_the_cases(tmp_path):
    bids(
        tmp_path,
        SCAN,
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_ce-gadolinium_FLAIR.nii.gz",
        "sub-02/anat/sub-02_acq-mprage_ce-gd_run-2_T1w.nii",
        "derivatives/prep/sub-01/ses-a/anat/sub-01_ses-a_ce-gadolinium_desc-preproc_T1w.nii.gz",
        ".git/annex/sub-03/anat/sub-03_ce-gd_T1w.nii.gz",
    )
    cohort = read_cohort(tmp_path)
    assert [(c.case_id, c.row["patient"]) for c in cohort] == [
        ("sub-01_ses-a_ce-gadolinium", "sub-01"),
        ("sub-02_acq-mprage_ce-gd_run-2", "sub-02"),
    ]
    assert cohort.target_labels is None


@pytest.mark.parametrize(
    "name",
    [
        "_ce-gadolinium_label-lesion_mask.nii.gz",
        "_label-lesion_mask.nii.gz",
        "_space-orig_label-lesion_dseg.nii.gz",
        "_ce-gadolinium_desc-tumor_dseg.nii.gz",
        "_desc-metastases_mask.nii",
        "_label-brainMets_dseg.nii.gz",
    ],
)
def test_a_mask_of_lesions_is_taken(tmp_path, name):
    bids(tmp_path, SCAN, DERIVED + name)
    assert list(masks(read_cohort(tmp_path)).values()) == [(DERIVED + name).rpartition("/")[2]]


@pytest.mark.parametrize(
    "name",
    [
        "_desc-brain_mask.nii.gz",
        "_ce-gadolinium_mask.nii.gz",
        "_label-lesion_probseg.nii.gz",
        "_space-MNI152_label-lesion_mask.nii.gz",
        "_acq-other_label-lesion_mask.nii.gz",
        "_desc-methods_mask.nii.gz",
        "_desc-nonlesion_mask.nii.gz",
    ],
)
def test_what_is_no_mask_of_lesions_on_this_grid_is_not(tmp_path, name):
    bids(tmp_path, SCAN, DERIVED + name)
    assert list(masks(read_cohort(tmp_path)).values()) == [None]


def test_a_mask_of_another_session_or_subject_is_not_taken(tmp_path):
    bids(
        tmp_path,
        SCAN,
        "derivatives/manual/sub-01/ses-b/anat/sub-01_ses-b_label-lesion_mask.nii.gz",
        "derivatives/manual/sub-01/anat/sub-01_label-lesion_mask.nii.gz",
        "derivatives/manual/sub-011/anat/sub-011_ses-a_label-lesion_mask.nii.gz",
    )
    assert list(masks(read_cohort(tmp_path)).values()) == [None]


def test_two_masks_that_fit_are_refused_by_name(tmp_path):
    bids(
        tmp_path,
        SCAN,
        DERIVED + "_label-lesion_mask.nii.gz",
        "derivatives/model/sub-01/ses-a/anat/sub-01_ses-a_label-lesion_mask.nii.gz",
    )
    with pytest.raises(CohortError, match="case sub-01_ses-a_ce-gadolinium: 2 masks fit"):
        read_cohort(tmp_path)


def test_runs_have_masks_of_their_own(tmp_path):
    scans = [f"sub-01/anat/sub-01_ce-gd_run-{n}_T1w.nii.gz" for n in (1, 2)]
    derived = "derivatives/manual/sub-01/anat/sub-01_ce-gd_run-2_label-lesion_mask.nii.gz"
    bids(tmp_path, *scans, derived)
    assert [mask is not None for mask in masks(read_cohort(tmp_path)).values()] == [False, True]


def test_sex_and_age_come_from_the_participants(tmp_path):
    bids(tmp_path, SCAN, "sub-02/anat/sub-02_ce-gd_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tsex\tgroup\nsub-01\t61\tF\tx\nsub-02\tn/a\tM\ty\n", "utf-8"
    )
    rows = [case.row for case in read_cohort(tmp_path)]
    assert rows == [
        {"patient": "sub-01", "age": "61", "sex": "F"},
        {"patient": "sub-02", "sex": "M"},
    ]
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\told\n", "utf-8")
    with pytest.raises(CohortError, match="column 'age': 'old' is not a number"):
        read_cohort(tmp_path)
    (tmp_path / "participants.tsv").write_text("id\tage\nsub-01\t61\n", "utf-8")
    with pytest.raises(CohortError, match="not a table with participant_id"):
        read_cohort(tmp_path)


def test_bids_without_contrast_says_what_bids_calls_it(tmp_path):
    bids(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(CohortError, match="by the entity ce"):
        read_cohort(tmp_path)


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 3), st.booleans()), min_size=1, max_size=12,
        unique_by=lambda row: row[:2],
    )
)  # fmt: skip
def test_every_scan_is_found_once_with_its_own_mask(tmp_path_factory, rows):
    folder = bids(tmp_path_factory.mktemp("bids"))
    for subject, session, with_mask in rows:
        where = f"sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}"
        touch(folder, f"{where}_ce-gd_T1w.nii.gz")
        if with_mask:
            touch(folder, f"derivatives/m/{where}_label-lesion_mask.nii.gz")
    found = read_cohort(folder)
    assert len(found) == len(rows)
    for subject, session, with_mask in rows:
        stem = f"sub-{subject}_ses-{session}"
        (case,) = (c for c in found if c.case_id == f"{stem}_ce-gd")
        assert (case.mask is not None) == with_mask
        assert case.mask is None or case.mask.name == f"{stem}_label-lesion_mask.nii.gz"


# Which labels are lesion


@pytest.fixture
def brats(tmp_path):
    """Two cases whose masks hold tumour (1, 3), oedema (2) and a cavity (4)."""
    for n, name in enumerate("ab"):
        case = write_case(tmp_path, name, seed=n)
        mask = nifti.read_labels(case.mask)
        data = mask.data.astype(np.uint8) * 3
        data[:2], data[2:4], data[4:6] = 1, 2, 4
        nifti.write(mask.with_data(data), case.mask)
    return tmp_path


def test_oedema_and_cavities_of_brats_are_no_lesion(brats):
    cohort = read_cohort(brats)
    assert cohort.target_labels == (1, 3)
    assert cohort.with_masks().target_labels == (1, 3)
    assert plan_training(brats, "m").target_labels == (1, 3)
    assert plan_training(brats, "m", target_labels=[2]).target_labels == (2,)


def test_the_command_says_which_labels_are_lesion(brats, monkeypatch, capsys):
    monkeypatch.setattr(preparing, "extract_brain", all_is_brain)
    words = ["brainmets", "cohort", "prepare", str(brats), "--work", str(brats / "work")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert "lesion: labels 1, 3 of the reference masks" in capsys.readouterr().err
    assert plan_training(brats / "work", "m").target_labels == (1, 3)


def test_a_study_of_brats_must_say_what_is_lesion(brats):
    text = 'title = "x"\n[[cohort]]\nname = "x"\ntable = "."\nrole = "external"\n'
    (brats / "study.toml").write_text(text + 'predictions = "."\n')
    with pytest.raises(ConfigError, match=r"say target = \[1, 3\]"):
        run_paper(brats / "study.toml", brats / "out")


def test_each_cohort_is_checked_by_its_own_layout(brats, tmp_path_factory):
    """A table beside a BraTS folder keeps all labels above 0."""
    other = tmp_path_factory.mktemp("table")
    case = write_case(other, "x", seed=5)
    mask = nifti.read_labels(case.mask)
    nifti.write(mask.with_data(mask.data.astype(np.uint8) * 2), case.mask)
    (other / "cohort.tsv").write_text(f"image\tmask\n{case.image.name}\t{case.mask.name}\n")
    found = check_cohorts([("brats", read_cohort(brats)), ("table", read_cohort(other))])
    assert sum(found[-1].sizes.values()) == 2


def test_labels_may_be_given_in_any_order(brats, monkeypatch):
    monkeypatch.setattr(preparing, "extract_brain", all_is_brain)
    words = ["brainmets", "cohort", "prepare", str(brats), "--work", str(brats / "work")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        cli.main()
    assert plan_training(brats / "work", "m", target_labels=[3, 1]).target_labels == (1, 3)


def test_a_table_says_nothing_of_labels(tmp_path):
    case = write_case(tmp_path, "a")
    (tmp_path / "cohort.tsv").write_text(f"image\tmask\n{case.image.name}\t{case.mask.name}\n")
    assert read_cohort(tmp_path).target_labels is None
