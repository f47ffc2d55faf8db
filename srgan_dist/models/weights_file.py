"""Generator weights as files that can be used on their own: the header rebuilds the network."""

import json
from pathlib import Path

import torch
from pydantic import TypeAdapter

from srgan_dist.models import GeneratorConfig, build_generator
from srgan_dist.models.layers import CHANNELS_LAST
from srgan_dist.models.self_ensemble import SelfEnsemble
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write
from srgan_dist.utils.json_text import load_json
from srgan_dist.utils.memory import memory_named, raise_out_of_memory
from srgan_dist.utils.tensor_files import (
    CheckpointError,
    load_tensors,
    read_header,
    save_tensors,
    tensors_of,
    write_failures_named,
)
from srgan_dist.weights import FOLDER as INCLUDED

MODEL = "model.safetensors"  # in a folder that was exported
LARGEST_OUTPUT = 1e6  # of images in [-1, 1], with any overshoot


def save_generator(path, generator, facts):
    """Write generator weights with their settings in the header; facts: further JSON, e.g. phase, steps,
    scores.

    Raises CheckpointError where the file cannot be written; one that has the name already is left as it is.
    """
    path = Path(path)
    metadata = {
        "format": "srgan_dist generator",
        "generator": generator.config.model_dump_json(),
        "facts": json.dumps(facts),
    }
    with write_failures_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=True) as unfinished:
            save_tensors(tensors_of(generator), unfinished, metadata)


def load_generator(path, device="cpu", self_ensemble=False):
    """Rebuild a generator from the weights file that a path means (`generator_file`): (generator in eval
    mode, facts). self_ensemble: as a SelfEnsemble.
    """
    path = generator_file(path)
    with memory_named(lambda error: CheckpointError(f"{path} does not fit into the memory of {device}")):
        return _load(path, device, self_ensemble)


def _load(path, device, self_ensemble):
    shapes, metadata = _generator_header(path)
    facts = _facts_of(path, metadata)
    try:
        config = TypeAdapter(GeneratorConfig).validate_json(metadata["generator"])
        _check_shapes(config, shapes)
        generator, weights = build_generator(config), load_tensors(path)
        for name, expected in generator.state_dict().items():
            if weights[name].dtype != expected.dtype:
                raise ValueError(f"{name} is {weights[name].dtype} there, {expected.dtype} in the network")
        generator.load_state_dict(weights)
    except CheckpointError:
        raise
    except (KeyError, ValueError, RuntimeError) as error:
        raise_out_of_memory(error, path)
        raise CheckpointError(
            f"{path} does not hold the weights that its header describes: {' '.join(str(error).split())}"
        ) from None
    for name, weight in generator.state_dict().items():
        if not weight.isfinite().all():
            raise CheckpointError(
                f"{path} holds NaN or infinite weights in {name}: its training diverged or the file is"
                " damaged; use the weights of another phase or run"
            )
    _check_device(device)
    generator = generator.to(device, memory_format=CHANNELS_LAST[generator.config.ndim]).eval()
    network = SelfEnsemble(generator) if self_ensemble else generator
    network.weights_file = str(path)  # for messages
    return network, facts


def check_output(output, generator):
    """Raise UserError unless the output of a generator is finite and of the size of an image in [-1, 1]: as
    grey levels anything would look like one.
    """
    largest = max(value.abs().item() for value in output.aminmax())
    if not largest <= LARGEST_OUTPUT:  # also of NaN
        name = getattr(generator, "weights_file", "the generator")
        raise UserError(
            f"{name} gives {largest:g} where images are -1 to 1: its training diverged or the file is"
            " damaged; use the weights of another phase or run"
        )


def read_facts(path):
    """Return the facts in the header of the weights file that a path means, without its weights."""
    path = generator_file(path)
    return _facts_of(path, _generator_header(path)[1])


def generator_file(path):
    """Return the weights file that a path means: itself, that of a folder that `save_folder` wrote, or, where
    nothing has this path, that of the weights of this name that come with the package.
    """
    path = Path(path)
    if not path.exists() and path.name == str(path) and (INCLUDED / path / MODEL).is_file():
        return INCLUDED / path / MODEL
    return path / MODEL if (path / MODEL).is_file() else path


def find_weights(run):
    """Return the weights files of the phases that a run has finished, those of a folder of weights, e.g.
    RUN/weights/best, or the one that a path means (`generator_file`).
    """
    if (file := generator_file(run)).is_file():
        return [file]
    run = Path(run)
    return sorted((run / "weights").glob("*.safetensors")) or sorted(run.glob("*.safetensors"))


def _check_shapes(config, found):
    """Raise ValueError unless shapes are those of a network; a wrong header may describe one too large for
    the memory.
    """
    with torch.device("meta"):
        expected = {
            name: tuple(weight.shape) for name, weight in build_generator(config).state_dict().items()
        }
    for name in {**expected, **found}:
        one, other = found.get(name, "absent"), expected.get(name, "absent")
        if one != other:
            raise ValueError(f"{name} is {one} in the file, {other} in the network")


def _generator_header(path):
    if not Path(path).is_file():
        raise CheckpointError(
            f"{path} is not a file; give the .safetensors of a generator, e.g."
            f" runs/NAME/weights/adversarial.safetensors, or an exported folder with {MODEL}"
        )
    shapes, metadata = read_header(path)
    if metadata.get("format") != "srgan_dist generator":
        raise CheckpointError(
            f"{path} holds no settings of a generator in its header; it was not written by srgan_dist"
        )
    return shapes, metadata


def _facts_of(path, metadata):
    try:
        facts = load_json(metadata.get("facts", ""))
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise CheckpointError(
            f"{path} holds facts={metadata.get('facts')!r:.80} in its header where a JSON object belongs;"
            " it was changed after srgan_dist wrote it, take the original"
        )
    return facts


def _check_device(device):
    """Raise UserError where no tensor can be made on a device and brought back."""
    try:
        torch.zeros(1, device=device).cpu()
    except (AssertionError, RuntimeError, ImportError) as error:
        raise_out_of_memory(error, "a tensor")
        words = f"{str(error).splitlines()[0]:.160}"  # torch lists all its backends
        raise UserError(
            f"--device {device} cannot be used on this machine ({words}); use cpu, or cuda where there is"
            " an NVIDIA GPU with its driver"
        ) from None
