import csv
import json
import re

import numpy as np
import pytest

from brainmets.evaluation.paper.checklists import FROM_DATA, OPEN
from brainmets.evaluation.paper.guidelines import guidelines
from brainmets.evaluation.paper.run import run_paper
from study_files import GRID, write_cohort, write_mask, write_rows, write_study


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    file = write_study(folder, (12, 10))
    text = file.read_text(encoding="utf-8")
    file.write_text(f'{text}[statements]\nfunding = "None <at all>."\nmodel = "A U-Net."\n')
    return folder, run_paper(file, folder / "out")


def numbers(name):
    (one,) = [c for c in guidelines().checklists if c.name == name]
    return [number for number, _ in one.items]


def test_items_are_numbered_as_the_guidelines_are():
    assert numbers("CLAIM 2024") == [str(n) for n in range(1, 45)]
    for name, last in (("TRIPOD+AI", 27), ("STARD-AI", 40)):
        mains = [int(re.match(r"\d+", n).group()) for n in numbers(name)]
        assert sorted(mains) == mains
        assert set(mains) == set(range(1, last + 1))
    for one in guidelines().checklists:
        assert len(set(one.items)) == len(one.items)


def test_topics_are_those_that_items_ask_for():
    asked = {topic for one in guidelines().checklists for _, topic in one.items}
    assert asked == set(guidelines().topics)
    assert set(FROM_DATA) <= asked


def test_an_answer_stands_in_every_list_that_asks(made):
    _, results = made
    rows = results.tables["checklists"]
    assert len(rows) == sum(len(one.items) for one in guidelines().checklists)
    funding = [r for r in rows if r["key"] == "funding"]
    assert {r["checklist"] for r in funding} == {"CLAIM 2024", "TRIPOD+AI", "STARD-AI"}
    assert {r["answer"] for r in funding} == {"None <at all>."}
    assert {r["by"] for r in rows if r["key"] == "ethics"} == {OPEN}
    (flow, *_) = [r for r in rows if r["key"] == "flow"]
    assert "internal: 12 of 12 scans, 12 patients" in flow["answer"]
    (accuracy, *_) = [r for r in rows if r["key"] == "performance"]
    (dice,) = [
        r for r in results.tables["results"]
        if (r["cohort"], r["subgroup"], r["measure"]) == ("internal", "all", "dice")
    ]  # fmt: skip
    assert f"internal: {dice['mean']:.3f}" in accuracy["answer"]


def test_the_page_shows_them_and_leads_to_the_cells(made):
    folder, results = made
    page = (folder / "out" / "study.html").read_text(encoding="utf-8")
    assert "None &lt;at all&gt;." in page
    for row in results.tables["checklists"]:
        if row["cell"]:
            name, line, column = re.fullmatch(r"(\w+\.csv)#cell=(\d+),(\d+)", row["cell"]).groups()
            with (folder / "out" / name).open(encoding="utf-8", newline="") as file:
                assert list(csv.reader(file))[int(line) - 1][int(column) - 1]
            assert f'href="{row["cell"]}"' in page


@pytest.mark.parametrize("emptied", ["*-seg.nii.gz", "*/*/mask.nii.gz"])
def test_undefined_numbers_have_no_address(tmp_path, emptied):
    file = write_study(tmp_path, (4, 3))
    for mask in tmp_path.glob(emptied):
        write_mask(mask, np.zeros(GRID.shape, np.uint8))
    results = run_paper(file, tmp_path / "out")
    told = {r["key"]: r for r in results.tables["checklists"]}
    assert "none of them could be compared" in told["fairness"]["answer"]
    for row in told.values():
        if row["cell"]:
            name, line, column = re.fullmatch(r"(\w+\.csv)#cell=(\d+),(\d+)", row["cell"]).groups()
            with (tmp_path / "out" / name).open(encoding="utf-8", newline="") as lines:
                assert list(csv.reader(lines))[int(line) - 1][int(column) - 1], row


def test_flow_counts_every_scan(tmp_path):
    rows = write_cohort(tmp_path, "in", 8, seed=1)
    for row in rows[:3]:
        row["split"] = "train"
    rows[4]["patient"] = rows[5]["patient"]
    write_rows(tmp_path / "in.tsv", rows)
    (tmp_path / "study.toml").write_text(
        'resamples = 200\ntested = []\n[[cohort]]\nname = "held out"\ntable = "in.tsv"\n'
        'predictions = "in"\nsplit = "test"\n[[cohort]]\nname = "training"\ntable = "in.tsv"\n'
        'split = "train"\nrole = "training"\n'
    )
    results = run_paper(tmp_path / "study.toml", tmp_path / "out")
    held, _ = results.tables["flow"]
    assert list(held.values()) == ["held out", "test", 8, 3, 5, 4, 0]
    told = {r["key"]: r["answer"] for r in results.tables["checklists"]}
    assert "No cohort of this study is external" in told["external_test"]
    for kind in ("svg", "pdf", "png"):
        assert (tmp_path / "out" / f"all-flow.{kind}").stat().st_size > 1000


def test_models_are_named_by_what_predict_wrote(tmp_path):
    file = write_study(tmp_path, (4, 3))
    for case, sha in (("in000", "a" * 64), ("in001", "b" * 64)):
        model = {"name": "starter", "sha256": sha}
        record = {"provenance": {"model": model, "decision_rule": None}}
        (tmp_path / "in" / case / "report.json").write_text(json.dumps(record))
    somebody = {"provenance": {"model": None, "decision_rule": None}}
    (tmp_path / "in" / "in002" / "report.json").write_text(json.dumps(somebody))
    results = run_paper(file, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    assert stored["settings"]["predicted by"] == [
        f"starter ({'a' * 12})", f"starter ({'b' * 12})",
    ]  # fmt: skip
    assert any("made by 2 models" in warning for warning in results.warnings)
