"""The directory in which a set is made before it gets its name, and the journal that lets the next build
resume it.

    OUT.building/building.json         locked by the build; marks the directory as made by this program
    OUT.building/<hash>/packed.jsonl   the packed sources, one line each, with a checksum
    OUT.building/<hash>/spool/         encoded images until their shard is assembled, one file per source
    OUT.building/<hash>/set/           becomes OUT in one rename

The hash is that of everything that determines the bytes of the set, so a process that outlives a build with
other options cannot write into the files of this one.
"""

import contextlib
import hashlib
import json
import re
import shutil
import zlib

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.executors import WorkersLost
from srgan_dist.utils.files import atomic_write, beside, read_regular, sync
from srgan_dist.utils.locks import output_lock

MARKER = "building.json"
JOURNAL = "packed.jsonl"


@contextlib.contextmanager
def build_directory(out, fingerprint):
    """Yield a BuildDirectory beside OUT that no other build works in.

    It is removed when the build is done or fails with an error. When the build is interrupted it stays, and
    the next one with the same fingerprint (plain JSON) resumes it.
    """
    top = _beside(out)
    if top.exists() and not _is_ours(top):
        raise UserError(f"{top} is in the way and was not made by this program; move it")
    top.mkdir(parents=True, exist_ok=True)
    with output_lock(top / MARKER, out):
        if holds_files(out):
            _remove(top)
            raise UserError(f"another build has just finished OUT={out}; run this one again to compare")
        try:
            root = top / hashlib.sha256(_text(fingerprint)).hexdigest()[:16]
            _clear(top, (MARKER, root.name))
            with contextlib.closing(BuildDirectory(root, fingerprint)) as directory:
                yield directory
        except WorkersLost:
            raise
        except (UserError, OSError):
            _remove(top)
            raise
        _remove(top)


def holds_files(folder):
    return folder.exists() and any(folder.iterdir())


def remove_left_over(out):
    """Remove the directory of a build that was killed just after it had finished OUT."""
    top = _beside(out)
    if (top / MARKER).is_file():
        with contextlib.suppress(UserError), output_lock(top / MARKER, out):
            _remove(top)


def _beside(out):
    return beside(out, ".building")


def _is_ours(top):
    """Return whether a directory is of a build, also where its marker has been deleted to unlock it."""
    if not top.is_dir():
        return False
    return (top / MARKER).is_file() or all(
        re.fullmatch("[0-9a-f]{16}", path.name) and (path / JOURNAL).is_file() for path in top.iterdir()
    )


def _clear(folder, but=()):
    for path in folder.iterdir():
        if path.name not in but:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _remove(top):
    """Remove a build directory, its marker last, so that it is recognised at any moment."""
    with contextlib.suppress(OSError):
        _clear(top, (MARKER,))
        (top / MARKER).unlink()
        top.rmdir()


class BuildDirectory:
    """The directory in which one set is made, and its journal.

    known: the results of earlier builds, by number of the job. A journal of another build, or one that is
    damaged anywhere but in its last, unfinished line, means starting over.
    """

    def __init__(self, root, fingerprint):
        root.mkdir(exist_ok=True)
        journal = root / JOURNAL
        entries = _read(journal)
        if not entries or entries[0] != fingerprint:
            entries = [fingerprint]
            _clear(root)
        self.set, self.spool = root / "set", root / "spool"
        for folder in (self.set, self.spool):
            folder.mkdir(exist_ok=True)
        self.known = dict(entries[1:])
        with atomic_write(journal) as path:  # without an unfinished line at its end
            path.write_bytes(b"".join(map(_line, entries)))
        self.journal = open(journal, "ab")

    def record(self, number, packed):
        """Append the result of a job, plain JSON, to the journal."""
        self.journal.write(_line([number, packed]))
        self.journal.flush()

    def sync_journal(self):
        """Wait until the journal is on the disk."""
        sync(self.journal.name)

    def close(self):
        self.journal.close()


def _text(entry):
    return json.dumps(entry, sort_keys=True).encode()


def _line(entry):
    return b"[%d, %s]\n" % (zlib.crc32(_text(entry)), _text(entry))


def _read(journal):
    """Return the entries of a journal, or none if it is missing or damaged."""
    try:
        entries = [(line, json.loads(line)[1]) for line in read_regular(journal, 2**30).split(b"\n")[:-1]]
    except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
        return []
    intact = all(_line(entry) == line + b"\n" for line, entry in entries)
    return [entry for _, entry in entries] if intact else []
