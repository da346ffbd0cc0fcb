"""The whole line keeps what is true of the patient, however the scan is stored."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import brainmets
from brainmets import pipeline
from brainmets.cohort import Scan
from brainmets.errors import GridMismatchError, ReadError
from brainmets.evaluation.evaluate import _rule_beside
from brainmets.io import nifti
from brainmets.lesions import find
from brainmets.network.detail_engine import DetailEngine
from brainmets.pipeline import analyse, brain_checks, measure_mask
from brainmets.preprocess.brain import Brain, Extractor
from brainmets.report.case import write_case
from brainmets.volume import AxisOrder, Grid, Volume, apply, reorient
from phantoms import Ball, axes_of, make_grid, rotation, world
from stand_ins import (
    bright_model,
    coarse_grid,
    coarse_model,
    scan_of,
    stripped_head,
    write_scan,
)
from strategies import AXIS_ORDERS, rotations

BALLS = (
    Ball((24.0, 20.0, 10.0), (9.0, 6.0, 7.0)),
    Ball((-22.0, -25.0, -8.0), 6.0),
    Ball((-18.0, 28.0, 14.0), 4.5),
)
MODEL = bright_model(spacing_mm=2.5)


@cache
def head():
    """Anisotropic voxels whose sizes are none of the recipe's."""
    return stripped_head(make_grid((50, 60, 36), (2.0, 2.2, 3.0)), BALLS)


@cache
def plain_report():
    return analyse(scan_of(head().scan), model=MODEL)


@dataclass
class Fixed:
    """An engine that lowers what another gives, by log odds."""

    by: float
    name: str = "fixed"
    calls: int = 0

    def __call__(self, tile):
        """See :class:`brainmets.network.engines.Engine`."""
        self.calls += 1
        given = MODEL.engine(tile).astype(np.float64).clip(1e-6, 1 - 1e-6)
        return (1 / (1 + np.exp(-(np.log(given / (1 - given)) + self.by)))).astype(np.float32)


def fainter(log_odds):
    """An engine whose surest probability has these log odds."""
    clear = min(0.9999, max(lesion.max_probability for lesion in plain_report().lesions))
    return Fixed(log_odds - float(np.log(clear / (1 - clear))))


def on_a_hair(engine, which=max):
    """A model that by this engine just finds what is surest, or all that it finds."""
    lax = replace(MODEL.bundle, rule=replace(MODEL.bundle.rule, low=0.2, high=0.2))
    found = analyse(scan_of(head().scan), model=replace(MODEL, bundle=lax, engine=engine)).lesions
    high = 0.999 * which(lesion.max_probability for lesion in found)
    return replace(MODEL, bundle=replace(lax, rule=replace(lax.rule, high=high)), engine=engine)


def test_where_fewer_bits_leave_doubt_the_exact_engine_decides():
    scan, exact = scan_of(head().scan), fainter(0.0)
    hair, rough = on_a_hair(exact), Fixed(exact.by - 0.1)
    alone = analyse(scan, model=replace(hair, engine=rough))
    both = analyse(scan, model=replace(hair, engine=rough, exact=exact))
    truth = analyse(scan, model=hair)
    assert len(alone.lesions) < len(truth.lesions) == len(both.lesions)
    places = [r.provenance["options"]["second_look_places"] for r in (alone, both)]
    assert places[0] is None
    assert places[1] >= 1


def test_what_is_vetoed_stays_so_where_fewer_bits_leave_doubt():
    def see(patches, _outlined):
        return np.array([-9.0] + [9.0] * (len(patches) - 1), np.float32), None

    scan, exact = scan_of(head().scan), fainter(2.0)
    hair = on_a_hair(exact, min)
    first = DetailEngine(1, 0.0, see, veto=0.0)  # of small findings the first is unlikely
    plain, vetoed = (analyse(scan, model=replace(hair, detail=d)) for d in (None, first))
    assert len(vetoed.lesions) == len(plain.lesions) - 1 >= 1
    twice = analyse(scan, model=replace(hair, exact=exact, detail=first))
    assert len(twice.lesions) == len(vetoed.lesions)
    assert twice.provenance["options"]["second_look_places"] >= 1


def test_a_veto_that_hangs_on_a_hair_is_decided_by_the_exact_engine():
    """What it does to a finding is seen by no threshold: it is gone, or is there for sure."""
    seen = []

    def see(patches, _outlined):
        seen.append(1)
        odds = -0.1 if len(seen) <= 2 else 0.1  # bright places, findings; then findings again
        return np.full(len(patches), odds, np.float32), None

    scan, exact = scan_of(head().scan), Fixed(0.0)
    detail = DetailEngine(1, 9.0, see, veto=0.0)
    plain = analyse(scan, model=replace(MODEL, engine=exact))
    both = analyse(scan, model=replace(MODEL, engine=exact, exact=Fixed(0.0), detail=detail))
    assert len(both.lesions) == len(plain.lesions)
    assert both.provenance["options"]["second_look_places"] >= 1


def test_without_doubt_the_exact_engine_is_not_asked():
    exact = Fixed(0.0)
    report = analyse(scan_of(head().scan), model=replace(MODEL, exact=exact))
    assert len(report.lesions) == len(plain_report().lesions)
    assert exact.calls == 0
    assert report.provenance["options"]["second_look_places"] == 0


def turned(volume, order):
    """The same image with its array stored in another axis order, as a file would hold it."""
    other = reorient(volume, order)
    return Volume(np.ascontiguousarray(other.data), other.grid)


def header_turned(volume, matrix, shift=(0.0, 0.0, 0.0)):
    """The same voxels under a header that says the patient lay otherwise."""
    affine = volume.grid.affine.copy()
    affine[:3] = matrix @ affine[:3]
    affine[:3, 3] += shift
    return Volume(volume.data, Grid(volume.grid.shape, affine))


def assert_same_lesions(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same_size(one, other)
        assert one.centroid_ras_mm == pytest.approx(other.centroid_ras_mm, abs=0.01)
        assert (one.side, one.touches_mask_edge) == (other.side, other.touches_mask_edge)


def assert_same_size(one, other):
    assert one.label == other.label
    assert one.volume_mm3 == pytest.approx(other.volume_mm3, rel=1e-9)
    assert one.longest_diameter_mm == pytest.approx(other.longest_diameter_mm, abs=0.01)
    assert one.perpendicular_diameter_mm == pytest.approx(other.perpendicular_diameter_mm, abs=0.01)
    assert one.mean_probability == pytest.approx(other.mean_probability, abs=1e-4)


# What is found


def test_every_simulated_lesion_is_found_where_it_is_and_nothing_else():
    report = plain_report()
    assert len(report.lesions) == len(BALLS)
    by_size = sorted(BALLS, key=lambda ball: -ball.volume_mm3)
    for lesion, ball in zip(report.lesions, by_size, strict=True):
        assert lesion.centroid_ras_mm == pytest.approx(ball.centre_ras_mm, abs=1.0)
        assert lesion.volume_mm3 == pytest.approx(ball.volume_mm3, rel=0.5)
        assert lesion.side == ("right" if ball.centre_ras_mm[0] > 0 else "left")


def test_a_temperature_changes_what_is_told_and_nothing_that_is_outlined():
    plain = plain_report()
    cooler = replace(MODEL, bundle=replace(MODEL.bundle, temperature=2.0))
    told = analyse(scan_of(head().scan), model=cooler)
    np.testing.assert_array_equal(told.mask.data, plain.mask.data)
    assert_told = zip(told.lesions, plain.lesions, strict=True)
    assert all(one.mean_probability < other.mean_probability for one, other in assert_told)
    assert told.probability.data.max() < plain.probability.data.max()
    assert told.provenance["options"]["temperature"] == 2.0
    rule = cooler.bundle.rule.told(2.0)
    assert rule.high < cooler.bundle.rule.high
    np.testing.assert_array_equal(find(told.probability, rule).data, plain.mask.data)


def test_scoring_takes_the_rule_for_the_probabilities_that_were_told(tmp_path):
    """Candidates of the free-response curve are those of the model, whatever its temperature."""
    cooler = replace(MODEL, bundle=replace(MODEL.bundle, temperature=3.0))
    found = []
    for name, model in (("plain", MODEL), ("cooler", cooler)):
        report = analyse(scan_of(head().scan), model=model)
        write_case(report, tmp_path / name, save_probability=True)
        rule = _rule_beside(tmp_path / name / "mask.nii.gz")
        found.append(find(report.probability, replace(rule, high=rule.low)).data)
    assert found[0].any()
    np.testing.assert_array_equal(found[0], found[1])


def test_a_head_without_lesions_gives_none():
    report = analyse(scan_of(stripped_head(coarse_grid()).scan), model=coarse_model())
    assert report.lesions == ()
    assert not report.mask.data.any()


def test_the_package_itself_offers_analyse():
    assert brainmets.analyse is analyse
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = brainmets.nothing_such


# However it is stored


@pytest.mark.parametrize("axes", AXIS_ORDERS, ids=range(48))
def test_flips_and_permutations_of_the_array_change_no_lesion(axes):
    order = AxisOrder(
        tuple(int(i) for i in np.abs(axes).argmax(axis=0)),
        tuple(bool(f) for f in axes.sum(axis=0) < 0),
    )
    report = analyse(scan_of(turned(head().scan, order)), model=MODEL)
    assert_same_lesions(report.lesions, plain_report().lesions)
    back = turned(plain_report().mask, order)
    assert np.array_equal(report.mask.data, back.data)


@settings(max_examples=10, deadline=None)
@given(rotations(30.0), st.tuples(*[st.floats(-100, 100)] * 3))
def test_a_turned_and_shifted_header_turns_and_shifts_the_lesions(matrix, shift):
    report = analyse(scan_of(header_turned(head().scan, matrix, shift)), model=MODEL)
    expected = plain_report().lesions
    assert len(report.lesions) == len(expected)
    for one, other in zip(report.lesions, expected, strict=True):
        assert_same_size(one, other)
        moved = matrix @ other.centroid_ras_mm + shift
        assert one.centroid_ras_mm == pytest.approx(moved, abs=0.01)


def test_twice_the_spacing_gives_eight_times_the_volume(tmp_path):
    """Everything that is stated in mm is doubled: recipe, margin and smallest volume (× 8).

    The brain is given, since one of twice the size is no brain to the extractor.
    """
    reports = []
    for factor in (1, 2):
        grid = head().scan.grid
        scaled = Grid(grid.shape, np.diag([factor, factor, factor, 1.0]) @ grid.affine)
        model = bright_model(
            spacing_mm=2.5 * factor, margin_mm=2.0 * factor, smallest_mm3=10.0 * factor**3
        )
        mask = tmp_path / f"brain{factor}.nii"
        nifti.write(Volume(head().brain.data, scaled), mask)
        scan = scan_of(Volume(head().scan.data, scaled))
        reports.append(analyse(scan, model=model, brain_mask=mask))
    small, large = reports
    assert len(small.lesions) == len(BALLS)
    assert np.array_equal(small.mask.data, large.mask.data)
    for one, other in zip(small.lesions, large.lesions, strict=True):
        assert other.volume_mm3 == pytest.approx(8 * one.volume_mm3, rel=1e-9)
        assert other.longest_diameter_mm == pytest.approx(2 * one.longest_diameter_mm, rel=1e-6)
        assert other.centroid_ras_mm == pytest.approx(np.multiply(2, one.centroid_ras_mm), abs=0.01)


@pytest.mark.parametrize(
    "grid",
    [
        make_grid((60, 30, 50), (2.0, 5.0, 2.4), axes=rotation(25, (1, 2, 3)) @ axes_of("LSA")),
        make_grid((52, 62, 17), (2.0, 2.0, 6.5)),
        make_grid((41, 47, 39), 3.1, axes=axes_of("PIR"), centre_ras_mm=(0.3, -0.7, 1.1)),
    ],
    ids=["oblique", "thick slices", "turned"],
)
def test_the_mask_lies_on_the_very_voxels_of_the_scan(grid, tmp_path):
    source = stripped_head(grid, BALLS)
    nifti.write(source.scan, tmp_path / "scan.nii.gz")
    report = analyse(tmp_path / "scan.nii.gz", model=MODEL)
    write_case(report, tmp_path, save_probability=True)
    scan = nifti.read(tmp_path / "scan.nii.gz").volume
    for name in ("mask.nii.gz", "probability.nii.gz"):
        written = nifti.read(tmp_path / name).volume
        assert written.grid.shape == scan.grid.shape
        assert np.array_equal(written.grid.affine, scan.grid.affine)
    centres = world(grid)[report.mask.data > 0]
    distance = np.min(
        [np.linalg.norm(centres - ball.centre_ras_mm, axis=1) for ball in BALLS], axis=0
    )
    assert distance.max() < 16  # a mask mirrored or shifted on the way would lie elsewhere


# Again


def test_the_same_model_used_twice_gives_the_same_answer():
    model = bright_model()
    first = analyse(scan_of(head().scan), model=model)
    analyse(scan_of(stripped_head(coarse_grid(), BALLS[:1]).scan), model=model)
    again = analyse(scan_of(head().scan), model=model)
    assert again.lesions == first.lesions
    assert np.array_equal(again.probability.data, first.probability.data)


def test_the_scan_is_left_as_it_was():
    scan = stripped_head(coarse_grid(), BALLS[:1]).scan
    before = scan.data.copy()
    scan.data.flags.writeable = False
    analyse(scan_of(scan), model=coarse_model())
    assert np.array_equal(scan.data, before)


def test_tiles_of_another_size_change_nothing_for_a_model_of_single_voxels():
    report = analyse(scan_of(head().scan), model=bright_model(tile_vox=64))
    assert_same_lesions(report.lesions, plain_report().lesions)


def test_measuring_the_mask_that_was_made_gives_the_same_lesions():
    report = plain_report()
    again = measure_mask(report.scan, report.mask)
    assert np.array_equal(again.mask.data, report.mask.data)
    for one, other in zip(again.lesions, report.lesions, strict=True):
        assert replace(
            one, mean_probability=None, max_probability=None, touches_mask_edge=None, side=""
        ) == replace(
            other, mean_probability=None, max_probability=None, touches_mask_edge=None, side=""
        )


def test_measuring_ignores_how_lesions_are_numbered():
    report = plain_report()
    numbers = np.array([0, 7, 7, 2], np.int32)
    relabelled = report.mask.with_data(numbers[report.mask.data])
    assert measure_mask(report.scan, relabelled).lesions == (
        measure_mask(report.scan, report.mask).lesions
    )


# What does not belong together


def test_a_brain_mask_on_another_grid_is_refused(tmp_path):
    scan = stripped_head(coarse_grid(), BALLS)
    moved = header_turned(scan.brain, np.eye(3), (3.0, 0.0, 0.0))
    nifti.write(moved, tmp_path / "brain.nii")
    with pytest.raises(GridMismatchError, match="brain mask and scan"):
        analyse(scan_of(scan.scan), model=coarse_model(), brain_mask=tmp_path / "brain.nii")


def test_a_lesion_mask_on_another_grid_is_refused():
    scan = stripped_head(coarse_grid(), BALLS)
    with pytest.raises(GridMismatchError, match="mask and scan"):
        measure_mask(scan_of(scan.scan), head().lesions)


def test_frames_of_reference_that_differ_are_refused():
    scan = stripped_head(coarse_grid(), BALLS)
    one, other = (
        Grid(scan.scan.grid.shape, scan.scan.grid.affine, frame) for frame in ("1.2", "1.3")
    )
    with pytest.raises(GridMismatchError, match="frames of reference differ"):
        measure_mask(Scan(Volume(scan.scan.data, one)), Volume(scan.lesions.data, other))


def test_a_frame_of_reference_stays_with_the_mask():
    scan = stripped_head(coarse_grid(), BALLS).scan
    grid = Grid(scan.grid.shape, scan.grid.affine, "1.2.3")
    report = analyse(scan_of(Volume(scan.data, grid)), model=coarse_model())
    assert report.mask.grid.frame_of_reference == "1.2.3"


# What the report says


def test_a_file_is_read_and_names_the_case(tmp_path):
    path = write_scan(tmp_path / "patient.nii.gz")
    assert analyse(path, model=coarse_model()).case_id == "patient"
    assert analyse(str(path), model=coarse_model(), case_id="a").case_id == "a"
    with pytest.raises(ReadError, match=r"absent\.nii"):
        analyse(tmp_path / "absent.nii", model=coarse_model())


def test_a_given_brain_mask_is_used_and_named(tmp_path):
    scan = stripped_head(coarse_grid(), BALLS)
    nifti.write(scan.brain, tmp_path / "brain.nii")
    left = world(scan.brain.grid)[..., 0] < 0
    nifti.write(scan.brain.with_data(scan.brain.data & left), tmp_path / "half.nii")
    whole, half = (
        analyse(scan_of(scan.scan), model=coarse_model(), brain_mask=tmp_path / name)
        for name in ("brain.nii", "half.nii")
    )
    assert whole.provenance["extractor"]["name"] == "given mask"
    assert any(lesion.centroid_ras_mm[0] > 0 for lesion in whole.lesions)
    assert all(lesion.centroid_ras_mm[0] < 0 for lesion in half.lesions)
    assert any("litres" in check.detail for check in half.checks if check.passed is False)


def test_a_finding_mostly_outside_the_brain_is_kept_and_told(tmp_path):
    """The first ball, 9 mm to either side of x = 24: most of it in the margin, or not."""
    across, inside = world(head().brain.grid)[..., 0], head().brain.data
    grey = np.median(head().scan.data[inside])
    scan = scan_of(head().scan.with_data(np.where(inside, head().scan.data, grey)))
    wide = bright_model(spacing_mm=2.5, margin_mm=10.0)
    reports = []
    for edge in (18.0, 27.0):
        path = tmp_path / f"{edge:.0f}.nii"
        nifti.write(head().brain.with_data(inside & (across < edge)), path)
        reports.append(analyse(scan, model=wide, brain_mask=path))
    assert [len(report.lesions) for report in reports] == [len(BALLS)] * 2
    told = [[c for c in r.checks if c.name == "outside the brain"] for r in reports]
    assert [len(lines) for lines in told] == [1, 0]
    first = next(x.label for x in reports[0].lesions if x.centroid_ras_mm[0] > 0)
    assert told[0][0].passed is False
    assert told[0][0].detail.startswith(f"finding {first}: mostly outside the brain mask")


def test_the_chosen_extractor_is_used_and_named(tmp_path):
    """A given mask overrides it; without either, a head whose skull is off is recognised."""
    head = stripped_head(coarse_grid(), BALLS)
    nifti.write(head.brain, tmp_path / "brain.nii")
    choice = Extractor("none")
    none = analyse(scan_of(head.scan), model=coarse_model(), extractor=choice)
    given_mask = analyse(
        scan_of(head.scan),
        model=coarse_model(),
        extractor=choice,
        brain_mask=tmp_path / "brain.nii",
    )
    builtin = analyse(scan_of(head.scan), model=coarse_model(), extractor=Extractor("builtin"))
    names = [r.provenance["extractor"]["name"] for r in (none, given_mask, builtin)]
    assert names == ["already stripped", "given mask", "builtin"]
    assert len(builtin.provenance["extractor"]["sha256"]) == 64
    assert builtin.provenance["extractor"]["version"]
    assert any("by: builtin" in check.detail for check in builtin.checks)


def test_doubts_about_the_brain_mask_stand_in_the_report():
    notes = ("2 bright spots within 5 mm outside the brain mask; look there",)
    mask = stripped_head(coarse_grid()).brain
    brain = Brain(mask, mask, "builtin", "3", "0" * 64, notes)
    failed = [check.detail for check in brain_checks(brain) if check.passed is False]
    assert failed == list(notes)


def test_the_line_looks_at_what_is_kept_and_reports_it(monkeypatch):
    """A metastasis between the mask and the end of what is kept is found, and is not outside."""
    head = stripped_head(coarse_grid(), BALLS)
    inside = head.lesions.data == 0
    mask = head.brain.with_data(np.asarray(head.brain.data, bool) & inside)
    kept = head.brain.with_data(np.asarray(head.brain.data, bool))
    monkeypatch.setattr(
        pipeline, "find_brain", lambda *_: Brain(mask, kept, "builtin", "0", "0" * 64, ())
    )
    report = analyse(scan_of(head.scan), model=coarse_model(margin_mm=0.0))
    assert len(report.lesions) == len(BALLS)
    np.testing.assert_array_equal(report.brain.data, kept.data)
    assert not any(check.name == "outside the brain" for check in report.checks)


def test_the_margin_is_left_out_where_there_is_nothing_around_the_brain(tmp_path):
    scan = stripped_head(coarse_grid(), BALLS)
    nifti.write(scan.brain, tmp_path / "brain.nii")
    without = coarse_model(margin_mm=0.0)
    given_brain = analyse(scan_of(scan.scan), model=without, brain_mask=tmp_path / "brain.nii")
    found = analyse(scan_of(scan.scan), model=coarse_model(margin_mm=10.0))
    assert np.array_equal(found.probability.data, given_brain.probability.data)


def test_the_report_says_what_it_was_made_with():
    provenance = plain_report().provenance
    assert provenance["model"]["sha256"] == MODEL.bundle.sha256
    assert provenance["engine"] == "bright"
    assert provenance["recipe"]["spacing_mm"] == 2.5
    assert provenance["extractor"]["name"] == "already stripped"
    assert measure_mask(plain_report().scan, plain_report().mask).provenance["model"] is None


def test_progress_names_the_stages_in_order():
    told = []
    analyse(
        scan_of(stripped_head(coarse_grid()).scan),
        model=coarse_model(),
        progress=lambda *step: told.append(step),
    )
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["read", "brain", "prepare", "predict", "restore", "lesions"]
    assert [done for stage, done, _ in told if stage == "predict"] == list(
        range([total for stage, _, total in told if stage == "predict"][-1] + 1)
    )


def test_positions_of_the_mask_are_those_of_the_lesions():
    report = plain_report()
    for lesion in report.lesions:
        points = apply(report.mask.grid.affine, np.argwhere(report.mask.data == lesion.label))
        assert lesion.centroid_ras_mm == pytest.approx(points.mean(axis=0), abs=1e-6)
        assert lesion.volume_mm3 == pytest.approx(
            len(points) * report.mask.grid.voxel_volume_mm3, rel=1e-9
        )
