"""The pixels of one source: decoded once, cut, downsampled to LR, and written to their places in the shards,
or, to be encoded, one after the other to a spool.

A job holds all its input and returns all its results, so jobs can run in any process and in any order. A job
that was done before the build was interrupted only checks that its pixels are still on disk.
"""

import contextlib
import hashlib
import io
import zlib
from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from srgan_dist.data.degradation import downsample
from srgan_dist.data.image_files import read_pages
from srgan_dist.data.volume import ImageError
from srgan_dist.packing.source import Source
from srgan_dist.storage.encoding import encode


@dataclass(frozen=True)
class Job:
    """A source, its samples, and the places of their images; without places and spool it only decodes."""

    source: Source
    samples: list  # in the order of pages; all have the same depth
    scale: int
    ndim: int
    dtype: np.dtype | None = None
    encoding: str = "npy"
    places: list | None = None  # for each sample its shard and the offsets of HR and LR, where they are known
    spool: Path | None = None  # for encoded images
    known: "Packed | None" = None  # the result from before the build was interrupted


class Facts(NamedTuple):
    """The columns of the index that need the pixels of a sample, and the crc32 of its images as stored."""

    hr_bytes: int
    hr_crc32: int
    hr_stored: int
    lr_bytes: int
    lr_crc32: int
    lr_stored: int
    darkest: int
    brightest: int


class Packed(NamedTuple):
    """The result of a job; without a fault it is plain JSON."""

    fault: str | None  # why the source cannot be used
    pages: list  # sha256 of the pixels of each; None where there is only one grey level
    facts: list  # Facts of each sample, in the order of the job


def pack(job):
    """Decode a source and write its samples, unless all are in their places already; returns Packed."""
    if job.known and _is_stored(job):
        return job.known
    pages, facts = [], [None] * len(job.samples)
    try:
        if not job.places and not job.spool:
            _decode_all(job, pages)
            return Packed(None, pages, facts)
        with open(job.spool, "wb") if job.spool else contextlib.nullcontext() as spool:
            for i, hr, lr in _blocks(job, pages):
                facts[i] = _write(job, i, hr, lr, spool)
    except ImageError as error:
        return Packed(str(error), pages, facts)
    return Packed(None, pages, facts)


def _decode_all(job, pages):
    """Decode HR and LR for their faults only; `pages` is filled with the hashes of HR."""
    for page in read_pages(job.source.hr.path):
        pages.append(_hash(page))
    for _ in read_pages(job.source.lr.path) if job.source.lr else ():
        pass


def _blocks(job, pages):
    """Yield (number of the sample, HR block, LR block or None) as soon as the last page of each is decoded.

    The `depth` last pages are in memory. `pages` is filled with the hashes of all.
    """
    depth = job.samples[0].shape[0]
    lr_depth = depth // job.scale if job.ndim == 3 else 1
    lr_pages = read_pages(job.source.lr.path) if job.source.lr else None
    ending = {}  # page -> samples whose last one it is
    for i, sample in enumerate(job.samples):
        ending.setdefault(sample.corner[0] + depth - 1, []).append(i)
    window = deque(maxlen=depth)
    for number, page in enumerate(read_pages(job.source.hr.path)):
        pages.append(_hash(page))
        window.append(page)
        for i in ending.get(number, ()):
            hr = [_cut(page, job.samples[i]) for page in window]
            lr = list(islice(lr_pages, lr_depth)) if lr_pages else None
            yield i, _image(hr, job.ndim), _image(lr, job.ndim) if lr else None


def _cut(page, sample):
    _, top, left = sample.corner
    _, height, width = sample.shape
    return page[top : top + height, left : left + width]


def _image(pages, ndim):
    """Make an image of its pages: [H, W] of one page in 2-D, else [D, H, W]."""
    return pages[0] if ndim == 2 else np.stack(pages)


def name_of_page(source, number):
    return f"{source.hr.path}" + (f" page {number}" if source.hr.slices > 1 else "")


def _is_stored(job):
    """Compare the images in shards or spool with the known facts: after a power failure some may be lost."""
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


def _hash(page):
    if page.min() == page.max():
        return None
    return hashlib.sha256(repr(page.shape).encode() + page.tobytes()).hexdigest()


def _write(job, i, hr, lr, spool):
    """Write one sample, to the spool or to its places; returns its Facts."""
    if lr is None:
        lr = downsample(hr, job.scale, job.samples[i].kernel)
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
    """Convert to the set's pixel type; 8 bit to 16 is times 257, which maps 255 to 65535 and back exactly."""
    if image.dtype == dtype:
        return image.astype(dtype.newbyteorder("<"), copy=False)
    return (image.astype(np.uint16) * np.uint16(257)).astype("<u2", copy=False)
