"""Files that somebody else has prepared: none of those that are loaded can execute anything."""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from conftest import full_disk, tiny_config
from test_checkpoint import save

from srgan_dist.config import load_config
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.losses.perceptual import VGGLossConfig, vgg19_features
from srgan_dist.models.weights_file import load_generator
from srgan_dist.run import run_directory
from srgan_dist.run.checkpoint import newest_checkpoint, read_state
from srgan_dist.run.preflight import preflight
from srgan_dist.run.run_directory import RunDirectory, truncate_records
from srgan_dist.run.run_state import RunState
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.locks import file_lock
from srgan_dist.utils.tensor_files import CheckpointError


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def done(tmp_path):
    """What a encoding would make."""
    return tmp_path / "executed"


@pytest.fixture
def encoding(done):
    return pickle.dumps({"state": Payload(done)})


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    # Makes torch.load execute code unless weights_only is given
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


def test_the_payload_executes_where_it_is_let(encoding, done, tmp_path):
    pickle.loads(encoding)
    assert done.exists()
    done.rmdir()
    torch.save({"features.0.weight": Payload(done)}, tmp_path / "vgg.pth")
    with pytest.warns(UserWarning, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        torch.load(tmp_path / "vgg.pth")
    assert done.exists()


@pytest.mark.parametrize("file", ["generator.safetensors", "state.json", "manifest.json"])
def test_a_checkpoint_executes_nothing(shards, tmp_path, encoding, done, file):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=4)
    train(config)
    shutil.rmtree(tmp_path / "tiny" / "checkpoints" / "step-00000006")
    checkpoint = tmp_path / "tiny" / "checkpoints" / "step-00000004"
    (checkpoint / file).write_bytes(encoding)
    if file != "manifest.json":  # its maker knows about the checksums
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        manifest["files"][file] = {"bytes": len(encoding), "sha256": hashlib.sha256(encoding).hexdigest()}
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="step-00000004"):
        train(config)
    assert not done.exists()


def vgg(path):
    return vgg19_features(
        VGGLossConfig(name="vgg19", weights=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    )


def pickled(path, encoding, done):
    path.write_bytes(encoding)


def torch_file(path, encoding, done):
    torch.save({"features.0.weight": Payload(done)}, path)


def old_torch_file(path, encoding, done):
    torch.save({"features.0.weight": Payload(done)}, path, _use_new_zipfile_serialization=False)


def yaml_call(path, encoding, done):
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{done}']\n")


def yaml_module(path, encoding, done):
    path.write_text(f"name: !!python/object/new:os.mkdir ['{done}']\n")


def yaml_argument(path, encoding, done):
    path.write_text("name: tiny\n")
    return [f"name=!!python/object/apply:os.mkdir ['{done}']"]


LOADERS = {  # what is loaded: (how it is made, what loads it, the words of the error)
    "generator weights": (pickled, load_generator, "is not a safetensors file"),
    "VGG weights, a pickle": (pickled, vgg, "does not hold the weights of torchvision's vgg19"),
    "VGG weights, a file of torch": (torch_file, vgg, "does not hold the weights of torchvision's vgg19"),
    "VGG weights, an old file of torch": (
        old_torch_file,
        vgg,
        "does not hold the weights of torchvision's vgg19",
    ),
    "config, a call": (yaml_call, load_config, "cannot be read"),
    "config, a new object": (yaml_module, load_config, "cannot be read"),
    "config, an argument": (yaml_argument, load_config, "is not YAML"),
    "config, a pickle": (pickled, load_config, "cannot be read"),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_executes_nothing(tmp_path, encoding, done, kind):
    make, load, words = LOADERS[kind]
    path = tmp_path / "file"
    more = make(path, encoding, done)
    with pytest.raises(UserError, match=words):
        load(path, *filter(None, [more]))
    assert not done.exists()


def pickled_index(folder, encoding, done):
    np.save(folder / "train.index.npy", np.array([Payload(done)], object), allow_pickle=True)


def pickled_shard(folder, encoding, done):
    shard = folder / "train-000000.tar"
    shard.write_bytes(encoding + shard.read_bytes()[len(encoding) :])


def pickled_manifest(folder, encoding, done):
    (folder / "manifest.json").write_bytes(encoding)


@pytest.mark.parametrize("damage", [pickled_index, pickled_shard, pickled_manifest])
def test_a_set_executes_nothing(shards, tmp_path, encoding, done, damage):
    folder = shutil.copytree(shards, tmp_path / "set")
    damage(folder, encoding, done)
    config = tiny_config(
        folder, tmp_path, data={"path": str(folder), "lr_crop": 8, "batch_size": 4, "verify": "none"}
    )
    try:
        preflight(config)
        split = open_split(folder, "train")
        for i in range(len(split)):
            Reader(split).image(i)
    except UserError:
        pass  # said, or pixels that are only pixels
    assert not done.exists()


def test_the_record_of_a_run_executes_nothing(shards, tmp_path, encoding, done):
    run = tmp_path / "tiny"
    run.mkdir()
    (run / "metrics.jsonl").write_bytes(encoding + b"\n" + encoding)
    train(tiny_config(shards, tmp_path, adversarial=None))
    assert not done.exists() and newest_checkpoint(run / "checkpoints")[1]["global_step"] == 6


@pytest.mark.parametrize("name", ["../outside", "/dev/zero", "a/b"])
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path, name):
    save(tmp_path)
    manifest = tmp_path / "step-00000003" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = {"bytes": 0, "sha256": ""}
    manifest.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"manifest.json names '{name}', which is no file of it"):
        read_state(tmp_path / "step-00000003")


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "network.safetensors"])
@pytest.mark.parametrize("make", [os.mkfifo, partial(os.symlink, "/dev/zero")])
def test_what_is_no_file_of_a_checkpoint_is_refused_before_it_is_read(tmp_path, name, make):
    save(tmp_path)
    folder = tmp_path / "step-00000003"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / name).unlink()
    make(folder / name)
    if name != "manifest.json":
        manifest["files"][name]["bytes"] = 0  # as the system says of both
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"{name} is no regular file"):
        read_state(folder)


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock"])
@pytest.mark.parametrize("make", [os.mkfifo, partial(os.symlink, "/dev/zero")])
def test_what_is_no_file_of_a_run_is_named_before_it_is_read(tmp_path, name, make):
    make(tmp_path / name)
    run = RunDirectory(tmp_path)
    with pytest.raises(UserError, match=f"{name} (is no regular file|is a link|has more than)"):
        if name == ".lock":
            with run.lock(is_main=True):
                pass
        else:
            truncate_records(run.metrics, 0, None)


@pytest.mark.parametrize("folder", ["weights", "weights/best"])
@pytest.mark.parametrize(
    "make", [os.mkfifo, partial(os.symlink, "/dev/zero"), lambda path: path.write_bytes(bytes(99))]
)
def test_weights_of_another_run_are_copied_as_weights_or_named(shards, tmp_path, folder, make, no_waiting):
    source = tmp_path / "other" / folder / "pretrain.safetensors"
    source.parent.mkdir(parents=True)
    make(source)
    state = RunState(phase="adversarial", phase_ends={"pretrain": 6})
    run, checkpoint = RunDirectory(tmp_path / "run"), tmp_path / "other" / "checkpoints" / "step-00000006"
    with full_disk(10**6), run.lock(is_main=True), pytest.raises(CheckpointError, match=str(source)):
        run.open(tiny_config(shards, tmp_path), state, checkpoint, 0)
    assert not run.weights("pretrain").exists() and not run.best_weights("pretrain").exists()


def test_the_holder_of_a_run_is_written_to_its_lock_and_nowhere_else(tmp_path, monkeypatch):
    """Somebody puts a link in the place of the lock just after it was taken."""
    (tmp_path / "victim").write_text("precious")

    @contextlib.contextmanager
    def then_replaced(path, message):
        with file_lock(path, message) as held:
            path.unlink()
            path.symlink_to(tmp_path / "victim")
            yield held

    monkeypatch.setattr(run_directory, "file_lock", then_replaced)
    with RunDirectory(tmp_path / "run").lock(is_main=True):
        pass
    assert (tmp_path / "victim").read_text() == "precious"
