"""Stokes flow in shapes whose flow is known."""

import numpy as np
import pytest
from scipy import ndimage
from shapes import ball, boolean_model

from srgan_dist.measures import permeability as solver
from srgan_dist.measures.permeability import permeability


@pytest.mark.parametrize("height", [3, 5, 8])
def test_plates(height):
    # Of h voxels between walls on their faces: (1 + 2 / h^2) of h^3 / 12, over the height with rock
    pore = np.zeros((4, height + 2, 4), bool)
    pore[:, 1 : height + 1] = True
    expected = (1 + 2 / height**2) * height**3 / 12 / (height + 2)
    assert permeability(pore, buffer=0) == pytest.approx(expected, rel=1e-6)


def test_a_square_duct():
    side = 16
    pore = np.zeros((4, side + 2, side + 2), bool)
    pore[:, 1:-1, 1:-1] = True
    expected = 0.035144 * side**4 / (side + 2) ** 2  # White, "Viscous fluid flow", section 3.3
    assert permeability(pore, buffer=0) == pytest.approx(expected, rel=0.02)


def test_a_duct_along_every_axis_with_the_open_layers_of_evaluate_at_its_ends():
    # The duct goes on through the layers, and with it the fall of the pressure: 24 of 26 voxels are its own
    pore = np.zeros((24, 10, 10), bool)
    pore[:, 1:-1, 1:-1] = True
    expected = permeability(pore, buffer=0) * 24 / (24 + solver.BUFFER)
    for axis in range(3):
        turned = np.moveaxis(pore, 0, axis)
        assert permeability(turned, axis) == pytest.approx(expected, rel=1e-4)
    assert permeability(pore, 1) == 0.0


def test_a_slit_with_open_layers_is_that_of_the_formula():
    # Of h pixels between walls: (1 + 2 / h^2) of h^3 / 12 over the height, less what falls in the layers
    height, length = 6, 30
    pore = np.zeros((length, height + 3), bool)
    pore[:, 2 : height + 2] = True
    expected = (1 + 2 / height**2) * height**3 / 12 / (height + 3) * length / (length + 2)
    assert permeability(pore) == pytest.approx(expected, rel=1e-6)


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


def test_flow_that_does_not_settle_has_no_value(monkeypatch):
    monkeypatch.setattr(solver, "MOST_ITERATIONS", 5)
    assert np.isnan(permeability(boolean_model((10, 10, 10), 3, 0.6, 0)))


def test_the_solver_ends_where_the_flux_has_settled(monkeypatch):
    """MINRES ends by the flux, long before by its residual, with a value that hardly moves any more."""
    pore, minres = boolean_model((16, 16, 16), 3, 0.6, 0), solver.minres

    def solve(tolerance):
        iterations = []

        def counted(*arguments, callback, **options):
            def note(x):
                iterations.append(1)
                callback(x)

            return minres(*arguments, callback=note, **options)

        monkeypatch.setattr(solver, "minres", counted)
        monkeypatch.setattr(solver, "TOLERANCE", tolerance)
        return permeability(pore), len(iterations)

    (value, count), (exact, most), (early, least) = map(solve, (solver.TOLERANCE, 1e-9, 0.5))
    assert least < count < most and count % solver.CHECKED_EVERY == 0 == least % solver.CHECKED_EVERY
    assert 0 < abs(value / exact - 1) < 1e-5 < abs(early / exact - 1)


def lattice_boltzmann(pore, steps=6000):
    """Return the permeability of periodic pores [H, W] along axis 0: D2Q9 with two relaxation times, half-way
    bounce-back, magic number 3/16 (Ginzburg, Verhaeghe, d'Humieres 2008).
    """
    e = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)])
    w, opposite = np.array([4 / 9, *[1 / 9] * 4, *[1 / 36] * 4]), [0, 2, 1, 4, 3, 6, 5, 8, 7]
    plus, force = 1.0, 1e-6
    minus = 0.5 + 3 / 16 / (plus - 0.5)
    f = w[:, None, None] * np.ones((9, *pore.shape))
    walls = [~np.roll(pore, -e[q], (0, 1)) & pore for q in range(9)]
    for _ in range(steps):
        density, momentum = f.sum(0), np.tensordot(e.T, f, 1)
        momentum[0] += force / 2
        linear = 3 * np.tensordot(e, momentum, 1)
        even, odd = (f + f[opposite]) / 2, (f - f[opposite]) / 2
        push = 3 * force * (w * e[:, 0])[:, None, None]
        w_ = w[:, None, None]
        f = f - (even - w_ * density) / plus - (odd - w_ * linear) / minus + (1 - 0.5 / minus) * push
        streamed = np.stack([np.roll(f[q], e[q], (0, 1)) for q in range(9)])
        for q in range(9):
            streamed[opposite[q]][walls[q]] = f[q][walls[q]]
        f = streamed * pore
    velocity = (e[:, 0, None, None] * f).sum(0) + force / 2 * pore
    return (plus - 0.5) / 3 * velocity.sum() / pore.size / force


def test_flow_around_an_obstacle_by_the_lattice_boltzmann_method():
    """Two methods with errors of their own on a coarse grid come together as the same shape is refined."""
    pore, differences = ~ball(14, 4.3, 2), []
    pore[:, 0] = False
    for factor, steps in ((1, 1000), (2, 3000)):
        fine = np.kron(pore, np.ones((factor, factor), bool))
        differences.append(abs(permeability(fine, buffer=0) / lattice_boltzmann(fine, steps) - 1))
    assert differences[1] < 0.05 and differences[1] < differences[0] / 2
