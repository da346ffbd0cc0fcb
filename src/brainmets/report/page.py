"""report.html: one self-contained page for the reader of a case."""

import base64
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import jinja2

from brainmets.lesions import Lesion
from brainmets.report.content import Report, measurable
from brainmets.report.pictures import MANY, Picture, crops, direction, display_of, overview
from brainmets.report.tables import total_volume_mm3

ABSENT = "–"
EMPTY: Mapping[str, Any] = {}
MAIN = ("trained_on", "limits", "results", "licence")
"""What a reader of a case wants to know of a model's card; the rest is folded away."""


def render(report: Report) -> str:
    """The page as text; the same report gives the same text.

    The template is not given the report itself: Jinja keeps what it was given until the next
    round of garbage collection, and a report holds images.
    """
    shown = display_of(report)
    model = report.provenance.get("model") or EMPTY
    card = model.get("card") or EMPTY
    rest = {k: v for k, v in model.items() if k != "card"}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            case_id=report.case_id,
            lesions=report.lesions,
            checks=report.checks,
            has_brain=report.brain is not None,
            overview=overview(shown),
            rows=[(lesion, crops(shown, lesion)) for lesion in report.lesions],
            total_ml=total_volume_mm3(report) / 1000,
            measurable_count=sum(measurable(lesion) is True for lesion in report.lesions),
            attention=[check for check in report.checks if check.passed is False],
            at_edge=[lesion.label for lesion in report.lesions if lesion.touches_mask_edge],
            model=rest,
            main_card={k: card[k] for k in MAIN if k in card},
            card={k: v for k, v in card.items() if k not in {*MAIN, "sensitivity_by_size"}},
            sensitivity=_sensitivity(card.get("sensitivity_by_size")),
            extractor=report.provenance.get("extractor") or EMPTY,
            settings={k: report.provenance.get(k) for k in ("recipe", "decision_rule", "options")},
            engine=report.provenance.get("engine"),
            version=report.provenance.get("brainmets_version"),
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    """Made once: all text is escaped, and a name the template misspells is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brainmets.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "mm": _mm,
        "volume": _volume,
        "probability": _probability,
        "position": _position,
        "yes_no": _yes_no,
        "plain": _plain,
        "words": _words,
        "data_uri": _data_uri,
    }
    environment.tests |= {"nested": _is_nested, "tabular": _is_tabular}
    environment.globals |= {"measurable": measurable, "many": MANY}
    return environment


def _mm(value: float | None) -> str:
    return ABSENT if value is None or math.isnan(value) else f"{value:.1f}"


def _volume(value: float) -> str:
    """In mm³, a decimal only where it says something; thousands set apart by a thin space."""
    return f"{value:,.0f}".replace(",", "\N{THIN SPACE}") if value >= 100 else f"{value:.1f}"


def _probability(value: float | None) -> str:
    return ABSENT if value is None or math.isnan(value) else f"{value:.2f}"


def _position(lesion: Lesion) -> str:
    return " · ".join(direction(axis, x) for axis, x in enumerate(lesion.centroid_ras_mm))


def _yes_no(value: bool | None) -> str:
    return {True: "yes", False: "no", None: ABSENT}[value]


def _plain(value: Any) -> str:
    """One value of the provenance as text."""
    if value is None or value == "":
        return ABSENT
    if isinstance(value, bool):
        return _yes_no(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _is_tabular(value: Any) -> bool:
    """A list of mappings with the same names, none of them nested: rows of a table."""
    if not isinstance(value, list | tuple) or not value:
        return False
    if not all(isinstance(row, Mapping) and row.keys() == value[0].keys() for row in value):
        return False
    return not any(_is_nested(item) for row in value for item in row.values())


def _data_uri(picture: Picture) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode("ascii")


def _size_order(row: tuple[Any, Any]) -> tuple[float, bool, str]:
    """Sorts "< 3", "3–4", "4–6", "≥ 10" as sizes; JSON with sorted keys has lost their order."""
    text = str(row[0])
    number = re.search(r"\d+(\.\d+)?", text)
    return float(number[0]) if number else math.inf, not text.startswith("<"), text


def _sensitivity(values: Any) -> list[tuple[str, str]]:
    """The card's sensitivity by size as (size, sensitivity) rows.

    A card holds it as size → share in [0, 1], or as size → mapping with ``sensitivity``
    and whatever else it states (counts, an interval), which is shown behind it.
    """
    if not isinstance(values, Mapping):
        return [] if values is None else [("all sizes", _plain(values))]
    rows = []
    for size, value in sorted(values.items(), key=_size_order):
        stated = dict(value) if isinstance(value, Mapping) else {"sensitivity": value}
        share = stated.pop("sensitivity", None)
        known = isinstance(share, int | float) and math.isfinite(share)
        text = f"{100 * share:.0f} %" if known else ABSENT
        rest = ", ".join(f"{_words(k)} {_plain(v)}" for k, v in stated.items())
        rows.append((str(size), f"{text} ({rest})" if rest else text))
    return rows
