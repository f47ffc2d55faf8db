"""A window of values that become grey levels: how float, signed and 32-bit voxels become 8 or 16 bits."""

import math
import re
from dataclasses import dataclass

import numpy as np

from srgan_dist.utils.errors import UserError

AUTO_PERCENT = 0.1  # of the voxels, that --window auto makes black, and as many white
REPEATED = 0.01  # share of the voxels with the very lowest or highest value that makes it no grey level

_READ, _KEPT = 2**28, 2**22  # voxels that are looked at, and kept in memory, to find a window


@dataclass(frozen=True)
class Window:
    """The values that become black and white; those between are mapped linearly, those beyond are clipped."""

    low: float
    high: float

    def __post_init__(self):
        width = self.high - self.low
        if not (math.isfinite(width) and width > 0 and math.isfinite(65535 / width)):
            raise UserError(f"window={self} has to be LOW:HIGH, two finite numbers, the first one smaller")

    def __str__(self):
        return f"{self.low!r}:{self.high!r}"

    def to_grey_levels(self, block, dtype):
        """Map values of any shape and type to uint8 or uint16, rounded; raises UserError for NaN."""
        top = np.iinfo(dtype).max
        values = np.clip(np.asarray(block, np.float64), self.low, self.high)
        if np.isnan(values).any():
            raise UserError("holds NaN (not a number), which is no grey level; fill such voxels with a value")
        return np.rint((values - self.low) * (top / (self.high - self.low))).astype(dtype)

    def from_grey_levels(self, grey, dtype):
        """Map grey levels, uint8 or uint16, back to values of `dtype`; integers are rounded and clipped."""
        values = self.low + np.asarray(grey, np.float64) * ((self.high - self.low) / np.iinfo(grey.dtype).max)
        dtype = np.dtype(dtype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            values = np.rint(np.clip(values, limits.min, limits.max))
        return values.astype(dtype)


def parse_window(text):
    """Return what the option --window says: a Window for LOW:HIGH, a percentage for PERCENT or auto, which
    `find_window` takes.
    """
    rule = f"window={text} has to be LOW:HIGH (the values that become black and white), auto, or PERCENT"
    low, colon, high = text.partition(":")
    try:
        if colon:
            return Window(float(low), float(high))
        percent = AUTO_PERCENT if text == "auto" else float(re.sub(r"\s*%$", "", text))
    except ValueError as error:
        raise UserError(str(error) if isinstance(error, UserError) else rule) from None
    if not 0 <= percent < 50:
        raise UserError(f"{rule}, at least 0 and below 50, of the voxels that become black, and white")
    return percent


def find_window(volumes, percent=AUTO_PERCENT):
    """Return the Window from the percentile `percent` to `100 - percent` of all voxels of some volumes, those
    of `find_values`. Raises UserError for NaN, infinity, and a single value.
    """
    values = find_values(volumes)
    if not values.size:
        raise UserError("window=auto: there are no volumes to take it from")
    low, high = np.percentile(values, (percent, 100 - percent))
    if not low < high:
        raise UserError(
            f"window: the {percent}th and {100 - percent}th percentiles of the voxels are both {low:g}; give"
            " --window LOW:HIGH"
        )
    return Window(float(low), float(high))


def find_values(volumes, most=_READ):
    """Return voxels of some volumes that stand for all, [N].

    Of large sets evenly spaced slices are read, about `most` voxels, and of them evenly spaced voxels kept,
    the same in every call: about 2^22 in memory beside one slice. Raises UserError for NaN and infinity.
    """
    step = max(1, -(-sum(math.prod(volume.shape) for volume in volumes) // most))
    chosen = [range(min(step // 2, volume.slices - 1), volume.slices, step) for volume in volumes]
    looked_at = sum(len(own) * volume.height * volume.width for own, volume in zip(chosen, volumes))
    stride = -(-looked_at // _KEPT) | 1  # odd, to visit every column also where the width is a power of two
    kept = [
        _finite(volume, volume.read((number, 0, 0), (1, volume.height, volume.width)).ravel()[::stride])
        for own, volume in zip(chosen, volumes)
        for number in own
    ]
    return np.concatenate(kept) if kept else np.empty(0)


def without_repeated_ends(values):
    """Return values, sorted, [N], without the lowest and the highest one where a share of REPEATED or more
    has it, as masks around a plug and saturated pixels have; all of them where hardly one would be left.
    """
    values = np.sort(np.ravel(values))
    if not values.size:
        return values
    first, last = np.searchsorted(values, values[0], "right"), np.searchsorted(values, values[-1], "left")
    start = first if first >= REPEATED * values.size else 0
    stop = last if values.size - last >= REPEATED * values.size else values.size
    return values[start:stop] if stop - start > values.size // 100 else values


def _finite(volume, values):
    if np.isnan(values).any():
        raise UserError(f"{volume.path}: holds NaN (not a number); fill such voxels with a value")
    if not np.isfinite(values).all():
        raise UserError(f"{volume.path}: holds infinity; fill such voxels, or give --window LOW:HIGH")
    return values.copy()
