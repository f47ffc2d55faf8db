"""The training, top to bottom: set up, run the phases, and keep what they made."""

import contextlib
import gc
import json
import os
import time
from dataclasses import asdict, dataclass, field

import torch
import torch.distributed
from accelerate import Accelerator, DistributedDataParallelKwargs

from srgan_dist.checkpoint import load_checkpoint, load_generator, save_checkpoint, save_generator
from srgan_dist.config import ConfigError, dump_config
from srgan_dist.data.loader import TrainLoader
from srgan_dist.files import written_whole
from srgan_dist.losses import build_loss
from srgan_dist.machine import use_cpu_threads
from srgan_dist.models import build_generator
from srgan_dist.models.discriminator import Discriminator
from srgan_dist.phases.adversarial import AdversarialPhase
from srgan_dist.phases.pretrain import PretrainPhase
from srgan_dist.prepare import prepare
from srgan_dist.progress import Progress
from srgan_dist.tracking import X_AXIS, Tracker
from srgan_dist.validation import Validator, sentence


@dataclass
class State:
    """Where a run is; with the networks and optimisers all that a checkpoint holds."""

    update: int = 0  # of the whole run, so also the position in the data
    phase: str | None = None  # running or next
    step: int = 0  # updates of that phase
    phase_seconds: float = 0.0  # of training, without validations and checkpoints, up to the last log
    finished: list = field(default_factory=list)  # phases
    best: dict = field(default_factory=dict)  # phase -> {"psnr", "step"} of its best validation
    wandb_id: str | None = None


@dataclass(frozen=True)
class Trained:
    """What a training leaves: networks on this rank's device, without wrappers, and where the run ended."""

    generator: torch.nn.Module
    discriminator: torch.nn.Module | None
    state: State


def train(config, resume="auto"):
    """Run the phases of an experiment under whatever launcher started this process, and return Trained."""
    accelerator = start(config)
    prepared = prepare(config, resume, accelerator.num_processes)
    run = Run(config, prepared, accelerator)
    try:
        if len(run.state.finished) == len(config.phases()):
            run.say(f"{run.directory} is finished, there is nothing left to train")
        for name, phase_config in config.phases():
            if name in run.state.finished:
                continue
            if phase_config.weights is not None:
                run.take_weights(name, phase_config.weights)
            else:
                run.run_phase(name, phase_config)
            run.finish_phase(name)
    finally:
        run.close()
    return Trained(run.generator, run.discriminator, run.state)


def start(config):
    """Join the process group and choose the device; raises ValueError when the launch does not fit."""
    kwargs = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(mixed_precision=config.mixed_precision, kwargs_handlers=[kwargs])
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != accelerator.num_processes:
        raise ConfigError(f"{launched} processes were launched but each formed a group of {accelerator.num_processes};"
                          " without GPUs, set ACCELERATE_USE_CPU=1 and launch with torchrun")
    use_cpu_threads(accelerator, config.cpu_threads)
    if accelerator.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # all crops have one size
        if config.mixed_precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise ConfigError(f"mixed_precision=bf16 is not supported by {torch.cuda.get_device_name()}; use no")
    return accelerator


class Run:
    """One training in progress: networks, data, records."""

    def __init__(self, config, prepared, accelerator):
        self.config, self.accelerator = config, accelerator
        self.directory, self.start_from = prepared.run_directory, prepared.checkpoint
        self.world_size, self.is_main = accelerator.num_processes, accelerator.is_main_process
        self.state = State(**(prepared.state or {}))
        self.gain = None  # of the last validation, in dB over bicubic
        self._open_directory()

        self.generator = self._network(build_generator, config.generator, seed=config.seed)
        self.discriminator = None
        if self.start_from:
            load_checkpoint(self.start_from, {"generator": self.generator})
        self.wrapped_generator = self._wrap(self.generator)
        self.loader = TrainLoader(
            prepared.splits["train"], config.data.lr_crop, config.data.batch_size, config.seed, config.data.augment,
            accelerator.process_index, self.world_size, accelerator.device,
        )
        self.validator = Validator(config, prepared.splits, self.directory, self.tracker, accelerator)

    def _open_directory(self):
        settings = self.config.model_dump(mode="json")
        if self.is_main:
            self.directory.mkdir(parents=True, exist_ok=True)
            with written_whole(self.directory / "config.yaml") as path:
                path.write_text(dump_config(self.config))
            _forget_after(self.directory / "metrics.jsonl", self.samples_seen)
        self.accelerator.wait_for_everyone()
        self.tracker = Tracker(
            self.config.tracking, self.directory, self.config.name, settings, self.state.wandb_id, self.is_main
        )
        self.state.wandb_id = self.tracker.run_id

    @property
    def samples_seen(self):
        return self.state.update * self.config.data.batch_size

    def _network(self, build, *arguments, seed):
        """Build a network with initial weights that depend on the seed alone, not on what was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(*arguments)
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return network.to(self.accelerator.device, memory_format=layout)

    def _wrap(self, network):
        """Let Accelerate average its gradients over ranks and run its forward in mixed precision."""
        wrapped = self.accelerator.prepare_model(network)
        if self.world_size > 1:
            # Two forwards before one backward must not overwrite batch-norm buffers in between.
            wrapped.broadcast_buffers = False
        return wrapped

    # Phases

    def run_phase(self, name, phase_config):
        """Train one phase from where the state says to its end."""
        phase = self._make_phase(name, phase_config)
        if self.state.phase == name and self.state.step:
            load_checkpoint(self.start_from, phase.stateful())
            phase.step = self.state.step
        else:
            self.state.phase, self.state.step, self.state.phase_seconds = name, 0, 0.0
        self._loop(phase, phase_config)

    def _make_phase(self, name, phase_config):
        losses = {key: build_loss(loss).to(self.accelerator.device) for key, loss in phase_config.losses.items()}
        if name == "pretrain":
            return PretrainPhase(phase_config, self.wrapped_generator, losses, self.accelerator)
        self.discriminator = self._network(
            Discriminator, self.config.discriminator, self.config.hr_crop, seed=self.config.seed + 1
        )
        return AdversarialPhase(
            phase_config, self.wrapped_generator, self._wrap(self.discriminator), losses, self.accelerator
        )

    def _loop(self, phase, phase_config):
        config, state = self.config, self.state
        progress = Progress(phase.name, phase.steps, phase.step, visible=self.is_main)
        meter = Meter(self.accelerator)
        batches = self.loader.batches(state.update)
        time_share = self._time_share(phase_config)
        while phase.step < phase.steps and time_share < 1:
            phase.progress = max(phase.step / phase.steps, time_share)
            with meter.waiting():
                lr, hr = next(batches)
            meter.add(phase.update(lr, hr), samples=config.data.batch_size)
            state.update, state.step = state.update + 1, phase.step

            # Report
            text = total = None
            if phase.step % config.log_every == 0 or phase.step == phase.steps:
                numbers, seconds = meter.read()
                numbers |= phase.learning_rates()
                self.tracker.log(numbers, self.samples_seen)
                state.phase_seconds += seconds
                if phase_config.max_seconds:
                    time_share = self._time_share(phase_config)
                    total = min(phase.steps, round(phase.step / time_share))
                text = self._text(numbers)
            progress.update(text, total)

            # Look and save; the end of a phase does both in its own way
            if phase.step < phase.steps and time_share < 1:
                if phase.step % config.validate_every == 0:
                    with meter.paused():
                        self._validate(("valid",), f"update {state.update}", progress.say)
                if phase.step % config.checkpoint_every == 0:
                    with meter.paused():
                        self._save(phase.stateful())
        batches.close()
        progress.close()

    def _text(self, numbers):
        """Say the numbers of a report, those first that a narrow terminal should still show."""
        parts = [f"psnr {numbers['train/psnr']:.2f}"]
        if self.gain is not None:
            parts.append(f"gain {self.gain:+.2f} dB")
        parts.append(f"{numbers['speed/samples_per_second']:.0f} samples/s")
        parts += [f"{name.removeprefix('loss/')} {value:.3g}" for name, value in numbers.items() if name.startswith("loss/")]
        if "d/real" in numbers:
            parts.append(f"D {numbers['d/real']:.2f}/{numbers['d/fake']:.2f}")
        return ", ".join(parts)

    def _time_share(self, phase_config):
        """Return the share of the phase's time that is over by rank 0's clock, the same on every rank."""
        if phase_config.max_seconds is None:
            return 0.0
        share = torch.tensor(min(1.0, self.state.phase_seconds / phase_config.max_seconds))
        if self.world_size > 1:
            share = share.to(self.accelerator.device)
            torch.distributed.broadcast(share, 0)
        return float(share)

    def take_weights(self, name, path):
        """Use finished generator weights instead of training a phase."""
        weights, _ = load_generator(path, self.accelerator.device)
        self.generator.load_state_dict(weights.state_dict())
        self.say(f"{name} is skipped, its weights come from {path}")

    def finish_phase(self, name):
        """Validate, test, export the generator and save the state between two phases."""
        scores = self._validate(("valid", "test"), f"end of {name}", self.say)
        self.state.finished = [*self.state.finished, name]
        self.state.phase, self.state.step, self.state.phase_seconds = None, 0, 0.0
        if self.is_main:
            facts = {"phase": name, "samples_seen": self.samples_seen, "scores": scores,
                     "config": self.config.model_dump(mode="json")}
            path = self.directory / "weights" / f"{name}.safetensors"
            save_generator(path, self.generator, facts)
            self.say(f"{name} is finished, its generator is {path}")
        self._save({})

    # Records

    def _validate(self, names, title, say):
        """Score the generator on whole splits and say how it does; returns {split: means per rock and method}."""
        results = self.validator.validate(self.generator, names, self.state.update, self.samples_seen)
        for name, (numbers, scores) in results.items():
            say(f"{title}, {name}: {sentence(scores)}")
            if name == "valid":
                self.gain = numbers["val/psnr_gain"]
                self._keep_best(numbers["val/psnr"])
        return {name: scores for name, (_, scores) in results.items()}

    def _keep_best(self, psnr):
        phase = self.state.phase
        if phase and psnr > self.state.best.get(phase, {}).get("psnr", float("-inf")):
            self.state.best[phase] = {"psnr": psnr, "step": self.state.step}

    def _save(self, objects):
        self._share_buffers()
        if self.is_main:
            save_checkpoint(
                self.directory / "checkpoints", f"step-{self.state.update:08d}",
                {"generator": self.generator, **objects}, asdict(self.state), self.config.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()

    def _share_buffers(self):
        """Give every rank the batch-norm buffers of rank 0, which are the ones that are saved."""
        if self.discriminator is not None and self.world_size > 1:
            for buffer in self.discriminator.buffers():
                torch.distributed.broadcast(buffer, 0)

    def say(self, text):
        if self.is_main:
            print(text, flush=True)

    def close(self):
        """End the records and let go of the process group."""
        self.tracker.finish({f"best/{phase}/psnr": best["psnr"] for phase, best in self.state.best.items()})
        # gloo aborts at exit when a wrapped network is still alive
        self.wrapped_generator = None
        self.accelerator.free_memory()
        gc.collect()
        self.accelerator.end_training()


class Meter:
    """Means of named 0-d tensors over an interval and over ranks; tensors stay on the device until they are read."""

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self._restart()

    def _restart(self):
        self.values, self.samples, self.waited, self.since = {}, 0, 0.0, time.monotonic()

    @contextlib.contextmanager
    def waiting(self):
        """Count the time inside as waiting for data."""
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self):
        """Do not count the time inside at all."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    def add(self, numbers, samples):
        for name, value in numbers.items():
            self.values.setdefault(name, []).append(value)
        self.samples += samples

    def read(self):
        """Return the means since the last reading, with speed/samples_per_second and speed/data_wait (a share of the
        time), and the seconds that they cover.
        """
        means = torch.stack([torch.stack(values).float().mean() for values in self.values.values()])
        means = self.accelerator.reduce(means, "mean").tolist()
        seconds = time.monotonic() - self.since
        speed = {"speed/samples_per_second": self.samples / seconds, "speed/data_wait": self.waited / seconds}
        numbers = dict(zip(self.values, means, strict=True)) | speed
        self._restart()
        return numbers, seconds


def _forget_after(path, samples_seen):
    """Drop the records of updates that a resumed run is about to repeat."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if line and json.loads(line)[X_AXIS] <= samples_seen]
        with written_whole(path) as unfinished:
            unfinished.write_text("".join(line + "\n" for line in kept))
