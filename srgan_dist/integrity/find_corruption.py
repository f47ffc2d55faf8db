"""Whether shards are still as they were packed, checked together by all ranks before a training."""

from srgan_dist.data.manifest import IndexedManifest
from srgan_dist.data.reader import CorruptSample, Reader
from srgan_dist.data.sampler import images_of_rank
from srgan_dist.integrity.tar_structure import structure_problems
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.utils.errors import UserError


def find_corrupt_samples(split, rank=0, world_size=1):
    """Read a split, each image and shard on one rank; returns its CorruptSamples, on every rank."""
    reader = Reader(split)
    found = [sample for i in images_of_rank(len(split), rank, world_size) if (sample := reader.corruption(i))]
    # Other tars were compared as a whole when they were decoded; tars of other people have no set structure
    if split.set.manifest.encoding == "npy" and not isinstance(split.set.manifest, IndexedManifest):
        for number in images_of_rank(len(split.shards), rank, world_size):
            found += [
                CorruptSample(row, "tar", f"{split.shards[number]}: {text}")
                for row, text in structure_problems(split, number)
            ]
    first = {}
    for sample in sorted(gather_lists(found)):
        first.setdefault(sample.row, sample)
    return list(first.values())


def check_corruption_limit(train, eval_splits, limit, rank=0, world_size=1):
    """Find the corrupt samples of all splits that a training uses.

    train: [(split, weight)]; eval_splits: splits that are only scored, in which none may be corrupt. Returns
    for each training set its list of CorruptSample; raises UserError on every rank when they are more than
    `limit` in all.
    """
    found = [find_corrupt_samples(split, rank, world_size) for split, _ in train]
    scored = [sample for split in eval_splits for sample in find_corrupt_samples(split, rank, world_size)]
    trained = [sample for samples in found for sample in samples]
    if scored or len(trained) > limit:
        listed = "".join(f"\n  {sample.text}" for sample in (scored + trained)[:5])
        raise UserError(
            f"{len(trained)} training and {len(scored)} validation or test samples are damaged; allowed are"
            f" data.max_bad_samples={limit} and none. Copy the shards again or make the sets again{listed}"
        )
    for (split, _), samples in zip(train, found, strict=True):
        if len(samples) == len(split):
            raise UserError(
                f"{split.place}: every sample of its train split is damaged, none is left to substitute;"
                f" copy the shards again or {split.set.manifest.again}. The first: {samples[0].text}"
            )
    return found
