"""The directory of a packed data set: names, manifest, and the table that says where every pixel lies.

    OUT/manifest.json          what the set is, and size and sha256 of every other file
    OUT/train.index.npy        one row of INDEX per sample, in the order of the shards
    OUT/train-000000.tar ...   samples; the same for valid and test
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FORMAT = "srgan_dist shards"
VERSION = 1

INDEX = np.dtype([
    ("key", "S90"),
    ("rock", "<u2"),  # position in the manifest's list of rocks
    ("shard", "<u4"),
    ("hr_offset", "<u8"),  # of the first pixel in the tar
    ("hr_height", "<u4"),
    ("hr_width", "<u4"),
    ("hr_crc32", "<u4"),  # of the pixels
    ("lr_offset", "<u8"),
    ("lr_height", "<u4"),
    ("lr_width", "<u4"),
    ("lr_crc32", "<u4"),
    ("record_offset", "<u8"),  # of the JSON member
    ("record_bytes", "<u4"),
    ("darkest", "<u2"),  # grey levels of the HR image
    ("brightest", "<u2"),
])


def shard_name(split, number):
    return f"{split}-{number:06d}.tar"


def index_name(split):
    return f"{split}.index.npy"


def sha256_of(path):
    """Return the sha256 of a file in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory):
    """Read and check OUT/manifest.json; raises ValueError that says what the directory is instead."""
    path = Path(directory) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{directory} is not a packed data set: it has no manifest.json."
                         " Make one with: python shards/build.py SOURCE OUT") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path} is not a manifest of {FORMAT}")
    if manifest["version"] != VERSION:
        raise ValueError(f"{path} has version {manifest['version']}, this program reads {VERSION};"
                         " build the set again")
    return manifest


@dataclass(frozen=True)
class Split:
    """One split of a packed set: the table of its samples and the shards they lie in."""

    directory: Path
    name: str
    rows: np.ndarray  # of INDEX
    shards: list  # paths, in the order of rows["shard"]
    rocks: list
    dtype: np.dtype
    scale: int

    def __len__(self):
        return len(self.rows)

    def rock(self, i):
        return self.rocks[self.rows["rock"][i]]

    def key(self, i):
        return self.rows["key"][i].decode()

    @property
    def smallest_lr(self):
        """The shortest side of any LR image in pixels: the largest square that can be cut from all of them."""
        return int(min(self.rows["lr_height"].min(), self.rows["lr_width"].min()))


def open_split(directory, name):
    """Open one split of a packed set, or return None if the set has no such split.

    Raises ValueError when a file is missing, has another size, or the index is not the one the manifest names.
    """
    directory, manifest = Path(directory), read_manifest(directory)
    entry = manifest["splits"].get(name)
    if entry is None:
        return None
    table = _inside(directory, entry["index"]["file"])
    _check_size(table, entry["index"]["bytes"])
    if sha256_of(table) != entry["index"]["sha256"]:
        raise ValueError(f"{table} is not the index that the manifest names (sha256 differs); build the set again")
    shards = [_inside(directory, shard["file"]) for shard in entry["shards"]]
    for path, shard in zip(shards, entry["shards"], strict=True):
        _check_size(path, shard["bytes"])
    rows = np.load(table, allow_pickle=False)
    if rows.dtype != INDEX or len(rows) != entry["count"]:
        raise ValueError(f"{table} does not hold {entry['count']} rows of this version's index; build the set again")
    return Split(directory, name, rows, shards, manifest["rocks"], np.dtype(manifest["dtype"]), manifest["scale"])


def _inside(directory, name):
    if Path(name).name != name:
        raise ValueError(f"{directory / 'manifest.json'} names a file outside its folder: {name!r}")
    return directory / name


def _check_size(path, size):
    try:
        actual = path.stat().st_size
    except FileNotFoundError:
        raise ValueError(f"{path} is missing although the manifest lists it; copy it again or build the set again") from None
    if actual != size:
        raise ValueError(f"{path} has {actual} bytes, the manifest says {size}; copy it again or build the set again")
