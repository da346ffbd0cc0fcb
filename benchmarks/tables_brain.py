"""The page on brain extraction, from results/brain.json."""

from collections.abc import Callable
from statistics import median
from typing import Any

from recorded import load, table, where

HELD = {
    "recall": "in the mask",
    "recall_of_what_is_kept": "kept",
    "recall_with_margin": "kept with margin",
}
SURFACES = {"brain": "likeliest", "outer": "outer"}
BRAIN_INTRODUCTION = (
    "Made by `python benchmarks/tables.py` from `benchmarks/results/brain.json`. No real scan and "
    "none of the simulated heads took part in training, and borders were chosen on label maps "
    "15–16 alone. Yet the wish for a surface that fits came from a look at the real heads, and "
    "that for a wider outer border from lesions lost in the simulated ones "
    "([0067](../decisions/0067-likeliest-and-outer-surface.md))."
)
BRAIN_KINDS = (
    "The mask is brain + CSF, all that lies inside the dura. NiChart's references (DLMUSE > 0) "
    "leave out some of the outer fluid, so that no mask of brain + CSF fits them wholly. The "
    "reference of head_fg6692 was made by a program; it is shown only. References of simulated "
    "heads are exact. MindGrab's mask is held against the same references. What is kept is the "
    "mask, and more where the extractor is in doubt; a model sees that with a margin of 2 mm."
)
BRAIN_VERSION = "A scan takes MindGrab 70 processor seconds, the built-in extractor one or two."
SURFACE = (
    "The same on the tuning heads, 150 lesions in each: the share kept with margin, by the border "
    "at which the outer surface is cut. Training chose 0.75 mm; in use is 1.75 mm, the first at "
    "which each of the two keeps 99.95 %, so that half of what may be lost of them is left for "
    "new heads."
)
BORDERS = (
    "Distances to the two surfaces, cut at the border in use, and at the one, in steps of an "
    "eighth of a millimetre, that fits the group best, which is the most that a border could "
    "give. No border was chosen by it; on real heads that would be to choose by the test. Maps "
    "15–16 are those from which the borders were chosen, by other images of them."
)


def brain_page() -> str:
    """What was measured of the brain extractors."""
    value = load("brain")["value"]
    missing = "Not run yet: `python benchmarks/brain.py --parts {}`."

    def shown(part: str, make: Callable[[Any], str]) -> str:
        return make(value[part]) if part in value else missing.format(part)

    parts = [
        "# Brain extraction: results",
        BRAIN_INTRODUCTION,
        _brain_measured(value["measured"]),
        "## Fit and recall, by group",
        BRAIN_KINDS,
        BRAIN_VERSION,
        shown("scans", _brain_groups),
        "## Scan by scan",
        shown("scans", _brain_scans),
        "## Where the mask ends",
        BORDERS,
        shown("borders", _brain_borders),
        "## Lesions at the surface",
        shown("lesions", _brain_lesions),
        SURFACE,
        shown("surface", _brain_surface),
        "## Perturbed heads: does the mask suffer, and is it told?",
        shown("perturbed", lambda rows: _brain_perturbed(rows, value.get("scans", []))),
        "## Time and memory",
        shown("time", _brain_times),
    ]
    return "\n\n".join(parts) + "\n"


def _brain_measured(measured: dict[str, dict[str, Any]]) -> str:
    lines = [f"- {part}: {where(made)}" for part, made in measured.items()]
    return "\n".join(["Measured part by part:", "", *lines])


def _brain_groups(rows: list[dict[str, Any]]) -> str:
    shown = []
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group]
        own = [row["dice"] for row in members]
        both = [row for row in members if "mindgrab" in row]
        others = [row["mindgrab"]["dice"] for row in both]
        shown.append([
            group, len(members), f"{median(own):.4f}", f"{min(own):.4f}",
            f"{median(others):.4f} ({len(others)})" if others else None,
            f"{median([row['dice'] for row in both]):.4f}" if both else None,
            *(f"{min(row[key] for row in members):.4f}" for key in HELD),
        ])  # fmt: skip
    header = ["group", "heads", "median Dice", "worst Dice", "MindGrab's median",
              "built-in on the same", *(f"least share {name}" for name in HELD.values()),
              ]  # fmt: skip
    return table(header, shown)


def _brain_scans(rows: list[dict[str, Any]]) -> str:
    shown = [
        [
            row["scan"], row["litres"], row["litres_with_margin"], row["dice"],
            *(row[key] for key in HELD), row.get("mindgrab", {}).get("dice"),
            row.get("mindgrab", {}).get("recall"), "; ".join(row["warnings"]) or None,
        ]
        for row in rows
    ]  # fmt: skip
    header = ["scan", "litres", "litres kept, with margin", "Dice",
              *(f"share {name}" for name in HELD.values()), "MindGrab: Dice",
              "MindGrab: share in the mask", "warnings"]  # fmt: skip
    return table(header, shown)


def _brain_borders(rows: list[dict[str, Any]]) -> str:
    shown = []
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group]
        for surface, name in SURFACES.items():
            fits = [row["fits"][surface] for row in members]
            borders = [border for border, _, _ in fits[0]]
            dices = [median(fit[n][1] for fit in fits) for n in range(len(borders))]
            in_use = borders.index(members[0]["border_mm"][surface])
            best = max(range(len(borders)), key=lambda n: dices[n])
            held = [min(fit[n][2] for fit in fits) for n in (in_use, best)]
            shown.append([
                group, name, borders[in_use], f"{dices[in_use]:.3f}", f"{held[0]:.4f}",
                borders[best], f"{dices[best]:.3f}", f"{held[1]:.4f}",
            ])  # fmt: skip
    header = ["group", "surface", "border in use, mm", "median Dice", "least share held",
              "border that fits best, mm", "median Dice there",
              "least share held there"]  # fmt: skip
    return table(header, shown)


def _brain_lesions(found: dict[str, Any]) -> str:
    names = {"lost_whole": "lost whole, before the margin"}
    rows = [[names.get(k, k.replace("_", " ")), number] for k, number in found.items()]
    return (
        "Simulated lesions of 3 to 18 mm centred within 3 mm of the surface of brain + CSF, in "
        "label maps 17–20; their voxels that lie in brain + CSF.\n\n" + table(["", "value"], rows)
    )


def _brain_surface(rows: list[dict[str, Any]]) -> str:
    shown = []
    for number in dict.fromkeys(row["map"] for row in rows):
        members = [row for row in rows if row["map"] == number]
        voxels = sum(row["voxels"] for row in members)
        borders = [border for border, _ in members[0]["kept"]]
        kept = [sum(row["kept"][n][1] for row in members) for n in range(len(borders))]
        shown.append([number, voxels, *(f"{part / voxels:.5f}" for part in kept)])
    header = ["label map", "voxels in brain + CSF", *(f"{border} mm" for border in borders)]
    return table(header, shown)


def _brain_perturbed(rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> str:
    """The 2×2 table of warning and fall, the rows behind it, and warnings on whole heads."""
    count = {
        (fell, told): sum((r["fall"] > 0.02) == fell and bool(r["warnings"]) == told for r in rows)
        for fell in (True, False)
        for told in (True, False)
    }
    crossed = [
        [name, count[fell, True], count[fell, False]]
        for name, fell in (("Dice fell by more than 0.02", True), ("it did not", False))
    ]
    warned = [row for row in whole if row["warnings"]]
    cut = [row for row in warned if row["reference_is_cut"]]
    detail = [
        [r["scan"], r["perturbation"], r["dice_before"], r["dice"], r["fall"], r["recall"],
         "; ".join(r["warnings"]) or None]
        for r in rows
    ]  # fmt: skip
    header = ["scan", "perturbation", "Dice before", "Dice", "fall", "share kept with margin",
              "warnings"]  # fmt: skip
    parts = [
        table(["perturbed heads", "warning", "no warning"], crossed),
        (
            f"Unperturbed heads with a warning: {len(warned)} of {len(whole)}; in {len(cut)} of "
            "them the field of view does cut the brain, by the reference mask too."
        ),
        table(header, detail),
    ]
    return "\n\n".join(parts)


def _brain_times(rows: list[dict[str, Any]]) -> str:
    shown = [
        [r["extractor"], r["shape"], r["seconds_median"], r["seconds_first"], r["peak_memory_mb"]]
        for r in rows
    ]
    note = (
        "Scan of 1 mm in memory to mask, float32, each in a process of its own; median of three "
        "calls after the first. SynthStrip: a network of its shape, whose weights are of no "
        "account for the time. Official weights: not run; `brainmets models fetch synthstrip`, "
        "then `python benchmarks/brain.py --parts time --synthstrip FILE`."
    )
    header = ["extractor", "voxels", "seconds", "first call", "peak memory, MB"]
    return f"{note}\n\n{table(header, shown)}"
