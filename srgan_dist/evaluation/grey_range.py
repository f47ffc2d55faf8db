"""The range of grey levels that a generator was trained on, and whether that of an input is another one."""

import math
from dataclasses import dataclass

import numpy as np

from srgan_dist.data.reader import Reader
from srgan_dist.data.volume import ALLOWED_DTYPES
from srgan_dist.data.window import Window, find_values, without_repeated_ends
from srgan_dist.utils.errors import UserError

PERCENT = 1  # of the pixels are darker than a range, and as many brighter
IMAGES = 16  # of a rock: its first training images
LOOKED_AT = 2**26  # voxels of an input that are read to know its range

NARROW, WIDE, OUTSIDE = 1 / 3, 3, 1 / 4  # of the width of a trained range: what differs clearly
MEAN_SHARE = 0.05  # of the range of LR by which the mean of SR may differ


@dataclass(frozen=True)
class GreyRange:
    """The grey levels of nearly all pixels, as shares of full scale, on [0, 1]."""

    low: float
    high: float

    @property
    def width(self):
        return self.high - self.low

    def resembles(self, trained):
        """Return whether images of this range may be shown to a network trained on another one."""
        outside = max(0, trained.low - self.low) + max(0, self.high - trained.high)
        similar = NARROW * trained.width <= self.width <= WIDE * trained.width
        return similar and outside <= OUTSIDE * trained.width


def robust_range(values):
    """Return (low, high): the percentiles PERCENT and 100 - PERCENT of some values without repeated ends, as
    `without_repeated_ends` leaves them; None where they are one.
    """
    kept = without_repeated_ends(values)
    if not kept.size:
        return None
    low, high = np.percentile(kept, (PERCENT, 100 - PERCENT))
    return (float(low), float(high)) if low < high else None


# Of a training


def trained_ranges(splits, corrupt):
    """Return the range of the LR images of every rock of some training splits, as a list of {"rock", "low",
    "high"}: what exported weights keep.

    The first images of a rock are looked at, which were shuffled when they were packed. corrupt: for each
    split the rows that are left out.
    """
    found = []
    for split, left_out in zip(splits, corrupt, strict=True):
        reader, chosen = Reader(split), {}
        for i in sorted(set(range(len(split))) - set(left_out)):
            images = chosen.setdefault(split.rock(i), [])
            if len(images) < IMAGES:
                images.append(i)
        for rock, images in sorted(chosen.items()):
            limits = robust_range(np.concatenate([reader.unchecked_image(i)[0].ravel() for i in images]))
            if limits:
                low, high = (limit / reader.peak for limit in limits)
                found.append({"rock": rock, "low": low, "high": high})
    return found


def ranges_in(header):
    """Return [(rock, GreyRange)] of the header of a weights file, [] of an older version; raises UserError
    for a header with others than `trained_ranges` makes.
    """
    entries = header.get("grey_ranges") or []
    try:
        ranges = [(str(own["rock"]), GreyRange(float(own["low"]), float(own["high"]))) for own in entries]
        sound = all(0 <= own.low < own.high <= 1 for _, own in ranges)
    except (TypeError, LookupError, ValueError):
        sound = False
    if not sound:
        raise UserError(
            f"the header of the weights has grey_ranges={entries!r:.80}, which are none; it was changed after"
            " srgan_dist wrote it, take the original"
        )
    return ranges


# Of a set


def set_notes(splits, ranges):
    """Return sentences about the rocks of some splits whose LR images have grey levels that a generator was
    not trained on; ranges: as of `ranges_in`, [] of older weights: no sentence.
    """
    notes, top = [], np.iinfo(splits[0].dtype).max
    for own in trained_ranges(splits, [[]] * len(splits)) if ranges else ():
        found = GreyRange(own["low"], own["high"])
        if not any(found.resembles(trained) for _, trained in ranges):
            notes.append(
                f"{_described([(own['rock'], found)], top)} of {top} are the grey levels of its LR images"
                f" (percentiles {PERCENT} and {100 - PERCENT}), unlike those that these weights were trained"
                f" on ({_described(ranges, top)}). If they are stored in another window, scores of SR are"
                " wrong: build the set with that of the training set (build --window)"
            )
    return notes


def _described(ranges, top):
    return ", ".join(f"{rock} {own.low * top:.0f} to {own.high * top:.0f}" for rock, own in ranges[:5])


# Of an input


def grey_volume(volume, window):
    """Return a volume as a network sees it, in uint8 or uint16; window: Window, None: as it is."""
    if window is None:
        return volume
    return volume.windowed(window, volume.dtype if volume.dtype in ALLOWED_DTYPES else np.uint16)


def values_of(grey, window, dtype):
    """Map grey levels back to values of `dtype`; window: that of `grey_volume`."""
    return grey if window is None else window.from_grey_levels(grey, dtype)


def step_of(window, dtype):
    """Return the difference of values, float32, that one grey level of `grey_volume` is worth; dtype: of the
    values.
    """
    if window is None:
        return np.float32(1)
    top = np.iinfo(dtype if dtype in ALLOWED_DTYPES else np.uint16).max
    return np.float32((window.high - window.low) / top)


def auto_window(volumes, ranges):
    """Return the Window by which the range of some volumes, taken together, becomes that of a training: the
    mean one of its rocks.

    ranges: as of `ranges_in`. Raises UserError where there are none, and for volumes of a single value.
    """
    if not ranges:
        raise UserError(
            "--window auto: these weights do not say the grey range of their training data, which older"
            " versions did not keep; give --window LOW:HIGH, the values that are black and white there"
        )
    limits = robust_range(find_values(volumes, LOOKED_AT))
    if limits is None:
        raise UserError("--window auto: the input has one value only; give --window LOW:HIGH")
    return _fitting_window(*limits, ranges)


def _fitting_window(low, high, ranges):
    """Return the Window that maps low and high to the ends of the mean range of a training."""
    trained = np.mean([(own.low, own.width) for _, own in ranges], axis=0)
    whole = (high - low) / trained[1]
    black = low - trained[0] * whole
    digits = 5 - math.floor(math.log10(whole))
    black, white = (round(float(value), digits) + 0.0 for value in (black, black + whole))  # no -0.0
    return Window(black, white)


def check_window(volume, window):
    """Raise UserError where a volume has no value in its Window (None: it has none), so that all of it would
    be black or white.
    """
    lows, highs = [], []
    for page in volume.pages() if window else ():
        page = page[np.isfinite(page)]
        if ((page >= window.low) & (page <= window.high)).any():
            return
        if page.size:
            lows.append(page.min())
            highs.append(page.max())
    if lows:  # else it has no number at all, which is named where it is read
        raise UserError(
            f"{volume.path}: the window {window} holds none of its values, which are {min(lows):g} to"
            f" {max(highs):g}: all of it would be black or white. Give --window LOW:HIGH with the values that"
            " are black and white in the training images, or --window auto"
        )


def range_note(volumes, windows, ranges, way_out=None):
    """Return a list of at most one note: the volumes whose range of grey levels is none that a generator was
    trained on.

    windows: the Window of each volume, None: none. ranges: as of `ranges_in`; [], of older weights: no note.
    way_out(fitting): says what to do, from the Window that gives the first of them the trained range; None:
    to give --window.
    """
    different = []
    for volume, window in zip(volumes, windows, strict=True) if ranges else ():
        grey = grey_volume(volume, window)
        top = np.iinfo(grey.dtype).max
        limits = robust_range(find_values([grey], LOOKED_AT))
        if limits and not any(GreyRange(*(x / top for x in limits)).resembles(own) for _, own in ranges):
            values = [step_of(window, volume.dtype) * x + (window.low if window else 0) for x in limits]
            different.append((volume.path, limits, top, _fitting_window(*map(float, values), ranges)))
    if not different:
        return []
    path, (low, high), top, fitting = different[0]
    others = f", and so are those of {len(different) - 1} more" if len(different) > 1 else ""
    return [
        f"{path}: its grey levels, {low:.0f} to {high:.0f} of {top} (percentiles {PERCENT} and"
        f" {100 - PERCENT}), are unlike those of the training images ({_described(ranges, top)}){others}. If"
        f" they are stored in another window, SR is wrong: {(way_out or _option)(fitting)}"
    ]


def _option(fitting):
    return (
        "give --window LOW:HIGH, the values that are black and white in the training images, or --window"
        f" auto, which is {fitting} for this one"
    )


class MeanComparison:
    """Compares the mean grey level of SR with that of LR, of which parts are added as they come."""

    def __init__(self, dtype):
        self.top = np.iinfo(dtype).max
        self.lr, self.sr_sum, self.sr_count = np.zeros(self.top + 1, np.int64), 0.0, 0

    def add_lr(self, grey):
        self.lr += np.bincount(np.ravel(grey), minlength=self.top + 1)

    def add_sr(self, grey):
        self.sr_sum += float(np.sum(grey, dtype=np.float64))
        self.sr_count += grey.size

    def note(self, path, way_out="--window"):
        """Return a list of at most one note: that both differ by more than MEAN_SHARE of the range of LR, and
        a grey level of 8 bits. way_out: what gives an image another window.
        """
        count = self.lr.sum()
        if not (count and self.sr_count):
            return []
        low, high = np.searchsorted(np.cumsum(self.lr), [PERCENT * count / 100, (1 - PERCENT / 100) * count])
        lr, sr = self.lr @ np.arange(self.top + 1) / count, self.sr_sum / self.sr_count
        if abs(sr - lr) <= max(MEAN_SHARE * (high - low), self.top / 255):
            return []
        share = f", {abs(sr - lr) / (high - low):.0%} of the range of LR" if high > low else ""
        return [
            f"{path}: the mean grey level of SR is {sr:.1f}, that of LR {lr:.1f} of {self.top}: they differ"
            f" by {abs(sr - lr):.1f}{share}. The network does not keep the grey levels of this image; are"
            f" they stored in another window than those of its training ({way_out})?"
        ]
