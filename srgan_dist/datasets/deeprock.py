"""DeepRock-SR-2D, from its portal to OUT/DeepRockSR-2D: fetched, compared with the first download, checked, unpacked.

    OUT/DeepRockSR-2D/                    appears in one rename, when every file is there
    OUT/download.json                     where the archive came from, and its sha256
    OUT/DeepRockSR-2D.ADDRESS.part, .json  the archive while it is fetched, one per address; gone when the set is there

The archive comes from outside: nothing of it is written before all of its directory is found harmless.
"""

import functools
import hashlib
import html
import http.client
import itertools
import json
import os
import posixpath
import re
import shlex
import shutil
import socket
import ssl
import stat
import string
import time
import unicodedata
import urllib.request
import zipfile
import zlib
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from srgan_dist.data.image_files import is_image
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write, sha256_of
from srgan_dist.utils.locks import file_lock
from srgan_dist.utils.progress import Progress, progress_bar

DOI = "https://doi.org/10.17612/s3m9-e024"
LICENCE = "ODC-BY 1.0"
FOLDER = "DeepRockSR-2D"
RECORD = "download.json"

_MIB = 2**20
_CHUNK = 2**16
_JSON_BYTES = 64 * _MIB
_SET_FOLDER = re.compile(
    r"(?P<set>.+)_(?P<split>train|valid|test)_(?P<side>HR|LR_(?P<kind>[a-z]+)_X(?P<scale>\d+))"
)
_SYSTEM_FILES = {".ds_store", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Portal:
    """Addresses of the set; a file of the new portal is two requests away, one of the old portal is one."""

    tree: str  # JSON that lists all files of the project
    file: str  # JSON whose `data` is a link that works once; {path} is a file in the tree
    path: str  # of the archive, for when the tree does not tell
    old: tuple[str, ...]  # the archive itself


# Taken from public scripts that used them; nobody could try them when this was written.
PORTAL = Portal(
    tree="https://digitalporousmedia.org/api/projects/drp.project.published.DRP-215/tree/",
    file="https://digitalporousmedia.org/api/datafiles/tapis/download/public/drp.project.published.DRP-215/{path}/",
    path="2D Dataset/DeepRock-SR-2D/DeepRockSR-2D.zip",
    old=(
        "https://www.digitalrocksportal.org/projects/215/images/159816/download/",
        "https://digitalrocks-dev.tacc.utexas.edu/media/projects/215/archive.zip",
    ),
)


@dataclass(frozen=True)
class RetryPolicy:
    """When one try is given up, and when all are."""

    timeout: float = 30  # seconds without an answer or without a byte
    slow_seconds: float = 60
    slow_bytes: int = (
        600_000  # fewer than that in slow_seconds end a try; a try that brings more than that is not counted
    )
    tries: int = 5
    first_pause: float = 2  # seconds; doubles from try to try
    longest_pause: float = 60

    def pause(self, failed):
        """Return the seconds to wait after so many failed tries."""
        return min(self.longest_pause, self.first_pause * 2 ** (failed - 1))


@dataclass(frozen=True)
class Limits:
    """What no honest copy of the set exceeds: it has about 120,000 files, and PNG hardly shrinks in a zip."""

    files: int = 500_000
    unpacked_bytes: int = 100_000_000_000
    ratio: int = 20  # unpacked bytes over bytes of the archive


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Record(_Model):
    """OUT/download.json: the archive that was unpacked, and how much came out of it."""

    url: str
    bytes: int
    sha256: str
    last_modified: str | None = None
    files: int
    unpacked_bytes: int


class _Part(_Model):
    """What the server said of the file whose beginning lies in a .part; bytes is None until the length is known."""

    url: str
    etag: str | None = None
    last_modified: str | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Result:
    """An unpacked set, how many files of the archive belong elsewhere, and whether it stood there already."""

    folder: Path
    record: Record
    left_out: int = 0
    already_there: bool = False


class _Refused(Exception):
    """This address will not give the file, however often it is asked."""


class _Failed(Exception):
    """This try has failed, the next may not; brought: bytes that it added, wait: seconds that the server asks for."""

    def __init__(self, text, brought=0, wait=0):
        super().__init__(text)
        self.brought, self.wait = brought, wait


class _Shorter(_Failed):
    """The server's file ends before the place from which the rest was asked for."""


def download(out, from_file=None, portal=PORTAL, retry_policy=RetryPolicy(), limits=Limits(), say=print):
    """Bring the set to `out` and return a Result; from_file: an archive that was downloaded by hand.

    Raises UserError when no address gives the archive, when it is not the one of the first download, or is unsafe.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"OUT={out} is a file; give the name of a folder")
    out.mkdir(parents=True, exist_ok=True)
    with file_lock(
        out / ".download.lock", f"another process downloads to OUT={out}; wait for its end, or end it"
    ):
        first = _read_record(out)
        if (out / FOLDER).exists():
            return _already_there(out, first, from_file)
        archive, part = _given(from_file) if from_file else _fetch(out, portal, retry_policy, say)
        sha256 = _same_as_first(out, first, archive, say)
        members, left_out = check_archive(archive, limits)
        record = Record(
            url=part.url,
            bytes=archive.stat().st_size,
            sha256=sha256,
            last_modified=part.last_modified,
            files=len(members),
            unpacked_bytes=sum(member.file_size for member, _ in members),
        )
        _unpack(archive, members, out, record)
        for leftover in out.glob(f"{FOLDER}.*.part*"):
            leftover.unlink()
        return Result(out / FOLDER, record, left_out)


# Record


def _read_record(out):
    """Return the record of an earlier download to `out`, None when there is none."""
    path = out / RECORD
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise UserError(
            f"{path} is damaged; delete it, and {out / FOLDER} if it is there, and start again"
        ) from None


def _already_there(out, first, from_file):
    """Return the Result for a set that was unpacked before, if it is still whole and that of from_file."""
    folder = out / FOLDER
    if first is None:
        raise UserError(
            f"{folder} is there, but no {RECORD} that tells where it came from; give another OUT,"
            f" or move the folder away"
        )
    if from_file:
        archive, _ = _given(from_file)
        _same_as_first(out, first, archive, say=lambda text: None)
    sizes = [
        os.path.getsize(os.path.join(path, name))
        for path, _, names in os.walk(folder)
        for name in names
        if not _is_system_file(PurePosixPath(name))
    ]
    if (len(sizes), sum(sizes)) != (first.files, first.unpacked_bytes):
        raise UserError(
            f"{folder} has {len(sizes):,} files of {sum(sizes):,} bytes, but {first.files:,} files of"
            f" {first.unpacked_bytes:,} bytes were unpacked; delete the folder and start again"
        )
    return Result(folder, first, already_there=True)


def _same_as_first(out, first, archive, say):
    """Return the sha256 of an archive, which has to be that of the first download where there was one."""
    sha256 = sha256_of(archive)
    say(f"{archive}: {_size(archive.stat().st_size)}, sha256 {sha256}")
    if first and first.sha256 != sha256:
        raise UserError(
            f"{archive} has sha256 {sha256}, but the first download, from {first.url}, had {first.sha256}: the data set"
            f" is not the same. To take the new one, delete {out / RECORD} and {out / FOLDER} and start again; to stay"
            f" with the old one, move {archive} away"
        )
    return sha256


def _given(file):
    """Take an archive that was downloaded by hand."""
    file = Path(file)
    if not file.is_file():
        raise UserError(f"--from {file} is not a file; give the zip that was downloaded from {DOI}")
    if not zipfile.is_zipfile(file):
        with open(file, "rb") as opened:
            what = _described(opened.read(_CHUNK))
        raise UserError(f"--from {file} is not a whole zip archive but {what}; download it again from {DOI}")
    return file, _Part(url=file.resolve().as_uri())


# Addresses


def _fetch(out, portal, retry_policy, say):
    """Return the downloaded archive and its _Part, from the first address that gives it."""
    for path in sorted(out.glob(f"{FOLDER}.*.part")):
        part = _read_part(path)
        if part and part.bytes and part.bytes == path.stat().st_size:  # an earlier run ended while unpacking
            return path, part
    answers = []
    for address, find in _addresses(portal, retry_policy, say, answers):
        path = out / f"{FOLDER}.{hashlib.sha256(address.encode()).hexdigest()[:8]}.part"
        try:
            _persist(lambda: _receive(address, find(), path, retry_policy), address, retry_policy, say)
            return path, _whole_zip(path)
        except _Refused as refusal:
            answers.append(f"{address}: {refusal}")
            say(answers[-1])
    tried = "\n".join(f"  {answer}" for answer in answers)
    kept = (
        "What has come is kept: the same command goes on from there.\n"
        if any(out.glob(f"{FOLDER}.*.part"))
        else ""
    )
    raise UserError(
        f"{FOLDER} could not be downloaded. Tried:\n{tried}\n{kept}The portal may have moved. Look where {DOI} leads,"
        f" download the zip of the 2D images with a browser, and unpack it with\n"
        f"  python shards/download.py {shlex.quote(str(out))} --from {FOLDER}.zip"
    )


def _addresses(portal, retry_policy, say, answers):
    """Yield (address, function that returns where its archive lies now), the next one only when those before have failed."""
    paths = []
    try:
        paths = _persist(lambda: _listed_archives(portal, retry_policy), portal.tree, retry_policy, say)
    except _Refused as refusal:
        answers.append(f"{portal.tree}: {refusal}")
        say(answers[-1])
    for path in dict.fromkeys([*paths, portal.path]):
        address = portal.file.format(path=quote(path.strip("/")))
        yield address, lambda address=address: _one_time_link(address, retry_policy)
    for address in portal.old:
        yield address, lambda address=address: address


def _listed_archives(portal, retry_policy):
    """Return the paths of 2D archives in the portal's list of files, the likeliest first."""
    paths = [
        path
        for path in _values_of("path", _ask_json(portal.tree, retry_policy))
        if path.lower().endswith(".zip")
    ]
    archives = [path for path in paths if "2d" in posixpath.basename(path).lower()]
    if not archives:
        raise _Refused(f"lists no zip of the 2D images, only {_plain(', '.join(paths)) or 'other files'}")
    return sorted(set(archives), key=lambda path: (posixpath.basename(path) != f"{FOLDER}.zip", path))[:3]


def _values_of(key, tree):
    """List the texts that stand under `key` anywhere in a JSON tree, whose exact form may change."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and isinstance(node.get(key), str):
            found.append(node[key])
        waiting.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
    return found


def _one_time_link(address, retry_policy):
    answer = _ask_json(address, retry_policy)
    link = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(link, str):
        raise _Refused(f"JSON without a link in `data`: {_plain(json.dumps(answer))}")
    return quote(link, safe=string.punctuation)  # the file's path has blanks


def _persist(action, address, retry_policy, say):
    """Repeat what may pass; raises _Refused after retry_policy.tries failures in a row."""
    failed = 0
    while True:
        try:
            return action()
        except _Failed as failure:
            failed = 1 if failure.brought > retry_policy.slow_bytes else failed + 1
            if failed >= retry_policy.tries:
                raise _Refused(f"{failure} ({failed} tries)") from None
            pause = min(retry_policy.longest_pause, max(retry_policy.pause(failed), failure.wait))
            say(f"{address}: {failure}; trying again in {pause:.0f} s")
            time.sleep(pause)


# Requests


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, answer, code, reason, headers, url):
        try:
            _check_web_address(url)
        except _Refused:
            answer.close()
            raise
        return super().redirect_request(request, answer, code, reason, headers, url)


def _check_web_address(url):
    if not re.match(r"https?://[^/]", url, re.IGNORECASE):
        raise _Refused(f"leads to {_plain(url)!r}, which is not an http or https address")


@functools.cache
def _opener():
    """Speak http and https only, without cookies and passwords; urllib's own opener would open local files too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        _WebRedirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _ask(url, retry_policy, headers=None):
    """Open a web address; whoever calls closes the answer."""
    _check_web_address(url)
    request = urllib.request.Request(
        url, headers={"User-Agent": "Mozilla/5.0", **(headers or {})}
    )  # others get no answer
    try:
        return _opener().open(request, timeout=retry_policy.timeout)
    except HTTPError as error:
        with error:
            raise _refused_or_failed(error) from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise _Refused(f"its certificate is not valid ({reason.verify_message})") from None
        if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
            raise _Refused("no host of this name was found; is there a network?") from None
        raise _Failed(_no_answer(reason, retry_policy)) from None
    except ValueError as error:
        raise _Refused(f"leads to {_plain(url)!r}, which is no usable address ({_plain(error)})") from None


def _refused_or_failed(error):
    try:
        what = _described(error.read(_CHUNK))
    except (OSError, http.client.HTTPException):
        what = "nothing more"
    text = f"HTTP {error.code} {_plain(error.reason)}, {what}"
    if error.code == 416:
        return _Shorter(text)
    if error.code not in (408, 425, 429) and error.code < 500:
        return _Refused(text)
    wait = error.headers.get("Retry-After", "")
    return _Failed(text, wait=int(wait) if re.fullmatch(r"\d{1,9}", wait) else 0)


def _no_answer(error, retry_policy):
    if isinstance(error, TimeoutError):
        return f"no byte for {retry_policy.timeout:g} s"
    return f"the connection failed ({type(error).__name__}: {_plain(error)})"


def _chunks(answer, retry_policy):
    """Yield the bytes of an answer as they come; raises _Failed when they stop coming, or come too slowly."""
    since, count = time.monotonic(), 0
    while True:
        try:
            chunk = answer.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Failed(_no_answer(error, retry_policy)) from None
        if not chunk:
            return
        yield chunk
        count += len(chunk)
        seconds = time.monotonic() - since
        if seconds >= retry_policy.slow_seconds:
            if count < retry_policy.slow_bytes * seconds / retry_policy.slow_seconds:
                raise _Failed(f"only {count:,} bytes in {seconds:.0f} s")
            since, count = time.monotonic(), 0


def _ask_json(url, retry_policy):
    with _ask(url, retry_policy, {"Accept": "application/json"}) as answer:
        content, length = bytearray(), answer.length
        for chunk in _chunks(answer, retry_policy):
            content += chunk
            if len(content) > _JSON_BYTES:
                raise _Refused(f"more than {_size(_JSON_BYTES)} where JSON was expected")
    if length is not None and len(content) != length:
        raise _Failed(f"{len(content):,} bytes came of the {length:,} announced (Content-Length)")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise _Refused(f"HTTP {answer.status}, {_described(content)} where JSON was expected") from None


def _described(content):
    """Say in words what came, from its first bytes."""
    text = content[:20_000].decode("utf-8", "replace").strip()
    if not text:
        return "nothing"
    if text.startswith("<") and re.search(r"<(!doctype html|html|head|body)\b", text, re.IGNORECASE):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        return f"an HTML page ({_plain(html.unescape(title[1]))!r})" if title else "an HTML page"
    if content.startswith(b"PK"):
        return "the beginning of a zip archive"
    return (
        f"{'a text that begins' if text.isprintable() else 'bytes that begin'} with {_plain(repr(text[:60]))}"
    )


def _plain(text):
    """Make text from elsewhere fit for a terminal: one short line without control characters."""
    line = " ".join(str(text).split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= 200 else f"{line[:200]}..."


def _size(count):
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"


# One file, in as many pieces as it takes


def _receive(address, url, path, retry_policy):
    """Append what is missing of a file to the .part at `path`; raises _Failed when something still is."""
    part, have = _read_part(path), path.stat().st_size if path.exists() else 0
    try:
        answer = _ask(url, retry_policy, _range_headers(part, have))
    except _Shorter:
        path.unlink(missing_ok=True)
        raise
    with answer:
        start, part = _place(answer, part, have, address, path)
        chunks = _chunks(answer, retry_policy)
        if start == 0:
            chunks = _checked_beginning(answer, chunks)
        with open(path, "ab" if start else "wb") as file:
            if start == 0:
                _check_space(path.parent, part.bytes or 0, "the archive")
                _write_part(path, part)
            _copy(chunks, file, start, part)
    size = path.stat().st_size
    if part.bytes is None:  # nothing could tell a whole file from a cut one, but the archive's own end
        _write_part(path, part.model_copy(update={"bytes": size}))
    elif size != part.bytes:
        raise _Failed(
            f"{size:,} bytes came of the {part.bytes:,} announced (Content-Length)", brought=size - start
        )


def _checked_beginning(answer, chunks):
    """Return the chunks of an answer if it begins as a zip does; otherwise what we have already must not be overwritten."""
    first = next(chunks, b"")
    if not first:
        raise _Failed(f"HTTP {answer.status} without content")
    if not b"PK".startswith(first[:2]):
        content = first + b"".join(itertools.islice(chunks, 8))
        raise _Refused(f"HTTP {answer.status}, {_described(content)} in place of a zip archive")
    return itertools.chain([first], chunks)


def _range_headers(part, have):
    """Ask for the rest of a file, provided it is still the same; nothing where that could not be told."""
    if not part or not have or part.bytes is None:
        return {}
    strong = part.etag if part.etag and not part.etag.startswith("W/") else None
    condition = strong or part.last_modified
    return {"Range": f"bytes={have}-"} | ({"If-Range": condition} if condition else {})


def _place(answer, part, have, address, path):
    """Return where in the file the bytes of an answer belong, and its new _Part."""
    if answer.status != 206:
        return 0, _Part(
            url=address,
            etag=answer.headers["ETag"],
            last_modified=answer.headers["Last-Modified"],
            bytes=answer.length,
        )
    given = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18})", answer.headers.get("Content-Range", "").strip())
    same = (
        part
        and given
        and (int(given[1]), int(given[2])) == (have, part.bytes)
        and all(
            answer.headers[name] in (None, known) or known is None
            for name, known in (("ETag", part.etag), ("Last-Modified", part.last_modified))
        )
    )
    if not same:
        path.unlink(missing_ok=True)
        raise _Failed("the file has changed since its first part came; starting over")
    return have, part


def _copy(chunks, file, start, part):
    size, total = start, (part.bytes or 0) // _MIB
    with closing(Progress("download", total, done=start // _MIB, unit="MiB")) as progress:
        try:
            for chunk in chunks:
                file.write(chunk)
                size += len(chunk)
                while progress.done < size // _MIB:
                    progress.update(_size(size))
        except _Failed as failure:
            raise _Failed(f"{failure}, after {_size(size)}", brought=size - start) from None


def _whole_zip(path):
    """Return the _Part of a complete download; drops what is no archive after all."""
    if not zipfile.is_zipfile(path):
        size = path.stat().st_size
        path.unlink()
        _part_record(path).unlink()
        raise _Refused(f"{size:,} bytes came, as announced, but they are no whole zip archive")
    return _read_part(path)


def _part_record(path):
    return path.with_name(f"{path.name}.json")


def _read_part(path):
    try:
        return _Part.model_validate_json(_part_record(path).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _write_part(path, part):
    with atomic_write(_part_record(path)) as unfinished:
        unfinished.write_text(part.model_dump_json(indent=1) + "\n")


def _check_space(folder, needed, what):
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} has {_size(free)} free, {what} needs {_size(needed)};"
            f" make room, or give an OUT on another disk"
        )


# Archive


def check_archive(path, limits=Limits()):
    """Return the members of a zip that make up the set, with their paths below the set's folder, and how many are left out.

    Every member is judged, also those that are left out; raises UserError naming what is unsafe.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is no zip archive that can be read ({_plain(error)}); delete it and download it again"
        ) from None
    faults = _size_faults(members, path.stat().st_size, limits) or [
        *filter(None, map(_member_fault, members)),
        *_collisions(members),
        *_overlaps(members, end),
    ]
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:5]) + ("\n  ..." if len(faults) > 5 else "")
        raise UserError(
            f"{path} is not safe to unpack, nothing was written:\n{shown}\n"
            f"Delete it and download it again; if it stays so, ask the portal, {DOI}"
        )
    return _members_of_set(path, members)


def _size_faults(members, archive_bytes, limits):
    unpacked = sum(member.file_size for member in members)
    faults = []
    if len(members) > limits.files:
        faults.append(f"it has {len(members):,} files; at most {limits.files:,} are expected")
    if unpacked > limits.unpacked_bytes:
        faults.append(
            f"it would unpack to {_size(unpacked)}; at most {_size(limits.unpacked_bytes)} are expected"
        )
    if unpacked > limits.ratio * archive_bytes:
        faults.append(
            f"it would unpack to {unpacked / archive_bytes:.0f} times its size;"
            f" at most {limits.ratio} times are expected"
        )
    return faults


def _member_fault(member):
    """Say what is wrong with the name or the kind of a member, None if nothing is."""
    name = member.orig_filename  # as it is in the archive, before Python's own mending
    parts = name.removesuffix("/").split("/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.startswith("/"):
        fault = "is an absolute path"
    elif "\\" in name or ":" in name:
        fault = "has a backslash or a drive letter"
    elif any(part in ("", ".", "..") for part in parts):
        fault = "has an empty folder name, . or .."
    elif not name.isprintable() or len(name) > 400 or len(parts) > 20:
        fault = "has control characters, more than 400 characters or more than 20 folders"
    elif kind not in (0, stat.S_IFDIR if _is_folder(member) else stat.S_IFREG):
        fault = "is a link or a special file"
    elif member.flag_bits & 0x2041:  # password, strong encryption, hidden directory
        fault = "is encrypted"
    elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        fault = f"is compressed by method {member.compress_type}, which is not read here; unpack and zip it again by hand"
    else:
        return None
    return f"{_plain(repr(name))} {fault}"


def _is_folder(member):
    return member.orig_filename.endswith("/")


def _collisions(members):
    """Name members that would be the same file on a disk that takes A for a."""
    seen, faults = {}, []  # folded path -> (path, is it a folder)
    for member in members:
        parts = member.orig_filename.removesuffix("/").split("/")[:20]
        for depth in range(1, len(parts) + 1):
            path, folder = "/".join(parts[:depth]), depth < len(parts) or _is_folder(member)
            other = seen.setdefault(unicodedata.normalize("NFC", path).casefold(), entry := (path, folder))
            if other is not entry and not (folder and other == entry):
                faults.append(f"{_plain(repr(path))} would take the place of {_plain(repr(other[0]))}")
                break
    return faults


def _overlaps(members, end):
    """Name members whose bytes are also those of another, as in the smallest of zip bombs."""
    ordered = sorted(members, key=lambda member: member.header_offset)
    ends = [member.header_offset for member in ordered[1:]] + [end]
    return [
        f"{_plain(repr(member.orig_filename))} shares bytes with another member"
        for member, limit in zip(ordered, ends, strict=True)
        if member.header_offset + 30 + member.compress_size > limit
    ]  # 30: the least a member's own header takes


def _members_of_set(path, members):
    files = [(member, PurePosixPath(member.orig_filename)) for member in members if not _is_folder(member)]
    files = [(member, name) for member, name in files if not _is_system_file(name)]
    root = _root_of_sets(name for _, name in files)
    if root is None:
        names = _plain(", ".join(str(name) for _, name in files[:5])) or "no file"
        raise UserError(
            f"{path} has no image in a folder like carbonate2D_train_HR, so it is not {FOLDER}; it has {names}."
            f" The zip of the 2D images is at {DOI}; if it lies inside this one, unpack this one by hand and"
            f" give --from the inner zip"
        )
    chosen = [(member, name.relative_to(root)) for member, name in files if name.is_relative_to(root)]
    return chosen, len(files) - len(chosen)


def _is_system_file(name):
    return "__MACOSX" in name.parts or name.name.startswith("._") or name.name.lower() in _SYSTEM_FILES


def _root_of_sets(names):
    """Return the folder that all sets have in common, wherever in the archive it is; None when there is no set."""
    roots = set()
    for name in names:
        folder = _SET_FOLDER.fullmatch(name.parent.name)
        if folder and folder["side"] == "HR" and is_image(name):
            above = name.parent.parent
            roots.add(str(above.parent if above.name == folder["set"] else above))
    return PurePosixPath(posixpath.commonpath(roots)) if roots else None


def _unpack(archive, members, out, record):
    """Write the members to a folder beside the final one and rename it, after its record is written."""
    _check_space(out, sum(-(-member.file_size // 4096) * 4096 for member, _ in members), "the unpacked set")
    stage = out / f".{FOLDER}.unpacking"
    shutil.rmtree(stage, ignore_errors=True)  # of a run that was killed
    try:
        with zipfile.ZipFile(archive) as opened:
            for member, name in progress_bar(members, "unpack", "file"):
                _write_member(opened, member, stage / name, archive)
        with atomic_write(out / RECORD, durable=True) as unfinished:
            unfinished.write_text(record.model_dump_json(indent=1) + "\n")
        os.replace(stage, out / FOLDER)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write_member(opened, member, path, archive):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with opened.open(member) as source, open(path, "xb") as file:
            shutil.copyfileobj(source, file, _MIB)  # the last read compares the CRC
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"{archive}: {_plain(repr(member.orig_filename))} is damaged ({_plain(error)});"
            f" delete the archive and download it again"
        ) from None
    if path.stat().st_size != member.file_size:
        raise UserError(
            f"{archive}: {_plain(repr(member.orig_filename))} has {path.stat().st_size:,} bytes instead of"
            f" {member.file_size:,}; delete the archive and download it again"
        )


# What is there


def count_images(folder):
    """Count the images of an unpacked set: {(set, split): {"HR": n, "default X2": n, ...}}."""
    counts = {}
    for path, _, names in sorted(os.walk(folder)):
        kind = _SET_FOLDER.fullmatch(os.path.basename(path))
        if kind:
            column = "HR" if kind["side"] == "HR" else f"{kind['kind']} X{kind['scale']}"
            counts.setdefault((kind["set"], kind["split"]), Counter())[column] += sum(map(is_image, names))
    return counts


def format_images(counts):
    """Return a table of what count_images has counted, a line per set and split."""
    kinds = sorted({kind for row in counts.values() for kind in row} - {"HR"})
    splits = {split: number for number, split in enumerate(("train", "valid", "test"))}
    lines = [f"{'set':<16}{'split':<6}" + "".join(f"{kind:>12}" for kind in ("HR", *kinds))]
    for name, split in sorted(counts, key=lambda key: (key[0], splits[key[1]])):
        row = counts[name, split]
        lines.append(f"{name:<16}{split:<6}" + "".join(f"{row[kind]:>12,}" for kind in ("HR", *kinds)))
    return "\n".join(lines)
