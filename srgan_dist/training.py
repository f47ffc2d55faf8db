"""The training, top to bottom: ranks and checks, the phases one after the other, the updates of each."""

import logging
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator

from srgan_dist.evaluation.scoring import score_table
from srgan_dist.evaluation.validation import format_psnr, format_scores
from srgan_dist.integrity.find_corruption import check_corruption_limit
from srgan_dist.models.weights_file import load_generator
from srgan_dist.phases import build_phase
from srgan_dist.run.dry_run import data_plan
from srgan_dist.run.failures import check_same_start, out_of_memory_named
from srgan_dist.run.gan_health import HealthMonitor, shares
from srgan_dist.run.header import header
from srgan_dist.run.initial_weights import begin_with_weights, say_not_loaded
from srgan_dist.run.meter import Meter
from srgan_dist.run.preflight import preflight
from srgan_dist.run.profiling import UpdateProfiler
from srgan_dist.run.run_directory import RunDirectory
from srgan_dist.run.run_state import RunState
from srgan_dist.run.step_timer import speed_line
from srgan_dist.run.time_left import TimeLeft
from srgan_dist.run.training_run import TrainingRun
from srgan_dist.runtime.accelerate_options import ignored_options
from srgan_dist.runtime.conv3d_check import check_conv3d
from srgan_dist.runtime.cpu import keep_freed_memory, use_cpu_threads
from srgan_dist.runtime.device import (
    allow_many_files,
    check_device,
    check_group,
    cpu_wanted,
    precision_on,
    use_exact_float32,
)
from srgan_dist.runtime.process_group import end_all_ranks_on_error, from_rank_zero, join
from srgan_dist.runtime.stop_signals import StopSignals
from srgan_dist.utils.errors import STOPPED, TrainingStopped
from srgan_dist.utils.output import READER_SECONDS, surviving_output
from srgan_dist.utils.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The result of a training: networks on this rank's device, and where the run ended."""

    generator: torch.nn.Module
    discriminator: torch.nn.Module | None
    state: RunState


@surviving_output(READER_SECONDS)
def train(config, resume="auto", profile=None):
    """Run the phases of an experiment under whatever launcher started this process, and return Trained.

    profile: number of updates of each phase of which rank 0 writes a trace, to profile/PHASE.json.gz of the
    run.

    Raises UserError for wrong settings, files or launch, before anything is written, and when the training
    diverges; TrainingStopped when a signal ended it after it had saved.
    """
    # Ranks and preflight checks
    accelerator = start(config)
    with end_all_ranks_on_error() as ranks:
        checked = preflight(config, resume, accelerator.num_processes)
        check_same_start(checked)
        corrupt = find_corrupt(config, checked, accelerator)
        directory = RunDirectory(checked.run_directory)
        with directory.lock(accelerator.is_main_process), StopSignals(accelerator) as signals:
            run = TrainingRun(config, checked, directory, accelerator, corrupt, signals)
            ranks.busy = run.writer.is_writing
            if run.is_main:
                run.log_main(header(config, checked, accelerator.mixed_precision, *run.ranks))
            for line in data_plan(config, checked):
                run.log_main(f"data: {line}")
            for line in checked.notes:
                run.log_main(line)

            # Phases
            exit_code = 1
            try:
                for name, phase_config in config.phases():
                    if name in run.state.finished:
                        skip_finished_phase(run, name)
                    elif phase_config.weights is not None:
                        take_weights(run, name, phase_config.weights)
                    else:
                        run_phase(run, name, phase_config, profile)
                exit_code = 0
            except TrainingStopped:
                exit_code = STOPPED
                raise
            except BaseException as error:
                ranks.failed(error)  # at once: the other ranks are waiting
                raise
            finally:
                run.close(exit_code)
    return Trained(run.networks.generator, run.networks.initialized.get("discriminator"), run.state)


def start(config):
    """Join the process group and choose the device; raises UserError when the launch does not fit."""
    check_device(config.device)
    group = join(cpu_wanted(config.device), config.group_timeout_minutes)
    check_group(group)
    precision = precision_on(group.device.type, config.mixed_precision)
    accelerator = Accelerator(cpu=cpu_wanted(config.device), mixed_precision=precision)
    if accelerator.is_main_process:
        for line in ignored_options(precision, config.gradient_accumulation_steps):
            log.warning("%s", line)
    use_cpu_threads(accelerator, config.cpu_threads)
    keep_freed_memory(accelerator.device.type)
    use_exact_float32()
    allow_many_files()
    torch.backends.cudnn.benchmark = True  # all crops have one size
    if config.generator.ndim == 3 and precision == "bf16" and accelerator.device.type == "cuda":
        check_conv3d(accelerator.device)
    return accelerator


def find_corrupt(config, checked, accelerator):
    """Return the corrupt samples of each training set, as far as the config asks to look for them."""
    if config.data.verify != "full":
        return [[] for _ in checked.train]
    rank, world_size = accelerator.process_index, accelerator.num_processes
    limit = config.data.max_bad_samples
    return check_corruption_limit(checked.train, checked.eval_splits.values(), limit, rank, world_size)


# Phases


def skip_finished_phase(run, name):
    missing = "" if run.directory.weights(name).exists() else ", its weights are not in this run"
    run.log_main(f"{name} is finished already{missing}")


def take_weights(run, name, path):
    """Use finished generator weights instead of training a phase."""
    generator, _ = load_generator(path, run.device)
    run.networks.generator.load_state_dict(generator.state_dict())
    run.log_main(f"{name} is skipped, its weights come from {path}")
    run.state.phase = name
    finish_phase(run, name, {})


def run_phase(run, name, phase_config, profile=None):
    """Train one phase from where the state says to its end."""
    config, state = run.config, run.state

    # Build the phase; one that was interrupted continues with its weights, optimisers and statistics
    if state.phase == name:
        say_not_loaded(run, name, phase_config)
    else:
        begin_with_weights(run, name, phase_config)
    with out_of_memory_named(config, run.world_size, run.device):
        phase = build_phase(phase_config, run.networks, run.accelerator)
    run.health = HealthMonitor()
    if state.phase == name:
        run.restore_phase(phase.stateful())
        phase.step = state.phase_step
    else:
        state.begin(name)
    run.networks.share_weights()

    # Take updates until the steps, or the seconds, are over or a signal asks to stop
    steps = None if phase_config.max_seconds else phase.steps
    progress = Progress(name, steps, phase.step, visible=run.is_main, estimated=False)
    time_left = TimeLeft(config, name, run.validator, run.accelerator.mixed_precision)
    first = phase.step + 1
    meter = Meter(run.accelerator, state.consecutive_skips)
    batches = run.loader.batches(state.global_step)
    time_share = time_share_of(phase_config, state)
    trace = run.directory.path / "profile" / f"{name}.json.gz"
    profiler = UpdateProfiler(profile if run.is_main else None, trace, run.device, progress.print_line)
    stop = False
    while phase.step < phase.steps and time_share < 1 and not stop:
        phase.progress = max(phase.step / phase.steps, time_share)
        with out_of_memory_named(config, run.world_size, run.device):
            with meter.waiting():
                micro_batches = [next(batches) for _ in range(config.gradient_accumulation_steps)]
            meter.add(phase.update(micro_batches), samples=config.data.batch_size)
        profiler.step()
        state.global_step, state.phase_step = state.global_step + 1, phase.step

        # What is due after this update
        last = phase.step == phase.steps
        stop, checkpoint_due = run.any_rank(phase.step)
        validate_due = phase.step % config.validate_every == 0
        checkpoint_due |= bool(config.checkpoint_every) and phase.step % config.checkpoint_every == 0

        # Log, in any case before validating or saving; show the first losses at once
        text = None
        if phase.step % config.log_every == 0 or validate_due or checkpoint_due or last or stop:
            metrics = log_metrics(run, phase, phase_config, meter, progress)
            time_share = time_share_of(phase_config, state)
            text = format_progress(metrics, run.psnr_gain)
        elif phase.step == first:
            text = format_progress(meter.last(), run.psnr_gain)
        left, total = "", None
        if text:
            left, total = time_left.estimate(phase.step, state.phase_seconds, meter)
        continuing = not last and time_share < 1
        progress.update(text, total if continuing else phase.step, left, at_once=phase.step == first)

        # Validate and save; the end of a phase does both in its own way
        saved = phase.stateful() if continuing and (validate_due or checkpoint_due) or stop else {}
        if continuing and validate_due:
            with meter.paused("validation"):
                run.validate(("valid",), partial(format_psnr, state.global_step), progress.print_line)
                stop = stop or run.any_rank()[0]
        if continuing and checkpoint_due or stop:
            with meter.paused("checkpoints"):
                run.save(saved, last=stop)
    batches.close()
    profiler.close()
    progress.close()
    log_speed(run, name, meter)
    if stop:
        run.stop(stop)
    run.divergence.check_skips(state.consecutive_skips, phase.step, phase_config.max_spike)  # all of them

    # End with the EMA of the generator, where there is one
    saved = phase.stateful()
    run.networks.adopt_ema()
    finish_phase(run, name, saved)


def finish_phase(run, name, saved):
    """Validate, test, export the generator and save the state between two phases."""
    scores = run.validate(
        ("valid", "test"),
        lambda split, scores: format_scores(f"{name}, {split}", scores),
        run.log_main,
        at_end=True,
    )
    if scores:
        run.tracker.table(f"scores/{name}", *score_table(scores, name), run.samples_seen)
        if from_rank_zero(float(run.tracker.shows_tables)):
            table = run.validator.measures(("valid", "test"), name)
            run.tracker.table(f"measures/{name}", *table, run.samples_seen)
    run.state.phase_ends[name] = run.state.global_step
    run.state.begin(None)
    if run.is_main:
        path = run.directory.weights(name)
        run.export(path, name, scores)
        run.log_main(f"{name} is finished, its generator is {path}")
    run.save(saved)
    if len(run.state.finished) < len(run.config.phases()) and (stop := run.any_rank()[0]):
        run.stop(stop)


def time_share_of(phase_config, state):
    """Return the share of the phase's time that is over by rank 0's clock, the same on every rank."""
    if phase_config.max_seconds is None:
        return 0.0
    return from_rank_zero(min(1.0, state.phase_seconds / phase_config.max_seconds))


# Records


def log_metrics(run, phase, phase_config, meter, progress):
    """Record the means since the last record, after checking that the training has not diverged; returns
    them.
    """
    metrics, seconds = meter.read()
    run.state.consecutive_skips = meter.consecutive_skips
    limit = run.config.max_consecutive_skips
    run.divergence.check_skips(meter.longest_skips, limit, phase_config.max_spike)
    run.divergence.check_finite(metrics)
    metrics |= phase.learning_rates() | shares(metrics, phase.loss_weights())
    run.tracker.log(metrics, run.samples_seen)
    run.warn_of_health(metrics, progress.print_line)
    with run.warn_if_unwritable("checkpoint", required=False):
        run.writer.check()
    run.state.phase_seconds += seconds
    return metrics


def format_progress(metrics, psnr_gain):
    """Return the metrics of a record as text, those first that a narrow terminal should still show."""
    if "train/psnr" not in metrics:
        return "every update was skipped: a loss or a gradient is not finite, or a spike"
    parts = [f"psnr {metrics['train/psnr']:.2f}"]
    if psnr_gain is not None:
        parts.append(f"gain {psnr_gain:+.2f} dB")
    if "speed/samples_per_second" in metrics:
        parts.append(f"{metrics['speed/samples_per_second']:.0f} samples/s")
    losses = {
        name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")
    }
    parts += [f"{name} {value:.3g}" for name, value in losses.items()]
    if "d/real" in metrics:
        parts.append(f"D {metrics['d/real']:.2f}/{metrics['d/fake']:.2f}")
    if metrics["health/skipped"]:
        parts.append(f"{metrics['health/skipped']} skipped")
    return ", ".join(parts)


def log_speed(run, name, meter):
    """Print the speed of a phase, and keep it for the summary; a phase without an update has none."""
    if meter.speed.samples:
        metrics = meter.of_phase()
        run.log_main(f"{name}: {speed_line(metrics)}")
        run.summary |= {key.replace("speed/", f"speed/{name}/"): value for key, value in metrics.items()}
