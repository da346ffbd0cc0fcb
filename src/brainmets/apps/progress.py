"""Progress on the terminal: bars where it is one, a line now and then where it is not."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

if TYPE_CHECKING:
    from brainmets.cohort import Case
    from brainmets.training.loop import Moment
    from brainmets.training.model import Listeners

Steps = Callable[[int, int], None]
STAGES = {
    "fingerprint": "checking",
    "read": "reading",
    "brain": "extracting the brain",
    "prepare": "preparing",
    "predict": "searching",
    "details": "looking closely",
    "restore": "restoring",
    "lesions": "measuring",
    "write": "writing",
}


def _bars(screen: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeLeft(), console=screen, transient=True,
    )  # fmt: skip


@contextmanager
def steps(screen: Console, what: str) -> Iterator[Steps]:
    """A bar that counts."""
    with _bars(screen) as bars:
        task = bars.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            """Move the bar."""
            bars.update(task, completed=done, total=total)
            _now_and_then(screen, what, done, total)

        yield tell


def _now_and_then(screen: Console, what: str, done: int, total: int, lines: int = 10) -> None:
    """A line for every so many steps, where a bar cannot be seen."""
    if not screen.is_terminal and (done == total or done % max(1, total // lines) == 0):
        screen.print(f"{what} {done}/{total}")


@contextmanager
def loss_line(screen: Console, what: str) -> Iterator[Callable[[int, int, float], None]]:
    """A bar that counts and shows the loss."""
    with _bars(screen) as bars:
        task = bars.add_task(what, total=None)

        def tell(done: int, total: int, loss: float) -> None:
            """Move the bar, and say the loss."""
            bars.update(task, description=f"{what}, loss {loss:.3f}", completed=done, total=total)
            if not screen.is_terminal and done % 100 == 0:
                screen.print(f"step {done}/{total} loss {loss:.3f}")

        yield tell


@contextmanager
def case_watch(screen: Console, cases: int) -> Iterator[Callable[["Case", str, int, int], None]]:
    """Which case is at which stage; for :func:`brainmets.batch.predict_cases`."""
    seen: list[str] = []
    with _bars(screen) as bars:
        task = bars.add_task("loading the model", total=None)

        def tell(case: "Case", stage: str, done: int, total: int) -> None:
            """Move the bar of a case."""
            if case.case_id not in seen:
                seen.append(case.case_id)
                if not screen.is_terminal:
                    screen.print(f"case {len(seen)}/{cases}: {case.case_id}", markup=False)
            label = f"{seen.index(case.case_id) + 1}/{cases} {STAGES.get(stage, stage)}"
            bars.update(task, description=label, completed=done, total=total)

        yield tell


def _seen(moment: "Moment") -> str:
    """What was last seen of validation cases."""
    if moment.checked is None:
        return ""
    f1 = "" if math.isnan(moment.checked.f1) else f", lesion F1 {moment.checked.f1:.3f}"
    return f"; validation: loss {moment.checked.loss:.3f}{f1}"


@contextmanager
def training_listeners(screen: Console) -> Iterator["Listeners"]:
    """Bars for preparing and scoring, and a line with the loss for training."""
    from brainmets.training.model import Listeners

    with _bars(screen) as bars:
        task = bars.add_task("preparing", total=None)

        def preparing(done: int, total: int) -> None:
            """Move the bar while scans are prepared."""
            bars.update(task, description="preparing", completed=done, total=total)
            _now_and_then(screen, "preparing", done, total)

        def training(moment: "Moment") -> None:
            """Move the bar, and say the loss."""
            bars.update(
                task, description=f"training, loss {moment.loss:.3f}", completed=moment.step,
                total=moment.steps,
            )  # fmt: skip
            if not screen.is_terminal and moment.step % 100 == 0:
                screen.print(
                    f"step {moment.step}/{moment.steps} loss {moment.loss:.3f}{_seen(moment)}"
                )

        def validating(done: int, total: int) -> None:
            bars.update(task, description="validating", completed=done, total=total)
            _now_and_then(screen, "validating", done, total, lines=4)

        yield Listeners(preparing, training, validating)
