"""Avizo and Amira, .am: a uniform lattice of raw voxels behind a text header."""

import re

from srgan_dist.data.formats.header import Header, byte_order, micrometres, sizes_um, start_of, text_of
from srgan_dist.data.formats.raw import raw_volume
from srgan_dist.data.volume import ImageError

_TYPES = {
    "byte": "u1",
    "sbyte": "i1",
    "short": "i2",
    "ushort": "u2",
    "int32": "i4",
    "int": "i4",
    "float": "f4",
    "double": "f8",
}
_FIRST_LINE = re.compile(rb"# (?:AmiraMesh|Avizo)(?: 3D)? BINARY(-LITTLE-ENDIAN)?[ \t]")
_DATA = re.compile(rb"^@1\r?\n", re.MULTILINE)
_LATTICE = re.compile(
    r"^[ \t]*Lattice[ \t]*\{[ \t]*(\S+)[ \t]+\S+[ \t]*\}[ \t=]*@1(\([^)\n]*\))?[ \t\r]*$", re.MULTILINE
)


def open_avizo(path):
    """Read the header of an .am file; raises ImageError for all but one raw lattice of grey levels.

    Its bounding box is that of the centres of the voxels. Without Units the voxel size is unknown.
    """
    data = start_of(path)
    first, begin = _FIRST_LINE.match(data), _DATA.search(data)
    if first is None or begin is None:
        raise ImageError(
            path,
            "has no header of a binary Avizo file (# AmiraMesh BINARY-LITTLE-ENDIAN ... @1); save it as"
            " binary AmiraMesh",
        )
    text = text_of(data[: begin.start()])
    lattices = _LATTICE.findall(text)
    if len(lattices) != 1 or "@2" in text:
        raise ImageError(path, "does not hold exactly one lattice of voxels; save each as a file of its own")
    ((kind, encoding),) = lattices
    if encoding:
        raise ImageError(path, f"its voxels are stored as {encoding[1:-1]}, which is not read; save it raw")
    header = Header(path, _fields(text) | {"lattice": kind})
    shape = header.shape("define Lattice")
    stored = byte_order(header.choice("Lattice", _TYPES), big_endian=not first[1])
    # A line break usually follows the voxels.
    return raw_volume(path, path, shape, stored, begin.end(), _voxel_sizes_um(header, shape), spare=2)


def _fields(text):
    patterns = {
        "define lattice": r"^[ \t]*define[ \t]+Lattice[ \t]+([^\n]*)",
        "boundingbox": r"\bBoundingBox[ \t]+([^,\n]*)",
        "coordtype": r'\bCoordType[ \t]+"([^"\n]*)"',
        "coordinates": r'\bCoordinates[ \t]+"([^"\n]*)"',  # the unit
    }
    found = {name: re.search(pattern, text, re.MULTILINE) for name, pattern in patterns.items()}
    return {name: match[1].strip() for name, match in found.items() if match}


def _voxel_sizes_um(header, shape):
    if header.text("CoordType", "uniform") != "uniform":
        raise header.fault("CoordType", "is not uniform; resample the volume to a uniform grid")
    box = header.numbers("BoundingBox", (6,))
    if box is None:
        return None
    ends = zip(box[5::-2], box[4::-2], shape)  # z, y, x
    sizes = [(high - low) / (size - 1) if size > 1 else None for high, low, size in ends]
    return sizes_um(sizes, micrometres(header.text("Coordinates", "")))
