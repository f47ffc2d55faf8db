"""Raw voxels with and without a header: nothing is guessed, and blocks touch only their own bytes."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from volume_samples import BIG, LITTLE, VOXELS

from srgan_dist.data.formats.bare_raw import RawOptions
from srgan_dist.data.image_files import find_images, read_header, read_info
from srgan_dist.data.volume import ImageError
from srgan_dist.utils.errors import UserError

BYTES = VOXELS.astype(np.uint8)


def all_of(path, raw=None):
    volume = read_header(path, raw)
    return volume.read((0, 0, 0), volume.shape)


@pytest.mark.parametrize(
    "name, data, voxels",
    [
        ("rock_5x4x3_uint16_le.raw", LITTLE, VOXELS),
        ("rock_5x4x3_uint16_be.raw", BIG, VOXELS),
        ("Rock-5X4X3_16bit_Little-Endian.RAW", LITTLE, VOXELS),
        ("rock.5x4x3.16-bit.big.vol", BIG, VOXELS),
        ("rock_5x4x3_8bit.raw", BYTES.tobytes(), BYTES),
        ("rock_5x4x3_uint8.vol", BYTES.tobytes(), BYTES),
        ("rock_5x4x3_int16_le.raw", LITTLE, VOXELS.view(np.int16)),
        ("rock_5x4x3_float32_be.raw", VOXELS.astype(">f4").tobytes(), VOXELS.astype(np.float32)),
        (
            "sample2_scan3_le_rock_5x4x3_float64.raw",
            VOXELS.astype("<f8").tobytes(),
            VOXELS.astype(np.float64),
        ),
    ],
)
def test_a_name_says_width_height_depth_type_and_byte_order(tmp_path, name, data, voxels):
    (tmp_path / name).write_bytes(data)
    assert np.array_equal(all_of(tmp_path / name), voxels)
    assert read_header(tmp_path / name).dtype == voxels.dtype
    assert read_header(tmp_path / name).voxel_sizes_um is None


def test_options_say_what_a_name_does_not(tmp_path):
    (tmp_path / "rock.raw").write_bytes(b"head" + BIG)
    options = RawOptions(shape=(3, 4, 5), dtype="uint16", byte_order="big", offset=4)
    assert np.array_equal(all_of(tmp_path / "rock.raw", options), VOXELS)
    (tmp_path / "rock_5x4x3_16bit.raw").write_bytes(BIG)
    assert np.array_equal(all_of(tmp_path / "rock_5x4x3_16bit.raw", RawOptions(byte_order="big")), VOXELS)
    with pytest.raises(ImageError, match="rock.raw: rock.raw has 124 bytes, .* end at byte 120"):
        read_info(tmp_path / "rock.raw", RawOptions((3, 4, 5), "uint16", "big"))


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "rock.raw",
            "neither its name nor an option says the shape. Rename it to e.g. rock_WIDTHxHEIGHTxDEPTH",
        ),
        ("rock_5x4x3.raw", "says the type .*with 120 bytes its 3x4x5 voxels can be uint16, int16"),
        ("rock_5x4x2.raw", "with 120 bytes its 2x4x5 voxels can be of no type that is read"),
        ("rock_5x4x3_32bit.raw", "says the type of its voxels"),
        ("rock_5x4x3_16bit.raw", "says the byte order of its uint16 voxels"),
        ("rock_5x4x3_uint16_le_be.raw", "says the byte order"),
        ("rock_5x4x3_3x4x5_uint16_le.raw", "says the shape"),
        ("rock_5x4x3_uint16_le_8bit.raw", "says the type"),
        (
            "rock_5x4x4_uint16_le.raw",
            "is cut short: its 4x4x5 voxels of uint16 need 160 bytes, the file has 120",
        ),
        ("rock_5x4x3_uint8.raw", "has 120 bytes, its 3x4x5 voxels of uint8 end at byte 60"),
        ("rock_0x4x3_uint8.raw", "0 voxels|is empty|end at byte 0"),
    ],
)
def test_what_a_name_leaves_open_is_asked_and_never_guessed(tmp_path, name, words):
    (tmp_path / name).write_bytes(LITTLE)
    with pytest.raises(ImageError, match=f"{name}: .*{words}"):
        read_info(tmp_path / name)


def test_a_header_beside_raw_voxels_is_pointed_to(tmp_path):
    (tmp_path / "a.vol").write_bytes(LITTLE)
    (tmp_path / "a.vol.info").write_text("NUM_X = 5\n")
    with pytest.raises(
        ImageError, match="a.vol: .*. a.vol.info beside it may describe it: read that instead"
    ):
        read_info(tmp_path / "a.vol")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"shape": (3, 4)}, r"raw: shape=\(3, 4\) has to be three positive numbers"),
        ({"shape": (3, 4, 0)}, "three positive numbers"),
        ({"dtype": "uint64"}, "raw: dtype=uint64 is not read; give one of uint8, int8"),
        ({"byte_order": "middle"}, "raw: byte_order=middle has to be little or big"),
        ({"offset": -1}, "raw: offset=-1"),
    ],
)
def test_impossible_options_are_named(options, words):
    with pytest.raises(UserError, match=words):
        RawOptions(**options)


def test_raw_voxels_without_a_header_are_images_of_a_folder(tmp_path):
    (tmp_path / "a_5x4x3_uint8.raw").write_bytes(BYTES.tobytes())
    (tmp_path / "b.mhd").write_text("ElementDataFile = b.raw\n")
    (tmp_path / "b.raw").touch()
    images, others = find_images(tmp_path)
    assert [path.name for path in images] == ["a_5x4x3_uint8.raw", "b.mhd"] and others == []


def test_pages_beyond_any_detector_are_refused(tmp_path):
    with open(tmp_path / "a_70000x70000x1_uint8.raw", "wb") as file:
        file.truncate(70_000**2)
    with pytest.raises(ImageError, match="claims 70000x70000 pixels, more than the limit of 1073741824"):
        read_info(tmp_path / "a_70000x70000x1_uint8.raw")


PROGRAM = """
import re, sys
from pathlib import Path
from srgan_dist.data.image_files import read_info

def peak():
    # Not ru_maxrss, which begins with that of the parent.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

before, volume = peak(), read_info(sys.argv[1])
assert volume.shape == (2000, 2000, 2000)
for corner in ((0, 0, 0), (936, 936, 936), (1872, 1872, 1872)):
    block = volume.read(corner, (128, 128, 128))
    assert block.shape == (128, 128, 128)
print(block.max(), peak() - before)
"""


def test_blocks_of_8_gigabytes_take_little_memory(tmp_path):
    with open(tmp_path / "a.raw", "wb") as file:
        file.truncate(2000**3)
        file.seek(-1, 2)
        file.write(b"\7")
    (tmp_path / "a.mhd").write_text(
        "NDims = 3\nDimSize = 2000 2000 2000\nElementType = MET_UCHAR\nElementDataFile = a.raw\n"
    )
    command = [sys.executable, "-c", PROGRAM, tmp_path / "a.mhd"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    last, growth = map(int, done.stdout.split())
    assert last == 7 and growth < 300  # MiB
