"""Readers, terminals, temporary folders and run directories that go away while a training uses them."""

import os
import shutil
import signal
import sys

import pytest
from commands import (
    RANKS,
    TRAIN,
    finished,
    long_config,
    processes_of,
    start,
    under_way,
    wait_until,
    write_config,
)
from conftest import tiny_config

from srgan_dist.run.checkpoint import newest_checkpoint
from srgan_dist.run.training_run import TrainingRun
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError

TWO_RANKS = (*RANKS, "--standalone", "--nproc_per_node=2", "launch/train.py")
SETUP = """
import os, runpy, signal, sys
{setup}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def saved_updates(run):
    return newest_checkpoint(run / "checkpoints")[1]["global_step"]


def talking_config(shards, output, **changes):
    """A training that only a signal ends, which prints a line after every second update."""
    return long_config(shards, output, validate_every=2, **changes)


def close_pipes(process):
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


def start_with(setup, *command):
    """Start a Python command after some Python code."""
    return start(sys.executable, "-c", SETUP.format(setup=setup), *command)


@pytest.mark.parametrize("command", [TRAIN, TWO_RANKS], ids=["one rank", "ranks.py"])
def test_a_training_whose_readers_have_gone_goes_on_and_saves(shards, tmp_path, command):
    process = start(*command, write_config(tmp_path, talking_config(shards, tmp_path)))
    under_way(tmp_path / "tiny", process)
    close_pipes(process)
    lines = (tmp_path / "tiny" / "metrics.jsonl").read_text().count("\n")
    wait_until(lambda: (tmp_path / "tiny" / "metrics.jsonl").read_text().count("\n") > lines + 8, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, which ends `tee` too
    assert process.wait(120) == 85
    assert saved_updates(tmp_path / "tiny") > 4


def test_a_training_whose_reader_has_gone_ends_well(shards, tmp_path):
    process = start(*TRAIN, write_config(tmp_path, tiny_config(shards, tmp_path)))
    close_pipes(process)
    assert process.wait(120) == 0
    assert (tmp_path / "tiny" / "weights" / "adversarial.safetensors").exists()


def test_a_training_whose_reader_is_stuck_goes_on_and_saves(shards, tmp_path):
    """A pager, Ctrl-S, a `tee` that was stopped."""
    fill = "os.set_blocking(1, False)\ntry:\n    while os.write(1, b'x' * 512):\n        pass\n"
    fill += "except BlockingIOError:\n    os.set_blocking(1, True)\n"
    fill += "from srgan_dist import training\nfrom srgan_dist.utils import output\n"
    fill += "training.train = output.surviving_output(0.1)(training.train.__wrapped__)"
    process = start_with(fill, *TRAIN[1:], write_config(tmp_path, talking_config(shards, tmp_path)))
    under_way(tmp_path / "tiny", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 85
    assert saved_updates(tmp_path / "tiny") > 0
    finished(process)


@pytest.mark.parametrize("command", [TRAIN, TWO_RANKS], ids=["one rank", "ranks.py"])
def test_a_terminal_that_is_closed_stops_a_training_as_sigterm_does(shards, tmp_path, command):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    process = start(*command, config)
    under_way(tmp_path / "tiny", process)
    process.send_signal(signal.SIGHUP)
    done = finished(process)
    assert done.returncode == 85 and not processes_of(config), done.stderr
    assert f"stopped by SIGHUP after update {saved_updates(tmp_path / 'tiny')}, which is saved" in done.stdout


@pytest.mark.parametrize(
    "command", [TRAIN, pytest.param(TWO_RANKS, marks=pytest.mark.slow)], ids=["one rank", "ranks.py"]
)
def test_under_nohup_a_terminal_that_is_closed_stops_nothing(shards, tmp_path, command):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    process = start_with("signal.signal(signal.SIGHUP, signal.SIG_IGN)", *command[1:], config)
    under_way(tmp_path / "tiny", process)
    for number in processes_of(config):
        os.kill(number, signal.SIGHUP)
    under_way(tmp_path / "tiny", process)
    process.send_signal(signal.SIGTERM)
    done = finished(process)
    assert done.returncode == 85 and "stopped by SIGTERM" in done.stdout, done.stderr


@pytest.mark.parametrize("steps, code", [(30, 0), (10**6, 85)])
def test_a_temporary_folder_that_is_emptied_changes_no_exit_code(shards, tmp_path, steps, code):
    (tmp_path / "temporary").mkdir()
    config = write_config(tmp_path, long_config(shards, tmp_path, steps=steps))
    process = start(*TWO_RANKS, config, TMPDIR=str(tmp_path / "temporary"))
    under_way(tmp_path / "tiny", process)
    shutil.rmtree(tmp_path / "temporary")
    if code:
        process.send_signal(signal.SIGTERM)
    done = finished(process)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr


def test_ctrl_c_many_times_in_a_row_stops_a_training_once(shards, tmp_path):
    config = write_config(tmp_path, long_config(shards, tmp_path, checkpoint_every=1))
    process = start(*TRAIN, config)
    under_way(tmp_path / "tiny", process)
    for _ in range(100):
        os.killpg(process.pid, signal.SIGINT)
    done = finished(process)
    assert done.returncode == 85 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("SIGINT: the training saves") == 1
    assert f"after update {saved_updates(tmp_path / 'tiny')}, which is saved" in done.stdout


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
@pytest.mark.parametrize("signalled", [True, False], ids=["stopped", "going on"])
def test_a_run_directory_that_has_gone_is_an_error_and_no_promise(shards, tmp_path, how, signalled):
    checkpoint_every = 10**6 if signalled else 5
    config = long_config(shards, tmp_path / "runs", checkpoint_every=checkpoint_every)
    run = tmp_path / "runs" / "tiny"
    process = start(*TRAIN, write_config(tmp_path, config))
    under_way(run, process)
    shutil.rmtree(run, ignore_errors=True) if how == "removed" else run.rename(tmp_path / "runs" / "other")
    if how == "replaced":
        (run / "checkpoints").mkdir(parents=True)
        (run / ".lock").touch()
    if signalled:
        process.send_signal(signal.SIGTERM)
    done = finished(process)
    assert done.returncode == 1, done.stdout
    assert f"error: {run} was removed, moved or replaced while it was being trained" in done.stderr
    assert "Traceback" not in done.stderr and "which is saved" not in done.stdout
    assert not list(run.glob("**/step-*")) and run.exists() == (how == "replaced")


def test_no_panels_are_drawn_into_a_directory_that_has_been_replaced(shards, tmp_path, monkeypatch):
    run = tmp_path / "tiny"

    def replaced(*arguments):  # between the scores of a validation and its panels
        run.rename(tmp_path / "moved")
        run.mkdir()
        (run / ".lock").touch()

    monkeypatch.setattr(TrainingRun, "keep_best", replaced)
    with pytest.raises(UserError, match=f"{run} was removed, moved or replaced while it was being trained"):
        train(tiny_config(shards, tmp_path, adversarial=None, validate_every=2))
    assert [path.name for path in run.iterdir()] == [".lock"]
