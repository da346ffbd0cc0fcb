"""The command ``evaluate``: what it writes, that it writes all or nothing, and what it refuses."""

import csv
import json
import re
import sys

import numpy as np
import pytest

from brainmets.apps import cli
from brainmets.cohort import read_cohort
from brainmets.errors import ConfigError, WriteError
from brainmets.evaluation import tables
from brainmets.evaluation.brats_mets import scores_2023, scores_2025
from brainmets.evaluation.case import Scoring
from brainmets.evaluation.matching import CentroidWithin, OneToOne
from brainmets.evaluation.pictures import worst_lesion
from brainmets.evaluation.study import Options, run_study
from brainmets.io import nifti
from brainmets.volume import AxisOrder, Grid, Volume, reorient

SHAPE = (20, 12, 10)
SPACING = (1.0, 1.5, 2.0)


def image(*blocks, value=1, kind=np.uint8, spacing=SPACING):
    data = np.zeros(SHAPE, kind)
    for start, stop in blocks:
        data[start:stop, 4:8, 4:7] = value
    return Volume(data, Grid(SHAPE, np.diag([*spacing, 1.0])))


PAIRS = {  # reference, prediction: found and false, merged, split, empty prediction, both empty
    "a": (image((2, 6)), image((3, 7), (14, 16))),
    "b": (image((2, 5), (7, 9)), image((3, 8))),
    "c": (image((2, 12)), image((2, 4), (8, 12))),
    "d": (image((4, 8)), image()),
    "e": (image(), image()),
}


def likely(mask):
    """Probabilities whose components are the mask's."""
    steps = np.linspace(0.65, 1, SHAPE[0])[:, None, None]
    return mask.with_data(np.rint(mask.data * steps * 65535).astype(np.uint16))


@pytest.fixture
def study(tmp_path):
    """A cohort of five cases of four patients and a folder with its predictions."""
    lines = ["case\tpatient\timage\tmask\tprediction\tdose"]
    for name, (reference, prediction) in PAIRS.items():
        folder = tmp_path / "out" / name
        folder.mkdir(parents=True)
        nifti.write(reference, tmp_path / f"{name}-seg.nii.gz")
        noise = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
        nifti.write(reference.with_data(noise), tmp_path / f"{name}-t1c.nii.gz")
        nifti.write(prediction, folder / "mask.nii.gz")
        nifti.write(likely(prediction), folder / "probability.nii.gz", slope=1 / 65535)
        patient = "p1" if name in "ab" else name
        lines.append(
            f"{name}\t{patient}\t{name}-t1c.nii.gz\t{name}-seg.nii.gz\tout/{name}/mask.nii.gz\t20"
        )
    (tmp_path / "cohort.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(*words):
    """Exit status and error lines of a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["brainmets", "evaluate", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return stop.value.code


def call(study, *words):
    return run(study / "out", study, "-o", study / "scores", "--covariate", "dose", *words)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_folder_holds_tables_summary_and_page(study):
    assert call(study, "--brats", "target") == 0
    folder = study / "scores"
    assert set(contents(folder)) == set(tables.FILES)
    cases = rows(folder / "cases.csv")
    assert [(r["case"], r["patient"], r["dose"]) for r in cases][:2] == [
        ("a", "p1", "20"), ("b", "p1", "20"),
    ]  # fmt: skip
    assert [r["merging_predictions"] for r in cases] == ["0", "1", "0", "0", "0"]
    assert [r["split_lesions"] for r in cases] == ["0", "0", "1", "0", "0"]
    patients = rows(folder / "patients.csv")
    assert [(r["patient"], r["cases"], r["reference_lesions"]) for r in patients] == [
        ("p1", "2", "3"), ("c", "1", "1"), ("d", "1", "1"), ("e", "1", "0"),
    ]  # fmt: skip
    brats = {r["case"]: r for r in rows(folder / "brats.csv")}
    for name, (reference, prediction) in PAIRS.items():
        for prefix, function in (("mets2023", scores_2023), ("mets2025", scores_2025)):
            for score, expected in function(reference, prediction).items():
                text = brats[name][f"{prefix}_{score}"]
                assert (text != "") == expected.defined
                assert not text or float(text) == pytest.approx(expected.value, rel=1e-5)
    lesions = rows(folder / "lesions.csv")
    (merging,) = [r for r in lesions if r["case"] == "b" and r["mask"] == "prediction"]
    assert (merging["partners"], merging["overlapping"]) == ("1 2", "1 2")


def test_the_long_summary_counts_what_is_undefined_and_why(study):
    assert call(study) == 0
    long = {(r["group"], r["score"], r["statistic"]): r for r in rows(study / "scores/summary.csv")}
    stored = json.loads((study / "scores" / "summary.json").read_text(encoding="utf-8"))
    dice = long["case", "dice", "mean"]
    assert (dice["defined"], dice["undefined"]) == ("4", "1")
    assert dice["reasons"] == "reference and prediction are both empty (1)"
    assert float(dice["value"]) == pytest.approx(stored["per_case"]["dice"]["mean"], rel=1e-5)
    pooled = long["lesions all", "lesion_sensitivity", "value"]
    assert float(pooled["value"]) == 0.8
    assert float(pooled["low"]) <= 0.8 <= float(pooled["high"])
    assert long["lesions < 3 mm", "lesion_sensitivity", "value"]["reasons"]
    assert float(long["patients", "patient_sensitivity", "value"]["value"]) == pytest.approx(2 / 3)
    name = "sensitivity at 1 false positives per scan"
    assert float(long["froc", name, "value"]["value"]) == 0.8
    assert stored["settings"]["matching rule"] == "any-overlap"
    assert stored["froc"]["candidates"] == {"low": 0.3, "smallest_mm3": 10.0}


def test_the_page_stands_alone_and_says_what_it_must(study):
    assert call(study) == 0
    page = (study / "scores" / "evaluation.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"\'](?!data:)", page)
    assert "<script" not in page
    assert page.count("data:image/svg+xml;base64,") == 5
    assert page.count("data:image/jpeg;base64,") == 3 * 4  # four cases are not perfect
    for text in (
        "For research use only",
        "near 1 for any model",
        "4 of 5 reference lesions were found",
        "80.0 %",
        "reference and prediction are both empty",
        "predicted lesion 1 covers lesions 1, 2",
        "lesion 1 is in predicted pieces 1, 2",
        "d: Dice 0, missed lesion of",
        "a: Dice 0.6, false positive of",
    ):
        assert text in page, text
    assert str(study) not in page


def test_a_second_run_gives_the_same_bytes_also_from_the_tables_own_column(study):
    assert call(study) == 0
    first = contents(study / "scores")
    assert call(study) == 0
    assert contents(study / "scores") == first
    assert run(study, "-o", study / "again", "--covariate", "dose") == 0
    again = contents(study / "again")
    assert again["lesions.csv"] == first["lesions.csv"]
    assert b"roc_auc" not in again["cases.csv"]


TURNED = AxisOrder((2, 0, 1), (True, False, True))


@pytest.mark.parametrize(
    "names", [("mask",), ("probability",), ("seg",), ("t1c",), ("brain",),
              ("mask", "probability", "seg", "t1c", "brain")]
)  # fmt: skip
def test_no_files_axis_order_changes_anything(study, names):
    for name in PAIRS:
        nifti.write(image((0, 18)), study / f"{name}-brain.nii.gz")
    lines = (study / "cohort.tsv").read_text().splitlines()
    lines = [f"{x}\t{x[0]}-brain.nii.gz" for x in lines[1:]]
    header = "case\tpatient\timage\tmask\tprediction\tdose\tbrain_mask"
    (study / "cohort.tsv").write_text("\n".join([header, *lines]) + "\n")
    assert call(study, "--within-brain") == 0
    first = contents(study / "scores")
    for file in study.rglob("*.nii.gz"):
        if file.name.endswith(tuple(f"{name}.nii.gz" for name in names)):
            nifti.write(reorient(nifti.read(file).volume, TURNED), file)
    assert call(study, "--within-brain") == 0
    assert contents(study / "scores") == first


@pytest.mark.slow  # starts processes
def test_several_processes_give_the_same_bytes(study):
    assert call(study) == 0
    first = contents(study / "scores")
    assert call(study, "--workers", "2") == 0
    assert contents(study / "scores") == first


def test_options_reach_the_scores(study):
    cohort = read_cohort(study, covariates=["dose"])

    def scored(**options):
        return run_study(study / "out", cohort, options=Options(**options))

    plain = scored()
    strict = scored(scoring=Scoring(rule=OneToOne(least=0.9)))
    assert strict["pooled"]["found"] < plain["pooled"]["found"]
    far = scored(scoring=Scoring(rule=CentroidWithin(40.0), nsd_mm=(3.0,)))
    assert far["pooled"]["found"] == 3  # one to one: the merging prediction has one partner
    assert "nsd_3mm" in far["per_case"]
    assert far["settings"]["matching rule"] == "centroid (distance_mm = 40.0)"
    (point,) = scored(false_positives=(0.5,))["froc"]["operating_points"]
    assert point["allowed"] == 0.5
    none = scored(scoring=Scoring(predicted_labels=(7,)))
    assert none["pooled"]["predicted_lesions"] == 0


def test_the_curve_passes_through_what_the_models_rule_did(study):
    """Masks made by hysteresis from the probabilities lie on the free-response curve."""
    (study / "out" / "a" / "report.json").write_text(
        json.dumps({"provenance": {"decision_rule": {"low": 0.2, "high": 0.4, "smallest_mm3": 0}}})
    )
    cohort = read_cohort(study, covariates=["dose"])
    mixed = run_study(study / "out", cohort)["froc"]
    assert mixed["reason"] == "the cases were predicted with different decision rules"
    (study / "out" / "a" / "report.json").unlink()
    summary = run_study(study / "out", cohort)
    allowed = summary["pooled"]["false_positives_per_scan"]["value"]
    got = run_study(study / "out", cohort, options=Options(false_positives=(allowed,)))["froc"]
    (point,) = got["operating_points"]
    assert point["false_positives_per_scan"] == pytest.approx(allowed)
    assert point["sensitivity"]["value"] == summary["pooled"]["lesion_sensitivity"]["value"]


def spoil_grid(study):
    nifti.write(image((2, 6), spacing=(1.0, 1.5, 2.5)), study / "out/b/mask.nii.gz")


def spoil_labels(study):
    half = image((2, 6), value=1.5, kind=np.float32)
    nifti.write(half, study / "out/b/mask.nii.gz")


def spoil_probability(study):
    nifti.write(image((2, 6), value=1.5, kind=np.float32), study / "out/b/probability.nii.gz")


def spoil_with_nan(study):
    nifti.write(image((2, 6), value=np.nan, kind=np.float32), study / "out/b/probability.nii.gz")


def spoil_reference(study):
    text = (study / "cohort.tsv").read_text().replace("b-seg.nii.gz", "")
    (study / "cohort.tsv").write_text(text)


def spoil_case(study):
    text = (study / "cohort.tsv").read_text()
    (study / "cohort.tsv").write_text(text + text.splitlines()[2] + "\n")


def spoil_row(study):
    lines = (study / "cohort.tsv").read_text().splitlines()
    (study / "cohort.tsv").write_text("\n".join(x for x in lines if x[0] != "b") + "\n")


def spoil_folder(study):
    for file in (study / "out").rglob("*.nii.gz"):
        file.unlink()


def spoil_report(study):
    (study / "out" / "b" / "report.json").write_text("{}")


def spoil_rule(study):
    report = {"provenance": {"decision_rule": [0.3, 0.6]}}
    (study / "out" / "b" / "report.json").write_text(json.dumps(report))


def spoil_name(study):
    text = (study / "cohort.tsv").read_text().replace("b-seg", "b" * 300)
    (study / "cohort.tsv").write_text(text)


def spoil_file(study):
    (study / "b-seg.nii.gz").unlink()
    (study / "b-seg.nii.gz").mkdir()


def spoil_voxel(study):
    bad = image((2, 6), kind=np.float32)
    bad.data[0, 0, 0] = np.nan
    nifti.write(bad, study / "out/b/probability.nii.gz")


def spoil_by_a_hair(study):
    nifti.write(image((2, 6), value=1.0000001, kind=np.float32), study / "out/b/probability.nii.gz")


def spoil_column(study):
    text = (study / "cohort.tsv").read_text().replace("dose", "doze")
    (study / "cohort.tsv").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_grid, "case b: prediction and reference lie on different grids"),
        (spoil_labels, "case b: mask.nii.gz: labels must be whole numbers"),
        (spoil_probability, "case b: probabilities between 0 and 1.5; expected 0 to 1"),
        (spoil_with_nan, "case b: probability.nii.gz: 48 voxels are NaN"),
        (spoil_reference, "case b: no reference mask"),
        (spoil_case, "case 'b' occurs twice"),
        (spoil_row, "case b: a prediction but no reference"),
        (spoil_folder, "case a, column 'prediction': no file"),
        (spoil_report, "case b: report.json: not a report"),
        (spoil_rule, "case b: report.json: not a report"),
        (spoil_name, "case b, column 'mask': no file 'bbb"),
        (spoil_file, "case b, column 'mask': 'b-seg.nii.gz' is a folder; name a NIfTI file"),
        (spoil_voxel, "case b: probability.nii.gz: 1 voxel is NaN"),
        (spoil_by_a_hair, "case b: probabilities between 0 and 1.00000012; expected"),
        (spoil_column, "unknown column 'doze'; did you mean 'dose'?"),
    ],
)
def test_bad_input_is_one_line_that_names_the_case_and_leaves_nothing(study, capsys, spoil, said):
    spoil(study)
    capsys.readouterr()
    assert call(study) == 2
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert not (study / "scores").exists()
    assert not list(study.glob(".unfinished*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rule", "nearest"], "matching rule 'nearest'; expected one of any-overlap"),
        (["--brats", "NETC"], "region 'NETC'; expected one of target, ET, TC, WT"),
        (["--nsd-mm", "-1"], "NSD tolerances"),
        (["--rule", "centroid:inf"], "distance_mm is inf; expected a number from 0 to 1000"),
        (["--rule", "centroid:1e308"], "expected a number from 0 to 1000"),
        (["--nsd-mm", "1", "--nsd-mm", "1.0000001"], "two would have one name"),
        (["--target", "0"], "target labels (0,); expected whole numbers above 0"),
        (["--predicted-target", "-1"], "predicted labels (-1,); expected whole numbers above 0"),
        (["--covariate", "dice"], "covariate 'dice': the name of a column"),
        (["--covariate", "nsd_1mm"], "covariate 'nsd_1mm': the name of a column"),
        (["--covariate", "case"], "covariate 'case': the name of a column"),
        (["--covariate", "dos"], "has no such column; did you mean 'dose'?"),
        (["--covariate", ""], "covariate '': the cohort has no such column"),
        (["--false-positives", "0"], "operating points"),
        (["--false-positives", "-1"], "operating points"),
        (["--false-positives", "nan"], "operating points"),
        (["--false-positives", "inf"], "operating points"),
        (["--false-positives", "101"], "at most 100 false positives per scan"),
    ],
)
def test_what_is_no_option_is_refused_with_what_there_is(study, capsys, words, said):
    assert call(study, *words) == 2
    assert said in capsys.readouterr().err


def test_brats_regions_need_the_labels_of_brats(study, capsys):
    nifti.write(image((2, 6), value=7), study / "out/b/mask.nii.gz")
    assert call(study, "--brats", "ET") == 2
    assert "case b: the prediction has labels up to 7" in capsys.readouterr().err


def test_a_run_that_is_stopped_while_writing_leaves_the_older_folder_whole(study, monkeypatch):
    assert call(study) == 0
    before = contents(study / "scores")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "write_json", stop)
    assert call(study) == 130
    assert contents(study / "scores") == before
    assert not list(study.glob(".unfinished*"))


def test_a_folder_of_other_things_is_not_replaced(study):
    (study / "scores").mkdir()
    (study / "scores" / "notes.txt").write_text("mine")
    assert call(study) == 1
    assert [p.name for p in (study / "scores").iterdir()] == ["notes.txt"]
    with pytest.raises(WriteError, match=r"notes\.txt"):
        run_study(study / "out", read_cohort(study, covariates=["dose"]), study / "scores")


def test_unfinished_and_hidden_folders_of_predictions_are_passed_over(study):
    for name in (".unfinished-12345678-1-x", ".trash"):
        (study / "out" / name).mkdir()
        nifti.write(image(), study / "out" / name / "mask.nii.gz")
    assert call(study) == 0


def test_a_case_named_as_another_ones_patient_is_not_counted_for_it(study):
    text = (study / "cohort.tsv").read_text().replace("c\tc\t", "c\t\t", 1)
    (study / "cohort.tsv").write_text(text.replace("\tp1\t", "\tc\t"))
    assert call(study) == 0
    found = [(r["patient"], r["cases"]) for r in rows(study / "scores" / "patients.csv")]
    assert found == [("c", "2"), ("c", "1"), ("d", "1"), ("e", "1")]


def test_a_target_label_that_no_reference_holds_is_warned_of(study, capsys):
    assert call(study, "--target", "1", "--target", "9") == 0
    said = capsys.readouterr().err
    assert "warning: target label 9 occurs in no reference of the cohort" in said
    assert "target label 1 " not in said


def test_reasons_tell_an_empty_domain_and_what_lies_within_it():
    from brainmets.evaluation.case import score

    mask = image((2, 6))
    for domain, said in ((image(), ""), (image((10, 14)), " within the domain")):
        got = score(mask, mask, domain=domain, probability=mask.with_data(mask.data * 0.5)).scores
        for name, where in (
            ("dice", "reference and prediction are both empty"),
            ("precision", "the prediction is empty"),
            ("sensitivity", "the reference is empty"),
            ("roc_auc", "the reference is empty"),
        ):
            assert got[name].reason == (where + said if said else "the domain is empty")


def test_a_table_of_too_long_a_name_is_one_line(study, capsys):
    assert run(study / "out", study / ("x" * 300)) == 2
    assert "no file has so long a name" in capsys.readouterr().err
    assert run("x" * 300, study, "--covariate", "dose") == 2
    assert "no such folder" in capsys.readouterr().err


def test_files_that_merely_have_our_names_are_not_replaced(study, capsys):
    scores = study / "scores"
    scores.mkdir()
    (scores / "cases.csv").write_text("mine")
    assert call(study) == 1
    assert "summary.json is absent or not one of ours" in capsys.readouterr().err
    (scores / "summary.json").write_text("[1]")
    assert call(study) == 1
    assert (scores / "cases.csv").read_text() == "mine"
    (scores / "cases.csv").unlink()
    (scores / "cases.csv").mkdir()
    assert call(study) == 1
    assert "holds 'cases.csv'" in capsys.readouterr().err


def test_what_a_link_leads_to_is_written_and_the_link_stays(study):
    (study / "real").mkdir()
    (study / "scores").symlink_to("real")
    for _ in range(2):
        assert call(study) == 0
        assert (study / "scores").is_symlink()
        assert (study / "real" / "cases.csv").is_file()


@pytest.mark.parametrize("name", ["cohort.tsv", "cohort.tsv/deep/scores", "x" * 300, "loop"])
def test_a_place_that_cannot_be_written_is_refused_before_scoring(study, capsys, monkeypatch, name):
    (study / "loop").symlink_to("loop")
    monkeypatch.setattr("brainmets.evaluation.study.evaluate", lambda *_, **__: 1 / 0)
    before = sorted(study.iterdir())
    assert run(study / "out", study, "-o", study / name, "--covariate", "dose") == 1
    assert f"error: cannot write {name.rpartition('/')[2]!r}" in capsys.readouterr().err
    assert sorted(study.iterdir()) == before


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError):
        Options(false_positives=())
    with pytest.raises(ConfigError):
        Scoring(nsd_mm=(float("inf"),))


def test_the_worst_lesion_is_missed_then_false_then_badly_outlined(study):
    from brainmets.evaluation.case import score

    found = {name: worst_lesion(score(p, r)) for name, (r, p) in PAIRS.items() if name != "e"}
    assert [found[name][0] for name in "abcd"] == ["false positive", "outline", "outline", "missed"]
    assert found["b"][1].dice.value == pytest.approx(2 * 1 / (2 + 5))
