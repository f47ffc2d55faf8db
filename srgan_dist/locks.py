"""One process at a time that writes a folder."""

import contextlib
import os

from srgan_dist.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def exclusive(path, message, file_is_lock=False):
    """Hold the lock file `path`, made if need be, while the block runs; UserError with `message` if another process does.

    The system's lock ends with its process, however that ends. Where there is none (Windows, some network file systems)
    nothing is held, or with `file_is_lock` the file itself, which a killed process leaves behind.
    """
    try:
        descriptor, fresh = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        descriptor, fresh = os.open(path, os.O_RDWR), False
    try:
        if not _locked(descriptor, otherwise=fresh or not file_is_lock) or not _still_called(descriptor, path):
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


def _still_called(descriptor, path):
    """Tell whether an open file has kept its name: its holder may have removed it while we waited for the lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def exclusive_out(path, out):
    """Hold `path` while OUT is being written, also where the system has no locks."""
    message = f"another build is writing OUT={out}; wait for it or give another folder (if there is none, delete {path})"
    return exclusive(path, message, file_is_lock=True)
