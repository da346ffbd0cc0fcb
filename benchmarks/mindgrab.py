"""MindGrab, a published skull-stripping network (brainchop, MIT), run with PyTorch.

25 dilated 3³ convolutions of 15 channels, each followed by instance normalisation and GELU
(in the file: a convolution whose name ends in ``_gn``), then a 1³ convolution to background
and brain. Input: 256³ voxels of 1 mm in LIA order, minimum 0 and maximum 1.
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from brain_scans import data_folder
from brainmets.preprocess.brain import LIA
from brainmets.preprocess.resample import resample, resample_like
from brainmets.volume import Grid, Volume, apply, nearest_ras_order, to_nearest_ras

SIDE = 256


@lru_cache(maxsize=1)
def _layers() -> tuple[tuple[str, int, Tensor, Tensor | None], ...]:
    """Name, dilation, weight and bias of every convolution, in order."""
    folder = data_folder() / "weights" / "mindgrab"
    model = json.loads((folder / "model.json").read_text())
    tensors, place = {}, 0
    content = np.frombuffer((folder / "model.bin").read_bytes(), np.float32)
    for entry in model["weightsManifest"][0]["weights"]:
        count = int(np.prod(entry["shape"]))
        tensors[entry["name"]] = content[place : place + count].reshape(entry["shape"])
        place += count
    layers = []
    for layer in model["modelTopology"]["model_config"]["config"]["layers"]:
        if layer["class_name"] == "Conv3D":
            name = layer["config"]["name"]
            weight = _filled(tensors[f"{name}/kernel"].transpose(4, 3, 0, 1, 2))
            bias = tensors.get(f"{name}/bias")
            dilation = int(layer["config"]["dilation_rate"][0])
            layers.append((name, dilation, weight, None if bias is None else torch.tensor(bias)))
    return tuple(layers)


def _filled(kernel: npt.NDArray[np.float32]) -> Tensor:
    """Its 15 channels filled up to 16 with 0, which processors compute faster."""
    extra = [(0, n == 15) for n in kernel.shape[:2]] + [(0, 0)] * 3
    weight = torch.from_numpy(np.pad(kernel, extra))
    return weight.to(memory_format=torch.channels_last_3d)


def _forward(image: Tensor) -> Tensor:
    """Background and brain (2, 256, 256, 256) of an image (256, 256, 256)."""
    x = image[None, None].to(memory_format=torch.channels_last_3d)
    for name, dilation, weight, bias in _layers():
        reach = dilation * (weight.shape[-1] // 2)
        x = functional.conv3d(x, weight, bias, padding=reach, dilation=dilation)
        if name.endswith("_gn"):
            x = functional.gelu(_normalise(x))
    return x[0]


def _normalise(x: Tensor) -> Tensor:
    """Each channel to mean 0 and variance 1 over the whole volume, in place."""
    flat = x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])
    total = torch.zeros(2, x.shape[1], dtype=torch.float64)
    for part in flat.split(1 << 16):
        total += torch.stack([part.sum(0), part.square().sum(0)])
    mean, square = total / len(flat)
    scale = (square - mean.square() + 1e-5).rsqrt()
    shape = (1, -1, 1, 1, 1)
    return x.mul_(scale.float().view(shape)).add_((-mean * scale).float().view(shape))


def extract(volume: Volume) -> npt.NDArray[np.bool_]:
    """The brain's mask on the scan's grid: the largest piece that the network finds."""
    turned = to_nearest_ras(volume)
    conformed = _conform(turned)
    image = np.ascontiguousarray(LIA.forward(conformed.data))
    image = (image - image.min()) / max(float(image.max() - image.min()), 1e-9)
    with torch.inference_mode():
        found = _forward(torch.from_numpy(image))
    share = (found[1] - found[0]).sigmoid().numpy()
    back = resample_like(conformed.with_data(LIA.backward(share)), turned.grid).data >= 0.5
    return np.ascontiguousarray(nearest_ras_order(volume.grid).backward(_largest(back)))


def _conform(turned: Volume) -> Volume:
    """1 mm (linear), 256³ about the same centre."""
    fine = resample(turned, 1.0)
    low = [(SIDE - n) // 2 for n in fine.grid.shape]
    data = np.zeros((SIDE,) * 3, np.float32) + fine.data.min()
    here = tuple(slice(max(a, 0), max(a, 0) + min(n, SIDE)) for a, n in
                 zip(low, fine.grid.shape, strict=True))  # fmt: skip
    there = tuple(slice(max(-a, 0), max(-a, 0) + min(n, SIDE)) for a, n in
                  zip(low, fine.grid.shape, strict=True))  # fmt: skip
    data[here] = fine.data[there]
    affine = fine.grid.affine.copy()
    affine[:3, 3] = apply(affine, -np.asarray(low, float))
    return Volume(data, Grid((SIDE,) * 3, affine))


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    from scipy import ndimage

    pieces, count = ndimage.label(mask)
    if count == 0:
        return mask
    return np.asarray(
        ndimage.binary_fill_holes(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())
    )


def cached(
    name: str, volume: Volume, cache: Path, *, compute: bool = True
) -> npt.NDArray[np.bool_] | None:
    """The mask of a scan, computed once and kept in ``cache``; None if it may not be computed."""
    path = cache / f"mindgrab_{name}.npz"
    if path.is_file():
        with np.load(path) as stored:
            return np.unpackbits(stored["bits"])[: volume.data.size].reshape(volume.data.shape) > 0
    if not compute:
        return None
    mask = extract(volume)
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(path, bits=np.packbits(mask))
    return mask
