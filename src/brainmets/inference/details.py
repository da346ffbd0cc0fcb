"""Small metastases: the detail network's word on bright places and on small findings.

The network of the whole brain is blind to many metastases of a few voxels. What looks like one
is looked at by a second network, place by place; where it is surer, its probabilities count.
What the other network finds that is small is looked at as well, and dropped if it is unlikely;
what is large, if nothing in it looks like one.
A place that may be a metastasis is looked at from next to it and mirrored, too.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import expit

from brainmets.inference.candidates import candidates
from brainmets.network.bundle import SIDE
from brainmets.network.detail_engine import COUNT, DetailEngine
from brainmets.preprocess.prepare import Prepared
from brainmets.volume import Volume

LIMITS = (-4.0, 8.0)
"""Of the Z-scores that the network sees."""
SCALES = (1, 2, 4)
"""Voxels along each axis that are averaged."""
LEAST = -3.0
"""Log odds of a place below which it is not outlined: no rule asks for so little."""
INSIDE = 0.3
"""Of an outline: a voxel with less is outside."""
SURE = 0.5
"""Of an outline: the least that its largest value may be."""
CUBE = np.ones((3, 3, 3), bool)
FOUND, SURELY = 0.3, 0.5
"""A finding of the other network: voxels of the first, one of them at least of the second."""
SMALL_MM = 10.0
"""Equivalent diameter up to which a finding is judged by its middle: larger ones fill what is
looked at."""
DOUBT = 1.0
"""Log odds on either side of the veto within which fewer bits may decide otherwise."""
NEARLY = 1.1
"""So many times the largest volume that is small: also in doubt; beyond, a finding is large."""
LARGE_LOOKS = 32
"""Voxels of a large finding that are looked at, besides its middle."""
LARGE_ONES = 16
"""So many large findings of a scan are judged, the smallest."""
IMPOSSIBLE = LEAST
"""Log odds: a large finding none of whose looks gives as much is dropped."""
MAY_BE = -1.0
"""Log odds above which a place is looked at again, if it is looked at more than once."""
SUREST = 4
"""The mean of so many looks counts (of all, if they are fewer), those with the highest log odds:
a place that was found is seldom a metastasis' middle, and next to it the network may see it
better."""
ASIDE = np.concatenate([np.zeros((1, 3), int), np.eye(3, dtype=int), -np.eye(3, dtype=int)])
LOOKS = tuple(product(ASIDE, (False, True)))
"""Voxels beside a place, and whether it is mirrored left to right."""
REACH_VOX = 2
"""An outline counts where it comes as near as this to its place."""

Box = tuple[slice, slice, slice]
Float32 = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """What the detail network says of one place.

    Attributes:
        box: voxels of the prepared scan around it.
        log_odds: that it is a metastasis.
        outline: probability of each voxel of the box, given that it is.
    """

    box: Box
    log_odds: float
    outline: Float32 = field(repr=False)

    @property
    def probability(self) -> Float32:
        """Of each voxel of the box."""
        return np.asarray(self.outline * np.float32(expit(self.log_odds)), np.float32)


@dataclass(frozen=True)
class Judged:
    """What the detail network says of a finding of the other network.

    Attributes:
        voxels: of the prepared scan, indices along x, y and z.
        log_odds: that it is a metastasis, not shifted; of a large one the surest of many looks.
        size: its volume, as a share of the largest that is small: up to 1 it is small, above
            ``NEARLY`` large, and between it stays.
    """

    voxels: tuple[Places, Places, Places] = field(repr=False)
    log_odds: float
    size: float = 0.0

    def is_dropped(self, veto: float | None) -> bool:
        """Whether it is less likely than a veto allows, or large and impossible.

        None allows anything.
        """
        if veto is None:
            return False
        if self.size > NEARLY:
            return self.log_odds < IMPOSSIBLE
        return self.size <= 1 and self.log_odds < veto

    def is_in_doubt(self, veto: float | None) -> bool:
        """Whether fewer bits might have decided otherwise."""
        if veto is None:
            return False
        is_large = self.size > NEARLY
        least = IMPOSSIBLE if is_large else veto
        hardly = self.size < NEARLY**2 if is_large else self.size > 1 / NEARLY
        return self.log_odds < least + DOUBT and (self.log_odds > least - DOUBT or hardly)

    @property
    def box(self) -> Box:
        """The voxels around it."""
        x, y, z = (slice(int(along.min()), int(along.max()) + 1) for along in self.voxels)
        return x, y, z


class Pyramid:
    """A prepared scan at the three scales that the network sees, 0 around it."""

    def __init__(self, image: Float32, kept_as: type[np.floating] = np.float32) -> None:
        """Average it.

        Args:
            image: Z-scores (X, Y, Z), 0 outside the brain.
            kept_as: float16 takes half the memory.
        """
        half = SIDE // 2
        whole = [(0, -n % max(SCALES)) for n in image.shape]
        filled = np.pad(np.clip(image, *LIMITS), whole)
        self.levels = [np.pad(_averaged(filled, scale).astype(kept_as), half) for scale in SCALES]

    def around(self, places: Places) -> Float32:
        """Patches (N, 3, 24, 24, 24) of places, voxels of the image (N, 3)."""
        patches = np.empty((len(places), len(SCALES), SIDE, SIDE, SIDE), np.float32)
        for number, (level, scale) in enumerate(zip(self.levels, SCALES, strict=True)):
            for patch, (x, y, z) in zip(patches[:, number], places // scale, strict=True):
                patch[:] = level[x : x + SIDE, y : y + SIDE, z : z + SIDE]
        return patches


def _averaged(image: Float32, scale: int) -> Float32:
    if scale == 1:
        return image
    x, y, z = (n // scale for n in image.shape)
    return np.asarray(image.reshape(x, scale, y, scale, z, scale).mean((1, 3, 5)), np.float32)


class Details:
    """The detail network's word on a scan; places are looked at once, findings whenever asked."""

    def __init__(self, prepared: Prepared, detail: DetailEngine) -> None:
        """Look at bright places.

        Raises:
            RunError: the network gave numbers that are not finite.
        """
        self._prepared, self._detail = prepared, detail
        self._pyramid = pyramid_of(prepared)
        self._seen = look_closely(prepared, detail, self._pyramid)
        self._before: Float32 | None = None
        self.in_doubt: tuple[Box, ...] = ()
        """Findings that arithmetic of fewer bits may have dropped or kept wrongly."""

    def apply(self, probability: Volume, *, keep: bool = False) -> Volume:
        """Drop what is unlikely, add what is likely; changed in place where it is float32.

        Args:
            probability: of the other network, on the grid of the prepared scan.
            keep: whether :meth:`undo` will be asked for.

        Raises:
            RunError: the network gave numbers that are not finite.
        """
        box = self._prepared.box
        self._before = np.array(probability.data[box], np.float32) if keep else None
        veto = self._detail.veto
        if veto is not None:
            judged = judge(probability, self._prepared, self._detail, self._pyramid)
            probability = drop(probability, judged, veto)
            self.in_doubt = tuple(each.box for each in judged if each.is_in_doubt(veto))
        return add(probability, self._seen)

    def undo(self, probability: Volume) -> Volume:
        """The probabilities as they were before :meth:`apply`, which must have kept them."""
        data = _changeable(probability)
        if self._before is not None:
            data[self._prepared.box] = self._before
        return probability.with_data(data)


def pyramid_of(prepared: Prepared) -> Pyramid:
    """The brain's box of a prepared scan."""
    return Pyramid(np.asarray(prepared.volume.data[prepared.box], np.float32))


def look_closely(prepared: Prepared, detail: DetailEngine, pyramid: Pyramid) -> tuple[Seen, ...]:
    """What the detail network sees at the bright places of a scan.

    Args:
        prepared: the scan.
        detail: the network.
        pyramid: from :func:`pyramid_of`.

    Raises:
        RunError: it gave numbers that are not finite.
    """
    shape = prepared.volume.grid.shape
    low = np.array([side.start for side in prepared.box])
    places, _ = candidates(prepared, detail.most, detail.rings)
    odds = _log_odds(detail, pyramid, places - low) - np.float32(detail.shift)
    likely = odds >= LEAST
    places, odds = places[likely], odds[likely]
    seen: list[Seen] = []
    for part, each in _parts(places, odds):
        outlines = detail.outlines(pyramid.around(part - low))
        for place, likely_by, outline in zip(part, each.tolist(), outlines, strict=True):
            there, here = _within(place, shape)
            inside = np.zeros_like(outline)
            inside[here] = np.where(prepared.brain.data[there], outline[here], np.float32(0))
            seen.append(Seen(there, likely_by, central(inside)[here]))
    return tuple(seen)


def _parts(*arrays: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    """Arrays cut into parts of a few dozen places: their patches take memory."""
    for first in range(0, len(arrays[0]), 4 * COUNT):
        yield tuple(array[first : first + 4 * COUNT] for array in arrays)


def _log_odds(
    detail: DetailEngine, pyramid: Pyramid, places: Places, may_be: float = MAY_BE
) -> Float32:
    """Of places, voxels of the pyramid's image.

    Those whose first look gives more than ``may_be`` are looked at again, and their surest looks
    count. What would lie before the image's first voxel is looked at from there.
    """
    found = _looked(detail, pyramid, places, np.zeros(len(places), bool))
    again = np.flatnonzero(found > may_be)
    if detail.looks > 1 and len(again):
        beside, mirrored = zip(*LOOKS[1 : detail.looks], strict=True)
        there = np.maximum(places[again] + np.array(beside)[:, None], 0)
        others = _looked(detail, pyramid, there.reshape(-1, 3), np.repeat(mirrored, len(again)))
        looks = np.concatenate([found[None, again], others.reshape(-1, len(again))])
        found[again] = np.sort(looks, 0)[-SUREST:].mean(0)
    return found


def _looked(
    detail: DetailEngine, pyramid: Pyramid, places: Places, mirrored: npt.NDArray[np.bool_]
) -> Float32:
    """One look at each place."""
    found = [np.zeros(0, np.float32)]
    for part, turned in _parts(places, mirrored):
        patches = pyramid.around(part)
        patches[turned] = patches[turned, :, ::-1]
        found.append(detail.log_odds(patches))
    return np.concatenate(found)


def judge(
    probability: Volume, prepared: Prepared, detail: DetailEngine, pyramid: Pyramid
) -> tuple[Judged, ...]:
    """What the detail network says of the other network's findings.

    Small ones are looked at in their middles, all of them as often: fewer bits may move a middle by
    a voxel, and a finding that was looked at again would be judged by another measure than one that
    was not. Of more than ``detail.most`` the largest are judged.

    Large ones fill what is looked at. Many of their voxels are, once each, and the surest counts.
    Of more than ``LARGE_ONES`` the smallest are judged.

    Args:
        probability: of the other network, on the grid of the prepared scan.
        prepared: the scan.
        detail: the network.
        pyramid: from :func:`pyramid_of`.

    Raises:
        RunError: it gave numbers that are not finite.
    """
    found = np.asarray(probability.data[prepared.box], np.float32)
    pieces, _ = ndimage.label(found >= FOUND, CUBE)
    sure = np.unique(pieces[found >= SURELY])
    most_vox = math.pi / 6 * SMALL_MM**3 / probability.grid.voxel_volume_mm3
    boxes = ndimage.find_objects(pieces)
    findings = []
    for number in sure.tolist():
        box = boxes[number - 1]
        findings.append(np.argwhere(pieces[box] == number) + [side.start for side in box])
    findings.sort(key=len, reverse=True)
    large = [voxels for voxels in findings if len(voxels) > NEARLY * most_vox][-LARGE_ONES:]
    small = [voxels for voxels in findings if len(voxels) <= NEARLY * most_vox][: detail.most]
    middles = np.array([_middle(voxels) for voxels in small]).reshape(-1, 3)
    low = np.array([side.start for side in prepared.box])
    judged = []
    found_odds = _log_odds(detail, pyramid, middles, may_be=-math.inf).tolist()
    found_odds += [_surest(detail, pyramid, voxels) for voxels in large]
    for voxels, odds in zip([*small, *large], found_odds, strict=True):
        x, y, z = (voxels + low).T
        judged.append(Judged((x, y, z), odds, len(voxels) / most_vox))
    return tuple(judged)


def _surest(detail: DetailEngine, pyramid: Pyramid, voxels: Places) -> float:
    """The highest log odds of a finding's middle and of voxels all over it, one look at each."""
    some = voxels[:: math.ceil(len(voxels) / LARGE_LOOKS)]
    places = np.concatenate([_middle(voxels)[None], some])
    return float(_looked(detail, pyramid, places, np.zeros(len(places), bool)).max())


def _middle(voxels: Places) -> Places:
    """The voxel of a finding that is nearest to its centre of mass."""
    away = ((voxels - voxels.mean(0)) ** 2).sum(1)
    return np.asarray(voxels[np.argmin(away)])


def drop(probability: Volume, judged: Sequence[Judged], veto: float | None) -> Volume:
    """The probabilities without findings that are unlikely; changed in place if float32.

    Args:
        probability: on the grid of the prepared scan.
        judged: from :func:`judge`.
        veto: log odds below which a finding is dropped; None: none is.
    """
    data = _changeable(probability)
    for finding in judged:
        if finding.is_dropped(veto):
            data[finding.voxels] = 0
    return probability.with_data(data)


def add(probability: Volume, details: Sequence[Seen]) -> Volume:
    """The larger of two probabilities where the detail network looked; changed in place if float32.

    Args:
        probability: on the grid of the prepared scan.
        details: from :func:`look_closely`.
    """
    data = _changeable(probability)
    for seen in details:
        data[seen.box] = np.maximum(data[seen.box], seen.probability)
    return probability.with_data(data)


def _changeable(probability: Volume) -> Float32:
    data = np.asarray(probability.data, np.float32)
    return data if data.flags.writeable else data.copy()


def _within(place: Places, shape: tuple[int, int, int]) -> tuple[Box, Box]:
    """The voxels around a place: counted from the scan's first, and from the patch's."""
    start = place - SIDE // 2
    first, last = np.maximum(start, 0), np.minimum(start + SIDE, shape)
    there, here = (
        tuple(slice(int(a), int(b)) for a, b in zip(first - by, last - by, strict=True))
        for by in (np.zeros(3, int), start)
    )
    return (there[0], there[1], there[2]), (here[0], here[1], here[2])


def central(outline: Float32) -> Float32:
    """An outline without what belongs to its neighbours, 1 where it is surest.

    Kept are the pieces that come near its middle. Divided by its largest value, an outline times
    the probability of its place is as likely a finding as the place is a metastasis. None is left
    of an outline that is sure of no voxel.
    """
    pieces, _ = ndimage.label(outline >= INSIDE, CUBE)
    middle = slice(SIDE // 2 - REACH_VOX, SIDE // 2 + REACH_VOX + 1)
    near = np.unique(pieces[middle, middle, middle])
    kept = np.where(np.isin(pieces, near[near > 0]), outline, np.float32(0))
    largest = kept.max()
    return np.asarray(kept / largest if largest >= SURE else np.zeros_like(kept), np.float32)
