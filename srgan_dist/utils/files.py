"""Files that appear under their name complete or not at all, that are opened only if they are regular, and
their fingerprints.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
from pathlib import Path

from srgan_dist.utils.errors import UserError

TEXT_BYTES = 2**24  # the largest config, record or settings that is read


class UnusableFile(UserError, OSError):
    """A file that is no regular one, too large, or of somebody else; the message names it."""


def open_regular(path, mode="rb", follow=True, own=False):
    """Open a file that others may have put there; raises UnusableFile for a device, pipe or socket, of which
    reading might never end.

    follow: whether it may be a link. own: it is written to, or trusted, in a folder that others may write to:
    it must be no link, have no other name, and belong to the user.
    """
    no_link = 0 if follow and not own else getattr(os, "O_NOFOLLOW", 0)
    flags = getattr(os, "O_NONBLOCK", 0) | no_link
    try:
        file = open(path, mode, opener=lambda name, given: os.open(name, given | flags, 0o666))
    except OSError as error:
        if error.errno not in _PROBLEMS:
            raise
        raise UnusableFile(f"{path} {_PROBLEMS[error.errno]}") from None
    status, problem = os.fstat(file.fileno()), None
    if not stat.S_ISREG(status.st_mode):
        problem = "is no regular file"
    elif own and status.st_nlink > 1:
        problem = "has another name (a hard link)"
    elif own and hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        problem = f"belongs to another user (uid {status.st_uid})"
    if problem:
        file.close()
        raise UnusableFile(f"{path} {problem}; {_WAY_OUT}")
    return file


_WAY_OUT = "delete it, or put a plain file of your own there"
_PROBLEMS = {
    errno.ELOOP: f"is a link that is not followed; {_WAY_OUT}",
    errno.ENXIO: f"is no regular file; {_WAY_OUT}",
    errno.EISDIR: "is a folder; give a file",
}


def check_own_folder(path):
    """Raise UnusableFile for a folder that is a link, or of another user, who may change its files."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise UnusableFile(f"{path} is no folder, or a link to one; delete it")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise UnusableFile(f"{path} belongs to another user (uid {status.st_uid}); delete it")


def is_shared(folder):
    """Return whether a folder exists to which other users may write; root may anyway."""
    if not (hasattr(os, "geteuid") and os.path.exists(folder)):
        return False
    status = os.stat(folder)
    by_group = status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid)
    by_others = status.st_mode & stat.S_IWOTH
    return bool(by_group or by_others or status.st_uid not in (0, os.geteuid()))


def _is_private_group(number):
    """Return whether a group is that of this user alone, as many systems make one for each."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid())
    except KeyError:  # unknown to the system
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def read_regular(path, most=TEXT_BYTES, own=False):
    """Return the bytes of a file of at most `most` bytes, opened by `open_regular`; UnusableFile for more."""
    with open_regular(path, own=own) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UnusableFile(f"{path} has more than {most:,} bytes, the most that is read of such a file")
    return content


def version_of(file):
    """Return what changes where an open file is replaced or rewritten: see `version_in`."""
    return version_in(os.fstat(file.fileno()))


def version_in(status):
    """Return of an os.stat_result what changes with a file: its device, inode, size and time of change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def atomic_write(path, durable=False, replace=True):
    """Yield a temporary path to write to; it gets its real name when the block ends without an error.

    durable: the file is on the disk, not only in the system's memory, before it gets the name.
    replace: whether an existing file of the name is replaced; otherwise it stays and UserError is raised.
    """
    path = Path(path)
    # A name of its own: another process may be writing the same file
    unfinished = beside(path, f".{secrets.token_hex(4)}.unfinished", hidden=True)
    try:
        with unwritable_named(path, unfinished):
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
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def unwritable_named(path, unfinished=None):
    """Let an OSError of the block that names no file, as that of a full disk, or the unfinished one, name
    `path`.
    """
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(unfinished)):
            raise
        if error.errno is None and type(error) is OSError:  # of NumPy
            raise OSError(f"{path} cannot be written: {error}") from None
        if error.errno is None:  # of a library, e.g. a picture that it does not know
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


_ROOM = "Make room, or choose another place"
_RIGHT = "Restore the right to write there, or choose another place"
_WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHT),
    errno.ENAMETOOLONG: "Choose shorter names",
}


@contextlib.contextmanager
def unwritable_refused(subject, more=lambda: "", kind=UserError):
    """Raise `kind`, with the way out of the error's number, where the block cannot write. more(): what else
    is to be said.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        way = _WAYS_OUT.get(error.errno, "Choose another place")
        raise kind(f"{subject} cannot be written ({error}). {way}. {more()}".rstrip(". ")) from None


def beside(path, suffix, hidden=False):
    """Return the path beside another whose name is that with a suffix, and with a dot before it where it is
    hidden. Where that has more than 255 bytes, a hash stands for the end of the name.
    """
    path = Path(path)
    name = f"{'.' * hidden}{path.name}{suffix}"
    if len(os.fsencode(name)) > 255:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        name = f"{'.' * hidden}{path.name[:40]}.{digest}{suffix}"
    return path.with_name(name)


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
    digest = hashlib.sha256()
    if Path(path).is_dir():
        for file in sorted(file for file in Path(path).rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path)}\0{sha256_of(file)}\0".encode())
        return digest.hexdigest()
    with open_regular(path) as file:
        return sha256_of_open(file)


def sha256_of_open(file):
    """Return the sha256 of an open binary file in hex, from where it is to its end."""
    digest, piece = hashlib.sha256(), bytearray(2**23)
    # In large pieces: beside a busy thread each costs a wait for Python's lock
    while size := file.readinto(piece):
        digest.update(memoryview(piece)[:size])
    return digest.hexdigest()
