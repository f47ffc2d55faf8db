"""Pixels out of shards: whole images, or just the windows of a batch, through the index and memory maps."""

import json
from functools import lru_cache

import numpy as np
import torch


class Reader:
    """Reads one split. Shards are mapped when first touched, in the process that reads."""

    def __init__(self, split):
        self.split = split
        self.scale = split.scale
        self.torch_dtype = torch.from_numpy(np.empty(0, split.dtype)).dtype
        self.peak = int(np.iinfo(split.dtype).max)  # the brightest grey level of the type
        self.maps = {}
        self.views = lru_cache(2**16)(self._views)  # some 500 bytes each

    def image(self, i):
        """Return sample i whole: lr [H, W] and hr [s*H, s*W], numpy of the set's dtype."""
        return tuple(view.copy() for view in self.views(i))

    def record(self, i):
        """Return what is known of sample i: rock, source file, page, corner, scale, kernel, voxel size."""
        row = self.split.rows[i]
        start = int(row["record_offset"])
        return json.loads(self._map(int(row["shard"]))[start : start + int(row["record_bytes"])].tobytes())

    def empty_batch(self, count, lr_crop, pin_memory=False):
        """Return buffers for a batch: lr [B, 1, c, c] and hr [B, 1, s*c, s*c], tensors of the set's dtype."""
        return tuple(
            torch.empty((count, 1, side, side), dtype=self.torch_dtype, pin_memory=pin_memory)
            for side in (lr_crop, self.scale * lr_crop)
        )

    def batch(self, crops, lr, hr, places=None):
        """Cut windows into buffers lr [B, 1, c, c] and hr [B, 1, s*c, s*c], not yet oriented; places: which of the B."""
        lr_out, hr_out, scale = lr.numpy(), hr.numpy(), self.scale
        side = lr.shape[-1]
        places = range(len(lr)) if places is None else places.tolist()
        windows = zip(places, crops.samples.tolist(), crops.tops.tolist(), crops.lefts.tolist(), strict=True)
        for b, i, top, left in windows:
            lr_image, hr_image = self.views(i)
            lr_out[b, 0] = lr_image[top : top + side, left : left + side]
            hr_out[b, 0] = hr_image[top * scale : (top + side) * scale, left * scale : (left + side) * scale]

    def _views(self, i):
        """Return the images of sample i, (lr, hr), as they lie in the mapped shard."""
        row = self.split.rows[i]
        mapped = self._map(int(row["shard"]))
        return tuple(
            np.ndarray((int(row[f"{side}_height"]), int(row[f"{side}_width"])), self.split.dtype, mapped, int(row[f"{side}_offset"]))
            for side in ("lr", "hr")
        )

    def _map(self, shard):
        if shard not in self.maps:
            self.maps[shard] = np.memmap(self.split.shards[shard], np.uint8, "r")
        return self.maps[shard]
