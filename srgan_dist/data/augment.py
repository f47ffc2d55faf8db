"""Augmentation by the symmetries of a crop: flips of its axes, and swaps of them, on the device."""

import math

import torch


def num_orientations(augment, ndim):
    """Return the number of orientations of a crop of `ndim` axes.

    "none": 1; "flips": 2^n, for voxels that are not isotropic; "all": 2^n n! (8 of a square, 48 of a cube).
    """
    return {"none": 1, "flips": 2**ndim, "all": 2**ndim * math.factorial(ndim)}[augment]


def orient(images, orientations):
    """Flip and swap the axes of each image of a batch.

    images: [B, C, *[S] * n] integers. orientations: [B] in 0 .. 2^n n! - 1, on the same device; its lowest n
    bits flip axes 0 .. n - 1, then the rest in a factorial base swaps axes: for axis i = 1 .. n - 1 the digit
    (base i + 1) is 0 to leave it in place, or k + 1 to swap it with axis k < i. In 2-D: flip rows, flip
    columns, transpose.
    """
    dtype, axes = images.dtype, range(images.dim() - 2)
    if dtype == torch.uint16:  # a type with few kernels outside the CPU
        images = images.view(torch.int16)
    for axis in axes:
        images = _exchange(images, images.flip(axis + 2), orientations & 1)
        orientations = orientations >> 1
    for axis in axes[1:]:
        digit = orientations % (axis + 1)
        orientations = orientations // (axis + 1)
        for other in range(axis):
            swapped = images.transpose(axis + 2, other + 2).clone(memory_format=torch.contiguous_format)
            images = _exchange(images, swapped, digit == other + 1)
    return images.view(dtype)


def _exchange(images, moved, chosen):
    """Take the images of `moved`, which is overwritten, where `chosen` [B] is 1.

    An exclusive or, masked per image, is several times faster on a CPU than torch.where.
    """
    mask = chosen.to(images.dtype).neg().view(-1, *[1] * (images.dim() - 1))
    return images ^ moved.bitwise_xor_(images).bitwise_and_(mask)
