"""Folders of numbered slices as volumes."""

import os

import numpy as np
import pytest
import tifffile
from image_samples import save
from volume_samples import bmp_of

from srgan_dist.data.image_files import read_info
from srgan_dist.data.volume import ImageError

VOLUME = np.arange(12 * 4 * 5, dtype=np.uint8).reshape(12, 4, 5)
LOG = """[System]
Scanner=SkyScan1272
[Acquisition]
Image Pixel Size (um)=7.50
[Reconstruction]
Section to Section Step={step}
Pixel Size (um)=7.50
"""


def write(folder, pattern="slice_{}.tif", first=1):
    for number, page in enumerate(VOLUME, first):
        path = folder / pattern.format(number)
        if path.suffix == ".bmp":
            path.write_bytes(bmp_of(page))
        else:
            save(path, page)
    return folder


@pytest.mark.parametrize(
    "pattern", ["slice_{}.tif", "2um_{:04d}_crop1.PNG", "rock__rec{:08d}.bmp", "{}.tiff"]
)
@pytest.mark.parametrize("first", [0, 1, 95])
def test_slices_are_one_volume_in_the_order_of_their_numbers(tmp_path, pattern, first):
    volume = read_info(write(tmp_path, pattern, first))
    assert (volume.shape, volume.dtype, volume.path) == ((12, 4, 5), np.uint8, tmp_path)
    assert np.array_equal(volume.read((0, 0, 0), (12, 4, 5)), VOLUME)
    assert np.array_equal(volume.read((7, 1, 2), (4, 3, 2)), VOLUME[7:11, 1:, 2:4])
    assert np.array_equal(np.stack(list(volume.pages())), VOLUME)
    assert volume.voxel_sizes_um is None


@pytest.mark.parametrize("step, sizes", [(1, (7.5, 7.5, 7.5)), (2, (15, 7.5, 7.5))])
def test_brukers_log_gives_the_voxel_size_and_is_no_slice(tmp_path, step, sizes):
    write(tmp_path, "rock__rec{:04d}.bmp")
    (tmp_path / "rock__rec.log").write_text(LOG.format(step=step))
    (tmp_path / "rock__rec_spr.bmp").write_bytes(bmp_of(VOLUME[0, :2]))
    (tmp_path / "notes.log").write_text("scanned on a Monday")
    volume = read_info(tmp_path)
    assert volume.slices == 12 and volume.voxel_sizes_um == sizes


def test_logs_that_disagree_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "a.log").write_text("Image Pixel Size (um)=1\n")
    (tmp_path / "b.log").write_text("Image Pixel Size (um)=2\n")
    with pytest.raises(ImageError, match=f"{tmp_path}: its logs a.log, b.log have different pixel sizes"):
        read_info(tmp_path)


def test_slices_of_imagej_keep_their_pixel_size(tmp_path):
    for number in range(2):
        options = {"imagej": True, "resolution": (0.5, 0.5), "metadata": {"unit": "um"}}
        tifffile.imwrite(tmp_path / f"{number}.tif", VOLUME[number], **options)
    assert read_info(tmp_path).voxel_sizes_um == (None, 2, 2)


def remove(folder):
    (folder / "slice_5.tif").unlink()


def double(folder):
    save(folder / "slice_05.tif", VOLUME[0])


def narrow(folder):
    save(folder / "slice_5.tif", VOLUME[0, :, :3])


def deep(folder):
    save(folder / "slice_5.tif", VOLUME[0].astype(np.uint16))


def thick(folder):
    save(folder / "slice_5.tif", VOLUME[:5], photometric="minisblack")


def cut(folder):
    path = folder / "slice_5.tif"
    path.write_bytes(path.read_bytes()[:-3])


def pipe(folder):
    remove(folder)
    os.mkfifo(folder / "slice_5.tif")


def log(folder):
    os.mkfifo(folder / "scan.log")


def mislabel(folder):
    tiff = (folder / "slice_5.tif").rename(folder / "other")
    save(folder / "other.png", VOLUME[0]).rename(folder / "slice_5.tif")
    tiff.unlink()


def mix(folder):
    save(folder / "slice_13.png", VOLUME[0])


def stranger(folder):
    save(folder / "overview.tif", VOLUME[0])


def second(folder):
    save(folder / "slice_1_2.tif", VOLUME[0])


def turn(folder):
    save(folder / "slice_5.tif", VOLUME[0], metadata=None, extratags=[(274, "H", 1, 3, True)])


@pytest.mark.parametrize(
    "damage, words",
    [
        (remove, "slice 5 is missing: slice_4.tif is followed by slice_6.tif"),
        (double, "slice 5 is there twice: slice_0?5.tif is followed by slice_0?5.tif"),
        (narrow, "slice_5.tif: is 4x3 uint8, slice_1.tif is 4x5 uint8"),
        (deep, "slice_5.tif: is 4x5 uint16, slice_1.tif is 4x5 uint8"),
        (thick, "slice_5.tif: holds 5 pages"),
        (cut, "slice_5.tif: page 0 is cut short"),
        (pipe, "slice_5.tif: is no regular file"),
        (log, "scan.log: is no regular file"),
        (mislabel, "slice_5.tif: cannot be read"),
        (mix, "holds slices of several formats, .*slice_13.png"),
        (stranger, "slice_1.tif is called unlike overview.tif"),
        (second, "is called unlike"),
        (turn, "slice_5.tif: is turned otherwise than slice_1.tif"),
    ],
)
def test_a_series_that_is_not_whole_and_alike_is_refused(tmp_path, damage, words, no_waiting):
    damage(write(tmp_path))
    with pytest.raises(ImageError, match=f"{tmp_path}.*{words}"):
        read_info(tmp_path)


def test_series_that_differ_in_two_numbers_are_two_volumes(tmp_path):
    write(tmp_path, "scan1_{}.tif")
    write(tmp_path, "scan2_{}.tif")
    with pytest.raises(ImageError, match="differ in 2 numbers; give each volume a folder of its own"):
        read_info(tmp_path)


def test_a_slice_that_was_cut_after_the_headers_were_read_is_named(tmp_path):
    volume = read_info(write(tmp_path, "slice_{}.png"))
    data = (tmp_path / "slice_3.png").read_bytes()
    (tmp_path / "slice_3.png").write_bytes(data[: len(data) - 30])
    assert np.array_equal(volume.read((0, 0, 0), (2, 4, 5)), VOLUME[:2])
    with pytest.raises(ImageError, match="slice_3.png: is damaged or cut short"):
        volume.read((1, 0, 0), (2, 4, 5))


def test_a_folder_without_slices_is_named(tmp_path):
    with pytest.raises(ImageError, match="is a folder without slices; they are files .png, .tif"):
        read_info(tmp_path)
