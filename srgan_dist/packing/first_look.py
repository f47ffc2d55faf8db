"""Faults of pictures that show before packing begins: some of each rock are judged as all of them will be, so
that folders of masks, and pairs that are turned or exchanged, do not take hours to be found.
"""

from collections import defaultdict
from functools import partial

from srgan_dist.data.volume import ImageError
from srgan_dist.packing.pictures import Picture, certain, judge, look
from srgan_dist.packing.source import name_of_block, name_of_page

LOOKED_AT = 16  # pages, or blocks, of each rock


def faults_at_first_look(sources, samples, options, run):
    """Return the faults that evenly spaced pages, in 3-D blocks, of each rock show for certain.

    An image that cannot be read is left to the packing, which names all of them.
    """
    of_rock = defaultdict(dict)  # rock -> {(source, corner of the page or block): shape}
    for sample in samples:
        source = sources[sample.source]
        whole = (1, *source.hr.shape[1:]), (sample.corner[0], 0, 0)
        shape, corner = (sample.shape, sample.corner) if options.ndim == 3 else whole
        of_rock[source.rock][sample.source, corner] = shape
    jobs, parts = [], set()
    for rock, own in of_rock.items():
        count = min(LOOKED_AT, len(own))
        chosen = [list(own.items())[i * len(own) // count] for i in range(count)]
        jobs += [(sources[number], corner, shape) for (number, corner), shape in chosen]
        if count < len(own):
            parts.add(rock)
    found = defaultdict(list)
    for picture in run(partial(_picture, scale=options.scale, ndim=options.ndim), jobs):
        if picture:
            found[picture.rock].append(picture)
    faults, _ = judge([p for rock, own in found.items() for p in (certain(own) if rock in parts else own)])
    first = f"of {len(jobs)} pictures that were looked at first, " if parts else ""
    return [first + fault for fault in faults]


def _picture(job, scale, ndim):
    """Return the Picture of a page or block, None where it cannot be read."""
    source, corner, shape = job
    try:
        hr, lr = source.hr.read(corner, shape), None
        if source.lr and not source.alignment:
            steps = [1 if axis < 3 - ndim else scale for axis in range(3)]
            lr = source.lr.read(*([n // step for n, step in zip(part, steps)] for part in (corner, shape)))
    except ImageError:
        return None
    if ndim == 2:
        hr, lr = hr[0], None if lr is None else lr[0]
    name = name_of_block(source, corner) if ndim == 3 else name_of_page(source, corner[0])
    return Picture(source.rock, name, source.hr.dtype, look(hr, lr, scale))
