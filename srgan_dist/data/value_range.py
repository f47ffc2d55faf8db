"""The ranges of grey levels: of files, networks and metrics.

On the device an image is float in [-1, 1]; everywhere else it keeps its own uint8 or uint16.
"""

import numpy as np
import torch


def to_network_range(image):
    """Map grey levels to the networks' range: integers [...] uint8 or uint16 -> float32 in [-1, 1]."""
    return to_float(image).mul_(2 / torch.iinfo(image.dtype).max).sub_(1)


def to_float(image):
    """Return grey levels, integers [...] uint8 or uint16, as float32."""
    if image.dtype == torch.uint16:  # a type with few kernels outside the CPU
        image = image.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)
    return image.float()


def to_metric_range(signed):
    """Map the networks' range to the metrics': float in [-1, 1] -> [0, 1], values outside are clamped."""
    return signed.add(1).div(2).clamp(0, 1)


def to_grey_levels(unit, dtype):
    """Map [0, 1] back to grey levels: float [H, W] -> numpy uint8 or uint16, rounded once."""
    peak = np.iinfo(dtype).max
    return np.floor(np.asarray(unit, np.float64) * peak + 0.5).clip(0, peak).astype(dtype)
