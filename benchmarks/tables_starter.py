"""What the shipped model finds, and what training and simulator are worth."""

from statistics import median
from typing import Any

from recorded import between, load, spread, table, where

REAL_SCANS = (
    "Nothing was tuned on these scans. `truth` says what a finding is held against: a reference "
    "mask, a box drawn by eye, `none` (a head without tumour and contrast: every finding is "
    "false), or unknown. The gliomas are not metastases; their core (necrosis, non-enhancing and "
    "enhancing tumour) stands in for one."
)
TILES = (
    "`starter` on {engine}, {cases} scans, {scored} of them simulated with known lesions, by the "
    "rule chosen for cubes. Large tiles take the network's time divided by "
    "{median_ratio_of_seconds} (median). The lesions are the same, one to one at IoU of 0.5 and "
    "more and within 5 % or 2 voxels of volume, in {cases_with_the_same_lesions} scans. "
    "Overlapping cubes are an average over several looks, and that is lost: so cubes are the "
    "default, and `--large-tiles` is there to be asked for."
)
GOALS = (
    "From the tables on this page; the first five are of one threshold, at which there is at most "
    "1 false positive a scan, and 0.5 without a lesion. What was tried where a goal is not "
    "reached: "
    "[how far the starter is](../explanation/how-far-the-starter-is.md)."
)
SIMULATED = (
    "{scans} scans with {lesions} lesions; contrast to noise: 10th percentile "
    "{contrast_to_noise_p10}, median {contrast_to_noise_p50}. Mimics (round bright blobs that are "
    "no lesion, of {mimics_from_mm} to {mimics_to_mm} mm, answering at least as the weakest "
    "quarter of the lesions that the detector sees): {mimics_per_scan_mean} a scan. The simple "
    "detector is a threshold and a Laplacian of Gaussian within the true brain mask."
)
SEEDS = (
    "The second network alone was trained anew, from random weights, for {steps} steps of the "
    "7,300 that the 250-place model had taken, twice, with another seed and nothing else changed; "
    "the rows of `starter` are that model, which shipped then and learnt in three parts. All have "
    "the same first network: its training takes a GPU, and another seed of it was not tried. The "
    "scans are the "
    "first {test} of the simulated test cohort and {empty} without a lesion; each model at one "
    "false positive a scan at most. Intervals of differences choose that threshold in each draw "
    "of scans anew; the other intervals hold it fixed. {inside} of the second seed's {of} "
    "sensitivities lie in the first's intervals."
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
    "Each arm is one training on 40 simulated scans of label maps 01–14, from random weights "
    "unless told, 500 steps of two patches of 96³ unless told, on one thread, {minutes} minutes "
    "in the median; every sixth scan chose its rule. Scored on {test_cases} whole simulations of "
    "maps 17–20, with 95 % bootstrap intervals over scans, paired for differences from the first "
    "row. An ingredient is left out of all scans that an arm learns from, heads and metastases "
    "staying the same. A 2D ResNet-34 to start from was trained on slices of the same scans by "
    "`benchmarks/flat_encoder.py`; ImageNet's weights: not run. The last columns are of the "
    "{scans} real scans with contrast whose tumours are known, nothing tuned on them. All of "
    "these models are far too little trained to be of use: what an arm changes here need not be "
    "what it changes at full length. And the second row, the same training with another seed, "
    "differs from the first by more than any arm does, so none of these differences can be told "
    "from chance."
)
INT8 = (
    "In int8, with a second look, {cases_with_the_same_lesions} of {cases} simulated scans of "
    "heads 15 and 16 have the lesions of float32 (one to one at IoU of 0.5 and more, volume "
    "within 5 % or 2 voxels); mean Dice between the two masks {mean_dice_against_float32}; share "
    "of float32's Dice kept {share_of_dice_kept}. {conclusion}"
)
INT8_UNKNOWN = (
    "What int8 loses with this decision rule and two networks was not measured, so it is not the "
    "default."
)
DETAIL = (
    "It has a [second network](../decisions/0065-detail-network.md) for small metastases, trained "
    "on {cases} simulated scans of the same heads. On the validation cases the first network "
    "alone, by the rule that is best for it there, finds {lesion_sensitivity} of the lesions, with "
    "{false_positives_per_scan} false positives a scan."
)
IS_DEFAULT = "That is enough for it to be the default, where a processor adds all of it."
IS_NOT_DEFAULT = "So it is not the default: that takes 99 % of the scans."


def card_section() -> str:
    """What the model's card says."""
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
            table(["cases from", *(key.replace("_", " ") for key in keys)], rows),
            "Lesions found in the test cases, by equivalent diameter:",
            table(["size", "found", "sensitivity"], sizes),
            *_second_network(card.get("detail")),
            _int8(card.get("int8")),
        ]
    )


def _second_network(said: dict[str, Any] | None) -> list[str]:
    if not said:
        return []
    return [DETAIL.format(cases=said["cases"], **said["validation_without_it"])]


def _int8(said: dict[str, Any] | None) -> str:
    if not said:
        return INT8_UNKNOWN
    return INT8.format(**said, conclusion=IS_DEFAULT if said["is_default"] else IS_NOT_DEFAULT)


def _by_size(groups: dict[str, Any]) -> dict[str, Any]:
    """From small to large, then what takes several sizes together."""
    order = ["< 3 mm", "3–4 mm", "4–6 mm", "6–10 mm", "≥ 10 mm", "≥ 6 mm", "all"]
    return {name: groups[name] for name in order if name in groups}


def real() -> str:
    """Real scans, one by one."""
    result = load("starter_real")
    keys = ["scan", "truth", "found", "hits", "false", "false_from_27_mm3", "largest_false_mm3",
            "false_in_sinus_or_plexus", "reference_lesions", "reference_lesions_hit", "dice",
            "recall"]  # fmt: skip
    rows = [[row.get(key) for key in keys] for row in result["value"]["rows"]]
    return "\n\n".join(
        [
            "## `starter` on real scans",
            where(result),
            REAL_SCANS,
            table([key.replace("_", " ") for key in keys], rows),
        ]
    )


def simulated(result: dict[str, Any]) -> str:
    """The simulated test cohort, the simple detector and the model."""
    value = result["value"]
    hard, model, simple = value["difficulty"], value["starter"], value["detector"]
    points = {name: of["operating_points"] for name, of in (
        (value["model"], model), ("simple detector", simple),
        ("the same with a test of shape", value["detector_with_shape"]))}  # fmt: skip
    curve = [[name, *(spread(p) for p in found)] for name, found in points.items()]
    parts = {"at most 1 false positive per scan": "at_most_1_false_positive_per_scan",
             "and at most 0.5 without a lesion": "and_at_most_half_of_one_without_lesion",
             "own rule": "own_rule"}  # fmt: skip
    rows = [_judged(name, model[key]) for name, key in parts.items()]
    allowed = [f"{p['allowed']:g}" for p in simple["operating_points"]]
    header = ["model", "false positives per scan", *_by_size(model["own_rule"]["sensitivity"]),
              "median Dice from 6 mm", "false positives per scan without a lesion"]  # fmt: skip
    return "\n\n".join([
        f"## `{value['model']}` on the simulated test cohort",
        SIMULATED.format(**hard),
        table(header, rows),
        "Sensitivity at so many false positives per scan, over all upper thresholds of its rule:",
        table(["", *allowed], curve),
        where(result),
    ])  # fmt: skip


def goals(result: dict[str, Any]) -> str:
    """What the starter was meant to reach, beside what it reaches."""
    value, sizes = result["value"], load("lesion_sizes")["value"]
    at_one, blobs = value["starter"]["and_at_most_half_of_one_without_lesion"], value["detector"]
    real = load("starter_real")["value"]["rows"]
    tumours = [row for row in real if row["truth"] in ("box", "mask")]
    gliomas = [row for row in real if row["scan"].startswith("glioma")]
    heads = [row for row in real if row["truth"] == "none"]
    simple = next(p for p in blobs["operating_points"] if p["allowed"] == 1)
    rows = [
        *(_goal(f"simulated: sensitivity, {size}, at 1 false positive a scan",
                at_one["sensitivity"][size]["value"], least=least)
          for size, least in (("≥ 6 mm", 0.97), ("4–6 mm", 0.9), ("3–4 mm", 0.7))),
        _goal("simulated: median Dice of lesions found, ≥ 6 mm",
              at_one["median_dice_from_6_mm"], least=0.85),
        _goal("simulated: false positives a scan without a lesion",
              at_one["false_positives_per_scan_without_lesion"]["value"], most=0.5),
        _goal("simulated: the simple detector's sensitivity at 1 false positive a scan",
              simple["value"], most=0.5),
        _goal("simulated: mimics a scan", value["difficulty"]["mimics_per_scan_mean"], least=5),
        _goal("simulated against real lesions: distance of log volume",
              sizes["ks_log10_volume"], most=0.15),
        _goal("simulated against real lesions: distance of sphericity",
              sizes["ks_sphericity"], most=0.15),
        _goal("real: tumour scans with a hit", sum(row["hits"] > 0 for row in tumours),
              least=len(tumours)),
        _goal("real: tumours of head_thick hit",
              next(r for r in real if r["scan"] == "head_thick")["reference_lesions_hit"], least=2),
        _goal("real: least Dice of the gliomas", min(r["dice"] for r in gliomas), least=0.7),
        _goal("real: least recall of the gliomas", min(r["recall"] for r in gliomas), least=0.75),
        _goal("real: most false findings of 27 mm³ in a tumour scan",
              max(row["false_from_27_mm3"] for row in tumours), most=3),
        _goal("real: false findings in a sinus or plexus",
              sum(row["false_in_sinus_or_plexus"] for row in tumours), most=0),
        _goal("real: most false findings in a head without tumour",
              max(row["false"] for row in heads), most=1),
    ]  # fmt: skip
    return "\n\n".join([
        "## `starter` against its goals",
        GOALS,
        table(["", "goal", "reached", "met"], rows),
    ])  # fmt: skip


def _goal(
    says: str, reached: float, least: float | None = None, most: float | None = None
) -> list[Any]:
    goal = f"≥ {least:g}" if least is not None else f"≤ {most:g}"
    met = (least is None or reached >= least) and (most is None or reached <= most)
    return [says, goal, f"{reached:.3g}", "yes" if met else "no"]


def _judged(name: str, found: dict[str, Any]) -> list[Any]:
    """A row of the model's figures at one threshold."""
    groups = _by_size(found["sensitivity"]).values()
    sizes = [f"{spread(s)}, {s['found']} of {s['lesions']}" for s in groups]
    empty = found["false_positives_per_scan_without_lesion"]
    return [name, spread(found["false_positives_per_scan"]), *sizes,
            found["median_dice_from_6_mm"], spread(empty) if empty else None]  # fmt: skip


def seeds(result: dict[str, Any]) -> str:
    """Two seeds of the second network's training, beside what ships."""
    value = result["value"]
    first, second, *_ = value["rows"]
    inside = [held for held in second["within_the_first"].values() if held is not None]
    bins = ("< 3 mm", "3–4 mm", "4–6 mm", "6–10 mm", "≥ 10 mm", "≥ 6 mm", "all")
    header = ["second network", "", *bins, "false positives a scan", "of a scan without a lesion"]
    rows = []
    for number, row in enumerate(value["rows"]):
        found = row["at_most_1_false_positive_per_scan"]
        empty = found["false_positives_per_scan_without_lesion"]
        said = [spread(found["sensitivity"][name]) for name in bins]
        name = _of_seed(row)
        rows.append([name, "sensitivity", *said, spread(found["false_positives_per_scan"]),
                     spread(empty) if empty else None])  # fmt: skip
        if number:
            more = [_more(row["difference"][name]) for name in bins]
            rows.append([name, "more than the first", *more, None, None])
    said = {"steps": f"{first['training']['steps']:,}", "inside": sum(inside), "of": len(inside)}
    return "\n\n".join([
        "## Another seed of the second network",
        SEEDS.format(**value["scans"], **said),
        table(header, rows),
        where(result),
    ])  # fmt: skip


def _of_seed(row: dict[str, Any]) -> str:
    if row["goes_on_from_another"]:
        return f"`{row['model']}`"
    return f"seed {row['training']['seed']}"


def _more(bounds: dict[str, Any]) -> str:
    """A difference with its interval, if there is one."""
    return f"{bounds['value']:+.2f}" if bounds["low"] is None else between(bounds)


def sizes(result: dict[str, Any]) -> str:
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
        table(["", "", *value["real"]["sphericity"]], rows),
        where(result),
    ])  # fmt: skip


def tiles(result: dict[str, Any]) -> str:
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
        table(header, rows),
        where(result),
    ])  # fmt: skip


def training(result: dict[str, Any]) -> str:
    """Ways to train, on a simulated cohort."""
    value = result["value"]
    header = ["trained by", "runs", "seconds of a run", "lesion F1", "of each run", "sensitivity",
              "false positives a scan", "F1 higher by"]  # fmt: skip
    says = {arm["arm"]: arm["says"] for arm in value["arms"]}
    rows = [
        [arm["says"], len(arm["seeds"]), round(median(arm["seconds"])), between(arm["lesion_f1"]),
         ", ".join(f"{f1:.2f}" for f1 in arm["lesion_f1_of_seeds"]),
         between(arm["lesion_sensitivity"]), between(arm["false_positives_per_scan"]),
         f"{between(arm['better_by'])} than {says[arm['against']]}" if "against" in arm else None]
        for arm in value["arms"]
    ]  # fmt: skip
    return "\n\n".join([
        "## Ways to train",
        TRAINING.format(**value),
        table(header, rows),
        where(result),
    ])  # fmt: skip


def ablation(result: dict[str, Any]) -> str:
    """What losses, starts and the simulator's ingredients are worth, at one small size."""
    value = result["value"]
    header = ["learnt", "lesion F1", "sensitivity", "false positives a scan", "F1 higher by",
              "real scans: hits", "false", "of ≥ 27 mm³", "in a sinus or plexus"]  # fmt: skip
    rows = [
        [arm["says"], *(between(arm[s]) for s in
                        ("lesion_f1", "lesion_sensitivity", "false_positives_per_scan")),
         between(arm["better_by"]) if "against" in arm else None,
         *(arm["real"][key] for key in
           ("hits", "false", "false_from_27_mm3", "false_in_sinus_or_plexus"))]
        for arm in value["arms"]
    ]  # fmt: skip
    minutes = median(median(arm["seconds"]) for arm in value["arms"]) / 60
    scans = value["arms"][0]["real"]["scans"]
    return "\n\n".join([
        "## What parts of training and of the simulator are worth",
        ABLATION.format(**value, minutes=round(minutes), scans=scans),
        table(header, rows),
        where(result),
    ])  # fmt: skip


def contrast(result: dict[str, Any]) -> str:
    """Errors of the rule on contrast."""
    value = result["value"]
    rows = [[r["scan"], "yes" if r["contrast"] else "no", r["seen"], "yes" if r["right"] else "no"]
            for r in value["real"]]  # fmt: skip
    return "\n\n".join([
        "## Whether contrast was given",
        CONTRAST.format(**value),
        table(["real scan", "contrast given", "enhancement", "rule is right"], rows),
        where(result),
    ])  # fmt: skip
