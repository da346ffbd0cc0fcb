"""The stress test is a function of its input, goes on where it stopped, and counts truly."""

import csv
import json
import re
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import f1_score

from brainmets.config import DecisionRule
from brainmets.errors import CohortError, VolumeError
from brainmets.evaluation import stress
from brainmets.evaluation.figures import froc_figure, heat_figure
from brainmets.evaluation.froc import candidates_of, froc
from brainmets.evaluation.matching import match
from brainmets.evaluation.stress import Stress, ask, examine, run_stress
from brainmets.evaluation.stress_axes import LESION_AXES, binned, scan_axes
from brainmets.evaluation.stress_case import (
    Announced,
    PosedLesion,
    StressCase,
    answered,
    contrast_to_noise,
    from_json,
    noise_of,
    plane_of,
    posed,
    to_json,
)
from brainmets.evaluation.stress_tables import (
    false_positives,
    median_dice,
    overview,
    sensitivity,
    summarise,
)
from brainmets.lesions import components, find
from brainmets.pipeline import analyse
from brainmets.preprocess.brain import Extractor
from brainmets.simulate.anatomy import read_anatomy
from brainmets.volume import Volume
from label_heads import write_label_map
from phantoms import axes_of, make_grid
from stand_ins import bright_model

RULE = DecisionRule(low=0.3, high=0.8, smallest_mm3=10)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return write_label_map(tmp_path_factory.mktemp("head") / "small.nii.gz")


@pytest.fixture
def bright(monkeypatch):
    """A model that takes bright for lesion, in a line that looks at the whole small head."""
    model = bright_model(spacing_mm=2.0, tile_vox=64)
    calls = []

    def whole(scan, **options):
        calls.append(options["case_id"])
        return analyse(scan, extractor=Extractor("none"), **options)

    monkeypatch.setattr(stress, "_loaded", lambda _model, _device: model)
    monkeypatch.setattr(stress, "analyse", whole)
    return calls


def contents(folder: Path):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def settings(head, cases=2, **options):
    return Stress("bright", cases=cases, seed=3, anatomies=(head,), **options)


# --- one case ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examination(head):
    return examine(Stress("bright", seed=1, anatomies=(head,), lesions=6), 0)


def test_the_truth_is_that_of_the_masks_components(examination):
    _, lesions = posed(examination)
    labels = components(examination.mask).data
    assert [x.voxels for x in lesions] == np.bincount(labels.ravel())[1:].tolist()
    volumes = [x.voxels * examination.mask.grid.voxel_volume_mm3 for x in lesions]
    expected = np.cbrt(6 * np.array(volumes) / np.pi)
    assert [x.diameter_mm for x in lesions] == pytest.approx(expected.tolist())


def test_a_head_that_is_not_told_gives_unknown_regions(examination):
    class Bare:
        scan, mask, brain = examination.scan, examination.mask, examination.brain
        plans = examination.plans

    facts, lesions = posed(Bare())
    assert {x.region for x in lesions} == {"unknown"}
    assert not [name for name in facts if ": " in name]


@pytest.mark.parametrize("sigma", [2.0, 8.0])
def test_noise_is_measured_through_slopes_and_edges(sigma):
    rng = np.random.default_rng(1)
    x, y, z = np.indices((40, 44, 30))
    signal = 100 + 2.0 * x - 1.5 * y + 0.5 * z + 60 * (x > 20)
    scan = Volume(
        (signal + sigma * rng.standard_normal(x.shape)).astype(np.float32), make_grid(x.shape, 1.0)
    )
    brain = np.zeros(x.shape, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    assert noise_of(scan, brain) == pytest.approx(sigma, rel=0.05)


def test_contrast_to_noise_is_that_of_the_bright_part():
    scan = np.full((20, 20, 20), 50, np.float32)
    lesion, around = np.zeros(scan.shape, bool), np.zeros(scan.shape, bool)
    lesion[5:10, 5:10, 5:10] = True
    around[12:18, 5:10, 5:10] = True
    scan[lesion] = 80
    assert contrast_to_noise(scan, lesion, around, 3.0) == pytest.approx(10)
    scan[6:9, 6:9, 6:9] = 10  # a dark core takes nothing from the ring
    assert contrast_to_noise(scan, lesion, around, 3.0) == pytest.approx(10)
    assert contrast_to_noise(np.full_like(scan, 50) - 5 * lesion, lesion, around, 1) == -5
    assert np.isnan(contrast_to_noise(scan, lesion, np.zeros_like(around), 3.0))
    assert np.isnan(contrast_to_noise(scan, lesion, around, 0.0))


@pytest.mark.parametrize(
    ("code", "spacing", "plane"),
    [
        ("RAS", (1, 1, 5), "axial"),
        ("RSA", (1, 1, 5), "coronal"),
        ("LPS", (5, 1, 1), "sagittal"),
        ("ASR", (1, 1, 1), "sagittal"),
    ],
)
def test_the_plane_is_across_the_coarsest_axis_or_the_last(code, spacing, plane):
    assert plane_of(make_grid((20, 22, 24), spacing, axes=axes_of(code))) == plane


def blobs(seed):
    """Probabilities and an examination's truth on the same voxels, with hits and false alarms."""
    rng = np.random.default_rng(seed)
    grid = make_grid((40, 40, 40), 1.5)
    first, second = (
        ndimage.gaussian_filter(rng.standard_normal(grid.shape), 2.5) for _ in range(2)
    )
    truth = first > 2.2 * first.std()
    likely = np.clip((second + first) / (5 * first.std()), 0, 1).astype(np.float32)

    class Posed:
        mask = Volume(truth.astype(np.uint8), grid)

    class Answer:
        probability = Volume(likely, grid)

    return Posed(), Answer()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_found_is_what_evaluation_finds(seed):
    """Same hits, false positives, Dice and curve as the rooms of evaluation give."""
    truth, answer = blobs(seed)
    reference = components(truth.mask)
    found = match(reference, find(answer.probability, RULE))
    counts = np.bincount(reference.data.ravel())[1:]
    lesions = tuple(
        PosedLesion(n, 5.0, int(v), 9.0, "cortex", at_surface=False)
        for n, v in enumerate(counts, 1)
    )
    case = StressCase("one", {}, lesions, answered(truth, answer, RULE), RULE.high)
    dice = {r.lesion.label: r.dice.value for r in found.reference if r.matched}
    assert len(dice) >= 2
    assert case.dice() == pytest.approx(dice)
    assert case.false_positives() == sum(not p.matched for p in found.prediction)
    expected = froc([candidates_of(reference, answer.probability, RULE)])
    curve = froc([case.candidates()])
    np.testing.assert_array_equal(curve.false_positives, expected.false_positives)
    np.testing.assert_array_equal(curve.sensitivity, expected.sensitivity)


def test_dice_agrees_with_scikit_learns():
    truth, answer = blobs(4)
    reference, found = components(truth.mask).data, find(answer.probability, RULE).data
    label = int(reference[(found > 0) & (reference > 0)][0])
    partners = np.unique(found[(reference == label) & (found > 0)])
    expected = f1_score((reference == label).ravel(), np.isin(found, partners).ravel())
    lesion = PosedLesion(label, 5.0, int((reference == label).sum()), 9.0, "", at_surface=False)
    case = StressCase("one", {}, (lesion,), answered(truth, answer, RULE), RULE.high)
    assert case.dice()[label] == pytest.approx(expected)


def test_a_case_comes_back_from_json_as_it_was():
    lesion = PosedLesion(1, 5.0, 8, float("inf"), "cortex", at_surface=True)
    announced = (Announced(0.7, 3, 3.5, {1: 2}), Announced(0.4, 2, 2.5, {}))
    case = StressCase("one", {"noise_percent": 1.5, "plane": "axial"}, (lesion,), announced, 0.5)
    assert from_json(json.loads(json.dumps(to_json(case)))) == case


def test_a_scan_that_the_line_refuses_counts_as_missed(examination, monkeypatch):
    def refuse(*_args, **_options):
        raise VolumeError("no brain was found")

    monkeypatch.setattr(stress, "analyse", refuse)
    case = ask(examination, bright_model(), "one")
    assert case.facts["refused"] == "no brain was found"
    assert case.lesions
    assert (case.announced, case.dice()) == ((), {})
    assert summarise([case], resamples=10)["refused"] == 1


# --- tables -----------------------------------------------------------------------------


def case_of(name, hits, *, false=0, plane="axial", diameter=8.0, noise=2.0):
    """A case whose lesions were found or not."""
    lesions = tuple(
        PosedLesion(n, diameter, 10, 6.0, "cortex", at_surface=False)
        for n in range(1, len(hits) + 1)
    )
    announced = tuple(Announced(0.9, 10, 10.0, {n: 5}) for n, hit in enumerate(hits, 1) if hit)
    announced += tuple(Announced(0.6, 10, 10.0, {}) for _ in range(false))
    facts = {"slice_mm": 1.0, "noise_percent": noise, "plane": plane, "style: spin echo": False}
    return StressCase(name, facts, lesions, announced, 0.5)


COHORT = (
    case_of("a", (1, 1, 0), false=2),
    case_of("b", (0,), plane="coronal", diameter=3.5, noise=7.0),
    case_of("c", (), false=1),
)


def test_groups_are_counted_by_hand():
    summary = summarise(COHORT, resamples=50)
    sizes = {row["group"]: (row["found"], row["lesions"]) for row in summary["by_lesion"]["size"]}
    assert sizes["6–10 mm"] == (2, 3)
    assert sizes["3–4 mm"] == (0, 1)
    planes = {row["group"]: row for row in summary["by_scan"]["plane"]}
    assert planes["axial"]["per_scan"]["value"] == 1.5
    assert planes["coronal"]["false_positives"] == 0
    assert planes["sagittal"]["per_scan"]["reason"]
    assert summary["overall"]["scans_without_a_lesion"]["per_scan"]["value"] == 1
    assert summary["overall"]["sensitivity"]["value"] == 0.5
    assert summary["overall"]["median_dice_from_6_mm"]["value"] == pytest.approx(0.5)
    assert "style: spin echo" not in summary["by_lesion"]  # all scans are alike in it


def test_each_axis_but_a_partial_one_holds_every_lesion():
    summary = summarise(COHORT, resamples=10)
    for axis, rows in summary["by_lesion"].items():
        assert sum(row["lesions"] for row in rows) == summary["lesions"], axis
    for heat in summary["heat"]:
        assert np.sum(heat["lesions"]) == summary["lesions"], heat["axis"]
        assert np.all(np.array(heat["found"]) <= np.array(heat["lesions"]))


def test_a_higher_threshold_drops_what_is_less_sure():
    weights = np.ones((1, len(COHORT)))
    assert false_positives(COHORT, weights, high=0.7)["false_positives"] == 0
    assert sensitivity(COHORT, weights, high=0.7)["found"] == 2
    assert sensitivity(COHORT, weights, high=0.95)["found"] == 0
    assert np.isnan(median_dice(COHORT, high=0.95)["value"])


@pytest.mark.parametrize(
    ("value", "group"), [(-2, "a"), (0.99, "a"), (1, "b"), (2, "c"), (9, "c"), (np.nan, "unknown")]
)
def test_a_bin_holds_its_lower_edge(value, group):
    assert binned(value, (1.0, 2.0), ("a", "b", "c")) == group


def test_what_is_mostly_absent_is_split_off_before_the_rest_is_halved():
    strengths = [0.0] * 6 + [0.1, 0.2, 0.3, 0.4]
    cases = [replace(COHORT[0], facts={**COHORT[0].facts, "x: y": s}) for s in strengths]
    axis = next(axis for axis in scan_axes(cases) if axis.name == "x: y")
    assert axis.groups == ("0", "< 0.25", "≥ 0.25")
    assert [axis.of(case) for case in cases[5:]] == ["0", *["< 0.25"] * 2, *["≥ 0.25"] * 2]


def test_the_level_of_each_artefact_is_told(examination):
    facts, _ = posed(examination)
    told = {name: facts[f"artefacts: {name}"] for name in ("ringing", "ghosts", "blur mm")}
    assert tuple(told.values()) == pytest.approx(astuple(examination.artefacts), abs=1e-6)


def test_many_numbers_are_cut_into_thirds_and_few_stay_as_they_are():
    many = [case_of(str(n), ()) for n in range(9)]
    for n, case in enumerate(many):
        case.facts.update({"protocol: bias": n / 10, "style: field": 1.5 if n % 2 else 3.0})
    axes = {axis.name: axis for axis in scan_axes(many)}
    counts = [
        sum(axes["protocol: bias"].of(c) == group for c in many)
        for group in axes["protocol: bias"].groups
    ]
    assert counts == [3, 3, 3]
    assert axes["style: field"].groups == ("1.5", "3")


def test_axes_of_lesions_have_different_names():
    names = [axis.name for axis in (*LESION_AXES, *scan_axes(COHORT))]
    assert len(names) == len(set(names))


def test_a_heat_map_shows_found_of_all_and_leaves_empty_rows_out():
    heat = {"axis": "x", "groups": ["one", "two"], "sizes": ["s", "t"],
            "lesions": [[4, 0], [0, 0]], "found": [[3, 0], [0, 0]]}  # fmt: skip
    assert heat_figure(heat) == heat_figure(heat)
    assert heat_figure(heat).startswith("<?xml")


def test_a_model_with_many_false_positives_has_a_curve_too():
    summary = summarise([case_of("a", (1, 0), false=90), case_of("b", (1,))], resamples=20)
    overall = summary["overall"]
    pooled = {
        "lesion_sensitivity": overall["sensitivity"],
        "false_positives_per_scan": overall["false_positives_per_scan"],
    }
    assert froc_figure({"froc": summary["froc"], "pooled": pooled}).startswith("<?xml")


# --- the whole run ----------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes_whatever_was_there(head, bright, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_stress(settings(head), whole)
    assert {*contents(whole)} == {
        "stress.html", "stress.json", "lesions.csv", "scans.csv", "groups.csv",
        "cases/stress-0000.json", "cases/stress-0001.json",
    }  # fmt: skip
    run_stress(settings(head, cases=1), stopped)  # as if the second case had been killed
    (stopped / "cases" / "stress-0001.json").write_text("{")  # half a file of somebody else's
    bright.clear()
    run_stress(settings(head), stopped)
    assert bright == ["stress-0001"]
    assert contents(stopped) == contents(whole)


def test_other_settings_make_the_cases_anew(head, bright, tmp_path):
    run_stress(settings(head, cases=1), tmp_path)
    bright.clear()
    run_stress(Stress("bright", cases=1, seed=4, anatomies=(head,)), tmp_path)
    assert bright == ["stress-0000"]


def test_the_page_is_self_contained_and_tells_all_numbers(head, bright, tmp_path):
    summary = run_stress(settings(head), tmp_path)
    page = (tmp_path / "stress.html").read_text("utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    overall = summary["overall"]
    assert f'<td class="n">{overall["found"]} of {overall["lesions"]}</td>' in page or (
        overall["lesions"] > 0
    )
    with (tmp_path / "lesions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == overall["lesions"]
    assert sum(int(row["found"]) for row in rows) == overall["found"]
    header, table = overview(summary)
    assert len(header) == len(table[0])
    assert table[-2][1] == f"{overall['found']} of {overall['lesions']}"


def test_the_cohort_is_no_cohort_of_simulate(head):
    from brainmets.simulate.examination import simulate

    own = examine(Stress("bright", seed=3, anatomies=(head,)), 0)
    seeds = np.random.SeedSequence(3, spawn_key=(0,))
    other = simulate(read_anatomy(head), np.random.default_rng(seeds))
    assert own.scan.data.shape != other.scan.data.shape or np.any(own.scan.data != other.scan.data)


@pytest.mark.parametrize("wrong", [{"cases": 0}, {"anatomies": (Path("nowhere.nii.gz"),)}])
def test_what_cannot_be_simulated_is_refused(wrong):
    with pytest.raises(CohortError):
        Stress("bright", **wrong)
