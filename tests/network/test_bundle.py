"""A bundle comes back as it was written, or is refused; nothing in between."""

import hashlib
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from brainmets.config import Architecture, DecisionRule, Recipe, Tiling
from brainmets.errors import BundleError
from brainmets.network import bundle as bundles
from brainmets.network.bundle import (
    CARD,
    EXAMPLE,
    SCHEMA_DETAIL,
    WEIGHTS,
    Bundle,
    Int8,
    find,
    read,
    write,
)


def make_bundle():
    """Small and full of values other than the defaults; the weights fit no network."""
    rng = np.random.default_rng(0)
    return Bundle(
        name="probe",
        architecture=Architecture(width=8, full_resolution_channels=4),
        recipe=Recipe(spacing_mm=1.5, brain_margin_mm=1.0, clip_z=5.0),
        tiling=Tiling(tile_vox=32, overlap=0.5),
        rule=DecisionRule(0.25, 0.75, 3.0),
        weights={
            "b.weight": rng.standard_normal((4, 1, 3, 3, 3)).astype(np.float16),
            "a.bias": np.zeros(4, np.float16),
            "a.count": np.array(40, np.float16),
        },
        example={
            "input": rng.standard_normal((4, 4, 4)).astype(np.float32),
            "output": rng.uniform(0, 1, (4, 4, 4)).astype(np.float32),
        },
        card={"trained_on": "12 cases – ä", "results": {"lesion_f1": 0.5, "median_dice": None}},
    )


def content(bundle):
    """All there is in a bundle, comparable."""
    arrays = {
        (part, k): (v.dtype.str, v.shape, v.tobytes())
        for part in ("weights", "example")
        for k, v in getattr(bundle, part).items()
    }
    return arrays, repr(replace(bundle, weights={}, example={})), dict(bundle.card)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "probe.brainmets"
    write(make_bundle(), path)
    return path


def rewritten(path, *, drop=(), **changes):
    """The file at ``path`` with other card entries, hashes made to fit."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    card = json.loads(parts[CARD])
    for name, key in ((WEIGHTS, "weights"), (EXAMPLE, "example")):
        if key in changes:
            parts[name] = changes.pop(key)
        card[f"{key}_sha256"] = hashlib.sha256(parts[name]).hexdigest()
    card |= changes
    parts[CARD] = json.dumps({k: v for k, v in card.items() if k not in drop}).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, payload in parts.items():
            if name not in drop:
                archive.writestr(name, payload)
    return path


def test_comes_back_as_written(path):
    found, written = read(path), make_bundle()
    assert content(replace(found, sha256="")) == content(written)
    with zipfile.ZipFile(path) as archive:
        assert found.sha256 == hashlib.sha256(archive.read(WEIGHTS)).hexdigest()


def test_float32_weights_are_stored_as_float16(tmp_path):
    weights = {"w": np.linspace(-3, 3, 50, dtype=np.float32)}
    write(replace(make_bundle(), weights=weights), tmp_path / "x.brainmets")
    found = read(tmp_path / "x.brainmets").weights["w"]
    np.testing.assert_array_equal(found, weights["w"].astype(np.float16))
    assert found.dtype == np.float16


def test_the_same_bundle_gives_the_same_bytes(path, tmp_path):
    """Whatever the order of the entries, and when written from what was read."""
    bundle = make_bundle()
    turned = replace(
        bundle,
        weights=dict(reversed(bundle.weights.items())),
        example=dict(reversed(bundle.example.items())),
        card=dict(reversed(bundle.card.items())),
    )
    for number, other in enumerate((turned, read(path))):
        write(other, tmp_path / f"{number}.brainmets")
        assert (tmp_path / f"{number}.brainmets").read_bytes() == path.read_bytes()


def test_another_bundle_gives_other_bytes(path, tmp_path):
    write(replace(make_bundle(), rule=DecisionRule(0.3, 0.75, 3.0)), tmp_path / "x.brainmets")
    assert (tmp_path / "x.brainmets").read_bytes() != path.read_bytes()


def test_a_changed_byte_is_noticed_or_changes_nothing(path):
    """Some bytes of a zip say nothing (dates, versions); all others must be noticed."""
    original, expected = path.read_bytes(), content(read(path))
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    middles = [
        entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2
        for entry in entries
    ]
    places = [*middles, *np.linspace(0, len(original) - 1, 60, dtype=int).tolist()]
    noticed = set()
    for place in places:
        for flip in (0x01, 0xFF):
            changed = bytearray(original)
            changed[place] ^= flip
            path.write_bytes(changed)
            try:
                assert content(read(path)) == expected, place
            except BundleError:
                noticed.add(place)
    assert noticed >= set(middles)
    assert len(noticed) > 40


def test_any_truncation_is_refused(path):
    original = path.read_bytes()
    for length in [*np.linspace(0, len(original) - 1, 60, dtype=int).tolist(), 1, 4, 22]:
        path.write_bytes(original[:length])
        with pytest.raises(BundleError, match=r"probe\.brainmets"):
            read(path)


@pytest.mark.parametrize("payload", [b"", b"weights, honestly\n", b"PK\x03\x04", b"\0" * 500])
def test_what_is_no_zip_is_refused_with_advice(path, payload):
    path.write_bytes(payload)
    with pytest.raises(BundleError, match="damaged or no brainmets model"):
        read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no such model file"):
        read(tmp_path / "x.brainmets")


def test_a_zip_of_something_else_is_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "dear")
    with pytest.raises(BundleError, match="no brainmets model"):
        read(path)


@pytest.mark.parametrize("part", ["recipe", "architecture", "tiling", "decision_rule"])
def test_an_unknown_key_is_named(path, part):
    with zipfile.ZipFile(path) as archive:
        values = json.loads(archive.read(CARD))[part]
    rewritten(path, **{part: {**values, "colour_scheme": 1}})
    with pytest.raises(BundleError, match="colour_scheme"):
        read(path)


def test_a_value_out_of_range_is_refused(path):
    rewritten(path, tiling={"tile_vox": 33, "overlap": 0.5})
    with pytest.raises(BundleError, match="tile_vox is 33"):
        read(path)


@pytest.mark.parametrize("schema", [SCHEMA_DETAIL + 1, 0, None, "1"])
def test_another_schema_is_refused(path, schema):
    rewritten(path, schema=schema)
    with pytest.raises(BundleError, match="schema"):
        read(path)


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0}, {"temperature": "1"}, {"networks": 0}, {"networks": 1.5}]
)
def test_numbers_that_make_no_sense_are_refused(path, wrong):
    rewritten(path, **wrong)
    with pytest.raises(BundleError, match=next(iter(wrong))):
        read(path)


def test_a_temperature_is_kept_and_changes_the_identity(path):
    one = read(path)
    write(replace(one, temperature=1.5), path)
    assert read(path).temperature == 1.5
    assert read(path).identity != one.identity
    assert replace(read(path), temperature=1.0).identity == one.identity


INT8 = Int8(
    {"head": (1.5, 2.0), "decoder.4.conv1": (3.0,)}, is_default=True,
    rounded={"head": bytes(range(256))},
)  # fmt: skip


def test_what_int8_needs_is_kept_and_changes_the_identity(path):
    plain = read(path)
    write(replace(plain, int8=INT8), path)
    found = read(path)
    assert found.int8 == INT8
    assert found.identity != plain.identity
    assert found.identity != replace(found, int8=replace(INT8, is_default=False)).identity
    assert found.identity != replace(found, int8=replace(INT8, rounded={})).identity
    assert plain.int8 is None


@pytest.mark.parametrize(
    "int8",
    [
        {"largest": {}, "is_default": True},
        {"largest": {"head": [1.0, 0.0]}, "is_default": True},
        {"largest": {"head": [1.0, None]}, "is_default": True},
        {"largest": {"head": [1.0], "decoder.4.conv1": []}, "is_default": True},
        {"largest": {"head": [True]}, "is_default": True},
        {"largest": {"head": [1e300]}, "is_default": True},
        {"largest": {"head": [1.0]}, "is_default": 1},
        {"largest": {"head": [1.0]}, "is_default": True, "rounded": ["AAAA"]},
        {"largest": {"head": [1.0]}, "is_default": True, "rounded": {"head": "not base64"}},
        {"largest": {"head": [1.0]}, "is_default": True, "rounded": {"head": 1}},
        {"largest": {"head": [1.0]}, "is_default": True, "rounded": {"head": "\u00e4"}},
        {"largest": {"head": [1.0]}},
        {"largest": [1.0], "is_default": True},
        None,
    ],
)
def test_what_cannot_be_for_int8_is_refused(path, int8):
    rewritten(path, int8=int8)
    with pytest.raises(BundleError):
        read(path)


@pytest.mark.parametrize("gone", [WEIGHTS, EXAMPLE, CARD, "recipe", "weights_sha256", "name"])
def test_a_missing_part_is_refused(path, gone):
    rewritten(path, drop=(gone,))
    with pytest.raises(BundleError):
        read(path)


@pytest.mark.parametrize("card", ["[]", '"card"', "{", "null", "[" * 100_000])
def test_a_card_that_is_no_mapping_is_refused(path, card):
    with zipfile.ZipFile(path, "w") as archive:
        for name, payload in ((CARD, card), (WEIGHTS, b""), (EXAMPLE, b"")):
            archive.writestr(name, payload)
    with pytest.raises(BundleError):
        read(path)


def test_swapped_weights_are_noticed(path):
    """Weights of another model under this card, zip intact."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[WEIGHTS] = save({"w": np.zeros(3, np.float16)})
    with zipfile.ZipFile(path, "w") as archive:
        for name, payload in parts.items():
            archive.writestr(name, payload)
    with pytest.raises(BundleError, match="SHA-256"):
        read(path)


@pytest.mark.parametrize(
    "example",
    [
        {},
        {"input": np.zeros((4, 4, 4), np.float32)},
        {"input": np.zeros((4, 4, 4), np.float32), "output": np.zeros((4, 4, 2), np.float32)},
    ],
)
def test_an_example_that_proves_nothing_is_refused(path, example):
    rewritten(path, example=save(example))
    with pytest.raises(BundleError, match="example"):
        read(path)


def test_a_bundle_that_unpacks_to_gigabytes_is_refused_unread(path, monkeypatch):
    monkeypatch.setattr(bundles, "MOST_BYTES", 100)
    with pytest.raises(BundleError, match="more than"):
        read(path)


def test_a_file_is_found_by_its_path(path):
    assert find(path) == path
    assert find(str(path)) == path


def test_a_shipped_model_is_found_by_name(monkeypatch):
    monkeypatch.setattr(bundles, "shipped", lambda: ("light", "paper"))
    assert find("paper").name == "paper.brainmets"
    with pytest.raises(BundleError, match=r"'heavy'.*light, paper"):
        find("heavy")


def test_shipped_models_can_be_read():
    for name in bundles.shipped():
        assert read(find(name)).name == name


def test_weights_in_another_memory_order_are_stored_as_they_are(tmp_path):
    """Networks on a CPU keep their kernels channels-last; the file must not scramble them."""
    kernel = np.arange(48, dtype=np.float32).reshape(2, 3, 2, 2, 2)
    strided = np.asfortranarray(kernel)
    stored = replace(make_bundle(), weights={"kernel": strided})
    write(stored, tmp_path / "m.brainmets")
    np.testing.assert_array_equal(read(tmp_path / "m.brainmets").weights["kernel"], kernel)
