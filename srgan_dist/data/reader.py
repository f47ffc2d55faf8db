"""Pixels out of shards: whole images, or just the windows of a batch, through the index and memory maps."""

import json

import numpy as np
import torch


class Reader:
    """Reads one split. Shards are mapped when first touched, in the process that reads."""

    def __init__(self, split):
        self.split = split
        self.scale = split.scale
        self.maps = {}
        self.torch_dtype = torch.from_numpy(np.empty(0, split.dtype)).dtype
        self.peak = int(np.iinfo(split.dtype).max)  # the brightest grey level of the type

    def image(self, i):
        """Return sample i whole: lr [H, W] and hr [s*H, s*W], numpy of the set's dtype."""
        row = self.split.rows[i]
        return tuple(self._pixels(row, side).copy() for side in ("lr", "hr"))

    def record(self, i):
        """Return what is known of sample i: rock, source file, page, corner, scale, kernel, voxel size."""
        row = self.split.rows[i]
        start = int(row["record_offset"])
        return json.loads(self._map(row["shard"])[start : start + int(row["record_bytes"])].tobytes())

    def batch(self, crops, lr_crop, pin_memory=False):
        """Cut a batch: lr [B, 1, c, c] and hr [B, 1, s*c, s*c], tensors of the set's dtype, not yet oriented."""
        lr, hr = (
            torch.empty((len(crops.samples), 1, side, side), dtype=self.torch_dtype, pin_memory=pin_memory)
            for side in (lr_crop, self.scale * lr_crop)
        )
        lr_out, hr_out = lr.numpy(), hr.numpy()
        windows = zip(self.split.rows[crops.samples], crops.tops.tolist(), crops.lefts.tolist(), strict=True)
        for b, (row, top, left) in enumerate(windows):
            lr_out[b, 0] = self._pixels(row, "lr")[top : top + lr_crop, left : left + lr_crop]
            top, left, side = (self.scale * length for length in (top, left, lr_crop))
            hr_out[b, 0] = self._pixels(row, "hr")[top : top + side, left : left + side]
        return lr, hr

    def _pixels(self, row, side):
        shape = (int(row[f"{side}_height"]), int(row[f"{side}_width"]))
        return np.ndarray(shape, self.split.dtype, self._map(row["shard"]), int(row[f"{side}_offset"]))

    def _map(self, shard):
        shard = int(shard)
        if shard not in self.maps:
            self.maps[shard] = np.memmap(self.split.shards[shard], np.uint8, "r")
        return self.maps[shard]
