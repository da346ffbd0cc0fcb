"""A split keeps patients together, is what was asked for, and cannot be changed unnoticed."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainmets.cohort import Case, Cohort
from brainmets.errors import CohortError, ConfigError
from brainmets.training.split import folds, patient_of, read_split, sides, systematic, write_split


def cohort(patients):
    path = Path("scan.nii.gz")
    return Cohort(
        tuple(Case(f"c{n}", path, path, None, {"patient": p}) for n, p in enumerate(patients))
    )


def test_the_papers_470_are_379_and_91():
    parts = systematic(cohort([f"p{n}" for n in range(470)]), 91)
    assert list(parts.values()).count("test") == 91
    assert list(parts.values()).count("train") == 379
    share = systematic(cohort([f"p{n}" for n in range(470)]), 91 / 470)
    assert share == parts


@given(st.integers(2, 200), st.data())
def test_test_patients_lie_equally_far_apart(count, data):
    wanted = data.draw(st.integers(1, count - 1))
    parts = systematic(cohort([f"p{n}" for n in range(count)]), wanted)
    places = [n for n, part in enumerate(parts.values()) if part == "test"]
    assert len(places) == wanted
    gaps = [b - a for a, b in pairwise(places)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=40), st.data())
def test_no_patient_is_on_two_sides(patients, data):
    whole = cohort(patients)
    count = len(set(patients))
    if count < 2:
        return
    parts = data.draw(st.sampled_from([
        systematic(whole, data.draw(st.integers(1, count - 1))),
        folds(whole, data.draw(st.integers(2, count))),
    ]))  # fmt: skip
    assert set(parts) == {case.case_id for case in whole}
    homes = {}
    for case in whole:
        assert homes.setdefault(patient_of(case), parts[case.case_id]) == parts[case.case_id]


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ConfigError, match="0 of 3 patients"):
        systematic(cohort("abc"), 0)
    with pytest.raises(ConfigError, match="3 of 3"):
        systematic(cohort("abc"), 3)
    with pytest.raises(ConfigError, match="4 folds of 3"):
        folds(cohort("abc"), 4)


def test_a_split_comes_back_and_an_edited_one_does_not(tmp_path):
    whole, path = cohort("abcdea"), tmp_path / "split.tsv"
    parts = systematic(whole, 2)
    digest = write_split(whole, parts, path)
    assert read_split(path, whole) == (parts, digest)
    learn, check = sides(whole, parts, None)
    assert {c.case_id for c in check} == {k for k, v in parts.items() if v == "test"}
    assert len(learn) + len(check) == 6
    path.write_text(path.read_text().replace("\ttest", "\ttrain", 1))
    with pytest.raises(CohortError, match="edited after it was frozen"):
        read_split(path, whole)
    path.write_text("case\tpart\n")
    with pytest.raises(CohortError, match="not a split"):
        read_split(path, whole)
    with pytest.raises(CohortError, match="not a readable split"):
        read_split(tmp_path / "absent.tsv", whole)


def test_a_split_of_other_cases_is_refused(tmp_path):
    whole, path = cohort("abcd"), tmp_path / "split.tsv"
    write_split(whole, systematic(whole, 1), path)
    with pytest.raises(CohortError, match=r"case c4: in the cohort, not in split\.tsv"):
        read_split(path, cohort("abcde"))
    with pytest.raises(CohortError, match=r"case c3: in split\.tsv, not in the cohort"):
        read_split(path, cohort("abc"))
    with pytest.raises(CohortError, match="case c0, column 'patient'"):
        read_split(path, cohort("xbcd"))


def test_the_same_patient_in_train_and_test_is_refused():
    parts = {"c0": "train", "c1": "test", "c2": "train"}
    with pytest.raises(CohortError, match="patient 'a': case c0 is learnt from and case c1 tested"):
        sides(cohort("aab"), parts, None)


def test_a_fold_is_chosen_where_there_are_folds():
    whole = cohort("abcd")
    learn, check = sides(whole, folds(whole, 2), 2)
    assert [c.case_id for c in check] == ["c1", "c3"]
    assert [c.case_id for c in learn] == ["c0", "c2"]
    with pytest.raises(ConfigError, match="folds 1, 2; choose one"):
        sides(whole, folds(whole, 2), None)
    with pytest.raises(ConfigError, match="has no folds"):
        sides(whole, systematic(whole, 1), 1)
    with pytest.raises(ConfigError, match="no '3' in the split"):
        sides(whole, folds(whole, 2), 3)
