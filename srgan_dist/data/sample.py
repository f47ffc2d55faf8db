"""A sample: one HR/LR pair, how it lies in a tar, and what its grey levels mean to a network.

In the tar a sample is three consecutive members, KEY.hr.npy, KEY.json and KEY.lr.npy, as any WebDataset reader
expects them. On the device an image is float in [-1, 1]; everywhere else it keeps its own uint8 or uint16.
"""

import io
import json
import re
import tarfile

import numpy as np
import torch

BLOCK = 512  # of a tar file
RECORD = 20 * BLOCK  # a tar file is padded to whole records
FIELDS = ("hr.npy", "json", "lr.npy")

_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")


def key_problem(key):
    """Say what is wrong with a key, or None: it must survive as a file name in any tar and WebDataset reader."""
    if _KEY.fullmatch(key):
        return None
    return f"key {key!r} must be 1 to 90 of the characters A-Z a-z 0-9 _ -"


# Bytes in the tar

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


def padded(size, multiple):
    """Round `size` bytes up to a whole number of blocks."""
    return -(-size // multiple) * multiple


# Values on the device

def to_signed(image):
    """Map grey levels to the networks' range: integers [...] uint8 or uint16 -> float32 in [-1, 1]."""
    peak = torch.iinfo(image.dtype).max
    if image.dtype == torch.uint16:  # a type with few kernels outside the CPU
        image = image.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)
    return image.float().mul_(2 / peak).sub_(1)


def to_unit(signed):
    """Map the networks' range to the metrics': float in [-1, 1] -> [0, 1], what lies outside clamped."""
    return signed.add(1).div(2).clamp(0, 1)


def to_grey(unit, dtype):
    """Map [0, 1] back to grey levels: float [H, W] -> numpy uint8 or uint16, rounded once."""
    peak = np.iinfo(dtype).max
    return np.floor(np.asarray(unit, np.float64) * peak + 0.5).clip(0, peak).astype(dtype)
