"""A mask that cannot be believed is told of; a good one is not."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from brainmets.preprocess import brain_quality
from brainmets.preprocess.brain_quality import (
    agreement_notes,
    bright_spots,
    edge_slope,
    field_notes,
    quality_notes,
    spot_notes,
    surfaces_apart,
)
from brainmets.volume import Grid, Volume

SHAPE, SPACING = (60, 70, 60), 3.0


def grid_of(shape, spacing=SPACING):
    return Grid(shape, np.diag([spacing] * 3 + [1.0]))


def field(radius_mm, offset_mm=(0, 0, 0), shape=SHAPE, spacing=SPACING):
    """Signed distance to a sphere."""
    axes = [
        (np.arange(n) - (n - 1) / 2) * spacing - o for n, o in zip(shape, offset_mm, strict=True)
    ]
    away = np.sqrt(sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij")))
    return Volume((away - radius_mm).astype(np.float32), grid_of(shape, spacing))


def notes_of(mask):
    return " ".join(quality_notes(mask, grid_of(mask.shape)))


@pytest.fixture
def brain():
    return field(70).data < 0


def test_a_plain_brain_has_no_notes(brain):
    assert quality_notes(brain, grid_of(SHAPE)) == ()


@pytest.mark.parametrize(("radius", "litres"), [(40, "0.27"), (85, "2.5")])
def test_an_unusual_volume_is_told(radius, litres):
    assert f"mask of {litres}" in notes_of(field(radius).data < 0)


@pytest.mark.parametrize("face", range(6))
def test_a_mask_cut_by_the_field_of_view_is_told(brain, face):
    axis, end = divmod(face, 2)
    middle = brain.shape[axis] // 2
    kept = slice(None, middle + 18) if end else slice(middle - 18, None)
    cut = brain[tuple(kept if a == axis else slice(None) for a in range(3))]
    assert "edge of the field" in notes_of(cut)


def test_touching_the_border_with_the_brainstem_alone_is_no_cut(brain):
    with_stem = brain.copy()
    with_stem[28:32, 33:37, :15] = True
    assert notes_of(with_stem) == ""


def test_a_second_large_piece_is_told_and_a_crumb_is_not(brain):
    crumb, second = brain.copy(), brain.copy()
    crumb[:3, :3, :3] = True
    second[:14, :14, :14] = True
    second[12:16, 12:16, 12:16] = False
    assert notes_of(crumb) == ""
    assert "second large piece" in notes_of(second & ~(field(75).data < 0) | brain)


def test_a_second_piece_that_the_mask_left_out_is_told():
    two = field(50).with_data(np.minimum(field(50).data, field(30, (0, 0, 85)).data))
    assert any("left it out" in note for note in field_notes(two, 0.0))
    assert field_notes(field(50), 0.0) == ()


@pytest.mark.parametrize("slope", [0.35, 1.6])
def test_distances_that_do_not_rise_as_distances_do_are_told(slope):
    sphere = field(60)
    bent = sphere.with_data(sphere.data * np.float32(slope))
    assert edge_slope(bent) == pytest.approx(slope, abs=0.05)
    assert any("uncertain" in note for note in field_notes(bent, 0.0))


def test_slope_is_in_mm_per_mm_whatever_the_voxels():
    for spacing in (1.5, 4.0):
        assert edge_slope(field(50, spacing=spacing)) == pytest.approx(1, abs=0.06)


def test_a_mirrored_scan_that_gives_another_answer_is_told():
    assert agreement_notes(field(60), field(55), 0.3) == ()
    assert "mirrored" in agreement_notes(field(60), field(55), 2.0)[0]


def test_an_outer_surface_far_from_the_likeliest_is_told():
    brain = field(60)
    near, far = (brain.with_data(brain.data - np.float32(by)) for by in (1.0, 9.0))
    assert agreement_notes(brain, near, 0.0) == ()
    assert "in doubt where the brain ends (by 9.0 mm" in agreement_notes(brain, far, 0.0)[0]
    assert surfaces_apart(brain, far) == pytest.approx(9)


# --- bright spots -------------------------------------------------------------------


@pytest.fixture
def head():
    """1.5 mm voxels: a brain of 100, dark bone, a scalp as bright as a lesion; brain, kept."""
    away = field(40, shape=(90, 90, 90), spacing=1.5).data
    image = np.full(away.shape, 10.0, np.float32)
    image[away < 0] = 100
    image[(away > 10) & (away < 16)] = 180
    return Volume(image, grid_of(away.shape, 1.5)), away < 0, away < 0


def with_spot(head, offset_mm, radius_mm, stretch=(1, 1, 1)):
    scan, mask, kept = head
    axes = [
        ((np.arange(n) - (n - 1) / 2) * 1.5 - o) / s
        for n, o, s in zip(mask.shape, offset_mm, stretch, strict=True)
    ]
    ball = sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij")) < radius_mm**2
    return scan.with_data(np.where(ball, np.float32(180), scan.data)), mask, kept


def test_scalp_alone_is_no_spot(head):
    assert bright_spots(*head) == ()
    assert spot_notes(*head) == ()


def test_blobs_just_outside_are_counted_and_placed(head):
    one = with_spot(head, (0, 0, 42.75), 2.2)
    two = with_spot(one, (43.5, 0, 0), 2.2)
    assert spot_notes(*one) == ("1 bright spot within 5 mm outside the brain mask; look there",)
    assert spot_notes(*two)[0].startswith("2 bright spots within 5 mm outside")
    (place,) = bright_spots(*one)
    np.testing.assert_allclose(place, [44.5, 44.5, 44.5 + 42.75 / 1.5], atol=0.6)


@pytest.mark.parametrize(
    ("offset", "radius", "stretch"),
    [
        ((0, 0, 48.0), 2.2, (1, 1, 1)),  # too far out
        ((0, 0, 38.0), 3.0, (1, 1, 1)),  # goes on inside the mask: the model sees it
        ((0, 0, 43.0), 2.0, (6, 1, 1)),  # a vessel
        ((0, 0, 43.0), 2.2, (4, 4, 1)),  # dura
        ((0, 0, 43.0), 0.8, (1, 1, 1)),  # noise
        ((0, 0, 47.0), 5.0, (1, 1, 1)),  # goes on into the scalp
    ],
)
def test_what_is_no_spot_is_not_counted(head, offset, radius, stretch):
    assert bright_spots(*with_spot(head, offset, radius, stretch)) == ()


def test_what_is_kept_besides_the_mask_is_not_looked_at_again(head):
    scan, mask, _ = with_spot(head, (0, 0, 42.75), 2.2)
    assert bright_spots(scan, mask, binary_dilation(mask, iterations=4)) == ()
    assert bright_spots(scan, mask, mask)


def test_nothing_is_looked_for_across_thick_slices(head):
    scan, mask, kept = with_spot(head, (0, 0, 42.75), 2.2)
    thick = Volume(scan.data, Grid(scan.data.shape, np.diag([1.5, 1.5, 5.0, 1.0])))
    assert bright_spots(thick, mask, kept) == ()


def test_what_is_too_large_for_a_spot_is_none(head, monkeypatch):
    one = with_spot(head, (0, 0, 42.75), 2.2)
    assert len(bright_spots(*one)) == 1
    monkeypatch.setattr(brain_quality, "SPOT_MM3", (4.0, 20.0))
    assert bright_spots(*one) == ()
