"""Small heads whose truth is known, on any grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brainmets.volume import Grid, Volume, apply


@dataclass(frozen=True)
class Ball:
    """A lesion: an ellipsoid about ``centre_ras_mm`` with half-axes along x, y and z."""

    centre_ras_mm: tuple[float, float, float]
    radius_mm: float | tuple[float, float, float] = 4.0
    brightness: float = 60.0

    @property
    def volume_mm3(self) -> float:
        """Exact volume."""
        return float(4 / 3 * np.pi * np.prod(np.broadcast_to(self.radius_mm, 3)))


@dataclass(frozen=True)
class Head:
    """A scan and its truth, all on one grid.

    Attributes:
        scan: float32 grey values of brain, skull, air and lesions.
        brain: bool mask.
        lesions: int32, i + 1 in the i-th ball.
    """

    scan: Volume
    brain: Volume
    lesions: Volume


def make_grid(
    shape: Sequence[int] = (60, 68, 56),
    spacing_mm: float | Sequence[float] = 2.5,
    *,
    axes: np.ndarray | None = None,
    centre_ras_mm: Sequence[float] = (0.0, 0.0, 0.0),
    frame_of_reference: str | None = None,
) -> Grid:
    """A grid about a centre.

    Args:
        shape: voxels along each array axis.
        spacing_mm: their distance along each array axis.
        axes: 3×3, the world direction of each array axis in its columns (default: RAS).
        centre_ras_mm: where the middle of the grid lies.
        frame_of_reference: passed on.
    """
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if axes is None else axes) * np.broadcast_to(spacing_mm, 3)
    affine[:3, 3] = centre_ras_mm - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Grid((shape[0], shape[1], shape[2]), affine, frame_of_reference)


def axes_of(code: str) -> np.ndarray:
    """Axes for :func:`make_grid` from letters such as ``"LPS"``: where each array axis runs."""
    return np.column_stack(
        [np.eye(3)["RLAPSI".index(c) // 2] * (1 if c in "RAS" else -1) for c in code]
    )


def rotation(degrees: float, about: Sequence[float] = (0.0, 0.0, 1.0)) -> np.ndarray:
    """3×3 rotation about an axis (Rodrigues)."""
    x, y, z = np.asarray(about, float) / np.linalg.norm(about)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def world(grid: Grid) -> np.ndarray:
    """World position of every voxel centre, shape (*grid.shape, 3)."""
    return apply(grid.affine, np.moveaxis(np.indices(grid.shape), 0, -1))


def within(
    grid: Grid,
    centre_ras_mm: Sequence[float],
    radius_mm: float | Sequence[float],
) -> np.ndarray:
    """Voxels whose centre lies in the ellipsoid, bool array of the grid's shape."""
    scaled = (world(grid) - centre_ras_mm) / np.broadcast_to(radius_mm, 3)
    return (scaled**2).sum(axis=-1) <= 1


def make_head(
    grid: Grid | None = None,
    balls: Sequence[Ball] = (),
    *,
    brain_radius_mm: Sequence[float] = (48.0, 60.0, 46.0),
    noise: float = 3.0,
    seed: int = 0,
) -> Head:
    """A head about the world's origin: brain of about 100, darker CSF, bright skull, dark air.

    The noise depends on seed and shape alone. Lesions outside the brain are drawn all the same.
    """
    grid = make_grid() if grid is None else grid
    radius = np.asarray(brain_radius_mm, float)
    brain = within(grid, (0, 0, 0), radius)
    skull = within(grid, (0, 0, 0), radius + 9) & ~within(grid, (0, 0, 0), radius + 3)
    values = np.zeros(grid.shape)
    values[skull] = 160
    values[brain] = 100
    values[brain & ~within(grid, (0, 0, 0), radius - 4)] = 70
    values[within(grid, (0, 0, 0), radius / 5)] = 30
    labels = np.zeros(grid.shape, np.int32)
    for number, ball in enumerate(balls, start=1):
        inside = within(grid, ball.centre_ras_mm, ball.radius_mm)
        values[inside] = 100 + ball.brightness
        labels[inside] = number
    values += noise * np.random.default_rng(seed).standard_normal(grid.shape)
    scan = np.maximum(values, 0).astype(np.float32)
    return Head(Volume(scan, grid), Volume(brain, grid), Volume(labels, grid))
