"""Logged metrics go to metrics.jsonl, which is always complete, and to wandb and other trackers, which may
fail without harm.
"""

import contextlib
import importlib.util
import json
import logging
import math
import os
import queue
import re
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.settings import Settings

log = logging.getLogger(__name__)

X_AXIS = "samples_seen"
# Records that may wait for a tracker, a few MB: 50,000 updates at log_every: 50; further ones are left out
WAITING_RECORDS = 1000


class TrackingConfig(Settings):
    """Settings of the experiment tracker."""

    wandb: Literal["offline", "online", "disabled"] | None = Field(
        None,
        description="offline: written to the run directory, to be sent with `wandb sync`;"
        " online needs WANDB_API_KEY; null: WANDB_MODE of the environment, else offline",
    )
    project: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,128}$",
        description="wandb project; null: WANDB_PROJECT of the environment, else srgan_dist",
    )
    entity: str | None = Field(
        None, description="wandb user or team; null: WANDB_ENTITY of the environment, else your default"
    )
    also: list[
        Literal["tensorboard", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "trackio"]
    ] = Field(
        [],
        description="further trackers, by those of Accelerate; their packages are to be installed, and they"
        " write to RUN/trackers, or to the server that their environment names",
    )
    init_timeout: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="seconds that a server may take to answer, while the training runs; then offline",
    )
    finish_timeout: float = Field(
        60.0, gt=0, le=3600, description="seconds that the end of a training waits for wandb at most"
    )


# Variables of a launcher, with which a process would wait for ranks
LAUNCHER = re.compile(
    r"((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME)$|MASTER_|TORCHELASTIC_|ACCELERATE_"
)


def check_trackers(config):
    """Raise UserError for a WANDB_MODE that there is not, or further trackers that are not installed."""
    wandb_mode(config)
    for name in config.also:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"tracking.also: {name} is not installed; run `pip install {name}`, or leave it out"
            )


def wandb_mode(config):
    """Return "offline", "online" or "disabled"; raises UserError for another WANDB_MODE."""
    mode = config.wandb or os.environ.get("WANDB_MODE") or "offline"
    mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)  # names of old versions of wandb
    if mode not in ("offline", "online", "disabled"):
        raise UserError(f"WANDB_MODE={mode}: set it to online, offline or disabled, or give tracking.wandb")
    return mode


def project_of(setting):
    """Return the wandb project of a run; setting: its tracking.project, None for that of the environment."""
    return setting or os.environ.get("WANDB_PROJECT") or "srgan_dist"


class Tracker:
    """Logs named metrics against samples seen. On ranks other than 0 it does nothing.

    wandb runs in a process of its own behind a queue, and the others of `also` in one more; only the end of a
    training waits for each, `finish_timeout` at most. run_id: of the wandb run to continue, None: a new one.
    seen: samples seen at the last record sent to wandb before the run was stopped; records up to there, which
    a resumed run repeats, are not sent again. records: in metrics.jsonl.
    """

    def __init__(self, config, run_directory, run_name, settings, run_id, is_main, seen=None, records=0):
        self.directory = Path(run_directory)
        self.config, self.is_main, self.run_id, self.records = config, is_main, run_id, records
        self.seen = -1 if run_id is None or seen is None else seen
        self.workers = []
        if is_main:
            self.metrics = open(self.directory / "metrics.jsonl", "ab", buffering=0)
            self.unwritten = b""  # records that wait for room on the disk
            self.writing = threading.Lock()  # the thread that writes checkpoints calls `sync`
            if (mode := wandb_mode(config)) != "disabled":
                # That of the environment is an agent's, of a sweep
                self.run_id = run_id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
                self._start(mode, run_name, settings)
            if config.also:
                self._start_others(settings)

    def _start(self, mode, run_name, settings):
        config = self.config
        wandb = {
            "mode": mode,
            "x_axis": X_AXIS,
            "options": {
                "project": project_of(config.project),
                "entity": config.entity,
                "name": os.environ.get("WANDB_NAME") or run_name,
                "id": self.run_id,
                "dir": str(self.directory),
                "config": settings,
            },
            # half of the time for sending, the rest for closing the file
            "settings": {
                "init_timeout": config.init_timeout,
                "finish_timeout": config.finish_timeout / 2,
                "x_stats_pid": os.getpid(),  # of the training
            },
        }
        self._open("wandb", "wandb_worker.py", wandb, dict(os.environ))

    def _start_others(self, settings):
        opening = {
            "trackers": self.config.also,
            "project": project_of(self.config.project),
            "directory": str(self.directory / "trackers"),
            "settings": settings,
        }
        alone = {name: value for name, value in os.environ.items() if not LAUNCHER.match(name)}
        self._open(", ".join(self.config.also), "accelerate_worker.py", opening, alone)

    def _open(self, name, program, opening, environment):
        try:
            self.workers.append(TrackerProcess(name, program, opening, environment))
        except OSError as error:
            log.warning("%s cannot be started; metrics.jsonl goes on (%s)", name, error)

    def log(self, numbers, samples_seen):
        """Record numbers (name -> float) at a position of the run; a number that is not finite is null."""
        if not self.is_main:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        record = {X_AXIS: samples_seen, **finite}
        self.records += 1
        self._append(json.dumps(record | {"time": round(time.time(), 3)}, allow_nan=False) + "\n")
        self._send({"numbers": record, "step": samples_seen})

    def _append(self, line):
        """Append to metrics.jsonl; bytes that a full disk refuses are written with a later record."""
        with self.writing:
            waits, self.unwritten = bool(self.unwritten), self.unwritten + line.encode()
            try:
                while self.unwritten:
                    self.unwritten = self.unwritten[self.metrics.write(self.unwritten) :]
            except OSError as error:
                if not waits:
                    log.warning(
                        "%s cannot be written (%s); the training goes on, and its records follow when there"
                        " is room",
                        self.metrics.name,
                        error,
                    )

    def sync(self):
        """Wait until the records are on the disk, as far as it takes them."""
        if self.is_main:
            self._append("")
            with contextlib.suppress(OSError):
                os.fsync(self.metrics.fileno())

    def panels(self, name, path, bands, samples_seen):
        """Show bands of an image file, (caption, first row, row behind the last), as images under a name."""
        if self.is_main:
            panels = {"path": str(path), "bands": bands}
            self._send({"panels": panels, "name": name, "step": samples_seen, "x_axis": X_AXIS})

    @property
    def shows_tables(self):
        """Whether `table` shows any, on the ranks that show something: wandb alone does."""
        return self.is_main and wandb_mode(self.config) != "disabled"

    def table(self, name, columns, rows, samples_seen):
        """Show a table under a name; rows are lists of texts and numbers."""
        if self.is_main:
            table = {"columns": columns, "data": rows}
            self._send({"table": table, "name": name, "step": samples_seen, "x_axis": X_AXIS})

    def _send(self, message):
        if message["step"] > self.seen:
            for worker in self.workers:
                worker.send(message)

    def finish(self, summary=None, exit_code=0):
        """Close the records.

        summary: name -> number of the whole run. exit_code: 0 done, STOPPED to be continued, others failed.
        """
        if not self.is_main:
            return
        self._append("")
        if self.unwritten:
            log.warning("the last %d bytes of records are not in %s", len(self.unwritten), self.metrics.name)
        self.metrics.close()
        for worker in self.workers:
            worker.finish({"summary": summary or {}, "exit_code": exit_code}, self.config.finish_timeout)


class TrackerProcess:
    """A process that runs a program beside this module, and a thread that sends it messages of a queue."""

    def __init__(self, name, program, opening, environment):
        self.name, program = name, Path(__file__).with_name(program)
        self.process = subprocess.Popen(
            # -P: the modules beside the program would hide others of the same name
            [sys.executable, "-P", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
        self.waiting = queue.Queue(WAITING_RECORDS)
        self.left_out = 0
        self.thread = threading.Thread(target=self._run, name=f"to-{name}", daemon=True)
        self.thread.start()
        self.send(opening)

    def send(self, message):
        """Queue a message; where the queue is full, leave it out."""
        try:
            self.waiting.put_nowait(message)
        except queue.Full:
            self.left_out += 1

    def finish(self, message, seconds):
        """Send the last message and wait for the end of the process, `seconds` at most."""
        deadline = time.monotonic() + seconds
        try:
            with contextlib.suppress(queue.Full):
                self.waiting.put(message, timeout=seconds)
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning(
                "%s did not end within tracking.finish_timeout=%g seconds, so it was ended; metrics.jsonl"
                " is complete, what wandb has written can be sent with `wandb sync`",
                self.name,
                seconds,
            )
            self.process.kill()
            self.process.wait()
        else:
            if self.process.returncode:
                log.warning(
                    "%s's record is not complete, metrics.jsonl is (its process ended with %d)",
                    self.name,
                    self.process.returncode,
                )
        if self.left_out:
            log.warning("%s was too slow for %d records; metrics.jsonl has them", self.name, self.left_out)
        self.waiting.put(None)
        self.thread.join()

    def _run(self):
        gone = False
        for message in iter(self.waiting.get, None):
            if not gone:
                try:
                    self.process.stdin.write(json.dumps(message).encode() + b"\n")
                    self.process.stdin.flush()
                except OSError:  # the process has ended: later records are in metrics.jsonl only
                    gone = True
        with contextlib.suppress(OSError):
            self.process.stdin.close()
