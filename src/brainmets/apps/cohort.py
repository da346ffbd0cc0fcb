"""The commands ``brainmets cohort …``: look before you train."""

from pathlib import Path
from typing import Annotated

import typer

from brainmets.apps.options import TargetOption
from brainmets.apps.terminal import lesion_labels, print_table, screen
from brainmets.errors import CohortError, ConfigError

cohort = typer.Typer(help="Check a cohort, and split it.", no_args_is_help=True)


@cohort.command()
def check(
    cohorts: Annotated[
        list[Path],
        typer.Argument(metavar="COHORT...", help="Tables or folders; external ones too."),
    ],
    target: TargetOption = None,
    labels: Annotated[
        list[int] | None, typer.Option(help="Label a mask may have besides 0; any by default.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 1,
) -> None:
    """Read every case: grids, masks, labels, and scans that occur twice."""
    from brainmets.apps.progress import steps
    from brainmets.cohort import read_cohort
    from brainmets.evaluation.lesionwise import SIZE_BINS
    from brainmets.training.check import check_cohorts

    named = [(path.name, read_cohort(path)) for path in cohorts]
    for _, whole in named:
        lesion_labels(target or whole.target_labels)
    with steps(screen, "checking") as progress:
        found = check_cohorts(
            named, target_labels=target, labels=labels, workers=workers, progress=progress
        )
    columns = []
    for name, _ in named:
        mine = [c for c in found if c.cohort == name]
        counts = [sum(c.sizes.get(b, 0) for c in mine) for b in SIZE_BINS]
        without = sum(not any(c.sizes.values()) for c in mine)
        bad = sum(bool(c.faults) for c in mine)
        columns.append(map(str, (len(mine), bad, without, sum(counts), *counts)))
    said = ("cases", "faulty", "without lesion", "lesions", *(f"  {name}" for name in SIZE_BINS))
    rows = list(zip(said, *columns, strict=True))
    print_table("Cohorts", ("", *(name for name, _ in named)), rows)
    for checked in found:
        for remark in checked.remarks:
            screen.print(f"case {checked.case_id}: {remark}", markup=False, soft_wrap=True)
    faults = [f"case {c.case_id}, {fault}" for c in found for fault in c.faults]
    for fault in faults:
        screen.print(fault, markup=False, soft_wrap=True)
    if faults:
        raise CohortError(f"{len(faults)} faults; mend them, or leave the cases out")


@cohort.command()
def prepare(
    table: Annotated[Path, typer.Argument(metavar="COHORT", help="Table or folder, with masks.")],
    work: Annotated[Path, typer.Option(help="Folder that train --work is to use.")],
    target: TargetOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 1,
) -> None:
    """Prepare every scan for training; started again, it goes on where it stopped."""
    from brainmets.apps.progress import steps
    from brainmets.cohort import read_cohort
    from brainmets.config import Recipe
    from brainmets.training.preparing import prepare_cohort
    from brainmets.training.store import ENTRIES, write_index

    whole, recipe = read_cohort(table).with_masks(), Recipe()
    labels = lesion_labels(target or whole.target_labels)
    with steps(screen, "preparing") as progress:
        cases = prepare_cohort(
            whole, recipe, work / ENTRIES, target_labels=labels, workers=workers, progress=progress
        )
    write_index(work, whole, [case.key for case in cases], recipe, labels)
    typer.echo(f"{len(cases)} cases prepared: {work}")


@cohort.command()
def split(
    table: Annotated[Path, typer.Argument(metavar="COHORT", help="Table or folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The split to write, a .tsv file.")],
    sizes: Annotated[
        str | None, typer.Option(help="Patients to train and to test on, such as 379,91.")
    ] = None,
    share: Annotated[float, typer.Option(help="Of patients to test on, without --sizes.")] = 0.2,
    folds: Annotated[
        int | None, typer.Option(min=2, help="So many folds instead of train and test.")
    ] = None,
) -> None:
    """Split patients systematically into train and test, or into folds, once and for all."""
    from collections import Counter

    from brainmets.cohort import read_cohort
    from brainmets.training import split as splitting

    whole = read_cohort(table)
    if folds:
        parts = splitting.folds(whole, folds)
    else:
        patients = len({splitting.patient_of(case) for case in whole})
        parts = splitting.systematic(whole, _test_size(sizes, patients) if sizes else share)
    digest = splitting.write_split(whole, parts, out)
    persons = {part: {splitting.patient_of(c) for c in whole if parts[c.case_id] == part}
               for part in parts.values()}  # fmt: skip
    rows = [(part, str(len(persons[part])), str(count))
            for part, count in sorted(Counter(parts.values()).items())]  # fmt: skip
    print_table("Split", ("part", "patients", "cases"), rows)
    typer.echo(f"split: {out} (SHA-256 {digest[:12]}…)")


def _test_size(sizes: str, patients: int) -> int:
    try:
        learn, test = map(int, sizes.split(","))
    except ValueError:
        raise ConfigError(f"sizes {sizes!r}; expected two numbers such as 379,91") from None
    if learn + test != patients:
        raise ConfigError(
            f"sizes {sizes}: {learn + test} in all; the cohort has {patients} patients"
        )
    return test
