import os
import shutil
import socket

import numpy as np
import pytest
from commands import long_config
from packed_sets import edit_manifest

from srgan_dist.data.reader import Reader
from srgan_dist.data.sampler import Crops
from srgan_dist.data.split import open_split
from srgan_dist.phases.pretrain import PretrainPhase
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError


def test_a_split_knows_its_samples(train_split):
    assert len(train_split) == 7 and train_split.scale == 4 and train_split.dtype == np.uint8
    assert {train_split.key(i) for i in range(7)} == {f"coal_slice_{i}" for i in range(3)} | {
        f"sandstone_slice_{i}" for i in range(4)
    }
    assert all(train_split.key(i).startswith(train_split.rock(i)) for i in range(7))
    assert train_split.smallest_lr == 18


def test_an_absent_split_is_none(copy):
    edit_manifest(copy, lambda manifest: manifest["splits"].pop("test"))
    assert open_split(copy, "test") is None


def test_a_folder_in_the_place_of_a_shard_is_named(copy):
    shard = copy / "train-000000.tar"
    shard.unlink()
    shard.mkdir()
    with pytest.raises(UserError, match="train-000000.tar is no regular file"):
        open_split(copy, "train")


def test_a_shard_that_is_missing_or_has_another_size(copy):
    shard = copy / "train-000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:-512])
    with pytest.raises(
        UserError, match=f"train-000001.tar has {len(data) - 512} bytes, the manifest says {len(data)}"
    ):
        open_split(copy, "train")
    shard.unlink()
    with pytest.raises(UserError, match="train-000001.tar is missing although the manifest lists it"):
        open_split(copy, "train")


def test_an_index_that_is_not_the_manifests(copy):
    rows = np.load(copy / "train.index.npy")
    rows["hr_offset"][0] += 512
    np.save(copy / "train.index.npy", rows)
    with pytest.raises(UserError, match="train.index.npy is not the index that the manifest names"):
        open_split(copy, "train")


def test_a_shard_that_is_replaced_while_it_is_in_use_is_named(copy):
    split = open_split(copy, "train")
    image = Reader(split).image(0)[1]
    shard = split.shards[split.rows[0]["shard"]]
    shutil.copy(shard, copy / "same")
    os.replace(copy / "same", shard)  # by the same content
    assert np.array_equal(Reader(split).image(0)[1], image)
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError, match=f"{shard} was changed while it was in use"):
        Reader(split).image(0)


def test_pixels_that_are_scored_are_those_that_were_packed(copy):
    shard = copy / "valid-000000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    split = open_split(copy, "valid")
    with pytest.raises(
        UserError, match=r"valid-000000.tar: \w+ has other LR pixels at offset \d+ .*crc32 differs"
    ):
        Reader(split).image(0)


@pytest.mark.parametrize("name", ["manifest.json", "train.index.npy", "train-000000.tar"])
@pytest.mark.parametrize("kind", ["zero", "pipe", "socket", "loop"])
def test_what_is_no_file_is_refused_before_it_is_read(copy, name, kind, monkeypatch):
    (copy / name).unlink()
    monkeypatch.chdir(copy)  # the address of a socket is short
    if kind == "zero":
        os.symlink("/dev/zero", name)
    elif kind == "pipe":
        os.mkfifo(name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    else:
        os.symlink(name, name)
    with pytest.raises(UserError, match=f"{name} .*(no regular file|Too many levels|is a link)"):
        open_split(copy, "train")


@pytest.mark.parametrize(
    "count, words",
    [
        (7, "damaged at splits.train: its index has .* bytes, too many for count=7"),
        (2**40, "fit into memory"),
    ],
)
def test_an_index_of_any_size_takes_bounded_memory(copy, little_memory, count, words):
    def grow(manifest):
        split = manifest["splits"]["train"]
        split["index"]["bytes"], split["count"], split["rocks"] = 2**40, count, {"coal": count}
        split["shards"][0]["count"] += count - 7

    os.truncate(copy / "train.index.npy", 2**40)
    edit_manifest(copy, grow)
    with pytest.raises(UserError, match=words):
        open_split(copy, "train")


def test_a_manifest_of_any_size_takes_bounded_memory(copy):
    os.truncate(copy / "manifest.json", 2**40)
    with pytest.raises(UserError, match="manifest.json has more than 67,108,864 bytes"):
        open_split(copy, "train")


def crops_of(reader):
    """Cut one crop of every sample."""
    count = len(reader.split)
    crops = Crops(np.arange(count), np.zeros((count, 2), np.int64), np.zeros(count, np.int64))
    reader.batch(crops, *reader.empty_batch(count, 8))


@pytest.mark.parametrize("how", ["zeroed", "touched", "replaced"])
@pytest.mark.parametrize("opened", [True, False], ids=["mapped", "checked"])
def test_a_shard_that_is_rewritten_in_place_is_named_before_its_next_batch_is_used(copy, how, opened):
    split = open_split(copy, "train")
    reader = Reader(split)
    if opened:
        crops_of(reader)
    shard = split.shards[1]
    if how == "zeroed":
        with open(shard, "r+b") as file:
            file.write(bytes(shard.stat().st_size))
        with pytest.raises(UserError, match=f"{shard} was changed while it was in use"):
            crops_of(reader)
        return
    if how == "touched":
        os.utime(shard, ns=(1, 1))
    else:
        shutil.copy(shard, copy / "same")
        os.replace(copy / "same", shard)
    crops_of(reader)


def test_a_training_on_a_shard_that_is_zeroed_meanwhile_ends_with_its_name(copy, tmp_path, monkeypatch):
    update = PretrainPhase.update

    def zeroing(self, *batch):
        for shard in copy.glob("train-*.tar"):
            with open(shard, "r+b") as file:
                file.write(bytes(shard.stat().st_size))
        return update(self, *batch)

    monkeypatch.setattr(PretrainPhase, "update", zeroing)
    with pytest.raises(UserError, match=r"train-\d+.tar was changed while it was in use"):
        train(long_config(copy, tmp_path, steps=300))
