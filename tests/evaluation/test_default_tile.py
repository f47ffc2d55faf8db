"""The default tile of a 3-D generator: as large a block as its activations allow."""

import math

import numpy as np
import pytest
import torch
from volume_runs import by_blocks, network, source

from srgan_dist.evaluation import super_resolve
from srgan_dist.evaluation.super_resolve import blocks_at_once, tile_or_default
from srgan_dist.models import build_generator
from srgan_dist.models.rrdb import RRDBConfig
from srgan_dist.models.srresnet import SRResNetConfig
from srgan_dist.models.summary import list_layers

OFFICIAL = {"upsampling": "nearest_after", "tail_kernel": 3}
LARGE = (500, 500, 500)


def generator(**changes):
    with torch.device("meta"):
        return build_generator(SRResNetConfig(ndim=3, **changes))


def test_the_largest_block_that_fits_is_taken(monkeypatch):
    """The paper's network: 7 maps of 64 channels over tile + 2 * 36, 5 of 512 numbers over tile + 2 * 2."""
    limit, tile = super_resolve.ACTIVATION_BYTES["gpu"], 80

    def bytes_of(tile):
        return 4 * max(7 * 64 * (tile + 72) ** 3, 5 * 512 * (tile + 4) ** 3)

    assert tile_or_default(None, generator(**OFFICIAL), LARGE) == tile
    assert bytes_of(tile) <= limit < bytes_of(tile + 8)
    assert tile_or_default(50, generator(**OFFICIAL), LARGE) == 50


def test_a_thread_of_a_cpu_has_half_a_gib():
    """One block of 8 channels: 7 maps over tile + 2 * 8, 5 of 64 numbers at x2 over tile + 2 * 1 or 2."""
    small = SRResNetConfig(ndim=3, scale=2, num_blocks=1, num_filters=8)
    tile = tile_or_default(None, build_generator(small), LARGE)
    assert 4 * 5 * 64 * (tile + 2) ** 3 <= 2**29 < 4 * 5 * 64 * (tile + 8 + 4) ** 3


def test_a_smaller_halo_or_volume_or_network_has_larger_blocks(monkeypatch):
    monkeypatch.setitem(super_resolve.ACTIVATION_BYTES, "gpu", 2**31)
    official = generator(**OFFICIAL)
    assert tile_or_default(None, official, LARGE) == 32
    assert tile_or_default(None, official, LARGE, halo=0) == 48
    assert tile_or_default(None, official, (30, 500, 500)) == 72
    assert tile_or_default(None, official, (40, 40, 40)) == 128
    assert tile_or_default(None, generator(num_blocks=1, num_filters=4, scale=2), LARGE) == 128


def test_no_block_is_smaller_than_32():
    config = RRDBConfig(name="rrdb", ndim=3, scale=8, tile_overlap=200)
    with torch.device("meta"):
        assert tile_or_default(None, build_generator(config), LARGE) == 32


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale": 3, "upsampling": "nearest_before"},
        {"scale": 6, "upsampling": "trilinear", "upscale_filters": 5},
        OFFICIAL,
        {**OFFICIAL, "scale": 6},
        {**OFFICIAL, "noise": 2},
    ],
    ids=str,
)
def test_floats_per_pixel_follow_from_the_largest_layers(changes):
    config = SRResNetConfig(ndim=3, num_blocks=1, num_filters=8, **changes)
    found, side = build_generator(config).eval(), 4
    noise = [torch.zeros(1, 2, *[side * config.scale] * 3)] if config.noise else []
    lr = torch.zeros(1, 1, *[side] * 3)

    def largest(call, channels):
        layers = list_layers(found, (channels, *lr.shape[2:]), call)
        return max(math.prod(layer.output_shape) for layer in layers) / side**3

    trunk = largest(found.features, 1)
    behind = largest(lambda features: found.upsampled(features, lr, *noise), 8)
    assert found.floats_per_pixel == (7 * trunk, 5 * behind)


def test_a_note_says_how_much_work_is_halo(tmp_path, monkeypatch):
    """Blocks of 32 and 4 slices with a halo of 5 read 36 and 9, of which 45 - 36 are halo."""
    monkeypatch.setitem(super_resolve.ACTIVATION_BYTES, "cpu", 1)
    voxels, said = source(tmp_path / "in.npy", shape=(36, 12, 14)), []
    by_blocks(network(), tmp_path / "in.npy", tmp_path / "out.npy", tile=None, tell=said.append)
    assert len(said) == 1 and "--tile 32 is chosen: 2 blocks with a halo of 5 LR voxels" in said[0]
    assert "which is 20% of the work of the network's trunk; a larger --tile needs less work" in said[0]
    np.save(tmp_path / "small.npy", voxels[:32])
    by_blocks(network(), tmp_path / "small.npy", tmp_path / "whole.npy", tile=None, tell=said.append)
    assert len(said) == 1


def test_blocks_at_a_time_share_a_gib_whatever_the_number_of_threads():
    """The official network at tile 32: 7 maps of 64 channels over 104^3, 1.9 GiB; one block is the least."""
    small = build_generator(SRResNetConfig(ndim=3, scale=2, num_blocks=1, num_filters=8))
    assert blocks_at_once(small, tile_or_default(None, small, LARGE), LARGE) == 2
    assert blocks_at_once(generator(**OFFICIAL), 32, LARGE) == 1
    assert blocks_at_once(generator(**OFFICIAL), 32, (40, 40, 40)) == 2**30 // (4 * 5 * 512 * 36**3)
    assert blocks_at_once(build_generator(SRResNetConfig(num_blocks=1)), 192, LARGE) is None  # 2-D
