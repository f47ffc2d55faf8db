import numpy as np
import pytest

from srgan_dist.data.plan import Plan, images_of_rank, slots_of

SIZES = np.full(50, 30)


def rows(crops):
    return list(zip(crops.samples.tolist(), crops.tops.tolist(), crops.lefts.tolist(), crops.orientations.tolist()))


def test_each_sample_fills_one_slot_per_epoch():
    plan = Plan(SIZES, SIZES, 8, seed=1, augment=True)
    for epoch in range(3):
        assert sorted(plan.crops(range(50 * epoch, 50 * epoch + 50)).samples) == list(range(50))


def test_what_fills_a_slot_depends_on_seed_epoch_and_position_alone():
    plan = Plan(SIZES, SIZES, 8, seed=1, augment=True)
    slots = np.random.default_rng(0).permutation(200)
    alone = [rows(plan.crops([slot]))[0] for slot in slots]
    assert rows(plan.crops(slots)) == alone
    assert rows(Plan(SIZES, SIZES, 8, seed=1, augment=True).crops(slots)) == alone
    assert rows(Plan(SIZES, SIZES, 8, seed=2, augment=True).crops(slots)) != alone
    first, second = (rows(plan.crops(range(start, start + 50))) for start in (0, 50))
    assert first != second and [r[0] for r in first] != [r[0] for r in second]


@pytest.mark.parametrize("world_size, accumulation", [(1, 1), (2, 1), (3, 1), (4, 1), (1, 4), (2, 3), (12, 1)])
def test_ranks_and_accumulation_only_cut_the_range_of_an_update(world_size, accumulation):
    for update in (0, 7):
        taken = [slot for k in range(accumulation) for rank in range(world_size)
                 for slot in slots_of(update, rank, world_size, 12, accumulation, k)]
        assert taken == list(range(12 * update, 12 * update + 12))


@pytest.mark.parametrize("count, world_size", [(1201, 1), (1201, 2), (1201, 7), (3, 8)])
def test_every_image_is_evaluated_on_one_rank(count, world_size):
    shares = [list(images_of_rank(count, rank, world_size)) for rank in range(world_size)]
    assert sorted(i for share in shares for i in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_crop_corners_are_uniform_and_reach_every_border():
    plan = Plan(np.full(1, 17), np.full(1, 14), 8, seed=3, augment=True)
    crops = plan.crops(range(70_000))
    counts = np.histogram2d(crops.tops, crops.lefts, bins=[range(11), range(8)])[0]
    assert counts.shape == (10, 7)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert 36 < chi_square < 110  # 69 degrees of freedom: probability 0.001 on either side
    orientations = np.bincount(crops.orientations, minlength=8)
    assert ((orientations - 8750) ** 2 / 8750).sum() < 24.3  # 7 degrees of freedom, 0.001


def test_crops_stay_inside_images_of_any_size():
    heights, widths = np.array([8, 9, 40]), np.array([20, 8, 31])
    crops = Plan(heights, widths, 8, seed=0, augment=False).crops(range(3000))
    assert (crops.tops + 8 <= heights[crops.samples]).all() and (crops.lefts + 8 <= widths[crops.samples]).all()
    assert not crops.orientations.any()
