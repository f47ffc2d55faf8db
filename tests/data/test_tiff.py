import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from image_samples import GREY8, GREY16, VOLUME, save, set_tag
from PIL import Image

from srgan_dist.data.image_files import read_image, read_info, read_pages
from srgan_dist.data.volume import ImageError


def test_planar_rgb_tiff(tmp_path):
    path = save(tmp_path / "planar.tif", np.stack([GREY8] * 3), photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_image(path), GREY8)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits"])
def test_multi_page_tiff_in_every_usual_compression(tmp_path, compression):
    path = save(tmp_path / "volume.tif", VOLUME, compression=compression)
    assert read_info(path).slices == 5
    assert np.array_equal(np.stack(list(read_pages(path))), VOLUME)


def test_multi_page_tiff_written_page_by_page_and_by_pillow(tmp_path):
    with tifffile.TiffWriter(tmp_path / "pages.tif") as tiff:
        for page in VOLUME:
            tiff.write(page, contiguous=False)
    pages = [Image.fromarray(page) for page in VOLUME]
    pages[0].save(tmp_path / "pillow.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    for name in ("pages.tif", "pillow.tif"):
        assert np.array_equal(np.stack(list(read_pages(tmp_path / name))), VOLUME)


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
    assert (info.slices, info.voxel_size_um) == (5, 2.0)
    assert np.array_equal(np.stack(list(read_pages(path))), volume)


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
    with pytest.raises(ImageError, match="rgb.tif: holds 1 page, its description says 5 slices"):
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


OME_OF_TWO_FILES = """<?xml version="1.0"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a">
<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="{width}" SizeY="{height}"
 SizeZ="3" SizeC="1" SizeT="1"><Channel ID="Channel:0" SamplesPerPixel="1"/>
<TiffData IFD="0" FirstZ="0" PlaneCount="2"><UUID FileName="a.ome.tif">urn:uuid:a</UUID></TiffData>
<TiffData IFD="0" FirstZ="2" PlaneCount="1"><UUID FileName="{other}">urn:uuid:b</UUID></TiffData>
</Pixels></Image></OME>"""


@pytest.mark.parametrize("other", ["b.ome.tif", "../b.ome.tif", "{tmp_path}/b.ome.tif"])
def test_files_that_ome_xml_names_are_never_opened(tmp_path, monkeypatch, other):
    (tmp_path / "scan").mkdir()
    for folder in (tmp_path, tmp_path / "scan"):
        save(folder / "b.ome.tif", VOLUME[2:3], photometric="minisblack", metadata=None)
    height, width = VOLUME.shape[1:]
    text = OME_OF_TWO_FILES.format(height=height, width=width, other=other.format(tmp_path=tmp_path))
    options = {"photometric": "minisblack", "metadata": None, "description": text}
    path, opened, original = save(tmp_path / "scan/a.ome.tif", VOLUME[:2], **options), set(), open

    def recorded(name, *arguments, **options):
        opened.add(str(name))
        return original(name, *arguments, **options)

    monkeypatch.setattr("builtins.open", recorded)
    assert np.array_equal(np.stack(list(read_pages(path))), VOLUME[:2])
    assert opened == {str(path)}


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


def test_pages_that_differ_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as tiff:
        tiff.write(GREY8, contiguous=False)
        tiff.write(GREY8[:, :30], contiguous=False)
    with pytest.raises(ImageError, match="page 1 is 40x30 uint8, page 0 is 40x52 uint8"):
        read_info(tmp_path / "mixed.tif")


def test_a_tiff_that_does_not_say_what_is_black_is_refused_with_the_tag(tmp_path):
    path = save(tmp_path / "a.tif", GREY16, photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].tags["PhotometricInterpretation"].offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 2] = b"\xff\xfe"  # another tag
    path.write_bytes(data)
    with pytest.raises(
        ImageError, match=r"no PhotometricInterpretation \(tag 262\).*photometric='minisblack'"
    ):
        read_info(path)


def test_a_stack_that_was_saved_as_planes_of_rgb_is_named(tmp_path):
    path = save(tmp_path / "a.tif", VOLUME[:3], photometric="rgb", planarconfig="separate")
    with pytest.raises(ImageError, match="If they are slices of a volume, save them as pages of their own"):
        list(read_pages(path))


@pytest.mark.filterwarnings("ignore:.*photometric:DeprecationWarning")
@pytest.mark.parametrize("slices", [3, 4])
def test_a_stack_that_tifffile_takes_for_planes_of_colours_is_named(tmp_path, slices):
    """tifffile.imwrite(path, volume), as it stands in many scripts."""
    tifffile.imwrite(tmp_path / "a.tif", VOLUME[:slices])
    with pytest.raises(ImageError, match="If they are slices of a volume, save them as pages of their own"):
        list(read_pages(tmp_path / "a.tif"))


def test_an_image_larger_than_its_bytes_can_hold_is_refused_before_it_takes_memory(tmp_path):
    path = save(tmp_path / "a.tif", GREY8, compression="lzw")
    set_tag(path, 257, 2**31)
    set_tag(path, 278, 2**31)
    with pytest.raises(ImageError, match=r"is damaged: \d+ bytes \(compression LZW\) cannot hold \d+ bytes"):
        read_info(path)


def test_threads_collect_the_errors_of_their_own_files(tmp_path, caplog):
    save(tmp_path / "whole.tif", VOLUME)
    cut = tmp_path / "cut.tif"
    cut.write_bytes((tmp_path / "whole.tif").read_bytes()[:-150])

    def read(path):
        try:
            return len(list(read_pages(path)))
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(read, [tmp_path / "whole.tif", cut] * 100))
    assert set(results[::2]) == {len(VOLUME)}
    assert all("is damaged or cut short" in result for result in results[1::2])
    assert not caplog.records
    logging.getLogger("tifffile").error("of somebody else")
    assert [record.message for record in caplog.records] == ["of somebody else"]


def test_files_that_are_read_in_turns_leave_the_errors_of_others_alone(tmp_path, caplog):
    save(tmp_path / "a.tif", VOLUME)
    save(tmp_path / "b.tif", VOLUME)
    first, second = (read_pages(tmp_path / name) for name in ("a.tif", "b.tif"))
    next(first), next(second)
    logging.getLogger("tifffile").error("while both are open")
    first.close()
    second.close()
    logging.getLogger("tifffile").error("after both")
    assert [record.message for record in caplog.records] == ["while both are open", "after both"]


def test_a_resolution_stored_as_float_is_read(tmp_path):
    path = save(
        tmp_path / "a.tif", GREY8, resolution=(3, 3), metadata=None, description="ImageJ=1.53\nunit=um"
    )
    for name in ("XResolution", "YResolution"):
        set_tag(path, name, 0.25, dtype=11)
    info = read_info(path)
    assert info.tags["resolution"] == ((1, 4), (1, 4)) and info.voxel_size_um == 4


def test_pages_that_are_turned_differently_are_refused(tmp_path):
    path = save(tmp_path / "a.tif", VOLUME[:1], metadata=None, extratags=[(274, "H", 1, 1, True)])
    tifffile.imwrite(path, VOLUME[1], append=True, metadata=None, extratags=[(274, "H", 1, 3, True)])
    with pytest.raises(ImageError, match="page 1 has Orientation 3, page 0 has 1"):
        read_info(path)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts the bytes that Linux says were read")
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_block_reads_its_pages_only(tmp_path, compression):
    path, volume = tmp_path / "many.tif", np.arange(500 * 40 * 52).astype(np.uint8).reshape(500, 40, 52)
    with tifffile.TiffWriter(path) as tiff:
        for page in volume:
            tiff.write(page, contiguous=False, compression=compression, metadata=None)
    info = read_info(path)
    before = bytes_read()
    assert np.array_equal(info.read((300, 5, 7), (3, 9, 8)), volume[300:303, 5:14, 7:15])
    assert bytes_read() - before < 100_000  # of 500 headers at least 4 kB would be read each


def bytes_read():
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_tiff_that_was_replaced_after_its_header_was_read_is_named(tmp_path):
    path = save(tmp_path / "a.tif", VOLUME)
    info = read_info(path)
    path.write_bytes(path.read_bytes()[:8] + bytes(path.stat().st_size - 8))
    with pytest.raises(ImageError, match="a.tif: "):
        info.read((3, 0, 0), (1, 5, 5))
