"""Weights of an earlier training with which a phase begins: fine-tuning.

They are loaded once, when the phase begins. A run that is resumed has them, trained on, in its checkpoints.
"""

from pathlib import Path

import torch

from srgan_dist.config import ConfigError, differences
from srgan_dist.models import build_discriminator, build_generator
from srgan_dist.models.weights_file import generator_file, load_generator, read_facts
from srgan_dist.run.checkpoint import read_state
from srgan_dist.run.run_state import fingerprint_and_step
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of
from srgan_dist.utils.tensor_files import CheckpointError, load_tensors

# Settings that change nothing of trained weights: of initial ones, and of tiles
OF_NO_TRAINED_WEIGHT = {"init_std", "icnr", "tile_overlap"}
NEW_FROM_FILE = {"scale", "noise"}  # settings whose difference makes a part of the generator begin new
EXAMPLE = "runs/NAME/checkpoints/step-00250000/discriminator.safetensors"


def check_initial_weights(config, state):
    """Raise ConfigError unless every phase that has not begun finds the weights it begins with, and every
    other one has begun with some.
    """
    for name, phase in config.phases():
        for setting, network in phase.initial_weights().items():
            if name not in (*state.finished, state.phase):
                _read(config, name, setting, network)
            elif f"{name}.{setting}" not in state.initial_weights:
                raise ConfigError(
                    f"{name}.{setting}={getattr(phase, setting)} would not be used: the checkpoint to"
                    f" start from is past the beginning of {name}, which had none; leave out this setting, or"
                    " --resume"
                )


def begin_with_weights(run, name, phase_config):
    """Load the weights with which a phase begins, and say what they are; `Networks.share_weights` then gives
    every rank those of rank 0.
    """
    for setting, network in phase_config.initial_weights().items():
        tensors, words = _read(run.config, name, setting, network)
        path = getattr(phase_config, setting)
        getattr(run.networks, network).load_state_dict(tensors, strict=False)  # all their names are known
        run.state.initial_weights[f"{name}.{setting}"] = sha256_of(generator_file(path))
        run.log_main(f"{name} begins with the {network} of {path}: {words}")
        if network == "generator":
            window = read_facts(path).get("window")
            if window != run.window:
                run.log_main(
                    f"{name}.{setting}: its training data had window={window}, these have {run.window}; equal"
                    " grey levels mean other values, which this training has to learn again"
                )


def say_not_loaded(run, name, phase_config):
    """Say of a phase that goes on from a checkpoint that it does not begin with the weights of a file."""
    for setting in phase_config.initial_weights():
        run.log_main(f"{name}.{setting} is not loaded again: the checkpoint holds what became of it")


def _read(config, name, setting, network):
    """Return ({name: tensor}, in words which weights these are) of the file that a setting names."""
    path = getattr(getattr(config, name), setting)
    try:
        return {"generator": _read_generator, "discriminator": _read_discriminator}[network](path, config)
    except UserError as error:
        raise ConfigError(f"{name}.{setting}: {error}") from None


# Generator


def _read_generator(path, config):
    """Return the weights that the generator of a config takes from a file: all; of another scale those of the
    trunk; of another number of channels of noise all but those that make texture.
    """
    trained, facts = load_generator(path)
    changed = _changed(trained.config, config.generator)
    if wrong := [line for line in changed if line.partition(":")[0] not in NEW_FROM_FILE]:
        raise CheckpointError(
            f"{path} holds another network than this config ({'; '.join(wrong)}); restore these settings of"
            " generator, or take weights of such a one"
        )
    with torch.device("meta"):
        known = build_generator(config.generator).state_dict()
    tensors, words = trained.state_dict(), "all of its weights"
    if trained.config.scale != config.generator.scale:
        trunk = getattr(trained, "TRUNK", ())
        if not trunk:
            raise CheckpointError(
                f"{path} is for scale={trained.config.scale}, this config has"
                f" generator.scale={config.generator.scale}, and {type(trained).__name__} has no TRUNK that"
                " fits both; take weights of this scale"
            )
        tensors = _of_modules(tensors, trunk)
        words = (
            f"its trunk ({', '.join(trunk)}; {len(tensors)} of {len(known)} tensors); the upsampling begins"
            f" new, for scale {trained.config.scale} there is {config.generator.scale} here"
        )
    elif changed:
        tensors = {key: value for key, value in tensors.items() if not key.startswith("texture.")}
        words = (
            "all but what makes texture of noise, which begins new"
            if config.generator.noise
            else "all but what makes texture of noise, which this config leaves out"
        )
    phase, samples = facts.get("phase"), facts.get("samples_seen")
    if phase is not None and isinstance(samples, int):
        words += f" (of phase {phase}, after {samples:,} crops)"
    return tensors, words


def _of_modules(tensors, modules):
    return {key: value for key, value in tensors.items() if key.partition(".")[0] in modules}


def _changed(saved, asked):
    """Return "setting: value -> value" of two networks' settings, as far as trained weights depend on it."""
    return [line for line in differences(saved, asked) if line.partition(":")[0] not in OF_NO_TRAINED_WEIGHT]


# Discriminator


def _read_discriminator(path, config):
    """Return the weights of the discriminator in a checkpoint, of the settings and for the HR crops of a
    config.
    """
    path = Path(path)
    if path.name != "discriminator.safetensors" or not (path.parent / "manifest.json").is_file():
        raise CheckpointError(f"{path} is not the discriminator.safetensors of a checkpoint, e.g. {EXAMPLE}")
    content = read_state(path.parent)
    try:
        fingerprint, updates = fingerprint_and_step(content)
        saved = fingerprint["discriminator"]
        crop = fingerprint["data.lr_crop"] * fingerprint["generator"]["scale"]
        tensors = load_tensors(path)
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__} {error}") from None
    asked = config.discriminator.model_dump(mode="json", exclude={"sync_batchnorm"})
    changed = [
        f"{key}: {saved.get(key, 'absent')} -> {asked.get(key, 'absent')}"
        for key in dict.fromkeys([*saved, *asked])
        if saved.get(key, "absent") != asked.get(key, "absent") and key not in OF_NO_TRAINED_WEIGHT
    ]
    with torch.device("meta"):
        network = build_discriminator(config.discriminator, config.hr_crop, config.generator.ndim)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if not changed and found != shapes:
        wrong = next(key for key in {**shapes, **found} if found.get(key) != shapes.get(key))
        changed = [
            f"HR crops of {crop} -> {config.hr_crop} pixels, {wrong}:"
            f" {found.get(wrong, 'absent')} -> {shapes.get(wrong, 'absent')}"
        ]
    if changed:
        raise CheckpointError(
            f"{path} holds another network than this config ({'; '.join(changed)}); restore these settings,"
            " or take the discriminator of such a run"
        )
    if wrong := [key for key, value in tensors.items() if not value.isfinite().all()]:
        raise CheckpointError(f"{path} holds NaN or infinite weights in {wrong[0]}; take another checkpoint")
    return tensors, f"all of its weights, after {updates:,} updates"
