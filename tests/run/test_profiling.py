"""--profile N: a trace of updates, which changes none of them."""

import gzip
import json

import pytest
import torch
from conftest import tiny_config
from run_files import with_steps

from srgan_dist.cli.train import parse_arguments
from srgan_dist.training import train


def test_the_trace_has_as_many_updates_as_were_asked_for_and_changes_nothing(shards, tmp_path, capsys):
    config = tiny_config(shards, tmp_path, adversarial=None)
    config = with_steps(config, pretrain={"steps": 8})
    traced = train(config, profile=2)
    with gzip.open(tmp_path / "tiny" / "profile" / "pretrain.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    steps = {event["name"] for event in events if event["name"].startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#4", "ProfilerStep#5"}
    assert any("conv" in event["name"] for event in events)
    assert "pretrain.json.gz, a trace of updates; open it in" in capsys.readouterr().out
    plain = train(config.model_copy(update={"name": "plain"}))
    assert not (tmp_path / "plain" / "profile").exists()
    for name, value in plain.generator.state_dict().items():
        assert torch.equal(value, traced.generator.state_dict()[name])


def test_a_phase_that_is_too_short_is_named(shards, tmp_path, capsys):
    config = with_steps(tiny_config(shards, tmp_path, adversarial=None), pretrain={"steps": 2})
    train(config, profile=5)
    assert "no trace, the phase ended within its first 4 updates" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["0", "-1", "many"])
def test_a_number_of_updates_that_cannot_be_is_wrong_usage(given, capsys):
    with pytest.raises(SystemExit) as wrong:
        parse_arguments(["config.yaml", "--profile", given], None)
    assert wrong.value.code == 2 and "e.g. 10" in capsys.readouterr().err
