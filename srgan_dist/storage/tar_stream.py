"""Tars that are read once, from the first byte to the last, as they come: local ones and those at URLs.

Nothing but reading on is asked of a server; where it has byte ranges, a connection that was cut goes on
behind the last byte, else the bytes before it are read once more. Compressed tars are decompressed.
"""

import bz2
import contextlib
import gzip
import lzma
import tarfile
import threading

from srgan_dist.storage.cache import Cancelled
from srgan_dist.storage.encoding import LARGEST_FILE
from srgan_dist.storage.remote import Remote, _within, is_url
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import open_regular

MOST_PADDING = 2**24  # bytes of zeros behind the end of a tar: far more than any program writes

_BLOCK, _PIECE = 512, 2**20
_OPENERS = {b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ": lzma.LZMAFile}
_EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE)
_EMPTY += (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)


class TarStream:
    """The bytes of a tar, for `read`; raises UserError where they are not those of a whole, plain tar.

    tarfile, and webdataset with it, takes the first damaged header of a stream, and an end anywhere between
    members, for the end of the tar, without a word. So headers are followed here while their bytes pass by.
    """

    def __init__(self, address, stop=None):
        self.address, self.error = address, None
        self.position = self.next_header = self.members = 0
        self.end = None  # where the mark of the end is
        self.held = b""  # bytes from `position` on, of a header that is not complete
        self.source = _RemoteSource(address, stop) if is_url(address) else _LocalSource(address)
        self.file = _Joined(self.source)
        head = self.file.peek(_BLOCK)
        for magic, opener in _OPENERS.items():
            if head.startswith(magic):
                self.file = opener(fileobj=self.file) if opener is gzip.GzipFile else opener(self.file)

    def read(self, size):
        """Return up to `size` bytes, none at the end."""
        try:
            data = self.file.read(size)
            self._follow(data)
            return data
        except (UserError, Cancelled) as error:
            self.error = error  # webdataset adds to the arguments of the one that passes it
            raise
        except (OSError, EOFError, ValueError, lzma.LZMAError) as error:  # also of a broken compression
            self.error = UserError(f"{self.address} cannot be read ({error}); copy it again")
            raise self.error from None

    def finish(self):
        """Read the rest, behind the last member that was found; raises UserError unless the tar ends
        there.
        """
        while self.read(_PIECE):
            pass
        if self.end is None or self.held.strip(b"\0"):
            raise UserError(
                f"{self.address} is cut short: it ends at byte {self.position + len(self.held):,} without the"
                " mark of an end; copy it again"
            )
        if not self.members:
            raise UserError(f"{self.address} holds no file; leave it out")

    def close(self):
        self.source.close()

    def _follow(self, data):
        """Follow the headers in the next bytes of the tar."""
        data = self.held + data
        while (at := self.next_header - self.position) + _BLOCK <= len(data):
            self.next_header += _BLOCK + self._content_bytes(data[at : at + _BLOCK])
        self.held = data[at:]
        self.position += min(at, len(data))

    def _content_bytes(self, header):
        """Return the bytes behind a header up to the next one."""
        if not header.strip(b"\0"):
            self.end = self.next_header if self.end is None else self.end
            if self.next_header - self.end > MOST_PADDING:
                raise UserError(
                    f"{self.address} goes on with zeros behind its end at byte {self.end:,}; copy it again"
                )
            return 0
        if self.end is not None:
            raise UserError(
                f"{self.address} has something other than a member at byte {self.next_header:,}, where"
                " readers stop: it is damaged, or another tar was appended; copy it again, or give both tars"
            )
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            damaged = (
                "is no tar file" if self.next_header == 0 else f"is damaged at byte {self.next_header:,}"
            )
            raise UserError(f"{self.address} {damaged} ({error}); copy it again") from None
        size = 0 if member.type in _EMPTY else member.size
        if member.issparse() or not 0 <= size <= LARGEST_FILE:
            kind = "a sparse file" if member.issparse() else f"of {size:,} bytes"
            raise UserError(
                f"{self.address} has the member {member.name!r}, which is {kind}; plain files of up to"
                f" {LARGEST_FILE:,} bytes are streamed"
            )
        self.members += member.isreg()
        return -(-size // _BLOCK) * _BLOCK


class _Joined:
    """A source whose pieces are joined to the sizes that are asked for, and can be looked at first."""

    def __init__(self, source):
        self.source, self.waiting = source, b""

    def peek(self, size):
        while len(self.waiting) < size and (piece := self.source.piece()):
            self.waiting += piece
        return self.waiting[:size]

    def read(self, size=_PIECE):
        if not self.waiting:
            self.waiting = self.source.piece()
        data, self.waiting = self.waiting[:size], self.waiting[size:]
        return data


class _LocalSource:
    def __init__(self, path):
        try:
            self.file = open_regular(path)
        except OSError as error:
            problem = (
                "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
            )
            raise UserError(f"{path} {problem}; give the shards as they are") from None

    def piece(self):
        return self.file.read(_PIECE)

    def close(self):
        self.file.close()


class _RemoteSource:
    """The bytes of a file at a URL; a connection that is cut, or stalls, is opened again where it was."""

    def __init__(self, address, stop):
        folder, _, self.name = address.rpartition("/")
        self.remote, self.stop = Remote(folder, None), stop or threading.Event()
        self.file, self.fetched = None, 0

    def piece(self):
        try:
            return self.remote._retried(self.name, self._next, self.stop)
        except UserError as error:
            raise UserError(str(error).partition(". Complete pieces")[0]) from None  # none is kept here

    def _next(self):
        seconds = self.remote.retry_policy.piece_seconds
        try:
            if self.file is None:
                self.file = _within(seconds, self._open, self.stop)
            data = _within(seconds, lambda: self.file.read(_PIECE), self.stop)
        except BaseException:
            self.close()
            raise
        self.fetched += len(data)
        return data

    def _open(self):
        system, path = self.remote._location
        path = f"{path}/{self.name}"
        if not path.startswith(("http://", "https://")):
            file = system.open(path, "rb")
            file.seek(self.fetched)
            return file
        from aiohttp import ClientTimeout

        file = system.open(
            path,
            "rb",
            block_size=0,  # one request
            size=1,  # whatever it is, so that no request asks for it
            headers={"Accept-Encoding": "identity"}
            | ({"Range": f"bytes={self.fetched}-"} if self.fetched else {}),
            timeout=ClientTimeout(total=None),  # a stream may take hours
        )
        left = 0 if file.r.status == 206 else self.fetched  # a server without ranges sends all of it
        while left and (data := file.read(min(left, _PIECE))):
            left -= len(data)
        return file

    def close(self):
        with contextlib.suppress(Exception):  # of a connection that is broken
            if self.file is not None:
                self.file.close()
        self.file = None
