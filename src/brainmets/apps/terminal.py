"""Printing on the terminal."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

if TYPE_CHECKING:
    from brainmets.cohort import Case
    from brainmets.pipeline import Model

PROCESS = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"
"""Which of several that ``torchrun`` started; only the first speaks, but of errors."""
SCORE, WIDEST = "score", 10_000
screen = Console(stderr=True, highlight=False, emoji=False, quiet=PROCESS != "0")


def say_error(message: str) -> None:
    """Print one line, and which process it comes from if it is not the first."""
    process = "" if PROCESS == "0" else f"process {PROCESS}: "
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(f"{process}error: {message}", markup=False, soft_wrap=True)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; if it is too wide, names of scores break between words."""
    console = Console(highlight=False, markup=False, emoji=False)
    table = _table(title, header, rows)
    endless = console.options.update(max_width=WIDEST)
    if Measurement.get(console, endless, table).maximum > console.width:
        of_words = [name == SCORE for name in header]
        table = _table(title, header, [
            [cell.replace("_", " ") if breaks else cell
             for breaks, cell in zip(of_words, row, strict=True)]
            for row in rows
        ])  # fmt: skip
    console.print(table)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, overflow="fold")  # a narrow terminal must not cut names short
    for row in rows:
        table.add_row(*row)
    return table


def print_mapping(title: str, values: Mapping[str, Mapping[str, object]]) -> None:
    """A table of values by group and key, on standard output."""
    rows = [(group, key, str(value)) for group, items in values.items()
            for key, value in items.items()]  # fmt: skip
    print_table(title, ("on", SCORE, "value"), rows)


def lesion_labels(labels: Sequence[int] | None) -> tuple[int, ...] | None:
    """Say which labels of the reference masks are taken for lesion, unless all above 0 are."""
    if not labels:
        return None
    screen.print(f"lesion: labels {', '.join(map(str, labels))} of the reference masks")
    return tuple(labels)


def say_origin(preset: str, start: str | None) -> None:
    """Print what of a preset is published, what was chosen here, and where training begins."""
    from brainmets.training.presets import PRESETS

    found = PRESETS[preset]
    if found.source:
        screen.print(f"Preset {preset}: {found.source}", markup=False)
    for words, choices in (("stated there", found.stated), ("chosen here", found.chosen)):
        for subject, choice in choices.items():
            screen.print(f"  {words}: {subject}: {choice}", markup=False)
    if start:
        screen.print(f"begins with the weights of {start}; --start none: random ones", markup=False)


def say_memory(cases: "Sequence[Case]", model: "Model") -> None:
    """Print what the largest scan will take, before anything but headers is read."""
    from brainmets.batch import LARGE_VOX
    from brainmets.io.images import voxels_announced
    from brainmets.pipeline import expected_peak_mb

    sizes = [voxels_announced(case) for case in cases]
    largest = max(sizes, default=0)
    if largest:
        peak = max(
            expected_peak_mb(model, size, several=len(cases) > 1 and size <= LARGE_VOX) / 1000
            for size in sizes
        )
        screen.print(
            f"memory: at most about {peak:.1f} GB, for the largest scan of {largest / 1e6:.1f} "
            "million voxels", markup=False,
        )  # fmt: skip
