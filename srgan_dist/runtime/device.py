"""Device, precision and launch checks of a process."""

import contextlib
import logging
import os
import platform
import re
import warnings

import torch
from accelerate.utils import parse_flag_from_env

from srgan_dist.runtime.accelerate_options import check_launch_options
from srgan_dist.runtime.launch_variables import launch_number
from srgan_dist.utils.errors import UserError

log = logging.getLogger(__name__)

try:
    import resource
except ImportError:  # Windows
    resource = None


def check_group(accelerator):
    """Raise UserError unless all launched processes formed one group, without options that this
    program cannot follow.
    """
    launched = launch_number("WORLD_SIZE", 1)
    check_launch_options()
    if launched != accelerator.num_processes:
        raise UserError(
            f"{launched} processes were launched but each formed a group of {accelerator.num_processes};"
            " without GPUs, set ACCELERATE_USE_CPU=1 and launch with torchrun"
        )


def check_device(wanted):
    """Raise UserError unless this process can use the device of a config: "auto", "cpu" or "cuda"."""
    check_launch_options()
    if wanted == "cuda" and parse_cpu_flag():
        raise UserError(
            "device=cuda, but the launcher or the environment asks for the CPU (ACCELERATE_USE_CPU=1); use"
            " one or the other"
        )
    gpus = torch.cuda.device_count()
    if not cpu_wanted(wanted) and (problem := driver_problem()):
        if wanted == "cuda":
            raise UserError(
                f"device=cuda, but PyTorch cannot use the GPU of {platform.node()}: {problem}, or use"
                " device=cpu"
            )
        log.warning(
            "the training runs on the CPU, for PyTorch cannot use the GPU of %s: %s", platform.node(), problem
        )
        return
    if wanted == "cuda" and not gpus:
        raise UserError(
            f"device=cuda, but PyTorch finds no GPU on {platform.node()}; ask the scheduler for one, look at"
            " nvidia-smi and CUDA_VISIBLE_DEVICES, or use device=cpu"
        )
    local_rank = launch_number("LOCAL_RANK", 0)
    if gpus and not cpu_wanted(wanted) and local_rank >= gpus:
        raise UserError(
            f"{launch_number('LOCAL_WORLD_SIZE', local_rank + 1)} processes were launched on"
            f" {platform.node()}, where PyTorch finds {gpus} GPU(s); launch one process per GPU"
            " (--num_processes, --nproc_per_node)"
        )


def driver_problem():
    """Explain that the NVIDIA driver is too old for PyTorch; None where it is not, or there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's warning is the problem that is returned below
        if torch.cuda.is_available():
            return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # the latter from a PyTorch without CUDA
        if found := re.search(r"driver .*too old \(found version (\d+)\)", str(error)):
            version = int(found[1])
            return (
                f"its driver supports CUDA {version // 1000}.{version % 1000 // 10}, this PyTorch needs CUDA"
                f" {torch.version.cuda}. Update the driver, or install a PyTorch for that CUDA"
                " (https://pytorch.org)"
            )
    return None


def cpu_wanted(device="auto"):
    """Return whether the config's `device` or the environment asks for the CPU even where there is a GPU."""
    return device == "cpu" or parse_cpu_flag()


def parse_cpu_flag():
    """Return ACCELERATE_USE_CPU as a bool; raises UserError where it is neither yes nor no."""
    try:
        return parse_flag_from_env("ACCELERATE_USE_CPU")
    except ValueError:
        raise UserError(f"ACCELERATE_USE_CPU={os.environ['ACCELERATE_USE_CPU']} must be 1 or 0") from None


def memory_of(device):
    """Name the memory that a rank on a device uses, on a GPU with its size."""
    if device.type != "cuda":
        return f"the memory of {platform.node()}"
    facts = torch.cuda.get_device_properties(device)
    return f"the memory of {device} on {platform.node()} ({facts.name}, {facts.total_memory / 2**30:.0f} GiB)"


def allow_many_files():
    """Raise the limit of open files to the most that the system allows: every mapped shard is one."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # some systems report "unlimited" and allow less
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def use_exact_float32():
    """Compute float32 convolutions exactly on a GPU: by default they round their inputs to 10 bits (TF32)."""
    torch.backends.cudnn.allow_tf32 = False


def has_fast_bf16(device_type):
    """Return whether a device ("cuda", "cpu", ...) computes convolutions in bfloat16 by hardware.

    A CPU without such instructions emulates them several times slower than float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def precision_on(device_type, requested):
    """Resolve "auto", "no" or "bf16" to "no" or "bf16"; raises UserError on a GPU without bf16."""
    if requested == "auto":
        return "bf16" if has_fast_bf16(device_type) else "no"
    if requested == "bf16" and device_type == "cuda" and not has_fast_bf16(device_type):
        raise UserError(
            f"mixed_precision=bf16 is not supported by {torch.cuda.get_device_name()}; use no or auto"
        )
    return requested
