"""Where weights come from: versions, commit, device and data; nothing that names a machine or a user."""

import functools
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

import srgan_dist
from srgan_dist.storage.cache import opened


def provenance_of(device, train):
    """Return versions, commit and device of this process and the sha256 of its training sets, as JSON.

    train: [(split, weight)]. No host, user, path or command line is among them.
    """
    return {
        "srgan_dist": srgan_dist.__version__,
        "commit": checkout_commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "data_sha256": [split.set.sha256 for split, _ in train],
    }


@functools.cache
def checkout_commit():
    """Return the git commit of the checkout that the package lies in, with -dirty where files differ from it;
    None for an installed package, and where git does not answer.
    """
    root = Path(srgan_dist.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def training_data_of(train, streamed=False):
    """Return facts of the training sets as JSON: [{sha256, scale, dtype, rocks: {rock: {images, darkest,
    brightest, voxel_size_um}}}].

    train: [(split, weight)], streamed: only the first samples of them, so that the number of images is None.
    Grey levels are those of HR; the voxel size, in um, is that of the first HR
    image of the rock: a number, [z, y, x] of voxels that are no cubes, or None where its file does not say or
    the set is at a URL.
    """
    return [
        {
            "sha256": split.set.sha256,
            "scale": split.scale,
            "dtype": str(np.dtype(split.dtype)),
            "rocks": {
                rock: _facts_of_rock(split, np.flatnonzero(split.rows["rock"] == number))
                | ({"images": None} if streamed else {})
                for number, rock in enumerate(split.rocks)
                if (split.rows["rock"] == number).any()
            },
        }
        for split, _ in train
    ]


def _facts_of_rock(split, samples):
    rows = split.rows[samples]
    record = _record(split, samples[0])
    return {
        "images": len(rows),
        "darkest": int(rows["darkest"].min()),
        "brightest": int(rows["brightest"].max()),
        "voxel_size_um": record.get("voxel_sizes_um") or record.get("voxel_size_um"),
    }


def _record(split, i):
    """Return the record of a sample; an empty one of a set at a URL, whose shard would have to be fetched for
    it, and of a damaged one, which is found where its pixels are used.
    """
    row = split.stored[i]
    shard = split.set.place.file(split.set.manifest.splits[split.name].shards[row["shard"]])
    if not isinstance(shard, Path):
        return {}
    try:
        with opened(shard) as file:
            file.seek(int(row["record_offset"]))
            record = split.record(i, file.read(int(row["record_bytes"])))
    except (OSError, ValueError, LookupError, TypeError):  # the latter two of other JSON than was indexed
        return {}
    return record if isinstance(record, dict) else {}
