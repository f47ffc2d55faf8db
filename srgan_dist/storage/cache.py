"""A folder of local copies under a limit of bytes: each made by one process, used by all, the least recently used ones
removed.

    CACHE/NAME         a copy, complete; NAME tells its content (a sha256), so runs and sets share them
    CACHE/NAME.part    its beginning, while it is made; who goes on with it begins where that ends
    CACHE/NAME.lock    held by the process that makes it; says how many bytes it will take

A copy that is open is never removed: whoever opens one holds a shared lock on it for as long as the file, or a memory
map of it, is open.
"""

import contextlib
import os
import random
import re
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from srgan_dist.utils import locks
from srgan_dist.utils.errors import UserError

GIB = 2**30
DEFAULT_GIB = 50
_COPY = re.compile(r"(?P<name>[0-9a-f]{64}[a-z]*)(?P<part>\.part)?")


class Stopped(Exception):
    """The one who asked for a copy needs it no longer."""


def default_folder():
    """Return the folder for copies in the user's own cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "srgan_dist"


def opened(shard, stop=None):
    """Open a shard for reading: a file in its place, or the copy of one that has to be brought, which `stop` ends."""
    return shard.open("rb") if isinstance(shard, Path) else shard.open(stop=stop)


def cache_at(folder=None, gib=DEFAULT_GIB):
    """Return the Cache in a folder, None: in the user's cache folder, for at most so many GiB."""
    return Cache(Path(os.path.expanduser(folder)) if folder else default_folder(), int(gib * GIB))


@dataclass(frozen=True)
class Cache:
    """Copies in `folder` that together take at most `limit` bytes."""

    folder: Path = field(default_factory=default_folder)
    limit: int = DEFAULT_GIB * GIB
    room_seconds: float = 600  # to wait until others close what they use

    def open(self, name, size, make, stop=None):
        """Return the copy `name` of `size` bytes as an open binary file; it stays in the cache at least until closed.

        make(part, stop): called where there is none, in one process at a time; brings the file `part`, which may hold
        its beginning, to `size` verified bytes. stop: an Event that ends waiting and making with Stopped.
        Raises UserError when the folder cannot be written to or has no room.
        """
        stop, path = stop or threading.Event(), self.folder / name
        while True:
            if (file := self._opened(path, size)) is not None:
                return file
            with self._failures_named(size):
                self.folder.mkdir(parents=True, exist_ok=True)
                with locks.blocking_lock(path.with_name(f"{name}.lock"), stop) as lock:
                    if lock and not path.exists():  # otherwise another process has made it meanwhile
                        self._make(path, size, make, lock, stop)
            if stop.is_set():
                raise Stopped

    def holds(self, name):
        """Tell whether there is a copy of that name now."""
        return os.path.exists(
            self.folder / name
        )  # unlike Path.exists also where the folder may not be searched

    def _opened(self, path, size):
        """Return a copy open and in use, or None; one of another size is removed."""
        try:
            file = open(path, "rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"data.cache={self.folder}: {path.name} cannot be read ({error})") from None
        locks.share(file)
        if os.fstat(file.fileno()).st_size != size:
            file.close()
            with self._failures_named(size):
                path.unlink(missing_ok=True)
            return None
        if not locks.still_called(file.fileno(), path):  # removed between the opening and the lock
            file.close()
            return None
        with contextlib.suppress(OSError):  # read-only: then nothing is removed either
            os.utime(path)
        return file

    def _make(self, path, size, make, lock, stop):
        part = path.with_name(f"{path.name}.part")
        self._wait_for_room(part, size, lock, stop)
        make(part, stop)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
            assert os.fstat(file.fileno()).st_size == size, "whoever makes a copy checks it"
        with locks.blocking_lock(
            self.folder / "room.lock"
        ):  # who lists the folder meanwhile may find neither name
            os.replace(part, path)

    @contextlib.contextmanager
    def _failures_named(self, size):
        try:
            yield
        except (Stopped, UserError):
            raise
        except OSError as error:
            free = shutil.disk_usage(
                next(p for p in (self.folder, *self.folder.parents) if os.path.exists(p))
            ).free
            raise UserError(
                f"data.cache={self.folder} cannot be written to ({error}); a copy needs {size:,} bytes and"
                f" {free:,} are free there. Free more, or give another folder"
            ) from None

    # Room

    def _wait_for_room(self, part, size, lock, stop):
        """Remove what was not used for longest until `size` bytes fit, and claim them."""
        if size > self.limit:
            raise UserError(
                f"data.cache_gib={self.limit / GIB:g} is less than a copy of {size:,} bytes takes; at least"
                f" {size / GIB:.3g} are needed"
            )
        deadline = time.monotonic() + self.room_seconds * random.uniform(
            1, 1.5
        )  # of two that wait for each other, one goes on
        while not self._claim(part, size, lock):
            if stop.wait(0.2):
                raise Stopped
            if time.monotonic() > deadline:
                raise UserError(
                    f"data.cache_gib={self.limit / GIB:g}: the copies in {self.folder} that are in use, by this"
                    f" run and others, leave no room for {size:,} bytes; enlarge it, or give this run a"
                    " folder of its own (data.cache)"
                )

    def _claim(self, part, size, lock):
        """Make room and claim it for a part; returns whether that was possible."""
        with locks.blocking_lock(self.folder / "room.lock"):
            copies = self._copies(part)
            taken = sum(bytes_taken for _, _, bytes_taken in copies)
            there = part.stat().st_size if part.exists() else 0
            for path, _, bytes_taken in copies:
                if taken + size <= self.limit and size - there <= shutil.disk_usage(self.folder).free:
                    break
                if _remove(path):
                    taken -= bytes_taken
            fits = taken + size <= self.limit
            if fits:
                free = shutil.disk_usage(self.folder).free
                if size - there > free:
                    raise UserError(
                        f"data.cache={self.folder}: the disk has {free:,} bytes free, the next copy needs"
                        f" {size - there:,}; free more, or give another folder"
                    )
                os.truncate(lock.fileno(), 0)
                os.pwrite(lock.fileno(), str(size).encode(), 0)
                part.touch()
        return fits

    def _copies(self, apart_from):
        """List (path, last use, bytes that it takes or will take) of copies and parts, the least recently used first."""
        found = []
        for entry in os.scandir(self.folder):
            match = _COPY.fullmatch(entry.name)
            if not match or entry.name == apart_from.name:
                continue
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                status = entry.stat()
                claimed = _claimed(self.folder / f"{match['name']}.lock") if match["part"] else 0
                found.append((Path(entry.path), status.st_mtime, max(status.st_size, claimed)))
        return sorted(found, key=lambda copy: copy[1])


def _claimed(lock):
    try:
        return int(lock.read_bytes() or 0)
    except (OSError, ValueError):
        return 0


def _remove(path):
    """Remove a copy, or a part, that nobody uses; returns whether that was possible."""
    if path.suffix == ".part":
        with locks.try_lock(path.with_suffix(".lock")) as lock:
            if lock:
                path.unlink(missing_ok=True)
            return lock is not None
    with (
        contextlib.suppress(OSError),
        open(path, "rb") as file,
    ):  # PermissionError: read-only, or open under Windows
        if locks.alone(file):
            path.unlink()
            return True
    return not path.exists()
