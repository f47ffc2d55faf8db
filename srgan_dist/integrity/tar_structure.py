"""Whether a shard is a plain tar of the samples of the index and of nothing else: no links, no strangers, no gaps."""

import mmap
import tarfile

import numpy as np

from srgan_dist.data.sample import BLOCK, fields, npy_header, padded

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
    """Yield (row of the index, what is wrong in words) for every place where a shard is not such a tar.

    What follows the last sample counts as its fault.
    """
    mine, position = np.flatnonzero(split.rows["shard"] == number), 0
    with (
        split.shards[number].open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        for sample, name, start, size, head in _members(
            split.rows[mine], split.set.manifest.encoding, split.dtype
        ):
            found, expected = _told_at(data, position), f"the file {name!r} of {size} bytes"
            if found != expected or start != position + BLOCK:
                yield (
                    int(mine[sample]),
                    f"at offset {position} lies {found}, the index has {expected} at {start - BLOCK}",
                )
            if data[start : start + len(head)] != head:
                yield (
                    int(mine[sample]),
                    f"{name!r} does not begin, at offset {start}, with the NPY header of the image in the index",
                )
            position = start + padded(size, BLOCK)
            if any(data[start + size : position]):
                yield int(mine[sample]), f"after {name!r}, at offset {start + size}, lies what is no padding"
        if data[position:].strip(b"\0"):
            yield (
                int(mine[-1]),
                f"at offset {position}, after the last sample of the index, lies {_told_at(data, position)}",
            )


def _members(rows, encoding, dtype):
    """Yield for every tar member of some samples: number of the sample, name, where its content begins, its bytes, its
    first bytes as far as they are known.
    """
    for number, row in enumerate(rows):
        key, places = (
            row["key"].decode(),
            {"json": (int(row["record_offset"]), int(row["record_bytes"]), b"")},
        )
        for side in ("hr", "lr"):
            size = int(row[f"{side}_height"]), int(row[f"{side}_width"])
            head = npy_header(*size, dtype) if encoding == "npy" else b""
            places[f"{side}.{encoding}"] = (
                int(row[f"{side}_offset"]) - len(head),
                len(head) + int(row[f"{side}_bytes"]),
                head,
            )
        yield from ((number, f"{key}.{name}", *places[name]) for name in fields(encoding))


def _told_at(data, position):
    """Say what kind of tar member begins at a place of a shard."""
    block = data[position : position + BLOCK]
    for magic, compression in COMPRESSIONS.items():
        if block.startswith(magic):
            return f"what {compression} has compressed"
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return f"no tar header ({error})"
    return f"{KINDS.get(member.type, f'a member of type {member.type!r}')} {member.name!r} of {member.size} bytes"
