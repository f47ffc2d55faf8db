"""One case of the step benchmark: the variants take turns at updates of one phase, network and batch size."""

import ctypes
import gc
import itertools
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from srgan_dist.benchmarks.facts import matmul_flops, seconds
from srgan_dist.benchmarks.names import PLAIN
from srgan_dist.benchmarks.variants import build, crops_of, precision_of
from srgan_dist.runtime.cpu import has_glibc, use_cpu_threads
from srgan_dist.runtime.device import cpu_wanted, use_exact_float32
from srgan_dist.runtime.process_group import barrier, max_over_ranks
from srgan_dist.utils.memory import is_out_of_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class StepBenchmark:
    """Measures cases of a plan on the device of an accelerator; as a context, ends the plain loop's process.

    peaks: {"fp32" or "bf16": FLOP/s of a large matrix product}, for the precisions of the plan's variants.
    """

    def __init__(self, plan, accelerator):
        self.plan, self.accelerator = plan, accelerator
        precisions = {precision_of(variant) for variant in plan.variants}
        self.peaks = {
            precision: matmul_flops(dtype, accelerator.device, plan.clock)
            for precision, dtype in DTYPES.items()
            if precision in precisions
        }
        self.plain_process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def __enter__(self):
        gc.freeze()  # so that the collections between variants skip all imported modules
        return self

    def __exit__(self, *_):
        gc.unfreeze()
        self.plain_process.shutdown()

    def measure(self, config, phase, blocks, batch, end=float("inf")):
        """Return a row for each variant of a phase, with `blocks` residual blocks, at a batch size.

        Passes that would begin after `end` (of time.monotonic) are left out, except for the first.
        """
        generator = config.generator.model_copy(update={"num_blocks": blocks})
        case = config.model_copy(update={"generator": generator}), phase, batch, self.plan
        case_facts = {"phase": phase, "blocks": blocks, "batch": batch}
        rows, timed = {}, {}
        for variant in self.plan.variants:
            rows[variant] = {**case_facts, "variant": variant}
            try:
                timed[variant], facts = self._prepare(variant, case)
                rows[variant] |= facts
            except Exception as error:
                if self.accelerator.num_processes > 1:
                    raise
                rows[variant]["error"] = _short(error)
                _free_memory()
        for variant, times in self._take_turns(timed, end).items():
            rows[variant] |= self._figures(rows[variant], times)
        timed.clear()
        _free_memory()
        _add_speedups(rows)
        return list(rows.values())

    def _prepare(self, variant, case):
        """Return (a function that times one pass, facts of the variant)."""
        if variant == PLAIN:
            facts = self.plain_process.submit(_prepare_plain, *case).result()
            return lambda: self.plain_process.submit(_time_plain).result(), facts
        timed = TimedVariant(variant, *case)
        return timed.time_pass, timed.facts

    def _take_turns(self, timed, end):
        """Return the times of every pass: {variant: [(device seconds, host seconds)]}."""
        times = {variant: [] for variant in timed}
        for number, variant in itertools.product(range(self.plan.passes), timed):
            if number and max_over_ranks([time.monotonic() > end])[0]:
                break
            barrier()
            times[variant].append(timed[variant]())
        return times

    def _figures(self, row, times):
        """Return the medians over passes, on the slowest rank, and the speeds that follow from them."""
        device, host = map(statistics.median, zip(*times))
        (device,) = max_over_ranks([device])
        floor = 1e9 * row["gflop_per_sample"] * row["batch"] / self.peaks[precision_of(row["variant"])]
        return {
            "step_ms": 1000 * device,
            "host_ms": 1000 * host,
            "passes": len(times),
            "samples_per_second": self.accelerator.num_processes * row["batch"] / device,
            "share_of_floor": floor / device,
        }


def _short(error):
    """Return an error as the text of a cell."""
    if is_out_of_memory(error):
        return "out of memory"
    return f"{type(error).__name__}: {str(error).splitlines()[0]:.200}"


def _add_speedups(rows):
    """Add times_plain and times_ddp, the speed relative to these loops, where they were measured."""
    for row in rows.values():
        for name in (PLAIN, f"ddp-{row['variant'].removesuffix('-compiled')}"):
            if "step_ms" in row and "step_ms" in rows.get(name, {}):
                row[f"times_{name.partition('-')[0]}"] = rows[name]["step_ms"] / row["step_ms"]


def _free_memory():
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class TimedVariant:
    """One variant in one case after its warm-up. facts: {gflop_per_sample, peak_mib}."""

    def __init__(self, variant, config, phase, batch, plan):
        self.plan, device = plan, torch.device("cuda" if plan.clock == "cuda" else "cpu")
        memory = PeakMemory(device)
        self.update, self.crops = build(variant, config, phase), crops_of(config, batch, device)
        flop = flop_per_crop(self.update, self.crops)
        memory.reset()
        for _ in range(3 if device.type == "cuda" else 1):  # compiles, and chooses algorithms for this size
            self.update(self.crops)
        self.facts = {"gflop_per_sample": flop / 1e9, "peak_mib": memory.mib()}

    def time_pass(self):
        """Return the seconds per update of one pass, (of the device, of the host)."""
        steps = self.plan.steps
        device, host = seconds(lambda: [self.update(self.crops) for _ in range(steps)], self.plan.clock)
        return device / steps, host / steps


_plain = []  # the TimedVariant of the plain loop, in its own process


def _prepare_plain(config, phase, batch, plan):
    """Prepare the plain loop in this process, which keeps PyTorch's own settings; returns its facts."""
    use_cpu_threads(Accelerator(cpu=cpu_wanted()), plan.threads)
    use_exact_float32()
    if not gc.get_freeze_count():
        gc.freeze()
    _plain.clear()
    _free_memory()
    _plain.append(TimedVariant(PLAIN, config, phase, batch, plan))
    return _plain[0].facts


def _time_plain():
    return _plain[0].time_pass()


def flop_per_crop(update, crops):
    """Return the floating-point operations of an update per crop; a multiplication and an addition are two.

    They are those of its convolutions and matrix products, as PyTorch counts them on the first crop.
    """
    ((lr, hr),) = crops
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        update([(lr[:1], hr[:1])])
    return counter.get_total_flops()


class PeakMemory:
    """Peak memory above that at construction: allocated on a GPU, else resident in this process."""

    def __init__(self, device):
        self.device = device
        gc.collect()
        if device.type != "cuda" and has_glibc():
            ctypes.CDLL(None).malloc_trim(0)  # memory that glibc keeps would be reused without a trace
        self.before = torch.cuda.memory_allocated(device) if device.type == "cuda" else _resident_kib("VmRSS")

    def reset(self):
        """Forget the peak until now."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.before is not None:
            Path("/proc/self/clear_refs").write_text("5")

    def mib(self):
        """Return the peak in MiB; None where the system has no such figure."""
        if self.device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self.device) - self.before) / 2**20
        return None if self.before is None else (_resident_kib("VmHWM") - self.before) / 2**10


def _resident_kib(field):
    """Return a field of this process's status in KiB; None on systems without /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return int(next(line for line in lines if line.startswith(field)).split()[1])
