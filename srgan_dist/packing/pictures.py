"""What is wrong with pictures as a whole: label images among scans, pairs that do not fit, grey levels that
use little of their range.

Each picture (a page, or a block of a volume) is looked at while it is packed: `look` keeps a few numbers of
it. When all are packed, `judge` compares them with the others of their rock.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from srgan_dist.data.window import without_repeated_ends
from srgan_dist.packing.match import MARGIN, PAIRED, Match, fit, match

FEW_LEVELS = 8  # of segmented images; a scan has more, as it has noise
# Shares from which on an image of more levels looks like labels, beside those that were measured:
FLAT = 0.8  # equal neighbours: labels of grains 0.89, scans 0.08, synthetic ones 0.22, denoised ones 0.55
BLACK_AND_WHITE = 0.1  # pixels of the rarer one of darkest and brightest level: resampled masks; scans 0.02
NARROW = {"uint8": 1 / 8, "uint16": 1 / 4}  # share of the range of a pixel type below which a note says so

_PIXELS = 4096  # that are looked at
_TAIL = 8  # of them at either end that do not count: hot pixels

_UNRELATED = 0.2  # the largest correlation of sides that certainly show different things
_USUAL = 5  # pairs of a rock from which on their median says how well LR fits HR
_NAMED = 10  # pictures of one kind that are listed by name


class Look(NamedTuple):
    """A few numbers of one picture."""

    levels: int  # different grey levels among some pixels
    low: int | None  # robust darkest and brightest grey level, without that of a mask around a plug; None
    high: int | None  # where there is hardly anything but a mask
    flat: bool  # like labels, with more levels than FEW_LEVELS
    match: Match | None  # with LR, where there is one that is not registered

    @classmethod
    def of(cls, numbers):
        """Return the Look of plain JSON."""
        *others, found = numbers
        return cls(*others, found and Match(*found))


def look(hr, lr=None, scale=None):
    """Return the Look of an HR picture, uint8 or uint16, and of the LR picture that belongs to it."""
    every = hr.size // _PIXELS | 1
    pixels = np.sort(hr.reshape(-1)[::every])
    levels = 1 + int(np.count_nonzero(np.diff(pixels)))
    kept = without_repeated_ends(pixels) if levels > FEW_LEVELS else pixels
    tail = min(_TAIL, (len(kept) - 1) // 4)
    low, high = int(kept[tail]), int(kept[-1 - tail])
    between = np.count_nonzero((pixels > pixels[0]) & (pixels < pixels[-1]))
    if levels > FEW_LEVELS and between <= len(pixels) // 100:
        low = high = None
    flat = levels > FEW_LEVELS and _is_flat(hr.reshape(-1), every)
    found = match(hr, lr, scale) if lr is not None else None
    return Look(levels, low, high, flat, found)


def _is_flat(pixels, every):
    """Return whether most pixels are equal to the next one, but for black and white ones, or many are black
    and many white.
    """
    ones, others = pixels[:-1:every], pixels[1::every]
    low, high = ones.min(), ones.max()
    rarer = min(np.mean(ones == low), np.mean(ones == high))
    counted = (ones != others) | (ones > low) & (ones < high)  # not a mask around a plug
    equal = np.count_nonzero((ones == others) & counted)
    return bool(rarer >= BLACK_AND_WHITE or equal >= FLAT * max(1, np.count_nonzero(counted)))


class Picture(NamedTuple):
    """A Look, and whose it is."""

    rock: str
    name: str
    dtype: np.dtype
    look: Look


def judge(pictures):
    """Return (faults, notes) of all pictures of a build."""
    of_rock = defaultdict(list)
    for picture in pictures:
        of_rock[picture.rock].append(picture)
    faults, notes = _labels(of_rock)
    for rock, own in of_rock.items():
        found = _pairs(rock, [picture for picture in own if picture.look.match])
        faults += found[0]
        notes += found[1]
    return faults, notes + _narrow(of_rock)


def judge_in_place(pictures):
    """Return what `judge` does in the words of a set of other people, which is not built."""
    return tuple([_in_place(line) for line in lines] for lines in judge(pictures))


def _in_place(line):
    for ours, theirs in (
        ("move them out of SOURCE", "leave their shards out"),
        ("leave them out, or try --align", "leave their shards out, or extract the images for build --align"),
        ("--align", "build --align, of extracted images,"),
        ("e.g. --window", "build, of extracted images, and --window"),
    ):
        if ours in line:
            return line.replace(ours, theirs)
    return line


def certain(pictures):
    """Return some pictures of a rock without what only all of them can tell: few grey levels of single ones
    beside scans, and pairs of little contrast, or of a correlation that is neither high nor very low.
    """
    scans = [picture for picture in pictures if picture.look.levels > FEW_LEVELS]
    most = max((picture.look.match.contrast for picture in pictures if picture.look.match), default=0)

    def is_clear(found):
        best = _best(found)
        turned = found.turned >= PAIRED and found.turned > best + MARGIN or found.correlation <= -PAIRED
        return found.contrast > most / 2 and (turned or not _UNRELATED <= best < PAIRED)

    return [
        picture
        if picture.look.match and is_clear(picture.look.match)
        else picture._replace(look=picture.look._replace(match=None))
        for picture in scans or pictures
    ]


def _labels(of_rock):
    """Name the segmented images: a fault beside scans, a note where there is nothing else, and where they
    have more levels, as some denoised scans are nearly as flat.
    """
    found, scans = {}, 0
    for rock, pictures in of_rock.items():
        drawn = [picture for picture in pictures if picture.look.levels > 1]
        few = [picture for picture in drawn if picture.look.levels <= FEW_LEVELS]
        if 2 * len(few) < len(drawn):  # then faint ones are air, of which a scan may have some
            few = [p for p in few if p.look.high - p.look.low > np.iinfo(p.dtype).max // 4]
        scans += len(drawn) - len(few)
        if few:
            found[rock] = few
    faults, notes = [], []
    for rock, few in found.items():
        words = (
            f"{rock}: {len(few)} images have {FEW_LEVELS} grey levels or fewer, as label images and masks"
            f" have: {_some(p.name for p in few)}"
        )
        if scans:
            faults.append(f"{words}; they are no scans, so move them out of SOURCE")
        else:
            notes.append(f"{words}; a network trained on them sharpens such images, not scans")
    for rock, pictures in of_rock.items():
        flat = [picture.name for picture in pictures if picture.look.flat]
        if flat:
            notes.append(
                f"{rock}: {len(flat)} images are flat nearly everywhere, as labels of grains, resampled masks"
                f" and images enlarged by repeating pixels are: {_some(flat)}; if they are no scans,"
                " move them out of SOURCE"
            )
    return faults, notes


def _pairs(rock, pictures):
    """Return (faults, notes) of the pairs of one rock; pictures without contrast of their own are air."""
    if not pictures:
        return [], []
    least = 0.25 * np.median([picture.look.match.contrast for picture in pictures])
    pictures = [picture for picture in pictures if picture.look.match.contrast >= least]
    fits = np.array([_best(picture.look.match) for picture in pictures])
    usual = float(np.median(fits))
    spread = 1.48 * float(np.median(np.abs(fits - usual)))  # the standard deviation of most of them
    turned, inverted, other, shifted, worse, exchanged = {}, {}, {}, {}, {}, {}
    for name, found in ((picture.name, picture.look.match) for picture in pictures):
        best = _best(found)
        if found.turned >= PAIRED and found.turned > best + MARGIN:
            turned[name] = f"{found.turn}: correlation {found.turned:.2f} for {best:.2f}"
        elif found.correlation <= -PAIRED:
            inverted[name] = f"correlation {found.correlation:.2f}"
        elif best < _UNRELATED or best < PAIRED and best < usual - 0.3:
            other[name] = f"correlation {best:.2f}{_owner(name, found, pictures)}"
        elif any(found.shift) and found.shifted > found.correlation + 0.02:
            shift = ", ".join(map(str, found.shift))
            shifted[name] = f"({shift}): correlation {found.shifted:.2f} for {found.correlation:.2f}"
        elif len(pictures) >= _USUAL and best < usual - max(0.08, 6 * spread):
            worse[name] = f"correlation {best:.2f}{_owner(name, found, pictures)}"
        elif len(pictures) < _USUAL and (owner := _owner(name, found, pictures)):
            exchanged[name] = f"correlation {best:.2f}{owner}"
    faults = [
        f"{rock}: {_listed(some, problem)}"
        for some, problem in (
            (turned, "LR fits HR better when it is turned; turn one side"),
            (inverted, "LR is dark where HR is bright; invert the grey levels of one side"),
            (
                other,
                f"LR does not show what HR shows, within 8 LR pixels (the median of {rock} is {usual:.2f});"
                " correct the pairs, leave them out, or try --align",
            ),
        )
        if some
    ]
    notes = [
        f"{rock}: {_listed(some, problem)}"
        for some, problem in (
            (
                shifted,
                "LR fits HR better after a shift, in LR pixels; --align finds it to a fraction and makes up"
                " for it",
            ),
            (worse, f"LR fits HR much worse than elsewhere, where the median is {usual:.2f}; look at them"),
            (exchanged, "LR fits HR of another pair better; look at them"),
        )
        if some
    ]
    if usual < PAIRED and not faults:
        notes.append(
            f"{rock}: LR and HR correlate by {usual:.2f} only, the median of {len(pictures)} pairs; do they"
            " show the same place? --align registers them"
        )
    return faults, notes


def _best(found):
    return max(found.correlation, found.shifted)


def _owner(name, found, pictures):
    """Say whose LR an LR picture seems to be."""
    fits = [(fit(picture.look.match, found), picture.name) for picture in pictures if picture.name != name]
    best, owner = max(fits, default=(0, ""))
    return f", its LR seems to be that of {owner}" if best > max(0.8, fit(found, found) + 0.02) else ""


def _listed(pictures, problem):
    named = [f"{name} {words}" for name, words in pictures.items()]
    more = f" and {len(named) - _NAMED} more" * (len(named) > _NAMED)
    return f"{len(named)} pairs: {problem}: {'; '.join(named[:_NAMED])}{more}"


def _some(names):
    names = list(names)
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


def _narrow(of_rock):
    """Return notes on the rocks whose grey levels use a small part of their range."""
    used = {}
    for rock, pictures in of_rock.items():
        scans = [p for p in pictures if p.look.levels > FEW_LEVELS and not p.look.flat]
        drawn = [p for p in scans if p.look.low is not None]
        if len({picture.dtype for picture in drawn}) == 1:
            low, high = min(p.look.low for p in drawn), max(p.look.high for p in drawn)
            used[rock] = drawn[0].dtype, low, high
    narrow = {rock: own for rock, own in used.items() if _is_narrow(*own)}
    dtypes, lows, highs = zip(*narrow.values(), strict=True) if narrow else ((), (), ())
    if len(narrow) == len(used) and len(set(dtypes)) == 1 and _is_narrow(dtypes[0], min(lows), max(highs)):
        return [_narrow_note(_some(narrow), dtypes[0], min(lows), max(highs), "map it onto the whole one")]
    alone = "a window is for a whole set, so pack this rock as one of its own,"
    return [_narrow_note(rock, *own, alone) for rock, own in narrow.items()]


def _is_narrow(dtype, low, high):
    return high - low < NARROW[dtype.name] * np.iinfo(dtype).max


def _narrow_note(rocks, dtype, low, high, advice):
    peak, sixteen = np.iinfo(dtype).max, dtype == np.uint16
    return (
        f"{rocks}: but for a few pixels and masks, the grey levels are between {low} and {high} of {peak}"
        f"{' (12-bit data?)' * sixteen}: networks and scores take {peak} for white, so PSNR is"
        f" {20 * np.log10(peak / max(1, high - low)):.0f} dB higher than over the range that is used;"
        f" {advice} with e.g. --window {low}:{high}{' --dtype uint16' * sixteen}"
    )
