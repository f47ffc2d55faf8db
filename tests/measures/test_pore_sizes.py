import numpy as np
import pytest
from shapes import ball

from srgan_dist.measures.pore_sizes import mean_radius, opening_sums, radii_up_to


def sizes(pore, radii, valid=None):
    (sums,) = opening_sums(pore, np.ones(pore.shape, bool) if valid is None else valid, np.asarray(radii))
    return sums[1:], sums[0]


@pytest.mark.parametrize("ndim, side, radius", [(2, 60, 15), (3, 40, 12)])
def test_a_ball_is_covered_by_balls_up_to_its_own_radius(ndim, side, radius):
    pore = ball(side, radius, ndim)
    covered, total = sizes(pore, [1, radius - 2, radius + 2])
    assert total == pore.sum() and covered[0] == total
    assert covered[1] > 0.85 * total and covered[2] == 0


def test_stripes_of_two_widths():
    pore = np.zeros((80, 80), bool)
    pore[10:19], pore[40:61] = True, True  # 9 and 21 wide: radii 5 and 11 at their middles
    covered, total = sizes(pore, [5, 11, 12])
    assert total == 30 * 80 and covered.tolist() == [30 * 80, 21 * 80, 0]
    assert mean_radius(covered, total, np.array([5, 11, 12])) == pytest.approx((9 * 5 + 21 * 11) / 30)


def test_the_border_is_no_rock_and_what_is_not_known_neither():
    pore = np.ones((30, 30), bool)
    valid = np.ones((30, 30), bool)
    valid[:, 20:] = False
    covered, total = sizes(pore, [5, 10], valid)
    assert total == 600 and covered.tolist() == [600, 600]


def test_radii_grow():
    radii = radii_up_to(40)
    assert radii[:4].tolist() == [1, 2, 3, 4] and (np.diff(radii) > 0).all() and radii[-1] >= 20
    assert radii_up_to(12)[: len(radii_up_to(12))].tolist() == radii[: len(radii_up_to(12))].tolist()


def test_an_image_without_pores_has_no_mean():
    covered, total = sizes(np.zeros((9, 9), bool), [1, 2])
    assert total == 0 and np.isnan(mean_radius(covered, total, np.array([1, 2])))
