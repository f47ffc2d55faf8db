import os
import pickle

import numpy as np
import pytest
import tifffile
from image_samples import GREY8, GREY16, VOLUME, save
from PIL import Image

from srgan_dist.data.image_files import find_images, read_image, read_info, read_pages
from srgan_dist.data.volume import ImageError


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".TIFF", ".npy"])
@pytest.mark.parametrize("pixels", [GREY8, GREY16], ids=["uint8", "uint16"])
def test_grey_images_keep_every_value_and_their_type(tmp_path, suffix, pixels):
    path = tmp_path / f"slice{suffix}"
    if suffix == ".npy":
        np.save(path, pixels)
    else:
        save(path, pixels)
    info = read_info(path)
    assert (info.slices, info.height, info.width, info.dtype) == (1, 40, 52, pixels.dtype)
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


def test_big_endian_pixels_become_native(tmp_path):
    save(tmp_path / "big.tif", GREY16, byteorder=">")
    np.save(tmp_path / "big.npy", GREY16.astype(">u2"))
    for name in ("big.tif", "big.npy"):
        pixels = read_image(tmp_path / name)
        assert np.array_equal(pixels, GREY16) and pixels.dtype.isnative


def test_an_animated_png_is_refused(tmp_path):
    frames = [Image.fromarray(page) for page in VOLUME]
    frames[0].save(tmp_path / "many.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="many.png: is an animated PNG of several frames"):
        read_info(tmp_path / "many.png")


def damaged(path, how):
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) * 2 // 3], "text": b"<html>not here</html>", "empty": b""}[how])
    return path


@pytest.mark.parametrize("how", ["cut", "text", "empty"])
@pytest.mark.parametrize(
    "name", ["a.png", "a.tif", "lzw.tif", "pages.tif", "imagej.tif", "a.npy", "volume.npy"]
)
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
    "four.npy": (np.zeros((2, 2, 2, 2), np.uint8), r"has shape \(2, 2, 2, 2\)"),
    "none.npy": (np.zeros((0, 8, 8), np.uint8), "is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pixels_that_are_not_grey_8_or_16_bit_are_refused_by_name(tmp_path, name):
    pixels, words = REFUSED[name]
    with pytest.raises(ImageError, match=f"{name}: .*{words}"):
        read_info(save(tmp_path / name, pixels))


def opaque(pixels, channels):
    """RGB or grey with alpha that is opaque."""
    return np.stack([pixels] * (channels - 1) + [np.full_like(pixels, np.iinfo(pixels.dtype).max)], -1)


@pytest.mark.parametrize("pixels", [GREY8, GREY16], ids=str)
@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_is_read_where_it_is_opaque_and_refused_where_not(tmp_path, suffix, channels, pixels):
    options = {"extrasamples": ["unassalpha"], "photometric": "rgb" if channels == 4 else "minisblack"}
    options = options if suffix == ".tif" else {}
    path = save(tmp_path / f"a{suffix}", opaque(pixels, channels), **options)
    assert np.array_equal(read_image(path), pixels)
    transparent = opaque(pixels, channels)
    transparent[3, 4, -1] = 7
    with pytest.raises(ImageError, match="is transparent in places .alpha of 7"):
        read_image(save(path, transparent, **options))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_palettes_are_read_where_they_are_grey(tmp_path, suffix):
    image = Image.fromarray(GREY8).convert("P")
    image.save(tmp_path / f"identity{suffix}")
    assert np.array_equal(read_image(tmp_path / f"identity{suffix}"), GREY8)
    image.putpalette([level for level in range(255, -1, -1) for _ in range(3)])
    image.save(tmp_path / f"inverted{suffix}")
    assert np.array_equal(read_image(tmp_path / f"inverted{suffix}"), 255 - GREY8)
    image.putpalette([(level, level, 255 - level)[i] for level in range(256) for i in range(3)])
    image.save(tmp_path / f"colours{suffix}")
    with pytest.raises(ImageError, match="has a palette of colours"):
        read_info(tmp_path / f"colours{suffix}")


@pytest.mark.parametrize("pixels", [GREY8, GREY16], ids=str)
def test_an_inverted_tiff_is_read_with_black_at_0(tmp_path, pixels):
    save(tmp_path / "a.tif", np.stack([pixels, pixels[::-1]]), photometric="miniswhite")
    white = np.iinfo(pixels.dtype).max
    assert np.array_equal(list(read_pages(tmp_path / "a.tif")), white - np.stack([pixels, pixels[::-1]]))


def test_one_bit_and_transparent_images_are_refused(tmp_path):
    Image.fromarray(GREY8 > 100).save(tmp_path / "one_bit.png")
    Image.fromarray(GREY8).save(tmp_path / "transparent.png", transparency=5)
    for name, words in (
        ("one_bit.png", "1 bit per pixel"),
        ("transparent.png", "transparent colour"),
    ):
        with pytest.raises(ImageError, match=words):
            read_info(tmp_path / name)


def test_a_forged_header_is_refused_before_anything_is_decoded(tmp_path):
    path = save(tmp_path / "huge.png", GREY8)
    data = bytearray(path.read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    path.write_bytes(data)
    with pytest.raises(ImageError, match="its .* bytes cannot hold 100000x100000 pixels"):
        read_info(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ImageError, match="nowhere.png: does not exist"):
        read_info(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="'.jpg' is not read; use one of .png, .tif, .tiff, .npy"):
        read_info(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    "source, name, words",
    [
        ("a.png", "b.tif", "b.tif: holds PNG data; rename it to b.png"),
        ("a.tif", "b.npy", "b.npy: holds TIFF data; rename it to b.tif"),
        ("a.npy", "b.png", "b.png: holds NPY data; rename it to b.npy"),
        ("a.jpg", "b.tif", "b.tif: holds JPEG data; convert it to one of .png, .tif"),
        ("a.npz", "b.npy", "b.npy: holds ZIP or NPZ data; convert it"),
    ],
)
def test_a_known_format_under_another_suffix_is_told(tmp_path, source, name, words):
    if source == "a.jpg":
        Image.fromarray(GREY8).save(tmp_path / source)
    elif source == "a.npz":
        np.savez(tmp_path / source, GREY8)
    else:
        save(tmp_path / source, GREY8)
    (tmp_path / source).rename(tmp_path / name)
    with pytest.raises(ImageError, match=words):
        read_info(tmp_path / name)


def test_folders_pipes_and_broken_links_are_no_images(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for name, words in (
        ("folder", "is a folder without slices"),
        ("pipe", "is no regular file"),
        ("link", "is a broken link"),
    ):
        with pytest.raises(ImageError, match=f"{name}.png: {words}"):
            read_info(tmp_path / f"{name}.png")


def test_images_of_a_folder_come_in_natural_order_with_the_other_files(tmp_path):
    for name in (
        "slice_10.png",
        "slice_2.tif",
        "1²3.png",
        "sub/b.NPY",
        "notes.txt",
        "Thumbs.db",
        ".hidden.png",
        ".git/c.png",
        "slice_02.tif",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    images, others = find_images(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in images]
    assert names == ["1²3.png", "gone.png", "slice_02.tif", "slice_2.tif", "slice_10.png", "sub/b.NPY"]
    assert [path.name for path in others] == ["notes.txt"]


def test_linked_folders_are_followed_and_loops_are_cut(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").touch()
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "deep" / "back").symlink_to(root)
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    assert find_images(root) == ([root / "linked" / "a.png"], [])


@pytest.mark.rocks
def test_the_real_16_bit_slice_keeps_its_values(rocks):
    pixels = read_image(rocks / "slices_16bit" / "carbonate" / "round_16bit.tiff")
    assert (pixels.shape, pixels.dtype, pixels.min(), pixels.max()) == ((1008, 980), np.uint16, 1, 55877)


@pytest.mark.rocks
def test_the_real_sandstone_tells_its_voxel_size(rocks):
    info = read_info(rocks / "slices" / "sandstone" / "Sandstone_Versa0100.tif")
    assert info.voxel_size_um == pytest.approx(2.2314505)


@pytest.mark.parametrize(
    "name", ["volume.tif", "lzw.tif", "imagej.tif", "raw.tif", "volume.npy", "fortran.npy"]
)
@pytest.mark.parametrize(
    "corner, shape", [((0, 0, 0), (5, 40, 52)), ((1, 3, 5), (3, 20, 7)), ((4, 39, 51), (1, 1, 1))]
)
def test_a_block_of_a_volume_is_that_part_of_it(tmp_path, name, corner, shape):
    options = {
        "lzw.tif": {"compression": "lzw"},
        "imagej.tif": {"imagej": True},
        "raw.tif": {"truncate": True},
    }
    volume = np.asfortranarray(VOLUME) if name == "fortran.npy" else VOLUME
    path = save(tmp_path / name, volume, **options.get(name, {}))
    part = VOLUME[tuple(slice(start, start + size) for start, size in zip(corner, shape))]
    block = pickle.loads(pickle.dumps(read_info(path))).read(corner, shape)  # as in another process
    assert np.array_equal(block, part) and block.dtype == np.uint8


def test_a_block_of_one_slice(tmp_path):
    path = save(tmp_path / "slice.png", GREY16)
    assert np.array_equal(read_info(path).read((0, 30, 2), (1, 10, 50)), GREY16[None, 30:, 2:])


def test_only_the_pages_of_a_block_are_decoded(tmp_path):
    """Damage of another page is not noticed."""
    path = save(tmp_path / "volume.tif", VOLUME, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        damaged = tiff.pages[3].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[damaged : damaged + 9] = bytes(9)
    path.write_bytes(data)
    for start in (0, 4):
        assert np.array_equal(read_info(path).read((start, 0, 0), (1, 40, 52)), VOLUME[start : start + 1])
    with pytest.raises(ImageError, match="volume.tif: cannot be read"):
        read_info(path).read((2, 0, 0), (2, 40, 52))


@pytest.mark.parametrize(
    "corner, shape", [((3, 0, 0), (3, 9, 9)), ((0, -1, 0), (1, 9, 9)), ((0, 0, 50), (1, 9, 3))]
)
def test_a_block_that_exceeds_the_volume_is_refused(tmp_path, corner, shape):
    path = save(tmp_path / "volume.npy", VOLUME)
    with pytest.raises(ImageError, match="volume.npy: has 5x40x52 voxels, which do not contain the block of"):
        read_info(path).read(corner, shape)
