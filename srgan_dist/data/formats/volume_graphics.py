"""Headers beside .vol files: .vgi of Volume Graphics, and .vol.info of PyHST (ESRF) and its followers."""

import re

from srgan_dist.data.formats.header import (
    assignments,
    beside,
    byte_order,
    micrometres,
    sizes_um,
    start_of,
    text_of,
)
from srgan_dist.data.formats.raw import raw_volume
from srgan_dist.data.volume import ImageError

_VGI_TYPES = {"unsigned integer": "u", "signed integer": "i", "float": "f"}
_BITS = {"u": ("8", "16", "32"), "i": ("8", "16", "32"), "f": ("32", "64")}
_INFO_TYPES = {1: "u1", 2: "u2", 4: "f4"}  # PyHST writes float32, its converters 8 and 16 bits
_BYTE_ORDERS = {"LOWBYTEFIRST": False, "HIGHBYTEFIRST": True}


def open_vgi(path):
    """Read a .vgi header; the voxels are little-endian, in the one .vol file that it names."""
    sections = _sections(path)
    header = _data_section(path, sections)
    shape = header.shape("Size")
    if header.text("FileFormat", "raw").lower() != "raw":
        raise header.fault("FileFormat", "is not raw")
    for name, whole in (("RegionOfInterestStart", (0, 0, 0)), ("RegionOfInterestEnd", None)):
        whole = whole or tuple(size - 1 for size in shape[::-1])
        if name in header and header.integers(name, (3,)) != whole:
            raise header.fault(name, "cuts a part out; export the whole volume")
    kind = header.choice("Datatype", _VGI_TYPES)
    bits = header.choice("BitsPerElement", {bits: int(bits) for bits in _BITS[kind]})
    (skipped,) = header.integers("SkipHeader", (1,), "0")
    if skipped < 0:
        raise header.fault("SkipHeader", "has to be 0 or more")
    stored = byte_order(f"{kind}{bits // 8}", big_endian=False)
    file = beside(path, header.text("Name"))
    return raw_volume(path, file, shape, stored, skipped, _vgi_sizes_um(path, sections))


def vgi_data_file(path):
    """Return the file that a .vgi header names."""
    return path.parent / _data_section(path, _sections(path)).text("Name")


def _sections(path):
    """Return [(name, its lines)] of the sections [name] in order; {objects} hold sections."""
    parts = re.split(r"^[ \t]*\[([^\]\n]*)\][^\n]*$", text_of(start_of(path)), flags=re.MULTILINE)
    lines = [re.split(r"^[ \t]*\{", part, flags=re.MULTILINE)[0].splitlines() for part in parts[2::2]]
    return list(zip((name.strip().lower() for name in parts[1::2]), lines))


def _data_section(path, sections):
    found = [lines for name, lines in sections if re.fullmatch(r"file\d+", name)]
    if len(found) != 1:
        raise ImageError(path, f"describes {len(found)} data files ([file1], ...) where one is read")
    return assignments(path, found[0])


def _vgi_sizes_um(path, sections):
    first = dict(reversed(sections))
    geometry, scene = (assignments(path, first.get(name, ())) for name in ("geometry", "sceneinfo"))
    sizes = geometry.numbers("resolution", (3,))
    unit = micrometres(geometry.text("unit", scene.text("unit", "")))
    return sizes and sizes_um(sizes[::-1], unit)


def open_vol_info(path):
    """Read a .vol.info or .raw.info header: NUM_X, NUM_Y, NUM_Z, BYTEORDER, and voxelSize in micrometres.

    It does not say the type, which follows from the bytes per voxel: 1 uint8, 2 uint16, 4 float32.
    """
    lines = [line for line in text_of(start_of(path)).splitlines() if line[:1] not in ("!", "#")]
    header = assignments(path, lines)
    (depth,), (height,), (width,) = (header.integers(f"NUM_{axis}", (1,)) for axis in "ZYX")
    shape = (depth, height, width)
    if min(shape) < 1:
        raise ImageError(path, f"its header has NUM_Z, NUM_Y, NUM_X {shape}, which have to be positive")
    file = beside(path, info_data_file(path).name)
    bytes_per_voxel = file.stat().st_size / (depth * height * width)
    if bytes_per_voxel not in _INFO_TYPES:
        raise ImageError(
            path,
            f"{file.name} has {file.stat().st_size} bytes; {depth}x{height}x{width} voxels have 1 (uint8), 2"
            " (uint16) or 4 bytes (float32) each. It is cut short, or the header is not its own",
        )
    stored = byte_order(_INFO_TYPES[bytes_per_voxel], header.choice("BYTEORDER", _BYTE_ORDERS))
    (size,) = header.numbers("voxelSize", (1,)) or (None,)
    return raw_volume(path, file, shape, stored, voxel_sizes_um=sizes_um((size,) * 3))


def info_data_file(path):
    """Return the file that a .vol.info describes: the same name without `.info`."""
    return path.with_suffix("")
