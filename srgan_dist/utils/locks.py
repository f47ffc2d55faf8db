"""One process at a time that writes a folder or makes a file, and files that stay while they are used."""

import contextlib
import os
import time

from srgan_dist.utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def file_lock(path, message, file_is_lock=False):
    """Hold the lock file `path`, made if need be, while the block runs; UserError with `message` if another process does.

    The system's lock ends with its process, however that ends. Where there is none (Windows, some network file systems)
    nothing is held, or with `file_is_lock` the file itself, which a killed process leaves behind.
    """
    try:
        descriptor, fresh = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        descriptor, fresh = os.open(path, os.O_RDWR), False
    try:
        if not _locked(descriptor, otherwise=fresh or not file_is_lock) or not still_called(descriptor, path):
            raise UserError(message)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor, otherwise):
    """Take the system's lock; returns `otherwise` where there are no locks."""
    if fcntl is None:
        return otherwise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return otherwise
    return True


def still_called(descriptor, path):
    """Tell whether an open file has kept its name: it may have been removed while we waited for its lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def output_lock(path, out):
    """Hold `path` while OUT is being written, also where the system has no locks."""
    message = f"another build is writing OUT={out}; wait for it or give another folder (if there is none, delete {path})"
    return file_lock(path, message, file_is_lock=True)


# Locks that are waited for; where the system has none, everybody gets them at once


@contextlib.contextmanager
def blocking_lock(path, stop=None):
    """Hold the lock file `path` while the block runs, waiting for it; yields it open for writing.

    Yields None if the Event `stop` is set first. The file goes with the lock.
    """
    while (lock := _opened_and_locked(path)) is None and not (stop and stop.is_set()):
        time.sleep(0.05)
    with _released(lock, path):
        yield lock


@contextlib.contextmanager
def try_lock(path):
    """Hold the lock file `path` while the block runs; yields None if another holds it."""
    lock = _opened_and_locked(path)
    with _released(lock, path):
        yield lock


def _opened_and_locked(path):
    lock = open(path, "a+b")
    if _locked(lock.fileno(), otherwise=True) and still_called(lock.fileno(), path):
        return lock
    lock.close()
    return None


@contextlib.contextmanager
def _released(lock, path):
    try:
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):  # Windows does not remove what is open
                os.unlink(path)
            lock.close()


def share(file):
    """Lock an open file together with others that share it, until it and its memory maps are closed."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)


def alone(file):
    """Tell whether nobody shares an open file, and keep others from sharing it until it is closed."""
    return _locked(file.fileno(), otherwise=True)
