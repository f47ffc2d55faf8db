"""Scores of methods on whole images, each image once over all ranks; for validation in a training and for evaluation."""

import contextlib
from collections import defaultdict

import numpy as np
import torch

from srgan_dist.data.degradation import upsample
from srgan_dist.data.reader import Reader
from srgan_dist.data.sampler import images_of_rank
from srgan_dist.data.value_range import to_metric_range, to_network_range
from srgan_dist.evaluation.metrics import (
    SMALLEST_IMAGE,
    histogram_distance,
    mean_shift,
    mse,
    psnr_of_mse,
    spectrum_error,
    ssim,
)
from srgan_dist.evaluation.super_resolve import super_resolve
from srgan_dist.runtime.cpu import one_thread_each
from srgan_dist.runtime.device import is_out_of_memory
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.utils.errors import UserError

METRICS = {
    "mse": mse,
    "ssim": ssim,
    "spectrum_error": spectrum_error,
    "mean_shift": mean_shift,
    "histogram_distance": histogram_distance,
}
AT_ONCE = {"cuda": 16}  # images of one size; on a CPU, which gains nothing from more, one


def bicubic(lr, scale, device="cpu"):
    """Enlarge lr [..., H, W] uint8 or uint16 to [..., s*H, s*W] float32 in [0, 1], what overshoots clamped."""
    unit = upsample(lr, scale) / np.iinfo(lr.dtype).max
    return torch.from_numpy(unit).float().clamp(0, 1).to(device)


def methods_of(generators, scale, device):
    """Return name -> function(lr [N, H, W]) for bicubic and each of `generators` (name -> network in eval mode)."""
    methods = {"bicubic": lambda lr: bicubic(lr, scale, device)}
    for name, generator in generators.items():
        methods[name] = lambda lr, generator=generator: super_resolve(generator, lr)
    return methods


def check_scorable(split):
    """Raise UserError if a split holds images that are too small for SSIM."""
    smallest = split.smallest_lr * split.scale
    if smallest < SMALLEST_IMAGE:
        raise UserError(
            f"the {split.name} split of {split.place} has HR images of {smallest} pixels a side;"
            f" scores need {SMALLEST_IMAGE} or more (the window of SSIM)"
        )


def score_split(split, methods, rank, world_size, device, progress=iter):
    """Score every image of a split exactly once over all ranks, images of one size together.

    methods: name -> function(lr [N, H, W]) -> [N, s*H, s*W] on [0, 1]. progress wraps the work as tqdm does. Returns on
    every rank the same list of dictionaries with index, split, rock, key, method, psnr, ssim, spectrum_error, mse,
    mean_shift and histogram_distance, in the order of the split.
    """
    reader = Reader(split)
    batches = _equal_sizes(split, images_of_rank(len(split), rank, world_size), AT_ONCE.get(device.type, 1))
    pairs = (
        [np.stack(images) for images in zip(*map(reader.image, batch), strict=True)]
        for batch in progress(batches)
    )

    def scored(pair):
        return _in_halves(
            lambda lr, hr: _scores(lr, hr, methods, device),
            *pair,
            where=f"the {split.name} split of {split.place}",
        )

    with _without_search():
        scores = list(one_thread_each(scored, pairs, device))  # [metrics, methods, N] each
    if scores:
        scores = torch.cat(scores, -1).cpu().permute(2, 1, 0).tolist()  # the one time that the host waits
    mine = []
    for i, of_methods in zip([i for batch in batches for i in batch], scores, strict=True):
        for name, values in zip(methods, of_methods, strict=True):
            row = dict(zip(METRICS, values, strict=True))
            mine.append(
                {
                    "index": i,
                    "split": split.name,
                    "rock": split.rock(i),
                    "key": split.key(i),
                    "method": name,
                    "psnr": psnr_of_mse(row["mse"]),
                    **row,
                }
            )
    rows = sorted(gather_lists(mine), key=lambda row: row["index"])
    assert len(rows) == len(split) * len(methods), "every image is scored once"
    return rows


def _equal_sizes(split, indices, most):
    """Group images of one size: lists of at most `most` indices."""
    by_size = defaultdict(list)
    for i in indices:
        by_size[tuple(split.rows["lr_shape"][i].tolist())].append(i)
    return [found[k : k + most] for found in by_size.values() for k in range(0, len(found), most)]


def _scores(lr, hr, methods, device):
    """Return the metrics of all methods on images of one size: lr [N, H, W], hr [N, s*H, s*W] -> [metrics, methods, N]."""
    hr = to_metric_range(to_network_range(torch.from_numpy(hr).to(device)))
    found = []
    for method in methods.values():
        sr = method(lr)
        found.append(torch.stack([metric(sr, hr).double() for metric in METRICS.values()]))
    return torch.stack(found, 1)


def _in_halves(score, lr, hr, where):
    """Score a batch, [..., N]; where memory does not suffice, half of it at a time. Raises UserError where one image is too large."""
    try:
        return score(lr, hr)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(lr) == 1:
            raise UserError(
                f"the scores of an image of {hr.shape[-2]}x{hr.shape[-1]} HR pixels in {where} need more memory than there"
                " is; pack the set with smaller tiles (shards/build.py --tile)"
            ) from None
    halves = zip(np.array_split(lr, 2), np.array_split(hr, 2), strict=True)
    return torch.cat([_in_halves(score, *half, where) for half in halves], -1)


@contextlib.contextmanager
def _without_search():
    """Let cuDNN take algorithms by rule of thumb: a search for each size of image takes longer than it saves."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def mean_scores(rows):
    """Average rows over images: {rock: {method: {psnr, ssim, spectrum_error, count}}}."""
    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["rock"]][row["method"]].append(row)
    return {
        rock: {
            method: {
                **{name: mean_of(group, name) for name in ("psnr", "ssim", "spectrum_error")},
                "count": len(group),
            }
            for method, group in methods.items()
        }
        for rock, methods in sorted(groups.items())
    }


def mean_of(rows, name):
    """Return the mean of one score over rows."""
    return float(np.mean([row[name] for row in rows]))
