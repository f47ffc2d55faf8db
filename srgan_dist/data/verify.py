"""Whether the pixels of a set are still those that were packed, found out together by all ranks before a training."""

from accelerate.utils import gather_object

from srgan_dist.data.plan import images_of_rank
from srgan_dist.data.reader import Reader
from srgan_dist.errors import UserError


def find_damage(split, rank=0, world_size=1):
    """Read every pixel of a split, each image on one rank; returns [(row, what is wrong in words)] on every rank."""
    reader = Reader(split)
    mine = [(i, problem) for i in images_of_rank(len(split), rank, world_size) if (problem := reader.problem(i))]
    return sorted(gather_object(mine) if world_size > 1 else mine)


def usable_or_stop(train, held_out, limit, rank=0, world_size=1):
    """Find the damaged samples of all splits that a training uses.

    train: [(split, weight)]; held_out: splits that are only scored, in which none may be damaged. Returns for each
    training set its [(row, what is wrong)]; raises UserError on every rank when they are more than `limit` in all.
    """
    found = [find_damage(split, rank, world_size) for split, _ in train]
    scored = [problem for split in held_out for _, problem in find_damage(split, rank, world_size)]
    problems = [problem for damage in found for _, problem in damage]
    if scored or len(problems) > limit:
        shown = "".join(f"\n  {problem}" for problem in (scored + problems)[:5])
        raise UserError(f"{len(problems)} training and {len(scored)} validation or test samples are damaged; allowed are"
                        f" data.max_bad_samples={limit} and none. Copy the shards again or build the set again{shown}")
    for (split, _), damage in zip(train, found, strict=True):
        if len(damage) == len(split):
            raise UserError(f"{split.place}: every sample of its train split is damaged, none is left to stand in;"
                            f" copy the shards again or build the set again. The first: {damage[0][1]}")
    return found
