"""Logged metrics go to metrics.jsonl, which is always complete, and to wandb, which may fail without harm."""

import contextlib
import json
import logging
import math
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from srgan_dist.utils.settings import Settings

log = logging.getLogger(__name__)

X_AXIS = "samples_seen"
# Records that may wait for wandb, a few MB: 50,000 updates at log_every: 50; further ones are not sent to it
WAITING_RECORDS = 1000


class TrackingConfig(Settings):
    """Settings of the experiment tracker."""

    wandb: Literal["offline", "online", "disabled"] = Field(
        "offline",
        description="offline: written to the run directory, to be sent with `wandb sync`;"
        " online needs WANDB_API_KEY",
    )
    project: str = Field("srgan_dist", pattern=r"^[A-Za-z0-9_.-]{1,128}$", description="wandb project")
    entity: str | None = Field(None, description="wandb user or team; null: your default")
    init_timeout: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="seconds that a server may take to answer, while the training runs; then offline",
    )
    finish_timeout: float = Field(
        60.0, gt=0, le=3600, description="seconds that the end of a training waits for wandb at most"
    )


class Tracker:
    """Logs named metrics against samples seen. On ranks other than 0 it does nothing.

    wandb runs in a process of its own behind a queue; only the end of a training waits for it,
    `finish_timeout` at most. run_id: of the wandb run to continue, None: a new one. seen: samples seen at the
    last record sent to wandb before the run was stopped; records up to there, which a resumed run repeats,
    are not sent again.
    """

    def __init__(self, config, run_directory, run_name, settings, run_id, is_main, seen=None):
        self.directory = Path(run_directory)
        self.config, self.is_main, self.run_id = config, is_main, run_id
        self.seen = -1 if run_id is None or seen is None else seen
        self.wandb = None
        if is_main:
            self.metrics = open(self.directory / "metrics.jsonl", "ab", buffering=0)
            self.unwritten = b""  # records that wait for room on the disk
            self.writing = threading.Lock()  # the thread that writes checkpoints calls `sync`
            if config.wandb != "disabled":
                self.run_id = run_id or secrets.token_hex(4)
                self._start(run_name, settings)

    def _start(self, run_name, settings):
        config = self.config
        opening = {
            "mode": config.wandb,
            "x_axis": X_AXIS,
            "options": {
                "project": config.project,
                "entity": config.entity,
                "name": run_name,
                "id": self.run_id,
                "dir": str(self.directory),
                "config": settings,
            },
            # half of the time for sending, the rest for closing the file
            "settings": {"init_timeout": config.init_timeout, "finish_timeout": config.finish_timeout / 2},
        }
        try:
            self.wandb = WandbProcess(opening)
        except OSError as error:
            log.warning("wandb cannot be started; metrics.jsonl goes on (%s)", error)

    def log(self, numbers, samples_seen):
        """Record numbers (name -> float) at a position of the run; a number that is not finite is null."""
        if not self.is_main:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        record = {X_AXIS: samples_seen, **finite}
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

    def panels(self, name, paths, samples_seen):
        """Show image files (caption -> path) under a name."""
        if self.is_main:
            panels = {caption: str(path) for caption, path in paths.items()}
            self._send({"panels": panels, "name": name, "step": samples_seen, "x_axis": X_AXIS})

    def table(self, name, columns, rows, samples_seen):
        """Show a table under a name; rows are lists of texts and numbers."""
        if self.is_main:
            table = {"columns": columns, "data": rows}
            self._send({"table": table, "name": name, "step": samples_seen, "x_axis": X_AXIS})

    def _send(self, message):
        if self.wandb and message["step"] > self.seen:
            self.wandb.send(message)

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
        if self.wandb:
            self.wandb.finish({"summary": summary or {}, "exit_code": exit_code}, self.config.finish_timeout)


class WandbProcess:
    """The process of `wandb_worker.py`, and a thread that sends it the messages of a queue."""

    def __init__(self, opening):
        program = Path(__file__).with_name("wandb_worker.py")
        self.process = subprocess.Popen(
            # -P: the modules beside the program would hide others of the same name
            [sys.executable, "-P", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.waiting = queue.Queue(WAITING_RECORDS)
        self.left_out = 0
        self.thread = threading.Thread(target=self._run, name="to-wandb", daemon=True)
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
                "wandb did not end within tracking.finish_timeout=%g seconds, so it was ended; metrics.jsonl"
                " is complete, what wandb has written can be sent with `wandb sync`",
                seconds,
            )
            self.process.kill()
            self.process.wait()
        else:
            if self.process.returncode:
                log.warning(
                    "wandb's record is not complete, metrics.jsonl is (its process ended with %d)",
                    self.process.returncode,
                )
        if self.left_out:
            log.warning("wandb was too slow for %d records; metrics.jsonl has them", self.left_out)
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
