"""The wheel: everything that the command needs, away from the checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
import setuptools
from conftest import REPOSITORY, tiny_config

from srgan_dist.config import dump_config


def test_every_package_is_in_the_wheel():
    with open(REPOSITORY / "pyproject.toml", "rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    assert listed == sorted(
        [*setuptools.find_packages(REPOSITORY, include=["srgan_dist*"]), "srgan_dist.configs"]
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an unpacked wheel, built from a copy of what a checkout has."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("srgan_dist", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        source,
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def run(installed, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "srgan_dist", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(installed), "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
def test_the_wheel_has_configs_and_the_command(installed, tmp_path):
    configs = {path.name for path in (installed / "srgan_dist" / "configs").iterdir()}
    assert configs == {path.name for path in (REPOSITORY / "configs").iterdir()}
    for name in ("page.html", "page.css", "page.js"):
        assert (installed / "srgan_dist" / "evaluation" / "report_page" / name).exists()
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "srgan-dist = srgan_dist.cli:main" in entry_points.read_text()
    usage = run(installed, "train", "--help", cwd=tmp_path).stdout
    assert str(installed / "srgan_dist" / "configs" / "deeprock_x4.yaml") in "".join(usage.split())
    listed = run(installed, "settings", "learning_rate", cwd=tmp_path)
    assert listed.returncode == 0 and listed.stdout.startswith("pretrain.learning_rate"), listed.stderr
    planned = run(installed, "train", "--data.path=none", cwd=tmp_path)
    assert planned.returncode == 1 and "error: none is not a packed data set" in planned.stderr


@pytest.mark.slow
def test_a_training_and_a_benchmark_run_from_the_wheel(installed, shards, tmp_path):
    config = tiny_config(shards, "runs", cpu_ranks=2, tracking={"wandb": "offline"})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    done = run(installed, "train", "config.yaml", cwd=tmp_path)
    assert done.returncode == 0 and "ranks      2 on " in done.stdout, done.stderr
    assert (tmp_path / "runs" / "tiny" / "weights" / "adversarial.safetensors").exists()
    assert list((tmp_path / "runs" / "tiny" / "wandb").glob("offline-run-*"))
    options = ["--config", "config.yaml", "--blocks", "1", "--passes", "1", "--variants", "fp32"]
    done = run(installed, "benchmark", "step", *options, cwd=tmp_path)
    assert done.returncode == 0 and "pretrain" in done.stdout, done.stderr
    done = run(installed, "benchmark", "gpu", "--device", "cpu", "--stages", "tests", cwd=tmp_path)
    assert done.returncode == 0 and "checkout" in done.stdout, done.stderr
