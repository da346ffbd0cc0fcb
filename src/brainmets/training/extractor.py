"""Training a brain extractor on heads that are synthesised as it learns.

The built-in extractor comes from here, and so does a network of SynthStrip's own shape, on
which its line can be tried without the published weights.
"""

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from brainmets.errors import ConfigError, ReadError, RunError
from brainmets.io.storage import whole_file, write_json
from brainmets.network.strip_sizes import StripSizes
from brainmets.network.synthstrip import SynthStrip
from brainmets.training.chance import Chance
from brainmets.training.checkpoints import read_checkpoint, write_checkpoint
from brainmets.training.extractor_scores import measure
from brainmets.training.heads import FURTHEST_MM, Head, read_heads
from brainmets.training.synthetic_heads import Example, Frame, draw

HEADS = {"training": range(1, 15), "tuning": range(15, 17), "test": range(17, 21)}
"""Which of SynthSeg's label maps serve for what."""
OUTPUT_SCALE_MM = 10.0
"""While learning, the network's output times this is the distance; folded in at the end."""
MISS_COST = 3.0
"""What a voxel drawn outside brain + CSF costs, where one drawn inside costs 1."""
VERSION = "4"
"""Of the built-in extractor: raised when the same command makes another."""
CHECKPOINT_EVERY = 100
REPORT_EVERY = 25
Progress = Callable[[int, int, float], None]
"""Called with the step done, all steps, and the mean loss since the last call."""


@dataclass(frozen=True)
class Design:
    """What is trained: the network's shape and the windows it sees."""

    sizes: StripSizes
    frame: Frame


DESIGNS = {
    "builtin": Design(
        StripSizes(features=24, most_features=64, levels=4, block=2, fields=2),
        Frame((80, 96, 80), 2.0),
    ),
    "synthstrip": Design(StripSizes(), Frame((64, 64, 64), 1.0, wander=True)),
}


@dataclass(frozen=True)
class Schedule:
    """How long and how a network is trained.

    Attributes:
        steps: images seen, one a step, each of them new.
        seed: of weights and images.
        learning_rate: AdamW's peak, reached after a twentieth of the steps, then half a
            cosine down.
        precision: ``"bf16"`` or ``"f32"`` arithmetic in the network.
    """

    steps: int = 2600
    seed: int = 1
    learning_rate: float = 8e-4
    precision: str = "f32"

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.steps < 1 or self.learning_rate <= 0 or self.precision not in ("bf16", "f32"):
            raise ConfigError(
                f"{self}: expected 1 step or more, a rate above 0, precision 'bf16' or 'f32'"
            )


@dataclass
class Run:
    """A training run: what its checkpoint holds."""

    network: SynthStrip
    optimiser: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)


def train_extractor(
    anatomy_folder: Path,
    out: Path,
    schedule: Schedule,
    *,
    design: str = "builtin",
    most_seconds: float = math.inf,
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Train on label maps 01–14, choose the borders on 15–16, test on 17–20.

    Args:
        anatomy_folder: holds ``training_seg_01.nii.gz`` … ``_20.nii.gz`` (SynthSeg's maps).
        out: the file to write: the built-in extractor as ``.safetensors``, with its card in
            a ``.json`` of the same name; SynthStrip's shape as a checkpoint such as
            ``synthstrip.1.pt``. A run's state is kept beside it until it is whole.
        schedule: steps, seed, rate and precision.
        design: a name in :data:`DESIGNS`.
        most_seconds: after this long the run stops at a checkpoint; started again, it goes on.
        progress: called every 25 steps.

    Returns:
        The card; None if the run stopped before its end, or for SynthStrip's shape.

    Raises:
        ConfigError: no such design, or a checkpoint of a run of other settings.
        ReadError: a label map is missing or unusable.
        RunError: the loss is no longer finite.
        WriteError: ``out`` cannot be written.
    """
    if design not in DESIGNS:
        raise ConfigError(f"design {design!r}; expected one of {', '.join(DESIGNS)}")
    training, tuning, testing = (_paths(anatomy_folder, n) for n in HEADS.values())
    checkpoint = out.with_name(out.name + ".checkpoint")
    deadline = time.monotonic() + most_seconds
    network = fit(
        read_heads(training), DESIGNS[design], schedule, checkpoint,
        deadline=deadline, progress=progress,
    )  # fmt: skip
    if network is None:
        return None
    if design == "synthstrip":
        _write_checkpoint(network, out)
        return None
    return _write_builtin(network, out, schedule, [read_heads(tuning), read_heads(testing)])


def _paths(folder: Path, numbers: Sequence[int]) -> list[Path]:
    paths = [folder / f"training_seg_{n:02d}.nii.gz" for n in numbers]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ReadError(f"{folder.name}: {', '.join(missing)} missing; expected label maps 01–20")
    return paths


def _write_checkpoint(network: SynthStrip, out: Path) -> None:
    """As SynthStrip's own weights are stored."""
    with whole_file(out) as temporary, temporary.open("wb") as file:
        torch.save({"model_state_dict": _weights(network)}, file)


def _write_builtin(
    network: SynthStrip, out: Path, schedule: Schedule, held_out: Sequence[list[Head]]
) -> dict[str, Any]:
    """Weights in float16 and their card; the figures are those of the rounded weights."""
    rounded = {name: tensor.half() for name, tensor in _weights(network).items()}
    network.load_state_dict(rounded)
    with whole_file(out) as temporary:
        temporary.write_bytes(save(rounded))
    card = {
        **describe(schedule),
        **measure(network, DESIGNS["builtin"].frame, *held_out),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    write_json(out.with_suffix(".json"), card)
    return card


def _weights(network: SynthStrip) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def describe(schedule: Schedule) -> dict[str, Any]:
    """The part of the built-in extractor's card that is known before any result."""
    names = {part: [f"training_seg_{n:02d}" for n in numbers] for part, numbers in HEADS.items()}
    design = DESIGNS["builtin"]
    return {
        "name": "brainmets built-in brain extractor",
        "version": VERSION,
        "architecture": asdict(design.sizes),
        "spacing_mm": design.frame.spacing_mm,
        "recipe": {
            **asdict(schedule),
            "command": "brainmets models train-extractor MAPS --out extractor.safetensors "
            f"--steps {schedule.steps} --seed {schedule.seed} --precision {schedule.precision}",
            "images": "synthetic heads of random contrast, drawn anew each step",
            "miss_cost": MISS_COST,
            "window": "×".join(map(str, design.frame.shape)),
            "optimiser": "AdamW, one-cycle",
        },
        "data": {
            **names,
            "source": "SynthSeg training label maps (BBillot/SynthSeg), Apache-2.0",
            "contract": "brain + CSF; the spinal canal ends 5 mm below brain stem and cerebellum",
            "second field": "tissue: brain and ventricles, fissures up to 16 mm wide closed",
        },
        "limits": [
            "trained on images synthesised from 14 label maps of adults, on no real scan",
            "works at 2 mm; the edge between voxels is interpolated",
            "not tested on newborns, after large craniotomies, or on other than head scans",
        ],
        "licence": "Apache-2.0",
    }


# --- the loop -------------------------------------------------------------------


def fit(
    heads: list[Head],
    design: Design,
    schedule: Schedule,
    checkpoint: Path,
    *,
    deadline: float = math.inf,
    progress: Progress | None = None,
) -> SynthStrip | None:
    """A network trained on ``heads``, in evaluation mode; None if time ran out.

    The run is a function of heads, design, schedule and seed: bit for bit in float32 on one
    machine, in however many legs; bfloat16 is not repeatable to the last bit on every
    processor.
    """
    run, settings = _start(design, schedule), _settings(heads, design, schedule)
    if checkpoint.is_file():
        _resume(run, checkpoint, settings)
    for image in _examples(heads, design.frame, schedule, run.step):
        if time.monotonic() >= deadline:
            _save(run, checkpoint, settings)
            return None
        run.losses.append(_learn(run, image, schedule))
        if run.step % CHECKPOINT_EVERY == 0:
            _save(run, checkpoint, settings)
        if progress and (run.step % REPORT_EVERY == 0 or run.step == schedule.steps):
            progress(run.step, schedule.steps, float(np.mean(run.losses[-REPORT_EVERY:])))
    _save(run, checkpoint, settings)
    return _fold_in_scale(run.network).eval()


def example(heads: list[Head], frame: Frame, seed: int, number: int) -> Example:
    """Example ``number`` of a seed: a function of these alone, whichever thread draws it."""
    return draw(heads, frame, Chance(seed * 1_000_003 + number))


def _examples(heads: list[Head], frame: Frame, schedule: Schedule, first: int) -> Iterator[Example]:
    """Examples ``first`` … ``steps`` - 1, drawn ahead in another thread."""
    with ThreadPoolExecutor(1) as pool:
        numbers = iter(range(first, schedule.steps))
        ahead = deque(
            pool.submit(example, heads, frame, schedule.seed, n) for n in islice(numbers, 3)
        )
        while ahead:
            drawn = ahead.popleft().result()
            if (number := next(numbers, None)) is not None:
                ahead.append(pool.submit(example, heads, frame, schedule.seed, number))
            yield drawn


def _settings(heads: list[Head], design: Design, schedule: Schedule) -> str:
    """What a checkpoint must have in common with the run that goes on from it."""
    centres = [head.centre for head in heads]
    return json.dumps([VERSION, asdict(design), asdict(schedule), centres], sort_keys=True)


def _start(design: Design, schedule: Schedule) -> Run:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        network = _initialised(SynthStrip(design.sizes))
    # torch's annotations of ``to`` lack memory_format
    network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), schedule.learning_rate, betas=(0.9, 0.99))
    return Run(network, optimiser)


def _initialised(network: SynthStrip) -> SynthStrip:
    """Weights that keep the signal's size through all layers (He 2015); there is no norm layer."""
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter, a=0.2)
        else:
            nn.init.zeros_(parameter)
    nn.init.normal_(_last_parameters(network)[0], std=0.01)
    return network


def _last_parameters(network: SynthStrip) -> list[nn.Parameter]:
    """Weight and bias of the convolution that gives the distance."""
    return list(network.parameters())[-2:]


def _fold_in_scale(network: SynthStrip) -> SynthStrip:
    with torch.no_grad():
        for parameter in _last_parameters(network):
            parameter.mul_(OUTPUT_SCALE_MM)
    return network


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up over a twentieth of the steps, then half a cosine to nearly 0."""
    warm = max(1, schedule.steps // 20)
    if step < warm:
        return schedule.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, schedule.steps - warm)
    return schedule.learning_rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * share)))


def _learn(run: Run, drawn: Example, schedule: Schedule) -> float:
    """One optimiser step."""
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(schedule, run.step)
    batch = drawn.image[None, None].to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16, enabled=schedule.precision == "bf16"):
        predicted = run.network(batch)[0]
    loss = distance_loss(
        predicted.float() * OUTPUT_SCALE_MM, drawn.distances[: len(predicted)], drawn.seen
    )
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RunError(f"the loss is {value} at step {run.step}; lower the learning rate")
    run.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimiser.step()
    run.step += 1
    return value


def distance_loss(predicted: Tensor, distances: Tensor, seen: Tensor) -> Tensor:
    """Mean absolute error (mm) of clamped distances, five times heavier at the surface.

    A brain + CSF drawn too small costs :data:`MISS_COST` times what one drawn too large
    does: where a scan does not tell the surface, its outer quantile is learnt, not its
    median (Koenker R, Bassett G. Regression quantiles. Econometrica 1978;46:33-50).

    Args:
        predicted: (fields, x, y, z); the first is the distance to brain + CSF.
        distances: the true ones, of the same shape.
        seen: (x, y, z); what lies outside the field of view does not count.
    """
    weight = seen * (1 + 4 * torch.exp(-distances.abs() / 3))
    bounded = predicted + (predicted.clamp(-FURTHEST_MM, FURTHEST_MM) - predicted) * 0.9
    error = bounded - distances
    cost = torch.cat([error[:1].clamp_min(0) * MISS_COST - error[:1].clamp_max(0), error[1:].abs()])
    return (cost * weight).sum() / weight.sum().clamp_min(1)


# --- checkpoints ------------------------------------------------------------------


def _save(run: Run, checkpoint: Path, settings: str) -> None:
    state = {
        "step": run.step, "losses": run.losses,
        "network": run.network.state_dict(), "optimiser": run.optimiser.state_dict(),
    }  # fmt: skip
    write_checkpoint(checkpoint, settings, state)


def _resume(run: Run, checkpoint: Path, settings: str) -> None:
    names = ("step", "losses", "network", "optimiser")
    saved = read_checkpoint(checkpoint, lambda held: bool(held == settings), names)
    run.network.load_state_dict(saved["network"])
    run.optimiser.load_state_dict(saved["optimiser"])
    run.step, run.losses = saved["step"], saved["losses"]
