"""One training in progress: networks, data and records, and what is done with them between updates."""

import contextlib
import logging
import signal
import time
from collections import Counter

from srgan_dist.data.loader import TrainLoader
from srgan_dist.evaluation.grey_range import trained_ranges
from srgan_dist.evaluation.validation import Validator
from srgan_dist.models import noise_channels
from srgan_dist.models.hub_folder import travelling_config
from srgan_dist.models.networks import Networks
from srgan_dist.models.weights_file import save_generator
from srgan_dist.run.checkpoint import holds, load_checkpoint
from srgan_dist.run.checkpoint_writer import CheckpointWriter
from srgan_dist.run.data_checks import streamed_crops
from srgan_dist.run.failures import DivergenceCheck
from srgan_dist.run.gan_health import HealthMonitor
from srgan_dist.run.header import describe_ranks
from srgan_dist.run.provenance import provenance_of, training_data_of
from srgan_dist.run.run_state import BestValidation
from srgan_dist.runtime.cpu import choose_threads
from srgan_dist.runtime.process_group import barrier, max_over_ranks
from srgan_dist.runtime.stop_signals import INTERRUPTED
from srgan_dist.tracking.tracker import Tracker
from srgan_dist.utils.errors import STOPPED, TrainingInterrupted, TrainingStopped
from srgan_dist.utils.files import atomic_write
from srgan_dist.utils.progress import print_line
from srgan_dist.utils.tensor_files import CheckpointError

log = logging.getLogger(__name__)

SIGNAL_CHECK_UPDATES = (
    10  # between two checks of ranks on GPUs for signals; on CPU they check after every update
)
OPTIONAL_STATE = {"generator_average", "generator_usual", "discriminator_usual"}  # of ema_decay and max_spike
MUON_STATE = "generator_muon_optimizer"


def build_networks(config, accelerator):
    """Build the networks of a config on the device of an accelerator."""
    return Networks(
        config.generator,
        config.discriminator,
        config.hr_crop,
        config.seed,
        accelerator,
        channels_last=config.channels_last,
        compiled=config.compile,
        recompute=config.activation_checkpointing,
    )


class TrainingRun:
    """What a training has and does outside its updates.

    checked: the Preflight of the config. directory: the RunDirectory, which is locked. corrupt: for each
    training set the CorruptSamples that others replace.
    """

    def __init__(self, config, checked, directory, accelerator, corrupt, signals):
        self.config, self.accelerator, self.signals = config, accelerator, signals
        self.device, self.world_size = accelerator.device, accelerator.num_processes
        self.is_main = accelerator.is_main_process
        self.directory, self.checkpoint, self.state = directory, checked.checkpoint, checked.state
        self.psnr_gain = None  # of the last validation, in dB over bicubic
        self.health, self.summary = HealthMonitor(), {}
        self.writer, self.saved_at = CheckpointWriter(self.device), time.monotonic()
        self.divergence = DivergenceCheck(self)

        # Networks, all that the checkpoint holds
        self.networks = build_networks(config, accelerator)
        threads = self._choose_threads() if self.device.type == "cpu" else None
        self.ranks = describe_ranks(self.device, threads)
        if self.checkpoint:
            self.log_main(f"continues from {self.checkpoint}")
            self._restore_networks()

        # The grey range of LR, which exported weights keep, read once in a run; before any record, as images
        # may be unreadable
        rows = [[sample.row for sample in samples] for samples in corrupt]
        if self.is_main and self.state.grey_ranges is None:
            self.state.grey_ranges = trained_ranges([split for split, _ in checked.train], rows)

        # Records
        seen, records, settings = None, 0, travelling_config(config.model_dump(mode="json"))
        if self.is_main:
            seen, records = self.directory.open(config, self.state, self.checkpoint, self.samples_seen)
            self.provenance = provenance_of(self.device, checked.train)
            settings["provenance"] = self.provenance | {"ranks": self.world_size}  # of the last start
            self.directory.note_start(self.state.global_step, settings["provenance"])
            self.training_data = training_data_of(checked.train, config.data.reader == "webdataset")
        barrier()
        self.tracker = Tracker(
            config.tracking,
            self.directory.path,
            config.name,
            settings,
            self.state.wandb_id,
            self.is_main,
            seen,
            records,
        )
        self.state.wandb_id = self.tracker.run_id

        # Data
        windows = {split.set.manifest.options.get("window") for split, _ in checked.train}
        self.window = windows.pop() if len(windows) == 1 else None  # of the values behind the grey levels
        self.loader = TrainLoader(
            checked.train,
            config.data.lr_crop,
            config.data.batch_size,
            config.seed,
            config.data.augment,
            accelerator.process_index,
            self.world_size,
            self.device,
            rows,
            checked.blocks,
            config.gradient_accumulation_steps,
            noise_channels(config.generator),
            self.state.sample_offset,
            config.data.degradation,
            config.data.jitter,
            streamed_crops(config, checked.train[0][0], accelerator.process_index, self.world_size),
        )
        self._record_corrupt([sample for samples in corrupt for sample in samples])
        self.validator = Validator(
            config, checked.eval_splits, self.directory.path, self.tracker, accelerator
        )

    def _choose_threads(self):
        """Set the threads of this rank on CPU, as many as the run has had before; returns a description."""
        data, given = self.config.data, self.config.cpu_threads or self.state.cpu_threads
        crops = data.batch_size // (self.world_size * self.config.gradient_accumulation_steps)
        ndim = self.config.generator.ndim
        crop_shapes = [(crops, 1, *[side] * ndim) for side in (data.lr_crop, self.config.hr_crop)]
        noise = noise_channels(self.config.generator)
        threads, tried = choose_threads(self.accelerator, given, self.networks.generator, *crop_shapes, noise)
        self.state.cpu_threads, self.state.cpu_ranks = threads, self.world_size
        return f"{threads} thread{'s' * (threads > 1)} a rank{tried}"

    def _record_corrupt(self, samples):
        """List the corrupt samples that others replace, and count them in the record, also by cause."""
        if samples and self.is_main:
            path = self.directory.path / "bad_samples.txt"
            with atomic_write(path) as unfinished:
                unfinished.write_text("".join(f"{sample.text}\n" for sample in samples))
            self.log_main(f"{len(samples)} damaged samples are replaced by others, see {path}")
            causes = Counter(f"data/bad_samples/{sample.cause}" for sample in samples)
            self.tracker.log({"data/bad_samples": len(samples), **causes}, self.samples_seen)

    @property
    def samples_seen(self):
        return self.state.samples_seen(self.config.data.batch_size)

    def log_main(self, text):
        """Print a line on rank 0."""
        if self.is_main:
            print_line(text)

    def warn_of_health(self, metrics, print_line, at_end=False):
        """Print warnings where the metrics of a record show that the GAN has been unwell for long, or is at
        the end of a phase.
        """
        for line in self.health.check(metrics, self.state.global_step, at_end):
            print_line(line)

    # Restoring

    def _restore_networks(self):
        """Load every network of the checkpoint that this run still trains."""
        needed = {"generator"} | ({"discriminator"} if self.config.needs_discriminator() else set())
        labels = [label for label in sorted(needed) if holds(self.checkpoint, label)]
        load_checkpoint(self.checkpoint, {label: getattr(self.networks, label) for label in labels})

    def restore_phase(self, objects):
        """Load what the checkpoint has of a phase. State of settings that were off then begins new; state of
        settings that are off now is left out. Raises CheckpointError where another optimiser saved it.
        """
        there, here = (
            "muon" if muon else "adam" for muon in (holds(self.checkpoint, MUON_STATE), MUON_STATE in objects)
        )
        if there != here:
            name = self.state.phase
            raise CheckpointError(
                f"{name}.optimizer.name = {here}: {self.checkpoint} lies within the phase and holds the state"
                f" of {there}; choose {there}, or begin with its weights by {name}.init_weights"
            )
        new = [label for label in objects if label in OPTIONAL_STATE and not holds(self.checkpoint, label)]
        for label in new:
            self.log_main(f"{self.checkpoint.name} holds no {label}, which begins new")
        for label in sorted(OPTIONAL_STATE - objects.keys()):
            if holds(self.checkpoint, label):
                self.log_main(f"{self.checkpoint.name} holds a {label}, which this config leaves out")
        load_checkpoint(self.checkpoint, {label: item for label, item in objects.items() if label not in new})

    # Validating and saving

    def validate(self, splits, describe, print_line, at_end=False):
        """Score the generator on whole splits and print describe(split, scores); returns {split: scores}, the
        means per rock and method. at_end: of the phase.
        """
        self.networks.share_buffers()
        results = self.validator.validate(self.networks.eval_generator, splits)
        for split, (metrics, scores) in results.items():
            self.divergence.check_finite(metrics)
            self.tracker.log(metrics, self.samples_seen)
            print_line(describe(split, scores))
            self.warn_of_health(metrics, print_line, at_end)
            if split == "valid":
                self.psnr_gain = metrics["val/psnr_gain"]
                self.keep_best(metrics, scores)
        if "valid" in results:
            with self.warn_if_unwritable("panels"):
                self.directory.check_held()
                self.validator.draw_panels(self.state.global_step, self.samples_seen)
        return {split: scores for split, (_, scores) in results.items()}

    def keep_best(self, metrics, scores):
        """Note the best validation of a phase by its metric, and export its generator beside the one that the
        phase ends with.
        """
        phase, state = self.state.phase, self.state
        score, best = metrics[f"val/{getattr(self.config, phase).best_by}"], state.best.get(phase)
        if best is None or best.score is None or score > best.score:
            # Weights that cannot be written are not noted as the best
            with self.warn_if_unwritable("best weights"):
                if self.is_main:
                    self.export(self.directory.best_weights(phase), phase, {"valid": scores})
                state.best[phase] = BestValidation(
                    psnr=metrics["val/psnr"],
                    score=score,
                    phase_step=state.phase_step,
                    global_step=state.global_step,
                )

    def export(self, path, phase, scores):
        """Write the generator as a file that can be used on its own."""
        facts = {
            "phase": phase,
            "phase_number": [name for name, _ in self.config.phases()].index(phase),
            "samples_seen": self.samples_seen,
            "scores": scores,
            "initial_weights": self.state.initial_weights,
            "window": self.window,
            "grey_ranges": self.state.grey_ranges,
            "data": self.training_data,
            "provenance": self.provenance,
            "config": self.config.model_dump(mode="json"),
        }
        self.directory.check_held()
        save_generator(path, self.networks.eval_generator, facts)

    def save(self, objects, last=False):
        """Save a checkpoint of all networks and of `objects` (name -> module or optimiser).

        Within a phase the training goes on while it is written, and outlives a disk that is full: the next
        save tries again. last: none follows, so that this one has to be written.
        """
        self.networks.share_buffers()
        required = last or self.state.phase is None
        if self.is_main:
            with self.warn_if_unwritable("checkpoint", required=False):
                self.writer.wait()
            self.state.records = self.tracker.records
            with self.warn_if_unwritable("checkpoint", required):
                self.writer.start(
                    self.directory.checkpoints,
                    f"step-{self.state.global_step:08d}",
                    self.networks.initialized | objects,
                    self.state.model_dump(),
                    self.config.keep_checkpoints,
                    self.state.pinned_steps(),
                    self.provenance,
                    first=self._before_checkpoint,
                )
            if required:
                self.writer.wait()
        if required:
            barrier()
        self.saved_at = time.monotonic()

    def _before_checkpoint(self):
        self.directory.check_held()
        self.tracker.sync()  # so that a checkpoint on the disk has all its records there

    @contextlib.contextmanager
    def warn_if_unwritable(self, what, required=None):
        """Warn of a file that cannot be written, unless it is required: by default at a phase's end."""
        try:
            yield
        except (CheckpointError, OSError) as error:
            if self.state.phase is None if required is None else required:
                raise
            log.warning("update %d: the training goes on without %s: %s", self.state.global_step, what, error)

    # Stopping

    def any_rank(self, step=0):
        """Return, the same on every rank, the highest number of a signal that any was sent (or INTERRUPTED;
        0: none), and whether a checkpoint is due by the clock of rank 0.

        Ranks on GPUs ask each other only every SIGNAL_CHECK_UPDATES steps: there a host runs ahead of its
        GPU.
        """
        if self.world_size > 1 and self.device.type != "cpu" and step % SIGNAL_CHECK_UPDATES:
            return 0, False
        minutes = self.config.checkpoint_minutes
        due = self.is_main and minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        number, due = max_over_ranks([self.signals.number, due])
        return number, bool(due)

    def stop(self, number):
        """End the training, which has been saved: some rank was sent the signal of that number, or
        INTERRUPTED.
        """
        interrupted = number == INTERRUPTED
        by = "its launcher, which died or restarts it," if interrupted else signal.Signals(int(number)).name
        self.log_main(
            f"stopped by {by} after update {self.state.global_step}, which is saved; the same command"
            f" continues from there"
        )
        raise TrainingInterrupted if interrupted else TrainingStopped

    def close(self, exit_code=0):
        """End the records and, unless the training has failed, leave the process group."""
        with self.warn_if_unwritable("checkpoint", required=False):
            self.writer.wait()
        best = {
            f"best/{phase}/{name}": value
            for phase, best in self.state.best.items()
            for name, value in (("psnr", best.psnr), ("score", best.score))
            if value is not None
        }
        self.tracker.finish(best | self.summary, exit_code)
        if exit_code == 1 and self.world_size > 1:
            return  # the others have gone: see runtime/process_group.py
        if exit_code == STOPPED:
            barrier()  # a launcher ends the others when the first rank has gone
        self.accelerator.free_memory()
        self.accelerator.end_training()
