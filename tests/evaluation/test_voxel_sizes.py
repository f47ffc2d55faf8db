"""Voxel sizes from input to output: carried in the format of the output, smaller along the axes of SR."""

import numpy as np
import pytest
import tifffile
from conftest import texture
from PIL import Image
from test_super_resolve import network

import srgan_dist
from srgan_dist.data.image_files import read_header
from srgan_dist.data.write_volumes import create
from srgan_dist.evaluation.super_resolve_files import spread_path
from srgan_dist.models import build_generator
from srgan_dist.models.srresnet import SRResNetConfig
from srgan_dist.models.weights_file import save_generator

VOXELS = np.stack([texture(seed, 20, 24) for seed in range(6)])


def write_ome(path):
    sizes = {"PhysicalSizeX": 2.5, "PhysicalSizeY": 2.5, "PhysicalSizeZ": 0.01, "PhysicalSizeZUnit": "mm"}
    tifffile.imwrite(path, VOXELS, ome=True, photometric="minisblack", metadata={"axes": "ZYX", **sizes})


def write_imagej(path):
    metadata = {"axes": "ZYX", "spacing": 10.0, "unit": "um"}
    tifffile.imwrite(path, VOXELS, imagej=True, resolution=(1 / 2.5, 1 / 2.5), metadata=metadata)


def write_mhd(path):
    writer = create(path, VOXELS.shape, VOXELS.dtype, (10.0, 2.5, 2.5))
    writer.write((0, 0, 0), VOXELS)
    writer.close()


def upscale(folder, source, target, generator, **options):
    weights = folder / "g.safetensors"
    save_generator(weights, generator, {})
    srgan_dist.super_resolve(weights, folder / source, folder / target, device="cpu", **options)
    return read_header(folder / target)


@pytest.mark.parametrize("write", [write_ome, write_imagej, write_mhd])
@pytest.mark.parametrize("ndim, expected", [(2, (10, 1.25, 1.25)), (3, (5, 1.25, 1.25))])
def test_sizes_of_volumes_are_finer_along_the_axes_of_sr(tmp_path, write, ndim, expected):
    source = "in.mhd" if write is write_mhd else "in.tif"
    write(tmp_path / source)
    found = upscale(tmp_path, source, "out.tif", network(2, ndim=ndim))
    assert found.shape == (6 if ndim == 2 else 12, 40, 48)
    assert found.voxel_sizes_um == pytest.approx(expected)


def test_other_programs_find_the_sizes_of_a_stack_too(tmp_path):
    write_ome(tmp_path / "in.tif")
    upscale(tmp_path, "in.tif", "out.tif", network(2))
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert 'PhysicalSizeX="1.25"' in tiff.ome_metadata and 'PhysicalSizeZ="10.0"' in tiff.ome_metadata
        assert tiff.series[0].axes == "ZYX" and tiff.series[0].shape == (6, 40, 48)
        assert tiff.pages[0].resolution == pytest.approx((8000, 8000))  # pixels per centimetre


def test_the_spread_of_samples_has_the_sizes_too(tmp_path):
    write_ome(tmp_path / "in.tif")
    config = SRResNetConfig(scale=2, num_blocks=1, num_filters=4, noise=1, tanh=False, init_std=None)
    generator = build_generator(config).eval()
    generator.texture.start()
    upscale(tmp_path, "in.tif", "out.tif", generator, samples=2)
    assert read_header(spread_path(tmp_path / "out.tif")).voxel_sizes_um == pytest.approx((10, 1.25, 1.25))


def test_a_png_has_the_sizes_of_one_slice_per_metre(tmp_path):
    options = {"ome": True, "photometric": "minisblack"}
    sizes = {"PhysicalSizeX": 2.5, "PhysicalSizeY": 5.0}
    tifffile.imwrite(tmp_path / "in.tif", VOXELS[0], metadata={"axes": "YX", **sizes}, **options)
    found = upscale(tmp_path, "in.tif", "out.png", network(2))
    assert found.tags["resolution"] == ((800_000, 100), (400_000, 100))
    Image.fromarray(VOXELS[0]).save(tmp_path / "png.png", dpi=(25400, 25400))  # pHYs: 1 um
    found = upscale(tmp_path, "png.png", "finer.png", network(2))
    assert found.tags["resolution"] == ((2_000_000, 100),) * 2
    found = upscale(tmp_path, "png.png", "finer.tif", network(2))
    assert found.tags["resolution"][0] == (20_000, 1) and found.tags["resolutionunit"] == 3


def test_a_format_without_sizes_is_named(tmp_path, caplog):
    write_ome(tmp_path / "in.tif")
    upscale(tmp_path, "in.tif", "out.npy", network(2))
    assert "out.npy: NPY holds no voxel size, so that of " in caplog.text


@pytest.mark.parametrize("z, lost", [(None, True), (10.0, False)])
def test_a_metaimage_that_cannot_leave_one_size_open_is_named(tmp_path, caplog, z, lost):
    create(tmp_path / "in.tif", VOXELS.shape, VOXELS.dtype, (z, 2.5, 2.5)).close()
    found = upscale(tmp_path, "in.tif", "out.mhd", network(2, ndim=3))
    assert found.voxel_sizes_um == (None if lost else pytest.approx((5, 1.25, 1.25)))
    assert ("out.mhd: MetaImage holds the voxel sizes of all axes or none, and" in caplog.text) == lost
