"""A cohort's predictions become tables, and what is missing or misplaced is named."""

import csv
import json
import math

import numpy as np
import pytest
from scipy import ndimage

from brainmets.cohort import Case, Cohort, read_cohort
from brainmets.errors import CohortError, GridMismatchError, ReadError, WriteError
from brainmets.evaluation.case import score
from brainmets.evaluation.evaluate import evaluate
from brainmets.evaluation.summary import summarise, tables
from brainmets.evaluation.tables import write_scores
from brainmets.io import nifti
from brainmets.volume import Grid, Volume


def mask(*runs, label=1, spacing=1.0):
    data = np.zeros((16, 4, 4), np.uint8)
    for start, stop in runs:
        data[start:stop, 1:3, 1:3] = label
    return Volume(data, Grid(data.shape, np.diag([spacing, 1.0, 1.0, 1.0])))


CASES = {  # reference, prediction
    "a": (mask((1, 5)), mask((2, 6))),
    "b": (mask(), mask()),
    "c": (mask((1, 3), (6, 7)), mask((1, 3), (10, 12))),
}


@pytest.fixture
def study(tmp_path):
    """A cohort of three cases and a folder with their predictions."""
    lines = ["case\timage\tmask\tprediction"]
    for name, (reference, prediction) in CASES.items():
        nifti.write(reference, tmp_path / f"{name}-seg.nii.gz")
        (tmp_path / "out" / name).mkdir(parents=True)
        nifti.write(prediction, tmp_path / "out" / name / "mask.nii.gz")
        file = tmp_path / "out" / name / "mask.nii.gz"
        lines.append(f"{name}\t{name}-seg.nii.gz\t{name}-seg.nii.gz\t{file}")
    (tmp_path / "cohort.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def direct():
    return [score(p, r, case_id=name) for name, (r, p) in CASES.items()]


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plain(cases):
    return [{k: (str(s.value), s.reason) for k, s in c.scores.items()} for c in cases]


def test_a_folder_and_a_column_of_predictions_give_the_scores_of_the_volumes(study):
    cohort = read_cohort(study)
    seen = []
    results = evaluate(study / "out", cohort, progress=lambda done, of: seen.append((done, of)))
    assert [r.case_id for r in results] == ["a", "b", "c"]
    assert plain(results) == plain(direct()) == plain(evaluate(None, cohort))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_target_labels_reach_the_reference(study):
    reference = mask((1, 5))
    reference.data[8:12, 1, 1] = 2
    nifti.write(reference, study / "a-seg.nii.gz")
    cohort = read_cohort(study)
    assert len(evaluate(study / "out", cohort)[0].lesions.reference) == 2
    assert len(evaluate(study / "out", cohort, target_labels=(1, 3))[0].lesions.reference) == 1


def test_a_missing_prediction_is_an_error_that_names_the_case(study):
    cohort = read_cohort(study)
    (study / "out" / "b" / "mask.nii.gz").unlink()
    for predictions, name in ((study / "out", "b/mask.nii.gz"), (None, "mask.nii.gz")):
        with pytest.raises(CohortError, match=f"case b: no prediction {name};"):
            evaluate(predictions, cohort)


def test_a_case_without_reference_or_named_prediction_is_an_error(study):
    image = study / "a-seg.nii.gz"
    with pytest.raises(CohortError, match="case x: no reference mask"):
        evaluate(study / "out", Cohort((Case("x", image),)))
    with pytest.raises(CohortError, match="case x: no prediction; give a folder"):
        evaluate(None, Cohort((Case("x", image, image),)))
    with pytest.raises(CohortError, match="no cases"):
        evaluate(study / "out", Cohort(()))


def test_a_prediction_on_another_grid_is_an_error_that_names_the_case(study):
    nifti.write(mask((1, 5), spacing=1.5), study / "out" / "c" / "mask.nii.gz")
    with pytest.raises(GridMismatchError, match="case c: prediction and reference"):
        evaluate(study / "out", read_cohort(study))


def test_a_damaged_prediction_is_an_error_that_names_the_case(study):
    (study / "out" / "b" / "mask.nii.gz").write_bytes(b"no image")
    with pytest.raises(ReadError, match="case b: "):
        evaluate(study / "out", read_cohort(study))


def test_the_summary_averages_what_is_defined_and_counts_what_is_not():
    summary = summarise(direct())
    dice = [2 * 12 / 32, 2 * 8 / (12 + 16)]
    described = summary["per_case"]["dice"]
    assert summary["cases"] == 3
    assert described["mean"] == pytest.approx(np.mean(dice))
    assert described["median"] == pytest.approx(np.median(dice))
    assert (described["defined"], described["undefined"]) == (2, 1)
    assert described["reasons"] == {"reference and prediction are both empty": 1}


def test_the_summary_pools_lesions_over_cases_and_by_size():
    summary = summarise(direct())
    pooled = summary["pooled"]
    assert (pooled["reference_lesions"], pooled["found"]) == (3, 2)
    assert pooled["lesion_sensitivity"]["value"] == pytest.approx(2 / 3)
    assert (pooled["predicted_lesions"], pooled["false_positives"]) == (3, 1)
    assert pooled["false_positives_per_scan"]["value"] == pytest.approx(1 / 3)
    small = summary["by_size"]["< 3 mm"]  # 4 and 8 mm³ are 2.0 and 2.5 mm, 16 mm³ are 3.1 mm
    assert (small["reference_lesions"], small["found"], small["false_positives"]) == (2, 1, 1)
    assert summary["by_size"]["≥ 10 mm"]["lesion_sensitivity"]["reason"]
    for key in ("reference_lesions", "found", "predicted_lesions", "false_positives"):
        assert sum(row[key] for row in summary["by_size"].values()) == pooled[key]


def test_the_median_is_not_the_mean_and_false_positives_are_per_scan_not_per_lesion():
    scans = [(mask((1, 5)), mask((1, 5), (8, 9), (12, 13))), *CASES.values()]
    summary = summarise([score(prediction, reference) for reference, prediction in scans])
    dice = [0.8, 0.75, 4 / 7]
    assert summary["per_case"]["dice"]["median"] == pytest.approx(0.75)
    assert summary["per_case"]["dice"]["mean"] == pytest.approx(sum(dice) / 3)
    assert summary["pooled"]["false_positives_per_scan"]["value"] == pytest.approx(3 / 4)


def test_a_summary_of_nothing_is_undefined_throughout():
    summary = summarise([])
    assert summary["cases"] == 0
    assert math.isnan(summary["pooled"]["false_positives_per_scan"]["value"])
    assert tables(summary)[0].rows == ()


def test_the_files_hold_every_case_and_lesion_and_leave_undefined_empty(study):
    cases = evaluate(study / "out", read_cohort(study))
    write_scores(cases, study / "scores")
    table = rows(study / "scores" / "cases.csv")
    assert [row["case"] for row in table] == ["a", "b", "c"]
    assert float(table[0]["dice"]) == pytest.approx(0.75)
    assert table[1]["dice"] == ""
    assert "dice: reference and prediction are both empty" in table[1]["undefined"]
    lesions = rows(study / "scores" / "lesions.csv")
    assert len(lesions) == 6
    assert [r["matched"] for r in lesions if r["mask"] == "reference"] == ["yes", "yes", "no"]
    assert lesions[0]["partners"] == "1"
    assert float(lesions[0]["volume_mm3"]) == 16
    assert float(lesions[0]["x_ras_mm"]) == 2.5
    summary = json.loads((study / "scores" / "summary.json").read_text(encoding="utf-8"))
    assert summary["by_size"]["≥ 10 mm"]["lesion_sensitivity"]["value"] is None
    assert not list((study / "scores").glob(".*"))


def test_the_same_scores_give_the_same_bytes(study):
    for name in ("one", "two"):
        write_scores(direct(), study / name)
    for file in ("cases.csv", "lesions.csv", "summary.json"):
        assert (study / "one" / file).read_bytes() == (study / "two" / file).read_bytes()


def test_a_place_that_cannot_be_written_to_is_a_write_error(study):
    with pytest.raises(WriteError):
        write_scores(direct(), study / "cohort.tsv")


def test_the_tables_to_print_are_rectangular_and_show_a_dash_for_undefined():
    for table in tables(summarise(direct())):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.header)}
    sizes = {row[0]: row for row in tables(summarise(direct()))[1].rows}
    assert sizes["all"][1:3] == ("2/3", "0.667")
    assert sizes["≥ 10 mm"][2] == "–"


@pytest.mark.slow
def test_real_masks_have_the_lesions_that_others_count(data_folder):
    """77 lesions of five patients, and scores that plain array code gives too."""
    folder = data_folder / "lesion_masks"
    volumes = []
    for reference_file in sorted(folder.glob("*-seg.nii.gz")):
        number = reference_file.name.split("-")[2]
        (prediction_file,) = (folder / "predictions").glob(f"*{number}*.nii.gz")
        reference = nifti.read_labels(reference_file)
        prediction = nifti.read_labels(prediction_file)
        core, found = np.isin(reference.data, (1, 3)), np.isin(prediction.data, (1, 3))
        result = score(prediction.with_data(found), reference, target_labels=(1, 3))
        labels, count = ndimage.label(core, np.ones((3, 3, 3)))
        hit = len(np.unique(labels[found & core]))
        assert len(result.lesions.reference) == count
        assert sum(lesion.matched for lesion in result.lesions.reference) == hit
        dice = 2 * (core & found).sum() / (core.sum() + found.sum())
        assert result.scores["dice"].value == pytest.approx(dice)
        volumes += [r.lesion.volume_mm3 for r in result.lesions.reference]
    assert len(volumes) == 77
    assert sum(v >= 50 for v in volumes) == 42
