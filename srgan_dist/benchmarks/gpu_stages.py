"""The stages of the GPU benchmark: each measures or checks one thing and keeps its results in its Context."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from srgan_dist.benchmarks.facts import machine_facts, matmul_flops, seconds
from srgan_dist.benchmarks.gpu_updates import captured_update, relative_difference, three_updates
from srgan_dist.benchmarks.names import DEFAULT_CONFIG, PHASES
from srgan_dist.benchmarks.step_case import StepBenchmark
from srgan_dist.benchmarks.step_plan import Plan
from srgan_dist.benchmarks.variants import build, crops_of, without_weight_files
from srgan_dist.config import load_config
from srgan_dist.training import start
from srgan_dist.utils.config_files import config_file

REPOSITORY = Path(__file__).parents[2]
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

TINY_DEMO = [
    "generator.num_filters=8",
    "generator.num_blocks=1",
    "generator.upscale_filters=4",
    "discriminator.num_filters=4",
    "data.lr_crop=8",
    "data.batch_size=4",
]


# The stages


def machine(context):
    """Versions and ceilings: copies, matrix products, transfers, the launch of a tiny kernel."""
    device = torch.device(context.device)
    clock, size = ("cuda", 2**28) if device.type == "cuda" else ("wall", 2**20)
    context.note("facts", machine_facts(device))
    source, target = (torch.ones(size, device=device) for _ in range(2))
    context.note("copy_gb_per_s", 8e-9 * size / _fastest(lambda: target.copy_(source), clock))
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        context.note(f"matmul_gflops_{name}", matmul_flops(dtype, device, clock) / 1e9)
    if device.type == "cuda":
        host = torch.empty(2**26, pin_memory=True)
        part, gigabytes = target[: host.numel()], 4e-9 * host.numel()
        to_device = _fastest(lambda: part.copy_(host, non_blocking=True), clock)
        context.note("host_to_device_gb_per_s", gigabytes / to_device)
        to_host = _fastest(lambda: host.copy_(part, non_blocking=True), clock)
        context.note("device_to_host_gb_per_s", gigabytes / to_host)
    tiny = torch.zeros((), device=device)
    _, host_seconds = seconds(lambda: [tiny.add_(1) for _ in range(1000)], clock)
    context.note("launch_us", 1000 * host_seconds)


def agreement(context):
    """Three float32 updates of each phase: the difference of metrics and weights between CPU and device."""
    config = _config(context, tiny=True)
    for name in PHASES:
        cpu, device = (three_updates(config, name, torch.device(kind)) for kind in ("cpu", context.device))
        facts = {
            f"largest_relative_difference_of_{kind}": max(
                relative_difference(*pair) for pair in zip(cpu[kind], device[kind], strict=True)
            )
            for kind in cpu
        }
        context.note(name, facts)


def step(context):
    """The update of a training, eager, in bfloat16 and channels_last, at the recipe's batch."""
    _rows(context, blocks=(1, 16), batches=(16,), variants=("bf16-channels_last",))


def tests(context):
    """The tests that need a GPU."""
    if not (REPOSITORY / "tests").is_dir():
        return context.note("left_out", "the tests are in a checkout only")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    done = subprocess.run(
        [*command, "tests/phases/test_gpu.py"], cwd=REPOSITORY, capture_output=True, text=True
    )
    lines = done.stdout.splitlines() or done.stderr.splitlines()
    context.note("summary", lines[-1] if lines else "")
    context.note("exit_code", done.returncode)
    context.note("failed", [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))][:40])


def rocks(context):
    """A training of both phases on rocks, at the size of the full recipe, and its evaluation."""
    folder = Path(context.folder)
    images, shards, run = context.rocks or folder / "rocks", folder / "shards", folder / "run"

    # Pack the images
    if not context.rocks:
        few = ["--train", "3", "--valid", "1", "--test", "1", "--size", "160"]
        _command("synthesize", images, *(few if context.small else []))
    _command("build", images, shards, *(["--crop", "64", "--tile", "160"] if context.small else []))

    # Train on them
    if context.small:
        duration, config = 2, "demo.yaml"
        options = [f"--{setting}" for setting in TINY_DEMO]
    else:
        duration, config = 35, "deeprock_x4.yaml"
        options = ["--adversarial.losses.perceptual=null"]
        options += ["--pretrain.learning_rate=5e-4", "--adversarial.learning_rate=2e-4"]
    for phase in PHASES:
        options += [f"--{phase}.lr_schedule={{name: cosine}}", f"--{phase}.max_seconds={duration}"]
    options += [f"--output={folder}", f"--data.path={shards}", f"--device={context.device}"]
    options += ["--log_every=20", "--validate_every=1000", "--tracking.wandb=disabled", "--cpu_ranks=1"]
    output = _command("train", config_file(config), "--name=run", *options)
    context.note("speed", [line for line in output.splitlines() if "samples/s, an update" in line])

    # Evaluate
    _command("evaluate", run, shards, ACCELERATE_USE_CPU=str(int(context.device == "cpu")))
    context.note("scores", json.loads((run / "eval" / "scores.json").read_text()))


def batches(context):
    """The same update at other batches: small, where the host is the limit, and up to the memory's end."""
    _rows(context, blocks=(16,), batches=(2, 4, 64, 256), variants=("bf16-channels_last",))


def graph(context):
    """The update of each phase captured as a CUDA graph: the metrics of a replay, and its speed."""
    if context.device == "cpu":
        return context.note("left_out", "CUDA graphs need a GPU")
    config, device = _config(context), torch.device(context.device)
    for name in PHASES:
        for batch in (2, 16):
            context.note(
                f"{name}, batch {batch}", captured_update(config, name, crops_of(config, batch, device))
            )


def compiled(context):
    """The same update compiled, which takes minutes on a CPU."""
    variants = ("bf16-channels_last", "bf16-channels_last-compiled")
    _rows(context, blocks=(16,), batches=(16,), variants=variants)


def others(context):
    """Other precisions and loops, and the kernels that take the most time."""
    variants = ("plain", "fp32", "fp32-channels_last", "bf16-channels_last", "ddp-bf16-channels_last")
    _rows(context, blocks=(16,), batches=(16,), variants=variants)

    # One profiled update
    config = _config(context)
    _start(config, context)
    update = build("bf16-channels_last", config, "adversarial")
    crops = crops_of(config, 2 if context.small else 16, torch.device(context.device))
    update(crops)
    on_gpu, activity = context.device == "cuda", torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as profiler:
        update(crops)
        if on_gpu:
            torch.cuda.synchronize()
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    top = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))[:15]
    kernels = [{"name": event.key[:80], "us": getattr(event, key), "calls": event.count} for event in top]
    context.note("kernels", kernels)


# Their parts


def _config(context, tiny=False):
    """Return the config whose networks are measured, in the size of TINY if asked to, as always on a CPU."""
    return without_weight_files(load_config(DEFAULT_CONFIG, TINY if tiny or context.small else []))


def _start(config, context):
    settings = {"device": context.device, "mixed_precision": "bf16", "cpu_threads": 1}
    return start(config.model_copy(update=settings))


def _fastest(work, clock):
    return min(seconds(work, clock)[0] for _ in range(6))


def _rows(context, blocks, batches, variants):
    """Keep a row of the step benchmark for each case and variant, as they come."""
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
    rows = []
    with StepBenchmark(plan, _start(config, context)) as benchmark:
        for batch in batches:
            for name in PHASES:
                for number in blocks:
                    rows += benchmark.measure(config, name, number, batch)
                    context.note("rows", rows)


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
