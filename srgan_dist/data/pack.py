"""The pixels of one source: decoded once, cut, brought down to LR, and written to their places in the shards.

A job is told everything it needs and tells all it found, so that jobs can run in any process and in any order.
"""

import hashlib
import zlib
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from srgan_dist.data.degradation import downsample
from srgan_dist.data.images import ImageError, read_pages
from srgan_dist.data.sources import Source


@dataclass(frozen=True)
class Job:
    """A source, its samples, and for each of them the shard and the offsets of its pixels (hr, lr)."""

    source: Source
    samples: list
    places: list | None  # None: only look whether everything can be decoded
    scale: int
    dtype: np.dtype | None


@dataclass(frozen=True)
class Packed:
    """What was found in a source."""

    fault: str | None  # why it cannot be used
    pages: list  # (name, sha256 of the pixels; None where there is only one grey level)
    facts: list  # hr_crc32, lr_crc32, darkest and brightest of each sample, in the order of the job


def pack(job):
    """Decode a source and write its samples; returns Packed."""
    pages, facts = [], [None] * len(job.samples)
    try:
        lr_pages = read_pages(job.source.lr.path) if job.source.lr else repeat(None)
        on_page = {}
        for i, sample in enumerate(job.samples if job.places else ()):
            on_page.setdefault(sample.page, []).append(i)
        for number, (hr, lr) in enumerate(zip(read_pages(job.source.hr.path), lr_pages)):
            pages.append((_name_of_page(job.source, number), _content(hr)))
            for i in on_page.get(number, ()):
                facts[i] = _write(job, i, hr, lr)
    except ImageError as error:
        return Packed(str(error), pages, facts)
    return Packed(None, pages, facts)


def _name_of_page(source, number):
    return f"{source.hr.path}" + (f" page {number}" if source.hr.pages > 1 else "")


def _content(image):
    if image.min() == image.max():
        return None
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def _write(job, i, hr, lr):
    sample, (shard, hr_offset, lr_offset) = job.samples[i], job.places[i]
    hr = hr[sample.top : sample.top + sample.height, sample.left : sample.left + sample.width]
    if lr is None:
        lr = downsample(hr, job.scale, sample.kernel)
    hr, lr = (_stored(image, job.dtype) for image in (hr, lr))
    crcs = []
    with open(shard, "r+b") as file:
        for image, offset in ((hr, hr_offset), (lr, lr_offset)):
            data = image.tobytes()
            crcs.append(zlib.crc32(data))
            file.seek(offset)
            file.write(data)
    return *crcs, int(hr.min()), int(hr.max())


def _stored(image, dtype):
    """Convert to the set's pixel type; 8 bit into 16 is times 257, which maps 255 to 65535 and back exactly."""
    if image.dtype == dtype:
        return image.astype(dtype.newbyteorder("<"), copy=False)
    return (image.astype(np.uint16) * np.uint16(257)).astype("<u2", copy=False)
