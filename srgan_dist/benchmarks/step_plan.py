"""The plan of the step benchmark, from its options, and the baseline of one rank for weak scaling."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from srgan_dist.benchmarks.names import PLAIN
from srgan_dist.runtime.device import has_fast_bf16
from srgan_dist.utils.errors import UserError

LAUNCHER_VARIABLES = ("RANK", "LOCAL_", "GROUP_", "ROLE_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_")


@dataclass(frozen=True)
class Plan:
    """The cases and the way of measuring: the options of the command with their defaults resolved."""

    phases: tuple
    blocks: tuple
    batches: tuple
    variants: tuple
    threads: int
    passes: int
    steps: int
    clock: str
    minutes: float


def plan_of(arguments, device_type, ranks, ndim=2):
    """Resolve the defaults that depend on the device, the number of ranks and that of dimensions.

    Raises UserError where options exclude each other.
    """
    gpu = device_type == "cuda"
    variants = tuple(arguments.variants or _default_variants(device_type, ranks))
    if ranks > 1 and PLAIN in variants:
        raise UserError(
            f"--variants {PLAIN}: the plain loop knows one process only, and {ranks} were launched;"
            " leave it out"
        )
    if arguments.clock and gpu:
        raise UserError(f"--clock {arguments.clock}: on a GPU its own events are the clock; leave it out")
    if arguments.clock == "cpu" and arguments.threads > 1:
        raise UserError(
            f"--clock cpu adds the times of all {arguments.threads} threads; use wall, or --threads 1"
        )
    default_clock = "cpu" if ranks == arguments.threads == 1 else "wall"
    return Plan(
        phases=tuple(arguments.phases),
        blocks=tuple(arguments.blocks or ([1, 16] if ndim == 2 else [16])),
        batches=tuple(arguments.batches or ([16, 2, 64] if gpu else [2])),
        variants=variants,
        threads=arguments.threads,
        passes=arguments.passes,
        steps=arguments.steps or (10 if gpu else 1),
        clock="cuda" if gpu else arguments.clock or default_clock,
        minutes=arguments.minutes,
    )


def _default_variants(device_type, ranks):
    ours = ["fp32-channels_last"] + ["bf16-channels_last"] * has_fast_bf16(device_type)
    compiled = [f"{ours[-1]}-compiled"] * (device_type == "cuda" and ranks == 1)
    return [PLAIN] * (ranks == 1) + ours + [f"ddp-{ours[-1]}"] + compiled


# The baseline of several ranks


def read_baseline(path):
    """Return the results of one rank from the file that --json wrote: {"machine": facts, "rows": [dict]}."""
    try:
        results = json.loads(path.read_text())
        machine = {name: results["machine"][name] for name in ("ranks", "clock")}
        return {"machine": machine, "rows": list(results["rows"])}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"--baseline {path} is no file that benchmark.py step has written ({type(error).__name__}:"
            f" {error})"
        ) from None


def measure_baseline(plan, argv):
    """Return the results of the same command without a launcher; the other ranks wait to form the group."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)
    }
    with tempfile.TemporaryDirectory(prefix="srgan_dist_benchmark_") as folder:
        path = Path(folder) / "one.json"
        command = [sys.executable, "-m", "srgan_dist", "benchmark", *argv]
        command += ["--variants", *plan.variants, "--json", path]
        command += [] if plan.clock == "cuda" else ["--clock", plan.clock]
        if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
            raise UserError(
                "one rank by itself could not be measured, see above; --baseline takes a file measured before"
            )
        return json.loads(path.read_text())


def with_weak_scaling(row, baseline, clock):
    """Return a row of several ranks with its weak scaling: the step time of one rank over theirs.

    Raises UserError where the baseline is not of one rank or lacks the case.
    """
    ranks, its_clock = baseline["machine"]["ranks"], baseline["machine"]["clock"]
    if ranks != 1 or its_clock != clock:
        raise UserError(
            f"--baseline was measured by {ranks} rank(s) and the {its_clock} clock;"
            f" it has to be one rank and the {clock} clock (--clock)"
        )
    step_ms = {_case_of(one): one["step_ms"] for one in baseline["rows"] if "step_ms" in one}
    if _case_of(row) not in step_ms:
        raise UserError(
            "--baseline does not hold {variant} of {phase} with {blocks} block(s), batch {batch}; measure it"
            " with the same options".format(**row)
        )
    return row | {"weak_scaling": step_ms[_case_of(row)] / row["step_ms"]}


def _case_of(row):
    return row["phase"], row["blocks"], row["batch"], row["variant"]
