"""The last files of a build: index tables and manifest, with everything synced to disk."""

import json
from collections import Counter
from itertools import chain

import numpy as np

from srgan_dist.data.manifest import FileEntry, Manifest, ShardEntry, SplitEntry, index_name
from srgan_dist.utils.files import sha256_of, sync


def write_manifest(folder, tables, shards, rocks, dtype, options, fingerprint, run):
    """Write the index of every split and the manifest beside the shards; returns the Manifest."""
    for split, table in tables.items():
        np.save(folder / index_name(split), table)
    files = [index_name(split) for split in tables] + [shard.file for shard in chain(*shards.values())]
    facts = dict(zip(files, run(_file_facts, [folder / file for file in files]), strict=True))
    splits = {}
    for split, table in tables.items():
        counts = Counter(table["rock"].tolist())
        splits[split] = SplitEntry(
            count=len(table),
            rocks={rocks[number]: count for number, count in sorted(counts.items())},
            index=FileEntry(**facts[index_name(split)]),
            shards=[ShardEntry(**facts[shard.file], count=len(shard.rows)) for shard in shards[split]],
        )
    totals = {rock: sum(split.rocks.get(rock, 0) for split in splits.values()) for rock in rocks}
    manifest = Manifest(
        ndim=options.ndim,
        scale=options.scale,
        dtype=dtype.name,
        encoding=options.encoding,
        rocks=rocks,
        totals=totals,
        splits=splits,
        **fingerprint,
    )
    (folder / "manifest.json").write_text(json.dumps(manifest.model_dump(), indent=1, sort_keys=True) + "\n")
    sync(folder / "manifest.json")
    sync(folder)
    return manifest


def _file_facts(path):
    sync(path)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
