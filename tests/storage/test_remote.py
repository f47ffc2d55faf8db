"""Remote sets: a loopback web server with faults, and a local S3."""

import _thread
import hashlib
import os
import re
import shutil
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set, open_split
from srgan_dist.integrity.find_corruption import find_corrupt_samples
from srgan_dist.storage import remote
from srgan_dist.storage.cache import GIB, Cache, Cancelled
from srgan_dist.storage.remote import RetryPolicy
from srgan_dist.utils.errors import UserError

SHARD = "train-000000.tar"


class Server:
    """Serves a folder, with byte ranges; `faults` maps a name to the answers of its next GET requests."""

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
        self.closing, self.stalls_over = threading.Event(), threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads, self.http.handle_error = True, lambda *args: None
        self.url = f"http://127.0.0.1:{self.http.server_port}/set"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def answer(self, handler):
        name, fault = handler.path.rpartition("/")[2], None
        if handler.command == "GET":
            self.asked.append((name, handler.headers.get("Range")))
            faults = self.faults.get(name, [])
            fault = faults.pop(0) if len(faults) > 1 else faults[0] if faults else None
        path = self.folder / name
        (fault or fine)(handler, path.read_bytes() if path.is_file() else None, self)

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


def fine(handler, content, server, change=lambda content: content):
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
    fine(handler, content, server, lambda part: part[: len(part) // 2])


def flipped(handler, content, server):
    fine(handler, content, server, lambda part: bytes([part[0] ^ 1]) + part[1:])


def without_ranges(handler, content, server):
    send(handler, content)


def login_page(handler, content, server):
    send(handler, b"<!DOCTYPE html><title>Log in</title>")


def garbled(handler, content, server):
    handler.wfile.write(b"no HTTP\r\n\r\n")
    handler.close_connection = True


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    policy = RetryPolicy(piece_bytes=20_000, piece_seconds=1, tries=2, first_pause=0, longest_pause=0)
    monkeypatch.setattr(remote, "RETRY_POLICY", policy)


@pytest.fixture
def server(shards):
    server = Server(shards)
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", GIB)


def sha256_of_shards(split):
    digests = []
    for shard in split.shards:
        with shard.open("rb") as file:
            digests.append(hashlib.sha256(file.read()).hexdigest())
    return digests


# Fetching


def test_each_file_is_fetched_once_in_pieces_and_its_copy_has_the_name_of_its_content(server, cache, shards):
    split = open_split(server.url, "train", cache=cache)
    entries = [split.set.manifest.splits["train"].index, *split.set.manifest.splits["train"].shards]
    assert sha256_of_shards(split) == [entry.sha256 for entry in entries[1:]]
    assert sorted(path.name for path in cache.folder.iterdir()) == sorted(entry.sha256 for entry in entries)
    for entry in entries:
        starts = [int(ranges[6:].partition("-")[0]) for ranges in server.fetches(entry.file)]
        assert starts == list(range(0, (shards / entry.file).stat().st_size, 20_000))
    fetched = len(server.asked)
    sha256_of_shards(open_split(server.url, "train", cache=cache))
    assert [name for name, _ in server.asked[fetched:]] == ["manifest.json"]


@pytest.mark.parametrize("protocol", ["without ranges", "upper case", "file"])
def test_any_server_and_any_protocol_of_fsspec_gives_the_files(server, cache, shards, protocol):
    if protocol == "without ranges":
        server.faults = {name: [without_ranges] for name in os.listdir(shards)}
    url = shards.as_uri() if protocol == "file" else server.url
    split = open_split(url.replace("http", "HTTP") if protocol == "upper case" else url, "train", cache=cache)
    assert sha256_of_shards(split) == sha256_of_shards(open_split(shards, "train"))
    assert str(split.set.place) == url


@pytest.mark.parametrize("fault", [status(503), status(429), cut, stall, short, garbled])
def test_temporary_errors_are_tried_again_and_complete_pieces_are_kept(server, cache, shards, fault, capfd):
    server.faults[SHARD] = [fine, fault, fine, fault, fine]
    split = open_split(server.url, "train", cache=cache)
    with split.shards[0].open() as file:
        assert file.read() == (shards / SHARD).read_bytes()
    starts = [ranges.partition("-")[0] for ranges in server.fetches(SHARD)]
    assert starts.count("bytes=0") == 1 and starts.count("bytes=20000") == 2
    assert f"{server.url}/{SHARD}: " in capfd.readouterr().err


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


def test_missing_and_cut_shards_are_found_before_the_training(server, shards, tmp_path, cache):
    server.folder = copy = shutil.copytree(shards, tmp_path / "copy")
    os.truncate(copy / SHARD, 1000)
    with pytest.raises(UserError, match=f"{server.url}/{SHARD} has 1000 bytes, the manifest says"):
        open_split(server.url, "train", cache=cache)
    (copy / SHARD).unlink()
    with pytest.raises(UserError, match=f"{server.url}/{SHARD} does not exist"):
        open_split(server.url, "train", cache=cache)
    assert open_split(server.url, "train", check_sizes=False, cache=cache)


def test_an_address_where_no_server_is(cache):
    words = r"127.0.0.1:9/x/manifest.json could not be fetched: .*Cannot connect.*\(2 tries\)"
    with pytest.raises(UserError, match=words):
        open_set("http://127.0.0.1:9/x", cache)


@pytest.mark.parametrize(
    "url, words",
    [
        ("https://user:secret@host/set", r"https://\*\*\*@host/set holds a password"),
        ("https://secret@host/set", r"https://\*\*\*@host/set holds a password"),
        ("https:/user:secret@host/set", r"https:/\*\*\*@host/set must be the URL of a folder"),
        ("s3:/key:sec/ret@bucket/set", r"s3:/\*\*\*@bucket/set must be the URL of a folder"),
        ("https://host/set?token=secret", r"https://host/set\?\*\*\* must be the URL of a folder"),
        ("https://host/set#secret", r"https://host/set#\*\*\* must be the URL of a folder"),
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
    assert "sec" not in str(raised.value)


def test_copies_that_were_changed_are_fetched_again(server, cache, shards, caplog):
    split = open_split(server.url, "train", cache=cache)
    expected = [image.tolist() for image in Reader(split).image(0)]
    for entry in (split.shards[0].entry, split.set.manifest.splits["train"].index):
        flip_byte(cache.folder / entry.sha256, -1000)
    split = open_split(server.url, "train", cache=cache)
    assert [image.tolist() for image in Reader(split).image(0)] == expected
    assert caplog.text.count("was changed after it was made, and is made again") == 2
    assert not find_corrupt_samples(split)


def flip_byte(path, position):
    content = bytearray(Path(path).read_bytes())
    content[position] ^= 1
    Path(path).write_bytes(content)


# Cancelling


def test_a_request_is_cancelled_while_a_shard_stalls(server, cache, monkeypatch):
    monkeypatch.setattr(remote, "RETRY_POLICY", RetryPolicy(piece_seconds=60))
    server.faults[SHARD] = [stall]
    split, stop = open_split(server.url, "train", cache=cache), threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Cancelled):
        split.shards[0].open(stop=stop)
    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        split.shards[0].open()
    assert not server.stalls_over.is_set()


def test_ctrl_c_while_sizes_are_requested_ends_that_at_once(server, cache, monkeypatch):
    monkeypatch.setattr(remote, "RETRY_POLICY", RetryPolicy(piece_seconds=60))
    answer = server.answer
    server.answer = lambda handler: (
        stall(handler, b"", server) if handler.command == "HEAD" else answer(handler)
    )
    opened = open_set(server.url, cache)
    threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        opened.split("train")
    assert not server.stalls_over.is_set()
