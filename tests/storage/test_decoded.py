"""Sets of PNG files: decoded once into the cache, and from there the same batches as any other set."""

import hashlib
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, tiny_config, write_folder
from test_remote import Server, hasty  # noqa: F401 (a fixture)

from srgan_dist.config import ConfigError
from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set, open_split
from srgan_dist.integrity.find_corruption import find_corrupt_samples
from srgan_dist.packing.build import build
from srgan_dist.run.preflight import preflight
from srgan_dist.storage.cache import GIB, Cache
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError

ROCKS = {"sandstone": 6, "coal": 5}


@pytest.fixture(scope="module", params=["uint8", "uint16"])
def sets(request, tmp_path_factory):
    """The same images packed twice: (npy, png)."""
    root = tmp_path_factory.mktemp(request.param)
    write_folder(root / "hr", ROCKS, dtype=np.dtype(request.param))
    for encoding in ("npy", "png"):
        build(
            root / "hr",
            root / encoding,
            TINY.__class__(tile=80, crop=32, samples_per_shard=3, encoding=encoding),
        )
    return root / "npy", root / "png"


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", GIB)


def hashes(split, count=6):
    batches = TrainLoader([(split, 1.0)], 8, 4, 0, "all", 0, 1, torch.device("cpu")).batches(0)
    taken = [
        hashlib.sha256(b"".join(x.numpy().tobytes() for x in next(batches))).hexdigest() for _ in range(count)
    ]
    batches.close()
    return taken


def test_png_gives_the_same_images_records_and_batches(sets, cache):
    plain, png = open_split(sets[0], "train"), open_split(sets[1], "train", cache=cache)
    assert hashes(png) == hashes(plain)
    for i in range(len(plain)):
        assert all(
            np.array_equal(a, b) for a, b in zip(Reader(png).image(i), Reader(plain).image(i), strict=True)
        )
        assert Reader(png).record(i) == Reader(plain).record(i)
    assert find_corrupt_samples(png) == []


def test_each_shard_is_decoded_once(sets, tmp_path, cache):
    copy = shutil.copytree(sets[1], tmp_path / "copy")
    before = hashes(open_split(copy, "train", cache=cache))
    assert len(os.listdir(cache.folder)) == len(open_set(copy).manifest.splits["train"].shards)
    for path in copy.glob("train-*.tar"):  # no longer read
        path.write_bytes(bytes(path.stat().st_size))
    assert hashes(open_split(copy, "train", cache=cache)) == before


def test_from_a_url_shards_are_fetched_and_decoded(sets, cache):
    server = Server(sets[1])
    try:
        split = open_split(server.url, "train", cache=cache)
        assert hashes(split) == hashes(open_split(sets[0], "train"))
        asked = len(server.asked)
        assert hashes(open_split(server.url, "train", cache=cache)) == hashes(split)
        assert [name for name, _ in server.asked[asked:]] == ["manifest.json"]
    finally:
        server.close()


def damaged(folder, tmp_path, change):
    """Copy a set and damage the HR image of one training sample; returns (folder, key, shard, offset)."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    split = open_set(copy).stored_split("train")
    row = split.rows[2]
    path = split.shards[row["shard"]]
    with open(path, "r+b") as file:
        content = bytearray(os.pread(file.fileno(), int(row["hr_bytes"]), int(row["hr_offset"])))
        change(content)
        file.seek(int(row["hr_offset"]))
        file.write(content)
    return copy, row["key"].decode(), path, int(row["hr_offset"])


def flip_a_bit(content):
    content[len(content) // 2] ^= 8


def cut_off(content):
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)


def huge_header(content):
    content[16:24] = (100_000).to_bytes(4, "big") * 2


@pytest.mark.parametrize("change", [flip_a_bit, cut_off, huge_header])
def test_a_damaged_png_is_named_with_shard_key_offset_and_cause(sets, tmp_path, cache, change):
    copy, key, path, offset = damaged(sets[1], tmp_path, change)
    with pytest.raises(
        UserError,
        match=rf"{path} is not the shard that the manifest names \(sha256 differs: the HR image of"
        rf" {key} at offset {offset} \S+",
    ):
        hashes(open_split(copy, "train", cache=cache))


def test_damaged_png_may_be_spared(sets, tmp_path):
    copy, key, path, offset = damaged(sets[1], tmp_path, cut_off)
    data = {
        "path": str(copy),
        "lr_crop": 8,
        "batch_size": 4,
        "cache": str(tmp_path / "cache"),
        "verify": "full",
        "max_bad_samples": 1,
    }
    config = tiny_config(copy, tmp_path, adversarial=None, data=data)
    train(config)
    (listed,) = (tmp_path / "tiny" / "bad_samples.txt").read_text().splitlines()
    assert listed == f"{path}: {key} has other HR pixels at offset {offset} than were packed (crc32 differs)"
    with pytest.raises(UserError, match="is not the shard that the manifest names"):
        train(
            tiny_config(
                copy,
                tmp_path / "strict",
                adversarial=None,
                data=data | {"max_bad_samples": 0, "verify": "size"},
            )
        )


def test_what_decoding_needs_counts_as_room_in_the_cache(sets, tmp_path):
    packed = open_set(sets[1], Cache(tmp_path / "cache", GIB))
    splits = [packed.split(name) for name in ("train", "valid", "test")]
    decoded = sum(sum(split.cached_bytes) for split in splits)
    assert decoded > sum(int(split.rows[f"{side}_bytes"].sum()) for split in splits for side in ("hr", "lr"))

    def blocks(cache_bytes):
        data = {
            "path": str(sets[1]),
            "lr_crop": 8,
            "batch_size": 4,
            "cache": str(tmp_path / "cache"),
            "cache_gib": cache_bytes / GIB,
        }
        return preflight(tiny_config(sets[1], tmp_path, data=data)).blocks

    assert blocks(decoded) == [None] and blocks(decoded - 1) == [1]
    with pytest.raises(ConfigError, match="data.cache_gib=.* has no room for two blocks"):
        blocks(decoded // 2)
