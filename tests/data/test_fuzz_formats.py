"""Mutated headers of every format: each is read within the bounds of its file, or refused by name."""

import random
import signal
import tracemalloc

import numpy as np
import pytest
from library_samples import WRITERS as LIBRARY_WRITERS
from volume_samples import WRITERS as RAW_WRITERS

from srgan_dist.data.image_files import read_header
from srgan_dist.data.volume import VOXEL_DTYPES
from srgan_dist.utils.errors import UserError

WRITERS = RAW_WRITERS | LIBRARY_WRITERS
EXPANSION = 1032  # bytes of voxels per byte of file: what Deflate can reach
MEMORY = 2**23  # of a reader on top of the voxels
SECONDS = 60  # after which a reader is said to hang


def mutated(header, source):
    """Return a header with one to three bytes or runs flipped, deleted, doubled, or replaced by digits."""
    data = bytearray(header)
    for _ in range(source.choice((1, 1, 2, 3))):
        at, length = source.randrange(len(data) + 1), source.choice((1, 1, 2, 4, 9, 30))
        match source.randrange(6):
            case 0:
                data[at : at + 1] = bytes([source.randrange(256)])
            case 1:
                data[at : at + 1] = bytes(value ^ 1 << source.randrange(8) for value in data[at : at + 1])
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at:at] = b"%d" % source.choice((0, 1, 9, 10**9, 2**31, 2**63, 10**20))
            case 5:
                data[at : at + 4] = source.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"-1")
                )
    return bytes(data) if source.random() < 0.95 else bytes(data[: source.randrange(len(data) + 1)])


def check_read_or_refused(path, header, size):
    """Return whether a file is read; it has to be so within the memory that its bytes justify."""
    tracemalloc.reset_peak()
    try:
        volume = read_header(path)
        voxels = np.prod(volume.shape, dtype=object)
        assert min(volume.shape) >= 1 and volume.dtype in VOXEL_DTYPES
        assert voxels * volume.dtype.itemsize <= EXPANSION * size
        block = volume.read((0, 0, 0), volume.shape)
        assert block.shape == volume.shape and block.dtype == volume.dtype
        if volume.voxel_sizes_um:
            assert all(size is None or 0 < size < np.inf for size in volume.voxel_sizes_um)
        return True
    except UserError as error:
        assert str(path) in str(error) or str(header) in str(error)
        assert not isinstance(error.__cause__, MemoryError)  # of the fixture `little_memory`
        return False
    finally:
        assert tracemalloc.get_traced_memory()[1] < MEMORY + 4 * EXPANSION * size


def fuzz(folder, name, count):
    """Return how many of `count` mutations of a format are read."""
    path, header, length = WRITERS[name](folder)
    original = header.read_bytes()
    others = sum(file.stat().st_size for file in folder.iterdir()) - len(original)
    assert check_read_or_refused(path, header, others + len(original))
    source, read = random.Random(name), 0
    for number in range(count):
        data = mutated(original[:length], source) + original[length:]
        header.write_bytes(data)
        signal.alarm(SECONDS)
        try:
            read += check_read_or_refused(path, header, others + len(data))
        except BaseException:
            print(f"mutation {number} of {name}: {data!r}")
            raise
        finally:
            signal.alarm(0)
    return read


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("name", WRITERS)
def test_a_mutated_header_is_read_within_bounds_or_refused_by_name(tmp_path, little_memory, traced, name):
    assert fuzz(tmp_path, name, 150) < 150


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_more_mutated_headers_are_read_within_bounds_or_refused_by_name(tmp_path, little_memory, name):
    assert fuzz(tmp_path, name, 2_000) < 2_000


@pytest.mark.nightly
@pytest.mark.parametrize("name", WRITERS)
def test_many_mutated_headers_are_read_within_bounds_or_refused_by_name(tmp_path, little_memory, name):
    assert fuzz(tmp_path, name, 100_000) < 100_000
