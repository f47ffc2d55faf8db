"""The public functions of the package."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, texture, tiny_config, write_folder
from PIL import Image

import srgan_dist
from srgan_dist import UserError
from srgan_dist.config import differences, load_config


@pytest.fixture
def config(shards, tmp_path):
    return tiny_config(shards, tmp_path, adversarial=None)


def test_the_package_imports_nothing_until_it_is_used():
    program = (
        "import srgan_dist, sys\n"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert set(srgan_dist.__all__) <= set(dir(srgan_dist))\n"
        "from srgan_dist import *\n"
        "assert issubclass(UserError, ValueError) and callable(train) and callable(open_set)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'srgan_dist' has no attribute 'trian'"):
        srgan_dist.trian  # noqa: B018


def test_a_training_from_python_to_scores_and_images(config, shards, tmp_path):
    trained = srgan_dist.train(config, name="mine", **{"pretrain.steps": 3})
    run = tmp_path / "mine"
    assert trained.state.global_step == 3

    weights = run / "weights" / "pretrain.safetensors"
    generator = srgan_dist.load_generator(weights, device="cpu")
    lr = texture(1, 20, 24)
    sr = generator(lr)
    assert (generator.scale, generator.ndim) == (4, 2) and sr.shape == (80, 96) and sr.dtype == np.uint8

    Image.fromarray(lr).save(tmp_path / "lr.png")
    (path,) = srgan_dist.super_resolve(
        weights, tmp_path / "lr.png", tmp_path / "sr.png", tile=8, device="cpu"
    )
    assert np.abs(np.asarray(Image.open(path)).astype(int) - sr).max() <= 1  # tiles round in their own order

    table = srgan_dist.evaluate(run, shards, splits=["test"])
    assert " bicubic " in table and " phase 1 " in table and (run / "eval" / "scores.json").exists()


def test_a_training_takes_a_dictionary_or_a_file_and_settings_by_their_names(config, tmp_path):
    raw = config.model_dump(mode="json")
    changed = {"pretrain.steps": 1, "pretrain.losses.pixel.weight": 0.5, "output": tmp_path / "dictionary"}
    assert srgan_dist.train(raw, **changed).state.global_step == 1
    assert raw == config.model_dump(mode="json")
    file = tmp_path / "dictionary" / "tiny" / "config.yaml"
    assert srgan_dist.train(str(file), output=str(tmp_path / "file")).state.global_step == 1
    recorded = [load_config(path) for path in (file, tmp_path / "file" / "tiny" / "config.yaml")]
    assert differences(*recorded) == [f"output: {tmp_path / 'dictionary'} -> {tmp_path / 'file'}"]


def test_overrides_may_be_any_text_numpy_numbers_and_tables_of_settings(config):
    changes = {"name": "ä😀", "pretrain.learning_rate": np.float64(2e-4), "pretrain.steps": np.int64(1)}
    trained = srgan_dist.train(config, data=config.data, generator=config.generator, **changes)
    assert trained.state.global_step == 1
    assert (Path(config.output) / "ä😀" / "weights" / "pretrain.safetensors").is_file()


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"pretrain.step": 1}, "the nearest is pretrain.steps"),
        ({"pretrain.steps": 0}, "pretrain.steps = 0"),
        ({"cpu_ranks": 2}, "cpu_ranks=2: srgan_dist.train is one rank in this process"),
    ],
)
def test_wrong_settings_are_user_errors(config, changes, text):
    with pytest.raises(srgan_dist.UserError, match=text):
        srgan_dist.train(config, **changes)


def test_an_array_of_floats_is_refused(config):
    srgan_dist.train(config, **{"pretrain.steps": 1})
    generator = srgan_dist.load_generator(f"{config.output}/tiny/weights/pretrain.safetensors", "cpu")
    with pytest.raises(srgan_dist.UserError, match="dtype float64; use uint8 or uint16"):
        generator(np.zeros((8, 8)))


@pytest.mark.parametrize("tile", [0, -1, 2.5])
def test_a_tile_without_pixels_is_refused_before_files_are_read(tile):
    with pytest.raises(srgan_dist.UserError, match=f"tile={tile} must be a whole number, 1 or more"):
        srgan_dist.super_resolve("nowhere.safetensors", "in.png", "out.png", tile=tile)


def test_a_set_is_opened_by_its_address(shards):
    assert srgan_dist.open_set(shards).manifest.rocks == ["coal", "sandstone"]


def test_a_folder_is_built_and_read_as_pairs(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 5})
    table = srgan_dist.build(tmp_path / "hr", tmp_path / "set", kind="default", tile=80, crop=32)
    assert "images" in table and "coal" in table
    pairs = [
        pair
        for split in ("train", "valid", "test")
        for pair in srgan_dist.read_pairs(tmp_path / "set", split)
    ]
    found = {pair.key.split("_slice_")[-1]: pair for pair in pairs}
    for key, pair in found.items():
        hr = np.asarray(Image.open(tmp_path / "hr" / "coal" / f"slice_{key}.png"))
        assert np.array_equal(pair.hr, hr) and pair.rock == "coal" and pair.voxel_size_um is None
        assert (
            pair.lr.shape == (18, 20) and np.abs(srgan_dist.bicubic(pair.lr, 4).astype(int) - hr).mean() < 30
        )
    assert len(found) == 5
    with pytest.raises(UserError, match="tiles is not an option of build; those are scale, kind, tile"):
        srgan_dist.build(tmp_path / "hr", tmp_path / "other", tiles=80)
    with pytest.raises(UserError, match="set has no best split; it has train, valid, test"):
        next(srgan_dist.read_pairs(tmp_path / "set", "best"))
