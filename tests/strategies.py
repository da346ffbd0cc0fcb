"""What Hypothesis draws: grids of every kind that scanners make, masks and volumes on them."""

from itertools import permutations, product

import numpy as np
from hypothesis import strategies as st

from brainmets.volume import Grid, Volume
from phantoms import make_grid

AXIS_ORDERS = tuple(
    np.eye(3)[:, list(order)] * signs
    for order in permutations(range(3))
    for signs in product((1.0, -1.0), repeat=3)
)
"""The 48 ways in which array axes can run along world axes, as 3×3 matrices."""


def axis_orders() -> st.SearchStrategy[np.ndarray]:
    """One of the 48 signed permutations."""
    return st.sampled_from(AXIS_ORDERS)


@st.composite
def rotations(draw: st.DrawFn, largest_degrees: float = 180.0) -> np.ndarray:
    """A 3×3 rotation by at most ``largest_degrees`` about any axis."""
    axis = np.array([draw(st.floats(-1, 1)) for _ in range(3)])
    length = np.linalg.norm(axis)
    x, y, z = axis / length if length > 1e-3 else np.array([0.0, 0.0, 1.0])
    angle = np.deg2rad(draw(st.floats(-largest_degrees, largest_degrees)))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def shapes(smallest: int = 2, largest: int = 12) -> st.SearchStrategy[tuple[int, int, int]]:
    """Three side lengths."""
    side = st.integers(smallest, largest)
    return st.tuples(side, side, side)


def spacings(smallest: float = 0.4, largest: float = 6.0) -> st.SearchStrategy[tuple[float, ...]]:
    """Voxel sizes in mm along the three axes, mostly anisotropic."""
    side = st.floats(smallest, largest).map(lambda x: round(x, 3))
    return st.tuples(side, side, side)


@st.composite
def grids(
    draw: st.DrawFn,
    *,
    smallest: int = 2,
    largest: int = 12,
    tilt_degrees: float = 40.0,
    shape: tuple[int, int, int] | None = None,
) -> Grid:
    """A grid in any of the 48 axis orders, tilted by up to ``tilt_degrees`` (0: not oblique)."""
    axes = draw(axis_orders())
    if tilt_degrees:
        axes = draw(rotations(tilt_degrees)) @ axes
    centre = [draw(st.floats(-150, 150).map(lambda x: round(x, 2))) for _ in range(3)]
    shape = shape or draw(shapes(smallest, largest))
    return make_grid(shape, draw(spacings()), axes=axes, centre_ras_mm=centre)


@st.composite
def volumes(draw: st.DrawFn, grid: Grid | None = None, **grid_options: object) -> Volume:
    """Noise between -100 and 1000 as float32; the seed is drawn, so that shrinking is quick."""
    grid = draw(grids(**grid_options)) if grid is None else grid
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    return Volume(rng.uniform(-100, 1000, grid.shape).astype(np.float32), grid)


@st.composite
def masks(
    draw: st.DrawFn,
    grid: Grid | None = None,
    *,
    empty: bool = True,
    **grid_options: object,
) -> Volume:
    """A bool mask: a few boxes and single voxels; maybe empty, unless told otherwise."""
    grid = draw(grids(**grid_options)) if grid is None else grid
    data = np.zeros(grid.shape, bool)
    for _ in range(draw(st.integers(0 if empty else 1, 4))):
        start = [draw(st.integers(0, n - 1)) for n in grid.shape]
        size = [draw(st.integers(1, max(1, n // 2))) for n in grid.shape]
        data[tuple(slice(a, a + b) for a, b in zip(start, size, strict=True))] = True
    return Volume(data, grid)
