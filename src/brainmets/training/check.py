"""Whether a cohort can be trained on: every case read, every fault told."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from brainmets.cohort import Case, Cohort
from brainmets.concurrency import in_order
from brainmets.errors import InputError
from brainmets.evaluation.lesionwise import SIZE_BINS, size_bin
from brainmets.evaluation.voxel import target
from brainmets.io import images, nifti
from brainmets.lesions import components
from brainmets.volume import Volume, on_grid

AIR = 0.05
"""Of the image's 99th percentile; darker voxels hold no tissue."""

MOST_IN_AIR = 0.5
"""Share of lesion voxels without tissue, above which mask and scan are not of one patient."""


@dataclass(frozen=True)
class Checked:
    """What was found in one case.

    Attributes:
        case_id: which.
        cohort: which table it came from.
        content: hash of the scan's voxels and grid; "" where it could not be read.
        sizes: lesions by size bin.
        faults: why it cannot be used, each naming its column.
        remarks: what is worth a look.
    """

    case_id: str
    cohort: str
    content: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def check_cohorts(
    cohorts: Sequence[tuple[str, Cohort]],
    *,
    target_labels: Collection[int] | None = None,
    labels: Collection[int] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Checked, ...]:
    """Read every case of one or several cohorts; one bad case hides no other.

    Args:
        cohorts: names and cohorts; one scan in two of them, or twice in one, is a fault.
        target_labels: labels of the masks that are lesion; None: as each cohort's layout says.
        labels: those a mask may have, besides 0; None: any.
        workers: processes; the results do not depend on it.
        progress: called with the number of cases done and of all.
    """
    jobs = [
        _Job(case, name, tuple(target_labels or cohort.target_labels or ()) or None,
             tuple(labels) if labels else None)
        for name, cohort in cohorts
        for case in cohort
    ]  # fmt: skip
    found = []
    with in_order(min(workers, max(len(jobs), 1)), network=False) as run:
        for checked in run(_check, jobs):
            found.append(checked)
            if progress is not None:
                progress(len(found), len(jobs))
    return tuple(_with_twins(found))


@dataclass(frozen=True)
class _Job:
    case: Case
    cohort: str
    target_labels: tuple[int, ...] | None
    labels: tuple[int, ...] | None


def _check(job: _Job) -> Checked:
    case = job.case
    blank = Checked(case.case_id, job.cohort)
    try:
        scan = images.read_case(case).volume
    except InputError as error:
        return Checked(case.case_id, job.cohort, faults=(f"column 'image': {error}",))
    digest = hashlib.sha256(repr((scan.grid.shape, np.round(scan.grid.affine, 3))).encode())
    digest.update(np.ascontiguousarray(scan.data).tobytes())
    if case.mask is None:
        return Checked(blank.case_id, job.cohort, digest.hexdigest(), remarks=("no mask",))
    try:
        mask = on_grid(nifti.read_labels(case.mask), scan.grid, "scan and mask")
    except InputError as error:
        fault = f"column 'mask': {error}"
        return Checked(case.case_id, job.cohort, digest.hexdigest(), faults=(fault,))
    faults, remarks, sizes = _look(scan, mask, job)
    return Checked(case.case_id, job.cohort, digest.hexdigest(), sizes, faults, remarks)


def _look(
    scan: Volume, mask: Volume, job: _Job
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, int]]:
    """Faults, remarks, and lesions by size."""
    faults: list[str] = []
    remarks: list[str] = []
    if job.labels is not None:
        strange = sorted(set(np.unique(mask.data).tolist()) - {0, *job.labels})
        if strange:
            faults.append(f"column 'mask': labels {strange}; expected 0 and {list(job.labels)}")
    inside = np.asarray(target(mask, job.target_labels).data, bool)
    if not inside.any():
        return tuple(faults), (*remarks, "no lesion in the mask"), {}
    tissue = scan.data > AIR * np.percentile(scan.data, 99)
    share = 1 - float(tissue[inside].mean())
    if share > MOST_IN_AIR:
        faults.append(
            f"column 'mask': {100 * share:.0f} % of the lesion lies where the scan holds no "
            "tissue; is it another patient's mask?"
        )
    elif share > 0.1:
        remarks.append(f"{100 * share:.0f} % of the lesion lies where the scan is dark")
    return tuple(faults), tuple(remarks), _sizes(mask.with_data(inside))


def _sizes(inside: Volume) -> dict[str, int]:
    counts = np.bincount(np.asarray(components(inside).data).ravel())[1:]
    volume = abs(float(np.linalg.det(inside.grid.affine[:3, :3])))
    diameters = np.cbrt(6 * counts * volume / np.pi)
    found = Counter(size_bin(float(d)) for d in diameters)
    return {name: found[name] for name in SIZE_BINS}


def _with_twins(found: Sequence[Checked]) -> list[Checked]:
    """Name the earlier case of the same scan."""
    first: dict[str, Checked] = {}
    told = []
    for checked in found:
        twin = first.setdefault(checked.content, checked) if checked.content else checked
        faults = checked.faults
        if twin is not checked:
            where = "" if twin.cohort == checked.cohort else f" of {twin.cohort}"
            faults = (*faults, f"column 'image': the same scan as case {twin.case_id}{where}")
        told.append(
            Checked(checked.case_id, checked.cohort, checked.content, checked.sizes, faults,
                    checked.remarks)
        )  # fmt: skip
    return told
