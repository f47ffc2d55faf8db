"""How fast a training is: samples per second, the times of single updates, waiting for data, memory."""

import sys
import time
from array import array

import numpy as np
import torch

from srgan_dist.runtime.process_group import max_over_ranks

try:
    import resource
except ImportError:  # Windows
    resource = None

PERCENTILES = {"p50": 50, "p95": 95, "p99": 99, "max": 100}


class StepTimer:
    """Times the updates of one phase on this rank, and combines the measurements of all ranks.

    A step lasts from one mark to the next, waiting for its batch included. On a GPU a mark is a CUDA event,
    which the device stamps when it gets there: the times are the device's own, and no update waits for them;
    they are read after the means of the losses, for which the host has waited anyway. Elsewhere a mark is the
    host's clock.
    """

    def __init__(self, accelerator):
        self.device = accelerator.device
        self.samples, self.seconds, self.waited, self.times = 0, 0.0, 0.0, array("d")  # of the phase
        self.steps = []  # (start, end) of those that are not read yet
        self.begin()

    def begin(self):
        """Start the next step now: the time before belonged to no update."""
        self.start = self._mark()

    def step(self):
        """Note the end of an update."""
        end = self._mark()
        self.steps.append((self.start, end))
        self.start = end

    def read(self, samples, seconds, waited):
        """Return speed/* of an interval: its samples, its seconds, those of them that it waited for data."""
        times, self.steps = self._times(), []
        self.samples += samples
        self.seconds += seconds
        self.waited += waited
        self.times.extend(times)
        return self._over_ranks(samples, seconds, waited, times)

    def of_phase(self):
        """Return speed/* of all that has been read."""
        return self._over_ranks(self.samples, self.seconds, self.waited, self.times)

    def _mark(self):
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _times(self):
        """Return the milliseconds of the steps that are not read yet."""
        if self.device.type != "cuda":
            return [1000 * (end - start) for start, end in self.steps]
        self.steps[-1][1].synchronize()
        return [start.elapsed_time(end) for start, end in self.steps]

    def _over_ranks(self, samples, seconds, waited, times):
        """Return each number of the rank where it is worst: the others wait for it."""
        worst = {
            "seconds": seconds,
            "speed/data_wait": waited / seconds,
            **percentiles(times),
            "speed/memory_mib": memory_mib(self.device),
        }
        worst = dict(zip(worst, max_over_ranks(worst.values()), strict=True))
        return {"speed/samples_per_second": samples / worst.pop("seconds"), **worst}


def percentiles(times):
    """Return {"speed/step_ms_p50": ...} of step times in ms, interpolated linearly between neighbours."""
    return {
        f"speed/step_ms_{name}": float(np.percentile(times, percent)) for name, percent in PERCENTILES.items()
    }


def memory_mib(device):
    """Return the most memory in MiB that this process has had so far: allocated on its GPU, or resident where
    it computes on CPU, pages of mapped shards included; 0 where the system has no such count.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return 0.0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def speed_line(numbers):
    """Return speed/* as one line of text."""
    n = {name.removeprefix("speed/"): value for name, value in numbers.items()}
    return (
        f"{n['samples_per_second']:.1f} samples/s, an update {n['step_ms_p50']:.1f} ms (95 % within"
        f" {n['step_ms_p95']:.1f}, 99 % within {n['step_ms_p99']:.1f}, the slowest {n['step_ms_max']:.1f}),"
        f" {n['data_wait']:.1%} of the time waiting for data, {n['memory_mib']:.0f} MiB; validation took"
        f" {n['validation_share']:.1%} of the phase, checkpoints {n['checkpoints_share']:.1%}"
    )
