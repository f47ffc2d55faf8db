"""Sets that lie elsewhere: files below a URL, fetched whole and verified into the cache (`cache.py`) through fsspec.

A file comes in pieces, each of which has to come in time: that is connection timeout, stall and least speed in one
rule, whatever the protocol. What has come stays for the next try, also of another process.
"""

import contextlib
import os
import queue
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

from srgan_dist.storage.cache import Cache, Stopped
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of

MANIFEST_BYTES = 2**26  # the largest manifest that is read: about a million shards
CONNECTIONS = 8  # when the sizes of files are asked for
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
    """When a try is given up, and when all are."""

    piece_bytes: int = 2**23
    piece_seconds: float = 60  # for a piece: so 140 kB/s is the least speed
    tries: int = 6  # for one piece
    first_pause: float = 1  # seconds; doubles from try to try
    longest_pause: float = 30


RETRY_POLICY = RetryPolicy()


def is_url(address):
    """Tell a URL from the path of a folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(address)) is not None


class Remote:
    """The files of a set below a URL of any protocol that fsspec knows, and their copies in a cache.

    Raises UserError when the URL cannot be one of a set, or its protocol is not there.
    """

    def __init__(self, url, cache: Cache):
        self.url, self.cache, self.retry_policy = _checked_url(url), cache, RETRY_POLICY

    def __str__(self):
        return self.url

    @cached_property
    def _place(self):
        """Return the file system and the path of the set in it."""
        import fsspec  # takes long, and few sets are remote

        protocol = self.url.partition(":")[0]
        # Behind a proxy, and with bytes that are those of the file
        options = {"client_kwargs": {"trust_env": True}, "headers": {"Accept-Encoding": "identity"}}
        try:
            return fsspec.core.url_to_fs(self.url, **(options if protocol in ("http", "https") else {}))
        except ImportError as error:
            package = PACKAGES.get(protocol)
            raise UserError(
                f"{self.url} needs a package that is not installed ({error})"
                + (f"; pip install {package}" if package else "")
            ) from None
        except Exception as error:  # whatever the protocol's own code makes of settings and credentials
            raise UserError(f"{self.url} cannot be opened: {_cause(error)}") from None

    def manifest(self):
        """Return the bytes of manifest.json; raises MissingFile (a FileNotFoundError too) where there is none."""
        return self._persistently("manifest.json", lambda: self._bytes("manifest.json", 0, MANIFEST_BYTES))

    def file(self, entry):
        """Return a file of the set, given its FileEntry."""
        return RemoteFile(self, entry)

    def check_files(self, entries):
        """Raise UserError if one of the files is missing or has another size than the manifest says."""
        stop = threading.Event()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            try:
                for _ in pool.map(lambda entry: self.file(entry).check_size(stop), entries):
                    pass
            finally:
                stop.set()  # the first failure, or Ctrl-C, waits for no other file

    def size(self, name, stop=None):
        """Return the size of a file in bytes, None if the server does not tell; `stop` ends that with Stopped."""
        system, path = self._place

        def ask():
            return _within(self.retry_policy.piece_seconds, lambda: system.info(f"{path}/{name}"), stop)

        return self._persistently(name, ask, stop).get("size")

    def fetch(self, entry, part, stop):
        """Bring the file `part`, which may hold its beginning, to the bytes that a FileEntry promises."""
        for last_try in (False, True):
            with open(part, "ab") as file:
                while (start := file.tell()) < entry.bytes:
                    file.write(self._persistently(entry.file, lambda: self._piece(entry, start, stop), stop))
                    file.flush()
            if os.path.getsize(part) == entry.bytes and sha256_of(part) == entry.sha256:
                return
            os.truncate(
                part, 0
            )  # the file was replaced while it was fetched, or what an earlier run left is damaged
            if last_try:
                raise UserError(
                    f"{self.url}/{entry.file} has not the content that the manifest names (sha256 differs from"
                    f" {entry.sha256}); copy the set there again"
                )

    def _piece(self, entry, start, stop):
        """Return bytes of a file from `start` on: a piece, its rest, or all that is left."""
        end = min(start + self.retry_policy.piece_bytes, entry.bytes)
        data = self._bytes(entry.file, start, end, stop)
        if len(data) == entry.bytes and len(data) != end - start:  # a server that always sends the whole file
            return data[start:]
        if len(data) != end - start:
            raise OSError(f"bytes {start:,} to {end:,} were asked for, {len(data):,} came")
        return data

    def _bytes(self, name, start, end, stop=None):
        system, path = self._place
        return _within(
            self.retry_policy.piece_seconds,
            lambda: system.cat_file(f"{path}/{name}", start=start, end=end),
            stop,
        )

    def _persistently(self, name, action, stop=None):
        """Repeat what may pass; raises UserError when it does not, Stopped when nobody waits for it any more."""
        failed = 0
        while True:
            try:
                return action()
            except (UserError, Stopped):
                raise
            except Exception as error:  # every protocol raises kinds of its own
                error = _root_of(error)
                if isinstance(error, FileNotFoundError) or getattr(error, "status", None) in (404, 410):
                    raise MissingFile(
                        f"{self.url}/{name} does not exist, or may not be read without credentials"
                    ) from None
                failed += 1
                if _is_final(error) or failed == self.retry_policy.tries:
                    tries = f" ({failed} tries)" if failed > 1 else ""
                    raise UserError(
                        f"{self.url}/{name} could not be fetched: {_cause(error)}{tries}. What has come is"
                        " kept: the same command goes on from there"
                    ) from None
                pause = min(
                    self.retry_policy.longest_pause, self.retry_policy.first_pause * 2 ** (failed - 1)
                )
                print(
                    f"{self.url}/{name}: {_cause(error)}; trying again in {pause:g} s",
                    file=sys.stderr,
                    flush=True,
                )
                if (stop or threading.Event()).wait(pause):
                    raise Stopped from None


class MissingFile(UserError, FileNotFoundError):
    """A file that a set should have is not there."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote set, opened as its copy in the cache."""

    remote: Remote
    entry: object  # index.FileEntry

    @property
    def cached_bytes(self):
        """How many bytes the copy takes in the cache."""
        return self.entry.bytes

    @property
    def copy(self):
        """Where the copy lies, if there is one."""
        return self.remote.cache.folder / self.entry.sha256

    def open(self, mode="rb", stop=None):
        """Return the verified copy as an open file, fetched if need be; `stop` ends that with Stopped."""
        return self.remote.cache.open(
            self.entry.sha256, self.entry.bytes, partial(self.remote.fetch, self.entry), stop
        )

    def check_size(self, stop=None):
        """Raise UserError if the file is missing or has another size than the manifest says; a copy was checked already."""
        if self.remote.cache.holds(self.entry.sha256):
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
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    if at and (":" in user or scheme.lower() in ("http", "https")):  # also a token may stand there
        raise UserError(
            f"the URL {scheme}://***@{host}{slash}{path} holds a password, which would end up in records;"
            " remove it and put it where the protocol looks for it, e.g. ~/.netrc or ~/.aws/credentials"
        )
    if not rest or "::" in re.sub(r"//\[[0-9A-Fa-f:.]*\]", "", url) or set(url) & set("?#"):
        raise UserError(
            f"{url} must be the URL of a folder, e.g. https://host/folder or s3://bucket/folder, without"
            " ?, # and ::"
        )
    return f"{scheme.lower()}://{rest}"


def _root_of(error):
    """Return the answer of a server behind an error that does not tell it: fsspec calls more than 404 not found."""
    return error.__cause__ if isinstance(getattr(error.__cause__, "status", None), int) else error


def _is_final(error):
    """Tell whether asking again would bring the same answer."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 < status < 500 and status not in (
            408,
            425,
            429,
        )  # 400: also an answer that the client cannot read
    return (
        isinstance(error, (PermissionError, ImportError, NotImplementedError))
        or "Credentials" in type(error).__name__
    )


def _cause(error):
    text = " ".join(str(error).split())
    return text if len(text) > 3 and " " in text else f"{type(error).__name__} {text}".strip()


def _within(seconds, action, stop=None):
    """Return what action() returns, or raise TimeoutError: it runs in a thread that is left behind if it takes longer."""
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
        raise Stopped
    raise TimeoutError(f"nothing, or too little, came in {seconds:g} s")
