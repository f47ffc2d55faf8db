"""One process at a time in a directory."""

import contextlib
import os

from srgan_dist.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def exclusive(path, what):
    """Hold the lock file `path` while the block runs; raises UserError saying `what` when another process holds it.

    The system lets go of the lock when the process ends, however it ends. Where the file system has no locks, none is taken.
    """
    with open(path, "a+") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{what} by process {file.read().strip() or 'unknown'}; wait for its end, or end it") from None
        except OSError:
            pass  # e.g. a network file system without locks
        file.truncate(0)
        file.write(f"{os.getpid()} on {os.uname().nodename if hasattr(os, 'uname') else 'this machine'}")
        file.flush()
        yield
