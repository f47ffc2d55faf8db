"""What a training measures between two reports: means of its numbers over updates and ranks, and its speed."""

import contextlib
import time

import torch

from srgan_dist.run.step_timer import Speed


class Meter:
    """Means of named 0-d tensors over an interval and over ranks; tensors stay on the device until they are read."""

    def __init__(self, accelerator, skipped_in_row=0):
        self.accelerator, self.speed = accelerator, Speed(accelerator)
        self.pauses, self.began = (
            {"validation": 0.0, "checkpoints": 0.0},
            time.monotonic(),
        )  # seconds by kind, of the phase
        self.skipped_in_row = skipped_in_row  # updates up to the last reading
        self._restart()

    def _restart(self):
        self.names, self.rows, self.samples, self.waited, self.since = [], [], 0, 0.0, time.monotonic()
        self.speed.begin()

    @contextlib.contextmanager
    def waiting(self):
        """Count the time inside as waiting for data."""
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self, kind):
        """Count the time inside as a pause for "validation" or for "checkpoints", and not as training."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self.since += seconds
        self.pauses[kind] += seconds
        self.speed.begin()

    def add(self, numbers, samples):
        """Take in the numbers of an update, the same names for all, and its samples."""
        self.names = list(numbers)
        self.rows.append(torch.stack(list(numbers.values())))
        self.samples += samples
        self.speed.step()

    def read(self):
        """Return the means since the last reading, with speed/* (see `Speed`; data_wait is a share of the time), and the
        seconds that they cover.

        Updates that were skipped (as all ranks know) are left out of the means and counted as health/skipped; where
        there are no others, there are no means.
        """
        values = torch.stack(self.rows).float()  # [updates, names]
        skipped = values[:, self.names.index("health/skipped")] > 0
        means = torch.where(skipped[:, None], 0, values).sum(0) / (~skipped).sum()
        found = torch.cat(
            [self.accelerator.reduce(means, "mean"), skipped]
        ).tolist()  # the one time that the host waits
        means, skipped = dict(zip(self.names, found)), [flag > 0 for flag in found[len(self.names) :]]
        self._count_skipped(skipped)
        if all(skipped):
            means = {}
        seconds = time.monotonic() - self.since
        speed = self.speed.read(self.samples, seconds, self.waited)
        self._restart()
        return means | {"health/skipped": sum(skipped)} | speed, seconds

    def of_phase(self):
        """Return speed/* of all that has been read, with the share of the time that pauses of each kind have taken."""
        whole = time.monotonic() - self.began
        return self.speed.of_phase() | {
            f"speed/{kind}_share": seconds / whole for kind, seconds in self.pauses.items()
        }

    def _count_skipped(self, flags):
        """Note the longest row of skipped updates that ended, or goes on, since the last reading."""
        self.longest_skipped = 0
        for flag in flags:
            self.skipped_in_row = self.skipped_in_row + 1 if flag else 0
            self.longest_skipped = max(self.longest_skipped, self.skipped_in_row)
