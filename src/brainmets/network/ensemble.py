"""Several networks as one model: their probabilities are averaged.

Networks trained on other folds of a cohort err in other places; the mean of their
probabilities errs less (Lakshminarayanan et al. 2017, arXiv:1612.01474). It costs the time
of all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from brainmets.config import DecisionRule
from brainmets.errors import ConfigError
from brainmets.network.bundle import Bundle, member_name, without_findings
from brainmets.network.engines import Engine, Tile

UNTUNED = "the median of its members' rules; brainmets tune chooses one for the whole"
"""What the card says of the decision rule."""


@dataclass(frozen=True)
class Averaged:
    """The mean probability of several engines.

    Attributes:
        engines: one for each member, of one kind.
    """

    engines: tuple[Engine, ...]

    @property
    def name(self) -> str:
        """For reports: how many, and what they run on."""
        return f"{self.engines[0].name}, mean of {len(self.engines)}"

    def __call__(self, tile: Tile) -> Tile:
        """See :class:`brainmets.network.engines.Engine`."""
        total = self.engines[0](tile)
        for engine in self.engines[1:]:
            total = total + engine(tile)
        return np.asarray(total / np.float32(len(self.engines)), np.float32)


def engine_of(bundle: Bundle, make: Callable[[Bundle], Engine]) -> Engine:
    """The engine of a bundle, from a maker of engines for single networks."""
    engines = tuple(map(make, bundle.members()))
    return engines[0] if len(engines) == 1 else Averaged(engines)


def combine(bundles: Sequence[Bundle], name: str, make: Callable[[Bundle], Engine]) -> Bundle:
    """One bundle that averages several models; an ensemble's members are taken one by one.

    Args:
        bundles: two models or more, of one architecture, recipe and tiling.
        name: of the new model.
        make: gives the engine that computes the new example.

    Raises:
        ConfigError: too few models, two with the same weights, or models that differ.
    """
    if not bundles:
        raise ConfigError("no model to average; give two or more")
    first = bundles[0]
    for other in bundles[1:]:
        for part in ("architecture", "recipe", "tiling"):
            if getattr(other, part) != getattr(first, part):
                raise ConfigError(
                    f"{other.name} has another {part} than {first.name}; only models that differ "
                    "in their weights alone can be averaged"
                )
    if len({bundle.detail and bundle.detail.identity() for bundle in bundles}) > 1:
        raise ConfigError(
            "the models have different detail networks, or not every one has one; average those "
            "without, and add one to the whole with `brainmets models train-detail`"
        )
    members = [member for bundle in bundles for member in bundle.members()]
    if len(members) < 2:
        raise ConfigError(f"{len(members)} network to average; give two models or more")
    _require_different(members)
    weights = {
        member_name(number, tensor): values
        for number, member in enumerate(members)
        for tensor, values in member.weights.items()
    }
    rules = [bundle.rule for bundle in bundles]
    rule = DecisionRule(
        median(r.low for r in rules), median(r.high for r in rules),
        median(r.smallest_mm3 for r in rules),
    )  # fmt: skip
    whole = replace(
        first, name=name, weights=weights, card=_card(bundles), rule=rule, temperature=1.0,
        networks=len(members), sha256="", int8=None,
    )  # fmt: skip
    shown = np.asarray(first.example["input"], np.float32)
    output = engine_of(whole, make)(shown)
    return replace(whole, example={"input": shown, "output": output})


def _require_different(members: Sequence[Bundle]) -> None:
    seen: list[Bundle] = []
    for member in members:
        for other in seen:
            if all(np.array_equal(member.weights[k], other.weights[k]) for k in member.weights):
                raise ConfigError(
                    f"{member.name} and {other.name} hold the same weights; give each model once"
                )
        seen.append(member)


def _card(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """What each member's card says, and what holds for all."""
    kept = ("trained_on", "licence", "limits", "results", "split", "training", "members")
    members = [
        {"name": bundle.name, "sha256": bundle.sha256,
         **{key: bundle.card[key] for key in kept if key in bundle.card}}
        for bundle in bundles
    ]  # fmt: skip
    said = {
        key: bundles[0].card[key]
        for key in ("licence", "limits")
        if all(bundle.card.get(key) == bundles[0].card.get(key) for bundle in bundles)
        and key in bundles[0].card
    }
    if bundles[0].detail and "detail" in bundles[0].card:
        said["detail"] = without_findings(bundles[0].card["detail"])
    trained_on = dict.fromkeys(str(bundle.card.get("trained_on", "")) for bundle in bundles)
    return {
        **said, "trained_on": "; ".join(filter(None, trained_on)), "decision_rule": UNTUNED,
        "members": members,
    }  # fmt: skip
