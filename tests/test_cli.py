"""The console command: its verbs, their help, and the files that are generated from the settings."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, tiny_config

from srgan_dist.cli import VERBS, main
from srgan_dist.cli.settings import list_settings
from srgan_dist.config import Config, flat, load_config
from srgan_dist.models import build_generator
from srgan_dist.models.srresnet import SRResNetConfig
from srgan_dist.models.weights_file import save_generator

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
SCRIPTS = sorted(
    str(path.relative_to(REPOSITORY))
    for folder in ("launch", "shards")
    for path in (REPOSITORY / folder).glob("*.py")
)


def run(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=REPOSITORY, capture_output=True, text=True
    )


# Help

HELP = """
import runpy, sys
import srgan_dist
for verb in {verbs}:
    try:
        __import__("srgan_dist.cli", fromlist=["main"]).main([*verb, "--help"])
    except SystemExit as ended:
        assert ended.code == 0
for script in {scripts}:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code
sys.exit(" ".join({{"torch", "torchvision", "accelerate", "matplotlib", "wandb"}} & set(sys.modules)) or 0)
"""


def test_no_help_imports_pytorch():
    verbs = [[], *([verb] for verb in VERBS), ["benchmark", "step"], ["benchmark", "gpu"]]
    done = run("-c", HELP.format(verbs=verbs, scripts=SCRIPTS))
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f"usage: srgan-dist {verb} " in done.stdout
    for script in SCRIPTS:
        name = script.rpartition("/")[2]
        assert f"usage: {name} " in done.stdout or f": python {script} " in done.stdout


def test_the_command_lists_its_verbs(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"\n  {verb} " in printed for verb in VERBS)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ([], "VERB"),
        (["trian"], "invalid choice: 'trian' (choose from"),
        (["build", "in", "out", "--payload", "png"], "--payload is called --encoding now"),
        (["build", "in", "out", "--jobs", "0"], "--jobs 0 must be 1 or more"),
        (["upscale", "w", "in", "out", "--tile", "0"], "--tile 0 must be 1 or more"),
        (["train", "config.yaml", "seed=1"], "unexpected seed=1; settings are given as --field=value"),
    ],
)
def test_wrong_usage_has_exit_code_2_and_is_named(capsys, arguments, text):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert text in capsys.readouterr().err


def test_a_verb_runs_as_a_module(shards):
    done = run("-m", "srgan_dist", "summarize", shards, "--verify")
    assert done.returncode == 0 and done.stdout.endswith("every byte is as it was written\n"), done.stderr


def test_a_reader_of_stdout_that_has_gone_is_no_error(shards, tmp_path):
    weights = tmp_path / "run" / "weights" / "pretrain.safetensors"
    save_generator(weights, build_generator(SRResNetConfig(num_blocks=1, num_filters=2)), {})
    np.save(tmp_path / "lr.npy", np.zeros((8, 8), np.uint8))
    for arguments in (
        ["evaluate", tmp_path / "run", shards, "--splits", "test"],
        ["upscale", weights, tmp_path / "lr.npy", tmp_path / "sr.npy"],
    ):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "srgan_dist", *map(str, arguments)]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert done.returncode == 141 and "Traceback" not in done.stderr, done.stderr


# Settings and schema


class Unread(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_fails_by_what_it_cannot_print(monkeypatch, verb):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Unread())
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0


def test_docs_and_schema_are_generated_from_the_settings(capsys):
    main(["settings", "--markdown"])
    assert capsys.readouterr().out == (REPOSITORY / "docs" / "settings.md").read_text(), "run `make docs`"
    main(["schema"])
    assert capsys.readouterr().out == (REPOSITORY / "configs" / "schema.json").read_text(), "run `make docs`"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_editors_find_the_schema_of_a_config(path):
    first, *_ = path.read_text().splitlines()
    assert first == "# yaml-language-server: $schema=schema.json"
    assert json.loads((path.parent / "schema.json").read_text())["title"] == "Config"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_setting_of_a_config_is_listed(path):
    names = {setting.name for setting in list_settings(Config.model_json_schema())}
    for name in flat(load_config(path).model_dump(mode="json")):
        table, _, loss = name.partition(".losses.")
        assert (f"{table}.losses.KEY.{loss.partition('.')[2]}" if loss else name) in names


def test_settings_have_type_rule_default_and_description(capsys):
    main(["settings", "adversarial.learning_rate"])
    assert capsys.readouterr().out == (
        "adversarial.learning_rate: number, > 0, default 0.0001\n    of Adam\n"
    )
    main(["settings", "VGG19"])
    printed = capsys.readouterr().out
    assert "pretrain.losses.KEY.layer [vgg19]: " in printed and "[mse]" not in printed


def test_a_word_that_no_setting_has_is_named(capsys):
    with pytest.raises(SystemExit, match="1"):
        main(["settings", "quaternion"])
    assert capsys.readouterr().err.startswith("error: WORD=quaternion: no setting has it")


# Training


def test_a_dry_run_of_train_takes_settings(shards, tmp_path, capsys, monkeypatch):
    from srgan_dist.config import dump_config

    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config(shards, tmp_path, cpu_ranks=2)))
    main(["train", str(tmp_path / "config.yaml"), "--dry-run", "--pretrain.steps=3"])
    printed = capsys.readouterr().out
    assert "3 updates" in printed and "batch_size_per_gpu 2" in printed


@pytest.mark.slow
def test_train_takes_settings_and_starts_its_ranks_itself(shards, tmp_path, monkeypatch):
    from srgan_dist.config import dump_config

    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config(shards, tmp_path, cpu_ranks=2)))
    done = run(
        "-m", "srgan_dist", "train", tmp_path / "config.yaml", "--pretrain.steps=3", "--adversarial=null"
    )
    assert done.returncode == 0, done.stderr
    assert "on CPU: 2 ranks" in done.stdout and "ranks      2 on " in done.stdout
    assert (tmp_path / "tiny" / "weights" / "pretrain.safetensors").exists()
