"""NRRD, https://teem.sourceforge.net/nrrd/format.html: voxels behind a text header, .nrrd, or in a file that
the header names, .nhdr.
"""

import math
import re

from srgan_dist.data.formats.header import (
    Header,
    assignments,
    beside,
    byte_order,
    micrometres,
    sizes_um,
    start_of,
    text_of,
)
from srgan_dist.data.formats.raw import deflated_volume, raw_volume
from srgan_dist.data.volume import ImageError

_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    "float": "f4",
    "double": "f8",
}
_ENCODINGS = {"raw": False, "gzip": True, "gz": True}  # compressed?
_ENDIAN = {"little": False, "big": True}
_AXES = {"domain", "space", "???", "none"}  # kinds of axes that are directions in space
_PATIENT = re.compile(
    r"(right|left)-(anterior|posterior)-superior|[rl][ap]s"
)  # spaces of ITK, in millimetres


def open_nrrd(path):
    """Read the header of an NRRD file; raises ImageError for all but raw or gzip voxels of one channel.

    Compressed ones have no block reads: each opening decompresses all of them into memory. The voxel size is
    None unless units are given, or the space is one of a patient, which programs measure in millimetres.
    """
    header, offset = _header(path)
    (ndim,) = header.integers("dimension", (1,))
    if ndim not in (2, 3):
        raise header.fault("dimension", "is not 2 or 3; save one volume of grey levels")
    shape = header.shape("sizes", (ndim,))
    if not set(header.text("kinds", "none").lower().split()) <= _AXES:
        raise header.fault("kinds", "are not all directions in space; save one volume of grey levels")
    compressed = header.choice("encoding", _ENCODINGS)
    kind = header.choice("type", _TYPES)
    stored = byte_order(kind, header.choice("endian", _ENDIAN, "little" if kind in ("u1", "i1") else None))
    (skipped,) = header.integers("byte skip", (1,), "0")
    if header.integers("line skip", (1,), "0") != (0,):
        raise header.fault("line skip", "is not read; use byte skip")
    if skipped < -1 or compressed and skipped:
        raise header.fault("byte skip", f"is not read for {header.text('encoding')} voxels")
    file, begin = _data(header, path, offset)
    sizes = _voxel_sizes_um(header, ndim)
    if compressed:
        return deflated_volume(path, file, shape, stored, begin, sizes)
    return raw_volume(path, file, shape, stored, -1 if skipped == -1 else begin + skipped, sizes)


def data_file(path):
    """Return the file that a header names, None where the voxels are behind it."""
    header = _header(path)[0]
    return path.parent / header.text("data file") if "data file" in header else None


def _header(path):
    """Return the fields, with one spelling of each, and the offset of what follows the header."""
    data = start_of(path)
    if not re.match(rb"NRRD000[1-5]\r?\n", data):
        raise ImageError(path, f"is not an NRRD file (it begins with {data[:8]!r}); copy or export it again")
    end = re.search(rb"\n\r?\n", data)
    lines = text_of(data[: end.start()] if end else data).splitlines()[1:]
    fields = assignments(path, (line for line in lines if line[:1] != "#" and ":=" not in line), ":").fields
    for name, other in (("data file", "datafile"), ("byte skip", "byteskip"), ("line skip", "lineskip")):
        if other in fields:
            fields[name] = fields.pop(other)
    if not end and "data file" not in fields:
        raise ImageError(path, "is cut short within its header; copy or export it again")
    return Header(path, fields), end.end() if end else 0


def _data(header, path, offset):
    """Return the file of the voxels and the byte at which they begin."""
    if "data file" not in header:
        return path, offset
    name = header.text("data file")
    if name.upper().startswith("LIST") or "%" in name:
        raise header.fault("data file", "is a series of files; save the volume as one data file")
    return beside(path, name), 0


def _voxel_sizes_um(header, ndim):
    if "space directions" in header:
        vectors = re.findall(r"\(([^()]*)\)", header.text("space directions"))
        try:
            sizes = [math.hypot(*map(float, vector.split(","))) for vector in vectors]
        except ValueError:
            raise header.fault("space directions", "has to be one vector per axis") from None
        if len(sizes) != ndim:
            raise header.fault("space directions", f"has to be {ndim} vectors")
        patient = _PATIENT.fullmatch(header.text("space", "").lower())
        unit = _unit(header, "space units", 1e3 if patient and set(sizes) != {1.0} else None)
    else:
        sizes = header.numbers("spacings", (ndim,))
        unit = _unit(header, "units", None)
    return sizes and sizes_um((None, *sizes[::-1])[-3:], unit)


def _unit(header, name, default):
    """Return the micrometres of the unit of all axes, None where they have several."""
    units = {micrometres(unit) for unit in re.findall(r'"([^"]*)"', header.text(name, ""))}
    return units.pop() if len(units) == 1 else default if not units else None
