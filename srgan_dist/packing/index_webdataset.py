"""Index and manifest of a WebDataset of other people, by which it is trained on where it is.

Its tars are read, never written. They keep names and places; OUT gets manifest.json and a table per split.
"""

import hashlib
import io
import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from srgan_dist.data.index import load_index
from srgan_dist.data.manifest import (
    MANIFEST_BYTES,
    ROCK_RULE,
    SPLITS,
    Fields,
    FileEntry,
    IndexedManifest,
    IndexedShard,
    IndexedSplit,
    check_manifest_size,
    index_name,
    is_rock_name,
)
from srgan_dist.data.member_image import SUFFIXES, suffix_of
from srgan_dist.data.sample import key_problem
from srgan_dist.packing.pictures import Picture, judge_in_place
from srgan_dist.packing.scan_webdataset import detect_fields, index_rows, scan_shard
from srgan_dist.packing.shard_addresses import check_repeated, common_folder, expand_shards
from srgan_dist.storage.remote import is_url
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write, read_regular

SHOWN = 10  # faults


@dataclass(frozen=True)
class Indexed:
    """A WebDataset that has been read."""

    manifest: IndexedManifest
    tables: dict  # of every split: the bytes of its index table
    notes: list


def index_webdataset(out, addresses, hr=None, lr=None, progress=None, run=map, cache=None, **fields):
    """Write index and manifest of a WebDataset of image pairs into the folder `out`.

    addresses: {split: [path, glob, brace expression or URL of shards]}; hr, lr: names of the fields, None:
    the only hr.* and lr.*; fields: the others of Fields, without rock and rock_field the rock is called like
    the folder of the shards. progress(results, count, act) passes the results on;
    run as of `executors.workers`; cache: for shards at URLs. Returns (Indexed, whether it was there already).
    Raises UserError for shards that cannot be trained on, and before it replaces anything.
    """
    out = Path(out)
    paths = {split: expand_shards(f"--{split}", addresses[split]) for split in SPLITS if addresses.get(split)}
    if not paths:
        raise UserError("no shards are given; name them by split: --train 'shards-{000000..000003}.tar'")
    check_repeated(paths, "--")
    check_manifest_size(f"OUT={out}", sum(map(len, paths.values())))
    if hr is None or lr is None:
        found = detect_fields(next(chain(*paths.values())), cache)
        hr, lr = hr or found[0], lr or found[1]
    notes = []
    if fields.get("rock") is fields.get("rock_field") is None:
        fields["rock"] = common_folder(list(chain(*paths.values())))
        notes.append(
            f"the rock of all samples is called {fields['rock']!r}, as the folder of the shards is; --rock"
            " NAME calls it otherwise, --rock-field NAME takes an entry of their JSON"
        )
    fields = _checked_fields(Fields(hr=hr.lower(), lr=lr.lower(), **fields))
    before = _manifest_there(out)
    indexed = read_webdataset(out, paths, fields, progress, run, cache)
    indexed.notes[:0] = notes
    content = (json.dumps(indexed.manifest.model_dump(), indent=1, sort_keys=True) + "\n").encode()
    check_manifest_size(f"OUT={out}", sum(map(len, paths.values())), content)
    if before not in (None, content):
        raise UserError(
            f"OUT={out} holds the index of other shards, or of these before they changed, or with other"
            " options; delete its manifest.json, or give another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    for split, table in indexed.tables.items():
        with atomic_write(out / index_name(split), durable=True) as unfinished:
            unfinished.write_bytes(table)
    if before is None:
        with atomic_write(out / "manifest.json", durable=True) as unfinished:
            unfinished.write_bytes(content)
    return indexed, before is not None


def _checked_fields(fields):
    for side, field in (("hr", fields.hr), ("lr", fields.lr)):
        if suffix_of(field) not in SUFFIXES:
            raise UserError(f"--{side} {field} is of no format that is read in place: {', '.join(SUFFIXES)}")
    if fields.hr == fields.lr:
        raise UserError(f"--hr and --lr are both {fields.hr}; name the two images of a pair")
    if fields.rock is not None and fields.rock_field is not None:
        raise UserError(
            "give either --rock NAME, of all samples, or --rock-field NAME, an entry of their JSON"
        )
    if fields.rock is not None and not is_rock_name(fields.rock):
        raise UserError(f"--rock {fields.rock!r} is no name; {ROCK_RULE}")
    return fields


def _manifest_there(out):
    """Return the bytes of the manifest of an earlier index in OUT, or None; a packed set is a UserError."""
    path = out / "manifest.json"
    if out.exists() and not out.is_dir():
        raise UserError(f"OUT={out} is a file; give the folder of the index, e.g. that of the shards")
    if not path.exists():
        return None
    content = read_regular(path, MANIFEST_BYTES)
    if b'"fields"' not in content:
        raise UserError(f"OUT={out} holds a set that `build` has packed; give another folder")
    return content


# Reading


def read_webdataset(out, paths, fields, progress=None, run=map, cache=None, judged=True):
    """Read all shards: Indexed. paths: {split: [path or URL]}; cache: for shards at URLs; judged: whether the
    pictures are compared with each other.

    Raises UserError with the faults of all of them.
    """
    jobs = [(path, fields, cache) for path in chain(*paths.values())]
    results = run(scan_shard, jobs)
    found = iter(list(progress(results, len(jobs), "index") if progress else results))
    shards = {split: [next(found) for _ in files] for split, files in paths.items()}
    pairs = {
        split: [pair for shard in of_split for pair in shard.pairs] for split, of_split in shards.items()
    }
    faults = [fault for shard in chain(*shards.values()) for fault in shard.faults]
    named = {
        split: [
            (f"{path}: sample {pair.key!r}", pair)
            for path, shard in zip(files, shards[split], strict=True)
            for pair in shard.pairs
        ]
        for split, files in paths.items()
    }
    faults += _different(list(chain(*named.values()))) + _leaks(named)
    pictures = [
        Picture(pair.rock, name, np.dtype(pair.dtype), pair.look) for name, pair in chain(*named.values())
    ]
    unfit, doubtful = judge_in_place(pictures) if judged else ([], [])
    faults += unfit
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError("these shards cannot be trained on:\n  " + "\n  ".join(faults[:SHOWN]) + more)
    first = next(chain(*pairs.values()))
    images = [image for pair in chain(*pairs.values()) for image in (pair.hr, pair.lr)]
    encoding = "files" if any(image.pixels_offset is None for image in images) else "npy"
    rocks = sorted({pair.rock for pair in chain(*pairs.values())})
    keys = _keys(shards)
    rows = {
        split: index_rows(of_split, len(first.lr_shape), encoding, keys[split], rocks)
        for split, of_split in shards.items()
    }
    manifest, tables = _manifest(out, paths, shards, rows, rocks, encoding, fields, first)
    return Indexed(manifest, tables, _notes(named) + doubtful)


def _different(named):
    """Return the faults of pairs that differ from the first in scale, pixel type or number of axes."""
    faults = []
    for name, pair in named:
        for what, value in (
            ("scale", lambda pair: pair.scale),
            ("pixels of", lambda pair: pair.dtype),
            ("number of axes", lambda pair: len(pair.lr_shape)),
        ):
            if value(pair) != value(named[0][1]):
                faults.append(
                    f"{name} has {what} {value(pair)}, {named[0][0]} has {value(named[0][1])}; a set has one:"
                    " index the others into a folder of their own"
                )
                break
    return faults


def _leaks(named):
    """Return the faults of pictures that are in two splits; blank ones are alike everywhere."""
    first, faults = {}, []
    for split, of_split in named.items():
        for name, pair in of_split:
            if pair.darkest == pair.brightest:
                continue
            other, other_name = first.setdefault(pair.content, (split, name))
            if other != split:
                faults.append(
                    f"{name} of --{split} is the same picture as {other_name} of --{other}; scores would be"
                    " too good. Leave one of the shards out"
                )
    return faults


def _notes(named):
    pairs = list(chain(*named.values()))
    blank = [name for name, pair in pairs if pair.darkest == pair.brightest]
    seen = Counter(pair.content for _, pair in pairs if pair.darkest < pair.brightest)
    repeated = [name for name, pair in pairs if seen[pair.content] > 1]
    notes = []
    if blank:
        notes.append(f"{len(blank)} HR images have one grey level only, e.g. {blank[0]}")
    if repeated:
        notes.append(f"{len(repeated)} HR images are in the set more than once, e.g. {repeated[0]}")
    return notes


def _keys(shards):
    """Return the keys of the pairs of every split, unique in the set and good for file names: their own
    without other characters, or where these repeat, or are too long, all with split and numbers in front.
    """
    own = {
        split: [re.sub(r"[^A-Za-z0-9_-]+", "_", pair.key) for shard in of_split for pair in shard.pairs]
        for split, of_split in shards.items()
    }
    everything = list(chain(*own.values()))
    if len(set(everything)) == len(everything) and not any(map(key_problem, everything)):
        return own
    return {
        split: [
            f"{split}-{number:06d}-{place:06d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', pair.key)[-50:]}"
            for number, shard in enumerate(of_split)
            for place, pair in enumerate(shard.pairs)
        ]
        for split, of_split in shards.items()
    }


# Writing


def _manifest(out, paths, shards, rows, rocks, encoding, fields, first):
    """Return the IndexedManifest and {split: bytes of the index table}."""
    splits, tables = {}, {}
    for split, files in paths.items():
        table = io.BytesIO()
        np.save(table, rows[split])
        tables[split] = table.getvalue()
        counts = Counter(pair.rock for shard in shards[split] for pair in shard.pairs)
        splits[split] = IndexedSplit(
            count=len(rows[split]),
            rocks=dict(sorted(counts.items())),
            index=FileEntry(
                file=index_name(split),
                bytes=len(tables[split]),
                sha256=hashlib.sha256(tables[split]).hexdigest(),
            ),
            shards=[
                IndexedShard(
                    file=_place(path, out), bytes=shard.bytes, sha256=shard.sha256, count=len(shard.pairs)
                )
                for path, shard in zip(files, shards[split], strict=True)
            ],
        )
    contents = {split: [shard.sha256 for shard in of_split] for split, of_split in shards.items()}
    manifest = IndexedManifest(
        ndim=len(first.lr_shape),
        scale=first.scale,
        dtype=first.dtype,
        encoding=encoding,
        rocks=rocks,
        totals={rock: sum(split.rocks.get(rock, 0) for split in splits.values()) for rock in rocks},
        splits=splits,
        fields=fields,
        options={},
        source_sha256=hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest(),
    )
    for split, table in tables.items():
        load_index(f"the index of {split}", io.BytesIO(table), manifest, manifest.splits[split])
    return manifest, tables


def _place(path, out):
    """Return the path of a shard as the manifest has it: from OUT, or absolute where it is not below OUT."""
    if is_url(path):
        return path
    path, out = Path(os.path.abspath(path)), Path(os.path.abspath(out))
    return path.relative_to(out).as_posix() if path.is_relative_to(out) else str(path)
