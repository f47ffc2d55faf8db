"""Shards whose images are files: decoded once into the cache, and read from that copy like any other.

A decoded shard is the pixels of all its images back to back in the order of the index, HR before LR, followed
by the JSON members.
"""

import hashlib
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from srgan_dist.storage.cache import Cache, Cancelled, opened
from srgan_dist.storage.encoding import EncodingError, image_shape
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.executors import usable_cores
from srgan_dist.utils.files import open_regular, sha256_of
from srgan_dist.utils.memory import memory_named

SIDES = ("hr", "lr")


def decoded_rows(rows, dtype, scale):
    """Return the index of a split for its decoded shards: with the offsets of pixels and records in these."""
    rows = rows.copy()
    pixels = rows["lr_shape"].astype(np.uint64).prod(axis=1)
    rows["lr_bytes"] = pixels * dtype.itemsize
    rows["hr_bytes"] = rows["lr_bytes"] * scale ** rows["lr_shape"].shape[1]
    for shard in np.unique(rows["shard"]):
        inside = np.flatnonzero(rows["shard"] == shard)
        position = 0
        for i in inside:
            for side in SIDES:
                rows[f"{side}_offset"][i] = position
                position += int(rows[f"{side}_bytes"][i])
        record_bytes = rows["record_bytes"][inside]
        rows["record_offset"][inside] = position + np.cumsum(record_bytes) - record_bytes
    return rows


@dataclass(frozen=True, eq=False)
class DecodedShard:
    """A shard of image files, opened as its decoded copy in the cache."""

    shard: object  # the tar: its path, or a remote.RemoteFile
    sha256: str  # of the tar that was packed
    chosen: bool  # whether the index holds some of the images of the tar: others may hold others of it
    stored: np.ndarray  # rows of the index, with the offsets in the tar
    rows: np.ndarray  # the same with the offsets in the copy
    dtype: np.dtype
    scale: int
    decode: Callable  # decode(side, bytes, shape) -> pixels; raises EncodingError
    cache: Cache
    blank_corrupt_images: (
        bool  # an image that cannot be decoded is blank, which its crc32 shows, not an error
    )

    def __str__(self):
        return str(self.shard)

    @property
    def _again(self):
        return "index its set again" if self.chosen else "build the set again"

    @property
    def cached_bytes(self):
        """The number of bytes that the copy takes in the cache."""
        return int(sum(self.rows[part].sum() for part in ("hr_bytes", "lr_bytes", "record_bytes")))

    @property
    def transient_cache_bytes(self):
        """The number of bytes that the copy of the tar takes in the cache while it is decoded."""
        return 0 if isinstance(self.shard, Path) else self.shard.cached_bytes

    def open(self, mode="rb", stop=None):
        """Return the decoded copy as an open file, made if needed; the Event `stop` ends that with Cancelled.

        Raises UserError for a tar that is not the one that was packed, or with blank_corrupt_images decodes
        the images of it that are intact.
        """
        name = self.sha256
        if (
            isinstance(self.shard, Path)
            and not self.cache.holds(self._copy_name(name))
            and (found := sha256_of(self.shard)) != name
        ):
            if not self.blank_corrupt_images:
                raise UserError(
                    f"{self.shard} is not the shard that the manifest names (sha256"
                    f" differs{self._first_damage()}); copy it again or {self._again}"
                )
            name = found  # never taken for the intact one
        return self.cache.open(self._copy_name(name), self.cached_bytes, self._make, stop, self._is_intact)

    def _copy_name(self, sha256):
        """Return the name of the decoded copy of a tar of this sha256."""
        if self.chosen:
            sha256 = hashlib.sha256(sha256.encode() + self.stored.tobytes()).hexdigest()
        return f"{sha256}pixels"

    def _is_intact(self, copy):
        """Return whether the pixels of a copy are those that were packed, or blank ones may be among them."""
        return self.blank_corrupt_images or all(
            zlib.crc32(copy.read(int(row[f"{side}_bytes"]))) == row[f"{side}_crc32"]
            for row in self.rows
            for side in SIDES
        )

    def _make(self, part, stop):
        with opened(self.shard, stop) as tar, open_regular(part, "r+b", own=True) as copy:
            copy.truncate()  # what a process that was killed has left
            with ThreadPoolExecutor(usable_cores()) as pool:  # Pillow decodes without the lock of Python
                for pixels in pool.map(
                    lambda image: self._pixels(tar.fileno(), *image, stop), self._images()
                ):
                    copy.write(pixels)
            for row in self.stored:
                copy.write(os.pread(tar.fileno(), int(row["record_bytes"]), int(row["record_offset"])))

    def _images(self):
        return [(row, side) for row in self.stored for side in SIDES]

    def _pixels(self, tar, row, side, stop):
        if stop.is_set():
            raise Cancelled
        try:
            with memory_named(partial(self._too_large, row, side)):
                return self._decode(tar, row, side).tobytes()
        except EncodingError as error:
            if not self.blank_corrupt_images:
                raise UserError(
                    f"{self.shard}: {self._describe(row, side, error)}; copy it again or {self._again}"
                ) from None
            return np.zeros(image_shape(row, side, self.scale), self.dtype).tobytes()

    def _decode(self, tar, row, side):
        data = os.pread(tar, int(row[f"{side}_bytes"]), int(row[f"{side}_offset"]))
        return self.decode(side, data, image_shape(row, side, self.scale))

    def _too_large(self, row, side, error):
        problem = self._describe(row, side, "does not fit into memory")
        return UserError(f"{self.shard}: {problem}; use fewer ranks on this machine")

    def _first_damage(self):
        """Describe the first image of a damaged tar that cannot be decoded or has other pixels."""
        with opened(self.shard) as tar:
            for row, side in self._images():
                try:
                    if zlib.crc32(self._decode(tar.fileno(), row, side)) != row[f"{side}_crc32"]:
                        return ": " + self._describe(row, side, "has other pixels than were packed")
                except EncodingError as error:
                    return ": " + self._describe(row, side, error)
        return ""

    def _describe(self, row, side, problem):
        return (
            f"the {side.upper()} image of {row['key'].decode()} at offset {row[f'{side}_offset']} {problem}"
        )
