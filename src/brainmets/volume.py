"""Where voxels sit in the patient: pure affine maths in RAS+ millimetres.

World space is RAS+ everywhere (x to the patient's right, y anterior, z superior),
as in nibabel; voxel (0, 0, 0)'s *centre* lies at ``affine[:3, 3]``.
"""

from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from brainmets.errors import GridMismatchError, VolumeError

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.floating]
GRID_TOLERANCE_VOX = 0.05
"""Grids whose eight corners all lie within this many voxels are the same grid."""


def spacing_of(affine: FloatArray) -> tuple[float, float, float]:
    """Distance between neighbouring voxel centres along each array axis, in mm.

    >>> spacing_of(np.diag([2.0, 3.0, 4.0, 1.0]))
    (2.0, 3.0, 4.0)
    """
    x, y, z = np.sqrt((np.asarray(affine, float)[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def apply(affine: FloatArray, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Map points of shape (..., 3) through a 4×4 affine."""
    matrix = np.asarray(affine, np.float64)
    return np.asarray(np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3])


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of an image: how many, and where they lie.

    Attributes:
        shape: voxels along each array axis.
        affine: 4×4 float64, voxel index → RAS+ mm.
        frame_of_reference: DICOM Frame of Reference UID (0020,0052) where known.

    Raises:
        VolumeError: the shape is not three positive numbers, or the affine is not
            finite, not invertible, or has a last row other than 0 0 0 1.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64] = field(repr=False)
    frame_of_reference: str | None = None

    def __post_init__(self) -> None:
        """Check the shape and the affine, and freeze the latter."""
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise VolumeError(f"shape {self.shape}: expected three axes of at least one voxel")
        affine = np.array(self.affine, np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise VolumeError("the affine is not a finite 4×4 matrix; check the scan's header")
        if not np.allclose(affine[3], [0, 0, 0, 1], atol=1e-9):
            raise VolumeError(f"the affine's last row is {affine[3].tolist()}, expected 0 0 0 1")
        spacing = spacing_of(affine)
        if min(spacing) < 1e-6:
            raise VolumeError(f"voxel spacing {spacing} mm has a zero; check the scan's header")
        cosines = affine[:3, :3] / np.asarray(spacing)
        if abs(float(np.linalg.det(cosines))) < 1e-3:
            raise VolumeError("the affine is singular: two array axes point the same way")
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        """Equal when the grids agree (same voxels, same frame of reference where known)."""
        return isinstance(other, Grid) and self.agrees(other)

    __hash__ = None  # type: ignore[assignment]  # tolerance is not transitive

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each array axis."""
        return spacing_of(self.affine)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel: the determinant, so that sheared grids are right too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def corners_ras_mm(self) -> npt.NDArray[np.float64]:
        """World positions of the eight corner voxels' centres, shape (8, 3)."""
        ends = [(0, n - 1) for n in self.shape]
        return apply(self.affine, np.array(list(product(*ends)), float))

    def agrees(self, other: "Grid") -> bool:
        """Whether both describe the same voxels.

        Shapes are equal, all eight corners lie within 0.05 voxel, and the frames of
        reference do not contradict each other.
        """
        frames = {self.frame_of_reference, other.frame_of_reference} - {None}
        if self.shape != other.shape or len(frames) > 1:
            return False
        offset = np.linalg.norm(self.corners_ras_mm - other.corners_ras_mm, axis=1)
        return bool(offset.max() <= GRID_TOLERANCE_VOX * min(self.spacing_mm))

    def describe(self) -> str:
        """One line for error messages: shape, spacing, origin; nothing identifying."""
        spacing = "×".join(f"{s:.3g}" for s in self.spacing_mm)
        origin = ", ".join(f"{o:.1f}" for o in self.affine[:3, 3])
        return f"{'×'.join(map(str, self.shape))} voxels of {spacing} mm, origin ({origin})"


def require_same_grid(one: Grid, other: Grid, what: str) -> None:
    """Raise GridMismatchError unless the grids agree; ``what`` names the pair.

    >>> g = Grid((2, 2, 2), np.eye(4))
    >>> require_same_grid(g, g, "mask and scan")
    """
    if one.agrees(other):
        return
    if None not in (frames := (one.frame_of_reference, other.frame_of_reference)) and (
        frames[0] != frames[1]
    ):
        raise GridMismatchError(
            f"{what}: their frames of reference differ, so their positions cannot be compared; "
            "register one to the other first"
        )
    raise GridMismatchError(
        f"{what} lie on different grids: {one.describe()} against {other.describe()}. "
        "Resample one onto the other, or give the pair that belongs together"
    )


@dataclass(frozen=True)
class Volume:
    """An image: an array of shape ``grid.shape`` and the grid it lies on.

    Raises:
        VolumeError: the array's shape is not the grid's.
    """

    data: Array = field(repr=False)
    grid: Grid

    def __post_init__(self) -> None:
        """Check that array and grid belong together."""
        if self.data.shape != self.grid.shape:
            raise VolumeError(f"array of shape {self.data.shape} on a grid of {self.grid.shape}")

    def with_data(self, data: Array) -> "Volume":
        """Another array on the same grid."""
        return Volume(data, self.grid)


@dataclass(frozen=True)
class AxisOrder:
    """How to turn an array into nearest-RAS order: transpose, then flip.

    Attributes:
        axes: for each output axis (R, A, S) the input axis it comes from.
        flips: for each output axis whether it is reversed.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def forward(self, data: Array) -> Array:
        """A view of ``data`` with axes running to the patient's right, front and top."""
        turned = data.transpose(self.axes)
        return turned[tuple(slice(None, None, -1 if f else 1) for f in self.flips)]

    def backward(self, data: Array) -> Array:
        """The inverse of :meth:`forward`, also a view."""
        turned = data[tuple(slice(None, None, -1 if f else 1) for f in self.flips)]
        return turned.transpose(tuple(int(i) for i in np.argsort(self.axes)))


def nearest_ras_order(grid: Grid) -> AxisOrder:
    """The transposition and flips that bring array axes nearest to R, A and S.

    Of the six permutations the one with the largest summed direction cosines wins; a
    tie goes to the first in lexicographic order. Nothing is interpolated.
    """
    cosines = grid.affine[:3, :3] / np.asarray(grid.spacing_mm)
    strength = np.round(np.abs(cosines), 6)
    axes = max(permutations(range(3)), key=lambda p: sum(strength[w, p[w]] for w in range(3)))
    flips = tuple(bool(cosines[world, axis] < 0) for world, axis in enumerate(axes))
    return AxisOrder((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))


def reorient(volume: Volume, order: AxisOrder) -> Volume:
    """The same image with its array in another axis order; world positions are kept."""
    return Volume(order.forward(volume.data), _reorient_grid(volume.grid, order))


def _reorient_grid(grid: Grid, order: AxisOrder) -> Grid:
    columns = grid.affine[:, list(order.axes)].copy()
    origin = grid.affine[:, 3].copy()
    for world, flipped in enumerate(order.flips):
        if flipped:
            origin += columns[:, world] * (grid.shape[order.axes[world]] - 1)
            columns[:, world] *= -1
    x, y, z = (grid.shape[axis] for axis in order.axes)
    return Grid((x, y, z), np.column_stack([columns, origin]), grid.frame_of_reference)


def to_nearest_ras(volume: Volume) -> Volume:
    """``volume`` with its array axes in nearest-RAS order (a view, nothing interpolated)."""
    return reorient(volume, nearest_ras_order(volume.grid))


def on_grid(volume: Volume, grid: Grid, what: str) -> Volume:
    """``volume`` with its array in the axis order of ``grid``; nothing is interpolated.

    Converters of DICOM flip and permute axes each in their own way, so that two images of the
    very same voxels may differ in axis order.

    Args:
        volume: any image.
        grid: where it must lie.
        what: names the pair in the error.

    Raises:
        GridMismatchError: no order of its axes makes the grids agree.
    """
    for axes in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            order = AxisOrder((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))
            if _reorient_grid(volume.grid, order).agrees(grid):
                return Volume(order.forward(volume.data), grid)
    require_same_grid(volume.grid, grid, what)
    return volume
