"""Who is learnt from and who is tested on: systematic sampling, folds, and a frozen file.

Patients are drawn, not scans: visits of one patient never fall on both sides.
"""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from brainmets.cohort import Case, Cohort
from brainmets.errors import CohortError, ConfigError
from brainmets.io.storage import whole_file

TRAIN, TEST = "train", "test"
HEADER = ("case", "patient", "part")
SEAL = "# sha256 "


def patient_of(case: Case) -> str:
    """Whose case it is: the table's patient, else a patient of its own."""
    return case.row.get("patient") or case.case_id


def systematic(cohort: Cohort, test: float) -> dict[str, str]:
    """Systematic sampling with a fractional interval, as Shi et al. 2025 (470: 379 and 91).

    Of n patients in the table's order the test takes m, at positions ⌊(i + ½) n / m⌋: equally
    far apart, nearly.

    Args:
        cohort: in its order.
        test: how many patients to test on, a whole number; or their share, below 1.

    Returns:
        ``train`` or ``test`` for each case.

    Raises:
        ConfigError: no patient would be left on one side.
    """
    patients = list(dict.fromkeys(map(patient_of, cohort)))
    count = len(patients)
    wanted = test if isinstance(test, int) else round(test * count)
    if not 1 <= wanted < count:
        raise ConfigError(
            f"{wanted} of {count} patients to test on; expected at least one on either side"
        )
    chosen = {patients[(2 * i + 1) * count // (2 * wanted)] for i in range(wanted)}
    return {c.case_id: TEST if patient_of(c) in chosen else TRAIN for c in cohort}


def folds(cohort: Cohort, count: int) -> dict[str, str]:
    """Every patient in one of ``count`` folds, dealt out in the table's order: 1, 2, ….

    Raises:
        ConfigError: fewer than two folds, or fewer patients than folds.
    """
    patients = list(dict.fromkeys(map(patient_of, cohort)))
    if not 2 <= count <= len(patients):
        raise ConfigError(f"{count} folds of {len(patients)} patients; expected 2 or more of each")
    place = {patient: str(n % count + 1) for n, patient in enumerate(patients)}
    return {c.case_id: place[patient_of(c)] for c in cohort}


def write_split(cohort: Cohort, parts: Mapping[str, str], path: Path) -> str:
    """Freeze a split in a table that knows its own hash.

    Returns:
        The hash.

    Raises:
        WriteError: the place cannot be written to.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((c.case_id, patient_of(c), parts[c.case_id]) for c in cohort)
    body = text.getvalue()
    digest = hashlib.sha256(body.encode()).hexdigest()
    with whole_file(path) as temporary:
        temporary.write_bytes(f"{SEAL}{digest}\n{body}".encode())
    return digest


def read_split(path: Path, cohort: Cohort) -> tuple[dict[str, str], str]:
    """The part of each case, and the split's hash.

    Raises:
        CohortError: the file is no split, was edited, does not fit the cohort, or puts a patient
            on both sides.
    """
    try:
        first, _, body = path.read_text(encoding="utf-8").partition("\n")
        rows = list(csv.DictReader(io.StringIO(body), delimiter="\t", strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise CohortError(f"{path.name}: not a readable split ({type(error).__name__})") from error
    digest = hashlib.sha256(body.encode()).hexdigest()
    if not first.startswith(SEAL) or not rows or tuple(rows[0]) != HEADER:
        raise CohortError(f"{path.name}: not a split; expected what cohort split writes")
    if first.removeprefix(SEAL).strip() != digest:
        raise CohortError(
            f"{path.name}: was edited after it was frozen (SHA-256 {digest[:12]}…, its first line "
            "says otherwise); make a new split instead"
        )
    parts = {row["case"]: row["part"] for row in rows}
    patients = {row["case"]: row["patient"] for row in rows}
    for case in cohort:
        if case.case_id not in parts:
            raise CohortError(f"case {case.case_id}: in the cohort, not in {path.name}")
        if patients[case.case_id] != patient_of(case):
            raise CohortError(
                f"case {case.case_id}, column 'patient': {patient_of(case)!r} in the cohort, "
                f"{patients[case.case_id]!r} in {path.name}"
            )
    known = {case.case_id for case in cohort}
    for name in parts:
        if name not in known:
            raise CohortError(f"case {name}: in {path.name}, not in the cohort")
    return parts, digest


def sides(cohort: Cohort, parts: Mapping[str, str], fold: int | None) -> tuple[Cohort, Cohort]:
    """Cases to learn from and cases to test on.

    Args:
        cohort: all.
        parts: of each case.
        fold: the one to test on, of a split in folds; None for one in train and test.

    Raises:
        ConfigError: the split has folds and none is chosen, or the reverse.
        CohortError: a patient on both sides.
    """
    names = sorted(set(parts.values()))
    in_folds = names[0].isdigit()
    if in_folds != (fold is not None):
        raise ConfigError(
            f"the split has the folds {', '.join(names)}; choose one to test on"
            if in_folds
            else f"fold {fold}: the split has no folds, but {', '.join(names)}"
        )
    tested = TEST if fold is None else str(fold)
    if tested not in names:
        raise ConfigError(f"no {tested!r} in the split; it has {', '.join(names)}")
    learn = Cohort(tuple(c for c in cohort if parts[c.case_id] != tested))
    check = Cohort(tuple(c for c in cohort if parts[c.case_id] == tested))
    _require_apart(learn, check)
    return learn, check


def _require_apart(learn: Sequence[Case] | Cohort, check: Sequence[Case] | Cohort) -> None:
    homes = {patient_of(case): case.case_id for case in learn}
    for case in check:
        if patient_of(case) in homes:
            raise CohortError(
                f"patient {patient_of(case)!r}: case {homes[patient_of(case)]} is learnt from and "
                f"case {case.case_id} tested on; put all visits of a patient on one side"
            )
