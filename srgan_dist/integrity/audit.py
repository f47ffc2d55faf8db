"""Whether every byte of a packed set is still as it was written."""

import zlib
from collections import Counter
from itertools import islice, zip_longest

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_expander

from srgan_dist.data.manifest import IndexedManifest
from srgan_dist.data.member_image import decode_member
from srgan_dist.data.sample import members, parse_record
from srgan_dist.data.split import Folder
from srgan_dist.integrity.tar_structure import structure_problems
from srgan_dist.storage.cache import opened
from srgan_dist.storage.encoding import EncodingError, image_shape
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of_open
from srgan_dist.utils.memory import raise_out_of_memory


def verify(packed, progress=iter):
    """Check every byte of a PackedSet and return the faults.

    Shards are compared with their sha256 in the manifest, must be plain tars of exactly the members of the
    index (unless they are other people's), and are read twice: streamed with WebDataset, and at the offsets
    of the index, as the training does. Keys, order, pixels and their crc32 have to be those of the index.
    """
    manifest = packed.manifest
    splits = {name: packed.stored_split(name) for name in manifest.splits}
    faults = _set_problems(packed, splits.values())
    shards = [
        (split, number, entry.sha256)
        for name, split in splits.items()
        for number, entry in enumerate(manifest.splits[name].shards)
    ]
    for split, number, sha256 in progress(shards):
        path = split.shards[number]
        in_place = isinstance(manifest, IndexedManifest)  # tars of other people, with members of their own
        problems = [] if in_place else [text for _, text in islice(structure_problems(split, number), 1)]
        problems = problems or list(_stream_problems(split, number)) or list(_offset_problems(split, number))
        if _sha256_of(path) != sha256:
            where = f" ({problems[0]})" if problems else ""
            faults.append(
                f"{path}: sha256 differs from the manifest{where}; copy the file again or {manifest.again}"
            )
        else:
            faults += [f"{path}: {problem}" for problem in problems]
    return faults


def _sha256_of(shard):
    with opened(shard) as file:
        return sha256_of_open(file)


def _set_problems(packed, splits):
    """Return the faults of the whole set: files that are not listed, keys of two splits, wrong totals."""
    manifest, place = packed.manifest, packed.place
    listed = {entry.file for split in manifest.splits.values() for entry in split.shards}
    # not every protocol of a URL can list
    ours = isinstance(place, Folder) and not isinstance(manifest, IndexedManifest)
    files = sorted(place.path.glob("*.tar")) if ours else []
    problems = [
        f"{path}: the manifest does not list it, but readers of *.tar would read it; move or delete it"
        for path in files
        if path.name not in listed
    ]
    totals = sum((Counter(split.rocks) for split in manifest.splits.values()), Counter())
    if totals != manifest.totals:
        problems.append(
            f"{place}/manifest.json: its totals {manifest.totals} are not the sums of its splits,"
            f" {dict(totals)}; {manifest.again}"
        )
    keys = Counter(key for split in splits for key in split.rows["key"].tolist())
    problems += [
        f"{place}: the key {key.decode()} is in {count} splits; {manifest.again}"
        for key, count in keys.items()
        if count > 1
    ]
    return problems


def _stream_problems(split, number):
    rows, path = split.rows[split.rows["shard"] == number], split.shards[number]
    with opened(path) as stream:  # not by WebDataset, for which a path with # or ? is a URL
        samples = group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
        try:
            yield from filter(
                None, (_sample_problem(row, sample, split) for row, sample in zip_longest(rows, samples))
            )
        except Exception as error:  # whatever tar, NPY and JSON readers raise
            raise_out_of_memory(error, f"a sample of {path}")
            again = split.set.manifest.again
            yield f"WebDataset cannot read it ({str(error) or type(error).__name__}); {again}"


def _offset_problems(split, number):
    """Yield the problems of the pixels of a shard at the offsets of the index."""
    with opened(split.shards[number]) as file:
        for i in np.flatnonzero(split.rows["shard"] == number):
            row = split.rows[i]
            hr, lr = (_image_at(file, row, side, split) for side in ("hr", "lr"))
            if (zlib.crc32(lr), zlib.crc32(hr)) != (row["lr_crc32"], row["hr_crc32"]):
                yield (
                    f"{split.key(i)} has other pixels at the offsets of the index than were packed"
                    " (crc32 differs)"
                )
            elif (hr.min(), hr.max()) != (row["darkest"], row["brightest"]):
                yield (
                    f"{split.key(i)} has grey levels from {hr.min()} to {hr.max()},"
                    f" the index says {row['darkest']} to {row['brightest']}"
                )


def _image_at(file, row, side, split):
    file.seek(int(row[f"{side}_offset"]))
    return _decode(file.read(int(row[f"{side}_bytes"])), row, side, split)


def _decode(data, row, side, split):
    return split.set.decode(side, data, image_shape(row, side, split.scale))


def _sample_problem(row, sample, split):
    """Return how a sample that WebDataset read differs from its row of the index, or None."""
    if isinstance(split.set.manifest, IndexedManifest):
        return _member_problem(row, sample, split)
    if row is None or sample is None or sample["__key__"] != row["key"].decode():
        key = row and row["key"].decode()
        return f"WebDataset reads {sample and sample['__key__']} where the index has {key}"
    encoding = split.set.manifest.encoding
    for member in members(row, encoding, split.dtype, split.scale):
        if member.part != "record" and (problem := _image_problem(sample, row, member, split)):
            return f"{sample['__key__']} has {problem}"
    try:
        is_other = parse_record(sample["json"])["rock"] != split.rocks[row["rock"]]
    except UserError as error:
        return f"the JSON member of {sample['__key__']} {error}"
    return f"{sample['__key__']} is of another rock than the index says" if is_other else None


def _member_problem(row, sample, split):
    """Return how a sample of other people differs from its row, whose key may have been made unique."""
    if row is None or sample is None:
        return "WebDataset reads more or fewer samples than the index has"
    for side in ("hr", "lr"):
        name = getattr(split.set.manifest.fields, side)
        try:
            image = decode_member(name, sample[name], image_shape(row, side, split.scale), split.dtype)
        except EncodingError as error:
            return f"{sample['__key__']} has a {name} that cannot be used: {error}"
        if zlib.crc32(image) != row[f"{side}_crc32"]:
            return f"{sample['__key__']} has other {side.upper()} pixels than were indexed (crc32 differs)"
    return None


def _image_problem(sample, row, member, split):
    content, side = sample[f"{member.part}.{split.set.manifest.encoding}"], member.part.upper()
    if not content.startswith(member.head):
        shape = image_shape(row, member.part, split.scale)
        return f"an {side} image without the NPY header of {shape} {split.dtype} that the index says"
    try:
        pixels = _decode(content[len(member.head) :], row, member.part, split)
    except EncodingError as error:
        return f"an {side} image that {error}"
    if zlib.crc32(pixels) != row[f"{member.part}_crc32"]:
        return f"other {side} pixels than were packed (crc32 differs)"
    return None
