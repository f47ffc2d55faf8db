"""The pixels of one source: decoded once, cut, brought down to LR, and written to their places in the shards.

A job is told everything it needs and tells all it found, so that jobs can run in any process and in any order. One
that was done before the build was interrupted only looks whether its pixels are still there.
"""

import hashlib
import zlib
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np

from srgan_dist.data.degradation import downsample
from srgan_dist.data.images import ImageError, read_pages
from srgan_dist.data.sources import Source


@dataclass(frozen=True)
class Job:
    """A source, its samples, and for each of them the shard and the offsets of its pixels (hr, lr)."""

    source: Source
    samples: list  # in the order of pages
    places: list | None  # None: only look whether everything can be decoded
    scale: int
    dtype: np.dtype | None
    known: "Packed | None" = None  # what was found before the build was interrupted


class Facts(NamedTuple):
    """What the index has to know of the pixels of a sample."""

    hr_crc32: int
    lr_crc32: int
    darkest: int
    brightest: int


class Packed(NamedTuple):
    """What was found in a source; without a fault it is plain JSON."""

    fault: str | None  # why it cannot be used
    pages: list  # sha256 of the pixels of each; None where there is only one grey level
    facts: list  # Facts of each sample, in the order of the job


def pack(job):
    """Decode a source and write its samples, unless all of them are in their places already; returns Packed."""
    if job.known and _still_there(job):
        return job.known
    pages, facts = [], [None] * len(job.samples)
    try:
        lr_pages = read_pages(job.source.lr.path) if job.source.lr else repeat(None)
        on_page = {}
        for i, sample in enumerate(job.samples if job.places else ()):
            on_page.setdefault(sample.page, []).append(i)
        for number, (hr, lr) in enumerate(zip(read_pages(job.source.hr.path), lr_pages)):
            pages.append(_content(hr))
            for i in on_page.get(number, ()):
                facts[i] = _write(job, i, hr, lr)
    except ImageError as error:
        return Packed(str(error), pages, facts)
    return Packed(None, pages, facts)


def name_of_page(source, number):
    return f"{source.hr.path}" + (f" page {number}" if source.hr.pages > 1 else "")


def _still_there(job):
    """Compare the pixels in the shards with what was found: a machine that lost power may have lost some of them."""
    for sample, (shard, *offsets), facts in zip(job.samples, job.places, job.known.facts, strict=True):
        pixels = sample.height * sample.width
        sizes = (pixels * job.dtype.itemsize, pixels // job.scale**2 * job.dtype.itemsize)
        with open(shard, "rb") as file:
            for offset, size, crc32 in zip(offsets, sizes, facts[:2], strict=True):
                file.seek(offset)
                if zlib.crc32(file.read(size)) != crc32:
                    return False
    return True


def _content(image):
    if image.min() == image.max():
        return None
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


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
    return Facts(*crcs, int(hr.min()), int(hr.max()))


def _stored(image, dtype):
    """Convert to the set's pixel type; 8 bit into 16 is times 257, which maps 255 to 65535 and back exactly."""
    if image.dtype == dtype:
        return image.astype(dtype.newbyteorder("<"), copy=False)
    return (image.astype(np.uint16) * np.uint16(257)).astype("<u2", copy=False)
