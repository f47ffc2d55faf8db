"""DICOM files: one slice or several frames each, and folders of the slices of one series.

Only uncompressed grey pixels are read, which are mapped into memory. Values that are to be rescaled are
returned rescaled, as float32.
"""

import contextlib
import io
import os
import warnings
from itertools import pairwise

import numpy as np

from srgan_dist.data.formats.header import sizes_um
from srgan_dist.data.formats.libraries import library, volume_shape
from srgan_dist.data.formats.raw import raw_volume
from srgan_dist.data.volume import ImageError, Slices, Volume, failures_named
from srgan_dist.utils.files import open_regular

SUFFIXES = (".dcm", ".dicom")

_UNCOMPRESSED = {  # transfer syntax -> (big-endian, types of values named in the file)
    "1.2.840.10008.1.2": (False, False),
    "1.2.840.10008.1.2.1": (False, True),
    "1.2.840.10008.1.2.2": (True, True),
}
_PIXEL_DATA = {False: b"\xe0\x7f\x10\0", True: b"\x7f\xe0\0\x10"}  # its tag, by byte order
_MILLIMETRE = 1000.0  # in micrometres


def open_dicom(path):
    """Read the header of a DICOM file: a Volume of its frames.

    Raises ImageError for compressed pixels, colours, inverted grey scales and pixels that are cut short.
    """
    return _read(path)[0]


def open_series(folder):
    """Read the headers of all DICOM files of a folder, the slices of one series: a Volume.

    Slices are ordered by ImagePositionPatient, else by InstanceNumber. Raises ImageError for slices of
    several series, unequal slices, and slices that are missing or twice.
    """
    slices = [(path, *_slice(path)) for path in series_files(folder)]
    first_path, first, first_header = slices[0]
    for path, volume, header in slices:
        for keyword in ("SeriesInstanceUID", "ImageOrientationPatient", "PixelSpacing"):
            if header.get(keyword) != first_header.get(keyword):
                raise ImageError(
                    path,
                    f"has another {keyword} than {first_path.name}; give each series a folder of its own",
                )
        if (volume.shape, volume.dtype) != (first.shape, first.dtype) or volume.slices != 1:
            own, others = (f"{'x'.join(map(str, v.shape))} {v.dtype}" for v in (volume, first))
            raise ImageError(
                path, f"is {own}, {first_path.name} is {others}; all slices of a series must be alike"
            )
    places = _places(folder, slices)
    order = sorted(range(len(slices)), key=places.__getitem__)
    step = _even_step(folder, [(places[i], slices[i][0].name) for i in order])
    positions = "ImagePositionPatient" in first_header
    sizes = sizes_um((step if positions else _number(first_header, "SpacingBetweenSlices"),), _MILLIMETRE)
    sizes = (*(sizes or (None,)), *(first.voxel_sizes_um or (None,) * 3)[1:])
    layout = tuple(slices[i][1] for i in order)
    return Volume(folder, (len(slices), *first.shape[1:]), first.dtype, _stacked, sizes, layout=layout)


def _slice(path):
    with failures_named(path):
        return _read(path)


def series_files(folder):
    """List the DICOM files of a folder, not hidden ones."""
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]


def _read(path):
    """Return the Volume of a file and its header."""
    pydicom = library("pydicom", path)
    with _BoundedReader(open_regular(path).detach()) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that are not read here; decoded when first used
        header = pydicom.dcmread(file, stop_before_pixels=True)
        syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
        if syntax not in _UNCOMPRESSED:
            name = header.file_meta.TransferSyntaxUID.name if syntax else "an unknown transfer syntax"
            raise ImageError(path, f"is stored as {name}; save it uncompressed (Explicit VR Little Endian)")
        big_endian, explicit = _UNCOMPRESSED[syntax]
        shape, stored = _pixels(path, header, big_endian)
        head = file.read(12 if explicit else 8)
        if not head.startswith(_PIXEL_DATA[big_endian]):
            raise ImageError(path, "has no pixels (PixelData); export it again")
        offset = file.tell()
        sizes = _sizes_um(header)
        slope, intercept = _number(header, "RescaleSlope", 1), _number(header, "RescaleIntercept", 0)
    spare = path.stat().st_size  # other elements may follow
    volume = raw_volume(path, path, shape, stored, offset, sizes, spare)
    if (slope, intercept) != (1, 0):
        layout = volume, slope, intercept
        volume = Volume(path, shape, np.dtype(np.float32), _rescaled, sizes, layout=layout)
    return volume, header


class _BoundedReader(io.BufferedReader):
    """A file whose reads never allocate more than it holds, whatever length a header claims."""

    def read(self, size=-1):
        return super().read(min(size, os.fstat(self.fileno()).st_size))


def _pixels(path, header, big_endian):
    """Return the shape and the stored type of the pixels."""
    if header.get("SamplesPerPixel", 1) != 1 or header.get("PhotometricInterpretation") != "MONOCHROME2":
        raise ImageError(
            path,
            f"is stored as {header.get('PhotometricInterpretation')} with {header.get('SamplesPerPixel')}"
            " values per pixel; save it as grey with black at 0 (MONOCHROME2)",
        )
    bits, used = _number(header, "BitsAllocated", 0), _number(header, "BitsStored", 0)
    if bits not in (8, 16, 32) or not 1 <= used <= bits or _number(header, "HighBit", 0) != used - 1:
        raise ImageError(
            path, f"has {used} of {bits} bits per pixel; save it with 8, 16 or 32, the lowest ones in use"
        )
    frames = header.get("NumberOfFrames") or 1
    shape = volume_shape(path, tuple(int(n) for n in (frames, header.Rows, header.Columns)), "its image")
    kind = "i" if header.PixelRepresentation else "u"
    return shape, np.dtype(f"{'>' if big_endian else '<'}{kind}{int(bits) // 8}")


def _sizes_um(header):
    spacing = header.get("PixelSpacing") or (None, None)
    return sizes_um(
        (_number(header, "SpacingBetweenSlices"), *(size and float(size) for size in spacing)), _MILLIMETRE
    )


def _number(header, keyword, default=None):
    value = header.get(keyword)
    return default if value is None or value == "" else float(value)


def _places(folder, slices):
    """Return where each slice of a series lies: millimetres along the normal of the slices, or numbers."""
    headers = [header for *_, header in slices]
    if all("ImagePositionPatient" in header for header in headers):
        x, y = np.reshape(headers[0].get("ImageOrientationPatient", (1, 0, 0, 0, 1, 0)), (2, 3)).astype(float)
        normal = np.cross(x, y)
        return [float(normal @ np.array(header.ImagePositionPatient, float)) for header in headers]
    if all("InstanceNumber" in header for header in headers):
        return [float(header.InstanceNumber) for header in headers]
    raise ImageError(
        folder,
        "its slices do not say where they lie (ImagePositionPatient or InstanceNumber); export it again",
    )


def _even_step(folder, places):
    """Return the distance of slices [(place, name)] in order; raises ImageError where it is not even."""
    steps = [after - before for (before, _), (after, _) in pairwise(places)]
    typical = float(np.median(steps)) if steps else None
    for step, (_, name), (_, following) in zip(steps, places, places[1:]):
        if not (typical > 0 and abs(step - typical) <= 0.01 * typical):
            raise ImageError(
                folder,
                f"slices are missing or there twice: {name} and {following} are {step:g} apart, others"
                f" {typical:g}; restore or remove slices",
            )
    return typical


@contextlib.contextmanager
def _stacked(volume):
    yield Slices(volume, lambda number: volume.layout[number].read((0, 0, 0), (1, *volume.shape[1:]))[0])


@contextlib.contextmanager
def _rescaled(volume):
    source, slope, intercept = volume.layout
    with source.opened(source) as voxels:
        yield _Rescaled(voxels, slope, intercept)


class _Rescaled:
    """Voxels that are rescaled as they are read; they slice like an array [slices, height, width]."""

    def __init__(self, voxels, slope, intercept):
        self.voxels, self.slope, self.intercept = voxels, slope, intercept

    def __getitem__(self, window):
        return self.slope * self.voxels[window] + self.intercept
