"""Configuration: what goes in comes back, and a misspelling never passes."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainmets.config import (
    Architecture,
    DecisionRule,
    Recipe,
    Tiling,
    from_mapping,
    to_mapping,
)
from brainmets.errors import ConfigError

calm = settings(deadline=None)  # a busy machine is no failure

KINDS = (Recipe, Architecture, Tiling, DecisionRule)


@dataclass(frozen=True)
class Many:
    """Stands for a configuration with a tuple and a flag."""

    sizes: tuple[float, ...] = (1.0,)
    flag: bool = False


@calm
@given(
    st.one_of(
        st.builds(Recipe, st.floats(0.2, 5), st.text(), st.floats(0, 10), st.floats(0, 100)),
        st.builds(Architecture, st.integers(1, 32).map(lambda n: 4 * n), st.integers(0, 64)),
        st.builds(Tiling, st.integers(1, 8).map(lambda n: 32 * n), st.floats(0, 0.9)),
        st.builds(DecisionRule, st.floats(0.01, 0.5), st.floats(0.5, 1), st.floats(0, 100)),
        st.builds(Many, st.lists(st.floats(-9, 9)).map(tuple), st.booleans()),
    )
)
def test_through_json_and_back(configuration):
    text = json.dumps(to_mapping(configuration))
    assert from_mapping(type(configuration), json.loads(text)) == configuration


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_mapping_gives_the_defaults(kind):
    assert from_mapping(kind, {}) == kind()


def test_a_misspelling_names_the_nearest_key():
    with pytest.raises(ConfigError, match="Recipe has no 'spacing'; did you mean 'spacing_mm'"):
        from_mapping(Recipe, {"spacing": 1.0})


def test_a_key_like_no_other_lists_the_known_ones():
    with pytest.raises(ConfigError, match="known: low, high, smallest_mm3"):
        from_mapping(DecisionRule, {"q": 1.0})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Recipe, {"spacing_mm": "1"}),
        (Recipe, {"spacing_mm": None}),
        (Recipe, {"spacing_mm": True}),
        (Recipe, {"extractor_contract": 1}),
        (Tiling, {"tile_vox": 128.0}),
        (Tiling, {"tile_vox": True}),
        (Many, {"flag": 1}),
        (Many, {"sizes": 1.0}),
        (Many, {"sizes": "12"}),
        (Many, {"sizes": ["1"]}),
    ],
)
def test_a_value_of_another_type_is_refused(kind, values):
    with pytest.raises(ConfigError, match=f"{kind.__name__}.{next(iter(values))} is .* expected"):
        from_mapping(kind, values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Recipe, {"spacing_mm": 0.1}),
        (Recipe, {"spacing_mm": float("nan")}),
        (Recipe, {"brain_margin_mm": -1.0}),
        (Recipe, {"clip_z": -1.0}),
        (Architecture, {"width": 30}),
        (Architecture, {"width": 0}),
        (Architecture, {"full_resolution_channels": -1}),
        (Architecture, {"in_channels": 0}),
        (Tiling, {"tile_vox": 100}),
        (Tiling, {"tile_vox": 0}),
        (Tiling, {"overlap": 0.95}),
        (Tiling, {"overlap": -0.1}),
        (DecisionRule, {"low": 0.0}),
        (DecisionRule, {"low": 0.7}),
        (DecisionRule, {"high": 1.5}),
        (DecisionRule, {"smallest_mm3": -1.0}),
    ],
)
def test_a_value_outside_its_range_is_refused(kind, values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        from_mapping(kind, values)
