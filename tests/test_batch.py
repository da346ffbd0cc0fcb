"""Many cases: faults stay apart, nothing half-done stands, and a second start goes on."""

import csv
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import brainmets.batch
from brainmets.batch import DONE, FAILED, FILES, KEPT, Clock, measure_cases, predict_cases
from brainmets.cohort import Case
from brainmets.errors import CohortError, WriteError
from brainmets.io import nifti
from brainmets.io.storage import UNFINISHED, whole_folder, write_json
from brainmets.preprocess.brain import AUTO, Extractor
from phantoms import Ball
from stand_ins import COARSE_BALLS, coarse_grid, coarse_model, stripped_head, write_scan

NAMES = ("anna", "ben", "cleo")


@pytest.fixture
def scans(tmp_path):
    """Three scans whose folder's name must not be found in any output."""
    folder = tmp_path / "secret-place"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        write_scan(folder / f"{name}.nii.gz", balls=COARSE_BALLS[: number % 3], seed=number)
    return folder


def cases_in(scans, names=NAMES):
    return [Case(name, scans / f"{name}.nii.gz") for name in names]


def content(out):
    """Every file but run.json: relative path → bytes."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def stamps(folder):
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}


def summary_of(out):
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def status_of(outcomes):
    return {outcome.case_id: outcome.status for outcome in outcomes}


# What is written


def test_every_case_gets_a_whole_folder_and_a_line_in_the_summary(scans, tmp_path):
    out = tmp_path / "out"
    outcomes = predict_cases(cases_in(scans), out, coarse_model(), save_probability=True)
    assert status_of(outcomes) == dict.fromkeys(NAMES, DONE)
    assert [outcome.lesions for outcome in outcomes] == [0, 1, 2]
    assert sorted(p.name for p in out.iterdir()) == [*NAMES, "summary.csv"]
    for outcome in outcomes:
        folder = out / outcome.case_id
        assert {p.name for p in folder.iterdir()} == {*FILES, "probability.nii.gz"}
        mask = nifti.read_labels(folder / "mask.nii.gz")
        assert mask.data.max() == outcome.lesions
        assert float(np.count_nonzero(mask.data) * 125) == pytest.approx(outcome.volume_mm3)
        assert summary_of(out)[outcome.case_id]["lesions"] == str(outcome.lesions)


def test_the_same_input_gives_the_same_bytes_except_for_run_json(scans, tmp_path):
    for out in ("one", "two"):
        predict_cases(cases_in(scans), tmp_path / out, coarse_model(), save_probability=True)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_order_of_cases_does_not_matter(scans, tmp_path):
    predict_cases(cases_in(scans), tmp_path / "one", coarse_model())
    predict_cases(cases_in(scans, NAMES[::-1]), tmp_path / "two", coarse_model())
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert {**one, "summary.csv": b""} == {**two, "summary.csv": b""}
    assert summary_of(tmp_path / "one") == summary_of(tmp_path / "two")


def test_no_output_says_where_anything_lies(scans, tmp_path):
    (scans / "cut.nii.gz").write_bytes((scans / "anna.nii.gz").read_bytes()[:500])
    out = tmp_path / "out"
    predict_cases(cases_in(scans, (*NAMES, "cut", "absent")), out, coarse_model())
    words = (str(tmp_path), "secret-place", str(Path.home()) + "/")
    for path in out.rglob("*"):
        if path.is_file():
            found = path.read_bytes()
            assert not [word for word in words if word.encode() in found], path.name


def test_run_json_says_how_long_each_stage_took(scans, tmp_path):
    predict_cases(cases_in(scans, ("anna",)), tmp_path, coarse_model())
    record = json.loads((tmp_path / "anna" / "run.json").read_text())
    assert {"read", "brain", "predict", "write"} <= set(record["seconds_by_stage"])
    assert record["peak_memory_mb"] > 10


def test_a_stage_that_comes_back_is_added_up(monkeypatch):
    now = iter([0.0, 1.0, 1.0, 3.0, 3.0, 7.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = Clock()
    for stage in ("read", "read", "predict", "read"):
        clock(stage, 0, 1)
    clock.stop()
    clock.stop()
    assert clock.stages == {"read": 5.0, "predict": 2.0}


# Faults stay apart


def damage(scans):
    """Ways in which a scan is bad, by name."""
    good = nifti.read(scans / "anna.nii.gz").volume
    (scans / "empty.nii.gz").write_bytes(b"")
    (scans / "cut.nii.gz").write_bytes((scans / "anna.nii.gz").read_bytes()[:500])
    (scans / "text.nii").write_text("hello " * 100)
    nifti.write(good.with_data(np.full_like(good.data, 3)), scans / "constant.nii.gz")
    holes = good.data.copy()
    holes[3, 3, 3] = np.nan
    nifti.write(good.with_data(holes), scans / "nan.nii.gz")
    (scans / "folder.nii.gz").mkdir()
    bad = ("empty", "cut", "constant", "nan", "absent", "folder")
    return [*cases_in(scans, bad), Case("text", scans / "text.nii")]


def test_bad_cases_stop_nobody_and_leave_nothing(scans, tmp_path):
    bad = damage(scans)
    out = tmp_path / "out"
    anna, *others = cases_in(scans)
    outcomes = predict_cases([anna, *bad, *others], out, coarse_model())
    expected = dict.fromkeys(NAMES, DONE) | dict.fromkeys((c.case_id for c in bad), FAILED)
    assert status_of(outcomes) == expected
    assert sorted(p.name for p in out.iterdir()) == [*NAMES, "summary.csv"]
    for outcome in outcomes:
        row = summary_of(out)[outcome.case_id]
        assert row["status"] == outcome.status
        if outcome.status == FAILED:
            assert outcome.exit_code == 2
            assert len(outcome.message) > 20
            assert "\n" not in outcome.message
            assert row["message"] == outcome.message
            assert row["lesions"] == ""


def test_an_input_that_vanishes_on_the_way_is_one_clear_error(scans, tmp_path):
    def watch(case, stage, _done, _total):
        if case.case_id == "ben" and stage == "read":
            case.image.unlink()

    outcomes = predict_cases(cases_in(scans), tmp_path / "out", coarse_model(), watch=watch)
    assert status_of(outcomes) == {"anna": DONE, "ben": FAILED, "cleo": DONE}
    assert "ben.nii.gz" in outcomes[1].message
    assert outcomes[1].exit_code == 2
    assert not (tmp_path / "out" / "ben").exists()


def test_the_next_case_is_read_and_the_last_one_written_meanwhile(scans, tmp_path, monkeypatch):
    """Each waits for the other: one after the other they would wait for ever."""
    monkeypatch.setattr("brainmets.batch.threads", lambda: 2)
    read, worked = threading.Event(), threading.Event()
    write = brainmets.batch.write_case

    def watch(case, stage, _done, _total):
        if (case.case_id, stage) == ("ben", "read"):
            read.set()
        if (case.case_id, stage) == ("anna", "restore"):
            assert read.wait(60)
        if (case.case_id, stage) == ("ben", "restore"):
            worked.set()

    def slow(report, folder, **options):
        assert report.case_id != "anna" or worked.wait(60)
        write(report, folder, **options)

    monkeypatch.setattr("brainmets.batch.write_case", slow)
    outcomes = predict_cases(cases_in(scans), tmp_path / "out", coarse_model(), watch=watch)
    assert set(status_of(outcomes).values()) == {DONE}


@pytest.mark.parametrize(("large", "most"), [(10**9, 3), (1, 1)])
def test_no_more_scans_are_held_than_are_worked_on(scans, tmp_path, monkeypatch, large, most):
    """Without garbage collection, so that nothing holds on to what is done."""
    monkeypatch.setattr("brainmets.batch.LARGE_VOX", large)
    monkeypatch.setattr("brainmets.batch.threads", lambda: 2)
    seen, alive = [], []
    read = brainmets.batch.images.read_case

    def noted(case):
        scan = read(case)
        seen.append(weakref.ref(scan))
        alive.append(held())
        return scan

    def held():
        return sum(reference() is not None for reference in seen)

    monkeypatch.setattr("brainmets.batch.images.read_case", noted)
    names = [f"{name}{number}" for number in range(3) for name in NAMES]
    for name in names:
        shutil.copy(scans / f"{name[:-1]}.nii.gz", scans / f"{name}.nii.gz")
    gc.collect()
    gc.disable()
    try:
        predict_cases(cases_in(scans, names), tmp_path / "out", coarse_model())
        left = held()
    finally:
        gc.enable()
    assert len(alive) == len(names)
    assert max(alive) <= most
    assert left <= 1


def test_a_large_scan_is_alone(scans, tmp_path, monkeypatch):
    """From its first step of work to its last byte no other case is read, made or written."""
    monkeypatch.setattr("brainmets.batch.LARGE_VOX", 1)
    order = []
    write = brainmets.batch.write_case

    def noted(report, folder, **options):
        write(report, folder, **options)
        order.append((report.case_id, "written"))

    def watch(case, stage, done, _total):
        if not done:
            order.append((case.case_id, stage))

    monkeypatch.setattr("brainmets.batch.write_case", noted)
    predict_cases(cases_in(scans), tmp_path / "out", coarse_model(), watch=watch)
    names = [case_id for case_id, _ in order]
    assert names == sorted(names)
    assert names.count("ben") == names.count("anna") > 3


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ZeroDivisionError("at /home/someone"), "unforeseen ZeroDivisionError"),
        (MemoryError(), "free memory"),
        (OSError(5, "Input/output error", "/home/someone"), "OSError"),
    ],
)
def test_whatever_goes_wrong_in_one_case_stays_there(scans, tmp_path, error, words):
    def watch(case, stage, _done, _total):
        if case.case_id == "anna" and stage == "restore":
            raise error

    outcomes = predict_cases(cases_in(scans), tmp_path / "out", coarse_model(), watch=watch)
    assert status_of(outcomes) == {"anna": FAILED, "ben": DONE, "cleo": DONE}
    assert words in outcomes[0].message
    assert "/home" not in outcomes[0].message
    assert outcomes[0].exit_code == 1
    assert not (tmp_path / "out" / "anna").exists()


@pytest.mark.parametrize("name", ["report.json", "run.json"])
def test_control_c_leaves_finished_cases_and_nothing_unfinished(scans, tmp_path, monkeypatch, name):
    def interrupted(path, value):
        seen.append(path.name)
        if seen.count(name) == 2:  # of ben: cases are written in turn
            raise KeyboardInterrupt
        write_json(path, value)

    seen = []
    monkeypatch.setattr("brainmets.batch.write_json", interrupted)
    monkeypatch.setattr("brainmets.report.case.write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_cases(
            cases_in(scans),
            tmp_path / "out",
            coarse_model(),
        )
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["anna"]


def test_a_case_that_fails_now_keeps_what_it_had(scans, tmp_path):
    out = tmp_path / "out"
    predict_cases(cases_in(scans), out, coarse_model())
    before = stamps(out / "anna")
    (scans / "anna.nii.gz").write_bytes(b"damaged")
    outcomes = predict_cases(cases_in(scans), out, coarse_model())
    assert status_of(outcomes) == {"anna": FAILED, "ben": KEPT, "cleo": KEPT}
    assert stamps(out / "anna") == before


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../b", "summary.csv"])
def test_a_name_that_would_leave_the_folder_is_refused(scans, tmp_path, name):
    out = tmp_path / "deep" / "out"
    predict_cases(cases_in(scans, ("ben",)), out, coarse_model())
    bystander = out.parent / "kept.txt"
    bystander.write_text("")
    before = stamps(out / "ben")
    outcomes = predict_cases([Case(name, scans / "anna.nii.gz")], out, coarse_model())
    assert outcomes[0].status == FAILED
    assert "rename" in outcomes[0].message
    assert stamps(out / "ben") == before
    assert {p.name for p in out.parent.iterdir()} == {"kept.txt", "out"}


def test_two_cases_of_one_name_are_refused_before_anything_is_written(scans, tmp_path):
    cases = [Case("x", scans / "anna.nii.gz"), Case("X", scans / "ben.nii.gz")]
    with pytest.raises(CohortError, match="twice"):
        predict_cases(cases, tmp_path / "out", coarse_model())
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be_is_a_write_error(scans, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(WriteError, match="out"):
        predict_cases(cases_in(scans), tmp_path / "out", coarse_model())
    assert (tmp_path / "out").read_text() == "mine"


def test_a_file_where_a_case_should_be_fails_that_case_and_stays(scans, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "anna").write_text("mine")
    outcomes = predict_cases(cases_in(scans), tmp_path / "out", coarse_model())
    assert status_of(outcomes) == {"anna": FAILED, "ben": DONE, "cleo": DONE}
    assert (tmp_path / "out" / "anna").read_text() == "mine"
    assert outcomes[0].exit_code == 1


@pytest.mark.parametrize("foreign", ["ben-t1c.nii.gz", "notes"])
def test_results_never_replace_a_folder_that_holds_something_else(scans, tmp_path, foreign):
    """As in a cohort of one folder per patient, written to itself by mistake."""
    folder = tmp_path / "out" / "ben"
    folder.mkdir(parents=True)
    (folder / foreign).write_text("mine")
    outcomes = predict_cases(cases_in(scans), tmp_path / "out", coarse_model())
    assert status_of(outcomes) == {"anna": DONE, "ben": FAILED, "cleo": DONE}
    assert foreign in outcomes[1].message
    assert [p.name for p in folder.iterdir()] == [foreign]


# A second start


def test_a_second_start_keeps_what_is_done(scans, tmp_path):
    out = tmp_path / "out"
    predict_cases(cases_in(scans), out, coarse_model())
    before, summary = {name: stamps(out / name) for name in NAMES}, summary_of(out)
    model = coarse_model()
    outcomes = predict_cases(cases_in(scans), out, model)
    assert model.engine.calls == 0
    assert status_of(outcomes) == dict.fromkeys(NAMES, KEPT)
    assert [outcome.lesions for outcome in outcomes] == [0, 1, 2]
    assert {name: stamps(out / name) for name in NAMES} == before
    assert summary_of(out) == summary


def lose(file):
    return lambda folder, _scans: (folder / file).unlink()


def cut(file):
    def change(folder, _scans):
        text = (folder / file).read_bytes()
        (folder / file).write_bytes(text[: len(text) // 2])

    return change


def change_input(_folder, scans):
    write_scan(scans / "ben.nii.gz", balls=(Ball((20.0, -20.0, 0.0), 11.0),), seed=9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Scans and what a run made of them; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("finished")
    for number, name in enumerate(("anna", "ben")):
        write_scan(folder / f"{name}.nii.gz", balls=COARSE_BALLS[:number], seed=number)
    predict_cases(cases_in(folder, ("anna", "ben")), folder / "out", coarse_model())
    return folder


@pytest.mark.parametrize(
    "change",
    [*map(lose, FILES), cut("run.json"), cut("report.json"), change_input],
    ids=[*(f"without {name}" for name in FILES), "cut run.json", "cut report.json", "new input"],
)
def test_a_second_start_remakes_what_is_no_longer_true(finished, tmp_path, change):
    scans, out = tmp_path / "scans", tmp_path / "scans" / "out"
    shutil.copytree(finished, scans)
    whole, bystander = content(out), stamps(out / "anna")
    change(out / "ben", scans)
    outcomes = predict_cases(cases_in(scans, ("anna", "ben")), out, coarse_model())
    assert status_of(outcomes) == {"anna": KEPT, "ben": DONE}
    assert stamps(out / "anna") == bystander
    assert (content(out) == whole) is (change is not change_input)


def test_a_result_copied_under_another_name_is_made_anew(finished, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "scans" / "out"
    shutil.copytree(finished, scans)
    shutil.copy(scans / "ben.nii.gz", scans / "copy.nii.gz")
    shutil.copytree(out / "ben", out / "copy")
    assert predict_cases(cases_in(scans, ("copy",)), out, coarse_model())[0].status == DONE
    assert b"ben" not in (out / "copy" / "lesions.csv").read_bytes()


def test_another_model_option_or_brain_mask_is_another_result(scans, tmp_path):
    out = tmp_path / "out"
    nifti.write(stripped_head(coarse_grid()).brain, scans / "brain.nii")
    masked = [Case("anna", scans / "anna.nii.gz", brain_mask=scans / "brain.nii")]
    plain = cases_in(scans, ("anna",))
    runs = [
        (plain, coarse_model(), False),
        (plain, coarse_model(sha256="1" * 64), False),
        (plain, coarse_model(sha256="1" * 64), True),
        (masked, coarse_model(sha256="1" * 64), True),
    ]
    for cases, model, save in runs:
        for expected in (DONE, KEPT):
            outcome = predict_cases(cases, out, model, save_probability=save)[0]
            assert outcome.status == expected, outcome.message


def test_another_brain_extractor_is_another_result(scans, tmp_path):
    out, cases = tmp_path / "out", cases_in(scans, ("anna",))
    for extractor in (AUTO, Extractor("none"), AUTO):
        for expected in (DONE, KEPT):
            outcome = predict_cases(cases, out, coarse_model(), extractor=extractor)[0]
            assert outcome.status == expected, outcome.message


def test_leftovers_of_a_killed_run_are_swept_and_those_of_a_running_one_stay(scans, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    out = tmp_path / "out"
    with whole_folder(out / "probe") as temporary:
        stale = out / temporary.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
        stale.mkdir()
        (stale / "mask.nii.gz").write_bytes(b"half")
        predict_cases(cases_in(scans, ("anna",)), out, coarse_model())
        assert temporary.is_dir()
    assert sorted(p.name for p in out.iterdir()) == ["anna", "probe", "summary.csv"]


# Measuring


def test_measuring_reports_on_the_mask_that_is_given(scans, tmp_path):
    head = stripped_head(coarse_grid(), COARSE_BALLS)
    nifti.write(head.scan, scans / "scan.nii.gz")
    nifti.write(head.lesions.with_data(head.lesions.data.astype(np.uint8)), scans / "mask.nii.gz")
    case = Case("scan", scans / "scan.nii.gz", scans / "mask.nii.gz")
    outcome = measure_cases([case], tmp_path / "out")[0]
    assert (outcome.status, outcome.lesions) == (DONE, 2)
    assert outcome.volume_mm3 == pytest.approx(np.count_nonzero(head.lesions.data) * 125)
    assert measure_cases([case], tmp_path / "out")[0].status == KEPT


def test_measuring_without_a_mask_is_an_input_error(scans, tmp_path):
    outcome = measure_cases(cases_in(scans, ("anna",)), tmp_path / "out")[0]
    assert (outcome.status, outcome.exit_code) == (FAILED, 2)
    assert "mask" in outcome.message


# Several runs, and runs that are killed


def test_two_runs_into_one_folder_both_finish_and_everything_is_whole(scans, tmp_path):
    out = tmp_path / "out"
    with ThreadPoolExecutor(2) as pool:
        runs = list(
            pool.map(
                lambda order: predict_cases(cases_in(scans, order), out, coarse_model()),
                (NAMES, NAMES),
            )
        )
    for outcomes in runs:
        assert all(outcome.status in (DONE, KEPT) for outcome in outcomes), outcomes
    predict_cases(cases_in(scans), tmp_path / "clean", coarse_model())
    assert content(out) == content(tmp_path / "clean")


RUN = """
    import sys
    from pathlib import Path
    from brainmets.batch import predict_cases
    from brainmets.cohort import Case
    from stand_ins import coarse_model

    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    model = coarse_model(pause_s=0.01)
    cases = [Case(p.name.removesuffix(".nii.gz"), p) for p in sorted(folder.glob("*.nii.gz"))]
    print("ready", flush=True)
    predict_cases(cases, out, model)
    print("finished", flush=True)
"""


def start(scans, out):
    """Run the batch in a process of its own; returns once it has imported everything."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(  # noqa: S603 - own script
        [sys.executable, "-c", textwrap.dedent(RUN), str(scans), str(out)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process):
    text, _ = process.communicate(timeout=240)
    assert (process.returncode, text) == (0, "finished\n")


@pytest.mark.slow
def test_two_processes_into_one_folder_both_finish(scans, tmp_path):
    out = tmp_path / "out"
    processes = [start(scans, out) for _ in range(2)]
    for process in processes:
        finish(process)
    predict_cases(cases_in(scans), tmp_path / "clean", coarse_model())
    assert content(out) == content(tmp_path / "clean")


@pytest.mark.slow
def test_a_run_killed_at_any_moment_leaves_whole_cases_and_goes_on(scans, tmp_path):
    """SIGKILL cannot be caught; half of the runs start from an older result to replace."""
    clean, old = tmp_path / "clean", tmp_path / "old"
    predict_cases(cases_in(scans), old, coarse_model(sha256="1" * 64))
    started = time.monotonic()
    finish(start(scans, clean))
    lasted = time.monotonic() - started
    whole = {name: content(clean / name) for name in NAMES}
    former = {name: content(old / name) for name in NAMES}
    chance = random.Random(5)  # noqa: S311 - moments, not secrets
    for attempt in range(6):
        out = tmp_path / f"out{attempt}"
        if attempt % 2:
            shutil.copytree(old, out)
        process = start(scans, out)
        time.sleep(chance.uniform(0, lasted / 2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for name in NAMES:
            if (out / name).exists():
                assert (out / name / "run.json").is_file()
                assert content(out / name) in (whole[name], former[name])
        finish(start(scans, out))
        assert content(out) == content(clean)
        assert not list(out.rglob(f"{UNFINISHED}*"))
        shutil.rmtree(out)
