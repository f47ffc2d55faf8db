"""Scores of methods on whole images, each image once over all ranks; for validation in a training and for evaluation."""

from collections import defaultdict

import numpy as np
import torch
from accelerate.utils import gather_object

from srgan_dist.data.degradation import upsample
from srgan_dist.data.plan import images_of_rank
from srgan_dist.data.reader import Reader
from srgan_dist.data.values import to_signed, to_unit
from srgan_dist.errors import UserError
from srgan_dist.metrics import SMALLEST_IMAGE, histogram_distance, mean_shift, mse, psnr, spectrum_error, ssim
from srgan_dist.super_resolve import super_resolve


def bicubic(lr, scale, device="cpu"):
    """Enlarge lr [H, W] uint8 or uint16 to [s*H, s*W] float32 in [0, 1], what overshoots clamped."""
    unit = upsample(lr, scale) / np.iinfo(lr.dtype).max
    return torch.from_numpy(unit).float().clamp(0, 1).to(device)


def methods_of(generators, scale, device):
    """Return name -> function(lr) for bicubic and each of `generators` (name -> network in eval mode)."""
    methods = {"bicubic": lambda lr: bicubic(lr, scale, device)}
    for name, generator in generators.items():
        methods[name] = lambda lr, generator=generator: super_resolve(generator, lr)
    return methods


def check_scorable(split):
    """Raise UserError if a split holds images that are too small for SSIM."""
    smallest = split.smallest_lr * split.scale
    if smallest < SMALLEST_IMAGE:
        raise UserError(f"the {split.name} split of {split.place} has HR images of {smallest} pixels a side;"
                        f" scores need {SMALLEST_IMAGE} or more (the window of SSIM)")


def score_split(split, methods, rank, world_size, device, progress=iter):
    """Score every image of a split exactly once over all ranks.

    methods: name -> function(lr [H, W]) -> [s*H, s*W] on [0, 1]. Returns on every rank the same list of dictionaries
    with index, split, rock, key, method, psnr, ssim, spectrum_error, mse, mean_shift and histogram_distance, in the order
    of the split.
    """
    reader, mine = Reader(split), []
    for i in progress(images_of_rank(len(split), rank, world_size)):
        lr, hr = reader.image(i)
        hr = to_unit(to_signed(torch.from_numpy(hr).to(device)))
        for name, method in methods.items():
            sr = method(lr)
            mine.append({
                "index": i, "split": split.name, "rock": split.rock(i), "key": split.key(i), "method": name,
                "psnr": psnr(sr, hr), "ssim": ssim(sr, hr), "spectrum_error": spectrum_error(sr, hr), "mse": mse(sr, hr),
                "mean_shift": mean_shift(sr, hr), "histogram_distance": histogram_distance(sr, hr),
            })
    rows = sorted(gather_object(mine) if world_size > 1 else mine, key=lambda row: row["index"])
    assert len(rows) == len(split) * len(methods), "every image is scored once"
    return rows


def mean_scores(rows):
    """Average rows over images: {rock: {method: {psnr, ssim, spectrum_error, count}}}."""
    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["rock"]][row["method"]].append(row)
    return {
        rock: {method: {**{name: mean_of(group, name) for name in ("psnr", "ssim", "spectrum_error")}, "count": len(group)}
               for method, group in methods.items()}
        for rock, methods in sorted(groups.items())
    }


def mean_of(rows, name):
    """Return the mean of one score over rows."""
    return float(np.mean([row[name] for row in rows]))
