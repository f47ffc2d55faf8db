"""Known answers of the geometry of pores."""

import numpy as np
import pytest
from shapes import ball, boolean_model

from srgan_dist.measures import geometry


def density(measure, pore, valid=None):
    numerator, denominator = total(measure(pore, np.ones(pore.shape, bool) if valid is None else valid))
    return numerator / denominator


def total(sums):
    """Return the sums of an image that is one cell."""
    (of_image,) = sums.tolist()
    return tuple(of_image)


def test_porosity_and_dice_worked_by_hand():
    pore, other = np.zeros((2, 4, 4), bool)
    pore[0], other[0, 1:], other[1, 0] = True, True, True
    valid = np.ones((4, 4), bool)
    assert total(geometry.porosity(pore, valid)) == (4, 16)
    assert total(geometry.dice(pore, other, valid)) == (6, 8)
    valid[:, 0] = False
    assert total(geometry.porosity(pore, valid)) == (3, 12)
    assert total(geometry.dice(pore, other, valid)) == (6, 6)


@pytest.mark.parametrize("radius", [20, 33.3])
def test_the_perimeter_of_a_disc(radius):
    side = 500
    found = density(geometry.specific_interface, ball(side, radius, 2, 0.3)) * side**2
    assert found == pytest.approx(2 * np.pi * radius, rel=0.01)


def test_the_surface_of_a_ball():
    # The density of what lies away from the borders is too high by the steps that leave the image
    found = density(geometry.specific_interface, ball(100, 40, 3, 0.3)) * 100**3 * (99 / 100) ** 2
    assert found == pytest.approx(4 * np.pi * 40**2, rel=0.01)


def test_the_interface_of_overlapping_discs_and_spheres():
    # s = (dimension / radius) eta phi, eta = -ln phi (Torquato 2002, chapter 5)
    for shape, radius, phi, within in (((1000, 1000), 12, 0.6, 0.03), ((130, 130, 130), 8, 0.25, 0.1)):
        pores = [boolean_model(shape, radius, phi, seed) for seed in range(4)]
        expected = len(shape) / radius * -np.log(phi) * phi
        found = np.mean([density(geometry.specific_interface, pore) for pore in pores])
        assert found == pytest.approx(expected, rel=within)  # voxels round the sharp edges off


def test_the_euler_number_of_balls_a_ring_and_a_shell():
    def number(pore):
        return total(geometry.euler(pore, np.ones(pore.shape, bool)))[0]

    grid = np.zeros((60, 60, 60), bool)
    for corner in ((3, 3, 3), (30, 5, 40), (40, 40, 8)):
        grid[tuple(slice(c, c + 15) for c in corner)] = ball(15, 6, 3)
    assert number(grid) == 3
    z, y, x = np.mgrid[:60, :60, :60] - 29.5
    torus = (np.hypot(y, x) - 18) ** 2 + z**2 < 36
    assert number(torus) == 0
    assert number(ball(60, 24, 3) & ~ball(60, 18, 3)) == 2
    flat = np.zeros((40, 40), bool)
    flat[5:12, 5:12] = flat[20:35, 20:35] = True
    flat[25:30, 25:30] = False
    flat[4, 4] = True  # touches by its corner
    assert number(flat) == 1


@pytest.mark.parametrize("shape, radius, phi", [((1000, 1000), 12, 0.6), ((130, 130, 130), 8, 0.25)])
def test_the_euler_density_of_overlapping_discs_and_spheres(shape, radius, phi):
    """Mecke & Wagner 1991, "Euler characteristic and related measures for random geometric sets"; pixels
    close some of the narrowest gaps.
    """
    pores = [boolean_model(shape, radius, phi, seed) for seed in range(4)]
    found = np.mean([density(geometry.euler, pore) for pore in pores])
    eta = -np.log(phi)
    if len(shape) == 2:  # holes of the discs are pieces of the pores
        expected = -eta / (np.pi * radius**2) * (1 - eta) * np.exp(-eta)
    else:
        expected = (
            eta / (4 / 3 * np.pi * radius**3) * np.exp(-eta) * (1 - 3 * eta + 3 * np.pi**2 / 32 * eta**2)
        )
    assert found == pytest.approx(expected, rel=0.12)


def test_chords_of_stripes():
    stripes = np.zeros((30, 50), bool)
    stripes[:, 3:7] = stripes[:, 20:30] = True
    stripes[:, 45:] = True  # the border cuts it
    sums, counts = geometry.chords(stripes, np.ones(stripes.shape, bool))
    assert (
        total(sums) == (30 * 4 + 30 * 10, 60)
        and len(counts) == 50
        and counts.sum() == 60
        and counts[3] == counts[9] == 30
    )
    valid = np.ones(stripes.shape, bool)
    valid[:, 30] = False  # so does what is not known
    sums, counts = geometry.chords(stripes, valid)
    assert total(sums) == (30 * 4, 30)
    assert counts.sum() == counts[3] == 30


def test_pores_that_lead_through():
    pore = np.zeros((6, 6, 6), bool)
    pore[:, 2, 2] = True  # along z
    pore[0, 0] = True  # a whole line along x
    pore[3, 4, 4] = True  # alone
    assert total(geometry.connected_porosity(pore, np.ones(pore.shape, bool))) == ((6 + 6) / 3, 216)
    diagonal = np.eye(5, dtype=bool)
    assert total(geometry.connected_porosity(diagonal, np.ones((5, 5), bool))) == (5, 25)


def test_the_squared_error_of_grey_levels_worked_by_hand():
    sr, hr = np.full((2, 4, 4), 0.5)
    sr[0, 0], sr[1, 1] = 0.7, 0.1
    valid = np.ones((4, 4), bool)
    assert total(geometry.squared_error(sr, hr, valid)) == (pytest.approx(0.04 + 0.16), 16)
    valid[1] = False
    assert total(geometry.squared_error(sr, hr, valid)) == (pytest.approx(0.04), 12)
