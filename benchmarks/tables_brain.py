"""The page on brain extraction, from results/brain.json."""

from collections.abc import Callable
from statistics import median
from typing import Any

from recorded import load, table, where

KINDS = ("brain + CSF", "tissue")
BRAIN_INTRODUCTION = (
    "Made by `python benchmarks/tables.py` from `benchmarks/results/brain.json`. No real scan and "
    "none of the simulated heads took part in training or in the choice of the border, but for two "
    "things: tissue was defined as closed by 8 mm after a look at the real references "
    "([0062](../decisions/0062-outer-quantile-and-hull.md)), and of two borders that the tuning "
    "heads gave, 1.125 and 1.25 mm in steps of an eighth and of a quarter, the wider was taken "
    "after lesions at the surface of these heads had been counted."
)
BRAIN_KINDS = (
    "A reference is one of two kinds ([why](../decisions/0030-two-brain-surfaces.md)): *brain + "
    "CSF*, or "
    "*tissue*, which leaves the outer fluid out. Each tool is held against the reference with the "
    "surface "
    "of that kind: the built-in extractor with the one of its two distances, MindGrab with the "
    "only mask it has (on simulated heads that is nearer to brain + CSF, "
    "[below](#where-masks-end)). NiChart's references (DLMUSE > 0) leave the outer fluid out. The "
    "mask of "
    "head_fg6692 was made by a program and holds fluid; it is shown only. Simulated heads have "
    "both. "
    "Recall is the share of the reference that the line's mask (brain + CSF) keeps, before its "
    "margin of 2 mm."
)
BRAIN_VERSION = (
    "MindGrab was run on the scans that show a figure and on no other: a scan takes it 130 "
    "processor seconds."
)
BORDERS = (
    "The mask is cut outside of where the network's distances fit a reference best, since a brain "
    "drawn too small loses lesions. The table tells the one from the other: each of the two "
    "distances cut at the border in use, and at the one, in steps of 0.25 mm, that fits the group "
    "best, which is the most that a border could give. No border was chosen by it; on real heads "
    "that would be to choose by the test. Maps 15–16 are those on which the borders were chosen."
)
BORDERS_MINDGRAB = (
    "MindGrab's only mask against both references of maps 15–16: {}. So on simulated heads it "
    "draws brain + CSF rather than tissue. NiChart's references end between the two surfaces that "
    "label maps teach: beyond tissue, short of the dura."
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
        "## Where masks end",
        BORDERS,
        shown("borders", _brain_borders),
        "## Lesions at the surface",
        shown("lesions", _brain_lesions),
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
        for kind in members[0]["dice"]:
            own = [row["dice"][kind] for row in members]
            both = [row for row in members if "mindgrab" in row]
            others = [row["mindgrab"]["dice"][kind] for row in both]
            shown.append([
                group, len(members), kind, f"{median(own):.3f}", f"{min(own):.3f}",
                f"{median(others):.3f} ({len(others)})" if others else None,
                f"{median([row['dice'][kind] for row in both]):.3f}" if both else None,
                f"{min(row['recall'] for row in members):.4f}",
            ])  # fmt: skip
    header = ["group", "heads", "reference", "median Dice", "worst Dice", "MindGrab's median",
              "built-in on the same", "least recall"]  # fmt: skip
    return table(header, shown)


def _brain_scans(rows: list[dict[str, Any]]) -> str:
    shown = [
        [
            row["scan"], row["litres"], *(row["dice"].get(kind) for kind in KINDS),
            row["recall"], row["recall_with_margin"],
            *(row.get("mindgrab", {}).get("dice", {}).get(kind) for kind in KINDS),
            row.get("mindgrab", {}).get("recall"), "; ".join(row["warnings"]) or None,
        ]
        for row in rows
    ]  # fmt: skip
    header = ["scan", "litres", "Dice, brain + CSF", "Dice, tissue", "recall", "recall with margin",
              "MindGrab: brain + CSF", "MindGrab: tissue", "MindGrab: recall", "warnings",
              ]  # fmt: skip
    return table(header, shown)


def _brain_borders(rows: list[dict[str, Any]]) -> str:
    shown = []
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group]
        for kind, surfaces in members[0]["fits"].items():
            for surface in surfaces:
                fits = [row["fits"][kind][surface] for row in members]
                borders = [border for border, _, _ in fits[0]]
                dices = [median(fit[n][1] for fit in fits) for n in range(len(borders))]
                in_use = borders.index(members[0]["border_mm"][surface])
                best = max(range(len(borders)), key=lambda n: dices[n])
                kept = [min(fit[n][2] for fit in fits) for n in (in_use, best)]
                shown.append([
                    group, kind, surface, borders[in_use], f"{dices[in_use]:.3f}",
                    f"{kept[0]:.4f}", borders[best], f"{dices[best]:.3f}", f"{kept[1]:.4f}",
                ])  # fmt: skip
    header = ["group", "reference", "distance to", "border in use, mm", "median Dice",
              "least recall", "border that fits best, mm", "median Dice there",
              "least recall there"]  # fmt: skip
    said = [
        f"{row['scan']} " + ", ".join(f"{dice:.3f} ({kind})" for kind, dice in found.items())
        for row in rows
        if len(found := row.get("mindgrab", {})) == len(KINDS)
    ]
    parts = [table(header, shown)]
    return "\n\n".join([*parts, BORDERS_MINDGRAB.format("; ".join(said))] if said else parts)


def _brain_lesions(found: dict[str, Any]) -> str:
    names = {"lost_whole": "lost whole, before the margin"}
    rows = [[names.get(k, k.replace("_", " ")), number] for k, number in found.items()]
    return (
        "Simulated lesions of 3 to 18 mm centred within 3 mm of the surface of brain + CSF, in "
        "label maps 17–20; their voxels that lie in brain + CSF.\n\n" + table(["", "value"], rows)
    )


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
    header = ["scan", "perturbation", "Dice before", "Dice", "fall", "recall", "warnings"]
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
