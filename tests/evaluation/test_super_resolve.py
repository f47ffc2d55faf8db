import subprocess
import sys
import threading

import numpy as np
import pytest
import tifffile
import torch
from conftest import REPOSITORY, texture
from PIL import Image

from srgan_dist.data.image_files import read_image, read_info, read_pages
from srgan_dist.data.value_range import to_grey_levels
from srgan_dist.evaluation.super_resolve import (
    depth_scale,
    list_jobs,
    super_resolve,
    super_resolve_files,
    super_resolve_pages,
    super_resolve_window,
)
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import save_generator
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
    (page,) = super_resolve_pages(generator, [lr], tile)
    return page


def super_resolve_volume(generator, lr, tile=None):
    return np.stack(list(super_resolve_pages(generator, [lr], tile)))


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
    tifffile.imwrite(
        tmp_path / "b.tif", texture(0, 20, 24), photometric="minisblack"
    )  # a page less than was seen
    done = []
    with pytest.raises(UserError, match=r"b.tif has 1 pages now and had 2 before"):
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


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights" / "g.safetensors"
    save_generator(path, network(), {})
    return path


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
    assert (info.pages, info.height, info.width, info.dtype, info.voxel_size_um) == (
        3,
        80,
        96,
        np.uint16,
        0.5,
    )
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
    assert (info.pages, info.height, info.width, info.voxel_size_um) == (10, 24, 28, 1)
    assert info.tags["description"] == "ImageJ=1.53\nunit=um\nspacing=1.5"
    pages = list(read_pages(tmp_path / "out.tif"))
    assert np.array_equal(pages, super_resolve_volume(generator, volume, tile=4))


def test_a_slice_that_becomes_a_volume_needs_a_format_with_pages(tmp_path):
    Image.fromarray(texture(0, 20, 24)).save(tmp_path / "in.png")
    with pytest.raises(UserError, match="out.png: PNG holds one page, not 2"):
        list_jobs(tmp_path / "in.png", tmp_path / "out.png", depth_scale(network(2, ndim=3)))
    jobs, _ = list_jobs(tmp_path / "in.png", tmp_path / "out.npy", depth_scale(network(2, ndim=3)))
    assert list(super_resolve_files(network(2, ndim=3), jobs)) == jobs
    assert np.load(tmp_path / "out.npy").shape == (2, 40, 48)


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
    with pytest.raises(
        UserError, match="in.png: the memory of .* is too small for --tile 16; use a smaller --tile"
    ):
        super_resolve_file(generator, read_info(tmp_path / "in.png"), tmp_path / "out.png", tile=16)
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def make_folder(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(0, 20, 24)).save(root / name)
    return root


def test_a_folder_is_taken_with_its_linked_folders_and_other_files_are_named(tmp_path):
    folder = make_folder(tmp_path / "in", "b10.png", "b9.png", ".trash/c.png")
    (folder / "linked").symlink_to(make_folder(tmp_path / "else", "d.png"))
    (folder / "notes.txt").touch()
    jobs, notes = list_jobs(folder, tmp_path / "out")
    assert [str(output.relative_to(tmp_path / "out")) for _, output in jobs] == [
        "b9.png",
        "b10.png",
        "linked/d.png",
    ]
    assert notes == [f"{folder}: 1 files are not PNG, TIFF or NPY and are left out: notes.txt"]


def test_all_faults_of_a_folder_are_listed_at_once(tmp_path):
    folder = make_folder(tmp_path / "in", "good.png", "there.png")
    make_folder(tmp_path / "out", "there.png")
    Image.fromarray(texture(0, 20, 24)).convert("RGBA").save(folder / "alpha.png")
    np.save(folder / "float.npy", np.zeros((4, 5), np.float32))
    (folder / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    (folder / "scans").symlink_to(tmp_path / "not mounted")
    with pytest.raises(UserError) as error:
        list_jobs(folder, tmp_path / "out")
    for words in (
        "5 faults found, nothing was written",
        "alpha.png: is a PNG of type RGB with alpha",
        "float.npy: pixels are float32",
        "gone.tif: is a broken link",
        "scans: is a broken link",
        f"OUTPUT={tmp_path / 'out' / 'there.png'} exists",
    ):
        assert words in str(error.value)
    assert "good.png" not in str(error.value)


def test_a_folder_does_not_go_into_itself_or_into_a_file(tmp_path):
    folder = make_folder(tmp_path / "in", "a.png")
    (tmp_path / "alias").symlink_to(folder)
    (tmp_path / "notes").touch()
    for target in (folder, folder / "out", tmp_path / "alias" / "out"):
        with pytest.raises(
            UserError, match="OUTPUT=.* is inside INPUT=.*; give a folder elsewhere|give a folder elsewhere"
        ):
            list_jobs(folder, target)
    for target in (tmp_path / "notes", tmp_path / "out.tif"):
        with pytest.raises(
            UserError, match=f"OUTPUT={target} names a file, but INPUT={folder} is a folder; give a folder"
        ):
            list_jobs(folder, target)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "launch/super_resolve.py", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def test_the_command_on_a_file_and_on_a_folder(tmp_path, weights):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(texture(0, 20, 24)).save(folder / "a.PNG")
    np.save(folder / "deep" / "b.npy", np.stack([texture(1, 20, 24, np.uint16)] * 2))
    one = run(weights, folder / "a.PNG", tmp_path / "one.tif")
    assert one.returncode == 0 and "1 x 80 x 96 uint8" in one.stdout, one.stderr
    assert np.array_equal(read_image(tmp_path / "one.tif"), super_resolve_grey(network(), texture(0, 20, 24)))
    many = run(weights, folder, tmp_path / "out")
    assert many.returncode == 0 and "2 images written" in many.stdout, many.stderr
    assert read_info(tmp_path / "out" / "a.PNG").dtype == np.uint8
    volume = read_info(tmp_path / "out" / "deep" / "b.npy")
    assert (volume.pages, volume.height, volume.dtype) == (2, 80, np.uint16)
    again = run(weights, folder, tmp_path / "out")
    assert (
        again.returncode == 1
        and "exists; give another name" in again.stderr
        and "Traceback" not in again.stderr
    )


def test_impossible_outputs_are_refused_before_anything_is_computed(tmp_path, weights):
    np.save(tmp_path / "volume.npy", np.zeros((2, 20, 24), np.uint8))
    (tmp_path / "empty").mkdir()
    for source, target, words in (
        ("nowhere.png", "out.png", "INPUT=.*nowhere.png does not exist"),
        ("empty", "out", "holds no image"),
        ("volume.npy", "out.png", "out.png: PNG holds one page, not 2; write .tif or .npy"),
        (
            "volume.npy",
            "out.jpg",
            "out.jpg: format '.jpg' is not written; give a name that ends in one of .png",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            list_jobs(tmp_path / source, tmp_path / target)
    failed = run(tmp_path / "volume.npy", tmp_path / "volume.npy", tmp_path / "out.npy")
    assert (
        failed.returncode == 1
        and "volume.npy is not a safetensors file" in failed.stderr
        and "Traceback" not in failed.stderr
    )


def test_a_late_failure_says_how_many_outputs_there_are(tmp_path, weights):
    folder = make_folder(tmp_path / "in", "a.png", "b.png")
    (folder / "notes.txt").touch()
    data = bytearray((folder / "b.png").read_bytes())
    data[len(data) // 2] ^= 4
    (folder / "b.png").write_bytes(data)
    failed = run(weights, folder, tmp_path / "out")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "left out: notes.txt" in failed.stderr and "1 of 2 outputs were written" in failed.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
