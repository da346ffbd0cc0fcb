"""The area of a mask's surface in each cube of 2×2×2 voxel centres.

Marching cubes (Lorensen and Cline 1987, Comput Graph 21(4):163) for a mask: the surface cuts the
edges between inside and outside corners in their middles. The corners' pattern, 8 bits,
then fixes the surface within the cube, and the grid's spacing its area.

The table is derived here, from three rules that reproduce the one of DeepMind's package
surface-distance (Nikolov et al. 2021, J Med Internet Res 23:e26151), which MONAI uses too,
for every pattern and every spacing:

1. A pattern with more than four inside corners has the surface of its complement.
2. Corners inside that are only diagonal neighbours on a face are separated there.
3. The closed line where the surface meets the cube's faces is filled with triangles; of all
   ways to do so the one with the largest area on cubic voxels is taken. Where several are
   largest, they are equal on every grid.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import chain, product

import numpy as np
import numpy.typing as npt

Point = tuple[int, ...]
"""A point of the cube in half edges: corners have 0 and 2, middles of edges one 1."""

Triangle = tuple[Point, Point, Point]
Inside = frozenset[Point]
FloatArray = npt.NDArray[np.float64]

CORNERS = tuple(product((0, 1), repeat=3))
"""In the order of the bits of a pattern, lowest first."""

FACES = tuple(
    tuple((*turn[:axis], side, *turn[axis:]) for turn in ((0, 0), (0, 1), (1, 1), (1, 0)))
    for axis in range(3)
    for side in (0, 1)
)
"""The corners of each face, one after the other around it."""


def neighbour_codes(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The pattern of each cube of 2×2×2 voxels: 0 all outside, 255 all inside.

    Args:
        mask: shape (x, y, z); cubes that stick out of it are left out.

    Returns:
        Shape (x - 1, y - 1, z - 1).
    """
    codes = np.zeros([n - 1 for n in mask.shape], np.uint8)
    for bit, corner in enumerate(CORNERS):
        window = tuple(slice(c, n - 1 + c) for c, n in zip(corner, mask.shape, strict=True))
        codes |= mask[window].view(np.uint8) << np.uint8(bit)
    return codes


def areas_mm2(metric: npt.ArrayLike) -> FloatArray:
    """Area of the surface in a cube, for each of the 256 patterns.

    Args:
        metric: 3×3 matrix from voxels to mm.

    Returns:
        Shape (256,), in mm².
    """
    matrix = np.asarray(metric, np.float64)
    code, vector = _vector_areas()
    turned = vector @ (np.linalg.det(matrix) * np.linalg.inv(matrix))  # area vectors: cofactors
    return np.bincount(code, np.linalg.norm(turned, axis=1), minlength=256).astype(np.float64)


@cache
def _vector_areas() -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Of every triangle the pattern it belongs to, and its area vector on unit voxels."""
    rows = [(code, _cross(t)) for code in range(256) for t in _triangles(code)]
    code = np.array([code for code, _ in rows])
    return code, np.array([vector for _, vector in rows]) / 8  # halves of cubes of edge 2


@cache
def _triangles(code: int) -> tuple[Triangle, ...]:
    inside = frozenset(c for bit, c in enumerate(CORNERS) if code >> bit & 1)
    if len(inside) > 4:
        return _triangles(255 - code)
    return tuple(
        triangle for loop in _loops(inside) for triangle in max(_fillings(loop), key=_area)
    )


def _loops(inside: Inside) -> Iterator[list[Point]]:
    """The closed lines where the surface meets the cube's faces."""
    ends: dict[Point, list[Point]] = defaultdict(list)
    for one, other in chain.from_iterable(_lines(face, inside) for face in FACES):
        ends[one].append(other)
        ends[other].append(one)
    while ends:
        loop = [min(ends)]
        following = ends.pop(loop[0])[0]
        while following != loop[0]:
            loop.append(following)
            one, other = ends.pop(following)
            following = one if other == loop[-2] else other
        yield loop


def _lines(face: tuple[Point, ...], inside: Inside) -> Iterator[tuple[Point, Point]]:
    """The straight lines of the surface across a face, by their ends."""
    middles = [
        tuple(a + b for a, b in zip(face[i - 1], face[i], strict=True))
        for i in range(4)
        if (face[i - 1] in inside) != (face[i] in inside)
    ]
    if len(middles) == 2:
        yield middles[0], middles[1]
    elif len(middles) == 4:  # middle i lies before corner i, so a corner's are i and i + 1
        first = 0 if face[0] in inside else 1
        yield middles[first], middles[first + 1]
        yield middles[first + 2], middles[(first + 3) % 4]


def _fillings(loop: list[Point]) -> Iterator[tuple[Triangle, ...]]:
    """Every way to fill a closed line with triangles between its points."""
    if len(loop) < 3:
        yield ()
        return
    for apex in range(1, len(loop) - 1):
        for one, other in product(_fillings(loop[: apex + 1]), _fillings(loop[apex:])):
            yield (*one, (loop[0], loop[apex], loop[-1]), *other)


def _cross(triangle: Triangle) -> tuple[int, int, int]:
    """Twice the area vector of a triangle."""
    (a, b, c), (d, e, f) = (
        tuple(q - p for p, q in zip(triangle[0], corner, strict=True)) for corner in triangle[1:]
    )
    return b * f - c * e, c * d - a * f, a * e - b * d


def _area(triangles: tuple[Triangle, ...]) -> float:
    return sum(math.hypot(*_cross(t)) for t in triangles)
