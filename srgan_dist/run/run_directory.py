"""The directory of a run: its files, one training at a time, and its records put in order before a training
goes on.
"""

import contextlib
import json
import os
import platform
from pathlib import Path

from srgan_dist.config import dump_config
from srgan_dist.models.weights_file import load_generator, save_generator
from srgan_dist.run.checkpoint import remove_unfinished, set_aside_later
from srgan_dist.tracking.tracker import X_AXIS
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write, open_regular, read_regular, unwritable_refused, write_json
from srgan_dist.utils.json_text import load_json
from srgan_dist.utils.locks import file_lock, has_path


class RunDirectory:
    """Where the files of a run are; only rank 0 writes there."""

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoints, self.metrics = self.path / "checkpoints", self.path / "metrics.jsonl"
        self.starts = self.path / "run.json"
        self.held = None  # the descriptor of the lock

    def weights(self, phase):
        """Return the file of the generator that a phase ends with."""
        return self.path / "weights" / f"{phase}.safetensors"

    def best_weights(self, phase):
        """Return the file of the generator of a phase's best validation."""
        return self.path / "weights" / "best" / f"{phase}.safetensors"

    @contextlib.contextmanager
    def lock(self, is_main):
        """Keep other trainings out of the directory, which is made if need be."""
        if not is_main:
            yield
            return
        lock = self.path / ".lock"
        with contextlib.ExitStack() as stack:
            with self.write_failures_named():
                self.path.mkdir(parents=True, exist_ok=True)
                holder = "another process"
                if os.path.lexists(lock):
                    holder = read_regular(lock).decode(errors="replace")
                message = (
                    f"{self.path} is being trained by {holder}; wait for its end, end it, or choose another"
                    " name"
                )
                self.held = stack.enter_context(file_lock(lock, message))
                os.truncate(self.held, 0)
                os.pwrite(self.held, f"process {os.getpid()} on {platform.node()}".encode(), 0)
            yield

    def check_held(self):
        """Raise UserError unless the directory is still the one that `lock` holds."""
        if self.held is not None and not has_path(self.held, self.path / ".lock"):
            raise UserError(
                f"{self.path} was removed, moved or replaced while it was being trained, so nothing more is"
                " written. The same command continues once that directory is back, else it starts a new run"
            )

    def open(self, config, state, checkpoint, samples_seen):
        """Prepare the directory for a training that starts from `state`.

        checkpoint: that it starts from, None: nothing. samples_seen: up to which its records are kept.
        Returns the samples seen at the last record before that, None where there was none, and the number of
        records that are kept.
        """
        with self.write_failures_named():
            self.checkpoints.mkdir(exist_ok=True)
            remove_unfinished(self.checkpoints)  # a run that has ended saves no more
            # At once: among the newest that are kept they would take the place of whole ones
            set_aside_later(self.checkpoints, state.global_step)
            for folder in (".", "samples", "weights", "weights/best"):
                for leftover in (self.path / folder).glob(".*.unfinished"):  # of a process that was killed
                    leftover.unlink()
            with atomic_write(self.path / "config.yaml") as path:
                path.write_text(dump_config(config))
            self._copy_finished_weights(state, checkpoint)
            own = checkpoint is not None and checkpoint.parent == self.checkpoints
            return truncate_records(self.metrics, samples_seen, state.records if own else 0)

    def note_start(self, global_step, provenance):
        """Note in run.json by what the updates from `global_step` on are made; starts at that update or
        later, whose updates are repeated, are dropped.
        """
        starts = []
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
            noted = load_json(read_regular(self.starts))["starts"]
            starts = [start for start in noted if start["global_step"] < global_step]
        with self.write_failures_named():
            write_json(self.starts, {"starts": [*starts, {"global_step": global_step} | provenance]})

    def _copy_finished_weights(self, state, checkpoint):
        """Copy the generators of finished phases from the run whose checkpoint this one starts from."""
        for phase in state.phase_ends:
            for target in (self.weights(phase), self.best_weights(phase)):
                source = checkpoint.parent.parent / target.relative_to(self.path)
                if not target.exists() and source.exists():
                    save_generator(target, *load_generator(source))  # no manifest has its sha256

    def write_failures_named(self):
        """Raise UserError that names the setting when the system refuses to write in the directory."""
        return unwritable_refused(f"output={self.path.parent}: {self.path}")


def truncate_records(path, samples_seen, count):
    """Drop the records that a resumed run is about to repeat, and a line that was cut off by a crash.

    samples_seen, count: of the checkpoint; the end of a phase has records after the last update. A count of
    None is not known.
    Returns the samples seen at the last record before that, None where there was none, and how many are left.
    """
    if not path.exists():
        return None, 0
    kept, last = [], None
    with open_regular(path) as file:
        lines = file.read().decode(errors="replace").splitlines()
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            seen = json.loads(line)[X_AXIS]
            if seen <= samples_seen and (count is None or len(kept) < count):
                kept.append(line + "\n")
            last = seen
    with atomic_write(path, durable=True) as unfinished:
        unfinished.write_text("".join(kept))
    return last, len(kept)
