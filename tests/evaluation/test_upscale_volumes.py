"""The command on volumes: kills, signals, ranks, options and inputs of every kind."""

import contextlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from commands import RANKS, TORCHRUN, finished, processes_of, run, start, start_ranks, wait_until
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


def test_the_command_on_a_volume_continues_where_it_was_killed(tmp_path):
    kill_and_finish(tmp_path, 1, 3, "out.tif", ["--tile", 4])


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranks, kills, name, options",
    [
        (1, 30, "out.tif", ["--tile", 4]),
        (2, 30, "out.mhd", ["--tile", 4]),
        (2, 30, "out.zarr", ["--tile", 6, "--samples", 2]),
    ],
    ids=str,
)
def test_the_command_survives_many_kills(tmp_path, ranks, kills, name, options):
    kill_and_finish(tmp_path, ranks, kills, name, options)


@pytest.mark.slow
def test_the_command_survives_kills_of_one_of_two_ranks(tmp_path):
    kill_and_finish(tmp_path, 2, 10, "out.npy", ["--tile", 4], launcher=RANKS)


def kill_and_finish(tmp_path, ranks, kills, name, options, launcher=None):
    """Kill runs at random moments, begin anew after each that ended first, and compare every output.

    Of several ranks all are killed, one soon after the other; under a launcher one alone.
    """
    source(tmp_path / "in.tif", shape=(40, 40, 40))
    save_generator(tmp_path / "g.safetensors", network(noise=1), {})
    command = ["launch/super_resolve.py", tmp_path / "g.safetensors", tmp_path / "in.tif"]
    expected, output = tmp_path / "whole" / name, tmp_path / "killed" / name
    done = run(sys.executable, *command, expected, *options)
    assert done.returncode == 0 and f"{name}: 80 x 80 x 80 uint8" in done.stdout, done.stderr
    rng, continued, folder = random.Random(0), 0, folder_of(output)

    def begun():
        return any(journal.stat().st_size for journal in folder.glob("blocks.*.jsonl"))

    def begin():
        if launcher:
            group = "--standalone", f"--nproc_per_node={ranks}"
            return [start(*launcher, *group, *command, output, *options)]
        return start_ranks(*command, output, *options, ranks=ranks)

    def kill(processes):
        """Kill what `begin` has started; returns whether it ended by that."""
        if launcher:
            (group,), own = processes, []
            while len(own) < ranks and group.poll() is None:
                own = [number for number in processes_of(output) if number != group.pid]
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(rng.choice(own or [group.pid]), signal.SIGKILL)
            return finished(group).returncode != 0
        for process in rng.sample(processes, ranks):
            process.send_signal(signal.SIGKILL)
            time.sleep(rng.uniform(0, 0.3) * (ranks - 1))
        return -signal.SIGKILL in [finished(process).returncode for process in processes]

    def finish():
        assert contents(output.parent) == contents(expected.parent)
        for path in output.parent.glob("[!.]*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    while kills:
        before = begun()
        continued += before
        processes = begin()
        while processes[0].poll() is None and not (folder.exists() if before else begun()):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 1.5) if before else 0)
        kills -= kill(processes)
        if output.exists():
            finish()
    for process in begin():
        done = finished(process)
        assert done.returncode == 0 and continued, done.stderr
    finish()
    assert not folder.exists()


def contents(folder):
    """Return {name: bytes} of all files below a folder, but for those of an unfinished volume."""
    files = [file for path in folder.glob("[!.]*") for file in [path, *path.rglob("*")] if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_leaves_a_volume_for_the_next_run(tmp_path, weights, number):
    source(tmp_path / "in.npy", shape=(40, 40, 40))
    command = [weights, tmp_path / "in.npy", tmp_path / "out.zarr", "--tile", 6]
    process = start(sys.executable, "launch/super_resolve.py", *command)
    wait_until(lambda: (folder_of(tmp_path / "out.zarr") / "blocks.0.jsonl").exists(), process)
    process.send_signal(number)
    stopped = finished(process)
    assert stopped.returncode == 128 + number and "Traceback" not in stopped.stderr, stopped.stderr
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
    assert stopped.returncode == 143 and "z stays as coarse as it is" in stopped.stderr, stopped.stderr
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


@pytest.mark.parametrize(
    "option, words",
    [
        (["--halo", 2], "halo=2 is for volumes, and "),
        (["--raw", "1x2x3,uint8"], "raw=1x2x3,uint8 is for .raw and .vol files without a header, and INPUT="),
        (["--format", "tif"], "--format tif is for a folder as OUTPUT; the name of OUTPUT="),
    ],
    ids=str,
)
def test_options_that_an_image_cannot_follow_are_refused(tmp_path, weights, option, words):
    source(tmp_path / "in.npy", shape=(1, 12, 14))
    refused = upscale(weights, tmp_path / "in.npy", tmp_path / "out.npy", *option)
    assert refused.returncode == 1 and words in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher, suffix, samples",
    [
        (TORCHRUN, ".tif", []),
        (TORCHRUN, ".zarr", []),
        (RANKS, ".mhd", []),
        (RANKS, ".npy", []),
        (RANKS, ".zarr", ["--samples", 3]),
    ],
    ids=lambda value: Path(value[-1]).name if isinstance(value, tuple) else str(value),
)
def test_two_ranks_give_the_bytes_of_one(tmp_path, launcher, suffix, samples):
    source(tmp_path / "in.npy")
    weights = tmp_path / "g.safetensors"
    save_generator(weights, network(noise=1), {})
    one, two = tmp_path / "one" / f"out{suffix}", tmp_path / "two" / f"out{suffix}"
    command = ["launch/super_resolve.py", weights, tmp_path / "in.npy"]
    for launched, output in (
        ([sys.executable], one),
        ([*launcher, "--standalone", "--nproc_per_node=2"], two),
    ):
        done = run(*launched, *command, output, "--tile", 5, *samples)
        assert done.returncode == 0 and done.stdout.count("26 x 24 x 28 uint8") == 1, done.stderr
    files = [file.relative_to(one.parent) for file in one.parent.rglob("*") if file.is_file()]
    for file in files:
        assert (two.parent / file).read_bytes() == (one.parent / file).read_bytes(), file
    assert len(files) == len([file for file in two.parent.rglob("*") if file.is_file()])
