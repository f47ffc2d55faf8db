"""launch/wandb/sweep.yaml as an agent of wandb runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, tiny_config
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb_stub import offline_records, serving

FILE = REPOSITORY / "launch" / "wandb" / "sweep.yaml"
SWEEP = yaml.safe_load(FILE.read_text())
# Of https://github.com/wandb/sweeps, src/sweeps/config/schema.json, by which the server judges what it gets
FORMS = {
    "log_uniform_values": {"min": (int, float), "max": (int, float)},
    "categorical": {"values": list},
}


@pytest.mark.usefixtures("wandb_environment")
def test_wandb_sweep_takes_the_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with serving() as stub:
        environment = os.environ | {"WANDB_BASE_URL": stub.address}
        command = [sys.executable, "-m", "wandb", "sweep", "--project", "srgan_dist", str(FILE)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        (sent,) = stub.sweeps
    assert "Creating sweep with ID: sweep123" in ended.stderr and "WARNING" not in ended.stderr
    assert "wandb agent lab/srgan_dist/sweep123" in ended.stderr
    assert yaml.safe_load(sent["config"]) == SWEEP


def test_the_parameters_of_the_sweep_have_a_form_that_the_server_knows():
    assert SWEEP["method"] in ("bayes", "random", "grid") and SWEEP["metric"]["goal"] == "maximize"
    for name, parameter in SWEEP["parameters"].items():
        form = FORMS[parameter.get("distribution", "categorical")]
        assert parameter.keys() - {"distribution"} == form.keys(), name
        # 3e-4 without a point would be a text in YAML 1.1
        assert all(isinstance(parameter[key], kinds) for key, kinds in form.items()), name
        assert "min" not in parameter or 0 < parameter["min"] < parameter["max"]


@pytest.mark.usefixtures("wandb_environment")
def test_a_run_of_the_sweep_trains_with_its_settings_and_reports_its_metric(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, device="cpu").model_dump(mode="json")
    config["tracking"] = {}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    values = {"pretrain.learning_rate": 2e-3, "generator.num_filters": 5}
    assert values.keys() == SWEEP["parameters"].keys()
    order = {"program": SWEEP["program"], "args": {name: {"value": value} for name, value in values.items()}}
    replaced = {**create_sweep_command_args(order), "env": ["/usr/bin/env"]}
    command = []
    for part in create_sweep_command(SWEEP["command"]):
        command += replaced[part[2:-1]] if part in ("${env}", "${args}") else [part]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SWEEP_CONFIG": str(tmp_path / "config.yaml"),
        "SWEEP_DATA": str(shards),
        "WANDB_RUN_ID": "abc12345",
        "WANDB_MODE": "offline",
    }
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    run = tmp_path / "sweep-abc12345"
    trained = yaml.safe_load((run / "config.yaml").read_text())
    assert trained["pretrain"]["learning_rate"] == 2e-3 and trained["generator"]["num_filters"] == 5
    (session,) = offline_records(run)
    summary = {
        item.key or "/".join(item.nested_key): item.value_json
        for record in session
        for item in record.summary.update
    }
    assert float(summary[SWEEP["metric"]["name"]]) > 0
