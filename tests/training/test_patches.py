"""Patches are a function of (seed, step), see all lesions alike, keep image and truth together."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from brainmets.config import Training
from brainmets.training import patches
from brainmets.training.augment import augment, vary
from brainmets.training.patches import draw, draw_batch, drawn_ahead
from brainmets.training.preparing import score_levels
from brainmets.training.store import DEPTH_STEP_MM
from training_cases import prepared_case

TRAINING = Training(batch=2, patch_vox=32, lesion_share=1.0, seed=3)


def unchanged(**but):
    """A stand-in for ``vary``: patches as they lie in the store, mirrored, but for ``but``."""
    even = np.zeros((2, 2, 2), np.float32)
    still = {
        "matrix": None, "shifts": None, "waves_mm": even, "gain": 1.0, "offset": 0.0, "gamma": 1.0,
        "field": None, "blur_vox": (0, 0, 0), "coarse": (1, 1, 1), "noise": 0.0,
    }  # fmt: skip
    return lambda training, rng: replace(vary(training, rng), **{**still, **but})


@pytest.fixture
def plain(monkeypatch):
    """No change of contrast, and no mask that cuts: patches as they lie in the store."""
    everywhere = np.full((2, 2, 2), 100, np.float32)
    monkeypatch.setattr(patches, "vary", unchanged(waves_mm=everywhere))


def batches(cases, training=TRAINING, steps=range(30)):
    return [draw_batch(cases, training, step) for step in steps]


def same(one, other):
    pairs = ((one.image, other.image), (one.target, other.target), (one.weight, other.weight))
    return all(torch.equal(a, b) for a, b in pairs)


def coded(shape=(48, 40, 44), fill=None):
    """A case whose grey values name their voxel (small whole numbers, exact in float16)."""
    case = prepared_case(shape)
    image = np.random.default_rng(1).integers(1, 2000, shape).astype(np.float16)
    return replace(case, image=image if fill is None else np.full(shape, fill, np.float16))


def test_the_same_seed_and_step_give_the_same_batch():
    cases = [prepared_case(seed=s, name=str(s)) for s in range(3)]
    later = draw_batch(cases, TRAINING, 7)  # whatever was drawn before
    batches(cases, steps=range(3))
    assert same(draw_batch(cases, TRAINING, 7), later)


def test_another_seed_or_step_gives_another_batch():
    cases = [prepared_case(seed=s, name=str(s)) for s in range(3)]
    first = draw_batch(cases, TRAINING, 7)
    assert not same(draw_batch(cases, TRAINING, 8), first)
    assert not same(draw_batch(cases, replace(TRAINING, seed=4), 7), first)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_that_draw_ahead_give_the_same_batches_in_order(workers):
    cases = [prepared_case(seed=s, name=str(s)) for s in range(3)]
    ahead = list(drawn_ahead(cases, TRAINING, range(4, 9), workers))
    assert len(ahead) == 5
    for step, batch in zip(range(4, 9), ahead, strict=True):
        assert same(batch, draw_batch(cases, TRAINING, step))


def test_drawing_leaves_the_global_generators_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    draw_batch([prepared_case()], TRAINING, 0)
    assert torch.equal(torch.rand(3), expected)


def test_shapes_and_types():
    batch = draw_batch([prepared_case()], replace(TRAINING, batch=3), 0)
    for tensor in (batch.image, batch.target, batch.weight):
        assert tensor.shape == (3, 1, 32, 32, 32)
        assert tensor.dtype == torch.float32
    assert set(batch.target.unique().tolist()) <= {0.0, 1.0}


def test_each_patch_of_a_batch_comes_from_a_case_of_its_own(plain):
    cases = [replace(coded(fill=n), lesions=()) for n in range(1, 6)]
    for batch in batches(cases, replace(TRAINING, batch=5), range(5)):
        assert sorted(batch.image.amax((1, 2, 3, 4)).tolist()) == [1, 2, 3, 4, 5]


def test_few_cases_serve_a_larger_batch():
    assert draw_batch([prepared_case()], replace(TRAINING, batch=4), 0).image.shape[0] == 4


def test_flips_keep_image_and_target_together(plain):
    """Bright voxels are the target's, in every patch, and all eight flips occur."""
    case = prepared_case((33, 33, 33), ((12, 14, 16),))
    image = np.zeros(case.image.shape, np.float16)
    image[case.labels > 0] = 7
    image[13, 14, 16] = 8  # off the centre, so that each flip shows
    case = replace(case, image=image)
    for batch in batches([case]):
        assert torch.equal(batch.image > 6, batch.target > 0)
        assert torch.equal(batch.weight > 1, batch.target > 0)
    places = {
        tuple((b.image[n, 0] == 8).nonzero()[0].tolist() > np.array([15, 15, 15]))
        for b in batches([case], steps=range(60))
        for n in range(2)
    }
    assert len(places) == 8


def test_patches_are_cut_from_the_image(plain):
    """Every patch, flipped back, is a block of the stored image."""
    case = coded()
    places = {int(v): i for i, v in enumerate(case.image.flat)}
    assert len(places) > 1000
    windows = np.lib.stride_tricks.sliding_window_view(case.image, (32, 32, 32))
    for batch in batches([case], steps=range(4)):
        for patch in batch.image[:, 0].numpy():
            turned = [
                np.flip(patch, axes) for axes in ((), 0, 1, 2, (0, 1), (0, 2), (1, 2), (0, 1, 2))
            ]
            corners = [np.argwhere(windows[..., 0, 0, 0] == t[0, 0, 0]) for t in turned]
            assert any(
                np.array_equal(windows[tuple(corner)], t)
                for t, found in zip(turned, corners, strict=True)
                for corner in found
            )


def test_a_case_smaller_than_the_patch_is_padded_with_nothing_to_see(monkeypatch):
    """The whole case is in each patch, once; around it all is 0 and weighs 1."""
    monkeypatch.setattr(patches, "vary", unchanged(offset=5.0))
    case = prepared_case((20, 24, 36), ((3, 4, 5),))
    count = int((case.labels > 0).sum())
    for batch in batches([case]):
        for n in range(2):
            seen = batch.image[n, 0] != 0
            assert seen.sum() <= 20 * 24 * 32
            assert seen.any(2).any(1).sum() == 20
            assert seen.any(2).any(0).sum() == 24
            outside = ~seen
            assert (batch.target[n, 0][outside] == 0).all()
            assert (batch.weight[n, 0][outside] == 1).all()
            assert batch.target[n].sum() in (count, 0)


def test_lesions_are_drawn_alike_whatever_their_size(plain):
    """A lesion of 1 voxel beside one of thousands: each is the centre of half the patches."""
    shape = (200, 40, 40)
    labels = np.zeros(shape, np.uint8)
    labels[5:35, 5:35, 5:35] = 1
    labels[180, 20, 20] = 2
    case = prepared_case(shape)
    case = replace(
        case, labels=labels, image=labels.astype(np.float16), lesions=((20, 20, 20), (180, 20, 20))
    )
    counts = Counter(
        float(patch.max()) for b in batches([case], steps=range(150)) for patch in b.image
    )
    assert set(counts) == {1.0, 2.0}
    assert abs(counts[2.0] - 150) < 4 * np.sqrt(300 / 4)


def test_the_drawn_lesion_lies_in_the_patch_also_at_the_volumes_corner(plain):
    case = prepared_case((50, 60, 70), ((0, 0, 0), (49, 59, 69)), radius=0)
    for batch in batches([case]):
        assert (batch.target.amax((1, 2, 3, 4)) == 1).all()


def test_the_stated_share_of_patches_is_drawn_near_lesions(plain):
    """In a volume where a random patch rarely meets the lesion."""
    case = prepared_case((300, 40, 40), ((290, 20, 20),), radius=0)
    training = replace(TRAINING, lesion_share=0.6)
    near = sum(
        int(b.target[n].any()) for b in batches([case], training, range(150)) for n in (0, 1)
    )
    chance = 0.6 + 0.4 * 26 / 300  # centres within 16 of a lesion 10 from the end
    assert abs(near - 300 * chance) < 4 * np.sqrt(300 * 0.6 * 0.4)


def test_the_mask_hides_image_and_target_alike(monkeypatch):
    """What lies deeper outside the brain than the mask reaches is 0 in both."""
    monkeypatch.setattr(patches, "vary", unchanged(offset=100.0, level_mm=0.5))
    case = prepared_case((32, 32, 32), ((16, 16, 16),), radius=6)
    depth = np.empty((32, 32, 32), np.int8)
    depth[:] = np.arange(-16, 16)  # steps of 0.25 mm: visible up to 2
    case = replace(case, depth=depth)
    visible = int((depth * DEPTH_STEP_MM <= 0.5).sum())
    hidden_lesion = int(((case.labels > 0) & (depth <= 2)).sum())
    assert hidden_lesion < (case.labels > 0).sum()
    for batch in batches([case]):
        for n in range(2):
            assert int((batch.image[n] != 0).sum()) == visible
            assert int(batch.target[n].sum()) == hidden_lesion
            assert (batch.weight[n][batch.target[n] == 0] == 1).all()


def test_the_masks_surface_varies_between_its_limits(monkeypatch):
    """Masks end 1 mm inside to 4 mm outside the brain, and not everywhere alike."""
    rng = np.random.default_rng(0)
    waves = [vary(TRAINING, rng).waves_mm for _ in range(50)]
    assert np.mean([w.std() > 0.1 for w in waves]) > 0.5
    monkeypatch.setattr(patches, "vary", unchanged(offset=100.0))
    depth = np.empty((32, 32, 32), np.int8)
    depth[:] = np.arange(-8, 24)  # 2 mm inside to 6 mm outside, in steps of 0.25 mm
    case = replace(prepared_case((32, 32, 32)), depth=depth)
    ends = [int((batch.image[0] != 0).sum()) / 32**2 for batch in batches([case])]
    assert min(ends) >= 4
    assert max(ends) <= 25
    assert max(ends) - min(ends) > 12


def test_scores_are_those_of_the_mask_the_patch_shows(monkeypatch):
    """Mean 0 and deviation 1 within the visible mask, as normalisation gives in use."""
    monkeypatch.setattr(patches, "vary", unchanged())
    rng = np.random.default_rng(2)
    depth = np.empty((32, 32, 32), np.int8)
    depth[:] = np.arange(-8, 24)
    image = (3 + 0.2 * depth + rng.standard_normal(depth.shape)).astype(np.float16)
    levels = tuple(score_levels(image, depth))
    case = replace(prepared_case((32, 32, 32)), depth=depth, image=image, levels=levels)
    for batch in batches([case], steps=range(10)):
        shown = batch.image[0][batch.image[0] != 0]
        assert abs(float(shown.mean())) < 0.1
        assert abs(float(shown.std()) - 1) < 0.1


def test_a_gpu_is_given_what_it_augments_itself():
    """Read by other processes, augmented by the device: the same batch as in one go."""
    cases = [prepared_case(seed=s, name=str(s)) for s in range(3)]
    crops = draw(cases, TRAINING, 4)
    assert same(augment(crops, TRAINING, "cpu"), draw_batch(cases, TRAINING, 4))


@pytest.mark.parametrize("turned", [False, True])
def test_the_drawn_lesion_lies_in_the_patch_however_it_is_turned(monkeypatch, turned):
    deformed = replace(TRAINING, deform_share=1.0 if turned else 0.0)
    case = prepared_case((90, 96, 92), ((45, 48, 46),), radius=1)
    for step in range(40):
        batch = draw_batch([case], deformed, step)
        assert (batch.target.amax((1, 2, 3, 4)) == 1).all()


def with_brain(shape=(48, 48, 48), **options):
    """A case of sheets of fluid in white matter, all of it brain, without lesions."""
    case = prepared_case(shape, **options)
    image = np.where(np.indices(shape)[0] % 12 == 0, -2.0, 1.0).astype(np.float16)
    inside = np.full(shape, -40, np.int8)
    return replace(case, image=image, depth=inside, labels=np.zeros(shape, np.uint8), lesions=())


def test_pasted_metastases_are_lesions_of_the_batch(plain):
    cases = [with_brain(), with_brain()]
    pasting = replace(TRAINING, paste_share=1.0)
    seen = [float(draw_batch(cases, pasting, step).target.sum()) for step in range(12)]
    assert sum(count > 0 for count in seen) > 9
    assert not any(float(draw_batch(cases, TRAINING, step).target.sum()) for step in range(12))


def test_pasting_is_a_function_of_seed_and_step_and_as_frequent_as_asked():
    cases = [with_brain(), with_brain()]
    pasting = replace(TRAINING, paste_share=0.5)
    assert all(
        same(draw_batch(cases, pasting, step), draw_batch(cases, pasting, step))
        for step in range(4)
    )
    pasted = [(crop.labels > 0).any() for step in range(60) for crop in draw(cases, pasting, step)]
    assert 0.3 < np.mean(pasted) < 0.65


def test_lesions_that_are_there_keep_their_numbers_when_others_are_pasted():
    case = with_brain()
    labels = np.zeros((48, 48, 48), np.uint8)
    labels[20:24, 20:24, 20:24], labels[40:42, 40:42, 40:42] = 1, 2
    cases = [replace(case, labels=labels)] * 2
    for step in range(8):
        old, new = (
            draw(cases, replace(TRAINING, paste_share=share, deform_share=0.0), step)
            for share in (1e-12, 1.0)
        )
        for before, after in zip(old, new, strict=True):
            there = before.labels > 0
            np.testing.assert_array_equal(after.labels[there], before.labels[there])
            added = after.labels[~there & (after.labels > 0)]
            assert not added.size or added.min() > before.labels.max()


def pasted_and_not(case, steps):
    """Crops of the same places, with metastases pasted and without."""
    for step in range(steps):
        without, with_them = (
            draw([case] * 2, replace(TRAINING, paste_share=share, deform_share=0.0), step)
            for share in (1e-12, 1.0)
        )
        yield from zip(without, with_them, strict=True)


def test_what_is_pasted_is_seen_where_it_is_labelled_and_only_inside_the_brain():
    case = with_brain()
    half = np.where(np.indices((48, 48, 48))[1] < 24, -40, 40).astype(np.int8)
    seen = 0
    for before, after in pasted_and_not(replace(case, depth=half), 10):
        changed = np.abs(after.image.astype(float) - before.image.astype(float))
        assert changed[after.depth >= 0].max(initial=0) < 0.01
        assert not after.labels[after.depth >= 0].any()
        lesion = after.labels > 0
        seen += lesion.sum() > 20 and np.median(changed[lesion]) > 0.3
        assert len(np.unique(after.labels)) - 1 <= 20  # one to three, some of them in pieces
    assert seen > 5


def test_no_pasted_metastasis_becomes_background_for_want_of_numbers():
    case, seen = with_brain(), 0
    none = np.zeros((48, 48, 48), np.uint8)
    full, depth = none.copy(), np.full(none.shape, -40, np.int8)
    full[0, 0, 0], depth[:6, :6, :6] = 255, 40  # it lies outside the brain: room stays the same
    for seed in range(6):
        found, numbered = (
            patches._pasted(case.image, labels, depth, np.random.default_rng(seed))[1]
            for labels in (none, full)
        )
        assert (numbered[found > 0] > 0).all()
        seen += (found > 0).any()
    assert seen > 3
