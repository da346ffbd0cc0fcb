"""Running independent jobs in several processes, results in order."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
THREADS = "OMP_NUM_THREADS"
"""The environment variable that numerical libraries read when they are imported."""


class Run(Protocol):
    """Maps a function over jobs, lazily and in order."""

    def __call__(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], /
    ) -> Iterable[Result]:
        """Results in the order of the jobs."""
        ...


@contextmanager
def in_order(workers: int, *, network: bool = True) -> Iterator[Run]:
    """Give a ``map`` that runs in this process (1 worker) or in several.

    Args:
        workers: how many processes.
        network: whether the jobs use PyTorch, which then gets one thread a process.

    Processes are spawned, not forked, so that threads of the numerical libraries are
    not copied half-way; the function and its jobs must be importable and picklable.
    """
    if workers <= 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    start = _one_thread if network else None
    with ProcessPoolExecutor(workers, mp_context=context, initializer=start) as pool:
        yield pool.map


def use_threads(count: int | None) -> None:
    """Let networks use ``count`` processor threads; None leaves the choice as it is.

    PyTorch is not imported for it: where it comes later, it finds its environment variable.
    """
    if count is None:
        return
    os.environ[THREADS] = str(count)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(count)


def threads() -> int:
    """How many processor threads networks use: as told, else as many as this process has."""
    told = os.environ.get(THREADS, "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def on_threads(
    function: Callable[[Job], None], jobs: Sequence[Job], *, most: int | None = None
) -> None:
    """Run a function that leaves Python's lock alone most of the time over jobs, on threads.

    The first error is raised once all jobs that had started have ended.

    Args:
        function: of one job.
        jobs: any number.
        most: jobs at a time, where each takes much memory; None: as many as there are threads.
    """
    count = min(threads(), len(jobs), most or len(jobs))
    if count <= 1:
        for job in jobs:
            function(job)
        return
    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(function, jobs):
            pass


@contextmanager
def meanwhile(function: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Run a function on a thread of its own beside the body of a ``with``.

    What is given returns the result, or raises what the function raised; by the body's end
    the function has ended. Where one thread is all that is allowed it runs when it is asked.
    """
    if threads() == 1:
        yield function
        return
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(function).result


def _one_thread() -> None:
    use_threads(1)
