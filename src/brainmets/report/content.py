"""What one case's report holds, and the checks of the scan it rests on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from brainmets.cohort import Scan
from brainmets.errors import VolumeError
from brainmets.lesions import Lesion
from brainmets.preprocess.enhancement import SEEN, enhancement
from brainmets.volume import Grid, Volume, nearest_ras_order, require_same_grid, to_nearest_ras

THICK_MM = 3.0
"""Above this spacing small lesions fall between slices, or blur across them."""
STRETCHED = 3.0
"""Ratio of longest to shortest voxel side above which the outline is coarse in one direction."""
HEAD_MM = (120.0, 140.0, 100.0)
"""Least field of view right-left, front-back and top-bottom that holds an adult brain."""
TILTED_DEG = 15.0
CUT_SHARE = 0.05
"""Share of an outer face that is tissue before the head counts as cut there."""

WITHOUT_CONTRAST = "without it metastases hardly show, and findings are doubtful"
BY_HEADER = "given, by the header"


@dataclass(frozen=True)
class Check:
    """One line of input quality.

    Attributes:
        name: what was looked at.
        passed: True: fine; False: the reader should know; None: a remark.
        detail: what was found, and what follows from it.
    """

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """Everything that is said of one case.

    Attributes:
        case_id: the case's name; any text.
        scan: the image as read.
        mask: int labels 1…n on the scan's grid, one per lesion.
        lesions: measurements, in the order of the labels.
        checks: input quality.
        probability: float in [0, 1] on the scan's grid, if a model ran.
        brain: bool on the scan's grid, if the brain was extracted or given: what was kept.
        provenance: ready for JSON: ``brainmets_version``, ``model`` (mapping or None),
            ``extractor``, ``recipe``, ``decision_rule``, ``engine``, ``options``.

    Raises:
        GridMismatchError: an image lies on another grid than the scan.
        VolumeError: labels and lesions do not correspond.
    """

    case_id: str
    scan: Scan
    mask: Volume
    lesions: tuple[Lesion, ...]
    checks: tuple[Check, ...]
    probability: Volume | None
    brain: Volume | None
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Check that the images share the scan's voxels and that each label has its lesion."""
        images = {"mask": self.mask, "probability": self.probability, "brain mask": self.brain}
        for name, image in images.items():
            if image is not None:
                require_same_grid(image.grid, self.scan.volume.grid, f"{name} and scan")
        labels = [lesion.label for lesion in self.lesions]
        highest = int(self.mask.data.max())
        if labels != list(range(1, highest + 1)):
            raise VolumeError(
                f"case {self.case_id}: the mask's labels reach {highest}, but the lesions are "
                f"numbered {labels}; expected 1 to {highest} in order. Measure this very mask"
            )


def measurable(lesion: Lesion) -> bool | None:
    """Whether RANO-BM calls the lesion measurable; None where a diameter is undefined.

    At least 10 mm long and at least 5 mm perpendicular to that (Lin et al. 2015,
    Lancet Oncol 16:e270).
    """
    longest, perpendicular = lesion.longest_diameter_mm, lesion.perpendicular_diameter_mm
    if math.isnan(longest) or math.isnan(perpendicular):
        return None
    return longest >= 10 and perpendicular >= 5


def check_scan(scan: Scan) -> tuple[Check, ...]:
    """Look at a scan before it is trusted.

    Returns:
        Lines on spacing, orientation, field of view, signal and sequence, then the
        reader's own notes.
    """
    grid = scan.volume.grid
    return (
        _check_thickness(grid),
        _check_anisotropy(grid),
        _check_orientation(grid),
        _check_field_of_view(grid),
        *_check_signal(scan.volume),
        _check_sequence(scan.sequence),
        *(Check("note of the reader", None, note) for note in scan.notes),
    )


def check_contrast(scan: Scan, brain: Volume) -> Check:
    """Whether contrast agent was given: by the header, else by what is bright deep in the brain.

    What the header says is believed; where the image gainsays it, that is remarked on.

    Args:
        scan: what its header says is in ``contrast``.
        brain: mask of brain and CSF on the scan's grid.
    """
    if scan.contrast is False:
        return Check("contrast", False, f"seems absent: the header says so; {WITHOUT_CONTRAST}")
    seen = enhancement(scan.volume, brain)
    measure = f"brightest thin structures deep in the brain: {seen:.2f}, with contrast from {SEEN}"
    if math.isnan(seen):
        detail = "cannot be told from the image: too little of the brain is in it"
        return Check("contrast", scan.contrast, detail if scan.contrast is None else BY_HEADER)
    if seen >= SEEN:
        return Check("contrast", True, f"seems given ({measure})")
    if scan.contrast:
        return Check(
            "contrast", None, f"{BY_HEADER}, but nothing enhances as vessels do ({measure})"
        )
    return Check("contrast", False, f"seems absent ({measure}); {WITHOUT_CONTRAST}")


def _times(values: tuple[float, ...], form: str) -> str:
    return " × ".join(format(value, form) for value in values)


def _check_thickness(grid: Grid) -> Check:
    detail = f"voxels of {_times(grid.spacing_mm, '.3g')} mm"
    if max(grid.spacing_mm) <= THICK_MM:
        return Check("slice thickness", True, detail)
    return Check(
        "slice thickness",
        False,
        f"{detail}: above {THICK_MM:g} mm small lesions may be missed, and size along the thick "
        "direction is uncertain by about one slice",
    )


def _check_anisotropy(grid: Grid) -> Check:
    ratio = max(grid.spacing_mm) / min(grid.spacing_mm)
    detail = f"longest voxel side is {ratio:.1f} × the shortest"
    if ratio <= STRETCHED:
        return Check("anisotropy", True, detail)
    return Check("anisotropy", False, f"{detail}: outlines are coarse across the slices")


def _check_orientation(grid: Grid) -> Check:
    """Tilt against the patient's axes, and whether the array axes are square to each other."""
    order = nearest_ras_order(grid)
    cosines = grid.affine[:3, :3] / np.asarray(grid.spacing_mm)
    along = np.abs([cosines[world, axis] for world, axis in enumerate(order.axes)])
    tilt = math.degrees(math.acos(min(1.0, float(along.min()))))
    skew = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    detail = f"scan axes lie within {tilt:.0f}° of the patient's"
    if skew > math.sin(math.radians(1)):
        return Check("orientation", False, f"{detail}; they are not square, pictures are skewed")
    if tilt > TILTED_DEG:
        detail += "; pictures follow the scan's axes, so side markers name the nearest direction"
        return Check("orientation", None, detail)
    return Check("orientation", True, detail)


def _check_field_of_view(grid: Grid) -> Check:
    axes = nearest_ras_order(grid).axes
    extent = tuple(grid.shape[a] * grid.spacing_mm[a] for a in axes)
    detail = f"{_times(extent, '.0f')} mm (right-left, front-back, top-bottom)"
    if all(found >= needed for found, needed in zip(extent, HEAD_MM, strict=True)):
        return Check("field of view", True, detail)
    return Check(
        "field of view",
        False,
        f"{detail}: less than a head's {_times(HEAD_MM, '.0f')} mm; lesions outside are not seen",
    )


def _check_signal(volume: Volume) -> tuple[Check, ...]:
    """Whether there is any signal, and whether tissue runs into the outer faces.

    The lower face is left out: every head scan is cut at the neck.
    """
    data = np.asarray(to_nearest_ras(volume).data, np.float32)
    low, high = float(data.min()), float(data.max())
    if low == high:
        return (Check("signal", False, f"every voxel has the value {low:.4g}: no image"),)
    threshold = _otsu(data[::2, ::2, ::2])
    faces = {
        "left": data[0],
        "right": data[-1],
        "back": data[:, 0],
        "front": data[:, -1],
        "top": data[:, :, -1],
    }
    cut = [name for name, face in faces.items() if float((face > threshold).mean()) > CUT_SHARE]
    if not cut:
        return (Check("signal at the border", True, "the head ends inside the field of view"),)
    detail = f"tissue reaches the {', '.join(cut)} of the field of view: the head may be cut there"
    return (Check("signal at the border", False, detail),)


def _otsu(data: npt.NDArray[np.float32]) -> float:
    """Threshold between background and tissue (Otsu 1979, IEEE Trans SMC 9:62)."""
    top = float(np.percentile(data, 99.5))
    counts, edges = np.histogram(np.minimum(data, top), bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    means_apart = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * means_apart**2)])


def _check_sequence(sequence: str | None) -> Check:
    if sequence is None:
        return Check("sequence", None, "not stated; T1 after contrast is expected")
    if sequence.casefold() == "t1c":
        return Check("sequence", True, "T1 after contrast")
    return Check("sequence", False, f"{sequence}, where T1 after contrast is expected")
