"""Computing on CPU: threads per rank, free memory, and freed memory that is kept for the next update.

Ranks of one thread each are fastest. The convolutions of a small network gain little from a second thread,
and each of an update's hundreds of parallel regions waits for the thread that has lost its core to another
program; ranks synchronise once per update and network.
"""

import contextlib
import ctypes
import platform
import statistics
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from srgan_dist.runtime.device import cpu_wanted
from srgan_dist.runtime.launch_variables import launch_number
from srgan_dist.runtime.process_group import from_rank_zero, max_over_ranks
from srgan_dist.utils.executors import usable_cores

ROOT = Path("/")
# controller of a control group ("" for version 2) -> folder, files of limit and usage, line of memory.stat
LIMITS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
TRIAL_SECONDS = 1.0  # for each number of threads
MIN_SPEEDUP_RATIO = 0.9  # of the time of fewer threads, which more threads must reach


def on_cpu(device="auto"):
    """Return whether a process without a launcher would train on the CPU; device: of the config."""
    return cpu_wanted(device) or not (torch.cuda.is_available() or torch.backends.mps.is_available())


def free_memory():
    """Return the bytes that this process can still allocate: free on the machine, and below the limits of its
    control groups, which containers and schedulers set; infinity on systems without such information.
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
    """Return the free bytes of a control group and of each of its parents that has a limit. The page cache (a
    line of memory.stat) counts as free.
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
    """Return a rank's share of the cores of its machine, at least 1."""
    local_ranks = launch_number("LOCAL_WORLD_SIZE", accelerator.num_processes)
    return max(1, usable_cores() // local_ranks)


def use_cpu_threads(accelerator, threads=None):
    """Set the threads of a rank on CPU, by default to its share of the cores; launchers leave it one."""
    if accelerator.device.type == "cpu":
        torch.set_num_threads(threads or share_of_cores(accelerator))


def fastest_thread_count(generator, lr, hr, most, *noise):
    """Time 1, 2, 4, ... and `most` threads; returns {threads: median seconds} and the chosen number: the
    smallest one that no larger one beats by a tenth.

    Each trial is forward and backward of the generator on lr [B, 1, *shape] (and noise [B, C, *(s * shape)]
    of one with noise) and hr [B, 1, *(s * shape)]; the
    numbers of threads take turns.
    """
    counts = sorted({most, *(2**n for n in range(most.bit_length()) if 2**n <= most)})
    parameters, times = list(generator.parameters()), {count: [] for count in counts}

    def trial(threads):
        torch.set_num_threads(threads)
        start = time.perf_counter()
        torch.autograd.grad((generator(lr, *noise) - hr).abs().mean(), parameters)
        return time.perf_counter() - start

    before = torch.get_num_threads()
    trial(most)  # warm-up
    while sum(map(sum, times.values())) < TRIAL_SECONDS * len(counts) or not all(times.values()):
        for count in counts:
            times[count].append(trial(count))
    torch.set_num_threads(before)
    medians = {count: statistics.median(seconds) for count, seconds in times.items()}
    chosen = counts[0]
    for count in counts[1:]:
        if medians[count] < MIN_SPEEDUP_RATIO * medians[chosen]:
            chosen = count
    return medians, chosen


def one_thread_each(function, items, device, most=None):
    """Yield function(item) for every item, in order; on a CPU as many in parallel as PyTorch has threads, one
    thread each. most: fewer items at a time, which share the threads.

    Several threads on one item would synchronise after every operation, and on a busy machine wait for a
    thread that has lost its core: up to ten times the time of one thread. An error of `items` is raised in
    the place of its item.
    """
    threads = torch.get_num_threads()
    at_once = min(threads, most or threads)
    if device.type != "cpu" or at_once == 1:
        yield from map(function, items)
        return
    torch.set_num_threads(threads // at_once)
    try:
        with ThreadPoolExecutor(at_once, "item") as pool:
            waiting, source = deque(), iter(items)
            try:
                while source or waiting:
                    while source and len(waiting) < 2 * at_once:
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
                pool.shutdown(wait=False, cancel_futures=True)  # after an error nobody wants the rest
    finally:
        torch.set_num_threads(threads)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory(device_type):
    """On a CPU under Linux, let this process keep freed memory for the next update.

    By default the C library returns large arrays to the system at once, which has to clear every page of them
    when the next update allocates again: 0.7 GB of pages per update of phase 2 at full size, a tenth of its
    time.
    """
    if device_type == "cpu" and has_glibc():
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)  # never


def has_glibc():
    """Return whether this process has the GNU C library, whose allocator has `mallopt`."""
    return platform.libc_ver()[0] == "glibc"


def choose_threads(accelerator, given, generator, lr_shape, hr_shape, noise=0):
    """Set the threads of this rank: `given`, or the fastest number within its share; the same on every rank.

    lr_shape, hr_shape: [B, 1, *shape] of the micro-batches of the trials. noise: channels of noise that the
    generator is called with. Returns (threads, trials as text).
    """
    smallest_share = -int(max_over_ranks([-share_of_cores(accelerator)])[0])
    threads, trials = given or (1 if smallest_share == 1 else None), ""
    if threads is None:
        lr, hr = (torch.rand(shape) * 2 - 1 for shape in (lr_shape, hr_shape))
        inputs = [torch.zeros(hr_shape[0], noise, *hr_shape[2:])] if noise else []
        seconds, threads = fastest_thread_count(generator, lr, hr, smallest_share, *inputs)
        threads = int(from_rank_zero(threads))
        trials = f" (tried: {', '.join(f'{count}: {1000 * s:.0f} ms' for count, s in seconds.items())})"
    torch.set_num_threads(threads)
    return threads, trials
