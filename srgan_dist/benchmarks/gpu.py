"""All that a day with a GPU should tell, in one command: stages by priority, as far as the time goes.

    python launch/benchmark.py gpu --seconds 440 --json gpu.json --rocks DIR

Stages run in a process beside this one, which is started again after one that has crashed or hung: what a stage has found is
written as it comes, and its failure is never the run's. On a CPU (--device cpu) they are the same with tiny networks.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, TimeoutError
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch

from srgan_dist.benchmarks.facts import machine_facts, matmul_flops, seconds
from srgan_dist.benchmarks.names import DEFAULT_CONFIG, PHASES
from srgan_dist.benchmarks.step import Plan, case
from srgan_dist.benchmarks.tables import of_stage
from srgan_dist.benchmarks.variants import build, crops_of, with_random_vgg
from srgan_dist.config import load_config
from srgan_dist.phases import build_phase
from srgan_dist.run.training_run import build_networks
from srgan_dist.runtime.device import cpu_wanted
from srgan_dist.training import start
from srgan_dist.utils.config_files import config_file
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write

REPOSITORY = Path(__file__).parents[2]
RETRY_POLICY = 1.5  # times its estimate that a stage may take
TINY = [
    "generator.num_filters=8",
    "generator.num_blocks=1",
    "discriminator.num_filters=4",
    "discriminator.num_dense=16",
    "discriminator.padding=1",
    "data.lr_crop=8",
    "data.batch_size=4",
    "adversarial.losses.perceptual.layer=relu2_2",
]


@dataclass(frozen=True)
class Context:
    """What a stage is told."""

    device: str
    rocks: str | None  # folder of images, one sub-folder per rock; None: synthetic ones
    folder: str  # for files
    small: bool  # tiny networks and short runs, to try the stages themselves

    def note(self, name, facts):
        """Keep what a stage has found so far."""
        path = Path(self.folder) / "found.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        with atomic_write(path) as unfinished:
            unfinished.write_text(json.dumps(found | {name: facts}))


# The stages


def machine(context):
    """Versions and ceilings: copies, matrix products, transfers, the launch of a kernel that does next to nothing."""
    device = torch.device(context.device)
    clock, size = ("cuda", 2**28) if device.type == "cuda" else ("wall", 2**20)
    context.note("facts", machine_facts(device))
    source, target = (torch.ones(size, device=device) for _ in range(2))
    context.note("copy_gb_per_s", 8e-9 * size / _fastest(lambda: target.copy_(source), clock))
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        context.note(f"matmul_gflops_{name}", matmul_flops(dtype, device, clock) / 1e9)
    if device.type == "cuda":
        host = torch.empty(2**26, pin_memory=True)
        context.note(
            "host_to_device_gb_per_s",
            4e-9
            * host.numel()
            / _fastest(lambda: target[: host.numel()].copy_(host, non_blocking=True), clock),
        )
        context.note(
            "device_to_host_gb_per_s",
            4e-9
            * host.numel()
            / _fastest(lambda: host.copy_(target[: host.numel()], non_blocking=True), clock),
        )
    tiny = torch.zeros((), device=device)
    _, host_seconds = seconds(lambda: [tiny.add_(1) for _ in range(1000)], clock)
    context.note("launch_us", 1000 * host_seconds)


def agreement(context):
    """Three float32 updates of each phase on the CPU and on the device: how far metrics and weights are apart."""
    config = _config(context, tiny=True)
    for name in PHASES:
        cpu, device = (_three_updates(config, name, torch.device(where)) for where in ("cpu", context.device))
        apart = {
            kind: max(_apart(one, other) for one, other in zip(cpu[kind], device[kind], strict=True))
            for kind in cpu
        }
        context.note(name, {f"largest_relative_difference_of_{kind}": value for kind, value in apart.items()})


def step_rows(context):
    """The update of a training, eager, in bfloat16 and channels_last, at the recipe's batch."""
    _rows(context, blocks=(1, 16), batches=(16,), variants=("bf16-channels_last",))


def tests(context):
    """The tests that need a GPU."""
    if not (REPOSITORY / "tests").is_dir():
        return context.note("left_out", "the tests are in a checkout only")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "gpu",
            "tests/phases/test_gpu.py",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines() or done.stderr.splitlines()
    context.note("summary", lines[-1] if lines else "")
    context.note("exit_code", done.returncode)
    context.note("failed", [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))][:40])


def rocks(context):
    """A training of both phases on rocks, at the size of the full recipe, and its evaluation."""
    folder = Path(context.folder)
    source = context.rocks or folder / "rocks"
    if not context.rocks:
        _command(
            "synthesize",
            source,
            *(["--train", "3", "--valid", "1", "--test", "1", "--size", "160"] if context.small else []),
        )
    _command(
        "build",
        source,
        folder / "shards",
        *(["--crop", "64", "--tile", "160"] if context.small else []),
    )
    short, config = (2, "demo") if context.small else (35, "deeprock_x4")
    options = (
        [f"--{name}" for name in TINY if "losses" not in name]
        if context.small
        else [
            "--adversarial.losses.perceptual=null",
            "--pretrain.learning_rate=5e-4",
            "--adversarial.learning_rate=2e-4",
        ]
    )
    said = _command(
        "train",
        config_file(f"{config}.yaml"),
        "--name=run",
        f"--output={folder}",
        f"--data.path={folder / 'shards'}",
        f"--device={context.device}",
        "--pretrain.lr_schedule={name: cosine}",
        "--adversarial.lr_schedule={name: cosine}",
        f"--pretrain.max_seconds={short}",
        f"--adversarial.max_seconds={short}",
        "--log_every=20",
        "--validate_every=1000",
        "--tracking.wandb=disabled",
        "--cpu_ranks=1",
        *options,
    )
    context.note("speed", [line for line in said.splitlines() if "samples/s, an update" in line])
    _command(
        "evaluate",
        folder / "run",
        folder / "shards",
        ACCELERATE_USE_CPU=str(int(context.device == "cpu")),
    )
    context.note("scores", json.loads((folder / "run" / "eval" / "scores.json").read_text()))


def batches(context):
    """The same update at other batches: where the host decides, and where memory ends."""
    _rows(context, blocks=(16,), batches=(2, 4, 64, 256), variants=("bf16-channels_last",))


def graph(context):
    """Whether the update of each phase can be captured as a CUDA graph, replays to the same numbers, and how fast."""
    if context.device == "cpu":
        return context.note("left_out", "CUDA graphs need a GPU")
    config, device = _config(context), torch.device(context.device)
    for name in PHASES:
        for batch in (2, 16):
            context.note(f"{name}, batch {batch}", _captured(config, name, crops_of(config, batch, device)))


def compiled(context):
    """The same update compiled."""
    _rows(
        context, blocks=(16,), batches=(16,), variants=("bf16-channels_last", "bf16-channels_last-compiled")
    )  # minutes on a CPU


def others(context):
    """Other precisions and loops, and which kernels take the time."""
    _rows(
        context,
        blocks=(16,),
        batches=(16,),
        variants=("plain", "fp32", "fp32-channels_last", "bf16-channels_last", "ddp-bf16-channels_last"),
    )
    config = _config(context)
    start(config.model_copy(update={"device": context.device, "mixed_precision": "bf16"}))
    update = build("bf16-channels_last", config, "adversarial")
    crops = crops_of(config, 2 if context.small else 16, torch.device(context.device))
    update(crops)
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(
        activities=[activity.CUDA if context.device == "cuda" else activity.CPU]
    ) as profiler:
        update(crops)
        torch.cuda.synchronize() if context.device == "cuda" else None
    key = "self_device_time_total" if context.device == "cuda" else "self_cpu_time_total"
    top = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))[:15]
    context.note(
        "kernels",
        [{"name": event.key[:80], "us": getattr(event, key), "calls": event.count} for event in top],
    )


STAGES = {  # by priority: name -> (function, seconds on a GPU)
    "machine": (machine, 15),
    "agreement": (agreement, 25),
    "step": (step_rows, 40),
    "tests": (tests, 75),
    "rocks": (rocks, 130),
    "batches": (batches, 40),
    "graph": (graph, 20),
    "compiled": (compiled, 70),
    "others": (others, 45),
}


# Their parts


def _config(context, tiny=False):
    """Return the config whose networks are measured; tiny: those that a CPU computes at once too."""
    return with_random_vgg(load_config(DEFAULT_CONFIG, TINY if tiny or context.small else []))


def _fastest(work, clock):
    return min(seconds(work, clock)[0] for _ in range(6))


def _rows(context, blocks, batches, variants):
    """Note a row of the step benchmark for each case and variant, as they come."""
    if context.small:
        blocks, batches = (1,), (2, 4)[: len(batches)]
    plan = Plan(
        PHASES,
        blocks,
        batches,
        variants,
        threads=1,
        passes=1 if context.small else 5,
        steps=1 if context.small else 10,
        clock="cuda" if context.device == "cuda" else "wall",
        minutes=10,
    )
    config = _config(context)
    accelerator = start(config.model_copy(update={"device": context.device, "mixed_precision": "bf16"}))
    peaks = {
        name: matmul_flops(dtype, accelerator.device, plan.clock)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    rows = []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere:
        for batch in batches:
            for name in PHASES:
                for number in blocks:
                    sized = config.model_copy(
                        update={"generator": config.generator.model_copy(update={"num_blocks": number})}
                    )
                    rows += [
                        {"phase": name, "blocks": number, "batch": batch, **row}
                        for row in case(sized, name, batch, plan, accelerator, peaks, elsewhere)
                    ]
                    context.note("rows", rows)


def _float32_on(device):
    """Return what Networks and phases use of an Accelerator: Accelerate itself knows one device per process."""
    return SimpleNamespace(
        device=device,
        num_processes=1,
        autocast=nullcontext,
        prepare_model=lambda network, evaluation_mode: network,
    )


def _three_updates(config, name, device):
    networks = build_networks(config, _float32_on(device))
    phase = build_phase(dict(config.phases())[name], networks, networks.accelerator)
    metrics = []
    for _ in range(3):
        metrics += [value.double().cpu() for value in phase.update(crops_of(config, 4, device)).values()]
    weights = [
        weight.detach().double().cpu()
        for network in networks.initialized.values()
        for weight in network.parameters()
    ]
    return {"metrics": metrics, "weights": weights}


def _apart(one, other):
    return ((one - other).norm() / one.norm().clamp(min=1e-12)).item()


def _captured(config, name, crops):
    """Capture an update of a phase after three updates on a side stream; returns ms per replay and per eager update."""
    accelerator = start(config.model_copy(update={"device": "cuda", "mixed_precision": "bf16"}))
    phase = build_phase(dict(config.phases())[name], build_networks(config, accelerator), accelerator)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            phase.update(crops)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, capture_error_mode="thread_local"):
        metrics = phase.update(crops)
    captured.replay()
    replayed = {key: value.item() for key, value in metrics.items()}
    eager = {key: value.item() for key, value in phase.update(crops).items()}
    device, host = seconds(lambda: [captured.replay() for _ in range(10)], "cuda")
    of_eager, host_of_eager = seconds(lambda: [phase.update(crops) for _ in range(10)], "cuda")
    return {
        "replay_ms": 100 * device,
        "replay_host_ms": 100 * host,
        "eager_ms": 100 * of_eager,
        "eager_host_ms": 100 * host_of_eager,
        "metrics_of_a_replay": replayed,
        "metrics_of_the_eager_update_after_it": eager,
    }


def _command(verb, *arguments, **environment):
    """Run a verb of srgan-dist and return its output; raises RuntimeError with the end of stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "srgan_dist", verb, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    if done.returncode:
        raise RuntimeError(f"srgan-dist {verb} ended with {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout


# The command


def run(arguments, save):
    """Run the stages and save({"machine": facts, "stages": {name: found}}) whenever one has found something."""
    if arguments.device == "cuda" and (cpu_wanted() or not torch.cuda.is_available()):
        print(
            "no GPU: PyTorch finds none here. On a CPU, --device cpu tries the stages with tiny networks",
            file=sys.stderr,
        )
        sys.exit(2)
    if arguments.rocks and not any(path.is_dir() for path in Path(arguments.rocks).glob("*")):
        raise UserError(f"--rocks {arguments.rocks} is no folder with sub-folders, one per rock")
    found, end = {"stages": {}}, time.monotonic() + arguments.seconds
    with TemporaryDirectory(prefix="srgan_dist_benchmark_") as folder:
        worker = None
        for name in arguments.stages:
            stage, estimate = STAGES[name]
            left, began = end - time.monotonic(), time.monotonic()
            if left < (estimate if arguments.device == "cuda" else 0):
                found["stages"][name] = {
                    "left_out": f"{left:.0f} s were left and {estimate} s are needed (--seconds)"
                }
            else:
                own = Path(folder) / name
                own.mkdir()
                worker = worker or _Worker()
                context = Context(
                    arguments.device,
                    arguments.rocks and str(Path(arguments.rocks).resolve()),
                    str(own),
                    arguments.device == "cpu",
                )
                for facts in worker.results(stage, context, min(left, RETRY_POLICY * estimate)):
                    found["stages"][name] = facts | {"seconds": round(time.monotonic() - began, 1)}
                    save(found)
                if (
                    "error" in found["stages"][name]
                ):  # the device may be of no use any more to the process that met it
                    worker.kill()
                    worker = None
            print(of_stage(name, found) + "\n", flush=True)
            save(found)
        if worker:
            worker.pool.shutdown()
    return found


class _Worker:
    """The process in which stages run."""

    def __init__(self):
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def results(self, stage, context, retry_policy):
        """Run a stage, and yield what it has found whenever that has become more, in the end with its error if it failed."""
        future, end, found, path = (
            self.pool.submit(_run, stage, context),
            time.monotonic() + retry_policy,
            {},
            Path(context.folder) / "found.json",
        )
        while True:
            error = None
            try:
                error = future.result(timeout=1)
            except TimeoutError:
                if time.monotonic() > end:
                    error = f"ended after {retry_policy:.0f} s, {RETRY_POLICY} times its estimate or all that was left"
            except BrokenExecutor:
                error = "its process has died"
            now = json.loads(path.read_text()) if path.exists() else {}
            if error or future.done():
                yield now | ({"error": error} if error else {})
                return
            if now != found:
                found = now
                yield found

    def kill(self):
        for process in list(self.pool._processes.values()):
            process.kill()
        self.pool.shutdown(wait=True, cancel_futures=True)


def _run(stage, context):
    """Run a stage in this process; returns the end of its traceback, None where it succeeds."""
    try:
        stage(context)
    except BaseException:
        return traceback.format_exc()[-1500:]
