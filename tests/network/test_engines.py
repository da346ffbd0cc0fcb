"""Weights that do not fit are refused by name, and an engine proves what it computes."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy import special

from brainmets.config import Architecture, DecisionRule, Recipe, Tiling
from brainmets.errors import BundleError, ConfigError
from brainmets.network.bundle import Bundle, read, write
from brainmets.network.engines import LARGEST_DIFFERENCE, verify
from brainmets.network.torch_engine import build, torch_engine
from brainmets.network.unet import UNet

ARCHITECTURE = Architecture(width=4, full_resolution_channels=4)


@pytest.fixture(scope="module")
def bundle():
    """A network that answers from almost 0 to almost 1, with its own output as the proof."""
    torch.manual_seed(0)
    network = UNet(ARCHITECTURE)
    torch.nn.init.normal_(network.head.weight, std=2.0)
    torch.nn.init.zeros_(network.head.bias)
    weights = {k: v.numpy().astype(np.float16) for k, v in network.state_dict().items()}
    image = 3 * np.random.default_rng(0).standard_normal((32, 32, 32)).astype(np.float32)
    made = Bundle("probe", ARCHITECTURE, Recipe(), Tiling(32), DecisionRule(), weights, {})
    output = torch_engine(made, "cpu")(image)
    return replace(made, example={"input": image, "output": output})


def changed(bundle, **weights):
    return replace(bundle, weights={**bundle.weights, **weights})


def without(bundle, name):
    return replace(bundle, weights={k: v for k, v in bundle.weights.items() if k != name})


def test_the_example_spans_what_it_must(bundle):
    assert bundle.example["output"].min() < 0.1
    assert bundle.example["output"].max() > 0.9


def test_gives_the_networks_probabilities(bundle):
    """Against the network run by hand, from weights rounded to float16."""
    network = UNet(ARCHITECTURE)
    state = {k: torch.tensor(v).float() for k, v in bundle.weights.items()}
    network.load_state_dict(state)
    tile = bundle.example["input"]
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(tile)[None, None])[0, 0]
    expected = special.expit(logits.numpy().astype(np.float64))
    engine = torch_engine(bundle, "cpu")
    kept = tile.copy()
    np.testing.assert_allclose(engine(tile), expected, atol=1e-5)
    np.testing.assert_array_equal(engine(tile), engine(tile))
    np.testing.assert_array_equal(tile, kept)
    assert engine(tile).dtype == np.float32
    assert engine.name == "torch cpu float32"


def test_a_view_of_a_volume_is_as_good_as_a_tile_of_its_own(bundle):
    engine = torch_engine(bundle, "cpu")
    tile = bundle.example["input"]
    view = np.ascontiguousarray(tile.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert not view.flags.c_contiguous
    np.testing.assert_array_equal(engine(view), engine(tile))


def test_verify_passes_on_the_written_example(bundle, tmp_path):
    write(bundle, tmp_path / "probe.brainmets")
    found = read(tmp_path / "probe.brainmets")
    assert verify(found, torch_engine(found, "cpu")) <= LARGEST_DIFFERENCE


@pytest.mark.parametrize("name", ["encoder.conv1.weight", "decoder.4.conv2.weight", "head.bias"])
def test_verify_fails_when_a_weight_changes(bundle, name):
    wrong = changed(bundle, **{name: bundle.weights[name] * np.float16(1.1) + np.float16(0.1)})
    with pytest.raises(BundleError, match="does not compute the model as published"):
        verify(wrong, torch_engine(wrong, "cpu"))


@dataclass(frozen=True)
class Answer:
    """An engine that always gives the same."""

    output: np.ndarray
    name: str = "answer"

    def __call__(self, _tile):
        """The same, whatever is asked."""
        return self.output


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.85), (0.2, 0.99), (0.5, 0.5), (np.nan, np.nan)])
def test_verify_refuses_an_example_that_spans_too_little(bundle, low, high):
    output = np.linspace(low, high, 32**3, dtype=np.float32).reshape(32, 32, 32)
    poor = replace(bundle, example={**bundle.example, "output": output})
    with pytest.raises(BundleError):
        verify(poor, Answer(output))


def test_verify_gives_the_largest_difference(bundle):
    output = np.array(bundle.example["output"])
    output[3, 4, 5] += np.float32(0.0008)
    assert verify(bundle, Answer(output)) == pytest.approx(0.0008, rel=1e-2)
    output[3, 4, 5] += np.float32(0.0008)
    with pytest.raises(BundleError, match=r"more than 0\.001"):
        verify(bundle, Answer(output))


def test_verify_refuses_numbers_that_are_none(bundle):
    with pytest.raises(BundleError):
        verify(bundle, Answer(np.full((32, 32, 32), np.nan, np.float32)))


def test_verify_refuses_another_shape(bundle):
    with pytest.raises(BundleError, match="shape"):
        verify(bundle, Answer(np.zeros((16, 16, 16), np.float32)))


def test_a_missing_tensor_is_named(bundle):
    with pytest.raises(BundleError, match=r"'encoder\.layer3\.5\.bn2\.bias' is missing"):
        build(without(bundle, "encoder.layer3.5.bn2.bias"))


def test_a_superfluous_tensor_is_named(bundle):
    with pytest.raises(BundleError, match=r"'fc\.weight' is not expected"):
        build(changed(bundle, **{"fc.weight": np.zeros((2, 2), np.float16)}))


def test_a_tensor_of_another_shape_is_named(bundle):
    name = "decoder.1.conv1.weight"
    with pytest.raises(BundleError, match=r"'decoder\.1\.conv1\.weight' has shape .* expected"):
        build(changed(bundle, **{name: bundle.weights[name][:, :-1]}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(bundle, value):
    broken = bundle.weights["head.weight"].copy()
    broken.flat[3] = value
    with pytest.raises(BundleError, match=r"'head\.weight' holds NaN or infinite"):
        build(changed(bundle, **{"head.weight": broken}))


def test_another_architecture_is_refused(bundle):
    with pytest.raises(BundleError):
        build(replace(bundle, architecture=Architecture(width=8, full_resolution_channels=4)))


def test_an_unknown_device_is_refused(bundle):
    with pytest.raises(ConfigError, match="auto, cpu, cuda"):
        torch_engine(bundle, "tpu")


def test_cuda_without_a_gpu_is_refused_and_auto_takes_the_cpu(bundle, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cpu"):
        torch_engine(bundle, "cuda")
    assert torch_engine(bundle).device.type == "cpu"


def test_building_leaves_the_bundles_weights_alone(bundle):
    """The network owns its memory: training on would not change the bundle."""
    before = bundle.weights["head.weight"].copy()
    network = build(bundle)
    assert not network.training
    with torch.no_grad():
        network.head.weight.add_(1)
    np.testing.assert_array_equal(bundle.weights["head.weight"], before)
