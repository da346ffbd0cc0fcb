"""Two masks hold the same lesions, or it is said what differs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brainmets.evaluation.sameness import compare, dice


def blocks(*boxes, shape=(24, 24, 24)):
    """A mask of boxes, each (first corner, sides)."""
    mask = np.zeros(shape, bool)
    for (x, y, z), (a, b, c) in boxes:
        mask[x : x + a, y : y + b, z : z + c] = True
    return mask


LARGE, SMALL = ((1, 1, 1), (8, 5, 5)), ((15, 15, 15), (2, 2, 2))


@pytest.mark.parametrize(
    ("other", "same", "changes"),
    [
        (blocks(LARGE, SMALL), True, (0, 0)),
        (blocks(LARGE), False, (0,)),  # one is lost
        (blocks(LARGE, SMALL, ((15, 2, 2), (1, 1, 1))), False, (0, 0)),  # one comes
        (blocks(LARGE, ((15, 15, 15), (2, 2, 3))), False, (0, 4)),  # 4 voxels of 8
        (
            blocks(((1, 1, 1), (8, 5, 5)), ((9, 1, 1), (1, 5, 2)), SMALL),
            True,
            (10, 0),
        ),  # 5 % of 200
        (blocks(((1, 1, 1), (8, 5, 5)), ((9, 1, 1), (1, 1, 11)), SMALL), False, (11, 0)),
        (blocks(((4, 3, 1), (8, 5, 5)), SMALL), False, (0,)),  # too far to be matched
        (blocks(((1, 1, 1), (8, 2, 5)), ((1, 4, 1), (8, 2, 5)), SMALL), False, (0,)),  # in two
    ],
)
def test_lesions_are_the_same_one_to_one(other, same, changes):
    found = compare(blocks(LARGE, SMALL), other)
    assert found.is_same is same
    assert found.changes == changes


@given(arrays(np.bool_, (6, 6, 6)), arrays(np.bool_, (6, 6, 6)))
def test_it_matters_not_which_comes_first(one, other):
    there, back = compare(one, other), compare(other, one)
    assert there.lesions == back.lesions[::-1]
    assert there.dice == back.dice
    assert sorted(there.changes) == sorted(-change for change in back.changes)
    assert compare(one, one).is_same


@given(st.booleans())
def test_nothing_is_the_same_as_nothing(flag):
    empty = np.zeros((3, 3, 3), bool)
    assert compare(empty, empty).is_same
    one = empty.copy()
    one[1, 1, 1] = True
    pair = (one, empty) if flag else (empty, one)
    assert not compare(*pair).is_same
    assert dice(*pair) == 0
    assert dice(empty, empty) == 1
