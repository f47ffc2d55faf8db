"""Blocks of volumes: read in regions of neighbours, so that memory is bounded whatever the volume."""

from itertools import groupby

REGION = 2**28  # bytes of HR that one job holds; slices that are decoded whole are decoded once per region


def regions(samples, itemsize):
    """Group the blocks of one volume, in order (z, y, x), into lists whose bounding box has REGION bytes.

    A region is one or more rows of blocks along x at one z; a row is never divided.
    """
    found = []
    for _, row in groupby(samples, lambda sample: sample.corner[:2]):
        row = list(row)
        if found and found[-1][0].corner[0] == row[0].corner[0]:
            together = found[-1] + row
            if _voxels(together) * itemsize <= REGION:
                found[-1] = together
                continue
        found.append(row)
    return found


def _voxels(samples):
    _, (depth, height, width) = bounding_box(samples)
    return depth * height * width


def bounding_box(samples):
    """Return (corner, shape) of the smallest block that holds all samples."""
    lows = tuple(min(sample.corner[axis] for sample in samples) for axis in range(3))
    highs = [max(sample.corner[axis] + sample.shape[axis] for sample in samples) for axis in range(3)]
    return lows, tuple(high - low for low, high in zip(lows, highs, strict=True))


def widened(corner, shape, limits, margin, step):
    """Enlarge a block by `margin` on all sides, as far as the volume reaches, in whole `step`s.

    Returns (corner, shape, voxels before the block along each axis).
    """
    before = [min(margin, start) // step * step for start in corner]
    after = [
        min(margin, limit - start - size) // step * step
        for start, size, limit in zip(corner, shape, limits, strict=True)
    ]
    corner = tuple(start - more for start, more in zip(corner, before, strict=True))
    return corner, tuple(map(sum, zip(before, shape, after, strict=True))), before


def window(corner, shape):
    """Return the slices of a block."""
    return tuple(slice(start, start + size) for start, size in zip(corner, shape, strict=True))


def read_region(volume, samples, margin=0):
    """Read the bounding box of all samples and, where there are any, `margin` voxels around it: (corner,
    voxels).
    """
    corner, shape, _ = widened(*bounding_box(samples), volume.shape, margin, 1)
    return corner, volume.read(corner, shape)


def cut(region, corner, sample):
    """Return the block of a sample out of a region that begins at `corner`."""
    return region[
        window([start - low for start, low in zip(sample.corner, corner, strict=True)], sample.shape)
    ]
