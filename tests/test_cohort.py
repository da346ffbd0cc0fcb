"""Cohorts: names of cases, tables and folders."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainmets.cohort import Case, Cohort, case_ids, read_cohort, stem
from brainmets.errors import CohortError

calm = settings(deadline=None)  # a busy machine is no failure


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def table(folder, text, name="cohort.tsv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t1.nii.gz", "t1"),
        ("t1.nii", "t1"),
        ("a.b.nii.gz", "a.b"),
        ("scan.dcm", "scan"),
        ("folder", "folder"),
        ("v1.2.zip", "v1.2"),
    ],
)
def test_a_stem_loses_the_format_and_nothing_else(name, expected):
    assert stem(Path("x") / name) == expected


folders = st.text("abAB", min_size=1, max_size=2)


@calm
@given(st.lists(st.lists(folders, min_size=1, max_size=4).map("/".join), unique=True, max_size=8))
def test_case_ids_are_unique_even_where_capitals_do_not_count(paths):
    paths = [Path("/data") / p / "t1.nii.gz" for p in paths]
    try:
        names = case_ids(paths)
    except CohortError:
        assert len({str(p).casefold().replace("/", "_") for p in paths}) < len(paths)
        return
    assert len({name.casefold() for name in names}) == len(paths)
    assert all("/" not in name for name in names)
    for name, path in zip(names, paths, strict=True):
        assert "_".join([*path.parts[1:-1], "t1"]).endswith(name)


def test_a_name_that_is_unique_stays_short():
    paths = [Path("p1/day1/t1.nii"), Path("p1/day2/t1.nii"), Path("p2/other.nii.gz")]
    assert case_ids(paths) == ("day1_t1", "day2_t1", "other")


def test_a_longer_name_may_not_take_another_s():
    names = case_ids([Path("/r/a/t1.nii"), Path("/r/b/t1.nii"), Path("/r/x/a_t1.nii")])
    assert len(set(names)) == 3


def test_the_same_path_twice_is_refused():
    with pytest.raises(CohortError, match="both be called"):
        case_ids([Path("a/t1.nii"), Path("a/t1.nii")])


def test_no_inputs_no_names():
    assert case_ids([]) == ()


def test_two_cases_of_one_name_are_refused():
    with pytest.raises(CohortError, match="occurs twice"):
        Cohort((Case("A", Path("1")), Case("a", Path("2"))))


# Tables


@pytest.mark.parametrize(("name", "mark"), [("c.tsv", "\t"), ("c.csv", ","), ("c.CSV", ",")])
def test_a_table_gives_cases_in_order(tmp_path, name, mark):
    touch(tmp_path, "b.nii.gz", "a.nii.gz", "m.nii.gz")
    rows = [["case", "image", "mask", "sex"], ["2", "b.nii.gz", "m.nii.gz", "F"],
            ["1", "a.nii.gz", "", ""]]  # fmt: skip
    cohort = read_cohort(table(tmp_path, "\n".join(mark.join(r) for r in rows) + "\n", name))
    assert [case.case_id for case in cohort] == ["2", "1"]
    assert len(cohort) == 2
    first, second = cohort
    assert first.image == tmp_path / "b.nii.gz"
    assert first.mask == tmp_path / "m.nii.gz"
    assert first.row["sex"] == "F"
    assert second.mask is None
    assert [case.case_id for case in cohort.with_masks()] == ["2"]


def test_without_a_column_case_the_image_names_it(tmp_path):
    touch(tmp_path, "p1/t1.nii.gz", "p2/t1.nii.gz")
    cohort = read_cohort(table(tmp_path, "image\np1/t1.nii.gz\np2/t1.nii.gz\n"))
    assert [case.case_id for case in cohort] == ["p1_t1", "p2_t1"]


def test_a_byte_order_mark_from_a_spreadsheet_is_fine(tmp_path):
    touch(tmp_path, "a.nii")
    assert len(read_cohort(table(tmp_path, "\ufeffimage\na.nii\n"))) == 1


def test_declared_covariates_are_kept(tmp_path):
    touch(tmp_path, "a.nii")
    path = table(tmp_path, "image\tsteroids\na.nii\tyes\n")
    assert next(iter(read_cohort(path, covariates=["steroids"]))).row["steroids"] == "yes"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("imgae\na.nii\n", "unknown column 'imgae'; did you mean 'image'"),
        ("image\tzzz\na.nii\t1\n", "unknown column 'zzz'; rename it"),
        ("image\timage\na.nii\ta.nii\n", "'image' occurs twice"),
        ("case\n1\n", "no column 'image'; found case"),
        ("", "no column 'image'; found nothing"),
        ("image\n", "no rows"),
        ("image\nb.nii\n", "line 2, column 'image': no file 'b.nii'"),
        ("image\tmask\na.nii\tb.nii\n", "column 'mask': no file 'b.nii'"),
        ("case\timage\n1\t\n", "column 'image' is empty"),
        ("image\tage\na.nii\told\n", "column 'age': 'old' is not a number"),
        ("image\tage\na.nii\tnan\n", "column 'age': 'nan' is not a number"),
        ("image\tage\na.nii\n", "more or fewer fields"),
        ("image\na.nii\t1\n", "more or fewer fields"),
        ("case\timage\n1\ta.nii\n1\ta.nii\n", "case '1' occurs twice"),
        ("case\timage\n../1\ta.nii\n", "cannot be a folder's name"),
        ("case\timage\n..\ta.nii\n", "cannot be a folder's name"),
        ("case\timage\na/b\ta.nii\n", "cannot be a folder's name"),
        ('case\timage\n"1\ta.nii\n', "not a readable table"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path, text, reason):
    touch(tmp_path, "a.nii")
    with pytest.raises(CohortError, match=reason):
        read_cohort(table(tmp_path, text))


def test_a_table_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "c.tsv").write_bytes("image\tprimary\na.nii\tNävus\n".encode("latin-1"))
    with pytest.raises(CohortError, match="not a readable table"):
        read_cohort(tmp_path / "c.tsv")


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CohortError, match="no such table or folder"):
        read_cohort(tmp_path / "none.tsv")


# Folders


def test_a_folder_pairs_images_with_masks(tmp_path):
    touch(tmp_path, "b/B-t1c.nii.gz", "a/A-t1c.nii.gz", "a/A-seg.nii.gz", "a/A-t1n.nii.gz")
    cohort = read_cohort(tmp_path)
    assert [(c.case_id, c.mask is not None) for c in cohort] == [("A", True), ("B", False)]


def test_a_folder_s_table_comes_first(tmp_path):
    touch(tmp_path, "A-t1c.nii.gz", "B-t1c.nii.gz")
    table(tmp_path, "case\timage\nonly\tB-t1c.nii.gz\n")
    assert [c.case_id for c in read_cohort(tmp_path)] == ["only"]


def test_the_same_name_in_two_folders_is_refused(tmp_path):
    touch(tmp_path, "a/A-t1c.nii.gz", "b/A-t1c.nii.gz")
    with pytest.raises(CohortError, match="occurs twice"):
        read_cohort(tmp_path)


def test_a_folder_without_scans_is_refused(tmp_path):
    touch(tmp_path, "readme.txt")
    with pytest.raises(CohortError, match=r"no cohort.tsv, "):
        read_cohort(tmp_path)


def test_files_named_in_a_table_are_relative_to_the_table(tmp_path, monkeypatch):
    for name in ("scan.nii", "found.nii"):
        (tmp_path / name).touch()
    table = tmp_path / "cohort.tsv"
    table.write_text("case\timage\tprediction\na\tscan.nii\tfound.nii\n")
    monkeypatch.chdir("/")
    case = read_cohort(table).cases[0]
    assert case.image.is_file()
    assert Path(case.row["prediction"]).is_file()


def nnunet(folder, channels, names=("a", "b")):
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"channel_names": channels}))
    for name in names:
        for number in channels:
            (folder / "imagesTr" / f"{name}_{int(number):04d}.nii.gz").touch()
    (folder / "labelsTr" / "a.nii.gz").touch()
    return folder


@pytest.mark.parametrize("channels", [{"0": "MRI"}, {"0": "T1", "1": "T1ce", "2": "FLAIR"}])
def test_a_raw_dataset_of_nnunet_is_a_cohort_of_its_t1c(tmp_path, channels):
    cohort = read_cohort(nnunet(tmp_path / "Dataset001", channels))
    number = 0 if len(channels) == 1 else 1
    assert [c.image.name for c in cohort] == [f"{n}_{number:04d}.nii.gz" for n in "ab"]
    assert [c.case_id for c in cohort.with_masks()] == ["a"]


def test_a_raw_dataset_that_does_not_say_which_channel_is_refused(tmp_path):
    with pytest.raises(CohortError, match="expected one that is called t1c"):
        read_cohort(nnunet(tmp_path / "one", {"0": "T1", "1": "FLAIR"}))
    folder = nnunet(tmp_path / "two", {"0": "T1c"}, names=())
    with pytest.raises(CohortError, match="in imagesTr"):
        read_cohort(folder)
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(CohortError, match=r"no dataset\.json with channel_names"):
        read_cohort(folder)
