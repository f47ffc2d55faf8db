"""Volumes of any size, block by block: the voxels of the whole, interruptions, ranks, and the command."""

import os
import random
import signal
import sys
import time

import numpy as np
import pytest
import tifffile
import torch
from commands import TORCHRUN, finished, run, start, wait_until
from conftest import full_disk, texture

from srgan_dist.data.image_files import read_header
from srgan_dist.data.noise import Noise
from srgan_dist.data.window import Window
from srgan_dist.data.write_volumes import create
from srgan_dist.evaluation.super_resolve import NOISE, super_resolve_pages
from srgan_dist.evaluation.super_resolve_volume import super_resolve_volume
from srgan_dist.evaluation.unfinished_volume import folder_of
from srgan_dist.models import build_generator
from srgan_dist.models.rrdb import RRDBConfig
from srgan_dist.models.srresnet import SRResNetConfig
from srgan_dist.models.weights_file import save_generator
from srgan_dist.utils.errors import UserError

SMALL = {"ndim": 3, "num_blocks": 1, "num_filters": 4, "scale": 2}
SHAPE = (13, 12, 14)


def network(**changes):
    torch.manual_seed(1)
    config = {**SMALL, "tanh": False, "init_std": None, **changes}
    generator = build_generator(SRResNetConfig(**config)).eval()
    torch.nn.init.constant_(generator.tail.weight, 0.4)
    if generator.texture:
        generator.texture.start()
    return generator


def source(path, dtype=np.uint8, shape=SHAPE):
    """Write a volume with voxel sizes, where the format has them; returns its voxels."""
    depth, height, width = shape
    voxels = np.stack([texture(seed, height, width) for seed in range(depth)]).astype(dtype)
    writer = create(path, shape, dtype, (4.0, 3.0, 2.0))
    writer.write((0, 0, 0), voxels)
    writer.close()
    return voxels


def whole(generator, voxels, noise=NOISE):
    return np.stack(list(super_resolve_pages(generator, [(0, voxels)], tile=1000, noise=noise)))


def by_blocks(generator, path, output, **options):
    super_resolve_volume(generator, read_header(path), output, "w", **{"tile": 5, **options})
    volume = read_header(output)
    return volume.read((0, 0, 0), volume.shape)


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


def test_a_generator_without_features_goes_the_plain_way(tmp_path):
    config = RRDBConfig(name="rrdb", ndim=3, scale=2, num_blocks=1, num_filters=4, growth=2)
    torch.manual_seed(0)
    generator = build_generator(config).eval()
    voxels = source(tmp_path / "in.npy")
    found = by_blocks(generator, tmp_path / "in.npy", tmp_path / "out.npy")
    assert np.abs(found.astype(int) - whole(generator, voxels)).max() <= 1


def test_a_smaller_halo_says_how_far_it_is_from_the_exact_one(tmp_path):
    source(tmp_path / "in.npy")
    generator, said = network(), []
    by_blocks(generator, tmp_path / "in.npy", tmp_path / "out.npy", halo=1, tell=said.append)
    assert len(said) == 1 and "halo 1 in place of 5: in the middle block grey levels differ by" in said[0]
    with pytest.raises(UserError, match="halo=6 must be 0 to 5"):
        by_blocks(generator, tmp_path / "in.npy", tmp_path / "other.npy", halo=6)


def test_values_of_a_window_are_mapped_back(tmp_path):
    """-500 .. 1500 as 16-bit grey levels and back: half a grey level is 0.015."""
    voxels = source(tmp_path / "in.mhd", np.float32) * 4 - 100
    np.save(tmp_path / "in.npy", voxels)
    window, generator = Window(-500.0, 1500.0), network()
    found = by_blocks(generator, tmp_path / "in.npy", tmp_path / "out.npy", window=window)
    expected = window.from_grey_levels(whole(generator, window.to_grey_levels(voxels, np.uint16)), np.float32)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 0.031


class Stopped(Exception):
    """Ends a run in the middle."""


def stop_after(count):
    def progress(numbers, total):
        yield from numbers[:count]
        raise Stopped

    return progress


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

    with pytest.raises(UserError, match=r"out.npy needs .* bytes, and its disk has [\d,]+ free"):
        by_blocks(generator, tmp_path / "in.npy", output, progress=progress)
    assert np.array_equal(by_blocks(generator, tmp_path / "in.npy", output), expected)


def test_a_disk_that_is_too_small_is_named_before_the_work(tmp_path):
    np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.uint8, (2000, 2000, 2000))
    with pytest.raises(
        UserError, match=r"needs 4,095,999,\d{3},\d{3} more bytes, and its disk has [\d,]+ free"
    ):
        by_blocks(network(scale=8), tmp_path / "in.npy", tmp_path / "out.npy", tile=500)
    assert [path.name for path in tmp_path.iterdir()] == ["in.npy"]


@pytest.fixture
def weights(tmp_path):
    save_generator(tmp_path / "g.safetensors", network(), {})
    return tmp_path / "g.safetensors"


def upscale(*arguments, **environment):
    return run(sys.executable, "launch/super_resolve.py", *arguments, **environment)


def test_the_command_on_a_volume_continues_where_it_was_killed(tmp_path, weights):
    kill_and_finish(tmp_path, weights, kills=3)


@pytest.mark.slow
def test_the_command_survives_many_kills(tmp_path, weights):
    kill_and_finish(tmp_path, weights, kills=30)


def kill_and_finish(tmp_path, weights, kills):
    """Kill runs at random moments, begin anew after each that ended first, and compare every output."""
    source(tmp_path / "in.tif", shape=(40, 40, 40))
    options = [weights, tmp_path / "in.tif", "--tile", 4]
    expected = tmp_path / "whole" / "out.tif"
    done = upscale(*options[:2], expected, *options[2:])
    assert done.returncode == 0 and "out.tif: 80 x 80 x 80 uint8" in done.stdout, done.stderr
    rng, output, continued = random.Random(0), tmp_path / "out.tif", 0
    journal = folder_of(output) / "blocks.0.jsonl"
    while kills:
        continued += journal.exists() and journal.stat().st_size > 0
        process = start(sys.executable, "launch/super_resolve.py", *options[:2], output, *options[2:])
        while process.poll() is None and not (journal.exists() and (continued or journal.stat().st_size)):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 1.5) if continued else 0)
        process.send_signal(signal.SIGKILL)
        finished(process)
        kills -= process.returncode == -signal.SIGKILL
        if output.exists():
            assert output.read_bytes() == expected.read_bytes()
            output.unlink()
    done = upscale(*options[:2], output, *options[2:])
    assert done.returncode == 0 and continued, done.stderr
    assert output.read_bytes() == expected.read_bytes()
    assert not folder_of(output).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_leaves_a_volume_for_the_next_run(tmp_path, weights, number):
    source(tmp_path / "in.npy", shape=(40, 40, 40))
    command = [weights, tmp_path / "in.npy", tmp_path / "out.zarr", "--tile", 6]
    process = start(sys.executable, "launch/super_resolve.py", *command)
    wait_until(lambda: (folder_of(tmp_path / "out.zarr") / "blocks.0.jsonl").exists(), process)
    process.send_signal(number)
    stopped = finished(process)
    assert stopped.returncode == 130 and "Traceback" not in stopped.stderr, stopped.stderr
    assert "0 of 1 outputs were written" in stopped.stderr and not (tmp_path / "out.zarr").exists()
    done = upscale(*command)
    assert done.returncode == 0, done.stderr
    assert read_header(tmp_path / "out.zarr").shape == (80, 80, 80)


def test_a_terminated_command_leaves_no_unfinished_image(tmp_path):
    save_generator(tmp_path / "g.safetensors", network(ndim=2), {})
    np.save(tmp_path / "in.npy", np.zeros((400, 100, 100), np.uint8))
    out = tmp_path / "out"
    process = start(
        sys.executable,
        "launch/super_resolve.py",
        tmp_path / "g.safetensors",
        tmp_path / "in.npy",
        out / "o.npy",
    )
    wait_until(lambda: any(out.glob("*.unfinished")), process)
    process.terminate()
    stopped = finished(process)
    assert stopped.returncode == 130 and "z stays as coarse as it is" in stopped.stderr, stopped.stderr
    assert [*out.iterdir()] == []


def test_float_and_raw_voxels_and_a_folder_of_slices(tmp_path, weights):
    voxels = source(tmp_path / "in.npy")
    (voxels.astype(np.float32) * 2).tofile(tmp_path / "in.raw")
    raw = ["--raw", "13x12x14,float32,little", "--window", "0:510"]
    refused = upscale(weights, tmp_path / "in.raw", tmp_path / "a.mhd", *raw[:2])
    assert refused.returncode == 1 and "--window LOW:HIGH" in refused.stderr
    done = upscale(weights, tmp_path / "in.raw", tmp_path / "a.mhd", *raw)
    assert "0.0:510.0 become black to white, the result is mapped back to float32" in done.stdout, done.stderr
    save_generator(tmp_path / "w.safetensors", network(), {"window": "0.0:510.0"})
    of_weights = upscale(tmp_path / "w.safetensors", tmp_path / "in.raw", tmp_path / "w.mhd", *raw[:2])
    assert "values 0.0:510.0 become black to white" in of_weights.stdout, of_weights.stderr
    assert (tmp_path / "w.raw").read_bytes() == (tmp_path / "a.raw").read_bytes()
    for number, page in enumerate(voxels):
        (tmp_path / "slices").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "slices" / f"s{number}.tif", page)
    refused = upscale(weights, tmp_path / "slices", tmp_path / "slices" / "b.zarr")
    assert refused.returncode == 1 and "is inside INPUT=" in refused.stderr
    done = upscale(weights, tmp_path / "slices", tmp_path / "b.zarr")
    assert done.returncode == 0 and "b.zarr: 26 x 24 x 28 uint8" in done.stdout, done.stderr
    expected = whole(network(), voxels).astype(int)
    found = read_header(tmp_path / "b.zarr").read((0, 0, 0), expected.shape)
    assert np.abs(found - expected).max() <= 1
    values = read_header(tmp_path / "a.mhd").read((0, 0, 0), expected.shape)
    assert values.dtype == np.float32 and np.abs(values / 2 - expected).max() <= 0.51


@pytest.mark.parametrize("option", [["--halo", 2], ["--window", "0:9"], ["--raw", "1x2x3,uint8"]], ids=str)
def test_options_of_volumes_are_refused_for_images(tmp_path, weights, option):
    source(tmp_path / "in.npy", shape=(1, 12, 14))
    refused = upscale(weights, tmp_path / "in.npy", tmp_path / "out.npy", *option)
    assert refused.returncode == 1 and f"{option[0]} is for volumes, and " in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".tif", ".mhd", ".zarr"])
def test_two_ranks_give_the_bytes_of_one(tmp_path, weights, suffix):
    source(tmp_path / "in.npy")
    one, two = tmp_path / "one" / f"out{suffix}", tmp_path / "two" / f"out{suffix}"
    command = ["launch/super_resolve.py", weights, tmp_path / "in.npy"]
    for launcher, output in (
        ([sys.executable], one),
        ([*TORCHRUN, "--standalone", "--nproc_per_node=2"], two),
    ):
        done = run(*launcher, *command, output, "--tile", 5)
        assert done.returncode == 0 and done.stdout.count("26 x 24 x 28 uint8") == 1, done.stderr
    files = [file.relative_to(one.parent) for file in one.parent.rglob("*") if file.is_file()]
    for file in files:
        assert (two.parent / file).read_bytes() == (one.parent / file).read_bytes(), file
    assert len(files) == len([file for file in two.parent.rglob("*") if file.is_file()])
