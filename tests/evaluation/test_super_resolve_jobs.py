"""Files through the API: images page by page, volumes by blocks, as the command does it."""

import sys

import numpy as np
import pytest
import tifffile
import zarr
from commands import run
from conftest import texture
from volume_runs import network, source, whole

import srgan_dist
from srgan_dist.data.image_files import read_header
from srgan_dist.data.noise import Noise
from srgan_dist.evaluation.super_resolve_files import spread_path
from srgan_dist.evaluation.super_resolver import SuperResolver
from srgan_dist.models.weights_file import save_generator


@pytest.fixture
def weights(tmp_path):
    save_generator(tmp_path / "g.safetensors", network(noise=2), {"window": "-500.0:1500.0"})
    return tmp_path / "g.safetensors"


@pytest.mark.parametrize("samples", [None, 3])
def test_a_volume_in_memory_is_enlarged_block_by_block(samples):
    generator = network(noise=2)
    voxels = np.stack([texture(seed, 24, 28) for seed in range(20)])
    sides, options = [], {"noise": Noise(3), "samples": samples}
    expected = whole(generator, voxels, **options)
    generator.tail.register_forward_hook(lambda *args: sides.append(max(args[2].shape[2:])))
    found = SuperResolver(generator)(voxels, tile=6, noise_seed=3, samples=samples)
    assert max(sides) == 2 * (6 + 2 * generator.upsampling_overlap) < 48
    for one, other in zip(*([x] if samples is None else x for x in (found, expected)), strict=True):
        assert one.dtype == other.dtype and np.abs(one.astype(float) - other).max() <= 1


def test_the_api_gives_the_bytes_of_the_command(tmp_path, weights):
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "float.npy", source(tmp_path / "float.mhd", np.float32) * 4 - 100)
    source(folder / "grey.npy")
    tifffile.imwrite(folder / "image.tif", texture(0, 12, 14))
    found = srgan_dist.super_resolve(weights, folder, tmp_path / "api", tile=5, device="cpu", samples=2)
    assert [path.name for path in found] == ["image.tif", "float.npy", "grey.npy"]
    done = run(
        sys.executable,
        "launch/super_resolve.py",
        weights,
        folder,
        tmp_path / "command",
        "--tile",
        5,
        "--samples",
        2,
    )
    assert done.returncode == 0 and "3 images written to" in done.stdout, done.stderr
    for path in found + [spread_path(path) for path in found]:
        assert path.read_bytes() == (tmp_path / "command" / path.name).read_bytes()
    assert np.load(tmp_path / "api" / "float.npy").dtype == np.float32


def test_slices_in_a_folder_are_no_volumes_of_one_voxel(tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    for number in range(3):
        tifffile.imwrite(folder / f"{number}.tif", texture(number, 12, 14))
    weights = tmp_path / "w.safetensors"
    save_generator(weights, network(), {})
    with pytest.raises(srgan_dist.UserError, match=r"slices: holds 3 slices, .* an OUTPUT that ends in"):
        srgan_dist.super_resolve(weights, folder, tmp_path / "out", device="cpu")
    (output,) = srgan_dist.super_resolve(weights, folder, tmp_path / "o.tif", device="cpu")
    assert tifffile.imread(output).shape == (6, 24, 28)


# Formats and voxels without a header


@pytest.fixture
def plain(tmp_path):
    """Weights of a 2-D and of a 3-D generator without noise."""
    paths = {ndim: tmp_path / f"{ndim}.safetensors" for ndim in (2, 3)}
    for ndim, path in paths.items():
        save_generator(path, network(ndim=ndim), {})
    return paths


@pytest.mark.parametrize("ndim", [2, 3])
def test_voxels_without_a_header_are_read_as_the_option_says(tmp_path, plain, ndim):
    voxels = source(tmp_path / "in.npy", np.uint16)
    (tmp_path / "core.raw").write_bytes(b"header." + voxels.astype(">u2").tobytes())
    options = {"raw": "13x12x14,uint16,big,7", "device": "cpu"}
    srgan_dist.super_resolve(plain[ndim], tmp_path / "core.raw", tmp_path / "raw.npy", **options)
    srgan_dist.super_resolve(plain[ndim], tmp_path / "in.npy", tmp_path / "npy.npy", device="cpu")
    assert (tmp_path / "raw.npy").read_bytes() == (tmp_path / "npy.npy").read_bytes()


def scans(folder):
    """Write volumes of formats that are read; .mhd is written too, with a 3-D generator."""
    voxels = source(folder / "a.mhd")
    voxels.tofile(folder / "b_14x12x13_uint8.raw")
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 14 12 13\nspacings: 2 3 4\nencoding: raw\n\n"
    (folder / "c.nrrd").write_bytes(header.encode() + voxels.tobytes())
    return voxels


def test_a_folder_of_any_formats_has_outputs_of_the_same_names(tmp_path, plain, caplog):
    folder = tmp_path / "in"
    folder.mkdir()
    voxels = scans(folder)
    slices = srgan_dist.super_resolve(plain[2], folder, tmp_path / "slices", device="cpu")
    assert [path.name for path in slices] == ["a.tif", "b_14x12x13_uint8.tif", "c.tif"]
    assert (
        "outputs of .mhd, .nrrd, .raw are TIFF, as these are not written (3 files); --format" in caplog.text
    )
    blocks = srgan_dist.super_resolve(plain[3], folder, tmp_path / "blocks", device="cpu")
    assert [path.name for path in blocks] == ["a.mhd", "b_14x12x13_uint8.tif", "c.tif"]
    expected = whole(network(), voxels).astype(int)
    for path in blocks:
        volume = read_header(path)
        assert np.abs(volume.read((0, 0, 0), volume.shape) - expected).max() <= 1
    assert read_header(slices[0]).voxel_sizes_um == (4.0, 1.5, 1.0)  # of a.mhd

    again = srgan_dist.super_resolve(plain[3], folder, tmp_path / "blocks", device="cpu")
    assert again == blocks  # kept
    chosen = srgan_dist.super_resolve(plain[3], folder, tmp_path / "chosen", device="cpu", format="npy")
    assert [path.name for path in chosen] == ["a.npy", "b_14x12x13_uint8.npy", "c.npy"]
    (into,) = srgan_dist.super_resolve(plain[3], folder / "c.nrrd", tmp_path / "chosen", device="cpu")
    assert into.name == "c.tif"


def test_chunks_that_a_zarr_store_lacks_are_told(tmp_path, plain, caplog):
    voxels = source(tmp_path / "in.npy")
    zarr.create_array(tmp_path / "in.zarr", data=voxels, chunks=(7, 6, 7))
    (tmp_path / "in.zarr" / "c" / "1" / "0" / "1").unlink()
    srgan_dist.super_resolve(plain[2], tmp_path / "in.zarr", tmp_path / "out.tif", device="cpu")
    assert "in.zarr: 1 of the 8 chunks of its array (12 %) are not stored" in caplog.text


def test_outputs_of_one_name_and_formats_that_are_not_written_are_named(tmp_path, plain):
    folder = tmp_path / "in"
    folder.mkdir()
    scans(folder)
    with pytest.raises(srgan_dist.UserError, match="--format nrrd is not written; give one of png, tif"):
        srgan_dist.super_resolve(plain[2], folder, tmp_path / "out", device="cpu", format="nrrd")
    tifffile.imwrite(folder / "c.tif", texture(0, 12, 14))
    with pytest.raises(srgan_dist.UserError, match=r"out/c.tif would be written 2 times; rename one"):
        srgan_dist.super_resolve(plain[2], folder, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_another_reading_of_raw_voxels_does_not_continue(tmp_path, plain):
    folder = tmp_path / "in"
    folder.mkdir()
    source(tmp_path / "in.npy").tofile(folder / "core.raw")
    options = {"device": "cpu", "raw": "13x12x14,uint8"}
    srgan_dist.super_resolve(plain[2], folder, tmp_path / "out", **options)
    options["raw"] = "12x13x14,uint8"
    with pytest.raises(srgan_dist.UserError, match="core.tif was made with other values of: its shape"):
        srgan_dist.super_resolve(plain[2], folder, tmp_path / "out", **options)


# Options


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("window", ["1e6:2e6", "-50:-1"])
def test_a_window_without_a_value_of_the_input_is_refused(tmp_path, plain, ndim, window):
    np.save(tmp_path / "in.npy", source(tmp_path / "grey.npy").astype(np.float32))
    low, high = np.load(tmp_path / "in.npy").min(), np.load(tmp_path / "in.npy").max()
    shown = ":".join(str(float(value)) for value in window.split(":"))
    words = rf"in.npy: the window {shown} holds none of its values, which are {low:g} to {high:g}: all of it"
    paths = plain[ndim], tmp_path / "in.npy", tmp_path / "out.npy"
    with pytest.raises(srgan_dist.UserError, match=words):
        srgan_dist.super_resolve(*paths, device="cpu", window=window)
    assert not paths[2].exists()
    srgan_dist.super_resolve(*paths, device="cpu", window=f"{high}:1e4")  # one value of it is enough


def test_a_smaller_halo_is_the_same_by_files_and_in_memory(tmp_path, plain):
    voxels = source(tmp_path / "in.npy")
    options = {"device": "cpu", "tile": 6}
    srgan_dist.super_resolve(plain[3], tmp_path / "in.npy", tmp_path / "0.npy", halo=0, **options)
    srgan_dist.super_resolve(plain[3], tmp_path / "in.npy", tmp_path / "exact.npy", **options)
    by_files, exact = (np.load(tmp_path / name).astype(int) for name in ("0.npy", "exact.npy"))
    resolver = srgan_dist.load_generator(plain[3], device="cpu")
    assert np.abs(resolver(voxels, tile=6, halo=0).astype(int) - by_files).max() <= 1
    assert np.abs(by_files - exact).max() > 1
    for ndim, shape, halo, words in (
        (2, (12, 14), 1, "halo=1 is for volumes of a 3-D generator, and this one is 2-D"),
        (3, (13, 12, 14), 6, "halo=6 must be 0 to 5"),
    ):
        with pytest.raises(srgan_dist.UserError, match=words):
            srgan_dist.load_generator(plain[ndim], device="cpu")(np.zeros(shape, np.uint8), halo=halo)
    with pytest.raises(srgan_dist.UserError, match="halo=1 is for volumes of a 3-D generator"):
        srgan_dist.super_resolve(plain[2], tmp_path / "in.npy", tmp_path / "out.npy", device="cpu", halo=1)


def test_an_array_with_a_last_axis_of_one_is_refused_with_both_ways_out(tmp_path, plain):
    np.save(tmp_path / "in.npy", np.zeros((12, 14, 1), np.uint8))
    words = r"in.npy: has shape \(12, 14, 1\): an image \[H, W, 1\] .* array\[..., 0\].* numpy.moveaxis"
    with pytest.raises(srgan_dist.UserError, match=words):
        srgan_dist.super_resolve(plain[2], tmp_path / "in.npy", tmp_path / "out.npy", device="cpu")
