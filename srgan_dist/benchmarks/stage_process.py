"""Stages of the GPU benchmark in a process of their own; free of PyTorch, which the stages import."""

import json
import multiprocessing
import time
import traceback
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from srgan_dist.utils.files import atomic_write

TIME_LIMIT = {"cuda": 1.5, "cpu": 20}  # of a stage, in multiples of its estimate, which is for a GPU


@dataclass(frozen=True)
class Context:
    """The conditions of a stage, and its results until now."""

    device: str  # cuda or cpu
    rocks: str | None  # folder of images, one sub-folder per rock; None: synthetic ones
    folder: str  # for its files
    small: bool  # tiny networks and short runs, to try the stages themselves

    def note(self, name, facts):
        """Keep a result of the stage."""
        results = self.read()
        with atomic_write(self._path) as unfinished:
            unfinished.write_text(json.dumps(results | {name: facts}))

    def read(self):
        """Return the results until now: {name: facts}."""
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    @property
    def _path(self):
        return Path(self.folder) / "results.json"


class StageProcess:
    """The process that runs stages; a new one follows after a stage with an error."""

    def __init__(self):
        self.pool = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.pool:
            self.pool.shutdown()

    def results(self, stage, context, estimate, left):
        """Run a stage; yields its results whenever they grow, at the end with its error if it failed.

        estimate, left: its estimated seconds on a GPU, and those that are left for all stages.
        """
        time_limit = min(TIME_LIMIT[context.device] * estimate, left)
        self.pool = self.pool or ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        future, end, before = self.pool.submit(_run, stage, context), time.monotonic() + time_limit, {}
        done = False
        while not done:
            error, done = None, True
            try:
                error = future.result(timeout=1)
            except TimeoutError:
                done = time.monotonic() > end
                if done:
                    error = f"ended after {time_limit:.0f} s; its estimate is {estimate} s"
            except BrokenExecutor:
                error = "its process has died"
            facts = context.read()
            if error:
                self._kill()
                facts["error"] = error
            if done or facts != before:
                yield facts
            before = facts

    def _kill(self):
        """End the process: after an error the device may be of no more use to it."""
        for process in list(self.pool._processes.values()):
            process.kill()
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool = None


def _run(stage, context):
    """Run a stage in this process; returns the end of its traceback, None where it succeeds."""
    try:
        stage(context)
    except BaseException:
        return traceback.format_exc()[-1500:]
