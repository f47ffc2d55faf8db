import ctypes
import sys
import threading

import pytest
from commands import run, write_config
from conftest import tiny_config
from corruption import CPU

from srgan_dist.data.loader import TrainLoader
from srgan_dist.run.checkpoint import newest_checkpoint
from srgan_dist.training import train


def end_thread(thread):
    assert (
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        == 1
    )


def test_a_reading_thread_that_is_killed_is_an_error_and_no_hang(train_split):
    batches = TrainLoader([(train_split, 1.0)], 8, 6, 0, "all", 0, 1, CPU).batches(0)
    next(batches)
    end_thread(next(thread for thread in threading.enumerate() if thread.name == "prefetch-batches"))
    with pytest.raises(RuntimeError, match="the thread that prefetches batches was ended"):
        for _ in range(9):
            next(batches)


@pytest.mark.parametrize("error", [SystemExit(0), MemoryError("no room"), KeyboardInterrupt()])
def test_whatever_ends_the_filling_of_a_batch_reaches_the_training(train_split, monkeypatch, error):
    source = TrainLoader([(train_split, 1.0)], 8, len(train_split), 0, "all", 0, 1, CPU)  # an epoch per batch
    fill, filled = source.readers[0].batch, []

    def fill_twice(*arguments):
        filled.append(fill(*arguments))
        if len(filled) == 3:
            raise error

    monkeypatch.setattr(source.readers[0], "batch", fill_twice)
    batches = source.batches(0)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(
        MemoryError if isinstance(error, MemoryError) else RuntimeError,
        match="no room|thread that prefetches batches was ended",
    ):
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch-batches"]


INTERRUPTING = """
import os, runpy, signal, sys

_, moment, count, *sys.argv = sys.argv
left = int(count)

def watch(frame, event, argument):
    global left
    if event == "return" and frame.f_code.co_qualname == moment:
        left -= 1
        if not left:
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGINT)

import srgan_dist.training
sys.setprofile(watch)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "moment, count, code, updates",
    [
        ("Reader.corruption", 4, 130, None),  # verification, before there is anything to save
        ("PretrainPhase.update", 1, 85, 1),  # the first batch
        ("score_split", 1, 85, 3),  # the validation after update 3
        ("CheckpointWriter.start", 1, 85, 3),  # while the first checkpoint is written, after update 2
        ("Validator.validate", 2, 0, 6),  # at the end of the last phase: the training is done
    ],
)
def test_ctrl_c_at_any_moment_waits_for_a_checkpoint_and_the_run_continues(
    shards, tmp_path, moment, count, code, updates
):
    config = tiny_config(
        shards,
        tmp_path,
        adversarial=None,
        checkpoint_every=2,
        validate_every=3,
        data={"path": str(shards), "lr_crop": 8, "batch_size": 4, "verify": "full"},
    )
    command = ("launch/train.py", write_config(tmp_path, config))
    done = run(sys.executable, "-c", INTERRUPTING, moment, count, *command)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert (code == 130) == done.stderr.endswith("interrupted\n")
    run_directory = tmp_path / "tiny"
    found = newest_checkpoint(run_directory / "checkpoints")
    assert (found and found[1]["global_step"]) == updates
    assert (run_directory / "weights" / "pretrain.safetensors").exists() == (code == 0)
    assert list(train(config).state.phase_ends) == ["pretrain"]
    assert not list(run_directory.rglob("*.unfinished*"))
