"""MetaImage, the format of ITK: a text header, .mhd, with its data file, or both in one, .mha."""

import re

from srgan_dist.data.formats.header import assignments, beside, byte_order, sizes_um, start_of, text_of
from srgan_dist.data.formats.raw import deflated_volume, raw_volume
from srgan_dist.data.volume import ImageError

MILLIMETRE_UM = 1e3  # ITK's unit of length, by convention

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_FLAGS = {"True": True, "False": False, "1": True, "0": False}


def open_metaimage(path):
    """Read the header of a MetaImage; raises ImageError for all but one channel of binary voxels.

    Sizes are in millimetres. Sizes of 1 along all axes are what programs write that do not know them.
    """
    header, offset = _header(path)
    (ndim,) = header.integers("NDims", (1,))
    if ndim not in (2, 3):
        raise header.fault("NDims", "is not 2 or 3; save one volume of grey levels")
    shape = header.shape("DimSize", (ndim,))
    if not header.choice("BinaryData", _FLAGS, "True"):
        raise ImageError(path, "its voxels are text (BinaryData = False); save it with binary data")
    if header.integers("ElementNumberOfChannels", (1,), "1") != (1,):
        raise header.fault("ElementNumberOfChannels", "is not 1; save one grey channel")
    order = "ElementByteOrderMSB" if "ElementByteOrderMSB" in header else "BinaryDataByteOrderMSB"
    stored = byte_order(header.choice("ElementType", TYPES), header.choice(order, _FLAGS, "False"))
    name = header.text("ElementDataFile")
    file = path if name.upper() == "LOCAL" else _data_file(header, name)
    (skipped,) = header.integers("HeaderSize", (1,), "0")
    compressed = header.choice("CompressedData", _FLAGS, "False")
    if skipped < -1 or compressed and skipped == -1:
        raise header.fault("HeaderSize", "is not read; give the bytes before the voxels")
    if file is path and skipped == 0:
        skipped = offset
    read = deflated_volume if compressed else raw_volume
    return read(path, file, shape, stored, skipped, _voxel_sizes_um(header, ndim))


def data_file(path):
    """Return the file that a .mhd names, None for a .mha."""
    name = _header(path)[0].text("ElementDataFile")
    return None if name.upper() == "LOCAL" else path.parent / name


def _header(path):
    """Return the fields, and the offset behind the last one, which is ElementDataFile."""
    data = start_of(path)
    last = re.search(rb"^[ \t]*ElementDataFile[ \t]*=[^\n]*(\n|\Z)", data, re.MULTILINE | re.IGNORECASE)
    if last is None:
        raise ImageError(path, "has no header of a MetaImage, which ends in ElementDataFile = ...")
    return assignments(path, text_of(data[: last.end()]).splitlines()), last.end()


def _data_file(header, name):
    if name.upper().startswith("LIST") or "%" in name:
        raise header.fault("ElementDataFile", "is a series of files; save the volume as one data file")
    return beside(header.path, name)


def _voxel_sizes_um(header, ndim):
    name = "ElementSpacing" if "ElementSpacing" in header else "ElementSize"
    sizes = header.numbers(name, (ndim,))
    if sizes is None or set(sizes) == {1}:
        return None
    return sizes_um((None, *sizes[::-1])[-3:], MILLIMETRE_UM)
