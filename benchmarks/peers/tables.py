"""What the documentation tells of other packages, made from results; no number is typed here."""

from collections.abc import Callable
from typing import Any

Table = tuple[list[str], list[list[Any]]]
Draw = Callable[[list[str], list[list[Any]]], str]
Where = Callable[[dict[str, Any]], str]

TOOLS = {
    "brainmets": "brainmets",
    "scikit-learn": "scikit-learn",
    "monai": "MONAI, of the case",
    "monai, mean over cases": "MONAI, `aggregate()`",
    "SimpleITK": "SimpleITK",
    "panoptica": "panoptica",
    "surface-distance": "surface-distance",
    "brainmets, BraTS-METS 2023": "brainmets, `scores_2023`",
    "brainmets, BraTS-METS 2025": "brainmets, `scores_2025`",
    "brats-evaluation": "brats-evaluation",
}
"""In the order of the tables, by the name they have there."""

NAMES = {"dice": "Dice", "iou": "IoU", "mcc": "MCC"}

SECONDS = (
    "Seconds to compute the named scores of one case, the masks lying in memory in the form "
    "that the package takes: without start, import and reading. A process of each package "
    "scores the same case in turn, brainmets first, after one round that is not counted; given "
    "are medians, and the ratio of the package's median to brainmets', of seconds on the clock and "
    "of processor seconds, which other work on the machine disturbs less. Peak memory is that of "
    "the whole process, libraries included. The cases are real metastasis masks (tumour core) "
    "with somebody's predictions. brainmets also measures each lesion's diameters where it "
    "counts lesions, which the others do not."
)
EQUAL = (
    "The jobs do the same on both sides. `lesions`: 26-connected lesions paired one-to-one by the "
    "largest summed Dice (panoptica's MaxBipartiteMatching with Dice above 1e-6, brainmets' rule "
    "one-to-one). `lesion surfaces`: the same pairs, with mean surface Dice and HD95 of the "
    "pairs between surface voxels. `numbered lesions`: pairs from an IoU above 0.5. `masks`: "
    "distances between surface voxels, surface Dice over areas. `surfaces`: distances between "
    "surface elements weighted by area. Scored are the real pairs and odd synthetic ones: one "
    "voxel, touching, diagonal neighbours, merged, split, full, and anisotropic voxels of "
    "0.5×0.5×6 mm. Equal means within 1e-6, relative for values above 1."
)
UNDEFINED = (
    "Made by `python benchmarks/tables.py` from what each tool answered when it was asked. Some "
    "scores have no value for some cases: two empty masks have no Dice. brainmets then gives "
    "NaN and the reason, and counts the reasons "
    "([0002](../decisions/0002-undefined-is-nan.md)). Tools that give 0 or 1 there, or leave the "
    "case out without a word, have other means over the same cases: before you compare a "
    "published mean, look up here what its tool does.\n\n"
    "`–` no such score; `*` with a warning; a name that ends in Error: it raised. The reference "
    "or prediction is a box of 4×4×3 voxels in 12×10×8 voxels of 1 mm. NSD has a tolerance of 1 "
    "mm. “Lesion Dice” is the mean over paired lesions, with the BraTS scorers over all "
    "lesions and false positives. SimpleITK's distances are its Hausdorff and average Hausdorff "
    "distances over all voxels of the masks. scikit-learn was called with its default "
    "`zero_division`, panoptica with its default edge cases, which name no HD95 or NSD. "
    "MONAI's metric classes average over cases with `aggregate()`, which leaves NaN out and "
    "gives 0 if nothing is left. surface-distance was run with numpy 1: with numpy 2 an empty "
    "mask raises AttributeError, since it uses names that numpy no longer has. MONAI's lesion "
    "scores take an IoU above 0.5 for a hit and add 1e-6 to every denominator, so that no "
    "lesions at all give 0.\n\n"
    "Distances differ between tools where all have a value, too: between voxel centres or "
    "pieces of surface, a percentile of each direction or of both together, a mean over both "
    "surfaces or of two means. [Results](results.md) shows for "
    "which definitions of MONAI, panoptica and surface-distance brainmets gives the same.\n\n"
    "brats-evaluation is the scorer of BraTS-METS from 2025 on. The scorer of 2023 is no "
    "installable package; by its source, where no lesion counts and none is found, it gives "
    "Dice 1 and HD95 0 mm (read, not measured here), where `scores_2023` has no value."
)
CASES = {
    "empty reference": "A scan without metastases, and a lesion announced.",
    "empty prediction": "A lesion missed.",
    "both empty": "A scan without metastases, and none announced.",
    "full reference": "Every voxel is inside the reference: there are no true negatives.",
    "full prediction": "Every voxel is inside the prediction.",
    "both full": "Every voxel is inside both.",
}
ONE_CLASS = (
    "An area under a curve needs voxels inside and outside. The probabilities rise from 0 to 1 "
    "over the voxels."
)

MASKS = (
    "dice", "iou", "precision", "sensitivity", "specificity", "mcc", "kappa", "HD95",
    "mean surface distance", "NSD",
)  # fmt: skip
LESIONS = (
    "lesion sensitivity", "lesion precision", "lesion F1", "lesion Dice", "lesion HD95", "PQ",
)  # fmt: skip
CURVES = ("ROC AUC", "PR AUC")


def seconds(value: dict[str, Any]) -> Table:
    """Seconds and memory a case: brainmets beside each peer."""
    keys = ("peer_seconds", "brainmets_seconds", "ratio", "cpu_ratio", "peer_memory_mb",
            "brainmets_memory_mb")  # fmt: skip
    header = ["package", "job", "pair", "seconds", "brainmets' seconds", "ratio",
              "ratio in CPU seconds", "peak MB", "brainmets' peak MB"]  # fmt: skip
    rows = [
        [job["peer"], job["job"], row["pair"], *(row[key] for key in keys)]
        for job in value["jobs"]
        for row in job["seconds"]
    ]
    return header, rows


def pairs(value: dict[str, Any]) -> Table:
    """The pairs that were timed."""
    timed = {row["pair"] for job in value["jobs"] for row in job["seconds"]}
    header = ["pair", "voxels", "spacing, mm", "reference lesions", "predicted lesions"]
    return header, [
        [name, *(facts[key] for key in KEYS)]
        for name, facts in value["pairs"].items()
        if name in timed
    ]


KEYS = ("voxels", "spacing_mm", "reference_lesions", "predicted_lesions")


def equal(value: dict[str, Any]) -> Table:
    """Scores that are equal on every pair."""
    rows = []
    for job in value["jobs"]:
        same = [row for row in job["differences"] if row["equal"]]
        names = ", ".join(f"`{row['score']}`" for row in same)
        pairs = same[0]["pairs"] if same else None
        largest = max((row["largest"] for row in same), default=None)
        rows.append([job["peer"], job["job"], names, pairs, largest])
    return ["package", "job", "scores", "pairs", "largest difference"], rows


def different(value: dict[str, Any]) -> Table:
    """Scores that differ on some pair, and why."""
    header = ["package", "job", "score", "equal", "one side without a value",
              "largest difference", "reason"]  # fmt: skip
    rows = [
        [job["peer"], job["job"], f"`{row['score']}`", f"{row['pairs_equal']} of {row['pairs']}",
         row["gaps"], row["largest"], row["reason"]]
        for job in value["jobs"]
        for row in job["differences"]
        if not row["equal"]
    ]  # fmt: skip
    return header, rows


def seconds_section(result: dict[str, Any], table: Draw, where: Where) -> str:
    """The part of the results page on other packages."""
    value = result["value"]
    return "\n\n".join(
        [
            "## Scores beside other packages",
            SECONDS,
            where(result),
            _versions(value["environments"]),
            table(*pairs(value)),
            table(*seconds(value)),
            "### Equal answers",
            EQUAL,
            table(*equal(value)),
            "### Answers that differ",
            table(*different(value)),
        ]
    )


def undefined_page(result: dict[str, Any], table: Draw, where: Where) -> str:
    """The page on undefined scores."""
    found = {tool: result["value"][tool] for tool in TOOLS}
    parts = ["# Undefined scores", UNDEFINED, where(result), _tools(found)]
    for case, words in CASES.items():
        parts += [f"## {case.capitalize()}", words]
        parts += [table(*undefined(found, "cases", case, part)) for part in (MASKS, LESIONS)]
        parts.append(_reasons(found["brainmets"]["cases"][case]))
    parts += ["## One class only", ONE_CLASS]
    for case in found["brainmets"]["curves"]:
        parts += [f"{case.capitalize()}:", table(*undefined(found, "curves", case, CURVES))]
    parts.append(_reasons(found["brainmets"]["curves"]["no voxel inside"]))
    return "\n\n".join(parts) + "\n"


def undefined(found: dict[str, Any], part: str, case: str, columns: tuple[str, ...]) -> Table:
    """What each tool answers in one case; a tool without any of the columns is left out."""
    rows = []
    for tool, name in TOOLS.items():
        answers = found[tool][part].get(case, {})
        if any(column in answers for column in columns):
            rows.append([name, *(_shown(answers.get(column)) for column in columns)])
    return ["tool", *(NAMES.get(column, column) for column in columns)], rows


def _shown(answer: dict[str, str] | None) -> str | None:
    if answer is None:
        return None
    return answer["shows"] + (r"\*" if "warning" in answer else "")


def _reasons(answers: dict[str, dict[str, str]]) -> str:
    """The reasons that brainmets gives, each with its scores."""
    by_reason: dict[str, list[str]] = {}
    for column in (*MASKS, *LESIONS, *CURVES):
        if "reason" in answers.get(column, {}):
            by_reason.setdefault(answers[column]["reason"], []).append(NAMES.get(column, column))
    if not by_reason:
        return "brainmets: every score is defined."
    told = [f"“{reason}” ({', '.join(names)})" for reason, names in by_reason.items()]
    return f"brainmets' reasons: {'; '.join(told)}."


def _tools(found: dict[str, Any]) -> str:
    every = {name: number for tool in found.values() for name, number in tool["versions"].items()}
    return "Versions: " + ", ".join(f"{name} {number}" for name, number in every.items()) + "."


def _versions(environments: dict[str, dict[str, str]]) -> str:
    told = [
        f"{name} ({', '.join(f'{package} {number}' for package, number in packages.items())})"
        for name, packages in environments.items()
    ]
    return f"Environments: {'; '.join(told)}."
