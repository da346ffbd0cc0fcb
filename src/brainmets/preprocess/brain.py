"""Which voxels of a head scan are brain and CSF.

Three ways: the built-in extractor (a small network of SynthStrip's kind that works at
2 mm), SynthStrip itself with its published weights, and none, for scans whose skull was
taken off before. Each works along the scan's own axes in nearest-RAS order, so that
flipping, permuting or tilting the array changes nothing in the patient.
"""

import hashlib
import json
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects, label

from brainmets.concurrency import meanwhile
from brainmets.errors import BrainmetsError, BundleError, ConfigError, VolumeError
from brainmets.io.download import cached_path, fetch
from brainmets.network import openvino_engine
from brainmets.network.strip_sizes import StripSizes, scale_array
from brainmets.preprocess.brain_quality import (
    NEAR_MM,
    agreement_notes,
    edge_contact,
    field_notes,
    quality_notes,
    spot_notes,
)
from brainmets.preprocess.pieces import sizes_of
from brainmets.preprocess.prepare import bounding_box
from brainmets.preprocess.resample import resample, resample_like, resampled_grid
from brainmets.volume import (
    AxisOrder,
    Grid,
    Volume,
    apply,
    nearest_ras_order,
    on_grid,
    reorient,
)

if TYPE_CHECKING:
    from brainmets.network.synthstrip import SynthStrip

EXTRACTORS = ("auto", "builtin", "synthstrip", "none")
BRAIN_LITRES = (0.4, 2.3)
"""An object outside this range is no brain: from premature infants to the largest heads."""
LOG = logging.getLogger(__name__)
REACH_MM = 120.0
"""No voxel of a brain lies farther from its centre; training images end about there."""
FAR_MM = 100.0
"""Distance given to voxels that an extractor's field does not reach, as SynthStrip does."""

SYNTHSTRIP_FILE = "synthstrip.1.pt"
SYNTHSTRIP_BORDER_MM = 1.0
"""Where ``mri_synthstrip`` ends its mask."""

Mask = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
LIA = AxisOrder(axes=(0, 2, 1), flips=(True, True, False))
"""From RAS to the order SynthStrip was trained in: to the left, down, and to the front."""


@dataclass(frozen=True)
class Extractor:
    """A choice of extractor.

    Attributes:
        name: one of ``EXTRACTORS``; see :func:`extract_brain`.
        weights: SynthStrip's checkpoint, if it is not the one in the cache.
        engine: what runs the built-in network: "auto" takes OpenVINO where it is installed,
            else "torch".
    """

    name: str = "auto"
    weights: Path | None = None
    engine: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.name not in EXTRACTORS:
            expected = ", ".join(EXTRACTORS)
            raise ConfigError(f"extractor {self.name!r}: expected one of {expected}")
        if self.weights is not None and self.name in ("builtin", "none"):
            raise ConfigError(
                f"extractor {self.name!r} takes no weights; give them to 'synthstrip'"
            )

    def at_hand(self) -> "Extractor":
        """The same with its weights on this machine: fetched now if they are not.

        Raises:
            DownloadError: SynthStrip's weights are not here and cannot be fetched.
        """
        if self.name == "synthstrip" and self.weights is None:
            return Extractor(self.name, fetch(SYNTHSTRIP_FILE), self.engine)
        return self

    @property
    def identity(self) -> str:
        """What its masks depend on besides the scan: for fingerprints."""
        if self.name == "none":
            return self.name
        if self.name == "synthstrip" or self.weights is not None:
            path = self.weights or cached_path(SYNTHSTRIP_FILE)
            return f"{self.name} {_sha256(path) if path.is_file() else 'not there'}"
        return f"{self.name} {builtin_sha256()}"


AUTO = Extractor()


@dataclass(frozen=True)
class Brain:
    """Brain + CSF of a scan and how it was found.

    Attributes:
        mask: bool, on the scan's grid; ends where the brain most likely does.
        kept: what may still be brain and should not be cut away, on the same grid: ``mask``,
            and where the built-in extractor is in doubt, more. The line works with it.
        extractor: "builtin", "synthstrip", "already stripped" or "given mask".
        version: of the extractor; "" where there is none.
        sha256: of the extractor's weights.
        notes: what looks unusual about the mask, one sentence each.
    """

    mask: Volume
    kept: Volume
    extractor: str
    version: str
    sha256: str | None
    notes: tuple[str, ...]


def extract_brain(
    volume: Volume,
    *,
    extractor: str = "auto",
    weights: Path | None = None,
    engine: str = "auto",
) -> Brain:
    """Find brain + CSF.

    Args:
        volume: a head scan of any contrast.
        extractor: "builtin"; "synthstrip"; "none" (the skull is off: everything that is not
            background counts); "auto" recognises scans whose skull is off and otherwise takes
            SynthStrip where ``weights`` are given, else the built-in extractor.
        weights: SynthStrip's checkpoint; without it, the one downloaded before or now.
        engine: what runs the built-in network; see :class:`Extractor`.

    Raises:
        ConfigError: an extractor of another name, or weights for one that takes none.
        VolumeError: a constant image, or no brain found.
        BundleError: the weights are damaged or of another network.
        DownloadError: SynthStrip's weights are not here and cannot be fetched.
    """
    Extractor(extractor, weights)
    _require_contrast(volume)
    turned = _in_ras_order(volume)
    if extractor in ("auto", "none"):
        stripped = _stripped_brain(turned, certain=extractor == "none")
        if stripped is not None:
            notes = quality_notes(stripped, turned.grid)
            return _brain(volume, stripped, stripped, Used("already stripped", "", None), notes)
    if extractor == "synthstrip" or weights is not None:
        path = weights or fetch(SYNTHSTRIP_FILE)
        mask, doubts = _strip_with_synthstrip(turned, path)
        kept, used = mask, Used("synthstrip", "1", _sha256(path))
    else:
        mask, kept, doubts = _strip_with_builtin(turned, engine)
        used = Used("builtin", str(_builtin_card()["version"]), builtin_sha256())
    with meanwhile(lambda: spot_notes(turned, mask, kept)) as spots:
        found = _brain(volume, mask, kept, used, (*quality_notes(mask, turned.grid), *doubts))
    return replace(found, notes=(*found.notes, *spots()))


def builtin_sha256() -> str:
    """SHA-256 of the built-in extractor's weights, as its card states it."""
    return str(_builtin_card()["sha256"])


def given_mask(scan_volume: Volume, mask_volume: Volume) -> Brain:
    """Take a mask made elsewhere: voxels above 0 are brain.

    Raises:
        GridMismatchError: mask and scan do not lie on the same voxels.
        VolumeError: the mask is empty.
    """
    turned = on_grid(mask_volume, scan_volume.grid, "brain mask and scan")
    mask = np.asarray(turned.data > 0)
    if not mask.any():
        raise VolumeError("the brain mask is empty; expected voxels above 0 where the brain is")
    turned = _in_ras_order(scan_volume)
    inside = np.asarray(nearest_ras_order(scan_volume.grid).forward(mask))
    notes = (*quality_notes(inside, turned.grid), *spot_notes(turned, inside, inside))
    given = scan_volume.with_data(mask)
    return Brain(given, given, "given mask", "", None, notes)


# --- the extractors -------------------------------------------------------------


@dataclass(frozen=True)
class Surfaces:
    """What the built-in network says of a scan in nearest-RAS order, on its own grid.

    Attributes:
        brain: signed distance (mm) to where the surface of brain + CSF most likely is,
            negative inside.
        outer: the same to where it lies at most, but for one place in five (see
            ``OUTER_QUANTILE`` in training).
        mirrored: mean difference (mm), within 2 mm of the surface of brain + CSF, between
            what it says of the scan and of its mirror image.
    """

    brain: Volume
    outer: Volume
    mirrored: float


def find_surfaces(turned: Volume, network: "Network", spacing_mm: float) -> Surfaces:
    """Run the built-in network on a scan and on its mirror image, and average the two.

    The network gives its memory back afterwards.
    """
    coarse = resample(turned, spacing_mm)
    image = scale_array(np.asarray(coarse.data, np.float32))
    found = _distances(network, image)
    other = _distances(network, image[::-1])[:, ::-1]
    network.release()
    mean = (found + other) / 2
    mean[:, _beyond_reach(mean[0], spacing_mm)] = FAR_MM
    near = np.abs(mean[0]) < NEAR_MM
    apart = float(np.abs(found[0] - other[0])[near].mean()) if near.any() else FAR_MM
    return Surfaces(coarse.with_data(mean[0]), coarse.with_data(mean[1]), apart)


def _beyond_reach(distance: Float32, spacing_mm: float) -> Mask:
    """Voxels farther from the brain's centre than training images reach: neck and shoulders.

    The network has never seen what lies there, and may take it for brain.
    """
    pieces, count = label(distance < 0)
    if count == 0:
        return np.zeros(distance.shape, bool)
    largest = 1 + sizes_of(pieces, count)[1:].argmax()
    centre = np.argwhere(pieces == largest).mean(axis=0)
    axes = np.ogrid[tuple(slice(n) for n in distance.shape)]
    squares = sum((spacing_mm * (a - c)) ** 2 for a, c in zip(axes, centre, strict=True))
    return np.asarray(squares > REACH_MM**2)


def cut(distance: Volume, border_mm: float, grid: Grid) -> Mask:
    """Where a distance field lies below a border, on another grid of the same axes: one solid.

    Raises:
        VolumeError: there is no such place.
    """
    return _solid(_below(distance, border_mm, grid))


def _below(distance: Volume, border_mm: float, grid: Grid) -> Mask:
    """Where a distance field lies below a border: only what can is interpolated."""
    mask = np.zeros(grid.shape, bool)
    places = np.argwhere(distance.data < border_mm)
    if not len(places):
        return mask
    between = np.linalg.inv(grid.affine) @ distance.grid.affine
    ends = apply(between, np.array([places.min(0) - 1, places.max(0) + 1]))
    low = np.clip(np.floor(ends[0]), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(ends[1]) + 1, low, grid.shape).astype(int)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    affine = grid.affine.copy()
    affine[:3, 3] = apply(affine, low)
    shape = (int(high[0] - low[0]), int(high[1] - low[1]), int(high[2] - low[2]))
    part = Grid(shape, affine, grid.frame_of_reference)
    mask[box] = _onto(distance, part) < border_mm
    return mask


def _strip_with_builtin(turned: Volume, engine: str = "auto") -> tuple[Mask, Mask, tuple[str, ...]]:
    """Mask of a scan in nearest-RAS order, what is kept, and what is doubtful about them."""
    network, card = builtin(engine)
    surfaces = find_surfaces(turned, network, float(card["spacing_mm"]))
    border, outer_border = float(card["border_mm"]), float(card["outer_border_mm"])
    with meanwhile(lambda: _below(surfaces.outer, outer_border, turned.grid)) as outer:
        mask = cut(surfaces.brain, border, turned.grid)
        notes = (
            *field_notes(surfaces.brain, border),
            *agreement_notes(surfaces.brain, surfaces.outer, surfaces.mirrored),
        )
    return mask, held(mask, outer()), notes


def held(mask: Mask, outer: Mask) -> Mask:
    """The mask, one piece, and all of ``outer`` that hangs together with it; without holes."""
    return _solid(mask | outer, within=mask)


def _strip_with_synthstrip(turned: Volume, weights: Path) -> tuple[Mask, tuple[str, ...]]:
    """Mask of a scan in nearest-RAS order as ``mri_synthstrip`` makes it, and doubts."""
    distance = synthstrip_distance(turned, load_synthstrip(weights))
    mask = _solid(_onto(distance, turned.grid) < SYNTHSTRIP_BORDER_MM)
    return mask, field_notes(distance, SYNTHSTRIP_BORDER_MM)


def synthstrip_distance(turned: Volume, network: "SynthStrip") -> Volume:
    """SynthStrip's signed distance (mm) on the grid of :func:`conform`, in RAS order.

    Minimum to 0, 99th percentile to 1, clipped; turned to LIA order for the network.
    """
    conformed = conform(turned)
    image = conformed.data - conformed.data.min()
    image = np.clip(image / max(float(np.percentile(image, 99)), 1e-20), 0, 1)
    found = _distances(network, LIA.forward(image.astype(np.float32)))[0]
    return conformed.with_data(LIA.backward(found))


def conform(turned: Volume) -> Volume:
    """1 mm (nearest neighbour), sides a multiple of 64 between 192 and 320, still in RAS order."""
    fine = _nearest_at_1mm(turned)
    box = find_objects((fine.data != 0).astype(np.int8))[0]
    low = np.array([s.start for s in box])
    size = np.array([s.stop - s.start for s in box])
    target = np.clip(-(-size // 64) * 64, 192, 320)
    low -= (target - size) // 2
    return _window(fine, low, target)


def _nearest_at_1mm(turned: Volume) -> Volume:
    """Nearest neighbours about the same centre; ceil(extent) voxels along each axis."""
    grid = resampled_grid(turned.grid, 1.0)
    between = np.linalg.inv(turned.grid.affine) @ grid.affine
    data = turned.data
    for axis, (count, most) in enumerate(zip(grid.shape, turned.grid.shape, strict=True)):
        places = np.rint(between[axis, axis] * np.arange(count) + between[axis, 3])
        data = np.take(data, np.clip(places, 0, most - 1).astype(int), axis=axis)
    return Volume(np.asarray(data, np.float32), grid)


def _window(volume: Volume, low: npt.NDArray[np.int_], size: npt.NDArray[np.int_]) -> Volume:
    """The box of ``size`` voxels that starts at ``low``; 0 where it leaves the volume."""
    data = np.zeros(tuple(int(n) for n in size), np.float32)
    here, there = [], []
    for start, count, most in zip(low.tolist(), size.tolist(), volume.grid.shape, strict=True):
        first, last = max(start, 0), min(start + count, most)
        here.append(slice(first - start, last - start))
        there.append(slice(first, last))
    data[tuple(here)] = volume.data[tuple(there)]
    affine = volume.grid.affine.copy()
    affine[:3, 3] = apply(affine, low)
    shape = (data.shape[0], data.shape[1], data.shape[2])
    return Volume(data, Grid(shape, affine, volume.grid.frame_of_reference))


def _distances(network: "Network", image: Float32) -> Float32:
    """Run the network: (fields, x, y, z); sides are filled up with 0, evenly, to its multiple."""
    multiple = network.sizes.multiple
    extra = [-n % multiple for n in image.shape]
    padded = np.pad(image, [(n // 2, n - n // 2) for n in extra])
    distances = network.distances(padded)
    inner = tuple(slice(n // 2, n // 2 + m) for n, m in zip(extra, image.shape, strict=True))
    return np.ascontiguousarray(distances[(slice(None), *inner)], dtype=np.float32)


def _onto(distance: Volume, grid: Grid) -> Float32:
    """Distances on another grid of the same axes; far away where the field does not reach."""
    nearer = distance.with_data(np.asarray(distance.data, np.float32) - FAR_MM)
    return np.asarray(resample_like(nearer, grid).data + FAR_MM, np.float32)


# --- weights --------------------------------------------------------------------


def _builtin_card() -> dict[str, Any]:
    path = files("brainmets") / "models" / "extractor.json"
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


class Network(Protocol):
    """What finds the brain, on one of the engines."""

    @property
    def sizes(self) -> StripSizes:
        """How large it is."""
        ...

    def distances(self, image: Float32) -> Float32:
        """(x, y, z), 0…1 → (fields, x, y, z), mm."""
        ...

    def release(self) -> None:
        """Give memory back until the next image comes."""
        ...


@dataclass
class _Careful:
    """OpenVINO, and torch in its place, with a warning, once it fails."""

    network: Network
    engine: str = "openvino"

    @property
    def sizes(self) -> StripSizes:
        return self.network.sizes

    def distances(self, image: Float32) -> Float32:
        try:
            found = self.network.distances(image)
            if self.engine == "torch" or np.isfinite(found).all():
                return found
            reason = "its numbers are not finite"
        except BrainmetsError:
            raise
        except Exception as error:
            if self.engine == "torch":
                raise
            reason = type(error).__name__
        LOG.warning("warning: OpenVINO failed in the brain extractor (%s); torch is used", reason)
        self.network, self.engine = builtin("torch")[0], "torch"
        return self.network.distances(image)

    def release(self) -> None:
        self.network.release()


@lru_cache(maxsize=2)
def builtin(engine: str = "auto") -> tuple[Network, Mapping[str, Any]]:
    """The network that comes with the package, and its card.

    Args:
        engine: ``openvino``, ``torch``, or ``auto``: OpenVINO where it is installed.

    Raises:
        BundleError: the weights are not those of the card.
    """
    card = _builtin_card()
    weights = (files("brainmets") / "models" / "extractor.safetensors").read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if found != card["sha256"]:
        raise BundleError(
            f"extractor.safetensors has SHA-256 {found}, its card says {card['sha256']}; "
            "install brainmets again"
        )
    sizes = StripSizes(**card["architecture"])
    if engine != "torch" and openvino_engine.is_installed():
        from safetensors.numpy import load as load_arrays

        from brainmets.network.strip_engine import openvino_strip

        return _Careful(openvino_strip(sizes, load_arrays(weights), found)), card
    from safetensors.torch import load

    from brainmets.network.synthstrip import SynthStrip

    network = SynthStrip(sizes).eval()
    network.load_state_dict(load(weights))
    return network, card


def load_synthstrip(path: Path) -> "SynthStrip":
    """SynthStrip with a published checkpoint: a dict that holds ``model_state_dict``.

    Raises:
        BundleError: no such file, or not SynthStrip's checkpoint.
    """
    import torch

    from brainmets.network.synthstrip import SynthStrip

    if not path.is_file():
        raise BundleError(f"{path.name}: no such file; expected SynthStrip's checkpoint")
    network = SynthStrip().eval()
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(stored["model_state_dict"])
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise BundleError(
            f"{path.name}: not SynthStrip's checkpoint ({type(error).__name__}); expected a "
            "PyTorch file with the entry 'model_state_dict', such as synthstrip.1.pt"
        ) from error
    return network


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- scans whose skull is off ------------------------------------------------------


def _stripped_brain(turned: Volume, *, certain: bool) -> Mask | None:
    """The brain of a scan whose skull is off; None where there is no telling.

    Such a scan has one exactly constant background around one object of a brain's volume
    that ends within the field. A head with its skull is larger, comes in pieces (noise), or
    is cut at the neck. With ``certain`` nothing is checked.
    """
    shown = np.asarray(turned.data != _background(turned.data))
    if certain:
        return _solid(shown)
    litres_a_voxel = turned.grid.voxel_volume_mm3 / 1e6
    if np.count_nonzero(shown) * litres_a_voxel > BRAIN_LITRES[1]:
        return None
    mask = _solid(shown)
    is_brain_sized = BRAIN_LITRES[0] <= mask.sum() * litres_a_voxel <= BRAIN_LITRES[1]
    is_one_object = np.count_nonzero(shown & ~mask) <= 0.01 * mask.sum()
    ends_within_field = edge_contact(mask) < 0.35
    return mask if is_brain_sized and is_one_object and ends_within_field else None


def _background(data: npt.NDArray[np.generic]) -> np.generic:
    """The commonest value on the field's six faces."""
    faces = [data[(slice(None),) * axis + (end,)].ravel() for axis in range(3) for end in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    return values[counts.argmax()]  # type: ignore[no-any-return]


# --- masks ------------------------------------------------------------------------


def _solid(mask: Mask, within: Mask | None = None) -> Mask:
    """The largest 6-connected component with its holes filled.

    Args:
        mask: where to look.
        within: one piece of ``mask``; the component that holds it is taken instead.

    Raises:
        VolumeError: there is none.
    """
    if not mask.any():
        raise VolumeError("no brain was found; expected a scan of a head. Give a mask of your own")
    box = bounding_box(mask)
    pieces, count = label(mask[box])
    if within is None:
        chosen = 1 + int(sizes_of(pieces, count)[1:].argmax())
    else:
        chosen = int(pieces.ravel()[within[box].argmax()])
    part = find_objects(pieces, max_label=chosen)[chosen - 1]
    solid = np.zeros(mask.shape, bool)
    solid[box][part] = _filled(pieces[part] == chosen)
    return solid


def _filled(mask: Mask) -> Mask:
    """``mask`` with every cavity that it closes in."""
    spaces, _ = label(np.pad(~mask, 1, constant_values=True))
    return np.asarray(spaces[1:-1, 1:-1, 1:-1] != spaces[0, 0, 0])


def _in_ras_order(volume: Volume) -> Volume:
    """Nearest-RAS order, and an affine without the rounding of a rotation."""
    return reorient(volume, nearest_ras_order(volume.grid))


@dataclass(frozen=True)
class Used:
    """Which extractor made a mask."""

    extractor: str
    version: str
    sha256: str | None


def _brain(volume: Volume, mask: Mask, kept: Mask, used: Used, notes: tuple[str, ...]) -> Brain:
    """From masks in nearest-RAS order."""
    stored = volume.with_data(_as_stored(volume, mask))
    wide = stored if kept is mask else volume.with_data(_as_stored(volume, kept))
    return Brain(stored, wide, used.extractor, used.version, used.sha256, notes)


def _as_stored(volume: Volume, turned_mask: Mask) -> Mask:
    """A mask in nearest-RAS order, in the scan's own order."""
    return np.ascontiguousarray(nearest_ras_order(volume.grid).backward(turned_mask))


def _require_contrast(volume: Volume) -> None:
    low, high = volume.data.min(), volume.data.max()
    if not np.isfinite([low, high]).all():
        raise VolumeError("the scan has NaN or infinite voxels; expected numbers. Export it again")
    if low == high:
        raise VolumeError(f"every voxel of the scan is {low}; expected an image of a head")
