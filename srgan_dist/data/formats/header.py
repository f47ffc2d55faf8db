"""Text headers: fields by name, and errors that name the file, the field and its value."""

import math
import re
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np

from srgan_dist.data.volume import ImageError
from srgan_dist.utils.files import open_regular

MAX_BYTES = 2**20  # of a text header: far more than any program writes

_MICROMETRES = {
    **dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("micrometers", "micrometres"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e6),
}


def micrometres(unit):
    """Return the micrometres of a unit of length, None for one that is unknown or none at all."""
    unit = str(unit).strip().strip('"')
    return _MICROMETRES.get(unit) or _MICROMETRES.get(unit.lower())


def sizes_um(sizes, unit=1.0):
    """Return voxel sizes (z, y, x) in micrometres: None for each that is not finite and positive, and for all
    where there is none.

    sizes: in the same order; unit: micrometres of the file's unit, None where it is unknown.
    """
    if unit is None or sizes is None:
        return None
    known = [size and math.isfinite(size * unit) and size * unit > 0 for size in sizes]
    return tuple(size * unit if good else None for size, good in zip(sizes, known)) if any(known) else None


def start_of(path):
    """Return the first bytes of a file, which hold its header."""
    with open_regular(path) as file:
        return file.read(MAX_BYTES)


def text_of(data):
    """Return the bytes of a header as text: UTF-8, or Latin-1 as older programs wrote."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return str(data, "latin-1")


def assignments(path, lines, separator="="):
    """Return the Header of lines `key = value`, keys in lower case; lines of another form are comments."""
    fields = {}
    for line in lines:
        key, found, value = (part.strip() for part in line.partition(separator))
        if not (found and key):
            continue
        if fields.setdefault(key.lower(), value) != value:
            raise ImageError(path, f"its header has {key} twice, {fields[key.lower()]!r} and {value!r}")
    return Header(path, fields)


class Header:
    """The fields of a text header by name in lower case; errors are ImageErrors that name the field."""

    def __init__(self, path, fields):
        self.path, self.fields = path, fields

    def __contains__(self, name):
        return name.lower() in self.fields

    def text(self, name, default=None):
        """Return the value of a field as text; without a default it has to be there."""
        value = self.fields.get(name.lower(), default)
        if value is None:
            raise ImageError(self.path, f"its header has no {name}; copy or export it again")
        return value

    def integers(self, name, counts, default=None):
        """Return integers, as many as one of `counts`."""
        words = self.text(name, default).split()
        if len(words) not in counts or not all(re.fullmatch(r"[+-]?[0-9]{1,18}", word) for word in words):
            raise self.fault(name, f"has to be {' or '.join(map(str, counts))} integers")
        return tuple(map(int, words))

    def shape(self, name, counts=(3,)):
        """Return (slices, height, width) of a field that counts voxels along x, y and, of volumes, z."""
        sizes = self.integers(name, counts)
        if min(sizes) < 1:
            raise self.fault(name, "has to be positive")
        return (1, *sizes[::-1])[-3:]

    def numbers(self, name, counts):
        """Return floats, as many as one of `counts`, None where there is no such field."""
        if name not in self:
            return None
        try:
            numbers = tuple(map(float, self.text(name).split()))
        except ValueError:
            numbers = ()
        if len(numbers) not in counts:
            raise self.fault(name, f"has to be {' or '.join(map(str, counts))} numbers")
        return numbers

    def choice(self, name, table, default=None):
        """Return what `table` has for the value of a field, in any case."""
        found = [content for key, content in table.items() if key.lower() == self.text(name, default).lower()]
        if not found:
            raise self.fault(name, f"is not read; only {', '.join(table)} are")
        return found[0]

    def fault(self, name, rule):
        return ImageError(self.path, f"its header has {name} {self.fields.get(name.lower())!r}, which {rule}")


def byte_order(dtype, big_endian):
    """Return a type as it is stored: big-endian, or little-endian."""
    return np.dtype(dtype).newbyteorder(">" if big_endian else "<")


def beside(header, name):
    """Return the path of the data file that a header names; raises ImageError unless it is in its folder.

    A header comes from outside, so it must not choose other files of this machine: no absolute path, no `..`,
    no link that leads out of the folder of the header.
    """
    parts, windows = PurePosixPath(name).parts, PureWindowsPath(name)
    bare = name and not (parts[0] == "/" or ".." in parts or "\\" in name or windows.drive)
    file = header.parent / name if bare else None
    if not (bare and file.resolve().is_relative_to(header.parent.resolve())):
        raise ImageError(
            header,
            f"names {name!r} as its data file, which is not inside of its own folder; put the file beside the"
            " header, and its bare name into the header",
        )
    if not file.is_file():
        problem = "is no regular file" if file.exists() else "does not exist"
        raise ImageError(
            header, f"names {name!r} as its data file, which {problem}; put it beside the header"
        )
    return file
