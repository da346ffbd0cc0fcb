"""Training the detail network: places of prepared scans, most of them easily mistaken.

It learns from every lesion, around its centre, where it will be looked at, or anywhere in it, and
from the bright and ringed places (:mod:`brainmets.inference.candidates`) that are none. Of both,
those that it last mistook or has not yet seen come more often (hard examples). Of the places that
are none few are ever drawn: a network that begins with another's weights looks at all of them
first. Outlines are learnt on lesions alone.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from brainmets.concurrency import on_threads
from brainmets.config import Recipe
from brainmets.errors import CohortError, ConfigError, RunError
from brainmets.inference.candidates import APART_SIGMAS, candidates
from brainmets.inference.details import Pyramid
from brainmets.network.bundle import SIDE, weights_digest
from brainmets.network.detail import DetailNet
from brainmets.preprocess.prepare import bounding_box
from brainmets.training.checkpoints import read_checkpoint, write_checkpoint
from brainmets.training.store import PreparedCase
from brainmets.training.validation import as_in_use

CHECKPOINT_EVERY, REPORT_EVERY = 100, 25
LARGE_MM, LARGE_WEIGHT = 11.5, 0.4
"""Lesions from this equivalent diameter on are drawn less often: the other network sees them."""
MIDDLES, SHOWN = 0.5, 0.3
"""How often a lesion is seen at its middle, and at a place that will be looked at."""
PLACES, RINGS = 600, 50
"""Bright and ringed places that a network is shown of a scan. Of 600 more are metastases than of
250: weak ones of a centimetre are not sharp, and there are many vessels."""
SHIFTED_VOX = 2
"""How far off a patch's centre its place may lie."""
CURVE = 1.25
"""The largest power to which the sizes of Z-scores are raised, and the inverse of the smallest:
scanners differ in how bright what enhances is beside how bright tissues are."""
LESION_COST, SOFT = 5.0, 5.0
"""What an outline's voxel inside a lesion weighs; what is added to both terms of Dice."""
OUTLINE_COST = 4.0
SURVEYED = 40
"""Places of which a survey holds patches at a time."""
TOGETHER = 4
"""Cases whose bright places are looked for at a time: each takes threads of its own."""
LEAST_HARD, MOST_HARD = 0.001, 3.0
"""Of the weights by which places that are none are drawn: nearly all are as easy as can be."""
LEAST_HARD_LESION, MOST_HARD_LESION = 0.05, 1.0
"""The same of lesions: those of a voxel or two, which nobody can tell, are not to take over."""
HARD_OTHERS, HARD_LESIONS = 0.75, 0.5
"""Shares of a step's places that are drawn by how hard they were; of the rest, lesions are drawn
by weight and others at random. What was not yet seen, or surveyed, counts 1."""
Progress = Callable[[int, int, float], None]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Schedule:
    """How a detail network is trained.

    Attributes:
        steps: optimiser steps.
        seed: of weights and draws.
        lesions: places a step that lie in a lesion.
        others: places a step that do not.
        learning_rate: AdamW's peak, reached after 50 steps, then half a cosine down.
        width: channels at full resolution.
        precision: ``"bf16"`` or ``"f32"`` arithmetic in the network.
    """

    steps: int = 3000
    seed: int = 1
    lesions: int = 12
    others: int = 20
    learning_rate: float = 2e-3
    width: int = 16
    precision: str = "f32"

    def __post_init__(self) -> None:
        """Check ranges."""
        if min(self.steps, self.lesions, self.others - 1, self.width) < 1 or not (
            0 < self.learning_rate < 1
        ):
            raise ConfigError(f"{self}: expected whole numbers above 0 and a rate between 0 and 1")
        if self.precision not in ("bf16", "f32"):
            raise ConfigError(f"{self}: expected precision 'bf16' or 'f32'")

    def autocast(self) -> torch.autocast:
        """The arithmetic that it asks for, as a context."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")


@dataclass
class Source:
    """A prepared case as places are drawn from it.

    Attributes:
        pyramid: its image.
        labels: lesions 1…n, padded by half a patch.
        lesions: voxels of each lesion (n arrays (N, 3)).
        shown: places in each lesion that will be looked at (n arrays (N, 3)).
        others: such places that are no lesion (N, 3).
    """

    pyramid: Pyramid
    labels: npt.NDArray[np.uint8]
    lesions: list[npt.NDArray[np.int64]]
    shown: list[npt.NDArray[np.int64]]
    others: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Beginning:
    """What training goes on from.

    Attributes:
        network: whose weights it begins with, of the schedule's width.
        survey: gives a :func:`survey` of the data by it; asked for once a run. None: at first all
            places are as hard.
    """

    network: DetailNet
    survey: Callable[[], Float32] | None = None


@dataclass
class Run:
    """A training run: what its checkpoint holds."""

    network: DetailNet
    optimiser: torch.optim.Optimizer
    hardness: Float32
    lesion_hardness: Float32
    step: int = 0
    losses: list[float] = field(default_factory=list)


def sources(
    cases: Sequence[PreparedCase],
    recipe: Recipe,
    most: int,
    rings: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Source]:
    """All cases in memory, about 40 MB each, their bright places found.

    Args:
        cases: of the prepared store.
        recipe: they were prepared by.
        most: bright places of each.
        rings: ringed places of each.
        progress: called with (done, total).
    """
    found: dict[int, Source] = {}
    in_turn = Lock()

    def one(number: int) -> None:
        made = source(cases[number], recipe, most, rings)
        with in_turn:
            found[number] = made
            if progress:
                progress(len(found), len(cases))

    on_threads(one, range(len(cases)), most=TOGETHER)
    return [found[number] for number in range(len(cases))]


def source(case: PreparedCase, recipe: Recipe, most: int, rings: int = 0) -> Source:
    """One case, its brain mask grown by the recipe's margin as in use."""
    whole = as_in_use(case, recipe)
    prepared = replace(whole, box=bounding_box(whole.brain.data))
    labels = np.asarray(case.labels[:], np.uint8)
    places, scales = candidates(prepared, most, rings)
    reach = np.maximum(1, np.rint(APART_SIGMAS * scales / recipe.spacing_mm)).astype(int)
    free = [
        not labels[tuple(slice(max(n - r, 0), n + r + 1) for n in place)].any()
        for place, r in zip(places, reach, strict=True)
    ]
    where = np.argwhere(labels)
    owner = labels[tuple(where.T)]
    numbers = np.unique(owner)
    at = labels[tuple(places.T)]
    return Source(
        Pyramid(np.asarray(whole.volume.data, np.float32), np.float16),
        np.pad(labels, SIDE // 2),
        [where[owner == n] for n in numbers],
        [places[at == n] for n in numbers],
        places[np.array(free, bool)],
    )


def survey(
    data: Sequence[Source],
    log_odds: Callable[[Float32], Float32],
    progress: Callable[[int, int], None] | None = None,
) -> Float32:
    """How hard each place that is no lesion is for a network: the entropy of its word (N,).

    Args:
        data: places in their order, case by case.
        log_odds: the network's, of patches (N, 3, 24, 24, 24).
        progress: called with (done, total).
    """
    costs = [np.zeros(0, np.float32)]
    for done, case in enumerate(data, start=1):
        for first in range(0, len(case.others), SURVEYED):
            part = case.others[first : first + SURVEYED]
            costs.append(np.logaddexp(np.float32(0), log_odds(case.pyramid.around(part))))
        if progress:
            progress(done, len(data))
    return np.concatenate(costs).clip(LEAST_HARD, MOST_HARD)


def log_odds_of(network: DetailNet, schedule: Schedule) -> Callable[[Float32], Float32]:
    """What a network says of patches (N, 3, 24, 24, 24), in the schedule's arithmetic."""

    def log_odds(patches: Float32) -> Float32:
        batch = torch.from_numpy(patches).contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode(), schedule.autocast():
            return np.asarray(network(batch, outlined=0)[0].float().numpy())

    network = network.eval().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return log_odds


def train_detail(
    data: Sequence[Source],
    spacing_mm: float,
    schedule: Schedule,
    checkpoint: Path,
    *,
    start: Beginning | None = None,
    learnt_from: Sequence[str] = (),
    most_seconds: float = math.inf,
    progress: Progress | None = None,
) -> DetailNet | None:
    """A network in evaluation mode; None if time ran out: started again, it goes on.

    A function of data, schedule, seed and start: bit for bit on one machine, in however many legs.

    Args:
        data: to draw from.
        spacing_mm: of its voxels.
        schedule: how long, from which seed.
        checkpoint: its state; made if absent.
        start: what it goes on from; None: random weights.
        learnt_from: names of the data, which a checkpoint must have in common with it.
        most_seconds: of learning, then it stops at a checkpoint; a survey is not counted.
        progress: called every 25 steps with (done, total, mean loss).

    Raises:
        CohortError: no lesion, or no bright place that is none.
        ConfigError: a checkpoint of a run of other settings or data, or a damaged one.
        RunError: the loss is no longer finite.
    """
    lesions = [(case, n) for case in data for n in range(len(case.lesions))]
    others = [(case, place) for case in data for place in case.others]
    if not lesions or not others:
        raise CohortError(
            f"{len(lesions)} lesions and {len(others)} bright places without one; both are needed"
        )
    weights = lesion_weights(lesions, spacing_mm)
    network = start.network if start else None
    settings = _settings(schedule, learnt_from, network)
    run = _start(schedule, len(lesions), len(others), network)
    if checkpoint.is_file():
        _resume(run, checkpoint, settings)
        held, here = (len(run.lesion_hardness), len(run.hardness)), (len(lesions), len(others))
        if held != here:
            raise ConfigError(
                f"{checkpoint.name}: holds a run on {held[0]} lesions and {held[1]} bright places, "
                f"and here there are {here[0]} and {here[1]}; choose another folder, or delete it "
                "to start over"
            )
    elif start and start.survey:
        hardness = start.survey()
        if hardness.shape != run.hardness.shape:
            raise ValueError(f"a survey of {hardness.shape} for {run.hardness.shape} places")
        run.hardness = hardness
        _save(run, checkpoint, settings)
    deadline = time.monotonic() + most_seconds
    while run.step < schedule.steps:
        if time.monotonic() >= deadline:
            _save(run, checkpoint, settings)
            return None
        _learn(run, lesions, others, weights, schedule)
        if run.step % CHECKPOINT_EVERY == 0 or run.step == schedule.steps:
            _save(run, checkpoint, settings)
        if progress and (run.step % REPORT_EVERY == 0 or run.step == schedule.steps):
            progress(run.step, schedule.steps, float(np.mean(run.losses[-REPORT_EVERY:])))
    return run.network.eval()


def trained(
    schedule: Schedule,
    checkpoint: Path,
    learnt_from: Sequence[str],
    start: DetailNet | None = None,
) -> DetailNet | None:
    """The network of a run that has come to its end, which needs no data; None before.

    Raises:
        ConfigError: a checkpoint of a run of other settings.
    """
    if not checkpoint.is_file():
        return None
    run = _start(schedule, 0, 0)
    _resume(run, checkpoint, _settings(schedule, learnt_from, start))
    return run.network.eval() if run.step == schedule.steps else None


def _settings(schedule: Schedule, learnt_from: Sequence[str], start: DetailNet | None) -> str:
    """What a checkpoint must have in common with the run that goes on from it."""
    begun = weights_digest(weights_of(start)) if start else None
    return json.dumps([asdict(schedule), begun, *learnt_from])


def lesion_weights(
    lesions: Sequence[tuple[Source, int]], spacing_mm: float
) -> npt.NDArray[np.float64]:
    """How often each lesion is drawn."""
    volumes = np.array([len(case.lesions[n]) for case, n in lesions]) * spacing_mm**3
    large = volumes >= math.pi / 6 * LARGE_MM**3
    weights = np.where(large, LARGE_WEIGHT, 1.0)
    return np.asarray(weights / weights.sum())


def _start(schedule: Schedule, lesions: int, others: int, start: DetailNet | None = None) -> Run:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        network = DetailNet(schedule.width)
    if start:
        network.load_state_dict(start.state_dict())
    network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), schedule.learning_rate, weight_decay=1e-3)
    return Run(network, optimiser, np.ones(others, np.float32), np.ones(lesions, np.float32))


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up over 50 steps, half a cosine down to a two-hundredth."""
    half = 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
    return schedule.learning_rate * min(1.0, (step + 1) / 50) * (half + 0.005)


def _learn(
    run: Run,
    lesions: Sequence[tuple[Source, int]],
    others: Sequence[tuple[Source, npt.NDArray[np.int64]]],
    weights: npt.NDArray[np.float64],
    schedule: Schedule,
) -> None:
    """One optimiser step."""
    rng = np.random.default_rng([schedule.seed, run.step])
    chosen = _drawn(weights, run.lesion_hardness, schedule.lesions, HARD_LESIONS, rng)
    drawn = _drawn(np.ones(len(others)), run.hardness, schedule.others, HARD_OTHERS, rng)
    places = [(case, _place_in(case, n, rng)) for case, n in (lesions[i] for i in chosen)]
    places += [others[i] for i in drawn]
    patches, outlines = patches_of(places, schedule.lesions, rng)
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(schedule, run.step)
    run.network.train()
    with schedule.autocast():
        scores, found = run.network(patches, outlined=schedule.lesions)
    scores, found = scores.float(), found.float()
    truth = (torch.arange(len(places)) < schedule.lesions).float()
    costs = functional.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    loss = costs.mean() + outline_loss(found, outlines)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RunError(f"the loss is {value} at step {run.step}; lower the learning rate")
    run.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(run.network.parameters(), 5.0)
    run.optimiser.step()
    seen, rest = np.split(costs.detach().numpy(), [schedule.lesions])
    run.lesion_hardness[chosen] = seen.clip(LEAST_HARD_LESION, MOST_HARD_LESION)
    run.hardness[drawn] = rest.clip(LEAST_HARD, MOST_HARD)
    run.losses.append(value)
    run.step += 1


def _drawn(
    weights: npt.NDArray[np.float64],
    hardness: Float32,
    number: int,
    share: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Numbers drawn by weight, but for the last ``share`` of them: by weight times hardness."""
    hard = int(share * number)
    odds = weights * hardness
    return np.concatenate([
        rng.choice(len(weights), number - hard, p=weights / weights.sum()),
        rng.choice(len(weights), hard, p=odds / odds.sum()),
    ])  # fmt: skip


def _place_in(case: Source, number: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A lesion's middle, a place in it that will be looked at, or any of its voxels."""
    voxels, shown = case.lesions[number], case.shown[number]
    kind = rng.random()
    if kind < MIDDLES:
        return np.asarray(np.rint(voxels.mean(0)), np.int64)
    some = shown if kind < MIDDLES + SHOWN and len(shown) else voxels
    return np.asarray(some[rng.integers(len(some))], np.int64)


def patches_of(
    places: Sequence[tuple[Source, npt.NDArray[np.int64]]],
    outlined: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Patches of places, varied: moved, mirrored left to right, in contrast, brightness, noise.

    Returns:
        (N, 3, 24, 24, 24), and the lesions of the first ``outlined`` (n, 24, 24, 24), 0 or 1.
    """
    patches = np.empty((len(places), 3, SIDE, SIDE, SIDE), np.float32)
    truths = np.empty((outlined, SIDE, SIDE, SIDE), np.float32)
    for number, (case, place) in enumerate(places):
        last = np.array(case.labels.shape) - SIDE - 1
        moved = np.clip(place + rng.integers(-SHIFTED_VOX, SHIFTED_VOX + 1, 3), 0, last)
        patch = case.pyramid.around(moved[None])[0]
        inside = patch != 0
        if rng.random() < 0.5:
            power = np.float32(math.exp(rng.uniform(-1, 1) * math.log(CURVE)))
            patch = np.copysign(np.abs(patch) ** power, patch)
        patch = patch * np.float32(rng.uniform(0.8, 1.25)) + np.float32(rng.uniform(-0.3, 0.3))
        if rng.random() < 0.5:
            noise = rng.standard_normal(patch[0].shape, np.float32)
            patch[0] += np.float32(rng.uniform(0, 0.25)) * noise
        patch *= inside
        mirrored = slice(None, None, -1 if rng.random() < 0.5 else 1)
        patches[number] = patch[:, mirrored]
        if number < outlined:
            x, y, z = moved
            cut = case.labels[x : x + SIDE, y : y + SIDE, z : z + SIDE]
            truths[number] = (cut > 0)[mirrored]
    batch = torch.from_numpy(patches).contiguous(memory_format=torch.channels_last_3d)
    return batch, torch.from_numpy(truths)


def outline_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Entropy, lesions weighing more, and Dice of each outline."""
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    weighted = (entropy * (1 + (LESION_COST - 1) * truth)).mean()
    probability = torch.sigmoid(logits)
    both = (probability * truth).sum((1, 2, 3))
    sizes = (probability.square() + truth).sum((1, 2, 3))
    return OUTLINE_COST * weighted + (1 - (2 * both + SOFT) / (sizes + SOFT)).mean()


# --- checkpoints ------------------------------------------------------------------


def _save(run: Run, checkpoint: Path, settings: str) -> None:
    state = {
        "step": run.step, "losses": run.losses, "hardness": torch.from_numpy(run.hardness),
        "lesion_hardness": torch.from_numpy(run.lesion_hardness),
        "network": run.network.state_dict(), "optimiser": run.optimiser.state_dict(),
    }  # fmt: skip
    write_checkpoint(checkpoint, settings, state)


def _resume(run: Run, checkpoint: Path, settings: str) -> None:
    names = ("step", "losses", "hardness", "lesion_hardness", "network", "optimiser")
    saved = read_checkpoint(checkpoint, lambda held: bool(held == settings), names)
    run.network.load_state_dict(saved["network"])
    run.optimiser.load_state_dict(saved["optimiser"])
    run.step, run.losses = saved["step"], saved["losses"]
    run.hardness = saved["hardness"].numpy().copy()
    run.lesion_hardness = saved["lesion_hardness"].numpy().copy()


def weights_of(network: DetailNet) -> dict[str, npt.NDArray[np.float16]]:
    """As a bundle stores them; batch normalisation's counters are left out."""
    return {
        name: tensor.half().numpy()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
