import imagecodecs
import numpy as np
import tifffile
from conftest import texture

GREY8 = texture(1, 40, 52)


GREY16 = texture(2, 40, 52, np.uint16)


VOLUME = np.stack([texture(i, 40, 52) for i in range(5)])


def save(path, pixels, **options):
    """Write pixels with the library that is usual for the suffix."""
    suffix = path.suffix.lower()
    if suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(pixels))
    elif suffix == ".npy":
        np.save(path, pixels)
    else:
        tifffile.imwrite(path, pixels, **options)
    return path


def set_tag(path, name, value, dtype=None, page=0):
    """Overwrite a tag of a TIFF with a value that its writer does not write."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[page].tags[name].overwrite(value, dtype=dtype)
    return path
