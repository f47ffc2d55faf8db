"""NPY files: what their headers say, and what is refused."""

import gc
import io
import itertools
import pickle
import threading
import time

import numpy as np
import pytest
from image_samples import GREY8, VOLUME, save

from srgan_dist.data.formats.npy import read_npy_header
from srgan_dist.data.image_files import read_info, read_pages
from srgan_dist.data.volume import ImageError


@pytest.mark.parametrize("channels", [3, 4])
def test_npy_with_a_last_axis_of_channels_is_refused(tmp_path, channels):
    path = save(tmp_path / "colour.npy", np.stack([GREY8] * channels, -1))
    with pytest.raises(
        ImageError, match=rf"colour.npy: has shape \(40, 52, {channels}\).*save a slice as \[H, W\]"
    ):
        read_info(path)


def test_an_npy_file_of_two_arrays_is_refused(tmp_path):
    with open(tmp_path / "two.npy", "wb") as file:
        np.save(file, GREY8)
        np.save(file, GREY8)
    with pytest.raises(ImageError, match="two.npy: holds more than one array"):
        read_info(tmp_path / "two.npy")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_headers_say_what_numpy_has_written(version):
    shapes, dtypes = [(), (0,), (7,), (2, 3), (4, 2, 3)], ["|u1", "<u2", ">u2", "|i1", ">f4", "<f8", "|b1"]
    for shape, dtype, order in itertools.product(shapes, dtypes, "CF"):
        file, array = io.BytesIO(), np.zeros(shape, dtype, order)
        np.lib.format.write_array(file, array, version)
        end = file.tell()
        file.seek(0)
        header = read_npy_header(file)
        assert (header.shape, header.dtype) == (shape, array.dtype)
        assert (header.fortran_order, header.offset) == (array.flags.fnc, end - array.nbytes)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': True, 'shape': (3,4,)}",  # NPZ.jl
        '{"shape":(3L, 4L),"descr":"<f8","fortran_order":True}',  # numpy of Python 2
        "{'descr': 'float64', 'fortran_order': True, 'shape': (3, 4)}",
        "{'descr': 'd', 'fortran_order': True, 'shape': (3, 4)}",
    ],
)
def test_npy_headers_of_other_writers_are_read(header):
    written = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
    assert read_npy_header(io.BytesIO(written)) == ((3, 4), np.float64, True, len(written))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<u2', 'fortran_order': False, 'shape': (3)}",
        "{'descr': '<u2\", 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (3 4)}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (-3,)}",
        "{'descr': '<u2', 'fortran_order': 'False', 'shape': (3,)}",
        "{'descr': '<u2' 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<u2', 'fortran_order': False}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (3,), 'more': True}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (\u0663,)}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (" + 9_900 * " " + "!}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (" + 3_000 * "1 ," + "!}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}",
        "[('descr', '<u2'), ('fortran_order', False), ('shape', (3,))]",
    ],
    ids=range(13),
)
def test_npy_headers_that_numpy_refuses_are_refused(tmp_path, header):
    path, length = tmp_path / "a.npy", len(header.encode())
    path.write_bytes(b"\x93NUMPY\3\0" + length.to_bytes(4, "little") + header.encode() + bytes(6))
    for read in (np.load, read_info):
        with pytest.raises(ValueError if read is np.load else ImageError):
            read(path)


@pytest.mark.parametrize("sizes", [b"0, 99999999999999999999", b"4611686018427387904, 4, 0"])
def test_a_shape_beyond_every_integer_is_refused(tmp_path, sizes):
    header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (" + sizes + b")}"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ImageError, match="a.npy: is cut short, damaged, or holds something other"):
        read_info(tmp_path / "a.npy")


def test_npy_files_are_read_by_several_threads_at_a_time(tmp_path):
    """Python 3.11.0 to 3.11.7 parses its own syntax wrongly when another thread does (cpython#106905)."""
    path, failed = save(tmp_path / "a.npy", GREY8), []

    def read():
        try:
            for _ in range(250):
                read_info(path)
        except ImageError as error:
            failed.append(error)

    def yield_to_others(*_):
        time.sleep(1e-5)

    thresholds, threads = gc.get_threshold(), [threading.Thread(target=read) for _ in range(4)]
    gc.callbacks.append(yield_to_others)
    gc.set_threshold(2)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(yield_to_others)
    assert not failed


def test_npy_volume_in_fortran_order(tmp_path):
    np.save(tmp_path / "volume.npy", np.asfortranarray(VOLUME))
    assert np.array_equal(np.stack(list(read_pages(tmp_path / "volume.npy"))), VOLUME)


def test_a_pickle_in_an_npy_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match="trap.npy"):
        read_info(tmp_path / "trap.npy")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps([1, 2]),
        b"1 2 3\n4 5 6\n",
        b"\x93NUMPY\1\0\x40\0{'descr': '|u1', 'fortran_order': False, 'shape': (40," + b" " * 13,
        b"\x93NUMPY\1\0\x76",
    ],
    ids=["pickle", "text", "broken header", "cut header"],
)
def test_what_is_no_npy_file_is_said_without_advice_to_load_it_unsafely(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(
        ImageError, match="a.npy: is (not an NPY file|cut short, damaged, or holds something other)"
    ) as error:
        read_info(tmp_path / "a.npy")
    assert not any(words in str(error.value) for words in ("unsafely", "pickle", "EOF"))
