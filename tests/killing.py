"""Processes that are killed at chosen moments: python killing.py lines OUT, or python killing.py training CONFIG KILLS.

Everything slow is imported once: each process that is killed is a fork of this one, which never starts a thread.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from itertools import count
from pathlib import Path

import torch

from srgan_dist.config import load_config
from srgan_dist.models.weights_file import load_generator
from srgan_dist.run import checkpoint
from srgan_dist.run.checkpoint import list_checkpoints, newest_checkpoint, read_state, save_checkpoint
from srgan_dist.utils import files


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


# A save that is killed before each of its lines


def kill_at_every_line(out):
    """Save a third checkpoint, then one in the place of the only one, killed before the first, second, ... line of the code
    that saves; returns which was found each time.
    """
    for number in (1, 2):
        save(out / "before", f"step-{number}", number)
    save(out / "alone", "step-2", 2)
    return [kills_at_every_line(out / "before", "step-3"), kills_at_every_line(out / "alone", "step-2")]


def save(folder, name, number, keep=2):
    save_checkpoint(folder, name, {"network": torch.nn.Linear(2, 3)}, {"name": name, "number": number}, keep)


def kills_at_every_line(before, name):
    """Save checkpoint 3 under a name, again and again from the same start; returns the numbers of those that were found."""
    replacing, found = (before / name).exists(), []
    for line in count():
        folder = shutil.copytree(before, before.with_name("killed"))
        ended = waited(forked(lambda: dying_before(line, lambda: save(folder, name, 3))))
        path, state = newest_checkpoint(folder)
        assert path.name == state["name"] or (replacing and path.name == f"{name}.old")
        for each in list_checkpoints(folder):  # none that is half there
            read_state(each)
        found.append(state["number"])
        save(folder, "step-4", 4, keep=1)
        assert [path.name for path in folder.iterdir()] == ["step-4"]
        shutil.rmtree(folder)
        if ended == 0:
            return found
        assert ended == -signal.SIGKILL


def dying_before(line, act):
    """Run `act` up to the given line of checkpoint.py, files.py and the removal of folders, counted as they are run."""
    files_of_interest, passed = {checkpoint.__file__, files.__file__, shutil.__file__}, count()

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in files_of_interest:
            return None
        if event == "line" and next(passed) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    act()


# Trainings that are killed


def kill_trainings(config, kills, seed=0):
    """Train `config` again and again under names of their own until so many processes were killed, half of them while they
    saved; every run goes on until it is finished. Returns how many were killed in a save, the names of the runs, and how
    many updates lay before each kill.
    """
    from srgan_dist.training import train  # here, since it makes every fork slower

    torch.set_num_threads(1)
    rng = random.Random(seed)
    report = {"kills": 0, "inside": 0, "runs": [], "updates": []}
    while report["kills"] < kills:
        name = f"killed{len(report['runs'])}"
        report["runs"].append(name)
        run = Path(config.output) / name
        newest = 0
        while True:
            child = forked(lambda: train(config.model_copy(update={"name": name})))
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
    """Kill a training after a random time, or a random time after it began to save; returns whether it was still there."""
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
    task, *arguments = sys.argv[1:]
    os.fsync = lambda descriptor: None  # a killed process loses nothing that the system has
    if task == "lines":
        found = kill_at_every_line(Path(arguments[0]))
    else:
        found = kill_trainings(load_config(arguments[0]), int(arguments[1]))
    print(json.dumps(found))
