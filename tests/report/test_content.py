"""A report cannot contradict itself, and a scan's faults are named."""

from dataclasses import replace

import numpy as np
import pytest

from brainmets.cohort import Scan
from brainmets.errors import GridMismatchError, VolumeError
from brainmets.preprocess.enhancement import SEEN
from brainmets.report import content
from brainmets.report.content import check_contrast, check_scan, measurable
from brainmets.volume import Volume
from phantoms import axes_of, make_grid, make_head, rotation


def outcome(scan: Scan) -> dict[str, bool | None]:
    return {check.name: check.passed for check in check_scan(scan)}


def test_images_on_another_grid_are_refused(head, make_report):
    elsewhere = make_grid(head.scan.grid.shape, 2.5, centre_ras_mm=(5, 0, 0))
    with pytest.raises(GridMismatchError, match="brain mask and scan"):
        make_report(head, brain=Volume(head.brain.data, elsewhere))


def test_lesions_that_are_not_the_masks_are_refused(head, make_report):
    whole = make_report(head)
    for lesions in ((), whole.lesions[:1], whole.lesions[::-1]):
        with pytest.raises(VolumeError, match="numbered"):
            replace(whole, lesions=lesions)


@pytest.mark.parametrize(
    ("longest", "perpendicular", "expected"),
    [(10, 5, True), (9.99, 9, False), (30, 4.99, False), (np.nan, 5, None), (12, np.nan, None)],
)
def test_measurable_is_rano_bms_definition(head, make_report, longest, perpendicular, expected):
    lesion = replace(
        make_report(head).lesions[0],
        longest_diameter_mm=longest,
        perpendicular_diameter_mm=perpendicular,
    )
    assert measurable(lesion) is expected


def test_a_good_scan_passes_every_check():
    scan = make_head(make_grid((90, 96, 80), 2.0)).scan
    assert set(outcome(Scan(scan, sequence="T1c")).values()) == {True}


def test_thick_slices_are_named_and_their_consequence_too():
    scan = make_head(make_grid((24, 220, 220), (6.5, 0.8, 0.8), axes=axes_of("SAR"))).scan
    checks = {check.name: check for check in check_scan(Scan(scan))}
    assert checks["slice thickness"].passed is False
    assert "small lesions may be missed" in checks["slice thickness"].detail
    assert checks["anisotropy"].passed is False


@pytest.mark.parametrize(("spacing", "passed"), [(3.0, True), (3.001, False)])
def test_slices_are_thick_above_three_millimetres(spacing, passed):
    assert outcome(Scan(make_head(make_grid(spacing_mm=spacing)).scan))["slice thickness"] is passed


def test_a_small_field_of_view_is_named_whatever_the_axis_order():
    for code in ("RAS", "SLP", "AIR"):
        shape = [{"R": 70, "L": 70, "A": 80, "P": 80, "S": 45, "I": 45}[c] for c in code]
        grid = make_grid(shape, 2.0, axes=axes_of(code))
        assert outcome(Scan(make_head(grid).scan))["field of view"] is False


def test_a_head_that_is_cut_is_named_with_the_side():
    grid = make_grid((70, 80, 70), 2.0, centre_ras_mm=(-40, 0, 0), axes=axes_of("LPS"))
    checks = {check.name: check for check in check_scan(Scan(make_head(grid).scan))}
    assert checks["signal at the border"].passed is False
    assert "right" in checks["signal at the border"].detail
    assert "left" not in checks["signal at the border"].detail


def test_a_flat_image_is_no_image():
    grid = make_grid()
    assert outcome(Scan(Volume(np.zeros(grid.shape, np.float32), grid)))["signal"] is False


def test_tilt_is_remarked_and_shear_is_a_fault():
    tilted = make_grid(axes=rotation(30, (1, 0, 0)))
    assert outcome(Scan(make_head(tilted).scan))["orientation"] is None
    sheared = make_grid(axes=np.eye(3) + 0.2 * np.eye(3, k=1))
    assert outcome(Scan(make_head(sheared).scan))["orientation"] is False


def test_another_sequence_is_a_fault_and_an_unknown_one_a_remark(head):
    assert outcome(Scan(head.scan, sequence="FLAIR"))["sequence"] is False
    assert outcome(Scan(head.scan))["sequence"] is None


def test_the_readers_notes_are_kept(head):
    last = check_scan(Scan(head.scan, notes=("geometry taken from the qform",)))[-1]
    assert (last.passed, last.detail) == (None, "geometry taken from the qform")


@pytest.mark.parametrize(
    ("header", "seen", "passed", "words"),
    [
        (None, SEEN, True, "seems given"),
        (None, SEEN - 0.01, False, "seems absent"),
        (None, np.nan, None, "cannot be told"),
        (True, SEEN, True, "seems given"),
        (True, 0.1, None, "given, by the header, but nothing enhances"),
        (True, np.nan, True, "given, by the header"),
        (False, 3.0, False, "seems absent: the header says so"),
    ],
)
def test_contrast_is_told_by_the_header_else_by_the_image(
    head, monkeypatch, header, seen, passed, words
):
    monkeypatch.setattr(content, "enhancement", lambda _scan, _brain: seen)
    check = check_contrast(Scan(head.scan, contrast=header), head.brain)
    assert (check.name, check.passed) == ("contrast", passed)
    assert words in check.detail
