"""Second-order statistics of an image at each sub-pixel phase of an upsampling."""

import itertools

import torch


def offsets_of(ndim):
    """Return the offsets at which covariances are taken: none, 1 and 2 pixels along each axis, and both
    diagonals of each pair of axes; 7 in 2-D, 13 in 3-D.
    """
    axes = range(ndim)
    along = [tuple(step * (axis == other) for other in axes) for axis in axes for step in (1, 2)]
    diagonals = [
        tuple({one: 1, two: sign}.get(axis, 0) for axis in axes)
        for one, two in itertools.combinations(axes, 2)
        for sign in (1, -1)
    ]
    return [(0,) * ndim, *along, *diagonals]


def phase_moments(detail, scale, halves=False):
    """Return the mean of `detail` at every sub-pixel phase, [scale^n], and its covariances, [offsets,
    *[scale] * n], over a batch [B, *shape] whose axes begin with an LR pixel.

    The first and the last LR pixel along each axis have no part, so that every offset fits. With halves
    both have a first axis of two more, for the two halves of the pixels, whose errors by chance are
    independent: the upper halves of even images with the lower ones of odd images, and the rest. (A network
    knows by its padding where an image is cut, so that it could make upper halves differ from lower ones.
    Errors of alternating rows are not independent: fine detail, a high-pass, sums up to 0.)
    """
    ndim = detail.dim() - 1
    inner = [(length // scale - 2) * scale for length in detail.shape[1:]]
    split = [size for length in inner for size in (length // scale, scale)]

    def moved(offset):
        part = detail
        for axis, (step, length) in enumerate(zip(offset, inner, strict=True), start=1):
            part = part.narrow(axis, scale + step, length)
        return part

    def over_phases(values):
        values, axes = values.reshape(len(values), *split), [0, *range(1, 2 * ndim, 2)]
        if not halves:
            return values.mean(axes)
        middle = values.shape[1] // 2
        even, odd = (
            torch.stack([images[:, :middle].mean(axes), images[:, -middle:].mean(axes)])
            for images in (values[::2], values[1::2] if len(values) > 1 else values.flip(1))
        )
        return (even + odd.flip(0)) / 2

    here = moved((0,) * ndim)
    covariances = [over_phases(here * moved(offset)) for offset in offsets_of(ndim)]
    first = 1 if halves else 0
    return over_phases(here).flatten(first), torch.stack(covariances, first)
