"""The training loop, in the open.

A run is a function of cohort, configuration and seed. It writes a checkpoint every so
often; started again with the same output it goes on where the last checkpoint stood,
and ends with the same weights: bit for bit in float32 on a CPU. Arithmetic in bfloat16
is not repeatable to the last bit on every processor.
"""

import csv
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from brainmets.config import Architecture, Recipe, Tiling, Training, to_mapping
from brainmets.errors import RunError
from brainmets.io.storage import whole_file
from brainmets.network.torch_engine import TorchEngine
from brainmets.network.unet import UNet
from brainmets.training.augment import Batch
from brainmets.training.board import FOLDER, Board
from brainmets.training.checkpoints import read_checkpoint, write_checkpoint
from brainmets.training.deep import DeepHeads, coarser, total
from brainmets.training.loss import (
    blob_dice,
    component_dice,
    cross_entropy,
    dice_and_cross_entropy,
    dice_and_hardest,
    focal_tversky,
)
from brainmets.training.patches import drawn_ahead
from brainmets.training.ranks import Ranks
from brainmets.training.store import PreparedCase
from brainmets.training.validation import look, spread

VALIDATION_BATCHES = 8
ALONE = Ranks()
LOG_NAME, DIVERGED_NAME = "losses.csv", "diverged.pt"
"""Beside the checkpoint."""
LOG_HEADER = (
    "step", "learning_rate", "loss", "validation_loss", "lesion_f1", "lesion_sensitivity",
    "false_positives_per_scan",
)  # fmt: skip

SETTLING_BATCHES = 40
"""Batches from which normalisation statistics are estimated anew for the averaged weights."""


@dataclass(frozen=True)
class Moment:
    """How far a run has come.

    Attributes:
        step: optimiser steps done.
        steps: in all.
        loss: mean over the last 20 steps.
        seconds: since this start.
        checked: validation cases, when they were last looked at.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    checked: "Checked | None" = None


@dataclass(frozen=True)
class Checked:
    """What was seen of validation cases at a step.

    Attributes:
        loss: on patches of them.
        f1: lesion F1 in whole cases, NaN where none was looked at.
        sensitivity: share of their lesions found.
        false_positives: a scan.
    """

    loss: float
    f1: float = math.nan
    sensitivity: float = math.nan
    false_positives: float = math.nan


@dataclass(frozen=True)
class HeldOut:
    """What the network is looked at with; it teaches nothing.

    Attributes:
        batches: patches.
        cases: whole cases.
        recipe: how they were prepared.
        tiling: how they are cut.
    """

    batches: tuple[Batch, ...]
    cases: tuple[PreparedCase, ...]
    recipe: Recipe
    tiling: Tiling


@dataclass(frozen=True)
class Best:
    """The averaged weights that found most so far.

    Attributes:
        step: theirs.
        f1: lesion F1.
        weights: of the average.
    """

    step: int
    f1: float
    weights: Mapping[str, Tensor]


@dataclass
class State:
    """What a checkpoint holds."""

    network: UNet
    average: UNet
    optimiser: torch.optim.Optimizer
    heads: DeepHeads
    step: int = 0
    losses: list[float] = field(default_factory=list)
    checked: dict[int, Checked] = field(default_factory=dict)
    """By step."""
    best: Best | None = None


def train(  # noqa: PLR0913  # what to train, on what, where, and whom to tell
    cases: Sequence[PreparedCase],
    architecture: Architecture,
    training: Training,
    checkpoint: Path,
    *,
    validation: Sequence[PreparedCase] = (),
    recipe: Recipe | None = None,
    tiling: Tiling | None = None,
    start: Mapping[str, Tensor] | None = None,
    report: Callable[[Moment], None] | None = None,
    device: str = "cpu",
    workers: int = 1,
    until: int | None = None,
    ranks: Ranks = ALONE,
    is_model: bool = False,
) -> UNet:
    """Train on prepared cases and return the network, in evaluation mode.

    Args:
        cases: from :func:`brainmets.training.store.prepare_cohort`.
        architecture: shape of the network.
        training: steps, patches, rates, seed.
        checkpoint: file to resume from if it exists, and to save to.
        start: weights to start from, by name; random ones if None.
        validation: cases that are looked at now and then; they teach nothing, but choose the
            step whose weights are kept.
        recipe: how the cases were prepared; None: as by default.
        tiling: how whole validation cases are cut; None: as by default.
        report: called every 20 steps.
        device: ``cpu`` or ``cuda``.
        workers: processes that draw patches ahead of the network; 1: this one draws them.
            The patches are the same.
        until: end the run before this step, though its schedule is that of all steps: for
            runs whose time is up. The checkpoint can be taken further later.
        is_model: whether ``start`` is a model's: it is then looked at before the first step, and
            kept as it is if no later look finds as much.
        ranks: which of several processes this is. The first returns the network; what the others
            return is of no use.

    Raises:
        RunError: the loss is no longer finite; the last checkpoint and the batch are kept.
        ConfigError: the checkpoint belongs to a run of other settings.
    """
    training = settle_precision(training, device)
    recipe, tiling = recipe or Recipe(), tiling or Tiling()
    if device == "cuda":
        torch.backends.cudnn.benchmark = True  # all patches have one shape
    state = _start(architecture, training, device, start)
    settings = {
        "architecture": to_mapping(architecture),
        "training": to_mapping(training),
        "cases": [case.key for case in cases],
        "validation": [case.key for case in validation],
        "recipe": to_mapping(recipe),
        "tiling": to_mapping(tiling),
        "start": None if start is None else _digest(start),
    }
    if checkpoint.is_file():
        _resume(state, checkpoint, settings)
    batches = range(VALIDATION_BATCHES if validation else 0)
    as_they_are = replace(training, paste_share=0.0)
    held_out = HeldOut(
        tuple(drawn_ahead(validation, as_they_are, batches, workers, device)),
        spread(validation, training.validation_cases), recipe, tiling,
    )  # fmt: skip
    started, first = time.monotonic(), state.step
    last = training.steps if until is None else min(until, training.steps)
    each = training.accumulate
    coming = range(state.step * each, last * each)
    share = ranks.share(training.batch)
    replace(training, batch=len(share))  # refuses what is too little to normalise
    drawn = iter(drawn_ahead(cases, training, coming, workers, device, share))
    with Board(checkpoint.with_name(FOLDER), state.step, open_=ranks.leads) as board:
        if is_model and validation and not state.step and ranks.leads:
            _look(state, held_out, training, device)
            board.note(0, _looked(state))
        for _ in range(state.step, last):
            drawn_now = list(islice(drawn, each))
            try:
                state.losses.append(_advance(state, drawn_now, training, device, ranks))
            except RunError as error:
                raise _kept_for_you(error, drawn_now, state.step, checkpoint, ranks) from error
            if not ranks.leads:
                continue
            if validation and _is_looked_at(state.step, training):
                _look(state, held_out, training, device)
            if state.step % training.checkpoint_every == 0 or state.step == last:
                _save(state, checkpoint, settings)
                _write_log(state, training, checkpoint.with_name(LOG_NAME))
            board.note(state.step, _numbers(state, training))
            if report and (state.step % 20 == 0 or state.step == first + 1):
                report(_moment(state, training, time.monotonic() - started))
    return _finished(state, cases, training, device, workers, ranks)


def _numbers(state: State, training: Training) -> dict[str, float]:
    """What is to be told of the last step, by name."""
    rate = learning_rate(training, state.step - 1)
    return {"loss": state.losses[-1], "learning_rate": rate, **_looked(state)}


def _looked(state: State) -> dict[str, float]:
    """What was seen of validation cases at this step, if they were looked at."""
    seen = state.checked.get(state.step)
    return {f"validation/{name}": value for name, value in vars(seen).items()} if seen else {}


def _moment(state: State, training: Training, seconds: float) -> Moment:
    recent = state.losses[-20:]
    seen = state.checked[max(state.checked)] if state.checked else None
    return Moment(state.step, training.steps, sum(recent) / len(recent), seconds, seen)


def _finished(
    state: State,
    cases: Sequence[PreparedCase],
    training: Training,
    device: str,
    workers: int,
    ranks: Ranks,
) -> UNet:
    """The averaged weights that are kept, with statistics for normalisation of their own.

    A model that training began with, and that no later look found wanting, stays as it was.
    """
    if not ranks.leads:
        return state.average
    best = state.best if training.keep == "best" and max(state.checked, default=0) else None
    if best:
        state.average.load_state_dict(best.weights)
    if best and not best.step:
        return state.average.eval()
    first_after = training.steps * training.accumulate
    after = range(first_after, first_after + SETTLING_BATCHES)
    settling = drawn_ahead(cases, training, after, workers, device)
    return _settle(state.average, settling, training, device)


def _is_looked_at(step: int, training: Training) -> bool:
    return step % training.validate_every == 0 or step == training.steps


def _look(state: State, held_out: HeldOut, training: Training, device: str) -> None:
    """Look at validation cases, and keep the averaged weights if they found most so far.

    Of equals the later are kept. In whole cases the average is looked at, with the statistics
    for normalisation that the current weights have.
    """
    loss = validation_loss(state.network, held_out.batches, training, device)
    state.checked[state.step] = Checked(loss)
    if not held_out.cases:
        return
    for mean, value in zip(state.average.buffers(), state.network.buffers(), strict=True):
        mean.copy_(value)
    engine = TorchEngine(
        "training", state.average.eval(), torch.device(device), training.precision == "bf16"
    )
    seen = look(engine, held_out.cases, held_out.recipe, held_out.tiling)
    state.checked[state.step] = Checked(loss, seen.f1, seen.sensitivity, seen.false_positives)
    if state.best is None or seen.f1 >= state.best.f1:
        weights = {name: tensor.clone() for name, tensor in state.average.state_dict().items()}
        state.best = Best(state.step, seen.f1, weights)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].float().numpy().tobytes())
    return digest.hexdigest()


def _start(
    architecture: Architecture,
    training: Training,
    device: str,
    start: Mapping[str, Tensor] | None,
) -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network, average = UNet(architecture), UNet(architecture)
        heads = DeepHeads(network, training.deep_supervision)
    if start is not None:
        network.load_state_dict(start)
    average.load_state_dict(network.state_dict())
    network.encoder.recompute = training.recompute
    for model in (network, average, heads):
        model.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        [*network.parameters(), *heads.parameters()], training.learning_rate,
        weight_decay=training.weight_decay,
    )  # fmt: skip
    return State(learning(network, training), average, optimiser, heads)


def learning(network: UNet, training: Training) -> UNet:
    """The network in training mode, its statistics frozen if so asked."""
    network.train()
    for module in network.modules():
        if training.freeze_statistics and isinstance(module, nn.BatchNorm3d):
            module.eval()
    return network


def _advance(
    state: State,
    batches: Sequence[Batch],
    training: Training,
    device: str,
    ranks: Ranks = ALONE,
) -> float:
    """One optimiser step on the mean gradient of some batches; returns their mean loss."""
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(training, state.step)
    state.optimiser.zero_grad(set_to_none=True)
    mean = 0.0
    for batch in batches:
        image = batch.image.to(device, memory_format=torch.channels_last_3d)
        with autocast(training, device):
            answers = state.heads.answers(state.network, image)
        losses = [
            loss_of(answer.float(), coarser(batch, 2**level), training)
            for level, answer in enumerate(answers)
        ]
        loss = total(losses) / len(batches)
        mean += ranks.mean(float(loss.detach()))
        if not math.isfinite(mean):
            raise _diverged(f"the loss is {mean}", state.step)
        loss.backward()  # type: ignore[no-untyped-call]
    learnt = [*state.network.parameters(), *state.heads.parameters()]
    ranks.average(learnt)
    try:
        nn.utils.clip_grad_norm_(learnt, 12.0, error_if_nonfinite=True)
    except RuntimeError as error:
        raise _diverged("a gradient is not finite", state.step) from error
    state.optimiser.step()
    state.step += 1
    _follow(state.average, state.network, min(training.average, state.step / (state.step + 10)))
    return mean


def loss_of(logits: Tensor, batch: Batch, training: Training) -> Tensor:
    """What the settings say is to be minimised."""
    if training.pool == "batch" or len(logits) == 1:
        return _pooled(logits, batch, training)
    tensors = (logits, *vars(batch).values())
    single = zip(*(t.split(1) for t in tensors), strict=True)
    return torch.stack([_pooled(one, Batch(*rest), training) for one, *rest in single]).mean()


def _pooled(logits: Tensor, batch: Batch, training: Training) -> Tensor:
    device = logits.device
    target, weight = batch.target.to(device), batch.weight.to(device)
    if training.loss == "focal-tversky+ce":
        return focal_tversky(logits, target, weight) + cross_entropy(logits, target, weight)
    if training.loss == "dice+hard":
        return dice_and_hardest(logits, target, weight)
    loss = dice_and_cross_entropy(logits, target, weight)
    if training.loss == "dice+ce+cc":
        return loss + component_dice(logits, target, weight, batch.regions.to(device))
    if training.loss == "dice+ce+blob":
        return loss + blob_dice(logits, target, weight, batch.regions.to(device))
    return loss


@torch.no_grad()
def validation_loss(
    network: UNet, batches: Sequence[Batch], training: Training, device: str
) -> float:
    """Mean loss over batches of validation cases, the same each time."""
    network.eval()
    losses = []
    for batch in batches:
        with autocast(training, device):
            logits = network(batch.image.to(device, memory_format=torch.channels_last_3d))
        losses.append(float(loss_of(logits.float(), batch, training)))
    learning(network, training)
    return sum(losses) / len(losses)


def _diverged(what: str, step: int) -> RunError:
    return RunError(
        f"{what} at step {step}; the last checkpoint is kept. "
        "Lower the learning rate, or train in f32"
    )


def _kept_for_you(
    error: RunError, batches: Sequence[Batch], step: int, checkpoint: Path, ranks: Ranks
) -> RunError:
    """The same error, with the first process's batches on disk to be looked at."""
    if not ranks.leads:
        return error
    path = checkpoint.with_name(DIVERGED_NAME)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save({"step": step, "batches": [vars(batch) for batch in batches]}, file)
    return RunError(f"{error}. The patches of that step are in {path.name}, in the work folder")


def _write_log(state: State, training: Training, path: Path) -> None:
    """Every step's rate and loss, and what was seen of validation cases where it was."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LOG_HEADER)
        if 0 in state.checked:
            writer.writerow([0, "", "", *_told(state.checked[0])])
        for step, loss in enumerate(state.losses, start=1):
            seen = state.checked.get(step)
            looked = _told(seen) if seen else [""] * len(fields(Checked))
            rate = learning_rate(training, step - 1)
            writer.writerow([step, f"{rate:.6g}", f"{loss:.6g}", *looked])


def _told(seen: Checked) -> list[str]:
    return ["" if math.isnan(number) else f"{number:.6g}" for number in vars(seen).values()]


def learning_rate(training: Training, step: int) -> float:
    """Linear warm-up, then down to a hundredth of the peak: half a cosine, or a polynomial."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    share = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    if training.schedule == "polynomial":
        return training.learning_rate * max(0.01, float((1 - share) ** 0.9))
    return training.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def settle_precision(training: Training, device: str) -> Training:
    """The same settings with ``"auto"`` replaced by what the device is fast in."""
    if training.precision != "auto":
        return training
    return replace(training, precision="bf16" if has_bf16_units(device) else "f32")


def has_bf16_units(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulation is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):  # an older PyTorch: float32 is never wrong
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@contextmanager
def autocast(training: Training, device: str) -> Iterator[None]:
    """Arithmetic in bfloat16 where the configuration asks for it."""
    with torch.autocast(device, torch.bfloat16, enabled=training.precision == "bf16"):
        yield


@torch.no_grad()
def _follow(average: UNet, network: UNet, decay: float) -> None:
    """Move the averaged weights towards the current ones, in place."""
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


@torch.no_grad()
def _settle(network: UNet, batches: Iterable[Batch], training: Training, device: str) -> UNet:
    """Estimate normalisation statistics for the averaged weights, and stop training.

    After Izmailov et al. 2018 (arXiv:1803.05407), section 3.2: averaged weights need
    statistics of their own. Batches come after the last step's. Frozen ones stay.
    """
    if training.freeze_statistics:
        return network.eval()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    network.train()
    for batch in batches:
        with autocast(training, device):
            network(batch.image.to(device, memory_format=torch.channels_last_3d))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def _save(state: State, checkpoint: Path, settings: Mapping[str, Any]) -> None:
    held = {
        "step": state.step,
        "losses": state.losses,
        "checked": {step: vars(seen) for step, seen in state.checked.items()},
        "best": state.best and vars(state.best),
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "heads": state.heads.state_dict(),
    }
    write_checkpoint(checkpoint, dict(settings), held)


def _resume(state: State, checkpoint: Path, settings: Mapping[str, Any]) -> None:

    def is_mine(held: dict[str, Any]) -> bool:
        of_then = held["training"]  # settings that are newer than it have their defaults
        return bool(held | {"training": to_mapping(Training()) | of_then} == settings)

    names = ("step", "losses", "checked", "best", "network", "average", "optimiser", "heads")
    saved = read_checkpoint(checkpoint, is_mine, names)
    state.network.load_state_dict(saved["network"])
    state.average.load_state_dict(saved["average"])
    state.optimiser.load_state_dict(saved["optimiser"])
    state.heads.load_state_dict(saved["heads"])
    state.step, state.losses = saved["step"], saved["losses"]
    state.checked = {step: Checked(**seen) for step, seen in saved["checked"].items()}
    state.best = saved["best"] and Best(**saved["best"])


def weights_of(network: UNet) -> dict[str, Tensor]:
    """The network's tensors on the CPU, contiguous, by name."""
    return {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
