"""Windows of values that become grey levels."""

import pickle
import tracemalloc

import numpy as np
import pytest
from image_samples import GREY8, GREY16, VOLUME, save

from srgan_dist.data import window as module
from srgan_dist.data.image_files import read_header, read_info
from srgan_dist.data.volume import ImageError
from srgan_dist.data.window import Window, find_window, parse_window
from srgan_dist.utils.errors import UserError


def test_values_become_grey_levels_linearly_rounded_and_clipped():
    values = np.array([-9, -1, 0, 1, 3, 9], np.float32)
    assert Window(-1, 3).to_grey_levels(values, np.uint8).tolist() == [0, 0, 64, 128, 255, 255]
    assert Window(-1, 3).to_grey_levels(values, np.uint16).tolist() == [0, 0, 16384, 32768, 65535, 65535]
    assert Window(-1, 3).to_grey_levels(np.array([np.inf, -np.inf]), np.uint8).tolist() == [255, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_levels_become_the_values_again(dtype):
    grey = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    window = Window(-1000.25, 3000.5)
    assert np.array_equal(window.to_grey_levels(window.from_grey_levels(grey, np.float32), dtype), grey)
    ends = window.from_grey_levels(grey[[0, -1]], np.float64)
    assert ends.tolist() == [-1000.25, 3000.5]
    assert window.from_grey_levels(grey[[0, -1]], np.int16).tolist() == [-1000, 3000]
    assert Window(-9, 300).from_grey_levels(grey[[0, -1]], np.uint8).tolist() == [0, 255]


@pytest.mark.parametrize("name, dtype", [("a.npy", np.float32), ("a.tif", np.float32), ("a.npy", np.int16)])
def test_other_pixel_types_are_read_with_a_window_only(tmp_path, name, dtype):
    pixels = VOLUME.astype(dtype) * 2 - 100
    path = save(tmp_path / name, pixels)
    assert read_header(path).dtype == dtype
    assert np.array_equal(read_header(path).read((0, 0, 0), pixels.shape), pixels)
    with pytest.raises(ImageError, match=rf"{name}: pixels are .*--window LOW:HIGH, or --window auto"):
        read_info(path)
    volume = pickle.loads(pickle.dumps(read_info(path, window=Window(-100, 410))))
    assert volume.dtype == np.uint8
    assert np.array_equal(volume.read((1, 2, 3), (2, 20, 30)), VOLUME[1:3, 2:22, 3:33])
    assert np.array_equal(np.stack(list(volume.pages())), VOLUME)


def test_a_window_maps_grey_levels_too(tmp_path):
    path = save(tmp_path / "a.png", GREY16)
    volume = read_header(path).windowed(Window(0, 65535), np.uint8)
    assert np.array_equal(next(volume.pages()), np.rint(GREY16 / 257))


def test_nan_is_named_by_its_file(tmp_path):
    pixels = GREY8.astype(np.float32)
    pixels[3, 4] = np.nan
    volume = read_info(save(tmp_path / "nan.npy", pixels), window=Window(0, 255))
    assert np.array_equal(volume.read((0, 4, 0), (1, 9, 9))[0], GREY8[4:13, :9])
    with pytest.raises(ImageError, match="nan.npy: holds NaN"):
        next(volume.pages())
    with pytest.raises(UserError, match="nan.npy: holds NaN"):
        find_window([read_header(tmp_path / "nan.npy")])


@pytest.mark.parametrize("dtype", ["int64", "float16", "bool", "complex64"])
def test_types_that_no_window_reads_are_refused(tmp_path, dtype):
    path = save(tmp_path / "a.npy", GREY8.astype(dtype))
    with pytest.raises(ImageError, match=f"pixels are {dtype}; save them as one of uint8"):
        read_info(path, window=Window(0, 1))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("-1000:3000", Window(-1000, 3000)),
        ("0.5:1e4", Window(0.5, 1e4)),
        ("auto", 0.1),
        ("0.5", 0.5),
        ("1%", 1),
        ("0", 0),
    ],
)
def test_what_the_option_says(text, expected):
    assert parse_window(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "5:1", "1:1", "a:b", "1:", "nan:1", "0:inf", "-1e308:1e308", "0:1e-320", "50", "-1", "nan", "all"],
)
def test_windows_that_make_no_sense_are_refused(text):
    with pytest.raises(UserError, match="window=.* has to be LOW:HIGH"):
        parse_window(text)


def volumes(folder, parts, dtype=np.float32):
    return [read_header(save(folder / f"{i}.npy", part.astype(dtype))) for i, part in enumerate(parts)]


def test_the_window_of_a_set_is_of_all_its_volumes(tmp_path):
    ramp = np.arange(100_000, dtype=np.float32).reshape(10, 100, 100)
    window = find_window(volumes(tmp_path, [ramp[:2], ramp[2:5], ramp[5:]]))
    assert (window.low, window.high) == (pytest.approx(100, abs=1), pytest.approx(99_899, abs=1))
    assert find_window(volumes(tmp_path, [ramp]), 0) == Window(0, 99_999)


def test_of_large_sets_a_part_is_looked_at_the_same_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_READ", 20_000)
    monkeypatch.setattr(module, "_KEPT", 5_000)
    noise = np.random.default_rng(0).normal(size=(40, 50, 64))
    set_of = volumes(tmp_path, [noise[:30], noise[30:]])
    window = find_window(set_of, 5)
    assert (window.low, window.high) == pytest.approx((-1.645, 1.645), abs=0.15)
    assert window == find_window(set_of, 5)


def test_a_set_of_one_value_or_none_has_no_window(tmp_path):
    with pytest.raises(UserError, match="percentiles of the voxels are both 7; give --window LOW:HIGH"):
        find_window(volumes(tmp_path, [np.full((2, 30, 30), 7)]))
    with pytest.raises(UserError, match="there are no volumes"):
        find_window([])


def test_a_window_holds_one_slice_of_floats_at_a_time(tmp_path):
    """It took 2.3 GiB for a region of 800x800x128 float32 voxels, 28 bytes per voxel."""
    values = np.random.default_rng(0).random((64, 128, 128), np.float32)
    np.save(tmp_path / "plug.npy", values)
    volume = read_header(tmp_path / "plug.npy").windowed(Window(0, 1), np.uint8)
    tracemalloc.start()
    grey = volume.read((0, 0, 0), volume.shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < grey.nbytes + 64 * 128 * 128  # the result, and 64 bytes per voxel of a slice
    assert np.array_equal(grey, np.rint(values.astype(np.float64) * 255))
