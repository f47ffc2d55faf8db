"""Tensors in safetensors files, which hold nothing that could execute code."""

import contextlib
import re

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import open_regular, unwritable_refused


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


def read_header(path):
    """Return ({name: shape} of the tensors, the metadata) of a safetensors file, without their values."""
    with _as_safetensors(path), open_regular(path), safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, file.metadata() or {}


def load_tensors(path):
    """Return {name: tensor} of a safetensors file; raises CheckpointError for what is none.

    It is read, not mapped: that it is cut meanwhile is an error then, and not the end of the process.
    """
    with _as_safetensors(path), open_regular(path) as file:
        return load(file.read())


@contextlib.contextmanager
def _as_safetensors(path):
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    except MemoryError:
        raise CheckpointError(f"{path} does not fit into memory") from None


@contextlib.contextmanager
def write_failures_named(path):
    """Raise CheckpointError with the way out when `path` cannot be written, e.g. because the disk is full."""
    more = "What was saved before is whole, and the same command continues from it (keep_checkpoints, output)"
    with unwritable_refused(path, lambda: more, CheckpointError):
        try:
            yield
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(number and int(number[1]), str(error)) from None
