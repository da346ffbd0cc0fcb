"""All that takes up contrast lies where anatomy has it, in any label map that serves."""

import numpy as np
import pytest
from scipy import ndimage

from brainmets.errors import ReadError, VolumeError
from brainmets.io import nifti
from brainmets.simulate.anatomy import (
    CEREBELLUM,
    CEREBRUM,
    CSF,
    FIRST_EXTRACEREBRAL,
    LATERAL_VENTRICLES,
    LEFT_CEREBRUM,
    RIGHT_CEREBRUM,
    Structure,
    embedded_head,
    read_anatomy,
    vary_plexus,
)
from brainmets.volume import AxisOrder, Volume, reorient
from label_heads import label_map, write_label_map
from phantoms import make_grid


@pytest.fixture(scope="module", params=["small", pytest.param("embedded", marks=pytest.mark.slow)])
def head(request, tmp_path_factory):
    """The small head always; the one that ships where time allows."""
    if request.param == "embedded":
        return embedded_head()
    return read_anatomy(write_label_map(tmp_path_factory.mktemp("head") / "small.nii.gz"))


def places(head, *structures):
    found = np.argwhere(np.isin(head.structures, structures))
    assert len(found), structures
    return found


def brain_of(head):
    return (head.labels > 0) & (head.labels < FIRST_EXTRACEREBRAL)


def middle(head):
    """Where left meets right, voxels along x."""
    sides = [np.argwhere(np.isin(head.labels, codes)) for codes in (LEFT_CEREBRUM, RIGHT_CEREBRUM)]
    return (sides[0][:, 0].mean() + sides[1][:, 0].mean()) / 2


def depth(head):
    """Millimetres to the surface of brain and CSF: positive outside, negative inside."""
    brain = brain_of(head)
    return ndimage.distance_transform_edt(~brain) - ndimage.distance_transform_edt(brain)


def test_maps_share_one_shape_and_hold_known_codes(head):
    assert head.labels.shape == head.structures.shape
    assert set(np.unique(head.structures)) <= {0, *Structure}
    expected = {
        Structure.SAGITTAL_SINUS, Structure.TRANSVERSE_SINUS, Structure.FALX, Structure.TENTORIUM,
        Structure.CONVEXITY_DURA, Structure.CHOROID_PLEXUS, Structure.PITUITARY,
        Structure.BASAL_ARTERY,
    }  # fmt: skip
    assert expected <= set(np.unique(head.structures))


def test_the_sagittal_sinus_runs_along_the_midline_at_the_skull(head):
    """At the surface of brain + CSF, reaching out of it; in the upper head, from front to back."""
    sinus = places(head, Structure.SAGITTAL_SINUS, Structure.SAGITTAL_SINUS_EDGE)
    assert np.abs(sinus[:, 0] - middle(head)).max() < 14
    assert abs(sinus[:, 0].mean() - middle(head)) < 3
    depths = depth(head)[tuple(sinus.T)]
    assert depths.min() >= -5
    assert depths.max() <= 8.5
    assert (depths > 0).any()
    cerebrum = np.argwhere(np.isin(head.labels, CEREBRUM))
    assert sinus[:, 2].mean() > cerebrum[:, 2].mean()
    assert np.ptp(sinus[:, 1]) > 0.4 * np.ptp(cerebrum[:, 1])


def test_the_sinus_core_lies_within_its_edge(head):
    for core, edge in (
        (Structure.SAGITTAL_SINUS, Structure.SAGITTAL_SINUS_EDGE),
        (Structure.TRANSVERSE_SINUS, Structure.TRANSVERSE_SINUS_EDGE),
    ):
        near = ndimage.distance_transform_edt(~np.isin(head.structures, (core, edge)))
        assert near[tuple(places(head, core).T)].max() == 0
        to_core = ndimage.distance_transform_edt(head.structures != core)
        assert np.median(to_core[tuple(places(head, edge).T)]) < 6


def test_the_transverse_sinuses_lie_low_behind_on_both_sides(head):
    sinus = places(head, Structure.TRANSVERSE_SINUS)
    assert (sinus[:, 0] < middle(head)).any()
    assert (sinus[:, 0] > middle(head)).any()
    cerebrum = np.argwhere(np.isin(head.labels, CEREBRUM))
    assert sinus[:, 2].mean() < cerebrum[:, 2].mean()
    assert sinus[:, 1].mean() < cerebrum[:, 1].mean()
    to_cerebellum = ndimage.distance_transform_edt(~np.isin(head.labels, CEREBELLUM))
    assert to_cerebellum[tuple(sinus.T)].max() < 20


def test_the_falx_is_a_thin_sheet_of_the_midline(head):
    falx = places(head, Structure.FALX)
    assert np.abs(falx[:, 0] - middle(head)).max() < 12
    assert np.isin(head.labels[tuple(falx.T)], (CSF,)).mean() > 0.95
    thickness = (head.structures == Structure.FALX).sum(axis=0)
    assert np.median(thickness[thickness > 0]) <= 4


def test_the_tentorium_lies_between_cerebrum_and_cerebellum(head):
    tentorium = tuple(places(head, Structure.TENTORIUM).T)
    for codes in (CEREBRUM, CEREBELLUM):
        away = ndimage.distance_transform_edt(~np.isin(head.labels, codes))[tentorium]
        assert away.min() > 0
        assert away.max() < 10
    assert (head.labels[tentorium] == CSF).mean() > 0.95


def test_the_convexity_dura_is_the_surface_of_brain_and_csf(head):
    dura = places(head, Structure.CONVEXITY_DURA)
    assert np.abs(depth(head)[tuple(dura.T)]).max() <= 2


def test_the_choroid_plexus_lies_in_the_lateral_ventricles(head):
    plexus = places(head, Structure.CHOROID_PLEXUS)
    assert np.isin(head.labels[tuple(plexus.T)], LATERAL_VENTRICLES).all()
    assert np.ptp(np.sign(plexus[:, 0] - middle(head))) == 2


def test_a_varied_plexus_lies_there_too_and_nothing_else_moves(head):
    found = [vary_plexus(head, np.random.default_rng(seed)) for seed in range(6)]
    ventricle = np.isin(head.labels, LATERAL_VENTRICLES)
    for other in found:
        plexus = other.structures == Structure.CHOROID_PLEXUS
        assert plexus.any()
        assert (ventricle | ~plexus).all()
        np.testing.assert_array_equal(other.structures[~ventricle], head.structures[~ventricle])
        assert other.labels is head.labels
    before = (head.structures == Structure.CHOROID_PLEXUS).sum()
    sizes = [(other.structures == Structure.CHOROID_PLEXUS).sum() for other in found]
    assert len(set(sizes)) == len(sizes)
    assert min(sizes) < before < max(sizes)  # the head's own may go


def test_pituitary_and_arteries_lie_at_the_base(head):
    cerebrum = np.argwhere(np.isin(head.labels, CEREBRUM))
    for structure in (Structure.PITUITARY, Structure.BASAL_ARTERY):
        found = places(head, structure)
        assert abs(found[:, 0].mean() - middle(head)) < 4
        assert found[:, 2].mean() < cerebrum[:, 2].mean()


def test_the_same_map_gives_the_same_anatomy_whatever_its_axis_order(tmp_path):
    straight = read_anatomy(write_label_map(tmp_path / "a.nii.gz"))
    turned = reorient(label_map(), AxisOrder((2, 0, 1), (True, False, True)))
    nifti.write(turned, tmp_path / "b.nii.gz")
    other = read_anatomy(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(other.labels, straight.labels)
    np.testing.assert_array_equal(other.structures, straight.structures)


def test_air_around_the_head_is_cropped(tmp_path):
    volume = label_map()
    data = np.pad(volume.data, ((9, 0), (0, 20), (7, 7)))
    nifti.write(Volume(data, make_grid(data.shape, 1.0)), tmp_path / "a.nii.gz")
    head = read_anatomy(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(head.labels[head.labels > 0], data[data > 0])
    occupied = np.ptp(np.argwhere(data > 0), axis=0) + 1
    assert (np.array(head.labels.shape) <= occupied + 8).all()


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("cerebellum", CEREBELLUM),
        ("CSF", (CSF,)),
        ("left cerebrum", LEFT_CEREBRUM),
        ("right cerebrum", RIGHT_CEREBRUM),
    ],
)
def test_a_map_that_lacks_a_part_is_refused_by_name(tmp_path, name, codes):
    volume = label_map()
    data = volume.data.copy()
    data[np.isin(data, codes)] = 16
    nifti.write(volume.with_data(data), tmp_path / "a.nii.gz")
    with pytest.raises(VolumeError, match=rf"a\.nii\.gz: no {name}"):
        read_anatomy(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("spacing_mm", [2.0, 0.9, (1, 1, 1.2)])
def test_voxels_other_than_1_mm_are_refused(tmp_path, spacing_mm):
    with pytest.raises(VolumeError, match="voxels of 1 mm"):
        read_anatomy(write_label_map(tmp_path / "a.nii.gz", spacing_mm=spacing_mm))


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(ReadError):
        read_anatomy(tmp_path / "a.nii.gz")
