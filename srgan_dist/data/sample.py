"""A sample: one HR/LR pair, and how it lies in a tar.

In the tar a sample is three consecutive members, KEY.hr.npy, KEY.json and KEY.lr.npy (or .png, see `encoding.py`), as any
WebDataset reader expects them.
"""

import io
import json
import re
import tarfile

import numpy as np

BLOCK = 512  # of a tar file
RECORD = 20 * BLOCK  # a tar file is padded to whole records

_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")


def key_problem(key):
    """Say what is wrong with a key, or None: it must survive as a file name in any tar and WebDataset reader."""
    if _KEY.fullmatch(key):
        return None
    return f"key {key!r} must be 1 to 90 of the characters A-Z a-z 0-9 _ -"


def npy_header(height, width, dtype):
    """Return the bytes before the pixels of an NPY file holding [height, width]."""
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": description, "fortran_order": False, "shape": (height, width)}
    )
    return buffer.getvalue()


def encode_record(record):
    """Return the JSON member of a sample as bytes, the same for the same content."""
    return json.dumps(record, sort_keys=True).encode() + b"\n"


def tar_header(name, size):
    """Return the 512 header bytes of a regular USTAR member, free of time, owner and host."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


def fields(encoding):
    """Name the members of a sample in the order of the tar."""
    return f"hr.{encoding}", "json", f"lr.{encoding}"


def padded(size, multiple):
    """Round `size` bytes up to a whole number of blocks."""
    return -(-size // multiple) * multiple
