"""The worst cases as pictures: three planes through the worst lesion of each, both outlines."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.cohort import Case, Cohort
from brainmets.errors import GridMismatchError, InputError
from brainmets.evaluation.case import CaseScores
from brainmets.evaluation.evaluate import files_of, read_masks
from brainmets.evaluation.lesionwise import MatchedLesion
from brainmets.evaluation.voxel import target
from brainmets.io import images
from brainmets.lesions import components
from brainmets.report.pictures import (
    CONTEXT_MM,
    CROP_PX,
    LEAST_CROP_MM,
    PLANES,
    Box,
    Display,
    Plane,
    Region,
    direction,
    edge_path,
    grey,
    place,
    window,
)
from brainmets.volume import Volume, apply, nearest_ras_order, on_grid

SHOWN = 6
"""How many cases."""

Labels = Collection[int] | None


@dataclass(frozen=True)
class View:
    """One plane through a lesion.

    Attributes:
        plane: the viewing direction.
        caption: plane and position.
        side_mm: width and height.
        jpeg: the scan; black where it could not be shown.
        reference: outline as an SVG path in mm.
        prediction: the same for the predicted mask.
    """

    plane: Plane
    caption: str
    side_mm: float
    jpeg: bytes
    reference: str
    prediction: str


@dataclass(frozen=True)
class WorstCase:
    """A case of low Dice and its worst lesion.

    Attributes:
        case_id: which.
        dice: of the case.
        finding: what is wrong, in words.
        note: why there is no scan behind the outlines; empty where there is.
        views: axial, coronal, sagittal.
    """

    case_id: str
    dice: float
    finding: str
    note: str
    views: tuple[View, ...]


def worst_cases(
    cases: Sequence[CaseScores],
    cohort: Cohort,
    predictions: Path | None,
    *,
    target_labels: Labels = None,
    predicted_labels: Labels = None,
) -> tuple[WorstCase, ...]:
    """The cases of lowest Dice, at most :data:`SHOWN`, those without any error left out.

    Args:
        cases: scores in the cohort's order.
        cohort: where the files lie.
        predictions: as for :func:`brainmets.evaluation.evaluate.evaluate`.
        target_labels: of the references.
        predicted_labels: of the predictions.
    """
    dice = [case.score_of("dice") for case in cases]
    order = sorted(
        (i for i, score in enumerate(dice) if score.defined and score.value < 1),
        key=lambda i: (dice[i].value, i),
    )
    shown = []
    for i in order[:SHOWN]:
        files = files_of(cohort.cases[i], predictions)
        reference, prediction = read_masks(files)
        truth, found = target(reference, target_labels), target(prediction, predicted_labels)
        shown.append(pictured(cases[i], cohort.cases[i], truth, found))
    return tuple(shown)


def worst_lesion(case: CaseScores) -> tuple[str, MatchedLesion]:
    """The largest missed lesion, else the largest false positive, else the lowest Dice.

    Returns:
        ``"missed"``, ``"false positive"`` or ``"outline"``, and the lesion.
    """
    for what, lesions in (
        ("missed", case.lesions.reference),
        ("false positive", case.lesions.prediction),
    ):
        unmatched = [lesion for lesion in lesions if not lesion.matched]
        if unmatched:
            return what, max(unmatched, key=lambda lesion: lesion.lesion.volume_mm3)
    return "outline", min(case.lesions.reference, key=lambda lesion: lesion.dice.value)


def pictured(scores: CaseScores, case: Case, truth: Volume, found: Volume) -> WorstCase:
    """A case and its worst lesion; it must have a lesion, or a finding.

    Args:
        scores: of the case.
        case: where its scan lies.
        truth: bool mask of the reference, axes in nearest-RAS order.
        found: the same of the prediction, on the same voxels.
    """
    what, lesion = worst_lesion(scores)
    scan, note = _scan(case, truth)
    labels = components(found if what == "false positive" else truth)
    inside = np.equal(labels.data, lesion.lesion.label)
    darkest, brightest = window(scan.data, None)
    display = Display(scan, labels, nearest_ras_order(truth.grid), (), None, darkest, brightest)
    views = tuple(_view(display, plane, inside, truth, found) for plane in PLANES)
    size = f"{lesion.lesion.equivalent_diameter_mm:.1f} mm"
    finding = {
        "missed": f"missed lesion of {size}",
        "false positive": f"false positive of {size}",
        "outline": f"lesion of {size} found with Dice {lesion.dice.value:.2f}",
    }[what]
    return WorstCase(scores.case_id, scores.score_of("dice").value, finding, note, views)


def _scan(case: Case, truth: Volume) -> tuple[Volume, str]:
    """The scan, or black and the reason."""
    black = truth.with_data(np.zeros(truth.grid.shape, np.float32))
    try:
        scan = images.read_case(case).volume
    except InputError:
        return black, "the scan could not be read"
    try:
        return on_grid(scan, truth.grid, "scan and reference"), ""
    except GridMismatchError:
        return black, "the scan lies on another grid than the masks"


def _view(
    shown: Display, plane: Plane, inside: npt.NDArray[np.bool_], truth: Volume, found: Volume
) -> View:
    """The plane's slice with most of the lesion.

    Args:
        shown: the scan in nearest-RAS order.
        plane: the viewing direction.
        inside: bool, the lesion, in the same order.
        truth: reference in the same order.
        found: prediction in the same order.
    """
    x, y, z = ndimage.find_objects(inside.view(np.uint8))[0]
    box: Box = (x, y, z)
    areas = inside.sum(axis=(plane.across, plane.down))
    index = int(np.argmax(areas))
    lengths = [(b.stop - b.start) * s for b, s in zip(box, shown.spacing_mm, strict=True)]
    side = max(LEAST_CROP_MM, max(lengths) + 2 * CONTEXT_MM)
    centre = [place(shown, axis, (b.start + b.stop - 1) / 2) for axis, b in enumerate(box)]
    region = Region(centre[plane.across] - side / 2, centre[plane.down] - side / 2, side, side)
    at = (slice(None),) * plane.into + (index,)
    middle = [(n - 1) / 2 for n in shown.scan.grid.shape]
    middle[plane.into] = index
    position = float(apply(shown.scan.grid.affine, middle)[plane.into])
    return View(
        plane,
        f"{plane.name}, {direction(plane.into, position)} mm",
        side,
        grey(shown, plane, shown.scan.data[at].astype(np.float32), region, side / CROP_PX),
        edge_path(truth.data[at], plane, shown, region),
        edge_path(found.data[at], plane, shown, region),
    )
