"""An entry belongs to its case, recipe and layout; what changed is prepared anew."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from brainmets.cohort import Case, Cohort
from brainmets.config import Recipe
from brainmets.errors import CohortError, GridMismatchError
from brainmets.io import nifti
from brainmets.preprocess.brain import Brain
from brainmets.training import preparing
from brainmets.training.preparing import prepare_cohort
from brainmets.training.store import DEPTH_STEP_MM, open_entry
from phantoms import Ball, make_grid, within
from training_cases import BALLS, write_case

RECIPE = Recipe(spacing_mm=2.0)


@pytest.fixture
def case(tmp_path):
    return write_case(tmp_path, "a")


def prepared(case, store, recipe=RECIPE):
    (only,) = prepare_cohort(Cohort((case,)), recipe, store)
    return loaded(only)


def loaded(case):
    """The same case with its arrays in memory."""
    return replace(case, **{name: getattr(case, name)[:] for name in ("image", "labels", "depth")})


def entries(store):
    return sorted(p.name for p in store.iterdir())


def test_holds_scan_lesions_and_depth_on_one_grid(case, tmp_path):
    found = prepared(case, tmp_path / "store")
    assert found.case_id == "a"
    assert found.image.shape == found.labels.shape == found.depth.shape
    assert (found.image.dtype, found.labels.dtype, found.depth.dtype) == ("f2", "u1", "i1")
    brain = found.depth < 0
    millilitres = 4 / 3 * np.pi * 17 * 18 * 16
    assert brain.sum() * 8 == pytest.approx(millilitres, rel=0.05)
    scores = found.image[found.image != 0].astype(float)
    assert scores.mean() == pytest.approx(0, abs=0.02)
    assert scores.std() == pytest.approx(1, abs=0.02)
    inside = found.image[found.labels > 0].astype(float).mean()
    assert inside > found.image[brain].astype(float).mean() + 1


def test_lesions_are_where_and_as_large_as_in_the_mask(case, tmp_path):
    found = prepared(case, tmp_path / "store", replace(RECIPE, spacing_mm=1.0))
    assert found.labels.max() == len(found.lesions) == len(BALLS)
    brain_centre = np.array(ndimage.center_of_mass(np.asarray(found.depth < 0)))
    for label, centre in enumerate(found.lesions, start=1):
        mask = np.asarray(found.labels == label)
        np.testing.assert_allclose(centre, ndimage.center_of_mass(mask), atol=1)
        ball = min(BALLS, key=lambda b: np.linalg.norm(brain_centre + b.centre_ras_mm - centre))
        np.testing.assert_allclose(brain_centre + ball.centre_ras_mm, centre, atol=1.5)
        assert mask.sum() == pytest.approx(ball.volume_mm3, rel=0.1)


def test_depth_is_the_distance_to_the_brains_surface(case, tmp_path):
    found = prepared(case, tmp_path / "store", replace(RECIPE, spacing_mm=1.0))
    depth = found.depth * DEPTH_STEP_MM
    assert depth.min() == pytest.approx(-15.5, abs=1.5)
    inside = ndimage.distance_transform_edt(depth < 0)
    outside = ndimage.distance_transform_edt(depth >= 0)
    np.testing.assert_allclose(depth, outside - inside, atol=DEPTH_STEP_MM / 2 + 1e-6)


def test_depth_is_that_of_what_the_line_keeps(case, tmp_path, monkeypatch):
    """A model learns from what it will look at: more than the mask, where that is in doubt."""
    kept = nifti.read_labels(case.brain_mask)
    core = kept.with_data(ndimage.binary_erosion(kept.data > 0, iterations=4))
    found = Brain(core, kept.with_data(kept.data > 0), "builtin", "0", "0", ())
    monkeypatch.setattr(preparing, "extract_brain", lambda _: found)
    expected = prepared(case, tmp_path / "given")
    extracted = prepared(replace(case, brain_mask=None), tmp_path / "extracted")
    np.testing.assert_array_equal(extracted.depth, expected.depth)
    np.testing.assert_array_equal(extracted.image, expected.image)


def test_tissue_is_kept_4_mm_around_the_brain(case, tmp_path):
    """And nothing beyond: the skull at 3 to 9 mm is cut at 4."""
    found = prepared(case, tmp_path / "store", replace(RECIPE, spacing_mm=1.0))
    depth = found.depth * DEPTH_STEP_MM
    assert (found.image[depth > 4] == 0).all()
    assert (found.image[(depth > 0) & (depth < 4)] != 0).mean() > 0.95


def test_what_did_not_change_is_kept(case, tmp_path, monkeypatch):
    store = tmp_path / "store"
    first = prepared(case, store)
    monkeypatch.setattr(preparing, "_prepare_case", lambda *_: pytest.fail("prepared again"))
    again = prepared(replace(case, case_id="renamed"), store)
    np.testing.assert_array_equal(again.image, first.image)
    assert again.case_id == "renamed"


@pytest.mark.parametrize("what", ["image", "mask", "brain_mask"])
def test_a_changed_file_is_never_answered_from_an_old_entry(case, tmp_path, what):
    """Under the same name, of the same length."""
    store = tmp_path / "store"
    first = prepared(case, store)
    kept = {k: np.array(getattr(first, k)) for k in ("image", "labels", "depth")}
    path = getattr(case, what)
    volume = nifti.read(path).volume
    grid = volume.grid
    data = volume.data.copy()
    data[within(grid, (2, 9, -2), 5)] = {"image": 400, "mask": 1, "brain_mask": 0}[what]
    nifti.write(volume.with_data(data), path)
    changed = prepared(case, store)
    shows = {"image": "image", "mask": "labels", "brain_mask": "depth"}[what]
    assert not np.array_equal(getattr(changed, shows), kept[shows])
    assert len(entries(store)) == 2


@pytest.mark.parametrize("change", [{"spacing_mm": 1.5}, {"clip_z": 1.0}, {"brain_margin_mm": 1.0}])
def test_another_recipe_has_entries_of_its_own(case, tmp_path, change):
    store = tmp_path / "store"
    prepared(case, store)
    found = prepared(case, store, replace(RECIPE, **change))
    assert len(entries(store)) == 2
    if "clip_z" in change:
        assert np.abs(found.image).max() == 1


def test_another_layout_is_not_read(case, tmp_path, monkeypatch):
    prepared(case, tmp_path / "store")
    monkeypatch.setattr(preparing, "LAYOUT", preparing.LAYOUT + 1)
    prepared(case, tmp_path / "store")
    assert len(entries(tmp_path / "store")) == 2


def test_swapped_masks_are_another_case(case, tmp_path):
    swapped = replace(case, mask=case.brain_mask, brain_mask=case.mask)
    assert preparing._key(swapped, RECIPE, None) != preparing._key(case, RECIPE, None)
    bare = replace(case, brain_mask=None)
    assert preparing._key(bare, RECIPE, None) != preparing._key(case, RECIPE, None)


def test_only_the_target_labels_are_lesions(case, tmp_path):
    mask = nifti.read_labels(case.mask)
    data = mask.data.astype(np.uint8)
    data[: data.shape[0] // 2] *= 2
    nifti.write(mask.with_data(data), case.mask)
    store = tmp_path / "store"
    counts = {}
    for labels in (None, (1,), (2,), (1, 2)):
        (found,) = prepare_cohort(Cohort((case,)), RECIPE, store, target_labels=labels)
        counts[labels] = int((found.labels[:] > 0).sum())
    assert counts[(1,)] + counts[(2,)] == counts[(1, 2)] == counts[None]
    assert min(counts.values()) > 0
    assert len(entries(store)) == 4


def test_a_killed_preparation_goes_on(tmp_path, monkeypatch):
    """Killed while the second case is being written: the first is kept, the rest prepared."""
    cases = tuple(write_case(tmp_path, name, seed=n) for n, name in enumerate("abc"))
    whole = prepare_cohort(Cohort(cases), RECIPE, tmp_path / "straight")
    store = tmp_path / "store"
    save, written = preparing.write_array, []

    def dies(folder, name, array):
        written.append(name)
        if len(written) == 5:  # three arrays a case
            raise KeyboardInterrupt
        save(folder, name, array)

    monkeypatch.setattr(preparing, "write_array", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare_cohort(Cohort(cases), RECIPE, store)
    assert len(entries(store)) == 1
    done = (store / entries(store)[0] / "image.b2nd").stat().st_mtime_ns
    monkeypatch.setattr(preparing, "write_array", save)
    resumed = prepare_cohort(Cohort(cases), RECIPE, store)
    assert entries(store) == entries(tmp_path / "straight")
    for one, other in zip(resumed, whole, strict=True):
        for name in ("image", "labels", "depth"):
            np.testing.assert_array_equal(getattr(one, name)[:], getattr(other, name)[:])
        assert one.lesions == other.lesions
    times = [(store / entry / "image.b2nd").stat().st_mtime_ns for entry in entries(store)]
    assert done in times


def test_a_case_without_lesions_is_stored(tmp_path):
    found = prepared(write_case(tmp_path, "a", balls=()), tmp_path / "store")
    assert found.lesions == ()
    assert not found.labels.any()


def test_two_lesions_that_meet_at_a_corner_are_one(tmp_path):
    case = write_case(tmp_path, "a", balls=())
    mask = nifti.read_labels(case.mask)
    data = mask.data.astype(np.uint8)
    data[16:20, 16:20, 16:20] = data[20:24, 20:24, 20:24] = 1
    nifti.write(mask.with_data(data), case.mask)
    found = prepared(case, tmp_path / "store", replace(RECIPE, spacing_mm=1.0))
    assert len(found.lesions) == 1


def test_any_part_is_what_was_written(case, tmp_path):
    """Across the borders of chunks, single planes, and beyond the end, as numpy gives it."""
    store = tmp_path / "store"
    whole = prepared(case, store, replace(RECIPE, spacing_mm=0.5))
    part = open_entry(store / whole.key, "a")
    assert max(whole.image.shape) > 64
    rng = np.random.default_rng(0)
    for _ in range(50):
        low = [int(rng.integers(n)) for n in whole.image.shape]
        where = tuple(slice(a, a + int(rng.integers(1, 80))) for a in low)
        for name in ("image", "labels", "depth"):
            np.testing.assert_array_equal(getattr(part, name)[where], getattr(whole, name)[where])


def test_the_store_is_smaller_than_its_arrays(case, tmp_path):
    found = prepared(case, tmp_path / "store", replace(RECIPE, spacing_mm=0.5))
    raw = sum(getattr(found, name).nbytes for name in ("image", "labels", "depth"))
    files = (tmp_path / "store" / found.key).iterdir()
    assert sum(file.stat().st_size for file in files) < 0.6 * raw


@pytest.mark.parametrize("damage", ["image.b2nd", "facts.json"])
def test_a_damaged_entry_is_named(case, tmp_path, damage):
    found = prepared(case, tmp_path / "store")
    folder = tmp_path / "store" / found.key
    (folder / damage).write_bytes(b"{")
    with pytest.raises(CohortError, match=r"'a': its entry .* is absent or damaged"):
        open_entry(folder, "a")
    (folder / damage).unlink()
    with pytest.raises(CohortError, match="'a': its entry"):
        open_entry(folder, "a")


def test_progress_counts_the_cases(tmp_path):
    cases = tuple(write_case(tmp_path, name) for name in "ab")
    told = []
    prepare_cohort(
        Cohort(cases), RECIPE, tmp_path / "store", progress=lambda *step: told.append(step)
    )
    assert told == [(1, 2), (2, 2)]


def test_no_case_is_refused(tmp_path):
    with pytest.raises(CohortError, match="no case"):
        prepare_cohort(Cohort(()), RECIPE, tmp_path / "store")


def test_a_case_without_mask_is_refused_by_name(case, tmp_path):
    with pytest.raises(CohortError, match="'a' has no reference mask"):
        prepared(Case("a", case.image), tmp_path / "store")


def test_a_mask_of_another_grid_is_refused_by_name(case, tmp_path):
    mask = nifti.read_labels(case.mask)
    grid = make_grid((40, 40, 40), 1.0, centre_ras_mm=(5, 0, 0))
    nifti.write(replace(mask, data=mask.data.astype(np.uint8), grid=grid), case.mask)
    with pytest.raises(GridMismatchError, match="'a'"):
        prepared(case, tmp_path / "store")
    assert entries(tmp_path / "store") == []


@pytest.mark.slow
def test_several_workers_store_the_same(tmp_path):
    cases = Cohort(tuple(write_case(tmp_path, name, seed=n) for n, name in enumerate("ab")))
    for workers in (1, 2):
        prepare_cohort(cases, RECIPE, tmp_path / str(workers), workers=workers)
    assert entries(tmp_path / "1") == entries(tmp_path / "2")
    for file in (tmp_path / "1").rglob("*.*"):
        other = tmp_path / "2" / file.relative_to(tmp_path / "1")
        assert other.read_bytes() == file.read_bytes()
        if file.suffix == ".json":
            assert len(json.loads(file.read_text("utf-8"))) == len(BALLS)


def test_a_ball_across_the_margin_is_cut_not_lost(tmp_path):
    """A lesion that leaves the brain keeps the part within reach."""
    case = write_case(tmp_path, "a", balls=(Ball((17, 0, 0), 5, 90),))
    found = prepared(case, tmp_path / "store")
    assert len(found.lesions) == 1
    assert (np.asarray(found.depth)[found.labels > 0] > 0).any()
