"""Build ``src/brainmets/simulate/mni152_head.nii.gz``: a head of labels that needs no download.

The brain comes from the MNI152 2009a symmetric template (T1, grey and white matter maps) inside
the ``nilearn`` package; skull, face and neck, which those maps lack, are drawn from geometry.
The same nilearn version gives the same bytes.

    pip install nilearn==0.14.1 scikit-image
    python benchmarks/build_embedded_head.py [FILE]

Source: V. S. Fonov et al., NeuroImage 54:313-327 (2011), doi:10.1016/j.neuroimage.2010.07.033;
V. S. Fonov et al., NeuroImage 47 Suppl. 1:S102 (2009), doi:10.1016/S1053-8119(09)70884-5.
The template's copyright and permission notice, which must stay with every copy, is
``src/brainmets/simulate/MNI152_NOTICE.txt``.

Every position below is in MNI millimetres; the head is written ``SCALE`` times as large: the
template's brain mask holds 1.89 litres, this head's skull 1.55, an adult's usual volume.
Thicknesses are millimetres of the written head.
"""

import hashlib
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import watershed

from brainmets.io.nifti import write
from brainmets.volume import Grid, Volume

NILEARN = "0.14.1"
"""The version this head was built from."""
TARGET = Path(__file__).parents[1] / "src/brainmets/simulate/mni152_head.nii.gz"
SCALE = 0.9
SHAPE, ORIGIN_MM = (177, 227, 209), (-88.0, -118.0, -114.0)

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint16]
Point = tuple[float, float, float]

# FreeSurfer's codes; of those with two sides, the right one. The left half is mirrored at the end.
WHITE, CORTEX, LATERAL_VENTRICLE, CEREBELLAR_WHITE, CEREBELLAR_CORTEX = 41, 42, 43, 46, 47
THALAMUS, CAUDATE, PUTAMEN = 49, 50, 51
THIRD_VENTRICLE, FOURTH_VENTRICLE, BRAINSTEM, CSF, CHIASM = 14, 15, 16, 24, 85
# Outside the brain, after the label maps of SynthSeg (Billot et al., Med Image Anal 86, 2023).
AIR, EYE, SOFT, NASAL_AIR, SKIN, BONE, MARROW = 0, 506, 507, 509, 511, 515, 516
LEFT_OF = {41: 2, 42: 3, 43: 4, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12}


@dataclass(frozen=True)
class Space:
    """MNI coordinates of all voxels, as arrays that broadcast to the head's shape.

    ``x`` is the distance from the midplane: the template is symmetric, and so is all drawn here.
    """

    x: Floats
    y: Floats
    z: Floats

    def ellipsoid(self, centre: Point, radii: Point) -> Mask:
        """Inside an axis-aligned ellipsoid (and its mirror image)."""
        parts = zip((self.x, self.y, self.z), centre, radii, strict=True)
        return np.asarray(sum(((a - c) / r) ** 2 for a, c, r in parts) < 1)

    def box(self, low: Point, high: Point) -> Mask:
        """Inside an axis-aligned box."""
        inside = [
            (a >= b) & (a <= c) for a, b, c in zip((self.x, self.y, self.z), low, high, strict=True)
        ]
        return np.asarray(inside[0] & inside[1] & inside[2])

    def tube(self, points: tuple[Point, ...], radius: float) -> Mask:
        """Within ``radius`` of a chain of straight segments."""
        inside = np.zeros(SHAPE, bool)
        for start, end in pairwise(points):
            along = np.subtract(end, start, dtype=np.float32)
            away = [a - s for a, s in zip((self.x, self.y, self.z), start, strict=True)]
            t = sum(a * d for a, d in zip(away, along, strict=True)) / float(along @ along)
            t = np.clip(t, 0, 1)
            inside |= sum((a - t * d) ** 2 for a, d in zip(away, along, strict=True)) < radius**2
        return inside


def space() -> Space:
    """The head's voxels in MNI coordinates."""
    axes = [
        (o + np.arange(n, dtype=np.float32)) / SCALE for o, n in zip(ORIGIN_MM, SHAPE, strict=True)
    ]
    x, y, z = np.ix_(*axes)
    return Space(np.abs(x), y, z)


def template(name: str) -> Floats:
    """A template map (``t1``, ``gm``, ``wm``) on the head's grid: 0 to 255, 0 outside the brain."""
    package = importlib.util.find_spec("nilearn")
    if package is None or package.origin is None:
        raise SystemExit(f"nilearn is not installed; pip install nilearn=={NILEARN}")
    folder = Path(package.origin).parent / "datasets/data"
    image = nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    start = (np.array(ORIGIN_MM) / SCALE - image.affine[:3, 3]) / np.diag(image.affine)[:3]
    return ndimage.affine_transform(
        np.asarray(image.dataobj, np.float32), np.full(3, 1 / SCALE), start, SHAPE, order=1
    )


def distance(mask: Mask) -> Floats:
    """Millimetres from each voxel to the nearest one of ``mask``; 0 inside."""
    return np.asarray(ndimage.distance_transform_edt(~mask), np.float32)


def closed(mask: Mask, radius_mm: float) -> Mask:
    """``mask`` with gaps narrower than twice the radius filled."""
    return distance(distance(mask) > radius_mm) > radius_mm


def smooth(mask: Mask, sigma_mm: float) -> Mask:
    """``mask`` with its corners rounded."""
    blurred: Floats = ndimage.gaussian_filter(mask.astype(np.float32), sigma_mm, mode="nearest")
    return blurred > 0.5


def touching(mask: Mask, seed: Mask) -> Mask:
    """The connected parts of ``mask`` that hold a voxel of ``seed``."""
    parts, _ = ndimage.label(mask)
    return np.isin(parts, np.setdiff1d(parts[seed & mask], [0]))


def compartments(s: Space, t1: Floats) -> npt.NDArray[np.int32]:
    """Cerebrum 1, cerebellum 2, brainstem 3: watershed along the dark gaps between them.

    Seeds keep 9 mm away from the tentorium: apex along the straight sinus, roof-shaped in front,
    flatter behind.
    """
    back = np.clip((-51 - s.y) / 32, -0.5, 1.2)
    tentorium = 9 - 25 * back - (0.6 - 0.35 * back) * s.x
    behind = s.y < -45
    seeds = np.zeros(SHAPE, np.int32)
    seeds[(behind & (s.z > tentorium + 9)) | ((s.y > -30) & (s.x > 28)) | (s.y > 2) | (s.z > 8)] = 1
    seeds[np.broadcast_to((s.z < tentorium - 9) & behind & (s.x < 50), SHAPE)] = 2
    stem = s.tube(((0, -23, -9), (0, -27, -34), (0, -46, -74)), 6)
    stem |= s.ellipsoid((0, -25, -34), (15, 10, 12)) | s.ellipsoid((8, -18, -17), (6, 6, 8))
    stem |= s.ellipsoid((5, -34, -8), (5, 4, 6))
    seeds[stem] = 3
    tissue = t1 > 0
    smoothed = ndimage.gaussian_filter(t1, 0.7)
    parts: npt.NDArray[np.int32] = watershed(-smoothed, seeds * tissue, mask=tissue)
    # The peduncles have no gap: the stem ends 17 mm from the midplane and at the fourth ventricle.
    floor = np.interp(s.z, [-74, -60, -50, -45, -20, -16, 0], [-64, -57, -47, -43, -39, -43, -43])
    limits = (s.y > floor) & (s.x < np.interp(s.z, [-60, -45, -25, -12, -4], [13, 17, 18, 16, 9]))
    zone = s.tube(((0, -20, 0), (0, -26, -34), (0, -46, -76)), 17) & limits
    parts[(parts == 3) & ~limits] = 2
    parts[(parts == 2) & zone] = 3
    parts[(parts == 1) & zone & (s.x < 15) & (s.y < -10)] = 3
    parts[(parts == 3) & ((s.z + 16) > -0.74 * (s.y + 8))] = 1
    return parts


def ventricles(s: Space, fluid: Floats) -> Labels:
    """Lateral, third and fourth ventricle, 0 elsewhere.

    Args:
        s: the head's coordinates.
        fluid: 0 (white matter) to 1 (fluid), from T1.
    """
    found = np.zeros(SHAPE, np.uint16)
    dark = fluid > 0.45
    behind_fornix = (s.y < -14) & (s.x < np.interp(s.y, [-45, -14], [12, 3])) & (s.z < 17)
    lateral = dark & s.box((1.2, -75, -6), (42, 40, 34)) & ~behind_fornix
    lateral &= ~(s.box((0, -18, -20), (7, 6, 7)) | s.box((0, -80, -20), (13, -48, 40)))
    seed = s.ellipsoid((6, 10, 12), (4, 12, 5)) | s.ellipsoid((24, -42, 10), (5, 6, 6))
    found[touching(ndimage.binary_opening(lateral), seed)] = LATERAL_VENTRICLE
    third = (fluid > 0.3) & s.ellipsoid((0, -12, -1), (4.5, 17, 13))
    found[touching(third, s.box((0, -25, -8), (2, -2, 2)))] = THIRD_VENTRICLE
    fourth = (fluid > 0.5) & s.ellipsoid((0, -43, -34), (12, 9, 14))
    found[touching(fourth, s.ellipsoid((0, -43, -32), (4, 4, 6)))] = FOURTH_VENTRICLE
    return found


def sulci(t1: Floats, gm: Floats, wm: Floats) -> Mask:
    """Fluid between the gyri.

    Averaging over people leaves grey valleys where each had a dark sulcus, so narrow valleys of
    T1 count as well as what neither tissue map claims.
    """
    valley = ndimage.grey_closing(t1, footprint=ball(3)) - t1
    return ((255 - gm - wm) > 105) | ((valley > 21) & (t1 < 160) & (wm < 60))


def ball(radius_vox: int) -> Mask:
    """A ball as structuring element."""
    axis = np.arange(-radius_vox, radius_vox + 1)
    x, y, z = np.ix_(axis, axis, axis)
    return np.asarray(x**2 + y**2 + z**2 <= radius_vox**2)


def brain(s: Space) -> Labels:
    """The brain with its inner fluid, right-sided codes on both sides, 0 outside."""
    t1, gm, wm = template("t1"), template("gm"), template("wm")
    part = compartments(s, t1)
    cavities = ventricles(s, np.clip((215 - t1) / 150, 0, 1) * (t1 > 0))
    labels = np.zeros(SHAPE, np.uint16)
    white = wm > gm
    labels[part == 1] = np.where(white, WHITE, CORTEX)[part == 1]
    labels[part == 2] = np.where(white, CEREBELLAR_WHITE, CEREBELLAR_CORTEX)[part == 2]
    labels[part == 3] = BRAINSTEM
    add_deep_grey(s, labels, gm, wm, cavities)
    labels[(part > 0) & sulci(t1, gm, wm) & (labels != THALAMUS)] = CSF
    labels[cavities > 0] = cavities[cavities > 0]
    add_horns(s, labels)
    drop_specks(labels)
    return labels


def add_deep_grey(s: Space, labels: Labels, gm: Floats, wm: Floats, cavities: Labels) -> None:
    """Thalamus, caudate and putamen; the false grey rim of the ventricles becomes white matter."""
    cerebrum = np.isin(labels, (WHITE, CORTEX))
    ventricle = cavities == LATERAL_VENTRICLE
    caudate_zone = s.tube(((11, 16, -2), (13, 14, 10), (15, 2, 19), (18, -16, 22)), 7.5)
    putamen_zone = s.ellipsoid((26, 1, 1), (8, 21, 12)) & (s.x > 17)
    thalamus = s.ellipsoid((9, -14, 8), (8, 11, 8)) | s.ellipsoid((14, -24, 7), (9, 9, 9))
    rim = (distance(ventricle) < 4) & (labels == CORTEX) & (s.x < 45)
    centre = s.box((0, -30, -18), (13, 4, 26))
    labels[cerebrum & (rim | (centre & (labels == CORTEX)))] = WHITE
    labels[cerebrum & (gm > 120) & caudate_zone & (gm > wm)] = CAUDATE
    labels[cerebrum & (gm > 95) & putamen_zone] = PUTAMEN
    labels[cerebrum & thalamus & (s.z > -4)] = THALAMUS


def add_horns(s: Space, labels: Labels) -> None:
    """Thin occipital and temporal horns, and the septum between the lateral ventricles.

    The horns are collapsed in the template: fluid that lies in white matter.
    """
    white = np.isin(labels, (WHITE, LATERAL_VENTRICLE)).astype(np.float32)
    deep = s.box((16, -95, -25), (46, -5, 22)) & (ndimage.gaussian_filter(white, 2.5) > 0.6)
    labels[(labels == CSF) & deep] = LATERAL_VENTRICLE
    labels[(labels == CSF) & s.ellipsoid((0, 2, 9), (3, 25, 14))] = WHITE


def drop_specks(labels: Labels) -> None:
    """Give islands of fewer than 30 voxels to the nearest label that stays."""
    for code in (WHITE, CORTEX, CEREBELLAR_CORTEX, CEREBELLAR_WHITE, CAUDATE, PUTAMEN, CSF):
        parts, _ = ndimage.label(labels == code)
        small = (np.bincount(parts.ravel()) < 30)[parts] & (parts > 0)
        keep = (labels > 0) & ~small
        nearest = ndimage.distance_transform_edt(~keep, return_distances=False, return_indices=True)
        labels[small] = labels[tuple(nearest[:, small])]


def inside_skull(s: Space, labels: Labels) -> Mask:
    """All that the dura holds: the brain, 1.5 mm of fluid around it, cisterns, the spinal canal."""
    near = distance(labels > 0) < 2
    cisterns = closed(labels > 0, 7) & (
        s.box((0, -22, -62), (17, 22, -2)) | s.box((0, -130, -20), (80, 90, 90))
    )
    below = closed(labels > 0, 12) & s.box((0, -100, -75), (30, -50, -30))
    filled = closed(near | cisterns | below, 4) & ~petrous(s)
    canal = s.tube(((0, -46, -70), (0, -58, -95), (0, -60, -140)), 9)
    cone = s.tube(((0, -46, -66), (0, -49, -76)), 13)
    return smooth(filled | near | canal | cone, 1.0) | (labels > 0)


def petrous(s: Space) -> Mask:
    """The pyramids of the temporal bone, between temporal lobe and cerebellum."""
    return s.tube(((52, -32, -40), (36, -26, -42), (17, -14, -42)), 8)


def cavities(s: Space) -> dict[int, Mask]:
    """Air: in the nose; in the frontal, ethmoid, sphenoid, maxillary sinuses and the airway."""
    sinuses = s.ellipsoid((9, 82, -16), (8, 4.5, 9)) | s.ellipsoid((5, 50, -44), (7, 20, 8))
    sinuses |= s.ellipsoid((6, 17, -40), (8, 11, 8)) | s.ellipsoid((29, 50, -72), (12, 14, 14))
    airway = s.tube(((0, 20, -70), (0, 6, -84), (0, 0, -105), (0, -4, -140)), 7.5)
    nose = s.ellipsoid((5, 58, -68), (8, 34, 15)) & (s.x > 1)
    return {NASAL_AIR: nose, AIR: (sinuses | airway) & ~nose}


def facial_bone(s: Space, air: Mask) -> Mask:
    """Thin walls of the sinuses, orbit rims and cheekbones, palate, jaw and upper spine."""
    walls = (distance(air) < 2.2) & (s.z > -92) & (s.y > 5)
    orbits = s.ellipsoid((33, 56, -38), (21, 24, 20)) & ~s.ellipsoid(
        (33, 57, -38), (18.5, 30, 17.5)
    )
    cheek = s.tube(((30, 74, -60), (50, 60, -60), (63, 30, -56), (66, 0, -52)), 4)
    palate = s.box((0, 25, -92), (24, 86, -88)) & s.ellipsoid((0, 45, -90), (26, 42, 8))
    teeth = s.tube(((24, 45, -97), (20, 74, -97), (7, 88, -97), (0, 89, -97)), 5)
    jaw = s.tube(((0, 82, -126), (12, 79, -126), (30, 55, -124), (48, 22, -112), (51, 8, -60)), 5.5)
    spine = s.tube(((0, -34, -82), (0, -36, -140)), 13)
    arch = s.tube(((0, -57, -90), (0, -60, -140)), 14.5)
    clivus = s.tube(((0, 2, -34), (0, -22, -70)), 7) | s.tube(((0, 14, -40), (26, 10, -40)), 7)
    pterygoid = s.tube(((22, 14, -42), (20, 16, -80)), 4)
    bone = walls | (orbits & (s.y < 74)) | cheek | palate | teeth | jaw | spine | arch | clivus
    return bone | pterygoid | petrous(s)


def skull(s: Space, inside: Mask, face: Mask) -> Labels:
    """Bone and, in the middle of thick bone, marrow; 0 elsewhere.

    The vault is 4 mm thick at the temples, 7 mm at the forehead, vertex and back.
    """
    away = distance(inside)
    thin = np.exp(-(((s.x - 68) / 22) ** 2 + ((s.y - 5) / 40) ** 2 + ((s.z + 5) / 35) ** 2))
    thickness = (7.0 - 3.2 * thin) * np.where(s.z < -76, 0.5, 1)
    shell = (away > 0) & (away <= thickness)
    bone = np.where(shell | (face & ~inside), BONE, 0).astype(np.uint16)
    vault = (away > 2) & (away < thickness - 2.2) & (s.z > -40)
    deep = distance(bone == 0) > 3.2
    bone[(vault & (thickness > 6)) | deep] = MARROW
    return bone


def head_outline(s: Space, bone: Mask) -> Mask:
    """Everything under the skin's surface: scalp over the skull, face, neck, ears."""
    scalp = (distance(bone) < 6) & (s.z > -75)
    upper = s.ellipsoid((0, -8, -20), (76, 100, 80)) & (s.z < 10)
    face = s.ellipsoid((0, 30, -62), (64, 58, 66)) | s.ellipsoid((0, 42, -118), (42, 50, 34))
    nose = s.tube(((0, 82, -26), (0, 97, -56)), 10) | s.ellipsoid((4, 93, -62), (14, 18, 11))
    lips = s.ellipsoid((0, 86, -94), (26, 12, 16))
    neck = s.ellipsoid((0, -33, -150), (64, 62, 118)) & (s.z < -45)
    jaws = s.ellipsoid((0, 18, -95), (62, 62, 46)) | s.ellipsoid((0, -5, -62), (74, 66, 50))
    ear = s.ellipsoid((80, -24, -36), (6, 14, 22))
    body = smooth(scalp | upper | face | neck | jaws, 4) | smooth(nose | lips | ear, 1.5)
    return smooth(body | (distance(bone) < 4), 2.5) | (distance(bone) < 3.5)


def head() -> Labels:
    """The whole head's labels, left and right told apart, the left half mirrored from the right."""
    s = space()
    labels = brain(s)
    air = cavities(s)
    inside = inside_skull(s, labels)
    holes = (air[NASAL_AIR] | air[AIR]) & (distance(inside) > 3)
    bone = skull(s, inside, facial_bone(s, holes) & ~holes)
    outline = head_outline(s, (bone > 0) | inside)
    full = np.where(outline, SOFT, AIR).astype(np.uint16)
    # The bottom slice is where the scan ends, not skin.
    full[
        outline & (distance(~np.pad(outline, ((0, 0), (0, 0), (4, 0)), "edge"))[:, :, 4:] <= 2.5)
    ] = SKIN
    full[bone > 0] = bone[bone > 0]
    full[s.ellipsoid((33, 58, -38), (12 / SCALE,) * 3) & ~inside] = EYE
    for code, mask in air.items():
        full[mask & holes] = code
    full[inside] = np.where(labels > 0, labels, CSF)[inside]
    full[inside & s.tube(((0, -46, -68), (0, -56, -90), (0, -60, -140)), 6)] = BRAINSTEM
    full[s.ellipsoid((0, 3, -15), (10, 4, 3)) & (full == CSF)] = CHIASM
    return mirrored(full)


def mirrored(labels: Labels) -> Labels:
    """The right half (x of 0 or more) on both sides, with the left codes at x < 0."""
    middle = SHAPE[0] // 2
    codes = np.arange(labels.max() + 1, dtype=np.uint16)
    for right, left in LEFT_OF.items():
        codes[right] = left
    labels = labels.copy()
    labels[:middle] = codes[labels[:middle:-1]]
    return labels


def main() -> None:
    """Build the head and write it."""
    version = importlib.metadata.version("nilearn")
    if version != NILEARN:
        print(f"note: nilearn {version} is installed; the head in the package is from {NILEARN}")
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    affine = np.eye(4)
    affine[:3, 3] = ORIGIN_MM
    write(Volume(head(), Grid(SHAPE, affine)), target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    print(f"{target.name}: {target.stat().st_size} bytes, SHA-256 {digest}")


if __name__ == "__main__":
    main()
