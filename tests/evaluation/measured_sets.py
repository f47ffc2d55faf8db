"""Measures of packed sets, for tests: settings, a method that knows HR, thresholds."""

import numpy as np
import torch

from srgan_dist.data.reader import Reader
from srgan_dist.evaluation.measuring import measure_split
from srgan_dist.evaluation.measuring_settings import measuring_of

CPU = torch.device("cpu")
THRESHOLDS = {rock: {"value": 0.5, "source": "given", "refused": None} for rock in ("coal", "sandstone")}


def settings(**changes):
    options = {"measures": "basic", "threshold": "otsu", "phase": "dark", "permeability": False, "samples": 0}
    return measuring_of(**options | changes)


def truth(split):
    """Return a method that knows HR."""
    reader = Reader(split)
    images = {reader.image(i)[0].tobytes(): reader.image(i)[1] / reader.peak for i in range(len(split))}
    return lambda lr: torch.from_numpy(np.stack([images[one.tobytes()] for one in lr])).float()


def measure(split, methods, thresholds=THRESHOLDS, rank=0, world_size=1, **changes):
    return measure_split(split, methods, thresholds, settings(**changes), rank, world_size, CPU)
