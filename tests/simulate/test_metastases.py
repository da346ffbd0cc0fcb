"""Metastases are planned where and as large as stated, and painted so that the truth is true."""

from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from brainmets.simulate import metastases
from brainmets.simulate.anatomy import FIRST_EXTRACEREBRAL, Anatomy, read_anatomy
from brainmets.simulate.contrast import GREY, WHITE, Style, render
from brainmets.simulate.metastases import (
    HOLLOW,
    KINDS,
    PATCHY,
    SINUSES,
    Plan,
    box_of,
    carve_cavity,
    draw,
    paint,
    plan_metastases,
    push_aside,
    shape_of,
)
from label_heads import write_label_map


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return read_anatomy(write_label_map(tmp_path_factory.mktemp("head") / "small.nii.gz"))


def flat_image(head):
    """Tissue without any texture: 1 in the brain, 0.2 around it."""
    brain = (head.labels > 0) & (head.labels < FIRST_EXTRACEREBRAL)
    return np.where(brain, 1.0, 0.2).astype(np.float32)


def white_place(head):
    """A voxel deep in white matter, free of structures."""
    free = np.isin(head.labels, WHITE) & (head.structures == 0)
    deep = ndimage.distance_transform_edt(free)
    return tuple(int(i) for i in np.unravel_index(deep.argmax(), deep.shape))


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    return [draw((0, 0, 0), rng, large=False) for _ in range(4000)]


def test_volumes_are_log_normal_within_limits(drawn):
    """log₁₀ mm³: mean 1.95, standard deviation 0.95, cut to 0.5 … 4.75."""
    logs = np.log10([np.pi / 6 * plan.diameter_mm**3 for plan in drawn])
    assert logs.min() == pytest.approx(0.5)
    assert logs.max() <= 4.75 + 1e-9
    for share, z in ((0.16, -1), (0.5, 0), (0.84, 1)):
        assert np.quantile(logs, share) == pytest.approx(1.95 + z * 0.95, abs=0.1)


def test_many_are_below_5_mm_and_few_above_2_cm(drawn):
    diameters = np.array([plan.diameter_mm for plan in drawn])
    assert 0.35 < (diameters < 5).mean() < 0.55
    assert 0.01 < (diameters > 20).mean() < 0.08


def test_kinds_come_as_often_as_stated_where_they_can(drawn):
    """Below 7 mm there is no room for a core; above 18 mm nearly all have one."""
    assert sum(KINDS.values()) == pytest.approx(1)
    middling = [plan.kind for plan in drawn if 7 <= plan.diameter_mm <= 18]
    counts = Counter(middling)
    for kind, share in KINDS.items():
        expected = len(middling) * share
        assert abs(counts[kind] - expected) < 4 * np.sqrt(expected)
    small = {plan.kind for plan in drawn if plan.diameter_mm < 7}
    assert small == {"solid", "weak", "haemorrhagic"}
    large = {plan.kind for plan in drawn if plan.diameter_mm > 18}
    assert large <= {*HOLLOW, "haemorrhagic"}


def test_a_large_one_is_large_and_comes_first(head):
    rng = np.random.default_rng(5)
    volumes = [np.pi / 6 * draw((0, 0, 0), rng, large=True).diameter_mm ** 3 for _ in range(200)]
    assert min(volumes) >= 10**3.6 - 1
    assert max(volumes) <= 10**4.8 + 1
    first, *others = plan_metastases(head, 3, np.random.default_rng(6), large=True)
    assert all(first.diameter_mm >= other.diameter_mm for other in others)


def test_no_metastasis_is_patchy_unless_large_ones_may_be(head, drawn):
    assert PATCHY not in {plan.kind for plan in drawn}
    rng = np.random.default_rng(7)
    kinds = [
        [plan.kind for plan in plan_metastases(head, 2, rng, large=True, patchy=share)]
        for share in (0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0)
    ]
    assert PATCHY not in kinds[0]
    assert 0 < sum(first == PATCHY for first, *_ in kinds[1:7]) < 6
    assert kinds[7][0] == PATCHY
    assert PATCHY not in {kind for _, *others in kinds for kind in others}


def test_a_patchy_one_is_in_part_bright_and_in_part_hardly_told_from_tissue(head):
    """The truth is all of it, so that an outline cannot follow brightness alone."""
    shares = []
    for seed in range(8):
        image = flat_image(head)
        plan = Plan(white_place(head), 14.0, PATCHY, 2.0)
        core = paint(image, head, (plan,), np.random.default_rng(seed), mass_effect=False) > 0.9
        shares.append([(image[core] > 1.3).mean(), (image[core] < 1.15).mean()])
    bright, faint = np.transpose(shares)
    assert bright.mean() > 0.15
    assert faint.mean() > 0.15
    assert np.ptp(bright) > 0.2


def test_weak_ones_enhance_less_than_all_others(drawn):
    small = [plan for plan in drawn if plan.diameter_mm < 7]  # a large weak one becomes hollow
    weak = [plan.level for plan in small if plan.kind == "weak"]
    others = [plan.level for plan in small if plan.kind == "haemorrhagic"]
    assert 1.1 < min(weak) < max(weak) <= 1.35
    assert 1.3 <= min(others) < max(others) <= 2.5


def test_centres_lie_in_tissue_outside_sinuses_and_apart(head):
    plans = plan_metastases(head, 12, np.random.default_rng(1))
    assert 6 <= len(plans) <= 12
    for number, plan in enumerate(plans):
        assert head.structures[plan.centre_vox] == 0
        assert head.labels[plan.centre_vox] in (*GREY, *WHITE, 10, 11, 12, 16, 49, 50, 51)
        for other in plans[:number]:
            apart = np.linalg.norm(np.subtract(plan.centre_vox, other.centre_vox))
            assert apart > (plan.diameter_mm + other.diameter_mm) / 2 + 3


def test_the_border_of_grey_and_white_is_preferred(head):
    grey, white = np.isin(head.labels, GREY), np.isin(head.labels, WHITE)
    border = grey & ndimage.binary_dilation(white) | white & ndimage.binary_dilation(grey)
    free = (grey | white) & (head.structures == 0)
    plans = [plan_metastases(head, 1, np.random.default_rng(s))[0] for s in range(24)]
    share = np.mean([border[plan.centre_vox] for plan in plans])
    assert share > 1.5 * border[free].mean()


def test_none_are_planned_when_none_are_asked_for(head):
    assert plan_metastases(head, 0, np.random.default_rng(0)) == ()


def test_plans_are_a_function_of_the_seed(head):
    one, same, other = (plan_metastases(head, 4, np.random.default_rng(s)) for s in (3, 3, 4))
    assert one == same
    assert one != other


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("diameter_mm", [3.0, 6.0, 9.0])
def test_a_solid_one_is_as_large_as_planned_and_bright(head, seed, diameter_mm):
    """Deep in white matter: volume within a third, signal near its level, sharp edge."""
    plan = Plan(white_place(head), diameter_mm, "solid", 2.0)
    image = flat_image(head)
    before = image.copy()
    occupancy = paint(image, head, (plan,), np.random.default_rng(seed))
    truth = occupancy >= 0.5
    assert truth.sum() == pytest.approx(np.pi / 6 * diameter_mm**3, rel=0.35)
    assert image[occupancy == 1].mean() == pytest.approx(2.0, rel=0.25)
    shell = ndimage.binary_dilation(occupancy > 0, iterations=2) & (occupancy == 0)
    assert image[truth].mean() > 1.3 * image[shell].mean()
    outside = occupancy == 0  # oedema may darken white matter, nothing else changes
    assert (image[outside] <= before[outside] + 1e-5).all()
    changed = outside & (np.abs(image - before) > 1e-3)
    assert not changed.any() or np.isin(head.labels[changed], WHITE).mean() > 0.6


@pytest.mark.parametrize("kind", ["ring", "cystic", "garland"])
def test_the_core_of_a_ring_is_dark_and_part_of_the_truth(head, kind):
    plan = Plan(white_place(head), 14.0, kind, 2.0)
    image = flat_image(head)
    occupancy = paint(image, head, (plan,), np.random.default_rng(0))
    truth = ndimage.binary_opening(occupancy >= 0.5)
    inner = ndimage.distance_transform_edt(truth)
    core, rim = image[inner > 4.5], image[(inner > 0) & (inner < 2)]
    assert np.quantile(core, 0.1) < 1.0 < np.quantile(rim, 0.9)  # septa and nodules are bright
    filled = ndimage.binary_fill_holes(truth)
    assert (filled & ~truth).sum() < 0.02 * truth.sum()


@pytest.mark.parametrize("seed", range(3))
def test_the_truth_stays_in_the_brain_and_out_of_sinuses(head, seed):
    """Also for lesions planned at the surface, larger than the room there is."""
    rng = np.random.default_rng(seed)
    brain = (head.labels > 0) & (head.labels < FIRST_EXTRACEREBRAL)
    surface = np.argwhere(brain & (ndimage.distance_transform_edt(brain) < 3))
    plans = tuple(
        Plan(tuple(int(i) for i in rng.choice(surface)), 16.0, kind, 2.0) for kind in KINDS
    )
    occupancy = paint(flat_image(head), head, plans, rng)
    assert occupancy.min() >= 0
    assert occupancy.max() == 1
    assert brain[occupancy > 0].all()
    assert not np.isin(head.structures[occupancy > 0], SINUSES).any()


@pytest.mark.parametrize("seed", range(3))
def test_small_ones_spare_every_structure(head, seed):
    rng = np.random.default_rng(seed)
    near = np.argwhere(ndimage.binary_dilation(head.structures > 0) & (head.structures == 0))
    plans = tuple(Plan(tuple(int(i) for i in rng.choice(near)), 7.0, k, 2.0) for k in KINDS)
    occupancy = paint(flat_image(head), head, plans, rng)
    assert (head.structures[occupancy > 0] == 0).all()


def test_no_plan_paints_nothing(head):
    image = flat_image(head)
    occupancy = paint(image, head, (), np.random.default_rng(0))
    assert not occupancy.any()
    np.testing.assert_array_equal(image, flat_image(head))


@pytest.mark.parametrize("seed", range(3))
def test_solid_ones_outshine_white_matter_in_a_rendered_head(head, seed):
    rng = np.random.default_rng(seed)
    image = render(head, Style(spin_echo=False, contrast=True), rng)
    white = float(np.median(image[np.isin(head.labels, WHITE)]))
    plan = Plan(white_place(head), 8.0, "solid", 1.6)
    occupancy = paint(image, head, (plan,), rng)
    assert np.median(image[occupancy == 1]) > 1.3 * white


def test_a_cavity_is_filled_with_fluid_and_nothing_else_changes(head):
    image = flat_image(head)
    image[head.labels == 24] = 0.3
    before = image.copy()
    carve_cavity(image, head, np.random.default_rng(2))
    changed = image != before
    assert changed.any()
    assert (image <= before + 1e-5).all()
    assert image[changed].min() >= 0.3 - 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_an_operated_cavity_has_a_thin_bright_wall(head, seed):
    image = flat_image(head)
    image[head.labels == 24] = 0.3
    before = image.copy()
    carve_cavity(image, head, np.random.default_rng(seed), wall=1.5)
    bright = image > np.maximum(before, 1) + 0.1
    assert bright.any()
    assert image.max() <= 1.5 + 1e-5
    assert ndimage.distance_transform_edt(bright).max() <= 3


def push(head, share):
    """A stripe pattern around a tumour of 16 mm, before and after."""
    plan = Plan(white_place(head), 16.0, "solid", 2.0)
    x, y, z = plan.centre_vox
    box = (slice(x - 20, x + 21), slice(y - 20, y + 21), slice(z - 20, z + 21))
    axes = np.ogrid[box]
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, plan.centre_vox, strict=True)))
    return distance, push_aside(distance.astype(np.float32), head, box, plan, share), box


def test_displaced_tissue_keeps_its_volume():
    """Tissue at radius r came from (r³ − s R³)^⅓, where nothing holds it."""
    shape = (61, 61, 61)
    labels = np.full(shape, 2, np.int16)
    head = Anatomy(labels, np.zeros(shape, np.uint8))
    plan = Plan((30, 30, 30), 16.0, "solid", 2.0)
    box = (slice(10, 51),) * 3
    axes = np.ogrid[box]
    distance = np.sqrt(sum((a - 30.0) ** 2 for a in axes)).astype(np.float32)
    moved = push_aside(distance, head, box, plan, 0.6)
    free = (distance > 9) & (distance < 12)
    expected = np.cbrt(distance**3 - 0.6 * 8.0**3)
    np.testing.assert_allclose(moved[free], expected[free], atol=0.06)


def test_nothing_moves_without_pressure_nor_outside_the_brain(head):
    distance, still, _ = push(head, 0.0)
    np.testing.assert_allclose(still, distance, atol=1e-3)
    distance, moved, box = push(head, 0.6)
    outside = (head.labels[box] == 0) | (head.labels[box] >= FIRST_EXTRACEREBRAL)
    np.testing.assert_allclose(moved[outside], distance[outside], atol=1e-3)
    assert (moved <= distance + 1e-3)[distance > 1].all()


@pytest.mark.parametrize("diameter_mm", [2.0, 5.0, 9.0, 14.0, 25.0])
def test_a_metastasis_is_one_piece_without_holes_and_of_its_size(diameter_mm):
    plan = Plan((40, 40, 40), diameter_mm, "solid", 2.0)
    box = box_of(plan, (81, 81, 81))
    sizes = []
    for seed in range(8):
        inside = shape_of(plan, box, np.random.default_rng(seed))[0] < 0
        assert ndimage.label(inside)[1] == 1
        assert not (ndimage.binary_fill_holes(inside) & ~inside).any()
        sizes.append(np.count_nonzero(inside))
    assert np.mean(sizes) == pytest.approx(np.pi / 6 * diameter_mm**3, rel=0.25)


def test_the_draws_that_follow_a_shape_do_not_depend_on_its_roughness(monkeypatch):
    plan = Plan((20, 20, 20), 8.0, "solid", 2.0)
    box = box_of(plan, (41, 41, 41))
    numbers = []
    for rough in ((0.2, 1.1), (0.0, 0.0)):
        monkeypatch.setattr(metastases, "ROUGHNESS_MM", rough)
        rng = np.random.default_rng(5)
        shape_of(plan, box, rng)
        numbers.append(rng.random())
    assert numbers[0] == numbers[1]
