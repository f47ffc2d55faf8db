"""The folder in which a volume is made block by block before it gets its name, and the journals that let the
same command continue it. Several volumes of one shape, of which each block gives a part, are made together.

    .NAME.unfinished/lock             held by the process that makes the volume, of several by rank 0
    .NAME.unfinished/NAME             the volume, and beside it any others
    .NAME.unfinished/settings.json    what determines its voxels; written when the file of the volume is there
    .NAME.unfinished/blocks.0.jsonl   the blocks that rank 0 has finished, one line each
"""

import contextlib
import os
import shutil
import time

from srgan_dist.data.write_volumes import open_created, parts_of, remove_partial_chunks
from srgan_dist.runtime.process_group import barrier
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import beside, read_regular, sync, take_name, unwritable_refused, write_json
from srgan_dist.utils.json_text import load_json
from srgan_dist.utils.locks import file_lock

SETTINGS = "settings.json"
SECONDS_BETWEEN_FLUSHES = 0.5  # neighbours along x share pages of the disk: each would write them again


def folder_of(output):
    return beside(output, ".unfinished", hidden=True)


def is_unfinished(output):
    """Return whether a run has begun to make an output and has not finished it."""
    return (folder_of(output) / SETTINGS).exists()


def is_all_but_removed(output):
    """Return whether an output has got its name from a run that was killed before its folder was removed."""
    part = folder_of(output) / output.name
    return is_unfinished(output) and output.exists() and (not part.exists() or output.samefile(part))


@contextlib.contextmanager
def unfinished_volume(outputs, settings, make, shape, rank=0, named=lambda: None):
    """Yield the UnfinishedVolume of outputs {path: dtype}, of which the first names the folder; when the
    block ends without an error, all have their names, the first one last.

    settings: plain JSON, of what determines the voxels: an unfinished volume of others is a UserError.
    make(path, dtype) makes the file of a volume. Every rank of a group calls this; rank 0 makes and names
    the files, and calls named() then. An error leaves the folder for the same command, which continues; one
    before the first block removes it.
    """
    output, folder = (first := next(iter(outputs))), folder_of(first)
    with contextlib.ExitStack() as stack:
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            busy = f"OUTPUT={output} is being written by another process; wait for it or give another name"
            stack.enter_context(file_lock(folder / "lock", busy))
            stack.enter_context(_removed_if_empty(folder))
            _prepare(folder, outputs, settings, make)
        barrier()
        with contextlib.closing(UnfinishedVolume(folder, outputs, shape, rank)) as volume:
            if rank == 0:
                _check_space(output, volume.missing_bytes())
            yield volume
        barrier()
        if rank == 0:
            for path in outputs:
                remove_partial_chunks(_place(folder, path))
            for part in [part for path in reversed(outputs) for part in parts_of(folder / path.name)]:
                target = output.with_name(part.name)
                has_name = target.exists() and (not part.exists() or target.samefile(part))  # by a killed run
                if not has_name:
                    take_name(part, target)
            named()
            shutil.rmtree(folder)
        barrier()


@contextlib.contextmanager
def _removed_if_empty(folder):
    try:
        yield
    except BaseException:
        if not any(map(_read, folder.glob("blocks.*.jsonl"))):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _prepare(folder, outputs, settings, make):
    output = next(iter(outputs))
    if (folder / SETTINGS).exists():
        _compare(folder, output, settings)
        if all(_place(folder, path).exists() for path in outputs):  # none deleted that already had its name
            return
    for path in folder.iterdir():
        if path.name != "lock":  # of a process that ended before the file was made
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with disk_named(output):
        for path, dtype in outputs.items():
            make(folder / path.name, dtype)
    write_json(folder / SETTINGS, settings)


def _compare(folder, output, settings):
    try:
        before = load_json(read_regular(folder / SETTINGS))
        other = [name for name in {**settings, **before} if before.get(name) != settings.get(name)]
    except (ValueError, TypeError, AttributeError):
        other = ["a damaged settings.json"]
    if other:
        raise UserError(
            f"OUTPUT={output} is unfinished, of a run with other values of: {', '.join(other)}. Run that one"
            f" again to finish it, give another name, or delete {folder} to start over"
        )


def _check_space(output, needed):
    free = shutil.disk_usage(folder_of(output)).free
    if needed > free:
        raise UserError(
            f"OUTPUT={output} needs up to {needed:,} more bytes, and its disk has {free:,} free; make room,"
            " or give another name"
        )


def disk_named(output, missing=lambda: 0):
    """Turn an OSError of the block into a UserError with the bytes that are needed and free."""

    def room():
        free, needed = shutil.disk_usage(output.parent).free, missing()
        needs = f"It needs up to {needed:,} more bytes, its disk has {free:,} free. " if needed else ""
        return f"{needs}The same command continues"

    return unwritable_refused(f"OUTPUT={output}", room)


class UnfinishedVolume:
    """Writes the blocks of volumes, and knows which ones are there."""

    def __init__(self, folder, outputs, shape, rank):
        self.output = next(iter(outputs))
        self.done = set().union(*map(_read, folder.glob("blocks.*.jsonl")))
        self.writers = [open_created(_place(folder, path), shape, dtype) for path, dtype in outputs.items()]
        path = folder / f"blocks.{rank}.jsonl"
        self.journal = open(path, "a+b")
        self.journal.truncate(len(_lines(path)))  # without a line that was not finished
        self.pending, self.flushed = [], time.monotonic()

    def write(self, number, corner, blocks):
        """Write the block `number` of each volume at its corner; it is in the journal once it is on the disk,
        soon.
        """
        with disk_named(self.output, self.missing_bytes):
            for writer, block in zip(self.writers, blocks, strict=True):
                writer.write(corner, block)
        self.pending.append(number)
        if time.monotonic() - self.flushed > SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self):
        """Wait until all blocks are on the disk, and note them."""
        with disk_named(self.output, self.missing_bytes):
            for writer in self.writers:
                writer.flush()
            self.journal.write(b"".join(b'{"block": %d}\n' % number for number in self.pending))
            self.journal.flush()
            sync(self.journal.name)
        self.pending, self.flushed = [], time.monotonic()

    def missing_bytes(self):
        """Return how many bytes of the disk the voxels still need, at most."""
        return sum(writer.missing_bytes() for writer in self.writers)

    def close(self):
        try:
            self.flush()
        finally:
            for writer in self.writers:
                writer.close()
            self.journal.close()


def _place(folder, output):
    """Return where a volume is: in the folder, or where a killed run has given it, or a part, its name."""
    inside = folder / output.name
    return inside if all(map(os.path.lexists, parts_of(inside))) else output


def _lines(path):
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def _read(path):
    try:
        return {load_json(line)["block"] for line in _lines(path).splitlines()}
    except (ValueError, TypeError, LookupError):
        raise UserError(f"{path} is damaged; delete {path.parent} to start over") from None
