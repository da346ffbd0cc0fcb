"""Pictures show the patient the right way round, to scale, with outlines that are the mask's."""

import io
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from brainmets.report import pictures
from brainmets.report.pictures import CORONAL, PLANES, Region
from brainmets.volume import Volume
from phantoms import Ball, Head, make_grid, make_head, rotation, world
from strategies import AXIS_ORDERS

SIDES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture.jpeg))).astype(float)


def cube_head(axes, shape_ras=(44, 50, 40), spacing_ras=(4.0, 3.5, 5.0)):
    """Dark tissue with a bright cube at the patient's right, front and top; also the mask."""
    along = np.argmax(np.abs(axes), axis=0)
    shape = [shape_ras[i] for i in along]
    grid = make_grid(shape, [spacing_ras[i] for i in along], axes=axes)
    at = np.round(world(grid), 6)
    cube = (np.abs(at - (50.1, 45.1, 55.1)) <= 14.0).all(axis=-1)
    head = (np.abs(at) <= 79.9).all(axis=-1)
    brain = Volume(head, grid)
    scan = Volume((100 * head + 200 * cube).astype(np.float32), grid)
    return Head(scan, brain, Volume(cube.astype(np.int32), grid))


def drawn_on(report):
    shown = pictures.display_of(report)
    rows = [pictures.crops(shown, lesion) for lesion in report.lesions]
    return (*pictures.overview(shown), *(p for row in rows for p in row))


def cells_inside(path, shape, dx, dy):
    """Which (column, row) cells of size dx × dy a path of edges encloses, by parity."""
    toggles = np.zeros((shape[0] + 1, shape[1]), int)
    for x, y, y2 in re.findall(r"M([-\d.e]+) ([-\d.e]+)V([-\d.e]+)", path):
        column, ends = round(float(x) / dx), sorted(round(float(v) / dy) for v in (y, y2))
        toggles[column, ends[0] : ends[1]] += 1
    assert toggles.max(initial=0) <= 1
    return np.cumsum(toggles, axis=0)[:-1] % 2 == 1


def test_all_48_axis_orders_give_the_same_pictures(make_report):
    reports = [make_report(cube_head(axes)) for axes in AXIS_ORDERS]
    reference = drawn_on(reports[0])
    assert len(reference) == 6
    for report in reports[1:]:
        for found, expected in zip(drawn_on(report), reference, strict=True):
            assert found.jpeg == expected.jpeg
            assert found.outlines == expected.outlines
            np.testing.assert_allclose(
                [(d.x1, d.y1, d.x2, d.y2) for d in found.diameters],
                [(d.x1, d.y1, d.x2, d.y2) for d in expected.diameters],
                atol=2e-3,
            )
            assert found.caption.split(", slice")[0] == expected.caption.split(", slice")[0]


def test_the_side_a_marker_names_is_the_side_it_stands_on(make_report):
    """The cube lies at the patient's right, front and top."""
    for picture in drawn_on(make_report(cube_head(AXIS_ORDERS[17])))[:3]:
        assert "".join(picture.plane.markers) == SIDES[picture.plane.name]
        bright = np.argwhere(pixels(picture) > 200).mean(axis=0) / pixels(picture).shape
        left_is = picture.plane.markers[0]
        assert left_is in "RA"  # where the cube is
        assert bright[1] < 0.4
        assert picture.plane.markers[2] in "AS"
        assert bright[0] < 0.4


def test_an_oblique_scan_keeps_its_sides(make_report):
    tilt = rotation(25, (1, 0.3, 0.2))
    report = make_report(make_head(make_grid(axes=tilt), [Ball((30, 30, 22), 9, 200)]))
    for picture in pictures.overview(pictures.display_of(report)):
        bright = np.argwhere(pixels(picture) > 230).mean(axis=0) / pixels(picture).shape
        assert bright[0] < 0.5
        assert bright[1] < 0.5


@pytest.mark.parametrize("plane", PLANES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_outlines_enclose_exactly_the_mask(plane, data, healthy_display):
    shape = tuple(healthy_display.scan.grid.shape[a] for a in (plane.across, plane.down))
    small = data.draw(arrays.arrays(bool, (7, 6)))
    mask = np.zeros(shape, bool)
    column, row = data.draw(st.tuples(st.integers(0, shape[0] - 7), st.integers(0, shape[1] - 6)))
    mask[column : column + 7, row : row + 6] = small
    path = pictures.edge_path(mask, plane, healthy_display, Region(0, 0, 1, 1))
    dx, dy = (healthy_display.spacing_mm[a] for a in (plane.across, plane.down))
    inside = cells_inside(path, shape, dx, dy)
    np.testing.assert_array_equal(inside[::-1, ::-1], mask)  # right and front come first


@pytest.fixture(scope="module")
def healthy_display():
    from brainmets.cohort import Scan
    from brainmets.report.content import Report

    head = make_head(make_grid((20, 22, 18), (2.0, 1.5, 3.0)))
    empty = Volume(np.zeros(head.scan.grid.shape, np.int32), head.scan.grid)
    return pictures.display_of(Report("x", Scan(head.scan), empty, (), (), None, None, {}))


def test_outline_and_image_lie_on_each_other(make_report):
    """Where the picture is bright, the outline encloses; 1 mm voxels, hard-edged lesion."""
    grid = make_grid((90, 100, 80), 1.0)
    head = make_head(grid, [Ball((10.0, 20.0, 5.0), 8.0, 150)], noise=0)
    report = make_report(head, brain=None)
    for picture in drawn_on(report)[3:]:
        scale = picture.width_mm / pixels(picture).shape[1]
        (outline,) = picture.outlines
        mask = cells_inside(shifted(outline.path), (60, 60), 1.0, 1.0)
        x0, y0 = corner(outline.path)
        at = (np.indices(pixels(picture).shape) + 0.5) * scale
        column, row = (np.floor(v).astype(int) for v in (at[1] - x0, at[0] - y0))
        known = (column >= 0) & (row >= 0) & (column < 60) & (row < 60)
        inside = np.zeros(known.shape, bool)
        inside[known] = mask[column[known], row[known]]
        bright = pixels(picture) > 200
        disagree = (inside != bright).sum() / inside.sum()
        assert inside.sum() > 1000
        assert disagree < 0.06  # half a voxel of interpolation along the border


def corner(path):
    numbers = re.findall(r"M([-\d.e]+) ([-\d.e]+)", path)
    return min(float(x) for x, _ in numbers), min(float(y) for _, y in numbers)


def shifted(path):
    x0, y0 = corner(path)

    def move(match):
        x, y, letter, end = float(match[1]) - x0, float(match[2]) - y0, match[3], float(match[4])
        return f"M{x:.2f} {y:.2f}{letter}{end - (x0 if letter == 'H' else y0):.2f}"

    return re.sub(r"M([-\d.e]+) ([-\d.e]+)([HV])([-\d.e]+)", move, path)


def test_a_millimetre_is_a_millimetre_across_and_down(make_report):
    """Two bright points 60 mm apart in x, and two 50 mm apart in z, on 1 × 1.5 × 5 mm voxels."""
    grid = make_grid((150, 110, 31), (1.0, 1.5, 5.0))
    data = np.zeros(grid.shape, np.float32)
    inside = (np.abs(world(grid)) <= 60).all(axis=-1)
    data[inside] = 20
    middle = tuple(n // 2 for n in grid.shape)
    for di, dk in ((-30, 0), (30, 0), (0, -5), (0, 5)):
        data[middle[0] + di, middle[1], middle[2] + dk] = 1000
    empty = Volume(np.zeros(grid.shape, np.int32), grid)
    head = Head(Volume(data, grid), Volume(inside, grid), empty)
    picture = pictures.overview(pictures.display_of(make_report(head)))[1]
    assert picture.plane is CORONAL
    image = pixels(picture)
    across, down = np.flatnonzero(image.max(axis=0) > 150), np.flatnonzero(image.max(axis=1) > 150)
    mm_across, mm_down = picture.width_mm / image.shape[1], picture.height_mm / image.shape[0]
    assert mm_across == pytest.approx(mm_down, rel=0.01)  # square pixels
    assert (across[-1] - across[0]) * mm_across == pytest.approx(60, abs=1.5)
    assert (down[-1] - down[0]) * mm_down == pytest.approx(50, abs=5)


def test_a_ball_is_round_in_thick_slices(make_report):
    grid = make_grid((200, 200, 28), (0.8, 0.8, 5.5))
    report = make_report(make_head(grid, [Ball((20, 10, 0), 18.0, 150)], noise=0))
    for picture in pictures.crops(pictures.display_of(report), report.lesions[0]):
        rows, columns = np.nonzero(pixels(picture) > 200)
        assert np.ptp(rows) / np.ptp(columns) == pytest.approx(1, abs=0.2)


def test_diameters_are_drawn_on_their_slice_at_their_length(head, make_report):
    report = make_report(head)
    axial, coronal, sagittal = pictures.crops(pictures.display_of(report), report.lesions[0])
    lengths = [np.hypot(d.x2 - d.x1, d.y2 - d.y1) for d in axial.diameters]
    lesion = report.lesions[0]
    expected = [lesion.longest_diameter_mm, lesion.perpendicular_diameter_mm]
    np.testing.assert_allclose(lengths, expected, atol=1e-6)
    assert coronal.diameters == sagittal.diameters == ()


def test_undefined_diameters_are_not_drawn(head, make_report):
    nowhere = ((np.nan,) * 3,) * 2
    report = make_report(head)
    lesion = replace(
        report.lesions[0],
        longest_diameter_ends_ras_mm=nowhere,
        perpendicular_diameter_ends_ras_mm=nowhere,
    )
    axial, *_ = pictures.crops(pictures.display_of(report), lesion)
    assert axial.diameters == ()
    assert any(outline.chosen for outline in axial.outlines)


def test_every_crop_shows_its_lesion_and_neighbours_stand_back(make_report):
    report = make_report(make_head(balls=[Ball((0, 0, 0), 8.0), Ball((18, 0, 0), 6.0)]))
    for picture in pictures.crops(pictures.display_of(report), report.lesions[0])[:2]:
        assert [(o.label, o.chosen) for o in picture.outlines] == [(2, False), (1, True)]


def test_beyond_the_scan_is_black(make_report):
    grid = make_grid((40, 44, 36), 3.0)
    lesions = np.zeros(grid.shape, np.int32)
    lesions[-1, -1, -1] = 1  # the voxel furthest to the right, front and top
    everywhere = Volume(np.full(grid.shape, 100, np.float32), grid)
    everywhere.data[::2] = 50
    head = Head(everywhere, Volume(np.ones(grid.shape, bool), grid), Volume(lesions, grid))
    report = make_report(head)
    for picture in pictures.crops(pictures.display_of(report), report.lesions[0]):
        upper_left = pixels(picture)[:100, :100]
        assert upper_left.max() < 12
        assert pixels(picture)[150:, 150:].mean() > 40


def test_the_window_is_the_brains(head):
    brain = head.brain.data
    outside = np.where(brain, head.scan.data, 1e6)
    assert pictures.window(outside, brain) == pictures.window(head.scan.data, brain)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_flat_images_are_drawn_black(value, healthy, make_report):
    flat = healthy.scan.with_data(np.full(healthy.scan.grid.shape, value, np.float32))
    for brain in (healthy.brain, None, healthy.brain.with_data(np.zeros_like(healthy.brain.data))):
        report = make_report(Head(flat, healthy.brain, healthy.lesions), brain=brain)
        assert all(pixels(p).max() <= 1 for p in drawn_on(report))


def test_numbers_stand_inside_the_picture_and_apart(make_report):
    balls = [Ball((8.0 * i - 28, 8.0 * j - 28, 3.0 * i), 2.6) for i in range(8) for j in range(4)]
    report = make_report(make_head(balls=balls))
    for picture in pictures.overview(pictures.display_of(report)):
        assert [tag.label for tag in picture.tags] == list(range(1, len(balls) + 1))
        for tag in picture.tags:
            assert 0 < tag.x < picture.width_mm
            assert 0 < tag.y < picture.height_mm
        near = min(np.hypot(a.x - b.x, a.y - b.y) for a, b in combinations(picture.tags, 2))
        assert near > 0.7 * picture.text_mm


def test_directions_have_no_negative_zero():
    assert pictures.direction(0, -1e-9) == "R 0.0"
    assert pictures.direction(1, -12.34) == "P 12.3"


def test_slices_are_counted_as_stored(make_report):
    for axes, index in ((np.eye(3), 17), (np.diag([1.0, 1, -1]), 14)):
        head = cube_head(axes, shape_ras=(44, 50, 30))
        mask = np.zeros(head.scan.grid.shape, np.int32)
        mask[20:24, 20:24, index] = 1
        report = make_report(Head(head.scan, head.brain, head.lesions.with_data(mask)))
        axial, *_ = pictures.crops(pictures.display_of(report), report.lesions[0])
        assert axial.caption.endswith(f"slice {index + 1} of 30")
