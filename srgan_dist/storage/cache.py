"""A folder of local copies with a limit in bytes: one process makes a copy, all use it, and the least
recently used copies are evicted.

    CACHE/NAME         a complete copy; NAME is the sha256 of its content, so runs and sets share it
    CACHE/NAME.part    a copy that is being made; the next process resumes from its end
    CACHE/NAME.lock    held by the process that makes the copy; contains the bytes that it reserves
    CACHE/room.lock    held while files are listed and evicted, and while a part becomes a copy

An open copy is never evicted: every process that opens one holds a shared lock on it for as long as the file,
or a memory map of it, is open.

Others may write to the folder: no link in it is followed, nothing is written to a file of somebody else, and
each process compares the content of a copy when it first opens it, and again where the file has changed.
"""

import contextlib
import errno
import logging
import os
import random
import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from srgan_dist.utils import locks
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import (
    is_shared,
    open_regular,
    read_regular,
    sha256_of_open,
    unwritable_refused,
    version_of,
)

log = logging.getLogger(__name__)

GIB = 2**30
DEFAULT_GIB = 50
MOST_REMOVALS = 5  # of a part by others, until that is an error
_FILE_NAME = re.compile(r"(?P<name>[0-9a-f]{64}[a-z]*)(?P<part>\.part)?")
_verified = {}  # path of a copy -> version of the file whose content this process has compared
_warned = set()  # folders that others may write to


class Cancelled(Exception):
    """The `stop` event of a request was set before its copy was there."""


def default_folder():
    """Return the folder for copies in the user's own cache folder; raises UserError where there is none."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "srgan_dist"
    except RuntimeError:
        raise UserError(
            "there is no folder for copies, for this user has no home folder; give one by data.cache or"
            " --cache, or set XDG_CACHE_HOME"
        ) from None


def opened(shard, stop=None):
    """Open a shard for reading: a local file, or the cached copy of a remote one, which `stop` cancels."""
    return open_regular(shard) if isinstance(shard, Path) else shard.open(stop=stop)


def cache_at(folder=None, gib=DEFAULT_GIB):
    """Return a Cache of at most `gib` GiB in a folder, by default in the user's cache folder."""
    return Cache(Path(os.path.expanduser(folder)) if folder else None, int(gib * GIB))


@dataclass(frozen=True)
class Cache:
    """Copies in a folder that together take at most `limit` bytes."""

    chosen: Path | None = None  # None: the user's own, which is looked for when a copy is
    limit: int = DEFAULT_GIB * GIB
    room_seconds: float = 600  # to wait until others close copies that they use

    @property
    def folder(self):
        return self.chosen or default_folder()

    def open(self, name, size, make, stop=None, is_intact=None):
        """Return the copy `name` of `size` bytes as an open binary file; while it is open it is not evicted.

        make(part, stop): called where there is no copy, in one process at a time; completes the file `part`,
        which may hold a beginning, to `size` verified bytes. stop: an Event that ends waiting and making with
        Cancelled. is_intact(file): compares the content of an open copy; None: its sha256 is `name`.
        Raises UserError when the folder cannot be written to or has no room.
        """
        stop, path, removals = stop or threading.Event(), self.folder / name, 0
        is_intact = is_intact or (lambda file: sha256_of_open(file) == name)
        self.warn_if_shared()
        while True:
            if (file := self._opened(path, size)) is not None:
                if self._is_verified(path, file, is_intact):
                    return file
                file.close()
                log.warning("%s was changed after it was made, and is made again (data.cache)", path)
                with self._name_write_errors(size):
                    path.unlink(missing_ok=True)
            with self._name_write_errors(size):
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    with locks.blocking_lock(path.with_name(f"{name}.lock"), stop) as lock:
                        if lock and not path.exists():  # another process may have made it meanwhile
                            self._make(path, size, make, lock, stop)
                except FileNotFoundError:  # somebody has emptied the folder meanwhile
                    removals += 1
                    if removals == MOST_REMOVALS:
                        raise
            if stop.is_set():
                raise Cancelled

    def rename(self, path, name):
        """Give a copy that is open the name of its content."""
        with self._name_write_errors(0), locks.blocking_lock(self.folder / "room.lock"):
            os.replace(path, self.folder / name)

    def holds(self, name):
        """Return whether there is a copy of that name now."""
        # Unlike Path.exists also False in a folder that may not be searched
        return os.path.exists(self.folder / name)

    def warn_if_shared(self):
        """Warn, once, where other users may write to the folder."""
        if self.folder not in _warned and is_shared(self.folder):
            _warned.add(self.folder)
            log.warning(
                "data.cache=%s: other users may write to this folder. Copies are compared when they are"
                " opened, but whoever changes them later decides what is trained on; chmod go-w, or give"
                " another folder",
                self.folder,
            )

    def _is_verified(self, path, file, is_intact):
        """Return whether an open copy has its content: compared once, and again where it has changed."""
        version = version_of(file)
        if _verified.get(path) != version:
            if not is_intact(file) or version_of(file) != version:
                return False
            file.seek(0)
            _verified[path] = version
        return True

    def _opened(self, path, size):
        """Return a copy open and in use, or None; one of another size is removed."""
        try:
            file = open_regular(path, follow=False)  # another user's copy is as good, once compared
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"data.cache={self.folder}: {path.name} cannot be read ({error})") from None
        locks.shared_lock(file)
        if os.fstat(file.fileno()).st_size != size:
            file.close()
            with self._name_write_errors(size):
                path.unlink(missing_ok=True)
            return None
        if not locks.has_path(file.fileno(), path):  # evicted between the opening and the lock
            file.close()
            return None
        with contextlib.suppress(OSError):  # a read-only cache evicts nothing either
            os.utime(path, ns=(time.time_ns(), os.fstat(file.fileno()).st_mtime_ns))  # of access alone
        return file

    def _make(self, path, size, make, lock, stop):
        part = path.with_name(f"{path.name}.part")
        self._wait_for_room(part, size, lock, stop)
        make(part, stop)
        with open_regular(part, own=True) as file:
            os.fsync(file.fileno())
            if os.fstat(file.fileno()).st_size != size:  # make() has verified another one
                raise FileNotFoundError(errno.ENOENT, "Replaced while it was made", str(part))
            _verified[path] = version_of(file)
        with locks.blocking_lock(self.folder / "room.lock"):  # or a listing might find neither name
            os.replace(part, path)

    def _name_write_errors(self, size):
        def room():
            existing = next(p for p in (self.folder, *self.folder.parents) if os.path.exists(p))
            return f"A copy needs {size:,} bytes, {shutil.disk_usage(existing).free:,} are free there"

        return unwritable_refused(f"data.cache={self.folder}", room)

    # Room

    def _wait_for_room(self, part, size, lock, stop):
        """Evict the least recently used copies until `size` bytes fit, and reserve them."""
        if size > self.limit:
            raise UserError(
                f"data.cache_gib={self.limit / GIB:g} is less than a copy of {size:,} bytes takes; at least"
                f" {size / GIB:.3g} are needed"
            )
        # Random, so that of two processes that wait for each other one gives up first
        deadline = time.monotonic() + self.room_seconds * random.uniform(1, 1.5)
        while not self._reserve(part, size, lock):
            if stop.wait(0.2):
                raise Cancelled
            if time.monotonic() > deadline:
                raise UserError(
                    f"data.cache_gib={self.limit / GIB:g}: the copies in {self.folder} that are in use, by"
                    f" this run and others, leave no room for {size:,} bytes; enlarge it, or give this run a"
                    " folder of its own (data.cache)"
                )

    def _reserve(self, part, size, lock):
        """Make room and reserve it for a part; returns whether that was possible."""
        with locks.blocking_lock(self.folder / "room.lock"):
            files = self._list_files(part)
            taken = sum(bytes_taken for _, _, bytes_taken in files)
            missing = size - (part.stat().st_size if part.exists() else 0)
            for path, _, bytes_taken in files:
                if taken + size <= self.limit and missing <= shutil.disk_usage(self.folder).free:
                    break
                if _evict(path):
                    taken -= bytes_taken
            if taken + size > self.limit:
                return False
            free = shutil.disk_usage(self.folder).free
            if missing > free:
                raise UserError(
                    f"data.cache={self.folder}: the disk has {free:,} bytes free, the next copy needs"
                    f" {missing:,}; free more, or give another folder"
                )
            os.truncate(lock.fileno(), 0)
            os.pwrite(lock.fileno(), str(size).encode(), 0)
            open_regular(part, "ab", own=True).close()
            return True

    def _list_files(self, own_part):
        """List (path, last use, bytes taken or reserved) of copies and parts, least recently used first."""
        found = []
        for entry in os.scandir(self.folder):
            match = _FILE_NAME.fullmatch(entry.name)
            if not match or entry.name == own_part.name:
                continue
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                status = entry.stat(follow_symlinks=False)
                reserved = _reserved_bytes(self.folder / f"{match['name']}.lock") if match["part"] else 0
                used = max(status.st_atime, status.st_mtime)
                found.append((Path(entry.path), used, max(status.st_size, reserved)))
        return sorted(found, key=lambda file: file[1])


def _reserved_bytes(lock):
    try:
        return int(read_regular(lock, 100) or 0)
    except (OSError, ValueError):
        return 0


def _evict(path):
    """Remove a copy, or a part, that nobody uses; returns whether that was possible."""
    if path.suffix == ".part":
        with locks.try_lock(path.with_suffix(".lock")) as lock:
            if lock:
                path.unlink(missing_ok=True)
            return lock is not None
    # Suppressed are a read-only folder, and a file that is open under Windows
    with contextlib.suppress(OSError), open_regular(path, follow=False) as file:
        if locks.exclusive_lock(file):
            path.unlink()
            return True
    return not path.exists()
