"""A study in sentences: what was found and how, ready to be pasted and edited."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import brainmets
from brainmets.evaluation.paper.plan import ALL, BETWEEN, Study
from brainmets.evaluation.paper.results import Cells, Results
from brainmets.evaluation.paper.rows import Group

LEVEL = 0.05
NAMES = {"dice": "Dice (F1)", "iou": "IoU", "mcc": "MCC", "auc": "AUC", "lesion_f1": "lesion F1"}


def name_of(measure: str) -> str:
    """A measure as papers write it."""
    return NAMES.get(measure, measure.replace("_", " "))


def number(value: float) -> str:
    """Three digits after the point, or a dash."""
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def span(low: float, high: float) -> str:
    """An interval, or a dash where there is none.

    >>> span(-0.5, 0.25), span(math.nan, math.nan)
    ('−0.500 to 0.250', '–')
    """
    return number(math.nan) if math.isnan(low) else f"{number(low)} to {number(high)}"


def p_text(p: float) -> str:
    """A p value as journals ask for it.

    >>> p_text(0.0004), p_text(0.0312)
    ('< 0.001', '= 0.031')
    """
    return "undefined" if math.isnan(p) else "< 0.001" if p < 0.001 else f"= {p:.3f}"


@dataclass(frozen=True)
class Findings:
    """What was found in one cohort, or between cohorts.

    Attributes:
        title: of the cohort.
        scores: a sentence.
        differences: a sentence each.
        times: a sentence, or nothing.
    """

    title: str
    scores: str
    differences: tuple[str, ...]
    times: str


def findings(study: Study, groups: Sequence[Group], results: Results) -> list[Findings]:
    """One a cohort, and one between cohorts."""
    names = {row["cohort"] for row in results.tables["results"]}
    tests = results.tables["tests"]
    told = []
    for group in groups:
        name = group.part.name
        if name in names:
            mine = [r for r in tests if r["cohort"] == name and r["subgroup"] != BETWEEN]
            sentences = tuple(map(_difference, mine))
            told.append(Findings(name, _scores(study, group, results), sentences,
                                 _times(name, results)))  # fmt: skip
    between = [row for row in tests if row["subgroup"] == BETWEEN]
    if between:
        told.append(Findings("between cohorts", "", tuple(map(_difference, between)), ""))
    return told


def _scores(study: Study, group: Group, results: Results) -> str:
    rows = [
        row
        for row in results.tables["results"]
        if row["cohort"] == group.part.name and row["subgroup"] == ALL and row["patients"]
    ]
    told = "; ".join(_mean(row) for row in rows if row["measure"] in study.measures)
    count = len(group.rows)
    return f"In the {group.part.name} cohort of {count} patients, per-patient means were: {told}."


def _mean(row: Cells) -> str:
    text = f"{name_of(row['measure'])} {number(row['mean'])}"
    if math.isnan(row["mean_low"]):
        return text
    return f"{text} (95 % CI {number(row['mean_low'])} to {number(row['mean_high'])})"


def _difference(row: Cells) -> str:
    what = f"{name_of(row['measure'])} by {row['subgroup']} ({row['groups']})"
    if math.isnan(row["p"]):
        return f"{what} was not compared: {row['reason']}."
    verdict = "differed" if row["p_holm"] < LEVEL else "was not shown to differ"
    return (
        f"{what} {verdict} ({row['test']} p {p_text(row['p'])}, Holm p {p_text(row['p_holm'])}; "
        f"{row['effect']} {number(row['size'])}, 95 % CI {number(row['low'])} to "
        f"{number(row['high'])})."
    )


def _times(cohort: str, results: Results) -> str:
    for row in results.tables["times"]:
        if row["cohort"] == cohort:
            return (
                f"The model took {row['model_mean_s']:.1f} s and manual outlining "
                f"{row['manual_mean_s']:.1f} s on average ({row['patients']} patients): "
                f"{100 * row['saved_share']:.1f} % saved (95 % CI "
                f"{100 * row['saved_share_low']:.1f} to {100 * row['saved_share_high']:.1f} %; "
                f"{row['test']} p {p_text(row['p'])})."
            )
    return ""


def methods(study: Study, groups: Sequence[Group], settings: Mapping[str, Any]) -> str:
    """How it was done, in one paragraph."""
    scored = " and ".join(
        f"{len(group.rows)} patients ({group.part.name}, {group.part.role})" for group in groups
    )
    columns = ", ".join(subgroup.column for subgroup in study.subgroups) or "none"
    return (
        f"Predicted masks were compared with reference masks in {scored}. The patient was the unit "
        "of analysis; scores of a patient's several scans were averaged. Lesions were 26-connected "
        "components, and counted as found when they shared a voxel with a predicted one. Scores "
        "that are undefined (no lesion in the reference, an empty prediction) were left out and "
        "counted. Where probabilities were given, AUC is that of the scan's voxels; otherwise the "
        "mean of sensitivity and specificity. Means have BCa bootstrap intervals over patients, "
        f"medians percentile ones ({study.resamples} resamples, seed {study.seed}); lesion "
        "sensitivity by size was resampled by patient. Two groups were compared by Mann and "
        "Whitney's U test (effect: Cliff's delta with Newcombe's interval), more by "
        "Kruskal and Wallis's; paired times by Wilcoxon's signed-rank test. All tests were "
        f"two-sided; p values of one cohort's subgroup tests ({columns}) were adjusted by Holm and "
        "by Benjamini and Hochberg. Agreement is given as ICC(2,1) and Bland–Altman limits. "
        f"Computed with brainmets {brainmets.__version__}, NumPy {settings['versions']['numpy']} "
        f"and SciPy {settings['versions']['scipy']}."
    )
