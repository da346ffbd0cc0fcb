"""STUDY.toml: which cohorts, which subgroups, which scores."""

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from brainmets.config import from_mapping
from brainmets.errors import ConfigError
from brainmets.evaluation.case import require_labels
from brainmets.evaluation.paper.guidelines import guidelines

MEASURES = (
    "dice",
    "iou",
    "precision",
    "sensitivity",
    "specificity",
    "mcc",
    "auc",
    "lesion_sensitivity",
    "lesion_precision",
    "lesion_f1",
    "false_positives",
)
ALL, BETWEEN = "all", "cohorts"
"""What tables call all patients, and the comparison of cohorts."""

TESTED, EXTERNAL, DESCRIBED = "test", "external", "training"
ROLES = (TESTED, EXTERNAL, DESCRIBED)


@dataclass(frozen=True)
class Part:
    """One cohort of the study.

    Attributes:
        name: for the tables.
        table: cohort table or folder, from the study file's folder.
        predictions: folder with ``ID/mask.nii.gz``; empty: the table's column ``prediction``.
        split: only rows with this in their column ``split``; empty: all.
        role: ``test``, ``external``, or ``training``: described in Table 1, not scored.
    """

    name: str
    table: str
    predictions: str = ""
    split: str = ""
    role: str = TESTED

    def __post_init__(self) -> None:
        """Check the role."""
        if self.role not in ROLES:
            raise ConfigError(
                f"cohort {self.name!r}: role {self.role!r}; expected {', '.join(ROLES)}"
            )


@dataclass(frozen=True)
class Subgroup:
    """A column by which patients are told apart.

    Attributes:
        column: of the table, or a score such as ``reference_lesions``.
        cuts: numbers that start a new group, ascending; none: each text is a group.
    """

    column: str
    cuts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check that the cuts ascend, and that no two groups have one name."""
        if not all(map(math.isfinite, self.cuts)) or len(set(self.names)) < len(self.names):
            raise ConfigError(
                f"subgroup {self.column!r}: cuts {self.cuts}; expected finite numbers that differ "
                "in six digits"
            )
        if list(self.cuts) != sorted(set(self.cuts)):
            raise ConfigError(f"subgroup {self.column!r}: cuts {self.cuts}; expected ascending")

    def group_of(self, value: str) -> str:
        """The group that a value belongs to; "" where it is empty.

        >>> Subgroup("age", (60,)).group_of("60"), Subgroup("age", (60,)).group_of("59.9")
        ('≥ 60', '< 60')

        Raises:
            ConfigError: no number, where there are cuts.
        """
        if not value or not self.cuts:
            return value
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"{value!r} in column {self.column!r} is not a number")
        below = sum(number >= cut for cut in self.cuts)
        return self.names[below]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the groups between cuts, ascending."""
        cuts = [f"{cut:g}" for cut in self.cuts]
        middle = [f"{a} to < {b}" for a, b in pairwise(cuts)]
        return (f"< {cuts[0]}", *middle, f"≥ {cuts[-1]}") if cuts else ()


@dataclass(frozen=True)
class Study:
    """What to do.

    Attributes:
        title: of the report.
        measures: scores to describe; see :data:`MEASURES` for the usual ones.
        tested: those of them that subgroups are compared on; all tests of a cohort are one
            family for the adjustment of p.
        covariates: further columns of the tables.
        target: labels of the references that count; none: all above 0.
        seed: of intervals.
        resamples: of the bootstrap.
        parts: the cohorts.
        subgroups: the columns.
        statements: what authors say to topics of the checklists, by the topic's key.
    """

    title: str = "Validation study"
    measures: tuple[str, ...] = MEASURES
    tested: tuple[str, ...] = ("dice", "auc", "lesion_sensitivity")
    covariates: tuple[str, ...] = ()
    target: tuple[int, ...] = ()
    seed: int = 2025
    resamples: int = 4000
    parts: tuple[Part, ...] = field(default=())
    subgroups: tuple[Subgroup, ...] = field(default=())
    statements: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that what is tested is described, that nothing is twice, and the numbers."""
        for kind in ("measures", "tested", "covariates", "target"):
            given = getattr(self, kind)
            if len(set(given)) < len(given):
                raise ConfigError(f"{kind}: {list(given)}; name each once")
        if not self.measures:
            raise ConfigError("measures is empty; name one score at least")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, expected 0 or more")
        for name in self.tested:
            if name not in self.measures:
                raise ConfigError(f"tested has {name!r}, which measures lacks; add it there")
        require_labels(self.target or None, "target")
        if not 200 <= self.resamples <= 100_000:
            raise ConfigError(f"resamples is {self.resamples}, expected 200 to 100000")


def read_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        ConfigError: no such file, not TOML, an unknown key (the nearest known one is named),
            no cohort, or two of one name.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path.name}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # TOML and UTF-8 both
        raise ConfigError(f"{path.name}: not a TOML file: {error}") from error
    parts = [from_mapping(Part, row) for row in _tables(path, values.pop("cohort", []), "cohort")]
    groups = [
        from_mapping(Subgroup, row) for row in _tables(path, values.pop("subgroup", []), "subgroup")
    ]
    statements = _statements(path, values.pop("statements", {}))
    for key in ("parts", "subgroups"):
        if key in values:
            raise ConfigError(f"{path.name}: no {key!r}; write [[{key.rstrip('s')}]] tables")
    study = from_mapping(Study, values)
    names = [part.name for part in parts]
    if not names or len({file_name(name) for name in names}) < len(names):
        raise ConfigError(
            f"{path.name}: cohorts {names}; expected one [[cohort]] or more, each of its own name, "
            "also in letters and digits alone"
        )
    if all(part.role == DESCRIBED for part in parts):
        raise ConfigError(
            f"{path.name}: every cohort has the role {DESCRIBED!r}, which is described and not "
            f"scored; give one the role {TESTED!r} or {EXTERNAL!r}"
        )
    columns = [group.column for group in groups]
    for kind, given in (("cohort", names), ("subgroup", columns)):
        for name in given:
            if name in ("", ALL, BETWEEN) or given.count(name) > 1:
                raise ConfigError(
                    f"{path.name}: {kind} {name!r}; expected a name of its own, not {ALL!r} or "
                    f"{BETWEEN!r}"
                )
    return replace(study, parts=tuple(parts), subgroups=tuple(groups), statements=statements)


def _statements(path: Path, given: Any) -> dict[str, str]:
    """What authors say to topics.

    Raises:
        ConfigError: no table, a topic that no checklist has, or no text.
    """
    if not isinstance(given, dict):
        raise ConfigError(f"{path.name}: statements is no table; write [statements]")
    known = guidelines().topics
    for key, text in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{path.name}: statements: no topic {key!r}; {hint}")
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{path.name}: statements.{key} is {text!r}, expected a text")
    return dict(given)


def file_name(name: str) -> str:
    """A cohort's or column's name as part of a file's name.

    >>> file_name("site A/1")
    'site-A-1'
    """
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)


def _tables(path: Path, rows: Any, what: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path.name}: {what} is no list of tables; write [[{what}]]")
    needed = {"cohort": ("name", "table"), "subgroup": ("column",)}[what]
    for row in rows:
        for key in needed:
            if key not in row:
                raise ConfigError(f"{path.name}: a [[{what}]] without {key!r}; add it")
    return rows
