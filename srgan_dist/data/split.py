"""A packed set, opened for reading. A set is a folder, or the same files below a URL (`remote.py`):

OUT/manifest.json          format of the set; size and sha256 of every other file
OUT/train.index.npy        one row of the index per sample, in the order of the shards
OUT/train-000000.tar ...   samples; the same for valid and test

Of a WebDataset of other people the folder has manifest and index; its tars keep their own names and
places, also at URLs.
"""

import hashlib
import io
import os
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from srgan_dist.data.index import load_index
from srgan_dist.data.manifest import MANIFEST_BYTES, IndexedManifest, Manifest, parse_manifest
from srgan_dist.data.sample import parse_record, text_entry
from srgan_dist.storage.cache import Cache, opened
from srgan_dist.storage.decoded import DecodedShard, decoded_rows
from srgan_dist.storage.encoding import decode
from srgan_dist.storage.remote import Remote, RemoteFile, is_url
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import read_regular, sha256_of_open, version_in, version_of
from srgan_dist.utils.json_text import load_json
from srgan_dist.utils.memory import memory_named

FETCHERS = 4  # shards that are fetched, or decoded, at a time


def open_set(address, cache=None):
    """Read and check the manifest of the set in a folder or at a URL; raises UserError for anything else.

    cache: for copies of shards that are remote or have to be decoded; None: the one in the user's cache
    folder.
    """
    cache = cache or Cache()
    place = Remote(address, cache) if is_url(address) else Folder(address, cache)
    try:
        content = place.manifest(MANIFEST_BYTES)
    except FileNotFoundError:
        raise UserError(
            f"{place} is not a packed data set: it has no manifest.json. Make one with: srgan-dist"
            " build SOURCE OUT"
        ) from None
    except OSError as error:
        raise UserError(f"{place}/manifest.json cannot be read: {error}") from None
    manifest = parse_manifest(content, f"{place}/manifest.json")
    if is_url(address):
        _check_below(place, manifest)
    return PackedSet(place, manifest, hashlib.sha256(content).hexdigest(), cache)


def _check_below(place, manifest):
    """Raise UserError if a shard of a set at a URL is not below it."""
    for split in manifest.splits.values():
        for shard in split.shards:
            if shard.file.startswith("/") or is_url(shard.file):
                raise UserError(
                    f"{place} indexes {shard.file}, which is not below it; keep shards and index in one"
                    " folder, index them there, and copy that folder"
                )


def open_split(address, name, check_sizes=True, cache=None):
    """Open one split of a set; see `open_set` and `PackedSet.split`."""
    return open_set(address, cache).split(name, check_sizes)


def read_manifest(address, cache=None):
    """Return the Manifest of a set; see `open_set`."""
    return open_set(address, cache).manifest


class Folder:
    """The files of a set in a folder of this machine; `remote.Remote` does the same for a URL."""

    def __init__(self, path, cache):
        self.path, self.cache = Path(path), cache

    def __str__(self):
        return str(self.path)

    def manifest(self, most):
        """Return the bytes of manifest.json, at most `most`; raises FileNotFoundError where there is none."""
        return read_regular(self.path / "manifest.json", most)

    def file(self, entry):
        """Return the path of a file of the set, given its FileEntry; a RemoteFile where it is at a URL."""
        if is_url(entry.file):
            folder, _, name = entry.file.rpartition("/")
            return RemoteFile(Remote(folder, self.cache), entry.model_copy(update={"file": name}))
        return self.path / entry.file

    def check_files(self, entries, again="build the set again"):
        """Return the version of each file, None of remote ones; raises UserError if one of them is missing or
        has another size than the manifest says.
        """
        files = [(self.file(entry), entry.bytes) for entry in entries]
        return [
            _check_size(file, size, again) if isinstance(file, Path) else file.check_size()
            for file, size in files
        ]


def _check_size(path, size, again):
    """Return the version of a file of this size."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing although the manifest lists it; copy it again or {again}"
        ) from None
    except OSError as error:  # e.g. links in a circle
        raise UserError(f"{path} cannot be read ({error.strerror}); copy it again") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no regular file; copy it again or {again}")
    if status.st_size != size:
        raise UserError(
            f"{path} has {status.st_size} bytes, the manifest says {size}; copy it again or {again}"
        )
    return version_in(status)


@dataclass(frozen=True)
class PackedSet:
    """A packed set: its files and its manifest."""

    place: Any  # Folder or remote.Remote
    manifest: Manifest
    sha256: str  # of manifest.json, which has that of every other file: two equal sets have equal ones
    cache: Cache  # for copies of shards that are remote or have to be decoded

    def split(self, name, check_sizes=True, blank_corrupt_images=False):
        """Open one split for reading, or return None if the set has no such split.

        blank_corrupt_images: an image file that cannot be decoded is blank, which its crc32 shows, instead of
        an error. Raises UserError when a shard is missing or has another size (unless check_sizes is False),
        or the index is not the one the manifest names.
        """
        split = self.stored_split(name, check_sizes)
        if split is None or self.manifest.encoding == "npy":
            return split
        rows, shards = decoded_rows(split.rows, split.dtype, split.scale), []
        entries = self.manifest.splits[name].shards
        for number, (shard, entry) in enumerate(zip(split.shards, entries, strict=True)):
            inside = rows["shard"] == number
            shards.append(
                DecodedShard(
                    shard,
                    entry.sha256,
                    isinstance(self.manifest, IndexedManifest),
                    split.rows[inside],
                    rows[inside],
                    split.dtype,
                    split.scale,
                    self.decode,
                    self.cache,
                    blank_corrupt_images,
                )
            )
        return Split(self, name, rows, split.rows, shards)

    def decode(self, side, data, shape):
        """Turn the bytes of an "hr" or "lr" image at its offset in a tar into an array of this shape; raises
        EncodingError.
        """
        if self.manifest.encoding == "files":
            from srgan_dist.data.member_image import decode_member  # slow, and few sets need it

            return decode_member(getattr(self.manifest.fields, side), data, shape, self.manifest.dtype)
        return decode(self.manifest.encoding, data, shape, self.manifest.dtype)

    def stored_split(self, name, check_sizes=True):
        """Open one split as it is stored in its tars; only `split` decodes image files."""
        entry = self.manifest.splits.get(name)
        if entry is None:
            return None
        self.place.check_files([entry.index], self.manifest.again)
        checked = self.place.check_files(entry.shards, self.manifest.again) if check_sizes else None
        versions = {number: version for number, version in enumerate(checked or ()) if version}
        table = self.place.file(entry.index)
        problem = f"{table} of {entry.index.bytes:,} bytes does not fit into memory"
        with memory_named(lambda _: UserError(problem)), opened(table) as file:
            content = file.read(entry.index.bytes)
            rows = self._rows(table, content, entry)
        shards = [self.place.file(shard) for shard in entry.shards]
        return Split(self, name, rows, rows, shards, versions)

    def _rows(self, table, content, entry):
        if hashlib.sha256(content).hexdigest() != entry.index.sha256:
            raise UserError(
                f"{table} is not the index that the manifest names (sha256 differs); {self.manifest.again}"
            )
        return load_index(table, io.BytesIO(content), self.manifest, entry)


@dataclass(frozen=True)
class Split:
    """One split of a packed set: the index of its samples, and their shards."""

    set: PackedSet
    name: str
    rows: np.ndarray  # of index_dtype(ndim), with the offsets in the files that `shards` open
    stored: np.ndarray  # the same with the offsets in the tars
    shards: list  # paths, or RemoteFiles or DecodedShards, which have `open`; in the order of rows["shard"]
    versions: dict = field(default_factory=dict)  # of the shards that were opened, by their numbers

    def __len__(self):
        return len(self.rows)

    @property
    def place(self):
        return self.set.place

    @property
    def rocks(self):
        return self.set.manifest.rocks

    @property
    def ndim(self):
        return self.set.manifest.ndim

    @property
    def scale(self):
        return self.set.manifest.scale

    @cached_property
    def dtype(self):
        return np.dtype(self.set.manifest.dtype)

    @property
    def is_cached(self):
        """Whether the shards are read from copies in a cache."""
        return not isinstance(self.shards[0], Path)

    @property
    def cached_bytes(self):
        """The number of bytes that each shard takes in a cache, 0 where it is read in its place."""
        return [shard.cached_bytes if self.is_cached else 0 for shard in self.shards]

    @property
    def transient_cache_bytes(self):
        """The largest number of bytes in the cache of tars that are fetched only to be decoded."""
        fetched = [shard.transient_cache_bytes for shard in self.shards if isinstance(shard, DecodedShard)]
        return sum(sorted(fetched)[-FETCHERS:])

    def check_unchanged(self, number, file):
        """Raise UserError where an open shard is another file than when its size was checked, or it was first
        opened, or was rewritten, and is not the one that was packed. Copies in a cache are compared there.
        """
        version = version_of(file)
        if not self.is_cached and self.versions.setdefault(number, version) != version:
            entry = self.set.manifest.splits[self.name].shards[number]
            if sha256_of_open(file) != entry.sha256:
                raise UserError(
                    f"{self.shards[number]} was changed while it was in use, and is not the shard that the"
                    " manifest names any more; copy it again or build the set again, then start again"
                )
            self.versions[number] = version

    def was_rewritten(self, number):
        """Return whether a shard that is open has been written to since it was checked; not of a cached copy.

        One that has been replaced or removed stays open as it was.
        """
        if number not in self.versions:
            return False
        known = self.versions[number]
        try:
            version = version_in(os.stat(self.shards[number]))
        except FileNotFoundError:
            return False
        return version != known and version[:2] == known[:2]

    def record(self, i, content):
        """Return the record of sample i, given the bytes of its JSON member; raises UserError for another's.

        Of a WebDataset of other people it has rock and source only, the latter None where no field names it.
        """
        try:
            if isinstance(self.set.manifest, IndexedManifest):
                field = self.set.manifest.fields.source_field
                source = text_entry(load_json(content), field) if field else None
                return {"rock": self.rock(i), "source": source}
            record = parse_record(content)
            if record["rock"] == self.rock(i):
                return record
            problem = f"is of the rock {record['rock']!r}, in the index it is of {self.rock(i)!r}"
        except UserError as error:
            problem = str(error)
        except (ValueError, AttributeError, RecursionError) as error:
            problem = f"is no JSON object ({error})"
        raise UserError(
            f"{self.shards[self.rows['shard'][i]]}: the JSON member of {self.key(i)} {problem};"
            " copy the shard again or build the set again"
        )

    def rock(self, i):
        return self.rocks[self.rows["rock"][i]]

    def key(self, i):
        return self.rows["key"][i].decode()

    @cached_property
    def scorable(self):
        """The rows that scores can judge: those whose HR image has more than one grey level."""
        return np.flatnonzero(self.rows["darkest"] < self.rows["brightest"]).tolist()

    @property
    def constant(self):
        """The rows whose HR image has one grey level, as beside a plug: scores leave them out."""
        return np.flatnonzero(self.rows["darkest"] == self.rows["brightest"]).tolist()

    @property
    def smallest_lr(self):
        """The shortest side of any LR image in pixels: the largest crop that can be cut from all of them."""
        return int(self.rows["lr_shape"].min())
