"""Whether every byte of a packed set is still as it was written."""

import io
import json
import zlib
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_expander

from srgan_dist.data import index
from srgan_dist.data.reader import Reader
from srgan_dist.files import sha256_of


def verify(directory, progress=iter):
    """Check every byte of a set and return the faults.

    Shards are compared with their sha256 in the manifest and then read twice: streamed with WebDataset, as a stranger
    would, and at the places that the index names, as the training does. Keys, order, pixels and their crc32 have to be
    those of the index.
    """
    directory, manifest = Path(directory), index.read_manifest(directory)
    splits = {name: index.open_split(directory, name) for name in manifest.splits}
    faults = _set_problems(directory, manifest, splits.values())
    shards = [(split, number, entry.sha256)
              for name, split in splits.items() for number, entry in enumerate(manifest.splits[name].shards)]
    for split, number, sha256 in progress(shards):
        path = split.shards[number]
        if sha256_of(path) != sha256:
            faults.append(f"{path}: sha256 differs from the manifest; copy the file again or build the set again")
        else:
            problems = list(_stream_problems(split, number)) or _place_problems(split, number)
            faults += [f"{path}: {problem}" for problem in problems]
    return faults


def _set_problems(directory, manifest, splits):
    """Return what no shard shows by itself: files that are not listed, keys of two splits, wrong totals."""
    listed = {path.name for split in splits for path in split.shards}
    problems = [f"{path}: the manifest does not list it, but readers of *.tar would take it in; move or delete it"
                for path in sorted(directory.glob("*.tar")) if path.name not in listed]
    totals = sum((Counter(split.rocks) for split in manifest.splits.values()), Counter())
    if totals != manifest.totals:
        problems.append(f"{directory / 'manifest.json'}: its totals {manifest.totals} are not the sums of its splits,"
                        f" {dict(totals)}; build the set again")
    keys = Counter(key for split in splits for key in split.rows["key"].tolist())
    problems += [f"{directory}: the key {key.decode()} is in {count} splits; build the set again"
                 for key, count in keys.items() if count > 1]
    return problems


def _stream_problems(split, number):
    rows, path = split.rows[split.rows["shard"] == number], split.shards[number]
    with open(path, "rb") as stream:  # opened here: a path with # or ? in it is no URL
        samples = group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
        try:
            yield from filter(None, (_sample_problem(row, sample, split) for row, sample in zip_longest(rows, samples)))
        except Exception as error:  # whatever tar, NPY and JSON readers raise
            yield f"WebDataset cannot read it ({str(error) or type(error).__name__}); build the set again"


def _place_problems(split, number):
    """Yield the samples of a shard whose pixels, where the index says they lie, are not those that were packed."""
    reader = Reader(split)
    for i in np.flatnonzero(split.rows["shard"] == number):
        row, (lr, hr) = split.rows[i], reader.image(i)
        if (zlib.crc32(lr), zlib.crc32(hr)) != (row["lr_crc32"], row["hr_crc32"]):
            yield f"{split.key(i)} has other pixels at the offsets of the index than were packed (crc32 differs)"
        elif (hr.min(), hr.max()) != (row["darkest"], row["brightest"]):
            yield (f"{split.key(i)} has grey levels from {hr.min()} to {hr.max()},"
                   f" the index says {row['darkest']} to {row['brightest']}")


def _sample_problem(row, sample, split):
    if row is None or sample is None or sample["__key__"] != row["key"].decode():
        return f"WebDataset reads {sample and sample['__key__']} where the index has {row and row['key'].decode()}"
    key = sample["__key__"]
    for side in ("hr", "lr"):
        pixels = np.load(io.BytesIO(sample[f"{side}.npy"]), allow_pickle=False)
        if pixels.shape != (row[f"{side}_height"], row[f"{side}_width"]) or pixels.dtype != split.dtype:
            return f"{key} has an {side.upper()} image of {pixels.shape} {pixels.dtype}, not as the index says"
        if zlib.crc32(pixels.tobytes()) != row[f"{side}_crc32"]:
            return f"{key} has other {side.upper()} pixels than were packed (crc32 differs)"
    if json.loads(sample["json"])["rock"] != split.rocks[row["rock"]]:
        return f"{key} is of another rock than the index says"
    return None
