"""Shards of encoded images, assembled when the bytes of all images are known.

Until then they are in spools, one file per source. A spool is removed when the last shard that reads it is
complete, so the disk holds little twice, unless the sources are volumes, whose slices are spread over many
shards.
"""

import errno
import io
import os
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from srgan_dist.data.sample import TAR_OPTIONS
from srgan_dist.packing.layout import Shard, place


class Piece(NamedTuple):
    """An image in a spool."""

    spool: Path
    start: int
    bytes: int
    crc32: int


@dataclass(frozen=True)
class ShardJob:
    """A shard to be assembled."""

    path: Path
    shard: Shard
    bytes: int
    pieces: list  # of each sample: (HR, LR)


def assemble_all(folder, shards, jobs, facts, run):
    """Write all shards into `folder` from the spools of the jobs, and remove these.

    facts: of each job, those of its samples.
    """
    pieces = {}
    for job, found in zip(jobs, facts, strict=True):
        pieces.update(_pieces_of(job, found))
    jobs_of_shards = [
        ShardJob(
            folder / shard.file, shard, place(shard), [pieces[row["key"].decode()] for row in shard.rows]
        )
        for shard in shards
    ]
    users = Counter(spool for job_of_shard in jobs_of_shards for spool in _spools(job_of_shard))
    for job_of_shard, _ in zip(jobs_of_shards, run(_assemble, jobs_of_shards), strict=True):
        users.subtract(spools := _spools(job_of_shard))
        for spool in spools:
            if not users[spool]:
                spool.unlink(missing_ok=True)


def _pieces_of(job, facts):
    start = 0
    for sample, of_sample in zip(job.samples, facts, strict=True):
        middle = start + of_sample.hr_bytes
        yield (
            sample.key,
            (
                Piece(job.spool, start, of_sample.hr_bytes, of_sample.hr_stored),
                Piece(job.spool, middle, of_sample.lr_bytes, of_sample.lr_stored),
            ),
        )
        start = middle + of_sample.lr_bytes


def _spools(job_of_shard):
    return {piece.spool for pair in job_of_shard.pieces for piece in pair}


def _assemble(job_of_shard):
    """Write a shard; images that an interrupted build has written to it already need no spool."""
    import webdataset  # and with it PyTorch, for which --help does not wait

    path, shard = job_of_shard.path, job_of_shard.shard
    part = path.with_suffix(".part")
    with (
        open(path, "rb") if path.exists() else io.BytesIO() as before,
        open(part, "wb") as file,
        webdataset.TarWriter(file, encoder=False, **TAR_OPTIONS) as writer,
    ):
        for (row, record, _), pair in zip(shard.members(), job_of_shard.pieces, strict=True):
            images = {
                f"{side}.{shard.encoding}": _image(before, int(row[f"{side}_offset"]), piece)
                for side, piece in zip(("hr", "lr"), pair, strict=True)
            }
            writer.write({"__key__": row["key"].decode(), "json": record, **images})
    assert part.stat().st_size == job_of_shard.bytes, "TarWriter and `place` have one layout"
    os.replace(part, path)


def _image(before, offset, piece):
    """Return the bytes of an image: of its place in an earlier file of the shard, else of the spool."""
    before.seek(offset)
    data = before.read(piece.bytes)
    return data if zlib.crc32(data) == piece.crc32 else _read(piece)


def _read(piece):
    with open(piece.spool, "rb") as spool:
        spool.seek(piece.start)
        data = spool.read(piece.bytes)
    if zlib.crc32(data) != piece.crc32:
        raise OSError(errno.EIO, f"{piece.spool} has changed since it was written")
    return data
