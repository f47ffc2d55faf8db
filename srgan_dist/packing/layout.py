"""Where every byte of a set belongs: which sample in which shard, which member at which place of the tar.

For plain pixels all of it follows from headers and options, so they can be written to their places in any order and by
many processes. Where encoded images belong is known when all of them are encoded.
"""

import os
from dataclasses import dataclass

import numpy as np

from srgan_dist.data import index
from srgan_dist.data.sample import BLOCK, RECORD, encode_record, fields, npy_header, padded, tar_header


@dataclass(frozen=True)
class Shard:
    """A tar to be written; its samples are in the order of the tar."""

    file: str
    rows: np.ndarray  # of INDEX: its part of the table of its split
    records: list  # JSON members, as bytes
    dtype: np.dtype
    encoding: str


def arrange(sources, samples, rocks, dtype, options):
    """Deal the samples out to shards, shuffled by the seed, so that reading straight through mixes rocks and slices.

    Returns {split: table of INDEX} with everything that is known before pixels are (for encoded
    images the bytes are those of the plain pixels), and {split: list of Shard}, whose
    rows are parts of these tables.
    """
    tables, shards = {}, {}
    for number, split in enumerate(index.SPLITS):
        chosen = [sample for sample in samples if sources[sample.source].split == split]
        if not chosen:
            continue
        order = np.random.default_rng((options.seed, number)).permutation(len(chosen))
        tables[split] = table = np.zeros(len(chosen), index.INDEX)
        shards[split], start = [], 0
        for shard, group in enumerate(np.array_split(order, -(-len(chosen) // options.samples_per_shard))):
            mine = [chosen[i] for i in group]
            rows = table[start : start + len(mine)]
            rows["shard"] = shard
            for row, sample in zip(rows, mine, strict=True):
                _describe(row, sample, rocks.index(sources[sample.source].rock), options.scale, dtype)
            records = [_record(sample, sources[sample.source], options.scale) for sample in mine]
            shards[split].append(
                Shard(index.shard_name(split, shard), rows, records, dtype, options.encoding)
            )
            start += len(mine)
    return tables, shards


def _describe(row, sample, rock, scale, dtype):
    row["key"], row["rock"] = sample.key.encode(), rock
    for side, divisor in (("hr", 1), ("lr", scale)):
        height, width = sample.height // divisor, sample.width // divisor
        row[f"{side}_height"], row[f"{side}_width"] = height, width
        row[f"{side}_bytes"] = height * width * dtype.itemsize


def _record(sample, source, scale):
    return encode_record(
        {
            "rock": source.rock,
            "source": source.file,
            "page": sample.page,
            "top": sample.top,
            "left": sample.left,
            "scale": scale,
            "kernel": sample.kernel,
            "voxel_size_um": source.hr.voxel_size_um,
        }
    )


def place(shard):
    """Enter into the rows of a shard where its samples belong; returns its size in bytes."""
    position = 0
    for row, record in zip(shard.rows, shard.records, strict=True):
        for name, head, size in _members(row, record, shard):
            start = position + BLOCK
            if name == "json":
                row["record_offset"], row["record_bytes"] = start, size
            else:
                row[f"{name[:2]}_offset"] = start + len(head)
            position = start + padded(size, BLOCK)
    return padded(position + 2 * BLOCK, RECORD)


def _members(row, record, shard):
    """Return the members of a sample in the order of the tar: name, what it begins with, size in bytes."""
    heads, sizes = {"json": record}, {"json": len(record)}
    for side in ("hr", "lr"):
        size = int(row[f"{side}_height"]), int(row[f"{side}_width"])
        head = npy_header(*size, shard.dtype) if shard.encoding == "npy" else b""
        name = f"{side}.{shard.encoding}"
        heads[name], sizes[name] = head, len(head) + int(row[f"{side}_bytes"])
    return [(name, heads[name], sizes[name]) for name in fields(shard.encoding)]


def write_skeleton(path, shard, size):
    """Write all bytes of a shard but those of its images; where these belong, what is there stays."""
    with open(path, "r+b" if path.exists() else "w+b") as file:
        for row, record in zip(shard.rows, shard.records, strict=True):
            for name, head, member_size in _members(row, record, shard):
                file.write(tar_header(f"{row['key'].decode()}.{name}", member_size) + head)
                file.seek(member_size - len(head), os.SEEK_CUR)
                file.write(bytes(padded(member_size, BLOCK) - member_size))
        file.write(bytes(size - file.tell()))
        file.truncate()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk shows now, not after an hour
