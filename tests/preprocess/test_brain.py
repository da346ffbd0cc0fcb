from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_fill_holes, gaussian_filter, label

from brainmets.errors import BundleError, ConfigError, GridMismatchError, VolumeError
from brainmets.network.strip_sizes import StripSizes
from brainmets.network.synthstrip import SynthStrip
from brainmets.preprocess import brain
from brainmets.preprocess.brain import _background, conform, extract_brain, given_mask
from brainmets.volume import AxisOrder, Grid, Volume, apply, reorient

SPACING = 4.0


def ellipsoid(shape, radii_mm, offset_mm=(0, 0, 0), spacing=SPACING):
    axes = [
        ((np.arange(n) - (n - 1) / 2) * spacing - o) / r
        for n, r, o in zip(shape, radii_mm, offset_mm, strict=True)
    ]
    return sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij")) < 1


def volume_of(data, spacing=SPACING):
    return Volume(np.asarray(data, np.float32), Grid(data.shape, np.diag([spacing] * 3 + [1.0])))


@pytest.fixture(scope="module")
def head():
    """Scalp, skull and brain as ellipsoids, with noise; and the brain in it."""
    shape = (50, 60, 52)
    scalp, skull = ellipsoid(shape, (82, 102, 88)), ellipsoid(shape, (76, 96, 82))
    inner = ellipsoid(shape, (68, 86, 73))
    image = 900.0 * scalp - 850.0 * skull + 450.0 * inner
    rng = np.random.default_rng(3)
    image = gaussian_filter(image, 0.5) + 60 * inner * gaussian_filter(rng.normal(size=shape), 1)
    return volume_of(np.abs(image + rng.normal(0, 8, shape))), inner


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def test_builtin_finds_the_brain_of_a_phantom(head):
    scan, inner = head
    found = extract_brain(scan)
    assert found.extractor == "builtin"
    assert len(found.sha256) == 64
    assert dice(found.mask.data, inner) > 0.85
    assert found.mask.data.dtype == bool
    assert found.mask.grid.agrees(scan.grid)


def test_mask_does_not_depend_on_how_the_array_is_stored(head):
    scan, _ = head
    expected = extract_brain(scan).mask.data
    all_flips = list(product((False, True), repeat=3))
    for number, axes in enumerate(list(permutations(range(3)))[1::2]):
        flips = all_flips[2 * number + 1]
        order = AxisOrder(axes, flips)
        found = extract_brain(reorient(scan, order)).mask
        np.testing.assert_array_equal(order.backward(found.data), expected)


def test_tilting_the_header_tilts_the_mask_with_it(head):
    scan, _ = head
    angle = np.deg2rad(25)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilted = Volume(scan.data, Grid(scan.grid.shape, turn @ scan.grid.affine))
    np.testing.assert_array_equal(extract_brain(tilted).mask.data, extract_brain(scan).mask.data)


def test_scaling_the_grey_values_changes_nothing(head):
    scan, _ = head
    brighter = scan.with_data(scan.data * 4 - 512)
    np.testing.assert_array_equal(
        extract_brain(brighter, extractor="builtin").mask.data,
        extract_brain(scan, extractor="builtin").mask.data,
    )


def test_the_scan_is_not_modified_and_answers_repeat(head):
    scan, _ = head
    before = scan.data.copy()
    first, second = extract_brain(scan), extract_brain(scan)
    np.testing.assert_array_equal(scan.data, before)
    np.testing.assert_array_equal(first.mask.data, second.mask.data)


# --- skull off already ----------------------------------------------------------


@pytest.mark.parametrize("background", [0.0, -3.5])
def test_a_stripped_scan_is_recognised_and_kept_whole(head, background):
    scan, inner = head
    data = np.where(inner, scan.data, background)
    data[25, 30, 26] = background  # a voxel of background's value inside is no hole
    found = extract_brain(volume_of(data))
    assert found.extractor == "already stripped"
    assert found.sha256 is None
    np.testing.assert_array_equal(found.mask.data, inner)


def test_the_background_is_what_most_of_the_six_faces_have(head):
    """Also where one pair of faces has nothing of it."""
    scan, inner = head
    data = np.where(inner, scan.data, -2.0)
    data[[0, -1]] = 7.0
    assert _background(data) == -2.0
    assert _background(np.asfortranarray(data).transpose(1, 2, 0)) == -2.0


def test_a_head_on_exact_zeros_is_not_taken_for_stripped(head):
    scan, _ = head
    scalp = ellipsoid(scan.grid.shape, (82, 102, 88))
    assert extract_brain(scan.with_data(scan.data * scalp)).extractor == "builtin"


def test_a_head_cut_at_the_base_is_not_taken_for_stripped(head):
    """What is left has a brain's volume, but shows a large face at the field's edge."""
    scan, _ = head
    scalp = ellipsoid(scan.grid.shape, (82, 102, 88))
    assert extract_brain(volume_of((scan.data * scalp)[:, :, 22:])).extractor == "builtin"


def test_none_takes_all_but_the_background(head):
    scan, _ = head
    scalp = ellipsoid(scan.grid.shape, (82, 102, 88))
    found = extract_brain(scan.with_data(scan.data * scalp), extractor="none")
    assert found.extractor == "already stripped"
    np.testing.assert_array_equal(found.mask.data, scalp)
    assert "litres" in found.notes[0]


# --- SynthStrip's line ----------------------------------------------------------


def thresholding_state():
    """SynthStrip's names and shapes; the distance is 5 − 10 × image: below 1 mm from 0.4 up."""
    state = {name: torch.zeros_like(value) for name, value in SynthStrip().state_dict().items()}
    for name in ("encoder.0.0", "encoder.0.1", "remaining.1"):
        state[f"{name}.conv.weight"][0, 0, 1, 1, 1] = 1
    state["remaining.0.conv.weight"][0, 32, 1, 1, 1] = 1
    state["remaining.2.conv.weight"][0, 0, 1, 1, 1] = -10
    state["remaining.2.conv.bias"][0] = 5
    return state


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model_state_dict": thresholding_state()}, path)
    return path


def blocks():
    """Two bright blocks, the larger one hollow, in 1 mm voxels."""
    data = np.full((90, 84, 70), 10, np.float32)
    data[5:65, 10:70, 8:58] = 110  # more than 1 % of what is conformed to 192³
    data[15:25, 20:30, 15:25] = 10
    data[75:85, 10:20, 10:20] = 110
    return data


def slow_reference(data):
    """Threshold, largest component, holes filled, by other means."""
    pieces, count = label(data > 0.4 * 110)
    sizes = [np.count_nonzero(pieces == n + 1) for n in range(count)]
    return binary_fill_holes(pieces == 1 + int(np.argmax(sizes)))


def test_synthstrip_path_conforms_cuts_and_fills(checkpoint, monkeypatch):
    """With the network replaced by what ``thresholding_state`` computes, to be quick."""
    monkeypatch.setattr(brain, "_distances", lambda _, image: (5 - 10 * image)[None])
    scan = volume_of(blocks(), spacing=1.0)
    found = extract_brain(scan, weights=checkpoint)
    assert (found.extractor, found.version) == ("synthstrip", "1")
    assert len(found.sha256) == 64
    np.testing.assert_array_equal(found.mask.data, slow_reference(scan.data))


@pytest.mark.slow
def test_synthstrip_path_with_the_whole_network(checkpoint):
    scan = volume_of(blocks(), spacing=1.0)
    found = extract_brain(scan, extractor="synthstrip", weights=checkpoint)
    np.testing.assert_array_equal(found.mask.data, slow_reference(scan.data))


def slow_synthstrip(data):
    """A 1 mm scan in RAS order, step by step: what the network gets, and what becomes of it."""
    occupied = np.argwhere(data != 0)
    low, high = occupied.min(0), occupied.max(0) + 1
    sides = [
        min(max(64 * int(np.ceil((b - a) / 64)), 192), 320) for a, b in zip(low, high, strict=True)
    ]
    image = np.zeros(sides, np.float64)
    start = [a - (side - (b - a)) // 2 for a, b, side in zip(low, high, sides, strict=True)]
    for place in np.ndindex(*data.shape):
        there = tuple(p - s for p, s in zip(place, start, strict=True))
        if all(0 <= t < side for t, side in zip(there, sides, strict=True)):
            image[there] = data[place]
    image -= image.min()
    values = np.sort(image, axis=None)
    rank = 0.99 * (len(values) - 1)
    below = int(rank)
    top = values[below] + (rank - below) * (values[below + 1] - values[below])
    return np.minimum(image / top, 1).transpose(0, 2, 1)[::-1, ::-1], start


def test_what_the_network_gets_is_what_the_description_says(checkpoint, monkeypatch):
    """Conformed, scaled and turned, against a reference in plain loops; a lopsided scan."""
    seen = []
    monkeypatch.setattr(
        brain, "_distances", lambda _, image: seen.append(image) or (5 - 10 * image)[None]
    )
    data = np.zeros((70, 60, 75), np.float32)  # more than 1 % of what is conformed to 192³
    data[3:65, 5:58, 2:66] = np.random.default_rng(4).gamma(3, 40, (62, 53, 64))
    extract_brain(volume_of(data, spacing=1.0), weights=checkpoint)
    expected, _ = slow_synthstrip(data)
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)


def test_the_mask_is_what_lies_below_the_border_largest_piece_filled(checkpoint, monkeypatch):
    """Distances come back to the scan's voxels; what the network did not see is 100 mm away."""
    rng = np.random.default_rng(5)
    data = rng.gamma(3, 40, (30, 30, 340)).astype(np.float32)  # longer than 320
    field = gaussian_filter(rng.normal(size=(192, 320, 192)), 4).astype(np.float32) * 60
    field = np.rint(field * 4) / 4 + np.float32(0.1)  # no distance is the border itself
    monkeypatch.setattr(brain, "_distances", lambda *_: field[None])
    found = extract_brain(volume_of(data, spacing=1.0), weights=checkpoint).mask.data
    in_ras = field[::-1, ::-1].transpose(0, 2, 1)
    _, start = slow_synthstrip(data)
    distance = np.full(data.shape, 100.0)
    for place in np.argwhere(np.ones(data.shape, bool)):
        there = place - start
        if ((there >= 0) & (there < in_ras.shape)).all():
            distance[tuple(place)] = in_ras[tuple(there)]
    pieces, _ = label(distance < 1)
    largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    np.testing.assert_array_equal(found, binary_fill_holes(largest))


def test_network_gets_voxels_in_lia_order(checkpoint, monkeypatch):
    """Voxel (i, j, k) of the input lies i to the left, j down and k to the front."""
    seen = []
    monkeypatch.setattr(
        brain, "_distances", lambda _, image: seen.append(image) or (5 - 10 * image)[None]
    )
    data = blocks()
    extract_brain(volume_of(data, spacing=1.0), weights=checkpoint)
    assert seen[0].shape == (192, 192, 192)
    found = np.argwhere(seen[0] == 1)
    expected = np.argwhere((data == 110).transpose(0, 2, 1)[::-1, ::-1])  # RAS to LIA
    np.testing.assert_array_equal(found - found.min(0), expected - expected.min(0))


@pytest.mark.parametrize("shape", [(40, 50, 60), (90, 80, 20)])
def test_conform_keeps_positions_and_gives_fitting_sides(shape):
    rng = np.random.default_rng(1)
    affine = np.diag([2.2, 1.9, 6.5, 1.0])
    affine[:3, 3] = rng.normal(0, 30, 3)
    scan = Volume(rng.uniform(1, 2, shape).astype(np.float32), Grid(shape, affine))
    fitted = conform(scan)
    assert all(n % 64 == 0 and 192 <= n <= 320 for n in fitted.data.shape)
    assert fitted.grid.spacing_mm == pytest.approx((1, 1, 1))
    places = np.argwhere(fitted.data > 0)[::997]
    back = apply(np.linalg.inv(affine) @ fitted.grid.affine, places)
    clear = (np.abs(back % 1 - 0.5) > 1e-3).all(axis=1)  # half-way, either neighbour will do
    places, back = places[clear], back[clear]
    nearest = np.clip(np.rint(back), 0, np.array(shape) - 1).astype(int)
    np.testing.assert_array_equal(fitted.data[tuple(places.T)], scan.data[tuple(nearest.T)])


def test_a_checkpoint_of_another_network_is_refused(tmp_path, head):
    for number, content in enumerate(({"model_state_dict": {}}, {"other": 1}, [1])):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        with pytest.raises(BundleError, match="model_state_dict"):
            extract_brain(head[0], extractor="synthstrip", weights=path)
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(BundleError, match="model_state_dict"):
        extract_brain(head[0], extractor="synthstrip", weights=tmp_path / "text.pt")
    with pytest.raises(BundleError, match="no such file"):
        extract_brain(head[0], extractor="synthstrip", weights=tmp_path / "absent.pt")


# --- what cannot be used ----------------------------------------------------------


@pytest.mark.parametrize("extractor", ["auto", "builtin", "synthstrip", "none"])
def test_a_constant_image_is_refused(extractor):
    with pytest.raises(VolumeError, match=r"every voxel of the scan is 3\.0"):
        extract_brain(volume_of(np.full((20, 20, 20), 3.0)), extractor=extractor)


def test_voxels_that_are_no_numbers_are_refused():
    data = np.zeros((20, 20, 20))
    data[3, 3, 3] = np.nan
    with pytest.raises(VolumeError, match="NaN"):
        extract_brain(volume_of(data))


def test_a_choice_of_extractor_is_named_by_what_its_masks_depend_on(tmp_path, monkeypatch):
    monkeypatch.setattr(brain, "cached_path", lambda _: tmp_path / "absent.pt")
    assert brain.AUTO.identity == f"auto {brain.builtin_sha256()}"
    assert brain.Extractor("none").identity == "none"
    assert "not there" in brain.Extractor("synthstrip").identity
    (tmp_path / "one.pt").write_bytes(b"1")
    (tmp_path / "two.pt").write_bytes(b"2")
    chosen = [brain.Extractor("synthstrip", tmp_path / f"{n}.pt") for n in ("one", "two")]
    assert chosen[0].identity != chosen[1].identity


class SeesTwoBrains:
    """Stands in for a network that takes a neck far below for a second brain."""

    sizes = StripSizes(levels=2, fields=2)

    def distances(self, image):
        """Two balls: a neck and a brain."""
        axes = np.ogrid[tuple(slice(n) for n in image.shape)]
        low, high = ((*((n - 1) / 2 for n in image.shape[:2]), z) for z in (25, 120))
        away = [
            np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))) - radius
            for centre, radius in ((low, 10), (high, 30))
        ]
        likely = np.minimum(*away).astype(np.float32)
        return np.stack([likely, likely - 1])

    def release(self):
        """Remember it."""
        self.is_released = True


@pytest.mark.parametrize(("spacing_mm", "pieces"), [(2.0, 1), (1.0, 2)])
def test_what_lies_farther_off_than_training_reached_is_no_brain(spacing_mm, pieces):
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1])
    scan = Volume(np.zeros((64, 64, 160), np.float32), Grid((64, 64, 160), affine))
    network = SeesTwoBrains()
    found = brain.find_surfaces(scan, network, spacing_mm)
    assert label(found.brain.data < 0)[1] == label(found.outer.data < 0)[1] == pieces
    seen = np.abs(found.brain.data) < 20
    np.testing.assert_allclose((found.brain.data - found.outer.data)[seen], 1, atol=1e-4)
    assert found.mirrored == 0
    assert network.is_released


def test_the_mask_ends_at_the_likeliest_surface_and_what_is_kept_at_the_outer_one(
    head, monkeypatch
):
    """Each distance is cut at its own border; what is kept holds the mask in any case."""
    scan, inner = head
    card = {"spacing_mm": 4.0, "border_mm": 0.25, "outer_border_mm": 1.5, "version": "0"}
    likely = scan.with_data(np.where(inner, 0.0, 0.5).astype(np.float32))
    outer = scan.with_data(np.where(ellipsoid(inner.shape, (72, 90, 77)), 1.0, 2.0))
    outer.data[:26] = 2
    monkeypatch.setattr(brain, "builtin", lambda *_: (None, card))
    monkeypatch.setattr(brain, "find_surfaces", lambda *_: brain.Surfaces(likely, outer, 0.0))
    found = extract_brain(scan, extractor="builtin")
    np.testing.assert_array_equal(found.mask.data, inner)
    np.testing.assert_array_equal(found.kept.data, inner | (outer.data < 1.5))


def test_what_is_kept_hangs_together_with_the_mask(head):
    """A larger piece elsewhere is left out, a hole is filled, and an empty field adds nothing."""
    _, inner = head
    outer = np.zeros_like(inner)
    outer[:, :, :8] = True  # a neck
    outer |= ellipsoid(inner.shape, (72, 90, 77))
    outer[:, :, 6:9] = False
    core = ellipsoid(inner.shape, (20, 20, 20))
    mask = inner & ~core
    outer &= ~core
    expected = ellipsoid(inner.shape, (72, 90, 77))
    expected[:, :, :9] = False
    np.testing.assert_array_equal(brain.held(mask, outer), expected | inner)
    np.testing.assert_array_equal(brain.held(inner, np.zeros_like(inner)), inner)


def test_more_is_kept_of_an_extraction_than_its_mask(head):
    found = extract_brain(head[0])
    assert found.kept.data.sum() > found.mask.data.sum()


def test_cutting_a_field_gives_the_same_mask_as_cutting_all_of_it(head):
    """Only a part is interpolated; a mask that reaches the field's edge is no exception."""
    scan, _ = head
    rng = np.random.default_rng(1)
    coarse = brain.resample(scan, 7.0)
    for shift in (-3.0, 0.0, 3.0):
        field = gaussian_filter(rng.normal(size=coarse.data.shape), 2) * 60 + shift
        distance = coarse.with_data(field.astype(np.float32))
        whole = brain._solid(brain._onto(distance, scan.grid) < 1.0)
        np.testing.assert_array_equal(brain.cut(distance, 1.0, scan.grid), whole)


def test_an_unknown_extractor_is_refused(head):
    with pytest.raises(ConfigError, match="auto, builtin, synthstrip, none"):
        extract_brain(head[0], extractor="hd-bet")


def test_weights_for_an_extractor_that_takes_none_are_refused(head, tmp_path):
    with pytest.raises(ConfigError, match="takes no weights"):
        extract_brain(head[0], extractor="builtin", weights=tmp_path)


def test_damaged_builtin_weights_are_noticed(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "extractor.json").write_text('{"sha256": "00"}')
    (tmp_path / "models" / "extractor.safetensors").write_bytes(b"cut")
    monkeypatch.setattr(brain, "files", lambda _: tmp_path)
    with pytest.raises(BundleError, match="install brainmets again"):
        brain.builtin.__wrapped__()


# --- masks made elsewhere, and notes on masks ----------------------------------------


def test_a_given_mask_is_taken_as_it_is(head):
    scan, inner = head
    found = given_mask(scan, scan.with_data(inner * 7))
    assert (found.extractor, found.sha256, found.notes) == ("given mask", None, ())
    np.testing.assert_array_equal(found.kept.data, inner)
    np.testing.assert_array_equal(found.mask.data, inner)


def test_a_given_mask_must_lie_on_the_scan_and_not_be_empty(head):
    scan, inner = head
    with pytest.raises(GridMismatchError, match="brain mask and scan"):
        given_mask(scan, volume_of(inner, spacing=3.0))
    with pytest.raises(VolumeError, match="empty"):
        given_mask(scan, scan.with_data(inner * 0))


# --- real scans ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "scans/met_00110/BraTS-MET-00110-000-t1c.nii.gz",
        "scans/glioma_01/t1c_zscored.nii.gz",
        "scans/glioma_03/t1c_zscored.nii.gz",
        "scans/glioma_05/t1c_zscored.nii.gz",
    ],
)
def test_real_stripped_scans_are_recognised(data_folder, name):
    from brainmets.io.nifti import read

    scan = read(data_folder / name).volume
    found = extract_brain(scan)
    assert found.extractor == "already stripped"
    assert found.mask.data[scan.data != scan.data[0, 0, 0]].mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mask", "least"),
    [
        *[(f"heads/nichart/Subj{n}_T1", f"heads/nichart/Subj{n}_T1_DLMUSE", 0.8) for n in (1, 5)],
        ("scans/head_fg6692/t1c", "scans/head_fg6692/brainmask", 0.88),
        ("scans/head_thick/t1c", "scans/head_thick/labels", 0),
    ],
)
def test_real_heads_keep_their_brain(data_folder, name, mask, least):
    from brainmets.io.nifti import read, read_labels

    scan = read(data_folder / f"{name}.nii.gz").volume
    reference = read_labels(data_folder / f"{mask}.nii.gz").data > 0
    found = extract_brain(scan)
    assert found.extractor == "builtin"
    assert found.kept.data[reference].mean() > 0.98
    assert dice(found.mask.data, reference) > least
