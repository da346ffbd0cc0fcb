"""Regions lie in the scan where the label map has them."""

import numpy as np
import pytest

from brainmets.simulate.anatomy import Anatomy, read_anatomy
from brainmets.simulate.regions import REGIONS, regions_of
from brainmets.simulate.scanner import AXIAL_LPS, CORONAL, Protocol, acquire_truth
from label_heads import write_label_map


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return read_anatomy(write_label_map(tmp_path_factory.mktemp("head") / "small.nii.gz"))


def straight(order, spacing=(1.0, 1.0, 1.0), tilt=(0.0, 0.0, 0.0)):
    return Protocol(spacing, order, tilt, noise=0.0, bias=0.0)


@pytest.mark.parametrize("order", [AXIAL_LPS, CORONAL])
def test_each_region_is_where_its_codes_are(head, order):
    protocol = straight(order)
    regions = regions_of(head, protocol)
    for number, codes in enumerate(REGIONS.values(), start=1):
        own = acquire_truth(np.isin(head.labels, codes).astype(np.float32), protocol)
        assert regions.grid == own.grid
        np.testing.assert_array_equal(regions.data == number, own.data > 0)
        assert own.data.sum() == np.isin(head.labels, codes).sum()


def test_thick_slices_and_tilt_keep_the_volume_of_large_regions(head):
    protocol = straight(AXIAL_LPS, (0.9, 0.9, 4.0), (6.0, -5.0, 4.0))
    regions = regions_of(head, protocol)
    white = list(REGIONS).index("white matter") + 1
    volume = (regions.data == white).sum() * regions.grid.voxel_volume_mm3
    expected = np.isin(head.labels, REGIONS["white matter"]).sum()
    assert volume == pytest.approx(expected, rel=0.1)


def test_no_code_is_in_two_regions():
    codes = [code for region in REGIONS.values() for code in region]
    assert len(codes) == len(set(codes))


def test_nothing_lies_in_a_region_outside_brain_tissue():
    air = Anatomy(np.zeros((8, 8, 8), np.int16), np.zeros((8, 8, 8), np.uint8))
    assert not regions_of(air, straight(AXIAL_LPS)).data.any()
