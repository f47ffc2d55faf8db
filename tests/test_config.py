import re
from typing import Annotated, Literal

import pytest
from conftest import REPOSITORY
from pydantic import Field, create_model

from srgan_dist.config import Config, ConfigError, differences, dump_config, load_config, parse_config
from srgan_dist.losses.perceptual import VGGLossConfig
from srgan_dist.models.srresnet import SRResNetConfig
from srgan_dist.utils.settings import Settings

MINIMAL = {"name": "a", "data": {"path": "shards"}}


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def error_of(raw):
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_say_how_to_run_them(path):
    assert load_config(path).name == path.stem
    head = path.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert re.search(
        rf"^#   (accelerate launch launch/train\.py|srgan-dist train) configs/{path.stem}\.yaml\b", head, re.M
    )


def test_shipped_recipes_are_the_papers():
    config = load_config(REPOSITORY / "configs" / "deeprock_x4.yaml")
    assert (config.data.lr_crop, config.data.batch_size, config.hr_crop) == (48, 16, 192)
    assert (config.pretrain.steps, config.adversarial.steps) == (100_000, 150_000)
    phases = config.pretrain, config.adversarial
    assert [phase.learning_rate for phase in phases] == [1e-4, 1e-4]
    assert [phase.lr_schedule.decay_every for phase in phases] == [50_000, 100_000]
    assert (
        config.adversarial.losses["perceptual"].weight == 1e-5
        and config.adversarial.adversarial_weight == 5e-3
    )
    assert config.adversarial.losses["perceptual"].layer == "relu5_4" and config.discriminator.padding == 1
    assert load_config(REPOSITORY / "configs" / "deeprock_x2.yaml").generator.scale == 2


def test_a_dumped_config_reads_back_equal(tmp_path):
    config = parse_config(
        MINIMAL | {"mixed_precision": "no", "pretrain": {"learning_rate": 1e-3, "max_seconds": 3}}
    )
    assert load_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize("path", ["a  b " * 30 + "x", "# ü: " * 40, "- 'q' " * 30, "😀 " * 50])
def test_long_texts_read_back_equal(tmp_path, path):
    config = parse_config(MINIMAL | {"output": path})
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_yaml_words_and_numbers_mean_what_they_say(tmp_path):
    config = load_config(
        write(tmp_path, "name: on\nmixed_precision: no\ndata: {path: p}\npretrain: {learning_rate: 1e-4}\n")
    )
    assert (config.name, config.mixed_precision, config.pretrain.learning_rate) == ("on", "no", 1e-4)


def test_overrides(tmp_path):
    path = write(
        tmp_path,
        "name: a\ndata: {path: p}\nadversarial: {losses: {pixel: {name: l1}, perceptual: {name: vgg19}}}\n",
    )
    config = load_config(
        path,
        [
            "adversarial.learning_rate=5e-5",
            "pretrain.lr_schedule={name: constant}",
            "generator.num_blocks=3",
            "adversarial.losses.perceptual=null",
            "data.augment=all",
        ],
    )
    assert config.adversarial.learning_rate == 5e-5 and config.pretrain.lr_schedule.name == "constant"
    assert (
        config.generator.num_blocks == 3
        and set(config.adversarial.losses) == {"pixel"}
        and config.data.augment == "all"
    )
    with pytest.raises(ConfigError, match="--steps is not of the form --field=value"):
        load_config(path, ["steps"])
    for empty in ("data..path=1", ".data=1", "=1"):
        with pytest.raises(ConfigError, match="is not of the form --field=value"):
            load_config(path, [empty])
    with pytest.raises(ConfigError, match="--pretrain= has no value; null leaves a phase or a loss out"):
        load_config(path, ["pretrain="])
    with pytest.raises(ConfigError, match="adversarial is the value null, it has no fields"):
        load_config(path, ["adversarial=null", "adversarial.steps=5"])
    with pytest.raises(ConfigError, match="name is the value 'a', it has no fields"):
        load_config(path, ["name.first=b"])
    with pytest.raises(
        ConfigError,
        match="adversarial.learning_rat = 1: is not a setting; the nearest is adversarial.learning_rate",
    ):
        load_config(path, ["adversarial.learning_rat=1"])


def test_overrides_reach_into_lists():
    raw = MINIMAL | {"data": {"path": "p", "train": [{"path": "a"}, {"path": "b"}]}}
    config = parse_config(raw, overrides=["data.train.1.weight=3", "data.train.0={path: c}"])
    assert [(chosen.path, chosen.weight) for chosen in config.data.train] == [("c", 1), ("b", 3)]
    for wrong in ("data.train.2.weight=3", "data.train.-1.weight=3", "data.train.x={path: c}"):
        with pytest.raises(ConfigError, match="is no position in a list of 2; the first is 0"):
            parse_config(raw, overrides=[wrong])


def test_overrides_of_losses_start_from_the_default_ones_where_the_file_names_none(tmp_path):
    path = write(tmp_path, "name: a\ndata: {path: p}\n")
    assert set(load_config(path, ["adversarial.losses.perceptual=null"]).adversarial.losses) == {"pixel"}
    losses = load_config(path, ["adversarial.losses.perceptual.weights=random"]).adversarial.losses
    assert losses["perceptual"].weights == "random" and set(losses) == {"pixel", "perceptual"}


@pytest.mark.parametrize(
    "change, expected",
    [
        (
            {"data": {"path": "p", "foo": 1}},
            "data.foo = 1: is not a setting; data has path, train, lr_crop, batch_size, augment, degradation,"
            " jitter, verify, max_bad_samples",
        ),
        (
            {"adversarial": {"losses": {"v": {"name": "l1", "order": "x"}}}},
            "adversarial.losses.v.order = 'x': is not a setting; adversarial.losses.v has name, weight",
        ),
        (
            {"adversarial": {"losses": {"v": {"name": "l1", "layer": "x"}}}},
            "adversarial.losses.v.layer = 'x': is not a setting; it belongs to adversarial.losses.v.name:"
            " vgg19",
        ),
        (
            {"adversarial": {"losses": {"v": {"weight": 1.0}}}},
            "adversarial.losses.v: needs a name, one of consistency, covariance, l1, mse, stationarity,"
            " vgg19",
        ),
        (
            {"adversarial": {"losses": {"v": {"name": "gan"}}}},
            "adversarial.losses.v.name = 'gan': is not known; use one of consistency, covariance, l1, mse,"
            " stationarity, vgg19",
        ),
        ({"data": [1]}, "data = [1]: is not a table of settings"),
        ({"name": 1}, "name = 1: input should be a valid string; quote it: '\"1\"'"),
        ({"name": "a\nb"}, "must be usable as the name of a folder"),
        ({"name": "x" * 201}, "must be usable as the name of a folder"),
        ({"output": "a\0b"}, "output = 'a\\x00b': holds a character that no path should have"),
        (
            {"num_sample_images": 10**12},
            "num_sample_images = 1000000000000: input should be less than or equal to 1000",
        ),
        (
            {"learning_rate": 1e-4},
            "learning_rate = 0.0001: is not a setting; the nearest is pretrain.learning_rate",
        ),
        (
            {"generator": {"num_block": 3}},
            "generator.num_block = 3: is not a setting; the nearest is generator.num_blocks",
        ),
        (
            {"adversarial": {"losses": {"perceptual": {"name": "vgg19", "layr": "x"}}}},
            "adversarial.losses.perceptual.layr = 'x': is not a setting; the nearest is"
            " adversarial.losses.perceptual.layer",
        ),
        ({"pretrain": {"steps": "many"}}, "pretrain.steps = 'many': input should be a valid integer"),
        ({"pretrain": {"steps": True}}, "pretrain.steps = True: input should be a valid integer"),
        (
            {"pretrain": {"learning_rate": float("nan")}},
            "pretrain.learning_rate = nan: input should be a finite number",
        ),
        (
            {"pretrain": {"learning_rate": -1.0}},
            "pretrain.learning_rate = -1.0: input should be greater than 0",
        ),
        (
            {"generator": {"scale": 5}},
            "generator.scale = 5: must be one of 2, 3, 4, 6, 8",
        ),
        (
            {"generator": {"name": "rrdb", "grow": 5}},
            "generator.grow = 5: is not a setting; the nearest is generator.growth",
        ),
        (
            {"generator": {"growth": 5}},
            "generator.growth = 5: is not a setting; it belongs to generator.name: rrdb",
        ),
        (
            {"adversarial": {"lr_schedule": {"name": "cosine", "decay_every": 9}}},
            "adversarial.lr_schedule.decay_every = 9: is not a setting; it belongs to"
            " adversarial.lr_schedule.name: exponential",
        ),
        (
            {"adversarial": {"lr_schedule": "cosine"}},
            "adversarial.lr_schedule = 'cosine': is not a table of settings; use {name: cosine}",
        ),
        (
            {"discriminator": 5},
            "discriminator = 5: is not a table of settings; use {name: ...}, one of dense, patch",
        ),
        (
            {"discriminator": {"name": "patch", "norm": "spectral", "sync_batchnorm": True}},
            "norm=spectral leaves nothing to sync_batchnorm=true; use one of them",
        ),
        ({"generator": {"name": "edsr"}}, "generator.name = 'edsr': is not known; use one of srresnet, rrdb"),
        ({"compile": True, "adversarial": {"r1_gamma": 1.0}}, "r1_gamma needs second derivatives"),
        # old names
        ({"accumulation": 2}, "accumulation = 2: is not a setting; it is now gradient_accumulation_steps"),
        ({"max_skipped": 2}, "it is now max_consecutive_skips"),
        ({"panels": 2}, "it is now num_sample_images"),
        (
            {"pretrain": {"clip_gradient": 1.0}},
            "pretrain.clip_gradient = 1.0: is not a setting; it is now max_grad_norm",
        ),
        ({"pretrain": {"anneal": True}}, "it is now lr_schedule: {name: cosine}"),
        (
            {"pretrain": {"decay_every": None}},
            "it is now lr_schedule: {name: exponential, decay_every: N}, or {name: constant} for null",
        ),
        (
            {"discriminator": {"name": "discriminator"}},
            "discriminator.name = 'discriminator': is not known; it is now dense",
        ),
        (
            {"generator": {"upsampling": "resize"}},
            "generator.upsampling = 'resize': is not known; it is now nearest_before",
        ),
        ({"generator": {"upsampling": ["resize"]}}, "generator.upsampling = ['resize']: input should be"),
        (
            {"data": {"path": "p", "augment": True}},
            "data.augment = True: is now one of none, flips and all: use all",
        ),
        ({"mixed_precision": "fp16"}, "mixed_precision = 'fp16': fp16 needs a loss scaler per network"),
        ({"mixed_precision": "bf8"}, "mixed_precision = 'bf8': input should be 'no', 'bf16' or 'auto'"),
        ({"name": "a/b"}, "name = 'a/b': must be usable as the name of a folder"),
        ({"seed": -1}, "seed = -1: input should be greater than or equal to 0"),
        (
            {"adversarial": {"losses": {"perceptual": {"name": "vgg19", "layer": "conv9"}}}},
            "adversarial.losses.perceptual.layer = 'conv9': input should be 'relu2_2'",
        ),
        (
            {"adversarial": {"losses": {"generator": {"name": "l1"}}}},
            "adversarial.losses: generator is a panel of its own",
        ),
        ({"adversarial": {"losses": {}}}, "adversarial.losses = {}: is empty; it needs one at least"),
        ({"pretrain": {"steps": 1e4}}, "steps = 10000.0: input should be a valid integer; write 10000"),
        ({"output": "s3://b/x"}, "output = 's3://b/x': is a URL; a run is written to a folder"),
        # unions
        (
            {"adversarial": {"objective": "hinge"}},
            "adversarial.objective = 'hinge': is not a table of settings; use {name: hinge}",
        ),
        (
            {"generator": None},
            "generator = None: is not a table of settings; use {name: ...}, one of srresnet, rrdb",
        ),
        (
            {"discriminator": {"name": "patch", "padding": 1}},
            "discriminator.padding = 1: is not a setting; it belongs to discriminator.name: dense",
        ),
        (
            {"generator": {"growth": 4}},
            "generator.growth = 4: is not a setting; it belongs to generator.name: rrdb",
        ),
        ({"pretrain": None, "adversarial": None}, "every phase is null: there is nothing to train"),
        ({"data": {}}, "data.path: is missing and has no default"),
    ],
)
def test_errors_name_field_value_and_rule(change, expected):
    assert expected in error_of(MINIMAL | change)


def test_all_faults_are_told_at_once():
    text = error_of({"data": {"path": "p", "lr_crop": "48"}, "pretrain": {"steps": 0}, "sede": 3})
    assert "4 settings are wrong" in text
    for part in (
        "name: is missing",
        "data.lr_crop = '48'",
        "pretrain.steps = 0",
        "sede = 3: is not a setting; the nearest is seed",
    ):
        assert part in text


@pytest.mark.parametrize(
    "text, words",
    [
        ("name: a\nname: b\n", 'found duplicate key "name"'),
        ("a: [1\n", "cannot be read"),
        ("seed: !!int foo\n", "cannot be read"),
        ('seed: !!int ""\n', "cannot be read"),
        ("seed: !!bool foo\n", "cannot be read"),
        ("name: 2024-13-45\n", "cannot be read"),
        ("a: " + "[" * 1500 + "]" * 1500, "cannot be read"),
        ("- a\n", "is not a table of settings"),
        ("", "is not a table of settings"),
        (
            "a: !!python/object/apply:os.system ['true']\n",
            "cannot be read: could not determine a constructor",
        ),
    ],
)
def test_files_that_are_no_configs(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        load_config(write(tmp_path, text))


def test_a_missing_file():
    with pytest.raises(ConfigError, match="CONFIG=nowhere.yaml does not exist"):
        load_config("nowhere.yaml")


def test_differences_are_named():
    one = parse_config(MINIMAL)
    other = parse_config(MINIMAL | {"seed": 4, "pretrain": {"learning_rate": 1e-3}})
    assert differences(one, other) == ["seed: 0 -> 4", "pretrain.learning_rate: 0.0001 -> 0.001"]
    assert differences(one, one) == []


def test_a_second_generator_has_its_own_settings_and_nearest_keys():
    class OtherConfig(Settings):
        name: Literal["other"]
        ndim: int = 2
        scale: int = 4
        width: int = 3

    either = Annotated[SRResNetConfig | OtherConfig, Field(discriminator="name")]
    Both = create_model("Both", __base__=Config, generator=(either, SRResNetConfig()))
    assert Both.model_validate(MINIMAL).generator == SRResNetConfig()
    assert Both.model_validate(MINIMAL | {"generator": {"name": "other"}}).generator.width == 3


def test_phases_and_their_perceptual_losses():
    config = parse_config(MINIMAL)
    assert [name for name, _ in config.phases()] == ["pretrain", "adversarial"] and set(
        config.losses_of(VGGLossConfig)
    ) == {"adversarial.losses.perceptual"}
    config = parse_config(MINIMAL | {"pretrain": None, "adversarial": {"weights": "w.safetensors"}})
    assert [name for name, _ in config.phases()] == ["adversarial"] and config.losses_of(VGGLossConfig) == {}
