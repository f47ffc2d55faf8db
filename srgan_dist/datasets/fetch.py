"""Resumable download of a zip archive over HTTP to PATH; PATH.json describes the file of the server."""

import contextlib
import html
import http.client
import json
import re
import socket
import string
import time
import zipfile
from dataclasses import dataclass
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from srgan_dist.utils.files import atomic_write, open_regular, read_regular, unwritable_named
from srgan_dist.utils.progress import Progress

MOST_BYTES = 100_000_000_000  # of an archive: far more than any honest copy has
_MIB = 2**20
_HANDLERS = (
    request.ProxyHandler,
    request.UnknownHandler,
    request.HTTPHandler,
    request.HTTPSHandler,
    request.HTTPDefaultErrorHandler,
    request.HTTPRedirectHandler,
    request.HTTPErrorProcessor,
)


@dataclass(frozen=True)
class Source:
    """An address of the archive; with `is_link` one of JSON whose `data` is a link for one request."""

    address: str
    is_link: bool = False


class Part(BaseModel):
    """PATH.json; bytes is None where the server does not give the length of the file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: str
    etag: str | None = None
    last_modified: str | None = None
    bytes: int | None = None


class Failed(Exception):
    """A failed request; final: another try would fail, too; restart: the file must be fetched again."""

    def __init__(self, text, final=False, restart=False):
        super().__init__(text)
        self.final, self.restart = final, restart


def fetch(source, path, policy, say):
    """Download the archive to `path`, or the rest of it; returns its Part.

    Raises Failed after a final failure, or after `policy.tries` tries of less than `policy.piece_bytes` each.
    """
    failures = 0
    while True:
        before = _size(path)
        try:
            part = _receive(source, path, policy.piece_seconds)
            if zipfile.is_zipfile(path):
                return part
            text = f"{_size(path):,} bytes were received, which are no complete zip archive"
            raise Failed(text, final=True, restart=True)
        except Failed as failure:
            if failure.restart:
                path.unlink(missing_ok=True)
            failures = 1 if _size(path) - before >= policy.piece_bytes else failures + 1
            if failure.final or failures == policy.tries:
                raise
            pause = policy.pause(failures)
            say(f"{source.address}: {failure}; trying again in {pause:g} s")
            time.sleep(pause)


def read_part(path):
    """Return the Part of an archive that was begun at `path`, or None."""
    try:
        return Part.model_validate_json(read_regular(path.with_name(f"{path.name}.json")))
    except (FileNotFoundError, ValidationError):
        return None


def _receive(source, path, timeout):
    """Append the rest of the archive to `path`; raises Failed when that is cut short."""
    part, have = read_part(path), _size(path)
    if part and have == part.bytes:  # a run was interrupted while it unpacked
        return part
    headers = {}
    if have and part and part.bytes and part.url == source.address:
        headers["Range"] = f"bytes={have}-"
        if condition := part.last_modified or part.etag:
            headers["If-Range"] = condition
    url = _linked(source.address, timeout) if source.is_link else source.address
    with _opened(url, timeout, headers) as answer:
        beginning = b""
        if answer.status == 206:
            _check_rest(answer, part, have)
        else:
            etag, modified = answer.headers["ETag"], answer.headers["Last-Modified"]
            part = Part(url=source.address, etag=etag, last_modified=modified, bytes=answer.length)
            beginning, have = _beginning(answer), 0
        with unwritable_named(path), open_regular(path, "ab" if have else "wb") as file:
            if not have:
                with atomic_write(path.with_name(f"{path.name}.json")) as unfinished:
                    unfinished.write_text(part.model_dump_json())
            file.write(beginning)
            _copy(answer, file, part.bytes)
    if part.bytes not in (None, _size(path)):
        raise Failed(f"{_size(path):,} of {part.bytes:,} bytes were received (Content-Length)")
    return part


def _check_rest(answer, part, have):
    """Raise Failed when a partial answer is not the rest of the file that was begun."""
    headers = answer.headers
    found = headers["Content-Range"], headers["ETag"], headers["Last-Modified"]
    if not part or found != (f"bytes {have}-{part.bytes - 1}/{part.bytes}", part.etag, part.last_modified):
        raise Failed("the file has changed since its first part was received; starting over", restart=True)


def _beginning(answer):
    """Return the first bytes of an answer; raises Failed if they are not those of a zip archive."""
    with _failures():
        beginning = answer.read(2)
        if beginning != b"PK":
            found = described(beginning + answer.read(_MIB))
            raise Failed(f"HTTP {answer.status}, {found} in place of a zip archive", final=beginning != b"")
    return beginning


def _copy(answer, file, total):
    start = file.tell()
    _check_size(total or 0)
    with contextlib.closing(Progress("download", (total or 0) // _MIB, start // _MIB, "MiB")) as progress:
        while chunk := _read(answer):
            file.write(chunk)
            _check_size(file.tell())
            while progress.done < file.tell() // _MIB:
                progress.update(f"{file.tell() / 1e6:,.1f} MB")


def _check_size(size):
    if size > MOST_BYTES:
        raise Failed(f"more than {MOST_BYTES:,} bytes, no archive of the set", final=True, restart=True)


def _read(answer):
    with _failures():
        return answer.read1(2**16)


def _linked(address, timeout):
    """Return the link to the archive that JSON at an address gives."""
    with _opened(address, timeout) as answer, _failures():
        content = answer.read(_MIB)
    try:
        return quote(json.loads(content)["data"], safe=string.punctuation)  # the link may have blanks
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failed(f"{described(content)} in place of JSON with a link in `data`", final=True) from None


def _opened(url, timeout, headers=None):
    """Open an http or https address; urllib's own opener would read local files, too."""
    opener = request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    headers = {"User-Agent": "Mozilla/5.0", **(headers or {})}  # the portal answers browsers only
    with _failures():
        return opener.open(request.Request(url, headers=headers), timeout=timeout)


@contextlib.contextmanager
def _failures():
    """Raise Failed for errors of the address, the connection or the server."""
    try:
        yield
    except HTTPError as error:
        content = b""
        with error, contextlib.suppress(OSError, http.client.HTTPException):
            content = error.read(_MIB)
        text = f"HTTP {error.code} {printable(error.reason)}, {described(content)}"
        final = error.code < 500 and error.code not in (408, 416, 425, 429)
        raise Failed(text, final, restart=error.code == 416) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        # Final: an unknown protocol, a malformed address, an invalid certificate, an unknown host
        final = isinstance(reason, (str, ValueError)) or getattr(reason, "errno", None) == socket.EAI_NONAME
        raise Failed(f"{type(error).__name__}: {printable(reason)}", final) from None


def described(content):
    """Describe an unexpected answer by its beginning."""
    text = content.decode("utf-8", "replace").strip()
    if title := re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL):
        return f"an HTML page ({printable(html.unescape(title[1]))!r})"
    return f"data that begin with {text[:60]!r}" if text else "nothing"


def printable(text):
    """Return text from outside as one short line without control characters."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return line if len(line) <= 200 else f"{line[:200]}..."


def _size(path):
    return path.stat().st_size if path.exists() else 0
