"""One update of each phase, as a training takes it, against the loop of the reproduction report as one would write it.

Ours is what `phases` computes, on networks built from a config as `train` builds them, in every combination of precision
and memory format that is asked for. `PlainLoop` is the report's. All train the same networks from the same weights on
the same crops; VGG has random weights, which cost as much as trained ones. The variants take turns, pass by pass, and
the figure is the median over passes. The plain loop has a process of its own, which is as Python starts it. The arithmetic floor of an update is the time that its convolutions and matrix
products would take at the speed of one large matrix product in the same precision, on the same threads.

Under a launcher every rank computes batches of the same size, and the time is set against that of one rank by itself,
which is measured in a process of its own before the ranks form their group.
"""

import ctypes
import gc
import itertools
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from srgan_dist.benchmarks.loader import count
from srgan_dist.config import load_config
from srgan_dist.cpu import has_glibc, use_cpu_threads
from srgan_dist.errors import UserError
from srgan_dist.losses.perceptual import LAYERS, VGGLossConfig, vgg19_features
from srgan_dist.machine import cpu_wanted, launched_ranks, use_exact_float32
from srgan_dist.models.prelu import PReLU
from srgan_dist.networks import Networks
from srgan_dist.phases import build_phase
from srgan_dist.progress import tracked
from srgan_dist.train import start

DEFAULT_CONFIG = Path(__file__).parents[2] / "configs" / "report_x4.yaml"
PLAIN = "plain"  # the loop of the report
VARIANTS = {  # of our update: name -> settings
    f"{precision}{'-channels_last' * channels_last}{'-compiled' * compiled}":
        {"mixed_precision": "bf16" if precision == "bf16" else "no", "channels_last": channels_last, "compile": compiled}
    for compiled, precision, channels_last in itertools.product((False, True), ("fp32", "bf16"), (False, True))
}
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}


# The command

def add_arguments(parser):
    """Add the options of `benchmark.py step`; what depends on the device when not given is None."""
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="whose networks (default: %(default)s)")
    parser.add_argument("--phases", nargs="+", choices=["pretrain", "adversarial"], default=["pretrain", "adversarial"])
    parser.add_argument("--blocks", nargs="+", type=count, default=[1, 16], metavar="N", help="residual blocks (default: 1 16)")
    parser.add_argument("--batches", nargs="+", type=count, metavar="N",
                        help="crops per update and rank (default: 1 2 on CPU, 2 to 256 on a GPU)")
    parser.add_argument("--variants", nargs="+", choices=[PLAIN, *VARIANTS], metavar="NAME",
                        help=f"{', '.join([PLAIN, *VARIANTS])} (default: on CPU the first, {', '.join(_defaults('cpu', 1)[1:])}; on a GPU all)")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="of a rank on CPU (default: %(default)s)")
    parser.add_argument("--passes", type=count, default=3, metavar="N", help="the median of so many (default: %(default)s)")
    parser.add_argument("--steps", type=count, metavar="N", help="updates per pass (default: 1 on CPU, 10 on a GPU)")
    parser.add_argument("--clock", choices=["cpu", "wall"],
                        help="cpu: CPU time, which other programs hardly disturb (default for one rank of one thread on CPU); wall:"
                        " the time of the day (default otherwise). On a GPU its own events are the clock.")
    parser.add_argument("--baseline", type=Path, metavar="FILE",
                        help="of several ranks: the --json of one rank on this machine; without it one rank is measured first")
    parser.epilog = ("Two ranks on CPU: ACCELERATE_USE_CPU=1 torchrun --nproc_per_node 2 launch/benchmark.py step. The same code"
                     " runs on GPUs, with their clock and memory counter and with compiled variants; nobody has run it there yet.")


def run(arguments):
    """Measure what the arguments ask for; returns {"machine": facts, "rows": [dict]}, on ranks other than the first None."""
    ranks = launched_ranks()
    device_type = "cuda" if torch.cuda.is_available() and not cpu_wanted() else "cpu"
    plan = _plan(arguments, device_type, ranks)
    baseline = None
    if ranks > 1 and os.environ["RANK"] == "0":
        baseline = json.loads(arguments.baseline.read_text()) if arguments.baseline else _measured_alone(plan)
    found = measure(load_config(arguments.config), plan)
    return found and (compared(found, baseline) if baseline else found)


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


def _plan(arguments, device_type, ranks):
    """Resolve what depends on the device and on the number of ranks; raises UserError where options do not go together."""
    gpu = device_type == "cuda"
    variants = tuple(arguments.variants or _defaults(device_type, ranks))
    if ranks > 1 and PLAIN in variants:
        raise UserError(f"--variants {PLAIN}: the plain loop knows one process only, and {ranks} were launched; leave it out")
    if arguments.clock and gpu:
        raise UserError(f"--clock {arguments.clock}: on a GPU its own events are the clock; leave it out")
    if arguments.clock == "cpu" and arguments.threads > 1:
        raise UserError(f"--clock cpu adds the times of all {arguments.threads} threads; use wall, or --threads 1")
    clock = "cuda" if gpu else arguments.clock or ("cpu" if ranks == arguments.threads == 1 else "wall")
    batches = arguments.batches or ([2**n for n in range(1, 9)] if gpu else [1, 2])
    return Plan(tuple(arguments.phases), tuple(arguments.blocks), tuple(batches), variants, arguments.threads,
                arguments.passes, arguments.steps or (10 if gpu else 1), clock)


def _defaults(device_type, ranks):
    ours = list(VARIANTS) if device_type == "cuda" else ["fp32-channels_last", "bf16-channels_last"]
    return ours if ranks > 1 else [PLAIN, *ours]


def _measured_alone(plan):
    """Return what the same command finds without a launcher; the other ranks wait for this one to form the group."""
    launcher = ("RANK", "LOCAL_", "GROUP_", "ROLE_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(launcher)}
    with tempfile.TemporaryDirectory(prefix="srgan_dist_benchmark_") as folder:
        path = Path(folder) / "one.json"
        again = [sys.executable, *sys.argv, "--variants", *plan.variants, "--json", path]
        clock = [] if plan.clock == "cuda" else ["--clock", plan.clock]
        if subprocess.run([*again, *clock], env=environment, stdout=subprocess.DEVNULL).returncode:
            raise UserError("one rank by itself could not be measured, see above; --baseline takes what was measured before")
        return json.loads(path.read_text())


# Measuring

def measure(config, plan):
    """Measure every variant in every case of a plan; returns {"machine": facts, "rows": [dict]}, on other ranks None."""
    config = _with_random_vgg(config)
    bf16 = any(variant.startswith("bf16") for variant in plan.variants)
    accelerator = start(config.model_copy(update={"cpu_threads": plan.threads, "mixed_precision": "bf16" if bf16 else "no"}))
    peaks = {precision: _matmul_flops(dtype, accelerator.device, plan.clock)
             for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    cases = list(itertools.product(plan.phases, plan.blocks, plan.batches))
    rows = []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere:  # starts when the plain loop does
        for name, blocks, batch in tracked(cases, "measure", "case") if accelerator.is_main_process else cases:
            sized = config.model_copy(update={"generator": config.generator.model_copy(update={"num_blocks": blocks})})
            rows += [{"phase": name, "blocks": blocks, "batch": batch, **row}
                     for row in _case(sized, name, batch, plan, accelerator, peaks, elsewhere)]
    machine = _machine(accelerator, plan, peaks)
    is_main = accelerator.is_main_process
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return {"machine": machine, "rows": rows} if is_main else None


def _with_random_vgg(config):
    """Return the config with untrained VGG networks, which need no file."""
    changes = {}
    for name, phase in config.phases():
        losses = {key: loss.model_copy(update={"weights": "random"}) if isinstance(loss, VGGLossConfig) else loss
                  for key, loss in phase.losses.items()}
        changes[name] = phase.model_copy(update={"losses": losses})
    return config.model_copy(update=changes)


def _case(config, name, batch, plan, accelerator, peaks, elsewhere):
    """Let the variants take turns at one phase, network and batch size; returns a row for each."""
    turns, rows, times = {}, {}, {variant: [] for variant in plan.variants}
    for variant in plan.variants:
        if variant == PLAIN:
            facts, turns[variant] = elsewhere.submit(_begin_plain, config, name, batch, plan).result(), None
        else:
            turns[variant] = Turns(variant, config, name, batch, plan)
            facts = turns[variant].facts
        rows[variant] = {"variant": variant, **facts}
    for _, variant in itertools.product(range(plan.passes), plan.variants):
        accelerator.wait_for_everyone()
        times[variant].append(turns[variant].take() if turns[variant] else elsewhere.submit(_take_plain).result())
    for variant, row in rows.items():
        step = _slowest(statistics.median(times[variant]), accelerator)
        floor = 1e9 * row["gflop_per_sample"] * batch / peaks["bf16" if variant.startswith("bf16") else "fp32"]
        row |= {"step_ms": 1000 * step, "samples_per_second": accelerator.num_processes * batch / step, "share_of_floor": floor / step}
    if PLAIN in rows:
        for row in rows.values():
            row["times_plain"] = rows[PLAIN]["step_ms"] / row["step_ms"]
    return list(rows.values())


class Turns:
    """One variant in one case, warm, with its `facts`; `take` a turn and get its seconds per update."""

    def __init__(self, variant, config, name, batch, plan):
        self.plan, device = plan, torch.device("cuda" if plan.clock == "cuda" else "cpu")
        memory = Memory(device)
        self.update, self.crops = build(variant, config, name), _crops(config, batch, device)
        flop = flop_per_crop(self.update, self.crops)
        memory.forget_peak()
        self.update(self.crops)  # compiles, and chooses algorithms for this size
        self.facts = {"gflop_per_sample": flop / 1e9, "peak_mib": memory.peak_mib()}

    def take(self):
        return seconds(lambda: [self.update(self.crops) for _ in range(self.plan.steps)], self.plan.clock) / self.plan.steps


_plain = []  # the turns of the plain loop, in the process that it has for itself


def _begin_plain(config, name, batch, plan):
    """Make the plain loop ready here, without what `start` does to a process; returns its facts."""
    use_cpu_threads(Accelerator(cpu=cpu_wanted()), plan.threads)
    use_exact_float32()
    _plain[:] = []
    _plain.append(Turns(PLAIN, config, name, batch, plan))
    return _plain[0].facts


def _take_plain():
    return _plain[0].take()


def build(variant, config, name):
    """Return update([(lr, hr)]) of a variant: of phase `name` of a config, which gives all else."""
    changes = VARIANTS["fp32"] if variant == PLAIN else VARIANTS[variant]
    config = config.model_copy(update=changes)
    accelerator = _accelerator(config.mixed_precision)
    networks = Networks(config, accelerator)
    phase_config = dict(config.phases())[name]
    if variant == PLAIN:
        return PlainLoop(phase_config, networks).update
    phase = build_phase(phase_config, networks, accelerator)
    networks.share_weights()
    return phase.update


def _accelerator(precision):
    """Return an accelerator of this precision beside others of another: Accelerate has one for all, which can be turned off."""
    handlers = [] if precision == "bf16" else [AutocastKwargs(enabled=False)]
    return Accelerator(kwargs_handlers=handlers)


def _crops(config, batch, device):
    """Return one micro-batch of noise: [(lr [B, 1, c, c], hr [B, 1, s*c, s*c])] in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    return [tuple((torch.rand(batch, 1, side, side, generator=generator) * 2 - 1).to(device)
                  for side in (config.data.lr_crop, config.hr_crop))]


def flop_per_crop(update, crops):
    """Return the floating-point operations of an update per crop (a multiplication and an addition are two), counted on
    an update of the first crop: those of its convolutions and matrix products, as PyTorch counts them.
    """
    (lr, hr), = crops
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        update([(lr[:1], hr[:1])])
    return counter.get_total_flops()


def seconds(work, clock):
    """Return how long a call takes by a clock: cpu (CPU time of this process), wall, cuda (events of the device)."""
    if clock == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    now = time.process_time if clock == "cpu" else time.perf_counter
    began = now()
    work()
    return now() - began


def _slowest(value, accelerator):
    """Return the largest value of all ranks."""
    if accelerator.num_processes == 1:
        return value
    values = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
    torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
    return values.item()


def _matmul_flops(dtype, device, clock):
    """Return the floating-point operations per second of a large matrix product, the fastest of some."""
    side = MATMUL_SIDE[device.type]
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: one @ other, clock) for _ in range(6))


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


def _machine(accelerator, plan, peaks):
    """Return facts that figures need beside them; none that names the machine."""
    gpu = accelerator.device.type == "cuda"
    facts = {"cpu": _cpu_model(), "device": torch.cuda.get_device_name() if gpu else "cpu", "torch": torch.__version__,
             "ranks": accelerator.num_processes, **asdict(plan)}
    return facts | {f"matmul_gflops_{precision}": peak / 1e9 for precision, peak in peaks.items()}


def _cpu_model():
    """Return what the system calls its processor, with family and model where it tells them."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    except OSError:
        return platform.processor()
    known = {name.strip(): value.strip() for name, value in fields.items()}
    return ", ".join(f"{label}{known[name]}" for name, label in (("model name", ""), ("cpu family", "family "), ("model", "model "))
                     if name in known)


# The loop of the report

class PlainLoop:
    """The training loop of the reproduction report, one process in float32, as it is written there.

    VGG computes gradients for its weights, and for HR too; the discriminator does so in the generator's pass; the
    losses take sigmoids; Adam goes from tensor to tensor; losses are looked at after every update; PReLU is PyTorch's. In
    one point it is not what the report ran: there p(SR) was detached and the adversarial term did not reach the generator. Here it does.
    """

    def __init__(self, config, networks):
        self.config, self.discriminator, self.vgg = config, None, None
        self.generator = _with_pytorchs_prelu(networks.generator)
        self.generator_optimizer = self._adam(self.generator)
        if config.needs_discriminator:
            self.discriminator = networks.discriminator
            self.discriminator_optimizer = self._adam(self.discriminator)
        for loss in config.losses.values():
            if isinstance(loss, VGGLossConfig):
                self.perceptual, self.vgg = loss, vgg19_features(loss)[: LAYERS[loss.layer]].to(networks.accelerator.device)

    def update(self, batches):
        """Take one step of the networks of the phase on one micro-batch, as a phase does; returns floats."""
        (lr, hr), = batches
        self.generator_optimizer.zero_grad()
        sr = self.generator(lr)
        loss, l2 = F.l1_loss(sr, hr), F.mse_loss(sr, hr)
        if self.discriminator:
            self._judge(sr.detach(), hr)
            probability = self.discriminator(sr).sigmoid()
            loss = loss + self.config.adversarial_weight * F.binary_cross_entropy(probability, torch.ones_like(probability))
        if self.vgg:
            loss = loss + self.perceptual.weight * F.mse_loss(self._features(sr), self._features(hr))
        loss.backward()
        self.generator_optimizer.step()
        return {"loss": loss.item(), "l2": l2.item(), "psnr": 10 * math.log10(4 / l2.item())}

    def _judge(self, sr, hr):
        """Let the discriminator take its step."""
        self.discriminator_optimizer.zero_grad()
        real, fake = self.discriminator(hr).sigmoid(), self.discriminator(sr).sigmoid()
        loss = F.binary_cross_entropy(real, torch.ones_like(real)) + F.binary_cross_entropy(fake, torch.zeros_like(fake))
        loss.backward()
        self.discriminator_optimizer.step()

    def _features(self, image):
        mean, std = (torch.tensor(values, device=image.device).view(1, 3, 1, 1)
                     for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return self.vgg(((image + 1) / 2 - mean) / std)

    def _adam(self, network):
        return torch.optim.Adam(network.parameters(), lr=self.config.learning_rate, foreach=False)


def _with_pytorchs_prelu(network):
    """Put PyTorch's PReLU into the place of ours, with the same slopes; returns the network."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, PReLU):
                plain = nn.PReLU(child.num_parameters)
                plain.weight = child.weight
                setattr(parent, name, plain)
    return network


# The figures

def compared(found, baseline):
    """Return what several ranks found with the weak scaling of each row: the step time of one rank over theirs.

    Raises UserError where the baseline is not of one rank or has not measured the same.
    """
    if baseline["machine"]["ranks"] != 1 or baseline["machine"]["clock"] != found["machine"]["clock"]:
        raise UserError(f"--baseline was measured by {baseline['machine']['ranks']} rank(s) and the {baseline['machine']['clock']} clock;"
                        f" it has to be one rank and the {found['machine']['clock']} clock (--clock)")
    alone = {_case_of(row): row["step_ms"] for row in baseline["rows"]}
    missing = [row for row in found["rows"] if _case_of(row) not in alone]
    if missing:
        raise UserError("--baseline does not hold {variant} of {phase} with {blocks} block(s), batch {batch}; measure it with the"
                        " same options".format(**missing[0]))
    return found | {"rows": [row | {"weak_scaling": alone[_case_of(row)] / row["step_ms"]} for row in found["rows"]]}


def _case_of(row):
    return row["phase"], row["blocks"], row["batch"], row["variant"]


COLUMNS = {  # heading -> (key, format)
    "phase": ("phase", "<12"), "blocks": ("blocks", ">6"), "batch": ("batch", ">6"), "variant": ("variant", "<29"),
    "ms/step": ("step_ms", ">9.1f"), "samples/s": ("samples_per_second", ">10.2f"), "x plain": ("times_plain", ">8.2f"),
    "of floor": ("share_of_floor", ">9.0%"), "GFLOP/sample": ("gflop_per_sample", ">13.1f"), "peak MiB": ("peak_mib", ">9.0f"),
    "weak scaling": ("weak_scaling", ">13.1%"),
}
CLOCKS = {"cpu": "CPU time", "wall": "wall time", "cuda": "CUDA events"}


def format_table(found):
    """Return the figures as text: facts of the machine, then a line per row, without columns that have no figure."""
    machine = found["machine"]
    shown = {title: column for title, column in COLUMNS.items() if any(row.get(column[0]) is not None for row in found["rows"])}
    lines = [f"{machine['cpu']}; {machine['device']}; PyTorch {machine['torch']}; {machine['ranks']} rank(s) of {machine['threads']}"
             f" thread(s); {CLOCKS[machine['clock']]}, median of {machine['passes']}; a large matrix product:"
             f" {machine['matmul_gflops_fp32']:.0f} GFLOP/s in float32, {machine['matmul_gflops_bf16']:.0f} in bfloat16",
             "  ".join(_cell(title, form) for title, (_, form) in shown.items())]
    for row in found["rows"]:
        lines.append("  ".join(_cell(row.get(key), form) for key, form in shown.values()))
    return "\n".join(lines)


def _cell(value, form):
    """Return a value in its format, a heading or a lack of a value in the width and alignment of it."""
    if value is None or isinstance(value, str):
        return format(value or "-", form.rstrip("f%").partition(".")[0])
    return format(value, form)
