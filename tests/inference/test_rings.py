"""Places with a bright shell around them are found, whatever lies inside."""

import numpy as np
import pytest

from brainmets.inference.rings import STEP_MM, ringed
from bright_places import SHAPE, ball, noise

CENTRE = (30, 28, 26)
EVERYWHERE = np.ones(SHAPE, bool)


def shell(centre, diameter_mm, thick_mm=1.6, **options):
    return ball(centre, diameter_mm, **options) & ~ball(
        centre, diameter_mm - 2 * thick_mm, **options
    )


def near(place, centre, spacing=1.0):
    return np.abs(np.asarray(place) - centre).max() * spacing <= 1.5 * STEP_MM


@pytest.mark.parametrize("diameter_mm", [7.0, 9.0, 12.0])
@pytest.mark.parametrize("inside", [-1.0, 0.0, 0.5])
def test_a_ring_comes_first_whatever_lies_in_it(diameter_mm, inside):
    image = noise()
    image[ball(CENTRE, diameter_mm)] += inside
    image[shell(CENTRE, diameter_mm)] += 2 - inside
    places = ringed(image.astype(np.float32), EVERYWHERE, 1.0)
    assert near(places[0], CENTRE)


def test_a_ring_may_be_open_on_one_side():
    image = noise()
    image[shell(CENTRE, 10)] += 2
    image[:, :, CENTRE[2] + 4 :] = noise(1)[:, :, CENTRE[2] + 4 :]
    assert near(ringed(image.astype(np.float32), EVERYWHERE, 1.0)[0], CENTRE)


@pytest.mark.parametrize(
    "shape",
    [
        ball(CENTRE, 10),  # bright, and as bright inside
        shell(CENTRE, 40, 8),  # white matter around something wide and dark
        ball((30, 28, 26), 30) & ~ball(CENTRE, 8),  # something dark in white matter
    ],
)
def test_what_has_no_shell_is_none(shape):
    image = np.where(shape, 2.0, 0.0).astype(np.float32)
    for place in ringed(image, EVERYWHERE, 1.0):
        assert not near(place, CENTRE)


def test_places_lie_in_the_brain_the_brightest_shell_first():
    image = noise(2)
    centres = ((15, 20, 15), (30, 40, 26), (45, 15, 40))
    for centre, bright in zip(centres, (1.0, 3.0, 2.0), strict=True):
        image[shell(centre, 9)] += bright
    brain = EVERYWHERE.copy()
    places = ringed(image.astype(np.float32), brain, 1.0)
    assert all(near(places[n], centres[i]) for n, i in enumerate((1, 2, 0)))
    brain[:, 35:45] = False
    places = ringed(image.astype(np.float32), brain, 1.0)
    assert brain[tuple(places.T)].all()
    assert near(places[0], centres[2])


@pytest.mark.parametrize("diameter_mm", [7.0, 10.0, 13.0])
@pytest.mark.parametrize("spacing", [0.6, 0.833, 1.0, 1.2])
def test_sizes_are_millimetres(spacing, diameter_mm):
    shape = (80, 76, 72)
    centre = (40, 36, 38)
    image = noise(3, shape)
    image[shell(centre, diameter_mm, spacing=spacing, shape=shape)] += 2
    places = ringed(image.astype(np.float32), np.ones(shape, bool), spacing)
    assert near(places[0], centre, spacing)


def test_a_flat_scan_has_none():
    assert ringed(np.ones(SHAPE, np.float32), EVERYWHERE, 1.0).shape == (0, 3)
