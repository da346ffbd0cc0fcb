"""Where training begins."""

import hashlib

import pytest
import torch

from brainmets.errors import BundleError, ConfigError
from brainmets.network.bundle import find, read
from brainmets.network.imagenet import load_resnet34
from brainmets.network.unet import Encoder, UNet
from brainmets.training.beginning import EncoderStart, first_weights
from brainmets.training.model import plan_training
from training_cases import write_case


def flat_resnet34(path):
    """A checkpoint of torchvision's names and shapes; the values mean nothing."""
    rng = torch.Generator().manual_seed(4)
    flat = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    for name, solid in Encoder(3, 64).state_dict().items():
        shape = solid.shape[:4] if solid.ndim == 5 else solid.shape
        flat[name] = torch.randn(shape, generator=rng) if solid.ndim else torch.tensor(0)
    torch.save(flat, path)
    return flat


def planned(tmp_path, settings=None, **options):
    for name in "abcdefg":
        write_case(tmp_path, name)
    table = tmp_path / "cohort.tsv"
    lines = [f"{n}-t1c.nii.gz\t{n}-seg.nii.gz" for n in "abcdefg"]
    table.write_text("image\tmask\n" + "\n".join(lines) + "\n")
    return plan_training(table, "m", options={"seed": 3, **(settings or {})}, **options)


def beginning_of(plan, work):
    return first_weights(plan.start, plan.encoder, plan.architecture, plan.settings.seed, work)


@pytest.mark.parametrize("rule", ["mean", "centre"])
def test_a_flat_encoder_is_where_training_starts_and_the_card_says_so(tmp_path, rule):
    path = tmp_path / "resnet34.pth"
    flat = flat_resnet34(path)
    plan = planned(tmp_path, preset="paper", encoder=EncoderStart(path, rule))
    begun, said = beginning_of(plan, tmp_path)
    torch.manual_seed(3)
    expected = UNet(plan.architecture)
    loaded = load_resnet34(expected.encoder, flat, rule)
    assert all(torch.equal(begun[k], v) for k, v in expected.state_dict().items())
    assert said == {
        "encoder_from": {
            "file": "resnet34.pth", "inflation": rule, "tensors": len(loaded),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    }  # fmt: skip
    assert (tmp_path / "encoder.txt").read_text("utf-8").splitlines() == loaded


def test_an_encoder_that_does_not_fit_is_never_a_random_start(tmp_path):
    path = tmp_path / "resnet34.pth"
    flat = flat_resnet34(path)
    with pytest.raises(ConfigError, match="width is 16"):
        beginning_of(planned(tmp_path, encoder=EncoderStart(path)), tmp_path)
    with pytest.raises(ConfigError, match="give one of the two"):
        planned(tmp_path, start="starter", encoder=EncoderStart(path))
    del flat["layer2.0.conv1.weight"]
    torch.save(flat, path)
    plan = planned(tmp_path, preset="paper", encoder=EncoderStart(path))
    with pytest.raises(BundleError, match=r"layer2\.0\.conv1\.weight is missing"):
        beginning_of(plan, tmp_path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(BundleError, match="not a PyTorch state dict"):
        beginning_of(plan, tmp_path)


def test_light_begins_with_the_shipped_model_and_learns_more_gently(tmp_path):
    plan = planned(tmp_path)
    starter = read(find("starter"))
    assert (plan.start.sha256, plan.architecture) == (starter.sha256, starter.architecture)
    assert plan.settings.learning_rate == 3e-4
    begun, said = beginning_of(plan, tmp_path)
    assert all(torch.equal(v, torch.from_numpy(starter.weights[k]).to(v)) for k, v in begun.items())
    assert said["started_from"]["sha256"] == starter.sha256


def test_random_weights_are_asked_for_by_name_and_are_the_papers_start(tmp_path):
    for options in ({"start": "none"}, {"preset": "paper"}):
        plan = planned(tmp_path, **options)
        assert plan.start is None
        assert plan.settings.learning_rate == 1e-3
        assert beginning_of(plan, tmp_path) == (None, {})
    assert planned(tmp_path, encoder=EncoderStart(tmp_path / "resnet34.pth")).start is None


def test_a_stated_learning_rate_is_obeyed_whatever_the_start(tmp_path):
    stated = {"learning_rate": 0.002}
    for start in (None, "none"):
        plan = planned(tmp_path, start=start, settings=stated)
        assert plan.settings.learning_rate == 0.002
