"""What a process may use of its machine."""

import os

import torch


def usable_cores():
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def use_cpu_threads(accelerator, threads=None):
    """Let a rank that runs on CPU use `threads`, or its share of the cores; launchers leave it one by default."""
    if accelerator.device.type == "cpu":
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        torch.set_num_threads(threads or max(1, usable_cores() // ranks_here))
