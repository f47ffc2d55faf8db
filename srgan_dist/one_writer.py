"""One process at a time that writes a folder, also where the system has no locks."""

import contextlib
import os

from srgan_dist.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def one_writer(path, out):
    """Hold the file `path` while the block runs, so that no second process writes OUT meanwhile.

    The system's lock ends with its process, however that ends. Where there is none (Windows, some network file
    systems) the file itself is the lock, and a killed process leaves it behind.
    """
    try:
        descriptor, fresh = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        descriptor, fresh = os.open(path, os.O_RDWR), False
    try:
        if not _locked(descriptor, fresh) or not _still_called(descriptor, path):
            raise UserError(f"another build is writing OUT={out}; wait for it or give another folder"
                            f" (if there is none, delete {path})")
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor, fresh):
    if fcntl is None:
        return fresh
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return fresh
    return True


def _still_called(descriptor, path):
    """Tell whether an open file has kept its name: its build may have ended while we waited for the lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
