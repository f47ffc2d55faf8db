import threading

import numpy as np
import pytest
import tifffile
import torch
from conftest import texture
from PIL import Image

from srgan_dist.data.image_files import read_info, read_pages
from srgan_dist.data.value_range import to_grey_levels
from srgan_dist.evaluation.super_resolve import (
    super_resolve,
    super_resolve_pages,
    super_resolve_window,
)
from srgan_dist.evaluation.super_resolve_files import super_resolve_files
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.utils.errors import UserError


def network(scale=4, blocks=1, ndim=2):
    torch.manual_seed(1)
    config = SRResNetConfig(
        ndim=ndim, scale=scale, num_blocks=blocks, num_filters=8, tanh=False, init_std=None
    )
    generator = SRResNet(config).eval()
    torch.nn.init.constant_(generator.tail.weight, 0.4)
    return generator


def volume_of(depth, height, width, dtype=np.uint8):
    return np.stack([texture(seed, height, width, dtype) for seed in range(depth)])


def super_resolve_grey(generator, lr, tile=None):
    (page,) = super_resolve_pages(generator, [(0, lr)], tile)
    return page


def super_resolve_volume(generator, lr, tile=None):
    return np.stack(list(super_resolve_pages(generator, [(0, lr)], tile)))


def super_resolve_file(generator, info, path, tile=None):
    assert list(super_resolve_files(generator, [(info, path)], tile)) == [(info, path)]


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale, blocks", [(2, 1), (4, 1), (4, 2), (8, 1)])
@pytest.mark.parametrize("tile", [7, 16, 33])
def test_tiles_give_the_untiled_result(dtype, scale, blocks, tile):
    generator, lr = network(scale, blocks), texture(0, 41, 37, dtype)
    whole = super_resolve_grey(generator, lr, tile=1000)
    assert whole.shape == (41 * scale, 37 * scale) and whole.dtype == dtype and whole.std() > 3
    tiled = super_resolve_grey(generator, lr, tile)
    assert np.abs(tiled.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("scale, tile", [(2, 5), (2, 8), (3, 6)])
def test_tiles_of_a_volume_give_the_untiled_result(scale, tile, threads):
    generator, lr = network(scale, ndim=3), volume_of(13, 12, 14, np.uint16)
    whole = super_resolve_volume(generator, lr, tile=1000)
    assert whole.shape == (13 * scale, 12 * scale, 14 * scale) and whole.dtype == np.uint16
    tiled = super_resolve_volume(generator, lr, tile)
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    with torch.no_grad():
        signed = generator(torch.from_numpy(lr.astype(np.float32))[None, None] / 65535 * 2 - 1)[0, 0]
    unit = ((signed + 1) / 2).clamp(0, 1).numpy()
    assert np.abs(whole - unit * 65535).max() <= 1 and whole.std() > 3


def test_a_window_of_volumes_is_a_part_of_the_whole():
    generator, lr = (
        network(2, ndim=3),
        np.stack([volume_of(12, 13, 14), volume_of(12, 14, 13).swapaxes(1, 2)]),
    )
    whole = super_resolve(generator, lr)
    assert whole.shape == (2, 24, 26, 28)
    assert torch.allclose(whole, super_resolve(generator, lr, tile=6), atol=1e-6)
    window = super_resolve_window(generator, lr, (slice(6, 7), slice(0, 9), slice(5, 14)))
    assert torch.allclose(window, whole[:, 12:14, :18, 10:], atol=1e-6)


def test_a_window_is_a_part_of_the_whole():
    generator, lr = network(blocks=2), np.stack([texture(seed, 41, 37) for seed in range(2)])
    whole = super_resolve(generator, lr)
    assert whole.shape == (2, 164, 148) and torch.allclose(
        whole[1], super_resolve(generator, lr[1]), atol=1e-6
    )
    window = super_resolve_window(generator, lr, (slice(5, 21), slice(0, 30)))
    assert torch.allclose(window, whole[:, 20:84, :120], atol=1e-6)


def test_pages_of_several_files_are_computed_by_all_threads_and_written_in_order(tmp_path, threads):
    volumes = {
        name: [texture(10 * number + page, 20 + number, 24) for page in range(pages)]
        for number, (name, pages) in enumerate({"a": 3, "b": 1, "c": 4}.items())
    }
    for name, pages in volumes.items():
        np.save(tmp_path / f"{name}.npy", np.stack(pages))
    generator, seen = network(), set()
    generator.head.register_forward_hook(
        lambda *_: seen.add((threading.get_ident(), torch.get_num_threads()))
    )
    jobs = [(read_info(tmp_path / f"{name}.npy"), tmp_path / f"{name}_sr.npy") for name in volumes]
    assert list(super_resolve_files(generator, jobs, tile=9)) == jobs
    assert {count for _, count in seen} == {1} and len(seen) == threads
    for name, pages in volumes.items():
        for lr, sr in zip(pages, read_pages(tmp_path / f"{name}_sr.npy"), strict=True):
            assert np.array_equal(sr, super_resolve_grey(generator, lr, tile=9))


def test_a_file_that_cannot_be_read_is_named_after_those_before_it_are_written(tmp_path, threads):
    for name in "ab":
        tifffile.imwrite(
            tmp_path / f"{name}.tif",
            np.stack([texture(page, 20, 24) for page in range(2)]),
            photometric="minisblack",
        )
    jobs = [(read_info(tmp_path / f"{name}.tif"), tmp_path / f"{name}_sr.tif") for name in "ab"]
    tifffile.imwrite(tmp_path / "b.tif", texture(0, 20, 24), photometric="minisblack")  # now of one page
    done = []
    with pytest.raises(UserError, match=r"b.tif has 1 slices of 20x24 uint8 now and had 2 of"):
        for job in super_resolve_files(network(), jobs):
            done.append(job)
    assert done == jobs[:1] and (tmp_path / "a_sr.tif").exists() and not (tmp_path / "b_sr.tif").exists()


def test_the_float_and_the_grey_result_agree_with_the_network():
    generator, lr = network(), texture(2, 20, 24)
    with torch.no_grad():
        signed = generator(torch.from_numpy(lr).float().div(255).mul(2).sub(1)[None, None])[0, 0]
    unit = ((signed + 1) / 2).clamp(0, 1)
    assert torch.allclose(super_resolve(generator, lr), unit, atol=1e-6)
    assert (
        np.abs(super_resolve_grey(generator, lr).astype(int) - to_grey_levels(unit.numpy(), np.uint8)).max()
        <= 1
    )


def test_the_network_never_sees_more_than_a_tile_and_its_surroundings():
    generator, seen = network(), []
    generator.head.register_forward_hook(lambda m, inputs, o: seen.append(inputs[0].shape[-2:]))
    super_resolve_grey(generator, texture(0, 300, 200), tile=32)
    limit = 32 + 2 * generator.tile_overlap
    assert max(max(shape) for shape in seen) == limit


def test_files_keep_type_pages_and_scaled_tags(tmp_path):
    volume = np.stack([texture(i, 20, 24, np.uint16) for i in range(3)])
    tifffile.imwrite(
        tmp_path / "in.tif",
        volume,
        photometric="minisblack",
        resolution=(0.5, 0.25),
        resolutionunit=1,
        description="ImageJ=1.53\nunit=um",
        metadata=None,
    )
    super_resolve_file(network(), read_info(tmp_path / "in.tif"), tmp_path / "out.tif")
    info = read_info(tmp_path / "out.tif")
    assert (info.shape, info.dtype, info.voxel_sizes_um) == ((3, 80, 96), np.uint16, (None, 1, 0.5))
    assert info.tags["resolution"] == ((2, 1), (1, 1)) and info.tags["description"] == "ImageJ=1.53\nunit=um"
    for page, lr in zip(read_pages(tmp_path / "out.tif"), volume, strict=True):
        assert np.array_equal(page, super_resolve_grey(network(), lr))
    Image.fromarray(texture(0, 20, 24)).save(tmp_path / "in.png", dpi=(1000, 1000))
    super_resolve_file(network(), read_info(tmp_path / "in.png"), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.info["dpi"][0] == pytest.approx(4000, rel=1e-3)


def test_a_volume_file_becomes_finer_along_all_axes(tmp_path):
    volume, generator = volume_of(5, 12, 14), network(2, ndim=3)
    tifffile.imwrite(
        tmp_path / "in.tif",
        volume,
        photometric="minisblack",
        resolution=(0.5, 0.5),
        resolutionunit=1,
        description="ImageJ=1.53\nunit=um\nspacing=3.0",
        metadata=None,
    )
    super_resolve_file(generator, read_info(tmp_path / "in.tif"), tmp_path / "out.tif", tile=4)
    info = read_info(tmp_path / "out.tif")
    assert (info.slices, info.height, info.width, info.voxel_size_um) == (10, 24, 28, 1)
    assert info.tags["description"] == "ImageJ=1.53\nunit=um\nspacing=1.5"
    pages = list(read_pages(tmp_path / "out.tif"))
    assert np.array_equal(pages, super_resolve_volume(generator, volume, tile=4))


def test_a_target_that_appears_meanwhile_is_left_alone(tmp_path):
    Image.fromarray(texture(0, 20, 24)).save(tmp_path / "in.png")
    generator, output = network(), tmp_path / "out.png"
    generator.head.register_forward_pre_hook(lambda *_: output.write_text("precious") and None)
    with pytest.raises(UserError, match="out.png exists by now and is left as it is"):
        super_resolve_file(generator, read_info(tmp_path / "in.png"), output)
    assert output.read_text() == "precious"


def test_a_full_gpu_is_an_error_with_the_way_out(tmp_path):
    def fill(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    Image.fromarray(texture(0, 20, 24)).save(tmp_path / "in.png")
    generator = network()
    generator.head.register_forward_hook(fill)
    with pytest.raises(UserError, match="in.png: .* is too small for --tile 16 .*; use a smaller"):
        super_resolve_file(generator, read_info(tmp_path / "in.png"), tmp_path / "out.png", tile=16)
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]
