"""Tensors in safetensors files, which hold nothing that could execute code."""

import contextlib

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from srgan_dist.utils.errors import UserError


class CheckpointError(UserError):
    """A checkpoint or weight file that cannot be used; the message names it."""


def tensors_of(item):
    """Name the tensors of a module or an optimiser: {name: tensor}; named ones are returned as they are."""
    if isinstance(item, dict):
        return item
    if isinstance(item, torch.nn.Module):
        return item.state_dict()
    entries = item.state_dict()["state"].items()
    return {f"{number}.{name}": value for number, entry in entries for name, value in entry.items()}


def save_tensors(tensors, path, metadata=None):
    """Write named tensors; metadata: {str: str} for the header."""
    path.touch()
    granted = path.stat().st_mode
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    path.chmod(granted)  # some versions of safetensors let only the owner read, whatever the umask says


@contextlib.contextmanager
def write_failures_named(path):
    """Raise CheckpointError with the way out when `path` cannot be written, e.g. because the disk is full."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be written ({error}). Make room (keep_checkpoints, output) or restore the"
            " right to write there; what was saved before is whole, and the same command continues"
            " from it"
        ) from None
