"""TIFF files: headers, slices and resolution; an error for everything but a plain stack of grey slices."""

import contextlib
import logging
import math
import re
import threading
from array import array

import imagecodecs
import numpy as np
import tifffile

from srgan_dist.data.formats.lzw import is_sound_lzw
from srgan_dist.data.formats.raw import MOST_DEFLATED
from srgan_dist.data.formats.tiff_tags import carried_tags, orientation, voxel_sizes_um
from srgan_dist.data.volume import ALLOWED_DTYPES, ImageError, Slices, Volume

_CHANNELS = {"MINISBLACK": 1, "RGB": 3, "MINISWHITE": 1, "PALETTE": 1}  # without alpha
# How many bytes one byte of a compression can stand for: what an image claims beyond gets no memory
_EXPANSION = {"NONE": 1, "PACKBITS": 64, "LZW": 2731}
_EXPANSION |= dict.fromkeys(("DEFLATE", "ADOBE_DEFLATE"), MOST_DEFLATED)
_MOST_EXPANSION = 2**16  # of all others; Zstandard has runs of 128 KiB in 4 bytes
_ALPHA = (1, 2)  # associated and not, of ExtraSamples; 0 is a channel of another kind


class _ErrorsOfThread(logging.Filter):
    """Take the errors of a thread that collects them out of the log; threads read files at the same time."""

    def __init__(self):
        super().__init__()
        self.of = threading.local()

    def filter(self, record):
        messages = getattr(self.of, "messages", None)
        if messages is None or record.levelno < logging.ERROR:
            return True
        messages.append(record.getMessage())
        return False


_ERRORS = _ErrorsOfThread()
logging.getLogger("tifffile").addFilter(_ERRORS)


@contextlib.contextmanager
def _logged_errors():
    """Collect the errors that tifffile only logs."""
    before, _ERRORS.of.messages = getattr(_ERRORS.of, "messages", None), []
    try:
        yield _ERRORS.of.messages
    finally:
        _ERRORS.of.messages = before


@contextlib.contextmanager
def _logged_errors_raised(path):
    """Raise the errors that tifffile only logs, e.g. for a file that was cut short."""
    with _logged_errors() as errors:
        yield
        if errors:
            words = re.sub(r"^<[^>]*> ", "", errors[0])  # <tifffile.TiffPages @8>
            raise ImageError(path, f"is damaged or cut short ({words}); copy or export it again")


@contextlib.contextmanager
def _opened(path, walk=False):
    with contextlib.ExitStack() as stack:
        with _logged_errors_raised(path):
            tiff = stack.enter_context(tifffile.TiffFile(path, _multifile=False))
            if walk:
                len(tiff.pages)  # walk the chain of pages now
        yield tiff


def open_tiff(path):
    """Read the headers of all pages of a TIFF file; raises ImageError for all but a stack of grey slices."""
    with _opened(path, walk=True) as tiff, _logged_errors_raised(path):
        first, offsets = tiff.pages[0], array("q")
        for number, page in enumerate(tiff.pages):  # before _count_slices, which thins the pages out
            if problem := _pixel_problem(page) or _storage_problem(page) or _difference(page, first):
                raise ImageError(path, f"page {number} {problem}")
            offsets.append(page.offset)
        pages = _count_slices(path, tiff, first)
        shape = pages, first.imagelength, first.imagewidth
        dtype = np.dtype(first.dtype).newbyteorder("=")
        return Volume(path, shape, dtype, _voxels, voxel_sizes_um(first), carried_tags(first), offsets)


def _name(value):
    """Return the name of a value that tifffile knows, else its number."""
    return getattr(value, "name", str(value))


def _pixel_problem(page):
    """Return why the values of a page cannot be taken as grey levels, or None."""
    if "PhotometricInterpretation" not in page.tags:
        return (
            "has no PhotometricInterpretation (tag 262), so it is not known whether 0 is black or white; save"
            " it with the tag, e.g. by tifffile.imwrite(..., photometric='minisblack'), or set it: tiffset -s"
            " 262 1 FILE"
        )
    photometric = _name(page.photometric)
    if photometric not in _CHANNELS:
        return f"is stored as {photometric}; save it as grey with black at 0 (MINISBLACK)"
    alpha = len(page.extrasamples) == 1 and page.extrasamples[0] in _ALPHA
    channels = page.samplesperpixel - alpha
    if len(page.extrasamples) != alpha or channels not in (1, _CHANNELS[photometric]):
        return f"has {page.samplesperpixel} channels; save it as grey without alpha"
    if (alpha or photometric in ("MINISWHITE", "PALETTE")) and page.dtype not in ALLOWED_DTYPES:
        return (
            f"is {photometric} of {page.dtype}; save it as grey with black at 0 (MINISBLACK), without alpha"
        )
    if photometric == "PALETTE" and _grey_palette(page) is None:
        return "has a palette of colours, or of 16 bits; rock images are grey. Save it as 8-bit grey"
    if page.dtype is None or page.bitspersample != 8 * page.dtype.itemsize:
        return (
            f"has {page.bitspersample} bit per pixel; save it as 8 or 16 bit grey, with one factor for all"
            " images if the grey levels are scaled"
        )
    return None


def _grey_palette(page):
    """Return the grey level of each value of a pixel, uint8 [256], or None where it has colours."""
    colours = np.asarray(page.colormap)
    if colours.shape != (3, 256) or (colours != colours[0]).any():
        return None
    return (colours[0] >> (8 if colours.max() > 255 else 0)).astype(np.uint8)


def _storage_problem(page):
    """Return why a page is not one whole slice, or None."""
    size = page.parent.filehandle.size
    chunks = list(zip(page.dataoffsets, page.databytecounts))  # strips or tiles
    if page.imagedepth != 1:
        return "is a tiled volume; save the volume as one page per slice"
    if page.subfiletype & 0b101:
        return (
            f"is a thumbnail or mask (NewSubfileType {int(page.subfiletype)}) and no slice;"
            " save the file without thumbnails, pyramid and masks"
        )
    if len(chunks) < math.prod(page.chunked) or not all(map(all, chunks)):
        return (
            "has strips or tiles without data (a sparse file), which would be black; save it with all pixels"
        )
    if (end := max(map(sum, chunks))) > size:
        return f"is cut short: its pixels end at byte {end}, the file has {size}; copy or export it again"
    stored, compression = sum(page.databytecounts), _name(page.compression)
    if page.nbytes > _EXPANSION.get(compression, _MOST_EXPANSION) * stored:
        return (
            f"is damaged: {stored} bytes (compression {compression}) cannot hold {page.nbytes} bytes of"
            " pixels; copy or export it again"
        )
    return None


def _difference(page, first):
    own, others = (f"{p.imagelength}x{p.imagewidth} {p.dtype}" for p in (page, first))
    if own != others:
        return f"is {own}, page 0 is {others}; all slices must be alike"
    if orientation(page) != orientation(first):
        return (
            f"has Orientation {orientation(page)}, page 0 has {orientation(first)}; turn the pixels of one"
            " and save all pages with Orientation 1"
        )
    return None


def _count_slices(path, tiff, first):
    """Return the number of slices; refuse a file whose description (ImageJ, OME, tifffile) has others."""
    series = _series(tiff)
    if series is None:
        raise ImageError(
            path,
            "its description names slices that the file does not hold: it is cut short, or the"
            " description is not its own. Copy it again, or save it as a plain stack without one",
        )
    slices, pages = sum(_slices_of(path, part) for part in series), len(tiff.pages)
    if slices != pages:
        _check_headerless(path, series, first, pages, slices)
    return slices


def _series(tiff):
    """Return the pages as tifffile groups them by the description, None where that fails."""
    with _logged_errors() as errors:
        try:
            series = tiff.series
        except Exception:  # any: descriptions are free text
            return None
    return None if errors else series


def _slices_of(path, series):
    """Return the number of slices of one of tifffile's series; refuse more than one axis of them."""
    sizes = [(axis, size) for axis, size in zip(series.axes, series.shape) if axis not in "YXS" and size > 1]
    # By default tifffile calls the slices of a volume channels (C); ImageJ has up to 4 colour channels.
    if len(sizes) > 1 or series.kind == "imagej" and dict(sizes).get("C", 9) <= 4:
        sizes = ", ".join(f"{axis}={size}" for axis, size in sizes)
        raise ImageError(
            path,
            f"holds channels, slices or time points side by side ({sizes}); save each volume as"
            " a stack of its own, with slices as its only axis (axes ZYX)",
        )
    return math.prod(size for _, size in sizes)


def _check_headerless(path, series, first, pages, slices):
    """Refuse all but stacks of one header and raw slices behind it, as ImageJ writes them above 4 GB."""
    plain = len(series) == pages == first.samplesperpixel == 1 and first.photometric.name == "MINISBLACK"
    offset = series[0].dataoffset if plain else None
    if offset is None:
        raise ImageError(
            path,
            f"holds {pages} page{'s' * (pages != 1)}, its description says {slices} slices;"
            " save it again as a plain stack, one page per slice",
        )
    size, end = first.parent.filehandle.size, offset + slices * first.nbytes
    if end > size:
        raise ImageError(
            path,
            f"is cut short: its {slices} slices end at byte {end}, the file has {size};"
            " copy or export it again",
        )


@contextlib.contextmanager
def _voxels(volume):
    with _opened(volume.path) as tiff:
        if volume.slices > len(volume.layout):
            yield _raw_slices(volume, tiff)
        else:
            yield Slices(volume, lambda number: _decoded(volume, tiff, number))


def _decoded(volume, tiff, number):
    """Decode a page at its offset, black at 0: `tiff.pages` would walk all pages before it."""
    with _logged_errors_raised(volume.path):
        tiff.filehandle.seek(volume.layout[number])
        page = tifffile.TiffPage(tiff, number)
        _check_lzw(volume.path, page, number)
        pixels = page.asarray()
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        return np.iinfo(pixels.dtype).max - pixels
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        return _grey_palette(page)[pixels]
    if page.axes != "SYX":
        return pixels
    if len(pixels) >= 3 and (pixels[:3] != pixels[0]).any():  # the fourth is alpha
        raise ImageError(
            volume.path,
            f"page {number} is RGB in planes that differ. If they are slices of a volume, save them as"
            " pages of their own, e.g. by tifffile.imwrite(..., photometric='minisblack'); if they are"
            " colours, save the channel that holds the scan as a grey image",
        )
    return np.moveaxis(pixels, 0, -1)


def _check_lzw(path, page, number):
    if page.compression == tifffile.COMPRESSION.LZW:
        segments = page.parent.filehandle.read_segments(page.dataoffsets, page.databytecounts)
        for data, _ in segments:
            if data and not is_sound_lzw(imagecodecs.bitorder_decode(data) if page.fillorder == 2 else data):
                raise ImageError(path, f"page {number} is damaged (LZW); copy or export it again")


def _raw_slices(volume, tiff):
    page = tiff.pages[0]
    stored = np.dtype(tiff.byteorder + page.dtype.char)
    return np.memmap(volume.path, stored, "r", page.dataoffsets[0], volume.shape)
