"""Shards whose images are PNG files: decoded once into the cache, and from then on read there like any other.

A decoded shard is the pixels of all its images, one after the other in the order of the index, HR before LR, and then
the JSON members.
"""

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srgan_dist.storage.cache import Cache, Stopped, opened
from srgan_dist.storage.encoding import EncodingError, decode
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.executors import usable_cores
from srgan_dist.utils.files import sha256_of

SIDES = ("hr", "lr")


def decoded_rows(rows, dtype):
    """Return the index of a split as it is when its shards are decoded: with the places of pixels and records there."""
    rows = rows.copy()
    for shard in np.unique(rows["shard"]):
        mine = np.flatnonzero(rows["shard"] == shard)
        position = 0
        for side in SIDES:
            rows[f"{side}_bytes"][mine] = (
                rows[f"{side}_height"][mine].astype(np.uint64) * rows[f"{side}_width"][mine] * dtype.itemsize
            )
        for i in mine:
            for side in SIDES:
                rows[f"{side}_offset"][i] = position
                position += int(rows[f"{side}_bytes"][i])
        rows["record_offset"][mine] = (
            position + np.cumsum(rows["record_bytes"][mine]) - rows["record_bytes"][mine]
        )
    return rows


@dataclass(frozen=True, eq=False)
class DecodedShard:
    """A shard of PNG files, opened as its decoded copy in the cache."""

    shard: object  # the tar: its path, or a remote.RemoteFile
    sha256: str  # of the tar that was packed
    stored: np.ndarray  # rows of INDEX, places in the tar
    rows: np.ndarray  # the same, places in the copy
    dtype: np.dtype
    cache: Cache
    blank_corrupt_images: (
        bool  # images that cannot be decoded become blank, which their crc32 tells, instead of an error
    )

    def __str__(self):
        return str(self.shard)

    @property
    def copy(self):
        """Where the copy lies, if it is one of a whole tar that lies elsewhere."""
        return None if isinstance(self.shard, Path) else self.cache.folder / f"{self.sha256}pixels"

    @property
    def cached_bytes(self):
        """How many bytes the copy takes in the cache."""
        return int(sum(self.rows[part].sum() for part in ("hr_bytes", "lr_bytes", "record_bytes")))

    @property
    def transient_cache_bytes(self):
        """How many bytes the copy of the tar takes there while it is decoded."""
        return 0 if isinstance(self.shard, Path) else self.shard.cached_bytes

    def open(self, mode="rb", stop=None):
        """Return the decoded copy as an open file, made if need be; `stop` ends that with Stopped.

        Raises UserError for a tar that is not the one that was packed, or with blank_corrupt_images makes a copy of what is
        left of it.
        """
        name = self.sha256
        if (
            isinstance(self.shard, Path)
            and not self.cache.holds(f"{name}pixels")
            and (found := sha256_of(self.shard)) != name
        ):
            if not self.blank_corrupt_images:
                raise UserError(
                    f"{self.shard} is not the shard that the manifest names (sha256 differs{self._first_damage()});"
                    " copy it again or build the set again"
                )
            name = found  # never taken for the whole one
        return self.cache.open(f"{name}pixels", self.cached_bytes, self._make, stop)

    def _make(self, part, stop):
        with opened(self.shard, stop) as tar, open(part, "wb") as copy:
            with ThreadPoolExecutor(usable_cores()) as pool:  # Pillow decodes without the lock of Python
                for image in pool.map(lambda place: self._image(tar.fileno(), *place, stop), self._places()):
                    copy.write(image)
            for row in self.stored:
                copy.write(os.pread(tar.fileno(), int(row["record_bytes"]), int(row["record_offset"])))

    def _places(self):
        return [(row, side) for row in self.stored for side in SIDES]

    def _image(self, tar, row, side, stop):
        if stop.is_set():
            raise Stopped
        try:
            return self._decoded(tar, row, side).tobytes()
        except EncodingError as error:
            if not self.blank_corrupt_images:
                raise UserError(
                    f"{self.shard}: {self._told(row, side, error)}; copy it again or build the set again"
                ) from None
            return bytes(int(row[f"{side}_height"]) * int(row[f"{side}_width"]) * self.dtype.itemsize)

    def _decoded(self, tar, row, side):
        data = os.pread(tar, int(row[f"{side}_bytes"]), int(row[f"{side}_offset"]))
        return decode("png", data, int(row[f"{side}_height"]), int(row[f"{side}_width"]), self.dtype)

    def _first_damage(self):
        """Say which image of a damaged tar cannot be decoded, or is another one, first."""
        with open(self.shard, "rb") as tar:
            for row, side in self._places():
                try:
                    if zlib.crc32(self._decoded(tar.fileno(), row, side)) != row[f"{side}_crc32"]:
                        return ": " + self._told(row, side, "has other pixels than were packed")
                except EncodingError as error:
                    return ": " + self._told(row, side, error)
        return ""

    def _told(self, row, side, what):
        return f"the {side.upper()} image of {row['key'].decode()} at offset {row[f'{side}_offset']} {what}"
