"""Heads as label maps, and where everything that takes up contrast lies in them.

Any whole-head segmentation with FreeSurfer codes serves (Billot et al. 2023,
doi:10.1016/j.media.2023.102789, gives such maps); codes of 500 and more are tissue
outside brain and CSF. Dural sinuses, falx, tentorium, choroid plexus, pituitary and basal
arteries are not labelled in such maps: they are placed by geometry, from distances to
the two hemispheres, the cerebellum and the skull.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.errors import VolumeError
from brainmets.volume import Volume, to_nearest_ras

Labels = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]
Point = npt.NDArray[np.float64]

LEFT_CEREBRUM = (2, 3, 10, 11, 12, 13, 17, 18, 26, 28)
RIGHT_CEREBRUM = (41, 42, 49, 50, 51, 52, 53, 54, 58, 60)
CEREBRUM = LEFT_CEREBRUM + RIGHT_CEREBRUM
CEREBELLUM = (7, 8, 46, 47)
LATERAL_VENTRICLES = (4, 5, 43, 44)
GREY = (3, 42, 8, 47, 17, 18, 53, 54)
WHITE = (2, 41, 7, 46, 28, 60)
DEEP_GREY = (10, 11, 12, 13, 26, 49, 50, 51, 52, 58)
THALAMUS = (10, 49)
BRAINSTEM, CSF, CHIASM = 16, 24, 85
FIRST_EXTRACEREBRAL = 500
HIGHEST_CODE = 1000


class Structure(IntEnum):
    """What takes up contrast without being a metastasis; 0 is nothing."""

    SAGITTAL_SINUS = 1
    SAGITTAL_SINUS_EDGE = 2
    TRANSVERSE_SINUS = 3
    TRANSVERSE_SINUS_EDGE = 4
    SIGMOID_SINUS = 5
    STRAIGHT_SINUS = 6
    FALX = 7
    TENTORIUM = 8
    CONVEXITY_DURA = 9
    CHOROID_PLEXUS = 10
    PITUITARY = 11
    CAVERNOUS_SINUS = 12
    BASAL_ARTERY = 13
    DEEP_VEIN = 14
    PINEAL = 15


@dataclass(frozen=True)
class Anatomy:
    """One head at 1 mm in RAS order, cropped to itself.

    Attributes:
        labels: FreeSurfer codes, shape (X, Y, Z).
        structures: :class:`Structure` codes on the same voxels.
    """

    labels: Labels
    structures: npt.NDArray[np.uint8]


def embedded_head() -> Anatomy:
    """The head that comes with the package, made from the MNI152 2009a template."""
    with as_file(files("brainmets.simulate") / "mni152_head.nii.gz") as path:
        return read_anatomy(path)


@lru_cache(maxsize=2)
def read_anatomy(path: Path) -> Anatomy:
    """Read a label map of about 1 mm and place the enhancing structures in it.

    Raises:
        VolumeError: spacing is not 1 mm, or left and right cerebrum, cerebellum or
            CSF are missing.
        ReadError: the file cannot be read.
    """
    from brainmets.io import nifti  # prepared cohorts are trained on without its reader

    volume = to_nearest_ras(nifti.read_labels(path))
    if max(abs(s - 1) for s in volume.grid.spacing_mm) > 0.05:
        raise VolumeError(
            f"{path.name}: label maps must have voxels of 1 mm, found {volume.grid.spacing_mm}"
        )
    if not volume.data.any() or volume.data.max() >= HIGHEST_CODE:
        raise VolumeError(
            f"{path.name}: labels reach {volume.data.max()}; expected FreeSurfer codes 1 to "
            f"{HIGHEST_CODE - 1} (aparc+aseg's cortical parcels, 1000 and more, are not known)"
        )
    labels = _crop(volume)
    for name, codes in (
        ("left cerebrum", LEFT_CEREBRUM),
        ("right cerebrum", RIGHT_CEREBRUM),
        ("cerebellum", CEREBELLUM),
        ("CSF", (CSF,)),
    ):
        if not np.isin(labels, codes).any():
            raise VolumeError(f"{path.name}: no {name}; expected FreeSurfer codes {codes}")
    return Anatomy(labels, place_structures(labels))


def _crop(volume: Volume, margin: int = 4) -> Labels:
    occupied = ndimage.find_objects((volume.data > 0).astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in occupied)
    return np.ascontiguousarray(volume.data[box], np.int16)


VENTRICLES = LATERAL_VENTRICLES[:2], LATERAL_VENTRICLES[2:]
"""Left and right."""
FEWEST_VENTRICLE_VOX = 50
"""A smaller one has no glomus."""


@dataclass(frozen=True)
class _Distances:
    """Distances in mm from every voxel of a box around the brain."""

    left: Field
    right: Field
    cerebellum: Field
    outside: Field  # signed: positive outside brain + CSF


def place_structures(labels: Labels) -> npt.NDArray[np.uint8]:
    """Structure codes for a label map of shape (X, Y, Z), 1 mm, RAS.

    Later entries of the table overwrite earlier ones.
    """
    box = _brain_box(labels)
    inside = labels[box]
    distances = _measure(inside)
    placed = np.zeros(inside.shape, np.uint8)
    for structure, mask in (
        (Structure.CONVEXITY_DURA, np.abs(distances.outside) <= 0.8),
        (Structure.FALX, _falx(distances, inside)),
        (Structure.TENTORIUM, _tentorium(distances, inside)),
        (Structure.SAGITTAL_SINUS_EDGE, _sagittal_sinus(distances, inside, wide=True)),
        (Structure.SAGITTAL_SINUS, _sagittal_sinus(distances, inside, wide=False)),
        (Structure.TRANSVERSE_SINUS_EDGE, _transverse_sinus(distances, inside, wide=True)),
        (Structure.TRANSVERSE_SINUS, _transverse_sinus(distances, inside, wide=False)),
        (Structure.STRAIGHT_SINUS, _straight_sinus(distances, inside)),
        (Structure.CHOROID_PLEXUS, _choroid_plexus(inside)),
    ):
        placed[mask] = structure
    _place_sigmoid_sinus(placed, distances)
    _place_deep_veins(placed, inside)
    _place_skull_base(placed, inside)
    structures = np.zeros(labels.shape, np.uint8)
    structures[box] = placed
    return structures


def _brain_box(labels: Labels, margin: int = 12) -> tuple[slice, ...]:
    brain = (labels > 0) & (labels < FIRST_EXTRACEREBRAL)
    found = ndimage.find_objects(brain.astype(np.uint8))[0]
    return tuple(slice(max(0, s.start - margin), s.stop + margin) for s in found)


def _to(mask: Mask) -> Field:
    return ndimage.distance_transform_edt(~mask).astype(np.float32)


def _measure(labels: Labels) -> _Distances:
    brain = (labels > 0) & (labels < FIRST_EXTRACEREBRAL)
    return _Distances(
        left=_to(np.isin(labels, LEFT_CEREBRUM)),
        right=_to(np.isin(labels, RIGHT_CEREBRUM)),
        cerebellum=_to(np.isin(labels, CEREBELLUM)),
        outside=_to(brain) - _to(~brain) + np.where(brain, 0.5, -0.5).astype(np.float32),
    )


def _above(labels: Labels, share: float) -> Mask:
    """Voxels above the given share of the cerebrum's height."""
    z = np.nonzero(np.isin(labels, CEREBRUM).any(axis=(0, 1)))[0]
    mask = np.zeros(labels.shape, bool)
    mask[:, :, int(z[0] + share * (z[-1] - z[0])) :] = True
    return mask


def _vault(labels: Labels) -> Mask:
    """The upper cerebrum; in front only its top half, as the sinus starts at the frontal bone."""
    y = np.nonzero(np.isin(labels, CEREBRUM).any(axis=(0, 2)))[0]
    vault = _above(labels, 0.3)
    front = int(y[0] + 0.6 * (y[-1] - y[0]))
    vault[:, front:] &= _above(labels, 0.5)[:, front:]
    return vault


def _falx(d: _Distances, labels: Labels) -> Mask:
    sheet = (np.abs(d.left - d.right) <= 0.9) & (d.left + d.right < 14) & (d.outside < 1)
    return np.asarray(sheet & (labels == CSF) & _above(labels, 0.35) & (d.cerebellum > 4))


def _tentorium(d: _Distances, labels: Labels) -> Mask:
    cerebrum = np.minimum(d.left, d.right)
    sheet = (np.abs(cerebrum - d.cerebellum) <= 0.75) & (cerebrum < 8) & (d.outside < 1)
    return np.asarray(sheet & (labels == CSF))


def _sagittal_sinus(d: _Distances, labels: Labels, *, wide: bool) -> Mask:
    """Around the midline at the skull, reaching outside brain + CSF as real ones do."""
    half_width, depth = (5.0, 8.0) if wide else (3.0, 5.0)
    narrowing = np.clip(d.outside + 4, 0, 10) * 0.35  # triangular: widest at the skull
    midline = np.abs(d.left - d.right) <= np.minimum(half_width, 0.8 + narrowing)
    rim = (d.outside > -4) & (d.outside < depth) & (np.maximum(d.left, d.right) < 15)
    return np.asarray(midline & rim & _vault(labels) & (d.cerebellum > 3))


def _transverse_sinus(d: _Distances, labels: Labels, *, wide: bool) -> Mask:
    """Where the tentorium meets the skull behind the brainstem."""
    half_width, depth = (5.5, 6.5) if wide else (3.5, 4.5)
    cerebrum = np.minimum(d.left, d.right)
    line = (np.abs(cerebrum - d.cerebellum) <= half_width) & (cerebrum + d.cerebellum < 22)
    rim = (d.outside > -4) & (d.outside < depth)
    y = np.nonzero(np.isin(labels, CEREBELLUM).any(axis=(0, 2)))[0]
    behind = np.zeros(labels.shape, bool)
    behind[:, : int(y[0] + 0.72 * (y[-1] - y[0]))] = True
    return np.asarray(line & rim & behind)


def _straight_sinus(d: _Distances, labels: Labels) -> Mask:
    """Where falx and tentorium meet."""
    cerebrum = np.minimum(d.left, d.right)
    middle = (np.abs(d.left - d.right) <= 1.6) & (np.abs(cerebrum - d.cerebellum) <= 1.8)
    sinus: Mask = middle & (cerebrum < 9) & (d.outside < 0) & (labels == CSF)
    points = np.argwhere(sinus)
    if len(points):  # the torcular, where it meets the transverse sinuses
        behind = points[np.argsort(points[:, 1])[:10]].mean(axis=0)
        sinus |= _ball(labels.shape, behind, (8, 4, 5)) & ~np.isin(labels, CEREBRUM + CEREBELLUM)
    return sinus


def _choroid_plexus(labels: Labels) -> Mask:
    """A glomus in each atrium, and a band along the floor of the lateral ventricles."""
    plexus = np.zeros(labels.shape, bool)
    thalamus = _to(np.isin(labels, (10, 49, 17, 53)))
    for codes in VENTRICLES:
        ventricle = np.isin(labels, codes)
        points = np.argwhere(ventricle)
        if len(points) < FEWEST_VENTRICLE_VOX:
            continue
        plexus |= ventricle & (thalamus < 2.5)
        y = points[:, 1]
        band = points[(y > np.quantile(y, 0.12)) & (y < np.quantile(y, 0.35))]
        low = band[band[:, 2] < np.quantile(band[:, 2], 0.6)] if len(band) else band
        if len(low):
            plexus |= ventricle & _ball(labels.shape, low.mean(axis=0), (4, 6, 4))
    return plexus


def vary_plexus(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """The head with one to three glomera in each lateral ventricle, of many sizes and places.

    A head's own lie alike in all its examinations; where they float in wide ventricles they look
    like metastases, and one head in twenty is too few to learn it from.
    """
    structures = anatomy.structures.copy()
    for codes in VENTRICLES:
        ventricle = np.isin(anatomy.labels, codes)
        points = np.argwhere(ventricle)
        if len(points) < FEWEST_VENTRICLE_VOX:
            continue
        if rng.random() < 0.5:  # the head's own goes
            structures[ventricle & (structures == Structure.CHOROID_PLEXUS)] = 0
        behind = points[points[:, 1] < np.quantile(points[:, 1], 0.5)]
        to_wall = ndimage.distance_transform_edt(ventricle)[tuple(behind.T)]
        for _ in range(int(rng.integers(1, 4))):
            centre = behind[rng.choice(len(behind), p=to_wall / to_wall.sum())]
            radii = rng.uniform(2, 6) * rng.uniform(0.75, 1.35, 3)
            glomus = ventricle & _ball(ventricle.shape, centre, tuple(radii))
            structures[glomus] = Structure.CHOROID_PLEXUS
    return Anatomy(anatomy.labels, structures)


def _ball(shape: tuple[int, ...], centre: Point, radii: tuple[float, ...]) -> Mask:
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    terms = (((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True))
    return np.asarray(sum(terms) <= 1)


def _tube(
    placed: npt.NDArray[np.uint8], way: npt.ArrayLike, radius: float, code: Structure
) -> None:
    """Paint a tube through the points of ``way`` (voxels), in place."""
    points = np.asarray(way, float)
    reach = int(np.ceil(radius))
    ball = np.argwhere(_ball((2 * reach + 1,) * 3, np.full(3, reach), (radius + 1e-6,) * 3)) - reach
    for start, end in pairwise(points):
        steps = max(2, int(2 * np.linalg.norm(end - start)))
        line = np.rint(np.linspace(start, end, steps)).astype(int)
        voxels = (line[:, None] + ball).reshape(-1, 3)
        voxels = voxels[((voxels >= 0) & (voxels < placed.shape)).all(axis=1)]
        placed[tuple(voxels.T)] = code


def _place_sigmoid_sinus(placed: npt.NDArray[np.uint8], d: _Distances) -> None:
    """From each end of the transverse sinus down and inwards to the skull base."""
    sinus = np.argwhere(placed == Structure.TRANSVERSE_SINUS)
    if not len(sinus):
        return
    middle = np.argwhere(d.cerebellum == 0)[:, 0].mean()
    for side in (-1, 1):
        half = sinus[side * (sinus[:, 0] - middle) > 15]
        if not len(half):
            continue
        end = half[np.argsort(half[:, 1])[-20:]].mean(axis=0)
        knee = np.add(end, (-side * 5, 6, -14))
        way = [end, knee, np.add(knee, (-side * 11, 7, -12))]
        _tube(placed, way, 4.0, Structure.SIGMOID_SINUS)


def _place_deep_veins(placed: npt.NDArray[np.uint8], labels: Labels) -> None:
    """Internal cerebral veins over the thalami, the vein of Galen behind them, the pineal below.

    All lie by the thalami's extent; distances in mm are those of an adult head.
    """
    left, right = (np.argwhere(labels == code) for code in THALAMUS)
    if not len(left) or not len(right):
        return
    middle = (left[:, 0].mean() + right[:, 0].mean()) / 2
    both = np.concatenate([left, right])
    front, back = np.quantile(both[:, 1], 0.9), np.quantile(both[:, 1], 0.02)
    top = np.quantile(both[:, 2], 0.85)
    galen = (middle, back - 8, top + 2)
    for side in (-1, 1):
        x = middle + 2 * side
        way = [(x, front, top), (x, (front + back) / 2, top + 1), (x, back, top - 2), galen]
        _tube(placed, way, 1.2, Structure.DEEP_VEIN)
        basal = [(middle + 16 * side, back + 8, top - 14), (middle + 12 * side, back, top - 6)]
        _tube(placed, [*basal, galen], 1.0, Structure.DEEP_VEIN)
    _tube(placed, [galen, (middle, back - 14, top + 4)], 2.2, Structure.DEEP_VEIN)
    pineal = _ball(placed.shape, np.asarray((middle, back - 3, top - 7)), (2.5, 4, 2.5))
    placed[pineal] = Structure.PINEAL


def _place_skull_base(placed: npt.NDArray[np.uint8], labels: Labels) -> None:
    """Pituitary, cavernous sinus, circle of Willis and middle cerebral arteries.

    All hang on the optic chiasm, or, where it is not labelled, on a point in front of the
    brainstem's top; distances in mm are those of an adult head.
    """
    stem = np.argwhere(labels == BRAINSTEM)
    chiasm = np.argwhere(labels == CHIASM)
    if not len(stem):
        return
    top = stem[stem[:, 2] > np.quantile(stem[:, 2], 0.8)].mean(axis=0)
    anchor = chiasm.mean(axis=0) if len(chiasm) else np.add(top, (0, 22, 4))
    pituitary = _ball(placed.shape, np.add(anchor, (0, -3, -10)), (6, 5, 3.5))
    placed[pituitary] = Structure.PITUITARY
    front = stem[stem[:, 1] >= np.quantile(stem[:, 1], 0.9)]
    low, high = front[:, 2].min(), front[:, 2].max()
    y = front[:, 1].max() + 3
    basilar = [(anchor[0], y, z) for z in (low, (low + high) / 2, high)]
    _tube(placed, basilar, 1.5, Structure.BASAL_ARTERY)
    for side in (-1, 1):
        vertebral = [basilar[0], np.add(basilar[0], (8 * side, -6, -14))]
        _tube(placed, vertebral, 1.6, Structure.BASAL_ARTERY)
        _place_carotid(placed, anchor, np.asarray(basilar[-1]), side)


def _place_carotid(
    placed: npt.NDArray[np.uint8], anchor: Point, basilar_tip: Point, side: int
) -> None:
    """Cavernous sinus, carotid and its branches, posterior cerebral artery of one side."""

    def way(start: Point, *steps: tuple[float, float, float]) -> list[Point]:
        return [np.add(start, np.multiply(step, (side, 1, 1))) for step in steps]

    cavernous = way(anchor, (11, -14, -12), (11, 8, -11))
    _tube(placed, cavernous, 3.0, Structure.CAVERNOUS_SINUS)
    carotid = way(anchor, (11, 8, -11), (9, 1, -4))
    middle = way(anchor, (9, 1, -4), (22, 2, -2), (34, -1, 2), (40, -10, 8))
    anterior = way(anchor, (9, 1, -4), (2, 9, 3), (2, 20, 14))
    posterior = way(basilar_tip, (0, 0, 0), (12, -6, 3), (18, -22, 6))
    for points, radius in ((carotid, 1.7), (middle, 1.4), (anterior, 1.1), (posterior, 1.1)):
        _tube(placed, points, radius, Structure.BASAL_ARTERY)
