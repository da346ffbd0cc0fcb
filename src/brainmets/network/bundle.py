"""A model in one file: weights, how to use them, what they were trained on, and a proof.

A ``.brainmets`` file is a zip with ``weights.safetensors`` (float16), ``card.json`` and
``example.safetensors``: a small input and the output the model gave for it, so that any
machine can check that it computes the same. Where there is a second network for small
metastases, ``detail.safetensors`` holds it.
"""

import base64
import hashlib
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from brainmets.config import Architecture, DecisionRule, Recipe, Tiling, from_mapping, to_mapping
from brainmets.errors import BrainmetsError, BundleError, ConfigError
from brainmets.io.storage import whole_file

SUFFIX = ".brainmets"
SCHEMA, SCHEMA_ENSEMBLE, SCHEMA_DETAIL = 1, 2, 3
"""Of one network, which every version reads, of several, and of any with a detail network."""
MOST_BYTES = 4_000_000_000
WEIGHTS, CARD, EXAMPLE = "weights.safetensors", "card.json", "example.safetensors"
DETAIL, OF_EXAMPLE = "detail.safetensors", "example."
SIDE = 24
"""Voxels along each side of the patches that a detail network sees."""
MOST_LOOKS = 14
"""At one place: from it and from its six neighbours, as it is and mirrored."""
LATER = {"rings": 0, "looks": 1}
"""What a detail network may be asked for since a later version, and what asks for nothing."""
TINY = 1e-6
"""The least that may be said for int8, and the inverse of the most."""
LAST = ("decoder.3.conv1", "decoder.3.conv2", "decoder.4.conv1", "decoder.4.conv2", "head")
"""Layers of half and of full resolution whose input has many channels: those int8 is for."""
Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Int8:
    """What arithmetic in 8 bits needs to know.

    Attributes:
        largest: layer, one or more of ``LAST`` → largest value of each channel that reaches it, as
            seen on tiles.
        is_default: whether so little is lost that it is used without being asked for.
        rounded: layer → its weights as whole numbers from -127 to 127, one byte each (int8, in
            the order of the tensor), where they were rounded together; without, each is rounded
            by itself.
    """

    largest: Mapping[str, tuple[float, ...]] = field(repr=False)
    is_default: bool = False
    rounded: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse layers that it is not for.

        Raises:
            BundleError: there is one, or no layer at all; or rounded weights of another layer.
        """
        strange = sorted({*self.largest} - {*LAST} | {*self.rounded} - {*self.largest})
        if strange or not self.largest:
            raise BundleError(
                f"for int8 it names {', '.join(strange) or 'no layer'}; expected some of "
                f"{', '.join(LAST)}, and rounded weights of these alone"
            )


@dataclass(frozen=True)
class Detail:
    """A network for small metastases, which looks at bright places and small findings one by one.

    Attributes:
        weights: name → array, as float16 or float32; see ``brainmets.network.detail``.
        width: channels at full resolution.
        most: bright places that it is shown of a scan.
        rings: places with a bright shell around them that it is shown besides.
        looks: how often it looks at a place that may be a metastasis: the first so many of
            ``brainmets.inference.details.LOOKS``, at most ``MOST_LOOKS``.
        shift: taken off the log odds of bright places: it learns from more metastases than there
            are.
        veto: log odds below which a small finding of the other network is dropped; None: never.
        example: what it gave for ``brainmets.network.detail_engine.shown``: ``log_odds`` (N,) and
            ``outlines`` (N, 24, 24, 24); empty: it cannot be verified.
    """

    weights: Tensors = field(repr=False)
    width: int = 16
    most: int = 250
    rings: int = 0
    looks: int = 1
    shift: float = 0.0
    veto: float | None = None
    example: Tensors = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        finite = all(map(math.isfinite, (self.shift, self.veto or 0.0)))
        shown = 1 <= self.most <= 10_000 and 0 <= self.rings <= 10_000
        often = 1 <= self.looks <= MOST_LOOKS
        if not (1 <= self.width <= 256 and shown and often and finite):
            raise BundleError(
                f"detail network of width {self.width}, {self.most} and {self.rings} places, "
                f"{self.looks} looks, shift {self.shift}, veto {self.veto}; expected 1 to 256, "
                f"1 to 10000, 0 to 10000, 1 to {MOST_LOOKS}, and numbers"
            )

    def settings(self) -> dict[str, Any]:
        """All of it but its weights and example."""
        return {
            "width": self.width, "most": self.most, "rings": self.rings, "looks": self.looks,
            "shift": self.shift, "veto": self.veto,
        }  # fmt: skip

    def identity(self) -> str:
        """SHA-256 of everything that its word depends on."""
        said = _without_later_ones(self.settings())
        looks = said.pop("looks", None)
        digest = hashlib.sha256(repr(tuple(said.values())).encode())
        if looks:
            digest.update(f"{looks} looks".encode())
        digest.update(weights_digest(self.weights).encode())
        return digest.hexdigest()


def _without_later_ones(said: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a detail network as they were before there were those that are not used."""
    return {k: value for k, value in said.items() if k not in LATER or LATER[k] != value}


def weights_digest(weights: Tensors) -> str:
    """SHA-256 of tensors by name, whether they were read or made."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        values = np.ascontiguousarray(tensor)
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A model and everything needed to use it.

    Attributes:
        name: as in reports.
        architecture: shape of the network.
        recipe: how scans are prepared for it.
        tiling: how volumes are cut for it.
        rule: how its probabilities become lesions.
        weights: name → array, as float16 or float32.
        example: ``input`` (X, Y, Z) and the ``output`` probabilities of the same shape.
        card: what it was trained on, results, limits, licence; free text and numbers.
        temperature: what log odds are divided by before a probability is told; outlines are
            those of the probabilities as they come from the network.
        networks: how many networks' weights it holds; their probabilities are averaged.
        int8: for arithmetic in 8 bits, of one network; None: there is none.
        detail: a second network for small metastases; None: there is none.
        sha256: of the weights' file inside the bundle, or of the hashes of both files where there
            is a detail network; empty until written.
    """

    name: str
    architecture: Architecture
    recipe: Recipe
    tiling: Tiling
    rule: DecisionRule
    weights: Tensors = field(repr=False)
    example: Tensors = field(repr=False)
    card: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sha256: str = ""
    temperature: float = 1.0
    networks: int = 1
    int8: Int8 | None = None
    detail: Detail | None = None

    def members(self) -> tuple["Bundle", ...]:
        """Each of its networks as a bundle of its own, without example; itself if it is one."""
        if self.networks == 1:
            return (self,)
        parts: list[dict[str, npt.NDArray[Any]]] = [{} for _ in range(self.networks)]
        for name, values in self.weights.items():
            number, _, tensor = name.partition("/")
            if not (number.isdecimal() and int(number) < self.networks and tensor):
                raise BundleError(
                    f"{self.name}: tensor {name!r} belongs to none of {self.networks} networks"
                )
            parts[int(number)][tensor] = values
        return tuple(
            replace(
                self,
                name=f"{self.name} {number}",
                weights=part,
                example={},
                networks=1,
                detail=None,
            )
            for number, part in enumerate(parts, start=1)
        )

    @property
    def identity(self) -> str:
        """SHA-256 of everything a result is a function of: weights, settings and card."""
        settings = (self.architecture, self.recipe, self.tiling, self.rule)
        parts: list[Any] = [self.name, self.sha256, *map(to_mapping, settings), dict(self.card)]
        if self.temperature != 1:
            parts.append(self.temperature)
        if self.int8:
            parts.append(_int8_card(self.int8))
        if self.detail:
            parts.append(self.detail.identity())
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def member_name(number: int, tensor: str) -> str:
    """Name of a tensor of one of several networks; the first is 0."""
    return f"{number}/{tensor}"


def write(bundle: Bundle, path: Path) -> None:
    """Write a bundle; the same bundle gives the same bytes.

    Raises:
        WriteError: the place cannot be written to.
    """
    weights = _packed(bundle.weights)
    example = save({k: np.asarray(v, order="C") for k, v in sorted(bundle.example.items())})
    card = {
        "schema": SCHEMA if bundle.networks == 1 else SCHEMA_ENSEMBLE,
        "name": bundle.name,
        "architecture": to_mapping(bundle.architecture),
        "recipe": to_mapping(bundle.recipe),
        "tiling": to_mapping(bundle.tiling),
        "decision_rule": to_mapping(bundle.rule),
        "temperature": bundle.temperature,
        "networks": bundle.networks,
        "card": dict(bundle.card),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "example_sha256": hashlib.sha256(example).hexdigest(),
    }
    if bundle.int8:
        card["int8"] = _int8_card(bundle.int8)
    contents = {WEIGHTS: weights, EXAMPLE: example}
    if bundle.detail:
        contents[DETAIL] = _packed_detail(bundle.detail)
        card["schema"], card["detail"] = SCHEMA_DETAIL, _detail_card(bundle.detail)
        card["detail_sha256"] = hashlib.sha256(contents[DETAIL]).hexdigest()
    text = json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in {CARD: text.encode(), **contents}.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 6)


def _packed(tensors: Tensors) -> bytes:
    return save({k: np.asarray(v, np.float16, order="C") for k, v in sorted(tensors.items())})


def _packed_detail(detail: Detail) -> bytes:
    """Its example stays in float32: log odds are large numbers."""
    tensors = {name: np.asarray(v, np.float16, order="C") for name, v in detail.weights.items()}
    for name, values in detail.example.items():
        tensors[OF_EXAMPLE + name] = np.asarray(values, np.float32, order="C")
    return save(dict(sorted(tensors.items())))


def read(path: Path) -> Bundle:
    """Read a bundle and verify its hashes.

    Raises:
        BundleError: missing, cut short, changed, or of a newer schema.
    """
    if not path.is_file():
        raise BundleError(f"{path.name}: no such model file; see `brainmets models list`")
    try:
        return _assemble(*_unpack(path))
    except BundleError as error:
        raise BundleError(f"{path.name}: {error}") from error
    except ConfigError as error:
        raise BundleError(f"{path.name}: made by another version of brainmets? {error}") from error
    except BrainmetsError:
        raise
    except Exception as error:  # zipfile, zlib, json and safetensors each raise their own kinds
        raise BundleError(
            f"{path.name}: the file is damaged or no brainmets model ({type(error).__name__}); "
            "copy it again"
        ) from error


def _unpack(path: Path) -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
            raise BundleError("unpacks to more than 4 GB, which no brainmets model does")
        card = json.loads(archive.read(CARD))
        names = [WEIGHTS, EXAMPLE] + ([DETAIL] if "detail" in card else [])
        return card, {name: archive.read(name) for name in names}


def _assemble(card: Mapping[str, Any], contents: Mapping[str, bytes]) -> Bundle:
    known = (SCHEMA, SCHEMA_ENSEMBLE, SCHEMA_DETAIL)
    if card.get("schema") not in known:
        expected = " or ".join(map(str, known))
        raise BundleError(f"schema {card.get('schema')}, expected {expected}; update brainmets")
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != card[f"{Path(name).stem}_sha256"]:
            raise BundleError("contents differ from their SHA-256; the file was changed")
    try:
        read_in = {name: load(content) for name, content in contents.items()}
    except SafetensorError as error:
        raise BundleError(f"unreadable tensors ({error})") from error
    tensors, proof = read_in[WEIGHTS], read_in[EXAMPLE]
    _require_example(proof)
    networks = _counted(card.get("networks", 1))
    if networks > 1 and "int8" in card:
        raise BundleError(f"int8 is for one network, and it holds {networks}")
    return Bundle(
        name=str(card["name"]),
        architecture=from_mapping(Architecture, card["architecture"]),
        recipe=from_mapping(Recipe, card["recipe"]),
        tiling=from_mapping(Tiling, card["tiling"]),
        rule=from_mapping(DecisionRule, card["decision_rule"]),
        weights=tensors,
        example=proof,
        card=card["card"],
        sha256=_whole_sha256(card),
        temperature=_positive(card.get("temperature", 1.0)),
        networks=networks,
        int8=_int8(card["int8"]) if "int8" in card else None,
        detail=_detail(card["detail"], read_in[DETAIL]) if "detail" in card else None,
    )


def _whole_sha256(card: Mapping[str, Any]) -> str:
    """Of the weights: of all that there are."""
    if "detail" not in card:
        return str(card["weights_sha256"])
    both = f"{card['weights_sha256']} {card['detail_sha256']}"
    return hashlib.sha256(both.encode()).hexdigest()


def without_findings(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a detail network, but for what it found with a rule that is no more."""
    bound = ("decision_rule", "validation", "validation_without_it")
    return {key: value for key, value in said.items() if key not in bound}


def _detail_card(detail: Detail) -> dict[str, Any]:
    said = _without_later_ones(detail.settings())
    return {name: value for name, value in said.items() if value is not None}


def _detail(card: Any, tensors: Tensors) -> Detail:
    unknown = card.keys() - {"width", "most", "rings", "looks", "shift", "veto"}
    if unknown:
        raise BundleError(
            f"it says {', '.join(sorted(unknown))} of its detail network, which is not known here; "
            "update brainmets"
        )
    width, most = card["width"], card["most"]
    rings, looks = (card.get(name, without) for name, without in LATER.items())
    shift, veto = card["shift"], card.get("veto")
    fit = type(shift) in (int, float) and type(veto) in (int, float, type(None))
    if not (fit and all(type(number) is int for number in (width, most, rings, looks))):
        raise BundleError("what it says of its detail network is damaged; expected numbers")
    example = {
        name.removeprefix(OF_EXAMPLE): values
        for name, values in tensors.items()
        if name.startswith(OF_EXAMPLE)
    }
    weights = {name: v for name, v in tensors.items() if not name.startswith(OF_EXAMPLE)}
    veto = None if veto is None else float(veto)
    return Detail(weights, width, most, rings, looks, float(shift), veto, example)


def _int8_card(int8: Int8) -> dict[str, Any]:
    largest = {layer: list(values) for layer, values in sorted(int8.largest.items())}
    card = {"largest": largest, "is_default": int8.is_default}
    if int8.rounded:
        card["rounded"] = {
            layer: base64.b64encode(numbers).decode()
            for layer, numbers in sorted(int8.rounded.items())
        }
    return card


def _int8(card: Any) -> Int8:
    largest, is_default = card["largest"], card["is_default"]
    values = [value for layer in largest.values() for value in layer]
    fit = all(type(v) in (int, float) and TINY <= v <= 1 / TINY for v in values)
    if not (fit and largest and all(largest.values()) and isinstance(is_default, bool)):
        raise BundleError("what it says for int8 is damaged; expected positive numbers by layer")
    return Int8(
        {name: tuple(map(float, layer)) for name, layer in largest.items()}, is_default,
        _rounded(card.get("rounded", {})),
    )  # fmt: skip


def _rounded(card: Any) -> dict[str, bytes]:
    try:
        return {str(k): base64.b64decode(text, validate=True) for k, text in card.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise BundleError(
            "what it says for int8 is damaged; expected rounded weights in base64 by layer"
        ) from error


def _positive(temperature: Any) -> float:
    if not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
        raise BundleError(f"temperature {temperature!r}, expected a number above 0")
    return float(temperature)


def _counted(networks: Any) -> int:
    if not (isinstance(networks, int) and networks >= 1):
        raise BundleError(f"networks {networks!r}, expected a whole number of 1 or more")
    return networks


def _require_example(example: Tensors) -> None:
    shapes = [example[name].shape for name in ("input", "output") if name in example]
    if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 3:
        raise BundleError(
            f"the example holds {', '.join(sorted(example)) or 'nothing'} of shapes {shapes}; "
            "expected an input and an output of one shape (X, Y, Z)"
        )


def shipped() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    folder = files("brainmets") / "models"
    return tuple(sorted(Path(e.name).stem for e in folder.iterdir() if e.name.endswith(SUFFIX)))


def find(name: str | Path) -> Path:
    """A bundle's path, from a shipped model's name or a file's path.

    Raises:
        BundleError: neither exists.
    """
    if str(name) in shipped():
        return Path(str(files("brainmets") / "models" / f"{name}{SUFFIX}"))
    path = Path(name)
    if not path.is_file():
        known = ", ".join(shipped()) or "none"
        raise BundleError(f"no model {path.name!r}: give a .brainmets file or one of: {known}")
    return path
