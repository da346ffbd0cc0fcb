"""Words on the command line become cases, or one clear error."""

import pytest

from brainmets.apps.inputs import cases_of, files_of
from brainmets.errors import CohortError, ConfigError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def names(cases):
    return [case.case_id for case in cases]


def test_scans_are_named_after_their_files(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii")
    cases = cases_of([tmp_path / "a.nii.gz", tmp_path / "b.nii"], None)
    assert names(cases) == ["a", "b"]
    assert [case.image for case in cases] == [tmp_path / "a.nii.gz", tmp_path / "b.nii"]


def test_scans_of_one_name_are_told_apart_by_their_folders(tmp_path):
    touch(tmp_path, "x/t1.nii.gz", "y/t1.nii.gz")
    assert names(cases_of([tmp_path / "x", tmp_path / "y"], None)) == ["x_t1", "y_t1"]


def test_a_folder_gives_its_scans_in_order_without_hidden_ones(tmp_path):
    touch(tmp_path, "b.nii", "A.NII.GZ", "notes.txt", "._b.nii", ".unfinished-1-2-x.nii.gz")
    (tmp_path / "folder.nii").mkdir()
    assert [case.image.name for case in cases_of([tmp_path], None)] == ["A.NII.GZ", "b.nii"]


@pytest.mark.parametrize("below", ["", "p1/"])
def test_a_brats_folder_gives_its_scans_not_its_masks(tmp_path, below):
    touch(tmp_path, f"{below}p1-t1c.nii.gz", f"{below}p1-seg.nii.gz", f"{below}p1-t2w.nii.gz")
    cases = cases_of([tmp_path], None)
    assert names(cases) == ["p1"]
    assert cases[0].image.name == "p1-t1c.nii.gz"


def test_a_table_gives_its_rows_and_never_a_reference_mask(tmp_path):
    touch(tmp_path, "a.nii", "m.nii", "brain.nii")
    table = tmp_path / "list.csv"
    table.write_text("case,image,mask,brain_mask\nx,a.nii,m.nii,brain.nii\n")
    (case,) = cases_of([table], None)
    assert (case.case_id, case.mask) == ("x", None)
    assert case.brain_mask == tmp_path / "brain.nii"


def test_a_folder_with_a_table_is_read_from_it(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    (tmp_path / "cohort.tsv").write_text("case\timage\nonly\ta.nii\n")
    assert names(cases_of([tmp_path], None)) == ["only"]


def test_tables_folders_and_scans_mix(tmp_path):
    touch(tmp_path, "one/a.nii", "two/b.nii", "c.nii")
    (tmp_path / "t.tsv").write_text("case\timage\nx\tone/a.nii\n")
    inputs = [tmp_path / "t.tsv", tmp_path / "two", tmp_path / "c.nii"]
    assert sorted(names(cases_of(inputs, None))) == ["b", "c", "x"]


@pytest.mark.parametrize("again", ["a.nii", "sub/../a.nii", "."])
def test_the_same_scan_twice_is_refused(tmp_path, again):
    touch(tmp_path, "a.nii", "sub/readme.txt")
    with pytest.raises(CohortError, match=r"a\.nii is given twice"):
        cases_of([tmp_path / "a.nii", tmp_path / again], None)


def test_a_scan_named_like_a_table_row_is_refused(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    (tmp_path / "t.tsv").write_text("case\timage\nA\tb.nii\n")
    with pytest.raises(CohortError, match="'a'"):
        cases_of([tmp_path / "t.tsv", tmp_path / "a.nii"], None)


def test_nothing_to_do_is_an_error(tmp_path):
    with pytest.raises(CohortError, match=r"t1c\.nii\.gz"):
        cases_of([tmp_path], None)
    with pytest.raises(CohortError, match="no scan"):
        cases_of([], None)


def test_a_brain_mask_fits_one_scan(tmp_path):
    touch(tmp_path, "a.nii", "b.nii", "m.nii")
    (case,) = cases_of([tmp_path / "a.nii"], tmp_path / "m.nii")
    assert case.brain_mask == tmp_path / "m.nii"
    with pytest.raises(ConfigError, match="2 were given"):
        cases_of([tmp_path / "a.nii", tmp_path / "b.nii"], tmp_path / "m.nii")


def test_label_maps_are_files_or_what_a_folder_holds(tmp_path):
    touch(tmp_path, "maps/b.nii.gz", "maps/a.nii", "maps/x.txt", "c.nii", "empty/x.txt")
    found = files_of([tmp_path / "maps", tmp_path / "c.nii"])
    assert [path.name for path in found] == ["a.nii", "b.nii.gz", "c.nii"]
    assert files_of([]) == ()
    with pytest.raises(CohortError, match="no such"):
        files_of([tmp_path / "absent"])
    with pytest.raises(CohortError, match="in this folder"):
        files_of([tmp_path / "empty"])
