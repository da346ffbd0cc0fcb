"""The detail network gives the same on every engine, and comes back as it was stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from brainmets.config import Architecture
from brainmets.errors import BundleError, ConfigError
from brainmets.network import openvino_engine
from brainmets.network.bundle import (
    MOST_LOOKS,
    SCHEMA_DETAIL,
    SIDE,
    Bundle,
    Detail,
    read,
    without_findings,
    write,
)
from brainmets.network.detail import DetailNet
from brainmets.network.detail_engine import (
    COUNT,
    detail_engine,
    example_of,
    shown,
    verify_detail,
    without_tf32,
)
from brainmets.network.ensemble import _card, combine
from brainmets.training.detail import weights_of
from stand_ins import bright_model


def random_detail(seed=0, width=4, **options):
    """Random weights, running means and variances."""
    torch.manual_seed(seed)
    net = DetailNet(width).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return Detail(weights_of(net), width, **options)


def make_bundle() -> Bundle:
    proof = np.zeros((4, 4, 4), np.float32)
    return replace(bright_model().bundle, example={"input": proof, "output": proof})


def bundle_with(detail) -> Bundle:
    return replace(make_bundle(), detail=detail)


@pytest.mark.parametrize("places", [0, 1, COUNT, 2 * COUNT + 3])
def test_openvino_gives_what_pytorch_gives(places, tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_engine, "cache_folder", lambda: tmp_path)
    bundle = bundle_with(random_detail(shift=0.7))
    patches = np.random.default_rng(1).standard_normal((places, 3, SIDE, SIDE, SIDE))
    one, other = (detail_engine(bundle, library) for library in ("openvino", "torch"))
    assert one.most == other.most == 250
    odds = one.log_odds(patches.astype(np.float32))
    assert odds.shape == (places,)
    np.testing.assert_allclose(odds, other.log_odds(patches.astype(np.float32)), atol=1e-3)
    outlines = one.outlines(patches.astype(np.float32))
    assert outlines.shape == (places, SIDE, SIDE, SIDE)
    assert places == 0 or 0 <= outlines.min() < outlines.max() <= 1
    np.testing.assert_allclose(outlines, other.outlines(patches.astype(np.float32)), atol=1e-3)


def test_a_place_is_judged_the_same_in_any_company(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_engine, "cache_folder", lambda: tmp_path)
    engine = detail_engine(bundle_with(random_detail()), "openvino")
    patches = np.random.default_rng(2).standard_normal((13, 3, SIDE, SIDE, SIDE))
    patches = patches.astype(np.float32)
    together = engine.log_odds(patches)
    alone = np.concatenate([engine.log_odds(patch[None]) for patch in patches])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("veto", [None, -0.5, 0.0])
def test_it_comes_back_as_it_was_stored(veto, tmp_path):
    bundle = bundle_with(random_detail(most=99, rings=7, looks=3, shift=1.5, veto=veto))
    write(bundle, tmp_path / "a.brainmets")
    again = read(tmp_path / "a.brainmets")
    assert (again.detail.width, again.detail.most, again.detail.shift) == (4, 99, 1.5)
    assert again.detail.veto == detail_engine(again, "torch").veto == veto
    for library in ("torch", "openvino"):
        engine = detail_engine(again, library, prove=False)
        assert (engine.rings, engine.looks) == (again.detail.rings, again.detail.looks) == (7, 3)
    assert again.detail.identity() == bundle.detail.identity()
    assert again.detail.weights.keys() == bundle.detail.weights.keys()
    write(make_bundle(), tmp_path / "b.brainmets")
    assert again.sha256 != read(tmp_path / "b.brainmets").sha256


def test_a_version_that_does_not_know_it_refuses_the_file(tmp_path):
    """What it found would not be what the model finds."""
    import json
    import zipfile

    write(bundle_with(random_detail()), tmp_path / "a.brainmets")
    with zipfile.ZipFile(tmp_path / "a.brainmets") as archive:
        assert json.loads(archive.read("card.json"))["schema"] == SCHEMA_DETAIL == 3


@pytest.mark.parametrize(
    "change", [{"shift": 0.5}, {"most": 20}, {"rings": 3}, {"looks": 2}, {"veto": 0.0}]
)
def test_a_result_is_a_function_of_all_of_it(change):
    plain, detail = make_bundle(), random_detail()
    identities = {plain.identity, bundle_with(detail).identity,
                  bundle_with(replace(detail, **change)).identity,
                  bundle_with(random_detail(seed=5)).identity}  # fmt: skip
    assert len(identities) == 4


def test_looks_are_not_mistaken_for_ringed_places():
    detail = random_detail()
    assert replace(detail, rings=7).identity() != replace(detail, looks=7).identity()


@pytest.mark.parametrize("example", [{}, {"log_odds": np.zeros(COUNT)}])
@pytest.mark.parametrize("library", ["openvino", "torch"])
@pytest.mark.parametrize("fault", ["missing", "superfluous", "shape", "not finite"])
def test_tensors_that_do_not_fit_are_refused(library, fault, example, tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_engine, "cache_folder", lambda: tmp_path)
    weights = dict(random_detail().weights)
    if fault == "missing":
        weights.pop("hidden.weight")
    elif fault == "superfluous":
        weights["more"] = np.zeros(3, np.float16)
    elif fault == "not finite":
        weights["hidden.weight"] = np.full_like(weights["hidden.weight"], np.nan)
    else:
        weights["fine.0.conv1.weight"] = np.zeros((4, 1, 1, 1, 1), np.float16)
    with pytest.raises(BundleError):
        detail_engine(bundle_with(Detail(weights, 4, example=example)), library)


@pytest.mark.parametrize("fault", ["error", "numbers", "numbers of outlines"])
def test_where_openvino_fails_pytorch_takes_over(fault, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(openvino_engine, "cache_folder", lambda: tmp_path)
    bundle = bundle_with(random_detail())
    patches = np.random.default_rng(3).standard_normal((4, 3, SIDE, SIDE, SIDE))
    patches = patches.astype(np.float32)

    def asked(engine):
        return engine.outlines(patches) if "outlines" in fault else engine.log_odds(patches)

    wanted = asked(detail_engine(bundle, "torch cpu float32"))

    def broken(_self, image, count):
        if fault == "error":
            raise RuntimeError("an instruction is missing")
        whole = np.full((COUNT, SIDE, SIDE, SIDE), np.nan, np.float32)
        scores = np.zeros(COUNT, np.float32)
        return [scores, whole] if "outlines" in fault else [np.nan * scores]

    engine = detail_engine(bundle, "openvino cpu int8, bfloat16")
    with monkeypatch.context() as patch:
        patch.setattr(openvino_engine.Compiled, "outputs", broken)
        np.testing.assert_array_equal(asked(engine), wanted)
    assert caplog.text.count("torch takes over") == 1
    np.testing.assert_array_equal(asked(engine), wanted)  # and stays


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0},
        {"most": 0},
        {"rings": -1},
        {"looks": 0},
        {"looks": MOST_LOOKS + 1},
        {"shift": float("nan")},
        {"veto": float("inf")},
        {"width": 1000},
    ],
)
def test_impossible_numbers_are_refused(options):
    with pytest.raises(BundleError, match="detail network of width"):
        Detail({}, **options)


def test_models_with_other_detail_networks_are_not_averaged():
    one = replace(make_bundle(), architecture=Architecture(4))
    two = replace(one, name="two", detail=random_detail())
    with pytest.raises(ConfigError, match="different detail networks"):
        combine([one, two], "both", lambda _bundle: None)


# --- verified -----------------------------------------------------------------------


def proven(seed=0):
    """A bundle as `models train-detail` writes it, surer than random numbers make it."""
    detail = random_detail(seed)
    weights = dict(detail.weights)
    weights["score.weight"] = (weights["score.weight"] * 50).astype(np.float16)
    detail = replace(detail, weights=weights)
    example = example_of(detail_engine(bundle_with(detail), "torch"))
    return bundle_with(replace(detail, example=example))


@pytest.mark.parametrize("library", ["openvino", "torch"])
def test_a_machine_that_computes_as_it_should_is_told_so(library, tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_engine, "cache_folder", lambda: tmp_path)
    write(proven(), tmp_path / "a.brainmets")
    again = read(tmp_path / "a.brainmets")
    assert verify_detail(again, detail_engine(again, library)) < 2e-3
    assert again.detail.identity() == proven().detail.identity()


def test_a_machine_that_computes_something_else_is_found_out():
    bundle = proven()
    other = detail_engine(bundle_with(random_detail(seed=9)), "torch")
    with pytest.raises(BundleError, match="does not compute the model as published"):
        verify_detail(bundle, other)


@pytest.mark.parametrize("example", [
    {}, {"log_odds": np.zeros(9), "outlines": np.zeros(3)},
    {"log_odds": np.full(COUNT, -9.0), "outlines": np.zeros((3, SIDE, SIDE, SIDE))},
])  # fmt: skip
def test_an_example_that_proves_nothing_is_said_to(example):
    bundle = bundle_with(replace(random_detail(), example=example))
    with pytest.raises(BundleError, match="cannot be verified"):
        verify_detail(bundle, detail_engine(bundle, "torch"))


def test_openvino_is_trusted_once_it_gave_what_it_should(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(openvino_engine, "cache_folder", lambda: tmp_path)
    asked = []
    outputs = openvino_engine.Compiled.outputs

    def counted(self, image, count):
        asked.append(count)
        return outputs(self, image, count)

    monkeypatch.setattr(openvino_engine.Compiled, "outputs", counted)
    bundle = proven()
    detail_engine(bundle, "openvino")
    assert len(asked) == 2  # with outlines and without
    detail_engine(bundle, "openvino")
    assert len(asked) == 2
    assert not caplog.records


def test_openvino_that_gives_something_else_is_not_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(openvino_engine, "cache_folder", lambda: tmp_path)
    outputs = openvino_engine.Compiled.outputs
    monkeypatch.setattr(
        openvino_engine.Compiled, "outputs",
        lambda self, image, count: [part + 1 for part in outputs(self, image, count)],
    )  # fmt: skip
    bundle, patches = proven(), shown()
    engine, other = (detail_engine(bundle, library) for library in ("openvino", "torch"))
    assert "OpenVINO is not used for the detail network" in caplog.text
    assert np.array_equal(engine.log_odds(patches), other.log_odds(patches))
    with pytest.raises(BundleError, match="does not compute the model as published"):
        verify_detail(bundle, detail_engine(bundle, "openvino", prove=False))


def test_an_unknown_word_of_it_is_an_error(tmp_path):
    """What another version meant by it is not known here."""
    import json
    import zipfile

    write(proven(), tmp_path / "a.brainmets")
    with zipfile.ZipFile(tmp_path / "a.brainmets") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    card = json.loads(contents["card.json"])
    card["detail"]["vetoe"] = 1.0
    contents["card.json"] = json.dumps(card).encode()
    with zipfile.ZipFile(tmp_path / "b.brainmets", "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with pytest.raises(BundleError, match="vetoe"):
        read(tmp_path / "b.brainmets")


def test_a_card_forgets_what_was_found_by_another_rule():
    said = {"veto": 0.0, "cases": 9, "validation": {"lesion_f1": 1.0}, "decision_rule": {}}
    assert without_findings(said) == {"veto": 0.0, "cases": 9}
    detail = random_detail()
    parts = [
        replace(bundle_with(detail), name=name, weights={"w": np.full(1, n, np.float16)},
                card={"detail": said})
        for n, name in enumerate(("one", "two"))
    ]  # fmt: skip
    assert _card(parts)["detail"] == {"veto": 0.0, "cases": 9}


# --- full precision -----------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gpu_computes_in_full_and_is_left_as_it_was(device):
    kinds = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [kind.fp32_precision for kind in kinds]
    with without_tf32(device):
        inside = [kind.fp32_precision for kind in kinds]
    assert inside == (["ieee"] * 2 if device == "cuda" else before)
    assert [kind.fp32_precision for kind in kinds] == before
