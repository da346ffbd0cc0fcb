"""What was prepared on one machine trains on another that has no scans and no reader of them."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from brainmets.apps import cli
from brainmets.cohort import Cohort
from brainmets.config import Recipe
from brainmets.errors import CohortError, ConfigError
from brainmets.network.bundle import find, read, write
from brainmets.training.model import FrozenSplit, plan_training, retune
from brainmets.training.split import systematic, write_split
from brainmets.training.store import INDEX, read_index
from training_cases import write_case

BARE = """
import sys
for name in ("nibabel", "pydicom", "openvino", "matplotlib", "gdcm", "openjpeg", "jpeg_ls"):
    sys.modules[name] = None  # as if it were not installed
from brainmets.training import loop
loop.SETTLING_BATCHES = 2
from brainmets.apps.cli import main
sys.argv = ["brainmets", *sys.argv[1:]]
main()
"""


def run(*words):
    sys.argv = ["brainmets", *map(str, words)]
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    rows = ["case\tpatient\timage\tmask\tbrain_mask"]
    for n, name in enumerate("abcdef"):
        files = (
            write_case(folder, name, seed=n).image,
            f"{name}-seg.nii.gz",
            f"{name}-brain.nii.gz",
        )
        rows.append("\t".join([name, f"p{n // 2}", files[0].name, *files[1:]]))
    (folder / "cohort.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    assert run("cohort", "prepare", folder / "cohort.tsv", "--work", folder / "work") == 0
    return folder


@pytest.fixture
def away(scans, tmp_path):
    """The prepared cohort on another machine."""
    return shutil.copytree(scans / "work", tmp_path / "away")


def test_it_trains_without_scans_or_readers(away, scans, tmp_path):
    out = tmp_path / "m.brainmets"
    words = ["train", away, "-o", out, "--steps", 2, "--patch", 32]
    done = subprocess.run(  # noqa: S603 - own script
        [sys.executable, "-c", BARE, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "brainmets tune chooses it on scans" in done.stdout
    model = read(out)
    assert "chosen on 2 prepared validation cases" in model.card["decision_rule"]
    assert model.card["cases"] == {"train": 4, "validation": 2, "test": 0}
    assert "results" not in model.card


def test_a_rule_chosen_later_takes_the_remark_away(scans, tmp_path):
    card = {"decision_rule": "chosen on 2 prepared cases", "trained_on": "prepared cases"}
    untuned = replace(read(find("starter")), card=card)
    write(untuned, tmp_path / "m.brainmets")
    cohort = Cohort((write_case(tmp_path, "x", seed=9),))
    tuned = retune(read(tmp_path / "m.brainmets"), tmp_path / "t.brainmets", cohort)
    assert "decision_rule" not in tuned.card
    assert tuned.card["trained_on"] == "prepared cases"


def test_the_plan_is_the_one_of_the_scans(away, scans):
    """Same sides, patients together."""
    plans = [plan_training(place, "m") for place in (away, scans / "cohort.tsv")]
    for side in ("training", "validation"):
        one, other = ([c.case_id for c in getattr(plan, side)] for plan in plans)
        assert one == other
    assert plans[0].prepared
    assert not plans[1].prepared


def test_a_frozen_split_holds_and_its_test_cases_teach_nothing(away, tmp_path):
    cohort = read_index(away).cohort
    write_split(cohort, systematic(cohort, 1), tmp_path / "split.tsv")
    plan = plan_training(away, "m", frozen=FrozenSplit(tmp_path / "split.tsv"))
    used = {c.case_id for c in (*plan.training, *plan.validation)}
    assert used == {"a", "b", "e", "f"}
    assert len(plan.test) == 0


def test_a_stated_split_travels(scans, tmp_path):
    lines = (scans / "cohort.tsv").read_text("utf-8").splitlines()
    sides = ("split", "train", "train", "validation", "validation", "", "")
    text = "\n".join(f"{line}\t{side}" for line, side in zip(lines, sides, strict=True))
    (scans / "stated.tsv").write_text(text + "\n", "utf-8")
    assert run("cohort", "prepare", scans / "stated.tsv", "--work", tmp_path / "work") == 0
    plan = plan_training(tmp_path / "work", "m")
    assert [c.case_id for c in plan.training] == ["a", "b"]
    assert [c.case_id for c in plan.validation] == ["c", "d"]


def test_what_does_not_fit_is_refused(away, scans):
    with pytest.raises(ConfigError, match="without scans nothing is scored"):
        plan_training(away, "m", test=scans / "cohort.tsv")
    with pytest.raises(ConfigError, match="prepare both, or neither"):
        plan_training(away, "m", validation=scans / "cohort.tsv")
    with pytest.raises(ConfigError, match=r"labels above 0, not \(1,\)"):
        plan_training(away, "m", target_labels=[1])
    index = json.loads((away / INDEX).read_text("utf-8"))
    recipe = {**index["recipe"], "spacing_mm": 1.0}
    (away / INDEX).write_text(json.dumps({**index, "recipe": recipe}))
    assert read_index(away).recipe == Recipe(spacing_mm=1.0)
    with pytest.raises(ConfigError, match="another recipe"):
        plan_training(away, "m")


def test_a_cohort_that_came_in_parts_is_refused(away):
    cohort = read_index(away).cohort
    shutil.rmtree(cohort.cases[3].image)
    with pytest.raises(CohortError, match=r"'d': no entry .* copy the folder whole"):
        plan_training(away, "m")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not what cohort prepare writes"),
        ("[]", "is not what cohort prepare writes"),
        ('{"layout": 1}', "is not what cohort prepare writes"),
    ],
)
def test_a_damaged_index_is_refused(away, text, said):
    (away / INDEX).write_text(text)
    with pytest.raises(CohortError, match=said):
        plan_training(away, "m")


def test_another_layout_is_refused(away):
    index = json.loads((away / INDEX).read_text("utf-8"))
    (away / INDEX).write_text(json.dumps({**index, "layout": 2}))
    with pytest.raises(CohortError, match="layout 2, expected 3"):
        plan_training(away, "m")


def test_an_entry_never_leads_out_of_the_store(away):
    index = json.loads((away / INDEX).read_text("utf-8"))
    index["cases"][0]["entry"] = "../../elsewhere"
    (away / INDEX).write_text(json.dumps(index))
    with pytest.raises(CohortError, match="no entry elsewhere"):
        read_index(away)
