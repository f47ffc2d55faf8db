"""The command on volumes: kills, signals, ranks, options and inputs of every kind."""

import random
import signal
import sys
import time

import numpy as np
import pytest
import tifffile
from commands import TORCHRUN, finished, run, start, wait_until
from volume_runs import network, source, whole

from srgan_dist.data.image_files import read_header
from srgan_dist.evaluation.unfinished_volume import folder_of
from srgan_dist.models.weights_file import save_generator


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
@pytest.mark.parametrize(
    "suffix, samples", [(".tif", []), (".mhd", []), (".zarr", []), (".zarr", ["--samples", 3])], ids=str
)
def test_two_ranks_give_the_bytes_of_one(tmp_path, suffix, samples):
    source(tmp_path / "in.npy")
    weights = tmp_path / "g.safetensors"
    save_generator(weights, network(noise=1), {})
    one, two = tmp_path / "one" / f"out{suffix}", tmp_path / "two" / f"out{suffix}"
    command = ["launch/super_resolve.py", weights, tmp_path / "in.npy"]
    for launcher, output in (
        ([sys.executable], one),
        ([*TORCHRUN, "--standalone", "--nproc_per_node=2"], two),
    ):
        done = run(*launcher, *command, output, "--tile", 5, *samples)
        assert done.returncode == 0 and done.stdout.count("26 x 24 x 28 uint8") == 1, done.stderr
    files = [file.relative_to(one.parent) for file in one.parent.rglob("*") if file.is_file()]
    for file in files:
        assert (two.parent / file).read_bytes() == (one.parent / file).read_bytes(), file
    assert len(files) == len([file for file in two.parent.rglob("*") if file.is_file()])
