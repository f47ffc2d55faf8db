"""Means of the metrics of updates between two records, over updates and ranks, and the speed."""

import contextlib
import time

import torch

from srgan_dist.run.step_timer import StepTimer


class Meter:
    """Means of named 0-d tensors over an interval and over ranks; tensors stay on the device until they are
    read.
    """

    def __init__(self, accelerator, consecutive_skips=0):
        self.accelerator, self.speed = accelerator, StepTimer(accelerator)
        self.pauses = {"validation": 0.0, "checkpoints": 0.0}  # seconds, of the phase
        self.began = time.monotonic()
        self.consecutive_skips = consecutive_skips  # skipped updates up to the last reading
        self._restart()

    def _restart(self):
        self.names, self.rows, self.samples, self.waited = [], [], 0, 0.0
        self.since = time.monotonic()
        self.speed.begin()

    @contextlib.contextmanager
    def waiting(self):
        """Count the time inside as waiting for data."""
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self, kind=None):
        """Count the time inside as a pause, as of "validation" or "checkpoints", and not as training."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self.since += seconds
        if kind:
            self.pauses[kind] += seconds
        self.speed.begin()

    def add(self, metrics, samples):
        """Add the metrics of an update, the same names for all, and its samples."""
        self.names = list(metrics)
        self.rows.append(torch.stack(list(metrics.values())))
        self.samples += samples
        self.speed.step()

    def last(self):
        """Return the metrics of the last update as `read` would, which still has them to read."""
        values = self.accelerator.reduce(self.rows[-1].float(), "mean").tolist()
        metrics = dict(zip(self.names, values, strict=True))
        return {"health/skipped": 1} if metrics["health/skipped"] else metrics

    def read(self):
        """Return the means since the last reading, with speed/* (see `StepTimer`; data_wait is a share of the
        time), and the seconds that they cover.

        Updates that were skipped (as all ranks know) are left out of the means and counted as health/skipped;
        where there are no others, there are no means.
        """
        values = torch.stack(self.rows).float()  # [updates, names]
        skipped = values[:, self.names.index("health/skipped")] > 0
        means = torch.where(skipped[:, None], 0, values).sum(0) / (~skipped).sum()
        # the one time that the host waits
        found = torch.cat([self.accelerator.reduce(means, "mean"), skipped]).tolist()
        count = len(self.names)
        means, skipped = (
            dict(zip(self.names, found[:count], strict=True)),
            [flag > 0 for flag in found[count:]],
        )
        self._count_skips(skipped)
        if all(skipped):
            means = {}
        seconds = time.monotonic() - self.since
        speed = self.speed.read(self.samples, seconds, self.waited)
        self._restart()
        return means | {"health/skipped": sum(skipped)} | speed, seconds

    def of_phase(self):
        """Return speed/* of all that has been read, with the share of the time that pauses of each kind have
        taken.
        """
        whole = time.monotonic() - self.began
        shares = {f"speed/{kind}_share": seconds / whole for kind, seconds in self.pauses.items()}
        return self.speed.of_phase() | shares

    def _count_skips(self, flags):
        """Note the longest row of skipped updates that ended, or goes on, since the last reading."""
        self.longest_skips = 0
        for flag in flags:
            self.consecutive_skips = self.consecutive_skips + 1 if flag else 0
            self.longest_skips = max(self.longest_skips, self.consecutive_skips)
