"""Sets in S3, on a local server, and at the hub of Hugging Face, whose file system is a fake here."""

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from test_remote import SHARD, cache, hasty, sha256_of_shards  # noqa: F401 (fixtures)
from test_streamed_training import config_of, crops, loader, write_shards
from webdatasets import pair

from srgan_dist.cli.index import main
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set, open_split
from srgan_dist.integrity.audit import verify
from srgan_dist.storage.cache import GIB, Cache
from srgan_dist.utils.errors import UserError


@pytest.fixture(scope="module")
def s3():
    """A file system on a local S3 with an empty bucket."""
    s3fs = pytest.importorskip("s3fs")
    ThreadedMotoServer = pytest.importorskip("moto.server").ThreadedMotoServer
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    settings = {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*moto.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "one",
        "AWS_SECRET_ACCESS_KEY": "two",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        system = s3fs.S3FileSystem()
        system.mkdir("rocks")
        yield system
    moto.stop()


def test_a_set_in_s3_and_its_faults(s3, shards, cache):  # noqa: F811
    with pytest.raises(UserError, match="s3://elsewhere/set is not a packed data set"):
        open_set("s3://elsewhere/set", cache)
    s3.put(f"{shards}/", "rocks/set", recursive=True)
    split = open_split("s3://rocks/set", "valid", cache=cache)
    assert sha256_of_shards(split) == sha256_of_shards(open_split(shards, "valid"))
    s3.rm(f"rocks/set/{SHARD}")
    with pytest.raises(UserError, match=f"s3://rocks/set/{SHARD} does not exist"):
        open_split("s3://rocks/set", "train", cache=cache)
    s3.pipe(f"rocks/set/{SHARD}", (shards / SHARD).read_bytes()[:5000])
    s3.invalidate_cache()
    with pytest.raises(UserError, match=f"s3://rocks/set/{SHARD} has 5000 bytes, the manifest says"):
        open_split("s3://rocks/set", "train", cache=cache)
    with pytest.raises(UserError, match=rf"s3://rocks/set/{SHARD} could not be fetched: .*\(2 tries\)"):
        open_split("s3://rocks/set", "train", check_sizes=False, cache=cache).shards[0].open()


class Hub(MemoryFileSystem):
    """hf://datasets/USER/REPO/..., of which nothing but the names and the calls of fsspec is like the hub."""

    protocol, store, pseudo_dirs = "hf", {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("hf://"))


@pytest.fixture(params=["s3", "hf"])
def store(request, monkeypatch):
    """(file system, URL of a folder in it that does not exist)."""
    if request.param == "s3":
        return request.getfixturevalue("s3"), "s3://rocks/foreign"
    monkeypatch.setitem(_registry, "hf", Hub)
    return Hub(), "hf://datasets/lab/rocks/foreign"


def test_a_webdataset_in_a_store_is_indexed_and_streamed(store, tmp_path):
    system, url = store
    local = write_shards(tmp_path / "local", (3, 3, 3, 3, 2))
    for path in local.iterdir():
        system.pipe(f"{url}/{path.name}", path.read_bytes())
    shards = ["--train", f"{url}/shards-{{000000..000003}}.tar", "--valid", f"{url}/shards-000004.tar"]
    main([str(tmp_path / "index"), *shards, "--cache", str(tmp_path / "cache"), "--rock-field", "rock"])
    packed = open_set(tmp_path / "index", Cache(tmp_path / "cache", GIB))
    for split, first in (("train", 0), ("valid", 12)):
        reader = Reader(packed.split(split))
        for i in range(len(reader.split)):
            found = reader.image(i)
            assert all(map(np.array_equal, found, reversed(pair(first + i, size=(72, 72)))))
    assert verify(packed) == [] and packed.manifest.rocks == ["berea", "coal"]
    streamed = crops(loader(config_of(url, tmp_path)), 0, 6)
    assert streamed == crops(loader(config_of(local, tmp_path)), 0, 6) and len(set(streamed)) == 12
