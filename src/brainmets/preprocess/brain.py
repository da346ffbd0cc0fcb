"""Which voxels of a head scan are brain and CSF.

Three ways: the built-in extractor (a small network of SynthStrip's kind that works at
3 mm), SynthStrip itself with its published weights, and none, for scans whose skull was
taken off before. Each works along the scan's own axes in nearest-RAS order, so that
flipping, permuting or tilting the array changes nothing in the patient.
"""

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects, label

from brainmets.errors import BundleError, ConfigError, VolumeError
from brainmets.io.download import fetch
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
USUAL_LITRES = (0.8, 2.2)
"""Brain + CSF of children and adults; outside it the mask deserves a look."""
FAR_MM = 100.0
"""Distance given to voxels that an extractor's field does not reach, as SynthStrip does."""

Mask = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
LIA = AxisOrder(axes=(0, 2, 1), flips=(True, True, False))
"""From RAS to the order SynthStrip was trained in: to the left, down, and to the front."""


@dataclass(frozen=True)
class Brain:
    """Brain + CSF of a scan and how it was found.

    Attributes:
        mask: bool, on the scan's grid.
        extractor: "builtin", "synthstrip", "already stripped" or "given mask".
        version: of the extractor; "" where there is none.
        sha256: of the extractor's weights.
        notes: what looks unusual about the mask, one sentence each.
    """

    mask: Volume
    extractor: str
    version: str
    sha256: str | None
    notes: tuple[str, ...]


def extract_brain(volume: Volume, *, extractor: str = "auto", weights: Path | None = None) -> Brain:
    """Find brain + CSF.

    Args:
        volume: a head scan of any contrast.
        extractor: "builtin"; "synthstrip"; "none" (the skull is off: everything that is not
            background counts); "auto" recognises scans whose skull is off and otherwise takes
            SynthStrip where ``weights`` are given, else the built-in extractor.
        weights: SynthStrip's checkpoint; without it, the one downloaded before or now.

    Raises:
        ConfigError: an extractor of another name, or weights for one that takes none.
        VolumeError: a constant image, or no brain found.
        BundleError: the weights are damaged or of another network.
        DownloadError: SynthStrip's weights are not here and cannot be fetched.
    """
    if extractor not in EXTRACTORS:
        raise ConfigError(f"extractor {extractor!r}: expected one of {', '.join(EXTRACTORS)}")
    if weights is not None and extractor in ("builtin", "none"):
        raise ConfigError(f"extractor {extractor!r} takes no weights; give them to 'synthstrip'")
    _require_contrast(volume)
    turned = _in_ras_order(volume)
    if extractor in ("auto", "none"):
        stripped = _stripped_brain(turned, certain=extractor == "none")
        if stripped is not None:
            return _brain(volume, stripped, "already stripped", "", None)
    if extractor == "synthstrip" or weights is not None:
        path = weights or fetch("synthstrip.1.pt")
        return _brain(volume, strip_with_synthstrip(turned, path), "synthstrip", "1", _sha256(path))
    network, card = _builtin()
    mask = strip_with_builtin(turned, network, card)
    return _brain(volume, mask, "builtin", str(card["version"]), str(card["sha256"]))


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
    grid = scan_volume.grid
    return Brain(Volume(mask, grid), "given mask", "", None, quality_notes(mask, grid))


def quality_notes(mask: Mask, grid: Grid) -> tuple[str, ...]:
    """What is unusual about a brain mask: its volume, the field's edge, a second piece."""
    notes = []
    litres = float(mask.sum()) * grid.voxel_volume_mm3 / 1e6
    if not USUAL_LITRES[0] <= litres <= USUAL_LITRES[1]:
        usual = "–".join(map(str, USUAL_LITRES))
        notes.append(f"brain mask of {litres:.2f} litres; usual are {usual}. Check it")
    if _edge_contact(mask) > 0.35:
        notes.append("the brain mask is cut by the edge of the field of view")
    pieces = np.sort(np.bincount(label(mask)[0].ravel())[1:])[::-1]
    if len(pieces) > 1 and pieces[1] > 0.05 * pieces[0]:
        notes.append("the brain mask has a second large piece; check it")
    return tuple(notes)


# --- the extractors -------------------------------------------------------------


def strip_with_builtin(turned: Volume, network: "SynthStrip", card: Mapping[str, Any]) -> Mask:
    """Mask of a scan in nearest-RAS order by the small network and the card's border."""
    import torch

    from brainmets.network.synthstrip import scale_intensity

    coarse = resample(turned, float(card["spacing_mm"]))
    image = scale_intensity(torch.from_numpy(coarse.data.astype(np.float32)))
    distance = _distance(network, image.numpy())
    found = _onto(coarse.with_data(distance), turned.grid)
    return _solid(found < float(card["border_mm"]))


def strip_with_synthstrip(turned: Volume, weights: Path, border_mm: float = 1.0) -> Mask:
    """Mask of a scan in nearest-RAS order as ``mri_synthstrip`` makes it.

    Conformed along the scan's own axes to 1 mm in LIA order (nearest neighbour), cropped to
    what is not 0, sides brought to a multiple of 64 in 192…320, minimum to 0, 99th
    percentile to 1, clipped.
    """
    network = _synthstrip(weights)
    conformed = conform(turned)
    image = conformed.data - conformed.data.min()
    image = np.clip(image / max(float(np.percentile(image, 99)), 1e-20), 0, 1)
    distance = LIA.backward(_distance(network, LIA.forward(image.astype(np.float32))))
    return _solid(_onto(conformed.with_data(distance), turned.grid) < border_mm)


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


def _distance(network: "SynthStrip", image: Float32) -> Float32:
    """Run the network; sides are filled up with 0, evenly, to the multiple that it needs."""
    import torch

    multiple = network.sizes.multiple
    extra = [-n % multiple for n in image.shape]
    padded = np.pad(image, [(n // 2, n - n // 2) for n in extra])
    batch = torch.from_numpy(padded[None, None]).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        distance = network(batch)[0, 0].numpy()
    inner = tuple(slice(n // 2, n // 2 + m) for n, m in zip(extra, image.shape, strict=True))
    return np.ascontiguousarray(distance[inner], dtype=np.float32)


def _onto(distance: Volume, grid: Grid) -> Float32:
    """Distances on another grid of the same axes; far away where the field does not reach."""
    nearer = distance.with_data(np.asarray(distance.data, np.float32) - FAR_MM)
    return np.asarray(resample_like(nearer, grid).data + FAR_MM, np.float32)


# --- weights --------------------------------------------------------------------


def _builtin_card() -> dict[str, Any]:
    path = files("brainmets") / "models" / "extractor.json"
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


@lru_cache(maxsize=1)
def _builtin() -> tuple["SynthStrip", Mapping[str, Any]]:
    """The network that comes with the package, and its card."""
    from safetensors.torch import load

    from brainmets.network.synthstrip import StripSizes, SynthStrip

    card = _builtin_card()
    weights = (files("brainmets") / "models" / "extractor.safetensors").read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if found != card["sha256"]:
        raise BundleError(
            f"extractor.safetensors has SHA-256 {found}, its card says {card['sha256']}; "
            "install brainmets again"
        )
    network = SynthStrip(StripSizes(**card["architecture"])).eval()
    network.load_state_dict(load(weights))
    return network, card


def _synthstrip(path: Path) -> "SynthStrip":
    """SynthStrip with a published checkpoint: a dict that holds ``model_state_dict``."""
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
    ends_within_field = _edge_contact(mask) < 0.35
    return mask if is_brain_sized and is_one_object and ends_within_field else None


def _background(data: npt.NDArray[np.generic]) -> np.generic:
    """The commonest value on the field's six faces."""
    faces = [np.take(data, end, axis=axis).ravel() for axis in range(3) for end in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    return values[counts.argmax()]  # type: ignore[no-any-return]


def _edge_contact(mask: Mask) -> float:
    """The largest share of its widest cross-section that the mask shows on a face of the field."""
    contact = 0.0
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        areas = mask.sum(axis=others)
        contact = max(contact, float(max(areas[0], areas[-1]) / max(areas.max(), 1)))
    return contact


# --- masks ------------------------------------------------------------------------


def _solid(mask: Mask) -> Mask:
    """The largest 6-connected component with its holes filled.

    Raises:
        VolumeError: there is none.
    """
    pieces, count = label(mask)
    if count == 0:
        raise VolumeError("no brain was found; expected a scan of a head. Give a mask of your own")
    largest = 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    box = find_objects(pieces, max_label=largest)[largest - 1]
    solid = np.zeros(mask.shape, bool)
    solid[box] = _filled(pieces[box] == largest)
    return solid


def _filled(mask: Mask) -> Mask:
    """``mask`` with every cavity that it closes in."""
    spaces, _ = label(np.pad(~mask, 1, constant_values=True))
    return np.asarray(spaces[1:-1, 1:-1, 1:-1] != spaces[0, 0, 0])


def _in_ras_order(volume: Volume) -> Volume:
    """Nearest-RAS order, and an affine without the rounding of a rotation."""
    return reorient(volume, nearest_ras_order(volume.grid))


def _brain(
    volume: Volume, turned_mask: Mask, extractor: str, version: str, sha256: str | None
) -> Brain:
    mask = np.ascontiguousarray(nearest_ras_order(volume.grid).backward(turned_mask))
    notes = quality_notes(mask, volume.grid)
    return Brain(Volume(mask, volume.grid), extractor, version, sha256, notes)


def _require_contrast(volume: Volume) -> None:
    low, high = volume.data.min(), volume.data.max()
    if not np.isfinite([low, high]).all():
        raise VolumeError("the scan has NaN or infinite voxels; expected numbers. Export it again")
    if low == high:
        raise VolumeError(f"every voxel of the scan is {low}; expected an image of a head")
