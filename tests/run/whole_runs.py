"""Runs with a checkpoint at every update, copies as a dead process left them, and their contents."""

import contextlib
import hashlib
import json
import os
import shutil

import pytest
from conftest import tiny_config
from distributed_worker import digest

from srgan_dist.losses.covariance import CovarianceLossConfig
from srgan_dist.losses.stationarity import StationarityLossConfig
from srgan_dist.models.weights_file import load_generator
from srgan_dist.optim.muon import MuonConfig
from srgan_dist.phases.schedule import Cosine
from srgan_dist.run.checkpoint import list_checkpoints
from srgan_dist.training import train

EVERYTHING = {
    f"{network}{part}" for network in ("generator", "discriminator") for part in ("", "_optimizer", "_usual")
}


PHASE_1, PHASE_2 = 9, 6  # updates; an epoch of 7 images in batches of 4 ends after update 7 and 14


def config_of(shards, output, ndim=2, **changes):
    """A config whose run leaves a checkpoint at every update; with noise, and Muon in phase 1."""
    config = tiny_config(
        shards,
        output,
        ndim,
        checkpoint_every=1,
        keep_checkpoints=99,
        log_every=2,
        validate_every=3,
        num_sample_images=0,
    )
    phases = {
        name: getattr(config, name).model_copy(
            update={"steps": steps, "lr_schedule": Cosine(name="cosine"), "max_spike": 50.0}
        )
        for name, steps in (("pretrain", PHASE_1), ("adversarial", PHASE_2))
    }
    losses = {
        "stationarity": StationarityLossConfig(name="stationarity"),
        "covariance": CovarianceLossConfig(name="covariance", block=8),
    }
    phases["pretrain"] = phases["pretrain"].model_copy(update={"optimizer": MuonConfig(name="muon")})
    adversarial = phases["adversarial"]
    phases["adversarial"] = adversarial.model_copy(update={"losses": adversarial.losses | losses})
    generator = config.generator.model_copy(update={"noise": 2})
    return config.model_copy(update={"name": "run", "generator": generator, **phases} | changes)


@contextlib.contextmanager
def on_cpu_and_quick():
    """Train on CPU and without fsync, which only a loss of power would show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def train_undisturbed(shards, output, ndim=2):
    """Train without a disturbance; returns the run directory."""
    with on_cpu_and_quick():
        train(config_of(shards, output, ndim))
    return output / "run"


def stopped(whole, output, update):
    """Copy a run as a process that died after `update` left it; records may be ahead of the checkpoint."""
    run = shutil.copytree(whole, output / "run")
    for path in list_checkpoints(run / "checkpoints"):
        if int(path.name.removeprefix("step-")) > update:
            shutil.rmtree(path)
    for phase, end in (("pretrain", PHASE_1), ("adversarial", PHASE_1 + PHASE_2)):
        if update < end:
            shutil.rmtree(run / "weights" / "best" / f"{phase}.safetensors", ignore_errors=True)
            (run / "weights" / f"{phase}.safetensors").unlink()
    return run


def contents(run):
    """Return all that has to be equal: files of every checkpoint by sha256, states, weights, records."""
    checkpoints = {
        path.name: json.loads((path / "manifest.json").read_text())["files"]
        for path in list_checkpoints(run / "checkpoints")
    }
    states = {
        path.name: json.loads((path / "state.json").read_text())
        for path in list_checkpoints(run / "checkpoints")
    }
    for name, state in states.items():
        del checkpoints[name]["state.json"], state["phase_seconds"]
    return {
        "checkpoints": checkpoints,
        "states": states,
        "records": records(run),
        "weights": {
            path.relative_to(run): weights_of(path) for path in (run / "weights").rglob("*.safetensors")
        },
    }


def weights_of(path):
    generator, facts = load_generator(path)
    return digest(generator), facts["phase"], facts["phase_number"], facts["samples_seen"], facts["scores"]


def records(run):
    """Return what was logged, without times and speeds."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in line.items() if name != "time" and not name.startswith("speed/")}
        for line in lines
    ]


def edit_state(checkpoint, change):
    """Change the state of a checkpoint and its sha256 with it."""
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(state | change))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    data = (checkpoint / "state.json").read_bytes()
    manifest["files"]["state.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
