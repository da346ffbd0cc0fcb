"""Surface elements against plain geometry and MONAI's table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from brainmets.evaluation.surface_elements import CORNERS, element_areas, robust_hausdorff_mm

quick = settings(max_examples=40, deadline=None)
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 6.0])] * 3)


def code(corners):
    return sum(1 << CORNERS.index(corner) for corner in corners)


def test_areas_of_plain_shapes():
    x, y, z = spacing = (0.5, 2.0, 6.0)
    areas = element_areas(spacing)
    corner = np.linalg.norm(np.cross([x / 2, -y / 2, 0], [x / 2, 0, -z / 2])) / 2
    assert areas[0] == areas[255] == 0
    assert areas[code([(0, 0, 0)])] == pytest.approx(corner)
    assert areas[code([(0, 0, 0), (1, 1, 0)])] == pytest.approx(2 * corner)
    assert areas[code([(0, 0, 0), (1, 0, 0)])] == pytest.approx(x * np.hypot(y / 2, z / 2))
    assert areas[code([c for c in CORNERS if c[1]])] == pytest.approx(x * z)
    assert areas == pytest.approx(areas[::-1])  # seen from the other side


@pytest.mark.slow  # importing MONAI takes longer than all tests here
@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 6), (0.9, 2, 1.3)])
def test_areas_are_those_of_monais_table(spacing):
    from monai.metrics.utils import create_table_neighbour_code_to_surface_area

    table, kernel = create_table_neighbour_code_to_surface_area(spacing)
    weights = kernel.numpy().reshape(2, 2, 2)
    areas = element_areas(spacing)
    for number in range(256):
        inside = [corner for corner in CORNERS if number & int(weights[corner])]
        assert areas[code(inside)] == pytest.approx(float(table[number]), abs=1e-5)


@quick
@given(hnp.arrays(np.bool_, (5, 4, 3)), hnp.arrays(np.bool_, (5, 4, 3)), spacings)
def test_distance_is_symmetric_zero_to_itself_and_infinite_to_nothing(one, other, spacing):
    there, back = (
        robust_hausdorff_mm(one, other, spacing),
        robust_hausdorff_mm(other, one, spacing),
    )
    assert there == back
    if one.any():
        assert robust_hausdorff_mm(one, one, spacing) == 0
    if not (one.any() and other.any()):
        assert there == np.inf


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_box_is_as_far_away_as_it_was_shifted(axis):
    spacing = (0.5, 2.0, 6.0)
    one = np.zeros((12, 12, 12), bool)
    one[2:7, 2:7, 2:7] = True
    other = np.roll(one, 3, axis)
    assert robust_hausdorff_mm(one, other, spacing, 100) == pytest.approx(3 * spacing[axis])


def test_a_percentile_leaves_out_a_small_part_of_the_surface():
    one = np.zeros((40, 20, 20), bool)
    one[2:18, 2:18, 2:18] = True
    other = one.copy()
    other[35, 5, 5] = True  # one voxel far away
    assert robust_hausdorff_mm(one, other, (1, 1, 1), 100) > 15
    assert robust_hausdorff_mm(one, other, (1, 1, 1), 95) == 0
