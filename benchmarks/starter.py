"""What a model finds in the real scans of BRAINMETS_DATA: hits and false findings.

Nothing is tuned on these scans. A finding is a hit if it shares a voxel with the reference
mask, or if its centroid lies in the lesion's box (``real_boxes.tsv``, drawn by eye before any
model saw the scan). Heads of people without tumour or contrast: every finding is false. The boxes
of sinuses and choroid plexus were drawn by eye later, without a look at any finding; they leave out
head_fg6692, whose slices are oblique.

    BRAINMETS_DATA=FOLDER python benchmarks/starter.py [--model NAME|FILE] [--pictures FOLDER]
"""

import argparse
import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brainmets.io import nifti
from brainmets.lesions import Lesion, components
from brainmets.pipeline import Model, analyse, load_model
from brainmets.report.case import write_case
from brainmets.report.content import Report
from brainmets.volume import Volume
from record import write

COUNTED_MM3 = 27.0
"""False findings below 3 mm of side are listed apart."""
BOXES = Path(__file__).parent / "real_boxes.tsv"


@dataclass(frozen=True)
class Target:
    """A scan and what is known of it.

    Attributes:
        name: in the table.
        scan: path in the data folder.
        labels: path of a reference mask, if any.
        values: labels of the mask that count.
        truth: ``mask``, ``box``, ``none`` (no lesion there) or ``unknown``.
    """

    name: str
    scan: str
    truth: str
    labels: str = ""
    values: tuple[int, ...] = (1,)


TARGETS = (
    Target("met_00110", "scans/met_00110/BraTS-MET-00110-000-t1c.nii.gz", "box"),
    *(
        Target(f"glioma_{n}", f"scans/glioma_{n}/t1c_zscored.nii.gz", "mask",
               f"scans/glioma_{n}/labels.nii.gz", (1, 3, 4))
        for n in ("01", "03", "05")
    ),
    Target("head_thick", "scans/head_thick/t1c.nii.gz", "mask", "scans/head_thick/labels.nii.gz"),
    Target("head_fg6692", "scans/head_fg6692/t1c.nii.gz", "unknown"),
    Target("chris_t1", "heads/chris_t1.nii.gz", "none"),
    Target("mni152_head", "heads/mni152_t1_1mm_head.nii.gz", "none"),
    *(Target(f"nichart_{n}", f"heads/nichart/Subj{n}_T1.nii.gz", "none") for n in range(1, 9)),
)  # fmt: skip


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    data = Path(os.environ["BRAINMETS_DATA"])
    model = load_model(options.model)
    rows = [judged(target, data, model, options.pictures) for target in TARGETS]
    value = {"model": model.bundle.name, "sha256": model.bundle.sha256, "rows": rows}
    print(write("starter_real", value).read_text())


def judged(
    target: Target, data: Path, model: Model, pictures: Path | None = None
) -> dict[str, Any]:
    """What the model finds in a scan, held against what is known of it."""
    report = analyse(data / target.scan, model=model, case_id=target.name)
    if pictures:
        (pictures / target.name).mkdir(parents=True, exist_ok=True)
        write_case(report, pictures / target.name, save_probability=True)
    row = {"scan": target.name, "truth": target.truth, "found": len(report.lesions)}
    if target.truth == "unknown":
        return row
    hits = _hits(target, data, report)
    false = [lesion for lesion in report.lesions if lesion.label not in hits]
    print(target.name, len(report.lesions), "found", len(hits), "hits", flush=True)
    return {
        **row,
        "hits": len(hits),
        "false": len(false),
        "false_from_27_mm3": sum(lesion.volume_mm3 >= COUNTED_MM3 for lesion in false),
        "largest_false_mm3": round(max((lesion.volume_mm3 for lesion in false), default=0)),
        **_misled(target.name, false),
        **(_agreement(target, data, report) if target.truth == "mask" else {}),
    }


def _reference(target: Target, data: Path) -> Volume:
    labels = nifti.read_labels(data / target.labels)
    return labels.with_data(np.isin(labels.data, target.values))


def _hits(target: Target, data: Path, report: Report) -> set[int]:
    if target.truth == "none":
        return set()
    if target.truth == "box":
        boxes = _boxes(target.name, "lesion")
        return {lesion.label for lesion in report.lesions if _in_one(boxes, lesion)}
    inside = _reference(target, data).data & (report.mask.data > 0)
    return set(np.unique(report.mask.data[inside]).tolist())


def _misled(name: str, false: Sequence[Lesion]) -> dict[str, int]:
    """How many false findings are where sinuses and choroid plexus are."""
    boxes = _boxes(name, "sinus", "plexus")
    found = sum(_in_one(boxes, lesion) for lesion in false)
    return {"false_in_sinus_or_plexus": found} if boxes else {}


def _boxes(name: str, *kinds: str) -> list[dict[str, str]]:
    with BOXES.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row for row in rows if row["scan"] == name and row["kind"] in kinds]


def _in_one(boxes: Sequence[Mapping[str, str]], lesion: Lesion) -> bool:
    return any(
        all(float(row[f"{axis}_low_mm"]) <= position <= float(row[f"{axis}_high_mm"])
            for axis, position in zip("xyz", lesion.centroid_ras_mm, strict=True))
        for row in boxes
    )  # fmt: skip


def _agreement(target: Target, data: Path, report: Report) -> dict[str, Any]:
    reference = _reference(target, data)
    truth, found = reference.data, report.mask.data > 0
    shared, both = int((truth & found).sum()), int(truth.sum() + found.sum())
    tumours = components(reference).data
    missed = [n for n in range(1, int(tumours.max()) + 1) if not found[tumours == n].any()]
    return {
        "reference_lesions": int(tumours.max()),
        "reference_lesions_hit": int(tumours.max()) - len(missed),
        "dice": round(2 * shared / both, 3) if both else None,
        "recall": round(shared / int(truth.sum()), 3),
    }


if __name__ == "__main__":
    main()
