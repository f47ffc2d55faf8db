"""Files that appear under their name complete or not at all, and their fingerprints."""

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path

from srgan_dist.utils.errors import UserError


@contextlib.contextmanager
def atomic_write(path, durable=False, replace=True):
    """Yield a temporary path to write to; it gets its real name when the block ends without an error.

    durable: the file is on the disk, not only in the system's memory, before it gets the name.
    replace: whether an existing file of the name is replaced; otherwise it stays and UserError is raised.
    """
    path = Path(path)
    # A name of its own: another process may be writing the same file.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    try:
        yield unfinished
        if durable:
            sync(unfinished)
        if replace:
            os.replace(unfinished, path)
        else:
            take_name(unfinished, path)
        if durable:
            sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def take_name(unfinished, path):
    """Give a file or folder its name unless another has it; raises UserError then."""
    try:
        os.link(unfinished, path)  # unlike a rename it fails where the name is taken
    except OSError:
        if os.path.lexists(path):
            raise UserError(
                f"{path} exists by now and is left as it is; give another name or delete it"
            ) from None
        os.replace(unfinished, path)  # a file system without hard links


def write_json(path, content):
    """Write content as a JSON file, at once or not at all; numbers that are not finite are an error."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def sync(path):
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path):
    """Return the sha256 of a file in hex; of a folder that of the names and sha256 of the files below it."""
    digest, piece = hashlib.sha256(), bytearray(2**23)
    if Path(path).is_dir():
        for file in sorted(file for file in Path(path).rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path)}\0{sha256_of(file)}\0".encode())
        return digest.hexdigest()
    with open(path, "rb", buffering=0) as file:
        # In large pieces: beside a busy thread each costs a wait for Python's lock
        while size := file.readinto(piece):
            digest.update(memoryview(piece)[:size])
    return digest.hexdigest()
