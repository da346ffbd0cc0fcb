"""Scans, cases and cohorts: who is there and which files belong to them; no pixel work.

A cohort is a table. It comes from a TSV or CSV file, or from a folder in one of the layouts of
:mod:`brainmets.layouts`: BraTS, BIDS, or nnU-Net's raw datasets.
"""

import csv
import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from brainmets.errors import CohortError
from brainmets.layouts.reading import read_folder
from brainmets.volume import Volume

COLUMNS = (
    "case",
    "image",
    "series",
    "patient",
    "days",
    "mask",
    "brain_mask",
    "prediction",
    "probability",
    "sex",
    "age",
    "primary",
    "site",
    "split",
    "manual_time_s",
    "model_time_s",
)
"""Columns a cohort table may have; only ``image`` is required."""

FILES = ("image", "mask", "brain_mask", "prediction", "probability")
LONGEST_NAME = 200
"""Bytes of a case's name; file systems take 255, of which some are added while writing."""

LONGEST_PART = 255
"""Bytes of a file's name that file systems take."""

NUMBERS = ("days", "age", "manual_time_s", "model_time_s")


@dataclass(frozen=True)
class Scan:
    """A volume and what is known of it.

    Attributes:
        volume: the voxels.
        sequence: what the image is, for example ``"T1c"``; None when unknown.
        notes: remarks of the reader for the report's quality section.
        case_id: a name made from its source, if it has one that identifies nobody.
        contrast: whether contrast agent was given, by its header; None: the header is silent.
    """

    volume: Volume
    sequence: str | None = None
    notes: tuple[str, ...] = ()
    case_id: str | None = None
    contrast: bool | None = None


@dataclass(frozen=True)
class Case:
    """One examination: where its files lie, and its clinical row.

    Attributes:
        case_id: unique within the cohort, fit for a folder's name.
        image: the T1c scan: a NIfTI file, or a DICOM file, folder or zip.
        mask: reference mask, if there is one.
        brain_mask: mask of brain and CSF to use instead of extraction, if given.
        row: all further columns, as text; files among them as paths that lead there.
        members: names of the files within ``image`` that belong to the case; all if none.
        series: the series to read of a DICOM study; the best by its header if None.
        voxels: of the scan, as DICOM headers announce them; 0 where nobody has asked them.
    """

    case_id: str
    image: Path
    mask: Path | None = None
    brain_mask: Path | None = None
    row: Mapping[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    series: str | None = None
    voxels: int = 0


@dataclass(frozen=True)
class Cohort:
    """Ordered cases. Files are opened by whoever walks over them, one at a time.

    Attributes:
        cases: in order.
        target_labels: labels of the masks that are lesion, where the layout of the folder says
            so (BraTS: 1 and 3); None: all above 0.
    """

    cases: tuple[Case, ...]
    target_labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse two cases of one name."""
        twice = [k for k, n in Counter(c.case_id.casefold() for c in self.cases).items() if n > 1]
        if twice:
            raise CohortError(f"case {twice[0]!r} occurs twice; give each case its own identifier")

    def __iter__(self) -> Iterator[Case]:
        """Walk over the cases in order."""
        return iter(self.cases)

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def with_masks(self) -> "Cohort":
        """Only the cases that have a reference mask."""
        return replace(self, cases=tuple(case for case in self.cases if case.mask is not None))


def stem(path: Path) -> str:
    """A file's name without ``.nii``, ``.nii.gz`` or another suffix."""
    name = path.name
    for suffix in (".gz", ".nii"):
        name = name.removesuffix(suffix)
    return name if name != path.name else path.stem


def case_ids(paths: Sequence[Path]) -> tuple[str, ...]:
    """Name each input by the shortest suffix of its path that is unique.

    >>> case_ids([Path("a/t1.nii.gz"), Path("b/t1.nii.gz"), Path("c/x.nii")])
    ('a_t1', 'b_t1', 'x')

    Raises:
        CohortError: the same path twice.
    """
    parts = [(*p.absolute().parts[1:-1], stem(p)) for p in paths]
    names = [p[-1] for p in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        counts = Counter(name.casefold() for name in names)
        if max(counts.values()) == 1:
            break
        names = [
            "_".join(part[-depth:]) if counts[name.casefold()] > 1 else name
            for name, part in zip(names, parts, strict=True)
        ]
    counts = Counter(name.casefold() for name in names)
    for name, path in zip(names, paths, strict=True):
        if counts[name.casefold()] > 1:
            raise CohortError(f"two inputs would both be called {name!r} ({path.name}); rename one")
    return tuple(names)


def read_cohort(path: str | Path, *, covariates: Sequence[str] = ()) -> Cohort:
    """Read a cohort from a table, or from a folder laid out as BraTS, BIDS or nnU-Net do.

    Args:
        path: a ``.tsv`` or ``.csv`` file, or a folder; file names in a table are
            relative to the table. A folder that holds ``cohort.tsv`` is read from it.
        covariates: further columns the table may have.

    Raises:
        CohortError: no such file, an unknown column (the nearest known one is named),
            a missing file, or the same case twice.
    """
    path = Path(path)
    if any(len(part.encode()) > LONGEST_PART for part in path.parts):
        raise CohortError(f"{path.name}: no file has so long a name; check it")
    if path.is_dir():
        table = path / "cohort.tsv"
        return _from_table(table, covariates) if table.is_file() else _from_folder(path)
    if not path.is_file():
        raise CohortError(f"{path.name}: no such table or folder; check the name")
    return _from_table(path, covariates)


def _from_table(table: Path, covariates: Sequence[str]) -> Cohort:
    delimiter = "," if table.suffix.lower() == ".csv" else "\t"
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            rows, header = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{table.name}: not a readable table ({type(error).__name__})") from error
    _check_columns(table, header, covariates)
    if not rows:
        raise CohortError(f"{table.name}: the table has no rows")
    cases = [_case_of(table, number, row) for number, row in enumerate(rows, start=2)]
    if "case" not in header:
        _require_named_dicom(table, cases)
        names = case_ids([case.image for case in cases])
        cases = [replace(case, case_id=n) for n, case in zip(names, cases, strict=True)]
    return Cohort(tuple(cases))


def _require_named_dicom(table: Path, cases: Sequence[Case]) -> None:
    """Folders and zips of DICOM are named after patients too often to name cases after them."""
    for line, case in enumerate(cases, start=2):
        if not case.image.name.lower().endswith((".nii", ".nii.gz")):
            raise CohortError(
                f"{table.name}, line {line}: a DICOM image needs a name in column 'case'; add one"
            )


def _check_columns(table: Path, header: Sequence[str], covariates: Sequence[str]) -> None:
    known = (*COLUMNS, *covariates)
    for column in header:
        if column not in known:
            near = difflib.get_close_matches(column, known, 1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else "rename it, or read the cohort with it declared as a covariate"
            )
            raise CohortError(f"{table.name}: unknown column {column!r}; {hint}")
    twice = [column for column, count in Counter(header).items() if count > 1]
    if twice:
        raise CohortError(f"{table.name}: column {twice[0]!r} occurs twice; keep one")
    if "image" not in header:
        raise CohortError(
            f"{table.name}: no column 'image'; found {', '.join(header) or 'nothing'}"
        )


def _case_of(table: Path, line: int, row: Mapping[str, str | None]) -> Case:
    where = f"{table.name}, line {line}"
    if None in row or None in row.values():
        raise CohortError(f"{where}: more or fewer fields than the header has")
    values = {key: (value or "").strip() for key, value in row.items()}
    where += f", case {values['case']}" if values.get("case") else ""
    files: dict[str, Path | None] = {}
    for column in FILES:
        files[column] = table.parent / values[column] if values.get(column) else None
        if (file := files[column]) is not None:
            _require_file(f"{where}, column {column!r}", file, folder=column == "image")
    for column in NUMBERS:
        if values.get(column) and not _is_number(values[column]):
            raise CohortError(f"{where}, column {column!r}: {values[column]!r} is not a number")
    if files["image"] is None:
        raise CohortError(f"{where}: column 'image' is empty")
    own = ("case", "image", "series", "mask", "brain_mask")
    rest = {k: v for k, v in values.items() if k not in own}
    for column in ("prediction", "probability"):
        if (file := files[column]) is not None:
            rest[column] = str(file)
    name = values.get("case") or stem(files["image"])
    if name != Path(name).name or name.startswith(".") or len(name.encode()) > LONGEST_NAME:
        raise CohortError(f"{where}: case {name!r} cannot be a folder's name")
    series = values.get("series") or None
    return Case(name, files["image"], files["mask"], files["brain_mask"], rest, series=series)


def _require_file(where: str, file: Path, *, folder: bool) -> None:
    """Refuse a file that is not there, by its name alone; an image may be a folder."""
    try:
        there, is_folder = file.exists(), file.is_dir()
    except (OSError, ValueError) as error:  # the name is too long, say
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise CohortError(f"{where}: no file {file.name!r} ({reason}); check the name") from error
    if not there:
        raise CohortError(f"{where}: no file {file.name!r}; check the name")
    if is_folder and not folder:
        raise CohortError(f"{where}: {file.name!r} is a folder; name a NIfTI file")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _from_folder(folder: Path) -> Cohort:
    found = read_folder(folder)
    cases = []
    for one in found.found:
        age = one.row.get("age")
        if age and not _is_number(age):
            raise CohortError(f"case {one.case_id}, column 'age': {age!r} is not a number")
        cases.append(Case(one.case_id, one.image, one.mask, None, one.row))
    return Cohort(tuple(cases), found.target_labels)
