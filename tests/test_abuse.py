"""Settings, files and folders as a careless or hostile user gives them: each ends in one named error, before
any work and without a trace.
"""

import re
import shutil
import time

import pytest
import torch
from conftest import tiny_config, write_folder
from safetensors.torch import load_file

from srgan_dist.cli import main
from srgan_dist.config import dump_config
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import save_generator
from srgan_dist.training import train

HUGE = "9" * 30


def refused(capsys, *arguments):
    """Run a command that has to end with exit code 1; returns what it says."""
    with pytest.raises(SystemExit, match="1"):
        main([*map(str, arguments)])
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """{scale: weights of a generator}."""
    folder = tmp_path_factory.mktemp("weights")
    for scale in (2, 4):
        config = SRResNetConfig(scale=scale, num_blocks=1, num_filters=4, init_std=None)
        save_generator(folder / f"{scale}.safetensors", SRResNet(config), {"phase": "pretrain"})
    return {scale: folder / f"{scale}.safetensors" for scale in (2, 4)}


SETTINGS = {
    f"--seed={HUGE}": "seed = 999.*less than 9223372036854775808",
    "--seed=1e400": "seed = inf: input should be a valid integer",
    "--data.batch_size=9223372036854775808": "data.batch_size = 9223372036854775808: .*1048576",
    "--pretrain.learning_rate=.nan": "pretrain.learning_rate = nan: input should be a finite number",
    "--pretrain.learning_rate=-.inf": "pretrain.learning_rate = -inf: ",
    "--pretrain.steps=-1": "pretrain.steps = -1: ",
    "--generator.num_blocks=1000000000": "generator.num_blocks = 1000000000: .*1000",
    f"--seed={'9' * 5000}": "the value is not YAML: Exceeds the limit",
    "--data.lr_crop=16384": "data.lr_crop=16384 is larger than the smallest LR image",
    '--name="a\\nb"': "must be usable as the name of a folder",
    "--name=..": "must be usable as the name of a folder",
    f"--name={'x' * 250}": "must be usable as the name of a folder",
    '--output="a\\0b"': "output = 'a\\\\x00b': holds a character",
    f"--data.path={'x' * 5000}": "manifest.json cannot be read: .*File name too long",
}


@pytest.mark.parametrize("option", SETTINGS, ids=lambda option: option[:40])
def test_settings_that_cannot_be_are_named(shards, tmp_path, capsys, option):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(tiny_config(shards, tmp_path / "runs")))
    said = refused(capsys, "train", path, "--dry-run", option)
    assert re.search(SETTINGS[option], said, re.DOTALL), said
    assert not (tmp_path / "runs").exists()


def laughs(depth):
    """YAML of lists of ten aliases each of the list before."""
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "\n".join(["a0: &a0 [x]", *lines, ""])


CONFIGS = {
    "a key twice": (lambda text: f"{text}seed: 3\n", 'found duplicate key "seed" .*, line \\d+, column 1'),
    "UTF-16": (lambda text: text.encode("utf-16"), "cannot be read: 'utf-8' codec"),
    "nothing": (lambda text: "", "is not a table of settings"),
    "two documents": (lambda text: f"{text}---\n{text}", "expected a single document"),
    "tabs": (lambda text: text.replace("  ", "\t"), "cannot start any token"),
    "an alias of itself": (lambda text: f"a: &a [*a]\n{text}", "stand for more than 100,000 values"),
    "aliases of aliases": (lambda text: laughs(40) + text, "stand for more than 100,000 values"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_that_are_none_are_named(tmp_path, capsys, kind):
    change, words = CONFIGS[kind]
    path = tmp_path / "config.yaml"
    content = change(dump_config(tiny_config("data", "runs")))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refused(capsys, "train", path, "--dry-run")
    assert str(path) in said and re.search(words, said.strip(), re.DOTALL), said


def test_a_file_in_the_place_of_output_is_named(shards, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(tiny_config(shards, path)))
    assert f"output={path}: {path} is a file; choose" in refused(capsys, "train", path, "--dry-run")


def test_a_folder_without_a_checkpoint_is_none_to_resume_from(shards, tmp_path, capsys):
    path, empty = tmp_path / "config.yaml", tmp_path / "empty"
    path.write_text(dump_config(tiny_config(shards, tmp_path / "runs")))
    empty.mkdir()
    for place in (empty, path, tmp_path / "nowhere"):
        said = refused(capsys, "train", path, "--dry-run", f"--resume={place}")
        assert f"--resume {place} is none of auto, never and a checkpoint" in said


def test_a_clock_that_is_set_back_changes_nothing(shards, tmp_path, monkeypatch):
    config = tiny_config(shards, tmp_path, adversarial=None)
    train(config)
    clock = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    train(config.model_copy(update={"name": "back"}))
    weights = [load_file(tmp_path / name / "weights" / "pretrain.safetensors") for name in ("tiny", "back")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


BUILDS = {
    "--crop=0": "crop=0 is not a multiple of scale=4; use e.g. 4",
    "--crop=-5": "crop=-5 is not a multiple of scale=4; use e.g. 4",
    f"--tile={HUGE}": f"tile={HUGE} is not a multiple of scale=4; use e.g. 1{'0' * 30}",
    "--scale=0": "scale=0 must be one of 2, 3, 4, 6, 8",
}


@pytest.mark.parametrize("option", BUILDS, ids=lambda option: option[:20])
def test_sizes_that_cannot_be_are_named(tmp_path, capsys, option):
    source = write_folder(tmp_path / "hr", {"coal": 1})
    assert BUILDS[option] in refused(capsys, "build", source, tmp_path / "out", option)
    assert not (tmp_path / "out").exists()


def test_sources_that_are_none_are_named(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no image")
    source = write_folder(tmp_path / "hr", {"coal": 3, "a\nb": 3})
    (source / "coal" / "slice_9.png").write_bytes(b"")
    for name, words in (
        ("empty", f"{tmp_path / 'empty'}: holds no image"),
        ("nowhere", f"SOURCE={tmp_path / 'nowhere'} does not exist"),
        ("file", f"{tmp_path / 'file'}: holds no image of a format that is read"),
        ("hr", "'a\\nb': "),
        ("hr", "slice_9.png: is empty (0 bytes)"),
    ):
        assert words in refused(capsys, "build", tmp_path / name, tmp_path / "out", "--crop=32")
        assert not (tmp_path / "out").exists()
    assert "is SOURCE=" in refused(capsys, "build", source, source / "out")
    (tmp_path / "empty" / "own.txt").write_text("kept")
    assert "holds other files" in refused(capsys, "build", source, tmp_path / "empty", "--crop=32")


def test_weights_of_another_scale_and_empty_runs_are_not_scored(shards, weights, tmp_path, capsys):
    (tmp_path / "run" / "weights").mkdir(parents=True)
    shutil.copy(weights[2], tmp_path / "run" / "weights" / "pretrain.safetensors")
    said = refused(capsys, "evaluate", tmp_path / "run", shards)
    assert "has scale=4, the generators of RUN=" in said and "have scale=2" in said
    (tmp_path / "empty").mkdir()
    for verb in ("evaluate", "robustness"):
        assert "holds no weights/*.safetensors" in refused(capsys, verb, tmp_path / "empty", shards)
    for options, words in (
        (["--samples=-1"], "--samples -1: use 0"),
        ([f"--samples={HUGE}"], "a whole number from 2 to 1000"),
        (["--threshold=nan"], "--threshold nan: use otsu, or a number between 0 and 1"),
    ):
        assert words in refused(capsys, "evaluate", tmp_path / "run", shards, *options)


def test_images_that_cannot_be_enlarged_are_named(weights, tmp_path, capsys):
    (tmp_path / "zero.png").write_bytes(b"")
    image = write_folder(tmp_path, {"coal": 1}) / "coal" / "slice_0.png"
    for source, out, options, words in (
        (tmp_path / "zero.png", "out.png", [], "zero.png: is empty (0 bytes)"),
        (image, image, [], f"OUTPUT={image} exists; give another name"),
        (image, "out.xyz", [], "format '.xyz' is not written"),
        (image, "out.png", ["--device=cuda:99"], "device cuda:99 cannot be used"),
        (image, "out.png", [f"--samples={HUGE}"], "must be a whole number from 2 to 1000"),
    ):
        assert words in refused(capsys, "upscale", weights[4], source, tmp_path / out, *options)
        assert not (tmp_path / "out.png").exists()


def test_shards_archives_and_names_that_cannot_be_are_named(weights, tmp_path, capsys):
    (tmp_path / "zero.zip").write_bytes(b"")
    shards = tmp_path / "a-{000000..999999999}.tar"
    for arguments, words in (
        (["index", tmp_path / "out", "--train", shards, "--rock=a"], "stands for 1000000000 shards; at most"),
        (["download", tmp_path / "out", "--from", tmp_path / "zero.zip"], "is not a complete zip archive"),
        (["export", weights[4], tmp_path / "out.xyz"], ".xyz files are not written"),
        (["summarize", tmp_path / "nowhere"], "is not a packed data set"),
        (["synthesize", tmp_path], "from elsewhere; name a new folder"),
        (["benchmark", "step", "--config", tmp_path / "nowhere"], "nowhere does not exist"),
    ):
        assert words in refused(capsys, *arguments)
