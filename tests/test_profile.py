"""A profile says which stage took what, and changes no result."""

import gc
import mmap
from dataclasses import replace

import numpy as np

from brainmets import memory
from brainmets.batch import predict_cases
from brainmets.cohort import Case
from brainmets.network.cost import Timed
from brainmets.network.detail_engine import DetailEngine
from brainmets.profile import STAGES, network_line, stage_rows
from stand_ins import coarse_model, write_scan


def test_every_stage_has_its_seconds_and_memory(tmp_path):
    case = Case("one", write_scan(tmp_path / "one.nii.gz"))
    model = coarse_model()
    timed = Timed(model.engine)
    blind = DetailEngine(5, 0.0, lambda patches, _: (np.full(len(patches), -9.0), None))
    used = replace(model, engine=timed, exact=model.engine, detail=blind)
    outcomes = predict_cases([case], tmp_path / "out", used, profile=True)
    rows = stage_rows(outcomes, tmp_path / "out")
    stages = [stage for _, stage, _, _ in rows]
    assert stages == list(STAGES)
    assert all(float(seconds) >= 0 and int(peak) > 10 for _, _, seconds, peak in rows)
    assert timed.tiles > 0
    assert f"network: {timed.tiles} tiles" in network_line(timed, model.bundle)
    predict_cases([case], tmp_path / "plain", replace(model, exact=model.engine))
    for name in ("mask.nii.gz", "report.json"):
        found = [(tmp_path / folder / "one" / name).read_bytes() for folder in ("out", "plain")]
        assert found[0] == found[1]


def test_a_case_that_was_kept_has_no_profile(tmp_path):
    case = Case("one", write_scan(tmp_path / "one.nii.gz"))
    predict_cases([case], tmp_path / "out", coarse_model(), profile=True)
    timed = Timed(coarse_model().engine)
    outcomes = predict_cases([case], tmp_path / "out", replace(coarse_model(), engine=timed))
    assert stage_rows(outcomes, tmp_path / "out") == []
    assert network_line(timed, coarse_model().bundle) == "network: no tile was run"


def test_the_peak_holds_what_was_held():
    """Pages of its own: an allocator may give again what earlier tests have left."""
    size = 64 << 20
    gc.collect()
    memory.forget_peak()
    before = memory.peak_mb()
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held[:: mmap.PAGESIZE] = b"\1" * (size // mmap.PAGESIZE)
        assert memory.peak_mb() >= before + 60
