"""The pixels of one source, or of a region of a volume: decoded once, cut, downsampled to LR, and written to
their places in the shards, or, to be encoded, one after the other to a spool.

A job holds all its input and returns all its results, so jobs can run in any process and in any order. A job
that was done before the build was interrupted only checks that its pixels are still on disk.
"""

import contextlib
import hashlib
import io
import math
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from srgan_dist.data.degradation import ScanLike, downsample, scan_like
from srgan_dist.data.volume import ImageError
from srgan_dist.packing.blocks import cut, read_region, widened, window
from srgan_dist.packing.pictures import look
from srgan_dist.packing.source import Source, name_of_block, name_of_page
from srgan_dist.storage.encoding import encode
from srgan_dist.utils.memory import memory_named


@dataclass(frozen=True)
class Job:
    """A source, its samples, and the places of their images; without places and spool it only decodes."""

    source: Source
    samples: list  # in 2-D all of the source, in the order of pages; in 3-D those of one region
    scale: int
    ndim: int
    seed: int = 0
    scanner: ScanLike | None = None  # makes LR; None: the kernel of each sample does
    dtype: np.dtype | None = None
    encoding: str = "npy"
    places: list | None = None  # for each sample its shard and the offsets of HR and LR, where they are known
    spool: Path | None = None  # for encoded images
    known: "Packed | None" = None  # the result from before the build was interrupted

    @property
    def margin(self):
        """The HR pixels around a sample on which its LR image depends; a multiple of scale."""
        return self.scale * math.ceil(4 * self.scanner.blur_sigma / self.scale) if self.scanner else 0

    def name_of(self, number):
        """Name the page, or in 3-D the block, whose content is number `number` of the result."""
        if self.ndim == 3:
            return name_of_block(self.source, self.samples[number].corner)
        return name_of_page(self.source, number)


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
    contents: list  # sha256 of the pixels of each page or block; None where there is only one grey level
    facts: list  # Facts of each sample, in the order of the job
    looks: list  # Look of each page or block


def pack(job):
    """Decode a source and write its samples, unless all are in their places already; returns Packed."""
    if job.known and _is_stored(job):
        return job.known
    contents, looks, facts = [], [], [None] * len(job.samples)
    try:
        with (
            memory_named(partial(_too_large, job.source.hr.path)),
            open(job.spool, "wb") if job.spool else contextlib.nullcontext() as spool,
        ):
            for i, *images in (_blocks if job.ndim == 3 else _tiles)(job, contents, looks):
                if job.places or job.spool:
                    facts[i] = _write(job, i, *images, spool)
    except ImageError as error:
        return Packed(str(error), contents, facts, looks)
    return Packed(None, contents, facts, looks)


def _too_large(path, error):
    return ImageError(path, "does not fit into memory with its LR; use fewer processes (--jobs)")


def _tiles(job, contents, looks):
    """Yield (number of the sample, HR tile, LR tile) page by page; `contents` gets the hash of each page,
    `looks` its Look.
    """
    hr_pages = job.source.hr.pages()
    lr_pages = job.source.lr.pages() if job.source.lr else [None] * job.source.hr.slices
    on_page = {}
    for i, sample in enumerate(job.samples):
        on_page.setdefault(sample.corner[0], []).append(i)
    for number, (page, lr_page) in enumerate(zip(hr_pages, lr_pages, strict=True)):
        contents.append(_hash(page))
        looks.append(look(page, None if job.source.alignment else lr_page, job.scale))
        for i in on_page.get(number, ()):
            sample = job.samples[i]
            corner, shape = sample.corner[1:], sample.shape[1:]
            lr = _made_lr(job, sample, page, corner, shape) if lr_page is None else lr_page
            yield i, page[window(corner, shape)], lr


def _blocks(job, contents, looks):
    """Yield (number of the sample, HR block, LR block); `contents` gets the hash of each, `looks` its
    Look.
    """
    low, region = read_region(job.source.hr, job.samples, job.margin)
    lr_samples = [_on_lr_grid(sample, job.scale) for sample in job.samples] if job.source.lr else None
    lr_low, lr_region = read_region(job.source.lr, lr_samples) if lr_samples else (None, None)
    for i, sample in enumerate(job.samples):
        hr = np.ascontiguousarray(cut(region, low, sample))
        contents.append(_hash(hr))
        lr = np.ascontiguousarray(cut(lr_region, lr_low, lr_samples[i])) if lr_samples else None
        looks.append(look(hr, None if job.source.alignment else lr, job.scale))
        if lr_samples:
            yield i, hr, lr
        else:
            corner = [start - first for start, first in zip(sample.corner, low, strict=True)]
            yield i, hr, _made_lr(job, sample, region, corner, sample.shape)


def _on_lr_grid(sample, scale):
    corner, shape = (tuple(n // scale for n in part) for part in (sample.corner, sample.shape))
    return replace(sample, corner=corner, shape=shape)


def _made_lr(job, sample, image, corner, shape):
    """Make the LR image of the tile or block at `corner` of an image; None where the job only decodes."""
    if not job.places and not job.spool:
        return None
    if job.scanner is None:
        return downsample(image[window(corner, shape)], job.scale, sample.kernel)
    corner, whole, before = widened(corner, shape, image.shape, job.margin, job.scale)
    lr = scan_like(image[window(corner, whole)], job.scale, job.scanner, job.seed, sample.key)
    return lr[window([n // job.scale for n in before], [n // job.scale for n in shape])]


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
