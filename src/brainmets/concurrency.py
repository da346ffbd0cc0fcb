"""Running independent jobs in several processes, results in order."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


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
    """Let the network use ``count`` processor threads; None leaves the choice to PyTorch."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


def _one_thread() -> None:
    use_threads(1)
