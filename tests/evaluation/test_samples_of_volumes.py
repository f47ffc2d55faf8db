"""Mean and spread of draws of the noise, of volumes block by block."""

import numpy as np
import pytest
from volume_runs import Stopped, by_blocks, network, source, stop_after, whole

from srgan_dist.data.image_files import read_header
from srgan_dist.data.noise import Noise
from srgan_dist.data.window import Window
from srgan_dist.evaluation.super_resolve_files import list_jobs, spread_path
from srgan_dist.evaluation.unfinished_volume import folder_of
from srgan_dist.utils.errors import UserError

SAMPLES = {"samples": 3, "noise": Noise(5)}


def noisy(**changes):
    generator = network(noise=2, **changes)
    generator.texture.amplitude.bias.data.fill_(0.2)
    return generator


def voxels_of(path):
    volume = read_header(path)
    return volume.read((0, 0, 0), volume.shape)


def bytes_below(path):
    files = sorted(path.rglob("*")) if path.is_dir() else [*path.parent.glob(f"{path.stem}.*")]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".mhd", ".zarr"])
def test_mean_and_spread_are_those_of_the_whole(tmp_path, suffix):
    generator, output = noisy(scale=3, upsampling="nearest_after"), tmp_path / f"out{suffix}"
    mean, spread = whole(generator, source(tmp_path / f"in{suffix}", np.uint16), **SAMPLES)
    found = by_blocks(generator, tmp_path / f"in{suffix}", output, **SAMPLES)
    assert np.abs(found.astype(int) - mean).max() <= 1 and found.dtype == np.uint16
    found = read_header(tmp_path / f"out_spread{suffix}")
    assert spread_path(output) == found.path and found.dtype == np.float32
    assert found.voxel_sizes_um == (None if suffix == ".npy" else pytest.approx((4 / 3, 1, 2 / 3)))
    assert np.allclose(voxels_of(found.path), spread, atol=0.05) and spread.mean() > 20
    assert not folder_of(output).exists()


def test_a_spread_has_the_unit_of_the_values(tmp_path):
    """Grey levels of 16 bits, mapped to -500 .. 1500."""
    np.save(tmp_path / "in.npy", source(tmp_path / "in.mhd", np.float32) * 4 - 100)
    window, generator = Window(-500.0, 1500.0), noisy()
    by_blocks(generator, tmp_path / "in.npy", tmp_path / "out.npy", window=window, **SAMPLES)
    grey_levels = window.to_grey_levels(np.load(tmp_path / "in.npy"), np.uint16)
    _, spread = whole(generator, grey_levels, **SAMPLES)
    assert np.allclose(np.load(tmp_path / "out_spread.npy"), spread * 2000 / 65535, atol=2e-3)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".mhd", ".zarr"])
def test_a_stopped_run_continues_with_the_same_bytes(tmp_path, suffix):
    generator, path, started = noisy(), tmp_path / "in.npy", []
    source(path)
    outputs = [tmp_path / name / f"out{suffix}" for name in ("one", "two")]
    for output in outputs:
        output.parent.mkdir()
    by_blocks(generator, path, outputs[0], **SAMPLES)
    with pytest.raises(Stopped):
        by_blocks(generator, path, outputs[1], progress=stop_after(10), **SAMPLES)
    for other in ({"samples": 4, "noise": Noise(5)}, {"noise": Noise(5)}):
        with pytest.raises(UserError, match="other values of: samples"):
            by_blocks(generator, path, outputs[1], **other)

    def count(numbers, total):
        started.extend(numbers)
        return numbers

    by_blocks(generator, path, outputs[1], progress=count, **SAMPLES)
    assert started == list(range(10, 27))
    for one, two in [outputs, [*map(spread_path, outputs)]]:
        assert bytes_below(one) == bytes_below(two) and bytes_below(one)


@pytest.mark.parametrize("suffix", [".npy", ".mhd", ".zarr"])
def test_a_run_that_ended_between_two_names_continues(tmp_path, suffix):
    generator, path, output = noisy(), tmp_path / "in.npy", tmp_path / f"out{suffix}"
    source(path)

    def taken(numbers, total):
        yield from numbers
        output.mkdir()

    with pytest.raises(UserError, match=f"out{suffix} exists by now"):
        by_blocks(generator, path, output, progress=taken, **SAMPLES)
    assert spread_path(output).exists()
    output.rmdir()
    assert list_jobs(path, output, samples=3, by_blocks=True)[0] == [(read_header(path), output)]
    found = by_blocks(generator, path, output, **SAMPLES)
    mean, spread = whole(generator, np.load(path), **SAMPLES)
    assert np.abs(found.astype(int) - mean).max() <= 1
    assert np.allclose(voxels_of(spread_path(output)), spread, atol=1e-3)
    assert not folder_of(output).exists()


def test_blocks_without_samples_are_kept_from_a_run_with_samples(tmp_path):
    source(tmp_path / "in.npy")
    output = tmp_path / "out.npy"
    with pytest.raises(Stopped):
        by_blocks(noisy(), tmp_path / "in.npy", output, progress=stop_after(10))
    with pytest.raises(UserError, match="other values of: noise, samples"):
        by_blocks(noisy(), tmp_path / "in.npy", output, **SAMPLES)
    assert (folder_of(output) / "blocks.0.jsonl").read_bytes().count(b"block") == 10
