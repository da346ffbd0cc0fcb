"""From a cohort with masks to a model bundle: prepare, train, tune, test, write."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from brainmets.cohort import Case, Cohort, read_cohort
from brainmets.config import (
    Architecture,
    DecisionRule,
    Recipe,
    Tiling,
    Training,
    from_mapping,
    to_mapping,
)
from brainmets.errors import CohortError, ConfigError
from brainmets.io.storage import require_writable
from brainmets.network.bundle import Bundle, read, without_findings, write
from brainmets.network.detail_engine import detail_engine
from brainmets.network.engines import Engine
from brainmets.network.torch_engine import choose_device, torch_engine
from brainmets.training.beginning import EncoderStart, first_weights, model_to_start_from
from brainmets.training.loop import LOG_NAME, Moment, settle_precision, train, weights_of
from brainmets.training.presets import PRESETS, TRAINING_ON
from brainmets.training.ranks import join
from brainmets.training.report import write_report
from brainmets.training.split import patient_of, read_split, sides
from brainmets.training.store import ENTRIES, PreparedCase, is_prepared, open_entry, read_index
from brainmets.training.validation import look, spread

if TYPE_CHECKING:
    from brainmets.evaluation.case import CaseScores
    from brainmets.evaluation.pictures import WorstCase
    from brainmets.pipeline import Model
    from brainmets.training.tune import Tuned

VALIDATION_EVERY = 6
"""Without a stated split, every sixth case is kept from training to choose the rule."""
EXAMPLE_SIDE = 64
PICTURED = 3
"""Validation cases that the report shows."""
TargetLabels = tuple[int, ...] | None
LIMITS = (
    "Research software, not a medical device. Small lesions are missed; vessels, dura, "
    "choroid plexus and haemorrhage can be taken for lesions. Check every outline."
)


@dataclass(frozen=True)
class Plan:
    """What to train and on what.

    Attributes:
        name: of the model.
        training: cases to learn from.
        validation: cases on which the decision rule is chosen.
        test: cases for the card's figures; may be empty.
        architecture: shape of the network.
        settings: of the loop.
        recipe: how scans are prepared.
        tiling: how volumes are cut in use.
        card: statements for the model card (``trained_on``, ``licence``, …).
        target_labels: labels of the reference masks that are lesion; None: all above 0.
        start: model whose weights to start from; None: random weights.
        encoder: 2D ResNet-34 to start the encoder from; None: random weights.
        prepared: the cohorts are in a store already, and hold no scans.
    """

    name: str
    training: Cohort
    validation: Cohort
    test: Cohort
    architecture: Architecture
    settings: Training
    recipe: Recipe
    tiling: Tiling
    card: Mapping[str, Any]
    target_labels: TargetLabels = None
    start: Bundle | None = None
    encoder: EncoderStart | None = None
    prepared: bool = False


@dataclass(frozen=True)
class FrozenSplit:
    """Who is only tested on.

    Attributes:
        path: of :func:`brainmets.training.split.write_split`.
        fold: to test on, of a split in folds.
    """

    path: Path
    fold: int | None = None


@dataclass(frozen=True)
class Listeners:
    """Whom to tell how far things have come; each may be None."""

    preparing: Callable[[int, int], None] | None = None
    training: Callable[[Moment], None] | None = None
    validating: Callable[[int, int], None] | None = None


def plan_training(  # noqa: PLR0913  # one parameter for each option of the command
    cohort: Path,
    name: str,
    *,
    validation: Path | None = None,
    test: Path | None = None,
    preset: str = "light",
    options: Mapping[str, Any] | None = None,
    trained_on: str = "",
    target_labels: Sequence[int] | None = None,
    start: str | Path | None = None,
    encoder: EncoderStart | None = None,
    frozen: FrozenSplit | None = None,
) -> Plan:
    """A plan from cohorts on disk.

    Args:
        cohort: table or folder, or what ``cohort prepare`` left; split by :func:`split` unless
            ``validation`` is given.
        name: of the model.
        validation: cohort to choose the decision rule on.
        test: cohort for the card's figures.
        preset: ``light`` or ``paper``.
        options: values of :class:`Training` that differ from the preset's.
        trained_on: for the card.
        target_labels: labels of the reference masks that are lesion (BraTS: 1 and 3);
            None: all above 0.
        start: model whose weights, architecture and recipe to start from; ``"none"``: random
            weights; None: the preset's model, if it has one and no ``encoder`` is given.
        encoder: 2D network to start the encoder from; it fits the preset ``paper``.
        frozen: split of the cohort; its test cases are the card's, and teach nothing.

    Raises:
        BundleError: no such model to start from.
        CohortError: a cohort that cannot be read, or is empty.
        ConfigError: an unknown option or preset.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r}; expected one of {', '.join(PRESETS)}")
    begun = model_to_start_from(preset, start, encoder)
    given = {**PRESETS[preset].options, **(TRAINING_ON if begun else {}), **(options or {})}
    recipe = begun.recipe if begun else Recipe()
    labels = tuple(sorted(target_labels)) if target_labels else None
    prepared = is_prepared(cohort)
    if prepared and test:
        raise ConfigError(
            "a prepared cohort and a test cohort: without scans nothing is scored; leave the test "
            "out, and evaluate the model where the scans are"
        )
    opened = [_read(path, prepared, recipe, labels) for path in (cohort, validation) if path]
    labels = labels or opened[0].target_labels
    whole, tested, sealed = _frozen(opened[0], test, frozen)
    learn, check = (whole.with_masks(), opened[1].with_masks()) if validation else split(whole)
    return Plan(
        name=name,
        training=learn,
        validation=check,
        test=Cohort(()) if prepared else tested.with_masks(),
        architecture=begun.architecture if begun else PRESETS[preset].architecture,
        settings=from_mapping(Training, given),
        recipe=recipe,
        tiling=Tiling(),
        card={"trained_on": trained_on or f"{len(learn)} cases of the user's own", **sealed},
        target_labels=labels,
        start=begun,
        encoder=encoder,
        prepared=prepared,
    )


def _read(path: Path, prepared: bool, recipe: Recipe, labels: TargetLabels) -> Cohort:
    """A cohort to train from; a prepared one fits the recipe and the labels that are asked for."""
    if is_prepared(path) != prepared:
        raise ConfigError("a prepared cohort and one that is not; prepare both, or neither")
    if not prepared:
        return read_cohort(path)
    found = read_index(path)
    if found.recipe != recipe:
        raise ConfigError(
            f"{path.name}: prepared by another recipe than the model's; prepare it again"
        )
    if labels is not None and found.target_labels != labels:
        raise ConfigError(
            f"{path.name}: prepared for the labels {found.target_labels or 'above 0'}, not "
            f"{labels}; prepare it again with --target"
        )
    return replace(found.cohort, target_labels=found.target_labels)


def _frozen(
    cohort: Cohort, test: Path | None, frozen: FrozenSplit | None
) -> tuple[Cohort, Cohort, dict[str, Any]]:
    """Cases to learn from, cases to test on, and what the card says of the split."""
    if frozen is None:
        return cohort, read_cohort(test) if test else Cohort(()), {}
    if test:
        raise ConfigError("a split and a test cohort; give one of the two")
    parts, digest = read_split(frozen.path, cohort)
    learn, check = sides(cohort, parts, frozen.fold)
    return learn, check, {"split": {"sha256": digest, "fold": frozen.fold}}


def split(cohort: Cohort) -> tuple[Cohort, Cohort]:
    """Training and validation cases.

    The column ``split`` decides where it is filled in (``train``, ``validation``; other
    cases are left out); else every sixth patient is kept for validation, so that no
    patient's visits fall on both sides.

    Raises:
        CohortError: one of the two would be empty, or the column puts visits of one patient
            on both sides.
    """
    cohort = cohort.with_masks()
    stated = any(case.row.get("split") for case in cohort)
    part = _stated_split if stated else _every_sixth(cohort)
    halves = tuple(
        Cohort(tuple(case for case in cohort if part(case) == name))
        for name in ("train", "validation")
    )
    if not all(map(len, halves)):
        raise CohortError(
            f"{len(halves[0])} cases to train and {len(halves[1])} to validate; both need at least "
            "one. Add cases with masks, or fill in the column 'split' (train, validation)"
        )
    both = set(map(patient_of, halves[0])) & set(map(patient_of, halves[1]))
    if both:
        raise CohortError(
            f"patient {min(both)!r} has visits in both train and validation, so the rule would be "
            "chosen on scans the network has learnt; put all visits of a patient on one side"
        )
    return halves[0], halves[1]


def _stated_split(case: Case) -> str:
    return case.row.get("split", "")


def _every_sixth(cohort: Cohort) -> Callable[[Case], str]:
    patients = list(dict.fromkeys(map(patient_of, cohort)))
    kept = set(patients[VALIDATION_EVERY - 1 :: VALIDATION_EVERY] or patients[1:][-1:])
    return lambda case: "validation" if patient_of(case) in kept else "train"


def train_model(
    plan: Plan,
    out: Path,
    work: Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    until: int | None = None,
    listeners: Listeners | None = None,
) -> Bundle:
    """Train, choose the decision rule, measure, and write the bundle.

    Started again with the same plan and ``work`` folder after being killed, it goes on
    from the last prepared case and the last checkpoint. Started by ``torchrun``, its processes
    share the patches of each batch; all but training is the first's.

    Args:
        plan: what to train.
        out: the ``.brainmets`` file; the training report is written beside it.
        work: folder for prepared cases and the checkpoint.
        workers: processes that prepare cases and draw patches.
        device: ``auto``, ``cpu`` or ``cuda``.
        until: end training before this step of the schedule; None: at its last.
        listeners: progress.

    Raises:
        CohortError, InputError: a case that cannot be used, by name.
        RunError: the loss is no longer finite.
        WriteError: ``out`` or ``work`` cannot be written to.
    """
    tell = listeners or Listeners()
    device = choose_device(device).type
    plan = replace(plan, settings=settle_precision(plan.settings, device))
    require_writable(out.parent)
    ranks = join(device)
    ranks.share(plan.settings.batch)  # refused before anything is prepared
    if not ranks.leads:
        ranks.wait()  # for the first to prepare
    begin, begun = first_weights(
        plan.start, plan.encoder, plan.architecture, plan.settings.seed, work
    )
    prepared, held_out = (
        _prepared(plan, cohort, work, workers, tell) for cohort in (plan.training, plan.validation)
    )
    if ranks.leads:
        ranks.wait()
    network = train(
        prepared, plan.architecture, plan.settings, work / "checkpoint.pt",
        start=begin, validation=held_out, recipe=plan.recipe, tiling=plan.tiling,
        report=tell.training, device=device, workers=workers, until=until, ranks=ranks,
        is_model=plan.start is not None,
    )  # fmt: skip
    if not ranks.leads:
        ranks.wait()  # for the first to write
        return read(out)
    weights = {name: tensor.numpy() for name, tensor in weights_of(network).items()}
    bundle = Bundle(
        plan.name, plan.architecture, plan.recipe, plan.tiling, DecisionRule(),
        _as_stored(weights), {}, plan.card, detail=plan.start.detail if plan.start else None,
    )  # fmt: skip
    bundle = replace(bundle, example=_example(prepared, torch_engine(bundle, device)))
    engine = _exact_engine(bundle, device)
    ended = {} if until is None else {"ended_at_step": min(until, plan.settings.steps)}
    tuned, figures = _tuned(plan, bundle, engine, tell, held_out)
    card = {
        **plan.card, "limits": LIMITS, **_detail_said(plan), **_history(plan), **figures, **begun,
        **ended,
    }  # fmt: skip
    write(replace(tuned, card=card), out)
    bundle = read(out)
    write_report(
        bundle, {"training": plan.training, "validation": plan.validation, "test": plan.test},
        {"training": prepared, "validation": held_out}, work / LOG_NAME, out.with_suffix(".html"),
        target_labels=plan.target_labels, pictures=_pictures(plan, bundle, engine),
    )  # fmt: skip
    ranks.wait()
    return bundle


def _prepared(
    plan: Plan, cohort: Cohort, work: Path, workers: int, tell: Listeners
) -> tuple[PreparedCase, ...]:
    """The cases of a cohort in the store, prepared if they are not yet."""
    if plan.prepared:
        return tuple(open_entry(case.image, case.case_id) for case in cohort)
    from brainmets.training.preparing import prepare_cohort

    return prepare_cohort(
        cohort, plan.recipe, work / ENTRIES, target_labels=plan.target_labels,
        workers=workers, progress=tell.preparing,
    )  # fmt: skip


def _detail_said(plan: Plan) -> dict[str, Any]:
    """Of a detail network that was taken over: it was fitted to the model that training began with.

    What it found there with that model's rule is left out.
    """
    if plan.start is None or plan.start.detail is None:
        return {}
    said = without_findings(plan.start.card.get("detail", {}))
    return {"detail": {**said, "fitted_to": plan.start.name}}


def _exact_engine(bundle: Bundle, device: str) -> Engine:
    """Float32, for choosing and scoring: on a CPU OpenVINO where it is installed, for its speed."""
    from brainmets.network.choice import Wanted, choose_engine

    return choose_engine(bundle, Wanted(device=device, precision="f32"))[0]


def _tuned(
    plan: Plan,
    bundle: Bundle,
    engine: Engine,
    tell: Listeners,
    held_out: Sequence[PreparedCase],
) -> tuple[Bundle, dict[str, Any]]:
    """The bundle with its decision rule, and what the card says of its quality."""
    if plan.prepared:
        detail = detail_engine(bundle, engine.name)
        seen = look(engine, held_out, plan.recipe, plan.tiling, tell.validating, detail)
        said = (
            f"chosen on {seen.cases} prepared validation cases with {seen.lesions} lesions, for "
            f"lesion F1, which is {seen.f1:.3f} there (sensitivity {seen.sensitivity:.3f}, "
            f"{seen.false_positives:.2f} false positives per scan); brainmets tune chooses it on "
            "scans, and measures"
        )
        return replace(bundle, rule=seen.rule), {"decision_rule": said}
    from brainmets.pipeline import run_by
    from brainmets.training.tune import tune

    model, labels = run_by(bundle, engine), plan.target_labels
    chosen = tune(plan.validation, model, tell.validating, target_labels=labels)
    changed = replace(bundle, rule=chosen.rule, temperature=chosen.temperature)
    scores = _scores(plan.validation, plan.test, replace(model, bundle=changed), tell, labels)
    return changed, {**scores, "calibration": _calibration(chosen)}


def _pictures(plan: Plan, bundle: Bundle, engine: Engine) -> "tuple[WorstCase, ...]":
    """Of validation cases, where there are scans and what draws."""
    if plan.prepared:
        return ()
    from brainmets.pipeline import run_by
    from brainmets.training.tune import pictures_of

    cases = spread(plan.validation.cases, PICTURED)
    return pictures_of(cases, run_by(bundle, engine), target_labels=plan.target_labels)


def _calibration(chosen: "Tuned") -> dict[str, Any]:
    """What probabilities meant on the cases that the temperature was chosen on."""
    from brainmets.evaluation.calibration import expected_error, reliability_at

    said: dict[str, Any] = {"temperature": chosen.temperature}
    for name, temperature in (("as_it_comes", 1.0), ("calibrated", chosen.temperature)):
        counted = reliability_at(chosen.odds, temperature)
        rows = list(zip(counted.voxels, counted.lesion, counted.probability, strict=True))
        error = expected_error(*(np.array(column) for column in zip(*rows, strict=True)))
        said[name] = {
            "expected_error": _rounded(float(error)),
            "bins": [
                {"voxels": int(n), "mean_probability": round(p / n, 4), "share": round(k / n, 4)}
                for n, k, p in rows
                if n
            ],
        }
    return said


def _as_stored(
    weights: Mapping[str, npt.NDArray[np.generic]],
) -> dict[str, npt.NDArray[np.generic]]:
    """Rounded to float16 as the bundle stores them, so that figures are those of the bundle."""
    return {k: np.asarray(v, np.float16) for k, v in weights.items()}


def _history(plan: Plan) -> dict[str, Any]:
    """What the card says of how the model came about."""
    return {
        "training": to_mapping(plan.settings),
        "cases": {"train": len(plan.training), "validation": len(plan.validation),
                  "test": len(plan.test)},
    }  # fmt: skip


def _scores(
    validation: Cohort, test: Cohort, model: "Model", tell: Listeners, labels: TargetLabels
) -> dict[str, Any]:
    from brainmets.evaluation.summary import summarise
    from brainmets.training.tune import score_cohort

    shown = score_cohort(validation, model, tell.validating, target_labels=labels)
    results = {"validation (rule chosen on it)": _results(shown)}
    if len(test):
        shown = score_cohort(test, model, tell.validating, target_labels=labels)
        results["test"] = _results(shown)
    return {"results": results, "sensitivity_by_size": _by_size(summarise(shown))}


def retune(
    bundle: Bundle,
    out: Path,
    validation: Cohort,
    test: Cohort | None = None,
    *,
    target_labels: TargetLabels = None,
    false_positives: float | None = None,
    device: str = "cpu",
    listeners: Listeners | None = None,
) -> Bundle:
    """Choose a model's decision rule and temperature anew, on other validation cases.

    Its weights stay.

    Args:
        bundle: the model.
        out: the ``.brainmets`` file to write.
        validation: cases with masks on which the rule is chosen.
        test: cases for the card's figures.
        target_labels: labels of the reference masks that are lesion; None: all above 0.
        false_positives: see :func:`brainmets.training.tune.tune`.
        device: ``auto``, ``cpu`` or ``cuda``.
        listeners: progress.

    Raises:
        CohortError: no case with a mask to choose the rule on.
        WriteError: ``out`` cannot be written to.
    """
    from brainmets.pipeline import run_by
    from brainmets.training.tune import tune

    if not len(validation):
        raise CohortError("no case with a mask to choose the decision rule on")
    require_writable(out.parent)
    tell = listeners or Listeners()
    model = run_by(bundle, _exact_engine(bundle, choose_device(device).type))
    chosen = tune(
        validation, model, tell.validating, target_labels=target_labels,
        false_positives=false_positives,
    )  # fmt: skip
    changed = replace(bundle, rule=chosen.rule, temperature=chosen.temperature)
    tuned = replace(model, bundle=changed)
    scores = _scores(validation, test or Cohort(()), tuned, tell, target_labels)
    before = bundle.card.get("cases", {})
    cases = {**before, "validation": len(validation), "test": len(test or ())}
    kept = {k: said for k, said in bundle.card.items() if k not in ("decision_rule", "int8")}
    if "detail" in kept:
        alone = {k: v for k, v in kept["detail"].items() if k == "validation_without_it"}
        kept["detail"] = {**without_findings(kept["detail"]), **alone}  # of the same network
    int8 = bundle.int8 and replace(bundle.int8, is_default=False)
    write(
        replace(
            tuned.bundle,
            name=out.stem,
            int8=int8,
            card={**kept, "cases": cases, **scores, "calibration": _calibration(chosen)},
        ),
        out,
    )
    return read(out)


def _results(cases: Sequence["CaseScores"]) -> dict[str, Any]:
    from brainmets.evaluation.summary import summarise

    summary = summarise(cases)
    pooled, dice = summary["pooled"], summary["per_case"]["dice"]
    return {
        "cases": len(cases),
        "lesions": pooled["reference_lesions"],
        "lesion_sensitivity": _rounded(pooled["lesion_sensitivity"]["value"]),
        "false_positives_per_scan": _rounded(pooled["false_positives_per_scan"]["value"]),
        "lesion_f1": _rounded(pooled["lesion_f1"]["value"]),
        "median_dice": _rounded(dice["median"]),
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)


def _by_size(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "sensitivity": _rounded(row["lesion_sensitivity"]["value"]),
            "found": row["found"],
            "of": row["reference_lesions"],
        }
        for name, row in summary["by_size"].items()
    }


def _example(cases: Sequence[PreparedCase], engine: Engine) -> dict[str, npt.NDArray[np.float32]]:
    """A small input around a lesion with the output, spanning < 0.1 to > 0.9 if any does."""
    best: tuple[float, dict[str, npt.NDArray[np.float32]]] | None = None
    for case in cases[:40]:
        for centre in case.lesions[:3]:
            image = _around(case, centre)
            output = engine(image)
            worth = float(output.max() - output.min())
            if best is None or worth > best[0]:
                best = (worth, {"input": image, "output": output})
            if output.max() > 0.97 and output.min() < 0.05:
                return best[1]
    empty = np.zeros((EXAMPLE_SIDE,) * 3, np.float32)
    return best[1] if best else {"input": empty, "output": engine(empty)}


def _around(case: PreparedCase, centre: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    image = np.zeros((EXAMPLE_SIDE,) * 3, np.float32)
    start = [
        max(0, min(c - EXAMPLE_SIDE // 2, n - EXAMPLE_SIDE))
        for c, n in zip(centre, case.image.shape, strict=True)
    ]
    patch = case.image[tuple(slice(s, s + EXAMPLE_SIDE) for s in start)]
    image[tuple(slice(n) for n in patch.shape)] = patch
    return image
