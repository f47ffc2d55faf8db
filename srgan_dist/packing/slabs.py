"""Splits of a rock with one or two volumes: slabs along the longest axis, with gaps between them.

Of stacks, whose slices are packed as images, they are blocks of slices.
"""

from dataclasses import replace
from itertools import groupby

from srgan_dist.data.manifest import SPLITS
from srgan_dist.data.part import part_of
from srgan_dist.packing.source import few_sources, split_in_order

FEWEST_SLICES = 10  # of a stack that is split


def slabs(size, crop, scale):
    """Cut `size` HR voxels of an axis 8:1:1 into train, valid and test: [(first voxel, voxels)] of each.

    Between them `crop` voxels belong to no split, so no crop of one is next to a crop of another. All are
    multiples of scale, `crop` at least; None where the axis is too short for that, with fewer than 5 crops.
    """
    usable = size - 2 * crop
    tenth = max(crop, usable // 10 // scale * scale)
    train = (usable - 2 * tenth) // scale * scale
    if train < crop:
        return None
    return [(0, train), (train + crop, tenth), (train + tenth + 2 * crop, tenth)]


def blocks_of_slices(count):
    """Cut `count` slices 8:1:1 into train, valid and test: [(first slice, slices)] of each.

    Between them a twentieth, at least one, belongs to no split; None for fewer than FEWEST_SLICES.
    """
    if count < FEWEST_SLICES:
        return None
    tenth, gap = count // 10, max(1, count // 20)
    train = count - 2 * (tenth + gap)
    return [(0, train), (train + gap, tenth), (train + tenth + 2 * gap, tenth)]


def cut_into_slabs(scan, options):
    """Give a split to those sources of a Scan that have none, which are the few volumes of a rock.

    Stacks whose slices are packed as images are cut into blocks along z, the second in the other order: where
    it is the continuation of the first, slices of one split meet. In 3-D each volume is cut into slabs along
    its longest axis (of equal ones the first); the volumes of a rock of which one is too small for that are
    dealt out whole.
    """
    sources = []
    for (rock, undecided), members in groupby(scan.sources, lambda s: (s.rock, s.split is None)):
        members = list(members)
        if not undecided:
            sources += members
            continue
        parts = [_slabs_of(source, options, number) for number, source in enumerate(members)]
        if all(parts):
            sources += [slab for slabs_of_source in parts for slab in slabs_of_source]
            scan.notes.extend(_note(source, of_source) for source, of_source in zip(members, parts))
        else:
            splits = split_in_order(len(members))
            sources += [replace(source, split=split) for source, split in zip(members, splits, strict=True)]
            scan.notes.append(
                f"{few_sources(rock, len(members))}; slabs of one would need 5 crops,"
                f" {5 * options.crop} voxels, along an axis"
            )
    scan.sources[:] = sources


def _slabs_of(source, options, number):
    """Return the slabs of source `number` of a rock, one for each split, or None."""
    if options.ndim == 2:
        count = source.hr.slices
        cuts = blocks_of_slices(count)
        if number == 1:
            cuts = [(count - start - length, length) for start, length in cuts]
        return [_part(source, 0, *cut, split, 1) for cut, split in zip(cuts, SPLITS, strict=True)]
    if min(source.hr.shape) < options.crop:
        return None  # a fault of the whole file, which `check_samples` names
    axis = source.hr.shape.index(max(source.hr.shape))
    cuts = slabs(source.hr.shape[axis], options.crop, options.scale)
    return cuts and [
        _part(source, axis, *cut, split, options.scale) for cut, split in zip(cuts, SPLITS, strict=True)
    ]


def _part(source, axis, start, length, split, scale):
    def cut(volume, start, length):
        corner = [start if a == axis else 0 for a in range(3)]
        return corner, part_of(volume, corner, [*volume.shape[:axis], length, *volume.shape[axis + 1 :]])

    corner, hr = cut(source.hr, start, length)
    lr = cut(source.lr, start // scale, length // scale)[1] if source.lr else None
    corner = tuple(whole + inside for whole, inside in zip(source.corner, corner, strict=True))
    return replace(source, name=f"{source.name}_{split}", split=split, hr=hr, lr=lr, corner=corner)


def _note(source, parts):
    axis = next(a for a in range(3) if len({part.corner[a] for part in parts}) > 1)
    listed = ", ".join(
        f"{part.split} {part.corner[axis]} to {part.corner[axis] + part.hr.shape[axis] - 1}" for part in parts
    )
    return f"{source.file}: its splits are slabs along {'zyx'[axis]}: {listed}; what is between is in none"
