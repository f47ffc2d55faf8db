"""What a packed set holds, as tables, and whether every byte of it is still as it was written."""

import io
import json
import zlib
from itertools import zip_longest
from pathlib import Path

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_expander

from srgan_dist.data import index
from srgan_dist.files import sha256_of


def format_counts(manifest):
    """Return a table of images per rock and split, with shards and bytes per split."""
    rocks, splits = manifest.rocks, [split for split in index.SPLITS if split in manifest.splits]
    width = max(len(name) for name in [*rocks, "images"]) + 2
    lines = [f"x{manifest.scale} {manifest.dtype}".ljust(width) + "".join(f"{split:>12}" for split in (*splits, "all"))]
    for rock in rocks:
        counts = [manifest.splits[split].rocks.get(rock, 0) for split in splits]
        lines.append(rock.ljust(width) + "".join(f"{count:>12,}" for count in (*counts, sum(counts))))
    for title, of in (("images", lambda s: s.count), ("shards", lambda s: len(s.shards)),
                      ("bytes", lambda s: sum(shard.bytes for shard in s.shards))):
        values = [of(manifest.splits[split]) for split in splits]
        lines.append(title.ljust(width) + "".join(f"{value:>12,}" for value in (*values, sum(values))))
    return "\n".join(lines)


def format_ranges(directory):
    """Return a table of image sizes and grey levels per split and rock."""
    lines = [f"{'split':<8}{'rock':<16}{'HR pixels':>22}{'darkest':>9}{'brightest':>11}"]
    for name in index.SPLITS:
        split = index.open_split(directory, name)
        for number, rock in enumerate(split.rocks) if split else ():
            rows = split.rows[split.rows["rock"] == number]
            if len(rows):
                sizes = sorted({(int(row["hr_height"]), int(row["hr_width"])) for row in rows})
                shown = "x".join(map(str, sizes[0])) + (f" .. {'x'.join(map(str, sizes[-1]))}" if len(sizes) > 1 else "")
                lines.append(f"{name:<8}{rock:<16}{shown:>22}{rows['darkest'].min():>9}{rows['brightest'].max():>11}")
    return "\n".join(lines)


def verify(directory, progress=iter):
    """Check every byte of a set and return the faults.

    Shards are compared with their sha256 in the manifest and then streamed with WebDataset, as a stranger would
    read them: keys, order, pixels and their crc32 have to be those of the index.
    """
    directory, manifest = Path(directory), index.read_manifest(directory)
    faults, shards = [], []
    for name in manifest.splits:
        split = index.open_split(directory, name)
        entries = manifest.splits[name].shards
        shards += [(split, number, path, entry.sha256) for number, (path, entry) in enumerate(zip(split.shards, entries))]
    for split, number, path, sha256 in progress(shards):
        if sha256_of(path) != sha256:
            faults.append(f"{path}: sha256 differs from the manifest; copy the file again or build the set again")
            continue
        rows = split.rows[split.rows["shard"] == number]
        with open(path, "rb") as stream:  # opened here: a path with # or ? in it is no URL
            samples = group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
            problems = (_sample_problem(row, sample, split) for row, sample in zip_longest(rows, samples))
            faults += [f"{path}: {problem}" for problem in problems if problem]
    return faults


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
