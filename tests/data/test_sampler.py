import numpy as np
import pytest

from srgan_dist.data.sampler import PERIOD, CropSampler, DatasetMixture, images_of_rank, slots_of

SHAPES = np.full((50, 2), 30)
KNOWN = [  # sample, corner, orientation
    (2, (24, 22), 7),
    (0, (21, 19), 2),
    (1, (16, 5), 7),
    (2, (23, 15), 5),
    (0, (21, 8), 7),
    (1, (7, 15), 4),
]


def rows(crops):
    corners = map(tuple, crops.corners.tolist())
    return list(zip(crops.samples.tolist(), corners, crops.orientations.tolist()))


def test_each_sample_fills_one_slot_per_epoch():
    sampler = CropSampler(SHAPES, 8, seed=1, augment="all")
    for epoch in range(3):
        assert sorted(sampler.crops(range(50 * epoch, 50 * epoch + 50)).samples) == list(range(50))


def test_what_fills_a_slot_depends_on_seed_epoch_and_position_alone():
    sampler = CropSampler(SHAPES, 8, seed=1, augment="all")
    slots = np.random.default_rng(0).permutation(200)
    alone = [rows(sampler.crops([slot]))[0] for slot in slots]
    assert rows(sampler.crops(slots)) == alone
    assert rows(CropSampler(SHAPES, 8, seed=1, augment="all").crops(slots)) == alone
    assert rows(CropSampler(SHAPES, 8, seed=2, augment="all").crops(slots)) != alone
    first, second = (rows(sampler.crops(range(start, start + 50))) for start in (0, 50))
    assert first != second and [r[0] for r in first] != [r[0] for r in second]


@pytest.mark.parametrize(
    "world_size, accumulation", [(1, 1), (2, 1), (3, 1), (4, 1), (1, 4), (2, 3), (12, 1)]
)
def test_ranks_and_accumulation_only_cut_the_range_of_an_update(world_size, accumulation):
    for update in (0, 7):
        taken = [
            slot
            for k in range(accumulation)
            for rank in range(world_size)
            for slot in slots_of(update, rank, world_size, 12, accumulation, k)
        ]
        assert taken == list(range(12 * update, 12 * update + 12))


@pytest.mark.parametrize("count, world_size", [(1201, 1), (1201, 2), (1201, 7), (3, 8)])
def test_every_image_is_evaluated_on_one_rank(count, world_size):
    shares = [list(images_of_rank(count, rank, world_size)) for rank in range(world_size)]
    assert sorted(i for share in shares for i in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_crop_corners_are_uniform_and_reach_every_border():
    crops = CropSampler(np.array([[17, 14]]), 8, seed=3, augment="all").crops(range(70_000))
    counts = np.histogram2d(*crops.corners.T, bins=[range(11), range(8)])[0]
    assert counts.shape == (10, 7)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert 36 < chi_square < 110  # 69 degrees of freedom: probability 0.001 on either side
    orientations = np.bincount(crops.orientations, minlength=8)
    assert ((orientations - 8750) ** 2 / 8750).sum() < 24.3  # 7 degrees of freedom, 0.001


def test_corners_and_orientations_of_crops_of_volumes_are_uniform():
    crops = CropSampler(np.array([[9, 10, 11]]), 8, seed=3, augment="all").crops(range(24_000))
    counts = np.histogramdd(crops.corners, bins=[range(3), range(4), range(5)])[0]
    assert counts.shape == (2, 3, 4)
    assert 7 < ((counts - 1000) ** 2 / 1000).sum() < 50  # 23 degrees of freedom, 0.001 on either side
    orientations = np.bincount(crops.orientations, minlength=48)
    assert len(orientations) == 48
    assert ((orientations - 500) ** 2 / 500).sum() < 83  # 47 degrees of freedom, 0.001


def test_the_crops_of_images_are_those_of_earlier_versions():
    """A resumed run must see the crops that it would have seen: known answers of the first version."""
    crops = CropSampler(np.array([[30, 41], [37, 52], [44, 33]]), 8, seed=5, augment="all").crops(range(6))
    assert rows(crops) == KNOWN


@pytest.mark.parametrize("ndim, augment, count", [(2, "flips", 4), (3, "flips", 8), (3, "none", 1)])
def test_the_orientations_that_are_drawn(ndim, augment, count):
    crops = CropSampler(np.full((5, ndim), 30), 8, seed=1, augment=augment).crops(range(1000))
    assert set(crops.orientations.tolist()) == set(range(count))


@pytest.mark.parametrize("shapes", [[[8, 20], [9, 8], [40, 31]], [[8, 20, 9], [9, 8, 30], [40, 31, 8]]])
def test_crops_stay_inside_images_of_any_size(shapes):
    shapes = np.array(shapes)
    crops = CropSampler(shapes, 8, seed=0, augment="none").crops(range(3000))
    assert (crops.corners >= 0).all() and (crops.corners + 8 <= shapes[crops.samples]).all()
    assert not crops.orientations.any()


def test_others_stand_in_for_bad_samples_and_no_other_slot_changes():
    sampler, spared = CropSampler(SHAPES, 8, 1, "all"), CropSampler(SHAPES, 8, 1, "all", bad=[3, 17])
    before, after = (rows(p.crops(range(400))) for p in (sampler, spared))
    changed = [(b, a) for b, a in zip(before, after) if b != a]
    assert {b[0] for b, _ in changed} == {3, 17} and len(changed) == 16  # twice in each of eight epochs
    assert not {3, 17} & {row[0] for row in after} and len({a[0] for _, a in changed}) > 8
    assert rows(spared.crops([slot for slot in range(400) if before[slot] != after[slot]])) == [
        a for _, a in changed
    ]


def test_sets_share_the_slots_by_weight_and_each_has_a_sequence_of_its_own():
    mixture = DatasetMixture([1, 2, 5.0], seed=3)
    slots = np.arange(3 * PERIOD)
    split = mixture.split(slots)
    assert [len(places) for places, _ in split] == [375, 750, 1875]
    assert sorted(np.concatenate([places for places, _ in split])) == slots.tolist()
    for places, own in split:
        assert own.tolist() == list(range(len(places)))
    first = np.concatenate([places[places < 40] for places, _ in split])
    of_small_sets = (split[0][0] < 40).sum() + (split[1][0] < 40).sum()
    assert len(first) == 40 and 3 <= of_small_sets <= 27  # mixed, not in blocks


def test_the_set_of_a_slot_is_a_pure_function_of_the_slot():
    mixture, again = DatasetMixture([3, 1], 7), DatasetMixture([3, 1], 7)
    whole = {
        int(p): (k, int(o))
        for k, (places, own) in enumerate(mixture.split(range(5000)))
        for p, o in zip(places, own)
    }
    for slot in (0, 999, 1000, 4321):
        ((k, own),) = [(k, int(own[0])) for k, (places, own) in enumerate(again.split([slot])) if len(places)]
        assert whole[slot] == (k, own)
    assert DatasetMixture([3, 1], 8).pattern.tolist() != mixture.pattern.tolist()


def test_one_set_alone_has_every_slot():
    ((places, own),) = DatasetMixture([0.3], seed=1).split([5, 6, 123456])
    assert places.tolist() == [0, 1, 2] and own.tolist() == [5, 6, 123456]


# Blocks

SHARDS = np.repeat(range(7), [5, 9, 7, 7, 7, 7, 8])  # of 50 samples
BLOCKS = {"shards": SHARDS, "block_shards": 2}


def test_in_blocks_each_sample_fills_one_slot_per_epoch_and_few_shards_are_needed_at_a_time():
    sampler, blocks = CropSampler(SHAPES, 8, 1, "all", **BLOCKS), []
    for epoch in range(3):
        samples = sampler.crops(range(50 * epoch, 50 * epoch + 50)).samples
        assert sorted(samples) == list(range(50))
        blocks.append(SHARDS[samples].tolist())
    assert len({tuple(shards) for shards in blocks}) == 3
    ends = sampler.blocks(0)
    start = 0
    for _ in range(12):
        end, shards = next(ends)
        used = [SHARDS[i] for i in sampler.crops(range(start, end)).samples]
        assert list(dict.fromkeys(used)) == shards and len(shards) <= 2
        assert len(used) == sum(np.isin(SHARDS, shards))  # whole shards
        start = end
    assert start == 150


def test_inside_a_block_samples_of_its_shards_are_mixed():
    sampler = CropSampler(
        np.full((4000, 2), 30), 8, 1, "none", shards=np.repeat(range(4), 1000), block_shards=2
    )
    shards = sampler.crops(range(2000)).samples // 1000
    changes = np.count_nonzero(np.diff(shards))
    assert 900 < changes < 1100  # of 1999, half expected: 4.5 standard deviations


def test_a_block_entered_anywhere_is_that_of_the_whole_run():
    sampler = CropSampler(SHAPES, 8, 1, "all", **BLOCKS)
    whole = rows(sampler.crops(range(170)))
    for slot in (0, 1, 49, 50, 73, 149):
        end, shards = next(CropSampler(SHAPES, 8, 1, "all", **BLOCKS).blocks(slot))
        rest = rows(CropSampler(SHAPES, 8, 1, "all", **BLOCKS).crops(range(slot, end)))
        assert rest == whole[slot:end]
        assert list(dict.fromkeys(int(SHARDS[row[0]]) for row in rest)) == shards


def test_without_blocks_an_epoch_is_one_that_needs_all_shards():
    end, shards = next(CropSampler(SHAPES, 8, 1, "all", shards=SHARDS).blocks(60))
    assert end == 100 and sorted(shards) == list(range(7))
    assert rows(CropSampler(SHAPES, 8, 1, "all", shards=SHARDS).crops(range(99))) == rows(
        CropSampler(SHAPES, 8, 1, "all").crops(range(99))
    )


def test_substitutes_come_from_the_block_of_the_bad_sample_if_it_has_a_good_one():
    bad = [0, 1, 17, *np.flatnonzero(SHARDS == 6)]
    good, sampler = (
        CropSampler(SHAPES, 8, 1, "all", **BLOCKS),
        CropSampler(SHAPES, 8, 1, "all", bad=bad, **BLOCKS),
    )
    start = 0
    for end, shards in (next(blocks) for blocks in [good.blocks(0)] for _ in range(40)):
        samples = sampler.crops(range(start, end)).samples
        assert not set(samples) & set(bad)
        if shards != [6]:
            assert set(SHARDS[samples]) <= set(shards)
        start = end


def test_the_position_in_each_set_of_a_mixture():
    mixture = DatasetMixture([3.0, 1.0], seed=5)
    for slot in (0, 1, 999, 1000, 2345):
        counted = [len(places) for places, _ in mixture.split(range(slot))]
        assert mixture.reached(slot).tolist() == counted
