"""The cheapest rock measures on the device, for validation while a network trains: porosity and interface.

images: [N, *shape] on [0, 1]; thresholds: [N], pores are darker; NaN: there are none. The protocol of
`srgan_dist/measures` takes them with masks, a median and intervals.
"""

import math

import torch

from srgan_dist.measures.geometry import WEIGHTS_3D, directions


def porosity(images, thresholds):
    """Return the share of pore pixels, [N]."""
    return _pores(images, thresholds).flatten(1).double().mean(1)


def specific_interface(images, thresholds):
    """Return the interface of pores per area (volume) in 1/pixel, [N], by the Crofton formula."""
    pores, ndim = _pores(images, thresholds), images.dim() - 1
    total = 0.0
    for direction in directions(ndim):
        one, two = pores, pores
        for axis, step in enumerate(direction, start=1):
            length = pores.shape[axis] - abs(step)
            one = one.narrow(axis, max(-step, 0), length)
            two = two.narrow(axis, max(step, 0), length)
        axes = sum(map(abs, direction))
        crossings = (one != two).flatten(1).double().mean(1) / math.sqrt(axes)
        total = total + crossings * (math.pi / 2 / 4 if ndim == 2 else 2 * WEIGHTS_3D[axes])
    return total


def _pores(images, thresholds):
    return images < thresholds.to(images.dtype).view(-1, *[1] * (images.dim() - 1))


def pore_scores(sr, hr, thresholds):
    """Return the columns that a row has where a threshold is known: {name: [N]}."""
    thresholds = torch.as_tensor(thresholds, device=sr.device)
    return {
        "porosity": porosity(sr, thresholds),
        "porosity_hr": porosity(hr, thresholds),
        "specific_interface": specific_interface(sr, thresholds),
        "specific_interface_hr": specific_interface(hr, thresholds),
    }
