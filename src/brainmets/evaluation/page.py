"""evaluation.html: one self-contained page on how well a cohort's masks agree."""

import base64
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from brainmets.evaluation.case import CaseScores
from brainmets.evaluation.figures import (
    burden_figure,
    count_figure,
    froc_figure,
    size_figure,
    strip_figure,
)
from brainmets.evaluation.matching import merges_and_splits
from brainmets.evaluation.pictures import WorstCase
from brainmets.evaluation.summary import patients_of, undefined_counts

ABSENT = "–"
HEADLINES = (
    ("lesion_sensitivity", "of the lesions were found"),
    ("lesion_precision", "of the predicted lesions are there"),
    ("false_positives_per_scan", "false positives per scan"),
)
"""Of all lesions together; the first two are shares."""


def render(
    cases: Sequence[CaseScores], summary: Mapping[str, Any], worst: Sequence[WorstCase] = ()
) -> str:
    """The page as text; the same scores give the same text.

    Args:
        cases: their scores.
        summary: of the cases, with ``settings``.
        worst: pictures of the worst cases.
    """
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            summary=summary,
            headlines=[(summary["pooled"][name], text, name) for name, text in HEADLINES],
            figures=_figures(cases, summary),
            structure=_merged_and_split(cases),
            undefined_rows=_undefined(summary),
            worst=worst,
            settings=summary.get("settings", {}),
        )
    )


def _figures(cases: Sequence[CaseScores], summary: Mapping[str, Any]) -> dict[str, str]:
    patients = patients_of(cases)
    figures = {
        "sizes": size_figure(summary["by_size"]),
        "strip": strip_figure(cases),
        "counts": count_figure(patients),
        "burden": burden_figure(patients, summary),
    }
    if summary["froc"]["reason"] is None and summary["froc"]["lesions"]:
        figures["froc"] = froc_figure(summary)
    return {name: svg_uri(text) for name, text in figures.items()}


def _undefined(summary: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Each reason with its number of cases and the scores that it leaves undefined there."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name, reason, count in undefined_counts(summary):
        groups.setdefault((reason, count), []).append(_words(name))
    return [(reason, count, ", ".join(names)) for (reason, count), names in groups.items()]


def _merged_and_split(cases: Sequence[CaseScores]) -> list[tuple[str, str]]:
    """Case by case which lesions were taken together and which fell apart, in words."""
    rows = []
    for case in cases:
        found = merges_and_splits(case.overlaps)
        rows += [
            (case.case_id, f"predicted lesion {label} covers lesions {_listed(parts)}")
            for label, parts in found.merged.items()
        ]
        rows += [
            (case.case_id, f"lesion {label} is in predicted pieces {_listed(parts)}")
            for label, parts in found.split.items()
        ]
    return rows


def _listed(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels))


@functools.cache
def environment() -> jinja2.Environment:
    """For templates of this room: text is escaped, and a name a template misspells is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brainmets.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "range": _range, "percent": _percent,
                            "words": _words, "plain": _plain, "jpeg": _jpeg}  # fmt: skip
    return environment


def _number(value: float) -> str:
    """Three digits that count; nothing is rounded up to 1.

    >>> _number(0.12345), _number(-1234.5), _number(0.99996), _number(float("nan"))
    ('0.123', '−1,234', '> 0.999', '–')
    """
    if math.isnan(value):
        return ABSENT
    if 0.9995 <= value < 1:
        return "> 0.999"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def _percent(value: float) -> str:
    return ABSENT if math.isnan(value) else f"{100 * value:.1f} %"


def _range(bounds: Mapping[str, Any], *, percent: bool = False) -> str:
    """An interval, or why there is none."""
    if math.isnan(bounds["low"]):
        return f"no interval: {bounds['reason']}"
    text = _percent if percent else _number
    return f"{text(bounds['low'])} to {text(bounds['high'])}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(k))} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return (
        "smallest voxel side"
        if value is None
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _jpeg(data: bytes) -> str:
    return _uri("jpeg", data)


def svg_uri(text: str) -> str:
    """A drawing as an address that holds it."""
    return _uri("svg+xml", text.encode("utf-8"))


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
