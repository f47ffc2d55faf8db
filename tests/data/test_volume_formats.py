"""Known answers of the formats of volumes, and the errors for what their headers may not say."""

import pickle

import imagecodecs
import nrrd
import numpy as np
import pytest
import tifffile
from PIL import Image
from volume_samples import BIG, LITTLE, MHA, NRRD, VGI, VOL_INFO, VOXELS, WRITERS, bmp_of, with_header

from srgan_dist.data.image_files import find_images, read_header, read_image, read_info
from srgan_dist.data.volume import ImageError

SIZES_UM = (4.0, 3.0, 2.0)
KNOWN = {  # format -> voxel sizes (z, y, x)
    **dict.fromkeys(("mha", "mhd", "zlib mha", "zlib mhd", "nrrd", "gzip nrrd"), SIZES_UM),
    **dict.fromkeys(("nhdr", "am", "vgi"), SIZES_UM),
    "vol.info": (2.5, 2.5, 2.5),
    "slices": None,
    "logged slices": (5.0, 2.5, 2.5),
}


@pytest.mark.parametrize("name", KNOWN)
def test_voxels_and_their_sizes_are_those_of_the_file(tmp_path, name):
    volume = pickle.loads(pickle.dumps(read_info(WRITERS[name](tmp_path)[0])))  # as in another process
    assert (volume.shape, volume.dtype) == ((3, 4, 5), np.uint16) and volume.dtype.isnative
    assert np.array_equal(volume.read((0, 0, 0), (3, 4, 5)), VOXELS)
    assert np.array_equal(volume.read((1, 1, 2), (2, 3, 2)), VOXELS[1:, 1:, 2:4])
    assert np.array_equal(np.stack(list(volume.pages())), VOXELS)
    assert volume.voxel_sizes_um == (KNOWN[name] and pytest.approx(KNOWN[name]))


@pytest.mark.parametrize("name", ["mha", "mhd", "nrrd", "nhdr", "am", "vgi"])
@pytest.mark.parametrize("change, words", [(-5, "is cut short: its 3x4x5 .*bytes"), (7, "end at byte")])
def test_a_file_of_another_size_than_the_header_says_is_refused(tmp_path, name, change, words):
    path = WRITERS[name](tmp_path)[0]
    data = next((file for file in tmp_path.iterdir() if file != path), path)
    content = data.read_bytes()
    data.write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(ImageError, match=f"{path.name}: {data.name} .*{words}"):
        read_info(path)


@pytest.mark.parametrize("name", ["zlib mha", "gzip nrrd"])
@pytest.mark.parametrize("factor, words", [("9", "cut short"), ("6", "fewer than"), ("4", "more than")])
def test_compressed_voxels_are_as_many_as_the_header_says(tmp_path, name, factor, words):
    path, _, length = WRITERS[name](tmp_path)
    data = path.read_bytes()
    size = {"9": b"500000", "6": b"6", "4": b"4"}[factor]
    path.write_bytes(data[:length].replace(b"5 4 3", size + b" 4 3") + data[length:])
    with pytest.raises(ImageError, match=f"{path.name} .*{words}"):
        volume = read_info(path)
        volume.read((0, 0, 0), volume.shape)


def test_voxels_compressed_into_more_than_the_header_says_are_not_kept(tmp_path):
    """A megabyte of zeros in a kilobyte, behind a header of 120 bytes of voxels."""
    header = MHA.format(msb="False", compressed="True", file="LOCAL")
    path, *_ = with_header(tmp_path / "bomb.mha", header, imagecodecs.zlib_encode(bytes(2**20)))
    with pytest.raises(ImageError, match="bomb.mha holds more than the 120 bytes of its 3x4x5 voxels"):
        read_info(path).read((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("template, suffix", [(MHA, ".mhd"), (NRRD, ".nhdr"), (VGI, ".vgi")])
@pytest.mark.parametrize(
    "name, words",
    [
        ("../out.raw", "not inside of its own folder"),
        ("/etc/hostname", "not inside of its own folder"),
        ("C:\\scans\\a.raw", "not inside of its own folder"),
        ("link.raw", "not inside of its own folder"),
        ("linked/out.raw", "not inside of its own folder"),
        ("gone.raw", "does not exist"),
        ("folder", "no regular file"),
    ],
)
def test_a_header_names_files_of_its_own_folder_only(tmp_path, template, suffix, name, words):
    folder = tmp_path / "scan"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "out.raw").write_bytes(LITTLE)
    (folder / "link.raw").symlink_to(tmp_path / "out.raw")
    (folder / "linked").symlink_to(tmp_path)
    text = template.replace("a.vol", name) if template is VGI else template
    text = (
        text.format(msb=False, compressed=False, file=name, endian="little", encoding="raw")
        if (template is not VGI)
        else text
    )
    text += f"data file: {name}\n" if template is NRRD else ""
    (folder / f"a{suffix}").write_text(text)
    with pytest.raises(ImageError, match=f"a{suffix}: names .* as its data file, which .*{words}"):
        read_info(folder / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".vol", ".raw"])
def test_the_data_file_of_an_info_header_is_no_link_out_of_its_folder(tmp_path, suffix):
    folder = tmp_path / "scan"
    folder.mkdir()
    (tmp_path / "out.raw").write_bytes(BIG)
    (folder / f"a{suffix}").symlink_to(tmp_path / "out.raw")
    (folder / f"a{suffix}.info").write_text(VOL_INFO)
    with pytest.raises(ImageError, match=f"a{suffix}.info: names .* which is not inside of its own folder"):
        read_info(folder / f"a{suffix}.info")
    (folder / f"a{suffix}").unlink()
    (folder / f"a{suffix}").write_bytes(BIG)
    np.testing.assert_array_equal(read_info(folder / f"a{suffix}.info").read((0, 0, 0), (3, 4, 5)), VOXELS)


def test_a_data_file_in_a_folder_below_the_header_is_read(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.raw").write_bytes(LITTLE)
    header = NRRD.format(endian="little", encoding="raw") + "data file: data/a.raw\n"
    path, *_ = with_header(tmp_path / "a.nhdr", header, b"")
    assert np.array_equal(np.stack(list(read_info(path).pages())), VOXELS)
    assert find_images(tmp_path) == ([path], [])


@pytest.mark.parametrize("name", ["mhd", "nhdr", "vgi", "vol.info"])
def test_header_and_data_are_one_image_of_a_folder(tmp_path, name):
    path = WRITERS[name](tmp_path)[0]
    assert find_images(tmp_path) == ([path], [])


MHD_CHANGES = [
    ("HeaderSize = 7\n", 7, None),
    ("HeaderSize = -1\n", 99, None),
    ("HeaderSize = -2\n", 0, "HeaderSize '-2'"),
    ("ElementNumberOfChannels = 3\n", 0, "ElementNumberOfChannels '3'"),
    ("BinaryData = False\n", 0, "BinaryData twice"),
]


@pytest.mark.parametrize("line, skipped, words", MHD_CHANGES)
def test_fields_of_metaimage(tmp_path, line, skipped, words):
    (tmp_path / "a.raw").write_bytes(bytes(skipped) + LITTLE)
    header = line + MHA.format(msb="False", compressed="False", file="a.raw")
    path, *_ = with_header(tmp_path / "a.mhd", header, b"")
    if words:
        with pytest.raises(ImageError, match=f"a.mhd: its header has {words}"):
            read_info(path)
    else:
        assert np.array_equal(np.stack(list(read_info(path).pages())), VOXELS)


NRRD_CHANGES = [  # what is replaced, by what, voxel sizes or words of the error
    ('space units: "mm" "mm" "mm"', "space: left-posterior-superior", SIZES_UM),
    ('space units: "mm" "mm" "mm"', "space: LPS", SIZES_UM),
    ('space units: "mm" "mm" "mm"', "content: rock", None),
    ('space units: "mm" "mm" "mm"', 'space units: "mm" "mm" "um"', None),
    ('"mm" "mm" "mm"', '"um" "um" "um"', (0.004, 0.003, 0.002)),
    ("(0.002,0,0) (0,0.003,0)", "(0,-0.002,0) (0.003,0,0)", SIZES_UM),
    ("(0.002,0,0)", "none", "space directions .* has to be 3 vectors"),
    ("kinds: domain", "kinds: RGB-color", "kinds 'RGB-color domain domain', which are not all directions"),
    ("encoding: raw", "encoding: hex", "encoding 'hex', which is not read; only raw, gzip"),
    ("endian: little\n", "", "has no endian"),
    ("uint16", "block", "type 'block'"),
    ("sizes: 5 4 3", "sizes: 5 4 3\nsizes: 3 4 5", "has sizes twice, '5 4 3' and '3 4 5'"),
    ("sizes: 5 4 3", "sizes: 5 4 -3", "sizes '5 4 -3', which has to be positive"),
    ("encoding: raw", "encoding: raw\nbyte skip: -1", SIZES_UM),
    ("encoding: raw", "encoding: raw\nline skip: 2", "line skip '2'"),
    ("data file: a.raw", "data file: slice%03d.raw 1 3 1", "is a series of files"),
]


@pytest.mark.parametrize("old, new, expected", NRRD_CHANGES)
def test_fields_of_nrrd(tmp_path, old, new, expected):
    header = NRRD.format(endian="little", encoding="raw") + "data file: a.raw\n"
    assert old in header
    (tmp_path / "a.raw").write_bytes(LITTLE)
    path, *_ = with_header(tmp_path / "a.nhdr", header.replace(old, new), b"")
    if isinstance(expected, str):
        with pytest.raises(ImageError, match=f"a.nhdr: .*{expected}"):
            read_info(path)
    else:
        assert read_info(path).voxel_sizes_um == (expected and pytest.approx(expected))
        assert np.array_equal(np.stack(list(read_info(path).pages())), VOXELS)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd_files_of_pynrrd(tmp_path, encoding):
    header = {"encoding": encoding, "spacings": [2.0, 3.0, 4.0], "units": ["um"] * 3}
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS, header, index_order="C")
    volume = read_info(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(volume.read((0, 0, 0), (3, 4, 5)), VOXELS)
    assert volume.voxel_sizes_um == pytest.approx(SIZES_UM)


def test_nrrd_spacings_have_a_size_only_with_units(tmp_path):
    fields = "spacings: 2 3 4\nkinds: domain domain domain"
    header = "NRRD0004\ntype: ushort\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: raw\n" + fields
    path, *_ = with_header(tmp_path / "a.nrrd", header + "\n\n", LITTLE)
    assert read_info(path).voxel_sizes_um is None
    with_header(path, header + '\nunits: "um" "um" "um"\n\n', LITTLE)
    assert read_info(path).voxel_sizes_um == SIZES_UM


OTHER_CHANGES = [
    ("am", b"@1\n\n", b"@1(HxByteRLE,99)\n\n", "its voxels are stored as HxByteRLE,99, which is not read"),
    ("am", b"{ ushort Data }", b"{ float[3] Data }", r"Lattice 'float\[3\]', which is not read"),
    ("am", b'"uniform"', b'"curvilinear"', "CoordType 'curvilinear', which is not uniform"),
    ("am", b"BINARY-LITTLE-ENDIAN", b"3D ASCII", "has no header of a binary Avizo file"),
    ("vgi", b"[file1]", b"[file2]\nName = b.vol\n[file1]", "describes 2 data files"),
    ("vgi", b"{volumeprimitive12}", b"{volume2}\n[file1]\nName = b.vol", "describes 2 data files"),
    ("vgi", b"End = 4 3 2", b"End = 3 3 2", "RegionOfInterestEnd '3 3 2', which cuts a part out"),
    ("vgi", b"BitsPerElement = 16", b"BitsPerElement = 12", "BitsPerElement '12', which is not read"),
    ("vol.info", b"HIGHBYTEFIRST", b"MIDDLE", "BYTEORDER 'MIDDLE', which is not read; only LOWBYTEFIRST"),
    ("vol.info", b"NUM_Z = 3", b"NUM_Z = 2", "a.vol has 120 bytes; 2x4x5 voxels have 1 .uint8., 2"),
    ("mha", b"MET_USHORT", b"MET_LONG", "ElementType 'MET_LONG', which is not read; only MET_CHAR"),
]


@pytest.mark.parametrize("name, old, new, words", OTHER_CHANGES)
def test_what_a_header_may_not_say_is_named(tmp_path, name, old, new, words):
    path = WRITERS[name](tmp_path)[0]
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ImageError, match=f"{path.name}: .*{words}"):
        read_info(path)


@pytest.mark.parametrize(
    "name, old", [("am", b'Coordinates "mm"'), ("vgi", b"unit = mm"), ("vol.info", b"voxelSize = 2.500000")]
)
def test_a_voxel_size_without_a_unit_is_unknown(tmp_path, name, old):
    path = WRITERS[name](tmp_path)[0]
    path.write_bytes(path.read_bytes().replace(old, b""))
    assert read_info(path).voxel_sizes_um is None


def test_a_spacing_of_one_is_what_programs_write_that_do_not_know_it(tmp_path):
    path = WRITERS["mha"](tmp_path)[0]
    path.write_bytes(path.read_bytes().replace(b"0.002 0.003 0.004", b"1 1 1"))
    assert read_info(path).voxel_sizes_um is None


def test_sections_that_are_not_needed_may_say_anything(tmp_path):
    path = WRITERS["vgi"](tmp_path)[0]
    path.write_bytes(path.read_bytes() + b"[render]\nlight = 1\nlight = 2\n{scene}\n[sceneinfo]\nunit = um\n")
    assert read_info(path).voxel_sizes_um == pytest.approx(SIZES_UM)
    path.write_bytes(path.read_bytes().replace(b"unit = mm\n", b""))
    assert read_info(path).voxel_sizes_um == pytest.approx((0.004, 0.003, 0.002))


def test_vol_info_of_float32_is_in_the_bytes_per_voxel(tmp_path):
    (tmp_path / "a.vol").write_bytes(VOXELS.astype(">f4").tobytes())
    (tmp_path / "a.vol.info").write_text(VOL_INFO)
    volume = read_header(tmp_path / "a.vol.info")
    assert volume.dtype == np.float32 and np.array_equal(volume.read((0, 0, 0), (3, 4, 5)), VOXELS)


PAGE = VOXELS[0].astype(np.uint8)


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("bits", [8, 24])
def test_bmp_rows_are_read_in_either_order(tmp_path, bits, top_down):
    page = PAGE if bits == 8 else np.stack([PAGE] * 3, -1)
    (tmp_path / "a.bmp").write_bytes(bmp_of(page, bits, top_down=top_down))
    assert np.array_equal(read_image(tmp_path / "a.bmp"), PAGE)
    assert np.array_equal(read_info(tmp_path / "a.bmp").read((0, 1, 2), (1, 3, 2))[0], PAGE[1:, 2:4])


def test_bmp_of_pillow_and_of_palettes(tmp_path):
    Image.fromarray(PAGE).save(tmp_path / "pillow.bmp")
    assert np.array_equal(read_image(tmp_path / "pillow.bmp"), PAGE)
    inverted = b"".join(bytes((255 - v,) * 3 + (0,)) for v in range(256))
    (tmp_path / "inverted.bmp").write_bytes(bmp_of(PAGE, palette=inverted))
    assert np.array_equal(read_image(tmp_path / "inverted.bmp"), 255 - PAGE)
    (tmp_path / "short.bmp").write_bytes(bmp_of(PAGE, palette=inverted[:40]))
    with pytest.raises(ImageError, match="short.bmp: has pixels beyond its palette of 10 colours"):
        read_image(tmp_path / "short.bmp")
    (tmp_path / "colour.bmp").write_bytes(bmp_of(PAGE, palette=bytes((1, 2, 3, 0)) * 256))
    with pytest.raises(ImageError, match="colour.bmp: has a palette of colours"):
        read_image(tmp_path / "colour.bmp")
    (tmp_path / "rgb.bmp").write_bytes(bmp_of(np.stack([PAGE, PAGE, PAGE + 1], -1), 24))
    with pytest.raises(ImageError, match="rgb.bmp: its three colour channels differ"):
        read_image(tmp_path / "rgb.bmp")
    (tmp_path / "cut.bmp").write_bytes(bmp_of(PAGE)[:-1])
    with pytest.raises(ImageError, match="cut.bmp: is cut short: its pixels end at byte"):
        read_image(tmp_path / "cut.bmp")
    Image.fromarray(PAGE > 9).save(tmp_path / "bits.bmp")
    with pytest.raises(ImageError, match="bits.bmp: has 1 bit per pixel"):
        read_image(tmp_path / "bits.bmp")


IMAGEJ = {"imagej": True, "resolution": (0.5, 1 / 3)}
OME = {"PhysicalSizeX": 2, "PhysicalSizeY": 3e-3, "PhysicalSizeYUnit": "mm", "PhysicalSizeZ": 4000}


@pytest.mark.parametrize(
    "name, options",
    [
        ("imagej.tif", IMAGEJ | {"metadata": {"axes": "ZYX", "unit": "um", "spacing": 4.0}}),
        (
            "imagej_mm.tif",
            {
                "imagej": True,
                "resolution": (500, 1e3 / 3),
                "metadata": {"axes": "ZYX", "unit": "mm", "spacing": 4e-3},
            },
        ),
        ("a.ome.tif", {"metadata": OME | {"PhysicalSizeZUnit": "nm", "axes": "ZYX"}}),
        ("json.tif", {"metadata": OME | {"PhysicalSizeZUnit": "nm"}}),
        ("spacing.tif", {"resolution": (0.5, 1 / 3), "metadata": {"unit": "um", "spacing": 4}}),
        ("big.tif", {"bigtiff": True, "resolution": (0.5, 1 / 3), "metadata": {"unit": "um", "spacing": 4}}),
    ],
)
def test_tiff_voxel_sizes_along_all_axes(tmp_path, name, options):
    tifffile.imwrite(tmp_path / name, VOXELS, photometric="minisblack", **options)
    volume = read_info(tmp_path / name)
    assert volume.voxel_sizes_um == pytest.approx(SIZES_UM)
    assert np.array_equal(volume.read((0, 0, 0), (3, 4, 5)), VOXELS)


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": (72, 72), "resolutionunit": 2, "metadata": None},
        {"resolution": (0.5, 0.5), "metadata": {"unit": "pixel", "spacing": 4}},
        {"metadata": {"PhysicalSizeX": 2, "PhysicalSizeXUnit": "parsec"}},
        {"metadata": None, "description": "{" * 100_000},
    ],
)
def test_tiff_without_a_known_unit_has_no_voxel_size(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", VOXELS[0], **options)
    assert read_info(tmp_path / "a.tif").voxel_sizes_um is None
