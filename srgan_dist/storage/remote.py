"""Remote sets: the files below a URL, fetched through fsspec into verified copies in the cache (`cache.py`).

A file is fetched in pieces with a time limit each: one rule for connection timeout, stall and least speed,
whatever the protocol. Complete pieces are kept for the next try, also of another process. Of an answer of a
web server no more is read than the file can have.
"""

import contextlib
import os
import queue
import re
import secrets
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

from srgan_dist.storage.cache import Cache, Cancelled
from srgan_dist.utils.errors import UserError, masked
from srgan_dist.utils.files import open_regular, sha256_of

CONNECTIONS = 8  # that ask for the sizes of files
WEB = "http", "https"
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "sftp": "paramiko",
}


@dataclass(frozen=True)
class RetryPolicy:
    """When a request fails, and how often it is tried."""

    piece_bytes: int = 2**23
    piece_seconds: float = 60  # time limit of a piece: the least speed is 140 kB/s
    tries: int = 6  # of one piece
    first_pause: float = 1  # seconds; doubles from try to try
    longest_pause: float = 30

    def pause(self, failures):
        """Return the seconds to wait after a number of failures in a row."""
        return min(self.longest_pause, self.first_pause * 2 ** (failures - 1))


RETRY_POLICY = RetryPolicy()


def is_url(address):
    """Return whether an address is a URL, not the path of a folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(address)) is not None


class Remote:
    """The files of a set below a URL of any protocol that fsspec knows, and their copies in a cache.

    Raises UserError for a URL that is not one of a folder, or that has a password.
    """

    def __init__(self, url, cache: Cache):
        self.url, self.cache, self.retry_policy = _checked_url(url), cache, RETRY_POLICY

    def __str__(self):
        return self.url

    @cached_property
    def _location(self):
        """Return the file system and the path of the set in it."""
        import fsspec  # slow, and few sets are remote

        protocol = self.url.partition(":")[0]
        # Through a proxy, and without compression, which would change sizes
        client = {"trust_env": True, "auto_decompress": False}
        options = {"client_kwargs": client, "headers": {"Accept-Encoding": "identity"}}
        try:
            return fsspec.core.url_to_fs(self.url, **(options if protocol in WEB else {}))
        except ImportError as error:
            package = PACKAGES.get(protocol)
            raise UserError(
                f"{self.url} needs a package that is not installed ({error})"
                + (f"; pip install {package}" if package else "")
            ) from None
        except Exception as error:  # every protocol raises its own for settings and credentials
            raise UserError(f"{self.url} cannot be opened: {_cause(error)}") from None

    def manifest(self, most):
        """Return the bytes of manifest.json, at most `most`; raises MissingFile (a FileNotFoundError too)
        without one.
        """
        return self._retried("manifest.json", lambda: self._bytes("manifest.json", 0, most, most))

    def file(self, entry):
        """Return a file of the set, given its FileEntry."""
        return RemoteFile(self, entry)

    def check_files(self, entries, again=None):
        """Raise UserError if one of the files is missing or has another size than the manifest says."""
        stop = threading.Event()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            try:
                for _ in pool.map(lambda entry: self.file(entry).check_size(stop), entries):
                    pass
            finally:
                stop.set()  # on the first failure, or Ctrl-C, requests for other files are cancelled

    def size(self, name, stop=None):
        """Return the size of a file in bytes, None if the server does not give one; `stop` cancels."""
        system, path = self._location

        def ask():
            return _within(self.retry_policy.piece_seconds, lambda: system.info(f"{path}/{name}"), stop)

        return self._retried(name, ask, stop).get("size")

    def fetch(self, entry, part, stop):
        """Complete the file `part`, which may hold a beginning, to the content that a FileEntry names."""
        for last_try in (False, True):
            self._complete(entry, part, stop)
            if os.path.getsize(part) == entry.bytes and sha256_of(part) == entry.sha256:
                return
            os.truncate(part, 0)  # the file was replaced while it was fetched, or the part is corrupt
            if last_try:
                raise UserError(
                    f"{self.url}/{entry.file} has not the content that the manifest names (sha256 differs"
                    f" from {entry.sha256}); copy the set there again"
                )

    def download(self, name):
        """Return a copy, in the cache, of a file of which no manifest tells size and content: open, for the
        caller to rename or remove.
        """
        size = self.size(name)
        if size is None:
            raise UserError(f"{self.url}/{name}: the server does not tell its size; fetch it by other means")
        entry = FileOfSize(name, size)
        return self.cache.open(
            f"{secrets.token_hex(32)}index", size, partial(self._complete, entry), is_intact=lambda _: True
        )

    def _complete(self, entry, part, stop):
        with open_regular(part, "ab", own=True) as file:
            while (start := file.tell()) < entry.bytes:
                file.write(self._retried(entry.file, partial(self._piece, entry, start, stop), stop))
                file.flush()

    def _piece(self, entry, start, stop):
        """Return the bytes of a file from `start` on: one piece, or all where the server has no ranges."""
        end = min(start + self.retry_policy.piece_bytes, entry.bytes)
        data = self._bytes(entry.file, start, end, entry.bytes, stop)
        if len(data) == entry.bytes != end - start:  # a server without ranges sends the whole file
            return data[start:]
        if len(data) != end - start:
            raise OSError(f"bytes {start:,} to {end:,} were requested, {len(data):,} received")
        return data

    def _bytes(self, name, start, end, most, stop=None):
        """Return the bytes of a file from `start` to `end`, or all, at most `most`, from a server without
        ranges.
        """
        (system, path), seconds = self._location, self.retry_policy.piece_seconds

        def fetch():
            if self.url.partition(":")[0] not in WEB:
                return system.cat_file(f"{path}/{name}", start=start, end=end)
            from fsspec.asyn import sync

            return sync(system.loop, _body, system, f"{path}/{name}", start, end, most, timeout=seconds)

        return _within(seconds, fetch, stop)

    def _retried(self, name, action, stop=None):
        """Return action(), tried again after errors that may be temporary.

        Raises UserError after the last try and Cancelled when `stop` is set.
        """
        failures = 0
        while True:
            try:
                return action()
            except (UserError, Cancelled):
                raise
            except Exception as error:  # every protocol raises its own
                error = _server_error(error)
                if isinstance(error, FileNotFoundError) or getattr(error, "status", None) in (404, 410):
                    raise MissingFile(
                        f"{self.url}/{name} does not exist, or may not be read without credentials"
                    ) from None
                failures += 1
                if _is_final(error) or failures == self.retry_policy.tries:
                    tries = f" ({failures} tries)" if failures > 1 else ""
                    raise UserError(
                        f"{self.url}/{name} could not be fetched: {_cause(error)}{tries}. Complete pieces are"
                        " kept: the same command resumes after them"
                    ) from None
                pause = self.retry_policy.pause(failures)
                line = f"{self.url}/{name}: {_cause(error)}; trying again in {pause:g} s"
                print(line, file=sys.stderr, flush=True)
                if (stop or threading.Event()).wait(pause):
                    raise Cancelled from None


class FileOfSize(NamedTuple):
    """A remote file before it is known."""

    file: str
    bytes: int


class MissingFile(UserError, FileNotFoundError):
    """A file of a set does not exist."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote set, opened as its copy in the cache."""

    remote: Remote
    entry: object  # index.FileEntry

    @property
    def cached_bytes(self):
        """Bytes that the copy takes in the cache."""
        return self.entry.bytes

    def open(self, mode="rb", stop=None):
        """Return the verified copy as an open file, fetched if need be; `stop` cancels that."""
        return self.remote.cache.open(
            self.entry.sha256, self.entry.bytes, partial(self.remote.fetch, self.entry), stop
        )

    def check_size(self, stop=None):
        """Raise UserError if the file is missing or has another size than the manifest says."""
        if self.remote.cache.holds(self.entry.sha256):  # a copy is verified
            return
        size = self.remote.size(self.entry.file, stop)
        if size not in (None, self.entry.bytes):
            raise UserError(
                f"{self} has {size} bytes, the manifest says {self.entry.bytes}; copy the set there again"
            )

    def __str__(self):
        return f"{self.remote}/{self.entry.file}"


def _checked_url(url):
    url = str(url).rstrip("/")
    scheme, _, rest = url.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and (":" in user or scheme.lower() in ("http", "https")):  # a user without password may be a token
        raise UserError(
            f"the URL {url} holds a password, which would be stored with the run; remove it and put it where"
            " the protocol looks for it, e.g. ~/.netrc or ~/.aws/credentials"
        )
    if not rest or "::" in re.sub(r"//\[[0-9A-Fa-f:.]*\]", "", url) or set(url) & set("?#"):
        raise UserError(
            f"{url} must be the URL of a folder, e.g. https://host/folder or s3://bucket/folder, without"
            " ?, # and ::"
        )
    return f"{scheme.lower()}://{rest}"


async def _body(system, url, start, end, most):
    """Return the body of an answer of a web server; raises UserError for one of more than `most` bytes as
    soon as they are there, and for a compressed one, which could become any size.
    """
    session, options = await system.set_session(), dict(system.kwargs)
    headers = {**options.pop("headers", {}), "Range": f"bytes={start}-{end - 1}"}
    async with session.get(system.encode_url(url), headers=headers, **options) as answer:
        if answer.status == 404:
            raise FileNotFoundError(url)
        answer.raise_for_status()
        encoding, body = answer.headers.get("Content-Encoding", "identity"), bytearray()
        if encoding != "identity":
            raise UserError(f"{url} is sent compressed ({encoding}); let the server send files as they are")
        async for piece in answer.content.iter_chunked(2**18):
            body += piece
            if len(body) > most:
                raise UserError(f"{url} sends more than the {most:,} bytes it can have; copy the set again")
    return bytes(body)


def _server_error(error):
    """Return the error with the server's status: fsspec hides it, e.g. FileNotFoundError for 403."""
    return error.__cause__ if isinstance(getattr(error.__cause__, "status", None), int) else error


def _is_final(error):
    """Return whether another try would give the same error."""
    status = getattr(error, "status", None)
    if isinstance(status, int):  # 400: aiohttp's, too, for an answer that it cannot parse
        return 400 < status < 500 and status not in (408, 425, 429)
    return (
        isinstance(error, (PermissionError, ImportError, NotImplementedError))
        or "Credentials" in type(error).__name__
    )


def _cause(error):
    text = masked(" ".join(str(error).split()))
    return text if len(text) > 3 and " " in text else f"{type(error).__name__} {text}".strip()


def _within(seconds, action, stop=None):
    """Return action() or raise TimeoutError; it runs in a thread, which is abandoned if it takes longer."""
    answers = queue.SimpleQueue()

    def run():
        try:
            answers.put((action(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, name="fetch", daemon=True).start()
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not (stop and stop.is_set()):
        with contextlib.suppress(queue.Empty):
            result, error = answers.get(timeout=min(left, 0.5))
            if error is not None:
                raise error
            return result
    if stop and stop.is_set():
        raise Cancelled
    raise TimeoutError(f"no complete answer within {seconds:g} s")
