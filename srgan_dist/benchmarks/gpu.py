"""All measurements and checks of a machine with a GPU in one command: stages by priority, while time is left.

    srgan-dist benchmark gpu --seconds 440 --json gpu.json --rocks DIR

Stages run in a process beside this one. A new one is started after a stage that has crashed or hung: its
results are written as they come, and its failure does not end the run. On a CPU (--device cpu) the networks
are tiny.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from srgan_dist.benchmarks import gpu_stages
from srgan_dist.benchmarks.stage_process import Context, StageProcess
from srgan_dist.benchmarks.tables import table_of_stage
from srgan_dist.runtime.device import cpu_wanted
from srgan_dist.utils.errors import UserError

STAGES = {  # by priority: name -> (function, estimated seconds on a GPU)
    "machine": (gpu_stages.machine, 15),
    "agreement": (gpu_stages.agreement, 25),
    "step": (gpu_stages.step, 40),
    "tests": (gpu_stages.tests, 75),
    "rocks": (gpu_stages.rocks, 130),
    "batches": (gpu_stages.batches, 40),
    "graph": (gpu_stages.graph, 20),
    "compiled": (gpu_stages.compiled, 70),
    "others": (gpu_stages.others, 45),
}


def run(arguments, save):
    """Run the stages; save({"stages": {name: facts}}) is called whenever a stage has new results."""
    if arguments.device == "cuda" and (cpu_wanted() or not torch.cuda.is_available()):
        print(
            "no GPU: PyTorch finds none here. On a CPU, --device cpu tries the stages with tiny networks",
            file=sys.stderr,
        )
        sys.exit(2)
    if arguments.rocks and not any(path.is_dir() for path in Path(arguments.rocks).glob("*")):
        raise UserError(f"--rocks {arguments.rocks} is no folder with sub-folders, one per rock")
    results, end = {"stages": {}}, time.monotonic() + arguments.seconds
    with TemporaryDirectory(prefix="srgan_dist_benchmark_") as folder, StageProcess() as process:
        for name in arguments.stages:
            stage, estimate = STAGES[name]
            left, began = end - time.monotonic(), time.monotonic()
            if left < (estimate if arguments.device == "cuda" else 0):
                message = f"{left:.0f} s were left and {estimate} s are needed (--seconds)"
                results["stages"][name] = {"left_out": message}
            else:
                context = _context(arguments, Path(folder) / name)
                for facts in process.results(stage, context, estimate, left):
                    results["stages"][name] = facts | {"seconds": round(time.monotonic() - began, 1)}
                    save(results)
            print(table_of_stage(name, results) + "\n", flush=True)
            save(results)
    return results


def _context(arguments, folder):
    folder.mkdir()
    rocks = arguments.rocks and str(Path(arguments.rocks).resolve())
    return Context(arguments.device, rocks, str(folder), small=arguments.device == "cpu")
