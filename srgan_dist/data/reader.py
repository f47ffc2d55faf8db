"""Pixels out of shards: whole images, or only the crops of a batch, through the index and memory maps."""

import mmap
import os
import weakref
import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from srgan_dist.storage.cache import opened
from srgan_dist.storage.encoding import image_shape
from srgan_dist.utils.errors import UserError


class CorruptSample(NamedTuple):
    """A sample that differs from the one that was packed."""

    row: int  # of the split's index
    cause: str  # the part that differs: "hr_crc32", "lr_crc32", or "tar", its headers and padding
    text: str  # names shard, key and offset


class Reader:
    """Reads one split. Shards are mapped when first used, in the process that reads.

    `batch` leaves them mapped until `forget`; the methods for one sample leave only its shard mapped.
    """

    def __init__(self, split):
        self.split = split
        self.scale = split.scale
        self.torch_dtype = torch.from_numpy(np.empty(0, split.dtype)).dtype
        self.peak = int(np.iinfo(split.dtype).max)  # the brightest grey level of the type
        self.stop = None  # an Event that ends the waiting for copies of remote shards
        self.maps = {}  # of shards
        # Weak, so that the maps end with the reader and not at the next garbage collection
        views = weakref.WeakMethod(self._views)
        self.views = lru_cache(2**16)(lambda i: views()(i))  # some 500 bytes each

    def image(self, i):
        """Return sample i whole, numpy of the set's dtype: lr [H, W] or [D, H, W], hr s times that size.

        Raises UserError where its pixels are not those that were packed.
        """
        images = self.unchecked_image(i)
        if found := self._corruption(i, images):
            raise UserError(f"{found.text}; copy the shard again or build the set again")
        return images

    def unchecked_image(self, i):
        """Return sample i as `image` does, whatever its pixels are."""
        self._turn_to(i)
        return tuple(view.copy() for view in self.views(i))

    def record(self, i):
        """Return the record of sample i: rock, source file, position in it, scale, kernel, voxel size."""
        row = self._turn_to(i)
        start = int(row["record_offset"])
        content = self._map(int(row["shard"]))[start : start + int(row["record_bytes"])]
        self._check_unchanged(self._shards_of([i]))
        return self.split.record(i, content)

    def corruption(self, i):
        """Compare the pixels of sample i with the index; returns CorruptSample, or None."""
        self._turn_to(i)
        return self._corruption(i, self.views(i))

    def _corruption(self, i, images):
        row = self.split.rows[i]
        for side, pixels in zip(("lr", "hr"), images, strict=True):
            if zlib.crc32(pixels) != row[f"{side}_crc32"]:
                offset = self.split.stored[i][f"{side}_offset"]
                return CorruptSample(
                    i,
                    f"{side}_crc32",
                    f"{self.split.shards[row['shard']]}: {self.split.key(i)} has other {side.upper()} pixels"
                    f" at offset {offset} than were packed (crc32 differs)",
                )
        return None

    def empty_batch(self, count, lr_crop, pin_memory=False):
        """Return buffers for a batch, of the set's dtype: lr [B, 1, *[c] * n], hr [B, 1, *[s*c] * n]."""
        return tuple(
            torch.empty((count, 1, *[side] * self.split.ndim), dtype=self.torch_dtype, pin_memory=pin_memory)
            for side in (lr_crop, self.scale * lr_crop)
        )

    def batch(self, crops, lr, hr, places=None):
        """Copy Crops into buffers, not yet oriented: lr [B, 1, *[c] * n], hr [B, 1, *[s*c] * n].

        places: positions in the batch, [len(crops)]; None: all in order.
        """
        lr_out, hr_out = lr.numpy()[:, 0], hr.numpy()[:, 0]
        lr_side, hr_side, scale = lr.shape[-1], hr.shape[-1], self.scale
        shards = self._shards_of(crops.samples)
        self._check_shards(shards)
        places = range(len(lr)) if places is None else places.tolist()
        for b, i, corner in zip(places, crops.samples.tolist(), crops.corners.tolist(), strict=True):
            lr_image, hr_image = self.views(i)
            lr_out[b] = lr_image[tuple([slice(start, start + lr_side) for start in corner])]
            hr_out[b] = hr_image[tuple([slice(start * scale, start * scale + hr_side) for start in corner])]
        self._check_unchanged(shards)

    def forget(self, needed=()):
        """Unmap all shards but the needed ones, whose copies in a cache may then be removed."""
        if forgotten := self.maps.keys() - set(needed):
            self.views.cache_clear()  # they keep maps alive
            for shard in forgotten:
                del self.maps[shard]

    def _turn_to(self, i):
        """Leave only the shard of sample i mapped; returns the row of the sample."""
        row = self.split.rows[i]
        self.forget([int(row["shard"])])
        self._check_shards(self._shards_of([i]))
        return row

    def _check_shards(self, shards):
        """Raise UserError if a shard has been truncated since it was mapped: reading it would kill the
        process.

        A truncation in the milliseconds between this check and the end of a batch still does; then the
        launcher restarts or names it.
        """
        for shard in shards:
            mapped = self._map(shard)
            if mapped.size() < len(mapped):
                raise UserError(
                    f"{self.split.shards[shard]} has been cut while it was read;"
                    " copy it again, then start again"
                )

    def _check_unchanged(self, shards):
        """Raise UserError if a shard has been written to before or while samples were read from its map."""
        for shard in shards:
            if self.split.was_rewritten(shard):
                with opened(self.split.shards[shard], self.stop) as file:
                    self.split.check_unchanged(shard, file)

    def _shards_of(self, samples):
        """Return the numbers of the shards that hold samples."""
        return set(self.split.rows["shard"][samples].tolist())

    def _views(self, i):
        """Return the images of sample i, (lr, hr), as views of the mapped shard."""
        row = self.split.rows[i]
        mapped = self._map(int(row["shard"]))
        try:
            return tuple(
                np.ndarray(
                    image_shape(row, side, self.scale), self.split.dtype, mapped, int(row[f"{side}_offset"])
                )
                for side in ("lr", "hr")
            )
        except TypeError:  # a buffer too small: with data.verify=none, or a shard truncated after the check
            raise UserError(
                f"{self.split.shards[row['shard']]} ends at {len(mapped)} bytes, before the pixels of"
                f" {self.split.key(i)}; copy it again or {self.split.set.manifest.again}"
            ) from None

    def _map(self, shard):
        if shard not in self.maps:
            path = self.split.shards[shard]
            with opened(path, self.stop) as file:
                self.split.check_unchanged(shard, file)
                if os.fstat(file.fileno()).st_size == 0:  # cannot be mapped
                    raise UserError(f"{path} is empty; copy it again or {self.split.set.manifest.again}")
                self.maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self.maps[shard]
