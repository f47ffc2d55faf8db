"""The layout of a set: which sample is in which shard, and where in the tar.

For uncompressed pixels all of it follows from headers and options, so they can be written to their places in
any order and by many processes. The places of encoded images are known when all of them are encoded.
"""

import math
import os
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from srgan_dist.data.index import index_dtype
from srgan_dist.data.manifest import SPLITS, check_manifest_size, shard_name
from srgan_dist.data.sample import BLOCK, RECORD, encode_record, members, padded, tar_header


@dataclass(frozen=True)
class Shard:
    """A tar to be written; its samples are in the order of the tar."""

    file: str
    rows: np.ndarray  # its part of the index of its split
    records: list  # JSON members, as bytes
    dtype: np.dtype
    encoding: str
    scale: int

    def members(self):
        """Yield (row, JSON member, Members) for every sample."""
        for row, record in zip(self.rows, self.records, strict=True):
            yield row, record, members(row, self.encoding, self.dtype, self.scale)


def arrange(sources, samples, rocks, dtype, options):
    """Distribute the samples over shards, shuffled by the seed, so that reading in order mixes rocks and
    slices.

    Returns {split: index}, complete but for the facts that need pixels (for encoded images the byte counts
    are those of the uncompressed pixels), and {split: list of Shard}, whose rows are parts of these tables.
    Raises UserError for more shards than a set may have.
    """
    per_shard = options.samples_per_shard
    of_splits = Counter(sources[sample.source].split for sample in samples)
    count = sum(-(-of_split // per_shard) for of_split in of_splits.values())
    check_manifest_size(f"samples_per_shard={per_shard}", count)
    tables, shards = {}, {}
    for number, split in enumerate(SPLITS):
        chosen = [sample for sample in samples if sources[sample.source].split == split]
        if not chosen:
            continue
        order = np.random.default_rng((options.seed, number)).permutation(len(chosen))
        tables[split] = table = np.zeros(len(chosen), index_dtype(options.ndim))
        shards[split], start = [], 0
        for shard, group in enumerate(np.array_split(order, -(-len(chosen) // per_shard))):
            rows, records = table[start : start + len(group)], []
            rows["shard"] = shard
            for row, sample in zip(rows, [chosen[i] for i in group], strict=True):
                source = sources[sample.source]
                records.append(_record(sample, source, options))
                _describe(row, sample, rocks.index(source.rock), records[-1], dtype, options)
            file = shard_name(split, shard)
            shards[split].append(Shard(file, rows, records, dtype, options.encoding, options.scale))
            start += len(group)
    return tables, shards


def _describe(row, sample, rock, record, dtype, options):
    row["key"], row["rock"], row["record_bytes"] = sample.key.encode(), rock, len(record)
    hr_shape = sample.shape[-options.ndim :]
    row["lr_shape"] = lr_shape = [size // options.scale for size in hr_shape]
    row["hr_bytes"] = math.prod(hr_shape) * dtype.itemsize
    row["lr_bytes"] = math.prod(lr_shape) * dtype.itemsize


def _record(sample, source, options):
    """Return the JSON member of a sample."""
    corner = [inside + start for inside, start in zip(sample.corner, source.corner, strict=True)]
    if options.ndim == 2:
        position = dict(zip(("page", "top", "left"), corner, strict=True))
    else:
        position = {"corner": corner, "shape": sample.shape}
    record = {
        "rock": source.rock,
        "source": source.file,
        **position,
        "scale": options.scale,
        "kernel": sample.kernel,
        **_voxel_sizes(source.hr, options.ndim),
    }
    if options.scanner:
        record["degradation"] = asdict(options.scanner)
    if source.alignment:
        record["alignment"] = source.alignment
    return encode_record(record)


def _voxel_sizes(hr, ndim):
    """Return voxel_size_um, and where the voxels of a volume are no cubes voxel_sizes_um, [z, y, x], too."""
    if ndim == 2 or hr.voxel_sizes_um is None:
        return {"voxel_size_um": hr.voxel_size_um}
    sizes = hr.voxel_sizes_um
    if all(sizes) and all(math.isclose(size, sizes[0], rel_tol=1e-3) for size in sizes):
        return {"voxel_size_um": sizes[0]}
    return {"voxel_size_um": None, "voxel_sizes_um": sizes}


def place(shard):
    """Enter the offsets of its samples into the rows of a shard; returns its size in bytes."""
    position = 0
    for row, _, in_order in shard.members():
        for member in in_order:
            start = position + BLOCK
            row[f"{member.part}_offset"] = start + len(member.head)
            position = start + padded(member.size, BLOCK)
    return padded(position + 2 * BLOCK, RECORD)


def write_skeleton(path, shard, size):
    """Write all bytes of a shard except those of its images, whose places keep their content.

    webdataset.TarWriter would make the same bytes, but in sequence and with the images: here many processes
    write these to their places in any order, and a build that goes on keeps those that are there.
    """
    with open(path, "r+b" if path.exists() else "w+b") as file:
        for _, record, in_order in shard.members():
            for member in in_order:
                content = record if member.part == "record" else member.head
                file.write(tar_header(member.name, member.size) + content)
                file.seek(member.size - len(content), os.SEEK_CUR)
                file.write(bytes(padded(member.size, BLOCK) - member.size))
        file.write(bytes(size - file.tell()))
        file.truncate()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, not after an hour
