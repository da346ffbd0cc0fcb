"""Surface distances against MONAI, SimpleITK and slow references, on odd masks."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import cdist

from brainmets.errors import ConfigError, GridMismatchError
from brainmets.evaluation.elements import areas_mm2, neighbour_codes
from brainmets.evaluation.surface import (
    hausdorff,
    mean_distance,
    surface_dice,
    surface_distances,
    surface_scores,
)
from brainmets.volume import Grid, Volume
from phantoms import make_grid, rotation, within

SHAPE = (6, 5, 4)
SPACINGS = ((1.0, 1.0, 1.0), (0.5, 0.5, 6.0), (1.2, 0.7, 2.0))
TOLERANCE_MM = 1.05
quick = settings(max_examples=30, deadline=None)
spacings = st.sampled_from(SPACINGS)


def one_voxel(*at):
    data = np.zeros(SHAPE, bool)
    data[at] = True
    return data


def box(start, stop):
    data = np.zeros(SHAPE, bool)
    data[start:stop, 1:4, 1:3] = True
    return data


EMPTY, FULL = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
DIAGONAL = one_voxel(1, 1, 1) | one_voxel(2, 2, 2) | one_voxel(3, 1, 2)
ODD_PAIRS = (
    (EMPTY, EMPTY),
    (FULL, FULL),
    (FULL, one_voxel(0, 0, 0)),
    (one_voxel(0, 0, 0), one_voxel(5, 4, 3)),
    (one_voxel(2, 2, 2), one_voxel(2, 2, 2)),
    (box(0, 3), box(3, 6)),  # touching
    (DIAGONAL, box(1, 4)),
    (FULL & ~one_voxel(2, 2, 2), FULL),  # a hole
)
masks = st.one_of(
    hnp.arrays(np.bool_, SHAPE),
    hnp.arrays(np.bool_, SHAPE, elements=st.sampled_from([False] * 7 + [True])),
    st.sampled_from([mask for pair in ODD_PAIRS for mask in pair]),
)
some = masks.filter(np.any)


def volume(data, spacing=(1.0, 1.0, 1.0)):
    return Volume(np.asarray(data), Grid(np.shape(data), np.diag([*spacing, 1.0])))


def slow(reference, prediction, spacing, kind):
    """Surfaces voxel by voxel, all pairs of points, and the share of area sorted by hand."""
    (points, area), (others, weight) = (draw(m, spacing, kind) for m in (reference, prediction))
    apart = cdist(points * spacing, others * spacing)
    return (apart.min(axis=1), area), (apart.min(axis=0), weight)


def draw(mask, spacing, kind):
    padded = np.pad(mask, 1)
    if kind == "voxels":
        points = np.argwhere(padded & ~ndimage.binary_erosion(padded))
        return points, np.ones(len(points))
    table, points, weights = areas_mm2(np.diag(spacing)), [], []
    for at in np.ndindex(*(n - 1 for n in padded.shape)):
        cube = padded[tuple(slice(a, a + 2) for a in at)]
        if cube.any() and not cube.all():
            points.append(at)
            weights.append(table[int(cube.ravel() @ (1 << np.arange(8)))])
    return np.array(points), np.array(weights)


@pytest.mark.parametrize("kind", ["elements", "voxels"])
@quick
@given(reference=some, prediction=some, spacing=spacings)
@example(FULL, one_voxel(0, 0, 0), SPACINGS[1])
@example(DIAGONAL, box(1, 4), SPACINGS[1])
def test_scores_equal_those_from_all_pairs_of_points(kind, reference, prediction, spacing):
    got = surface_distances(volume(reference, spacing), volume(prediction, spacing), kind=kind)
    there, back = slow(reference, prediction, spacing, kind)
    distance = np.r_[there[0], back[0]]
    weight = np.r_[there[1], back[1]]
    near = weight[distance <= TOLERANCE_MM].sum() / weight.sum()
    assert hausdorff(got).value == pytest.approx(distance.max(), abs=1e-6)
    assert mean_distance(got).value == pytest.approx(np.average(distance, weights=weight), abs=1e-6)
    assert surface_dice(got, TOLERANCE_MM).value == pytest.approx(near, abs=1e-6)
    expected = max(slow_percentile(*side, 95, kind) for side in (there, back))
    assert hausdorff(got, 95).value == pytest.approx(expected, abs=1e-6)


def slow_percentile(values, weights, percentile, kind):
    if kind == "voxels":
        return np.percentile(values, percentile)
    candidates = sorted(values)
    enough = percentile / 100 * weights.sum() * (1 - 1e-9)
    return next(v for v in candidates if weights[values <= v].sum() >= enough)


@pytest.mark.slow  # importing MONAI takes longer than all tests here
@pytest.mark.filterwarnings("ignore")  # it warns of each empty mask
@settings(max_examples=40, deadline=None)
@given(reference=masks, prediction=masks, spacing=spacings)
@example(EMPTY, EMPTY, SPACINGS[0])
@example(EMPTY, FULL, SPACINGS[1])
@example(FULL, one_voxel(0, 0, 0), SPACINGS[1])
@example(box(0, 3), box(3, 6), SPACINGS[1])
@example(DIAGONAL, box(1, 4), SPACINGS[2])
def test_scores_are_monais(reference, prediction, spacing):
    import torch
    from monai import metrics
    from monai.metrics.utils import get_edge_surface_distance

    pair = [torch.from_numpy(np.pad(m, 1)[None, None]) for m in (prediction, reference)]
    same = {"include_background": True, "spacing": spacing}
    volumes = volume(reference, spacing), volume(prediction, spacing)
    voxels, elements = surface_distances(*volumes, kind="voxels"), surface_distances(*volumes)
    dice = [
        float(metrics.compute_surface_dice(*pair, [TOLERANCE_MM], use_subvoxels=sub, **same))
        for sub in (False, True)
    ]
    assert surface_dice(voxels, TOLERANCE_MM).value == pytest.approx(dice[0], abs=1e-6, nan_ok=True)
    assert surface_dice(elements, TOLERANCE_MM).value == pytest.approx(
        dice[1], abs=1e-6, nan_ok=True
    )
    if not (reference.any() and prediction.any()):
        return  # infinite there, undefined here
    other = metrics.compute_hausdorff_distance(*pair, **same)
    assert hausdorff(voxels).value == pytest.approx(float(other), rel=1e-6)
    other = metrics.compute_hausdorff_distance(*pair, percentile=95, **same)
    assert hausdorff(voxels, 95).value == pytest.approx(float(other), abs=1e-4)  # float32 ranks
    masks_only = (mask[0, 0] for mask in pair)
    directed = get_edge_surface_distance(*masks_only, spacing=spacing, symmetric=True)[1]
    other = max(float(torch.quantile(d.double(), 0.95)) for d in directed)
    assert hausdorff(voxels, 95).value == pytest.approx(other, rel=1e-6, abs=1e-6)
    other = metrics.compute_average_surface_distance(*pair, symmetric=True, **same)
    assert mean_distance(voxels).value == pytest.approx(float(other), rel=1e-6, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [*SPACINGS, (0.3, 2.5, 0.9)])
def test_areas_of_all_256_patterns_are_those_of_deepminds_table(spacing):
    from monai.metrics.utils import get_code_to_measure_table

    table = get_code_to_measure_table(spacing)[0].numpy()
    mirrored = [int(f"{code:08b}"[::-1], 2) for code in range(256)]  # their first corner is bit 128
    np.testing.assert_allclose(areas_mm2(np.diag(spacing)), table[mirrored], rtol=1e-6)


@quick
@given(reference=some, prediction=some, spacing=spacings)
@example(FULL, one_voxel(0, 0, 0), SPACINGS[1])
def test_the_hausdorff_distance_of_voxel_surfaces_is_simpleitks(reference, prediction, spacing):
    sitk = pytest.importorskip("SimpleITK")
    contours = []
    for mask in (reference, prediction):
        image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8).transpose(2, 1, 0))
        image.SetSpacing(spacing)
        contours.append(sitk.LabelContour(image, fullyConnected=False))
    oracle = sitk.HausdorffDistanceImageFilter()
    oracle.Execute(*contours)
    got = surface_distances(volume(reference, spacing), volume(prediction, spacing), kind="voxels")
    assert hausdorff(got).value == pytest.approx(oracle.GetHausdorffDistance(), rel=1e-6)
    directed = got.reference_mm.mean(), got.prediction_mm.mean()
    average = sum(directed) / 2  # of the directed means, where ours is over both surfaces together
    assert average == pytest.approx(oracle.GetAverageHausdorffDistance(), rel=1e-6)


def test_a_plane_has_the_area_of_its_voxels_and_a_ball_nearly_its_own():
    data = np.zeros((8, 8, 8), bool)
    data[:4] = True
    spacing = (2.0, 0.5, 3.0)
    codes = neighbour_codes(data)
    area = areas_mm2(np.diag(spacing))[codes].sum()
    assert area == pytest.approx(7 * 7 * 0.5 * 3.0)
    grid = make_grid((50, 50, 50), 0.5)
    codes = neighbour_codes(within(grid, (0, 0, 0), 10))
    assert areas_mm2(np.diag([0.5] * 3))[codes].sum() == pytest.approx(4 * np.pi * 100, rel=0.1)


@pytest.mark.parametrize("kind", ["elements", "voxels"])
def test_a_shift_along_the_thick_axis_counts_in_millimetres(kind):
    reference, prediction = np.zeros((2, 9, 9, 9), bool)
    reference[3:6, 3:6, 3:5], prediction[3:6, 3:6, 4:6] = True, True
    pair = volume(reference, (0.5, 0.5, 6.0)), volume(prediction, (0.5, 0.5, 6.0))
    scores = surface_scores(*pair, tolerances_mm=(5.9, 6.0), kind=kind)
    assert scores["hd_mm"].value == pytest.approx(6)
    assert scores["nsd_6mm"].value == 1
    assert scores["nsd_5.9mm"].value < 1


@pytest.mark.parametrize(
    ("reference", "prediction", "reason"),
    [
        (EMPTY, EMPTY, "reference and prediction are both empty"),
        (EMPTY, FULL, "the reference is empty"),
        (FULL, EMPTY, "the prediction is empty"),
    ],
)
def test_without_two_surfaces_distances_are_undefined_with_a_reason(reference, prediction, reason):
    scores = surface_scores(volume(reference), volume(prediction))
    for name in ("hd95_mm", "hd_mm", "mean_surface_distance_mm"):
        assert np.isnan(scores[name].value)
        assert scores[name].reason == reason
    for name in ("nsd_1mm", "nsd_2mm"):  # nothing is within tolerance of nothing
        assert scores[name].defined == (reference.any() or prediction.any())
        assert not scores[name].defined or scores[name].value == 0


@quick
@given(reference=some, prediction=some, spacing=spacings, degrees=st.floats(-90, 90))
def test_turning_the_head_or_swapping_the_masks_changes_nothing(
    reference, prediction, spacing, degrees
):
    straight = make_grid(SHAPE, spacing)
    turned = make_grid(SHAPE, spacing, axes=rotation(degrees, (1, 2, 3)), centre_ras_mm=(9, -4, 30))
    one = surface_scores(Volume(reference, straight), Volume(prediction, straight))
    two = surface_scores(Volume(prediction, turned), Volume(reference, turned))
    for name, value in one.items():
        assert two[name].value == pytest.approx(value.value, abs=1e-6), name


def test_distances_on_a_sheared_grid_are_measured_in_the_patient():
    affine = np.eye(4)
    affine[1, 2] = 0.75  # slices 1 mm apart, each 0.75 mm further to the front
    grid = Grid(SHAPE, affine)
    pair = (Volume(one_voxel(2, 2, k), grid) for k in (0, 2))
    assert hausdorff(surface_distances(*pair, kind="voxels")).value == pytest.approx(2.5)


def test_a_mask_against_itself_has_no_distance():
    scores = surface_scores(volume(DIAGONAL), volume(DIAGONAL))
    assert [s.value for s in scores.values()] == [0, 0, 0, 1, 1]


def test_other_grids_percentiles_and_tolerances_are_refused():
    with pytest.raises(GridMismatchError):
        surface_distances(volume(FULL), volume(FULL, (1, 1, 2)))
    distances = surface_distances(volume(FULL), volume(FULL))
    for attempt in (
        lambda: hausdorff(distances, 101),
        lambda: surface_dice(distances, -1),
        lambda: surface_dice(distances, float("nan")),
    ):
        with pytest.raises(ConfigError):
            attempt()
