"""Several processes that train one network, as ``torchrun`` starts them.

Each takes its share of the patches of every batch; gradients are averaged. What is drawn depends
on seed and step alone, so the processes together see what one would have seen.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn

from brainmets.errors import ConfigError

PATIENCE = timedelta(hours=6)
"""How long processes wait for the first, which prepares and validates alone."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is.

    Attributes:
        rank: 0 for the first, which alone looks at validation cases and writes.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Which patches of a batch are this process's.

        Raises:
            ConfigError: the batch cannot be shared out evenly.
        """
        if batch % self.count:
            raise ConfigError(
                f"a batch of {batch} cannot be shared by {self.count} processes; make it a "
                f"multiple of {self.count}"
            )
        each = batch // self.count
        return range(self.rank * each, (self.rank + 1) * each)

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            distributed.barrier()

    def mean(self, value: float) -> float:
        """The mean over the processes."""
        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=_where())
        distributed.all_reduce(total)
        return float(total) / self.count

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, all in one message."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.count
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(mean.view(gradient.shape))


def _where() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"


def join(device: str) -> Ranks:
    """Join the other processes, if ``torchrun`` started several; else be the only one.

    Args:
        device: ``cpu`` (gloo) or ``cuda`` (NCCL, one GPU for each process).

    Raises:
        ConfigError: more processes than GPUs.
    """
    count, rank, local = (
        _told(name, default)
        for name, default in (("WORLD_SIZE", "1"), ("RANK", None), ("LOCAL_RANK", "0"))
    )
    if count == 1:
        return Ranks()
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local + 1} of this machine has no GPU: {torch.cuda.device_count()} are "
                "visible; start fewer processes"
            )
        torch.cuda.set_device(local)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    return Ranks(rank, count)


def _told(name: str, default: str | None) -> int:
    """A number that ``torchrun`` puts into the environment."""
    if default is None and os.environ.get("WORLD_SIZE", "1") == "1":
        return 0
    value = os.environ.get(name, default)
    if value is None or not value.isdecimal():
        raise ConfigError(
            f"the environment says {name}={value}, expected a whole number as torchrun sets it; "
            "unset WORLD_SIZE to train with one process"
        )
    return int(value)


@contextmanager
def in_company() -> Iterator[None]:
    """Part from the other processes in the end, whatever happens."""
    try:
        yield
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
