import json

import nibabel as nib
import numpy as np
import pytest
import torch

from brainmets.errors import ReadError
from brainmets.network.synthstrip import StripSizes
from brainmets.training import extractor, synthetic_heads
from brainmets.training.extractor import choose_border, distance_loss, example, fit, mask_scores
from brainmets.training.synthetic_heads import (
    FURTHEST_MM,
    Dice,
    brain_of,
    read_heads,
    signed_distance,
    variant,
)

WINDOW = (16, 24, 20)
TINY = StripSizes(features=2, most_features=4, levels=3, convolutions=1)


def label_map():
    """Nested boxes in nearest-RAS order: skin, bone, CSF, white matter; a stem below."""
    labels = np.zeros((80, 90, 84), np.float32)
    for label, margin in ((511, 4), (515, 8), (24, 14), (2, 18)):
        labels[margin:-margin, margin:-margin, margin:-margin] = label
    labels[36:44, 40:48, 10:20] = 16
    return labels


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    monkeypatch.setattr(synthetic_heads, "WINDOW", WINDOW)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "training_seg_01.nii.gz"
    image = nib.Nifti1Image(label_map(), np.eye(4))
    nib.save(image, path)
    return read_heads([path])


def test_distance_is_0_at_the_surface_and_negative_inside():
    mask = np.zeros((9, 9, 9), bool)
    mask[2:7, 2:7, 2:7] = True
    line = signed_distance(mask)[:, 4, 4]
    np.testing.assert_allclose(line, [1.5, 0.5, -0.5, -1.5, -2.5, -1.5, -0.5, 0.5, 1.5])


def test_brain_is_one_solid_object_that_ends_below_the_stem():
    labels = label_map().astype(np.int16)
    labels[40, 45, 40] = 0  # a hole
    labels[2, 2, 2] = 24  # a stray voxel
    labels[38:42, 42:46, 0:10] = 24  # the spinal canal
    brain = brain_of(labels)
    assert brain[40, 45, 40]
    assert not brain[2, 2, 2]
    assert brain[40, 44, 7]
    assert not brain[:, :, :5].any()


def test_an_example_is_a_function_of_seed_and_number(heads):
    for one, other in zip(example(heads, 1, 5), example(heads, 1, 5), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(example(heads, 1, 5)[0], example(heads, 1, 6)[0])


def test_examples_have_the_shape_and_range_that_the_network_expects(heads):
    for number in range(3):
        image, distance, seen = example(heads, 2, number)
        assert image.shape == distance.shape == seen.shape == WINDOW
        assert image.min() >= 0
        assert image.max() <= 1
        assert distance.abs().max() <= FURTHEST_MM
        assert set(seen.unique().tolist()) <= {0.0, 1.0}
        assert not image[seen == 0].any()


def test_a_variant_is_the_mirrored_head_under_other_conditions(heads):
    image, distance, seen = example(heads, 2, 1)
    varied, mirrored, mirrored_seen = variant((image, distance, seen), Dice(1))
    assert torch.equal(mirrored.flip(0), distance)
    assert torch.equal(mirrored_seen.flip(0), seen)
    assert not varied[mirrored_seen == 0].any()
    assert np.corrcoef(varied.flip(0).flatten(), image.flatten())[0, 1] > 0.7


def test_training_is_deterministic_and_learns(heads):
    losses = []
    first = fit(heads, TINY, steps=3, seed=4, progress=lambda *report: losses.append(report))
    second = fit(heads, TINY, steps=3, seed=4)
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, second.state_dict()[name])
    assert [report[:2] for report in losses] == [(3, 3)]
    assert np.isfinite(losses[0][2])


def test_loss_is_0_for_the_truth_and_ignores_what_is_not_seen():
    distance = torch.linspace(-15, 15, 20)
    seen = (torch.arange(20) < 15).float()
    wrong = torch.where(seen > 0, distance, 99.0)
    assert distance_loss(wrong, distance, seen) == 0
    assert distance_loss(distance + 1, distance, seen).item() == pytest.approx(1, abs=0.1)


def test_border_is_the_best_dice_among_those_with_enough_recall():
    scores = np.array([[[0.9, 0.95], [0.992, 0.93], [0.999, 0.90]], [[np.nan] * 2] * 3])
    assert choose_border(scores, [-1, 0, 1]) == 0
    assert choose_border(scores, [-1, 0, 1], recall=0.9995) == 1


def test_a_perfect_prediction_scores_1(heads):
    class Oracle(torch.nn.Module):
        def forward(self, _):
            return example(heads, 3, 0)[1][None, None]

    scores = mask_scores(Oracle(), heads, [0.0], images=1, seed=3)
    np.testing.assert_allclose(scores, 1)


def test_train_extractor_writes_weights_and_a_card_that_belong_together(
    heads, tmp_path, monkeypatch
):
    for number in range(1, 21):
        (tmp_path / f"training_seg_{number:02d}.nii.gz").touch()
    monkeypatch.setattr(extractor, "read_heads", lambda _: heads)
    monkeypatch.setattr(extractor, "SIZES", TINY)
    monkeypatch.setattr(extractor, "MEASURED_IMAGES", 1)
    out = tmp_path / "weights.safetensors"
    card = extractor.train_extractor(tmp_path, out, steps=2, seed=1)
    assert json.loads(out.with_suffix(".json").read_text()) == card
    assert card["architecture"]["features"] == 2
    assert len(card["sha256"]) == 64


def test_missing_label_maps_are_named(tmp_path):
    with pytest.raises(ReadError, match=r"training_seg_01\.nii\.gz"):
        extractor.train_extractor(tmp_path, tmp_path / "out.safetensors", steps=1)
