"""Trainings on remote sets: the batches and weights of the folder, in blocks where the cache is small."""

import contextlib
import functools
import hashlib
import threading
import time
from dataclasses import replace

import pytest
import torch
from conftest import LR_CROP, TINY_VOLUMES, tiny_config, write_folder
from test_remote import Server, status

from srgan_dist.config import ConfigError
from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.split import open_split
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.run.preflight import preflight
from srgan_dist.storage import remote
from srgan_dist.storage.cache import GIB, Cache
from srgan_dist.storage.remote import RetryPolicy
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(remote, "RETRY_POLICY", RetryPolicy(tries=2, first_pause=0))


KINDS = {  # by ndim: the size of an image, and the options of its set
    2: ((72, 80), BuildOptions(tile=80, crop=32, samples_per_shard=2)),
    3: ((12, 14, 16), replace(TINY_VOLUMES, samples_per_shard=2)),
}


@pytest.fixture(scope="module")
def many_shards_of(tmp_path_factory):
    """many_shards_of(ndim): a set of 12 training shards with two images or volumes each."""

    @functools.cache
    def built(ndim):
        root, (size, options) = tmp_path_factory.mktemp("many"), KINDS[ndim]
        build(write_folder(root / "hr", {"granite": 30}, size=size), root / "shards", options)
        return root / "shards"

    return built


@pytest.fixture
def ndim():
    return 2  # unless a test is parametrised with it


@pytest.fixture
def many_shards(many_shards_of, ndim):
    return many_shards_of(ndim)


@pytest.fixture
def server(many_shards):
    server = Server(many_shards)
    yield server
    server.close()


@pytest.fixture
def local(many_shards):
    return open_split(many_shards, "train")


def shard_bytes(split):
    return max(entry.bytes for entry in split.set.manifest.splits["train"].shards)


def loader(split, batch_size=4, block=None, rank=0, ranks=1):
    settings = LR_CROP[split.ndim], batch_size, 0, "all", rank, ranks, CPU
    return TrainLoader([(split, 1.0)], *settings, blocks=[block])


def hashes(source, first, count, watch=lambda: None):
    batches, digests = source.batches(first), []
    for _ in range(count):
        digests.append(hashlib.sha256(b"".join(x.numpy().tobytes() for x in next(batches))).hexdigest())
        watch()
    batches.close()
    return digests


def config_of(url, tmp_path, cache_bytes, ndim=2, **data):
    cache = {"cache": str(tmp_path / "cache"), "cache_gib": cache_bytes / GIB}
    data = {"path": url, "lr_crop": LR_CROP[ndim], "batch_size": 4, "augment": "all"} | cache | data
    return tiny_config(url, tmp_path, ndim, data=data, adversarial=None)


def sizes_of(manifest):
    """Return the bytes of the training split, and of the splits that are evaluated."""
    sizes = {name: sum(entry.bytes for entry in split.shards) for name, split in manifest.splits.items()}
    return sizes["train"], sizes["valid"] + sizes["test"]


# Batches


def test_a_failure_in_a_prefetching_thread_is_raised_by_the_batch_that_needs_the_shard(server, tmp_path):
    server.faults["train-000001.tar"] = [status(500)]
    with pytest.raises(UserError, match="train-000001.tar could not be fetched: 500"):
        hashes(loader(open_split(server.url, "train", cache=Cache(tmp_path, GIB))), 0, 9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_of_a_set_that_exceeds_the_cache_two_blocks_are_there_at_a_time(server, local, tmp_path):
    cache, sizes = Cache(tmp_path / "cache", 5 * shard_bytes(local)), []

    def watch():
        size = 0
        for path in cache.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
                size += path.stat().st_size * (len(path.name) == 64)
        sizes.append(size)

    split = open_split(server.url, "train", cache=cache)
    assert hashes(loader(split, 2, 2), 5, 26, watch) == hashes(loader(local, 2, 2), 5, 26)
    assert max(sizes) <= cache.limit
    assert sum(len(server.fetches(name)) for name in train_shards(local)) > 12  # evicted, and fetched again


def test_a_batch_of_several_blocks_needs_no_more_room(server, local, tmp_path):
    cache = Cache(tmp_path / "cache", 4 * shard_bytes(local), room_seconds=2)
    split = open_split(server.url, "train", cache=cache)
    assert hashes(loader(split, 16, 2), 1, 3) == hashes(loader(local, 16, 2), 1, 3)


def test_a_rank_that_is_ahead_leaves_room_for_the_others(server, local, tmp_path):
    cache = Cache(tmp_path / "cache", 8 * shard_bytes(local), room_seconds=2)
    ranks = [loader(open_split(server.url, "train", cache=cache), 2, 4, rank, 2) for rank in (0, 1)]
    ahead = ranks[0].batches(3)  # one update before the next block
    next(ahead)
    wait_until_quiet(server)  # its prefetching comes as far as it can
    behind = ranks[1].batches(3)
    for _ in range(8):
        next(behind)
        next(ahead)
    ahead.close(), behind.close()


def wait_until_quiet(server):
    requests = None
    while requests != (requests := len(server.asked)):
        time.sleep(0.3)


def test_ranks_fetch_each_shard_once(server, local, tmp_path):
    cache, digests = Cache(tmp_path / "cache", GIB), [None, None]

    def run(rank):
        split = open_split(server.url, "train", cache=cache)
        digests[rank] = hashes(loader(split, 4, None, rank, 2), 0, 6)

    threads = [threading.Thread(target=run, args=[rank]) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [hashes(loader(local, 4, None, rank, 2), 0, 6) for rank in (0, 1)]
    assert [len(server.fetches(name)) for name in train_shards(local)] == [1] * 12


def train_shards(split):
    return [entry.file for entry in split.set.manifest.splits["train"].shards]


# Trainings


def test_blocks_follow_from_the_room_in_the_cache(server, local, tmp_path):
    train_bytes, eval_bytes = sizes_of(local.set.manifest)
    shard = shard_bytes(local)

    def blocks(cache_bytes, **data):
        return preflight(config_of(server.url, tmp_path, eval_bytes + cache_bytes, **data)).blocks

    assert blocks(train_bytes) == [None]
    assert blocks(train_bytes - 1) == [5]
    assert blocks(6 * shard) == [3]
    assert blocks(6 * shard, block_shards=1) == [1]
    with pytest.raises(
        ConfigError, match="has no room for two blocks of 1 shards of .* at least .* are needed"
    ):
        blocks(shard)
    with pytest.raises(
        ConfigError, match="no room for two blocks of 4 shards .* a smaller data.block_shards"
    ):
        blocks(6 * shard, block_shards=4)
    config = config_of(server.url, tmp_path, eval_bytes + train_bytes - 1)
    words = r"blocks of 5 shards of .* have 10 samples; several ranks .* need 6 updates in each \(24"
    with pytest.raises(ConfigError, match=words):
        preflight(config, world_size=2)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_training_in_blocks_is_that_on_the_folder_and_continues_with_the_same_blocks(
    server, local, tmp_path, ndim
):
    small = sizes_of(local.set.manifest)[1] + 4 * shard_bytes(local)
    remote_weights = weights_of(train(config_of(server.url, tmp_path / "remote", small, ndim)))
    folder = config_of(str(local.set.place), tmp_path / "local", GIB, ndim, block_shards=2)
    local_weights = weights_of(train(folder))
    assert all(torch.equal(a, b) for a, b in zip(local_weights, remote_weights, strict=True))
    words = r"data.block_shards \(data.cache_gib decides where it is null\): \[2\] -> None"
    with pytest.raises(UserError, match=words):
        preflight(config_of(server.url, tmp_path / "remote", GIB, ndim))
    larger = config_of(server.url, tmp_path / "remote", GIB, ndim, block_shards=2)
    assert preflight(larger).blocks == [2] and train(larger).state.global_step == 6


def weights_of(trained):
    return list(trained.generator.state_dict().values())
