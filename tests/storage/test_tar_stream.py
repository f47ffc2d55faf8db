"""Tars that are streamed with webdataset from servers and files: whatever is not whole is named."""

import bz2
import contextlib
import gzip
import lzma
import tarfile
import threading
import time

import pytest
from test_remote import Server, send, stall, status, without_ranges
from test_streamed_training import config_of, crops, loader
from webdatasets import sample, write, write_shards

from srgan_dist.data.stream import stream_samples
from srgan_dist.storage import remote
from srgan_dist.storage.remote import RetryPolicy
from srgan_dist.utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of 3, 3, 3, 3 and 2 samples; the last validates."""
    return write_shards(tmp_path_factory.mktemp("set"), counts=(3, 3, 3, 3, 2))


# Servers


@pytest.fixture
def server(folder, monkeypatch):
    policy = RetryPolicy(piece_seconds=1, tries=2, first_pause=0, longest_pause=0)
    monkeypatch.setattr(remote, "RETRY_POLICY", policy)
    server = Server(folder)
    yield server
    server.close()


def without_length(handler, content, server):
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(content)
    handler.close_connection = True


def cut_without_length(handler, content, server):
    without_length(handler, content[: len(content) // 2], server)


def keys(addresses, **options):
    return [sample["__key__"] for sample in stream_samples(list(map(str, addresses)), **options)]


def test_servers_need_neither_ranges_nor_lengths(server, folder, tmp_path):
    config, local = config_of(server.url, tmp_path), config_of(folder, tmp_path)
    for fault in (without_ranges, without_length):
        server.faults |= {f"shards-{number:06d}.tar": [fault] for number in range(5)}
        assert crops(loader(config), 0, 3) == crops(loader(local), 0, 3)


@pytest.mark.parametrize("after", [without_ranges, None])
def test_a_connection_that_is_cut_goes_on_behind_its_last_byte(server, folder, after):
    server.faults["shards-000001.tar"] = [cut_late, after or ranged]
    assert keys([f"{server.url}/shards-000001.tar"]) == keys([folder / "shards-000001.tar"])
    assert len(server.fetches("shards-000001.tar")) == 2


def cut_late(handler, content, server):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    time.sleep(0.3)  # until that has been read
    handler.close_connection = True


def ranged(handler, content, server):
    first = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
    send(handler, content[first:], 206, Content_Range=f"bytes {first}-{len(content) - 1}/{len(content)}")


@pytest.mark.parametrize(
    "fault, words",
    [
        (status(404), "shards-000001.tar does not exist, or may not be read"),
        (status(500), r"shards-000001.tar could not be fetched: 500.* \(2 tries\)$"),
        (stall, "shards-000001.tar could not be fetched: no complete answer within 1 s"),
        (cut_without_length, "shards-000001.tar is cut short: it ends at byte"),
    ],
)
def test_what_a_server_does_not_give_is_named(server, fault, words):
    server.faults["shards-000001.tar"] = [fault]
    with pytest.raises(UserError, match=words):
        keys([f"{server.url}/shards-{number:06d}.tar" for number in (0, 1)])


def test_a_stream_in_memory_of_fsspec_is_read(folder):
    import fsspec

    fsspec.filesystem("memory").pipe("/streamed/0.tar", (folder / "shards-000000.tar").read_bytes())
    assert keys(["memory://streamed/0.tar"]) == ["0000", "0001", "0002"]


def test_an_error_in_a_stream_ends_the_training(folder, tmp_path, server):
    config = config_of(server.url, tmp_path)
    source = loader(config)
    server.faults["shards-000002.tar"] = [status(403)]
    with pytest.raises(UserError, match="shards-000002.tar could not be fetched: 403"):
        crops(source, 0, 20)
    assert not [thread for thread in threading.enumerate() if thread.name == "stream-shards"]


# Damage


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tars_are_streamed(folder, tmp_path, compress):
    content = compress((folder / "shards-000000.tar").read_bytes())
    (tmp_path / "0.tar.x").write_bytes(content)
    assert keys([tmp_path / "0.tar.x"]) == ["0000", "0001", "0002"]
    (tmp_path / "0.tar.x").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="0.tar.x .*copy it again"):
        keys([tmp_path / "0.tar.x"])


def members_of(path):
    with tarfile.open(path) as tar:
        return tar.getmembers()


@pytest.mark.parametrize("damage", ["content", "header", "between", "samples", "zeroed", "overwritten"])
def test_damage_that_tarfile_passes_over_in_silence_is_named(folder, tmp_path, damage):
    content = bytearray((folder / "shards-000000.tar").read_bytes())
    member = members_of(folder / "shards-000000.tar")[6]
    if damage in ("content", "header", "between", "samples"):
        sample_end = members_of(folder / "shards-000000.tar")[4].offset
        at = {"content": member.offset_data + 10, "header": member.offset + 99, "between": member.offset}
        del content[at.get(damage, sample_end) :]
    elif damage == "zeroed":
        content[member.offset : member.offset + 512] = bytes(512)
    else:
        content[member.offset : member.offset + 512] = b"x" * 512
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"0\.tar (is cut short|has something other|is damaged at byte)"):
        keys([tmp_path / "0.tar"])


def test_zeros_without_end_behind_a_tar_are_named(server, folder):
    def endless(handler, content, server):
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(content)
            while not server.closing.is_set():
                handler.wfile.write(bytes(2**20))
        handler.close_connection = True

    server.faults["shards-000001.tar"] = [endless]
    with pytest.raises(UserError, match="shards-000001.tar goes on with zeros behind its end at byte"):
        keys([f"{server.url}/shards-000001.tar"])


def test_a_member_that_is_larger_than_any_image_is_refused_before_it_is_read(tmp_path):
    member = tarfile.TarInfo("0.hr.npy")
    member.size = 3 * 2**30
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(member.tobuf() + bytes(2**20)))
    with pytest.raises(UserError, match="the member '0.hr.npy', which is of 3,221,225,472 bytes"):
        keys([tmp_path / "0.tar.gz"])


def test_what_is_no_tar_of_pairs_is_named(folder, tmp_path):
    (tmp_path / "0.tar").write_bytes(b"<html>" * 1000)
    with pytest.raises(UserError, match="0.tar is no tar file"):
        keys([tmp_path / "0.tar"])
    with tarfile.open(tmp_path / "0.tar", "w"):
        pass
    with pytest.raises(UserError, match="0.tar holds no file"):
        keys([tmp_path / "0.tar"])
    with pytest.raises(UserError, match="1.tar does not exist"):
        keys([tmp_path / "1.tar"])
    write(tmp_path / "2.tar", [sample(1)])
    with tarfile.open(tmp_path / "2.tar", "a") as tar:
        tar.addfile(members_of(tmp_path / "2.tar")[0])
    with pytest.raises(UserError, match="2.tar cannot be read as a WebDataset.*duplicate file name"):
        keys([tmp_path / "2.tar"])
