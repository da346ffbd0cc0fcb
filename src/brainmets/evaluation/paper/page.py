"""study.html: one self-contained page; each number leads to its cell in a CSV file."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from brainmets.evaluation.page import environment
from brainmets.evaluation.paper.checklists import OPEN
from brainmets.evaluation.paper.guidelines import guidelines
from brainmets.evaluation.paper.plan import ALL, Study, file_name
from brainmets.evaluation.paper.results import Cells, Results, address
from brainmets.evaluation.paper.rows import Group
from brainmets.evaluation.paper.words import findings, methods, name_of, number, p_text
from brainmets.evaluation.pictures import WorstCase


@dataclass(frozen=True)
class Cell:
    """A text and where its number stands: RFC 7111's address of a CSV cell."""

    text: str
    address: str = ""
    small: str = ""


@dataclass(frozen=True)
class Table:
    """What the page shows as a table."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def render(  # what the page shows
    study: Study,
    groups: Sequence[Group],
    results: Results,
    figures: Mapping[str, Mapping[str, Mapping[str, bytes]]],
    settings: Mapping[str, Any],
    pictures: Mapping[str, Sequence[WorstCase]],
) -> str:
    """The page as text; the same results give the same text.

    Args:
        study: what was asked.
        groups: cohorts with patients.
        results: the tables.
        figures: by cohort, name and format.
        settings: seeds, versions, hashes.
        pictures: of each cohort's cases of lowest and highest Dice.
    """
    scored = [
        g for g in groups if any(r["cohort"] == g.part.name for r in results.tables["results"])
    ]
    return (
        environment()
        .get_template("paper/study.html.j2")
        .render(
            title=study.title,
            findings=findings(study, groups, results),
            methods=methods(study, scored, settings),
            flow=_flow(results),
            flow_picture=_uri(figures[ALL]["flow"]["svg"]),
            checklists=_checklists(results),
            table1=_table1(groups, results),
            overall=_overall(study, scored, results),
            subgroups=[t for g in scored for t in _subgroups(study, g, results)],
            tests=_tests(results),
            times=_times(results),
            lesions=_lesions(scored, results),
            agreement=_agreement(scored, results),
            undefined=_undefined(results),
            froc=_froc(results),
            calibration=_calibration(results),
            pictures=pictures,
            warnings=results.warnings,
            figures=[
                (cohort, name, f"{file_name(cohort)}-{file_name(name)}", _uri(files["svg"]))
                for cohort, named in figures.items()
                for name, files in named.items()
                if cohort != ALL
            ],
            settings=settings,
        )
    )


def _at(results: Results, table: str, row: Cells, column: str) -> str:
    return address(results.tables, table, row, column)


def _uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"


def _flow(results: Results) -> Table:
    columns = ("scans_in_table", "of_another_split", "scans_analysed", "patients", "without_lesion")
    lines = [
        [
            Cell(row["cohort"]),
            Cell(row["role"]),
            *(Cell(_counted(row[column]), _at(results, "flow", row, column)) for column in columns),
        ]
        for row in results.tables["flow"]
    ]
    return Table("Flow", ["cohort", "role", *(c.replace("_", " ") for c in columns)], lines)


def _counted(value: float) -> str:
    return "–" if math.isnan(value) else str(value)


def _checklists(results: Results) -> list[tuple[str, str, str, Table]]:
    """Name, source, how much of it is answered, and the items of each checklist."""
    found = []
    for one in guidelines().checklists:
        rows = [r for r in results.tables["checklists"] if r["checklist"] == one.name]
        lines = [
            [Cell(r["item"]), Cell(r["topic"], small=r["key"]), Cell(r["answer"], r["cell"]),
             Cell(r["by"])]
            for r in rows
        ]  # fmt: skip
        count = sum(r["by"] != OPEN for r in rows)
        told = f"{count} of {len(rows)} items answered, wholly or in part"
        header = ["item", "topic and key", "answer", "by"]
        found.append((one.name, one.source, told, Table("", header, lines)))
    return found


def _value(results: Results, table: str, row: Cells, column: str, ends: str = "") -> Cell:
    """A number, with its interval in small."""
    low, high = (row.get(f"{ends}{end}", math.nan) for end in ("low", "high"))
    small = "" if math.isnan(low) else f"{number(low)} to {number(high)}"
    return Cell(number(row[column]), _at(results, table, row, column), small)


def _table1(groups: Sequence[Group], results: Results) -> Table:
    rows = results.tables["table1"]
    keys = list(dict.fromkeys((r["characteristic"], r["level"]) for r in rows))
    names = [group.part.name for group in groups]
    by = {(r["characteristic"], r["level"], r["cohort"]): r for r in rows}
    lines = []
    for what, level in keys:
        line = [Cell(f"{what.replace('_', ' ')}{': ' if level else ''}{level}")]
        for name in names:
            row = by.get((what, level, name))
            line.append(Cell("–") if row is None else _count(results, row))
        lines.append(line)
    return Table("Table 1. Patients", ["", *names], lines)


def _count(results: Results, row: Cells) -> Cell:
    if row["summary"]:
        return Cell(row["summary"], _at(results, "table1", row, "summary"), f"n = {row['count']}")
    share = "" if math.isnan(row["share"]) else f"{100 * row['share']:.1f} %"
    return Cell(str(row["count"]), _at(results, "table1", row, "count"), share)


def _overall(study: Study, groups: Sequence[Group], results: Results) -> Table:
    names = [group.part.name for group in groups]
    by = {(r["measure"], r["cohort"]): r for r in results.tables["results"] if r["subgroup"] == ALL}
    header = ["per patient", *(f"{n}: {what}" for n in names for what in ("mean", "median", "n"))]
    lines = []
    for measure in study.measures:
        line = [Cell(name_of(measure))]
        for name in names:
            row = by[measure, name]
            line += [
                _value(results, "results", row, "mean", "mean_"),
                _value(results, "results", row, "median", "median_"),
                Cell(str(row["patients"]), _at(results, "results", row, "patients")),
            ]
        lines.append(line)
    return Table("Scores by cohort", header, lines)


def _subgroups(study: Study, group: Group, results: Results) -> list[Table]:
    name, tables = group.part.name, []
    mine = [r for r in results.tables["results"] if r["cohort"] == name]
    for subgroup in study.subgroups:
        rows = [r for r in mine if r["subgroup"] == subgroup.column]
        levels = list(dict.fromkeys(r["level"] for r in rows))
        by = {(r["measure"], r["level"]): r for r in rows}
        lines = [
            [
                Cell(name_of(measure)),
                *(_value(results, "results", by[measure, lv], "mean", "mean_") for lv in levels),
            ]
            for measure in study.measures
        ]
        if levels:
            counts = {lv: by[study.measures[0], lv] for lv in levels}
            header = [f"{lv} (n = {c['patients'] + c['undefined']})" for lv, c in counts.items()]
            tables.append(Table(f"{name}, by {subgroup.column}: means", ["", *header], lines))
    return tables


def _tests(results: Results) -> Table:
    lines = []
    for row in results.tables["tests"]:
        cells = [Cell(row["cohort"]), Cell(f"{name_of(row['measure'])} by {row['subgroup']}")]
        cells += [Cell(row["groups"]), Cell(row["test"] or row["reason"])]
        cells += [
            Cell(p_text(row[key]).removeprefix("= "), _at(results, "tests", row, key))
            for key in ("p", "p_holm", "p_bh")
        ]
        cells += [Cell(row["effect"]), _value(results, "tests", row, "size")]
        cells.append(Cell(number(row["detectable"]), _at(results, "tests", row, "detectable")))
        lines.append(cells)
    header = ["cohort", "comparison", "patients", "test", "p", "Holm p", "BH p", "effect", "size"]
    return Table("Differences between groups", [*header, "detectable"], lines)


def _times(results: Results) -> Table:
    keys = ("manual_mean_s", "model_mean_s", "manual_median_s", "model_median_s")
    lines = []
    for row in results.tables["times"]:
        share = f"{100 * row['saved_share']:.1f} %"
        ends = f"{100 * row['saved_share_low']:.1f} to {100 * row['saved_share_high']:.1f} %"
        lines.append(
            [
                Cell(row["cohort"]),
                Cell(str(row["patients"])),
                *(Cell(f"{row[k]:.1f}", _at(results, "times", row, k)) for k in keys),
                _seconds(results, row),
                Cell(share, _at(results, "times", row, "saved_share"), ends),
                Cell(p_text(row["p"]).removeprefix("= "), _at(results, "times", row, "p")),
            ]
        )
    header = ["cohort", "n", "by hand, mean s", "model, mean s", "by hand, median s"]
    header += ["model, median s", "saved, s", "saved", "Wilcoxon p"]
    return Table("Time by hand and by the model", header, lines)


def _seconds(results: Results, row: Cells) -> Cell:
    ends = f"{row['saved_low_s']:.1f} to {row['saved_high_s']:.1f}"
    return Cell(f"{row['saved_mean_s']:.1f}", _at(results, "times", row, "saved_mean_s"), ends)


def _lesions(groups: Sequence[Group], results: Results) -> Table:
    rows = results.tables["lesions"]
    names = [group.part.name for group in groups]
    by = {(r["size"], r["cohort"]): r for r in rows}
    lines = []
    for size in dict.fromkeys(r["size"] for r in rows):
        line = [Cell(size)]
        for name in names:
            row = by[size, name]
            line.append(
                Cell(
                    f"{row['found']} of {row['lesions']}",
                    _at(results, "lesions", row, "found"),
                )
            )
            line.append(_value(results, "lesions", row, "sensitivity"))
        lines.append(line)
    header = ["size", *(f"{n}: {what}" for n in names for what in ("found", "sensitivity"))]
    return Table("Lesions found, by equivalent diameter", header, lines)


def _froc(results: Results) -> Table:
    lines = [
        [
            Cell(row["cohort"]),
            Cell(f"{row['false_positives_per_scan']:g}"),
            _value(results, "froc", row, "sensitivity"),
        ]
        for row in results.tables["froc"]
    ]
    return Table("Free response", ["cohort", "false positives per scan", "sensitivity"], lines)


def _calibration(results: Results) -> Table:
    lines = [
        [
            Cell(row["cohort"]),
            Cell(row["probability"]),
            Cell(str(row["voxels"]), _at(results, "calibration", row, "voxels")),
            Cell(
                number(row["mean_probability"]),
                _at(results, "calibration", row, "mean_probability"),
            ),
            _value(results, "calibration", row, "share"),
        ]
        for row in results.tables["calibration"]
    ]
    header = ["cohort", "probability", "voxels", "mean probability", "share that is lesion"]
    return Table("Calibration of voxels' probabilities", header, lines)


def _agreement(groups: Sequence[Group], results: Results) -> Table:
    rows = results.tables["agreement"]
    names = [group.part.name for group in groups]
    by = {(r["measure"], r["cohort"]): r for r in rows}
    lines = [
        [
            Cell(measure.replace("_", " ")),
            *(
                _value(results, "agreement", by[measure, n], "value")
                if (measure, n) in by
                else Cell("–")
                for n in names
            ),
        ]
        for measure in dict.fromkeys(r["measure"] for r in rows)
    ]
    return Table("Patient-wise verdicts and agreement", ["", *names], lines)


def _undefined(results: Results) -> Table:
    lines = [
        [
            Cell(row["cohort"]),
            Cell(name_of(row["measure"])),
            Cell(row["reason"]),
            Cell(str(row["patients"]), _at(results, "undefined", row, "patients")),
        ]
        for row in results.tables["undefined"]
    ]
    return Table("Undefined and left out", ["cohort", "measure", "because", "patients"], lines)
