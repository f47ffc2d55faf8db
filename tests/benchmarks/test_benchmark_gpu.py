import argparse
import json
import platform
import sys

import pytest
from commands import run
from failing_stages import crash, fail, hang, succeed

from srgan_dist.benchmarks import gpu
from srgan_dist.benchmarks.names import STAGES


def run_on_cpu(tmp_path, *stages):
    """Run stages by the command; returns their results and the output."""
    options = ["--device", "cpu", "--seconds", "1500", "--json", tmp_path / "gpu.json", "--stages", *stages]
    done = run(sys.executable, "launch/benchmark.py", "gpu", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "gpu.json").read_text())["stages"], done.stdout


def test_every_stage_is_an_option():
    assert tuple(gpu.STAGES) == STAGES


@pytest.mark.slow
def test_the_stages_of_the_gpu_benchmark_run_on_a_cpu(tmp_path):
    stages, output = run_on_cpu(tmp_path, "machine", "agreement", "step", "graph")
    assert not any("error" in facts for facts in stages.values()), stages
    assert stages["machine"]["copy_gb_per_s"] > 0 and stages["machine"]["launch_us"] > 0
    assert platform.node() not in json.dumps(stages)
    for phase in ("pretrain", "adversarial"):
        assert set(stages["agreement"][phase].values()) == {0.0}  # the CPU with itself
    rows = stages["step"]["rows"]
    assert [row["phase"] for row in rows] == ["pretrain", "adversarial"]
    assert all(row["step_ms"] > 0 for row in rows)
    assert "CUDA graphs need a GPU" in stages["graph"]["left_out"]
    tables = run(sys.executable, "launch/benchmark.py", "tables", tmp_path / "gpu.json")
    assert tables.returncode == 0 and tables.stdout.strip() == output.strip()


@pytest.mark.slow
def test_the_long_stages_of_the_gpu_benchmark_run_on_a_cpu(tmp_path):
    stages, _ = run_on_cpu(tmp_path, "tests", "rocks", "batches", "others")
    assert not any("error" in facts for facts in stages.values()), stages
    assert stages["tests"]["exit_code"] == 0 and "skipped" in stages["tests"]["summary"]
    assert set(stages["rocks"]["scores"]["valid"]) == {"carbonate", "coal", "sandstone"}
    assert len(stages["rocks"]["speed"]) == 2
    for name in ("batches", "others"):
        assert not any("error" in row for row in stages[name]["rows"])
    assert len(stages["others"]["kernels"]) == 15


@pytest.mark.slow
def test_the_compiled_stage_of_the_gpu_benchmark_runs_on_a_cpu(tmp_path):
    stages, _ = run_on_cpu(tmp_path, "compiled")
    assert "error" not in stages["compiled"], stages
    assert not any("error" in row for row in stages["compiled"]["rows"])


def test_a_stage_that_fails_does_not_end_the_run(monkeypatch, capsys):
    stages = {"succeed": (succeed, 90), "hang": (hang, 0.15), "crash": (crash, 90), "fail": (fail, 90)}
    monkeypatch.setattr(gpu, "STAGES", stages)
    saved = []
    arguments = argparse.Namespace(device="cpu", seconds=440, rocks=None, stages=list(stages))
    gpu.run(arguments, lambda results: saved.append(json.dumps(results)))
    facts = json.loads(saved[-1])["stages"]
    assert [facts[name]["result"] for name in stages] == [1, 2, 3, 4]
    assert "error" not in facts["succeed"] and facts["hang"]["error"].startswith("ended after 3 s")
    assert facts["crash"]["error"] == "its process has died"
    assert "ValueError: a fault of a stage" in facts["fail"]["error"]
    assert "Failed: its process has died" in capsys.readouterr().out


def test_without_a_gpu_the_command_ends_with_a_hint():
    done = run(sys.executable, "launch/benchmark.py", "gpu", CUDA_VISIBLE_DEVICES="")
    hint = "no GPU: PyTorch finds none here. On a CPU, --device cpu tries the stages with tiny networks\n"
    assert done.returncode == 2 and done.stderr == hint
