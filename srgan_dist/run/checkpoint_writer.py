"""Checkpoints in the background: the training waits while tensors are copied, not while they are written."""

import threading
from functools import partial

import torch

from srgan_dist.run.checkpoint import save_checkpoint
from srgan_dist.utils.memory import memory_named
from srgan_dist.utils.tensor_files import CheckpointError, tensors_of


class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time.

    On a GPU the tensors are copied into pinned memory in the stream of the training, which goes on meanwhile;
    the thread waits for them. As `checkpoint.py` promises, one that is cut off by a kill is never found.
    """

    def __init__(self, device):
        self.device, self.pinned = device, {}
        self.thread, self.error = None, None

    def start(self, directory, name, objects, state, keep, pinned_steps, provenance, first):
        """Begin to `save_checkpoint`, after `wait`ing for the one before.

        first: function that the thread calls before it writes.
        """
        assert not self.thread, "one at a time"
        too_large = partial(_too_large, directory / name)
        with memory_named(too_large):
            tensors = {label: self._copied(label, item) for label, item in objects.items()}
        copied = torch.cuda.current_stream().record_event() if self.device.type == "cuda" else None

        def write():
            try:
                if copied:
                    copied.synchronize()
                first()
                with memory_named(too_large):
                    save_checkpoint(directory, name, tensors, state, keep, pinned_steps, provenance)
            except Exception as error:
                self.error = error

        self.thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self.thread.start()

    def wait(self):
        """Wait until the last checkpoint is written; raises its error, as a rule CheckpointError."""
        if self.thread:
            self.thread.join()
            self.thread = None
        self.check()

    def is_writing(self):
        """Return whether a checkpoint is being written."""
        return self.thread is not None and self.thread.is_alive()

    def check(self):
        """Raise, once, the error of a checkpoint that could not be written."""
        error, self.error = self.error, None
        if error:
            raise error

    def _copied(self, label, item):
        """Return host copies of the tensors of a module or an optimiser; from a GPU they arrive later."""
        copies = {}
        for name, tensor in tensors_of(item).items():
            if tensor.device.type == "cuda":
                key = label, name, tensor.shape, tensor.dtype
                if key not in self.pinned:
                    self.pinned[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                copies[name] = self.pinned[key].copy_(tensor, non_blocking=True)
            else:
                copies[name] = tensor.clone(memory_format=torch.contiguous_format)
        return copies


def _too_large(path, error):
    """Return the error of a checkpoint that is missed, as on a full disk: the next save tries again."""
    return CheckpointError(f"{path} is not written: its tensors do not fit into memory once more")
