"""Checklists of reporting guidelines, filled in as far as a study's data tell.

What the data do not tell is the authors' to say, in ``[statements]`` of the study file; a
statement answers its topic in every checklist that asks for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from brainmets.evaluation.paper.guidelines import guidelines
from brainmets.evaluation.paper.plan import ALL, BETWEEN, DESCRIBED, EXTERNAL, TESTED, Study
from brainmets.evaluation.paper.results import Cells, Results, address
from brainmets.evaluation.paper.rows import Group
from brainmets.evaluation.paper.words import LEVEL, name_of, number

DATA, AUTHORS, BOTH, OPEN = "data", "authors", "data and authors", "to be written"
"""Who answers an item."""


@dataclass(frozen=True)
class Answer:
    """What the data say to a topic.

    Attributes:
        text: the answer; empty: nothing.
        cell: address of the first number in it, where there is one.
        whole: whether it answers the topic, or authors must add to it.
    """

    text: str
    cell: str = ""
    whole: bool = True


@dataclass(frozen=True)
class Told:
    """What answers are made from."""

    study: Study
    groups: Sequence[Group]
    results: Results
    settings: Mapping[str, Any]

    @property
    def scored(self) -> list[Group]:
        """The cohorts with scores."""
        return [group for group in self.groups if group.part.role != DESCRIBED]

    def rows(self, table: str, **keys: Any) -> list[Cells]:
        """Rows of a table that hold these values."""
        rows = self.results.tables[table]
        return [r for r in rows if all(r[key] == value for key, value in keys.items())]

    def cell(self, table: str, row: Cells, column: str) -> str:
        """Address of a number; empty where there is none."""
        value = row[column]
        if value == "" or (isinstance(value, float) and math.isnan(value)):
            return ""
        return address(self.results.tables, table, row, column)

    def compared(self, rows: Sequence[Cells]) -> tuple[str, str]:
        """How many of these tests told groups apart, and the address of the first p."""
        made = [r for r in rows if not math.isnan(r["p"])]
        if not made:
            return "none of them could be compared", ""
        shown = [r for r in made if r["p_holm"] < LEVEL]
        named = "; ".join(
            f"{r['cohort']}, {name_of(r['measure'])} by {r['subgroup']}" for r in shown
        )
        text = f"{len(shown)} of {len(made)} differed after Holm's adjustment"
        return text + (f" ({named})" if named else ""), self.cell("tests", made[0], "p_holm")


def checklist_rows(
    study: Study, groups: Sequence[Group], results: Results, settings: Mapping[str, Any]
) -> list[Cells]:
    """One row an item of every checklist, for the page and for ``checklists.csv``."""
    told, known = Told(study, groups, results, settings), guidelines()
    answers = {topic: make(told) for topic, make in FROM_DATA.items()}
    return [
        {"checklist": one.name, "item": item, "topic": known.topics[topic], "key": topic,
         **_answered(answers.get(topic, Answer("")), study.statements.get(topic, ""))}
        for one in known.checklists
        for item, topic in one.items
    ]  # fmt: skip


def _answered(found: Answer, said: str) -> Cells:
    text = " ".join(part for part in (found.text, said.strip()) if part)
    if found.text:
        by = BOTH if said else DATA if found.whole else f"{DATA}; authors to add"
    else:
        by = AUTHORS if said else OPEN
    return {"answer": text, "by": by, "cell": found.cell}


def _flow(told: Told) -> Answer:
    rows = told.rows("flow")
    text = "; ".join(
        f"{r['cohort']}: {r['scans_analysed']} of {r['scans_in_table']} scans, {r['patients']} "
        "patients"
        for r in rows
    )
    return Answer(f"{text}.", told.cell("flow", rows[0], "scans_analysed"), whole=False)


def _characteristics(told: Told) -> Answer:
    names = ["age", *(subgroup.column for subgroup in told.study.subgroups)]
    rows = [r for r in told.rows("table1") if r["characteristic"] in names]
    if not rows:
        return Answer("")
    shown = ", ".join(dict.fromkeys(str(r["characteristic"]).replace("_", " ") for r in rows))
    column = "summary" if rows[0]["summary"] else "count"
    return Answer(f"Table 1, by cohort: {shown}.", told.cell("table1", rows[0], column))


def _partitions(told: Told) -> Answer:
    parts = "; ".join(
        f"{g.part.name} ({g.part.role}): {len(g.rows)} patients"
        + (f", rows with split {g.part.split!r}" if g.part.split else "")
        for g in told.groups
    )
    return Answer(f"{parts}.", whole=False)


def _disjoint(told: Told) -> Answer:
    if len(told.groups) < 2:
        return Answer("One cohort.", whole=False)
    return Answer("Patients: checked, none is in two of the cohorts of this study.")


def _with_role(role: str, absent: str) -> Callable[[Told], Answer]:
    def make(told: Told) -> Answer:
        names = [g for g in told.scored if g.part.role == role]
        if not names:
            return Answer(absent, whole=False)
        rows = told.rows("results", cohort=names[0].part.name, subgroup=ALL)
        parts = ", ".join(f"{g.part.name} ({len(g.rows)} patients)" for g in names)
        return Answer(f"{parts}.", told.cell("results", rows[0], "patients"))

    return make


def _missing(told: Told) -> Answer:
    rows = told.rows("undefined")
    first = "Undefined scores are left out and counted"
    if not rows:
        return Answer(f"{first}; there were none.", whole=False)
    count = sum(r["patients"] for r in rows)
    return Answer(
        f"{first}: {count} of all patients' scores.",
        told.cell("undefined", rows[0], "patients"),
        whole=False,
    )


def _metrics(told: Told) -> Answer:
    return Answer(f"Per patient: {', '.join(map(name_of, told.study.measures))}.")


def _statistics(_: Told) -> Answer:
    return Answer(
        "BCa bootstrap intervals over patients; Mann–Whitney, Kruskal–Wallis and Wilcoxon tests; "
        "p adjusted by Holm and by Benjamini and Hochberg. See the methods paragraph."
    )


def _software(told: Told) -> Answer:
    versions = told.settings["versions"]
    return Answer(
        f"Statistics: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        whole=False,
    )


def _performance(told: Told) -> Answer:
    measure = told.study.measures[0]
    rows = [
        row
        for group in told.scored
        for row in told.rows("results", cohort=group.part.name, subgroup=ALL, measure=measure)
    ]
    text = "; ".join(f"{r['cohort']}: {_spread(r, 'mean', 'mean_')}" for r in rows)
    return Answer(
        f"{name_of(measure)}, {text}. All measures and subgroups: results.csv.",
        told.cell("results", rows[0], "mean"),
    )


def _spread(row: Cells, column: str, ends: str = "") -> str:
    low, high = row[f"{ends}low"], row[f"{ends}high"]
    bounds = "" if math.isnan(low) else f" (95 % CI {number(low)} to {number(high)})"
    return f"{number(row[column])}{bounds}"


def _agreed(measures: Sequence[str]) -> Callable[[Told], Answer]:
    def make(told: Told) -> Answer:
        rows = [
            row
            for group in told.scored
            for measure in measures
            for row in told.rows("agreement", cohort=group.part.name, measure=measure)
            if not math.isnan(row["value"])
        ]
        if not rows:
            return Answer("")
        text = "; ".join(
            f"{r['cohort']}: {r['measure'].replace('_', ' ')} {_spread(r, 'value')}" for r in rows
        )
        return Answer(f"{text}.", told.cell("agreement", rows[0], "value"))

    return make


def _sample_size(told: Told) -> Answer:
    parts = [f"{g.part.name}: {len(g.rows)} patients" for g in told.scored]
    rows = [r for r in told.rows("tests") if not math.isnan(r["detectable"])]
    cell = ""
    if rows:
        least = min(rows, key=lambda r: float(r["detectable"]))
        most = max(rows, key=lambda r: float(r["detectable"]))
        parts.append(
            "smallest difference between two groups shown with 80 % power, as Cliff's delta: "
            f"{number(least['detectable'])} to {number(most['detectable'])}"
        )
        cell = told.cell("tests", least, "detectable")
    return Answer(f"{'; '.join(parts)}.", cell, whole=False)


def _subgroups(told: Told) -> Answer:
    rows = [r for r in told.rows("tests") if r["subgroup"] != BETWEEN]
    if not rows:
        return Answer("")
    columns = ", ".join(subgroup.column for subgroup in told.study.subgroups)
    tested = ", ".join(map(name_of, told.study.tested))
    differed, cell = told.compared(rows)
    return Answer(f"{tested} compared by {columns}: {differed}.", cell, whole=False)


def _between(told: Told) -> Answer:
    rows = told.rows("tests", subgroup=BETWEEN)
    if not rows:
        return Answer("")
    differed, cell = told.compared(rows)
    return Answer(f"Between cohorts: {differed}.", cell, whole=False)


def _failures(told: Told) -> Answer:
    rows = [
        r
        for g in told.scored
        for r in told.rows("lesions", cohort=g.part.name, size=ALL)
        if r["lesions"]
    ]
    if not rows:
        return Answer("")
    missed = "; ".join(
        f"{r['cohort']}: {r['lesions'] - r['found']} of {r['lesions']} lesions missed" for r in rows
    )
    return Answer(
        f"{missed}; by size in lesions.csv. The cases of lowest Dice are shown.",
        told.cell("lesions", rows[0], "found"),
        whole=False,
    )


def _severity(told: Told) -> Answer:
    wanted = ("reference_lesions", "reference_mm3")
    rows = [r for r in told.rows("table1") if r["characteristic"] in wanted]
    if not rows:
        return Answer("")
    text = "; ".join(
        f"{r['cohort']}, {r['characteristic'].removeprefix('reference_')}: {r['summary']}"
        for r in rows
        if r["summary"]
    )
    return Answer(f"{text.replace('mm3', 'mm³')}.", told.cell("table1", rows[0], "summary"))


def _balance(told: Told) -> Answer:
    rows = told.rows("flow")
    text = "; ".join(
        f"{r['cohort']}: {r['without_lesion']} of {r['patients']} patients without a lesion"
        for r in rows
        if r["role"] != DESCRIBED
    )
    scored = [r for r in rows if r["role"] != DESCRIBED]
    return Answer(f"{text}.", told.cell("flow", scored[0], "without_lesion"), whole=False)


def _labels(told: Told) -> Answer:
    labels = ", ".join(map(str, told.study.target)) or "all above 0"
    return Answer(
        f"Reference labels that count as lesion: {labels}; a lesion is a 26-connected component.",
        whole=False,
    )


def _predicted_by(told: Told) -> Answer:
    models = told.settings["predicted by"]
    if not models:
        return Answer("")
    return Answer(f"Masks were made by {', '.join(models)}.", whole=False)


def _availability(told: Told) -> Answer:
    digest = told.settings["SHA-256 of the patients' rows"]
    return Answer(f"Statistics can be repeated: brainmets, study.json (rows {digest[:12]}…).",
                  whole=False)  # fmt: skip


VERDICTS = ("patient_sensitivity", "patient_specificity")

FROM_DATA: Mapping[str, Callable[[Told], Answer]] = {
    "availability": _availability,
    "characteristics": _characteristics,
    "class_imbalance": _balance,
    "cross_tabulation": _agreed(VERDICTS),
    "diagnostic_accuracy": _agreed((*VERDICTS, "patient_auc")),
    "differences": _between,
    "disjoint": _disjoint,
    "external_test": _with_role(EXTERNAL, "No cohort of this study is external."),
    "failures": _failures,
    "fairness": _subgroups,
    "flow": _flow,
    "heterogeneity": _between,
    "indeterminate": _missing,
    "internal_test": _with_role(TESTED, "No cohort of this study is internal."),
    "metrics": _metrics,
    "missing_data": _missing,
    "numbers": _flow,
    "partitions": _partitions,
    "performance": _performance,
    "predictions": _predicted_by,
    "model": _predicted_by,
    "reference_threshold": _labels,
    "sample_size": _sample_size,
    "severity": _severity,
    "software": _software,
    "statistics": _statistics,
    "variability": _subgroups,
}
"""What can be said from the data, by topic."""
