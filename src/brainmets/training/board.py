"""The course of a run for TensorBoard, where tensorboardX is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

FOLDER = "tensorboard"


class Board:
    """Numbers by step, in a folder that ``tensorboard --logdir`` shows."""

    def __init__(self, folder: Path, step: int, *, open_: bool = True) -> None:
        """Go on after ``step``: later numbers of an interrupted run are no longer shown.

        With ``open_`` false nothing is written. The file's name ends in ``step``: tensorboardX
        names a file by the second alone, and writes over one that has its name.
        """
        self._writer: Any = None
        if not open_:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(
            str(folder), purge_step=step + 1, filename_suffix=f".{step:09d}"
        )

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name; those that are NaN are left out."""
        if self._writer is None:
            return
        for name, value in values.items():
            if value == value:  # noqa: PLR0124  # NaN differs from itself
                self._writer.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
