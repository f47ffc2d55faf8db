"""One update of each phase, as a training takes it, against other loops (`variants.py`).

The variants take turns, pass by pass, and the figure is the median over passes. The plain loop has a process of its own,
which is as Python starts it. The arithmetic floor of an update is the time that its convolutions and matrix products would
take at the speed of one large matrix product in the same precision, on the same threads.

Under a launcher every rank computes batches of the same size, and the time is set against that of one rank by itself,
which is measured in a process of its own before the ranks form their group.

Rows are printed and written as they come. A variant that lacks memory or cannot be compiled is a row that says so.
"""

import ctypes
import gc
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from srgan_dist.benchmarks.facts import machine_facts, matmul_flops, seconds
from srgan_dist.benchmarks.names import PLAIN
from srgan_dist.benchmarks.variants import build, crops_of, precision_of, with_random_vgg
from srgan_dist.config import load_config
from srgan_dist.runtime.cpu import has_glibc, use_cpu_threads
from srgan_dist.runtime.device import (
    cpu_wanted,
    has_fast_bf16,
    is_out_of_memory,
    launched_ranks,
    use_exact_float32,
)
from srgan_dist.runtime.process_group import barrier, end_all_ranks_on_error, max_over_ranks
from srgan_dist.training import start
from srgan_dist.utils.errors import UserError


def run(arguments, save):
    """Measure what the arguments ask for; save({"machine": facts, "rows": [dict]}) is called after every case, and what it
    was called with last is returned; on ranks other than the first None.
    """
    ranks = launched_ranks()
    plan = plan_of(arguments, "cuda" if torch.cuda.is_available() and not cpu_wanted() else "cpu", ranks)
    baseline = None
    if ranks > 1 and os.environ["RANK"] == "0":
        baseline = (
            read_baseline(arguments.baseline) if arguments.baseline else _measured_alone(plan, arguments.argv)
        )
    return measure(load_config(arguments.config), plan, save, baseline)


@dataclass(frozen=True)
class Plan:
    """What is measured, and how: the options of the command with their defaults resolved."""

    phases: tuple
    blocks: tuple
    batches: tuple
    variants: tuple
    threads: int
    passes: int
    steps: int
    clock: str
    minutes: float


def plan_of(arguments, device_type, ranks):
    """Resolve what depends on the device and on the number of ranks; raises UserError where options do not go together."""
    gpu = device_type == "cuda"
    variants = tuple(arguments.variants or _defaults(device_type, ranks))
    if ranks > 1 and PLAIN in variants:
        raise UserError(
            f"--variants {PLAIN}: the plain loop knows one process only, and {ranks} were launched; leave it out"
        )
    if arguments.clock and gpu:
        raise UserError(f"--clock {arguments.clock}: on a GPU its own events are the clock; leave it out")
    if arguments.clock == "cpu" and arguments.threads > 1:
        raise UserError(
            f"--clock cpu adds the times of all {arguments.threads} threads; use wall, or --threads 1"
        )
    clock = "cuda" if gpu else arguments.clock or ("cpu" if ranks == arguments.threads == 1 else "wall")
    batches = arguments.batches or ([16, 2, 64] if gpu else [2])
    return Plan(
        tuple(arguments.phases),
        tuple(arguments.blocks),
        tuple(batches),
        variants,
        arguments.threads,
        arguments.passes,
        arguments.steps or (10 if gpu else 1),
        clock,
        arguments.minutes,
    )


def _defaults(device_type, ranks):
    ours = ["fp32-channels_last"] + ["bf16-channels_last"] * has_fast_bf16(device_type)
    compiled = [f"{ours[-1]}-compiled"] * (device_type == "cuda" and ranks == 1)
    return [PLAIN] * (ranks == 1) + ours + [f"ddp-{ours[-1]}"] + compiled


def read_baseline(path):
    """Return what one rank has found before, from the file that --json wrote."""
    try:
        found = json.loads(path.read_text())
        return {
            "machine": {name: found["machine"][name] for name in ("ranks", "clock")},
            "rows": list(found["rows"]),
        }
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"--baseline {path} is no file that benchmark.py step has written ({type(error).__name__}: {error})"
        ) from None


def _measured_alone(plan, argv):
    """Return the results of the same command without a launcher; the other ranks wait for this one to form the group."""
    launcher = ("RANK", "LOCAL_", "GROUP_", "ROLE_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(launcher)}
    with tempfile.TemporaryDirectory(prefix="srgan_dist_benchmark_") as folder:
        path = Path(folder) / "one.json"
        again = [
            sys.executable,
            "-m",
            "srgan_dist",
            "benchmark",
            *argv,
            "--variants",
            *plan.variants,
            "--json",
            path,
        ]
        clock = [] if plan.clock == "cuda" else ["--clock", plan.clock]
        if subprocess.run([*again, *clock], env=environment, stdout=subprocess.DEVNULL).returncode:
            raise UserError(
                "one rank by itself could not be measured, see above; --baseline takes what was measured before"
            )
        return json.loads(path.read_text())


# Measuring


def measure(config, plan, save, baseline=None):
    """Measure every variant in every case of a plan, as long as there is time; returns as `run` does."""
    config = with_random_vgg(config)
    precisions = {precision_of(variant) for variant in plan.variants}
    accelerator = start(
        config.model_copy(
            update={"cpu_threads": plan.threads, "mixed_precision": "bf16" if "bf16" in precisions else "no"}
        )
    )
    end = time.monotonic() + 60 * plan.minutes
    with (
        end_all_ranks_on_error(),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere,
    ):  # starts when the plain loop does
        peaks = {
            precision: matmul_flops(dtype, accelerator.device, plan.clock)
            for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
            if precision in precisions
        }
        machine = (
            machine_facts(accelerator.device)
            | {"ranks": accelerator.num_processes, **asdict(plan)}
            | {f"matmul_gflops_{precision}": peak / 1e9 for precision, peak in peaks.items()}
        )
        found, shown = {"machine": machine, "rows": []}, accelerator.is_main_process
        if shown:
            print(format_head(found), flush=True)
        cases = list(itertools.product(plan.phases, plan.blocks, plan.batches))
        for number, (name, blocks, batch) in enumerate(cases):
            if max_over_ranks([time.monotonic() > end])[0]:
                left = ", ".join(
                    f"{name} of {blocks} block(s) at batch {batch}" for name, blocks, batch in cases[number:]
                )
                found["left_out"] = f"for want of time (--minutes {plan.minutes:g}): {left}"
                break
            sized = config.model_copy(
                update={"generator": config.generator.model_copy(update={"num_blocks": blocks})}
            )
            rows = [
                {"phase": name, "blocks": blocks, "batch": batch, **row}
                for row in case(sized, name, batch, plan, accelerator, peaks, elsewhere, end)
            ]
            if baseline:
                rows = [compared(row, baseline, plan.clock) for row in rows]
            found["rows"] += rows
            if shown:
                print("\n".join(format_row(row, found) for row in rows), flush=True)
                save(found)
        if shown and "left_out" in found:
            print(f"left out {found['left_out']}", flush=True)
            save(found)
        barrier()
    accelerator.end_training()
    return found if shown else None


def case(config, name, batch, plan, accelerator, peaks, elsewhere=None, end=float("inf")):
    """Let the variants take turns at one phase, network and batch size; returns a row for each. Passes that would begin
    after `end` (of time.monotonic) are left out, but for the first.
    """
    turns, rows = {}, {}
    for variant in plan.variants:
        try:
            if variant == PLAIN:
                facts, turns[variant] = (
                    elsewhere.submit(_begin_plain, config, name, batch, plan).result(),
                    None,
                )
            else:
                turns[variant] = Turns(variant, config, name, batch, plan)
                facts = turns[variant].facts
            rows[variant] = {"variant": variant, **facts}
        except Exception as error:
            if accelerator.num_processes > 1:
                raise
            rows[variant] = {
                "variant": variant,
                "error": "out of memory"
                if is_out_of_memory(error)
                else f"{type(error).__name__}: {str(error).splitlines()[0]:.200}",
            }
            _free()
    times = {variant: [] for variant in turns}
    for number, variant in itertools.product(range(plan.passes), turns):
        if number and max_over_ranks([time.monotonic() > end])[0]:
            break
        barrier()
        times[variant].append(
            turns[variant].take() if turns[variant] else elsewhere.submit(_take_plain).result()
        )
    turns.clear()
    _free()
    for variant, taken in times.items():
        row, (device, host) = rows[variant], map(statistics.median, zip(*taken))
        (device,) = max_over_ranks([device])
        floor = 1e9 * row["gflop_per_sample"] * batch / peaks[precision_of(variant)]
        row |= {
            "step_ms": 1000 * device,
            "host_ms": 1000 * host,
            "passes": len(taken),
            "samples_per_second": accelerator.num_processes * batch / device,
            "share_of_floor": floor / device,
        }
    for row in rows.values():
        for name in (PLAIN, f"ddp-{row['variant'].removesuffix('-compiled')}"):
            if "step_ms" in row and "step_ms" in rows.get(name, {}):
                row[f"times_{name.partition('-')[0]}"] = rows[name]["step_ms"] / row["step_ms"]
    return list(rows.values())


def _free():
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Turns:
    """One variant in one case, warm, with its `facts`; `take` a turn and get its seconds per update, of device and host."""

    def __init__(self, variant, config, name, batch, plan):
        self.plan, device = plan, torch.device("cuda" if plan.clock == "cuda" else "cpu")
        memory = Memory(device)
        self.update, self.crops = build(variant, config, name), crops_of(config, batch, device)
        flop = flop_per_crop(self.update, self.crops)
        memory.forget_peak()
        for _ in range(3 if device.type == "cuda" else 1):  # compiles, and chooses algorithms for this size
            self.update(self.crops)
        self.facts = {"gflop_per_sample": flop / 1e9, "peak_mib": memory.peak_mib()}

    def take(self):
        device, host = seconds(
            lambda: [self.update(self.crops) for _ in range(self.plan.steps)], self.plan.clock
        )
        return device / self.plan.steps, host / self.plan.steps


_plain = []  # the turns of the plain loop, in the process that it has for itself


def _begin_plain(config, name, batch, plan):
    """Make the plain loop ready here, without what `start` does to a process; returns its facts."""
    use_cpu_threads(Accelerator(cpu=cpu_wanted()), plan.threads)
    use_exact_float32()
    _plain[:] = []
    _free()
    _plain.append(Turns(PLAIN, config, name, batch, plan))
    return _plain[0].facts


def _take_plain():
    return _plain[0].take()


def flop_per_crop(update, crops):
    """Return the floating-point operations of an update per crop (a multiplication and an addition are two), counted on
    an update of the first crop: those of its convolutions and matrix products, as PyTorch counts them.
    """
    ((lr, hr),) = crops
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        update([(lr[:1], hr[:1])])
    return counter.get_total_flops()


class Memory:
    """The most memory that is taken beyond what was taken when this began: allocated on a GPU, else resident in this process."""

    def __init__(self, device):
        self.device = device
        gc.collect()
        if device.type != "cuda" and has_glibc():
            ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept would be taken again unseen
        self.before = torch.cuda.memory_allocated(device) if device.type == "cuda" else _resident_kib("VmRSS")

    def forget_peak(self):
        """Start to look for the peak anew."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.before is not None:
            Path("/proc/self/clear_refs").write_text("5")

    def peak_mib(self):
        """Return the peak in MiB; None where the system does not tell."""
        if self.device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self.device) - self.before) / 2**20
        return None if self.before is None else (_resident_kib("VmHWM") - self.before) / 2**10


def _resident_kib(field):
    """Return a field of this process's status in KiB; None where there is no such thing."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return int(next(line for line in lines if line.startswith(field)).split()[1])


# The figures


def compared(row, baseline, clock):
    """Return a row of several ranks with its weak scaling: the step time of one rank over theirs.

    Raises UserError where the baseline is not of one rank or has not measured the same.
    """
    if baseline["machine"]["ranks"] != 1 or baseline["machine"]["clock"] != clock:
        raise UserError(
            f"--baseline was measured by {baseline['machine']['ranks']} rank(s) and the {baseline['machine']['clock']} clock;"
            f" it has to be one rank and the {clock} clock (--clock)"
        )
    alone = {_case_of(one): one["step_ms"] for one in baseline["rows"] if "step_ms" in one}
    if _case_of(row) not in alone:
        raise UserError(
            "--baseline does not hold {variant} of {phase} with {blocks} block(s), batch {batch}; measure it with the"
            " same options".format(**row)
        )
    return row | {"weak_scaling": alone[_case_of(row)] / row["step_ms"]}


def _case_of(row):
    return row["phase"], row["blocks"], row["batch"], row["variant"]


COLUMNS = {  # heading -> (key, format)
    "phase": ("phase", "<12"),
    "blocks": ("blocks", ">6"),
    "batch": ("batch", ">6"),
    "variant": ("variant", "<29"),
    "ms/step": ("step_ms", ">9.1f"),
    "samples/s": ("samples_per_second", ">10.2f"),
    "x plain": ("times_plain", ">8.2f"),
    "x ddp": ("times_ddp", ">8.2f"),
    "of floor": ("share_of_floor", ">9.0%"),
    "GFLOP/sample": ("gflop_per_sample", ">13.1f"),
    "peak MiB": ("peak_mib", ">9.0f"),
    "weak scaling": ("weak_scaling", ">13.1%"),
}
CLOCKS = {"cpu": "CPU time", "wall": "wall time", "cuda": "CUDA events"}


def columns_of(found):
    """Return the columns that rows of this measurement can fill: {heading: (key, format)}."""
    machine = found["machine"]
    filled = {
        "times_plain": PLAIN in machine["variants"],
        "weak_scaling": machine["ranks"] > 1,
        "times_ddp": any(variant.startswith("ddp-") for variant in machine["variants"]),
    }
    return {title: column for title, column in COLUMNS.items() if filled.get(column[0], True)}


def describe(found):
    """Say on what and how rows were measured."""
    machine = found["machine"]
    peaks = ", ".join(
        f"{machine[f'matmul_gflops_{precision}']:,.0f} GFLOP/s in {words}"
        for precision, words in (("fp32", "float32"), ("bf16", "bfloat16"))
        if f"matmul_gflops_{precision}" in machine
    )
    return (
        f"{machine['cpu']}; {machine['device']}; PyTorch {machine['torch']}; {machine['ranks']} rank(s) of {machine['threads']}"
        f" thread(s); {CLOCKS[machine['clock']]}, median of {machine['passes']}; a large matrix product: {peaks}"
    )


def format_head(found):
    """Return the lines above the rows: facts of the machine, and headings."""
    return f"{describe(found)}\n" + "  ".join(
        _cell(title, form) for title, (_, form) in columns_of(found).items()
    )


def format_row(row, found):
    """Return a row as a line."""
    if "error" in row:
        return (
            "  ".join(_cell(row[key], COLUMNS[key][1]) for key in ("phase", "blocks", "batch", "variant"))
            + f"  {row['error']}"
        )
    return "  ".join(_cell(row.get(key), form) for key, form in columns_of(found).values())


def _cell(value, form):
    """Return a value in its format, a heading or a lack of a value in the width and alignment of it."""
    if value is None or isinstance(value, str):
        return format(value or "-", form.rstrip("f%").partition(".")[0])
    return format(value, form)
