"""The figures of an evaluation as SVG text: the same numbers give the same bytes.

Letters are drawn as paths of the font that matplotlib brings, so that the figures look the
same everywhere.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from brainmets.evaluation.case import CaseScores
from brainmets.evaluation.lesionwise import SIZE_BINS
from brainmets.evaluation.patientwise import Patient

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, RULE = "#16202a", "#566472", "#d8dee4"
MAIN, OTHER = "#0b5c8a", "#b3261e"
SIZE_IN = (4.7, 3.3)
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "brainmets",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def froc_figure(summary: Mapping[str, Any]) -> str:
    """The free-response curve with its interval band, operating points, and the masks given."""
    froc, pooled = summary["froc"], summary["pooled"]

    def plot(axes: "Axes") -> None:
        curve = froc["curve"]
        x = curve["false_positives_per_scan"]
        axes.fill_between(x, curve["low"], curve["high"], color=MAIN, alpha=0.15, linewidth=0)
        axes.plot(
            x, curve["sensitivity"], color=MAIN, drawstyle="steps-post", label="all thresholds"
        )
        points = froc["operating_points"]
        axes.plot(
            [p["allowed"] for p in points],
            [p["sensitivity"]["value"] for p in points],
            "o",
            color=MAIN,
            markersize=4,
            label="operating points",
        )
        given = pooled["false_positives_per_scan"]["value"]
        beyond = given > max(x)  # a mark outside the axes would push them off the page
        axes.plot(
            [max(x) if beyond else given],
            [pooled["lesion_sensitivity"]["value"]],
            ">" if beyond else "D",
            color=OTHER,
            markersize=6,
            label=f"the masks as given{f': {given:.3g} per scan' if beyond else ''}",
            clip_on=False,
        )
        axes.set(xlabel="false positives per scan", ylabel="lesion sensitivity")
        axes.set(xlim=(0, max(x)), ylim=(0, 1.02))
        axes.legend(loc="lower right")

    return _svg(plot)


def size_figure(by_size: Mapping[str, Any]) -> str:
    """Lesion sensitivity by size, with intervals and numbers."""

    def plot(axes: "Axes") -> None:
        for place, name in enumerate(SIZE_BINS):
            row = by_size[name]
            score = row["lesion_sensitivity"]
            bounds = score["interval"]
            if not math.isnan(bounds["low"]):
                axes.plot([place, place], [bounds["low"], bounds["high"]], color=MAIN, linewidth=2)
            axes.plot([place], [score["value"]], "o", color=MAIN, markersize=7)
        labels = [
            f"{n}\n{by_size[n]['found']} of {by_size[n]['reference_lesions']}" for n in SIZE_BINS
        ]
        axes.set_xticks(range(len(SIZE_BINS)), labels)
        axes.set(xlabel="equivalent diameter", ylabel="lesion sensitivity", ylim=(-0.02, 1.02))
        axes.set_xlim(-0.5, len(SIZE_BINS) - 0.5)

    return _svg(plot)


def strip_figure(cases: Sequence[CaseScores]) -> str:
    """Dice of every case and of every lesion that was found, with medians."""
    of_cases = [s.value for case in cases if (s := case.score_of("dice")).defined]
    of_lesions = [
        lesion.dice.value for case in cases for lesion in case.lesions.reference if lesion.matched
    ]

    def plot(axes: "Axes") -> None:
        for height, values in ((1, of_cases), (0, of_lesions)):
            spread = [height + 0.5 * ((0.618034 * i) % 1 - 0.5) for i in range(len(values))]
            axes.plot(sorted(values), spread, "o", color=MAIN, alpha=0.5, markersize=4, mew=0)
            if values:
                middle = sorted(values)[(len(values) - 1) // 2 : len(values) // 2 + 1]
                median = sum(middle) / len(middle)
                axes.plot(
                    [median, median], [height - 0.36, height + 0.36], color=OTHER, linewidth=2
                )
        axes.set_yticks(
            [1, 0], [f"cases\n(n = {len(of_cases)})", f"found\nlesions\n(n = {len(of_lesions)})"]
        )
        axes.set(xlabel="Dice (line: median)", xlim=(0, 1.02), ylim=(-0.6, 1.6))
        axes.grid(visible=False, axis="y")

    return _svg(plot)


def count_figure(patients: Sequence[Patient]) -> str:
    """Predicted against reference number of lesions, a dot a patient."""
    there, said = [p.reference_lesions for p in patients], [p.predicted_lesions for p in patients]
    most = max([1, *there, *said])

    def plot(axes: "Axes") -> None:
        axes.plot([0, most], [0, most], color=SOFT, linewidth=0.8, linestyle="--")
        axes.plot(there, said, "o", color=MAIN, alpha=0.5, markersize=6, mew=0, clip_on=False)
        axes.set(xlabel="lesions in the reference", ylabel="lesions predicted")
        axes.set(xlim=(-0.02 * most, 1.05 * most), ylim=(-0.02 * most, 1.05 * most))
        axes.locator_params(integer=True)

    return _svg(plot)


def burden_figure(patients: Sequence[Patient], summary: Mapping[str, Any]) -> str:
    """Bland–Altman plot of the total volume, in mL."""
    means = [(p.predicted_mm3 + p.reference_mm3) / 2000 for p in patients]
    apart = [(p.predicted_mm3 - p.reference_mm3) / 1000 for p in patients]

    def plot(axes: "Axes") -> None:
        axes.plot(means, apart, "o", color=MAIN, alpha=0.5, markersize=6, mew=0)
        for name, style in (("bias", "-"), ("lower_limit", "--"), ("upper_limit", "--")):
            value = summary["per_patient"][f"burden_{name}_mm3"]["value"]
            if not math.isnan(value):
                axes.axhline(value / 1000, color=OTHER, linewidth=1.2, linestyle=style)
        axes.set(xlabel="mean of both volumes, mL", ylabel="predicted − reference, mL")

    return _svg(plot)


def heat_figure(heat: Mapping[str, Any]) -> str:
    """Sensitivity by group (rows) and size (columns) as colours, with found of all in each field.

    Groups and sizes without a lesion are white and empty; rows of such fields alone are left out.
    """
    rows = [n for n, counts in enumerate(heat["lesions"]) if any(counts)]
    lesions, found = ([heat[key][n] for n in rows] for key in ("lesions", "found"))

    def plot(axes: "Axes") -> None:
        shares = [
            [f / n if n else math.nan for f, n in zip(*pair, strict=True)]
            for pair in zip(found, lesions, strict=True)
        ]
        axes.pcolormesh(shares, cmap="RdYlBu", vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
        for y, pair in enumerate(zip(found, lesions, strict=True)):
            for x, (f, n) in enumerate(zip(*pair, strict=True)):
                if n:
                    text, ink = f"{f / n:.2f}\n{f} of {n}", "w" if abs(f / n - 0.5) > 0.37 else INK
                    axes.text(
                        x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, color=ink
                    )
        sizes = [name.removesuffix(" mm") for name in heat["sizes"]]
        axes.set_xticks([x + 0.5 for x in range(len(sizes))], sizes)
        axes.set_yticks([y + 0.5 for y in range(len(rows))], [heat["groups"][n] for n in rows])
        axes.set(xlabel="equivalent diameter, mm", ylabel=heat["axis"])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(length=0)

    return _svg(plot)


def curve_figure(losses: Sequence[float], checked: Mapping[int, float], smooth: int = 20) -> str:
    """The loss of every step, its mean over ``smooth`` steps, and the validation loss by step."""

    def plot(axes: "Axes") -> None:
        steps = range(1, len(losses) + 1)
        axes.plot(steps, losses, color=MAIN, alpha=0.2, linewidth=0.6)
        means = [sum(losses[max(0, n - smooth) : n]) / min(n, smooth) for n in steps]
        axes.plot(steps, means, color=MAIN, label=f"training, mean of {smooth} steps")
        if checked:
            axes.plot(
                list(checked), list(checked.values()), "o-", color=OTHER, markersize=4,
                label="patches of validation cases",
            )  # fmt: skip
        top = sorted(means)[int(0.98 * (len(means) - 1))] if losses else 1.0
        axes.set(xlabel="step", ylabel="loss", xlim=(0, max(1, len(losses))))
        axes.set_ylim(0, 1.15 * max([top, *checked.values()]))
        axes.legend(loc="upper right")

    return _svg(plot)


def rate_figure(rates: Sequence[float]) -> str:
    """The learning rate of every step."""

    def plot(axes: "Axes") -> None:
        axes.plot(range(1, len(rates) + 1), rates, color=MAIN)
        axes.set(xlabel="step", ylabel="learning rate", xlim=(0, max(1, len(rates))))
        axes.set_ylim(bottom=0)

    return _svg(plot)


def reliability_figure(calibration: Mapping[str, Any]) -> str:
    """Share of lesion against the probability told, as the network gives it and calibrated."""

    def plot(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], "--", color=SOFT, linewidth=0.8, label="as it should be")
        drawn = (("as_it_comes", OTHER, "as it comes"), ("calibrated", MAIN, "calibrated"))
        for key, color, words in drawn:
            bins = calibration[key]["bins"]
            axes.plot(
                [row["mean_probability"] for row in bins], [row["share"] for row in bins], "o-",
                color=color, markersize=4, label=words,
            )  # fmt: skip
        axes.set(xlabel="probability told", ylabel="share of lesion", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left")

    return _svg(plot)


def best_step(f1: Mapping[int, float]) -> int:
    """The step that found most; of equals the last."""
    return max(f1, key=lambda step: (f1[step], step))


def found_figure(f1: Mapping[int, float]) -> str:
    """Lesion F1 in whole validation cases by step, the best marked."""

    def plot(axes: "Axes") -> None:
        axes.plot(list(f1), list(f1.values()), "o-", color=OTHER, markersize=4)
        best, last = best_step(f1), max(1, *f1)
        axes.plot(best, f1[best], "o", color=MAIN, markersize=8, fillstyle="none")
        axes.annotate(f"{f1[best]:.2f}", (best, f1[best]), (0, 9), textcoords="offset points",
                      ha="center", color=MAIN)  # fmt: skip
        axes.set(xlabel="step", ylabel="lesion F1", xlim=(-0.03 * last, 1.03 * last), ylim=(0, 1))

    return _svg(plot)


def _svg(plot: Callable[["Axes"], None]) -> str:
    """What ``plot`` draws on one set of axes, without a date and with fixed names inside."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    file = io.StringIO()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        plot(figure.subplots())
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
