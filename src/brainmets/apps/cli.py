"""The command line: a door to the package, and nothing but a door.

Heavy libraries are imported inside the commands, so that ``brainmets --help`` is quick.
"""

import sys
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from brainmets import __version__
from brainmets.apps.cohort import cohort as cohort_commands
from brainmets.apps.models import models
from brainmets.apps.options import (
    OUT_HELP,
    BrainExtractor,
    Device,
    DeviceOption,
    EngineName,
    EngineOption,
    IdFrom,
    IdOption,
    Inflation,
    LargeTilesOption,
    LeftOut,
    MemoryOption,
    OutOption,
    Precision,
    PrecisionOption,
    Preset,
    SeriesOption,
    TargetOption,
    ThreadsOption,
)
from brainmets.apps.study import study as study_commands
from brainmets.apps.terminal import PROCESS, print_mapping, print_table, say_error, screen
from brainmets.errors import BrainmetsError, ReadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brainmets.batch import Outcome

NOTICE = "Research software, not a medical device: check every outline."

app = typer.Typer(
    name="brainmets",
    help="Find, outline and measure every brain metastasis in a contrast-enhanced T1 MRI.\n\n"
    + NOTICE,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cohort_commands, name="cohort")
app.add_typer(models, name="models")
app.add_typer(study_commands, name="study")


@app.callback(invoke_without_command=True)
def version(
    *,
    show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Find, outline and measure every brain metastasis in a contrast-enhanced T1 MRI."""
    _set_up_logging(debug=debug)
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="NIfTI, DICOM, folders or zips of it, or a table."),
    ],
    out: OutOption,
    model: Annotated[str, typer.Option(help="A model's name or a .brainmets file.")] = "starter",
    device: DeviceOption = Device.auto,
    *,
    engine: EngineOption = EngineName.auto,
    precision: PrecisionOption = Precision.auto,
    save_probability: Annotated[
        bool, typer.Option("--save-probability", help="Also write probability.nii.gz.")
    ] = False,
    threads: ThreadsOption = None,
    large_tiles: LargeTilesOption = False,
    max_memory: MemoryOption = None,
    brain_mask: Annotated[
        Path | None, typer.Option(help="Mask of brain and CSF, instead of extraction.")
    ] = None,
    series: SeriesOption = None,
    id_from: IdOption = IdFrom.hash,
    brain_extractor: Annotated[
        BrainExtractor,
        typer.Option(help="auto sees whether the skull is off, and takes builtin otherwise."),
    ] = BrainExtractor.auto,
    synthstrip_weights: Annotated[
        Path | None, typer.Option(help="SynthStrip's checkpoint; the fetched one by default.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print seconds and peak memory by stage.")
    ] = False,
) -> None:
    """Outline and measure the metastases of one or many scans."""
    from brainmets.apps.inputs import cases_of
    from brainmets.apps.progress import case_watch
    from brainmets.apps.terminal import say_memory
    from brainmets.batch import predict_cases
    from brainmets.concurrency import use_threads
    from brainmets.memory import return_what_is_freed
    from brainmets.network.cost import Timed
    from brainmets.pipeline import load_model
    from brainmets.preprocess.brain import Extractor
    from brainmets.profile import HEADER, network_line, stage_rows

    extractor = Extractor(brain_extractor.value, synthstrip_weights, engine.value).at_hand()
    cases = cases_of(inputs, brain_mask, series=series, id_from=id_from)
    use_threads(threads)
    return_what_is_freed()
    with case_watch(screen, len(cases)) as watch:
        loaded = load_model(
            model, device.value, engine=engine.value, precision=precision.value,
            large_tiles=large_tiles, max_memory_gb=max_memory,
        )  # fmt: skip
        screen.print(f"engine: {loaded.engine.name} ({loaded.reason})", markup=False)
        say_memory(cases, loaded)
        timed = Timed(loaded.engine)
        used = replace(loaded, engine=timed) if profile else loaded
        outcomes = predict_cases(
            cases, out, used, extractor=extractor, save_probability=save_probability,
            watch=watch, profile=profile,
        )  # fmt: skip
    if profile:
        print_table("Profile", HEADER, stage_rows(outcomes, out))
        typer.echo(network_line(timed, loaded.bundle))
    _finish(outcomes, out)


@app.command()
def measure(
    scan: Annotated[Path, typer.Argument(help="NIfTI, or DICOM: a file, folder or zip.")],
    mask: Annotated[Path, typer.Argument(help="Anybody's mask on the scan's grid; > 0 is lesion.")],
    out: OutOption,
    series: SeriesOption = None,
    id_from: IdOption = IdFrom.hash,
) -> None:
    """Report on a mask that is already there; no model is used."""
    from brainmets.apps.inputs import case_to_measure
    from brainmets.batch import measure_cases

    outcomes = measure_cases([case_to_measure(scan, mask, series=series, id_from=id_from)], out)
    _finish(outcomes, out)


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="DICOM: a folder, zip or file.")],
    *,
    descriptions: Annotated[
        bool,
        typer.Option("--descriptions", help="Also print descriptions; they may hold names."),
    ] = False,
) -> None:
    """List DICOM studies and series, and what each is taken for; nothing is written."""
    from brainmets.apps.series_table import rows_of
    from brainmets.io.dicom import studies

    try:
        found = studies(folder)
    except ReadError as error:
        raise ReadError(f"{folder.name}: {error}") from error
    if not found:
        raise ReadError(f"{folder.name}: no DICOM in it; give a folder, zip or file that has some")
    for study in found:
        header, rows = rows_of(study, descriptions=descriptions)
        print_table(f"study-{study.key}", header, rows)
        if study.damaged:
            typer.echo(f"{study.damaged} damaged DICOM files lie beside it")


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help=OUT_HELP)],
    cases: Annotated[int, typer.Option(min=1, help="How many scans.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    anatomy: Annotated[
        list[Path] | None,
        typer.Option(help="Whole-head label map, or a folder of them; the embedded head if none."),
    ] = None,
    without: Annotated[
        list[LeftOut] | None,
        typer.Option(help="What to leave out of every scan; may be repeated."),
    ] = None,
    lesions: Annotated[
        int | None, typer.Option(min=0, max=200, help="Metastases in every scan; drawn by default.")
    ] = None,
    contrast: Annotated[
        bool | None,
        typer.Option(
            "--contrast/--no-contrast",
            help="Contrast agent in every scan; or in none, and no metastasis. Drawn by default.",
            show_default=False,
        ),
    ] = None,
    varied_plexus: Annotated[
        bool,
        typer.Option(
            "--varied-plexus", help="Choroid plexus of many shapes and places, to learn from."
        ),
    ] = False,
    large: Annotated[
        bool,
        typer.Option(
            "--large", help="One metastasis of 4 to 60 mL in every scan, most of them patchy."
        ),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 1,
) -> None:
    """Make scans whose truth is known, with a cohort table."""
    from brainmets.apps.inputs import files_of
    from brainmets.apps.progress import steps
    from brainmets.simulate.contrast import Ingredient
    from brainmets.simulate.examination import simulate_cohort

    with steps(screen, "simulating") as progress:
        simulate_cohort(
            out, cases=cases, seed=seed, anatomies=files_of(anatomy or []),
            without=[Ingredient(part.value) for part in without or ()], lesions=lesions,
            contrast=contrast, varied_plexus=varied_plexus, large=large, workers=workers,
            progress=progress,
        )  # fmt: skip
    typer.echo(f"{cases} simulated scans: {out / 'cohort.tsv'}")


@app.command()
def train(
    cohort: Annotated[
        Path, typer.Argument(help="Table or folder of scans with masks, or a prepared one.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .brainmets file to write.")],
    validation: Annotated[
        Path | None, typer.Option(help="Cohort to choose the decision rule on.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Cohort for the card's figures.")] = None,
    split: Annotated[
        Path | None, typer.Option(help="What cohort split wrote: who is only tested on.")
    ] = None,
    fold: Annotated[
        int | None, typer.Option(min=1, help="To test on, of a split in folds.")
    ] = None,
    preset: Annotated[Preset, typer.Option(help="light trains on a CPU.")] = Preset.light,
    start: Annotated[
        str | None, typer.Option(help="Model to start from, or none; the preset light: starter.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 2000,
    until: Annotated[
        int | None, typer.Option(min=1, help="End before this step of the schedule.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Its peak: 0.001; from a model's weights 0.0003.")
    ] = None,
    patch: Annotated[
        int | None, typer.Option(help="Side of the patches, in voxels: 96, or the preset's.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Patches a step.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and patches.")] = 0,
    loss: Annotated[
        str, typer.Option(help="dice+ce, dice+hard, dice+ce+cc, dice+ce+blob or focal-tversky+ce.")
    ] = "dice+ce",
    accumulate: Annotated[
        int, typer.Option(min=1, help="Batches whose gradients make one step.")
    ] = 1,
    schedule: Annotated[
        str, typer.Option(help="How the rate falls: cosine or polynomial.")
    ] = "cosine",
    deep_supervision: Annotated[
        int, typer.Option(min=0, max=4, help="Coarser stages that answer too while it learns.")
    ] = 0,
    validate_every: Annotated[
        int, typer.Option(min=1, help="Steps between looks at validation cases.")
    ] = 200,
    paste: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of patches with simulated metastases painted in."),
    ] = 0.0,
    recompute: Annotated[
        bool, typer.Option(help="Less memory and more time, for the same weights.")
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(help="2D ResNet-34 to start from: imagenet (fetched), or torchvision's file."),
    ] = None,
    inflate: Annotated[
        Inflation, typer.Option(help="How its kernels become solid: mean or centre.")
    ] = Inflation.mean,
    device: DeviceOption = Device.cpu,
    threads: ThreadsOption = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that prepare scans and draw patches.")
    ] = 1,
    work: Annotated[
        Path | None, typer.Option(help="Folder for prepared scans and checkpoints.")
    ] = None,
    trained_on: Annotated[str, typer.Option(help="For the card: what the data are.")] = "",
    target: TargetOption = None,
) -> None:
    """Train a model on a cohort with masks; started again, it goes on where it stopped."""
    from brainmets.apps.progress import training_listeners
    from brainmets.apps.terminal import lesion_labels, say_origin
    from brainmets.concurrency import use_threads
    from brainmets.training.beginning import EncoderStart
    from brainmets.training.model import FrozenSplit, plan_training, train_model
    from brainmets.training.ranks import in_company

    use_threads(threads)
    begun = EncoderStart(_encoder_file(encoder), inflate.value) if encoder else None
    plan = plan_training(
        cohort, out.stem, validation=validation, test=test, preset=preset.value,
        options={
            "steps": steps, "batch": batch, "seed": seed, "loss": loss,
            **({} if learning_rate is None else {"learning_rate": learning_rate}),
            **({} if patch is None else {"patch_vox": patch}),
            "accumulate": accumulate, "schedule": schedule, "recompute": recompute,
            "deep_supervision": deep_supervision, "validate_every": validate_every,
            "paste_share": paste,
        },
        trained_on=trained_on, target_labels=target, start=start, encoder=begun,
        frozen=FrozenSplit(split, fold) if split else None,
    )  # fmt: skip
    lesion_labels(plan.target_labels)
    say_origin(preset.value, plan.start.name if plan.start else None)
    with training_listeners(screen) as listeners, in_company():
        bundle = train_model(
            plan, out, work or out.with_suffix(".work"), workers=workers,
            device=device.value, until=until, listeners=listeners,
        )  # fmt: skip
    if PROCESS != "0":
        return
    typer.echo(f"model: {out}")
    if "results" in bundle.card:
        print_mapping(f"{bundle.name}: results", bundle.card["results"])
    else:
        typer.echo(f"its decision rule was {bundle.card['decision_rule']}")


def _encoder_file(name: str) -> Path:
    from brainmets.apps.inputs import encoder_file

    return encoder_file(name)


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="A model's name or a .brainmets file.")],
    cohort: Annotated[Path, typer.Argument(help="Cohort with masks to choose the rule on.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .brainmets file to write.")],
    test: Annotated[Path | None, typer.Option(help="Cohort for the card's figures.")] = None,
    false_positives: Annotated[
        float | None,
        typer.Option(min=0, help="At most so many a scan; without it, the best lesion F1."),
    ] = None,
    device: DeviceOption = Device.auto,
    threads: ThreadsOption = None,
    target: TargetOption = None,
) -> None:
    """Choose a model's thresholds anew on your own cases; its weights stay as they are."""
    from brainmets.apps.progress import training_listeners
    from brainmets.apps.terminal import lesion_labels
    from brainmets.cohort import read_cohort
    from brainmets.concurrency import use_threads
    from brainmets.network.bundle import find, read
    from brainmets.training.model import retune

    use_threads(threads)
    validation = read_cohort(cohort).with_masks()
    with training_listeners(screen) as listeners:
        bundle = retune(
            read(find(model)), out, validation, read_cohort(test).with_masks() if test else None,
            target_labels=lesion_labels(target or validation.target_labels),
            false_positives=false_positives,
            device=device.value, listeners=listeners,
        )  # fmt: skip
    typer.echo(f"model: {out}")
    print_mapping(f"{bundle.name}: results", bundle.card["results"])


@app.command()
def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="[PREDICTIONS]",
            help="Folder with ID/mask.nii.gz; without it the cohort's column 'prediction'.",
        ),
    ],
    cohort: Annotated[
        Path | None, typer.Argument(metavar="COHORT", help="Cohort with reference masks.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for tables and page; none by default."),
    ] = None,
    target: Annotated[
        list[int] | None,
        typer.Option(help="Reference labels that count; all above 0 by default, 1 and 3 of BraTS."),
    ] = None,
    predicted_target: Annotated[
        list[int] | None, typer.Option(help="The same for the predictions' labels.")
    ] = None,
    rule: Annotated[
        str,
        typer.Option(help="any-overlap, iou:LEAST, one-to-one or centroid:MM: when lesions match."),
    ] = "any-overlap",
    nsd_mm: Annotated[
        list[float] | None, typer.Option(help="Tolerance of surface Dice; 1 and 2 by default.")
    ] = None,
    false_positives: Annotated[
        list[float] | None,
        typer.Option(help="Per scan, operating point of the FROC; LUNA16's seven by default."),
    ] = None,
    brats: Annotated[
        list[str] | None,
        typer.Option(help="Region to score as BraTS-METS does: target, ET, TC or WT."),
    ] = None,
    within_brain: Annotated[
        bool, typer.Option("--within-brain", help="Count voxels in the cohort's brain masks only.")
    ] = False,
    covariate: Annotated[
        list[str] | None, typer.Option(help="Further column of the cohort to keep with the scores.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 1,
) -> None:
    """Score predictions against reference masks."""
    from brainmets.apps.progress import steps
    from brainmets.apps.terminal import lesion_labels
    from brainmets.cohort import read_cohort
    from brainmets.evaluation.case import Scoring
    from brainmets.evaluation.froc import LUNA_FALSE_POSITIVES
    from brainmets.evaluation.matching import rule_named
    from brainmets.evaluation.study import Options, run_study
    from brainmets.evaluation.summary import tables
    from brainmets.evaluation.surface import TOLERANCES_MM

    scoring = Scoring(
        rule_named(rule), tuple(nsd_mm or TOLERANCES_MM), tuple(brats or ()),
        predicted_labels=tuple(predicted_target) if predicted_target else None,
    )  # fmt: skip
    table = read_cohort(cohort or predictions, covariates=tuple(covariate or ()))
    options = Options(
        lesion_labels(target or table.target_labels), within_brain, scoring,
        tuple(false_positives or LUNA_FALSE_POSITIVES), tuple(covariate or ()), workers,
    )  # fmt: skip
    with steps(screen, "scoring") as progress:
        summary = run_study(
            predictions if cohort else None, table, out, options=options, progress=progress
        )
    for shown in tables(summary):
        print_table(shown.title, shown.header, shown.rows)
    for warning in summary["warnings"]:
        screen.print(f"warning: {warning}", markup=False, soft_wrap=True)
    if out:
        typer.echo(f"page: {out / 'evaluation.html'}")


@app.command()
def stress(
    model: Annotated[str, typer.Argument(help="A model's name or a .brainmets file.")],
    out: OutOption,
    cases: Annotated[int, typer.Option(min=1, help="How many simulated scans.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Of the cohort; compare models by one.")] = 0,
    anatomy: Annotated[
        list[Path] | None,
        typer.Option(help="Whole-head label map, or a folder of them; the embedded head if none."),
    ] = None,
    device: DeviceOption = Device.auto,
    workers: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 1,
) -> None:
    """Run a model over a fixed simulated cohort, and show what it misses where."""
    from brainmets.apps.inputs import files_of
    from brainmets.apps.progress import steps
    from brainmets.evaluation.stress import PAGE, Stress, run_stress
    from brainmets.evaluation.stress_tables import overview

    plan = Stress(model, cases, seed, tuple(files_of(anatomy or [])), device.value)
    with steps(screen, "stress test") as progress:
        summary = run_stress(plan, out, workers=workers, progress=progress)
    print_table("Stress test", *overview(summary))
    typer.echo(f"The scans are simulated. {NOTICE}\npage: {out / PAGE}")


@app.command()
def demo(
    out: OutOption = Path("demo-out"),
    model: Annotated[str, typer.Option(help="A model's name or a .brainmets file.")] = "starter",
) -> None:
    """Simulate a patient, find the metastases, compare with the truth."""
    from brainmets.apps.progress import case_watch
    from brainmets.demo import run_demo

    with case_watch(screen, 1) as watch:
        result = run_demo(out, model, watch=watch)
    for table in result.tables:
        print_table(table.title, table.header, table.rows)
    typer.echo(f"The patient is simulated. {NOTICE}\nreport: {result.report}")


def _set_up_logging(*, debug: bool) -> None:
    """Repairs that nibabel makes to headers are told in our own words; --debug shows faults."""
    import logging

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    logging.getLogger("brainmets").setLevel(logging.DEBUG if debug else logging.WARNING)
    if debug:
        logging.basicConfig(format="%(message)s")


def _finish(outcomes: "Sequence[Outcome]", out: Path) -> None:
    """Print what became of each case; a failed run (1) outranks bad input (2)."""
    rows = [
        (
            outcome.case_id,
            outcome.status,
            "" if outcome.lesions is None else str(outcome.lesions),
            "" if outcome.volume_mm3 is None else f"{outcome.volume_mm3 / 1000:.2f}",
            f"{outcome.seconds:.1f}",
        )
        for outcome in outcomes
    ]
    print_table("Cases", ("case", "status", "lesions", "total ml", "seconds"), rows)
    for outcome in outcomes:
        if outcome.message:
            screen.print(
                f"error: {outcome.case_id}: {outcome.message}", markup=False, soft_wrap=True
            )
    done = [outcome for outcome in outcomes if not outcome.exit_code]
    for outcome in done[:3]:
        typer.echo(f"report: {out / outcome.case_id / 'report.html'}")
    if done:
        typer.echo(NOTICE)
    codes = {outcome.exit_code for outcome in outcomes} - {0}
    if codes:
        raise typer.Exit(min(codes))


def main() -> NoReturn:
    """Run the command line; errors become one line and an exit status."""
    debug = "--debug" in sys.argv
    if isinstance(sys.stdout, TextIOWrapper):  # ≥ and × must not stop a terminal without them
        sys.stdout.reconfigure(errors="replace")
    try:
        app(standalone_mode=True)
    except BrainmetsError as error:
        if debug:
            raise
        say_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        say_error(
            f"unforeseen {type(error).__name__}: {error}. This is a fault of brainmets; "
            "run again with --debug and report what it shows"
        )
        sys.exit(1)
    sys.exit(0)
