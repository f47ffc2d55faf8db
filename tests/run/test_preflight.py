"""Settings, files and launches that cannot work are refused before anything is written."""

import contextlib

import pytest
import torch
from conftest import tiny_config
from run_files import with_steps

from srgan_dist.config import ConfigError, dump_config
from srgan_dist.evaluation.validation import spread_over_rocks
from srgan_dist.models import build_discriminator
from srgan_dist.models.srresnet import SRResNet
from srgan_dist.models.weights_file import save_generator
from srgan_dist.run.dry_run import dry_run_report
from srgan_dist.run.preflight import preflight
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.locks import file_lock


def test_a_run_directory_whose_checkpoints_are_a_file_is_named_before_anything_is_trained(shards, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "checkpoints").write_text("")
    with pytest.raises(UserError, match="output=.*tiny cannot be written .*checkpoints"):
        train(tiny_config(shards, tmp_path))
    assert not (tmp_path / "tiny" / "metrics.jsonl").exists()


def test_two_trainings_in_one_directory_are_refused(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None)
    (tmp_path / "tiny").mkdir()
    lock = tmp_path / "tiny" / ".lock"
    with file_lock(lock, "it is held"):
        lock.write_bytes(b"process 7 on node3\xff")
        with pytest.raises(
            UserError,
            match="tiny is being trained by process 7 on node3.; wait for its end, end it, or choose",
        ):
            train(config)
        assert [path.name for path in (tmp_path / "tiny").iterdir()] == [".lock"]
    assert list(train(config).state.phase_ends) == ["pretrain"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data": {"path": "nowhere"}}, "nowhere is not a packed data set"),
        (
            {"data": {"lr_crop": 19}},
            "data.lr_crop=19 is larger than the smallest LR image .* which has 18 pixels",
        ),
        (
            {"generator": {"scale": 2}},
            "generator.scale=2, but data.path=.* has scale=4; set generator.scale=4",
        ),
        (
            {"data": {"lr_crop": 4, "batch_size": 1}},
            "data.batch_size=1 over 1 ranks leaves batch normalisation one value",
        ),
        (
            {"pretrain": {"weights": "nowhere.safetensors"}},
            "pretrain.weights: nowhere.safetensors is not a file",
        ),
        (
            {"adversarial": {"losses": {"perceptual": {"name": "vgg19", "weights": "nowhere.pth"}}}},
            "adversarial.losses.perceptual: .*VGG-19 weights are not at nowhere.pth",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(shards, tmp_path, changes, words):
    raw = tiny_config(shards, tmp_path).model_dump(mode="json")
    for section, values in changes.items():
        raw[section] |= values
    from srgan_dist.config import parse_config

    with pytest.raises(ValueError, match=words):
        preflight(parse_config(raw))
    assert not (tmp_path / "tiny").exists()


def test_a_batch_that_ranks_cannot_share(shards, tmp_path):
    with pytest.raises(
        ConfigError, match="data.batch_size=4 cannot be shared by 3 ranks equally; use a multiple of 3"
    ):
        preflight(tiny_config(shards, tmp_path), world_size=3)
    with pytest.raises(
        ConfigError,
        match="data.batch_size=4 cannot be cut into gradient_accumulation_steps=4 micro-batches on each of 2"
        " ranks;"
        " use a multiple of 8",
    ):
        preflight(tiny_config(shards, tmp_path, gradient_accumulation_steps=4), world_size=2)


@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_a_patch_discriminator_takes_the_smallest_crops_one_by_one(shards, tmp_path, norm):
    discriminator = {"name": "patch", "num_filters": 4, "num_layers": 2, "norm": norm}
    data = {"path": str(shards), "lr_crop": 3, "batch_size": 1}
    config = tiny_config(shards, tmp_path, data=data, discriminator=discriminator)
    assert config.discriminator.final_side(config.hr_crop) == 1
    preflight(config)
    critic = build_discriminator(config.discriminator, config.hr_crop, 2)
    assert critic(torch.zeros(1, 1, config.hr_crop, config.hr_crop)).shape == (1, 1, 1, 1)


def test_micro_batches_of_one_value_are_refused_as_batches_are(shards, tmp_path):
    def config(sync, accumulation):
        return tiny_config(
            shards,
            tmp_path,
            gradient_accumulation_steps=accumulation,
            data={"path": str(shards), "lr_crop": 4, "batch_size": 4},
            discriminator={"num_filters": 4, "sync_batchnorm": sync},
        )

    for sync, accumulation, ranks, refused in [
        (False, 4, 1, True),
        (False, 2, 2, True),
        (False, 1, 4, True),
        (False, 2, 1, False),
        (True, 2, 2, False),
        (True, 4, 1, True),
    ]:
        with (
            pytest.raises(ConfigError, match="leaves batch normalisation one value")
            if refused
            else contextlib.nullcontext()
        ):
            preflight(config(sync, accumulation), world_size=ranks)


def test_weights_of_another_network_are_refused(shards, tmp_path):
    config = tiny_config(shards, tmp_path)
    save_generator(
        tmp_path / "g.safetensors", SRResNet(config.generator.model_copy(update={"num_filters": 5})), {}
    )
    with pytest.raises(
        ConfigError,
        match="pretrain.weights=.*holds another generator than this config \\(num_filters: 5 -> 8\\)",
    ):
        preflight(with_steps(config, pretrain={"weights": str(tmp_path / "g.safetensors")}))


def test_dry_run_shows_config_networks_data_and_phases(shards, tmp_path):
    config = tiny_config(shards, tmp_path)
    report = dry_run_report(config, preflight(config))
    assert dump_config(config) in report
    for part in (
        "generator\n",
        "discriminator\n",
        "ResidualBlock-",
        "DiscriminatorBlock-",
        "total",
        "train 3 coal, 4 sandstone",
        "pretrain    6 updates, 1 pixel",
        "adversarial 4 updates, 1 pixel + 0.005 adversarial",
        " GFLOP a crop; memory of a rank 0.0",
        "a new run",
    ):
        assert part in report
    assert not (tmp_path / "tiny").exists()


def test_panels_take_the_rocks_in_turn(train_split):
    chosen = [train_split.key(i) for i in spread_over_rocks(train_split, 5)]
    assert chosen == [
        "coal_slice_0",
        "sandstone_slice_0",
        "coal_slice_1",
        "sandstone_slice_1",
        "coal_slice_2",
    ]
    assert len(spread_over_rocks(train_split, 99)) == 7
