"""Facts of the machine that a figure comes from, its fastest matrix product, and clocks."""

import platform
import time
from pathlib import Path

import torch

LARGEST_SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product is the ceiling of a device
MAX_SECONDS = 0.2  # of the products of one size; a larger one follows only below it


def machine_facts(device):
    """Return facts of the machine and versions; none that names it."""
    gpu = device.type == "cuda"
    facts = {
        "cpu": _cpu_model(),
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if gpu:
        facts |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        }
    return facts


def _cpu_model():
    """Return the processor's name, with family and model where /proc/cpuinfo has them."""
    try:
        fields = dict(
            line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        )
    except OSError:
        return platform.processor()
    known = {name.strip(): value.strip() for name, value in fields.items()}
    return ", ".join(
        f"{label}{known[name]}"
        for name, label in (("model name", ""), ("cpu family", "family "), ("model", "model "))
        if name in known
    )


def matmul_flops(dtype, device, clock):
    """Return the floating-point operations per second of a large matrix product, the fastest of some.

    The products grow until one is slow or the largest: some processors take minutes for it in bfloat16.
    """
    side = 128
    while True:
        pair = [torch.randn(side, side, device=device).to(dtype) for _ in range(2)]
        fastest = min(seconds(torch.matmul, clock, *pair)[0] for _ in range(6))
        if side == LARGEST_SIDE[device.type] or fastest > MAX_SECONDS / 6:
            return 2 * side**3 / fastest
        side *= 2


def seconds(work, clock, *arguments):
    """Return the duration of work(*arguments): (by the clock, by the host's clock until the call returns).

    clock: cpu (CPU time of this process), wall, or cuda (events of the device, which may finish after the
    host).
    """
    if clock == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        began = time.perf_counter()
        begin.record()
        work(*arguments)
        end.record()
        host = time.perf_counter() - began
        end.synchronize()
        return begin.elapsed_time(end) / 1000, host
    now = time.process_time if clock == "cpu" else time.perf_counter
    began = now()
    work(*arguments)
    duration = now() - began
    return duration, duration
