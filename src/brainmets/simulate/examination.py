"""One simulated examination, and cohorts of them on disk."""

import csv
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy import ndimage

from brainmets.concurrency import in_order
from brainmets.errors import BrainmetsError, CohortError
from brainmets.io import nifti
from brainmets.io.storage import require_writable, sweep, whole_file, whole_folder
from brainmets.simulate.anatomy import Anatomy, embedded_head, read_anatomy, vary_plexus
from brainmets.simulate.artefacts import Artefacts
from brainmets.simulate.contrast import Ingredient, Style, brain_and_csf, render, warp
from brainmets.simulate.metastases import (
    PATCHY_SHARE,
    Plan,
    carve_cavity,
    paint,
    plan_metastases,
)
from brainmets.simulate.scanner import Protocol, acquire, acquire_truth, draw_protocol
from brainmets.volume import Volume

VERSION = 3
"""Raised when the same seed gives other images."""
NOTE = "simulation.txt"
"""What the folder's cohort was made from, so that two never mix."""
MOST_LESIONS = 200
"""In one scan; its mask counts to 255."""
THICK_SHARE = 0.3
"""Of scans, those of thick slices."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Examination:
    """A scan and everything true about it.

    Attributes:
        scan: what the scanner stored (int16).
        mask: metastases 1…n, uint8, on the scan's grid.
        brain: brain + CSF, uint8, on the scan's grid.
        plans: the metastases that were painted, thin ones perhaps lost between slices.
        style: sequence and contrast.
        head: the head that was scanned, warped, before any metastasis, 1 mm.
        protocol: how it was scanned.
        artefacts: what disturbs the scan.
    """

    scan: Volume
    mask: Volume
    brain: Volume
    plans: tuple[Plan, ...]
    style: Style
    head: Anatomy | None = None
    protocol: Protocol | None = None
    artefacts: Artefacts | None = None


def simulate(
    anatomy: Anatomy,
    rng: np.random.Generator,
    *,
    lesions: int | None = None,
    thick: bool | None = None,
    contrast: bool | None = None,
    without: Collection[Ingredient] = (),
    varied_plexus: bool = False,
    large: bool = False,
) -> Examination:
    """Simulate one examination of a head.

    Args:
        anatomy: the head; it is warped at random.
        rng: the only source of chance.
        lesions: how many metastases; None draws 0 (one in seven) to about 20.
        thick: whether slices are of 3 to 6 mm; None draws it where ``lesions`` is drawn, else not.
        contrast: whether contrast agent was given; None draws it. With and without, the same
            seed gives the same head, though not the same noise.
        without: what is left out; the same seed gives the same head and metastases.
        varied_plexus: choroid plexus of many shapes and places; see
            :func:`brainmets.simulate.anatomy.vary_plexus`. The same seed gives the same head.
        large: one metastasis is of 4 to 60 mL, three in five of these patchy; else one scan in
            seven has one where ``lesions`` is drawn, none of them patchy.
    """
    if varied_plexus:
        anatomy = vary_plexus(anatomy, rng.spawn(1)[0])
    if thick is None:
        thick = lesions is None and rng.random() < THICK_SHARE
    given = large or lesions is not None or rng.random() < 0.92
    given = given if contrast is None else contrast
    style = Style(thick or rng.random() < 0.25, contrast=given, without=frozenset(without))
    head = warp(anatomy, rng)
    image = render(head, style, rng)
    if rng.random() < 0.15:
        operated = style.contrast and rng.random() < 0.3
        carve_cavity(image, head, rng, wall=rng.uniform(1.1, 1.6) if operated else None)
    patchy = PATCHY_SHARE * large
    large = large or (lesions is None and rng.random() < 0.15)
    count = _draw_count(rng, large=large) if lesions is None else lesions
    plans: tuple[Plan, ...] = ()
    if style.contrast:
        plans = plan_metastases(head, count, rng, large=large, patchy=patchy)
    occupancy = paint(image, head, plans, rng, mass_effect=Ingredient.MASS_EFFECT not in without)
    protocol = draw_protocol(rng, thick=thick)
    truth = acquire_truth(occupancy, protocol)
    labels, _ = ndimage.label(truth.data, np.ones((3, 3, 3)))
    scan, artefacts = acquire(image, protocol, rng)
    return Examination(
        scan=scan,
        mask=truth.with_data(labels.astype(np.uint8)),
        brain=acquire_truth(brain_and_csf(head.labels).astype(np.float32), protocol),
        plans=plans,
        style=style,
        head=head,
        protocol=protocol,
        artefacts=artefacts,
    )


def _draw_count(rng: np.random.Generator, *, large: bool) -> int:
    if large:
        return int(rng.integers(1, 4))
    return 0 if rng.random() < 1 / 7 else int(min(25, 1 + rng.geometric(0.16)))


def simulate_cohort(  # noqa: PLR0913  # what every case has in common, and whom to tell
    out: Path,
    *,
    cases: int,
    seed: int,
    anatomies: Sequence[Path] = (),
    without: Collection[Ingredient] = (),
    lesions: int | None = None,
    contrast: bool | None = None,
    varied_plexus: bool = False,
    large: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> None:
    """Write ``cases`` examinations and ``cohort.tsv`` into ``out``.

    Case *i* depends on ``seed``, *i* and the anatomies alone, so any number of workers
    gives the same bytes. Cases already there are kept: a killed run goes on.

    Args:
        out: folder to fill; made if absent.
        cases: how many.
        seed: of the whole cohort.
        anatomies: label maps to draw from; none means the embedded head.
        without: what is left out of every case.
        lesions: how many metastases each case has, as far as there is room; None draws it.
        contrast: whether contrast agent was given; None draws it. Without, there is no metastasis.
        varied_plexus: see :func:`simulate`.
        large: see :func:`simulate`.
        workers: processes to use.
        progress: called with (done, total).

    Raises:
        CohortError: ``cases`` is below 1 or ``lesions`` outside 0 to 200, or metastases are asked
            for without contrast, or a large one where there are none, or the folder holds a
            cohort of other settings.
        WriteError: the folder cannot be written to.
    """
    if cases < 1:
        raise CohortError(f"cannot simulate {cases} cases; ask for at least 1")
    if lesions is not None and not 0 <= lesions <= MOST_LESIONS:
        raise CohortError(f"cannot simulate {lesions} metastases; ask for 0 to {MOST_LESIONS}")
    if lesions and contrast is False:
        raise CohortError(
            f"{lesions} metastases in scans without contrast, where none would show; ask for 0"
        )
    if large and (lesions == 0 or contrast is False):
        raise CohortError("a large metastasis in scans that are to have none; ask for one of both")
    require_writable(out)
    sweep(out)
    made = _Made(seed, frozenset(without), lesions, contrast, varied_plexus, large)
    _claim(out, made, anatomies)
    try:
        with in_order(workers) as run, TemporaryDirectory() as placed:
            heads = tuple(run(_place, [(path, Path(placed)) for path in anatomies]))
            jobs = [(out, made, i, heads) for i in range(cases)]
            for done, _ in enumerate(run(_write_case, jobs), start=1):
                if progress:
                    progress(done, cases)
    except BrainmetsError:
        if not any((out / _name(number)).is_dir() for number in range(cases)):
            (out / NOTE).unlink(missing_ok=True)  # nothing was made: the folder is free again
        raise
    _write_table(out, cases)


@dataclass(frozen=True)
class _Made:
    """What all cases of a cohort have in common."""

    seed: int
    without: frozenset[Ingredient]
    lesions: int | None
    contrast: bool | None
    varied_plexus: bool = False
    large: bool = False


def _claim(out: Path, made: _Made, anatomies: Sequence[Path]) -> None:
    """Note what the folder is for, so that two cohorts never mix in it."""
    note = out / NOTE
    for path in anatomies:
        if not path.is_file():
            raise CohortError(f"{path.name}: no such label map")
    heads = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in anatomies]
    text = f"simulator {VERSION}\nseed {made.seed}\nanatomies {' '.join(heads) or 'embedded'}\n"
    if made.without:
        text += f"without {' '.join(sorted(made.without))}\n"
    if made.lesions is not None:
        text += f"lesions {made.lesions}\n"
    if made.contrast is not None:
        text += f"contrast {'given' if made.contrast else 'absent'}\n"
    if made.varied_plexus:
        text += "plexus varied\n"
    if made.large:
        text += "large metastases\n"
    if note.is_file() and note.read_text(encoding="utf-8") != text:
        raise CohortError(f"{out.name}: holds a cohort of other settings; choose an empty folder")
    with whole_file(note) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _place(job: tuple[Path, Path]) -> Path:
    """Place the structures of a head once, for all cases made from it."""
    path, folder = job
    anatomy = read_anatomy(path)
    placed = folder / f"{hashlib.sha256(path.read_bytes()).hexdigest()}.npz"
    np.savez(placed, labels=anatomy.labels, structures=anatomy.structures)
    return placed


def _load(placed: Path) -> Anatomy:
    with np.load(placed) as arrays:
        return Anatomy(arrays["labels"], arrays["structures"])


def _write_case(job: tuple[Path, _Made, int, tuple[Path, ...]]) -> None:
    out, made, number, anatomies = job
    folder = out / _name(number)
    if folder.is_dir():
        return
    rng = np.random.default_rng(np.random.SeedSequence(made.seed, spawn_key=(number,)))
    anatomy = _load(anatomies[number % len(anatomies)]) if anatomies else embedded_head()
    thick = None if made.lesions is None else rng.random() < THICK_SHARE
    examination = simulate(
        anatomy, rng, lesions=made.lesions, thick=thick, contrast=made.contrast,
        without=made.without, varied_plexus=made.varied_plexus, large=made.large,
    )  # fmt: skip
    with whole_folder(folder) as temporary:
        nifti.write(examination.scan, temporary / "t1c.nii.gz")
        nifti.write(examination.mask, temporary / "mask.nii.gz")
        nifti.write(examination.brain, temporary / "brain.nii.gz")


def _name(number: int) -> str:
    return f"sim-{number:04d}"


def _write_table(out: Path, cases: int) -> None:
    with (
        whole_file(out / "cohort.tsv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["case", "image", "mask", "brain_mask"])
        for number in range(cases):
            name = _name(number)
            images = (f"{name}/{image}.nii.gz" for image in ("t1c", "mask", "brain"))
            writer.writerow([name, *images])
