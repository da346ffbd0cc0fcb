"""OpenVINO computes what PyTorch does, keeps compiled models safely, and never guesses."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from brainmets.config import Architecture, DecisionRule, Recipe, Tiling
from brainmets.errors import BundleError, ConfigError
from brainmets.network import choice, engines, openvino_engine, openvino_graph
from brainmets.network.bundle import LAST, Bundle, Int8, find, read
from brainmets.network.choice import Careful, Exact, Wanted, choose_engine, exact_engine, release
from brainmets.network.cost import Timed
from brainmets.network.engines import LARGEST_DIFFERENCE, tolerance, verify
from brainmets.network.openvino_graph import FEWER, unet_graph
from brainmets.network.rounding import WHOLE_NUMBERS
from brainmets.network.strip_engine import openvino_strip
from brainmets.network.strip_sizes import StripSizes, scale_array
from brainmets.network.synthstrip import SynthStrip, scale_intensity
from brainmets.network.torch_engine import build, torch_engine
from brainmets.network.unet import UNet


def lively(network):
    """Normalisation that has seen data: folding it in cannot be a mere copy."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
    return network


def make_bundle(full_resolution_channels=4):
    torch.manual_seed(0)
    architecture = Architecture(4, full_resolution_channels)
    network = lively(UNet(architecture))
    torch.nn.init.normal_(network.head.weight, std=0.5)
    torch.nn.init.zeros_(network.head.bias)
    weights = {k: v.numpy().astype(np.float16) for k, v in network.state_dict().items()}
    image = 3 * np.random.default_rng(0).standard_normal((32, 32, 32)).astype(np.float32)
    made = Bundle("probe", architecture, Recipe(), Tiling(32), DecisionRule(), weights, {})
    output = torch_engine(made, "cpu")(image)
    return replace(made, example={"input": image, "output": output})


@pytest.fixture(scope="module")
def bundle():
    return make_bundle()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_engine, "cache_folder", lambda: tmp_path)
    return tmp_path / "compiled"


@pytest.mark.parametrize("full_resolution_channels", [0, 4])
def test_f32_gives_pytorchs_probabilities(full_resolution_channels, cache):
    bundle = make_bundle(full_resolution_channels)
    engine = openvino_engine.openvino_engine(bundle, "f32")
    assert engine.name == "openvino cpu float32"
    assert bundle.example["output"].min() < 0.1
    assert bundle.example["output"].max() > 0.9
    found = engine(bundle.example["input"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, bundle.example["output"], atol=1e-4)
    assert verify(bundle, engine) <= LARGEST_DIFFERENCE


def test_bf16_rounds_and_no_more(bundle, cache):
    """Random weights enlarge rounding as trained ones do not; the mean shows the scale."""
    engine = openvino_engine.openvino_engine(bundle, "bf16")
    assert engine.name == "openvino cpu bfloat16"
    assert tolerance(engine) > LARGEST_DIFFERENCE
    difference = np.abs(engine(bundle.example["input"]) - bundle.example["output"])
    assert difference.mean() < 0.05


def test_where_bf16_is_too_coarse_f32_is_used(bundle, cache, caplog, monkeypatch):
    """The smallest tolerance stands for a network that rounding would spoil."""
    monkeypatch.setattr(engines, "LARGEST_DIFFERENCE_BFLOAT16", -1.0)
    engine, reason = choose_engine(bundle, Wanted("openvino", "cpu", "bf16"))
    assert engine.name == "openvino cpu float32"
    assert "bf16" in reason
    assert "bf16, is not used" in caplog.text


def test_the_shipped_model_keeps_to_its_tolerance_in_bf16(cache):
    starter = read(find("starter"))
    assert verify(starter, openvino_engine.openvino_engine(starter, "bf16")) <= 0.1


def test_threads_that_share_a_network_each_get_their_own_answer(bundle, cache):
    engine = openvino_engine.openvino_engine(bundle, "f32")
    shape = bundle.example["input"].shape
    tiles = [np.random.default_rng(n).standard_normal(shape, np.float32) for n in range(8)]
    alone = [engine(tile) for tile in tiles]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(engine, tiles * 4))
    for number, found in enumerate(together):
        assert np.array_equal(found, alone[number % len(alone)])


def test_what_another_thread_uses_is_not_given_back(bundle, cache):
    compiled = openvino_engine.openvino_engine(bundle, "f32").compiled
    compiled.make_ready((32, 32, 32))
    with compiled._in_turn, ThreadPoolExecutor(1) as other:
        other.submit(compiled.release).result()
        assert compiled._ready
    compiled.release()
    assert not compiled._ready


def test_another_tile_does_not_change_an_earlier_answer(bundle, cache):
    engine = openvino_engine.openvino_engine(bundle, "f32")
    tile = bundle.example["input"]
    first = engine(tile)
    kept = first.copy()
    engine(tile[::-1])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(engine(tile.transpose(2, 1, 0).copy().transpose(2, 1, 0)), kept)


def test_a_model_from_the_cache_gives_the_same_bytes(bundle, cache):
    tile = bundle.example["input"]
    first = openvino_engine.openvino_engine(bundle, "f32")(tile)
    assert len(list(cache.iterdir())) == 1
    again = openvino_engine.openvino_engine(bundle, "f32")(tile)
    np.testing.assert_array_equal(first, again)
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_may_not_be_looked_into_is_no_error(bundle, cache, monkeypatch):
    compiled = openvino_engine.openvino_engine(bundle, "f32").compiled
    tile = bundle.example["input"][None]
    first = compiled(tile)

    def refused(_path):
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", refused)
    compiled.release()
    np.testing.assert_array_equal(compiled(tile), first)


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_was_released_answers_again_without_being_compiled(
    is_kept, bundle, cache, tmp_path, monkeypatch
):
    (tmp_path / "file").write_bytes(b"")
    folder = None if is_kept else tmp_path / "file" / "below"  # where nothing can be written
    compiled = openvino_engine.openvino_engine(bundle, "f32", folder=folder).compiled
    tile = bundle.example["input"][None]
    first = compiled(tile)
    compiled.release()
    monkeypatch.setattr(compiled, "graph", None)
    np.testing.assert_array_equal(compiled(tile), first)


@pytest.mark.parametrize("damage", [b"", b"\0" * 40, None])
def test_a_damaged_cache_is_made_anew(bundle, cache, damage):
    tile = bundle.example["input"]
    first = openvino_engine.openvino_engine(bundle, "f32")(tile)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    np.testing.assert_array_equal(openvino_engine.openvino_engine(bundle, "f32")(tile), first)
    assert file.stat().st_size > len(whole) // 2


def test_a_proof_is_kept_and_a_wrong_model_has_none(bundle, cache, monkeypatch):
    runs = []
    monkeypatch.setattr(choice, "verify", lambda *_: runs.append(1))
    proved = replace(bundle, example={"input": np.zeros(1), "output": np.zeros(1)})
    for _ in range(2):
        choose_engine(proved, Wanted("openvino", "cpu", "f32"))
    assert len(runs) == 1

    def wrong(*_):
        raise BundleError("differs")

    monkeypatch.setattr(choice, "verify", wrong)
    more = {k: np.asarray(v) * np.float32(1.5) for k, v in bundle.weights.items()}
    for _ in range(2):  # refused again, whatever was compiled meanwhile
        engine, _ = choose_engine(replace(proved, weights=more), Wanted("openvino", "cpu", "f32"))
        assert engine.name.startswith("torch")


def test_the_cache_keeps_what_was_used_last(bundle, cache, monkeypatch):
    engine = openvino_engine.openvino_engine(bundle, "f32")
    engine(np.zeros((32, 32, 32), np.float32))
    size = engine.compiled.path((32, 32, 32)).stat().st_size
    monkeypatch.setattr(openvino_engine, "MOST_BYTES", int(2.9 * size))
    engine(np.zeros((64, 32, 32), np.float32))
    os.utime(engine.compiled.path((64, 32, 32)), (1, 1))
    openvino_engine.openvino_engine(bundle, "f32")(np.zeros((32, 32, 32), np.float32))
    engine(np.zeros((32, 64, 32), np.float32))
    kept = [engine.compiled.path(s).is_file() for s in ((32, 32, 32), (64, 32, 32), (32, 64, 32))]
    assert kept == [True, False, True]


def test_other_weights_are_kept_apart(bundle, cache):
    tile = bundle.example["input"]
    first = openvino_engine.openvino_engine(bundle, "f32")(tile)
    head = bundle.weights["head.bias"] + np.float16(1)
    other = replace(bundle, weights={**bundle.weights, "head.bias": head})
    assert (openvino_engine.openvino_engine(other, "f32")(tile) > first).any()
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_time_alone(bundle, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"")
    engine = openvino_engine.openvino_engine(bundle, "f32", folder=file / "below")
    assert verify(bundle, engine) <= LARGEST_DIFFERENCE


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"encoder.layer3.5.bn2.bias": None}, "'encoder.layer3.5.bn2.bias' is missing"),
        ({"fc.weight": np.zeros((2, 2))}, "'fc.weight' is not expected"),
        ({"head.bias": np.zeros(2)}, "'head.bias' has shape"),
        ({"head.bias": np.full(1, np.nan)}, "'head.bias' holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_named(bundle, weights, words):
    kept = {k: v for k, v in {**bundle.weights, **weights}.items() if v is not None}
    with pytest.raises(BundleError, match=words):
        unet_graph(replace(bundle, weights=kept), (32, 32, 32))


def test_auto_takes_openvino_on_a_cpu_and_says_why(bundle, cache, monkeypatch):
    monkeypatch.setattr(choice, "_gpu_is_visible", lambda: False)
    monkeypatch.setattr(openvino_engine, "best_precision", lambda: "f32")
    engine, reason = choose_engine(bundle, Wanted())
    assert engine.name == "openvino cpu float32"
    assert "fastest" in reason
    monkeypatch.setattr(openvino_engine, "is_installed", lambda: False)
    engine, reason = choose_engine(bundle, Wanted())
    assert engine.name == "torch cpu float32"
    assert "not installed" in reason


def test_a_gpu_goes_to_torch(monkeypatch):
    monkeypatch.setattr(choice, "_gpu_is_visible", lambda: True)
    assert choice._library(Wanted())[0] == "torch"
    assert choice._library(Wanted(device="cuda"))[0] == "torch"
    assert choice._library(Wanted(device="cpu"))[0] == "openvino"


def test_what_cannot_be_is_refused(bundle, cache, monkeypatch):
    with pytest.raises(ConfigError, match="auto, torch, openvino"):
        Wanted("onnx")
    with pytest.raises(ConfigError, match="--engine torch"):
        Wanted("openvino", "cuda")
    for engine in ("openvino", "torch"):
        with pytest.raises(ConfigError, match="precision 'f16'"):
            choose_engine(bundle, Wanted(engine, "cpu", "f16"))


def test_an_engine_that_computes_wrongly_is_not_used(bundle, cache, caplog):
    wrong = replace(bundle, example={**bundle.example, "output": bundle.example["output"][::-1]})
    engine, reason = choose_engine(wrong, Wanted("openvino", "cpu", "f32"))
    assert engine.name == "torch cpu float32"
    assert "failed" in reason
    assert "torch is used instead" in caplog.text


@pytest.mark.parametrize("answer", [RuntimeError("no memory"), np.float32("nan")])
def test_an_engine_that_fails_on_the_way_is_replaced(bundle, caplog, answer):
    def broken(tile):
        if isinstance(answer, Exception):
            raise answer
        return tile * answer

    broken.name = "openvino cpu float32"
    engine = Careful(broken, lambda: torch_engine(bundle, "cpu"))
    for _ in range(2):
        found = engine(bundle.example["input"])
        np.testing.assert_array_equal(found, bundle.example["output"])
    assert engine.name == "torch cpu float32, after openvino cpu float32 failed"
    assert caplog.text.count("torch takes over") == 1


@pytest.mark.parametrize(
    "sizes", [StripSizes(4, 8, 3), StripSizes(4, 8, 3, 1, 2, 2), StripSizes(2, 8, 2, 2, 1, 2)]
)
def test_the_extractors_network_gives_pytorchs_distances(sizes, cache):
    torch.manual_seed(0)
    network = SynthStrip(sizes).eval()
    weights = {k: v.numpy() for k, v in network.state_dict().items()}
    image = np.random.default_rng(0).random((16, 24, 32), np.float32)
    found = openvino_strip(sizes, weights, "random").distances(image)
    expected = network.distances(image)
    assert found.shape == expected.shape == (sizes.fields, 16, 24, 32)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 2, 3), (30, 20, 10)])
def test_intensities_are_scaled_as_by_pytorch(shape):
    image = 100 * np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = scale_intensity(torch.from_numpy(image)).numpy()
    np.testing.assert_array_equal(scale_array(image), expected)
    assert (scale_array(np.ones(shape, np.float32)) == 0).all()


PREDICT = """
import socket, sys
def forbidden(*words, **options):
    raise SystemExit("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = forbidden
from pathlib import Path
from brainmets.apps import cli
from brainmets.network import choice, openvino_engine
openvino_engine.cache_folder = lambda: Path(sys.argv[2])
choice._gpu_is_visible = lambda: False
out, scan = sys.argv[2], sys.argv[1]
sys.argv = ["brainmets", "predict", scan, "-o", out + "/out", "--threads", "1"]
sys.argv += ["--brain-extractor", "builtin", "--model", out + "/probe.brainmets"]
try:
    cli.main()
except SystemExit as stop:
    print([n for n in ("torch", "matplotlib", "openvino_telemetry.main") if n in sys.modules])
    print("openvino" in sys.modules, sys.modules["openvino_telemetry"], stop.code)
"""


def test_predict_loads_neither_torch_nor_matplotlib_and_asks_nothing_of_the_network(
    bundle, tmp_path
):
    """A whole prediction, the built-in extractor included, with sockets forbidden."""
    from brainmets.io import nifti
    from brainmets.network.bundle import write
    from phantoms import make_grid, make_head

    recipe = Recipe(spacing_mm=5.0)
    write(replace(bundle, recipe=recipe), tmp_path / "probe.brainmets")
    head = make_head(make_grid((44, 50, 44), 5.0))
    nifti.write(head.scan, tmp_path / "head.nii.gz")
    words = [sys.executable, "-W", "error", "-c", PREDICT, tmp_path / "head.nii.gz", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.stdout.splitlines()[-2:] == ["[]", "True None 0"], done.stdout + done.stderr
    assert (tmp_path / "out" / "head" / "report.html").is_file()
    assert '"engine_reason"' in (tmp_path / "out" / "head" / "run.json").read_text()


def test_only_fewer_bits_on_openvino_have_a_second_look(bundle, cache):
    for precision, expected in (("f32", False), ("bf16", True)):
        engine = openvino_engine.openvino_engine(bundle, precision)
        assert (exact_engine(bundle, engine) is not None) is expected
    assert exact_engine(bundle, openvino_engine.openvino_engine(watched(bundle), "int8"))
    for precision in ("f32", "bf16"):
        by_torch, _ = choose_engine(bundle, Wanted("torch", "cpu", precision))
        assert exact_engine(bundle, by_torch) is None


def test_the_exact_engine_is_loaded_when_it_is_asked_and_given_back(bundle, cache):
    exact = exact_engine(bundle, openvino_engine.openvino_engine(bundle, "bf16"))
    assert isinstance(exact, Exact)
    assert exact.engine is None
    assert exact.name == "openvino cpu float32"
    release(exact)  # nothing to give back yet
    tile = bundle.example["input"]
    first = exact(tile)
    np.testing.assert_allclose(first, bundle.example["output"], atol=1e-4)
    assert exact.name == "openvino cpu float32"
    compiled = exact.engine.engine.compiled
    assert compiled._ready
    release(Timed(exact))
    assert not compiled._ready
    assert np.array_equal(exact(tile), first)


def test_the_exact_engine_is_torch_where_openvino_fails(bundle, cache, monkeypatch, caplog):
    monkeypatch.setattr(engines, "LARGEST_DIFFERENCE", -1.0)
    exact = Exact(bundle)
    np.testing.assert_allclose(exact(bundle.example["input"]), bundle.example["output"], atol=1e-4)
    assert exact.name == "torch cpu float32"
    assert "torch is used instead" in caplog.text
    release(exact)


def inputs_of_the_last_layers(bundle, tile):
    """The largest value of each channel, as PyTorch's layers receive them."""
    seen, network = {}, build(bundle).eval()

    def note(name):
        return lambda _layer, given: seen.update({name: given[0].amax((0, 2, 3, 4)).numpy()})

    for name in LAST:
        network.get_submodule(name).register_forward_pre_hook(note(name))
    with torch.inference_mode():
        network(torch.from_numpy(tile)[None, None])
    return seen


@pytest.mark.parametrize("full_resolution_channels", [0, 4])
def test_what_int8_needs_is_what_reaches_the_layers_in_pytorch(full_resolution_channels, cache):
    bundle = make_bundle(full_resolution_channels)
    tiles = [bundle.example["input"], -bundle.example["input"]]
    watching = openvino_engine.watching_engine(bundle)
    found = [watching(tile) for tile in tiles]
    np.testing.assert_allclose(found[0], bundle.example["output"], atol=1e-4)
    expected = [inputs_of_the_last_layers(bundle, tile) for tile in tiles]
    assert sorted(watching.int8().largest) == sorted(LAST)
    for layer, values in watching.int8().largest.items():
        largest = np.maximum(*(e[layer] for e in expected))
        np.testing.assert_allclose(values, np.maximum(largest, 1e-6), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("full_resolution_channels", [0, 4])
def test_int8_rounds_and_no_more(full_resolution_channels, cache):
    """8 bits change about what bfloat16 does."""
    bundle = make_bundle(full_resolution_channels)
    tile, truth = bundle.example["input"], bundle.example["output"]
    quantised = watched(bundle)
    engine = openvino_engine.openvino_engine(quantised, "int8")
    assert engine.name.startswith("openvino cpu int8")  # of 7 bits without VNNI
    difference = np.abs(engine(tile) - truth)
    assert 0 < difference.mean() < 0.05
    graph = unet_graph(quantised, tile.shape, int8=WHOLE_NUMBERS)
    kinds = [node.get_type_name() for node in graph.get_ops()]
    assert kinds.count("FakeQuantize") == 2 * len(LAST)


@pytest.mark.parametrize("full_resolution_channels", [0, 4])
def test_scaling_channels_changes_nothing(full_resolution_channels, cache, monkeypatch):
    """What int8 does before it rounds."""
    rounded = watched(make_bundle(full_resolution_channels))
    bundle = replace(rounded, int8=replace(rounded.int8, rounded={}))
    from openvino import opset13

    asked = []

    def unrounded(x, ranges, kernel, bias, _step):
        asked.append(len(ranges))
        divided = opset13.divide(
            x, opset13.constant(ranges.reshape(1, -1, 1, 1, 1).astype(np.float32))
        )
        return openvino_graph.convolution(divided, kernel, bias)

    monkeypatch.setattr(openvino_graph, "convolution_in_8_bits", unrounded)
    tile = bundle.example["input"]
    graph = unet_graph(bundle, tile.shape, int8=WHOLE_NUMBERS)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    found = openvino_engine.core().compile_model(graph, "CPU", settings)([tile[None, None]])[0]
    np.testing.assert_allclose(found[0, 0], bundle.example["output"], atol=1e-4)
    assert len(asked) == len(LAST)


@pytest.mark.parametrize("full_resolution_channels", [0, 4])
def test_a_model_measured_with_fewer_layers_keeps_to_them(full_resolution_channels, cache):
    """The weights of the others are those of bfloat16."""
    bundle = make_bundle(full_resolution_channels)
    every = watched(bundle).int8
    largest, rounded = (
        {name: said[name] for name in LAST[2:]} for said in (every.largest, every.rounded)
    )
    fewer = replace(bundle, int8=Int8(largest, rounded=rounded))
    graph = unet_graph(fewer, (32, 32, 32), int8=WHOLE_NUMBERS, bf16=True)
    kinds = [node.get_type_name() for node in graph.get_ops()]
    assert kinds.count("FakeQuantize") == 2 * len(LAST[2:])
    plain = kernels_of(unet_graph(bundle, (32, 32, 32), bf16=True))
    found = kernels_of(graph)
    for one, other in zip(plain[: -len(largest)], found[: -len(largest)], strict=True):
        assert np.array_equal(one, other)


def kernels_of(graph):
    """Of all convolutions, in the order of the network, as they are given to it."""
    found = []
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Convolution":
            given = node.input_value(1).get_node()
            while given.get_type_name() != "Constant":
                given = given.input_value(0).get_node()
            found.append(given.get_data())
    return found


@pytest.mark.parametrize(
    ("largest", "rounded"),
    [
        ({}, {}),
        ({"decoder.0.conv1": (1.0, 1.0)}, {}),
        ({"head": (1.0,)}, {"decoder.4.conv2": b""}),
    ],
)
def test_layers_that_int8_is_not_for_are_refused(largest, rounded):
    with pytest.raises(BundleError, match=r"for int8 it names .* expected some of decoder\.3"):
        Int8(largest, rounded=rounded)


def watched(bundle, *, is_default=False):
    engine = openvino_engine.watching_engine(bundle)
    engine(bundle.example["input"])
    return replace(bundle, int8=replace(engine.int8(), is_default=is_default))


def test_bfloat16_with_weights_rounded_together_is_nearer_than_openvinos_own(bundle, cache):
    """Whatever the processor has: arithmetic in float32 shows what weights alone change."""
    tile, truth = bundle.example["input"], bundle.example["output"]
    settings = {"INFERENCE_PRECISION_HINT": "f32"}

    def off(graph):
        found = openvino_engine.core().compile_model(graph, "CPU", settings)([tile[None, None]])[0]
        return np.abs(found[0, 0] - truth).mean()

    weights = {k: np.asarray(v, np.float32) for k, v in bundle.weights.items()}
    kernels = [k for k, v in weights.items() if v.ndim == 5]
    one_by_one = {k: nearest_bfloat16(weights[k]) for k in kernels}
    usual = unet_graph(replace(bundle, weights=weights | one_by_one), tile.shape)
    assert 0 < off(unet_graph(bundle, tile.shape, bf16=True)) < 0.8 * off(usual)


def nearest_bfloat16(values):
    return torch.from_numpy(values).bfloat16().float().numpy()


def test_weights_rounded_together_lose_less_than_each_by_itself(bundle, cache):
    if openvino_engine.whole_numbers() != WHOLE_NUMBERS:
        pytest.skip("this processor cuts sums of 8 bits off, and uses weights of 7")
    together = watched(bundle)
    alone = replace(together, int8=replace(together.int8, rounded={}))
    tile, truth = bundle.example["input"], bundle.example["output"]
    one, other = (
        np.abs(openvino_engine.openvino_engine(b, "int8")(tile) - truth).mean()
        for b in (together, alone)
    )
    assert 0 < one < other


def test_rounded_weights_are_not_rounded_again(bundle, cache):
    """Also where the largest of an output channel is no longer the last whole number."""
    model = watched(bundle)
    fewer = {
        name: (np.frombuffer(numbers, np.int8) // 2).astype(np.int8).tobytes()
        for name, numbers in model.int8.rounded.items()
    }
    halved = replace(model, int8=replace(model.int8, rounded=fewer))
    asked = []
    plain = openvino_graph.convolution_in_8_bits

    def noted(x, ranges, kernel, bias, step):
        asked.append((np.abs(kernel).max((1, 2, 3, 4)), step.ravel()))
        return plain(x, ranges, kernel, bias, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_graph, "convolution_in_8_bits", noted)
        graph = unet_graph(halved, (32, 32, 32), int8=WHOLE_NUMBERS)
    assert len(asked) == len(LAST)
    quantised = [n for n in graph.get_ops() if n.get_type_name() == "FakeQuantize"]
    reaches = [n.input_value(2).get_node() for n in quantised]
    reaches = [r.get_data().ravel() for r in reaches if r.get_data().size > 1]
    for largest, step in asked:
        assert (largest <= 64 * step).all()
        assert (
            any(r.shape == step.shape and np.allclose(r, WHOLE_NUMBERS * step) for r in reaches)
            or len(step) == 1
        )


def test_rounded_weights_of_another_number_are_refused(bundle, cache):
    model = watched(bundle)
    cut = {name: numbers[:-1] for name, numbers in model.int8.rounded.items()}
    with pytest.raises(BundleError, match=r"rounded weights of 'decoder\.3\.conv1', expected"):
        unet_graph(
            replace(model, int8=replace(model.int8, rounded=cut)), (32, 32, 32), int8=WHOLE_NUMBERS
        )


def test_values_of_very_unequal_channels_share_8_bits(bundle, cache):
    """Channels thirty times smaller than their neighbours, and made up for by the next weights."""
    weights = {k: np.asarray(v, np.float32) for k, v in bundle.weights.items()}
    for name, factor in (("decoder.4.bn2.weight", 1 / 30), ("decoder.4.bn2.bias", 1 / 30)):
        weights[name] = weights[name].copy()
        weights[name][::2] *= factor
    weights["head.weight"] = weights["head.weight"].copy()
    weights["head.weight"][:, ::2] *= 30
    uneven = replace(bundle, weights=weights)
    tile = bundle.example["input"]
    engines_ = [openvino_engine.openvino_engine(watched(b), "int8") for b in (bundle, uneven)]
    even, other = (np.abs(e(tile) - bundle.example["output"]).mean() for e in engines_)
    assert other < 2 * even + 0.01


def test_int8_is_the_default_only_where_the_processor_adds_all_of_it(bundle, cache, monkeypatch):
    model = watched(bundle, is_default=True)
    for count, expected in ((WHOLE_NUMBERS, True), (FEWER, False)):
        monkeypatch.setattr(openvino_engine, "whole_numbers", lambda count=count: count)
        assert ("int8" in openvino_engine.openvino_engine(model).name) is expected
        asked = openvino_engine.openvino_engine(model, "int8")
        assert ("7 bits" in asked.name) is not expected
        difference = np.abs(asked(bundle.example["input"]) - bundle.example["output"])
        assert 0 < difference.mean() < 0.05


def test_int8_is_the_default_only_where_the_model_says_so(bundle, cache, monkeypatch):
    monkeypatch.setattr(openvino_engine, "whole_numbers", lambda: WHOLE_NUMBERS)
    for int8, expected in ((None, False), (False, False), (True, True)):
        model = bundle if int8 is None else watched(bundle, is_default=int8)
        engine = openvino_engine.openvino_engine(model)
        assert ("int8" in engine.name) is expected
    with pytest.raises(ConfigError, match="models quantise"):
        openvino_engine.openvino_engine(bundle, "int8")
    largest = {name: (*values, 1.0) for name, values in watched(bundle).int8.largest.items()}
    with pytest.raises(BundleError, match="for int8 it gives"):
        unet_graph(replace(bundle, int8=Int8(largest)), (32, 32, 32), int8=WHOLE_NUMBERS)


def test_where_int8_is_too_coarse_more_bits_are_used(bundle, cache, caplog, monkeypatch):
    monkeypatch.setattr(engines, "LARGEST_DIFFERENCE_INT8", -1.0)
    monkeypatch.setattr(openvino_engine, "whole_numbers", lambda: WHOLE_NUMBERS)
    engine, _ = choose_engine(watched(bundle, is_default=True), Wanted("openvino", "cpu"))
    assert engine.name == "openvino cpu float32"
    assert "is not used" in caplog.text


@pytest.mark.parametrize("wanted", [("torch", "auto"), ("auto", "cuda")])
def test_int8_on_anything_but_openvino_is_refused(wanted):
    with pytest.raises(ConfigError, match="int8 is for engine 'openvino'"):
        Wanted(*wanted, "int8")


def test_without_openvino_torch_takes_over(bundle, monkeypatch, caplog):
    def broken():
        raise ImportError("a library is missing")

    monkeypatch.setattr(openvino_engine, "core", broken)
    engine, _ = choose_engine(bundle, Wanted("auto", "cpu"))
    assert engine.name == "torch cpu float32"


OVERFLOW = """
import numpy as np
import openvino as ov
from openvino import opset13 as op
from brainmets.network.openvino_engine import whole_numbers
from brainmets.network.openvino_graph import HEADROOM, convolution_in_8_bits, step_of
image = op.parameter([1, 16, 8, 8, 8], np.float32)
count = whole_numbers()
kernel = np.ones((8, 16, 3, 3, 3))
step = step_of(kernel) * (127 / count)
out = convolution_in_8_bits(image, np.ones(16), kernel, np.zeros(8), step)
settings = {"INFERENCE_PRECISION_HINT": "f32"}
model = ov.Core().compile_model(ov.Model([out], [image]), "CPU", settings)
found = model([np.full((1, 16, 8, 8, 8), HEADROOM, np.float32)])[0][0, :, 4, 4, 4]
print(float(np.abs(found / (HEADROOM * 16 * 27) - 1).max()), count)
"""


@pytest.mark.parametrize("processor", ["SSE41", "AVX2", "AVX512_CORE", "DEFAULT"])
def test_int8_is_right_on_processors_without_its_instructions(processor):
    """Inputs and weights at their largest, and of one sign, where sums of two are the largest."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": processor}
    command = [sys.executable, "-c", OVERFLOW]
    said = subprocess.run(  # noqa: S603  # this interpreter
        command, env=environment, capture_output=True, text=True, check=True
    )
    off, count = said.stdout.split()
    assert float(off) < 1e-3
    if processor in ("AVX2", "AVX512_CORE"):  # multiply 8 bits, and add two products in 16
        assert int(count) == FEWER


def test_other_ranges_are_compiled_apart(bundle, cache):
    tile = bundle.example["input"]
    one = watched(bundle)
    narrow = {name: tuple(v / 50 for v in values) for name, values in one.int8.largest.items()}
    answers = [
        openvino_engine.openvino_engine(replace(bundle, int8=int8), "int8")(tile)
        for int8 in (one.int8, Int8(narrow))
    ]
    assert np.abs(answers[0] - answers[1]).max() > 0.01  # 8 bits that end too early
