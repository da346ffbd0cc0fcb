"""One volume out of the planes of a series, or a reason why there is none.

A series may hold more than one volume: phase beside magnitude, several echoes, several
time points. What is chosen here, and what is refused, is listed in docs/decisions.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt

from brainmets.errors import VolumeError
from brainmets.io.archive import Entry, Reader
from brainmets.io.dicom_geometry import Stack, same_place, stack
from brainmets.io.dicom_header import naming
from brainmets.io.dicom_pixels import Pixels, rescaled
from brainmets.io.dicom_planes import Plane
from brainmets.volume import Array, Volume

CONSTANT = ("echo time", "echo number", "inversion time", "b-value", "temporal position")
"""Kinds that are the same for every plane of one volume."""
SAME_KIND = 0.02
"""Relative difference up to which a kind's values count as one (vendors round)."""
MOST_VOXELS = 1_500_000_000
"""More (6 GB as float32) is no head scan."""


def read_volume(planes: Sequence[Plane], reader: Reader) -> tuple[Volume, tuple[str, ...]]:
    """The voxels of one series and notes on what was chosen or tolerated.

    Returns:
        float32 values on a grid whose axes are columns, rows, planes.

    Raises:
        VolumeError: no volume, or more than one; NaN or infinite values.
        ReadError: damaged pixels. Messages name the plane.
    """
    chosen, notes = _magnitude(planes)
    chosen, dropped = _one_per_place(chosen, reader)
    stacked, packages = _stack_of_one(chosen)
    data, remarks = _fill(stacked, reader)
    return Volume(data, stacked.grid), (*notes, *dropped, *stacked.notes, *packages, *remarks)


def require_volume(planes: Sequence[Plane]) -> None:
    """Refuse what :func:`read_volume` would, as far as can be told without pixels.

    Raises:
        VolumeError: as there.
    """
    chosen, _ = _magnitude(planes)
    _stack_of_one([group[0] for group in same_place(chosen)])


def _stack_of_one(planes: Sequence[Plane]) -> tuple[Stack, tuple[str, ...]]:
    _require_one_kind(planes)
    stacked = stack(planes)
    return stacked, _package_notes(stacked.planes)


def _package_notes(ordered: Sequence[Plane]) -> tuple[str, ...]:
    """Several acquisitions in one stack are packages of one volume, or several volumes.

    Raises:
        VolumeError: two acquisitions that differ in agent, or each at a time of its own.
    """
    by_number: dict[float | None, list[int]] = {}
    for place, plane in enumerate(ordered):
        by_number.setdefault(plane.kinds.get("acquisition"), []).append(place)
    packages = [places for places in by_number.values() if len(places) > 1]
    if len(by_number) < 2 or not packages:
        return ()
    times = [{ordered[k].time for k in places} for places in by_number.values()]
    agents = [{ordered[k].agent for k in places} for places in by_number.values()]
    for what, found in (("acquisition time", times), ("contrast agent", agents)):
        if all(len(one) == 1 for one in found) and len(set.union(*found)) > 1:
            raise _acquisitions(ordered, packages, f"each with its own {what}")
    if not all(_is_even(places) for places in packages):
        raise _acquisitions(ordered, packages, "mixed without order")
    return (f"the slices were acquired in {len(by_number)} packages, taken for one volume",)


def _is_even(places: Sequence[int]) -> bool:
    """Whether a package is every k-th slice of the stack."""
    return len({after - before for before, after in pairwise(places)}) <= 1


def _acquisitions(
    ordered: Sequence[Plane], packages: Sequence[Sequence[int]], how: str
) -> VolumeError:
    return VolumeError(
        f"several acquisitions in one series, {how} ({ordered[packages[0][0]].name} is of one of "
        f"{len(packages)}); expected one volume. Give the images of one acquisition alone"
    )


def _magnitude(planes: Sequence[Plane]) -> tuple[list[Plane], tuple[str, ...]]:
    """The magnitude images, where phase, real or imaginary ones lie beside them."""
    magnitude = [plane for plane in planes if plane.component == "M"]
    others = [plane for plane in planes if plane.component not in ("M", "")]
    if not others:
        return list(planes), ()
    if not magnitude:
        raise VolumeError(
            f"phase, real or imaginary images ({others[0].name}), none of magnitude; give the "
            "magnitude series"
        )
    if len(magnitude) + len(others) < len(planes):
        raise VolumeError("some images do not say whether they are magnitude or phase; split them")
    return magnitude, (f"{len(others)} phase, real or imaginary images were left out",)


def _one_per_place(planes: Sequence[Plane], reader: Reader) -> tuple[list[Plane], tuple[str, ...]]:
    """One plane of each place; further ones are left out if every pixel is the same.

    Raises:
        VolumeError: two different images of one place.
    """
    kept: list[Plane] = []
    dropped = 0
    for group in same_place(planes):
        first, *others = group
        kept.append(first)
        if not others:
            continue
        pixels = _single(first, reader)
        for other in others:
            if not np.array_equal(pixels, _single(other, reader)):
                raise VolumeError(_why_two(planes, first, other))
        dropped += len(others)
    note = f"{dropped} images that repeat another, pixel by pixel, were left out"
    return kept, ((note,) if dropped else ())


def _single(plane: Plane, reader: Reader) -> npt.NDArray[np.float32]:
    with naming(plane.name):
        (frame,) = Pixels(reader.read(plane.entry)).frames([plane.frame])
        return rescaled(frame, plane.rescale)


def _why_two(planes: Sequence[Plane], one: Plane, other: Plane) -> str:
    where = f"{one.name} and {other.name} show one place differently"
    if one.name == other.name:
        x, y, z = one.position_lps_mm
        where = f"two images called {one.name}, at ({x:.1f}, {y:.1f}, {z:.1f}) mm LPS, show one "
        where += "place differently"
    for kind in (*CONSTANT, "trigger time", "acquisition"):
        if _differ(one.kinds.get(kind), other.kinds.get(kind)):
            values = {plane.kinds.get(kind) for plane in planes}
            return (
                f"{where}: {len(values)} values of {kind} in one series, expected one volume; give "
                "the images of one of them alone"
            )
    return f"{where}, and no tag says how they differ; give the images of one volume alone"


def _differ(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is not other
    return abs(one - other) > SAME_KIND * max(abs(one), abs(other))


def _require_one_kind(planes: Sequence[Plane]) -> None:
    """Refuse a stack whose planes were not all made in the same way."""
    for kind in CONSTANT:
        for plane in planes[1:]:
            if _differ(planes[0].kinds.get(kind), plane.kinds.get(kind)):
                raise VolumeError(
                    f"{planes[0].name} and {plane.name} differ in {kind}; expected slices of one "
                    "volume. Give the images of one of them alone"
                )


def _fill(stacked: Stack, reader: Reader) -> tuple[Array, tuple[str, ...]]:
    """All voxels, shape of the grid; planes lie one behind the other in memory."""
    columns, rows, count = stacked.grid.shape
    if columns * rows * count > MOST_VOXELS:
        raise VolumeError(f"{columns}×{rows}×{count} voxels; it is no head scan")
    data = np.empty((count, rows, columns), np.float32)
    lossy = False
    files = list(_by_file(stacked.planes))
    contents = _contents([stacked.planes[places[0]].entry for places in files], reader)
    for places in files:
        lossy |= _fill_from_file(data, stacked.planes, places, contents)
    padded = bool(np.isnan(data.min()))
    if padded:
        holes = np.isnan(data)
        data[holes] = 0 if holes.all() else np.nanmin(data)
    if not (np.isfinite(data.min()) and np.isfinite(data.max())):
        raise VolumeError("rescaled values are infinite; export the series again")
    notes = {
        "pixels marked as padding were given the lowest value of the scan": padded,
        "the images were compressed with loss of detail": lossy,
    }
    return data.transpose(2, 1, 0), tuple(note for note, holds in notes.items() if holds)


def _by_file(planes: Sequence[Plane]) -> Iterator[list[int]]:
    """Places of planes, gathered by the file that holds them, so that each is read once."""
    order = sorted(range(len(planes)), key=lambda k: (planes[k].entry.name, planes[k].frame))
    for _, places in groupby(order, key=lambda k: planes[k].entry.name):
        yield list(places)


def _contents(files: Sequence[Entry], reader: Reader) -> Iterator[bytes]:
    """What the files hold, one after the other; the next is unpacked while one is used."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(reader.read, files[0])
        for following in files[1:]:
            content = ahead.result()
            ahead = pool.submit(reader.read, following)
            yield content
        yield ahead.result()


def _fill_from_file(
    data: Array, planes: Sequence[Plane], places: Sequence[int], contents: Iterator[bytes]
) -> bool:
    """Fill the planes that lie in one file; whether they were compressed with loss."""
    first = planes[places[0]]
    with naming(first.name):
        pixels = Pixels(next(contents))
    frames = pixels.frames([planes[place].frame for place in places])
    for place in places:
        with naming(planes[place].name):
            frame = next(frames)
            if frame.shape != planes[place].size:
                raise VolumeError("the pixels are not as many as the header says; export it again")
            _put(frame, data[place], planes[place].rescale, pixels.padding)
    return pixels.is_lossy


def _put(
    frame: Array, out: Array, rescale: tuple[float, float], padding: tuple[int, int] | None
) -> None:
    """Rescaled values into ``out``; NaN where a pixel is padding. 0 is air as it stands."""
    out[...] = frame if rescale == (1.0, 0.0) else rescaled(frame, rescale)
    if padding is not None and padding != (0, 0):
        out[(frame >= padding[0]) & (frame <= padding[1])] = np.nan
