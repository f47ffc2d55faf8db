"""Preflight checks of the data: sets that fit the config and each other, no leak, and shuffle blocks that fit
the cache.
"""

import numpy as np

from srgan_dist.config import ConfigError
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set
from srgan_dist.data.stream import PairFormat, StreamedCrops
from srgan_dist.evaluation.scoring import check_scorable
from srgan_dist.packing.streamed_set import local_part, shards_of
from srgan_dist.storage.cache import GIB, cache_at

UPDATES_APART = 6  # no rank is further ahead of another, with what each prefetches


def open_splits(config):
    """Open what a config trains, validates and tests on, and check that all of it fits.

    Returns ([(train split, weight)] of every set, {"valid" and "test", as far as there are any: split}).
    """
    cache, by_size = cache_at(config.data.cache, config.data.cache_gib), config.data.verify != "none"
    if config.data.reader == "webdataset":
        shards = shards_of(config.data.path, config.data.stream)
        sets = {config.data.path: open_set(local_part(shards, config.data.stream, cache), cache)}
    else:
        paths = {config.data.path, *(chosen.path for chosen in config.data.train_sets())}
        sets = {path: open_set(path, cache) for path in paths}
    train = _train_splits(config, sets, by_size)
    opened = {name: sets[config.data.path].split(name, by_size) for name in ("valid", "test")}
    eval_splits = {name: split for name, split in opened.items() if split is not None}
    for split in eval_splits.values():
        _check_fit(f"data.path={config.data.path}", split, config)
        check_scorable(split)
    _check_leaks([split for split, _ in train], eval_splits.values())
    return train, eval_splits


def _train_splits(config, sets, check_sizes):
    """Return [(train split, weight)], of which all fit the config and have one pixel type."""
    opened = []
    for number, chosen in enumerate(config.data.train_sets()):
        field = f"data.train.{number}.path" if config.data.train else "data.path"
        split = sets[chosen.path].split("train", check_sizes, config.data.max_bad_samples > 0)
        if split is None:
            raise ConfigError(f"{field}={chosen.path} has no train split")
        _check_fit(f"{field}={chosen.path}", split, config)
        first = opened[0][0] if opened else split
        if split.dtype != first.dtype:
            raise ConfigError(
                f"{field}={chosen.path} has {split.dtype} images, {first.place} has {first.dtype};"
                " build one of them with --dtype uint16"
            )
        opened.append((split, chosen.weight))
    return opened


def _check_fit(name, split, config):
    for setting in ("scale", "ndim"):
        wanted, found = getattr(config.generator, setting), getattr(split, setting)
        if found != wanted:
            raise ConfigError(
                f"generator.{setting}={wanted}, but {name} has {setting}={found}; set"
                f" generator.{setting}={found}, or give another set"
            )
    if split.name == "train" and split.smallest_lr < config.data.lr_crop:
        raise ConfigError(
            f"data.lr_crop={config.data.lr_crop} is larger than the smallest LR image of {name},"
            f" which has {split.smallest_lr} pixels; use that or less"
        )


def streamed_crops(config, split, rank, world_size):
    """Return the StreamedCrops of a rank where the config streams its training data, else None.

    split: the training split of the local part of the set. Raises ConfigError where there are fewer shards
    than streams.
    """
    stream = config.data.stream
    if stream is None:
        return None
    shards, streams = shards_of(config.data.path, stream)["train"], world_size * stream.workers
    if len(shards) < streams:
        raise ConfigError(
            f"data.stream.workers={stream.workers} on {world_size} ranks are {streams} streams, for which"
            f" data.stream.train has {len(shards)} shards; use"
            + (f" {len(shards) // world_size} or less" if len(shards) >= world_size else " fewer ranks")
        )
    manifest = split.set.manifest
    pairs = PairFormat(manifest.fields.hr, manifest.fields.lr, split.ndim, split.scale, split.dtype)
    crop, augment = config.data.lr_crop, config.data.augment
    return StreamedCrops(
        shards, pairs, crop, config.seed, augment, rank, world_size, stream.workers, stream.buffer
    )


# Leaks


def _check_leaks(train, eval_splits):
    """Raise ConfigError if an HR image that is trained on is also validated or tested on."""
    checked_by_build = {split.set.sha256 for split in eval_splits}
    others = [(split, _images_of(split)) for split in train if split.set.sha256 not in checked_by_build]
    for held_out in eval_splits if others else ():
        held_out_images = _images_of(held_out)
        for trained, trained_images in others:
            candidates = [
                (held_out_images[m], trained_images[m]) for m in held_out_images.keys() & trained_images
            ]
            equal = [
                (i, j)
                for i, j in candidates
                if np.array_equal(
                    Reader(held_out).unchecked_image(i)[1], Reader(trained).unchecked_image(j)[1]
                )
            ]
            if equal:
                raise ConfigError(
                    f"{held_out.place} holds {held_out.key(equal[0][0])} in {held_out.name}, and"
                    f" {trained.place} has the same picture in train ({len(equal)} such); scores would be"
                    " too good"
                )


def _images_of(split):
    """Return {mark of an HR image, equal by rare chance only: row}; blank images are alike everywhere and
    left out.
    """
    rows = split.rows
    shapes = map(tuple, rows["lr_shape"].tolist())
    marks = zip(shapes, *(rows[name].tolist() for name in ("hr_crc32", "darkest", "brightest")), strict=True)
    return {mark: i for i, mark in enumerate(marks) if mark[2] < mark[3]}


# Shuffle blocks


def block_shards_of(config, train, eval_splits, world_size):
    """Return for every training split how many shards are shuffled together, None: all.

    Where all that is used does not fit into the cache, the evaluated splits keep their place there, and each
    training set that is read from it has its share of the rest for two blocks: the one that is read and the
    next.
    """
    asked, limit = config.data.block_shards, int(config.data.cache_gib * GIB)
    transient = max(split.transient_cache_bytes for split in [*train, *eval_splits])
    kept = sum(sum(split.cached_bytes) for split in eval_splits) + transient
    train_bytes = [sum(split.cached_bytes) for split in train]
    fits = kept + sum(train_bytes) <= limit
    if asked is None and fits:
        return [None] * len(train)
    blocks = []
    for split, size in zip(train, train_bytes, strict=True):
        two_blocks = 2 * max(split.cached_bytes)  # of one shard each; 0 for a set that is read in its place
        most = (limit - kept) * size // sum(train_bytes) // two_blocks if two_blocks else len(split.shards)
        block = asked or most
        if two_blocks and not fits and not 1 <= block <= most:
            needed = kept + (asked or 1) * two_blocks * sum(train_bytes) / size
            raise ConfigError(
                f"data.cache_gib={config.data.cache_gib:g} has no room for two blocks of {block or 1} shards"
                f" of {split.place} beside the validation and test images; at least {needed / GIB:.3g} are"
                " needed" + (", or a smaller data.block_shards" if asked is not None else "")
            )
        blocks.append(block if block < len(split.shards) else None)
        if two_blocks and blocks[-1] and world_size > 1:
            _check_ranks_keep_together(config, split, block)
    return blocks


def _check_ranks_keep_together(config, split, block):
    """Raise ConfigError if a block is so short that ranks which share a cache would need three at a time."""
    fewest = int(np.sort(np.bincount(split.rows["shard"]))[:block].sum())
    needed = UPDATES_APART * config.data.batch_size
    if fewest < needed:
        raise ConfigError(
            f"blocks of {block} shards of {split.place} have {fewest} samples; several ranks that prefetch"
            f" need {UPDATES_APART} updates in each ({needed} samples). Enlarge data.cache_gib and"
            " data.block_shards"
        )
