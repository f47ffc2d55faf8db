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
from wandb_stub import offline_records

SWEEP = yaml.safe_load((REPOSITORY / "launch" / "wandb" / "sweep.yaml").read_text())


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
