"""Lock files that one process holds at a time, and shared locks on files that are in use.

The system's lock (flock) ends with its process, however that ends. A lock file may have content, which is
never truncated: the name of the holder, the bytes that it reserves, the record of an unfinished set.
"""

import contextlib
import os
import time

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import open_regular

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def file_lock(path, message, file_is_lock=False):
    """Hold the lock file `path`, made if need be, while the block runs; yields its descriptor.

    Raises UserError with `message` if another process holds it. The file stays. file_is_lock: where the
    system has no locks (Windows, some network file systems), a file that exists counts as held, even if its
    process was killed; otherwise nothing is held there.
    """
    is_new = not os.path.lexists(path)
    try:
        lock = open_regular(path, "x+b" if is_new else "r+b", follow=False)
    except FileExistsError:  # made meanwhile
        raise UserError(message) from None
    with lock:
        if not _flock(lock.fileno(), is_new or not file_is_lock) or not has_path(lock.fileno(), path):
            raise UserError(message)
        yield lock.fileno()


def output_lock(path, out):
    """Hold `path` while OUT is being written, also where the system has no locks."""
    wait = f"wait for it or give another folder (if there is none, delete {path})"
    return file_lock(path, f"another build is writing OUT={out}; {wait}", file_is_lock=True)


@contextlib.contextmanager
def try_lock(path):
    """Hold the lock file `path` while the block runs; yields the open file, or None if it is held already.

    The file is removed with the lock. Where the system has no locks, every process gets it. Raises
    UnusableFile for a link and for a file of somebody else, to which nothing is written.
    """
    with open_regular(path, "a+b", own=True) as lock:
        if not _flock(lock.fileno(), without_locks=True) or not has_path(lock.fileno(), path):
            yield None
            return
        try:
            yield lock
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove an open file
                os.unlink(path)


@contextlib.contextmanager
def blocking_lock(path, stop=None):
    """Wait for `try_lock(path)`; yields None if the Event `stop` is set first."""
    while not (stop and stop.is_set()):
        with try_lock(path) as lock:
            if lock is not None:
                yield lock
                return
        time.sleep(0.05)
    yield None


def shared_lock(file):
    """Lock an open file together with others that share it, until it and its memory maps are closed."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)


def exclusive_lock(file):
    """Lock an open file until it is closed; returns False if others share it."""
    return _flock(file.fileno(), without_locks=True)


def has_path(descriptor, path):
    """Return whether an open file is still the one at `path`, and has not been removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _flock(descriptor, without_locks):
    """Take the system's exclusive lock, return whether that succeeded; `without_locks` if it has none."""
    if fcntl is None:
        return without_locks
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return without_locks
    return True
