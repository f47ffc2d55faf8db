import contextlib
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from image_samples import GREY8, GREY16, VOLUME, save, set_tag
from PIL import Image

from srgan_dist.data.image_files import read_image, read_info, read_pages
from srgan_dist.data.volume import ImageError
from srgan_dist.data.write_images import write_pages


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
    """ImageJ would read all slices back to back after the first header."""
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


@contextlib.contextmanager
def disk_of(folder, megabytes):
    """A disk of its own at `folder`; skips the test where this user may not make one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("name", ["out.npy", "out.tif"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, name):
    code = """if True:
        import sys
        import numpy as np
        from srgan_dist.data.write_images import write_pages
        try:
            write_pages(sys.argv[1], iter(np.ones((16, 512, 512), np.uint8)), 16)
        except OSError as error:
            print(error)
    """
    with disk_of(tmp_path / "disk", 1) as disk:
        ran = subprocess.run([sys.executable, "-c", code, disk / name], capture_output=True, text=True)
        assert ran.returncode == 0 and ran.stdout and list(disk.iterdir()) == [], ran
