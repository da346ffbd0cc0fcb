"""From a cohort on disk to a bundle, and the same bundle again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainmets.cohort import Case, Cohort
from brainmets.config import Architecture, DecisionRule, Recipe, Tiling, Training, to_mapping
from brainmets.errors import CohortError, ConfigError
from brainmets.network.bundle import Int8, read
from brainmets.network.torch_engine import torch_engine
from brainmets.pipeline import Model
from brainmets.training import loop, patches
from brainmets.training.loop import Moment
from brainmets.training.model import (
    Listeners,
    Plan,
    plan_training,
    retune,
    split,
    train_model,
)
from brainmets.training.tune import tune
from training_cases import write_case


def rows(*values):
    """A cohort whose files are never opened, from clinical rows."""
    path = Path("scan.nii.gz")
    return Cohort(tuple(Case(f"c{n}", path, path, None, row) for n, row in enumerate(values)))


def names(cohort):
    return [case.case_id for case in cohort]


@pytest.mark.parametrize(("patients", "visits"), [(2, 1), (5, 3), (6, 2), (13, 2), (30, 1)])
def test_a_patients_visits_stay_on_one_side(patients, visits):
    """Whatever the order of the rows; every sixth patient validates."""
    table = [{"patient": f"p{n % patients}"} for n in range(patients * visits)]
    learn, check = split(rows(*table))
    sides = [{case.row["patient"] for case in half} for half in (learn, check)]
    assert not sides[0] & sides[1]
    assert len(learn) + len(check) == patients * visits
    assert len(sides[1]) == max(1, patients // 6)


def test_without_patients_each_case_is_one():
    learn, check = split(rows(*[{}] * 12))
    assert names(check) == ["c5", "c11"]
    assert len(learn) == 10


def test_the_stated_split_is_obeyed():
    values = ["train", "validation", "test", "", "train", "validation"]
    learn, check = split(rows(*[{"split": value} for value in values]))
    assert names(learn) == ["c0", "c4"]
    assert names(check) == ["c1", "c5"]


def test_a_stated_split_that_divides_a_patient_is_refused():
    stated = [("a", "train"), ("b", "train"), ("b", "validation")]
    table = [{"patient": patient, "split": side} for patient, side in stated]
    with pytest.raises(CohortError, match="'b' has visits in both"):
        split(rows(*table))


def test_cases_without_masks_are_left_out():
    cohort = rows({}, {}, {})
    bare = replace(cohort.cases[0], mask=None)
    learn, check = split(Cohort((bare, *cohort.cases[1:])))
    assert (names(learn), names(check)) == (["c1"], ["c2"])


@pytest.mark.parametrize(
    "table",
    [
        [],
        [{}],
        [{"patient": "a"}, {"patient": "a"}],
        [{"split": "train"}, {"split": "train"}],
        [{"split": "test"}, {"split": "validation"}],
    ],
)
def test_a_cohort_that_fills_one_side_only_is_refused(table):
    with pytest.raises(CohortError, match="both need at least one"):
        split(rows(*table))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return Cohort(tuple(write_case(folder, name, seed=n) for n, name in enumerate("abc")))


@pytest.fixture
def table(cohort):
    folder = cohort.cases[0].image.parent
    lines = [["case", "image", "mask", "brain_mask"]]
    for case in cohort:
        files = (case.image, case.mask, case.brain_mask)
        lines.append([case.case_id, *(p.name for p in files)])
    (folder / "cohort.tsv").write_text("\n".join(map("\t".join, lines)) + "\n", "utf-8")
    return folder / "cohort.tsv"


def test_a_plan_is_read_from_disk(table):
    plan = plan_training(table, "mine", test=table, options={"steps": 7, "seed": 3})
    assert (names(plan.training), names(plan.validation)) == (["a", "b"], ["c"])
    assert names(plan.test) == ["a", "b", "c"]
    assert plan.settings == Training(steps=7, seed=3, learning_rate=3e-4)
    assert plan.card["trained_on"] == "2 cases of the user's own"
    assert plan_training(table, "mine", preset="paper").architecture == Architecture(width=64)
    apart = plan_training(table, "mine", validation=table.parent)
    assert names(apart.training) == names(apart.validation) == ["a", "b", "c"]


def test_an_unknown_option_or_preset_is_named(table):
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        plan_training(table, "mine", options={"stepz": 7})
    with pytest.raises(ConfigError, match="light, paper"):
        plan_training(table, "mine", preset="heavy")


def tiny_plan(cohort):
    return Plan(
        name="tiny",
        training=Cohort(cohort.cases[:2]),
        validation=Cohort(cohort.cases[2:]),
        test=Cohort(cohort.cases[1:2]),
        architecture=Architecture(width=4, full_resolution_channels=4),
        settings=Training(
            steps=3, batch=2, patch_vox=32, warmup_steps=1, checkpoint_every=1, precision="f32"
        ),
        recipe=Recipe(spacing_mm=2.0),
        tiling=Tiling(tile_vox=32, overlap=0.0),
        card={"trained_on": "phantoms", "licence": "none"},
    )


def test_a_model_is_trained_tuned_measured_and_written(cohort, tmp_path, monkeypatch):
    """And, after being killed at every stage or started again, written with the same bytes."""
    monkeypatch.setattr(loop, "SETTLING_BATCHES", 2)
    plan = tiny_plan(cohort)
    moments, prepared, validated = [], [], []
    listeners = Listeners(
        lambda *s: prepared.append(s), moments.append, lambda *s: validated.append(s)
    )
    bundle = train_model(plan, tmp_path / "a.brainmets", tmp_path / "w", listeners=listeners)
    straight = (tmp_path / "a.brainmets").read_bytes()

    assert prepared == [(1, 2), (2, 2), (1, 1)]
    assert isinstance(moments[0], Moment)
    assert validated == [(1, 1)] * 3  # to tune, to measure, to test
    found = read(tmp_path / "a.brainmets")
    assert found.sha256 == bundle.sha256
    assert (found.name, found.architecture, found.recipe, found.tiling) == (
        "tiny", plan.architecture, plan.recipe, plan.tiling,
    )  # fmt: skip
    assert isinstance(found.rule, DecisionRule)
    assert found.card["trained_on"] == "phantoms"
    assert found.card["training"] == to_mapping(plan.settings)
    assert found.card["cases"] == {"train": 2, "validation": 1, "test": 1}
    assert found.card["results"]["test"]["lesions"] == 2
    assert "not a medical device" in found.card["limits"]
    output = torch_engine(found, "cpu")(found.example["input"])
    np.testing.assert_allclose(output, found.example["output"], atol=1e-3)

    report = (tmp_path / "a.html").read_text("utf-8")
    assert found.sha256 in report
    assert "data:image/svg+xml" in report
    assert "Validation cases" in report
    assert report.count('class="there"') == 3  # one case, three planes

    # started again: the checkpoint is whole, nothing is trained
    train_model(plan, tmp_path / "b.brainmets", tmp_path / "w")
    assert (tmp_path / "b.brainmets").read_bytes() == straight

    # killed in the last step, started again
    with monkeypatch.context() as patch:
        draw = patches.draw_batch

        def dies(cases, training, step, device, share=None):
            if step == 2:
                raise KeyboardInterrupt
            return draw(cases, training, step, device, share)

        patch.setattr(patches, "draw_batch", dies)
        with pytest.raises(KeyboardInterrupt):
            train_model(plan, tmp_path / "c.brainmets", tmp_path / "v")
    assert not (tmp_path / "c.brainmets").exists()
    train_model(plan, tmp_path / "c.brainmets", tmp_path / "v")
    assert (tmp_path / "c.brainmets").read_bytes() == straight


def test_retuning_changes_rule_and_figures_alone(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SETTLING_BATCHES", 1)
    plan = tiny_plan(cohort)
    before = train_model(plan, tmp_path / "a.brainmets", tmp_path / "w")
    int8 = Int8({"head": (1.0,)}, is_default=True)
    measured = {**before.card, "int8": {"cases": 30}}
    given = replace(before, int8=int8, card=measured)
    after = retune(given, tmp_path / "own.brainmets", plan.test, plan.validation)
    assert after.int8 == replace(int8, is_default=False)  # measured with another rule
    assert "int8" not in after.card
    assert after.name == "own"
    assert after.weights.keys() == before.weights.keys()
    for name, tensor in before.weights.items():
        np.testing.assert_array_equal(after.weights[name], tensor)
    chosen = tune(plan.test, Model(before, torch_engine(before, "cpu")))
    assert (after.rule, after.temperature) == (chosen.rule, chosen.temperature)
    results = after.card["results"]
    assert results["validation (rule chosen on it)"]["lesions"] == 2
    assert results["test"]["cases"] == len(plan.validation)
    kept = ("trained_on", "training", "limits")
    assert [after.card[k] for k in kept] == [before.card[k] for k in kept]
    assert after.card["cases"] == {"train": 2, "validation": 1, "test": 1}


def test_a_run_whose_time_is_up_gives_a_model_and_can_be_taken_further(
    cohort, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SETTLING_BATCHES", 1)
    plan = tiny_plan(cohort)
    early = train_model(plan, tmp_path / "early.brainmets", tmp_path / "w", until=2)
    assert early.card["ended_at_step"] == 2
    whole = train_model(plan, tmp_path / "whole.brainmets", tmp_path / "w")
    straight = train_model(plan, tmp_path / "straight.brainmets", tmp_path / "v")
    assert whole.sha256 == straight.sha256 != early.sha256
    assert "ended_at_step" not in whole.card


def test_retuning_needs_cases(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SETTLING_BATCHES", 1)
    bundle = train_model(tiny_plan(cohort), tmp_path / "a.brainmets", tmp_path / "w")
    with pytest.raises(CohortError, match="no case with a mask"):
        retune(bundle, tmp_path / "b.brainmets", Cohort(()))
    assert not (tmp_path / "b.brainmets").exists()


def test_a_model_trained_without_any_lesion_still_has_an_example(tmp_path, monkeypatch):
    """It cannot be verified, and the bundle can be read."""
    monkeypatch.setattr(loop, "SETTLING_BATCHES", 1)
    bare = Cohort(
        tuple(write_case(tmp_path, name, balls=(), seed=n) for n, name in enumerate("ab"))
    )
    plan = replace(
        tiny_plan(bare), validation=Cohort(bare.cases[1:]), training=Cohort(bare.cases[:1]),
        test=Cohort(()),
    )  # fmt: skip
    bundle = train_model(plan, tmp_path / "a.brainmets", tmp_path / "w")
    assert bundle.example["input"].shape == bundle.example["output"].shape == (64, 64, 64)
    assert bundle.card["results"]["validation (rule chosen on it)"]["lesion_sensitivity"] is None
