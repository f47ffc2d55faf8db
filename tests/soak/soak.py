"""A soak: trainings over two ranks are disturbed and ended at random until the time is over.

    python tests/soak/soak.py [--seconds 3600] [--seed 0] [--out soak] [--only N]

After every event the invariants of invariants.py are checked, of a training that goes on while it is
suspended. A fault is printed with its event, TRAINING.EVENT, and the folder of its training is kept in OUT.
--only TRAINING with the same seed repeats that training alone: its events follow from both numbers, the
moments at which they strike only roughly. At the end there is a line per class of events, and OUT/soak.json.
Exit code 1 where there was a fault.
"""

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = map(str, (TESTS.parent, TESTS, TESTS / "run", TESTS / "storage"))

import fork_server  # noqa: E402
from commands import wait_until, write_config  # noqa: E402
from invariants import Memory, descendants, leftover_processes, send, wrong_records  # noqa: E402
from story import Story  # noqa: E402
from world import SMALL_CACHE, World, empty, start_training  # noqa: E402

from srgan_dist.utils.errors import STOPPED  # noqa: E402

WARM_UP = 300  # updates after which the memory of a training no longer grows
MAX_FAULTS = 20


class Soak:
    """Counts events and faults, and writes them down."""

    def __init__(self, seed, out):
        self.seed, self.out, self.start = seed, out, time.monotonic()
        self.events, self.faults = Counter(), []
        self.training, self.event = 0, 0

    def report(self, kind, faults):
        """Count an event; print its faults."""
        self.event += 1
        self.events[kind] += 1
        for fault in faults:
            self.faults.append({"event": f"{self.training}.{self.event}", "kind": kind, "fault": fault})
            print(f"FAULT seed {self.seed}, event {self.training}.{self.event}, {kind}: {fault}", flush=True)

    def summary(self):
        by_kind = Counter(fault["kind"] for fault in self.faults)
        return {
            "seed": self.seed,
            "seconds": round(time.monotonic() - self.start),
            "trainings": self.training,
            "events": self.events.total(),
            "kinds": {
                kind: {"events": count, "faults": by_kind[kind]}
                for kind, count in sorted(self.events.items())
            },
            "faults": self.faults,
        }

    def close(self):
        """Write soak.json and print a line per class of events."""
        summary = self.summary()
        (self.out / "soak.json").write_text(json.dumps(summary, indent=1) + "\n")
        for kind, counts in summary["kinds"].items():
            print(f"{kind:30} {counts['events']:6} events {counts['faults']:4} faults")
        print(
            f"{summary['events']} events, {len(self.faults)} faults in {summary['trainings']} trainings and"
            f" {summary['seconds']} s, seed {self.seed}: {self.out / 'soak.json'}"
        )


class LongTraining:
    """A training that goes on for as long as the soak, suspended for most of the time, by URL."""

    def __init__(self, world, report):
        self.folder = world.folder / "long"
        self.folder.mkdir()
        self.report, self.memory, self.cache = report, Memory(), self.folder / "cache"
        phase = {"steps": 10**6, "lr_schedule": {"name": "constant"}, "losses": {"pixel": {"name": "l1"}}}
        config = world.config("small cache", self.folder, by_url=True, pretrain=phase, adversarial=None)
        self.processes = start_training("none", write_config(self.folder, config))
        self.pids = {process.pid for process in self.processes}
        self.metrics = self.folder / "run" / "metrics.jsonl"
        wait_until(self.metrics.exists, self.processes[0])
        # Readers, or full pipes would stop it
        self.readers = [
            threading.Thread(target=process.communicate, daemon=True) for process in self.processes
        ]
        for reader in self.readers:
            reader.start()
        send(signal.SIGSTOP, self.pids)

    def go_on(self, seconds=3.0):
        """Let it train for some seconds, with an emptied cache, and look at its memory."""
        send(signal.SIGCONT, self.pids)
        time.sleep(seconds / 2)
        empty(self.cache)
        time.sleep(seconds / 2)
        send(signal.SIGSTOP, self.pids)
        faults = [f"process {one.pid} has ended" for one in self.processes if one.poll() is not None]
        if not faults and self.metrics.read_bytes().count(b"loss/generator") >= WARM_UP:
            faults += self.memory.grown(self.pids)
        faults += wrong_records(self.folder / "run", SMALL_CACHE["batch_size"])
        self.report("long training", faults)

    def close(self):
        """Stop it and check its records."""
        send(signal.SIGCONT, self.pids)
        send(signal.SIGTERM, self.pids)
        for reader in self.readers:
            reader.join(60)
        codes = [process.poll() for process in self.processes]
        faults = [] if codes == [STOPPED] * 2 else [f"exit codes {codes}"]
        faults += wrong_records(self.folder / "run", SMALL_CACHE["batch_size"])
        self.report("end of the long training", faults)
        send(signal.SIGKILL, [process.pid for process in self.processes if process.poll() is None])


def reap_orphans(others):
    """Collect the ended processes that this one has inherited, up to one of `others`."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if ended.si_pid in others:
            return
        os.waitpid(ended.si_pid, 0)


def soak(seconds, seed, out, only=None):
    """Soak for some seconds, or tell one story; returns the Soak."""
    logging.getLogger("srgan_dist").setLevel(logging.ERROR)  # without warnings of damaged checkpoints
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    counts = Soak(seed, out)
    fork_server.server()
    world = World(out / "world")
    long = LongTraining(world, counts.report)
    bystanders = descendants(os.getpid()).keys() | long.pids
    counts.start = time.monotonic()
    try:
        while len(counts.faults) < MAX_FAULTS and (only is None or not counts.training):
            if only is None and time.monotonic() - counts.start > seconds:
                break
            counts.training, counts.event = only or counts.training + 1, 0
            folder, before = out / f"training{counts.training}", len(counts.faults)
            try:
                Story(world, folder, seed, counts.training, counts.report, bystanders).tell()
            except Exception:  # the others go on
                counts.report("the soak itself", [traceback.format_exc()])
                list(leftover_processes(os.getpid(), bystanders, seconds=0))
            reap_orphans(long.pids)
            if len(counts.faults) == before:
                shutil.rmtree(folder)
            long.go_on()
    finally:
        long.close()
        world.close()
        counts.close()
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("soak"))
    parser.add_argument("--only", type=int, metavar="TRAINING")
    arguments = parser.parse_args()
    sys.exit(bool(soak(arguments.seconds, arguments.seed, arguments.out.resolve(), arguments.only).faults))


if __name__ == "__main__":
    main()
