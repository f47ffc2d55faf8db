"""Means over blocks of images."""


def block_means(values, side):
    """Return the means of [B, *shape] over blocks of `side` pixels along each axis, [B, blocks]; the rest
    at the borders has no part, and a shorter axis is one block.
    """
    counts = [max(length // side, 1) for length in values.shape[1:]]
    sides = [min(side, length) for length in values.shape[1:]]
    for axis, (count, width) in enumerate(zip(counts, sides, strict=True), start=1):
        values = values.narrow(axis, 0, count * width)
    split = [size for pair in zip(counts, sides, strict=True) for size in pair]
    return values.reshape(len(values), *split).mean(list(range(2, 2 * len(counts) + 1, 2))).flatten(1)
