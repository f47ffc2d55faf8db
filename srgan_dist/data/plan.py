"""The order of training data: which crop of which sample fills each slot of each batch.

Slots are numbered 0, 1, 2, ... over the whole run; slot t is position t % N of epoch t // N, N the number of
samples. What fills a slot is a pure function of (seed, epoch, position), so the loader has no state but the number
of the next update: a resumed run, or one on another number of ranks, sees the same global batches. Several sets take
turns by a fixed pattern of their weights, each with slots and epochs of its own.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


PERIOD = 1000  # slots


@dataclass(frozen=True)
class Crops:
    """What fills some slots; all arrays [slots]."""

    samples: np.ndarray  # rows of the split's index
    tops: np.ndarray  # of the LR crop, LR pixels; the HR crop starts at scale times these
    lefts: np.ndarray
    orientations: np.ndarray  # 0..7, see `orient`


def slots_of(update, rank, world_size, batch_size, accumulation=1, micro_batch=0):
    """Return the slots that one rank takes in one micro-batch of an update.

    An update covers batch_size consecutive slots; ranks, accumulation and micro-batches only cut that range.
    """
    per_rank, rest = divmod(batch_size, world_size * accumulation)
    assert rest == 0, "the config was checked against the number of ranks"
    first = update * batch_size + (micro_batch * world_size + rank) * per_rank
    return np.arange(first, first + per_rank)


def images_of_rank(count, rank, world_size):
    """Return the images that one rank evaluates: each image on exactly one rank, ragged ends included."""
    return range(rank, count, world_size)


class Plan:
    """Fills slots with crops of `lr_crop` x `lr_crop` LR pixels.

    lr_heights, lr_widths: size of every sample's LR image, [N]. augment: draw one of eight flips and rotations.
    number: of the set, where there are several. bad: samples that cannot be used; another, drawn by the same function
    of seed, epoch and position, takes the slot of each.
    """

    def __init__(self, lr_heights, lr_widths, lr_crop, seed, augment, number=0, bad=()):
        self.free = np.stack([lr_heights, lr_widths]).astype(np.uint64) - np.uint64(lr_crop) + np.uint64(1)
        self.count = len(lr_heights)
        self.seed = seed
        self.augment = augment
        self.first_epoch = number << 48  # so that no two sets share an epoch
        self.bad = np.asarray(sorted(bad), np.int64)
        self.good = np.setdiff1d(np.arange(self.count), self.bad)

    def crops(self, slots):
        """Return the Crops of some slots (integers, any order)."""
        epochs, positions = np.divmod(np.asarray(slots, np.int64), self.count)
        epochs += self.first_epoch
        samples = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            there = epochs == epoch
            samples[there] = _permutation(self.count, self.seed, int(epoch))[positions[there]]
        stream = _mix(_mix(np.uint64(self.seed)) ^ epochs.astype(np.uint64))
        draw = _mix(stream ^ positions.astype(np.uint64))
        tops, lefts = (draw >> np.uint64(32)), draw & np.uint64(0xFFFFFFFF)
        if len(self.bad):
            spoilt = np.isin(samples, self.bad)
            samples[spoilt] = self.good[(_mix(draw ^ np.uint64(1)) % np.uint64(len(self.good)))[spoilt].astype(np.int64)]
        free_rows, free_columns = self.free[:, samples]
        return Crops(
            samples,
            (tops * free_rows >> np.uint64(32)).astype(np.int64),
            (lefts * free_columns >> np.uint64(32)).astype(np.int64),
            (_mix(draw) >> np.uint64(61)).astype(np.int64) * self.augment,
        )


class Mixture:
    """Shares slots out among sets in proportion to their weights (positive numbers).

    A pattern of PERIOD slots is repeated; in it, each set has its share of places, to within one, in an order that
    the seed decides.
    """

    def __init__(self, weights, seed):
        self.shares = _shares(np.asarray(weights, float), PERIOD if len(weights) > 1 else 1)
        places = np.repeat(np.arange(len(weights)), self.shares)
        self.pattern = np.random.Generator(np.random.Philox(key=[seed, 2**63])).permutation(places)
        self.before = np.zeros(len(places), np.int64)  # places of the same set earlier in the pattern
        for number in range(len(weights)):
            mine = self.pattern == number
            self.before[mine] = np.arange(mine.sum())

    def split(self, slots):
        """Return for each set: (places of its slots among `slots`, its own numbers of those slots)."""
        periods, positions = np.divmod(np.asarray(slots, np.int64), len(self.pattern))
        sets = self.pattern[positions]
        own = periods * self.shares[sets] + self.before[positions]
        return [(places := np.flatnonzero(sets == number), own[places]) for number in range(len(self.shares))]


def _shares(weights, total):
    """Divide `total` places by weight; the largest remainders take what rounding leaves."""
    exact = weights / weights.sum() * total
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
    return shares


@lru_cache(maxsize=8)  # a batch may straddle two epochs, of every set
def _permutation(count, seed, epoch):
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def _mix(x):
    """Scramble 64-bit integers (splitmix64: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators")."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
