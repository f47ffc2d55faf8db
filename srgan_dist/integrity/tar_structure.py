"""Whether a shard is a plain tar of the samples of the index only: no links, other members, or gaps."""

import mmap
import tarfile

import numpy as np

from srgan_dist.data.sample import BLOCK, members, padded
from srgan_dist.storage.cache import opened

KINDS = {  # of tar members, by their type; a shard has files only
    tarfile.REGTYPE: "the file",
    tarfile.DIRTYPE: "the folder",
    tarfile.SYMTYPE: "the symbolic link",
    tarfile.LNKTYPE: "the hard link",
    tarfile.GNUTYPE_SPARSE: "the sparse file",
    tarfile.XHDTYPE: "the PAX header",
    tarfile.XGLTYPE: "the PAX header",
}
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def structure_problems(split, number):
    """Yield (row of the index, problem) for every place where a shard is not such a tar.

    Bytes after the last sample are a problem of that sample.
    """
    rows, position = np.flatnonzero(split.rows["shard"] == number), 0
    with (
        opened(split.shards[number]) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        for i, member in _members(split, rows.tolist()):
            start = int(split.rows[i][f"{member.part}_offset"]) - len(member.head)
            found, expected = _kind_at(data, position), f"the file {member.name!r} of {member.size} bytes"
            if found != expected or start != position + BLOCK:
                yield i, f"at offset {position} is {found}, the index has {expected} at {start - BLOCK}"
            if data[start : start + len(member.head)] != member.head:
                yield (
                    i,
                    f"{member.name!r} does not begin, at offset {start}, with the NPY header of the image in"
                    " the index",
                )
            end, position = start + member.size, start + padded(member.size, BLOCK)
            if any(data[end:position]):
                yield i, f"after {member.name!r}, at offset {end}, are bytes that are no padding"
        if data[position:].strip(b"\0"):
            found = _kind_at(data, position)
            yield int(rows[-1]), f"at offset {position}, after the last sample of the index, is {found}"


def _members(split, rows):
    for i in rows:
        for member in members(split.rows[i], split.set.manifest.encoding, split.dtype, split.scale):
            yield i, member


def _kind_at(data, position):
    """Describe the tar member that begins at an offset of a shard."""
    block = data[position : position + BLOCK]
    for magic, compression in COMPRESSIONS.items():
        if block.startswith(magic):
            return f"data compressed by {compression}"
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return f"no tar header ({error})"
    kind = KINDS.get(member.type, f"a member of type {member.type!r}")
    return f"{kind} {member.name!r} of {member.size} bytes"
