"""Files through the API: images page by page, volumes by blocks, as the command does it."""

import sys

import numpy as np
import pytest
import tifffile
from commands import run
from conftest import texture
from volume_runs import network, source, whole

import srgan_dist
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
