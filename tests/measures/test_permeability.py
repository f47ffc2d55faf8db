"""Stokes flow in shapes whose flow is known."""

import numpy as np
import pytest
from scipy import ndimage
from shapes import ball

from srgan_dist.measures.permeability import permeability


@pytest.mark.parametrize("height", [3, 5, 8])
def test_plates(height):
    # Of h voxels between walls on their faces: (1 + 2 / h^2) of h^3 / 12, over the height with rock
    pore = np.zeros((4, height + 2, 4), bool)
    pore[:, 1 : height + 1] = True
    expected = (1 + 2 / height**2) * height**3 / 12 / (height + 2)
    assert permeability(pore, buffer=0) == pytest.approx(expected, rel=1e-4)


def test_a_square_duct():
    side = 16
    pore = np.zeros((4, side + 2, side + 2), bool)
    pore[:, 1:-1, 1:-1] = True
    expected = 0.035144 * side**4 / (side + 2) ** 2  # White, "Viscous fluid flow", section 3.3
    assert permeability(pore, buffer=0) == pytest.approx(expected, rel=0.02)


def test_a_duct_along_every_axis_with_open_layers_at_its_ends():
    pore = np.zeros((24, 10, 10), bool)
    pore[:, 1:-1, 1:-1] = True
    closed = permeability(pore, buffer=0)
    for axis in range(3):
        turned = np.moveaxis(pore, 0, axis)
        assert permeability(turned, axis) == pytest.approx(closed, rel=0.1)
    assert permeability(pore, 1) == 0.0


def test_a_channel_of_any_cross_section_against_poissons_equation():
    """Flow along a channel that is the same everywhere is one velocity u(y, x) with -laplace u = 1 and u
    = 0 on the walls, here assembled pixel by pixel and solved directly.
    """
    rng = np.random.default_rng(0)
    section = ndimage.binary_opening(ndimage.gaussian_filter(rng.random((20, 20)), 2) > 0.49)
    section[[0, -1]] = section[:, [0, -1]] = False
    cells = {tuple(cell): number for number, cell in enumerate(np.argwhere(section))}
    matrix = np.zeros((len(cells), len(cells)))
    for (y, x), row in cells.items():
        for neighbour in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            matrix[row, row] += 1 if neighbour in cells else 2  # a wall is half a pixel away
            if neighbour in cells:
                matrix[row, cells[neighbour]] = -1
    velocity = np.linalg.solve(matrix, np.ones(len(cells)))
    pore = np.repeat(section[None], 4, 0)
    assert permeability(pore, buffer=0) == pytest.approx(velocity.sum() / section.size, rel=2e-3)


def test_a_cubic_array_of_spheres():
    # Sangani & Acrivos (1982), table 1: drag coefficient 4.292 at volume fraction 0.125
    side, fraction, drag = 20, 0.125, 4.292
    radius = side * (3 * fraction / 4 / np.pi) ** (1 / 3)
    pore = ~ball(side, radius, 3)
    assert permeability(pore, buffer=0) == pytest.approx(side**3 / (6 * np.pi * radius * drag), rel=0.06)


def test_pores_that_lead_nowhere_have_none():
    pore = np.zeros((8, 8, 8), bool)
    pore[:5, 4, 4] = True
    assert permeability(pore) == 0.0 and permeability(np.zeros((4, 4, 4), bool)) == 0.0
