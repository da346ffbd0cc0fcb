"""A detail network for a model: trained, and fitted to it on validation cases."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from brainmets.cohort import Cohort
from brainmets.concurrency import on_threads
from brainmets.config import to_mapping
from brainmets.errors import CohortError, ConfigError
from brainmets.inference.details import add, drop, judge, look_closely, pyramid_of
from brainmets.inference.predict import predict
from brainmets.io.storage import require_writable
from brainmets.network.bundle import (
    MOST_LOOKS,
    Bundle,
    Detail,
    find,
    read,
    without_findings,
    write,
)
from brainmets.network.choice import Wanted, choose_engine
from brainmets.network.detail import build_detail
from brainmets.network.detail_engine import DetailEngine, detail_engine, example_of
from brainmets.preprocess.prepare import Prepared, restore
from brainmets.training.beginning import RANDOM
from brainmets.training.detail import (
    PLACES,
    RINGS,
    Beginning,
    Schedule,
    log_odds_of,
    sources,
    survey,
    train_detail,
    trained,
    weights_of,
)
from brainmets.training.preparing import prepare_cohort
from brainmets.training.rules import LOWS, Candidate, Tally, best_rule, candidates, worth
from brainmets.training.store import ENTRIES
from brainmets.training.tune import prepared_of, reference_of
from brainmets.volume import Volume, on_grid

SHIFTS = (0.0, -1.0, 1.0, 2.0, 3.0)
"""Taken off the log odds of bright places."""
VETOES = (None, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Log odds below which small findings of the other network are dropped."""
TOGETHER = 2
"""Settings that are tried at a time: each takes a copy of the scan's probabilities and labels."""
CHECKPOINT = "detail.pt"
OF_THE_RULE = ("int8", "results", "sensitivity_by_size", "decision_rule", "calibration")
"""What a card says of a model by its decision rule or temperature, which are others afterwards."""
Count = Callable[[int, int], None]
ByLow = list[list[Candidate]]
"""Candidates of one case, by lower threshold."""
Found = dict[float, list[list[Candidate]]]
"""Of each case, by lower threshold."""
Setting = tuple[float | None, float]
"""Veto and shift."""


@dataclass(frozen=True)
class Listeners:
    """Whom to tell how far things have come; each may be None."""

    preparing: Count | None = None
    looking: Count | None = None
    surveying: Count | None = None
    training: Callable[[int, int, float], None] | None = None
    choosing: Count | None = None


def train_model_detail(  # noqa: PLR0913  # what to train, on what, how, and whom to tell
    bundle: Bundle,
    learn: Cohort,
    check: Cohort,
    out: Path,
    work: Path,
    schedule: Schedule,
    *,
    start: Bundle | None = None,
    workers: int = 1,
    false_positives: float | None = None,
    target_labels: Collection[int] | None = None,
    most_seconds: float = float("inf"),
    listeners: Listeners | None = None,
) -> Bundle | None:
    """The model with a detail network in place of what it had; None if time ran out.

    Its temperature is 1 again: the old one was chosen for other probabilities.

    Args:
        bundle: the model; its other network stays as it is.
        learn: cases with masks to learn from.
        check: cases with masks to choose veto, shift and decision rule on.
        out: the ``.brainmets`` file to write.
        work: holds the prepared store and the checkpoint.
        schedule: how it is trained; its width is the start's, if there is one.
        start: a model with a detail network, whose weights it begins with; None: random ones.
        workers: processes that prepare scans.
        false_positives: see :func:`brainmets.training.rules.best_rule`.
        target_labels: labels of the masks that are lesion; None: all above 0.
        most_seconds: of training; started again, it goes on.
        listeners: progress.

    Raises:
        CohortError: no case, or nothing to learn from.
        ConfigError: a start without a detail network or of other voxels, or a checkpoint of a run
            of other settings.
        WriteError: ``out`` or ``work`` cannot be written to.
    """
    if not len(check):
        raise CohortError("no case with a mask to choose the decision rule on")
    require_writable(out.parent)
    tell = listeners or Listeners()
    begun = None
    if start:
        detail = _detail_of(start, bundle)
        begun, schedule = build_detail(start, detail), replace(schedule, width=detail.width)
    prepared = prepare_cohort(
        learn, bundle.recipe, work / ENTRIES, target_labels=target_labels, workers=workers,
        progress=tell.preparing,
    )  # fmt: skip
    blank = Detail({}, schedule.width, PLACES, RINGS, MOST_LOOKS)
    keys, checkpoint = [case.key for case in prepared], work / CHECKPOINT
    network = trained(schedule, checkpoint, keys, begun)
    if network is None:
        data = sources(prepared, bundle.recipe, blank.most, blank.rings, tell.looking)
        beginning = None
        if begun:
            mistakes = partial(survey, data, log_odds_of(begun, schedule), tell.surveying)
            beginning = Beginning(begun, mistakes)
        network = train_detail(
            data, bundle.recipe.spacing_mm, schedule, checkpoint, start=beginning,
            learnt_from=keys, most_seconds=most_seconds, progress=tell.training,
        )  # fmt: skip
    if network is None:
        return None
    ready = _with_example(replace(bundle, detail=replace(blank, weights=weights_of(network))))
    fitted, said = fit(ready, check, tell.choosing, target_labels=target_labels,
                       false_positives=false_positives)  # fmt: skip
    kept = {name: words for name, words in bundle.card.items() if name not in OF_THE_RULE}
    training = {"cases": len(learn), "training": asdict(schedule)}
    if start and start.detail:
        before = without_findings(start.card.get("detail", {}))
        training["start"] = {
            "model": start.name, "detail_network": start.detail.identity(), **before
        }  # fmt: skip
    card = {**kept, "detail": {**said, **training}}
    int8 = bundle.int8 and replace(bundle.int8, is_default=False)
    write(replace(fitted, name=out.stem, card=card, int8=int8, temperature=1.0), out)
    return read(out)


def _detail_of(start: Bundle, bundle: Bundle) -> Detail:
    """The detail network of a start, refused where it cannot be one of this model."""
    if start.detail is None:
        raise ConfigError(f"{start.name} has no detail network to start from")
    if start.recipe.spacing_mm != bundle.recipe.spacing_mm:
        raise ConfigError(
            f"{start.name} sees voxels of {start.recipe.spacing_mm} mm and {bundle.name} of "
            f"{bundle.recipe.spacing_mm} mm; start from a model of the same, or from none"
        )
    return start.detail


def model_to_start_from(bundle: Bundle, start: str | None) -> Bundle | None:
    """The model whose detail network training begins with; None: it begins with none.

    Args:
        bundle: the model that gets one; its own is taken where nothing is said.
        start: a model's name or file, or :data:`brainmets.training.beginning.RANDOM`.

    Raises:
        BundleError: no such model.
    """
    if start is None:
        return bundle if bundle.detail else None
    return None if start == RANDOM else read(find(start))


def _with_example(bundle: Bundle) -> Bundle:
    """The bundle with what its detail network gives here, by which others verify it."""
    engine = detail_engine(bundle, "torch cpu")
    if bundle.detail is None or engine is None:
        return bundle
    return replace(bundle, detail=replace(bundle.detail, example=example_of(engine)))


def fit(
    bundle: Bundle,
    cohort: Cohort,
    progress: Count | None = None,
    *,
    target_labels: Collection[int] | None = None,
    false_positives: float | None = None,
) -> tuple[Bundle, dict[str, Any]]:
    """The bundle with the veto, shift and decision rule that find most, and what they find.

    Among equals the first wins: no veto, the smallest shift.

    Both networks in float32, after ``restore``, on the scanner's grid as in use.

    Args:
        bundle: with a detail network.
        cohort: with reference masks; figures are pooled over it.
        progress: called with (done, total).
        target_labels: labels of the masks that are lesion; None: all above 0.
        false_positives: see :func:`brainmets.training.rules.best_rule`.
    """
    engine, _ = choose_engine(bundle, Wanted(device="cpu", precision="f32"))
    unshifted = replace(bundle, detail=bundle.detail and replace(bundle.detail, shift=0.0))
    detail = detail_engine(unshifted, engine.name)
    if bundle.detail is None or detail is None:
        raise CohortError(f"{bundle.name} has no detail network to fit")
    settings = list(product(VETOES, SHIFTS))
    found: list[Found] = [{low: [] for low in LOWS} for _ in settings]
    alone: Found = {low: [] for low in LOWS}
    truths = 0
    for done, case in enumerate(cohort, start=1):
        prepared = prepared_of(case, bundle)
        tiles = predict(prepared, engine, bundle.tiling)
        reference = on_grid(reference_of(case, target_labels), prepared.source,
                            "reference mask and scan")  # fmt: skip
        truths += int(reference.data.max())
        _gather(alone, _candidates_of(tiles, prepared, reference))
        tried = _tried(tiles, prepared, reference, detail, settings)
        for each, of_case in zip(found, tried, strict=True):
            _gather(each, of_case)
        if progress:
            progress(done, len(cohort))
    best = [best_rule(each, truths, false_positives) for each in found]
    ranks = [worth(tally, truths, len(cohort), false_positives) for _, tally in best]
    number = ranks.index(max(ranks))
    (veto, shift), (rule, tally) = settings[number], best[number]
    said = {
        "shift": shift,
        "veto": veto,
        "decision_rule": to_mapping(rule),
        "validation": _said(tally, truths, len(cohort)),
        "validation_without_it": _said(
            best_rule(alone, truths, false_positives)[1], truths, len(cohort)
        ),
    }
    fitted = replace(bundle.detail, shift=shift, veto=veto)
    return replace(bundle, detail=fitted, rule=rule), said


def _tried(
    tiles: Volume,
    prepared: Prepared,
    reference: Volume,
    detail: DetailEngine,
    settings: Sequence[Setting],
) -> list[ByLow]:
    """What each setting finds in one case; what makes no difference is tried once."""
    pyramid = pyramid_of(prepared)
    seen = look_closely(prepared, detail, pyramid)
    judged = judge(tiles, prepared, detail, pyramid)
    keys = [(sum(each.is_dropped(veto) for each in judged), shift) for veto, shift in settings]
    different = dict(zip(keys, settings, strict=True))
    found: dict[tuple[int, float], ByLow] = {}

    def one(key: tuple[int, float]) -> None:
        veto, shift = different[key]
        less = [replace(each, log_odds=each.log_odds - shift) for each in seen]
        both = add(drop(tiles.with_data(tiles.data.copy()), judged, veto), less)
        found[key] = _candidates_of(both, prepared, reference)

    on_threads(one, list(different), most=TOGETHER)
    return [found[key] for key in keys]


def _candidates_of(tiles: Volume, prepared: Prepared, reference: Volume) -> ByLow:
    """By lower threshold, on the scanner's grid."""
    probability = restore(tiles, prepared)
    return [candidates(probability, reference, low) for low in LOWS]


def _gather(found: Found, case: ByLow) -> None:
    for low, each in zip(LOWS, case, strict=True):
        found[low].append(each)


def _said(tally: Tally, truths: int, scans: int) -> dict[str, float]:
    return {
        "lesion_f1": round(tally.f1(truths), 3),
        "lesion_sensitivity": round(tally.found / truths, 3) if truths else 0.0,
        "false_positives_per_scan": round(tally.wrong / scans, 3),
    }
