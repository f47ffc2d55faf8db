"""What a training measures between two reports: means of its numbers over updates and ranks, and its speed."""

import contextlib
import time

import torch

from srgan_dist.speed import Speed


class Meter:
    """Means of named 0-d tensors over an interval and over ranks; tensors stay on the device until they are read."""

    def __init__(self, accelerator, skipped_in_row=0):
        self.accelerator, self.speed = accelerator, Speed(accelerator)
        self.skipped_in_row = skipped_in_row  # updates up to the last reading
        self._restart()

    def _restart(self):
        self.values, self.samples, self.waited, self.since = {}, 0, 0.0, time.monotonic()
        self.speed.begin()

    @contextlib.contextmanager
    def waiting(self):
        """Count the time inside as waiting for data."""
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self):
        """Do not count the time inside at all."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began
        self.speed.begin()

    def add(self, numbers, samples):
        for name, value in numbers.items():
            self.values.setdefault(name, []).append(value)
        self.samples += samples
        self.speed.step()

    def read(self):
        """Return the means since the last reading, with speed/* (see `Speed`; data_wait is a share of the time), and the
        seconds that they cover.

        Updates that were skipped (as all ranks know) are left out of the means and counted as health/skipped; where
        there are no others, there are no means.
        """
        updates = len(next(iter(self.values.values())))
        skipped = torch.stack(self.values.pop("health/skipped", [torch.tensor(False)] * updates)).bool()
        self._count_skipped(skipped.tolist())
        means = {}
        if not skipped.all():
            means = torch.stack([torch.stack(values).float()[~skipped].mean() for values in self.values.values()])
            means = dict(zip(self.values, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        seconds = time.monotonic() - self.since
        speed = self.speed.read(self.samples, seconds, self.waited)
        self._restart()
        return means | {"health/skipped": sum(skipped.tolist())} | speed, seconds

    def _count_skipped(self, flags):
        """Note the longest row of skipped updates that ended, or goes on, since the last reading."""
        self.longest_skipped = 0
        for flag in flags:
            self.skipped_in_row = self.skipped_in_row + 1 if flag else 0
            self.longest_skipped = max(self.longest_skipped, self.skipped_in_row)
