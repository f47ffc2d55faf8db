"""Empty blocks: those outside the field of view, of one grey level or hardly any contrast, are left out."""

from collections import Counter, defaultdict

import numpy as np

from srgan_dist.data.volume import ImageError
from srgan_dist.packing.blocks import cut, read_region


def contrasts(job):
    """Return (fault or None, standard deviation of each block of a job, in grey levels of its dtype)."""
    try:
        corner, region = read_region(job.source.hr, job.samples)
        step = np.iinfo(job.dtype).max // np.iinfo(region.dtype).max  # 257 where 8 bits are stored as 16
        return None, [step * _contrast(cut(region, corner, sample)) for sample in job.samples]
    except ImageError as error:
        return str(error), []


def _contrast(block):
    return 0.0 if block.min() == block.max() else float(np.std(block, dtype=np.float32))


def without_empty(sources, samples, found, least):
    """Return (the samples that are not empty, notes with the number of those that are).

    found: the contrast of each sample. Empty is what has one grey level only, or a contrast below `least`
    times the median of its rock's other blocks.
    """
    of_rock = defaultdict(list)
    for sample, contrast in zip(samples, found, strict=True):
        if contrast > 0:
            of_rock[sources[sample.source].rock].append(contrast)
    limits = {rock: least * float(np.median(values)) for rock, values in of_rock.items()}
    kept, groups = [], Counter()
    for sample, contrast in zip(samples, found, strict=True):
        source = sources[sample.source]
        kind = "constant" if contrast == 0 else "faint" if contrast < limits[source.rock] else "kept"
        groups[source.rock, source.split, kind] += 1
        if kind == "kept":
            kept.append(sample)
    return kept, _notes(groups, limits, least)


def _notes(groups, limits, least):
    notes = []
    for rock, split in dict.fromkeys(key[:2] for key in groups):
        constant, faint, kept = (groups[rock, split, kind] for kind in ("constant", "faint", "kept"))
        if constant or faint:
            notes.append(
                f"{rock}, {split}: {constant + faint} of {constant + faint + kept} blocks are empty and left"
                f" out: {constant} of one grey level, {faint} with a standard deviation below"
                f" {limits.get(rock, 0):.3g}, min_contrast={least:g} times the median of {rock}"
            )
    return notes
