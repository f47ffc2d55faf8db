"""Whether the spread of several draws of a generator's noise says how wrong their mean is."""

import numpy as np
import torch

from srgan_dist.data.reader import Reader
from srgan_dist.data.sampler import images_of_rank
from srgan_dist.data.value_range import to_metric_range, to_network_range
from srgan_dist.evaluation.super_resolve import super_resolve_samples
from srgan_dist.runtime.cpu import one_thread_each
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.utils.blocks import block_means

BLOCK = 2  # LR pixels along each axis of the blocks over which spread and error are compared
BINS = 10  # of blocks, by their spread


def calibration(split, generator, samples, rank, world_size, device):
    """Return {rock: {samples, blocks, spread, error, ratio, correlation, bins}} of a generator with noise
    on a split, every image on one rank.

    spread, error: root mean squares, in percent of the range, of the standard deviation over `samples` draws
    and of the error of their mean. ratio: sqrt((N + 1) / N) spread / error, 1 where the draws are as wide as
    the truth is uncertain (Fortin et al. 2014, "Why should ensemble spread match the RMSE of the ensemble
    mean?"); less than 1: too sure. correlation: Spearman's, of spread and error over blocks of HR pixels.
    bins: [(spread, error)] of the blocks in ten equal parts by their spread. A
    rock on which no two draws differ, for the texture is not trained yet, is left out.
    """
    reader = Reader(split)

    def blocks_of(sample):
        i, lr, hr = sample
        truth = to_metric_range(to_network_range(torch.from_numpy(hr).to(device)))
        mean, spread = super_resolve_samples(generator, lr, samples)
        squares = torch.stack([spread.square(), (mean - truth).square()])
        return split.rock(i), block_means(squares, BLOCK * split.scale).cpu().numpy()

    # Read in this thread: a Reader keeps one shard mapped
    chosen = (split.scorable[n] for n in images_of_rank(len(split.scorable), rank, world_size))
    samples_of_rank = ((i, *reader.image(i)) for i in chosen)
    gathered = gather_lists(list(one_thread_each(blocks_of, samples_of_rank, device)))
    by_rock = {}
    for rock, squares in gathered:
        by_rock.setdefault(rock, []).append(squares)
    pooled = {rock: np.concatenate(squares, 1) for rock, squares in sorted(by_rock.items())}
    return {rock: _calibration_of(squares, samples) for rock, squares in pooled.items() if squares[0].any()}


def _calibration_of(squares, samples):
    """squares: [2, blocks], mean squares of spread and of error."""
    spread, error = 100 * np.sqrt(squares.mean(1))
    parts = np.array_split(np.argsort(squares[0], kind="stable"), min(BINS, squares.shape[1]))
    bins = [(100 * np.sqrt(squares[:, part].mean(1))).tolist() for part in parts]
    return {
        "samples": samples,
        "blocks": squares.shape[1],
        "spread": float(spread),
        "error": float(error),
        "ratio": float(np.sqrt((samples + 1) / samples) * spread / error) if error else None,
        "correlation": _rank_correlation(*squares),
        "bins": bins,
    }


def _rank_correlation(one, other):
    """Return Spearman's rank correlation; None where one of them does not vary."""
    ranks = [np.unique(values, return_inverse=True, return_counts=True)[1:] for values in (one, other)]
    means = [(np.cumsum(counts) - (counts - 1) / 2)[inverse] for inverse, counts in ranks]
    if min(values.std() for values in means) == 0:
        return None
    return float(np.corrcoef(*means)[0, 1])
