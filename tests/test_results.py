"""The published figures are the measured ones."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def _tables():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.path[0]
    return module


def test_the_page_of_results_is_made_from_the_recorded_results():
    tables = _tables()
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page()
    assert tables.BRAIN_PAGE.read_text(encoding="utf-8") == tables.brain_page()
    assert tables.README.read_text(encoding="utf-8") == tables.readme()
    assert tables.UNDEFINED.read_text(encoding="utf-8") == tables.undefined()


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_each_result_says_what_was_run_where(path):
    result = json.loads(path.read_text())
    assert set(result) == {"command", "commit", "machine", "value"}
    assert {"processor", "cores", "memory_gib"} <= set(result["machine"])


def test_results_of_the_brain_extractor_belong_to_the_one_that_is_shipped():
    from brainmets.preprocess.brain import builtin_sha256

    recorded = json.loads((ROOT / "benchmarks" / "results" / "brain.json").read_text())
    assert recorded["value"]["sha256"] == builtin_sha256()


def test_results_on_real_scans_belong_to_the_model_that_is_shipped():
    from brainmets.network.bundle import find, read

    recorded = json.loads((ROOT / "benchmarks" / "results" / "starter_real.json").read_text())
    assert recorded["value"]["sha256"] == read(find("starter")).sha256


def test_scores_equal_those_of_other_packages_or_say_why_not():
    recorded = json.loads((ROOT / "benchmarks" / "results" / "scores_peers.json").read_text())
    rows = [row for job in recorded["value"]["jobs"] for row in job["differences"]]
    assert {job["peer"] for job in recorded["value"]["jobs"]} >= {"MONAI", "panoptica"}
    for row in rows:
        assert row["reason"] or (row["largest"] <= 1e-6 and not row["gaps"]), row["score"]
