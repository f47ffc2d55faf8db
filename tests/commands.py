"""What the tests share that start a training as a user does, and then do something to its processes."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from conftest import REPOSITORY, tiny_config

from srgan_dist.config import dump_config

RANKS = [sys.executable, "launch/ranks.py"]


def start(*command, **environment):
    variables = {
        **os.environ,
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        **environment,
    }
    return subprocess.Popen(
        [*map(str, command)],
        cwd=REPOSITORY,
        env=variables,
        text=True,
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def free_port():
    with socket.create_server(("localhost", 0)) as free:
        return free.getsockname()[1]


def write_config(folder, config):
    path = folder / "config.yaml"
    path.write_text(dump_config(config))
    return path


def long_config(shards, output, steps=10**6, **changes):
    """A training of phase 1 that only a signal ends unless `steps` do; it reports every update."""
    pretrain = {
        "steps": steps,
        "learning_rate": 1e-3,
        "lr_schedule": {"name": "constant"},
        "losses": {"pixel": {"name": "l1"}},
    }
    return tiny_config(
        shards,
        output,
        **{
            "pretrain": pretrain,
            "adversarial": None,
            "log_every": 1,
            "validate_every": 10**6,
            "checkpoint_every": 10**6,
        }
        | changes,
    )


def wait_until(condition, process, seconds=120):
    """Wait until a condition holds, and return what it gave, while a process is alive."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
    return found


def under_way(run, process):
    """Wait until a training has reported an update."""
    metrics = run / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, process)


def processes_of(path):
    """Return the numbers of the processes whose command line names a file."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(path).encode() in words and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
            found.append(int(folder.name))
    return sorted(found)
