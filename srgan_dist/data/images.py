"""Rock images on disk: one grey channel, 8 or 16 bit, read and written as they are.

A file holds one page (a slice) or many (a volume): PNG, TIFF (any compression, multi-page, ImageJ stacks) and
NPY. RGB is read as grey when its three channels are equal. Everything that would need a decision about grey
levels (float data, palettes, alpha, unequal channels, inverted scales) is refused by name instead of guessed.
"""

import contextlib
import io
import itertools
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from srgan_dist.errors import UserError
from srgan_dist.files import written_whole

MAX_PIXELS = 2**30  # of one page: far above any detector, far below what a forged header can claim
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own limit lies below a large slice

ALLOWED_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


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
    tags: dict = field(default_factory=dict)  # TIFF resolution and description, to be carried over

    @property
    def max_value(self):
        return np.iinfo(self.dtype).max


def read_info(path):
    """Read the header of an image file.

    Raises ImageError for a format, pixel type or channel layout that is not grey 8 or 16 bit.
    """
    path = Path(path)
    reader, _ = _reader(path)
    with _failures_named(path):
        info = reader(path)
    if info.dtype not in ALLOWED_DTYPES:
        raise ImageError(path, f"pixels are {info.dtype}; only uint8 and uint16 are read. Map the grey levels to"
                               " one of them with a window of your choice (the same for all images) and save again")
    if min(info.pages, info.height, info.width) < 1:
        raise ImageError(path, f"is empty ({info.pages} pages of {info.height}x{info.width} pixels)")
    if info.height * info.width > MAX_PIXELS:
        raise ImageError(path, f"claims {info.height}x{info.width} pixels, more than the limit of {MAX_PIXELS}")
    return info


def read_pages(path):
    """Yield the pages of an image file in order, each [H, W] uint8 or uint16, one in memory at a time."""
    info = read_info(path)
    _, pages = _reader(info.path)
    with _failures_named(info.path):
        for number, page in enumerate(pages(info)):
            if page.shape[:2] != (info.height, info.width):
                raise ImageError(path, f"page {number} has {page.shape} pixels, its header says"
                                       f" {info.height}x{info.width}")
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


def _reader(path):
    if not is_image(path):
        raise ImageError(path, f"format {path.suffix!r} is not read; use one of {', '.join(READERS)}")
    return READERS[path.suffix.lower()]


@contextlib.contextmanager
def _failures_named(path):
    """Turn whatever a decoder raises into an ImageError that names the file."""
    try:
        yield
    except (ImageError, GeneratorExit):
        raise
    except FileNotFoundError:
        raise ImageError(path, "does not exist") from None
    except Exception as error:
        raise ImageError(path, f"cannot be read: {error or type(error).__name__}") from error


def _one_channel(path, page):
    if page.ndim == 2:
        return np.ascontiguousarray(page)
    red, green, blue = np.moveaxis(page, -1, 0)
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise ImageError(path, "its three colour channels differ; rock images are grey."
                               " Save the channel that holds the scan as a grey image")
    return np.ascontiguousarray(red)


# PNG

_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


def _png_info(path):
    with open(path, "rb") as file:
        head = file.read(33)
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR" or len(head) < 33:
        raise ImageError(path, "is not a PNG file, or its header is cut short")
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
    depth, colour = head[24], head[25]
    if colour not in (0, 2):
        raise ImageError(path, f"is a PNG of type {_PNG_COLOURS.get(colour, colour)};"
                               " save it as grey (or RGB with equal channels), without palette or alpha")
    if depth not in (8, 16):
        raise ImageError(path, f"has {depth} bit per pixel; save it as 8 or 16 bit grey")
    if height * width <= MAX_PIXELS:
        with Image.open(path) as image:
            if "transparency" in image.info:
                raise ImageError(path, "has a transparent colour; save it without transparency")
            tags = {"dpi": image.info["dpi"]} if "dpi" in image.info else {}
    else:
        tags = {}  # read_info refuses it by its size
    return ImageInfo(path, 1, height, width, np.dtype(f"uint{depth}"), tags=tags)


def _png_pages(info):
    # Not Pillow: it cuts 16-bit RGB down to 8 bit without a word.
    yield imagecodecs.png_decode(info.path.read_bytes())


# TIFF

_GREY_PHOTOMETRICS = ("MINISBLACK", "RGB")
_MICROMETRES = {"micron": 1.0, "microns": 1.0, "um": 1.0, "\u00b5m": 1.0, "\\u00B5m": 1.0, "mm": 1e3, "nm": 1e-3}


class _Errors(logging.Handler):
    def __init__(self):
        super().__init__(logging.ERROR)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def _open_tiff(path):
    """Open a TIFF and refuse it where tifffile only logs: a cut file otherwise looks like a shorter one."""
    logger, errors = logging.getLogger("tifffile"), _Errors()
    logger.addHandler(errors)
    propagate, logger.propagate = logger.propagate, False
    try:
        with tifffile.TiffFile(path) as tiff:
            len(tiff.pages), tiff.series  # walk the chain of pages now
            _refuse(path, errors)
            yield tiff
            _refuse(path, errors)
    finally:
        logger.removeHandler(errors)
        logger.propagate = propagate


def _refuse(path, errors):
    if errors.messages:
        raise ImageError(path, f"is damaged or cut short: {errors.messages[0]}")


def _tiff_info(path):
    with _open_tiff(path) as tiff:
        first = tiff.pages[0]
        for number, page in enumerate(tiff.pages):
            _check_tiff_page(path, number, page, first)
        pages = _imagej_stack(tiff) or len(tiff.pages)
        height, width = first.imagelength, first.imagewidth
        dtype = np.dtype(first.dtype).newbyteorder("=")
        return ImageInfo(path, pages, height, width, dtype, _voxel_size_um(first), _carried_tags(first))


def _check_tiff_page(path, number, page, first):
    photometric = getattr(page.photometric, "name", str(page.photometric))
    if photometric not in _GREY_PHOTOMETRICS:
        raise ImageError(path, f"page {number} is stored as {photometric}; save it as grey with black at 0 (MINISBLACK)")
    if page.extrasamples or page.samplesperpixel not in (1, 3):
        raise ImageError(path, f"page {number} has {page.samplesperpixel} channels; save it as grey without alpha")
    if page.imagedepth != 1:
        raise ImageError(path, f"page {number} is a tiled volume; save the volume as one page per slice")
    if (page.imagelength, page.imagewidth, page.dtype) != (first.imagelength, first.imagewidth, first.dtype):
        raise ImageError(path, f"page {number} is {page.imagelength}x{page.imagewidth} {page.dtype}, page 0 is"
                               f" {first.imagelength}x{first.imagewidth} {first.dtype}; all slices must be alike")


def _imagej_stack(tiff):
    """Return the slices of an ImageJ stack above 4 GB, whose pages after the first have no header, else None."""
    slices = int((tiff.imagej_metadata or {}).get("images", 1))
    return slices if slices > len(tiff.pages) == 1 else None


def _tiff_pages(info):
    with _open_tiff(info.path) as tiff:
        if _imagej_stack(tiff):
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


def _voxel_size_um(page):
    """Return the pixel size where ImageJ recorded it with a physical unit; plain dpi values are rarely true."""
    match = re.search(r"^unit=(\S+)", str(page.description), re.MULTILINE)
    resolution = page.tags.get("XResolution")
    if not match or match[1] not in _MICROMETRES or not resolution or not resolution.value[0]:
        return None
    pixels, units = resolution.value
    return units / pixels * _MICROMETRES[match[1]]


def _carried_tags(page):
    tags = {}
    if "XResolution" in page.tags and "YResolution" in page.tags:
        tags["resolution"] = (page.tags["XResolution"].value, page.tags["YResolution"].value)
        unit = page.tags.get("ResolutionUnit")
        tags["resolutionunit"] = int(unit.value) if unit else None
    if page.description and not page.description.startswith("{"):  # tifffile's own record of the old shape
        tags["description"] = page.description
    if "Orientation" in page.tags:
        tags["orientation"] = int(page.tags["Orientation"].value)
    return tags


# NPY

def _npy_info(path):
    volume = np.load(path, mmap_mode="r", allow_pickle=False)
    if volume.ndim not in (2, 3):
        raise ImageError(path, f"has shape {volume.shape}; use [H, W] for a slice or [slices, H, W] for a volume")
    pages, height, width = (1, *volume.shape)[-3:]
    return ImageInfo(path, pages, height, width, volume.dtype.newbyteorder("="))


def _npy_pages(info):
    volume = np.load(info.path, mmap_mode="r", allow_pickle=False)
    for page in volume.reshape(-1, info.height, info.width) if volume.ndim == 2 else volume:
        yield np.array(page, info.dtype)


# suffix in lower case -> (header reader, page reader)
READERS = {
    ".png": (_png_info, _png_pages),
    ".tif": (_tiff_info, _tiff_pages),
    ".tiff": (_tiff_info, _tiff_pages),
    ".npy": (_npy_info, _npy_pages),
}


# Writing

def write_pages(path, pages, count, tags=None):
    """Write `count` pages, each [H, W] uint8 or uint16 of one shape, one in memory at a time.

    The suffix chooses the format; PNG takes one page. The file appears under its name only when it is complete.
    tags: "resolution", "resolutionunit", "description", "orientation" for TIFF and "dpi" for PNG, as `read_info`
    gives them.
    """
    path = Path(path)
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ImageError(path, f"format {path.suffix!r} is not written; use one of {', '.join(WRITERS)}")
    if writer is _write_png and count != 1:
        raise ImageError(path, f"PNG holds one page, not {count}; write .tif or .npy")
    with written_whole(path) as unfinished:
        writer(unfinished, pages, count, tags or {})


def _write_png(path, pages, count, tags):
    data = io.BytesIO()
    Image.fromarray(next(iter(pages))).save(data, "png", **{k: v for k, v in tags.items() if k == "dpi"})
    path.write_bytes(data.getvalue())


def _write_tiff(path, pages, count, tags):
    pages = iter(pages)
    first = next(pages)
    options = {k: v for k, v in tags.items() if k in ("resolution", "resolutionunit") and v is not None}
    if "resolution" in options:
        options["resolution"] = tuple(pixels / units for pixels, units in options["resolution"])
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
