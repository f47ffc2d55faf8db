"""Checkpoints: the state of a training, which appears whole or not at all.

A checkpoint is a directory of safetensors and JSON, nothing that could execute code. It is written under a
temporary name; its manifest with the sha256 of every file comes last, then the directory gets its name. One
that is replaced at the same update is found as step-N.old until the new one has its name.
"""

import contextlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

import torch

from srgan_dist.optim.muon import Muon
from srgan_dist.utils.files import read_regular, sha256_of, sync
from srgan_dist.utils.json_text import load_json
from srgan_dist.utils.memory import raise_out_of_memory
from srgan_dist.utils.tensor_files import (
    CheckpointError,
    load_tensors,
    save_tensors,
    tensors_of,
    write_failures_named,
)

log = logging.getLogger(__name__)

VERSION = 1
STATE_BYTES = 2**28  # the largest state that is read


def save_checkpoint(directory, name, objects, state, keep, pinned_steps=(), provenance=None):
    """Write directory/name from `objects` (name -> module, optimiser or their named tensors) and `state`
    (JSON), whole or not at all; provenance: JSON for its manifest, which no program needs.

    Afterwards it and the newest before it are left, `keep` in all, and those of the global steps in
    `pinned_steps`. Later ones get a name that ends in .damaged. Raises CheckpointError where it cannot be
    written; the others are left as they are.
    """
    directory = Path(directory)
    final, unfinished, replaced = (
        directory / name,
        directory / f"{name}.unfinished",
        directory / f"{name}.old",
    )
    with write_failures_named(final):
        directory.mkdir(parents=True, exist_ok=True)
        _tidy(directory)
        try:
            _write(unfinished, objects, state, provenance)
            if os.path.lexists(final):  # saved twice at one update
                os.replace(final, replaced)
            os.replace(unfinished, final)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)  # it may be what fills the disk
            raise
        sync(directory)
    try:
        if os.path.lexists(replaced):
            _remove(replaced)
        _prune(final, keep, pinned_steps)
    except OSError as error:
        log.warning("an older checkpoint stays: %s", error)
    return final


def remove_unfinished(directory):
    """Remove what a process left that was killed while it wrote or removed a checkpoint."""
    for leftover in directory.glob("*.unfinished"):
        with contextlib.suppress(OSError):  # e.g. of another user
            _delete(leftover)


def _tidy(directory):
    """Clean up after a process that was killed while it saved."""
    remove_unfinished(directory)
    for replaced in directory.glob("step-*.old"):
        final = replaced.with_suffix("")
        with contextlib.suppress(OSError):
            if _is_whole(final):
                _remove(replaced)
            else:
                if os.path.lexists(final):
                    _set_aside(final)
                os.replace(replaced, final)


def _write(folder, objects, state, provenance):
    """Write all files of a checkpoint to the disk, the manifest last."""
    folder.mkdir()
    for label, item in objects.items():
        save_tensors(tensors_of(item), folder / f"{label}.safetensors")
    (folder / "state.json").write_text(json.dumps(state, indent=1))
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
    }
    for name in files:
        sync(folder / name)
    manifest = {"version": VERSION, "provenance": provenance, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    sync(folder / "manifest.json")
    sync(folder)


def set_aside_later(directory, global_step):
    """Give the checkpoints after a step, from which no run continued as they are damaged, such a name."""
    for path in list_checkpoints(directory):
        if _updates(path) > global_step:
            _set_aside(path)


def _prune(newest, keep, pinned_steps):
    set_aside_later(newest.parent, _updates(newest))
    others = [path for path in list_checkpoints(newest.parent) if path != newest]
    older = [path for path in others if _updates(path) < _updates(newest)]
    for path in older[keep - 1 :]:
        if _updates(path) not in pinned_steps:
            _remove(path)


def _remove(path):
    """Remove a checkpoint so that half of it is never taken for one."""
    leaving = path.with_name(f"{path.name}.leaving.unfinished")
    os.replace(path, leaving)
    _delete(leaving)


def _delete(path):
    """Delete a folder with all that is in it, or a link to one without that."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def list_checkpoints(directory):
    """Return the checkpoint directories below `directory`, newest first."""
    paths = [
        p
        for p in Path(directory).glob("step-*")
        if p.is_dir() and re.fullmatch(r"step-[0-9]+(\.old)?", p.name)
    ]
    return sorted(paths, key=lambda path: (_updates(path), path.suffix != ".old"), reverse=True)


def _updates(path):
    return int(path.name.removeprefix("step-").removesuffix(".old"))


def _set_aside(path):
    target = path.with_name(f"{path.name}.damaged")
    if os.path.lexists(target):
        _delete(target)
    os.replace(path, target)


def newest_checkpoint(directory):
    """Return (path, state) of the newest checkpoint that is whole, or None where there is none at all.

    A checkpoint that is skipped is logged as a warning; raises CheckpointError when none of several is whole.
    """
    faults = []
    for path in list_checkpoints(directory):
        try:
            state = read_state(path)
        except CheckpointError as error:
            log.warning("skipped a checkpoint: %s", error)
            faults.append(str(error))
        else:
            return path, state
    if faults:
        raise CheckpointError(
            f"{directory} holds no checkpoint that is whole ({'; '.join(faults)}). Copy one back, or"
            " delete that folder to start the run from nothing"
        )
    return None


def read_state(path):
    """Verify every file of a checkpoint and return its JSON state."""
    path = Path(path)
    try:
        manifest = load_json(read_regular(path / "manifest.json"))
        if manifest["version"] != VERSION:
            raise CheckpointError(f"{path} has version {manifest['version']}, this program reads {VERSION}")
        if "state.json" not in manifest["files"]:
            raise CheckpointError(f"{path / 'manifest.json'} does not list state.json")
        for name, entry in manifest["files"].items():
            if Path(name).name != name:
                raise CheckpointError(f"{path / 'manifest.json'} names {name!r}, which is no file of it")
            if (path / name).stat().st_size != entry["bytes"] or sha256_of(path / name) != entry["sha256"]:
                raise CheckpointError(f"{path / name} is not what was saved (size or sha256 differs)")
        return load_json(read_regular(path / "state.json", STATE_BYTES))
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint: {error}") from None


def _is_whole(path):
    try:
        read_state(path)
        return True
    except CheckpointError:
        return False


def holds(path, label):
    """Return whether a verified checkpoint was saved with an object of this name."""
    return (Path(path) / f"{label}.safetensors").exists()


def load_checkpoint(path, objects):
    """Put the tensors of a verified checkpoint into `objects` (name -> module or optimiser).

    An optimiser keeps its own settings: they are those of the config, and the schedule sets its learning
    rate.
    """
    for label, item in objects.items():
        try:
            tensors = load_tensors(Path(path) / f"{label}.safetensors")
            if isinstance(item, torch.nn.Module):
                item.load_state_dict(tensors)
            else:
                _restore_optimizer(item, tensors)
        except (RuntimeError, ValueError) as error:
            raise_out_of_memory(error, Path(path) / f"{label}.safetensors")
            raise CheckpointError(
                f"{path} does not fit this config: its {label} cannot be restored ({error})"
            ) from None


def _restore_optimizer(optimizer, tensors):
    """Restore step and moments of every parameter, in the parameter's memory format: fused Adam pairs
    elements by address, without a check.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = ("momentum",) if isinstance(optimizer, Muon) else ("step", "exp_avg", "exp_avg_sq")
    shapes = {
        f"{number}.{name}": () if name == "step" else tuple(parameter.shape)
        for number, parameter in enumerate(parameters)
        for name in names
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes:
        wrong = sorted(name for name in {*found, *shapes} if found.get(name) != shapes.get(name))
        raise ValueError(
            f"{wrong[0]} is {found.get(wrong[0], 'absent')} there, {shapes.get(wrong[0], 'not known')} here"
        )
    state = {}
    for label, tensor in tensors.items():
        number, name = label.split(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entry in optimizer.state.items():
        for name in {*names} - {"step"}:
            entry[name] = torch.empty_like(parameter).copy_(entry[name])
