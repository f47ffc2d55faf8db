"""Which images and blocks of images count as independent."""

import numpy as np
import pytest

from srgan_dist.evaluation.independent_units import levels_of
from srgan_dist.measures.cells import edges_of
from srgan_dist.measures.geometry import porosity


def record_of(source, corner, shape=(500, 500), valid=None):
    """Return the record of an image whose pores have a correlation length of some ten pixels."""
    s2 = 0.2**2 + (0.2 - 0.2**2) * np.exp(-np.arange(200) / 9.5)
    images = {"hr": {"raw": {"two_point": np.stack([s2, np.ones(200)])}}}
    if corner:
        valid = np.ones(shape, bool) if valid is None else valid
        cells = porosity(valid, valid, edges_of(corner[-len(shape) :], shape))
        images["hr"]["cells"] = {"raw": {"porosity": cells}}
    return {"source": source, "corner": corner, "shape": shape, "rock": "coal", "images": images}


@pytest.mark.parametrize(
    "corners, shape, count",
    [
        ([(0, 0, left) for left in range(0, 3000, 500)], (500, 500), 6),  # side by side
        ([(0, 0, left) for left in range(0, 3000, 496)], (500, 500), 1),  # a chain of overlaps
        ([(page, 0, 0) for page in range(8)], (500, 500), 1),  # neighbouring pages
        ([(page, 0, 0) for page in range(0, 800, 100)], (500, 500), 8),
        ([(z, y, 0) for z in (0, 64) for y in (0, 64, 128)], (64, 64, 64), 6),
    ],
    ids=["tiles", "overlap", "pages", "distant pages", "blocks"],
)
def test_blocks_of_one_file_are_units_where_they_are_apart(corners, shape, count):
    levels = levels_of([record_of("scan.tif", corner, shape) for corner in corners])
    assert len(set(levels["block"])) == count


def test_a_folder_in_that_of_a_rock_is_a_plug():
    sources = [f"valid/coal/plug_{n // 2}/scan_{n}/0.png" for n in range(10)]
    plugs = levels_of([record_of(source, None) for source in sources])["plug"]
    assert [plugs.count(f"plug_{n}") for n in range(5)] == [2] * 5
    for sources in (["hr/coal/0.png", "hr/coal/1.png"], ["LR/x2/0.png", "HR/1.png"], [None, None]):
        assert len(set(levels_of([record_of(source, None) for source in sources])["plug"])) == 1


def units(*corners, **changes):
    return levels_of([record_of("scan.tif", corner, **changes) for corner in corners])["cells"]


def test_cells_are_units_as_wide_as_two_correlation_lengths_and_tiles_that_overlap_share_them():
    (whole,) = units((0, 0, 0))
    assert len(whole) == len(set(whole)) == 8 * 8
    one, two = units((0, 0, 0), (0, 0, 448))
    assert len(set(one) & set(two)) == 8  # the column of cells from 448 to 500
    near, far = units((9, 0, 0), (12, 0, 0)), units((0, 0, 0), (300, 0, 0))
    assert set(near[0]) == set(near[1]) and not set(far[0]) & set(far[1])
    long_range = record_of("scan.tif", (0, 0, 0))
    s2 = 0.2**2 + (0.2 - 0.2**2) * np.exp(-np.arange(200) / 60)
    long_range["images"]["hr"]["raw"]["two_point"] = np.stack([s2, np.ones(200)])
    assert len(set(levels_of([long_range])["cells"][0])) == 4 * 4  # groups of two by two cells


@pytest.mark.parametrize(
    "shape, count",
    [((66, 130), 2), ((66, 194), 3), ((130, 130), 4), ((192, 192), 9), ((100, 64), 2), ((9, 9), 1)],
)
def test_strips_at_a_border_are_no_units(shape, count):
    (found,) = units((0, 0, 0), shape=shape)
    assert len(set(found)) == count
    pages = units(*[(page, 0, 0) for page in range(9)], shape=shape)
    assert len(set(sum(pages, []))) == count


def test_what_is_left_out_is_no_unit():
    valid = np.zeros((256, 256), bool)
    valid[:128, :64] = True
    (found,) = units((0, 0, 0), shape=(256, 256), valid=valid)
    assert len(found) == 16 and len(set(found)) == 2


def test_small_images_and_images_of_unknown_place_are_no_units():
    small = [record_of("scan.tif", (0, 0, 12 * k), (12, 12)) for k in range(9)]
    assert levels_of(small)["block"] is None
    unplaced = levels_of([record_of("scan.tif", None)] * 9)
    assert unplaced["block"] is None and unplaced["cells"] is None
    unknown = levels_of([record_of(None, None)] * 9)
    assert unknown["source"] is None and unknown["block"] is None and unknown["cells"] is None
