"""The surface of a mask as small pieces with an area, and the distance between two.

The boundary between the inside and the outside of a mask is looked at through every cube of
2×2×2 voxel centres. It cuts the edges between an inside and an outside corner in the
middle, as in marching cubes (Lorensen and Cline 1987, Comput Graph 21:163); a cube that it
passes is one element, at the cube's centre. Corners that share only a diagonal are
separated. The BraTS scores of 2023 weigh distances by these areas.
"""

from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainmets.volume import Array

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Corner = tuple[int, int, int]

CORNERS: tuple[Corner, ...] = tuple((i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1))
"""Corners of a cube; corner n is bit n of a cube's code."""


def robust_hausdorff_mm(
    one: BoolArray, other: BoolArray, spacing_mm: tuple[float, float, float], percent: float = 95
) -> float:
    """The larger of the two directed percentiles of surface distances, weighted by area.

    Args:
        one: mask.
        other: mask of the same shape.
        spacing_mm: distance of voxel centres along each axis.
        percent: of the surface's area that lies at most this far from the other surface.

    Returns:
        Millimetres; infinite when a mask is empty.
    """
    if not (one.any() and other.any()):
        return float("inf")
    box = ndimage.find_objects((one | other).astype(np.int8))[0]
    codes = [_codes(mask[box]) for mask in (one, other)]
    areas = element_areas(spacing_mm)
    surfaces = [(code != 0) & (code != 255) for code in codes]
    directed = []
    for here, there in ((0, 1), (1, 0)):
        away = ndimage.distance_transform_edt(~surfaces[there], sampling=spacing_mm)
        at = surfaces[here]
        directed.append(_percentile(away[at], areas[codes[here][at]], percent))
    return max(directed)


def element_areas(spacing_mm: tuple[float, float, float]) -> Float64Array:
    """Area in mm² of the surface in a cube, for each of the 256 codes."""
    x, y, z = spacing_mm
    faces = np.array([y * z, x * z, x * y])
    return np.array([float(np.linalg.norm(piece * faces, axis=1).sum()) for piece in _pieces()])


def _codes(mask: BoolArray) -> npt.NDArray[np.uint8]:
    """The code of every cube that holds a voxel of the mask; one longer along each axis."""
    padded = np.pad(mask, 1).astype(np.uint8)
    shape = tuple(n - 1 for n in padded.shape)
    codes = np.zeros(shape, np.uint8)
    for bit, corner in enumerate(CORNERS):
        part = tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))
        codes |= padded[part] << np.uint8(bit)
    return codes


def _percentile(distances: Array, areas: Array, percent: float) -> float:
    order = np.lexsort((areas, distances))
    share = np.cumsum(areas[order]) / areas.sum()
    at = min(int(np.searchsorted(share, percent / 100)), share.size - 1)
    return float(distances[order][at])


@cache
def _pieces() -> tuple[Float64Array, ...]:
    """For each code the flat pieces of surface in a unit cube: |area vector|, shape (n, 3)."""
    pieces = []
    for code in range(256):
        inside = [corner for bit, corner in enumerate(CORNERS) if code >> bit & 1]
        if len(inside) > 4:  # the same surface, seen from the side with fewer corners
            inside = [corner for corner in CORNERS if corner not in inside]
        parts = [_piece(group) for group in _groups(inside)]
        pieces.append(np.concatenate([np.zeros((1, 3)), *parts]))
    return tuple(pieces)


def _groups(corners: list[Corner]) -> list[list[Corner]]:
    """Corners in groups that hang together along the cube's edges."""
    groups: list[list[Corner]] = []
    for corner in corners:
        near = [g for g in groups if any(_axis(corner, c) is not None for c in g)]
        groups = [g for g in groups if g not in near]
        groups.append([corner, *(c for g in near for c in g)])
    return groups


def _axis(one: Corner, other: Corner) -> int | None:
    """The axis along which two corners are neighbours; None if they are not."""
    axes = [a for a in range(3) if one[a] != other[a]]
    return axes[0] if len(axes) == 1 else None


def _piece(group: list[Corner]) -> Float64Array:
    """|Area vectors| of the surface that parts one to four joined corners from the others."""
    edges = [(pair, axis) for pair in combinations(group, 2) if (axis := _axis(*pair)) is not None]
    unit, every = np.eye(3), np.ones(3)
    axes = {axis for _, axis in edges}
    if len(group) == 1:  # a triangle
        return np.array([every / 8])
    if len(group) == 2:  # a rectangle along the edge
        return np.array([(every - unit[edges[0][1]]) / 2])
    if len(axes) == 2:  # three or four corners of one face
        normal = unit[({0, 1, 2} - axes).pop()]
        return np.array([normal] if len(group) == 4 else [normal / 2, every * 3 / 8])
    degree = {c: sum(c in pair for pair, _ in edges) for c in group}
    if 3 in degree.values():  # a corner and its three neighbours: a hexagon
        return np.array([every * 3 / 4])
    ends = [axis for (a, b), axis in edges if 1 in (degree[a], degree[b])]  # a path
    return np.array([(every - unit[ends[0]]) / 4, (every - unit[ends[1]]) / 4, every / 2])
