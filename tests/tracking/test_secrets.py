"""What a run writes holds nothing of its surroundings that was not meant for it."""

import os
import re
import sys

import pytest
from conftest import tiny_config
from wandb_stub import offline_records, serving

from srgan_dist.config import Config
from srgan_dist.training import train

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
