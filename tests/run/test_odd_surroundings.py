"""Trainings beside an evaluation, across file systems, and without the files that every process has."""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from commands import TRAIN, finished, long_config, start, wait_until, write_config
from conftest import tiny_config
from run_files import with_steps

import srgan_dist
from srgan_dist.run.checkpoint import newest_checkpoint
from srgan_dist.training import train


@pytest.fixture
def other_disk():
    """A folder on another file system than that of temporary files."""
    if (
        not os.access("/dev/shm", os.W_OK)
        or os.stat("/dev/shm").st_dev == os.stat(tempfile.gettempdir()).st_dev
    ):
        pytest.skip("needs a second file system, /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_run_may_be_evaluated_while_its_training_writes(shards, tmp_path):
    config = with_steps(
        tiny_config(shards, tmp_path, validate_every=1, checkpoint_every=1), adversarial={"steps": 10**6}
    )
    process = start(*TRAIN, write_config(tmp_path, config))
    best = tmp_path / "tiny" / "weights" / "best" / "adversarial.safetensors"
    wait_until(best.exists, process)
    scores = srgan_dist.evaluate(tmp_path / "tiny", shards, tmp_path / "eval", ["valid"], measures="off")
    assert process.poll() is None and "phase 1" in scores
    assert json.loads((tmp_path / "eval" / "scores.json").read_text())
    process.send_signal(signal.SIGTERM)
    assert finished(process).returncode == 85


def test_a_run_whose_folders_are_links_to_another_disk_trains_and_continues(shards, tmp_path, other_disk):
    for name in ("checkpoints", "weights", "samples"):
        (other_disk / name).mkdir()
        (tmp_path / "tiny").mkdir(exist_ok=True)
        (tmp_path / "tiny" / name).symlink_to(other_disk / name)
    config = tiny_config(shards, tmp_path, checkpoint_every=3, validate_every=3)
    train(config.model_copy(update={"adversarial": None}))
    assert newest_checkpoint(other_disk / "checkpoints")[1]["global_step"] == 6
    assert sorted(path.name for path in (other_disk / "weights").iterdir()) == [
        "best",
        "pretrain.safetensors",
    ]
    assert not list(other_disk.rglob("*.unfinished")) and list((other_disk / "samples").iterdir())


BARE = """
import os, runpy, sys
for number in (0, 1, 2):
    os.close(number)
os.chdir({folder!r})
os.rmdir({folder!r})
sys.stdin = sys.stdout = sys.stderr = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_training_without_standard_files_folders_and_home_saves(shards, tmp_path):
    """A careless service: files 0, 1 and 2 are closed, the working directory is deleted, HOME unset."""
    (tmp_path / "gone").mkdir()
    config = write_config(tmp_path, long_config(shards, tmp_path, validate_every=2, checkpoint_every=2))
    script = Path(TRAIN[1]).resolve()
    code = BARE.format(folder=str(tmp_path / "gone"))
    process = start(
        *(sys.executable, "-c", code, script, config), HOME=None, TMPDIR=str(tmp_path / "nowhere")
    )
    wait_until(lambda: list((tmp_path / "tiny" / "checkpoints").glob("step-*4")), process)
    process.send_signal(signal.SIGTERM)
    assert finished(process).returncode == 85
    _, state = newest_checkpoint(tmp_path / "tiny" / "checkpoints")
    text = (tmp_path / "tiny" / "metrics.jsonl").read_text()
    assert [json.loads(line)["samples_seen"] for line in text.splitlines()][-1] == 4 * state["global_step"]
