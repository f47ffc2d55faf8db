"""Where the numbers go: metrics.jsonl, which is complete in any case, and wandb, which may fail without harm."""

import json
import logging
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from srgan_dist.errors import STOPPED
from srgan_dist.settings import Settings

log = logging.getLogger(__name__)

X_AXIS = "samples_seen"
PRIVATE = {  # no command line, host name, source code or list of packages goes into the record; the config does
    "silent": True, "console": "off", "disable_git": True, "disable_code": True, "save_code": False,
    "x_disable_machine_info": True, "x_save_requirements": False,
}


class TrackingConfig(Settings):
    """Settings of the experiment tracker."""

    wandb: Literal["offline", "online", "disabled"] = Field(
        "offline", description="offline: written to the run directory, to be sent with `wandb sync`; online needs WANDB_API_KEY"
    )
    project: str = Field("srgan_dist", pattern=r"^[A-Za-z0-9_.-]{1,128}$", description="wandb project")
    entity: str | None = Field(None, description="wandb user or team; null: your default")


class Tracker:
    """Writes named numbers against samples seen. On ranks other than 0 it does nothing."""

    def __init__(self, config, run_directory, run_name, settings, run_id, is_main):
        self.directory = Path(run_directory)
        self.is_main = is_main
        self.run = None
        self.run_id = run_id
        if is_main:
            self.metrics = open(self.directory / "metrics.jsonl", "ab", buffering=0)
            self.unwritten = b""  # records that wait for room on the disk
            if config.wandb != "disabled":
                self._guarded(self._start, config, run_name, settings)

    def _start(self, config, run_name, settings):
        try:
            self.run = self._open(config.wandb, config, run_name, settings)
        except Exception as error:  # no key, no network, refused
            if config.wandb == "offline":
                raise
            log.warning("wandb cannot be reached, so it records offline; `wandb sync` can send it later (%s: %s)",
                        type(error).__name__, error)
            self.run = self._open("offline", config, run_name, settings)
        self.run_id = self.run.id
        self.run.define_metric(X_AXIS)
        self.run.define_metric("*", step_metric=X_AXIS)

    def _open(self, mode, config, run_name, settings):
        import wandb

        return wandb.init(
            mode=mode, project=config.project, entity=config.entity, name=run_name, id=self.run_id,
            resume="allow", dir=str(self.directory), config=settings,
            settings=wandb.Settings(init_timeout=30, finish_timeout=30, **PRIVATE),
        )

    def log(self, numbers, samples_seen):
        """Record numbers (name -> float) at a position of the run."""
        if not self.is_main:
            return
        record = {X_AXIS: samples_seen, **numbers}
        self._append(json.dumps(record | {"time": round(time.time(), 3)}, allow_nan=False) + "\n")
        if self.run:
            self._guarded(self.run.log, record)

    def _append(self, line):
        """Append to metrics.jsonl; what a full disk refuses, part of a line too, goes there with a later record."""
        waits, self.unwritten = bool(self.unwritten), self.unwritten + line.encode()
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[self.metrics.write(self.unwritten):]
        except OSError as error:
            if not waits:
                log.warning("%s cannot be written (%s); the training goes on, and its records follow when there is room",
                            self.metrics.name, error)

    def panels(self, name, paths, samples_seen):
        """Show image files (caption -> path) under a name."""
        if self.is_main and self.run:
            self._guarded(self._log_panels, name, paths, samples_seen)

    def _log_panels(self, name, paths, samples_seen):
        import wandb

        images = [wandb.Image(str(path), caption=caption) for caption, path in paths.items()]
        self.run.log({X_AXIS: samples_seen, name: images})

    def finish(self, summary=None, exit_code=0):
        """Close the record; summary: name -> number shown for the whole run; exit_code: 0 done, STOPPED: goes on
        another time, any other: failed.
        """
        if not self.is_main:
            return
        if self.run:
            self._guarded(self._finish, summary or {}, exit_code)
        self._append("")
        if self.unwritten:
            log.warning("the last %d bytes of records are not in %s", len(self.unwritten), self.metrics.name)
        self.metrics.close()

    def _finish(self, summary, exit_code):
        self.run.summary.update(summary)
        if exit_code == STOPPED:
            self.run.mark_preempting()
        self.run.finish(exit_code)

    def _guarded(self, call, *arguments):
        try:
            call(*arguments)
        except Exception as error:  # whatever it is, the training goes on
            self.run = None
            log.warning("wandb failed and is switched off for this run; metrics.jsonl goes on (%s: %s)",
                        type(error).__name__, error)
