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
from safetensors.torch import load, save
from torch import Tensor, nn

from brainmets.errors import ConfigError, ReadError, RunError
from brainmets.io.storage import whole_file, write_json
from brainmets.network.strip_sizes import StripSizes
from brainmets.network.synthstrip import SynthStrip
from brainmets.training.chance import Chance
from brainmets.training.checkpoints import read_checkpoint, write_checkpoint
from brainmets.training.extractor_scores import measure
from brainmets.training.heads import FURTHEST_MM, GAP_MM, Head, read_heads
from brainmets.training.synthetic_heads import Example, Frame, draw

HEADS = {"training": range(1, 15), "tuning": range(15, 17), "test": range(17, 21)}
"""Which of SynthSeg's label maps serve for what."""
OUTPUT_SCALE_MM = 10.0
"""While learning, the network's output times this is the distance; folded in at the end."""
OUTER_QUANTILE = 0.8
"""Of the places where the brain's surface may be, the share that the second surface holds."""
VERSION = "5"
"""Of the built-in extractor: raised when the same command makes another."""
TOLD = ("version", "sha256", "recipe")
"""Of the extractor that training begins with, in the card of the new one."""
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


@dataclass(frozen=True)
class Start:
    """An earlier extractor, whose weights training begins with.

    Attributes:
        weights: its file's content, safetensors.
        card: what lies beside it.
    """

    weights: bytes
    card: dict[str, Any]


def read_start(path: Path) -> Start:
    """An extractor that :func:`train_extractor` wrote: weights, with their card beside them.

    Raises:
        ReadError: no such file, or no card that is of these weights.
    """
    card_path = path.with_suffix(".json")
    if not (path.is_file() and card_path.is_file()):
        raise ReadError(f"{path.name}: expected weights, and {card_path.name}, their card, beside")
    weights = path.read_bytes()
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReadError(f"{card_path.name}: not JSON ({error})") from error
    if missing := [key for key in (*TOLD, "architecture") if key not in card]:
        raise ReadError(f"{card_path.name}: {', '.join(missing)} missing; expected a card")
    if hashlib.sha256(weights).hexdigest() != card["sha256"]:
        raise ReadError(f"{card_path.name} is not the card of {path.name}: its SHA-256 is another")
    return Start(weights, card)


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
    start: Start | None = None,
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
        start: an earlier extractor of the same shape to begin with; else random weights.
        most_seconds: after this long the run stops at a checkpoint; started again, it goes on.
        progress: called every 25 steps.

    Returns:
        The card; None if the run stopped before its end, or for SynthStrip's shape.

    Raises:
        ConfigError: no such design, a start of another shape, or a checkpoint of a run of other
            settings.
        ReadError: a label map is missing or unusable.
        RunError: the loss is no longer finite.
        WriteError: ``out`` cannot be written.
    """
    if design not in DESIGNS:
        raise ConfigError(f"design {design!r}; expected one of {', '.join(DESIGNS)}")
    if start and start.card["architecture"] != asdict(DESIGNS[design].sizes):
        raise ConfigError(f"the network to begin with is not of the shape of {design!r}")
    training, tuning, testing = (_paths(anatomy_folder, n) for n in HEADS.values())
    checkpoint = out.with_name(out.name + ".checkpoint")
    deadline = time.monotonic() + most_seconds
    network = fit(
        read_heads(training), DESIGNS[design], schedule, checkpoint,
        start=start, deadline=deadline, progress=progress,
    )  # fmt: skip
    if network is None:
        return None
    if design == "synthstrip":
        _write_checkpoint(network, out)
        return None
    held_out = [read_heads(tuning), read_heads(testing)]
    return _write_builtin(network, out, describe(schedule, start), held_out)


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
    network: SynthStrip, out: Path, known: dict[str, Any], held_out: Sequence[list[Head]]
) -> dict[str, Any]:
    """Weights in float16 and their card; the figures are those of the rounded weights."""
    rounded = {name: tensor.half() for name, tensor in _weights(network).items()}
    network.load_state_dict(rounded)
    with whole_file(out) as temporary:
        temporary.write_bytes(save(rounded))
    card = {
        **known,
        **measure(network, DESIGNS["builtin"].frame, *held_out),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    write_json(out.with_suffix(".json"), card)
    return card


def _weights(network: SynthStrip) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def describe(schedule: Schedule, start: Start | None = None) -> dict[str, Any]:
    """The part of the built-in extractor's card that is known before any result."""
    begun = start and {key: start.card[key] for key in TOLD}
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
            f"--steps {schedule.steps} --seed {schedule.seed} --precision {schedule.precision}"
            + (" --start FILE" if start else ""),
            "start": begun,
            "images": "synthetic heads of random contrast, drawn anew each step",
            "outer_quantile": OUTER_QUANTILE,
            "window": "×".join(map(str, design.frame.shape)),
            "optimiser": "AdamW, one-cycle",
        },
        "data": {
            **names,
            "source": "SynthSeg training label maps (BBillot/SynthSeg), Apache-2.0",
            "contract": "brain + CSF; the spinal canal ends 5 mm below brain stem and cerebellum",
            "closed_by_mm": GAP_MM,
            "fields": "signed distance (mm) to the brain's surface: its median, and the "
            f"{OUTER_QUANTILE:g} quantile of where it may be, counted outwards",
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
    start: Start | None = None,
    deadline: float = math.inf,
    progress: Progress | None = None,
) -> SynthStrip | None:
    """A network trained on ``heads``, in evaluation mode; None if time ran out.

    The run is a function of heads, design, schedule, seed and start: bit for bit in float32 on one
    machine, in however many legs; bfloat16 is not repeatable to the last bit on every
    processor.
    """
    run, settings = _start(design, schedule, start), _settings(heads, design, schedule, start)
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


def _settings(heads: list[Head], design: Design, schedule: Schedule, start: Start | None) -> str:
    """What a checkpoint must have in common with the run that goes on from it."""
    centres = [head.centre for head in heads]
    begun = start.card["sha256"] if start else None
    return json.dumps([VERSION, asdict(design), asdict(schedule), centres, begun], sort_keys=True)


def _start(design: Design, schedule: Schedule, start: Start | None) -> Run:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        network = _initialised(SynthStrip(design.sizes))
    if start:
        network.load_state_dict(load(start.weights))
        _scale_last(network, 1 / OUTPUT_SCALE_MM)
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
    _scale_last(network, OUTPUT_SCALE_MM)
    return network


def _scale_last(network: SynthStrip, by: float) -> None:
    with torch.no_grad():
        for parameter in _last_parameters(network):
            parameter.mul_(by)


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
    loss = distance_loss(predicted.float() * OUTPUT_SCALE_MM, drawn.distance, drawn.seen)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RunError(f"the loss is {value} at step {run.step}; lower the learning rate")
    run.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimiser.step()
    run.step += 1
    return value


def distance_loss(predicted: Tensor, distance: Tensor, seen: Tensor) -> Tensor:
    """Error (mm) of clamped distances, five times heavier at the surface: the fields' sum.

    The first field's error is absolute, so that it learns the median of what the surface may
    be. The second's is weighed by its sign, so that it learns :data:`OUTER_QUANTILE`: where a
    scan does not tell the surface the two part (Koenker R, Bassett G. Regression quantiles.
    Econometrica 1978;46:33-50).

    Args:
        predicted: (fields, x, y, z), one field or two.
        distance: the true one, (x, y, z).
        seen: (x, y, z); what lies outside the field of view does not count.
    """
    weight = seen * (1 + 4 * torch.exp(-distance.abs() / 3))
    bounded = predicted + (predicted.clamp(-FURTHEST_MM, FURTHEST_MM) - predicted) * 0.9
    error = bounded - distance
    inside, outside = error[1:].clamp_min(0), -error[1:].clamp_max(0)
    outer = 2 * (OUTER_QUANTILE * inside + (1 - OUTER_QUANTILE) * outside)
    cost = torch.cat([error[:1].abs(), outer])
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
