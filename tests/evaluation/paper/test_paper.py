"""``brainmets study``: injected differences are found, nothing is lost, bad input is named."""

import csv
import json
import math
import re
import shutil
import sys

import numpy as np
import pytest

from brainmets.apps import cli
from brainmets.cohort import read_cohort
from brainmets.errors import ConfigError
from brainmets.evaluation.paper import rows as paper_rows
from brainmets.evaluation.paper.compare import compare_studies
from brainmets.evaluation.paper.plan import Subgroup, read_study
from brainmets.evaluation.paper.rows import Row, merged
from brainmets.evaluation.paper.run import run_paper
from brainmets.evaluation.study import run_study
from brainmets.io import nifti
from brainmets.volume import Grid
from study_files import GRID, STUDY, ball, write_mask, write_rows, write_study


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    run_paper(write_study(folder), folder / "out")
    return folder


@pytest.fixture
def small(tmp_path):
    write_study(tmp_path, (4, 3))
    return tmp_path


def table(folder, name):
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def one(rows, **keys):
    (row,) = [r for r in rows if all(r[k] == v for k, v in keys.items())]
    return row


def run(*words):
    sys.argv = ["brainmets", *map(str, words)]
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_injected_differences_are_found_with_the_right_sign(made):
    tests = table(made / "out", "tests")
    for cohort in ("internal", "external"):
        for measure in ("dice", "auc"):
            lung = one(tests, cohort=cohort, subgroup="primary", measure=measure)
            assert lung["groups"].startswith("lung")
            assert float(lung["size"]) < 0
            assert float(lung["high"]) < 0
            assert float(lung["p_holm"]) < 0.05
            sex = one(tests, cohort=cohort, subgroup="sex", measure=measure)
            assert float(sex["p_holm"]) > 0.05
            assert float(sex["low"]) < 0 < float(sex["high"])
        saved = one(table(made / "out", "times"), cohort=cohort)
        assert 0 < float(saved["saved_share_low"]) < 0.375 < float(saved["saved_share_high"])
        assert float(saved["p"]) < 0.001


def test_every_sentence_of_the_papers_abstract_has_its_cell(made):
    results = table(made / "out", "results")
    for cohort in ("internal", "external"):
        for measure in ("precision", "sensitivity", "specificity", "dice", "iou", "mcc", "auc"):
            row = one(results, cohort=cohort, subgroup="all", measure=measure)
            assert float(row["mean_low"]) <= float(row["mean"]) <= float(row["mean_high"])
        for column in ("sex", "age", "primary"):
            levels = [
                r for r in results
                if (r["cohort"], r["subgroup"], r["measure"]) == (cohort, column, "auc")
            ]  # fmt: skip
            assert sum(int(r["patients"]) for r in levels) == (40 if cohort == "internal" else 34)
    assert one(table(made / "out", "tests"), subgroup="cohorts", measure="dice")["p"]


def test_means_are_those_of_the_patients_table(made):
    patients = table(made / "out", "patients")
    row = one(
        table(made / "out", "results"), cohort="internal", subgroup="primary", level="lung",
        measure="dice",
    )  # fmt: skip
    values = [
        float(p["dice"])
        for p in patients
        if p["cohort"] == "internal" and p["by primary"] == "lung"
    ]
    assert float(row["mean"]) == pytest.approx(np.mean(values), rel=1e-5)
    assert int(row["patients"]) == len(values)


def test_every_number_on_the_page_leads_to_its_cell(made):
    page = (made / "out" / "study.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="(\w+\.csv)#cell=(\d+),(\d+)">([^<]*)</a>', page)
    assert len(links) > 200
    files = {}
    for name, line, column, text in links:
        if name not in files:
            with (made / "out" / name).open(encoding="utf-8", newline="") as file:
                files[name] = list(csv.reader(file))
        cell = files[name][int(line) - 1][int(column) - 1]
        shown = text.replace("−", "-").removesuffix(" %")
        if shown in ("–", "undefined"):
            assert cell == ""
        elif shown == "&lt; 0.001":
            assert float(cell) < 0.001
        elif re.fullmatch(r"-?[\d.]+", shown) and column and re.fullmatch(r"[-\d.e+]+", cell):
            scale = 100 if text.endswith("%") else 1
            assert float(cell) * scale == pytest.approx(float(shown), abs=0.051)
        else:
            assert cell
    assert 'src="http' not in page
    assert "not a medical device" in page.lower()


def test_figures_come_in_three_formats(made):
    files = contents(made / "out")
    for name in ("internal-measures", "external-subgroups", "internal-times", "external-volumes"):
        assert files[f"{name}.svg"].startswith(b"<?xml")
        assert files[f"{name}.pdf"].startswith(b"%PDF")
        assert files[f"{name}.png"].startswith(b"\x89PNG")


def test_a_second_run_gives_the_same_bytes_and_scores_nothing_again(made, monkeypatch):
    before = contents(made / "out")

    def never(*_, **__):
        pytest.fail("scored again")

    monkeypatch.setattr(paper_rows, "evaluate", never)
    run_paper(made / "study.toml", made / "out")
    assert contents(made / "out") == before


def test_a_stopped_run_goes_on_and_ends_the_same(small, monkeypatch):
    real, scored = paper_rows.evaluate, []

    def stop(predictions, cohort, **options):
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(cohort)
        return real(predictions, cohort, **options)

    with monkeypatch.context() as patch:
        patch.setattr(paper_rows, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_paper(small / "study.toml", small / "out")
    assert not (small / "out").exists()
    run_paper(small / "study.toml", small / "out")
    run_paper(small / "study.toml", small / "whole")
    assert contents(small / "out") == contents(small / "whole")


def test_a_changed_mask_is_scored_anew(small):
    run_paper(small / "study.toml", small / "out")
    write_mask(small / "in" / "in000" / "mask.nii.gz", ball((3, 3, 3), 2))
    run_paper(small / "study.toml", small / "out")
    row = one(table(small / "out", "patients"), patient="pin000")
    assert float(row["dice"]) == 0


def test_what_is_undefined_is_left_out_and_counted(small):
    write_mask(small / "in001-seg.nii.gz", np.zeros(GRID.shape, np.uint8))
    write_mask(small / "in" / "in002" / "mask.nii.gz", np.zeros(GRID.shape, np.uint8))
    results = run_paper(small / "study.toml", small / "out")
    counted = {
        (r["measure"], r["reason"]): r["patients"]
        for r in results.tables["undefined"]
        if r["cohort"] == "internal"
    }
    assert counted["sensitivity", "the reference is empty"] == 1
    assert counted["precision", "the prediction is empty"] == 1
    assert any(m == "auc" for m, _ in counted)
    row = one(
        table(small / "out", "results"), cohort="internal", subgroup="all", measure="sensitivity"
    )
    assert (row["patients"], row["undefined"]) == ("3", "1")
    assert any("patients; below 30" in warning for warning in results.warnings)


def test_one_patient_in_a_group_is_not_compared_and_ties_are(small):
    rows = table_tsv(small / "in.tsv")
    for row, sex in zip(rows, "FMMM", strict=True):
        row["sex"] = sex
    write_rows(small / "in.tsv", rows)
    results = run_paper(small / "study.toml", small / "out")
    row = one(table(small / "out", "tests"), cohort="internal", subgroup="sex", measure="dice")
    assert row["p"] == ""
    assert "fewer than two patients" in row["reason"]
    ties = one(
        table(small / "out", "tests"), cohort="internal", subgroup="primary",
        measure="lesion_sensitivity",
    )  # fmt: skip
    assert ties["reason"] == "all values are equal"
    assert any("dice not compared by sex" in warning for warning in results.warnings)


def test_scans_of_a_patient_count_as_one(small):
    rows = table_tsv(small / "in.tsv")
    for row in rows[:2]:
        row["patient"] = "twice"
    write_rows(small / "in.tsv", rows)
    run_paper(small / "study.toml", small / "out")
    patients = table(small / "out", "patients")
    row = one(patients, patient="twice")
    assert row["cases"] == "2"
    assert len([p for p in patients if p["cohort"] == "internal"]) == 3


def test_a_patients_mean_is_over_what_is_defined():
    rows = [Row("a", values={"dice": 0.5}), Row("a", values={"dice": math.nan})]
    assert merged(rows)[0].value("dice") == 0.5
    assert merged([Row("a", columns={"sex": "F"}), Row("a", columns={"sex": "M"})])[0].columns == {
        "sex": ""
    }


def test_times_of_different_scans_are_no_pair():
    by_hand = Row("a", values={"manual_time_s": 1000.0})
    by_model = Row("a", values={"model_time_s": 70.0})
    both = Row("a", values={"manual_time_s": 110.0, "model_time_s": 60.0})
    apart = merged([by_hand, by_model])[0]
    assert math.isnan(apart.value("manual_time_s"))
    one_pair = merged([by_hand, both, by_model])[0]
    assert (one_pair.value("manual_time_s"), one_pair.value("model_time_s")) == (110, 60)


def test_an_auc_of_voxels_is_not_compared_with_that_of_masks(small):
    run_paper(small / "study.toml", small / "a")
    for name in ("in", "ex"):
        for mask in (small / name).glob("*/mask.nii.gz"):
            likely = nifti.read(mask).volume
            data = np.asarray(likely.data, np.float32) * 0.8
            nifti.write(likely.with_data(data), mask.with_name("probability.nii.gz"))
    run_paper(small / "study.toml", small / "b")
    measures = {row["measure"] for row in compare_studies(small / "a", small / "b")}
    assert "dice" in measures
    assert "auc" not in measures
    settings = json.loads((small / "b" / "study.json").read_text(encoding="utf-8"))["settings"]
    assert "voxels" in settings["AUC"]


def table_tsv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def spoil_case(folder):
    shutil.rmtree(folder / "in" / "in002")


def spoil_row(folder):
    write_rows(folder / "in.tsv", table_tsv(folder / "in.tsv")[1:])


def spoil_column(folder):
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace('"primary"', '"pirmary"'))


def spoil_key(folder):
    (folder / "study.toml").write_text("tilte = 'x'\n" + STUDY)


def spoil_grid(folder):
    other = Grid(GRID.shape, np.diag([1.0, 1.0, 2.5, 1.0]))
    write_mask(folder / "ex" / "ex001" / "mask.nii.gz", ball((9, 9, 8), 3), other)


def spoil_patient(folder):
    rows = table_tsv(folder / "ex.tsv")
    rows[0]["patient"] = "pin001"
    write_rows(folder / "ex.tsv", rows)


def spoil_number(folder):
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace('"sex"', '"sex"\ncuts = [1]'))


def spoil_toml(folder):
    (folder / "study.toml").write_text("title = ")


def spoil_time(folder):
    rows = table_tsv(folder / "in.tsv")
    rows[2]["manual_time_s"] = "-3"
    write_rows(folder / "in.tsv", rows)


def spoil_measure(folder):
    (folder / "study.toml").write_text(
        'measures = ["dice", "auc", "lesion_sensitivity", "mmc"]' + STUDY
    )


def spoil_record(folder):
    path = folder / "ex" / "ex002" / "run.json"
    path.write_text('{"seconds_by_stage": {"a": Infinity}}')


def spoil_target(folder):
    (folder / "study.toml").write_text("target = [1, 9]" + STUDY)


def spoil_covariate(folder):
    rows = table_tsv(folder / "in.tsv")
    write_rows(folder / "in.tsv", [{**row, "ki67": "nan"} for row in rows])
    text = 'covariates = ["ki67"]' + STUDY + '[[subgroup]]\ncolumn = "ki67"\ncuts = [3]\n'
    (folder / "study.toml").write_text(text)


def spoil_split(folder):
    text = (folder / "study.toml").read_text()
    changed = text.replace('predictions = "in"', 'predictions = "in"\nsplit = "tset"')
    (folder / "study.toml").write_text(changed)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_case, "case in002: no prediction"),
        (spoil_row, "case in000: a prediction but no reference"),
        (spoil_column, "no column 'pirmary' for a subgroup; did you mean 'primary'?"),
        (spoil_key, "Study has no 'tilte'; did you mean 'title'?"),
        (spoil_grid, "case ex001: "),
        (spoil_patient, "patient 'pin001' is in cohorts 'internal' and 'external'"),
        (spoil_number, "case in000: 'F' in column 'sex' is not a number"),
        (spoil_toml, "study.toml: not a TOML file"),
        (
            spoil_time,
            "case in002, manual_time_s of the table or of run.json: -3 s; expected more than 0",
        ),
        (spoil_measure, "measures: no 'mmc' for every case; did you mean 'mcc'?"),
        (spoil_record, "case ex002, model_time_s of the table or of run.json: inf s"),
        (spoil_target, "target: label 9 occurs in no reference of cohort 'internal'"),
        (spoil_covariate, "case in000: 'nan' in column 'ki67' is not a number"),
        (spoil_split, "no case with split 'tset'; found test"),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_leaves_nothing(small, capsys, spoil, said):
    spoil(small)
    assert run("study", small / "study.toml", "-o", small / "out") == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert str(small) not in error
    assert not (small / "out").exists()


def test_the_command_prints_scores_warnings_and_the_page(small, capsys):
    assert run("study", small / "study.toml", "-o", small / "out") == 0
    printed = capsys.readouterr()
    assert "Dice" in printed.out
    assert "study.html" in printed.out
    record = json.loads((small / "out" / "study.json").read_text(encoding="utf-8"))
    assert sorted(record["files"]) == sorted(p.name for p in (small / "out").iterdir())


def test_a_folder_of_other_things_is_not_replaced(small, capsys):
    (small / "out").mkdir()
    (small / "out" / "thesis.txt").write_text("mine")
    assert run("study", small / "study.toml", "-o", small / "out") != 0
    assert "thesis" in capsys.readouterr().err or (small / "out" / "thesis.txt").exists()
    run_paper(small / "study.toml", small / "fine")
    (small / "fine" / "notes.txt").write_text("mine")
    assert run("study", small / "study.toml", "-o", small / "fine") != 0
    assert (small / "fine" / "notes.txt").read_text() == "mine"


def test_several_processes_give_the_same_bytes(small):
    run_paper(small / "study.toml", small / "one")
    shutil.rmtree(small / "one.work")
    run_paper(small / "study.toml", small / "two", workers=2)
    assert contents(small / "one") == contents(small / "two")


def test_a_training_cohort_is_described_and_not_scored(small):
    text = (small / "study.toml").read_text()
    changed = text.replace('predictions = "in"', 'role = "training"')
    (small / "study.toml").write_text(changed)
    shutil.rmtree(small / "in")
    results = run_paper(small / "study.toml", small / "out")
    cohorts = {row["cohort"] for row in results.tables["results"]}
    assert cohorts == {"external"}
    assert {row["cohort"] for row in results.tables["table1"]} == {"internal", "external"}


def test_groups_between_cuts_leave_no_number_out():
    groups = Subgroup("age", (40, 60))
    assert groups.names == ("< 40", "40 to < 60", "≥ 60")
    found = [groups.group_of(str(n)) for n in (39.9, 40, 59, 60, 90)]
    assert found == ["< 40", "40 to < 60", "40 to < 60", "≥ 60", "≥ 60"]
    with pytest.raises(ConfigError, match="ascending"):
        Subgroup("age", (60, 40))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "one \\[\\[cohort\\]\\] or more"),
        ("cohort = 3", "no list of tables"),
        ("[[cohort]]\nname = 'a'", "without 'table'"),
        ("[[cohort]]\nname = 'a'\ntable = 'b'\nrole = 'x'", "role 'x'"),
        ("tested = ['kappa']", "measures lacks"),
        ("resamples = 3", "resamples is 3"),
        ("parts = []", "no 'parts'"),
        ("[statements]\nfundin = 'none'", "did you mean 'funding'"),
        ("[statements]\nfunding = ' '", "expected a text"),
        ("statements = 3", "no table"),
        ("[[cohort]]\nname = 'a'\ntable = 'b'\nrole = 'training'", "described and not scored"),
        ("target = [0]", "above 0"),
        ("seed = -1", "seed is -1"),
        ("measures = []\ntested = []", "measures is empty"),
        ("measures = ['dice', 'dice']\ntested = []", "name each once"),
        ("[[subgroup]]\ncolumn = 'k'\ncuts = [nan]", "finite numbers"),
        ("[[subgroup]]\ncolumn = 'k'\ncuts = [1000000, 1000001, 1000002]", "six digits"),
        ("[[cohort]]\nname = 'all'\ntable = 'b'", "cohort 'all'"),
        ("[[cohort]]\nname = 'a b'\ntable = 'b'\n[[cohort]]\nname = 'a-b'\ntable = 'b'", "alone"),
        (
            "[[cohort]]\nname = 'a'\ntable = 'b'\n" + 2 * "[[subgroup]]\ncolumn = 'sex'\n",
            "subgroup 'sex'",
        ),
    ],
)
def test_a_study_file_that_makes_no_sense_is_refused(tmp_path, text, said):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_study(tmp_path / "study.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_study(tmp_path / "absent.toml")


def test_the_free_response_curve_is_that_of_evaluate(small):
    rows = table_tsv(small / "ex.tsv")
    for row in rows:
        mask = small / "ex" / row["case"] / "mask.nii.gz"
        likely = nifti.read(mask).volume
        data = np.asarray(likely.data, np.float32) * 0.8
        data[:2, :2, :2] = 0.7
        nifti.write(likely.with_data(data), mask.with_name("probability.nii.gz"))
    results = run_paper(small / "study.toml", small / "out")
    summary = run_study(small / "ex", read_cohort(small / "ex.tsv"))
    points = {r["false_positives_per_scan"]: r["sensitivity"] for r in results.tables["froc"]}
    assert points == {
        p["allowed"]: p["sensitivity"]["value"] for p in summary["froc"]["operating_points"]
    }
    assert set(results.curves) == {"external"}
    bins = [r for r in results.tables["calibration"] if r["cohort"] == "external"]
    assert bins[8]["mean_probability"] == pytest.approx(0.8)
    assert sum(r["voxels"] for r in bins[:-1]) == 3 * np.prod(GRID.shape)
    assert {"external-froc.pdf", "external-calibration.svg"} <= contents(small / "out").keys()
    row = one(results.tables["agreement"], cohort="external", measure="patient_auc")
    assert row["reason"] == "all are of one class"
    assert any("every AUC is that of the mask" in warning for warning in results.warnings)
    (small / "ex" / "ex000" / "probability.nii.gz").unlink()
    told = run_paper(small / "study.toml", small / "out").warnings
    assert any("1 scans have no probabilities" in warning for warning in told)


def test_the_page_shows_the_worst_and_the_best(made):
    page = (made / "out" / "study.html").read_text(encoding="utf-8")
    dice = {p["case"]: float(p["dice"]) for p in _cases(made)}
    shown = [dice[name] for name in re.findall(r"<h3>(ex\d+): Dice", page)]
    ranked = sorted(value for value in dice.values() if value < 1)
    assert shown == [*ranked[:4], *ranked[-2:]]


def _cases(made):
    rows = [p for p in table(made / "out", "patients") if p["cohort"] == "external"]
    return [{**row, "case": row["patient"][1:]} for row in rows]


def degraded(folder):
    """A second study of the same patients: every third prediction is lost."""
    shutil.copytree(folder / "in", folder / "worse")
    shutil.copytree(folder / "ex", folder / "worse-ex")
    for name in ("worse/in000", "worse/in003"):
        write_mask(folder / name / "mask.nii.gz", np.zeros(GRID.shape, np.uint8))
    text = STUDY.replace('predictions = "in"', 'predictions = "worse"')
    (folder / "worse.toml").write_text(
        text.replace('predictions = "ex"', 'predictions = "worse-ex"')
    )
    return folder / "worse.toml"


def test_two_models_are_compared_patient_by_patient(small, capsys):
    run_paper(small / "study.toml", small / "a")
    run_paper(degraded(small), small / "b")
    assert run("study", "compare", small / "a", small / "b", "-o", small / "c.csv") == 0
    assert "Dice" in capsys.readouterr().out
    with (small / "c.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    dice = one(rows, cohort="internal", measure="dice")
    a, b = (
        {p["patient"]: float(p["dice"]) for p in table(small / n, "patients")} for n in ("a", "b")
    )
    apart = [a[f"pin00{n}"] - b[f"pin00{n}"] for n in range(4)]
    assert float(dice["difference"]) == pytest.approx(np.mean(apart), rel=1e-4)
    found = one(rows, cohort="internal", measure="any lesion found")
    assert float(found["difference"]) == 0.5
    same = one(rows, cohort="external", measure="dice")
    assert float(same["difference"]) == 0
    assert same["reason"] == "all pairs are equal"
    swapped = run_paper(small / "study.toml", small / "a")
    assert swapped.tables["results"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "b" / "patients.csv").unlink(), "b: no patients.csv"),
        (lambda f: (f / "b" / "study.json").write_text("{}"), "b: no study.json"),
        (
            lambda f: (f / "b" / "patients.csv").write_text(
                (f / "b" / "patients.csv").read_text().replace("pin002", "other")
            ),
            "patient 'pin002' of cohort 'internal' is in the first study only",
        ),
        (
            lambda f: (f / "b" / "patients.csv").write_text(
                re.sub(
                    r"(internal,pin001,.*)$",
                    lambda m: re.sub(r"\b\d{2,}(\.\d+)?,", "7,", m[1]),
                    (f / "b" / "patients.csv").read_text(),
                    flags=re.MULTILINE,
                )
            ),
            "patient 'pin001' of cohort 'internal': reference_mm3",
        ),
    ],
)
def test_studies_of_other_patients_are_not_compared(small, capsys, spoil, said):
    for name in ("a", "b"):
        run_paper(small / "study.toml", small / name)
    spoil(small)
    assert run("study", "compare", small / "a", small / "b") == 2
    assert said in capsys.readouterr().err
