import logging

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import texture
from srgan_dist.data.images import ImageError, read_image, read_info, read_pages, write_pages

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


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".TIFF", ".npy"])
@pytest.mark.parametrize("pixels", [GREY8, GREY16], ids=["uint8", "uint16"])
def test_grey_images_keep_every_value_and_their_type(tmp_path, suffix, pixels):
    path = tmp_path / f"slice{suffix}"
    if suffix == ".npy":
        np.save(path, pixels)
    else:
        save(path, pixels)
    info = read_info(path)
    assert (info.pages, info.height, info.width, info.dtype) == (1, 40, 52, pixels.dtype)
    assert np.array_equal(read_image(path), pixels) and read_image(path).dtype == pixels.dtype


def test_a_16_bit_ramp_is_not_squeezed(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for name in ("ramp.png", "ramp.tif", "ramp.npy"):
        assert len(np.unique(read_image(save(tmp_path / name, ramp)))) == 65536


@pytest.mark.parametrize("grey", [GREY8, GREY16], ids=["uint8", "uint16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_rgb_is_read_when_its_channels_are_equal_and_refused_when_not(tmp_path, suffix, grey):
    options = {"photometric": "rgb"} if suffix == ".tif" else {}
    path = save(tmp_path / f"equal{suffix}", np.stack([grey] * 3, -1), **options)
    assert np.array_equal(read_image(path), grey)
    unequal = np.stack([grey, grey, grey], -1)
    unequal[3, 4, 2] ^= 1
    path = save(tmp_path / f"unequal{suffix}", unequal, **options)
    with pytest.raises(ImageError, match=f"unequal{suffix}: its three colour channels differ"):
        read_image(path)


def test_planar_rgb_tiff(tmp_path):
    path = save(tmp_path / "planar.tif", np.stack([GREY8] * 3), photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_image(path), GREY8)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits"])
def test_multi_page_tiff_in_every_usual_compression(tmp_path, compression):
    path = save(tmp_path / "volume.tif", VOLUME, compression=compression)
    assert read_info(path).pages == 5
    assert np.array_equal(np.stack(list(read_pages(path))), VOLUME)


def test_multi_page_tiff_written_page_by_page_and_by_pillow(tmp_path):
    with tifffile.TiffWriter(tmp_path / "pages.tif") as tiff:
        for page in VOLUME:
            tiff.write(page, contiguous=False)
    pages = [Image.fromarray(page) for page in VOLUME]
    pages[0].save(tmp_path / "pillow.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    for name in ("pages.tif", "pillow.tif"):
        assert np.array_equal(np.stack(list(read_pages(tmp_path / name))), VOLUME)


def test_big_endian_pixels_become_native(tmp_path):
    save(tmp_path / "big.tif", GREY16, byteorder=">")
    np.save(tmp_path / "big.npy", GREY16.astype(">u2"))
    for name in ("big.tif", "big.npy"):
        pixels = read_image(tmp_path / name)
        assert np.array_equal(pixels, GREY16) and pixels.dtype.isnative


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_imagej_stack_whose_later_pages_have_no_header(tmp_path, dtype):
    """ImageJ writes stacks above 4 GB with one header and all slices behind it."""
    volume = VOLUME.astype(dtype) * (257 if dtype == np.uint16 else 1)
    path = save(tmp_path / "stack.tif", volume, imagej=True, resolution=(0.5, 0.5), metadata={"unit": "um", "axes": "ZYX"})
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages[0]
        link, end = first.offset + 2 + 12 * len(first.tags), first.dataoffsets[0] + volume.nbytes
    data = bytearray(path.read_bytes()[:end])
    data[link : link + 4] = bytes(4)
    path.write_bytes(data)
    info = read_info(path)
    assert (info.pages, info.voxel_size_um) == (5, 2.0)
    assert np.array_equal(np.stack(list(read_pages(path))), volume)


def test_npy_volume_in_fortran_order(tmp_path):
    np.save(tmp_path / "volume.npy", np.asfortranarray(VOLUME))
    assert np.array_equal(np.stack(list(read_pages(tmp_path / "volume.npy"))), VOLUME)


def damaged(path, how):
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) * 2 // 3], "text": b"<html>not here</html>", "empty": b""}[how])
    return path


@pytest.mark.parametrize("how", ["cut", "text", "empty"])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "lzw.tif", "pages.tif", "imagej.tif", "a.npy", "volume.npy"])
def test_damaged_files_are_named_and_never_look_shorter(tmp_path, name, how):
    pixels = VOLUME if name in ("lzw.tif", "pages.tif", "imagej.tif", "volume.npy") else GREY8
    options = {"lzw.tif": {"compression": "lzw"}, "imagej.tif": {"imagej": True}}.get(name, {})
    if name == "pages.tif":
        with tifffile.TiffWriter(tmp_path / name) as tiff:
            for page in pixels:
                tiff.write(page, contiguous=False)
    else:
        save(tmp_path / name, pixels, **options)
    with pytest.raises(ImageError, match=name):
        list(read_pages(damaged(tmp_path / name, how)))


def test_one_flipped_bit_in_a_png_is_noticed(tmp_path):
    path = save(tmp_path / "bit.png", GREY8)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(ImageError, match="bit.png: cannot be read"):
        read_image(path)


REFUSED = {
    "float.tif": (GREY8.astype(np.float32), "pixels are float32; only uint8 and uint16"),
    "signed.npy": (GREY8.astype(np.int16), "pixels are int16"),
    "alpha.png": (np.stack([GREY8] * 4, -1), "RGB with alpha"),
    "grey_alpha.png": (np.stack([GREY8] * 2, -1), "grey with alpha"),
    "four.npy": (np.zeros((2, 2, 2, 2), np.uint8), r"has shape \(2, 2, 2, 2\)"),
    "none.npy": (np.zeros((0, 8, 8), np.uint8), "is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pixels_that_are_not_grey_8_or_16_bit_are_refused_by_name(tmp_path, name):
    pixels, words = REFUSED[name]
    with pytest.raises(ImageError, match=f"{name}: .*{words}"):
        read_info(save(tmp_path / name, pixels))


def test_palette_one_bit_transparent_and_inverted_images_are_refused(tmp_path):
    Image.fromarray(GREY8).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(GREY8 > 100).save(tmp_path / "one_bit.png")
    Image.fromarray(GREY8).save(tmp_path / "transparent.png", transparency=5)
    tifffile.imwrite(tmp_path / "inverted.tif", GREY8, photometric="miniswhite")
    for name, words in (("palette.png", "palette"), ("one_bit.png", "1 bit per pixel"),
                        ("transparent.png", "transparent colour"), ("inverted.tif", "MINISWHITE")):
        with pytest.raises(ImageError, match=words):
            read_info(tmp_path / name)


def test_pages_that_differ_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as tiff:
        tiff.write(GREY8, contiguous=False)
        tiff.write(GREY8[:, :30], contiguous=False)
    with pytest.raises(ImageError, match="page 1 is 40x30 uint8, page 0 is 40x52 uint8"):
        read_info(tmp_path / "mixed.tif")


def test_a_pickle_in_an_npy_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match="trap.npy"):
        read_info(tmp_path / "trap.npy")
    assert not (tmp_path / "run").exists()


def test_a_forged_header_is_refused_before_anything_is_decoded(tmp_path):
    path = save(tmp_path / "huge.png", GREY8)
    data = bytearray(path.read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    path.write_bytes(data)
    with pytest.raises(ImageError, match="claims 100000x100000 pixels"):
        read_info(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ImageError, match="nowhere.png: does not exist"):
        read_info(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="'.jpg' is not read; use one of .png, .tif, .tiff, .npy"):
        read_info(tmp_path / "photo.jpg")


def test_tifffile_logging_is_left_as_it_was(tmp_path):
    before = list(logging.getLogger("tifffile").handlers)
    read_info(save(tmp_path / "a.tif", GREY8))
    assert logging.getLogger("tifffile").handlers == before and logging.getLogger("tifffile").propagate


@pytest.mark.parametrize("name", ["out.png", "out.tif", "out.NPY"])
@pytest.mark.parametrize("pixels", [GREY8, GREY16], ids=["uint8", "uint16"])
def test_written_images_read_back_equal(tmp_path, name, pixels):
    write_pages(tmp_path / name, iter([pixels]), 1)
    assert np.array_equal(read_image(tmp_path / name), pixels)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.tif", "out.npy"])
def test_written_volumes_read_back_equal(tmp_path, name):
    write_pages(tmp_path / name, iter(VOLUME), len(VOLUME))
    assert np.array_equal(np.stack(list(read_pages(tmp_path / name))), VOLUME)


def test_tags_are_carried_over(tmp_path):
    save(tmp_path / "a.tif", GREY16, resolution=(448139 / 1e6, 448139 / 1e6), resolutionunit=1,
         description="ImageJ=1.52e\nunit=micron", metadata=None, extratags=[(274, "H", 1, 4, True)])
    info = read_info(tmp_path / "a.tif")
    assert info.voxel_size_um == pytest.approx(1 / 0.448139)
    write_pages(tmp_path / "b.tif", read_pages(info.path), 1, info.tags)
    again = read_info(tmp_path / "b.tif")
    assert again.tags == info.tags and again.voxel_size_um == info.voxel_size_um


def test_a_failed_write_leaves_nothing(tmp_path):
    def pages():
        yield GREY8
        raise ImageError("source", "broke")

    with pytest.raises(ImageError, match="broke"):
        write_pages(tmp_path / "out.tif", pages(), 2)
    with pytest.raises(ImageError, match="PNG holds one page, not 2"):
        write_pages(tmp_path / "out.png", iter(VOLUME), 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.rocks
def test_the_real_16_bit_slice_keeps_its_values(rocks):
    pixels = read_image(rocks / "slices_16bit" / "carbonate" / "round_16bit.tiff")
    assert (pixels.shape, pixels.dtype, pixels.min(), pixels.max()) == ((1008, 980), np.uint16, 1, 55877)


@pytest.mark.rocks
def test_the_real_sandstone_tells_its_voxel_size(rocks):
    info = read_info(rocks / "slices" / "sandstone" / "Sandstone_Versa0100.tif")
    assert info.voxel_size_um == pytest.approx(2.2314505)
