import logging
import os
import pickle

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import texture
from PIL import Image

from srgan_dist.data.image_files import (
    ImageError,
    find_images,
    read_image,
    read_info,
    read_pages,
    write_pages,
)

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
    path = save(
        tmp_path / "stack.tif",
        volume,
        imagej=True,
        resolution=(0.5, 0.5),
        metadata={"unit": "um", "axes": "ZYX"},
    )
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages[0]
        link, end = first.offset + 2 + 12 * len(first.tags), first.dataoffsets[0] + volume.nbytes
    data = bytearray(path.read_bytes()[:end])
    data[link : link + 4] = bytes(4)
    path.write_bytes(data)
    info = read_info(path)
    assert (info.pages, info.voxel_size_um) == (5, 2.0)
    assert np.array_equal(np.stack(list(read_pages(path))), volume)


def set_tag(path, name, value, dtype=None, page=0):
    """Overwrite a tag of a TIFF with what its writer would not write."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[page].tags[name].overwrite(value, dtype=dtype)
    return path


def test_a_volume_behind_one_header_with_its_shape_is_read_whole_or_refused(tmp_path):
    path = save(tmp_path / "one.tif", VOLUME, truncate=True)
    assert np.array_equal(np.stack(list(read_pages(path))), VOLUME)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImageError, match="one.tif: is cut short: its 5 slices end at byte"):
        read_info(path)
    path = save(
        tmp_path / "packed.tif",
        GREY8,
        compression="zlib",
        metadata=None,
        description='{"shape": [5, 40, 52]}',
    )
    with pytest.raises(
        ImageError, match="packed.tif: its description names slices that the file does not hold"
    ):
        read_info(path)


def test_a_description_that_makes_no_sense_is_named(tmp_path):
    path = save(tmp_path / "odd.tif", GREY8, metadata=None, description="ImageJ=1.53\nimages=abc")
    with pytest.raises(
        ImageError, match="odd.tif: its description names slices .* as a plain stack without one"
    ) as error:
        read_info(path)
    assert "not supported between" not in str(error.value)


def test_an_rgb_imagej_stack_without_headers_is_refused(tmp_path):
    path = save(
        tmp_path / "rgb.tif",
        np.stack([VOLUME] * 3, -1),
        imagej=True,
        truncate=True,
        photometric="rgb",
        metadata={"axes": "ZYXS"},
    )
    with pytest.raises(ImageError, match="rgb.tif: holds 1 page, its description tells of 5 slices"):
        read_info(path)


@pytest.mark.parametrize("shape, axes", [((2, 3), "TZ"), ((3, 2), "ZC"), ((4,), "C")])
def test_imagej_stacks_of_channels_or_time_points_are_refused(tmp_path, shape, axes):
    pixels = np.zeros((*shape, 40, 52), np.uint8)
    path = save(tmp_path / "hyper.tif", pixels, imagej=True, metadata={"axes": axes + "YX"})
    with pytest.raises(ImageError, match="hyper.tif: holds channels, .* side by side .* stack of its own"):
        read_info(path)


def test_an_imagej_volume_whose_axes_were_not_named_is_read(tmp_path):
    assert np.array_equal(np.stack(list(read_pages(save(tmp_path / "v.tif", VOLUME, imagej=True)))), VOLUME)


@pytest.mark.parametrize("metadata", [{}, {"axes": "ZYX"}], ids=["as tifffile writes them", "as slices"])
def test_multi_page_ome_tiff_is_read(tmp_path, metadata):
    path = save(tmp_path / "volume.ome.tif", VOLUME, metadata=metadata)
    assert np.array_equal(np.stack(list(read_pages(path))), VOLUME)
    assert "description" not in read_info(path).tags  # its sizes would be wrong for other pixels


def test_ome_tiff_of_slices_and_channels_is_refused(tmp_path):
    path = save(tmp_path / "both.ome.tif", np.stack([VOLUME] * 2), metadata={"axes": "CZYX"})
    with pytest.raises(ImageError, match="side by side .C=2, Z=5."):
        read_info(path)


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_tiff_of_packed_bits_is_refused(tmp_path, bits):
    pixels = GREY8 if bits < 8 else GREY16
    path = set_tag(save(tmp_path / "packed.tif", pixels), "BitsPerSample", bits)
    with pytest.raises(ImageError, match=f"page 0 has {bits} bit per pixel; save it as 8 or 16 bit grey"):
        read_info(path)


def test_a_sparse_tiff_is_refused_instead_of_read_as_black(tmp_path):
    path = save(tmp_path / "sparse.tif", GREY8, rowsperstrip=10, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        counts = tiff.pages[0].databytecounts
    set_tag(path, "StripByteCounts", (0, *counts[1:]))
    with pytest.raises(ImageError, match="sparse.tif: page 0 has strips or tiles without data"):
        read_info(path)


@pytest.mark.parametrize("compression", ["jpeg", None])
def test_a_tiff_whose_last_strip_is_cut_is_refused(tmp_path, compression):
    path = save(tmp_path / "cut.tif", GREY8, compression=compression)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(
        ImageError, match="cut.tif: page 0 is cut short: its pixels end at byte .* copy or export it again"
    ):
        read_info(path)


@pytest.mark.parametrize("kind", [1, 4], ids=["thumbnail", "mask"])
def test_thumbnails_and_masks_are_not_taken_for_slices(tmp_path, kind):
    path = save(tmp_path / "thumb.tif", GREY8, metadata=None)
    tifffile.imwrite(path, GREY8, append=True, metadata=None, subfiletype=1)
    set_tag(path, "NewSubfileType", kind, page=1)
    with pytest.raises(
        ImageError, match=f"page 1 is a thumbnail or mask .NewSubfileType {kind}. and no slice"
    ):
        read_info(path)


def test_an_animated_png_is_refused(tmp_path):
    frames = [Image.fromarray(page) for page in VOLUME]
    frames[0].save(tmp_path / "many.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="many.png: is an animated PNG of several frames"):
        read_info(tmp_path / "many.png")


@pytest.mark.parametrize("channels", [1, 3, 4])
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


def test_npy_volume_in_fortran_order(tmp_path):
    np.save(tmp_path / "volume.npy", np.asfortranarray(VOLUME))
    assert np.array_equal(np.stack(list(read_pages(tmp_path / "volume.npy"))), VOLUME)


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
    for name, words in (
        ("palette.png", "palette"),
        ("one_bit.png", "1 bit per pixel"),
        ("transparent.png", "transparent colour"),
        ("inverted.tif", "MINISWHITE"),
    ):
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
    for name, words in (("folder", "is not a file"), ("pipe", "is not a file"), ("link", "is a broken link")):
        with pytest.raises(ImageError, match=f"{name}.png: {words}"):
            read_info(tmp_path / f"{name}.png")


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
    save(
        tmp_path / "a.tif",
        GREY16,
        resolution=(448139 / 1e6, 448139 / 1e6),
        resolutionunit=1,
        description="ImageJ=1.52e\nunit=micron",
        metadata=None,
        extratags=[(274, "H", 1, 4, True)],
    )
    info = read_info(tmp_path / "a.tif")
    assert info.voxel_size_um == pytest.approx(1 / 0.448139)
    write_pages(tmp_path / "b.tif", read_pages(info.path), 1, info.tags)
    again = read_info(tmp_path / "b.tif")
    assert again.tags == info.tags and again.voxel_size_um == info.voxel_size_um


@pytest.mark.parametrize("resolution", [(72, 0), (0, 0), (0, 1), (2**32 - 1, 1)])
def test_resolutions_that_are_no_numbers_or_do_not_fit_are_dropped(tmp_path, resolution):
    path = save(tmp_path / "a.tif", GREY8, resolution=(3, 3), resolutionunit=2)
    for name in ("XResolution", "YResolution"):
        set_tag(path, name, resolution)
    tags = read_info(path).tags
    assert ("resolution" in tags) == all(resolution)
    if "resolution" in tags:
        tags = tags | {"resolution": tuple((4 * pixels, units) for pixels, units in tags["resolution"])}
    for name in ("b.tif", "b.png"):
        write_pages(tmp_path / name, [GREY8], 1, tags)
        assert read_info(tmp_path / name).tags.get("resolutionunit", 1) == 1


@pytest.mark.parametrize("unit", [0, 7])
def test_an_unknown_unit_of_the_resolution_counts_as_none(tmp_path, unit):
    path = set_tag(
        save(tmp_path / "a.tif", GREY8, resolution=(3, 3), resolutionunit=2), "ResolutionUnit", unit
    )
    assert read_info(path).tags == {"resolution": ((3, 1), (3, 1)), "resolutionunit": 1}
    write_pages(tmp_path / "b.tif", [GREY8], 1, read_info(path).tags)
    assert read_info(tmp_path / "b.tif").tags == read_info(path).tags


def test_a_resolution_stored_as_float_is_read(tmp_path):
    path = save(
        tmp_path / "a.tif", GREY8, resolution=(3, 3), metadata=None, description="ImageJ=1.53\nunit=um"
    )
    for name in ("XResolution", "YResolution"):
        set_tag(path, name, 0.25, dtype=11)
    info = read_info(path)
    assert info.tags["resolution"] == ((1, 4), (1, 4)) and info.voxel_size_um == 4


@pytest.mark.parametrize("unit, per_unit", [(2, 254), (3, 100)], ids=["inch", "cm"])
def test_the_resolution_survives_a_change_between_tiff_and_png(tmp_path, unit, per_unit):
    path = save(tmp_path / "a.tif", GREY8, resolution=(per_unit, 2 * per_unit), resolutionunit=unit)
    write_pages(tmp_path / "b.png", [GREY8], 1, read_info(path).tags)
    with Image.open(tmp_path / "b.png") as image:
        assert image.info["dpi"] == pytest.approx((254, 508))
    write_pages(tmp_path / "c.tif", [GREY8], 1, read_info(tmp_path / "b.png").tags)
    with tifffile.TiffFile(tmp_path / "c.tif") as tiff:
        assert tiff.pages[0].get_resolution("inch") == pytest.approx((254, 508))


def test_a_resolution_without_a_length_does_not_become_dpi(tmp_path):
    tags = {"resolution": ((300, 1), (300, 1)), "resolutionunit": 1}
    write_pages(tmp_path / "a.png", [GREY8], 1, tags)
    assert read_info(tmp_path / "a.png").tags == {}


def test_a_png_with_an_impossible_resolution_is_read_without_it(tmp_path):
    Image.fromarray(GREY8).save(tmp_path / "a.png", dpi=(1e8, 1e8))
    assert read_info(tmp_path / "a.png").tags == {} and np.array_equal(read_image(tmp_path / "a.png"), GREY8)


def test_the_slice_count_of_imagej_is_not_carried_over(tmp_path):
    """ImageJ would take it to mean that all slices lie behind the first header."""
    save(tmp_path / "a.tif", VOLUME, imagej=True, metadata={"axes": "ZYX", "unit": "um", "spacing": 2.0})
    description = read_info(tmp_path / "a.tif").tags["description"]
    assert "unit=um" in description and "spacing=2.0" in description
    assert not any(f"{name}=" in description for name in ("images", "slices", "hyperstack"))
    write_pages(tmp_path / "b.tif", iter(VOLUME[:, ::2]), 5, read_info(tmp_path / "a.tif").tags)
    assert np.array_equal(np.stack(list(read_pages(tmp_path / "b.tif"))), VOLUME[:, ::2])


def test_a_turned_tiff_stays_as_it_is_stored_with_its_tag_and_is_not_written_where_that_is_lost(tmp_path):
    path = save(tmp_path / "a.tif", GREY8, metadata=None, extratags=[(274, "H", 1, 6, True)])
    write_pages(tmp_path / "b.tif", read_pages(path), 1, read_info(path).tags)
    assert (
        np.array_equal(read_image(tmp_path / "b.tif"), GREY8)
        and read_info(tmp_path / "b.tif").tags["orientation"] == 6
    )
    for name in ("b.png", "b.npy"):
        with pytest.raises(
            ImageError, match="only TIFF can say that .*Orientation 6.; write .tif, or save the source"
        ):
            write_pages(tmp_path / name, read_pages(path), 1, read_info(path).tags)


def test_pages_that_are_turned_differently_are_refused(tmp_path):
    path = save(tmp_path / "a.tif", VOLUME[:1], metadata=None, extratags=[(274, "H", 1, 1, True)])
    tifffile.imwrite(path, VOLUME[1], append=True, metadata=None, extratags=[(274, "H", 1, 3, True)])
    with pytest.raises(ImageError, match="page 1 has Orientation 3, page 0 has 1"):
        read_info(path)


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


def test_a_failed_write_leaves_nothing(tmp_path):
    def pages():
        yield GREY8
        raise ImageError("source", "broke")

    with pytest.raises(ImageError, match="broke"):
        write_pages(tmp_path / "out.tif", pages(), 2)
    with pytest.raises(ImageError, match="PNG holds one page, not 2"):
        write_pages(tmp_path / "out.png", iter(VOLUME), 2)
    assert not list(tmp_path.iterdir())


def test_an_image_is_never_written_over_another(tmp_path):
    (tmp_path / "out.tif").write_text("precious")
    with pytest.raises(ValueError, match="out.tif exists by now and is left as it is"):
        write_pages(tmp_path / "out.tif", [GREY8], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"] and (
        tmp_path / "out.tif"
    ).read_text() == "precious"


@pytest.mark.rocks
def test_the_real_16_bit_slice_keeps_its_values(rocks):
    pixels = read_image(rocks / "slices_16bit" / "carbonate" / "round_16bit.tiff")
    assert (pixels.shape, pixels.dtype, pixels.min(), pixels.max()) == ((1008, 980), np.uint16, 1, 55877)


@pytest.mark.rocks
def test_the_real_sandstone_tells_its_voxel_size(rocks):
    info = read_info(rocks / "slices" / "sandstone" / "Sandstone_Versa0100.tif")
    assert info.voxel_size_um == pytest.approx(2.2314505)
