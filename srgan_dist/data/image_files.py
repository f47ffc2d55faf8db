"""Rock images on disk: one grey channel, 8 or 16 bit, read and written as they are.

A file holds one page (a slice) or many (a volume): PNG, TIFF (any compression, multi-page, ImageJ stacks) and
NPY. RGB is read as grey when its three channels are equal. Everything that would need a decision about grey
levels (float data, palettes, alpha, unequal channels, inverted scales) or slices (channels, time points, thumbnails,
a description that names other slices than are there) is refused by name instead of guessed.
"""

import contextlib
import io
import itertools
import logging
import math
import os
import re
import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write

MAX_PIXELS = 2**30  # of one page: far above any detector, far below what a forged header can claim

ALLOWED_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))

BROKEN_LINK = "is a broken link; restore what it points to, or delete it"

INCH, CENTIMETRE = 2, 3  # units of TIFF's resolution; 1 is none

_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_SIGNATURES = {  # how a file begins
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x93NUMPY": "NPY",
    b"\xff\xd8\xff": "JPEG",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"\x89HDF": "HDF5",
    b"MATLAB": "MATLAB",
    b"PK\3\4": "ZIP or NPZ",
    b"\x1f\x8b": "gzip",
}


class ImageError(UserError):
    """An image file that cannot be used; the message starts with its path."""

    def __init__(self, path, problem):
        super().__init__(f"{path}: {problem}")


@dataclass(frozen=True)
class ImageInfo:
    """What a file says of itself before any pixel is decoded."""

    path: Path
    pages: int
    height: int
    width: int
    dtype: np.dtype
    voxel_size_um: float | None = None  # only where the file names a physical unit
    tags: dict = field(default_factory=dict)  # resolution and description to be carried over, see write_pages

    @property
    def max_value(self):
        return np.iinfo(self.dtype).max


def read_info(path):
    """Read the header of an image file.

    Raises ImageError for a format, pixel type or channel layout that is not grey 8 or 16 bit.
    """
    path = Path(path)
    kind, reader, _ = _reader(path)
    with _failures_named(path):
        _check_signature(path, kind)
        info = reader(path)
    if info.dtype not in ALLOWED_DTYPES:
        raise ImageError(
            path,
            f"pixels are {info.dtype}; only uint8 and uint16 are read. Map the grey levels to"
            " one of them with a window of your choice (the same for all images) and save again",
        )
    if min(info.pages, info.height, info.width) < 1:
        raise ImageError(path, f"is empty ({info.pages} pages of {info.height}x{info.width} pixels)")
    if info.height * info.width > MAX_PIXELS:
        raise ImageError(
            path, f"claims {info.height}x{info.width} pixels, more than the limit of {MAX_PIXELS}"
        )
    return info


def read_pages(path):
    """Yield the pages of an image file in order, each [H, W] uint8 or uint16, one in memory at a time."""
    info = read_info(path)
    _, _, pages = _reader(info.path)
    with _failures_named(info.path):
        for number, page in enumerate(pages(info)):
            if page.shape[:2] != (info.height, info.width):
                raise ImageError(
                    path, f"page {number} has {page.shape} pixels, its header says {info.height}x{info.width}"
                )
            yield _one_channel(info.path, page)


def read_image(path):
    """Read a file of one page: [H, W] uint8 or uint16."""
    info = read_info(path)
    if info.pages != 1:
        raise ImageError(path, f"holds {info.pages} pages where one image is expected")
    return next(read_pages(path))


def is_image(path):
    """Tell whether the suffix of `path`, in any case, belongs to a format that is read here."""
    return Path(path).suffix.lower() in READERS


def find_images(root):
    """List the files below the folder `root` in natural order (slice_2 before slice_10): (images, other files).

    Links to folders are followed. What is hidden, or lies in a hidden folder, and what systems leave behind
    (Thumbs.db) is skipped. A broken link is listed like the file it stands for, so that reading it tells.
    """
    paths = sorted(_files_below(Path(root), ()), key=natural)
    return [path for path in paths if is_image(path)], [path for path in paths if not is_image(path)]


def _files_below(folder, above):
    """Yield all files below a folder; above: the real paths of the folders it lies in."""
    here = os.path.realpath(folder)
    if here in above:
        return  # a link back
    for path in folder.iterdir():
        if is_hidden(path.name):
            continue
        if path.is_dir():
            yield from _files_below(path, (*above, here))
        else:
            yield path


def is_hidden(name):
    """Tell whether a file or folder of this name is passed over: hidden, or left behind by a system (Thumbs.db)."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def left_out(folder, names):
    """Return a note about the files of a folder that are no images, in a list; an empty one if there are none."""
    if not names:
        return []
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return [f"{folder}: {len(names)} files are not PNG, TIFF or NPY and are left out: {shown}"]


def natural(path):
    """Return a key that sorts slice_2 before slice_10."""
    parts = re.split(r"(\d+)", str(path))
    numbered = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return numbered, str(path)  # 1.png and 01.png are equal in the first


def _reader(path):
    if not is_image(path):
        raise ImageError(path, f"format {path.suffix!r} is not read; use one of {', '.join(READERS)}")
    return READERS[path.suffix.lower()]


def _check_signature(path, kind):
    """Refuse a file whose first bytes are not those of the format that its suffix names."""
    if path.exists() and not path.is_file():
        raise ImageError(path, "is not a file")  # opening a pipe would wait for ever
    with open(path, "rb") as file:
        head = file.read(16)
    found = next((name for start, name in _SIGNATURES.items() if head.startswith(start)), None)
    if found == kind:
        return
    suffix = next((suffix for suffix, (name, *_) in READERS.items() if name == found), None)
    if not head:
        raise ImageError(path, "is empty (0 bytes); copy or export it again")
    if suffix:
        raise ImageError(path, f"holds {found} data; rename it to {path.stem}{suffix}")
    if found:
        raise ImageError(path, f"holds {found} data; convert it to one of {', '.join(READERS)}")
    article = "an" if kind == "NPY" else "a"
    raise ImageError(
        path, f"is not {article} {kind} file (it begins with {head[:8]!r}); copy or export it again"
    )


@contextlib.contextmanager
def _failures_named(path):
    """Turn whatever a decoder raises into an ImageError that names the file."""
    try:
        yield
    except (ImageError, GeneratorExit):
        raise
    except FileNotFoundError:
        raise ImageError(path, BROKEN_LINK if path.is_symlink() else "does not exist") from None
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise ImageError(path, "does not fit into memory; cut it into smaller images") from error
    except Exception as error:
        # Only decoders say something of the file; a TypeError would tell of their code.
        words = f" ({error})" if isinstance(error, (ValueError, RuntimeError)) and str(error) else ""
        raise ImageError(
            path,
            f"cannot be read: it is damaged or stored in a way that is not supported{words};"
            " copy it again, or export it as a plain image without compression",
        ) from error


def _one_channel(path, page):
    if page.ndim == 2:
        return np.ascontiguousarray(page)
    red, green, blue = np.moveaxis(page, -1, 0)
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise ImageError(
            path,
            "its three colour channels differ; rock images are grey."
            " Save the channel that holds the scan as a grey image",
        )
    return np.ascontiguousarray(red)


# PNG

_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


def _png_info(path):
    chunks = _png_chunks(path)
    if len(chunks.get(b"IHDR", b"")) != 13 or b"IDAT" not in chunks:
        raise ImageError(path, "is damaged or cut short before its pixels; copy or export it again")
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    if colour not in (0, 2):
        raise ImageError(
            path,
            f"is a PNG of type {_PNG_COLOURS.get(colour, colour)};"
            " save it as grey (or RGB with equal channels), without palette or alpha",
        )
    if depth not in (8, 16):
        raise ImageError(path, f"has {depth} bit per pixel; save it as 8 or 16 bit grey")
    if b"tRNS" in chunks:
        raise ImageError(path, "has a transparent colour; save it without transparency")
    if b"acTL" in chunks:
        raise ImageError(path, "is an animated PNG of several frames; save each frame as a PNG of its own")
    return ImageInfo(
        path, 1, height, width, np.dtype(f"uint{depth}"), tags=_png_tags(chunks.get(b"pHYs", b""))
    )


def _png_chunks(path):
    """Return {name: content} of the parts of a PNG before its pixels, whose own part is left empty."""
    chunks = {}
    with open(path, "rb") as file:
        file.seek(8)
        while b"IDAT" not in chunks and len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            chunks[name] = file.read(length) if name != b"IDAT" else b""
            file.seek(4, os.SEEK_CUR)  # its checksum
    return chunks


def _png_tags(physical):
    """Return the resolution of a pHYs part, which counts pixels per metre, in the terms of a TIFF."""
    if len(physical) != 9:
        return {}
    *pixels, unit = struct.unpack(">IIB", physical)
    if unit != 1 or not all(0 < count < 2**31 for count in pixels):
        return {}
    return {"resolution": tuple((count, 100) for count in pixels), "resolutionunit": CENTIMETRE}


def _png_pages(info):
    # Not Pillow: it cuts 16-bit RGB down to 8 bit without a word.
    yield imagecodecs.png_decode(info.path.read_bytes())


# TIFF

_GREY_PHOTOMETRICS = ("MINISBLACK", "RGB")
_MICROMETRES = {
    "micron": 1.0,
    "microns": 1.0,
    "um": 1.0,
    "\u00b5m": 1.0,
    "\\u00B5m": 1.0,
    "mm": 1e3,
    "nm": 1e-3,
}


class _Errors(logging.Handler):
    def __init__(self):
        super().__init__(logging.ERROR)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def _logged_errors():
    """Collect the errors that tifffile only logs."""
    logger, errors = logging.getLogger("tifffile"), _Errors()
    logger.addHandler(errors)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield errors.messages
    finally:
        logger.removeHandler(errors)
        logger.propagate = propagate


@contextlib.contextmanager
def _open_tiff(path):
    """Open a TIFF and refuse it where tifffile only logs: a cut file otherwise looks like a shorter one."""
    with _logged_errors() as errors, tifffile.TiffFile(path, _multifile=False) as tiff:
        len(tiff.pages)  # walk the chain of pages now
        _refuse(path, errors)
        yield tiff
        _refuse(path, errors)


def _refuse(path, errors):
    if errors:
        words = re.sub(r"^<[^>]*> ", "", errors[0])  # <tifffile.TiffPages @8>
        raise ImageError(path, f"is damaged or cut short ({words}); copy or export it again")


def _tiff_info(path):
    with _open_tiff(path) as tiff:
        first = tiff.pages[0]
        for number, page in enumerate(tiff.pages):  # before _count_slices, which thins the pages out
            if problem := _pixel_problem(page) or _storage_problem(page) or _difference(page, first):
                raise ImageError(path, f"page {number} {problem}")
        pages = _count_slices(path, tiff, first)
        height, width = first.imagelength, first.imagewidth
        dtype = np.dtype(first.dtype).newbyteorder("=")
        return ImageInfo(path, pages, height, width, dtype, _voxel_size_um(first), _carried_tags(first))


def _pixel_problem(page):
    """Say why the values of a page cannot be taken as grey levels, or None."""
    photometric = getattr(page.photometric, "name", str(page.photometric))
    if photometric not in _GREY_PHOTOMETRICS:
        return f"is stored as {photometric}; save it as grey with black at 0 (MINISBLACK)"
    if page.extrasamples or page.samplesperpixel not in (1, 3):
        return f"has {page.samplesperpixel} channels; save it as grey without alpha"
    if page.dtype is None or page.dtype in ALLOWED_DTYPES and page.bitspersample != 8 * page.dtype.itemsize:
        return (
            f"has {page.bitspersample} bit per pixel; save it as 8 or 16 bit grey, with one factor for all images"
            " if the grey levels are scaled"
        )
    return None


def _storage_problem(page):
    """Say why a page is not one whole slice, or None."""
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
    return None


def _difference(page, first):
    own, others = (f"{p.imagelength}x{p.imagewidth} {p.dtype}" for p in (page, first))
    if own != others:
        return f"is {own}, page 0 is {others}; all slices must be alike"
    if _orientation(page) != _orientation(first):
        return (
            f"has Orientation {_orientation(page)}, page 0 has {_orientation(first)}; turn the pixels of one and"
            " save all pages with Orientation 1"
        )
    return None


def _orientation(page):
    """Return how a page is to be turned or mirrored to be shown: 1 for not at all, also where it is no known way."""
    value = _tag(page, "Orientation", 1)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _count_slices(path, tiff, first):
    """Return the number of slices; refuse a file whose description (ImageJ, OME, tifffile) tells of others."""
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
    """Return how tifffile groups the pages by the description, None where that fails."""
    with _logged_errors() as errors:
        try:
            series = tiff.series
        except Exception:  # any: descriptions are free text
            return None
    return None if errors else series


def _slices_of(path, series):
    """Return the number of slices of one of tifffile's series; refuse what is more than one row of them."""
    sizes = [(axis, size) for axis, size in zip(series.axes, series.shape) if axis not in "YXS" and size > 1]
    # tifffile calls the slices of a volume channels unless told otherwise, so C may mean them; ImageJ has up to 4 colours.
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
    offset = series[0].dataoffset if len(series) == pages == first.samplesperpixel == 1 else None
    if offset is None:
        raise ImageError(
            path,
            f"holds {pages} page{'s' * (pages != 1)}, its description tells of {slices} slices;"
            " save it again as a plain stack, one page per slice",
        )
    size, end = first.parent.filehandle.size, offset + slices * first.nbytes
    if end > size:
        raise ImageError(
            path,
            f"is cut short: its {slices} slices end at byte {end}, the file has {size};"
            " copy or export it again",
        )


def _tiff_pages(info):
    with _open_tiff(info.path) as tiff:
        if info.pages > len(tiff.pages):
            yield from _raw_slices(info, tiff)
            return
        for page in tiff.pages:
            pixels = page.asarray()
            if page.axes == "SYX":
                pixels = np.moveaxis(pixels, 0, -1)
            yield pixels.astype(info.dtype, copy=False)


def _raw_slices(info, tiff):
    page = tiff.pages[0]
    stored = np.dtype(tiff.byteorder + page.dtype.char)
    with open(info.path, "rb") as file:
        file.seek(page.dataoffsets[0])
        for _ in range(info.pages):
            data = file.read(info.height * info.width * stored.itemsize)
            yield np.frombuffer(data, stored).reshape(info.height, info.width).astype(info.dtype)


def _tag(page, name, default=None):
    return page.tags[name].value if name in page.tags else default


def _rational(value):
    """Return a resolution as (numerator, denominator), None where it is no finite positive number."""
    try:
        ratio = Fraction(*value) if isinstance(value, tuple) else Fraction(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    ratio = ratio.limit_denominator(2**32 - 1)  # a float, as some programs write, may need more
    return ratio.as_integer_ratio() if ratio > 0 else None


def _voxel_size_um(page):
    """Return the pixel size where ImageJ recorded it with a physical unit; plain dpi values are rarely true."""
    match = re.search(r"^unit=(\S+)", str(page.description), re.MULTILINE)
    resolution = _rational(_tag(page, "XResolution"))
    if not match or match[1] not in _MICROMETRES or not resolution:
        return None
    pixels, units = resolution
    return units / pixels * _MICROMETRES[match[1]]


def _carried_tags(page):
    tags = {}
    resolution = tuple(_rational(_tag(page, name)) for name in ("XResolution", "YResolution"))
    if all(resolution):
        unit = _tag(page, "ResolutionUnit", INCH)
        tags["resolution"] = resolution
        tags["resolutionunit"] = int(unit) if unit in (1, INCH, CENTIMETRE) else 1
    if description := _carried_description(page.description):
        tags["description"] = description
    if _orientation(page) != 1:
        tags["orientation"] = _orientation(page)
    return tags


def _carried_description(text):
    """Return what of a description holds for other sizes and ways of storing, too."""
    if text.lstrip("\ufeff \r\n\t").startswith(
        ("{", "<?xml", "<OME")
    ):  # tifffile's and OME's records of sizes
        return ""
    if text.startswith("ImageJ="):
        # With images=5 ImageJ ignores all headers but the first and takes the slices to lie behind each other.
        text = re.sub(r"^(images|slices|frames|channels|hyperstack)=.*\n?", "", text, flags=re.MULTILINE)
    return text


# NPY


def _open_npy(path):
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # numpy's words range from tokens of the header to advice to load it unsafely
        raise ImageError(
            path,
            "is cut short, damaged, or holds something other than numbers;"
            " save it again with numpy.save as an array of uint8 or uint16",
        ) from error


def _npy_info(path):
    volume = _open_npy(path)
    if volume.ndim not in (2, 3):
        raise ImageError(
            path, f"has shape {volume.shape}; use [H, W] for a slice or [slices, H, W] for a volume"
        )
    if volume.ndim == 3 and 1 <= volume.shape[-1] <= 4:
        raise ImageError(
            path,
            f"has shape {volume.shape}, whose last axis looks like colour channels;"
            " save a slice as [H, W] and a volume as [slices, H, W]",
        )
    if path.stat().st_size != volume.offset + volume.nbytes:
        raise ImageError(path, "holds more than one array; save each to a file of its own")
    pages, height, width = (1, *volume.shape)[-3:]
    return ImageInfo(path, pages, height, width, volume.dtype.newbyteorder("="))


def _npy_pages(info):
    volume = _open_npy(info.path)
    for page in volume.reshape(-1, info.height, info.width) if volume.ndim == 2 else volume:
        yield np.array(page, info.dtype)


# suffix in lower case -> (format, header reader, page reader)
READERS = {
    ".png": ("PNG", _png_info, _png_pages),
    ".tif": ("TIFF", _tiff_info, _tiff_pages),
    ".tiff": ("TIFF", _tiff_info, _tiff_pages),
    ".npy": ("NPY", _npy_info, _npy_pages),
}


# Writing


def write_pages(path, pages, count, tags=None):
    """Write `count` pages, each [H, W] uint8 or uint16 of one shape, one in memory at a time.

    The suffix chooses the format; PNG takes one page. The file appears under its name only when it is complete, and
    never in the place of another.
    tags: "resolution" ((numerator, denominator) along x and y), "resolutionunit", "description" and "orientation" in
    the terms of a TIFF, as `read_info` gives them; what the format cannot hold is left out.
    """
    path, tags = Path(path), tags or {}
    check_writable(path, count, tags)
    with atomic_write(path, replace=False) as unfinished:
        WRITERS[path.suffix.lower()](unfinished, pages, count, tags)


def check_writable(path, count, tags):
    """Raise ImageError where the format of `path` cannot hold `count` pages with these tags."""
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ImageError(
            path,
            f"format {path.suffix!r} is not written; give a name that ends in one of {', '.join(WRITERS)}",
        )
    if writer is _write_png and count != 1:
        raise ImageError(path, f"PNG holds one page, not {count}; write .tif or .npy")
    if writer is not _write_tiff and "orientation" in tags:
        # Some programs turn the pixels, some do not: without the tag the picture would be wrong for one of them.
        raise ImageError(
            path,
            f"only TIFF can say that the picture is to be turned, as its source does (Orientation"
            f" {tags['orientation']}); write .tif, or save the source with Orientation 1",
        )


def _write_png(path, pages, count, tags):
    data = io.BytesIO()
    Image.fromarray(next(iter(pages))).save(data, "png", dpi=_dpi(tags))
    path.write_bytes(data.getvalue())


def _dpi(tags):
    """Return the resolution as a PNG holds it, None where it has no length to refer to or does not fit."""
    per_metre = {INCH: Fraction(10000, 254), CENTIMETRE: 100}.get(tags.get("resolutionunit"))
    if per_metre is None or "resolution" not in tags:
        return None
    resolution = [Fraction(*pair) * per_metre for pair in tags["resolution"]]
    fits = all(1 <= round(pixels) < 2**31 for pixels in resolution)
    return tuple(float(pixels) * 0.0254 for pixels in resolution) if fits else None


def _write_tiff(path, pages, count, tags):
    pages = iter(pages)
    first = next(pages)
    resolution = [Fraction(*pair).as_integer_ratio() for pair in tags.get("resolution", ())]
    options = {}
    if resolution and max(map(max, resolution)) < 2**32:
        options = {"resolution": tuple(resolution), "resolutionunit": tags["resolutionunit"]}
    if "description" in tags:
        options["description"] = tags["description"].encode()
    if "orientation" in tags:
        options["extratags"] = [(274, "H", 1, tags["orientation"], True)]
    with tifffile.TiffWriter(path, bigtiff=first.nbytes * count > 4e9) as tiff:
        for page in itertools.chain([first], pages):
            tiff.write(page, photometric="minisblack", metadata=None, contiguous=False, **options)


def _write_npy(path, pages, count, tags):
    pages = iter(pages)
    first = next(pages)
    if count == 1:
        with open(path, "wb") as file:
            np.save(file, first)
        return
    volume = np.lib.format.open_memmap(path, "w+", first.dtype, (count, *first.shape))
    for number, page in enumerate(itertools.chain([first], pages)):
        volume[number] = page
    volume.flush()


# suffix in lower case -> writer
WRITERS = {".png": _write_png, ".tif": _write_tiff, ".tiff": _write_tiff, ".npy": _write_npy}
