"""Files that appear under their name complete or not at all, and what tells one from another."""

import contextlib
import hashlib
import os
from pathlib import Path


@contextlib.contextmanager
def written_whole(path, durable=False):
    """Yield a temporary path to write to; it gets its real name when the block ends without an error.

    durable: the file is on the disk, not only in the system's memory, before it gets the name.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        if durable:
            sync(unfinished)
        os.replace(unfinished, path)
        if durable:
            sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync(path):
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path):
    """Return the sha256 of a file in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
