"""Volumes of any size, block by block: the voxels of the whole, interruptions, full disks."""

import os
import re

import numpy as np
import pytest
import torch
from conftest import full_disk
from volume_runs import Stopped, by_blocks, network, source, stop_after, whole

from srgan_dist.data.image_files import read_header
from srgan_dist.data.noise import Noise
from srgan_dist.data.window import Window
from srgan_dist.evaluation import super_resolve
from srgan_dist.evaluation.super_resolve import NOISE
from srgan_dist.evaluation.super_resolve_volume import super_resolve_volume
from srgan_dist.evaluation.unfinished_volume import folder_of
from srgan_dist.models import build_generator
from srgan_dist.models.rrdb import RRDBConfig
from srgan_dist.models.srresnet import SRResNetConfig
from srgan_dist.utils.errors import UserError


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale": 3, "upsampling": "nearest_after", "tail_kernel": 3},
        {"upsampling": "trilinear", "input_skip": True, "noise": 2},
        {"scale": 4, "upsampling": "nearest_before", "noise": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", [".npy", ".tif", ".mhd", ".zarr"])
def test_blocks_agree_with_the_whole(tmp_path, changes, suffix):
    generator, noise = network(**changes), Noise(3) if "noise" in changes else NOISE
    voxels = source(tmp_path / f"in{suffix}", np.uint16)
    expected = whole(generator, voxels, noise)
    found = by_blocks(generator, tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", noise=noise)
    assert np.abs(found.astype(int) - expected).max() <= 1 and expected.std() > 3
    sizes, scale = read_header(tmp_path / f"out{suffix}").voxel_sizes_um, generator.config.scale
    assert sizes == (None if suffix == ".npy" else pytest.approx((4 / scale, 3 / scale, 2 / scale)))
    assert not folder_of(tmp_path / f"out{suffix}").exists()


class Plain(torch.nn.Module):
    """A generator that has no parts: only what docs/extending.md asks for."""

    tile_overlap = 1

    def __init__(self):
        super().__init__()
        self.config = SRResNetConfig(ndim=3, scale=2)
        self.conv = torch.nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, lr):
        return torch.nn.functional.interpolate(self.conv(lr), scale_factor=2)


def dense():
    config = RRDBConfig(name="rrdb", ndim=3, scale=2, num_blocks=1, num_filters=4, growth=2)
    return build_generator(config).eval()


@pytest.mark.parametrize("make", [Plain, dense])
def test_other_generators_agree_with_the_whole(tmp_path, make):
    torch.manual_seed(0)
    generator, voxels = make(), source(tmp_path / "in.npy")
    expected = whole(generator, voxels)
    found = by_blocks(generator, tmp_path / "in.npy", tmp_path / "out.npy")
    assert np.abs(found.astype(int) - expected).max() <= 1 and expected.std() > 2


def test_a_smaller_halo_says_how_far_it_is_from_the_exact_one(tmp_path):
    source(tmp_path / "in.npy")
    generator, said = network(), []
    by_blocks(generator, tmp_path / "in.npy", tmp_path / "out.npy", halo=1, tell=said.append)
    assert len(said) == 1 and "halo 1 in place of 5: in the middle block grey levels differ by" in said[0]
    with pytest.raises(UserError, match="halo=6 must be 0 to 5"):
        by_blocks(generator, tmp_path / "in.npy", tmp_path / "other.npy", halo=6)


def test_the_deviation_is_computed_in_a_block_that_fits_with_the_whole_halo(tmp_path, monkeypatch):
    monkeypatch.setitem(super_resolve.ACTIVATION_BYTES, "cpu", 1)  # so that the default tile is 32
    source(tmp_path / "in.npy", shape=(40, 12, 14))
    said, depths, generator = [], [], network()
    features = generator.features
    monkeypatch.setattr(generator, "features", lambda lr: depths.append(lr.shape[2]) or features(lr))
    by_blocks(generator, tmp_path / "in.npy", tmp_path / "out.npy", tile=40, halo=1, tell=said.append)
    assert "halo 1 in place of 5: in a corner of the middle block grey levels differ by" in said[0]
    assert depths == [40, 37, 40]  # of the block, 32 of it with a halo of 5, and the block again


def test_values_of_a_window_are_mapped_back(tmp_path):
    """-500 .. 1500 as 16-bit grey levels and back: half a grey level is 0.015."""
    voxels = source(tmp_path / "in.mhd", np.float32) * 4 - 100
    np.save(tmp_path / "in.npy", voxels)
    window, generator = Window(-500.0, 1500.0), network()
    found = by_blocks(generator, tmp_path / "in.npy", tmp_path / "out.npy", window=window)
    expected = window.from_grey_levels(whole(generator, window.to_grey_levels(voxels, np.uint16)), np.float32)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 0.031


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".mhd", ".zarr"])
def test_a_stopped_run_continues(tmp_path, suffix):
    generator, path, said, started = network(), tmp_path / "in.npy", [], []
    source(path)
    expected = by_blocks(generator, path, tmp_path / f"whole{suffix}")
    output = tmp_path / f"out{suffix}"
    with pytest.raises(Stopped):
        by_blocks(generator, path, output, progress=stop_after(10))
    assert not output.exists()
    with open(folder_of(output) / "blocks.0.jsonl", "ab") as journal:
        journal.write(b'{"block": 1')  # cut short by a power failure

    def count(numbers, total):
        started.extend(numbers)
        return numbers

    found = by_blocks(generator, path, output, tell=said.append, progress=count)
    assert np.array_equal(found, expected) and started == list(range(10, 27))
    assert said == [f"{output}: continues, 10 of 27 blocks are done"]


def test_what_a_killed_process_left_of_a_chunk_is_removed(tmp_path):
    output = tmp_path / "out.zarr"
    source(tmp_path / "in.npy")
    with pytest.raises(Stopped):
        by_blocks(network(), tmp_path / "in.npy", output, progress=stop_after(10))
    (folder_of(output) / "out.zarr/0/c/0/0/1.bf95e9d3.partial").touch()  # as zarr names it
    by_blocks(network(), tmp_path / "in.npy", output)
    assert len(list((output / "0" / "c").rglob("*.*"))) == 0


def test_an_unfinished_output_of_other_settings_is_named(tmp_path):
    generator, path, output = network(), tmp_path / "in.npy", tmp_path / "out.npy"
    source(path)
    with pytest.raises(Stopped):
        by_blocks(generator, path, output, progress=stop_after(3))
    with pytest.raises(
        UserError, match=r"other values of: tile\. .*delete .*\.out\.npy\.unfinished to start"
    ):
        by_blocks(generator, path, output, tile=6)
    with pytest.raises(UserError, match="other values of: weights"):
        super_resolve_volume(generator, read_header(path), output, "others", tile=5)
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="its files"):
        by_blocks(generator, path, output)


def test_an_output_that_appears_meanwhile_is_left_as_it_is(tmp_path):
    source(tmp_path / "in.npy")
    output = tmp_path / "out.npy"

    def progress(numbers, total):
        yield from numbers
        output.write_bytes(b"mine")

    with pytest.raises(UserError, match="out.npy exists by now"):
        by_blocks(network(), tmp_path / "in.npy", output, progress=progress)
    assert output.read_bytes() == b"mine"


def test_a_second_process_on_the_same_output_is_refused(tmp_path):
    source(tmp_path / "in.npy")

    def progress(numbers, total):
        with pytest.raises(UserError, match="out.npy is being written by another process"):
            by_blocks(network(), tmp_path / "in.npy", tmp_path / "out.npy")
        return numbers

    by_blocks(network(), tmp_path / "in.npy", tmp_path / "out.npy", progress=progress)


def test_a_disk_that_gets_full_is_named_and_the_run_continues(tmp_path):
    source(tmp_path / "in.npy")
    generator, output = network(), tmp_path / "out.npy"
    expected = by_blocks(generator, tmp_path / "in.npy", tmp_path / "whole.npy")

    def progress(numbers, total):
        with full_disk(9000):
            yield from numbers

    with pytest.raises(UserError, match=r"out.npy cannot .* needs up to .* bytes, its disk has [\d,]+ free"):
        by_blocks(generator, tmp_path / "in.npy", output, progress=progress)
    assert np.array_equal(by_blocks(generator, tmp_path / "in.npy", output), expected)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".mhd", ".zarr"])
@pytest.mark.parametrize("samples, needed", [(None, 2.048e12), (2, 10.24e12)])
def test_a_disk_that_is_too_small_is_named_before_the_work(tmp_path, suffix, samples, needed):
    """The spread needs four bytes per voxel beside one of the mean."""
    np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.uint8, (1000, 2000, 2000))
    generator = network(scale=8, noise=1)
    with pytest.raises(UserError, match="more bytes, and its disk has [0-9,]+ free; make room") as error:
        by_blocks(generator, tmp_path / "in.npy", tmp_path / f"out{suffix}", tile=400, samples=samples)
    found = int(re.search(r"needs up to ([0-9,]+)", str(error.value))[1].replace(",", ""))
    assert needed * 0.999 < found < needed * 1.02
    assert [path.name for path in tmp_path.iterdir()] == ["in.npy"]


def test_a_volume_may_have_the_longest_name(tmp_path):
    voxels, output = source(tmp_path / "in.npy"), tmp_path / f"{'o' * 251}.npy"
    expected = whole(network(), voxels)
    with pytest.raises(Stopped):
        by_blocks(network(), tmp_path / "in.npy", output, progress=stop_after(2))
    assert np.array_equal(by_blocks(network(), tmp_path / "in.npy", output), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", output.name]
