"""The line over many cases: one process, one loaded model, faults kept apart, resumable.

A case's folder appears only when it is whole, and it carries the fingerprint of what it
was made from; a second start skips what is there and still true, and makes the rest.

While one case is analysed the next is read and the one before is written, each on a thread of its
own: neither keeps more than one processor busy. Large scans are held alone, and so is every case
where one thread is all that is allowed.
"""

import csv
import hashlib
import json
import logging
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import brainmets
from brainmets import memory
from brainmets.cohort import Case, Cohort, Scan
from brainmets.concurrency import threads
from brainmets.errors import BrainmetsError, CohortError, ReadError
from brainmets.io import images, nifti
from brainmets.io.storage import (
    require_own,
    require_writable,
    sweep,
    whole_file,
    whole_folder,
    write_json,
)
from brainmets.pipeline import Model, Progress, analyse, measure_mask
from brainmets.preprocess.brain import AUTO, Extractor
from brainmets.report.case import write_case
from brainmets.report.content import Report
from brainmets.report.tables import total_volume_mm3

DONE, KEPT, FAILED = "done", "already done", "failed"
SUMMARY = "summary.csv"
FILES = ("mask.nii.gz", "lesions.csv", "report.json", "report.html", "run.json")
"""What every finished case's folder holds."""
PROBABILITY = "probability.nii.gz"
"""What it may hold besides."""
LARGE_VOX = 40_000_000
"""Voxels of a scan beside which no other case is held."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How one case ended.

    Attributes:
        case_id: which.
        status: ``done``, ``already done`` or ``failed``.
        message: why it failed.
        lesions: how many were found.
        volume_mm3: of all lesions together.
        seconds: wall time of this case's stages.
        exit_code: 0, or what the error asks for.
    """

    case_id: str
    status: str
    message: str = ""
    lesions: int | None = None
    volume_mm3: float | None = None
    seconds: float = 0.0
    exit_code: int = 0


@dataclass
class Clock:
    """Seconds by stage; a stage lasts until the next one starts."""

    stages: dict[str, float] = field(default_factory=dict)
    peaks_mb: dict[str, int] | None = None
    """Peak memory of each stage, where a dictionary is given for it."""
    _current: str = ""
    _since: float = 0.0

    def __call__(self, stage: str, _done: int, _total: int) -> None:
        """Note that ``stage`` is running; a :data:`brainmets.pipeline.Progress`."""
        if stage != self._current:
            self.stop()
            self._current, self._since = stage, time.monotonic()
            if self.peaks_mb is not None:
                memory.forget_peak()

    def stop(self) -> None:
        """End the running stage."""
        if self._current:
            spent = time.monotonic() - self._since
            self.stages[self._current] = self.stages.get(self._current, 0.0) + spent
            if self.peaks_mb is not None:
                peak = max(memory.peak_mb(), self.peaks_mb.get(self._current, 0))
                self.peaks_mb[self._current] = peak
        self._current = ""


Watch = Callable[[Case, str, int, int], None]
"""Called with the case, the stage, steps done and steps in all."""


def predict_cases(
    cases: Iterable[Case],
    out: Path,
    model: Model,
    *,
    extractor: Extractor = AUTO,
    save_probability: bool = False,
    watch: Watch | None = None,
    profile: bool = False,
) -> tuple[Outcome, ...]:
    """Analyse every case into ``out/ID``, and write ``out/summary.csv``.

    A case that fails leaves nothing behind and does not stop the others. With ``profile``,
    ``run.json`` also gives the peak memory of each stage.

    Raises:
        CohortError: two cases of one name.
        WriteError: ``out`` cannot be written to.
    """

    def make(case: Case, scan: Scan, told: Progress) -> Report:
        return analyse(
            scan, model=model, brain_mask=case.brain_mask, extractor=extractor,
            case_id=case.case_id, progress=told,
        )  # fmt: skip

    bundle = model.bundle.identity
    made_with = (
        bundle, model.engine.name, str(model.largest_vox), extractor.identity,
        str(save_probability), str(model.exact is not None),
    )  # fmt: skip
    run = {"engine": model.engine.name, "engine_reason": model.reason}
    line = _Line(out, made_with, make, save_probability, run, watch, profile)
    return _run(cases, line)


def measure_cases(cases: Iterable[Case], out: Path) -> tuple[Outcome, ...]:
    """Report on every case's own mask into ``out/ID``, and write ``out/summary.csv``."""

    def make(case: Case, scan: Scan, told: Progress) -> Report:
        if case.mask is None:
            raise CohortError(f"case {case.case_id}: no mask to measure; name one")
        told("read", 0, 1)
        mask = nifti.read_labels(case.mask)
        told("lesions", 0, 1)
        return measure_mask(scan, mask, case_id=case.case_id)

    return _run(cases, _Line(out, ("measured",), make))


@dataclass
class _Started:
    """A case on its way: what was read of it, then what was made of it.

    An outcome, once there is one, is the last word.
    """

    case: Case
    clock: Clock
    fingerprint: str = ""
    scan: Scan | None = None
    report: Report | None = None
    outcome: Outcome | None = None

    @property
    def is_large(self) -> bool:
        return self.scan is not None and self.scan.volume.data.size > LARGE_VOX


@dataclass(frozen=True)
class _Line:
    """What is done to a case, in three steps that follow each other."""

    out: Path
    made_with: Sequence[str]
    make: Callable[[Case, Scan, Progress], Report]
    save_probability: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)
    watch: Watch | None = None
    profile: bool = False

    def read(self, case: Case) -> _Started:
        """Read what is not done yet."""
        started = _Started(case, Clock(peaks_mb={} if self.profile else None))
        with _kept_to(started):
            _require_folder_name(case.case_id)
            started.clock("fingerprint", 0, 1)
            started.fingerprint = _fingerprint(case, self.made_with)
            started.outcome = _kept(case, self.out, started.fingerprint)
            if started.outcome is None:
                require_own(self.out / case.case_id, (*FILES, PROBABILITY))
                self._told(started)("read", 0, 1)
                started.scan = images.read_case(case)
        return started

    def work(self, started: _Started) -> None:
        """Make the report of what was read."""
        if started.scan is not None and started.outcome is None:
            with _kept_to(started):
                started.report = self.make(started.case, started.scan, self._told(started))
        started.scan = None

    def write(self, started: _Started) -> Outcome:
        """Put the report on disk."""
        case, report, clock = started.case, started.report, started.clock
        if report is not None and started.outcome is None:
            with _kept_to(started), whole_folder(self.out / case.case_id) as folder:
                clock("write", 0, 1)
                write_case(report, folder, save_probability=self.save_probability)
                clock.stop()
                record = _run_record(started.fingerprint, clock)
                write_json(folder / "run.json", {**record, **self.notes})
        if started.outcome is None and report is not None:
            volume = total_volume_mm3(report)
            started.outcome = Outcome(case.case_id, DONE, "", len(report.lesions), volume)
        started.report = None
        ended = started.outcome or Outcome(case.case_id, FAILED, "nothing was made", exit_code=1)
        return replace(ended, seconds=sum(clock.stages.values()))

    def _told(self, started: _Started) -> Progress:
        def told(stage: str, done: int, total: int) -> None:
            started.clock(stage, done, total)
            if self.watch:
                self.watch(started.case, stage, done, total)

        return told


def _run(cases: Iterable[Case], line: _Line) -> tuple[Outcome, ...]:
    cohort = Cohort(tuple(cases))
    require_writable(line.out)
    sweep(line.out)
    outcomes: list[Future[Outcome]] = []
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        coming = deque(cohort)
        ahead = reader.submit(line.read, coming.popleft()) if coming else None
        while ahead:
            started, ahead = ahead.result(), None
            alone = line.profile or threads() == 1 or started.is_large
            if alone and outcomes:
                outcomes[-1].result()
            if coming and not alone and not _announces_large(coming[0]):
                ahead = reader.submit(line.read, coming.popleft())
            line.work(started)
            if outcomes:
                outcomes[-1].result()  # so that no more than one waits to be written
            outcomes.append(writer.submit(line.write, started))
            if coming and ahead is None:
                outcomes[-1].result()
                ahead = reader.submit(line.read, coming.popleft())
    ended = tuple(outcome.result() for outcome in outcomes)
    _write_summary(ended, line.out / SUMMARY)
    return ended


def _announces_large(case: Case) -> bool:
    return images.voxels_announced(case) > LARGE_VOX


@contextmanager
def _kept_to(started: _Started) -> Iterator[None]:
    """Let no fault of one case stop the others; what is running of it has ended after this."""
    case_id = started.case.case_id
    try:
        yield
    except BrainmetsError as error:
        started.outcome = Outcome(case_id, FAILED, str(error), exit_code=error.exit_code)
    except (OSError, MemoryError) as error:
        reason = f"{type(error).__name__}: the machine refused; free memory or disk and start again"
        started.outcome = Outcome(case_id, FAILED, reason, exit_code=1)
    except Exception as error:  # a fault in one case must not stop the others
        LOG.debug("case %s", case_id, exc_info=True)
        reason = (
            f"unforeseen {type(error).__name__}. This is a fault of brainmets; run this case "
            "again with --debug and report what it shows"
        )
        started.outcome = Outcome(case_id, FAILED, reason, exit_code=1)
    finally:
        started.clock.stop()


def _require_folder_name(case_id: str) -> None:
    """A case's name becomes a folder in the output: it must stay in there, and hide nothing."""
    if (
        case_id != Path(case_id).name
        or not case_id
        or case_id.startswith(".")
        or case_id.casefold() == SUMMARY
    ):
        raise CohortError(f"{case_id!r} cannot be the name of a case's folder; rename the input")


def _fingerprint(case: Case, made_with: Sequence[str]) -> str:
    """Hash of everything the outputs are a function of."""
    parts = (brainmets.__version__, case.case_id, *made_with, *filter(None, [case.series]))
    digest = hashlib.sha256("\n".join(parts).encode())
    digest.update(b"\0" + images.image_sha256(case))
    for path in (case.mask, case.brain_mask):
        digest.update(b"\0")
        if path is None:
            continue
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ReadError(f"{path.name}: {reason}; give a file that can be read") from error
    return digest.hexdigest()


def _kept(case: Case, out: Path, fingerprint: str) -> Outcome | None:
    """What an earlier run left, if it was made from the same things."""
    folder = out / case.case_id
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        summary = json.loads((folder / "report.json").read_text(encoding="utf-8"))["summary"]
        if record["fingerprint"] != fingerprint or not all((folder / f).is_file() for f in FILES):
            return None
        return Outcome(
            case.case_id, KEPT, "", int(summary["lesion_count"]), float(summary["total_volume_mm3"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _run_record(fingerprint: str, clock: Clock) -> dict[str, Any]:
    """What varies between runs; the only file that holds it."""
    peaks = clock.peaks_mb or {}
    record = {
        "fingerprint": fingerprint,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds_by_stage": {k: round(v, 3) for k, v in clock.stages.items()},
        "peak_memory_mb": max(memory.peak_mb(), *peaks.values(), 0),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    return record | ({"peak_memory_mb_by_stage": peaks} if peaks else {})


def _write_summary(outcomes: Sequence[Outcome], path: Path) -> None:
    with (
        whole_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "status", "lesions", "total_volume_mm3", "message"])
        for outcome in outcomes:
            volume = "" if outcome.volume_mm3 is None else f"{outcome.volume_mm3:.1f}"
            status = DONE if outcome.status == KEPT else outcome.status
            lesions = "" if outcome.lesions is None else outcome.lesions
            writer.writerow([outcome.case_id, status, lesions, volume, outcome.message])
