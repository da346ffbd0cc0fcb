"""stress.html: one self-contained page of heat maps, tables and the free-response curve."""

from collections.abc import Mapping
from typing import Any

from brainmets.evaluation.figures import froc_figure, heat_figure, size_figure
from brainmets.evaluation.page import environment, svg_uri


def render(summary: Mapping[str, Any]) -> str:
    """The page as text; the same summary gives the same text.

    Args:
        summary: as :func:`brainmets.evaluation.stress_tables.summarise` makes it, with
            ``settings``.
    """
    template = environment().get_template("stress.html.j2")
    return template.render(summary=summary, figures=_figures(summary), heats=_heats(summary))


def _figures(summary: Mapping[str, Any]) -> dict[str, str]:
    if summary["froc"] is None:
        return {}
    overall = summary["overall"]
    pooled = {
        "lesion_sensitivity": overall["sensitivity"],
        "false_positives_per_scan": overall["false_positives_per_scan"],
    }
    sizes = {
        row["group"]: {
            "lesion_sensitivity": row["sensitivity"],
            "found": row["found"],
            "reference_lesions": row["lesions"],
        }
        for row in summary["by_lesion"]["size"]
    }
    return {
        "sizes": svg_uri(size_figure(sizes)),
        "froc": svg_uri(froc_figure({"froc": summary["froc"], "pooled": pooled})),
    }


def _heats(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and picture of each heat map that has a lesion."""
    return [
        (heat["axis"], svg_uri(heat_figure(heat)))
        for heat in summary["heat"]
        if any(map(any, heat["lesions"]))
    ]
