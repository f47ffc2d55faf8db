"""The training, top to bottom: set up, run the phases, and keep what they made."""

import contextlib
import json
import logging
import math
import os
import platform
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from srgan_dist.config import dump_config
from srgan_dist.data.loader import TrainLoader
from srgan_dist.evaluation.validation import Validator, format_psnr
from srgan_dist.integrity.find_corruption import check_corruption_limit
from srgan_dist.models.networks import Networks
from srgan_dist.phases import build_phase
from srgan_dist.run.checkpoint import (
    CheckpointError,
    holds,
    list_checkpoints,
    load_checkpoint,
    load_generator,
    save_generator,
)
from srgan_dist.run.checkpoint_writer import CheckpointWriter
from srgan_dist.run.gan_health import HealthMonitor, shares
from srgan_dist.run.meter import Meter
from srgan_dist.run.preflight import copies_plan, phase_plan, prepare
from srgan_dist.run.run_state import Best, State
from srgan_dist.run.step_timer import speed_line
from srgan_dist.runtime.cpu import fastest_thread_count, keep_freed_memory, share_of_cores, use_cpu_threads
from srgan_dist.runtime.device import (
    allow_many_files,
    check_device,
    check_group,
    cpu_wanted,
    is_out_of_memory,
    memory_of,
    precision_on,
    use_exact_float32,
)
from srgan_dist.runtime.process_group import (
    barrier,
    end_all_ranks_on_error,
    from_rank_zero,
    gather_lists,
    join,
    max_over_ranks,
)
from srgan_dist.runtime.stop_signals import INTERRUPTED, StopSignals
from srgan_dist.tracking.tracker import X_AXIS, Tracker
from srgan_dist.utils.errors import STOPPED, TrainingInterrupted, TrainingStopped, UserError
from srgan_dist.utils.files import atomic_write
from srgan_dist.utils.locks import file_lock
from srgan_dist.utils.progress import Progress, tell

log = logging.getLogger(__name__)
OPTIONAL_STATE = {"generator_average", "generator_usual", "discriminator_usual"}

UPDATES_BETWEEN = (
    10  # updates after which ranks on GPUs ask each other whether to stop; on CPU it is every update
)


@dataclass(frozen=True)
class Trained:
    """What a training leaves: networks on this rank's device, and where the run ended."""

    generator: torch.nn.Module
    discriminator: torch.nn.Module | None
    state: State


def train(config, resume="auto"):
    """Run the phases of an experiment under whatever launcher started this process, and return Trained.

    Raises UserError for what is wrong with settings, files or launch, before anything is written, and when the
    training diverges; TrainingStopped when a signal ended it after it had saved.
    """
    accelerator = start(config)
    with end_all_ranks_on_error() as ranks:
        prepared = prepare(config, resume, accelerator.num_processes)
        _agree_on_start(prepared)
        damage = _verify(config, prepared, accelerator)
        with _alone_in(prepared.run_directory, accelerator), StopSignals(accelerator) as signals:
            run = Run(config, prepared, accelerator, damage, signals)
            ranks.busy = run.writer.is_writing
            for line in copies_plan(config, prepared):
                run.say(f"data: {line}")
            exit_code = 1
            try:
                run.all_phases()
                exit_code = 0
            except TrainingStopped:
                exit_code = STOPPED
                raise
            except BaseException as error:
                ranks.failed(error)  # before anything waits for what the others no longer do
                raise
            finally:
                run.close(exit_code)
    return Trained(run.networks.generator, run.networks.initialized.get("discriminator"), run.state)


def start(config):
    """Join the process group and choose the device; raises UserError when the launch does not fit."""
    check_device(config.device)
    here = join(cpu_wanted(config.device), config.group_timeout_minutes)
    check_group(here)
    accelerator = Accelerator(
        cpu=cpu_wanted(config.device), mixed_precision=precision_on(here.device.type, config.mixed_precision)
    )
    use_cpu_threads(accelerator, config.cpu_threads)
    keep_freed_memory(accelerator.device.type)
    use_exact_float32()
    allow_many_files()
    torch.backends.cudnn.benchmark = True  # all crops have one size
    return accelerator


def _agree_on_start(prepared):
    """Raise UserError unless every rank found the same checkpoint."""
    starts = gather_lists([(prepared.checkpoint and prepared.checkpoint.name, prepared.state.model_dump())])
    if any(start != starts[0] for start in starts):
        names = ", ".join(f"rank {rank}: {name or 'none'}" for rank, (name, _) in enumerate(starts))
        raise UserError(
            f"output={prepared.run_directory.parent}: the ranks find different checkpoints there ({names});"
            " it has to lie on a file system that all nodes share"
        )


def _verify(config, prepared, accelerator):
    """Return the damaged samples of each training set, as far as the config asks to look for them."""
    if config.data.verify != "full":
        return [[] for _ in prepared.train]
    return check_corruption_limit(
        prepared.train,
        prepared.eval_splits.values(),
        config.data.max_bad_samples,
        accelerator.process_index,
        accelerator.num_processes,
    )


@contextlib.contextmanager
def _alone_in(directory, accelerator):
    """Keep other trainings out of a run directory, which is made if need be."""
    if not accelerator.is_main_process:
        yield
        return
    lock = directory / ".lock"
    with contextlib.ExitStack() as held:
        with _writing_to(directory):
            directory.mkdir(parents=True, exist_ok=True)
            holder = lock.read_text(errors="replace") if lock.exists() else "another process"
            held.enter_context(
                file_lock(
                    lock,
                    f"{directory} is being trained by {holder}; wait for its end, end it, or choose another name",
                )
            )
            lock.write_text(f"process {os.getpid()} on {platform.node()}")
        yield


@contextlib.contextmanager
def _writing_to(directory):
    """Raise UserError that names the setting when the system refuses to write in a run directory."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"output={directory.parent}: {directory} cannot be written ({error}); choose another folder, or make"
            " room or restore the right to write there"
        ) from None


class Run:
    """One training in progress: networks, data, records."""

    def __init__(self, config, prepared, accelerator, damage, signals):
        self.config, self.accelerator, self.signals = config, accelerator, signals
        self.directory, self.checkpoint = prepared.run_directory, prepared.checkpoint
        self.world_size, self.is_main = accelerator.num_processes, accelerator.is_main_process
        self.state = prepared.state
        self.gain = None  # of the last validation, in dB over bicubic
        self.watch, self.summary = HealthMonitor(), {}
        self.writer, self.saved_at = CheckpointWriter(accelerator.device), time.monotonic()

        self.networks = Networks(config, accelerator)
        self.say(
            f"device: {self._choose_threads() if accelerator.device.type == 'cpu' else memory_of(accelerator.device)}"
            f", {self.world_size} rank(s)"
        )
        if self.checkpoint:
            self.say(f"continues from {self.checkpoint}")
            load_checkpoint(self.checkpoint, {"generator": self.networks.generator})
        self._open_directory()
        self.loader = TrainLoader(
            prepared.train,
            config.data.lr_crop,
            config.data.batch_size,
            config.seed,
            config.data.augment == "all",
            accelerator.process_index,
            self.world_size,
            accelerator.device,
            [[one.row for one in damages] for damages in damage],
            prepared.blocks,
            config.gradient_accumulation_steps,
        )
        self._record_damage([one for damages in damage for one in damages])
        self.validator = Validator(config, prepared.eval_splits, self.directory, self.tracker, accelerator)

    def _choose_threads(self):
        """Take as many threads on CPU as pay, up to this rank's share of the cores, or as many as the run has taken before:
        with another number the last bits differ. Returns what to say of it.
        """
        most, tried = (
            -int(max_over_ranks([-share_of_cores(self.accelerator)])[0]),
            "",
        )  # the smallest share of any rank
        threads = self.config.cpu_threads or self.state.cpu_threads
        if threads is None and most == 1:
            threads = 1
        elif threads is None:
            data = self.config.data
            crops = data.batch_size // (self.world_size * self.config.gradient_accumulation_steps)
            lr, hr = (
                torch.rand(crops, 1, side, side) * 2 - 1 for side in (data.lr_crop, self.config.hr_crop)
            )
            seconds, threads = fastest_thread_count(self.networks.generator, lr, hr, most)
            threads = int(from_rank_zero(threads))
            tried = (
                " (tried: "
                + ", ".join(f"{count}: {1000 * found:.0f} ms" for count, found in seconds.items())
                + ")"
            )
        self.state.cpu_threads, self.state.cpu_ranks = threads, self.world_size
        torch.set_num_threads(threads)
        return f"cpu, {threads} thread(s) a rank{tried}"

    def _open_directory(self):
        settings, seen = self.config.model_dump(mode="json"), None
        if self.is_main:
            with _writing_to(self.directory):
                (self.directory / "checkpoints").mkdir(exist_ok=True)
                for folder in (".", "samples", "weights", "weights/best"):
                    for leftover in (self.directory / folder).glob(
                        ".*.unfinished"
                    ):  # of a process that was killed
                        leftover.unlink()
                with atomic_write(self.directory / "config.yaml") as path:
                    path.write_text(dump_config(self.config))
                self._bring_finished_weights()
                seen = _forget_after(self.directory / "metrics.jsonl", self.samples_seen)
        barrier()
        self.tracker = Tracker(
            self.config.tracking,
            self.directory,
            self.config.name,
            settings,
            self.state.wandb_id,
            self.is_main,
            seen,
        )
        self.state.wandb_id = self.tracker.run_id

    def _record_damage(self, damages):
        """List the samples that others stand in for, and count them in the record, also by cause."""
        if damages and self.is_main:
            with atomic_write(self.directory / "bad_samples.txt") as path:
                path.write_text("".join(f"{damage.text}\n" for damage in damages))
            self.say(
                f"{len(damages)} damaged samples are replaced by others, see {self.directory / 'bad_samples.txt'}"
            )
            causes = Counter(f"data/bad_samples/{damage.cause}" for damage in damages)
            self.tracker.log({"data/bad_samples": len(damages), **causes}, self.samples_seen)

    def _bring_finished_weights(self):
        """Copy the generators of finished phases from the run whose checkpoint this one starts from."""
        for ours in (
            file(name) for name in self.state.finished for file in (self.weights_file, self.best_file)
        ):
            theirs = self.checkpoint.parent.parent / ours.relative_to(self.directory)
            if not ours.exists() and theirs.exists():
                ours.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(ours) as path:
                    shutil.copyfile(theirs, path)

    @property
    def samples_seen(self):
        return self.state.updates * self.config.data.batch_size

    def weights_file(self, name):
        return self.directory / "weights" / f"{name}.safetensors"

    def best_file(self, name):
        return self.directory / "weights" / "best" / f"{name}.safetensors"

    # Phases

    def all_phases(self):
        """Run, or take the weights of, every phase that is not finished yet."""
        for name, phase_config in self.config.phases():
            if name in self.state.finished:
                self.say(
                    f"{name} is finished already"
                    + ("" if self.weights_file(name).exists() else ", its weights are not in this run")
                )
            elif phase_config.weights is not None:
                self.take_weights(name, phase_config.weights)
            else:
                self.run_phase(name, phase_config)

    def run_phase(self, name, phase_config):
        """Train one phase from where the state says to its end."""
        self.say(f"{name}: {phase_plan(phase_config)}")
        with self._naming_memory():
            phase = build_phase(phase_config, self.networks, self.accelerator)
        self.watch = HealthMonitor()
        if self.state.phase == name:
            self._restore(phase.stateful())
            phase.step = self.state.step
        else:
            self.state.begin(name)
        self.networks.share_weights()
        self._loop(phase, name, phase_config)
        objects = phase.stateful()
        self.networks.adopt_ema()
        self._finish_phase(name, objects)

    def _restore(self, objects):
        """Put what a checkpoint has of a phase into its objects; those of settings that were off then begin anew."""
        new = [label for label in objects if label in OPTIONAL_STATE and not holds(self.checkpoint, label)]
        for label in new:
            self.say(f"{self.checkpoint.name} holds no {label}, which begins anew")
        load_checkpoint(self.checkpoint, {label: item for label, item in objects.items() if label not in new})

    def take_weights(self, name, path):
        """Use finished generator weights instead of training a phase."""
        weights, _ = load_generator(path, self.accelerator.device)
        self.networks.generator.load_state_dict(weights.state_dict())
        self.say(f"{name} is skipped, its weights come from {path}")
        self.state.phase = name
        self._finish_phase(name, {})

    def _loop(self, phase, name, phase_config):
        config, state = self.config, self.state
        progress = Progress(name, phase.steps, phase.step, visible=self.is_main)
        meter = Meter(self.accelerator, state.skipped_in_row)
        batches = self.loader.batches(state.updates)
        time_share = self._time_share(phase_config)
        stop = False
        while phase.step < phase.steps and time_share < 1 and not stop:
            phase.progress = max(phase.step / phase.steps, time_share)
            with self._naming_memory():
                with meter.waiting():
                    micro_batches = [next(batches) for _ in range(config.gradient_accumulation_steps)]
                meter.add(phase.update(micro_batches), samples=config.data.batch_size)
            state.updates, state.step = state.updates + 1, phase.step

            # Report, in any case before the generator is looked at or saved
            last = phase.step == phase.steps
            stop, save = self._agree(phase.step)
            look, save_too = (
                every and phase.step % every == 0
                for every in (config.validate_every, config.checkpoint_every)
            )
            save = save or save_too
            text = total = None
            if phase.step % config.log_every == 0 or look or save or last or stop:
                numbers, seconds = meter.read()
                state.skipped_in_row = meter.skipped_in_row
                self._check_skipped(meter.longest_skipped, config.max_consecutive_skips, phase_config)
                self._check_finite(numbers, name)
                numbers |= phase.learning_rates() | shares(numbers, phase.loss_weights())
                self.tracker.log(numbers, self.samples_seen)
                self._warn(numbers, progress.say)
                with self._going_on("checkpoint", required=False):
                    self.writer.check()
                state.phase_seconds += seconds
                if phase_config.max_seconds:
                    time_share = self._time_share(phase_config)
                    total = min(phase.steps, math.ceil(phase.step / time_share))
                text = self._text(numbers)
            progress.update(text, total)

            # Look and save; the end of a phase does both in its own way
            going_on = not last and time_share < 1
            objects = phase.stateful() if going_on and (look or save) or stop else {}
            if going_on and look:
                with meter.paused("validation"):
                    self._validate(("valid",), f"update {state.updates}", progress.say)
                    stop = stop or self._agree()[0]
            if going_on and save or stop:
                with meter.paused("checkpoints"):
                    self._save(objects, last=stop)
        batches.close()
        progress.close()
        self._log_speed(name, meter)
        if stop:
            self._stop(stop)
        self._check_skipped(state.skipped_in_row, phase.step, phase_config)  # a phase without a single update

    def _agree(self, step=0):
        """Return, the same on every rank, the highest number of a signal that any was sent (or INTERRUPTED; 0: none), and
        whether a checkpoint is due by the clock of rank 0.

        Ranks on GPUs ask each other only where `step` is a multiple of UPDATES_BETWEEN: there a host runs ahead of its GPU.
        """
        if self.world_size > 1 and self.accelerator.device.type != "cpu" and step % UPDATES_BETWEEN:
            return 0, False
        minutes = self.config.checkpoint_minutes
        due = self.is_main and minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        number, due = max_over_ranks([self.signals.number, due])
        return int(number), bool(due)

    @contextlib.contextmanager
    def _naming_memory(self):
        """Raise UserError that names the settings where an update needs more memory than there is."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            data, cut = self.config.data, self.config.gradient_accumulation_steps
            share = data.batch_size // self.world_size
            finer = next(
                (f"gradient_accumulation_steps={n}" for n in range(cut + 1, share + 1) if share % n == 0),
                f"a smaller data.lr_crop than {data.lr_crop}",
            )
            raise UserError(
                f"{memory_of(self.accelerator.device)} does not hold an update of data.batch_size={data.batch_size}:"
                f" {share // cut} crops of {self.config.hr_crop} HR pixels at a time on each of {self.world_size} rank(s)"
                f" (gradient_accumulation_steps={cut}). Use {finer}, which trains the same but for batch normalisation, a smaller"
                f" data.batch_size, or more GPUs ({str(error).splitlines()[0]:.200})"
            ) from None

    def _text(self, numbers):
        """Say the numbers of a report, those first that a narrow terminal should still show."""
        if "train/psnr" not in numbers:
            return "every update was skipped: a loss or a gradient is not finite, or a spike"
        parts = [f"psnr {numbers['train/psnr']:.2f}"]
        if self.gain is not None:
            parts.append(f"gain {self.gain:+.2f} dB")
        parts.append(f"{numbers['speed/samples_per_second']:.0f} samples/s")
        parts += [
            f"{name.removeprefix('loss/')} {value:.3g}"
            for name, value in numbers.items()
            if name.startswith("loss/")
        ]
        if "d/real" in numbers:
            parts.append(f"D {numbers['d/real']:.2f}/{numbers['d/fake']:.2f}")
        if numbers["health/skipped"]:
            parts.append(f"{numbers['health/skipped']} skipped")
        return ", ".join(parts)

    def _warn(self, numbers, say):
        for line in self.watch.look(numbers, self.state.updates):
            say(line)

    def _log_speed(self, name, meter):
        """Say how fast a phase was, and keep it for the summary; where no update was left, there is nothing to say."""
        if meter.speed.samples:
            numbers = meter.of_phase()
            self.say(f"{name}: {speed_line(numbers)}")
            self.summary |= {key.replace("speed/", f"speed/{name}/"): value for key, value in numbers.items()}

    def _time_share(self, phase_config):
        """Return the share of the phase's time that is over by rank 0's clock, the same on every rank."""
        if phase_config.max_seconds is None:
            return 0.0
        return from_rank_zero(min(1.0, self.state.phase_seconds / phase_config.max_seconds))

    def _check_skipped(self, row, most, phase_config):
        """Raise UserError when as many updates in a row were skipped."""
        if row >= most:
            spiking = f" or a spike (max_spike={phase_config.max_spike:g})" if phase_config.max_spike else ""
            self._stop_diverged(
                self.state.phase,
                f"a loss or a gradient in {row} updates in a row"
                f" (max_consecutive_skips={self.config.max_consecutive_skips}) is not finite{spiking}",
            )

    def _check_finite(self, numbers, name):
        """Raise UserError when a score or a weight is not a number any more."""
        wrong = [key for key, value in numbers.items() if not math.isfinite(value)]
        if not wrong and not self.networks.are_finite():
            wrong = ["a weight"]
        if wrong:
            self._stop_diverged(name, f"{', '.join(wrong)} is not finite")

    def _stop_diverged(self, name, what):
        newest = next(iter(list_checkpoints(self.directory / "checkpoints")), self.checkpoint)
        start = (
            f"Start a run of another name from an earlier checkpoint (--resume {newest}) or anew"
            if newest
            else "Start again"
        )
        raise UserError(
            f"{name} has diverged: {what} at update {self.state.updates}."
            f" {start}, with a smaller {name}.learning_rate, {name}.max_grad_norm, smaller weights of its"
            " losses, or mixed_precision=no"
        )

    def _finish_phase(self, name, objects):
        """Validate, test, export the generator and save the state between two phases."""
        scores = self._validate(("valid", "test"), f"end of {name}", self.say)
        self.state.ends[name] = self.state.updates
        self.state.begin(None)
        if self.is_main:
            self._export(self.weights_file(name), name, scores)
            self.say(f"{name} is finished, its generator is {self.weights_file(name)}")
        self._save(objects)
        if len(self.state.finished) < len(self.config.phases()) and (stop := self._agree()[0]):
            self._stop(stop)

    def _stop(self, number):
        """End the training, which has been saved: some rank was sent the signal of that number, or INTERRUPTED."""
        by = (
            "its launcher, which died or restarts it,"
            if number == INTERRUPTED
            else signal.Signals(number).name
        )
        self.say(
            f"stopped by {by} after update {self.state.updates}, which is saved; the same command continues from there"
        )
        raise TrainingInterrupted if number == INTERRUPTED else TrainingStopped

    def _export(self, path, phase, scores):
        """Write the generator as a file that can be used on its own."""
        facts = {
            "phase": phase,
            "phase_number": [name for name, _ in self.config.phases()].index(phase),
            "samples_seen": self.samples_seen,
            "scores": scores,
            "config": self.config.model_dump(mode="json"),
        }
        save_generator(path, self.networks.eval_generator, facts)

    # Records

    def _validate(self, names, title, say):
        """Score the generator on whole splits and say how it does; returns {split: means per rock and method}."""
        self.networks.share_buffers()
        results = self.validator.validate(self.networks.eval_generator, names)
        for name, (numbers, scores) in results.items():
            self._check_finite(numbers, self.state.phase)
            self.tracker.log(numbers, self.samples_seen)
            say(f"{title}, {name}: {format_psnr(scores)}")
            self._warn(numbers, say)
            if name == "valid":
                self.gain = numbers["val/psnr_gain"]
                self._keep_best(numbers["val/psnr"], scores)
        if "valid" in results:
            with self._going_on("panels"):
                self.validator.draw_panels(self.state.updates, self.samples_seen)
        return {name: scores for name, (_, scores) in results.items()}

    def _keep_best(self, psnr, scores):
        """Note the best validation of a phase, and export its generator beside the one that the phase ends with."""
        phase, state = self.state.phase, self.state
        if phase not in state.best or psnr > state.best[phase].psnr:
            with self._going_on("best weights"):  # what could not be kept is not the best that is known
                if self.is_main:
                    self._export(self.best_file(phase), phase, {"valid": scores})
                state.best[phase] = Best(psnr=psnr, step=state.step, updates=state.updates)

    def _save(self, objects, last=False):
        """Save a checkpoint; within a phase the training goes on while it is written and outlives a disk that is full: the
        next save tries again.

        last: none follows, so that this one has to be written.
        """
        self.networks.share_buffers()
        if self.is_main:
            with self._going_on("checkpoint", required=False):
                self.writer.wait()
            with self._going_on("checkpoint", required=last or self.state.phase is None):
                self.writer.start(
                    self.directory / "checkpoints",
                    f"step-{self.state.updates:08d}",
                    {"generator": self.networks.generator, **objects},
                    self.state.model_dump(),
                    self.config.keep_checkpoints,
                    self.state.pinned_updates(),
                    first=self.tracker.sync,  # a checkpoint that outlives a loss of power has all records up to it
                )
            if last or self.state.phase is None:
                self.writer.wait()
        if last or self.state.phase is None:
            barrier()
        self.saved_at = time.monotonic()

    @contextlib.contextmanager
    def _going_on(self, what, required=None):
        """Warn about a file that cannot be written, unless it is required: by default what a phase ends with is."""
        try:
            yield
        except (CheckpointError, OSError) as error:
            if self.state.phase is None if required is None else required:
                raise
            log.warning("update %d: the training goes on without %s: %s", self.state.updates, what, error)

    def say(self, text):
        if self.is_main:
            tell(text)

    def close(self, exit_code=0):
        """End the records and, unless the training has failed, let go of the process group."""
        with self._going_on("checkpoint", required=False):
            self.writer.wait()
        best = {f"best/{phase}/psnr": best.psnr for phase, best in self.state.best.items()}
        self.tracker.finish(best | self.summary, exit_code)
        if exit_code == 1 and self.world_size > 1:
            return  # the others are not there any more: see group.py
        if exit_code == STOPPED:
            barrier()  # a launcher ends the others when the first rank has gone
        self.accelerator.free_memory()
        self.accelerator.end_training()


def _forget_after(path, samples_seen):
    """Drop the records of updates that a resumed run is about to repeat, and a line that was cut off by a crash.

    Returns the samples seen at the last record before that, None where there was none.
    """
    if not path.exists():
        return None
    kept, last = [], None
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            seen = json.loads(line)[X_AXIS]
            if seen <= samples_seen:
                kept.append(line + "\n")
            last = seen
    with atomic_write(path, durable=True) as unfinished:
        unfinished.write_text("".join(kept))
    return last
