"""Several networks as one model: the mean of their probabilities, on every engine."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from brainmets.config import Architecture, DecisionRule, Recipe, Tiling
from brainmets.errors import BundleError, ConfigError
from brainmets.network.bundle import Bundle, Int8, read, write
from brainmets.network.choice import Wanted, choose_engine
from brainmets.network.engines import verify
from brainmets.network.ensemble import Averaged, combine
from brainmets.network.openvino_engine import openvino_engine
from brainmets.network.torch_engine import build, torch_engine
from brainmets.network.unet import UNet
from brainmets.pipeline import largest_tile

ARCHITECTURE = Architecture(width=4, full_resolution_channels=4)
IMAGE = 3 * np.random.default_rng(0).standard_normal((32, 32, 32)).astype(np.float32)


def model(seed, rule=None, **card):
    torch.manual_seed(seed)
    network = UNet(ARCHITECTURE)
    torch.nn.init.normal_(network.head.weight, std=2.0)
    torch.nn.init.zeros_(network.head.bias)
    weights = {k: v.numpy().astype(np.float16) for k, v in network.state_dict().items()}
    made = Bundle(
        f"m{seed}", ARCHITECTURE, Recipe(), Tiling(32), rule or DecisionRule(), weights, {},
        {"licence": "MIT", "limits": "none", **card}, sha256=f"{seed}",
    )  # fmt: skip
    return replace(made, example={"input": IMAGE, "output": torch_engine(made, "cpu")(IMAGE)})


def joined(*bundles, name="whole"):
    return combine(bundles, name, lambda bundle: torch_engine(bundle, "cpu"))


@pytest.fixture(scope="module")
def models():
    return [model(seed) for seed in (1, 2, 3)]


def mean_of(models):
    return np.mean([m.example["output"] for m in models], axis=0)


def test_the_whole_gives_the_mean_of_its_members(models):
    whole = joined(*models)
    engine = torch_engine(whole, "cpu")
    assert isinstance(engine, Averaged)
    assert engine.name == "torch cpu float32, mean of 3"
    np.testing.assert_allclose(engine(IMAGE), mean_of(models), atol=1e-6)
    np.testing.assert_array_equal(whole.example["output"], engine(IMAGE))


def test_openvino_gives_the_same_mean(models, tmp_path):
    engine = openvino_engine(joined(*models), "f32", folder=tmp_path)
    np.testing.assert_allclose(engine(IMAGE), mean_of(models), atol=1e-3)


def test_what_one_network_needs_for_int8_is_not_the_others(models):
    ready = replace(models[0], int8=Int8({"head": (1.0,)}, is_default=True))
    whole = joined(ready, *models[1:])
    assert whole.int8 is None
    assert all(member.int8 is None for member in whole.members())


def test_several_networks_with_int8_are_refused(models, tmp_path):
    whole = replace(joined(*models), int8=Int8({"head": (1.0,)}))
    write(whole, tmp_path / "whole.brainmets")
    with pytest.raises(BundleError, match="int8 is for one network"):
        read(tmp_path / "whole.brainmets")


def test_it_is_written_read_and_verified(models, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMETS_CACHE", str(tmp_path / "cache"))
    whole = joined(*models)
    write(whole, tmp_path / "whole.brainmets")
    found = read(tmp_path / "whole.brainmets")
    assert found.networks == 3
    engine, _ = choose_engine(found, Wanted(precision="f32"))
    assert verify(found, engine) < 1e-3
    for member, bundle in zip(found.members(), models, strict=True):
        assert member.weights.keys() == bundle.weights.keys()
        assert all(np.array_equal(member.weights[k], v) for k, v in bundle.weights.items())


def test_an_older_version_refuses_it(models, tmp_path):
    """It would take the first tensor's name for an error at best; the schema says so first."""
    for bundle, schema in ((joined(*models), 2), (models[0], 1)):
        write(bundle, tmp_path / "m.brainmets")
        with zipfile.ZipFile(tmp_path / "m.brainmets") as archive:
            assert json.loads(archive.read("card.json"))["schema"] == schema


def test_an_ensembles_members_are_taken_one_by_one(models):
    pair = joined(*models[:2], name="pair")
    nested = joined(pair, models[2])
    assert nested.networks == 3
    np.testing.assert_allclose(nested.example["output"], mean_of(models), atol=1e-6)


def test_the_card_says_what_its_members_say(models):
    one, other = (
        model(1, DecisionRule(0.2, 0.5, 5.0), trained_on="fold 1", results={"x": 1}),
        model(2, DecisionRule(0.4, 0.9, 20.0), trained_on="fold 2", licence="none"),
    )
    whole = joined(one, other)
    assert whole.rule == DecisionRule(*np.mean([(0.2, 0.5, 5.0), (0.4, 0.9, 20.0)], 0).tolist())
    assert "brainmets tune" in whole.card["decision_rule"]
    assert whole.card["trained_on"] == "fold 1; fold 2"
    assert whole.card["limits"] == "none"
    assert "licence" not in whole.card  # they differ
    assert [m["licence"] for m in whole.card["members"]] == ["MIT", "none"]
    assert [m["name"] for m in whole.card["members"]] == ["m1", "m2"]
    assert whole.card["members"][0]["results"] == {"x": 1}
    assert whole.identity not in (one.identity, other.identity)


def test_it_needs_more_memory(models):
    whole = joined(*models)
    single, all_three = (largest_tile(b, "openvino cpu float32", 3) for b in (models[0], whole))
    assert all_three == pytest.approx(single / 3, abs=1)


def test_what_cannot_be_averaged_is_refused_by_name(models):
    with pytest.raises(ConfigError, match="m2 has another recipe than m1"):
        joined(models[0], replace(models[1], recipe=Recipe(spacing_mm=1.0)))
    with pytest.raises(ConfigError, match="two models or more"):
        joined(models[0])
    with pytest.raises(ConfigError, match="no model to average"):
        joined()
    with pytest.raises(ConfigError, match="m1 and m1 hold the same weights"):
        joined(models[0], models[1], models[0])


def test_weights_that_belong_to_no_member_are_refused(models, tmp_path):
    whole = joined(*models)
    for name in ("3/head.bias", "head.bias", "x/head.bias", "0/"):
        broken = replace(whole, weights={**whole.weights, name: np.zeros(1, np.float16)})
        with pytest.raises(BundleError, match="belongs to none of 3 networks"):
            broken.members()
    with pytest.raises(BundleError, match="not expected in"):
        build(replace(whole, networks=1))
