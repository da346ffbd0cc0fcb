"""Lesions are found and measured the same however the file stores the patient."""

import dataclasses
from collections import Counter
from itertools import combinations, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from brainmets.config import DecisionRule
from brainmets.errors import GridMismatchError, VolumeError
from brainmets.lesions import Lesion, components, find, measure, shares_outside
from brainmets.volume import AxisOrder, Grid, Volume, apply, reorient

LEVELS = (0.0, 0.2, 0.3, 0.5, 0.6, 0.9)
ORDERS = [
    AxisOrder(axes, flips)
    for axes, flips in product(permutations(range(3)), product((False, True), repeat=3))
]
probabilities = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.sampled_from(LEVELS),
)
masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7))
sides = st.sampled_from((0.5, 0.833, 1.0, 2.4, 5.0))
spacings = st.tuples(sides, sides, sides)
angles = st.tuples(*[st.floats(-20, 20)] * 3)
quick = settings(max_examples=40, deadline=None)


def grid(shape, spacing=(1.0, 1.0, 1.0), degrees=(0, 0, 0), origin=(-20.0, 3.0, 7.0)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(
        spacing
    )
    affine[:3, 3] = origin
    return Grid(tuple(shape), affine)


def turned(affine, matrix):
    rotation = np.eye(4)
    rotation[:3, :3] = matrix
    return rotation @ affine


def ellipsoid(spacing, matrix, centre_vox=(0.0, 0.0, 0.0), reach=12.0, degrees=(0, 0, 0)):
    """Voxels whose centre x has (x − c)ᵀ · matrix · (x − c) ≤ 1, and their offsets x − c."""
    shape = tuple(int(2 * reach / s) + 4 for s in spacing)
    where = grid(shape, spacing, degrees)
    centre = apply(where.affine, (np.array(shape) - 1) / 2 + np.array(centre_vox))
    x = apply(where.affine, np.moveaxis(np.indices(shape), 0, -1)) - centre
    return Volume(np.einsum("...i,ij,...j", x, matrix, x) <= 1, where), x


def same(one: Lesion, other: Lesion, *, but=()) -> bool:
    """Equal in every field up to rounding."""
    a, b = dataclasses.asdict(one), dataclasses.asdict(other)
    for key in set(a) - set(but):
        if isinstance(a[key], float | tuple):
            if not np.allclose(a[key], b[key], rtol=1e-9, atol=1e-6):
                return False
        elif a[key] != b[key]:
            return False
    return True


def all_same(one, other, *, but=()):
    return len(one) == len(other) and all(
        same(a, b, but=but) for a, b in zip(one, other, strict=True)
    )


# Slow references


def slow_components(inside):
    """Components by walking from voxel to voxel."""
    left = {tuple(int(i) for i in v) for v in np.argwhere(inside)}
    found = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            voxel = edge.pop()
            part.add(voxel)
            for step in product((-1, 0, 1), repeat=3):
                near = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if near in left:
                    left.remove(near)
                    edge.append(near)
        found.append(part)
    return found


def slow_find(data, rule, voxel_mm3):
    kept = [
        part
        for part in slow_components(data >= rule.low)
        if any(data[v] >= rule.high for v in part) and len(part) * voxel_mm3 >= rule.smallest_mm3
    ]
    return sorted(kept, key=lambda part: (-len(part), min(part)))


def slow_longest(inside, affine):
    """All pairs of voxel edge middles on one slice [:, :, k]."""
    best = 0.0
    for k in range(inside.shape[2]):
        voxels = np.argwhere(inside[:, :, k])
        if not voxels.size:
            continue
        steps = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
        points = (voxels[:, None] + steps).reshape(-1, 2) @ affine[:3, :2].T
        best = max(best, *(np.linalg.norm(a - b) for a, b in combinations(points, 2)))
    return best


def slow_across(inside, lesion, where):
    """The longest chord across the reported diameter, among many, by half-planes."""
    ends = np.array(lesion.longest_diameter_ends_ras_mm)
    index = apply(np.linalg.inv(where.affine), ends)
    k = int(np.rint(index[0, 2]))
    steps = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
    voxels = (np.argwhere(inside[:, :, k])[:, None] + steps).reshape(-1, 2)
    spacing = np.array(where.spacing_mm[:2])
    plane = ConvexHull(voxels * spacing).equations
    start, stop = index[:, :2] * spacing
    across = np.array([-(stop - start)[1], (stop - start)[0]]) / np.linalg.norm(stop - start)
    best = 0.0
    for share in np.linspace(-0.5, 1.5, 1601):  # chords beside the diameter's ends exist too
        offset = plane[:, :2] @ (start + share * (stop - start)) + plane[:, 2]
        slope = plane[:, :2] @ across
        flat = np.abs(slope) < 1e-12
        if (offset[flat] > 1e-9).any():
            continue
        bounds = -offset[~flat] / slope[~flat]
        low, high = bounds[slope[~flat] < 0].max(), bounds[slope[~flat] > 0].min()
        best = max(best, high - low)
    return best


# Finding


@quick
@given(
    probabilities,
    st.sampled_from((0.2, 0.3)),
    st.sampled_from((0.3, 0.5, 0.6)),
    st.sampled_from((0.0, 1.0, 2.0, 3.0)),
)
def test_hysteresis_equals_walking_from_voxel_to_voxel(data, low, high, smallest):
    rule = DecisionRule(low, high, smallest)
    labels = find(Volume(data, grid(data.shape)), rule)
    found = [
        {tuple(v) for v in np.argwhere(labels.data == n + 1)} for n in range(labels.data.max())
    ]
    assert found == slow_find(data, rule, 1.0)
    assert labels.data.dtype == np.int32


@quick
@given(masks)
def test_components_equal_walking_from_voxel_to_voxel(mask):
    labels = components(Volume(mask.astype(np.int32) * 3, grid(mask.shape))).data
    found = [{tuple(v) for v in np.argwhere(labels == n + 1)} for n in range(labels.max())]
    assert found == sorted(slow_components(mask), key=lambda part: (-len(part), min(part)))


def test_thresholds_and_smallest_volume_include_their_own_value():
    data = np.zeros((9, 3, 3), np.float32)
    data[1, 1, 1], data[1:3, 2, 1] = 0.6, 0.3
    volume = Volume(data, grid(data.shape, (0.1, 0.7, 3.0)))
    size = 3 * 0.1 * 0.7 * 3.0
    assert find(volume, DecisionRule(0.3, 0.6, size)).data.sum() == 3
    assert find(volume, DecisionRule(0.3, 0.6, size * 1.001)).data.sum() == 0
    assert find(volume, DecisionRule(0.3, 0.601, 0)).data.sum() == 0
    assert find(volume, DecisionRule(0.301, 0.6, 0)).data.sum() == 1


def test_voxels_that_share_only_a_corner_are_one_lesion():
    data = np.zeros((4, 4, 4))
    data[1, 1, 1] = data[2, 2, 2] = 1
    assert components(Volume(data, grid(data.shape))).data.max() == 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_and_a_full_map_are_handled(value):
    volume = Volume(np.full((3, 4, 5), value, np.float32), grid((3, 4, 5)))
    labels = find(volume, DecisionRule())
    assert labels.data.sum() == 60 * value
    assert len(measure(labels, probability=volume, brain=volume)) == value
    assert (components(volume).data == labels.data).all()


def test_inputs_are_left_as_they_were_and_a_second_call_gives_the_same():
    data = np.random.default_rng(1).random((8, 9, 10))
    volume = Volume(data.copy(), grid(data.shape))
    first = find(volume, DecisionRule())
    assert (find(volume, DecisionRule()).data == first.data).all()
    assert measure(first, probability=volume) == measure(first, probability=volume)
    assert (volume.data == data).all()


# The same patient stored differently


@quick
@given(probabilities, spacings, angles, st.sampled_from(ORDERS))
def test_flips_and_permutations_of_the_array_give_identical_lesions(data, spacing, degrees, order):
    volume = Volume(data, grid(data.shape, spacing, degrees))
    brain = Volume(data > 0.1, volume.grid)
    rule = DecisionRule(0.3, 0.6, 0)
    other, other_brain = reorient(volume, order), reorient(brain, order)
    labels, other_labels = find(volume, rule), find(other, rule)
    assert (order.forward(labels.data) == other_labels.data).all()
    assert all_same(
        measure(labels, probability=volume, brain=brain),
        measure(other_labels, probability=other, brain=other_brain),
    )
    assert (order.forward(components(brain).data) == components(other_brain).data).all()


@quick
@given(masks, spacings, st.floats(-30, 30), st.tuples(*[st.floats(-1, 1)] * 3))
def test_a_turned_header_turns_the_lesions_with_it(mask, spacing, degrees, axis):
    length = np.linalg.norm(axis)
    vector = np.array(axis) / length * np.radians(degrees) if length > 0.1 else np.zeros(3)
    rotation = Rotation.from_rotvec(vector).as_matrix()
    labels = components(Volume(mask, grid(mask.shape, spacing)))
    before = measure(labels)
    after = measure(Volume(labels.data, Grid(mask.shape, turned(labels.grid.affine, rotation))))
    assert len(before) == len(after) == labels.data.max()
    for one, other in zip(before, after, strict=True):
        assert other.volume_mm3 == pytest.approx(one.volume_mm3, rel=1e-9)
        assert np.allclose(rotation @ one.centroid_ras_mm, other.centroid_ras_mm, atol=0.01)
        assert other.longest_diameter_mm == pytest.approx(one.longest_diameter_mm, abs=0.01)
        assert other.perpendicular_diameter_mm == pytest.approx(
            one.perpendicular_diameter_mm, abs=0.01
        )


@quick
@given(masks, spacings)
def test_twice_the_spacing_is_eight_times_the_volume_and_twice_the_diameter(mask, spacing):
    labels = components(Volume(mask, grid(mask.shape, spacing)))
    larger = Volume(labels.data, grid(mask.shape, [2 * s for s in spacing]))
    for one, other in zip(measure(labels), measure(larger), strict=True):
        assert other.volume_mm3 == pytest.approx(8 * one.volume_mm3)
        assert other.equivalent_diameter_mm == pytest.approx(2 * one.equivalent_diameter_mm)
        assert other.longest_diameter_mm == pytest.approx(2 * one.longest_diameter_mm)
        assert other.perpendicular_diameter_mm == pytest.approx(2 * one.perpendicular_diameter_mm)


@quick
@given(masks, st.randoms(use_true_random=False))
def test_relabelling_changes_nothing_but_the_label(mask, random):
    labels = components(Volume(mask, grid(mask.shape)))
    count = int(labels.data.max())
    numbers = np.array([0, *random.sample(range(1, 2_000_000_000), count)])
    new = measure(labels.with_data(numbers[labels.data]))
    old = {int(numbers[lesion.label]): lesion for lesion in measure(labels)}
    assert [lesion.label for lesion in new] == sorted(old)
    assert all(same(lesion, old[lesion.label], but=("label",)) for lesion in new)


# Measuring


@quick
@given(masks, spacings, angles)
def test_centroids_and_volumes_are_those_of_the_voxels(mask, spacing, degrees):
    labels = components(Volume(mask, grid(mask.shape, spacing, degrees)))
    for lesion in measure(labels):
        voxels = np.argwhere(labels.data == lesion.label)
        mean = apply(labels.grid.affine, voxels).mean(axis=0)
        assert np.allclose(lesion.centroid_ras_mm, mean)
        assert lesion.volume_mm3 == pytest.approx(len(voxels) * np.prod(spacing))


@quick
@given(masks, spacings, st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
def test_a_sheared_grid_is_measured_in_millimetres_too(mask, spacing, shear, gantry):
    affine = grid(mask.shape, spacing).affine.copy()
    affine[0, 1], affine[1, 2] = shear * spacing[1], gantry * spacing[2]
    labels = components(Volume(mask, Grid(mask.shape, affine)))
    for lesion in measure(labels):
        inside = labels.data == lesion.label
        assert lesion.longest_diameter_mm == pytest.approx(slow_longest(inside, affine), abs=1e-6)


@quick
@given(masks, spacings)
def test_diameters_equal_the_search_through_all_pairs_of_voxel_edges(mask, spacing):
    labels = components(Volume(mask, grid(mask.shape, spacing)))
    for lesion in measure(labels):
        inside = labels.data == lesion.label
        assert lesion.longest_diameter_mm == pytest.approx(
            slow_longest(inside, labels.grid.affine), abs=1e-6
        )
        slow = slow_across(inside, lesion, labels.grid)
        assert slow <= lesion.perpendicular_diameter_mm + 1e-6
        assert lesion.perpendicular_diameter_mm == pytest.approx(slow, rel=0.01)


@quick
@given(masks, spacings, angles)
def test_reported_ends_span_the_reported_diameters_at_right_angles(mask, spacing, degrees):
    for lesion in measure(components(Volume(mask, grid(mask.shape, spacing, degrees)))):
        longest = np.diff(lesion.longest_diameter_ends_ras_mm, axis=0)[0]
        across = np.diff(lesion.perpendicular_diameter_ends_ras_mm, axis=0)[0]
        assert np.linalg.norm(longest) == pytest.approx(lesion.longest_diameter_mm)
        assert np.linalg.norm(across) == pytest.approx(lesion.perpendicular_diameter_mm)
        assert abs(longest @ across) < 1e-6 * (1 + longest @ longest)
        assert lesion.perpendicular_diameter_mm <= lesion.longest_diameter_mm + 1e-6


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 1), (0.5, 0.5, 5), (1, 0.4, 0.7)])
@pytest.mark.parametrize("seed", range(12))
def test_rotated_ellipsoids_measure_what_they_are_to_one_voxel(spacing, seed):
    rng = np.random.default_rng(seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    matrix = turn @ np.diag(1 / rng.uniform(3, 12, 3) ** 2) @ turn.T
    volume, x = ellipsoid(spacing, matrix, rng.uniform(-0.5, 0.5, 3))
    lesion = measure(volume)[0]
    # The section at height z is an ellipse: matrix of the plane, scaled by what z leaves of 1.
    plane, mixed = matrix[:2, :2], matrix[:2, 2]
    rest = 1 - x[0, 0, :, 2] ** 2 * (matrix[2, 2] - mixed @ np.linalg.solve(plane, mixed))
    short, long = sorted(2 / np.sqrt(np.linalg.eigvalsh(plane)) * np.sqrt(rest.max()))
    assert lesion.longest_diameter_mm == pytest.approx(long, abs=max(spacing[:2]))
    assert lesion.perpendicular_diameter_mm == pytest.approx(short, abs=max(spacing[:2]))
    exact = 4 / 3 * np.pi / np.sqrt(np.linalg.det(matrix))
    assert lesion.volume_mm3 == pytest.approx(exact, rel=0.15)


@pytest.mark.parametrize("degrees", [(50, 0, 0), (0, 48, 20), (45, 30, 10), (35, 40, 0)])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 2)])
def test_strongly_tilted_scans_are_measured_on_axial_planes(degrees, spacing):
    semi = np.array([9.0, 5.0, 11.0])  # aligned with the patient, not with the array
    volume, _ = ellipsoid(spacing, np.diag(1 / semi**2), degrees=degrees)
    lesion = measure(volume)[0]
    assert lesion.longest_diameter_mm == pytest.approx(18, abs=1.5 * max(spacing))
    assert lesion.perpendicular_diameter_mm == pytest.approx(10, abs=1.5 * max(spacing))
    heights = [z for _, _, z in lesion.longest_diameter_ends_ras_mm]
    assert heights[0] == pytest.approx(heights[1])


@pytest.mark.parametrize("degrees", [(0, 0, 0), (50, 0, 0), (45, 35, 0)])
def test_one_voxel_has_a_size(degrees):
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    lesion = measure(Volume(mask, grid(mask.shape, (0.5, 0.8, 3), degrees)))[0]
    assert lesion.volume_mm3 == pytest.approx(1.2)
    assert lesion.equivalent_diameter_mm == pytest.approx((6 * 1.2 / np.pi) ** (1 / 3))
    if degrees == (0, 0, 0):
        assert lesion.longest_diameter_mm == pytest.approx(0.8)
        assert lesion.perpendicular_diameter_mm == pytest.approx(0.5)
    assert 0 < lesion.perpendicular_diameter_mm <= lesion.longest_diameter_mm < 3.3


def test_a_sagittal_thick_slice_series_is_measured_on_its_axial_reformat():
    data = np.zeros((20, 20, 8), bool)
    data[5:15, 4:6, 2:6] = True  # stored A, S, R; 10 mm along A, 2 mm along S, 16 mm along R
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = 1, 1, 4, 1
    lesion = measure(Volume(data, Grid(data.shape, affine)))[0]
    # From edge middle to edge middle: ±(16, 9)/2 lies on the outline, and (16, 10) does not.
    assert lesion.longest_diameter_mm == pytest.approx(np.hypot(16, 9))
    assert lesion.centroid_ras_mm == pytest.approx((14, 9.5, 4.5))


@pytest.mark.parametrize(
    ("x", "side"), [(3, "left"), (16, "right"), (10, "midline"), (12, "midline")]
)
def test_sides_are_the_patients_and_the_midline_is_the_brains(x, side):
    mask = np.zeros((40, 9, 9), bool)
    mask[x, 4, 4] = True
    brain = np.zeros_like(mask)
    brain[0:21] = True  # middle at x = 10, the grid's is at 19.5
    volume = Volume(mask, grid(mask.shape))
    assert measure(volume, brain=Volume(brain, volume.grid))[0].side == side
    assert measure(volume)[0].side == ("midline" if x == 17 else "left")
    assert measure(volume, brain=volume.with_data(np.zeros_like(mask)))[0].side == "left"


def test_probabilities_are_those_of_the_lesions_voxels():
    labels = np.zeros((6, 6, 6), np.int32)
    labels[1:3, 1, 1], labels[5, 5, 5] = 4, 9
    probability = np.full(labels.shape, 0.25, np.float32)
    probability[1, 1, 1] = 0.75
    where = grid(labels.shape)
    one, other = measure(Volume(labels, where), probability=Volume(probability, where))
    assert (one.label, one.mean_probability, one.max_probability) == (4, 0.5, 0.75)
    assert (other.label, other.mean_probability, other.max_probability) == (9, 0.25, 0.25)
    assert measure(Volume(labels, where))[0].mean_probability is None


@pytest.mark.parametrize(("corner", "touches"), [(0, True), (1, True), (2, False), (5, True)])
def test_a_lesion_next_to_the_masks_surface_or_the_arrays_touches_the_edge(corner, touches):
    mask = np.zeros((8, 8, 8), bool)
    mask[corner : corner + 3, 3, 3] = True
    brain = np.zeros_like(mask)
    brain[1:] = True
    volume = Volume(mask, grid(mask.shape))
    assert measure(volume, brain=volume.with_data(brain))[0].touches_mask_edge is touches
    assert measure(volume)[0].touches_mask_edge is None


def test_two_labels_that_touch_are_measured_apart():
    labels = np.zeros((6, 4, 4), np.int32)
    labels[1:3, 1, 1], labels[3:5, 1, 1] = 1, 2
    volumes = Counter(lesion.volume_mm3 for lesion in measure(Volume(labels, grid(labels.shape))))
    assert volumes == {2.0: 2}


def test_shares_outside_the_brain_are_those_of_each_lesion():
    labels, brain = np.zeros((60, 30, 30), np.int32), np.zeros((60, 30, 30), bool)
    brain[:, :, 15:] = True
    for label, first in {1: 5, 2: 9, 4: 14}.items():  # all, 6 and 1 of 10 slices outside
        labels[12 * label : 12 * label + 9, 5:14, first : first + 10] = label
    where = grid(labels.shape)
    shares = shares_outside(Volume(labels, where), Volume(brain, where))
    assert shares == pytest.approx({1: 1.0, 2: 0.6, 4: 0.1})
    assert shares_outside(Volume(0 * labels, where), Volume(brain, where)) == {}
    with pytest.raises(GridMismatchError, match="labels and brain mask"):
        shares_outside(Volume(labels, where), Volume(brain, grid(labels.shape, (1, 1, 2))))


def test_labels_that_are_no_whole_numbers_and_foreign_grids_are_refused():
    where = grid((4, 4, 4))
    labels = Volume(np.ones((4, 4, 4), np.int32), where)
    with pytest.raises(VolumeError, match="whole numbers"):
        measure(Volume(np.ones((4, 4, 4), np.float32), where))
    other = Volume(np.ones((4, 4, 4)), grid((4, 4, 4), (1, 1, 2)))
    with pytest.raises(GridMismatchError, match="labels and probability"):
        measure(labels, probability=other)
    with pytest.raises(GridMismatchError, match="labels and brain mask"):
        measure(labels, brain=other)


def test_an_edge_that_is_reached_over_a_corner_is_reached():
    mask = np.zeros((6, 6, 6), bool)
    mask[2, 2, 2] = True
    brain = np.ones_like(mask)
    brain[3, 3, 3] = False
    volume = Volume(mask, grid(mask.shape))
    assert measure(volume, brain=volume.with_data(brain))[0].touches_mask_edge


def test_of_two_lesions_of_one_size_the_one_that_starts_first_comes_first():
    data = np.zeros((6, 6, 3), bool)
    data[0:5, 0, 1] = True
    data[1:4, 4, 1] = data[2, 5, 1] = data[2, 3, 1] = True  # starts later, ends earlier
    labels = components(Volume(data, grid(data.shape))).data
    assert (labels[0, 0, 1], labels[1, 4, 1]) == (1, 2)


def test_two_lesions_of_one_size_are_ordered_by_where_they_lie_in_the_patient():
    data = np.zeros((9, 5, 5), bool)
    data[2, 2, 2] = data[6, 1, 1] = True
    stored = Volume(data[::-1].copy(), Grid(data.shape, np.diag([-1.0, 1, 1, 1])))
    lesions = measure(components(stored))
    assert lesions[0].centroid_ras_mm[0] < lesions[1].centroid_ras_mm[0]
