"""Whole validation cases are seen as in use, and counted lesion by lesion."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from brainmets.config import Recipe, Tiling
from brainmets.network.detail_engine import DetailEngine
from brainmets.training.preparing import score_levels
from brainmets.training.store import DEPTH_STEP_MM
from brainmets.training.validation import as_in_use, look, spread
from training_cases import prepared_case

RECIPE, TILING = Recipe(spacing_mm=1.0), Tiling(32, 0.25)
CASES = [
    prepared_case(lesions=((10, 10, 10), (30, 30, 28)), seed=1, name="a"),
    prepared_case(lesions=((12, 30, 18),), seed=2, name="b"),
]


@dataclass(frozen=True)
class Answers:
    """An engine that gives a share of what it is shown, or one number everywhere."""

    share: float = 0.0
    everywhere: float = 0.0
    name: str = "stand-in"

    def __call__(self, tile):
        """Bright is certain: lesions of the cases lie at 4."""
        return np.clip(tile * self.share + self.everywhere, 0, 1).astype(np.float32)


def clean(case):
    """Lesions at 4, all else 0."""
    return replace(case, image=(4 * (case.labels > 0)).astype(np.float16))


def test_an_engine_that_knows_finds_all_and_nothing_else():
    seen = look(Answers(share=0.25), [clean(case) for case in CASES], RECIPE, TILING)
    assert (seen.f1, seen.sensitivity, seen.false_positives) == (1, 1, 0)
    assert (seen.lesions, seen.cases) == (3, 2)


def test_an_engine_that_sees_nothing_finds_nothing():
    seen = look(Answers(), CASES, RECIPE, TILING)
    assert (seen.f1, seen.sensitivity, seen.false_positives) == (0, 0, 0)


def test_a_bright_spot_that_is_no_lesion_is_a_false_positive():
    case = clean(CASES[0])
    image = case.image.copy()
    image[5:9, 30:34, 5:9] = 4
    told = []
    seen = look(
        Answers(share=0.25), [replace(case, image=image), clean(CASES[1])], RECIPE, TILING,
        lambda *s: told.append(s),
    )  # fmt: skip
    assert seen.false_positives == 0.5
    assert seen.f1 == pytest.approx(2 * 0.75 / 1.75)
    assert told == [(1, 2), (2, 2)]


def test_a_detail_network_has_its_say_as_in_use():
    """It finds what the other misses, and takes away what the other finds wrongly."""

    def see(patches, outlined):
        bright = patches[:, 0, 11:14, 11:14, 11:14].mean((1, 2, 3)) > 2
        outlines = (patches[:, 0] > 2).astype(np.float32) if outlined else None
        return np.where(bright, 5.0, -9.0).astype(np.float32), outlines

    def veto_all(patches, _outlined):
        return np.full(len(patches), -9.0, np.float32), None

    cases = [clean(case) for case in CASES]
    finds = look(Answers(), cases, RECIPE, TILING, detail=DetailEngine(20, 0.0, see))
    assert (finds.f1, finds.sensitivity) == (1, 1)
    takes = DetailEngine(20, 0.0, veto_all, veto=0.0)
    seen = look(Answers(share=0.25), cases, RECIPE, TILING, detail=takes)
    assert (seen.sensitivity, seen.false_positives) == (0, 0)


def test_what_lies_beyond_the_masks_margin_is_not_seen():
    """The margin is the recipe's, and Z-scores are those within it, as in use."""
    rng = np.random.default_rng(0)
    depth = np.empty((32, 32, 32), np.int8)
    depth[:] = np.arange(-8, 24)
    image = (3 + 0.2 * depth + rng.standard_normal(depth.shape)).astype(np.float16)
    case = replace(
        prepared_case((32, 32, 32)), image=image, depth=depth,
        levels=tuple(score_levels(image, depth)),
    )  # fmt: skip
    prepared = as_in_use(case, Recipe(brain_margin_mm=2.0))
    inside = depth * DEPTH_STEP_MM <= 2
    assert (prepared.brain.data == inside).all()
    assert (prepared.volume.data[~inside] == 0).all()
    assert prepared.volume.data[inside].mean() == pytest.approx(0, abs=1e-2)
    assert prepared.volume.data[inside].std() == pytest.approx(1, abs=1e-2)
    assert as_in_use(case, Recipe(clip_z=1.0)).volume.data.max() == 1


def test_cases_to_look_at_are_spread_over_all():
    assert spread(range(20), 5) == (0, 5, 10, 14, 19)
    assert spread(range(3), 5) == (0, 1, 2)
    assert spread(range(3), 0) == ()
