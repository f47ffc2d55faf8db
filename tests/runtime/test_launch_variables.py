"""The variables of a launcher, right and wrong, through every command that reads them."""

import pytest
from PIL import Image

from srgan_dist.cli import main
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import save_generator
from srgan_dist.runtime.launch_variables import launched_ranks

LAUNCHED = {
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    """Forget a launcher's variables."""
    for name in (*LAUNCHED, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variables, expected", [({}, 1), ({"WORLD_SIZE": "1"}, 1), (LAUNCHED, 2)])
def test_the_launcher_says_how_many_ranks_there_are(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_ranks() == expected


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "generator.safetensors"
    config = SRResNetConfig(num_blocks=1, num_filters=4, init_std=None)
    save_generator(path, SRResNet(config), {"phase": "pretrain"})
    return path


@pytest.fixture
def commands(shards, weights, tmp_path):
    """{verb: its arguments}."""
    image = tmp_path / "lr.png"
    Image.new("L", (16, 16)).save(image)
    return {
        "train": ["configs/demo.yaml"],
        "evaluate": [weights, shards, "--out", tmp_path / "eval"],
        "robustness": [weights, shards, "--out", tmp_path / "robustness.json"],
        "upscale": [weights, image, tmp_path / "sr.png"],
    }


WRONG = {
    "WORLD_SIZE=abc": LAUNCHED | {"WORLD_SIZE": "abc"},
    "WORLD_SIZE=0": LAUNCHED | {"WORLD_SIZE": "0"},
    "WORLD_SIZE=-1": LAUNCHED | {"WORLD_SIZE": "-1"},
    "WORLD_SIZE=2²": LAUNCHED | {"WORLD_SIZE": "2²"},
    f"WORLD_SIZE={'9' * 100}": LAUNCHED | {"WORLD_SIZE": "9" * 5000},
    "RANK=abc": LAUNCHED | {"RANK": "abc"},
    "RANK=2": LAUNCHED | {"RANK": "2"},
    "LOCAL_RANK=abc": LAUNCHED | {"LOCAL_RANK": "abc"},
    "LOCAL_WORLD_SIZE=abc": LAUNCHED | {"LOCAL_WORLD_SIZE": "abc"},
    "LOCAL_WORLD_SIZE=0": {"LOCAL_WORLD_SIZE": "0"},
    "MASTER_PORT=abc": LAUNCHED | {"MASTER_PORT": "abc"},
    "MASTER_PORT=65536": LAUNCHED | {"MASTER_PORT": "65536"},
    "WORLD_SIZE=2: ": {"WORLD_SIZE": "2"},
    "WORLD_SIZE=2 RANK=0: ": {"WORLD_SIZE": "2", "RANK": "0"},
}


@pytest.mark.parametrize("verb", ["train", "evaluate", "robustness", "upscale"])
@pytest.mark.parametrize("words", WRONG, ids=lambda words: words[:20])
def test_wrong_variables_are_named_by_every_command(monkeypatch, capsys, commands, verb, words):
    for name, value in WRONG[words].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="1"):
        main([verb, *map(str, commands[verb])])
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and "launch/ranks.py" in said, said
