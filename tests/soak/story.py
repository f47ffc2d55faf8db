"""One training of the soak: it is started, disturbed and ended at random until it is finished."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from commands import processes_of, start, write_config
from invariants import (
    BEGUN,
    KNOWN,
    any_files,
    damaged_files,
    differences,
    leftover_files,
    leftover_processes,
    send,
    suspended,
    wrong_order,
    wrong_records,
)
from test_remote import cut, fine, status
from whole_runs import contents
from world import IMAGES, LAUNCHERS, PHASE, VARIANTS, empty, start_training

from srgan_dist.run.checkpoint import list_checkpoints
from srgan_dist.utils.errors import STOPPED

ENDS = {  # of a start of a training, and how often each is drawn
    "SIGTERM": 3,
    "SIGUSR1": 3,
    "SIGINT": 3,
    "SIGHUP": 2,
    "kill one rank": 4,
    "kill all ranks": 3,
    "kill the launcher": 3,
    "finish": 2,
}
DISTURBANCES = {"suspend": 2, "evaluate": 1, "close the readers": 1}
OF_URLS = {"empty the cache": 4, "fault of the server": 2}
DAMAGES = {"damage the newest checkpoint": 2, "delete the newest checkpoint": 1}
STARTS = 7  # after which a training is left alone
WAIT_SECONDS = 90


class Story:
    """A training in `folder`; the events of each of its starts follow from seed and number, their moments
    only roughly.

    report(kind, faults): called after each event. bystanders: processes that outlive it.
    """

    def __init__(self, world, folder, seed, number, report, bystanders):
        self.world, self.folder, self.report, self.bystanders = world, folder, report, bystanders
        self.name = f"{seed} {number}"
        self.rng = random.Random(self.name)
        self.variant = self.rng.choice(list(VARIANTS))
        self.by_url = self.rng.random() < 0.7
        self.disturbances = DISTURBANCES | (OF_URLS if self.by_url else {})
        self.run, self.cache, self.temporary = folder / "run", folder / "cache", folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.config = world.config(self.variant, folder, self.by_url)
        self.config_file = write_config(folder, self.config)
        self.environment = {"TMPDIR": str(self.temporary)}
        self.damaged = None  # a checkpoint, until a training has set it aside

    def tell(self):
        """Start the training again and again until it is finished."""
        self.world.undisturbed(self.variant)
        for number in range(STARTS + 1):
            self.rng = random.Random(f"{self.name} {number}")
            self.launcher = self.rng.choice(LAUNCHERS)
            end = self.draw(ENDS) if number < STARTS else "finish"
            if end == "kill the launcher":
                self.launcher = "ranks.py"
            self.started, self.updates_before = time.time(), self.updates()
            self.processes = start_training(self.launcher, self.config_file, **self.environment)
            if self.live(end):
                return
            if self.rng.random() < 0.4:
                self.damage(self.draw(DAMAGES))

    def draw(self, weights):
        return self.rng.choices(list(weights), list(weights.values()))[0]

    # While it trains

    def live(self, end):
        """Disturb the training and end it; returns whether it is finished."""
        evaluation = None
        for kind in [self.draw(self.disturbances) for _ in range(self.rng.randrange(3))]:
            self.wait(self.moment())
            if kind == "evaluate":
                evaluation = evaluation or self.start_evaluation()
            else:
                self.disturb(kind)
        in_order, early = True, []
        if end != "finish":
            # Nobody supervises ranks without a launcher before they know each other
            self.wait(self.moment(early=self.launcher != "none"))
            # After its last update it may have ended, which is no longer stopped
            in_order = end.startswith("SIG") and self.updates_before < self.updates() < 2 * PHASE
            early = self.ended_early()
            self.strike(end)
        faults = self.processes_ended(end, in_order, evaluation, early)
        if evaluation:
            self.check_evaluation(*evaluation)
        finished = all(process.returncode == 0 for process in self.processes)
        if finished or self.updates() > self.updates_before:
            self.damaged = None
        faults += self.wrong_files() + self.leftovers(BEGUN if in_order or finished else KNOWN)
        self.report("finish" if finished else end, faults + (self.differs() if finished else []))
        return finished

    def moment(self, early=False):
        """Return a condition to wait for: an update, a checkpoint being written, a time after the start."""
        update = self.updates() + self.rng.choice([1, 2, 3, 5, 8, PHASE])
        until, delay = time.monotonic() + self.rng.uniform(0, 3), self.rng.uniform(0, 0.05)
        kind = self.rng.choice(["update", "save", "time"][: 2 + early])
        if kind == "time":
            return lambda: time.monotonic() >= until
        if kind == "save":
            return lambda: self.is_saving() or self.updates() >= update + 5
        return lambda: self.updates() >= update and (time.sleep(delay) or True)

    def is_saving(self):
        """Return whether a checkpoint is being written, one since the start."""
        for path in self.run.glob("checkpoints/*.unfinished"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime > self.started:
                    return True
        return False

    def updates(self):
        """Return the updates in metrics.jsonl."""
        path = self.run / "metrics.jsonl"
        return path.read_bytes().count(b"loss/generator") if path.exists() else 0

    def wait(self, condition):
        """Wait until a condition holds; returns False if the training has ended before."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if any(process.poll() is not None for process in self.processes):
                return False
            if time.monotonic() > deadline:
                self.report("wait", [f"no update within {WAIT_SECONDS} seconds"])
                return False
            time.sleep(0.002)
        return True

    def ranks(self):
        """Return the processes of the ranks."""
        launchers = [process.pid for process in self.processes] if self.launcher == "ranks.py" else []
        return [pid for pid in processes_of(self.config_file) if pid not in launchers]

    def disturb(self, kind):
        """Disturb the training; check it, suspended, when it has made an update since or has ended."""
        if kind == "suspend":
            with suspended(self.ranks()):
                time.sleep(self.rng.uniform(0, 0.5))
        elif kind == "empty the cache":
            empty(self.cache)
        elif kind == "close the readers":
            for process in self.processes:
                process.stdout.close()
                process.stderr.close()
        else:
            shard = self.rng.choice(sorted(path.name for path in self.world.shards.glob("train-*.tar")))
            self.world.server.faults[shard] = [self.rng.choice([cut, status(503)]), fine]
        before = self.updates()
        self.wait(lambda: self.updates() > before)
        with suspended(self.ranks()):
            faults = self.ended_early() + self.wrong_files() + [*leftover_files(self.run, known=KNOWN)]
        self.report(kind, faults)

    def ended_early(self):
        """Return a text for each process that has ended by itself and not well."""
        codes = {process.pid: process.poll() for process in self.processes}
        allowed = (None, 0) if self.updates() >= 2 * PHASE else (None,)
        return [f"process {pid} has ended with {code}" for pid, code in codes.items() if code not in allowed]

    def start_evaluation(self):
        """Evaluate what the run has by now; returns the process and whether there were weights."""
        had_weights = any(self.run.glob("weights/[!.]*.safetensors"))
        place = self.config.data.path
        command = ("launch/evaluate.py", self.run, place, "--out", self.folder / "eval", "--measures", "off")
        cache = ("--cache", self.cache, "--cache-gib", str(self.config.data.cache_gib))
        process = start(sys.executable, *command, *cache, "--samples", "0", **self.environment)
        return process, had_weights

    def check_evaluation(self, process, had_weights):
        faults = []
        try:
            _, errors = process.communicate(timeout=WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            faults.append("the evaluation does not end")
        else:
            if "Traceback" in errors or process.returncode and (had_weights or "error:" not in errors):
                faults.append(f"the evaluation ended with {process.returncode}: {errors}")
            if process.returncode == 0 and not (self.folder / "eval" / "scores.json").exists():
                faults.append("the evaluation left no scores.json")
        self.report("evaluate", [*faults, *leftover_files(self.folder / "eval")])

    # Its end

    def strike(self, end):
        """End the training by a signal."""
        ranks = self.ranks()
        if end.startswith("SIG"):
            targets = [process.pid for process in self.processes]
            alone = self.launcher == "none" and self.rng.random() < 0.5
            send(getattr(signal, end), targets[:1] if alone else targets)
        elif end == "kill one rank":
            send(signal.SIGKILL, ranks and [self.rng.choice(ranks)])
        elif end == "kill all ranks":
            send(signal.SIGKILL, ranks)
        else:
            send(signal.SIGKILL, [process.pid for process in self.processes])

    def processes_ended(self, end, in_order, evaluation, early):
        """Wait for the end of all processes but an evaluation; return the faults, with those before its end.

        in_order: the training was under way and was not killed, so it ends with the exit code 0 or 85.
        """
        errors, faults = [], early.copy()
        for process in self.processes:
            try:
                errors.append(process.communicate(timeout=WAIT_SECONDS)[1])
            except subprocess.TimeoutExpired:
                faults.append(f"process {process.pid} does not end after {end}")
        others = {evaluation[0].pid} if evaluation else set()
        faults += leftover_processes(os.getpid(), self.bystanders | others)
        codes = [process.wait() for process in self.processes]
        allowed = [0] if end == "finish" else [0, STOPPED]
        if early or in_order and (len(set(codes)) > 1 or codes[0] not in allowed):
            faults.append(f"exit codes {codes}: {errors}")
        self.world.server.faults.clear()
        return faults

    def wrong_files(self):
        """Return the faults of the files of a run that is suspended or has ended, and of its batches."""
        return [
            *wrong_records(self.run, self.config.data.batch_size),
            *damaged_files(self.run, self.damaged),
            *self.wrong_batches(finished=False),
        ]

    def leftovers(self, known):
        """Return the files that an ended training has left, but for those of `known` names."""
        return [*leftover_files(self.run, self.cache, known=known), *any_files(self.temporary)]

    def differs(self):
        """Return the faults of the finished run."""
        undisturbed = self.world.undisturbed(self.variant)
        return [*differences(contents(self.run), undisturbed), *self.wrong_batches(finished=True)]

    def wrong_batches(self, finished):
        parts, batch_size = self.config.gradient_accumulation_steps, self.config.data.batch_size
        return wrong_order(
            *(self.folder / "seen", IMAGES["train"], batch_size, 2 * PHASE),
            micro_batches=parts,
            finished=finished,
        )

    # Between two starts

    def damage(self, kind):
        """Damage or delete the newest checkpoint; with the only one the run begins again."""
        checkpoints = list_checkpoints(self.run / "checkpoints")
        if not checkpoints:
            return
        self.damaged = newest = checkpoints[0]
        if kind.startswith("delete") or len(checkpoints) == 1:
            shutil.rmtree(newest)
        else:
            path = self.rng.choice(sorted(newest.iterdir()))
            how = self.rng.choice(["flip", "cut", "remove"])
            if how == "flip":
                data = bytearray(path.read_bytes())
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
                path.write_bytes(data)
            elif how == "cut":
                os.truncate(path, self.rng.randrange(path.stat().st_size))
            else:
                path.unlink()
        self.report(kind, self.wrong_files())
