"""Shards of encoded images, put together when the bytes of all images are known.

Encoded images wait for that in spools, one file per source. A spool goes when the last shard that takes from it is
whole, so the disk holds little twice, unless the sources are volumes, whose slices are spread over many shards.
"""

import errno
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from srgan_dist.data.layout import Shard, place, write_skeleton


class Piece(NamedTuple):
    """An image in a spool."""

    spool: Path
    start: int
    bytes: int
    crc32: int


@dataclass(frozen=True)
class Order:
    """A shard to be put together."""

    path: Path
    shard: Shard
    bytes: int
    pieces: list  # of each sample: (HR, LR)


def assemble_all(folder, shards, jobs, facts, run):
    """Write all shards into `folder` from the spools of the jobs, which go; facts: of each job, those of its samples."""
    pieces = {}
    for job, found in zip(jobs, facts, strict=True):
        pieces.update(_pieces_of(job, found))
    orders = [Order(folder / shard.file, shard, place(shard), [pieces[row["key"].decode()] for row in shard.rows])
              for shard in shards]
    users = Counter(spool for order in orders for spool in _spools(order))
    for order, _ in zip(orders, run(_assemble, orders), strict=True):
        users.subtract(spools := _spools(order))
        for spool in spools:
            if not users[spool]:
                spool.unlink(missing_ok=True)


def _pieces_of(job, facts):
    start = 0
    for sample, told in zip(job.samples, facts, strict=True):
        middle = start + told.hr_bytes
        yield sample.key, (Piece(job.spool, start, told.hr_bytes, told.hr_stored),
                           Piece(job.spool, middle, told.lr_bytes, told.lr_stored))
        start = middle + told.lr_bytes


def _spools(order):
    return {piece.spool for pair in order.pieces for piece in pair}


def _assemble(order):
    """Write a shard; images that lie in it already, from a build that was interrupted, stay and need no spool."""
    write_skeleton(order.path, order.shard, order.bytes)
    with open(order.path, "r+b") as file:
        for row, pair in zip(order.shard.rows, order.pieces, strict=True):
            for side, piece in zip(("hr", "lr"), pair, strict=True):
                offset = int(row[f"{side}_offset"])
                file.seek(offset)
                if zlib.crc32(file.read(piece.bytes)) != piece.crc32:
                    file.seek(offset)
                    file.write(_read(piece))


def _read(piece):
    with open(piece.spool, "rb") as spool:
        spool.seek(piece.start)
        data = spool.read(piece.bytes)
    if zlib.crc32(data) != piece.crc32:
        raise OSError(errno.EIO, f"{piece.spool} has changed since it was written")
    return data
