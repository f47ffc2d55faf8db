"""Computing on CPU: how many ranks and threads pay, and what they do with memory.

Ranks of one thread each are the fast way. The convolutions of a small network gain little from a second thread, and every
one of an update's hundreds of parallel regions waits for whichever thread has lost its core to another program; ranks meet
once per update and network.
"""

import contextlib
import ctypes
import os
import platform
import statistics
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from srgan_dist.models import build_discriminator, build_generator
from srgan_dist.runtime.device import cpu_wanted
from srgan_dist.runtime.process_group import from_rank_zero, max_over_ranks
from srgan_dist.utils.executors import usable_cores

CROPS_OF_A_RANK = 2  # at least: batch normalisation takes its statistics of them
RANK_BYTES = 1.5 * 2**30  # beside what grows with the weights: PyTorch, VGG, activations of some crops
BYTES_PER_WEIGHT = 24  # weight, gradient, two moments of Adam, next weight, and one for work
ROOT = Path("/")
LIMITS = {  # controllers of a control group, "" for those of version 2 -> where its files are, and their names
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
TRIAL_SECONDS = 1.0  # for each number of threads
WORTH = 0.9  # of the time of fewer threads: what more of them must bring


def on_cpu(device="auto"):
    """Tell whether a process that no launcher has started would train on the CPU, by the config's `device` and the machine."""
    return cpu_wanted(device) or not (torch.cuda.is_available() or torch.backends.mps.is_available())


def ranks_on_cpu(config, before=None):
    """Return how many ranks a training on CPU takes where no launcher has decided: one per core, as far as they share the
    batch equally, have CROPS_OF_A_RANK crops at a time, and fit into the memory that is free.

    before: as many as the run has had so far, which it keeps, for with another number the last bits differ; None: it begins.
    """
    if config.cpu_ranks:
        return config.cpu_ranks
    if before and config.data.batch_size % (before * config.gradient_accumulation_steps) == 0:
        return before
    crops = config.data.batch_size // config.gradient_accumulation_steps
    most = min(usable_cores(), crops // CROPS_OF_A_RANK, int(_free_memory() / _bytes_of_a_rank(config)))
    possible = [
        n
        for n in range(2, most + 1)
        if config.data.batch_size % (n * config.gradient_accumulation_steps) == 0
    ]
    return max(possible, default=1) if os.name == "posix" else 1


def _bytes_of_a_rank(config):
    with torch.device("meta"):
        networks = [build_generator(config.generator)]
        if config.needs_discriminator():
            networks.append(build_discriminator(config.discriminator, config.hr_crop, config.generator.ndim))
    return RANK_BYTES + BYTES_PER_WEIGHT * sum(
        weight.numel() for network in networks for weight in network.parameters()
    )


def _free_memory():
    """Return the bytes that this process can still take: those that are free on the machine, and below the limits of its
    control groups, which containers and schedulers set; infinity where the system does not tell.
    """
    frees = [float("inf")]
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = (ROOT / "proc/meminfo").read_text().splitlines()
        frees.append(2**10 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):
        for line in (ROOT / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in LIMITS:
                frees += _free_in_groups(path, *LIMITS[controllers])
    return min(frees)


def _free_in_groups(path, mount, limit, usage, cache):
    """Return what is free in a control group and in those around it, where they have a limit. Of what they use, the part that
    is only a cache of files (a line of memory.stat) counts as free.
    """
    frees, top = [], ROOT / "sys/fs/cgroup" / mount
    group = top / path.lstrip("/")
    for folder in [group, *group.parents]:
        if folder.is_relative_to(top):
            with contextlib.suppress(OSError, ValueError):  # no limit: the file is not there or says "max"
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                frees.append(
                    int((folder / limit).read_text())
                    - int((folder / usage).read_text())
                    + int(stat.get(cache, 0))
                )
    return frees


def share_of_cores(accelerator):
    """Return how many of this machine's cores are a rank's share, one at least."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    return max(1, usable_cores() // ranks_here)


def use_cpu_threads(accelerator, threads=None):
    """Let a rank that runs on CPU use `threads`, or its share of the cores; launchers leave it one by default."""
    if accelerator.device.type == "cpu":
        torch.set_num_threads(threads or share_of_cores(accelerator))


def fastest_thread_count(generator, lr, hr, most):
    """Return {threads: seconds} of a try of 1, 2, 4, ... and `most` threads, and the number that is worth taking: the
    smallest than which none is faster by a tenth.

    Each tries forward and backward of the generator, on lr [B, 1, H, W] and hr [B, 1, s*H, s*W], in turns.
    """
    counts = sorted({most, *(2**n for n in range(most.bit_length()) if 2**n <= most)})
    parameters, times = list(generator.parameters()), {count: [] for count in counts}

    def work(threads):
        torch.set_num_threads(threads)
        began = time.perf_counter()
        torch.autograd.grad((generator(lr) - hr).abs().mean(), parameters)
        return time.perf_counter() - began

    before = torch.get_num_threads()
    work(most)  # what is done once
    while sum(map(sum, times.values())) < TRIAL_SECONDS * len(counts) or not all(times.values()):
        for count in counts:
            times[count].append(work(count))
    torch.set_num_threads(before)
    medians = {count: statistics.median(found) for count, found in times.items()}
    chosen = counts[0]
    for count in counts[1:]:
        if medians[count] < WORTH * medians[chosen]:
            chosen = count
    return medians, chosen


def one_thread_each(function, items, device):
    """Yield function(item) of every item, in order; on a CPU as many at a time as PyTorch has threads, with one thread each.

    Several threads on one item would meet after every operation, and beside another program wait there for the one that has
    lost its core: up to ten times the time of one thread alone. An error of `items` is raised where its item would come.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(function, items)
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, "item") as pool:
            waiting, source = deque(), iter(items)
            while source or waiting:
                while source and len(waiting) < 2 * threads:
                    try:
                        waiting.append(pool.submit(function, next(source)))
                    except StopIteration:
                        source = None
                    except BaseException as error:
                        source = None
                        waiting.append(Future())
                        waiting[-1].set_exception(error)
                if waiting:
                    yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory(device_type):
    """On a CPU under Linux, let what an update frees stay with this process for the next one.

    By default the C library gives large arrays back to the system at once, which has to clear every page of them when the
    next update asks again: 0.7 GB of pages per update of phase 2 at full size, a tenth of its time.
    """
    if device_type == "cpu" and has_glibc():
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)  # never


def has_glibc():
    """Tell whether this process has the GNU C library, whose allocator can be told what to do."""
    return platform.libc_ver()[0] == "glibc"


def choose_threads(accelerator, given, generator, lr_shape, hr_shape):
    """Set the threads of this rank: `given`, or as many of its share of the cores as pay; the same number on every rank.

    lr_shape, hr_shape: [B, 1, ...] of the micro-batches with which numbers are tried. Returns (threads, how they were found).
    """
    tried, most = (
        "",
        -int(max_over_ranks([-share_of_cores(accelerator)])[0]),
    )  # the smallest share of any rank
    threads = given or (1 if most == 1 else None)
    if threads is None:
        lr, hr = (torch.rand(shape) * 2 - 1 for shape in (lr_shape, hr_shape))
        seconds, threads = fastest_thread_count(generator, lr, hr, most)
        threads = int(from_rank_zero(threads))
        tried = (
            f" (tried: {', '.join(f'{count}: {1000 * found:.0f} ms' for count, found in seconds.items())})"
        )
    torch.set_num_threads(threads)
    return threads, tried
