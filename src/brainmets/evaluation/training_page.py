"""The page beside a trained model: how it learnt, from whom, and how well it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brainmets.evaluation.figures import (
    best_step,
    curve_figure,
    found_figure,
    rate_figure,
    reliability_figure,
)
from brainmets.evaluation.lesionwise import SIZE_BINS
from brainmets.evaluation.page import environment, svg_uri
from brainmets.evaluation.pictures import WorstCase

HEADLINES = (
    ("lesion_sensitivity", "of the lesions were found"),
    ("false_positives_per_scan", "false positives per scan"),
    ("lesion_f1", "lesion F1"),
    ("median_dice", "median Dice of a case"),
)


@dataclass(frozen=True)
class Side:
    """Cases with one part in a training.

    Attributes:
        name: ``training``, ``validation`` or ``test``.
        cases: their identifiers.
        patients: how many persons they are of.
        lesions: of each case as it was prepared; empty where cases were only scored.
    """

    name: str
    cases: tuple[str, ...]
    patients: int
    lesions: tuple[int, ...] = ()


@dataclass(frozen=True)
class History:
    """Of every step, in order.

    Attributes:
        losses: of the step's patches.
        rates: the learning rate.
        checked: loss on patches of validation cases by step, where it was looked at.
        found: lesion F1 in whole validation cases by step, where they were looked at.
    """

    losses: tuple[float, ...]
    rates: tuple[float, ...]
    checked: Mapping[int, float]
    found: Mapping[int, float] = field(default_factory=dict)


def render(
    name: str,
    card: Mapping[str, Any],
    settings: Mapping[str, Any],
    sides: Sequence[Side],
    history: History,
    pictures: Sequence[WorstCase] = (),
) -> str:
    """The page as text; the same run gives the same text.

    Args:
        name: of the model.
        card: of its bundle.
        settings: further groups of settings by name: architecture, recipe, decision rule, ….
        sides: who was learnt from, who chose the rule, who tested.
        history: of the training.
        pictures: of validation cases.
    """
    figures = {
        "loss": curve_figure(history.losses, history.checked),
        "rate": rate_figure(history.rates),
        **({"found": found_figure(history.found)} if history.found else {}),
    }
    if "calibration" in card:
        figures["reliability"] = reliability_figure(card["calibration"])
    keep = card.get("training", {}).get("keep", "last")
    results = card.get("results", {})
    shown = list(results)[-1] if results else None  # the test, if there is one
    sizes = card.get("sensitivity_by_size", {})
    return (
        environment()
        .get_template("training.html.j2")
        .render(
            name=name,
            card=card,
            figures={key: svg_uri(svg) for key, svg in figures.items()},
            shown=shown,
            headlines=[(results[shown][key], key, text) for key, text in HEADLINES]
            if shown
            else [],
            results=results,
            sizes=[(bin_, sizes[bin_]) for bin_ in SIZE_BINS if bin_ in sizes],
            sides=sides,
            settings=settings,
            steps=len(history.losses),
            started=0 in history.found,
            pictures=pictures,
            keep=keep,
            kept=best_step(history.found) if keep == "best" and any(history.found) else None,
        )
    )
