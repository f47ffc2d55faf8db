"""A trace of some updates, for people who look for what takes the time."""

import contextlib
import os

from torch.profiler import ProfilerActivity, profile, schedule

UNTRACED = 3  # first updates here, in which memory is allocated and algorithms are chosen


class UpdateProfiler:
    """Traces `updates` updates of a phase on rank 0, after its first UNTRACED + 1, and writes them to a path.

    None: it does nothing. `step` is called after every update, `close` behind the last.
    """

    def __init__(self, updates, path, device, log):
        self.profile = None
        if updates is None:
            return
        self.path, self.log = path, log
        path.unlink(missing_ok=True)  # of a training before this one
        cuda = [ProfilerActivity.CUDA] if device.type == "cuda" else []
        self.profile = profile(
            activities=[ProfilerActivity.CPU, *cuda],
            schedule=schedule(wait=UNTRACED, warmup=1, active=updates, repeat=1),
            on_trace_ready=self._write,
        )
        self.profile.start()

    def step(self):
        if self.profile:
            self.profile.step()

    def close(self):
        """Write a trace that the phase's end has cut short; of a phase that was too short there is none."""
        if self.profile:
            self.profile.stop()
            if not self.path.exists():
                self.log(f"profile: no trace, the phase ended within its first {UNTRACED + 1} updates here")

    def _write(self, traced):
        unfinished = self.path.with_name(f".unfinished.{self.path.name}")
        try:
            self.path.parent.mkdir(exist_ok=True)
            traced.export_chrome_trace(str(unfinished))
            os.replace(unfinished, self.path)
        except (OSError, RuntimeError) as error:
            self.log(f"profile: {self.path} cannot be written ({error}); the training goes on without it")
            with contextlib.suppress(OSError):
                unfinished.unlink()
        else:
            self.log(f"profile: {self.path}, a trace of updates; open it in https://ui.perfetto.dev")
