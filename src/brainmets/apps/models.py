"""The commands ``brainmets models …``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from brainmets.apps.options import (
    ArithmeticOption,
    Design,
    Device,
    DeviceOption,
    EngineName,
    EngineOption,
    Precision,
    PrecisionOption,
    TargetOption,
    ThreadsOption,
)
from brainmets.apps.terminal import print_mapping, print_table, screen

models = typer.Typer(
    help="The models that come with the package, and model files.", no_args_is_help=True
)


@models.command("list")
def list_models() -> None:
    """List the models that come with the package."""
    from brainmets.network.bundle import find, read, shipped

    rows = []
    for name in shipped():
        bundle = read(find(name))
        rows.append((name, f"{bundle.architecture.width}", bundle.sha256[:12],
                     str(bundle.card.get("trained_on", ""))))  # fmt: skip
    print_table("Models", ("name", "width", "sha-256", "trained on"), rows)


@models.command("info")
def model_info(name: Annotated[str, typer.Argument(help="A name or a .brainmets file.")]) -> None:
    """Print a model's card."""
    import json

    from brainmets.config import to_mapping
    from brainmets.network.bundle import find, read

    bundle = read(find(name))
    parts = ("architecture", "recipe", "tiling", "rule")
    settings: dict[str, Any] = {part: to_mapping(getattr(bundle, part)) for part in parts}
    settings |= {"networks": bundle.networks, "temperature": bundle.temperature}
    if bundle.detail:
        settings["detail"] = bundle.detail.settings()
    card = {"name": bundle.name, "sha256": bundle.sha256, **settings, "card": dict(bundle.card)}
    typer.echo(json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False))


@models.command("verify")
def verify_model(
    name: Annotated[str, typer.Argument(help="A name or a .brainmets file.")],
    device: DeviceOption = Device.auto,
    *,
    engine: EngineOption = EngineName.auto,
    precision: PrecisionOption = Precision.f32,
) -> None:
    """Check a model file's hashes, and that this machine computes what it should."""
    from brainmets.network.detail_engine import verify_detail
    from brainmets.network.engines import verify
    from brainmets.pipeline import load_model

    loaded = load_model(
        name, device.value, engine=engine.value, precision=precision.value, prove=False
    )
    difference = verify(loaded.bundle, loaded.engine)
    typer.echo(
        f"{loaded.bundle.name}: hashes match; largest difference in probability "
        f"{difference:.1e} on {loaded.engine.name}"
    )
    if loaded.detail:
        difference = verify_detail(loaded.bundle, loaded.detail)
        typer.echo(f"its detail network: {difference:.1e}")


@models.command("combine")
def combine_models(
    names: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Two or more: names or files.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .brainmets file to write.")],
) -> None:
    """Make one model that averages the probabilities of several, as of the folds of a cohort."""
    from brainmets.network.bundle import find, read, write
    from brainmets.network.ensemble import combine
    from brainmets.network.torch_engine import torch_engine

    bundles = [read(find(name)) for name in names]
    whole = combine(bundles, out.stem, lambda bundle: torch_engine(bundle, "cpu"))
    write(whole, out)
    typer.echo(f"model: {out}, of {whole.networks} networks; its decision rule is")
    typer.echo(whole.card["decision_rule"])


@models.command("quantise")
def quantise_model(
    model: Annotated[str, typer.Argument(help="A model's name or a .brainmets file.")],
    cohort: Annotated[Path, typer.Argument(help="Scans, best with masks, not learnt from.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .brainmets file to write.")],
    threads: ThreadsOption = None,
    target: TargetOption = None,
) -> None:
    """Add what arithmetic in 8 bits needs, and measure what it loses on a cohort."""
    from dataclasses import replace

    from brainmets.apps.progress import steps
    from brainmets.apps.terminal import lesion_labels
    from brainmets.cohort import read_cohort
    from brainmets.concurrency import use_threads
    from brainmets.io.storage import require_writable
    from brainmets.network.bundle import find, read, write
    from brainmets.training.quantise import quantise

    use_threads(threads)
    require_writable(out.parent)
    cases = read_cohort(cohort)
    labels = lesion_labels(target or cases.target_labels)
    with steps(screen, "quantising") as progress:
        done, losses = quantise(cases, read(find(model)), progress, target_labels=labels)
    write(replace(done, name=out.stem), out)
    typer.echo(f"model: {out}")
    print_mapping("int8 against float32", {"int8": done.card["int8"]})
    for loss in losses:
        if not loss.sameness.is_same:
            one, other = loss.sameness.lesions
            typer.echo(f"case {loss.case_id}: other lesions, {one} in float32 and {other} in int8")


@models.command("fetch")
def fetch_weights(
    name: Annotated[str, typer.Argument(help="synthstrip or resnet34.")],
) -> None:
    """Fetch weights that do not come with the package, and show their licence."""
    from brainmets.io.download import FETCHABLE, cached_path, describe, fetch

    file = FETCHABLE.get(name, name)
    typer.echo(describe(file))
    was_there = cached_path(file).is_file()
    typer.echo(f"{'already there' if was_there else 'fetched'}: {fetch(file)}")


@models.command("train-extractor")
def train_brain_extractor(
    maps: Annotated[Path, typer.Argument(help="Folder of training_seg_01 … 20.nii.gz.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of weights to write.")],
    design: Annotated[
        Design, typer.Option(help="synthstrip: SynthStrip's shape, for trials.")
    ] = Design.builtin,
    steps: Annotated[int, typer.Option(min=1, help="Images seen, one a step.")] = 2600,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and images.")] = 1,
    precision: ArithmeticOption = "f32",
    start: Annotated[
        Path | None,
        typer.Option(help="Weights of an earlier builtin, its card beside, to begin with."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this long; started again, it goes on.")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Train a brain extractor on images synthesised from head label maps."""
    import math

    from brainmets.apps.progress import loss_line
    from brainmets.concurrency import use_threads
    from brainmets.errors import ConfigError
    from brainmets.training.extractor import Schedule, read_start, train_extractor

    use_threads(threads)
    begun = read_start(start) if start else None
    if start and out.with_suffix("").resolve() == start.with_suffix("").resolve():
        raise ConfigError(
            f"{out.name} is what training begins with; choose another file for the new weights, so "
            "that the run can be started again"
        )
    rate = Schedule.learning_rate / (2 if begun else 1)
    seconds = math.inf if minutes is None else 60 * minutes
    with loss_line(screen, "training") as progress:
        train_extractor(
            maps, out, Schedule(steps, seed, rate, precision), design=design.value,
            start=begun, most_seconds=seconds, progress=progress,
        )  # fmt: skip
    typer.echo(f"weights: {out}" if out.is_file() else "stopped; start again to go on")


@models.command("train-detail")
def train_detail_network(  # one parameter for each option of the command
    cohort: Annotated[Path, typer.Argument(help="Scans with masks.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .brainmets file to write.")],
    work: Annotated[Path, typer.Option(help="Folder for prepared scans and the checkpoint.")],
    model: Annotated[str, typer.Option(help="The model to add it to.")] = "starter",
    start: Annotated[
        str | None,
        typer.Option(
            help="Model whose second network it begins with; none: random weights. By default that "
            "of --model, if it has one."
        ),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Scans to choose the rule on; some of the cohort's if none.")
    ] = None,
    false_positives: Annotated[
        float | None, typer.Option(help="At most so many a scan; the best lesion F1 if none.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of 32 places each.")] = 3000,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and draws.")] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="The highest; 0.002, or half of it where it begins with a network."),
    ] = None,
    precision: ArithmeticOption = "f32",
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this long; started again, it goes on.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that prepare scans.")] = 1,
    threads: ThreadsOption = None,
    target: TargetOption = None,
) -> None:
    """Add a second network to a model, which looks at bright places for small metastases."""
    import math

    from brainmets.apps.progress import loss_line
    from brainmets.apps.progress import steps as counted
    from brainmets.apps.terminal import lesion_labels
    from brainmets.cohort import read_cohort
    from brainmets.concurrency import use_threads
    from brainmets.errors import ConfigError
    from brainmets.network.bundle import find, read
    from brainmets.training.detail import Schedule
    from brainmets.training.detail_fit import Listeners, model_to_start_from, train_model_detail
    from brainmets.training.model import split

    use_threads(threads)
    cases = read_cohort(cohort)
    learn, check = (cases, read_cohort(validation)) if validation else split(cases)
    bundle = read(find(model))
    begun = model_to_start_from(bundle, start)
    if begun and out.resolve() == find(start or model).resolve():
        raise ConfigError(
            f"{out.name} is the model that training begins with; choose another file for the new "
            "one, so that the run can be started again"
        )
    usual = Schedule.learning_rate / (2 if begun else 1)
    rate = usual if learning_rate is None else learning_rate
    with (
        counted(screen, "preparing") as preparing,
        counted(screen, "looking for bright places") as looking,
        counted(screen, "looking for mistakes") as surveying,
        loss_line(screen, "training") as training,
        counted(screen, "choosing") as choosing,
    ):
        done = train_model_detail(
            bundle, learn.with_masks(), check.with_masks(), out, work,
            Schedule(steps, seed, learning_rate=rate, precision=precision),
            start=begun, workers=workers, false_positives=false_positives,
            target_labels=lesion_labels(target or cases.target_labels),
            most_seconds=math.inf if minutes is None else 60 * minutes,
            listeners=Listeners(preparing, looking, surveying, training, choosing),
        )  # fmt: skip
    if done is None:
        typer.echo("stopped; start again to go on")
        return
    typer.echo(f"model: {out}")
    print_mapping("detail network", {"detail": done.card["detail"]})
