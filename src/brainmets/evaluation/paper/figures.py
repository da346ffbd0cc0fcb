"""The figures of a study, each as SVG, PDF and PNG; the same numbers give the same bytes."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from brainmets.evaluation.figures import INK, MAIN, OTHER, SOFT, STYLE
from brainmets.evaluation.paper.plan import Study
from brainmets.evaluation.paper.results import (
    Cells,
    Results,
    patient_scores,
    patients_of,
    split_rows,
)
from brainmets.evaluation.paper.rows import Group
from brainmets.evaluation.paper.words import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = ("dice", "iou", "precision", "sensitivity", "mcc", "auc", "lesion_sensitivity",
          "lesion_precision", "lesion_f1")  # fmt: skip
"""Measures between 0 and 1 that fill an axis; specificity lies in its last thousandth."""

FORMATS: Mapping[str, Mapping[str, Any]] = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    "png": {"metadata": {"Software": None}, "dpi": 300},
}
Plot = Callable[["Axes"], None]


def figures_of(study: Study, group: Group, results: Results) -> dict[str, dict[str, bytes]]:
    """The figures of one cohort by name and format; one without data is left out."""
    plots: dict[str, tuple[Plot, tuple[float, float]]] = {}
    shown = [m for m in SHARES if m in study.measures]
    series = {name_of(m).replace(" ", "\n"): [row.value(m) for row in group.rows] for m in shown}
    if any(not math.isnan(v) for values in series.values() for v in values):
        plots["measures"] = (_strips(series, "per patient"), (7.2, 3.6))
    forest = _forest_rows(group, results)
    if forest:
        plots["subgroups"] = (_forest(forest), (7.2, 0.9 + 0.3 * len(forest)))
    for column, values in _by_subgroup(study, group).items():
        plots[f"by-{column}"] = (_strips(values, name_of(study.tested[0])), (4.7, 3.3))
    if len(group.rows) > 1:
        plots["volumes"] = (_bland_altman(group), (4.7, 3.3))
    if group.part.name in results.curves:
        plots["froc"] = (_froc(results.curves[group.part.name]), (4.7, 3.3))
    rows = [r for r in results.tables["calibration"] if r["cohort"] == group.part.name]
    if rows:
        plots["calibration"] = (_calibration(rows[:-1]), (4.7, 3.3))
    surest, ill = patient_scores(group)
    if any(ill) and not all(ill):
        plots["roc"] = (_roc(surest, ill), (4.7, 3.3))
    times = [(r.value("manual_time_s"), r.value("model_time_s")) for r in group.rows]
    both = [pair for pair in times if not math.isnan(sum(pair))]
    if both:
        plots["times"] = (_times(both), (4.7, 3.3))
    return {name: _drawn(plot, size) for name, (plot, size) in plots.items()}


def flow_figure(results: Results) -> dict[str, bytes]:
    """How each cohort's scans became patients, as boxes from top to bottom."""
    rows = results.tables["flow"]
    size = (2.5 * max(len(rows), 1), 2.7)
    return _drawn(_flow(rows), size)


def _flow(rows: Sequence[Cells]) -> Plot:
    def plot(axes: "Axes") -> None:
        style = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": SOFT}
        arrow = {"arrowstyle": "->", "color": SOFT, "shrinkA": 13, "shrinkB": 13}
        for place, row in enumerate(rows):
            steps = [f"{row['cohort']} ({row['role']})\n{row['scans_in_table']} scans in the table"]
            steps += [f"{row['scans_analysed']} scans analysed", f"{row['patients']} patients"]
            if not math.isnan(row["without_lesion"]):
                ill = row["patients"] - row["without_lesion"]
                steps[-1] += f"\n{ill} with, {row['without_lesion']} without a lesion"
            heights = [2.0, 1.0, 0.0]
            for text, height in zip(steps, heights, strict=True):
                axes.text(place, height, text, ha="center", va="center", fontsize=8, bbox=style)
            for above, below in pairwise(heights):
                axes.annotate("", (place, below), (place, above), arrowprops=arrow)
            if row["of_another_split"]:
                text = f"{row['of_another_split']} of another split"
                axes.text(place + 0.06, 1.5, text, fontsize=7, color=SOFT, va="center")
        axes.set(xlim=(-0.6, len(rows) - 0.4), ylim=(-0.5, 2.5))
        axes.axis("off")

    return plot


def _by_subgroup(study: Study, group: Group) -> dict[str, dict[str, list[float]]]:
    if not study.tested:
        return {}
    found = {}
    for subgroup in study.subgroups:
        parts = split_rows(subgroup, group.rows)
        values = {
            f"{level}\nn = {len(rows)}": [row.value(study.tested[0]) for row in rows]
            for level, rows in parts.items()
        }
        if len(values) > 1:
            found[subgroup.column] = values
    return found


def _strips(series: Mapping[str, Sequence[float]], label: str) -> Plot:
    """Every patient as a point beside the box of quartiles."""

    def plot(axes: "Axes") -> None:
        scatter = np.random.default_rng(0)
        for place, values in enumerate(series.values()):
            there = np.array([v for v in values if not math.isnan(v)])
            if not there.size:
                continue
            aside = place + scatter.uniform(-0.28, 0.28, there.size)
            axes.plot(aside, there, "o", color=MAIN, alpha=0.3, markersize=2.5, mew=0)
            axes.boxplot(
                there, positions=[place], widths=0.62, showfliers=False,
                medianprops={"color": OTHER, "linewidth": 1.6},
                boxprops={"color": INK}, whiskerprops={"color": SOFT}, capprops={"color": SOFT},
            )  # fmt: skip
        axes.set_xticks(range(len(series)), list(series), fontsize=8)
        axes.set(ylabel=label, xlim=(-0.6, len(series) - 0.4))
        axes.grid(visible=False, axis="x")

    return plot


def _forest_rows(group: Group, results: Results) -> list[Cells]:
    return [
        row
        for row in results.tables["tests"]
        if row["cohort"] == group.part.name and row["effect"] == "Cliff's delta"
        if not math.isnan(row["size"])
    ]


def _forest(rows: Sequence[Cells]) -> Plot:
    """Differences between two groups, with intervals; 0 is none."""

    def plot(axes: "Axes") -> None:
        for place, row in enumerate(rows):
            if not math.isnan(row["low"]):
                axes.plot([row["low"], row["high"]], [place, place], color=MAIN, linewidth=2)
            axes.plot([row["size"]], [place], "s", color=MAIN, markersize=5)
        axes.axvline(0, color=OTHER, linewidth=1)
        texts = [f"{name_of(row['measure'])}, {row['subgroup']}: {row['groups']}" for row in rows]
        axes.set_yticks(range(len(rows)), texts, fontsize=8)
        axes.set(xlim=(-1, 1), xlabel="Cliff's delta, first group against second")
        axes.invert_yaxis()

    return plot


def _bland_altman(group: Group) -> Plot:
    def plot(axes: "Axes") -> None:
        patients = patients_of(group.rows)
        pairs = np.array([(p.reference_mm3, p.predicted_mm3) for p in patients]) / 1000
        apart = pairs[:, 1] - pairs[:, 0]
        axes.plot(pairs.mean(axis=1), apart, "o", color=MAIN, alpha=0.5, markersize=3.5, mew=0)
        bias, sd = apart.mean(), apart.std(ddof=1)
        for height, style in ((bias, "-"), (bias - 1.96 * sd, "--"), (bias + 1.96 * sd, "--")):
            axes.axhline(height, color=OTHER, linewidth=1.1, linestyle=style)
        axes.set(xlabel="mean of both volumes, mL", ylabel="predicted − reference, mL")

    return plot


def _froc(found: Mapping[str, Any]) -> Plot:
    def plot(axes: "Axes") -> None:
        curve = found["curve"]
        x = curve["false_positives_per_scan"]
        axes.fill_between(x, curve["low"], curve["high"], color=MAIN, alpha=0.15, linewidth=0)
        axes.plot(x, curve["sensitivity"], color=MAIN, drawstyle="steps-post")
        axes.set(xlabel="false positives per scan", ylabel="lesion sensitivity")
        axes.set(xlim=(0, max(x)), ylim=(0, 1.02))

    return plot


def _calibration(rows: Sequence[Cells]) -> Plot:
    def plot(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=OTHER, linewidth=1, label="as probable as said")
        for row in rows:
            if not math.isnan(row["low"]):
                axes.plot([row["mean_probability"]] * 2, [row["low"], row["high"]], color=MAIN)
        x, y = ([row[key] for row in rows] for key in ("mean_probability", "share"))
        axes.plot(x, y, "o", color=MAIN, markersize=4)
        axes.set(xlabel="mean probability of the voxels", ylabel="share of them that is lesion")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="upper left")

    return plot


def _roc(values: Sequence[float], truth: Sequence[bool]) -> Plot:
    """Patients with any metastasis against those without, by their surest candidate."""

    def plot(axes: "Axes") -> None:
        said, ill = np.array(values), np.array(truth)
        cuts = [math.inf, *sorted(set(values), reverse=True)]
        sensitivity = [float((said[ill] >= cut).mean()) for cut in cuts]
        alarms = [float((said[~ill] >= cut).mean()) for cut in cuts]
        axes.plot([0, 1], [0, 1], color=OTHER, linewidth=1)
        axes.plot([*alarms, 1], [*sensitivity, 1], color=MAIN)
        axes.set(xlabel="1 − patient specificity", ylabel="patient sensitivity")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))

    return plot


def _times(pairs: Sequence[tuple[float, float]]) -> Plot:
    def plot(axes: "Axes") -> None:
        manual, model = np.array(pairs).T
        axes.plot(manual, model, "o", color=MAIN, alpha=0.5, markersize=3.5, mew=0)
        most = float(max(manual.max(), model.max())) * 1.05
        axes.plot([0, most], [0, most], color=OTHER, linewidth=1, label="equal times")
        axes.set(xlabel="by hand, s", ylabel="by the model, s", xlim=(0, most), ylim=(0, most))
        axes.legend(loc="upper left")

    return plot


def _drawn(plot: Plot, size: tuple[float, float]) -> dict[str, bytes]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    files = {}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        plot(figure.subplots())
        for kind, options in FORMATS.items():
            file = io.BytesIO()
            figure.savefig(file, format=kind, **options)
            files[kind] = file.getvalue()
    return files
