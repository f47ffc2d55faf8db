"""Trainings that are killed at chosen moments: python killing.py CONFIG KILLS

Each process that is killed is a fork of this one, which never starts a thread.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from srgan_dist.config import load_config
from srgan_dist.models.weights_file import load_generator
from srgan_dist.run.checkpoint import list_checkpoints, newest_checkpoint, read_state
from srgan_dist.training import train


def forked(act):
    """Run `act` in a process of its own; returns its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        act()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def waited(child):
    """Return how a process ended: 0, or the signal as a negative number."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def kill_trainings(config, kills, seed=0):
    """Train `config` under one name after the other until `kills` were killed, half of them in a save.

    Every run continues until it is finished. Returns the kills, those of them in a save, the names of the
    runs, and the saved updates before each kill.
    """
    torch.set_num_threads(1)
    rng = random.Random(seed)
    report = {"kills": 0, "inside": 0, "runs": [], "updates": []}
    while report["kills"] < kills:
        name = f"killed{len(report['runs'])}"
        report["runs"].append(name)
        run = Path(config.output) / name
        newest = 0
        while True:
            child = forked(lambda name=name: train(config.model_copy(update={"name": name})))
            killed = report["kills"] < kills and kill_somewhere(
                child, run / "checkpoints", rng, inside=report["kills"] % 2 == 0
            )
            ended = waited(child)
            if ended == 0:
                break
            assert killed and ended == -signal.SIGKILL, f"{name} ended with {ended}"
            report["kills"] += 1
            report["inside"] += any(run.glob("checkpoints/*.unfinished"))
            found = newest_checkpoint(run / "checkpoints")
            updates = found[1]["global_step"] if found else 0
            assert updates >= newest, f"{name}: {newest} updates were saved, {updates} are left"
            newest = updates
            for path in list_checkpoints(run / "checkpoints"):
                read_state(path)
            for path in run.glob("weights/**/[!.]*.safetensors"):
                load_generator(path)
            report["updates"].append(updates)
    return report


def kill_somewhere(child, checkpoints, rng, inside):
    """Kill a training after a random time, or after it began to save; returns False if it had ended."""
    deadline = time.monotonic() + rng.uniform(0.0, 0.8)
    saves, seen, delay = rng.randrange(8), set(), rng.uniform(0.0, 0.006)
    while not gone(child):
        now = time.monotonic()
        if inside:
            seen |= {path.name for path in checkpoints.glob("step-*.unfinished")}
            if len(seen) > saves:
                inside, deadline = False, now + delay
        elif now >= deadline:
            os.kill(child, signal.SIGKILL)
            return True
    return False


def gone(child):
    """Tell whether a process has ended; it can still be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # a killed process loses nothing that the system has
    print(json.dumps(kill_trainings(load_config(sys.argv[1]), int(sys.argv[2]))))
