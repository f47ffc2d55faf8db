"""Grey levels to pores: thresholds, the median that laboratories denoise with, and the outside of a
plug.

Images are [*shape] floats on [0, 1], 2-D or 3-D; masks and pores are booleans of the same shape.
"""

import itertools

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

BINS = 256  # of the histogram on [0, 1]
LARGEST_POROSITY = 0.6  # beyond it two classes are not enough, as in coal
CONSTANT_SIDE = 11  # pixels of the window in which the outside of a plug has one grey level
AIR_SIDE = 31  # and of that in which all pixels are as dark as air
AIR_SHARE = 0.05  # of the image, of the smallest area of air
SELECTED_AT_ONCE = 2**14  # pixels of a median
SWEEP = tuple(np.round(np.linspace(0.85, 1.15, 7), 2).tolist())  # factors of a threshold


def histogram(image):
    """Return the counts of grey levels in 256 bins on [0, 1]; 1 belongs to the last."""
    bins = np.minimum((np.asarray(image) * BINS).astype(np.int64), BINS - 1)
    return np.bincount(bins.ravel(), minlength=BINS)


def otsu(counts):
    """Return the threshold on [0, 1] that separates a histogram into two classes with the largest variance
    between them (Otsu 1979, "A threshold selection method from gray-level histograms"); None where all
    pixels are in one bin.

    Of several equally good thresholds, over bins without a pixel, the middle one.
    """
    counts = np.asarray(counts, float)
    levels = (np.arange(len(counts)) + 0.5) / len(counts)
    weight, moment = counts.cumsum(), (counts * levels).cumsum()
    below, above = weight[:-1], weight[-1] - weight[:-1]
    separate = (below > 0) & (above > 0)
    if not separate.any():
        return None
    between = np.zeros(len(counts) - 1)
    between[separate] = (moment[-1] * below / weight[-1] - moment[:-1])[separate] ** 2 / (below * above)[
        separate
    ]
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(np.mean(best + 1) / len(counts))


def median(image):
    """Return the median of 3 pixels along each axis (3x3, in 3-D 3x3x3), mirrored at the borders."""
    windows = sliding_window_view(np.pad(image, 1, mode="reflect"), [3] * image.ndim)
    middle, found = 3**image.ndim // 2, np.empty_like(image)
    height, width = image.shape[-2:]
    step = max(1, SELECTED_AT_ONCE // width)
    for page, start in itertools.product(np.ndindex(image.shape[:-2]), range(0, height, step)):
        rows = *page, slice(start, start + step)  # numpy selects faster than SciPy filters volumes
        values = windows[rows].reshape(-1, width, 3**image.ndim)
        found[rows] = np.partition(values, middle)[..., middle]
    return found


def pores_of(image, threshold, phase="dark"):
    """Return the pores: grey levels below a threshold, or of phase "bright" above it."""
    return image < threshold if phase == "dark" else image > threshold


def inside(image, air=None):
    """Return the mask of the rock: without areas of one grey level that reach the border of the image, as the
    outside of a round plug does; air: grey level below which also noisy air around a plug is left out.

    An area counts where a window of 11 pixels along each axis holds one grey level; a saturated pore does not
    count unless it is that wide and cut by the border. Air counts where a window of 31 pixels is below its
    level after the median, in areas that reach a corner and fill 5 % of the image or more.
    """
    if min(image.shape) < CONSTANT_SIDE:
        flat = np.full(image.shape, image.max() == image.min())
    else:
        spread = ndimage.maximum_filter(image, CONSTANT_SIDE) - ndimage.minimum_filter(image, CONSTANT_SIDE)
        flat = spread == 0
        flat = _dilated(flat, CONSTANT_SIDE) if flat.any() else flat
    rock = ~_cut_by_border(flat) if flat.any() else np.ones(image.shape, bool)
    return rock if air is None else rock & ~_air(image, air)


def filled(image, valid):
    """Return an image with the mean of its valid pixels in the place of the others, for what needs a whole
    image: the outside of a plug then has no power at any frequency.
    """
    return image if valid.all() or not valid.any() else np.where(valid, image, image[valid].mean())


def _cut_by_border(mask):
    regions, _ = ndimage.label(mask)
    faces = [regions.take(side, axis).ravel() for axis in range(mask.ndim) for side in (0, -1)]
    cut = np.unique(np.concatenate(faces))
    return np.isin(regions, cut[cut > 0])


def _air(image, level):
    """Return the mask of the air around a plug, which is below a grey level."""
    dark = np.pad(median(image) < level, AIR_SIDE, mode="edge")  # the window may look beyond the border
    wide = _dilated(ndimage.minimum_filter(dark.view(np.uint8), AIR_SIDE) > 0, AIR_SIDE)
    regions, _ = ndimage.label(wide[(slice(AIR_SIDE, -AIR_SIDE),) * image.ndim])
    corners = np.unique(regions[np.ix_(*[[0, -1]] * image.ndim)])
    sizes = np.bincount(regions.ravel())
    return np.isin(regions, [n for n in corners if n and sizes[n] >= AIR_SHARE * image.size])


def _dilated(mask, side):
    """Return a mask dilated by a window; a maximum along each axis in turn, which is faster in 3-D."""
    return ndimage.maximum_filter(mask.view(np.uint8), side, mode="constant").astype(bool)
