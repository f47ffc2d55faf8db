"""LZW of TIFFs: what imagecodecs would follow into memory that it has not written is refused."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from image_samples import save
from PIL import Image

from srgan_dist.data.formats.lzw import is_sound_lzw
from srgan_dist.data.image_files import read_image
from srgan_dist.data.volume import ImageError

CLEAR, END = 256, 257


def packed(codes, order="big"):
    """Pack codes of 9 bits, with the first bit of a byte first or last."""
    bits = "".join(f"{code:09b}"[:: 1 if order == "big" else -1] for code in codes)
    values = np.array([int(bit) for bit in bits], np.uint8)
    return np.packbits(values, bitorder=order).tobytes()


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize(
    "codes, sound",
    [
        ([CLEAR, 65, 258, END], True),
        ([CLEAR, END], True),
        ([CLEAR, CLEAR, 255, END], True),
        ([CLEAR, 258, END], False),
        ([CLEAR, 65, 258, CLEAR, 300, END], False),
        ([CLEAR, 65, CLEAR, CLEAR, 511], False),
        ([CLEAR, 65, END, CLEAR, 300], True),  # nobody reads on
    ],
)
def test_the_first_code_behind_a_clear_is_a_byte(order, codes, sound):
    assert is_sound_lzw(packed(codes, order)) is sound


@pytest.mark.parametrize("levels", [1, 2, 7, 256])
@pytest.mark.parametrize("size", [1, 700, 9_000, 200_000])
def test_data_of_the_encoder_are_sound_up_to_a_clear_that_is_damaged(levels, size):
    """Through all widths of codes: a damaged code behind any CLEAR is found where the encoder has put it."""
    data = imagecodecs.lzw_encode(np.random.default_rng(0).integers(0, levels, size, np.uint8).tobytes())
    assert is_sound_lzw(data)
    assert is_sound_lzw(data + packed([CLEAR, 300]))  # behind the end
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    clears = clear_positions(bits)
    assert len(clears) > (1 if levels == 256 and size > 5_000 else 0)
    for at in clears:
        damaged = bits.copy()
        damaged[at : at + 9] = 1
        assert not is_sound_lzw(np.packbits(damaged).tobytes())


def clear_positions(bits):
    """Return the bit behind every CLEAR, code by code as the TIFF specification has it."""
    at, width, entries, found = 0, 9, 258, []
    while at + width <= len(bits):
        code = int("".join(map(str, bits[at : at + width])), 2)
        at += width
        if code == END:
            break
        if code == CLEAR:
            found.append(at)
            width, entries = 9, 257
        else:
            entries += 1
            width = 9 + (entries >= 511) + (entries >= 1023) + (entries >= 2047)
    return found


@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("codes, sound", [([CLEAR] + [9] * 16 + [END], True), ([CLEAR, 300, 301], False)])
def test_a_page_whose_codes_lead_out_of_the_table_is_refused(tmp_path, fill_order, codes, sound):
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    path = save(tmp_path / "a.tif", pixels, compression="lzw", extratags=[(65000, "H", 1, fill_order)])
    with tifffile.TiffFile(path) as tiff:
        offset, length = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
        tag = tiff.pages[0].tags[65000].offset
    data = bytearray(path.read_bytes())
    data[tag : tag + 2] = (266).to_bytes(2, "little")  # FillOrder, which tifffile does not write
    new = packed(codes).ljust(length, b"\0")
    data[offset : offset + length] = imagecodecs.bitorder_encode(new) if fill_order == 2 else new
    path.write_bytes(data)
    if sound:
        assert (read_image(path) == 9).all()
    else:
        with pytest.raises(ImageError, match=r"page 0 is damaged \(LZW\); copy or export it again"):
            read_image(path)


def test_a_page_that_libtiff_wrote_is_read(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (300, 200), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert np.array_equal(read_image(tmp_path / "a.tif"), pixels)
