"""The pixels of one source: decoded once, cut, brought down to LR, and written to their places in the shards, or, to be
encoded, one after the other to a spool.

A job is told everything it needs and tells all it found, so that jobs can run in any process and in any order. One
that was done before the build was interrupted only looks whether its pixels are still there.
"""

import contextlib
import hashlib
import io
import zlib
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from srgan_dist.data.degradation import downsample
from srgan_dist.data.image_files import ImageError, read_pages
from srgan_dist.packing.scan import Source
from srgan_dist.storage.encoding import encode


@dataclass(frozen=True)
class Job:
    """A source, its samples, and where their images go; without places and spool it only looks whether all can be decoded."""

    source: Source
    samples: list  # in the order of pages
    scale: int
    dtype: np.dtype | None = None
    encoding: str = "npy"
    places: list | None = None  # for each sample its shard and the offsets of HR and LR, where they are known
    spool: Path | None = None  # for encoded images
    known: "Packed | None" = None  # what was found before the build was interrupted


class Facts(NamedTuple):
    """What the index has to know of the images of a sample, and the crc32 of their bytes as stored."""

    hr_bytes: int
    hr_crc32: int
    hr_stored: int
    lr_bytes: int
    lr_crc32: int
    lr_stored: int
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
        for i, sample in enumerate(job.samples if job.places or job.spool else ()):
            on_page.setdefault(sample.page, []).append(i)
        with open(job.spool, "wb") if job.spool else contextlib.nullcontext() as spool:
            for number, (hr, lr) in enumerate(zip(read_pages(job.source.hr.path), lr_pages)):
                pages.append(_content(hr))
                for i in on_page.get(number, ()):
                    facts[i] = _write(job, i, hr, lr, spool)
    except ImageError as error:
        return Packed(str(error), pages, facts)
    return Packed(None, pages, facts)


def name_of_page(source, number):
    return f"{source.hr.path}" + (f" page {number}" if source.hr.pages > 1 else "")


def _still_there(job):
    """Compare the images in shards or spool with what was found: a machine that lost power may have lost some of them."""
    start = 0
    for i, facts in enumerate(job.known.facts):
        shard, *offsets = job.places[i] if job.places else (None, None, None)
        stored = ((facts.hr_bytes, facts.hr_stored), (facts.lr_bytes, facts.lr_stored))
        for offset, (size, crc32) in zip(offsets, stored, strict=True):
            if not _holds(shard, offset, size, crc32) and not _holds(job.spool, start, size, crc32):
                return False
            start += size
    return True


def _holds(path, offset, size, crc32):
    try:
        with open(path, "rb") if path else io.BytesIO() as file:
            file.seek(offset or 0)
            return zlib.crc32(file.read(size)) == crc32
    except FileNotFoundError:
        return False


def _content(image):
    if image.min() == image.max():
        return None
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _write(job, i, hr, lr, spool):
    sample = job.samples[i]
    hr = hr[sample.top : sample.top + sample.height, sample.left : sample.left + sample.width]
    if lr is None:
        lr = downsample(hr, job.scale, sample.kernel)
    images = [_stored(image, job.dtype) for image in (hr, lr)]
    encoded = [encode(job.encoding, image) for image in images]
    if spool:
        spool.writelines(encoded)
    else:
        _write_in_place(encoded, *job.places[i])
    sides = [
        (len(data), zlib.crc32(image.tobytes()), zlib.crc32(data))
        for image, data in zip(images, encoded, strict=True)
    ]
    return Facts(*sides[0], *sides[1], int(images[0].min()), int(images[0].max()))


def _write_in_place(encoded, shard, *offsets):
    with open(shard, "r+b") as file:
        for data, offset in zip(encoded, offsets, strict=True):
            file.seek(offset)
            file.write(data)


def _stored(image, dtype):
    """Convert to the set's pixel type; 8 bit into 16 is times 257, which maps 255 to 65535 and back exactly."""
    if image.dtype == dtype:
        return image.astype(dtype.newbyteorder("<"), copy=False)
    return (image.astype(np.uint16) * np.uint16(257)).astype("<u2", copy=False)
