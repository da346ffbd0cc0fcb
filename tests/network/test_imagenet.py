"""An inflated encoder sees in a stack of equal slices what the 2D network sees in one."""

import pytest
import torch
from torch.nn import functional

from brainmets.errors import BundleError, ConfigError
from brainmets.network.imagenet import load_resnet34, read_resnet34
from brainmets.network.unet import Encoder


def flat_weights():
    """A random 2D ResNet-34 with settled statistics, by torchvision's names."""
    rng = torch.Generator().manual_seed(0)
    flat = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    for name, solid in Encoder(3, 64).state_dict().items():
        shape = solid.shape[:4]
        if solid.ndim == 5:
            fan = shape[1] * shape[2] * shape[3]
            flat[name] = torch.randn(shape, generator=rng, dtype=torch.float64) / fan**0.5
        elif solid.ndim == 1:
            flat[name] = 0.5 + torch.rand(shape, generator=rng, dtype=torch.float64)
    return flat


def flat_layers(w, x):
    def norm(x, name):
        s = [w[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *s)

    x = functional.relu(norm(functional.conv2d(x, w["conv1.weight"], stride=2, padding=3), "bn1"))
    layers = [x]
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for n in range(blocks):
            at, stride = f"layer{stage}.{n}", 2 if stage > 1 and n == 0 else 1
            short = x
            if stride == 2:
                down = functional.conv2d(x, w[f"{at}.downsample.0.weight"], stride=2)
                short = norm(down, f"{at}.downsample.1")
            y = functional.conv2d(x, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = functional.relu(norm(y, f"{at}.bn1"))
            y = norm(functional.conv2d(y, w[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            x = functional.relu(y + short)
        layers.append(x)
    return layers


def replicate_slices(encoder):
    for m in encoder.modules():
        if isinstance(m, torch.nn.Conv3d) and m.padding[2]:
            p, m.padding = m.padding[2], (m.padding[0], m.padding[1], 0)
            m.register_forward_pre_hook(
                lambda _, x, p=p: functional.pad(x[0], (p, p, 0, 0, 0, 0), "replicate")
            )


@pytest.mark.parametrize("rule", ["centre", "mean"])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_layer_equals_the_flat_networks(rule, channels):
    flat = flat_weights()
    encoder = Encoder(channels, 64).double().eval()
    report = load_resnet34(encoder, flat, rule)
    assert len(report) == len(encoder.state_dict())
    if rule == "mean":
        replicate_slices(encoder)
    image = torch.randn(1, 1, 32, 32, generator=torch.manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        solid = encoder(image[..., None].expand(1, channels, 32, 32, 32))
        for found, expected in zip(
            solid, flat_layers(flat, image.expand(1, 3, 32, 32)), strict=True
        ):
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                found / scale, (expected / scale)[..., None].expand_as(found), rtol=0, atol=1e-9
            )


def test_faults_are_named_and_change_nothing():
    flat = flat_weights()
    del flat["layer1.0.bn1.bias"]
    flat["extra"] = torch.zeros(1)
    flat["layer2.0.conv1.weight"] = torch.zeros(128, 64, 5, 5)
    encoder = Encoder(1, 64)
    before = encoder.conv1.weight.clone()
    with pytest.raises(BundleError) as error:
        load_resnet34(encoder, flat, "mean")
    for said in (
        "layer1.0.bn1.bias is missing",
        "extra is superfluous",
        "expected (128, 64, 3, 3)",
    ):
        assert said in str(error.value)
    assert torch.equal(before, encoder.conv1.weight)


def test_another_width_or_rule_is_refused():
    with pytest.raises(ConfigError, match="width is 16"):
        load_resnet34(Encoder(1, 16), {}, "mean")
    with pytest.raises(ConfigError, match="'median'"):
        load_resnet34(Encoder(1, 64), {}, "median")


def test_a_file_is_read_and_nonsense_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(2)}, path)
    assert torch.equal(read_resnet34(path)["a"], torch.ones(2))
    path.write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=r"weights\.pth"):
        read_resnet34(path)
