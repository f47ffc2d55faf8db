"""The same pixels for any number of ranks, micro-batches and stops: compared by hashes of what a loader hands
out.
"""

import json
import shutil
from collections import defaultdict

import numpy as np
import pytest
import torch
from conftest import LR_CROP, NDIMS, TINY_VOLUMES, tiny_config, write_folder
from distributed_worker import digest_of, note_what_is_seen, read_exactly
from PIL import Image
from test_distributed import work

from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.split import open_split
from srgan_dist.packing.build import BuildOptions, build

CPU = torch.device("cpu")
BATCH = 12
HR_SHAPE = {2: (64, 56), 3: (16, 14, 12)}
LAYOUTS = [
    (ranks, accumulation)
    for ranks in (1, 2, 3, 4, 6, 12)
    for accumulation in (1, 2, 3, 4, 6, 12)
    if BATCH % (ranks * accumulation) == 0
]


def write_numbered(root, rocks, ndim):
    """Write HR images or volumes whose pixels all tell their number: it is their value modulo 16."""
    numbers = iter(range(16))
    for rock, count in rocks.items():
        (root / rock).mkdir(parents=True)
        for i in range(count):
            number = next(numbers)
            steps = np.random.default_rng(number).integers(0, 16, HR_SHAPE[ndim], np.uint8)
            np.save(root / rock / f"{i}.npy", 16 * steps + np.uint8(number))
    return root


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


@pytest.fixture(scope="module", params=[2, 3], ids=["2-D", "3-D"])
def split(request, tmp_path_factory):
    root, ndim = tmp_path_factory.mktemp("numbered"), request.param
    options = {2: BuildOptions(tile=64, crop=32, samples_per_shard=4), 3: TINY_VOLUMES}[ndim]
    build(write_numbered(root / "hr", {"coal": 7, "sandstone": 9}, ndim), root / "out", options)
    return open_split(root / "out", "train")


@pytest.fixture(scope="module")
def sets(split, tmp_path_factory):
    """Two sets of different size and weight."""
    root = tmp_path_factory.mktemp("granite")
    size, options = {
        2: ((40, 72), BuildOptions(tile=72, crop=32)),
        3: ((12, 16, 14), TINY_VOLUMES),
    }[split.ndim]
    build(write_folder(root / "hr", {"granite": 5}, size=size), root / "out", options)
    return [(split, 2.5), (open_split(root / "out", "train"), 1.0)]


def global_batches(sets, first, count, ranks=1, accumulation=1, batch_size=BATCH, bad=None, seed=5):
    """Return the crops of some updates in the order of their slots, put together from those of every rank."""
    settings = LR_CROP[sets[0][0].ndim], batch_size, seed, "all"
    shares = [
        TrainLoader(sets, *settings, rank, ranks, CPU, bad, gradient_accumulation_steps=accumulation).batches(
            first
        )
        for rank in range(ranks)
    ]
    share_size = batch_size // (ranks * accumulation)
    crops = [
        crop for _ in range(count * accumulation) for share in shares for crop in taken(share, share_size)
    ]
    for share in shares:
        share.close()
    return crops


def taken(batches, count):
    """Return the next `count` crops (lr, hr) of one rank."""
    lr, hr = next(batches)
    assert len(lr) == len(hr) == count
    return list(zip(lr, hr, strict=True))


def hashes(crops):
    return [digest_of(lr, hr) for lr, hr in crops]


def numbers_of(crops):
    """Return which image each crop was cut from."""
    pixels = torch.stack([hr.flatten() for _, hr in crops]).add(1).mul(127.5).round().to(torch.int64) % 16
    assert (pixels == pixels[:, :1]).all()
    return pixels[:, 0].tolist()


@pytest.fixture(scope="module")
def whole(split):
    """Three epochs and more as one rank sees them."""
    return hashes(global_batches([(split, 1.0)], 0, 5))


@pytest.mark.parametrize("ranks, accumulation", LAYOUTS)
def test_any_ranks_and_accumulation_give_the_same_global_batches(split, whole, ranks, accumulation):
    assert len(whole) > 2 * len(split) and len(set(whole)) == len(whole)
    assert hashes(global_batches([(split, 1.0)], 0, 5, ranks, accumulation)) == whole


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_image_is_seen_once_in_every_epoch(split, ranks):
    seen = numbers_of(global_batches([(split, 1.0)], 0, 5, ranks))
    epochs = [seen[start : start + len(split)] for start in range(0, len(seen) - len(split) + 1, len(split))]
    assert len(epochs) >= 3 and all(len(set(epoch)) == len(split) for epoch in epochs)
    assert all(set(epoch) == set(epochs[0]) for epoch in epochs) and epochs[0] != epochs[1]


@pytest.mark.parametrize(
    "layouts", [[(1, 1), (2, 1), (4, 1)], [(4, 1), (2, 3), (1, 12)], [(3, 2), (1, 1), (3, 4)]]
)
def test_a_run_that_changes_its_layout_at_every_stop_sees_what_it_would_have_seen(split, whole, layouts):
    stops = [0, 1, 3, 5]
    parts = [
        global_batches([(split, 1.0)], first, last - first, *layout)
        for first, last, layout in zip(stops, stops[1:], layouts)
    ]
    assert [one for part in parts for one in hashes(part)] == whole


@pytest.mark.parametrize("ranks, accumulation", [(2, 1), (3, 1), (2, 3), (12, 1)])
def test_mixed_sets_give_the_same_global_batches_from_any_update_on(sets, ranks, accumulation):
    whole = hashes(global_batches(sets, 0, 5))
    assert hashes(global_batches(sets, 0, 5, ranks, accumulation)) == whole
    assert hashes(global_batches(sets, 3, 2, ranks, accumulation)) == whole[3 * BATCH :]
    assert whole != hashes(global_batches(sets[:1], 0, 5))


def test_what_fills_a_slot_does_not_depend_on_the_batch_around_it(sets):
    for chosen in (sets, sets[:1]):
        whole = hashes(global_batches(chosen, 0, 5))
        for slot in (0, 1, 12, 31, 59):
            assert hashes(global_batches(chosen, slot, 1, batch_size=1)) == [whole[slot]]
        assert hashes(global_batches(chosen, 0, 3, batch_size=20)) == whole


@pytest.mark.parametrize("ranks, accumulation", [(2, 1), (3, 2)])
def test_the_same_images_stand_in_for_bad_ones_in_any_layout(split, whole, ranks, accumulation):
    spared = global_batches([(split, 1.0)], 0, 5, bad=[[2, 5]])
    assert hashes(global_batches([(split, 1.0)], 0, 5, ranks, accumulation, bad=[[2, 5]])) == hashes(spared)
    before, after = numbers_of(global_batches([(split, 1.0)], 0, 5)), numbers_of(spared)
    replaced = {number for number, other in zip(before, after) if number != other}
    assert len(replaced) == 2 and not replaced & set(after)
    assert all(
        one == other for one, other, number in zip(whole, hashes(spared), before) if number not in replaced
    )


# Place and orientation


def placed_split(root, scale):
    """Pack a pair of which every pixel tells its own place, as row times 256 and column."""
    for side, length in (("HR", 6 * scale), (f"LR_default_X{scale}", 6)):
        rows, columns = np.mgrid[:length, :length]
        (root / "placed2D" / f"placed2D_train_{side}").mkdir(parents=True)
        name = "0001.png" if side == "HR" else f"0001x{scale}.png"
        Image.fromarray((256 * rows + columns).astype(np.uint16)).save(
            root / "placed2D" / f"placed2D_train_{side}" / name
        )
    out = root.with_name(f"{root.name}_out")
    build(root, out, BuildOptions(scale=scale, kind="default", crop=4 * scale, tile=4 * scale))
    return open_split(out, "train")


@pytest.mark.parametrize("scale", [2, 4])
def test_hr_lies_over_lr_at_every_corner_and_border_in_every_orientation(tmp_path, scale):
    split, turns = placed_split(tmp_path, scale), defaultdict(set)
    batches = TrainLoader([(split, 1.0)], 4, 64, 0, "all", 0, 1, CPU).batches(0)
    for _ in range(16):
        for pair in zip(*next(batches), strict=True):
            lr, hr = (
                np.stack(np.divmod(image[0].add(1).mul(65535 / 2).round().numpy().astype(int), 256))
                for image in pair
            )
            assert (hr // scale == lr.repeat(scale, 1).repeat(scale, 2)).all()
            top, left = corner = tuple(lr.min((1, 2)).tolist())
            assert hr.min((1, 2)).tolist() == [scale * top, scale * left]
            assert hr.max((1, 2)).tolist() == [scale * (top + 4) - 1, scale * (left + 4) - 1]
            turns[corner].add((hr - hr.min((1, 2), keepdims=True)).tobytes())
    batches.close()
    assert set(turns) == {(top, left) for top in range(3) for left in range(3)}
    assert all(len(seen) == 8 for seen in turns.values())


# Processes


@pytest.fixture
def damaged(split, shards_of, tmp_path):
    """The train split of a set in which sample 2 is damaged."""
    split = open_split(shutil.copytree(shards_of(split.ndim), tmp_path / "set"), "train")
    with open(split.shards[split.rows["shard"][2]], "r+b") as file:
        file.seek(int(split.rows["hr_offset"][2]))
        file.write(bytes(8))
    return open_split(tmp_path / "set", "train")


def data_of(split, **changes):
    return {
        "path": str(split.place),
        "lr_crop": LR_CROP[split.ndim],
        "augment": "all",
        "verify": "full",
        "max_bad_samples": 1,
    } | changes


@pytest.mark.parametrize("split", NDIMS, indirect=True)
def test_two_processes_find_spare_read_and_score_what_one_does(sets, damaged, tmp_path):
    split, other = damaged, sets[1][0]
    data = data_of(
        split, batch_size=BATCH, train=[{"path": str(split.place), "weight": 3.0}, {"path": str(other.place)}]
    )
    config = tiny_config(split.place, tmp_path, split.ndim, data=data)
    first, second = work("exact", config, tmp_path / "two", 2)
    one, _ = read_exactly(config, tmp_path)
    one = json.loads(json.dumps(one))
    for name in ("damage", "scores"):
        assert first[name] == second[name] == one[name]
    ((row, cause, problem),) = one["damage"][0]
    assert row == 2 and cause == "hr_crc32" and split.key(2) in problem and one["damage"][1] == []
    assert sorted(score["index"] for score in one["scores"]) == list(range(len(other)))
    assert (
        first["refused"] == second["refused"] == one["refused"]
        and "1 training and 0 validation" in one["refused"]
    )
    crops = sum(one["batches"], [])
    assert (
        sum((mine + theirs for mine, theirs in zip(first["batches"], second["batches"], strict=True)), [])
        == crops
    )
    assert crops == hashes(
        global_batches([(split, 3.0), (other, 1.0)], 0, 4, bad=[[2], []], seed=config.seed)
    )


@pytest.mark.parametrize("split", NDIMS, indirect=True)
def test_a_training_on_two_ranks_that_is_continued_on_one_sees_the_same_crops(damaged, tmp_path):
    config = tiny_config(
        damaged.place,
        tmp_path / "runs",
        damaged.ndim,
        checkpoint_every=3,
        keep_checkpoints=9,
        data=data_of(damaged, batch_size=4),
    )
    first, second = work("seen", config, tmp_path / "two", 2)
    seen = [one + other for one, other in zip(first["seen"], second["seen"], strict=True)]
    assert sum(seen, []) == hashes(
        global_batches([(damaged, 1.0)], 0, 10, batch_size=4, bad=[[2]], seed=config.seed)
    )

    run = tmp_path / "runs" / "tiny"
    for update in (6, 9, 10):  # as if it had been killed after the third
        shutil.rmtree(run / "checkpoints" / f"step-{update:08d}")
    shutil.rmtree(run / "weights")
    continued, _ = note_what_is_seen(config, tmp_path)
    assert continued["seen"] == seen[3:]

    (problem,) = (run / "bad_samples.txt").read_text().splitlines()
    assert (
        f"{damaged.shards[damaged.rows['shard'][2]]}: {damaged.key(2)} has other HR pixels at offset"
        in problem
    )
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert [(r["samples_seen"], r["data/bad_samples"]) for r in records if "data/bad_samples" in r] == [
        (0, 1),
        (12, 1),
    ]
