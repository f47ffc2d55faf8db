"""One update of each phase, as a training takes it, against other loops (`variants.py`).

The variants take turns, pass by pass, and the figure is the median over passes. The plain loop has a process
of its own, as Python starts it. The arithmetic floor of an update is the time that its convolutions and
matrix products would take at the speed of one large matrix product in the same precision, on the same
threads.

Under a launcher every rank computes batches of the same size, and the time is compared with that of one rank
by itself, which is measured in a process of its own before the ranks form their group.

Rows are printed and written as they come. A variant that lacks memory or cannot be compiled has its error as
row.
"""

import itertools
import os
import time
from dataclasses import asdict

import torch

from srgan_dist.benchmarks.facts import machine_facts
from srgan_dist.benchmarks.names import DEFAULT_CONFIGS
from srgan_dist.benchmarks.step_case import StepBenchmark
from srgan_dist.benchmarks.step_plan import measure_baseline, plan_of, read_baseline, with_weak_scaling
from srgan_dist.benchmarks.step_table import format_head, format_row
from srgan_dist.benchmarks.variants import precision_of, without_weight_files
from srgan_dist.config import load_config
from srgan_dist.runtime.device import cpu_wanted
from srgan_dist.runtime.launch_variables import launched_ranks
from srgan_dist.runtime.process_group import barrier, end_all_ranks_on_error, max_over_ranks
from srgan_dist.training import start


def run(arguments, save):
    """Measure as the options say.

    save({"machine": facts, "rows": [dict]}) is called after every case; its last argument is returned, None
    on ranks other than the first.
    """
    ranks = launched_ranks()
    device_type = "cuda" if torch.cuda.is_available() and not cpu_wanted() else "cpu"
    config = load_config(arguments.config or DEFAULT_CONFIGS[arguments.dims])
    plan = plan_of(arguments, device_type, ranks, config.generator.ndim)
    baseline = None
    if ranks > 1 and os.environ["RANK"] == "0":
        path = arguments.baseline
        baseline = read_baseline(path) if path else measure_baseline(plan, arguments.argv)
    return measure(config, plan, save, baseline)


def measure(config, plan, save, baseline=None):
    """Measure every variant in every case of a plan, while time is left; returns as `run` does."""
    config = without_weight_files(config)
    mixed = any(precision_of(variant) == "bf16" for variant in plan.variants)
    settings = {"cpu_threads": plan.threads, "mixed_precision": "bf16" if mixed else "no"}
    accelerator = start(config.model_copy(update=settings))
    end = time.monotonic() + 60 * plan.minutes
    with end_all_ranks_on_error(), StepBenchmark(plan, accelerator) as benchmark:
        # The machine
        machine = {**machine_facts(accelerator.device), "ranks": accelerator.num_processes, **asdict(plan)}
        for precision, peak in benchmark.peaks.items():
            machine[f"matmul_gflops_{precision}"] = peak / 1e9
        results = {"machine": machine, "rows": []}
        if accelerator.is_main_process:
            print(format_head(results), flush=True)

        # Its cases
        cases = list(itertools.product(plan.phases, plan.blocks, plan.batches))
        for number, case in enumerate(cases):
            if max_over_ranks([time.monotonic() > end])[0]:
                results["left_out"] = _left_out(cases[number:], plan.minutes)
                break
            rows = benchmark.measure(config, *case, end)
            if baseline:
                rows = [with_weak_scaling(row, baseline, plan.clock) for row in rows]
            results["rows"] += rows
            if accelerator.is_main_process:
                print("\n".join(format_row(row, results) for row in rows), flush=True)
                save(results)
        if accelerator.is_main_process and "left_out" in results:
            print(f"left out {results['left_out']}", flush=True)
            save(results)
        barrier()
    accelerator.end_training()
    return results if accelerator.is_main_process else None


def _left_out(cases, minutes):
    names = [f"{phase} of {blocks} block(s) at batch {batch}" for phase, blocks, batch in cases]
    return f"for want of time (--minutes {minutes:g}): {', '.join(names)}"
