"""Commands as a user gives them, in processes of their own: starting them, waiting for them, finding them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from conftest import REPOSITORY, tiny_config
from fork_server import Forked, server

from srgan_dist.config import dump_config

TRAIN = (sys.executable, "launch/train.py")
RANKS = (sys.executable, "launch/ranks.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
ACCELERATE = (sys.executable, Path(sys.executable).with_name("accelerate"), "launch")
WORKER = REPOSITORY / "tests" / "distributed_worker.py"


def start(*command, **environment):
    """Start a command with a changed environment (None: without the variable), a Python command as a fork."""
    if command[0] == sys.executable and sys.platform == "linux":
        return Forked(server(), **_options(command, environment))
    return start_fresh(*command, **environment)


def start_fresh(*command, **environment):
    """Start a command as start() does, a Python command in a new interpreter, which imports all it needs."""
    return subprocess.Popen(**_options(command, environment))


def _options(command, environment):
    variables = {
        **os.environ,
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        **environment,
    }
    return {
        "args": [*map(str, command)],
        "cwd": REPOSITORY,
        "env": {name: value for name, value in variables.items() if value is not None},
        "text": True,
        "start_new_session": True,
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }


def run(*command, **environment):
    """Run a command as start() starts it, to its end."""
    return finished(start(*command, **environment))


def run_fresh(*command, **environment):
    """Run a command as start_fresh() starts it, to its end."""
    return finished(start_fresh(*command, **environment))


def finished(process):
    """Wait for the end of a command; returns it with its exit code and all that it has printed.

    One that hangs is killed after 15 minutes, with all that it has started, so that only its own test fails.
    """
    try:
        output, errors = process.communicate(timeout=900)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def launch(*command, ranks, **environment):
    """Run a script on some ranks: under torchrun, or alone."""
    launcher = [*TORCHRUN, "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else [sys.executable]
    return run(*launcher, *command, **environment)


def work(task, config, out, ranks):
    """Run a task of distributed_worker.py on some ranks; returns their reports."""
    out.mkdir()
    done = launch(WORKER, task, write_config(out, config), out, ranks=ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    return reports(out)


def reports(out):
    """Return the reports that the ranks of a task have left."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("rank*.json"))]


def start_ranks(*command, ranks=2, **environment):
    """Start ranks of a script without a launcher, so that nothing supervises them."""
    group = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        **environment,
    }
    return [
        start(sys.executable, *command, **{"RANK": str(rank), "LOCAL_RANK": str(rank), **group})
        for rank in range(ranks)
    ]


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
    rarely = {"validate_every": 10**6, "checkpoint_every": 10**6}
    return tiny_config(
        shards, output, **{"pretrain": pretrain, "adversarial": None, "log_every": 1} | rarely | changes
    )


def wait_until(condition, process, seconds=120):
    """Wait until a condition holds, and return its value, while a process is alive."""
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
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(path).encode() in words and state != "Z":
            found.append(int(folder.name))
    return sorted(found)
