import gc
import os
import shutil
import threading
import weakref

import numpy as np
import pytest
import torch
from conftest import write_folder
from PIL import Image
from test_augment import SYMMETRIES_OF_A_SQUARE

from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.scales import SCALES

CPU = torch.device("cpu")


def loader(split, rank=0, world_size=1, batch_size=6, seed=0, augment="all", lr_crop=8):
    return TrainLoader([(split, 1.0)], lr_crop, batch_size, seed, augment, rank, world_size, CPU)


def take(source, first, count):
    batches = source.batches(first)
    taken = [tuple(x.clone() for x in next(batches)) for _ in range(count)]
    batches.close()
    return taken


def test_batches_are_float_in_signed_range_and_linked(train_split):
    ((lr, hr),) = take(loader(train_split), 0, 1)
    assert lr.shape == (6, 1, 8, 8) and hr.shape == (6, 1, 32, 32)
    assert lr.dtype == hr.dtype == torch.float32
    assert -1 <= hr.min() and hr.max() <= 1 and hr.min() < -0.3 and hr.max() > 0.3
    means = torch.nn.functional.avg_pool2d(hr, 4)
    assert torch.corrcoef(torch.stack([lr.flatten(), means.flatten()]))[0, 1] > 0.95


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_together_see_the_global_batches_of_one_rank(train_split, world_size):
    whole = take(loader(train_split), 0, 4)
    shares = [take(loader(train_split, rank, world_size), 0, 4) for rank in range(world_size)]
    for update, (lr, hr) in enumerate(whole):
        assert torch.equal(torch.cat([share[update][0] for share in shares]), lr)
        assert torch.equal(torch.cat([share[update][1] for share in shares]), hr)


def test_a_loader_started_at_any_update_continues_exactly(train_split):
    whole = take(loader(train_split), 0, 5)
    for first in range(5):
        rest = take(loader(train_split), first, 5 - first)
        assert all(torch.equal(a, b) for pair, other in zip(rest, whole[first:]) for a, b in zip(pair, other))


@pytest.mark.parametrize("batch_size, first_update", [(3, 4), (12, 1)])
def test_a_loader_with_another_batch_goes_on_at_the_same_crop(train_split, batch_size, first_update):
    offset = 12 - first_update * batch_size  # two updates of six crops were seen
    sets = [(train_split, 2.0), (train_split, 1.0)]
    before = TrainLoader(sets, 8, 6, 0, "all", 0, 1, CPU)
    shares = [
        TrainLoader(sets, 8, batch_size, 0, "all", rank, 3, CPU, slot_offset=offset) for rank in range(3)
    ]
    expected = torch.cat([hr for _, hr in take(before, 2, 2)])
    taken = [take(share, first_update, 12 // batch_size) for share in shares]
    found = torch.cat([hr for update in zip(*taken, strict=True) for _, hr in update])
    assert torch.equal(found, expected)


def coded_split(folder, scale, lr_size=12):
    """Pack pairs whose pixels code their row or column: HR pixels below one LR pixel share its value."""
    rows, columns = np.mgrid[: lr_size * scale, : lr_size * scale]
    for code, hr in (("rows", rows), ("columns", columns)):
        for side, image in (("HR", hr), (f"LR_default_X{scale}", hr[::scale, ::scale] // scale)):
            path = folder / f"{code}2D" / f"{code}2D_train_{side}"
            path.mkdir(parents=True)
            name = "0001.png" if side == "HR" else f"0001x{scale}.png"
            Image.fromarray(image.astype(np.uint8)).save(path / name)
    out = folder.with_name(f"{folder.name}_out")
    build(folder, out, BuildOptions(scale=scale, kind="default", crop=4 * scale, tile=4 * scale))
    return open_split(out, "train")


@pytest.mark.parametrize("scale", SCALES)
def test_hr_crops_match_lr_crops_exactly_in_all_eight_orientations(tmp_path, scale):
    split = coded_split(tmp_path, scale)
    source = loader(split, batch_size=64, lr_crop=4)
    seen_corners, seen_orientations = set(), set()
    for update, (lr, hr) in enumerate(take(source, 0, 20)):
        crops = source.samplers[0].crops(range(64 * update, 64 * update + 64))
        seen_corners |= set(map(tuple, crops.corners.tolist()))
        seen_orientations |= set(crops.orientations.tolist())
        lr, hr = (((x + 1) / 2 * 255).round() for x in (lr, hr))
        assert torch.equal(
            torch.div(hr, scale, rounding_mode="floor"),
            lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2),
        )
    assert {(0, 0), (0, 8), (8, 0), (8, 8)} <= seen_corners and seen_orientations == set(range(8))


@pytest.mark.parametrize("augment, count", [("all", 8), ("flips", 4), ("none", 1)])
def test_each_crop_is_oriented_as_it_was_drawn_in_lr_and_hr_alike(train_split, augment, count):
    source, reader = loader(train_split, batch_size=64, augment=augment), Reader(train_split)
    seen = set()
    for update, (lr, hr) in enumerate(take(source, 0, 2)):
        crops = source.samplers[0].crops(range(64 * update, 64 * update + 64))
        seen |= set(crops.orientations.tolist())
        for slot in range(64):
            whole_lr, whole_hr = reader.image(crops.samples[slot])
            (top, left), orientation = crops.corners[slot], crops.orientations[slot]
            for image, whole, scale in ((lr, whole_lr, 1), (hr, whole_hr, 4)):
                window = whole[scale * top : scale * (top + 8), scale * left : scale * (left + 8)]
                expected = SYMMETRIES_OF_A_SQUARE[orientation](window / 127.5 - 1)
                np.testing.assert_allclose(image[slot, 0].numpy(), expected, rtol=0, atol=1e-6)
    assert seen == set(range(count))


def test_16_bit_values_reach_the_device_unchanged(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    (tmp_path / "hr").mkdir()
    Image.fromarray(ramp).save(tmp_path / "hr" / "ramp.png")
    build(tmp_path / "hr", tmp_path / "out", BuildOptions(crop=64, tile=64))
    ((_, hr),) = take(
        loader(open_split(tmp_path / "out", "train"), batch_size=1, augment="none", lr_crop=16), 0, 1
    )
    assert torch.equal(hr[0, 0], torch.from_numpy(ramp.astype(np.float32)) * (2 / 65535) - 1)


def test_mixed_sets_each_fill_their_share_of_every_batch(train_split, tmp_path):
    build(
        write_folder(tmp_path / "hr", {"granite": 1}, size=(64, 96)),
        tmp_path / "out",
        BuildOptions(tile=96, crop=32),
    )
    other = open_split(tmp_path / "out", "train")
    source = TrainLoader([(train_split, 1.0), (other, 1.0)], 8, 50, 0, "none", 0, 1, CPU)
    ((lr, hr),) = take(source, 3, 1)
    readers = [Reader(train_split), Reader(other)]
    found = source.mixture.split(range(150, 200))
    assert sum(len(places) for places, _ in found) == 50 and all(len(places) > 10 for places, _ in found)
    for (places, own), sampler, reader in zip(found, source.samplers, readers):
        crops = sampler.crops(own)
        for place, i, (top, left) in zip(places, crops.samples, crops.corners):
            window = reader.image(i)[1][4 * top : 4 * top + 32, 4 * left : 4 * left + 32]
            assert torch.equal(hr[place, 0], torch.from_numpy(window).float() * (2 / 255) - 1)


def test_a_shard_that_is_cut_while_it_is_mapped_is_named(shards, tmp_path, monkeypatch):
    copy = shutil.copytree(shards, tmp_path / "copy")
    split, reading = open_split(copy, "train"), threading.Lock()
    source = loader(split)
    batch = source.readers[0].batch

    def locked(*arguments):
        with reading:
            batch(*arguments)

    monkeypatch.setattr(source.readers[0], "batch", locked)
    batches = source.batches(0)
    next(batches)
    with reading:  # in the middle of a batch it would kill the process, which nobody can keep it from
        for path in split.shards:
            os.truncate(path, 512)
    with pytest.raises(UserError, match="train-00000.*.tar has been cut while it was read; copy it again"):
        for _ in range(9):
            next(batches)


def test_an_error_while_prefetching_is_raised(train_split, monkeypatch):
    source = loader(train_split)

    def broken(*_, **__):
        raise OSError("the disk is gone")

    monkeypatch.setattr(source.readers[0], "batch", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        next(source.batches(0))


def test_the_thread_ends_with_the_generator(train_split):
    batches = loader(train_split).batches(0)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name == "prefetch-batches"]


def test_whole_images_and_records(train_split):
    reader = Reader(train_split)
    lr, hr = reader.image(3)
    assert lr.shape == (18, 20) and hr.shape == (72, 80)
    assert hr.min() == train_split.rows["darkest"][3] and hr.max() == train_split.rows["brightest"][3]
    assert reader.record(3)["rock"] == train_split.rock(3)


def test_a_reader_that_nobody_has_any_more_leaves_no_shard_mapped(train_split):
    gc.disable()  # it would come too late: a copy in a cache that is mapped takes its room
    try:
        reader = Reader(train_split)
        reader.image(0)
        gone = weakref.ref(reader)
        del reader
        assert gone() is None
    finally:
        gc.enable()


def test_noise_is_a_function_of_seed_and_slot_alone(train_split):
    def noisy(rank=0, world_size=1, seed=0, parts=1):
        return TrainLoader(
            [(train_split, 1.0)],
            8,
            6,
            seed,
            "all",
            rank,
            world_size,
            CPU,
            gradient_accumulation_steps=parts,
            noise=2,
        )

    whole = [noise for _, _, noise in take(noisy(), 0, 3)]
    assert whole[0].shape == (6, 2, 32, 32) and not torch.equal(whole[0], whole[1])
    assert not torch.equal(take(noisy(seed=1), 0, 1)[0][2], whole[0])
    shares = [take(noisy(rank, 2), 1, 2) for rank in range(2)]
    for update in (0, 1):
        assert torch.equal(torch.cat([share[update][2] for share in shares]), whole[1 + update])
    parts = take(noisy(parts=3), 1, 3)
    assert torch.equal(torch.cat([part[2] for part in parts]), whole[1])
    pairs = take(loader(train_split), 0, 1)[0]
    assert all(torch.equal(a, b) for a, b in zip(pairs, take(noisy(), 0, 1)[0][:2], strict=True))
