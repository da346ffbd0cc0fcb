"""Finds the scans and reference masks of a folder by the tables beside this file.

A table names the layout and where it is documented; ``marker``, a glob that recognises it;
``image`` and ``mask``, regular expressions on paths within the folder, the second with the
image's groups filled in; how ``case`` and ``patient`` are called; and which labels of the masks
are lesion (``target``), where the layout says what they mean.
"""

import csv
import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from brainmets.errors import CohortError

ORDER = ("nnunet", "bids", "brats_mets")
"""The first whose marker is there is taken."""

T1C_NAMES = ("t1c", "t1ce", "t1gd", "t1-gd", "t1_gd", "t1post", "t1 post", "t1w post")
"""What T1 after contrast is called among the channels of a dataset."""


@dataclass(frozen=True)
class Found:
    """One examination of a folder.

    Attributes:
        case_id: as the layout names it.
        image: the T1 scan after contrast.
        mask: the reference mask, if there is one.
        row: patient, sex and age, as far as the layout tells.
    """

    case_id: str
    image: Path
    mask: Path | None
    row: Mapping[str, str]


@dataclass(frozen=True)
class Dataset:
    """A folder that follows a layout.

    Attributes:
        layout: its name.
        found: the examinations, in the order of their paths.
        target_labels: labels of the masks that are lesion by the layout; None: it does not say.
    """

    layout: str
    found: tuple[Found, ...]
    target_labels: tuple[int, ...] | None


def read_folder(folder: Path) -> Dataset:
    """The examinations of a folder in one of the known layouts.

    Raises:
        CohortError: no layout fits, there is no scan, it cannot be said which channel is T1 after
            contrast, or several masks fit one scan.
    """
    for name in ORDER:
        layout = tomllib.loads((resources.files(__package__) / f"{name}.toml").read_text("utf-8"))
        if next(folder.glob(layout["marker"]), None) is not None:
            return _read(folder, layout)
    raise CohortError(
        f"{folder.name}: no cohort.tsv, *-t1c.nii.gz, imagesTr, dataset_description.json or DICOM "
        "in it; see the cohort how-to"
    )


def _read(folder: Path, layout: Mapping[str, Any]) -> Dataset:
    pattern = str(layout["image"])
    if "channels" in layout:
        pattern = pattern.replace("{channel}", f"{_t1c_channel(folder, layout['channels']):04d}")
    files = sorted(_files(folder))
    images = [(path, match) for path in files if (match := re.fullmatch(pattern, path))]
    if not images:
        raise CohortError(_without_images(folder, layout, pattern))
    masks = _Masks(layout, files)
    people = _participants(folder, layout)
    found = []
    for path, match in images:
        groups = match.groupdict()
        patient = str(layout.get("patient", "")).format(**groups)
        row = {"patient": patient, **people.get(patient, {})} if patient else {}
        mask = masks.of(path, groups)
        case = str(layout["case"]).format(**groups)
        found.append(Found(case, folder / path, folder / mask if mask else None, row))
    target = layout.get("target")
    return Dataset(layout["name"], tuple(found), tuple(target) if target else None)


def _files(folder: Path) -> Iterator[str]:
    """NIfTI files within, by their paths; hidden ones are left out."""
    for path in folder.rglob("*.nii*"):
        inner = path.relative_to(folder)
        if not any(part.startswith(".") for part in inner.parts):
            yield inner.as_posix()


def _without_images(folder: Path, layout: Mapping[str, Any], pattern: str) -> str:
    if "participants" in layout:
        return (
            f"{folder.name}: a BIDS dataset without sub-*_ce-*_T1w.nii.gz; BIDS marks scans after "
            "contrast by the entity ce. Rename them, or write a table"
        )
    return f"{folder.name}: no {pattern.partition(')')[2]} in imagesTr".replace("\\", "")


class _Masks:
    """Which mask belongs to which image."""

    def __init__(self, layout: Mapping[str, Any], files: Sequence[str]) -> None:
        self.layout = layout
        self.files = files
        self.by_folder: dict[str, list[str]] = defaultdict(list)
        for path in files:
            self.by_folder[str(PurePosixPath(path).parent)].append(path)

    def of(self, image: str, groups: Mapping[str, str]) -> str | None:
        """The mask of an image, None if it has none.

        Raises:
            CohortError: several fit.
        """
        pattern = str(self.layout["mask"])
        for name, value in groups.items():
            pattern = pattern.replace(f"{{{name}}}", re.escape(value))
        beside = self.layout.get("beside")
        near = self.by_folder[str(PurePosixPath(image).parent)] if beside else self.files
        fit = [
            path for path in near if (m := re.fullmatch(pattern, path)) and self._is_of(m, groups)
        ]
        if len(fit) > 1:
            raise CohortError(
                f"case {groups['case']}: {len(fit)} masks fit, {PurePosixPath(fit[0]).name} and "
                f"{PurePosixPath(fit[1]).name}; leave one, or write a table with a column 'mask'"
            )
        return fit[0] if fit else None

    def _is_of(self, mask: re.Match[str], groups: Mapping[str, str]) -> bool:
        """Whether a mask's name says lesion, and nothing that contradicts the image's."""
        if "lesion" not in self.layout:
            return True
        parts = mask["entities"].split("_")
        if not any(re.fullmatch(self.layout["lesion"], part, re.IGNORECASE) for part in parts):
            return False
        free = tuple(self.layout["not_identity"])
        own = {part for part in parts if part not in free and part.partition("-")[0] not in free}
        scan = {part for part in groups["case"].split("_") if part.partition("-")[0] not in free}
        return own <= scan and _visit(own) == _visit(scan)


def _visit(entities: set[str]) -> set[str]:
    return {part for part in entities if part.startswith("ses-")}


def _participants(folder: Path, layout: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Sex and age by participant, where the dataset's table tells them."""
    table = folder / str(layout.get("participants", ""))
    if "participants" not in layout or not table.is_file():
        return {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t", strict=True))
        known = ("sex", "age")
        return {
            row["participant_id"]: {
                name: row[name] for name in known if row.get(name) not in (None, "", "n/a")
            }
            for row in rows
        }
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise CohortError(
            f"{table.name}: not a table with participant_id ({type(error).__name__}); BIDS has one"
        ) from error


def _t1c_channel(folder: Path, name: str) -> int:
    """Which channel is T1 after contrast, or the only one."""
    try:
        channels = json.loads((folder / name).read_text("utf-8"))["channel_names"]
        names = {int(number): str(text).casefold() for number, text in channels.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CohortError(
            f"{folder.name}: no {name} with channel_names beside imagesTr "
            f"({type(error).__name__}); nnU-Net's raw datasets have one"
        ) from error
    fit = [number for number, text in names.items() if text in T1C_NAMES] or list(names)
    if len(fit) != 1:
        raise CohortError(
            f"{folder.name}: channels {', '.join(names.values())}; expected one that is called "
            f"{', '.join(T1C_NAMES)}"
        )
    return fit[0]
