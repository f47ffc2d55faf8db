"""Where weights come from is in them, in checkpoints and in run.json; who and which machine is not."""

import getpass
import json
import platform
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from conftest import TINY, texture, tiny_config
from wandb_stub import offline_records
from webdatasets import sample, write

import srgan_dist
from srgan_dist.data.split import open_set, open_split
from srgan_dist.models.weights_file import read_facts
from srgan_dist.packing.build import build
from srgan_dist.packing.index_webdataset import index_webdataset
from srgan_dist.run.provenance import checkout_commit, training_data_of
from srgan_dist.run.run_directory import RunDirectory
from srgan_dist.training import train


def test_weights_checkpoints_and_run_json_say_what_made_them(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, tracking={"wandb": "offline"})
    train(config)
    run = tmp_path / "tiny"
    facts = read_facts(run / "weights" / "pretrain.safetensors")
    provenance = facts["provenance"]
    assert provenance | {"commit": None} == {
        "srgan_dist": srgan_dist.__version__,
        "commit": None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": "cpu",
        "data_sha256": [open_set(shards).sha256],
    }
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert json.loads((checkpoint / "manifest.json").read_text())["provenance"] == provenance
    text = (run / "run.json").read_text()
    assert json.loads(text) == {"starts": [{"global_step": 0, "ranks": 1} | provenance]}
    (session,) = offline_records(run)
    (of_wandb,) = [r.run.config.update for r in session if r.WhichOneof("record_type") == "run"]
    settings = {item.key: json.loads(item.value_json) for item in of_wandb}
    assert settings["provenance"] == {"ranks": 1} | provenance and settings["name"] == "tiny"
    for secret in (platform.node(), getpass.getuser(), str(tmp_path), str(shards)):
        assert json.dumps(secret) not in text and secret not in json.dumps(provenance)

    # The facts of the data are those of its images, and reach the model card
    split = open_split(shards, "train")
    rows = {rock: split.rows[split.rows["rock"] == n] for n, rock in enumerate(split.rocks)}
    (data,) = facts["data"]
    assert (data["scale"], data["dtype"], data["sha256"]) == (4, "uint8", open_set(shards).sha256)
    assert data["rocks"] == {
        rock: {
            "images": len(of),
            "darkest": of["darkest"].min(),
            "brightest": of["brightest"].max(),
            "voxel_size_um": None,
        }
        for rock, of in rows.items()
    }
    srgan_dist.export(run / "weights" / "pretrain.safetensors", tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text()
    count = len(rows["coal"])
    assert f"| coal | {count} | {rows['coal']['darkest'].min()} to " in card and "| valid | coal | " in card
    assert all(str(tmp_path).encode() not in path.read_bytes() for path in (tmp_path / "folder").iterdir())


def test_starts_are_noted_but_those_whose_updates_are_repeated(tmp_path):
    directory = RunDirectory(tmp_path)
    for step, version in ((0, "a"), (5, "b"), (9, "c"), (5, "d"), (6, "e")):
        directory.note_start(step, {"torch": version})
    starts = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert [(start["global_step"], start["torch"]) for start in starts] == [(0, "a"), (5, "d"), (6, "e")]
    (tmp_path / "run.json").write_text("[")
    directory.note_start(7, {})
    assert json.loads((tmp_path / "run.json").read_text()) == {"starts": [{"global_step": 7}]}


@pytest.mark.parametrize("encoding", ["npy", "png"])
def test_voxel_sizes_are_those_of_the_images(tmp_path, encoding):
    for number in range(3):
        (tmp_path / "hr" / "coal").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(
            tmp_path / "hr" / "coal" / f"{number}.tif",
            texture(number, dtype=np.uint16),
            imagej=True,
            resolution=(1 / 2.5, 1 / 2.5),
            metadata={"unit": "um"},
        )
    build(tmp_path / "hr", tmp_path / "set", replace(TINY, encoding=encoding))
    (data,) = training_data_of([(open_split(tmp_path / "set", "train"), 1.0)])
    assert data["dtype"] == "uint16" and data["rocks"]["coal"]["voxel_size_um"] == 2.5


def test_the_commit_is_that_of_the_checkout_with_a_mark_of_changes(tmp_path, monkeypatch):
    package = tmp_path / "srgan_dist" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(srgan_dist, "__file__", str(package))

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=b", "-c", "init.defaultBranch=main")
        command = ["git", *identity, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    read = checkout_commit.__wrapped__
    assert read() is None  # an installed package
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    assert read() == git("rev-parse", "HEAD")
    package.write_text("changed = True\n")
    assert read() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert read() is None


def test_records_of_other_peoples_sets_are_read_as_their_fields_say(tmp_path):
    """Whatever else their JSON holds is not ours: a voxel size has no unit there."""
    write(
        tmp_path / "0.tar", [sample(0, json=json.dumps({"rock": "coal", "voxel_size_um": "2 mm"}).encode())]
    )
    index_webdataset(tmp_path, {"train": [str(tmp_path / "0.tar")]}, rock="coal")
    (data,) = training_data_of([(open_split(tmp_path, "train"), 1.0)])
    assert data["rocks"]["coal"]["voxel_size_um"] is None
