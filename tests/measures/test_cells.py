"""Cells of a source: their places, and sums over them."""

import numpy as np
import pytest

from srgan_dist.measures import geometry, pore_sizes
from srgan_dist.measures.cells import edges_of, places_of, sums_over


def test_the_grid_is_that_of_the_source():
    first, second = edges_of((0, 100), (130, 70))
    assert first.tolist() == [0, 64, 128] and second.tolist() == [0, 28]
    assert places_of((0, 100), (130, 70)).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2], [2, 1], [2, 2]]
    assert [edges.tolist() for edges in edges_of((32, 0, 31), (32, 33, 2))] == [[0], [0, 32], [0, 1]]
    # Tiles that overlap share cells
    tiles = [{tuple(place) for place in places_of((0, left), (128, 128))} for left in (0, 64)]
    assert len(tiles[0] & tiles[1]) == 2


def test_sums_worked_by_hand_also_of_what_ends_before_the_last_cell():
    edges = edges_of((62, 0), (4, 65))  # rows 2 + 2, columns 64 + 1
    assert sums_over(np.ones((4, 65), bool), edges).tolist() == [128, 2, 128, 2]
    assert sums_over(np.ones((2, 64), bool), edges).tolist() == [128, 0, 0, 0]
    assert sums_over(np.ones((4, 65)), None).tolist() == [260]


@pytest.mark.parametrize("corner, shape", [((30, 200), (150, 100)), ((5, 32, 60), (40, 20, 35))])
def test_cells_add_up_to_the_image(corner, shape):
    rng = np.random.default_rng(0)
    pore, other, valid = (rng.random(shape) < share for share in (0.4, 0.5, 0.9))
    edges = edges_of(corner, shape)
    cells = len(places_of(corner, shape))
    for measure in (
        geometry.porosity,
        lambda pore, valid, edges=None: geometry.dice(pore, other, valid, edges),
        geometry.specific_interface,
        geometry.euler,
        lambda pore, valid, edges=None: geometry.chords(pore, valid, edges)[0],
        lambda pore, valid, edges=None: pore_sizes.opening_sums(pore, valid, np.array([1, 2]), edges),
    ):
        of_cells = measure(pore, valid, edges)
        assert len(of_cells) == cells and of_cells.any()
        assert of_cells.sum(0) == pytest.approx(measure(pore, valid)[0])


def test_a_pore_counts_in_its_own_cell():
    pore = np.zeros((128, 128), bool)
    pore[70:80, 10:14] = True  # third cell of four
    valid, edges = np.ones(pore.shape, bool), edges_of((0, 0), pore.shape)
    assert geometry.porosity(pore, valid, edges)[:, 0].tolist() == [0, 0, 40, 0]
    assert geometry.euler(pore, valid, edges)[:, 0].tolist() == [0, 0, 1, 0]
    assert geometry.chords(pore, valid, edges)[0].tolist() == [[0, 0], [0, 0], [10 * 4 + 4 * 10, 14], [0, 0]]
    assert geometry.specific_interface(pore, valid, edges)[[0, 1, 3], 0].tolist() == [0, 0, 0]
