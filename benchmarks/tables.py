"""Makes docs/reference/results.md from results/*.json; a test holds the two together.

python benchmarks/tables.py
"""

import json
import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- times: begin -->", "<!-- times: end -->"
PAGE = ROOT / "docs" / "reference" / "results.md"
UNDEFINED = ROOT / "docs" / "reference" / "undefined-scores.md"
PEERS = runpy.run_path(str(ROOT / "benchmarks" / "peers" / "tables.py"))

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
        *([_scores()] if (RESULTS / "scores.json").is_file() else []),
        *([_dicom()] if (RESULTS / "dicom.json").is_file() else []),
        PEERS["seconds_section"](_load("scores_peers"), _table, _where),
        _card(),
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
        f"{machine['processor']} with {machine['memory_gib']} GiB."
    )


def _predict() -> str:
    return f"## Time and memory, NIfTI to report\n\n{_times(_load('predict'))}"


def _times(result: dict[str, Any]) -> str:
    rows = [
        [r["scan"], r["shape"], r["seconds_median"], f"{r['seconds_least']}–{r['seconds_most']}",
         r["peak_memory_mb"]]
        for r in result["value"]["rows"]
    ]  # fmt: skip
    header = ["scan", "voxels", "seconds (median)", "range", "peak memory, MB"]
    return f"{_table(header, rows)}\n\n{_where(result)}"


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
    sizes = [[name, found] for name, found in card["sensitivity_by_size"].items()]
    return "\n\n".join(
        [
            "## `starter` on simulated scans",
            f"Trained on: {card['trained_on']}",
            _table(["cases from", *(key.replace("_", " ") for key in keys)], rows),
            "Lesions found in the test cases, by equivalent diameter:",
            _table(["size", "found"], sizes),
        ]
    )


def _real() -> str:
    result = _load("starter_real")
    keys = ["scan", "truth", "found", "hits", "false", "false_from_27_mm3", "largest_false_mm3",
            "reference_lesions", "reference_lesions_hit", "dice", "recall"]  # fmt: skip
    rows = [[row.get(key) for key in keys] for row in result["value"]["rows"]]
    return "\n\n".join(
        [
            "## `starter` on real scans",
            _where(result),
            REAL_SCANS,
            _table([key.replace("_", " ") for key in keys], rows),
        ]
    )


def undefined() -> str:
    """The page on undefined scores."""
    told: str = PEERS["undefined_page"](_load("undefined_scores"), _table, _where)
    return told


def readme() -> str:
    """README.md with its table of times made anew."""
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{_times(_load('predict'))}\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    UNDEFINED.write_text(undefined(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
