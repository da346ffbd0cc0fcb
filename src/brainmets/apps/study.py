"""The commands ``study`` and ``study compare``: doors to the paper's tables."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from brainmets.apps.options import OutOption
from brainmets.apps.terminal import print_table, screen


class _FileOrCommand(TyperGroup):
    """``study FILE`` is ``study run FILE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take what is no command's name for the file."""
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


study = typer.Typer(
    cls=_FileOrCommand,
    no_args_is_help=True,
    help="Make a paper's tables, tests and figures: study STUDY.toml -o OUT.",
)


@study.command(hidden=True)
def run(
    file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="What to compare.")],
    out: OutOption,
    workers: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 1,
) -> None:
    """Make a paper's tables, tests and figures from predictions and clinical tables."""
    from brainmets.apps.progress import steps
    from brainmets.evaluation.paper.run import run_paper
    from brainmets.evaluation.paper.words import name_of, number, span

    with steps(screen, "scoring") as progress:
        results = run_paper(file, out, workers=workers, progress=progress)
    shown = [
        (
            row["cohort"], name_of(row["measure"]), str(row["patients"]), number(row["mean"]),
            span(row["mean_low"], row["mean_high"]),
        )
        for row in results.tables["results"]
        if row["subgroup"] == "all"
    ]  # fmt: skip
    print_table("Per patient", ("cohort", "score", "n", "mean", "95 % interval"), shown)
    for warning in results.warnings:
        screen.print(f"warning: {warning}", markup=False, soft_wrap=True)
    typer.echo(f"page: {out / 'study.html'}")


@study.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder that study wrote.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same cases.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV file to write; none by default.")
    ] = None,
) -> None:
    """Compare two studies of the same patients, say of two models: A − B, paired."""
    from brainmets.evaluation.paper.compare import compare_studies
    from brainmets.evaluation.paper.words import name_of, number, p_text, span

    rows = [
        (
            row["cohort"], name_of(row["measure"]), str(row["pairs"]), number(row["first"]),
            number(row["second"]), number(row["difference"]),
            span(row["low"], row["high"]),
            p_text(row["p_holm"]).removeprefix("= ") if not row["reason"] else row["reason"],
        )
        for row in compare_studies(first, second, out)
    ]  # fmt: skip
    header = ("cohort", "score", "n", "A", "B", "A − B", "95 % interval", "p (Holm)")
    print_table("Paired differences; p adjusted over the rows of a cohort", header, rows)
