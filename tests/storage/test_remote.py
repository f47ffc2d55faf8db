"""Remote sets: a loopback web server with faults, a local S3, and trainings that cannot tell them from a folder."""

import _thread
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, tiny_config, write_folder

from srgan_dist.config import ConfigError, dump_config
from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.split import open_set, open_split
from srgan_dist.integrity.find_corruption import find_corrupt_samples
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.run.preflight import preflight
from srgan_dist.storage import remote
from srgan_dist.storage.cache import GIB, Cache
from srgan_dist.storage.remote import RetryPolicy
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError

CPU = torch.device("cpu")


class Server:
    """Serves a folder on this machine, with byte ranges; `faults` maps a name to what happens to its next requests."""

    def __init__(self, folder):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.folder, self.faults, self.asked = folder, {}, []
        self.closing, self.stalls_over = (
            threading.Event(),
            threading.Event(),
        )  # closing ends answers that hang
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads, self.http.handle_error = True, lambda *args: None
        self.url = f"http://127.0.0.1:{self.http.server_port}/set"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def answer(self, handler):
        name = handler.path.rpartition("/")[2]
        if handler.command == "GET":
            self.asked.append((name, handler.headers.get("Range")))
            faults = self.faults.get(name, [])
            fault = faults.pop(0) if len(faults) > 1 else faults[0] if faults else None
        else:
            fault = None
        path = self.folder / name
        content = path.read_bytes() if path.is_file() else None
        (fault or whole_or_range)(handler, content, self)

    def fetches(self, name):
        return [ranges for asked, ranges in self.asked if asked == name]

    def close(self):
        self.closing.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


def send(handler, content, status=200, length=None, **headers):
    handler.send_response(status)
    for name, value in {"Content_Length": len(content) if length is None else length, **headers}.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)


def whole_or_range(handler, content, server, change=lambda content: content):
    if content is None:
        return send(handler, b"nothing here", 404)
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
    if not asked:
        return send(handler, change(content))
    start, end = int(asked[1]), min(int(asked[2]) + 1, len(content))
    if start >= len(content):
        return send(handler, b"", 416)
    send(handler, change(content[start:end]), 206, Content_Range=f"bytes {start}-{end - 1}/{len(content)}")


def status(code):
    return lambda handler, content, server: send(handler, b"no", code)


def cut(handler, content, server):
    send(handler, content[: len(content) // 2], length=len(content))
    handler.close_connection = True


def stall(handler, content, server):
    server.closing.wait(20)
    server.stalls_over.set()
    handler.close_connection = True


def short(handler, content, server):
    whole_or_range(handler, content, server, lambda part: part[: len(part) // 2])


def flipped(handler, content, server):
    whole_or_range(handler, content, server, lambda part: bytes([part[0] ^ 1]) + part[1:])


def without_ranges(handler, content, server):
    send(handler, content)


def login_page(handler, content, server):
    send(handler, b"<!DOCTYPE html><title>Log in</title>")


def garbled(handler, content, server):
    handler.wfile.write(b"no HTTP\r\n\r\n")
    handler.close_connection = True


def fine(handler, content, server):
    whole_or_range(handler, content, server)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(
        remote,
        "RETRY_POLICY",
        RetryPolicy(piece_bytes=20_000, piece_seconds=2, tries=3, first_pause=0, longest_pause=0),
    )


@pytest.fixture
def server(shards):
    server = Server(shards)
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", GIB)


def loader(split, batch_size=4, blocks=None):
    return TrainLoader([(split, 1.0)], 8, batch_size, 0, "all", 0, 1, CPU, blocks=[blocks])


def hashes(source, first, count):
    batches, taken = source.batches(first), []
    for _ in range(count):
        taken.append(hashlib.sha256(b"".join(x.numpy().tobytes() for x in next(batches))).hexdigest())
    batches.close()
    return taken


def bytes_of_copies(cache):
    total = 0
    for path in cache.folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # just removed
            total += path.stat().st_size * (len(path.name) == 64)
    return total


def copies(cache):
    return sorted(path.name for path in cache.folder.iterdir())


# What comes


def test_a_remote_set_gives_the_batches_of_the_folder_and_each_file_comes_once(server, cache, shards):
    split = open_split(server.url, "train", cache=cache)
    assert hashes(loader(split), 3, 6) == hashes(loader(open_split(shards, "train")), 3, 6)
    files = [
        entry.file
        for entry in (split.set.manifest.splits["train"].index, *split.set.manifest.splits["train"].shards)
    ]
    assert len(files) == 4
    for name in files:
        starts = [int(ranges[6:].partition("-")[0]) for ranges in server.fetches(name) if ranges]
        assert sorted(set(starts)) == starts == list(range(0, (shards / name).stat().st_size, 20_000))
    fetched = len(server.asked)
    again = open_split(server.url, "train", cache=cache)
    assert hashes(loader(again), 0, 6) == hashes(loader(open_split(shards, "train")), 0, 6)
    assert [name for name, _ in server.asked[fetched:]] == ["manifest.json"]


def test_copies_are_named_by_their_content_and_nothing_else_stays(server, cache, shards):
    split = open_split(server.url, "valid", cache=cache)
    hashes(loader(split, 1), 0, 1)
    valid = split.set.manifest.splits["valid"]
    assert copies(cache) == sorted(entry.sha256 for entry in (valid.index, *valid.shards))
    for entry in (valid.index, *valid.shards):
        assert (cache.folder / entry.sha256).read_bytes() == (shards / entry.file).read_bytes()


def test_a_server_without_ranges_will_do(server, cache, shards):
    server.faults = {name: [without_ranges] for name in os.listdir(shards)}
    assert hashes(loader(open_split(server.url, "train", cache=cache)), 0, 2) == hashes(
        loader(open_split(shards, "train")), 0, 2
    )


@pytest.mark.parametrize("fault", [status(503), status(429), cut, stall, short, garbled])
def test_what_passes_is_tried_again_and_goes_on_where_it_was(server, cache, shards, fault, capfd):
    name = "train-000000.tar"
    server.faults[name] = [fine, fault, fine, fault, fine]
    split = open_split(server.url, "train", cache=cache)
    with split.shards[0].open() as file:
        assert file.read() == (shards / name).read_bytes()
    starts = [ranges.partition("-")[0] for ranges in server.fetches(name)]
    assert (
        starts.count("bytes=0") == 1 and starts.count("bytes=20000") == 2
    )  # the first piece is not asked for again
    assert f"{server.url}/{name}: " in capfd.readouterr().err


@pytest.mark.parametrize(
    "fault, words",
    [
        (status(500), r"could not be fetched: 500, message=.* \(3 tries\). Complete pieces are kept"),
        (status(403), r"could not be fetched: 403, message='Forbidden'.*'\. Complete pieces"),
        (status(404), "does not exist, or may not be read without credentials"),
        (stall, r"could not be fetched: no complete answer within 2 s \(3 tries\)"),
        (short, r"could not be fetched: bytes 0 to 20,000 were requested, 10,000 received \(3 tries\)"),
        (flipped, "has not the content that the manifest names"),
        (login_page, r"could not be fetched: bytes 0 to 20,000 were requested, 36 received"),
    ],
)
def test_what_does_not_pass_is_named(server, cache, fault, words):
    server.faults["train-000000.tar"] = [fault]
    split = open_split(server.url, "train", cache=cache)
    with pytest.raises(UserError, match=f"{server.url}/train-000000.tar {words}"):
        split.shards[0].open()
    assert not cache.holds(split.shards[0].entry.sha256)


def test_a_failure_in_the_reading_thread_is_that_of_the_shard_which_is_needed(server, cache):
    server.faults["train-000001.tar"] = [status(500)]
    with pytest.raises(UserError, match="train-000001.tar could not be fetched: 500"):
        hashes(loader(open_split(server.url, "train", cache=cache)), 0, 9)


@pytest.mark.parametrize(
    "name, fault, words",
    [
        ("manifest.json", status(404), "is not a packed data set: it has no manifest.json"),
        ("manifest.json", status(401), "manifest.json could not be fetched: 401"),
        ("manifest.json", login_page, "manifest.json cannot be read: Expecting value"),
        ("train.index.npy", flipped, "train.index.npy has not the content that the manifest names"),
    ],
)
def test_a_set_that_cannot_be_opened(server, cache, name, fault, words):
    server.faults[name] = [fault]
    with pytest.raises(UserError, match=words):
        open_split(server.url, "train", cache=cache)


def test_missing_and_cut_shards_are_found_before_the_training(shards, tmp_path, cache):
    copy = shutil.copytree(shards, tmp_path / "copy")
    server = Server(copy)
    try:
        os.truncate(copy / "train-000001.tar", 1000)
        with pytest.raises(
            UserError, match=f"{server.url}/train-000001.tar has 1000 bytes, the manifest says"
        ):
            open_split(server.url, "train", cache=cache)
        (copy / "train-000001.tar").unlink()
        with pytest.raises(UserError, match=f"{server.url}/train-000001.tar does not exist"):
            open_split(server.url, "train", cache=cache)
        assert open_split(server.url, "train", check_sizes=False, cache=cache)
    finally:
        server.close()


def test_nobody_there(cache):
    with pytest.raises(
        UserError, match=r"127.0.0.1:9/x/manifest.json could not be fetched: .*Cannot connect.*\(3 tries\)"
    ):
        open_set("http://127.0.0.1:9/x", cache)


@pytest.mark.parametrize(
    "url, words",
    [
        ("https://user:secret@host/set", r"https://\*\*\*@host/set holds a password"),
        ("https://token@host/set", r"https://\*\*\*@host/set holds a password"),
        ("https://host/set?token=1", "must be the URL of a folder"),
        ("simplecache::s3://bucket/set", "is not a packed data set"),  # no URL: a folder of that name
        ("s3://bucket/a::b", "must be the URL of a folder"),
        ("https://", "must be the URL of a folder"),
        ("gopher://host/set", "gopher://host/set cannot be opened: .*Protocol not known"),
        ("gs://bucket/set", "gs://bucket/set needs a package that is not installed .*pip install gcsfs"),
    ],
)
def test_urls_that_are_refused(cache, url, words):
    with pytest.raises(UserError, match=words) as raised:
        open_set(url, cache)
    assert "secret" not in str(raised.value)


def test_the_case_of_a_protocol_does_not_matter(server, cache):
    assert str(open_set(server.url.replace("http", "HTTP"), cache).place) == server.url


def test_any_protocol_of_fsspec(shards, cache):
    split = open_split(shards.as_uri(), "train", cache=cache)
    assert hashes(loader(split), 0, 2) == hashes(loader(open_split(shards, "train")), 0, 2)


# S3


@pytest.fixture(scope="module")
def s3():
    """A local S3 with an empty bucket: its server's address, and a file system on it."""
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


def test_a_set_in_s3_gives_the_batches_of_the_folder(s3, shards, cache):
    s3.put(f"{shards}/", "rocks/whole", recursive=True)
    split = open_split("s3://rocks/whole", "train", cache=cache)
    assert hashes(loader(split), 0, 4) == hashes(loader(open_split(shards, "train")), 0, 4)


def test_faults_in_s3_are_named(s3, shards, cache):
    with pytest.raises(UserError, match="s3://rocks/nothing is not a packed data set"):
        open_set("s3://rocks/nothing", cache)
    with pytest.raises(UserError, match="s3://elsewhere/set is not a packed data set"):
        open_set("s3://elsewhere/set", cache)
    s3.put(f"{shards}/", "rocks/damaged", recursive=True)
    s3.rm("rocks/damaged/train-000001.tar")
    with pytest.raises(UserError, match="s3://rocks/damaged/train-000001.tar does not exist"):
        open_split("s3://rocks/damaged", "train", cache=cache)
    shard = (shards / "train-000000.tar").read_bytes()
    s3.pipe("rocks/damaged/train-000001.tar", shard[:5000])
    s3.invalidate_cache()
    with pytest.raises(
        UserError, match="s3://rocks/damaged/train-000001.tar has 5000 bytes, the manifest says"
    ):
        open_split("s3://rocks/damaged", "train", cache=cache)
    with pytest.raises(
        UserError, match=r"s3://rocks/damaged/train-000001.tar could not be fetched: .*\(3 tries\)"
    ):
        open_split("s3://rocks/damaged", "train", check_sizes=False, cache=cache).shards[1].open()


def test_copies_that_were_damaged_later_are_named(server, cache):
    split = open_split(server.url, "train", cache=cache)
    split.shards[0].open().close()
    flip_byte(split.shards[0].copy, -20_000)
    assert {damage.text.rpartition("; ")[2] for damage in find_corrupt_samples(split)} == {
        f"delete its copy {split.shards[0].copy}"
    }
    index = split.place.file(split.set.manifest.splits["train"].index).copy
    flip_byte(index, -1)
    with pytest.raises(
        UserError,
        match=f"is not the index that the manifest names .*; delete its copy {index}, which has been damaged",
    ):
        open_split(server.url, "train", cache=cache)


def flip_byte(path, place):
    content = bytearray(Path(path).read_bytes())
    content[place] ^= 1
    Path(path).write_bytes(content)


# Blocks


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory):
    """A set of 12 training shards with two samples each."""
    root = tmp_path_factory.mktemp("many")
    build(
        write_folder(root / "hr", {"granite": 30}),
        root / "shards",
        BuildOptions(tile=80, crop=32, samples_per_shard=2),
    )
    return root / "shards"


def test_of_a_set_that_exceeds_the_cache_two_blocks_are_there_at_a_time(many_shards, tmp_path):
    server = Server(many_shards)
    try:
        local = open_split(many_shards, "train")
        most = 5 * max(entry.bytes for entry in local.set.manifest.splits["train"].shards)
        cache = Cache(tmp_path / "cache", most)
        split = open_split(server.url, "train", cache=cache)
        source, taken, largest = loader(split, 2, 2), [], 0
        batches = source.batches(5)
        for _ in range(26):
            taken.append(hashlib.sha256(b"".join(x.numpy().tobytes() for x in next(batches))).hexdigest())
            largest = max(largest, bytes_of_copies(cache))
        batches.close()
        assert taken == hashes(loader(local, 2, 2), 5, 26)
        assert largest <= most
        assert len(server.fetches("train-000000.tar")) >= 2  # it went and came back
    finally:
        server.close()


@pytest.mark.parametrize("size, block, most", [(8, 1, 2), (16, 2, 4)])
def test_a_batch_of_several_blocks_needs_no_more_room(many_shards, tmp_path, size, block, most):
    server = Server(many_shards)
    try:
        local = open_split(many_shards, "train")
        shard = max(entry.bytes for entry in local.set.manifest.splits["train"].shards)
        split = open_split(server.url, "train", cache=Cache(tmp_path / "cache", most * shard, room_seconds=2))
        assert hashes(loader(split, size, block), 1, 3) == hashes(loader(local, size, block), 1, 3)
    finally:
        server.close()


def test_a_rank_that_is_ahead_leaves_room_for_the_others(many_shards, tmp_path):
    server = Server(many_shards)
    try:
        manifest = open_set(many_shards).manifest
        most = 8 * max(entry.bytes for entry in manifest.splits["train"].shards)
        cache = Cache(tmp_path / "cache", most, room_seconds=2)
        for first in (3, 7, 11):  # one update before the next block
            one, other = (ranks_loader(open_split(server.url, "train", cache=cache), rank) for rank in (0, 1))
            ahead = one.batches(first)
            next(ahead)
            wait_until_quiet(server)  # as far as it comes while the other has not begun
            behind = other.batches(first)
            for _ in range(8):
                next(behind)
                next(ahead)
            ahead.close(), behind.close()
    finally:
        server.close()


def ranks_loader(split, rank):
    return TrainLoader([(split, 1.0)], 8, 2, 0, "all", rank, 2, CPU, blocks=[4])


def wait_until_quiet(server):
    asked = None
    while asked != (asked := len(server.asked)):
        time.sleep(0.5)


def config_of(url, tmp_path, cache_bytes, **data):
    return tiny_config(
        url,
        tmp_path,
        data={
            "path": url,
            "lr_crop": 8,
            "batch_size": 4,
            "cache": str(tmp_path / "cache"),
            "cache_gib": cache_bytes / GIB,
            **data,
        },
    )


def test_blocks_follow_from_the_room_in_the_cache(many_shards, tmp_path):
    server = Server(many_shards)
    try:
        manifest = open_set(many_shards).manifest
        shard = max(entry.bytes for entry in manifest.splits["train"].shards)
        sizes = {name: sum(entry.bytes for entry in split.shards) for name, split in manifest.splits.items()}
        eval_splits = sizes["valid"] + sizes["test"]
        assert preflight(config_of(server.url, tmp_path, eval_splits + sizes["train"])).blocks == [None]
        assert preflight(config_of(server.url, tmp_path, eval_splits + sizes["train"] - 1)).blocks == [5]
        assert preflight(config_of(server.url, tmp_path, eval_splits + 6 * shard)).blocks == [3]
        assert preflight(config_of(server.url, tmp_path, eval_splits + 6 * shard, block_shards=1)).blocks == [
            1
        ]
        with pytest.raises(
            ConfigError, match="has no room for two blocks of 1 shards of .* at least .* are needed"
        ):
            preflight(config_of(server.url, tmp_path, eval_splits + shard))
        with pytest.raises(
            ConfigError, match="no room for two blocks of 4 shards .* or a smaller data.block_shards"
        ):
            preflight(config_of(server.url, tmp_path, eval_splits + 6 * shard, block_shards=4))
    finally:
        server.close()


# Trainings


def weights_of(trained):
    return [
        value
        for module in (trained.generator, trained.discriminator)
        for value in module.state_dict().values()
    ]


def test_a_training_on_a_url_is_that_on_the_folder_bit_for_bit(server, shards, tmp_path):
    local = train(tiny_config(shards, tmp_path / "local"))
    there = train(config_of(server.url, tmp_path, GIB, augment="all"))
    assert all(torch.equal(a, b) for a, b in zip(weights_of(local), weights_of(there), strict=True))


def test_other_blocks_are_another_training(server, tmp_path):
    config = config_of(server.url, tmp_path, GIB)
    train(config)
    with pytest.raises(
        UserError, match=r"data.block_shards \(data.cache_gib decides where it is null\): None -> \[1\]"
    ):
        preflight(config_of(server.url, tmp_path, GIB, block_shards=1))


def test_a_run_in_blocks_continues_with_a_larger_cache_when_their_size_is_given(many_shards, tmp_path):
    server = Server(many_shards)
    try:
        manifest = open_set(many_shards).manifest
        shard = max(entry.bytes for entry in manifest.splits["train"].shards)
        small = (
            sum(entry.bytes for name in ("valid", "test") for entry in manifest.splits[name].shards)
            + 4 * shard
        )
        train(config_of(server.url, tmp_path, small).model_copy(update={"adversarial": None}))
        with pytest.raises(
            UserError, match=r"data.block_shards \(data.cache_gib decides where it is null\): \[2\] -> None"
        ):
            preflight(config_of(server.url, tmp_path, GIB).model_copy(update={"adversarial": None}))
        larger = config_of(server.url, tmp_path, GIB, block_shards=2).model_copy(update={"adversarial": None})
        assert preflight(larger).blocks == [2] and train(larger).state.global_step == 6
    finally:
        server.close()


def test_several_ranks_need_blocks_that_last(many_shards, tmp_path):
    server = Server(many_shards)
    try:
        with pytest.raises(
            ConfigError,
            match=r"blocks of 5 shards of .* have 10 samples; several ranks .* need 6 updates in each \(24",
        ):
            sizes = {
                name: sum(entry.bytes for entry in split.shards)
                for name, split in open_set(many_shards).manifest.splits.items()
            }
            preflight(config_of(server.url, tmp_path, sum(sizes.values()) - 1), world_size=2)
    finally:
        server.close()


def test_two_ranks_fetch_each_shard_once(server, shards, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config_of(server.url, tmp_path, GIB)))
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "tests/distributed_worker.py",
            "batches",
            str(path),
            str(tmp_path),
        ],
        cwd=REPOSITORY,
        env=os.environ
        | {"ACCELERATE_USE_CPU": "1", "PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads((tmp_path / "rank0.json").read_text())["batches"]) == 5
    for entry in open_set(shards).manifest.splits["train"].shards:
        assert (
            sum(ranges is not None and ranges.startswith("bytes=0-") for ranges in server.fetches(entry.file))
            == 1
        )


def test_ctrl_c_while_a_shard_stalls_ends_the_reading_at_once(server, cache, monkeypatch):
    monkeypatch.setattr(remote, "RETRY_POLICY", RetryPolicy(piece_seconds=60))
    server.faults["train-000000.tar"] = [stall]
    batches = loader(open_split(server.url, "train", cache=cache)).batches(0)
    interrupt = threading.Timer(0.5, _thread.interrupt_main)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    batches.close()
    assert not server.stalls_over.is_set()


def test_ctrl_c_while_sizes_are_asked_for_ends_that_at_once(server, cache, monkeypatch):
    monkeypatch.setattr(remote, "RETRY_POLICY", RetryPolicy(piece_seconds=60))
    answer = server.answer
    server.answer = lambda handler: (
        stall(handler, b"", server) if handler.command == "HEAD" else answer(handler)
    )
    opened = open_set(server.url, cache)
    interrupt = threading.Timer(0.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        opened.split("train")
    assert not server.stalls_over.is_set()
