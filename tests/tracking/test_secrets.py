"""What a run writes holds nothing of its surroundings that was not meant for it."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY, tiny_config
from wandb_stub import offline_records, serving

from srgan_dist.config import Config
from srgan_dist.models import build_generator
from srgan_dist.models.weights_file import save_generator
from srgan_dist.packing.index_webdataset import index_webdataset
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError

PLANTED = {
    "WANDB_API_KEY": "5ec4e7aa" * 5,
    "AWS_SECRET_ACCESS_KEY": "5ec4e7bb/planted+secret",
    "HF_TOKEN": "hf_5ec4e7ccplanted",
    "LAB_ACCOUNT": "5ec4e7dd-planted",
}
SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)


def everything_below(folder):
    """Yield (path, bytes) of every file, links followed, and of the names themselves."""
    for path in folder.rglob("*"):
        yield path, os.fsencode(path.relative_to(folder))
        if path.is_file():
            yield path, path.read_bytes()


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_no_artefact_of_a_training_holds_a_secret_of_its_environment_or_command_line(
    shards, tmp_path, monkeypatch, mode
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["train.py", "--api-key=5ec4e7ee-planted"])
    with serving() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.address)
        train(tiny_config(shards, tmp_path, adversarial=None, tracking={"wandb": mode}))
    run = tmp_path / "tiny"
    below = list(everything_below(run))
    assert {path.suffix for path, _ in below} >= {
        ".yaml",
        ".jsonl",
        ".png",
        ".safetensors",
        ".json",
        ".wandb",
        ".log",
    }
    if mode == "offline":
        (session,) = offline_records(run)
        assert len(session) > 10  # checked by their sums: nothing is compressed there
    for path, content in below:
        assert b"5ec4e7" not in content, path


@pytest.mark.slow
def test_no_path_reaches_a_tracker(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    first, weights = tiny_config(shards, tmp_path), tmp_path / "first" / "pretrain.safetensors"
    save_generator(weights, build_generator(first.generator), {})
    config = tiny_config(
        shards,
        tmp_path / "runs",
        data=first.data.model_dump() | {"cache": str(tmp_path / "copies")},
        pretrain=first.pretrain.model_dump() | {"init_weights": str(weights)},
        adversarial=None,
        tracking={"wandb": "offline", "also": ["tensorboard"]},
    )
    train(config)
    run = tmp_path / "runs" / "tiny"
    sent = [*run.glob("wandb/offline-run-*/*.wandb"), *run.glob("wandb/offline-run-*/files/**/*")]
    sent += run.glob("trackers/**/*")
    written = {path: path.read_bytes() for path in sent if path.is_file()}
    assert {path.suffix for path in written} >= {".wandb", ".png", ".yml"}
    assert [path for path in written if path.name.startswith("events.out.tfevents")]
    for path, content in written.items():
        for private in (tmp_path, shards.parent, REPOSITORY):
            assert os.fsencode(private) not in content, path
    (session,) = offline_records(run)
    (of_wandb,) = [r.run.config.update for r in session if r.WhichOneof("record_type") == "run"]
    settings = {item.key: json.loads(item.value_json) for item in of_wandb}
    assert (settings["data"]["path"], settings["data"]["cache"]) == ("shards", "copies")
    assert settings["pretrain"]["init_weights"] == "pretrain.safetensors"
    assert settings["name"] == "tiny" and settings["data"]["batch_size"] == 4
    assert not {"output", "tracking"} & settings.keys()


def names_in(schema):
    """Yield the name of every setting of a JSON schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from names_in(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from names_in(part)


def test_there_is_no_setting_that_a_secret_would_be_put_into():
    names = set(names_in(Config.model_json_schema()))
    assert names >= {"learning_rate", "wandb", "lr_crop", "num_filters", "adversarial_weight"}
    assert [name for name in names if SECRET.search(name)] == []
    assert SECRET.search("api_key") and SECRET.search("PASSWORD")


@pytest.mark.parametrize(
    "address", ["https://h/{0..3}.tar?sig=5ec4e7ff", "https://u:5ec4e7ff@h/0.tar", "s3://5ec4e7ff@b/0.tar"]
)
@pytest.mark.parametrize("place", ["data.stream.train", "--train"])
def test_addresses_of_shards_with_secrets_are_refused_and_not_shown(tmp_path, address, place):
    if place == "--train":
        with pytest.raises(UserError, match="--train .* put secrets where the protocol looks") as error:
            index_webdataset(tmp_path / "out", {"train": [address]}, rock="coal")
    else:
        stream = {"train": address, "rock": "coal"}
        data = {
            "path": str(tmp_path),
            "reader": "webdataset",
            "stream": stream,
            "lr_crop": 8,
            "batch_size": 4,
        }
        with pytest.raises(UserError, match="data.stream.train .* put secrets where") as error:
            train(tiny_config(tmp_path, tmp_path / "runs", data=data, adversarial=None))
    assert "5ec4e7" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


LEAKY = """
import argparse, logging, sys
from srgan_dist.utils.errors import cli_errors
with cli_errors():
    url = "https://u:5ec4e7ff@h/x?sig=5ec4e7ff"
    if sys.argv[1] == "usage":
        argparse.ArgumentParser().parse_args([url])
    if sys.argv[1] == "warning":
        logging.getLogger("a").warning("%s is slow", url)
    if sys.argv[1] == "line":
        print(url)
    if sys.argv[1] == "traceback":
        raise KeyError(url)
"""


@pytest.mark.parametrize("how", ["usage", "warning", "line", "traceback"])
def test_what_a_command_prints_shows_no_secret_of_a_url(how):
    done = subprocess.run([sys.executable, "-c", LEAKY, how], capture_output=True, text=True, cwd=REPOSITORY)
    said = done.stdout + done.stderr
    assert "https://***@h/x?***" in said and "5ec4e7" not in said, said
    assert (done.returncode == 1 and "Traceback" in said and "KeyError" in said) or how != "traceback"
