"""Makes docs/reference/results.md and brain-extraction.md from results/*.json.

A test holds them together.

python benchmarks/tables.py
"""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recorded import RESULTS, load, table, where
from tables_brain import brain_page
from tables_starter import (
    ablation,
    card_section,
    contrast,
    goals,
    real,
    seeds,
    simulated,
    sizes,
    tiles,
    training,
)

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- times: begin -->", "<!-- times: end -->"
PAGE = ROOT / "docs" / "reference" / "results.md"
UNDEFINED = ROOT / "docs" / "reference" / "undefined-scores.md"
PEERS = runpy.run_path(str(ROOT / "benchmarks" / "peers" / "tables.py"))
BRAIN_PAGE = ROOT / "docs" / "reference" / "brain-extraction.md"
INTRODUCTION = (
    "Made by `python benchmarks/tables.py` from `benchmarks/results`. Research software, not a "
    "medical device: none of these figures says how well a model works on patients. Times, "
    "engines, the loss gate, whole patients and training that were recorded before commit 8118f9c "
    "are of `starter` with its first network alone, and int8 before commit d2db099 is that of the "
    "last three layers, not of five."
)
SCORING = (
    "Reading both masks and all scores: voxels, surfaces, lesions, and BraTS-METS by both rule "
    "sets for three regions. One process, files to numbers."
)


def page() -> str:
    """The whole page as Markdown."""
    parts = [
        "# Results",
        INTRODUCTION,
        _predict(),
        _training_step(),
        _augmentation(),
        *(_engines(*each) for each in ENGINES if (RESULTS / f"{each[0]}.json").is_file()),
        *([_loss_gate()] if (RESULTS / "loss_gate.json").is_file() else []),
        *([_scores()] if (RESULTS / "scores.json").is_file() else []),
        *([_dicom()] if (RESULTS / "dicom.json").is_file() else []),
        PEERS["seconds_section"](load("scores_peers"), table, where),
        card_section(),
        *(make(load(name)) for name, make in OPTIONAL if (RESULTS / f"{name}.json").is_file()),
        real(),
    ]
    return "\n\n".join(parts) + "\n"


def _predict() -> str:
    return (
        f"## Time and memory, NIfTI to report\n\n{_times(load('predict'))}\n\n"
        "The same in float32, with AVX2's instructions alone in the networks (oneDNN was told so; "
        "a processor that has no others is slower in all else, too):\n\n"
        f"{_times(load('predict_avx2'))}"
    )


def _training_step() -> str:
    result = load("training_step")
    keys = ["network", "precision", "loop", "seconds", "peak_memory_mb"]
    rows = [[row[key] for key in keys] for row in result["value"]["rows"]]
    value = result["value"]
    return "\n\n".join(
        [
            "## One step of training",
            (
                f"{value['batch']} patches of {value['side']}³, {value['threads']} threads, random "
                "weights: forward, loss, backward, step of the optimiser. Plain: the same network "
                "as PyTorch computes it in its usual memory layout, with MONAI's DiceCELoss and "
                "torch's AdamW; it holds no averaged weights, which brainmets does. Each loop is "
                "a process of its own; seconds are those of the fastest step of "
                f"{value['runs']} after one to warm up; the peak is the "
                "process's, less what it held before its first step. GPU: not run."
            ),
            table([key.replace("_", " ").replace(" mb", ", MB") for key in keys], rows),
            where(result),
        ]
    )


def _augmentation() -> str:
    result = load("augmentation_peers")
    value = result["value"]
    keys = ["tool", "version", "patches_per_second", "brainmets_times_faster"]
    rows = [[row[key] for key in keys] for row in value["rows"]]
    return "\n\n".join(
        [
            "## Augmented patches",
            (
                f"Patches of 128³ voxels with their truth, delivered by {value['processes']} "
                f"processes of one thread each; medians of {value['rounds']} rounds of "
                f"{value['patches']} patches, the tools in turn. Chances and ranges of the "
                "transforms are brainmets' for all: mirrored, 0.3 turned and scaled, half of "
                "these deformed, gain, offset, gamma, blur, resolution, noise. brainmets reads its "
                "compressed store, varies the brain mask and weighs lesions besides; the peers "
                "hold arrays in memory. batchgeneratorsv2 has no receive field. GPU: not run."
            ),
            table([key.replace("_", " ") for key in keys], rows),
            where(result),
        ]
    )


def _times(result: dict[str, Any]) -> str:
    rows = [
        [r["scan"], r["shape"], r["seconds_median"], f"{r['seconds_least']}–{r['seconds_most']}",
         r["peak_memory_mb"]]
        for r in result["value"]["rows"]
    ]  # fmt: skip
    header = ["scan", "voxels", "seconds (median)", "range", "peak memory, MB"]
    return f"{table(header, rows)}\n\n{where(result)}"


ENGINES = (
    ("engines", "Engines: the network alone"),
    ("engines_int8", "Engines with int8, on a machine whose two cores share one unit for matrices"),
)


def _engines(name: str, title: str) -> str:
    result = load(name)
    keys = ["model", "engine", "seconds", "times_faster_than_torch_float32",
            "times_faster_than_torchs_best", "gflop_per_s", "share_of_ceiling"]  # fmt: skip
    rows = [[row[key] for key in keys] for row in result["value"]["rows"]]
    side, threads = result["value"]["tile"], result["value"]["threads"]
    return "\n\n".join(
        [
            f"## {title}",
            (
                f"One tile of {side}³ voxels, {threads} threads, random weights. The ceiling is a "
                "matrix product of 4096³ at the same precision, in turns with the tiles."
            ),
            table([key.replace("_", " ") for key in keys], rows),
            where(result),
        ]
    )


def _loss_gate() -> str:
    result = load("loss_gate")
    header = ["precision", "cases", "share of float32's Dice kept", "mean Dice against float32",
              "least", "cases with the same lesions"]  # fmt: skip
    keys = ["cases", "share_of_float32s_dice_kept", "mean_dice_against_float32",
            "least_dice_against_float32", "cases_with_the_same_lesions"]  # fmt: skip
    rows = [[name, *(v[key] for key in keys)] for name, v in result["value"].items()]
    return "\n\n".join(
        [
            "## What faster arithmetic loses",
            (
                "Against OpenVINO's float32 on the same prepared scans; PyTorch on the real ones "
                "and ten others. The same lesions: "
                "as many, one to one at an IoU of 0.5 or more, volumes within 5 % or 2 voxels."
            ),
            table(header, rows),
            _differences(result["value"]),
            where(result),
        ]
    )


def _differences(value: dict[str, Any]) -> str:
    rows = [
        [name, row["case"], *row["lesions"], _signed(row["changes_in_voxels"])]
        for name, found in value.items()
        for row in found["differences"]
    ]
    if not rows:
        return "No case has other lesions."
    header = ["precision", "case", "lesions in float32", "here", "voxels more or less, by lesion"]
    return "The cases that differ:\n\n" + table(header, rows)


def _signed(numbers: list[int]) -> str:
    return ", ".join(f"{n:+d}" if n else "0" for n in numbers)


def _scores() -> str:
    result = load("scores")
    keys = ["scan", "voxels", "reference_lesions", "predicted_lesions", "seconds",
            "processor_seconds", "peak_memory_mb"]  # fmt: skip
    rows = [[row.get(key) for key in keys] for row in result["value"]["rows"]]
    return "\n\n".join(
        [
            "## Time and memory of scoring a case",
            SCORING,
            table([key.replace("_", " ") for key in keys], rows),
            _areas(result["value"]["areas"]),
            where(result),
        ]
    )


def _areas(areas: dict[str, Any]) -> str:
    return (
        f"ROC AUC and PR AUC of {int(areas['voxels']):,} voxels: {areas['seconds']} s, "
        f"{areas['peak_memory_mb']} MB at the peak."
    )


def _dicom() -> str:
    result = load("dicom")
    header = ["source", "seconds (median)", "range", "processor seconds",
              "memory, in volumes of float32"]  # fmt: skip
    rows = [
        [r["source"], r["seconds_median"], f"{r['seconds_least']}–{r['seconds_most']}",
         r["processor_seconds"], r["memory_volumes"]]
        for r in result["value"]["rows"]
    ]  # fmt: skip
    return (
        f"## Reading DICOM\n\nA synthetic series of {result['value']['shape']}, uncompressed. "
        f"Memory is what reading adds.\n\n{table(header, rows)}\n\n{where(result)}"
    )


def _study(result: dict[str, Any]) -> str:
    rows = result["value"]
    rejected = rows["rejected"]
    names = list(next(iter(rows["coverage"].values())))
    shown = table(
        ["patients", *names],
        [
            [n, *(f"{100 * c[name]:.1f} %" for name in names)]
            for n, c in sorted(rows["coverage"].items(), key=lambda item: int(item[0]))
        ],
    )
    told = (
        f"{rows['cohorts']} simulated cohorts of {rows['patients']} patients' rows in which "
        f"nothing differs. Each of {rows['tests']} tests rejects at 0.05 in "
        f"{100 * rejected['least']:.1f} to {100 * rejected['most']:.1f} %; after Holm's adjustment "
        f"{100 * rows['families_after_holm']:.1f} % of the families hold a false rejection. How "
        "often 95 % intervals hold the truth, of skewed scores:"
    )
    areas = rows["pooled_voxels"]
    pooled = (
        "Areas of pooled voxels, compared as if voxels were independent (`paper_auc_test`; 50 "
        f"voxels of either class a patient), differ at 0.05 in {100 * areas['paper_auc_test']:.0f} "
        "% of the cohorts though nothing does; ranks of the same patients' areas in "
        f"{100 * areas['patients']:.1f} %."
    )
    return "\n\n".join(["## A study without differences", told, shown, pooled, where(result)])


def _study_images(result: dict[str, Any]) -> str:
    """The whole study of the published size."""
    whole = result["value"]
    peak = whole["peak_bytes_of_largest_process"] / 1e6
    found = table(
        ["cohort", "by", "measure", "effect", "95 % interval", "p (Holm)"],
        [
            [r["cohort"], r["subgroup"], r["measure"], f"{float(r['size']):.2f}",
             f"{float(r['low']):.2f} to {float(r['high']):.2f}", f"{float(r['p_holm']):.2g}"]
            for r in whole["found"]
        ],
    )  # fmt: skip
    told = (
        f"{whole['patients']} simulated patients at {'×'.join(map(str, whole['shape']))}, masks to "
        f"report, {whole['workers']} processes: {whole['seconds']:.0f} s, {peak:.0f} MB in the "
        f"largest process; again, with scores kept, {whole['seconds_again']:.0f} s. Worse outlines "
        "were injected for lung, nothing for sex, and manual times longer than the model's; it "
        "found (Cliff's delta, lung against other, women against men; share of time saved):"
    )
    return "\n\n".join(["## A whole study", told, found, where(result)])


def _whole_patient(result: dict[str, Any]) -> str:
    """Whole patients against MONAI's sliding window and nnU-Net."""
    value = result["value"]
    first = {row["scan"]: row for row in reversed(value["rows"])}
    rows = [
        [row["scan"], row["way"],
         *(words for key in ("seconds", "peak_memory_mb")
           for words in (row[key], f"{row[key] / first[row['scan']][key]:.1f}"))]
        for row in value["rows"]
    ]  # fmt: skip
    header = ["scan", "way", "seconds", "times the first", "peak memory, MB", "times the first"]
    return "\n\n".join([
        "## Whole patients by MONAI's sliding window and by nnU-Net",
        WHOLE_PATIENT.format(**value) + _earlier(result),
        table(header, rows),
        where(result),
    ])  # fmt: skip


def _earlier(result: dict[str, Any]) -> str:
    """Which rows other commits measured."""
    older: dict[str, list[str]] = {}
    for row in result["value"]["rows"]:
        if row["commit"] != result["commit"]:
            older.setdefault(row["commit"], []).append(row["way"])
    told = [
        f"{', '.join(dict.fromkeys(ways))} at commit {commit}" for commit, ways in older.items()
    ]
    return f" Measured before: {'; '.join(told)}." if told else ""


def _cost(result: dict[str, Any]) -> str:
    """Seconds against the brain's volume, and memory over many scans."""
    value = result["value"]
    keys = ("brain_litres", "seconds", "places_in_doubt", "seconds_with_second_look")
    rows = [[row[key] for key in keys] for row in value["rows"]]
    return "\n\n".join([
        "## What a scan costs by its size",
        COST.format(engine=value["engine"], **value["line"]),
        table(["litres of brain", "seconds", "places in doubt", "with a second look"], rows),
        HELD.format(**value, **{f"after_{n}": mb for n, mb in value["resident_mb"].items()}),
        where(result),
    ])  # fmt: skip


WHOLE_PATIENT = (
    "Whole processes, {threads} threads, medians of {runs} runs after one to warm up, the ways in "
    "turn; nnU-Net without a network of ours once. brainmets goes from NIfTI to mask, "
    "measurements and report, and looks for the brain where there is a skull; MONAI and nnU-Net, "
    "with their own transforms, from NIfTI to mask, of all that is not 0. MONAI has the first "
    "network of `starter`, not the one that looks at places, and cubes of the same side and "
    "overlap, in its second row also brainmets' blending and rounding. nnU-Net (2.8.1, "
    "`3d_fullres` at 0.833 mm, patches of 128³) has its own network with random weights, and in "
    "its last row that of `starter` with its overlap, in bfloat16. The "
    "paper's network has random weights, too, and finds nothing. nnU-Net's default, mirroring, was "
    "run on one scan: elsewhere it takes 8 times the network's time, too."
)


COST = (
    "One simulated whole head whose voxels are declared smaller or larger, analysed in one process "
    "with a warm model ({engine}). Straight line, without a second look in float32, which depends "
    "on what is found: {seconds_at_0} s and {seconds_per_litre} s a litre, R² {r_squared}."
)


HELD = (
    "A small scan {cases} times in one command: {after_1} MB resident after the first, {after_10} "
    "after the tenth, {after_100} after the hundredth, {most_resident_mb_after_10} at most since "
    "the tenth."
)


OPTIONAL: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("starter_simulated", simulated),
    ("starter_simulated", goals),
    ("second_seed", seeds),
    ("lesion_sizes", sizes),
    ("tiles", tiles),
    ("sizes", _cost),
    ("training", training),
    ("ablation", ablation),
    ("whole_patient_peers", _whole_patient),
    ("study", _study),
    ("study_images", _study_images),
    ("contrast_absent", contrast),
)
"""Results that are shown where they have been recorded."""


def undefined() -> str:
    """The page on undefined scores."""
    told: str = PEERS["undefined_page"](load("undefined_scores"), table, where)
    return told


def readme() -> str:
    """README.md with its table of times made anew."""
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{_times(load('predict'))}\n{END}{tail}"


if __name__ == "__main__":
    BRAIN_PAGE.write_text(brain_page(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    UNDEFINED.write_text(undefined(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
