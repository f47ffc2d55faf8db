"""The order of training data: which crop of which sample fills each slot of each batch.

Slots are numbered 0, 1, 2, ... over the whole run; slot t is position t % N of epoch t // N, N the number of
samples. The crop of a slot is a pure function of (seed, epoch, position), so the loader has no state but the
number of the next update: a resumed run, or one on another number of ranks, has the same global batches.
Several sets take turns by a fixed pattern of their weights, each with slots and epochs of its own.

An epoch is a permutation of all samples; or, of a set that is larger than its cache, of one block of shards
after the other, so that the cache holds the shards of two blocks only.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from srgan_dist.data.augment import num_orientations

PERIOD = 1000  # slots


@dataclass(frozen=True)
class Crops:
    """The crops of N slots, not yet cut."""

    samples: np.ndarray  # [N], rows of the split's index
    corners: np.ndarray  # [N, ndim], of the LR crop, LR pixels; the HR crop starts at scale times these
    orientations: np.ndarray  # [N], see `orient`


def slots_of(update, rank, world_size, batch_size, gradient_accumulation_steps=1, micro_batch=0):
    """Return the slots that one rank takes in one micro-batch of an update.

    An update has batch_size consecutive slots; ranks and micro-batches are parts of that range.
    """
    per_rank, rest = divmod(batch_size, world_size * gradient_accumulation_steps)
    assert rest == 0, "the config was checked against the number of ranks"
    first = update * batch_size + (micro_batch * world_size + rank) * per_rank
    return np.arange(first, first + per_rank)


def images_of_rank(count, rank, world_size):
    """Return the images that one rank evaluates: each image on exactly one rank, ragged ends included."""
    return range(rank, count, world_size)


class EpochOrder:
    """The order of the samples in each epoch: each sample once.

    shards: of every sample, [N]. block_shards: permute the samples inside each block of this number of
    shards; blocks are drawn for each epoch. None: permute all samples.
    """

    def __init__(self, shards, seed, block_shards=None):
        self.shards = np.asarray(shards, np.int64)
        self.seed = seed
        self.block_shards = block_shards
        self.epoch = lru_cache(maxsize=2)(self._epoch)  # a batch may straddle two

    def _epoch(self, number):
        """Return (samples [N] in their order, [number of blocks] where in it each block ends)."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        if self.block_shards is None:
            return rng.permutation(len(self.shards)), np.array([len(self.shards)])
        shards = rng.permutation(self.shards.max() + 1)
        blocks = np.array_split(shards, -(-len(shards) // self.block_shards))
        parts = [
            rng.permutation(np.concatenate([self._samples_of[shard] for shard in block])) for block in blocks
        ]
        return np.concatenate(parts), np.cumsum([len(part) for part in parts])

    @cached_property
    def _samples_of(self):
        """The samples of each shard."""
        by_shard = np.argsort(self.shards, kind="stable")
        return np.split(by_shard, np.cumsum(np.bincount(self.shards))[:-1])

    def block_at(self, epoch, position):
        """Return the samples of the block of a position of an epoch, and the first position of the block."""
        samples, ends = self.epoch(epoch)
        number = np.searchsorted(ends, position, side="right")
        start = ends[number - 1] if number else 0
        return samples[start : ends[number]], int(start)


class CropSampler:
    """Fills slots with crops of lr_crop LR pixels along every axis.

    lr_shapes: of every sample's LR image, [N, ndim]. augment: "none", "flips" or "all", see
    `num_orientations`. number: of the set, where there are several. bad: corrupt samples; another of the same
    block, drawn by the same function of seed, epoch and position, is substituted for each. shards,
    block_shards: see `EpochOrder`.
    """

    def __init__(self, lr_shapes, lr_crop, seed, augment, number=0, bad=(), shards=None, block_shards=None):
        self.count, self.ndim = lr_shapes.shape
        self.order = EpochOrder(np.zeros(self.count) if shards is None else shards, seed, block_shards)
        self.corner_counts = lr_shapes.astype(np.uint64) - np.uint64(lr_crop) + np.uint64(1)
        self.seed = seed
        self.num_orientations = num_orientations(augment, self.ndim)
        self.first_epoch = number << 48  # so that no two sets share an epoch
        self.bad = np.asarray(sorted(bad), np.int64)

    def crops(self, slots):
        """Return the Crops of some slots (integers, any order)."""
        epochs, positions = np.divmod(np.asarray(slots, np.int64), self.count)
        epochs += self.first_epoch
        samples = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            samples[in_epoch] = self.order.epoch(int(epoch))[0][positions[in_epoch]]

        # One 64-bit draw for the corner, and one that it determines for the orientation
        stream = splitmix64(splitmix64(np.uint64(self.seed)) ^ epochs.astype(np.uint64))
        draw = splitmix64(stream ^ positions.astype(np.uint64))
        for slot in np.flatnonzero(np.isin(samples, self.bad)):
            samples[slot] = self._substitute(
                int(epochs[slot]), positions[slot], splitmix64(draw[slot] ^ np.uint64(1))
            )
        corners = corners_of(draw, self.corner_counts[samples])
        return Crops(samples, corners, orientations_of(draw, self.num_orientations))

    def _substitute(self, epoch, position, draw):
        """Return a good sample of the block of a position, or of the whole set where the block has none."""
        good = np.setdiff1d(self.order.block_at(epoch, position)[0], self.bad)
        if not len(good):
            good = np.setdiff1d(np.arange(self.count), self.bad)
        return good[int(draw % np.uint64(len(good)))]

    def blocks(self, slot):
        """Yield (end, shards) for the block of this slot and those after it, without end.

        end: the first slot after the block; shards: of its samples from the slot on, in the order of their
        first use.
        """
        while True:
            epoch, position = divmod(slot, self.count)
            samples, start = self.order.block_at(epoch + self.first_epoch, position)
            shards, first_use = np.unique(self.order.shards[samples[position - start :]], return_index=True)
            slot += len(samples) - (position - start)
            yield slot, shards[np.argsort(first_use)].tolist()


class DatasetMixture:
    """Assigns slots to sets in proportion to their weights (positive numbers).

    A pattern of PERIOD slots is repeated; in it, each set has its share of places, to within one, shuffled by
    the seed.
    """

    def __init__(self, weights, seed):
        self.shares = _shares(np.asarray(weights, float), PERIOD if len(weights) > 1 else 1)
        places = np.repeat(np.arange(len(weights)), self.shares)
        self.pattern = np.random.Generator(np.random.Philox(key=[seed, 2**63])).permutation(places)
        self.before = np.zeros(len(places), np.int64)  # places of the same set earlier in the pattern
        for number in range(len(weights)):
            in_set = self.pattern == number
            self.before[in_set] = np.arange(in_set.sum())

    def split(self, slots):
        """Return for each set: (positions of its slots among `slots`, its own numbers of those slots)."""
        periods, positions = np.divmod(np.asarray(slots, np.int64), len(self.pattern))
        sets = self.pattern[positions]
        own = periods * self.shares[sets] + self.before[positions]
        return [(places := np.flatnonzero(sets == number), own[places]) for number in range(len(self.shares))]

    def reached(self, slot):
        """Return for each set the number of its own slots before this one."""
        period, position = divmod(slot, len(self.pattern))
        return period * self.shares + np.bincount(self.pattern[:position], minlength=len(self.shares))


def _shares(weights, total):
    """Divide `total` places by weight; the places left by rounding go to the largest remainders."""
    exact = weights / weights.sum() * total
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
    return shares


def corners_of(draws, counts):
    """Scale 64 // ndim bits of each draw per axis to the corners that are possible: draws [N], counts of them
    [N, ndim] -> [N, ndim].
    """
    ndim = counts.shape[1]
    bits = 64 // ndim
    shifts = np.array([bits * axis for axis in reversed(range(ndim))], np.uint64)
    fractions = draws[:, None] >> shifts & np.uint64(2**bits - 1)
    return (fractions * counts >> np.uint64(bits)).astype(np.int64)


def orientations_of(draws, count):
    """Return one of `count` orientations for each draw, [N], independent of the corner."""
    return ((splitmix64(draws) >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def splitmix64(x):
    """Scramble 64-bit integers: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
