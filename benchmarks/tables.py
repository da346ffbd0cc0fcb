"""Makes docs/reference/results.md and brain-extraction.md from results/*.json.

A test holds them together.

python benchmarks/tables.py
"""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- times: begin -->", "<!-- times: end -->"
PAGE = ROOT / "docs" / "reference" / "results.md"
UNDEFINED = ROOT / "docs" / "reference" / "undefined-scores.md"
PEERS = runpy.run_path(str(ROOT / "benchmarks" / "peers" / "tables.py"))
BRAIN_PAGE = ROOT / "docs" / "reference" / "brain-extraction.md"

INTRODUCTION = (
    "Made by `python benchmarks/tables.py` from `benchmarks/results`. Research software, not a "
    "medical device: none of these figures says how well a model works on patients."
)
SCORING = (
    "Reading both masks and all scores: voxels, surfaces, lesions, and BraTS-METS by both rule "
    "sets for three regions. One process, files to numbers."
)
REAL_SCANS = (
    "Nothing was tuned on these scans. `truth` says what a finding is held against: a reference "
    "mask, a box drawn by eye, `none` (a head without tumour and contrast: every finding is "
    "false), or unknown. The gliomas are not metastases; their core (necrosis, non-enhancing and "
    "enhancing tumour) stands in for one."
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
        PEERS["seconds_section"](_load("scores_peers"), _table, _where),
        _card(),
        *(make(_load(name)) for name, make in OPTIONAL if (RESULTS / f"{name}.json").is_file()),
        _real(),
    ]
    return "\n\n".join(parts) + "\n"


def _load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return loaded


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join("–" if c is None else str(c) for c in r) + " |" for r in lines
    )


def _where(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"`{result['command']}` at commit {result['commit']}, on {machine['cores']} cores of "
        f"{machine['processor']}{_instructions(machine)} with {machine['memory_gib']} GiB."
    )


def _instructions(machine: dict[str, Any]) -> str:
    return f" ({machine['instructions']})" if "instructions" in machine else ""


def _predict() -> str:
    return (
        f"## Time and memory, NIfTI to report\n\n{_times(_load('predict'))}\n\n"
        "The same on a processor without AVX-512, where everything runs in float32:\n\n"
        f"{_times(_load('predict_avx2'))}"
    )


def _training_step() -> str:
    result = _load("training_step")
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
            _table([key.replace("_", " ").replace(" mb", ", MB") for key in keys], rows),
            _where(result),
        ]
    )


def _augmentation() -> str:
    result = _load("augmentation_peers")
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
            _table([key.replace("_", " ") for key in keys], rows),
            _where(result),
        ]
    )


def _times(result: dict[str, Any]) -> str:
    rows = [
        [r["scan"], r["shape"], r["seconds_median"], f"{r['seconds_least']}–{r['seconds_most']}",
         r["peak_memory_mb"]]
        for r in result["value"]["rows"]
    ]  # fmt: skip
    header = ["scan", "voxels", "seconds (median)", "range", "peak memory, MB"]
    return f"{_table(header, rows)}\n\n{_where(result)}"


ENGINES = (
    ("engines", "Engines: the network alone"),
    ("engines_int8", "Engines with int8, on a machine whose two cores share one unit for matrices"),
)


def _engines(name: str, title: str) -> str:
    result = _load(name)
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
            _table([key.replace("_", " ") for key in keys], rows),
            _where(result),
        ]
    )


def _loss_gate() -> str:
    result = _load("loss_gate")
    header = ["precision", "cases", "share of float32's Dice kept", "mean Dice against float32",
              "least", "cases with the same lesions"]  # fmt: skip
    keys = ["cases", "share_of_float32s_dice_kept", "mean_dice_against_float32",
            "least_dice_against_float32", "cases_with_the_same_lesions"]  # fmt: skip
    rows = [[name, *(v[key] for key in keys)] for name, v in result["value"].items()]
    return "\n\n".join(
        [
            "## What faster arithmetic loses",
            (
                "OpenVINO against PyTorch's float32 on the same prepared scans. The same lesions: "
                "as many, one to one at an IoU of 0.5 or more, volumes within 5 % or 2 voxels."
            ),
            _table(header, rows),
            _where(result),
        ]
    )


def _scores() -> str:
    result = _load("scores")
    keys = ["scan", "voxels", "reference_lesions", "predicted_lesions", "seconds",
            "processor_seconds", "peak_memory_mb"]  # fmt: skip
    rows = [[row.get(key) for key in keys] for row in result["value"]["rows"]]
    return "\n\n".join(
        [
            "## Time and memory of scoring a case",
            SCORING,
            _table([key.replace("_", " ") for key in keys], rows),
            _areas(result["value"]["areas"]),
            _where(result),
        ]
    )


def _areas(areas: dict[str, Any]) -> str:
    return (
        f"ROC AUC and PR AUC of {int(areas['voxels']):,} voxels: {areas['seconds']} s, "
        f"{areas['peak_memory_mb']} MB at the peak."
    )


def _dicom() -> str:
    result = _load("dicom")
    header = ["source", "seconds (median)", "range", "processor seconds",
              "memory, in volumes of float32"]  # fmt: skip
    rows = [
        [r["source"], r["seconds_median"], f"{r['seconds_least']}–{r['seconds_most']}",
         r["processor_seconds"], r["memory_volumes"]]
        for r in result["value"]["rows"]
    ]  # fmt: skip
    return (
        f"## Reading DICOM\n\nA synthetic series of {result['value']['shape']}, uncompressed. "
        f"Memory is what reading adds.\n\n{_table(header, rows)}\n\n{_where(result)}"
    )


def _card() -> str:
    from brainmets.network.bundle import find, read

    card = read(find("starter")).card
    keys = ["cases", "lesions", "lesion_sensitivity", "false_positives_per_scan", "lesion_f1",
            "median_dice"]  # fmt: skip
    rows = [[name, *(values[key] for key in keys)] for name, values in card["results"].items()]
    sizes = [
        [name, f"{found['found']} of {found['of']}", found["sensitivity"]]
        for name, found in _by_size(card["sensitivity_by_size"]).items()
    ]
    return "\n\n".join(
        [
            "## `starter` on simulated scans",
            f"Trained on: {card['trained_on']}",
            _table(["cases from", *(key.replace("_", " ") for key in keys)], rows),
            "Lesions found in the test cases, by equivalent diameter:",
            _table(["size", "found", "sensitivity"], sizes),
            INT8.format(**card["int8"]),
        ]
    )


def _by_size(groups: dict[str, Any]) -> dict[str, Any]:
    """From small to large, then what takes several sizes together."""
    order = ["< 3 mm", "3–4 mm", "4–6 mm", "6–10 mm", "≥ 10 mm", "≥ 6 mm", "all"]
    return {name: groups[name] for name in order if name in groups}


def _real() -> str:
    result = _load("starter_real")
    keys = ["scan", "truth", "found", "hits", "false", "false_from_27_mm3", "largest_false_mm3",
            "false_in_sinus_or_plexus", "reference_lesions", "reference_lesions_hit", "dice",
            "recall"]  # fmt: skip
    rows = [[row.get(key) for key in keys] for row in result["value"]["rows"]]
    return "\n\n".join(
        [
            "## `starter` on real scans",
            _where(result),
            REAL_SCANS,
            _table([key.replace("_", " ") for key in keys], rows),
        ]
    )


def _simulated(result: dict[str, Any]) -> str:
    """The simulated test cohort, the simple detector and the model."""
    value = result["value"]
    hard, model, simple = value["difficulty"], value["starter"], value["detector"]
    points = {name: of["operating_points"] for name, of in (
        (value["model"], model), ("simple detector", simple),
        ("the same with a test of shape", value["detector_with_shape"]))}  # fmt: skip
    curve = [[name, *(_spread(p) for p in found)] for name, found in points.items()]
    parts = {"at most 1 false positive per scan": "at_most_1_false_positive_per_scan",
             "own rule": "own_rule"}  # fmt: skip
    rows = [_judged(name, model[key]) for name, key in parts.items()]
    allowed = [f"{p['allowed']:g}" for p in simple["operating_points"]]
    header = ["model", "false positives per scan", *_by_size(model["own_rule"]["sensitivity"]),
              "median Dice from 6 mm", "false positives per scan without a lesion"]  # fmt: skip
    return "\n\n".join([
        f"## `{value['model']}` on the simulated test cohort",
        SIMULATED.format(**hard),
        _table(header, rows),
        "Sensitivity at so many false positives per scan, over all thresholds:",
        _table(["", *allowed], curve),
        _where(result),
    ])  # fmt: skip


def _judged(name: str, found: dict[str, Any]) -> list[Any]:
    """A row of the model's figures at one threshold."""
    groups = _by_size(found["sensitivity"]).values()
    sizes = [f"{_spread(s)}, {s['found']} of {s['lesions']}" for s in groups]
    empty = found["false_positives_per_scan_without_lesion"]
    return [name, _spread(found["false_positives_per_scan"]), *sizes,
            found["median_dice_from_6_mm"], _spread(empty) if empty else None]  # fmt: skip


def _spread(score: dict[str, Any]) -> str:
    """A value with its 95 % interval, if there is one."""
    if score["value"] is None:
        return "–"
    value = f"{score['value']:.2f}"
    return value if score["low"] is None else f"{value} ({score['low']:.2f}–{score['high']:.2f})"


def _sizes(result: dict[str, Any]) -> str:
    """Simulated lesions beside real ones."""
    value = result["value"]
    rows = [
        [what.replace("_", " "), side, *value[side][what].values()]
        for what in ("log10_volume_mm3", "sphericity", "lesions_per_scan")
        for side in ("real", "simulated")
    ]
    return "\n\n".join([
        "## Sizes and shapes of simulated metastases",
        SIZES.format(**value, n=value["real"]["lesions"], m=value["simulated"]["lesions"]),
        _table(["", "", *value["real"]["sphericity"]], rows),
        _where(result),
    ])  # fmt: skip


def _study(result: dict[str, Any]) -> str:
    rows = result["value"]
    rejected = rows["rejected"]
    names = list(next(iter(rows["coverage"].values())))
    table = _table(
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
    return "\n\n".join(["## A study without differences", told, table, pooled, _where(result)])


def _study_images(result: dict[str, Any]) -> str:
    """The whole study of the published size."""
    whole = result["value"]
    peak = whole["peak_bytes_of_largest_process"] / 1e6
    found = _table(
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
    return "\n\n".join(["## A whole study", told, found, _where(result)])


def _tiles(result: dict[str, Any]) -> str:
    """One large tile against cubes."""
    value = result["value"]
    header = ["tiles", "median number", "lesions found", "false positives",
              "mean Dice, of scans with lesions"]  # fmt: skip
    rows = [
        [name, f"{v['tiles_median']:g}", f"{v['found']} of {v['lesions']}",
         f"{v['false_positives']:g}", f"{v['mean_dice']:.3f}"]
        for name, v in (("cubes of 128³", value["cubes"]), ("as memory allows", value["large"]))
    ]  # fmt: skip
    return "\n\n".join([
        "## Large tiles against cubes",
        TILES.format(**value),
        _table(header, rows),
        _where(result),
    ])  # fmt: skip


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
        WHOLE_PATIENT.format(**value),
        _table(header, rows),
        _where(result),
    ])  # fmt: skip


def _cost(result: dict[str, Any]) -> str:
    """Seconds against the brain's volume, and memory over many scans."""
    value = result["value"]
    rows = [[row["brain_litres"], row["seconds"]] for row in value["rows"]]
    return "\n\n".join([
        "## What a scan costs by its size",
        COST.format(engine=value["engine"], **value["line"]),
        _table(["litres of brain", "seconds"], rows),
        HELD.format(**value, **{f"after_{n}": mb for n, mb in value["resident_mb"].items()}),
        _where(result),
    ])  # fmt: skip


def _training(result: dict[str, Any]) -> str:
    """Ways to train, on a simulated cohort."""
    value = result["value"]
    header = ["trained by", "runs", "seconds of a run", "lesion F1", "of each run", "sensitivity",
              "false positives a scan", "F1 higher by"]  # fmt: skip
    says = {arm["arm"]: arm["says"] for arm in value["arms"]}
    rows = [
        [arm["says"], len(arm["seeds"]), round(median(arm["seconds"])), _between(arm["lesion_f1"]),
         ", ".join(f"{f1:.2f}" for f1 in arm["lesion_f1_of_seeds"]),
         _between(arm["lesion_sensitivity"]), _between(arm["false_positives_per_scan"]),
         f"{_between(arm['better_by'])} than {says[arm['against']]}" if "against" in arm else None]
        for arm in value["arms"]
    ]  # fmt: skip
    return "\n\n".join([
        "## Ways to train",
        TRAINING.format(**value),
        _table(header, rows),
        _where(result),
    ])  # fmt: skip


def _ablation(result: dict[str, Any]) -> str:
    """What losses, starts and the simulator's ingredients are worth, at one small size."""
    value = result["value"]
    header = ["learnt", "lesion F1", "sensitivity", "false positives a scan", "F1 higher by",
              "real scans: hits", "false", "of ≥ 27 mm³", "in a sinus or plexus"]  # fmt: skip
    rows = [
        [arm["says"], *(_between(arm[s]) for s in
                        ("lesion_f1", "lesion_sensitivity", "false_positives_per_scan")),
         _between(arm["better_by"]) if "against" in arm else None,
         *(arm["real"][key] for key in
           ("hits", "false", "false_from_27_mm3", "false_in_sinus_or_plexus"))]
        for arm in value["arms"]
    ]  # fmt: skip
    minutes = median(median(arm["seconds"]) for arm in value["arms"]) / 60
    scans = value["arms"][0]["real"]["scans"]
    return "\n\n".join([
        "## What parts of training and of the simulator are worth",
        ABLATION.format(**value, minutes=round(minutes), scans=scans),
        _table(header, rows),
        _where(result),
    ])  # fmt: skip


def _between(bounds: dict[str, float]) -> str:
    return f"{bounds['value']:.2f} ({bounds['low']:.2f} to {bounds['high']:.2f})"


def _contrast(result: dict[str, Any]) -> str:
    """Errors of the rule on contrast."""
    value = result["value"]
    rows = [[r["scan"], "yes" if r["contrast"] else "no", r["seen"], "yes" if r["right"] else "no"]
            for r in value["real"]]  # fmt: skip
    return "\n\n".join([
        "## Whether contrast was given",
        CONTRAST.format(**value),
        _table(["real scan", "contrast given", "enhancement", "rule is right"], rows),
        _where(result),
    ])  # fmt: skip


TILES = (
    "`starter` on {engine}, {cases} scans, {scored} of them simulated with known lesions, by the "
    "rule chosen for cubes. Large tiles take the network's time divided by "
    "{median_ratio_of_seconds} (median). The lesions are the same, one to one at IoU of 0.5 and "
    "more and within 5 % or 2 voxels of volume, in {cases_with_the_same_lesions} scans. "
    "Overlapping cubes are an average over several looks, and that is lost: so cubes are the "
    "default, and `--large-tiles` is there to be asked for."
)
SIMULATED = (
    "{scans} scans with {lesions} lesions; contrast to noise: 10th percentile "
    "{contrast_to_noise_p10}, median {contrast_to_noise_p50}. Mimics (round bright blobs that are "
    "no lesion, of {mimics_from_mm} to {mimics_to_mm} mm, answering at least as the weakest "
    "quarter of the lesions that the detector sees): {mimics_per_scan_mean} a scan. The simple "
    "detector is a threshold and a Laplacian of Gaussian within the true brain mask."
)
SIZES = (
    "Kolmogorov–Smirnov distance of log volume between {n} real and {m} simulated lesions: "
    "{ks_log10_volume}; of equal distributions of so many it stays below "
    "{ks_of_equal_distributions_95} in 95 % of draws. Of sphericity (lesions of 50 mm³ and more): "
    "{ks_sphericity}."
)
CONTRAST = (
    "Of {pairs} simulated heads with contrast {with_contrast_called_absent} were called without, "
    "of as many without {without_contrast_called_given} were called with. The rule calls contrast "
    "given from an enhancement of {least_with_contrast}. The real scans were looked at while the "
    "rule was made: no claim rests on them."
)
TRAINING = (
    "Simulated scans: 40 cases of label maps 01–14 to learn from, of which every sixth chooses the "
    "rule; {test_cases} of maps 17–20 to test on. One thread, on a busy machine; seconds without "
    "preparing. Each model is scored by its own rule; the runs of a row, which differ by seed, are "
    "taken together, with 95 % bootstrap intervals over test cases, paired for differences. "
    "`--preset light` begins with `starter`, which has learnt on a GPU from other scans of maps "
    "01–14; in runs this short no step found more of the validation cases' lesions than `starter` "
    "did, and two of its three models are `starter` with a rule chosen on them. The others begin "
    "with random weights, and are far too short to be of use or to tell losses apart."
)
ABLATION = (
    "Each arm is one training from random weights on 40 simulated scans of label maps 01–14, on "
    "one thread, {minutes} minutes in the median; every sixth scan chose its rule. Scored on "
    "{test_cases} whole simulations of maps 17–20, with 95 % bootstrap intervals over scans, "
    "paired for differences from the first row. An ingredient is left out of all scans that an "
    "arm learns from, heads and metastases staying the same. A 2D ResNet-34 to start from was "
    "trained on slices of the same scans by `benchmarks/flat_encoder.py`; ImageNet's weights: not "
    "run. The last columns are of the {scans} real scans with contrast whose tumours are known, "
    "nothing tuned on them. All of these models are far too little trained to be of use: what an "
    "arm changes here need not be what it changes at full length, and one training differs from "
    "another by its seed as the second row does from the first."
)
INT8 = (
    "With `--precision int8`, {cases_with_the_same_lesions} of {cases} simulated scans of "
    "heads 15 to 20 have the same lesions as in float32 (one to one at IoU of 0.5 and more, volume "
    "within 5 % or 2 voxels); mean Dice between the two masks {mean_dice_against_float32}; share "
    "of float32's Dice kept {share_of_dice_kept}. So it is not the default: that takes 99 % of "
    "the scans."
)
WHOLE_PATIENT = (
    "Whole processes, {threads} threads, medians of {runs} runs after one to warm up, the ways in "
    "turn; nnU-Net without a network of ours once. brainmets goes from NIfTI to mask, "
    "measurements and report, and looks for the brain where there is a skull; MONAI and nnU-Net, "
    "with their own transforms, from NIfTI to mask, of all that is not 0. MONAI has the network of "
    "`starter` and cubes of the same side and overlap, in its second row also brainmets' blending "
    "and rounding. nnU-Net (2.8.1, `3d_fullres` at 0.833 mm, patches of 128³) has its own network "
    "with random weights, and in its last row that of `starter` with its overlap, in bfloat16. The "
    "paper's network has random weights, too, and finds nothing. nnU-Net's default, mirroring, was "
    "run on one scan: elsewhere it takes 8 times the network's time, too."
)
COST = (
    "One simulated whole head whose voxels are declared smaller or larger, analysed in one process "
    "with a warm model ({engine}). Straight line: {seconds_at_0} s and {seconds_per_litre} s a "
    "litre, R² {r_squared}."
)
HELD = (
    "A small scan {cases} times in one command: {after_1} MB resident after the first, {after_10} "
    "after the tenth, {after_100} after the hundredth, {most_resident_mb_after_10} at most since "
    "the tenth."
)
OPTIONAL: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("starter_simulated", _simulated),
    ("lesion_sizes", _sizes),
    ("tiles", _tiles),
    ("sizes", _cost),
    ("training", _training),
    ("ablation", _ablation),
    ("whole_patient_peers", _whole_patient),
    ("study", _study),
    ("study_images", _study_images),
    ("contrast_absent", _contrast),
)
"""Results that are shown where they have been recorded."""


def undefined() -> str:
    """The page on undefined scores."""
    told: str = PEERS["undefined_page"](_load("undefined_scores"), _table, _where)
    return told


KINDS = ("brain + CSF", "tissue")
BRAIN_INTRODUCTION = (
    "Made by `python benchmarks/tables.py` from `benchmarks/results/brain.json`. No real scan and "
    "none of "
    "the simulated heads took part in training or in any choice."
)
BRAIN_KINDS = (
    "A reference is one of two kinds ([why](../decisions/0030-two-brain-surfaces.md)): *brain + "
    "CSF*, or "
    "*tissue*, which leaves the outer fluid out. Each tool is held against the reference with the "
    "surface "
    "of that kind: the built-in extractor with the one of its two distances, MindGrab with the "
    "only mask "
    "it has, which is tissue. NiChart's references (DLMUSE > 0) leave the outer fluid out. The "
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


def brain_page() -> str:
    """What was measured of the brain extractors."""
    result = _load("brain")
    value = result["value"]
    missing = "Not run yet: `python benchmarks/brain.py --parts {}`."

    def shown(part: str, make: Callable[[Any], str]) -> str:
        return make(value[part]) if part in value else missing.format(part)

    parts = [
        "# Brain extraction: results",
        BRAIN_INTRODUCTION,
        f"Measured part by part; the last part by {_where(result)}",
        "## Fit and recall, by group",
        BRAIN_KINDS,
        BRAIN_VERSION,
        shown("scans", _brain_groups),
        "## Scan by scan",
        shown("scans", _brain_scans),
        "## Lesions at the surface",
        shown("lesions", _brain_lesions),
        "## Perturbed heads: does the mask suffer, and is it told?",
        shown("perturbed", lambda rows: _brain_perturbed(rows, value.get("scans", []))),
        "## Time and memory",
        shown("time", _brain_times),
    ]
    return "\n\n".join(parts) + "\n"


def _brain_groups(rows: list[dict[str, Any]]) -> str:
    table = []
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group]
        for kind in members[0]["dice"]:
            own = [row["dice"][kind] for row in members]
            both = [row for row in members if "mindgrab" in row]
            others = [row["mindgrab"]["dice"][kind] for row in both]
            table.append([
                group, len(members), kind, f"{median(own):.3f}", f"{min(own):.3f}",
                f"{median(others):.3f} ({len(others)})" if others else None,
                f"{median([row['dice'][kind] for row in both]):.3f}" if both else None,
                f"{min(row['recall'] for row in members):.4f}",
            ])  # fmt: skip
    header = ["group", "heads", "reference", "median Dice", "worst Dice", "MindGrab's median",
              "built-in on the same", "least recall"]  # fmt: skip
    return _table(header, table)


def _brain_scans(rows: list[dict[str, Any]]) -> str:
    table = [
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
    return _table(header, table)


def _brain_lesions(found: dict[str, Any]) -> str:
    names = {"lost_whole": "lost whole, before the margin"}
    rows = [[names.get(k, k.replace("_", " ")), number] for k, number in found.items()]
    return (
        "Simulated lesions of 3 to 18 mm centred within 3 mm of the surface of brain + CSF, in "
        "label maps 17–20; their voxels that lie in brain + CSF.\n\n" + _table(["", "value"], rows)
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
    warned = sum(bool(row["warnings"]) for row in whole)
    detail = [
        [r["scan"], r["perturbation"], r["dice_before"], r["dice"], r["fall"], r["recall"],
         "; ".join(r["warnings"]) or None]
        for r in rows
    ]  # fmt: skip
    header = ["scan", "perturbation", "Dice before", "Dice", "fall", "recall", "warnings"]
    parts = [
        _table(["perturbed heads", "warning", "no warning"], crossed),
        f"Unperturbed heads with a warning: {warned} of {len(whole)}.",
        _table(header, detail),
    ]
    return "\n\n".join(parts)


def _brain_times(rows: list[dict[str, Any]]) -> str:
    table = [
        [r["extractor"], r["shape"], r["seconds_median"], r["seconds_first"], r["peak_memory_mb"]]
        for r in rows
    ]
    note = (
        "Scan of 1 mm in memory to mask, float32, each in a process of its own; median of three "
        "calls after "
        "the first. SynthStrip: a network of its shape, trained briefly by `brainmets models "
        "train-extractor "
        "--design synthstrip`. Official weights: not run; `brainmets models fetch synthstrip`, "
        "then `python "
        "benchmarks/brain.py --parts time --synthstrip FILE`. bfloat16: not run, the processor has"
        " no unit for it."
    )
    header = ["extractor", "voxels", "seconds", "first call", "peak memory, MB"]
    return f"{note}\n\n{_table(header, table)}"


def readme() -> str:
    """README.md with its table of times made anew."""
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{_times(_load('predict'))}\n{END}{tail}"


if __name__ == "__main__":
    BRAIN_PAGE.write_text(brain_page(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    UNDEFINED.write_text(undefined(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
