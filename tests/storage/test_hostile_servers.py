"""Servers that fail for good, or send what nobody asked for."""

import contextlib
import gzip

import pytest
from test_remote import (  # noqa: F401
    SHARD,
    cache,
    flipped,
    hasty,
    login_page,
    send,
    server,
    short,
    stall,
    status,
)

from srgan_dist.data.split import open_split
from srgan_dist.utils.errors import UserError


def compressed(handler, content, server):  # noqa: F811
    send(handler, gzip.compress(bytes(2**24)), Content_Encoding="gzip")


def endless(handler, content, server):  # noqa: F811
    """Send for as long as anybody reads."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not server.closing.is_set():
            handler.wfile.write(bytes(2**20))
    server.stalls_over.set()
    handler.close_connection = True


def elsewhere(place):
    return lambda handler, content, server: send(handler, b"", 302, Location=place)  # noqa: F811


@pytest.mark.parametrize(
    "fault, words",
    [
        (endless, r"sends more than the [0-9,]+ bytes it can have"),
        (compressed, r"is sent compressed \(gzip\)"),
        (elsewhere("file:///etc/passwd"), "could not be fetched: .*file:///etc/passwd"),
        (elsewhere("http://user:secret@127.0.0.1:1/x?sig=secret"), r"could not be fetched: (?!.*secret)"),
        (elsewhere(f"/set/{SHARD}"), "could not be fetched: "),  # in a circle
        (status(500), r"could not be fetched: 500, message=.* \(2 tries\). Complete pieces are kept"),
        (status(403), r"could not be fetched: 403, message='Forbidden'.*'\. Complete pieces"),
        (status(404), "does not exist, or may not be read without credentials"),
        (stall, r"could not be fetched: no complete answer within 1 s \(2 tries\)"),
        (short, r"could not be fetched: bytes 0 to 20,000 were requested, 10,000 received \(2 tries\)"),
        (flipped, "has not the content that the manifest names"),
        (login_page, r"could not be fetched: bytes 0 to 20,000 were requested, 36 received"),
    ],
)
def test_a_shard_that_no_server_should_send_is_named(server, cache, fault, words):  # noqa: F811
    server.faults[SHARD] = [fault]
    split = open_split(server.url, "train", cache=cache)
    with pytest.raises(UserError, match=f"{server.url}/{SHARD} {words}"):
        split.shards[0].open()
    assert not cache.holds(split.shards[0].entry.sha256)


@pytest.mark.parametrize(
    "name, fault, words",
    [
        ("manifest.json", endless, "manifest.json (sends more than|could not be fetched: .*within 1 s)"),
        ("manifest.json", compressed, "manifest.json is sent compressed"),
        ("train.index.npy", endless, "train.index.npy sends more than"),
    ],
)
def test_a_set_that_no_server_should_send_is_named(server, cache, name, fault, words):  # noqa: F811
    server.faults[name] = [fault]
    with pytest.raises(UserError, match=words):
        open_split(server.url, "train", cache=cache)
