"""The embedded head holds what a head holds, where a head holds it."""

from importlib.resources import as_file, files

import numpy as np
import pytest
from scipy import ndimage

from brainmets.io import nifti
from brainmets.volume import apply

PAIRS = {2: 41, 3: 42, 4: 43, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51}
MIDLINE = (14, 15, 16, 24, 85)
OUTER = (506, 507, 509, 511, 515, 516)
AIR = (0, 509)


@pytest.fixture(scope="module")
def head():
    with as_file(files("brainmets.simulate") / "mni152_head.nii.gz") as path:
        return nifti.read_labels(path)


@pytest.fixture(scope="module")
def inside(head):
    """All inside the dura."""
    return (head.data > 0) & (head.data < 100)


@pytest.fixture(scope="module")
def half(head, inside):
    """Every second voxel: the labels, and millimetres from there to the dura (0 outside)."""
    every = (slice(None, None, 2),) * 3
    return head.data[every], ndimage.distance_transform_edt(inside[every], sampling=2)


@pytest.fixture(scope="module")
def places(head):
    """For each code the world positions of its voxels, shape (n, 3)."""
    flat = head.data.ravel()
    order = np.argsort(flat, kind="stable")[(flat == 0).sum() :]
    codes, starts = np.unique(flat[order], return_index=True)
    groups = np.split(order, starts[1:])
    where = (np.stack(np.unravel_index(group, head.data.shape), axis=1) for group in groups)
    return {int(c): apply(head.grid.affine, w) for c, w in zip(codes, where, strict=True)}


def points(places, *codes):
    return np.concatenate([places[code] for code in codes])


def test_lies_on_a_1_mm_ras_grid(head):
    np.testing.assert_array_equal(head.grid.affine[:3, :3], np.eye(3))


def test_holds_exactly_the_codes_it_promises(head):
    expected = {0, *PAIRS, *PAIRS.values(), *MIDLINE, *OUTER}
    assert set(np.unique(head.data).tolist()) == expected


def test_is_small_enough_to_ship_and_keeps_its_notice():
    folder = files("brainmets.simulate")
    assert len((folder / "mni152_head.nii.gz").read_bytes()) <= 700_000
    notice = " ".join((folder / "MNI152_NOTICE.txt").read_text("utf-8").split())
    assert "Louis Collins, McConnell Brain Imaging Centre" in notice
    assert "provided that the above copyright notice appear in all copies" in notice


@pytest.mark.parametrize(("left", "right"), PAIRS.items())
def test_left_codes_lie_left_and_mirror_the_right_ones(places, left, right):
    assert points(places, left)[:, 0].max() < 0
    assert points(places, right)[:, 0].min() >= 0
    assert len(places[left]) == pytest.approx(len(places[right]), rel=0.1)
    mirror = points(places, left).mean(axis=0) * (-1, 1, 1)
    np.testing.assert_allclose(mirror, points(places, right).mean(axis=0), atol=1.5)


@pytest.mark.parametrize(
    ("what", "codes", "least", "most"),
    [
        # Adult ranges, wide: Allen et al., NeuroImage 18:880 (2003); the ventricles of the young.
        ("cerebral white matter", (2, 41), 350, 550),
        ("cerebral cortex", (3, 42), 400, 650),
        ("cerebellum", (7, 8, 46, 47), 90, 160),
        ("lateral ventricles", (4, 43), 8, 40),
        ("third ventricle", (14,), 0.5, 3),
        ("fourth ventricle", (15,), 0.8, 4),
        ("brainstem and upper cord", (16,), 18, 40),
        ("thalami", (10, 49), 6, 20),
        ("both eyes, of 12 mm radius", (506,), 13, 15),
    ],
)
def test_volumes_are_those_of_an_adult(places, what, codes, least, most):
    assert least < len(points(places, *codes)) / 1000 < most, what


def test_intracranial_volume_is_that_of_an_adult(head, inside):
    assert 1200 < inside.sum() * head.grid.voxel_volume_mm3 / 1000 < 1800


def test_the_inside_is_one_piece_wrapped_in_tissue(head, inside):
    """No air touches fluid or brain, not even by a corner."""
    _, pieces = ndimage.label(inside)
    assert pieces == 1
    shell = ndimage.binary_dilation(inside, np.ones((3, 3, 3))) & ~inside
    assert not np.isin(head.data[shell], AIR).any()
    assert np.isin(head.data[shell], (515, 516)).mean() > 0.95


def test_fluid_covers_nearly_all_of_the_brain(head, inside):
    """Bone lies on fluid, not on brain: the brain's surface touches bone in few places."""
    tissue = inside & (head.data != 24)
    around = ndimage.binary_dilation(tissue) & ~tissue
    assert np.isin(head.data[around], OUTER).mean() < 0.01


def test_the_outside_is_one_piece_of_air_behind_skin(head):
    """Air outside the head meets skin only (the scan's lower end aside)."""
    pieces, _ = ndimage.label(
        np.pad(head.data == 0, ((1, 1), (1, 1), (0, 1)), constant_values=True)
    )
    outside = (pieces == pieces[0, 0, -1])[1:-1, 1:-1, :-1]
    rim = ndimage.binary_dilation(outside) & ~outside
    rim[:, :, 0] = False
    assert np.isin(head.data[rim], (511,)).mean() > 0.98
    grown = head.data != 0
    assert not grown[[0, -1]].any()
    assert not grown[:, [0, -1]].any()
    assert not grown[:, :, -1].any()


def test_the_cerebellum_lies_below_and_behind(places):
    cerebellum = points(places, 7, 8, 46, 47).mean(axis=0)
    cerebrum = points(places, 2, 3, 41, 42).mean(axis=0)
    stem = points(places, 16).mean(axis=0)
    assert cerebellum[2] < cerebrum[2] - 30
    assert cerebellum[1] < cerebrum[1] - 20
    assert cerebellum[1] < stem[1] - 10


def test_the_ventricles_lie_deep_inside(places, half):
    """The third one's floor lies near the sella; the lateral ones stay 15 mm below the dura."""
    labels, depth = half
    assert depth[np.isin(labels, (4, 43))].min() > 15
    assert depth[labels == 14].min() > 5
    low, high = points(places, 2, 41).min(axis=0), points(places, 2, 41).max(axis=0)
    ventricles = points(places, 4, 43, 14)
    assert (ventricles > low).all()
    assert (ventricles < high).all()
    assert points(places, 15)[:, 2].max() < points(places, 14)[:, 2].mean()


def test_sulci_hold_fluid(half):
    """Of what lies more than 6 mm below the dura, a good part is fluid between the gyri."""
    labels, depth = half
    share = (labels[depth > 6] == 24).mean()
    assert 0.05 < share < 0.25


def test_face_points_to_the_front(places):
    eyes = points(places, 506)
    assert eyes[:, 1].min() > points(places, 16)[:, 1].max() + 20
    assert eyes[:, 2].mean() < points(places, 2, 41)[:, 2].mean()
    assert points(places, 509)[:, 1].mean() > 30
