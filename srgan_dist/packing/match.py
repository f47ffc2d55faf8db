"""How well the two sides of a pair fit: the correlation of LR with HR averaged over its pixels, as they are,
after a shift of LR, and after a flip or rotation of it.

Only the middle of both is looked at, which costs a few percent of the packing. `--align` (`align.py`) finds
fractions of a pixel and the point spread instead.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import fft

from srgan_dist.packing.align import faded

SIDE = {2: 48, 3: 20}  # LR pixels along an axis of the part that is compared
REACH = 8  # LR pixels: the largest shift that is looked for
SMALLEST = 8  # LR pixels along an axis
CLOSE = 0.8  # a correlation that only the shift by one pixel is compared with before all others are
FITS = 0.98  # a correlation that no shift or turn improves upon by much
MARGIN = 0.1  # of the correlation by which a turn is better than none
PAIRED = 0.5  # the least correlation of two images that show one place


class Match(NamedTuple):
    """The correlations (Pearson's) of one pair."""

    contrast: float  # standard deviation of the averaged HR, grey levels
    correlation: float  # of both sides as they are
    shift: tuple  # LR pixels: LR at p fits HR at p + shift best
    shifted: float  # the correlation there
    turn: str  # the flip or rotation of LR, in words, after which it fits best; "" for none
    turned: float
    hr_outline: str  # some averages of each side, by which exchanged images are found, see `fit`
    lr_outline: str


def match(hr, lr, scale):
    """Compare hr [s*D, s*H, s*W] with lr [D, H, W] of two or three axes, s = scale: a Match.

    None where one side has a single grey level there, or fewer than SMALLEST pixels along an axis.
    """
    common = [min(fine // scale, coarse) for fine, coarse in zip(hr.shape, lr.shape, strict=True)]
    size = [min(SIDE[hr.ndim], n) for n in common]
    if min(size) < SMALLEST:
        return None
    corner = [(whole - part) // 2 for whole, part in zip(common, size)]
    coarse = _averaged(hr, scale, corner, size)
    lr = lr[tuple(slice(start, start + n) for start, n in zip(corner, size))].astype(np.float32)
    contrast = float(coarse.std())
    if contrast == 0 or lr.min() == lr.max():
        return None
    as_it_is, outlines = _correlation(coarse, lr), (_outline(coarse), _outline(lr))
    if as_it_is > FITS:
        return Match(contrast, as_it_is, (0,) * hr.ndim, as_it_is, "", 0.0, *outlines)
    if as_it_is > CLOSE and all(_shifted(coarse, lr, step) <= as_it_is for step in _steps(hr.ndim)):
        shift, shifted = (0,) * hr.ndim, as_it_is  # a peak
    else:
        shift, shifted = _best_shift(coarse, lr)
    if max(as_it_is, shifted) + MARGIN > 1:  # no turn can be as much better
        return Match(contrast, as_it_is, shift, shifted, "", 0.0, *outlines)
    fine, low = coarse - coarse.mean(), lr - lr.mean()
    candidates = [(float(np.vdot(fine, turned)), words, turned) for words, turned in _turns(low)]
    _, words, image = max(candidates, key=lambda candidate: candidate[0])
    turned = _correlation(coarse, image)
    if turned > shifted - 0.2:  # the middle of an image with an odd side is not the middle of its mirror
        turned = max(turned, _best_shift(coarse, image)[1])
    return Match(contrast, as_it_is, shift, shifted, words, turned, *outlines)


def fit(found, other):
    """Return how well HR of one Match fits LR of another, by their outlines: a correlation."""
    outlines = (bytes.fromhex(outline) for outline in (found.hr_outline, other.lr_outline))
    one, other = (np.frombuffer(outline, np.uint8).astype(np.float32) for outline in outlines)
    return _correlation(one, other) if one.shape == other.shape else 0.0


def _outline(image):
    """Average an image over 6x6 or 4x4x4 parts: their grey levels in standard deviations, 32 steps each."""
    cells = 6 if image.ndim == 2 else 4
    sizes = [n // cells for n in image.shape]
    cropped = image[tuple(slice(cells * n) for n in sizes)]
    shape = [n for size in sizes for n in (cells, size)]
    parts = cropped.reshape(shape).mean(axis=tuple(range(1, 2 * image.ndim, 2)))
    steps = 128 + 32 * (parts - parts.mean()) / max(parts.std(), 1e-6)
    return steps.round().clip(0, 255).astype(np.uint8).tobytes().hex()


def _averaged(hr, scale, corner, size):
    """Average the part of HR that shows `size` LR pixels at `corner` over each of them, float32."""
    part = hr[tuple(slice(scale * start, scale * (start + n)) for start, n in zip(corner, size))]
    for axis in reversed(range(part.ndim)):  # the contiguous one first
        shape = part.shape[:axis] + (part.shape[axis] // scale, scale) + part.shape[axis + 1 :]
        cells = part.reshape(shape)
        part = sum(cells.take(i, axis + 1).astype(np.float32) for i in range(scale))
    return part / np.float32(scale**part.ndim)


def _correlation(one, other):
    one, other = one - one.mean(), other - other.mean()
    norms = math.sqrt(float(np.vdot(one, one)) * float(np.vdot(other, other)))
    return float(np.vdot(one, other)) / norms if norms else 0.0


def _best_shift(coarse, lr):
    """Return (shift, correlation of what overlaps after it): the whole LR pixels at which both fit best."""
    reach = [min(REACH, n // 4) for n in lr.shape]
    product = fft.rfftn(faded(coarse)) * fft.rfftn(faded(lr)).conj()
    peaks = fft.irfftn(product, lr.shape)
    near = peaks[np.ix_(*(np.arange(-most, most + 1) for most in reach))]
    shift = tuple(int(n) - most for n, most in zip(np.unravel_index(near.argmax(), near.shape), reach))
    return shift, _shifted(coarse, lr, shift)


def _steps(ndim):
    """Yield the shifts by one LR pixel along one axis."""
    for axis in range(ndim):
        for step in (-1, 1):
            yield tuple(step * (a == axis) for a in range(ndim))


def _shifted(coarse, lr, shift):
    """Return the correlation of what overlaps after a shift."""
    fine = tuple(slice(max(0, step), n + min(0, step)) for step, n in zip(shift, lr.shape))
    low = tuple(slice(max(0, -step), n + min(0, -step)) for step, n in zip(shift, lr.shape))
    return _correlation(coarse[fine], lr[low])


def _turns(lr):
    """Yield (words, LR turned) for all flips and, where all sides are equal, rotations, but for none."""
    axes = range(lr.ndim)
    orders = itertools.permutations(axes) if len(set(lr.shape)) == 1 else [tuple(axes)]
    names = "zyx"[-lr.ndim :]
    for order in orders:
        for count in range(lr.ndim + 1):
            for flipped in itertools.combinations(axes, count):
                words = [f"axes {''.join(names[a] for a in order)}"] * (order != tuple(axes))
                words += ["flipped along " + " and ".join(names[a] for a in flipped)] * bool(flipped)
                if words:
                    yield ", ".join(words), np.flip(lr.transpose(order), flipped)
