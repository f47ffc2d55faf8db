"""Training sets that are mixed, corrupt or without validation images."""

import json
import shutil

import pytest
import torch
from conftest import tiny_config, write_folder
from run_files import records

from srgan_dist.config import ConfigError
from srgan_dist.data.split import open_split
from srgan_dist.models.weights_file import load_generator
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.run.dry_run import dry_run_report
from srgan_dist.run.preflight import preflight
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError


@pytest.fixture
def granite(tmp_path):
    """A second set, of another rock, without valid and test."""
    folder = write_folder(tmp_path / "more", {"granite": 1}, size=(80, 72))
    build(folder, tmp_path / "granite", BuildOptions(tile=80, crop=32))
    return tmp_path / "granite"


def test_sets_are_mixed_by_weight(shards, granite, tmp_path):
    data = {
        "path": str(shards),
        "lr_crop": 8,
        "batch_size": 4,
        "train": [{"path": str(shards), "weight": 3.0}, {"path": str(granite)}],
    }
    config = tiny_config(shards, tmp_path, adversarial=None, data=data, checkpoint_every=4)
    report = dry_run_report(config, preflight(config))
    assert (
        f"train 3 coal, 4 sandstone of {shards}, weight 3" in report
        and f"train 1 granite of {granite}, weight 1" in report
    )
    train(config)
    alone = train(tiny_config(shards, tmp_path, name="alone", adversarial=None))
    mixed = load_generator(tmp_path / "tiny" / "weights" / "pretrain.safetensors")[0]
    assert not torch.equal(mixed.tail.weight, alone.generator.tail.weight)
    other = config.model_copy(
        update={"data": config.data.model_copy(update={"train": config.data.train[:1]})}
    )
    with pytest.raises(UserError, match="was saved with other settings .data.path .its content"):
        preflight(other)


def test_sets_that_do_not_fit_each_other_are_refused(shards, granite, tmp_path):
    def prepared(path):
        return preflight(
            tiny_config(
                shards,
                tmp_path,
                data={
                    "path": str(shards),
                    "lr_crop": 8,
                    "batch_size": 4,
                    "train": [{"path": str(granite)}, {"path": str(path)}],
                },
            )
        )

    build(tmp_path / "more", tmp_path / "wide", BuildOptions(tile=80, crop=32, dtype="uint16"))
    with pytest.raises(
        ConfigError,
        match="data.train.1.path=.*wide has uint16 images, .*granite has uint8; build one of them",
    ):
        prepared(tmp_path / "wide")
    build(tmp_path / "more", tmp_path / "double", BuildOptions(tile=80, crop=32, scale=2))
    with pytest.raises(ConfigError, match="generator.scale=4, but data.train.1.path=.*double has scale=2"):
        prepared(tmp_path / "double")


def test_an_image_that_is_trained_on_and_validated_on_is_found(shards, tmp_path):
    build(
        write_folder(tmp_path / "hr", {"sandstone": 6, "coal": 5}),
        tmp_path / "other",
        BuildOptions(tile=80, crop=32, kind="default"),
    )
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    manifest["splits"] = {"train": manifest["splits"]["valid"]}
    manifest["totals"] = manifest["splits"]["train"]["rocks"]
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    data = {"path": str(shards), "lr_crop": 8, "batch_size": 4, "train": [{"path": str(tmp_path / "other")}]}
    with pytest.raises(
        ConfigError,
        match="in valid, and .*other has the same picture in train \\(2 such\\); scores would be too good",
    ):
        preflight(tiny_config(shards, tmp_path, data=data))


def damage(shards, split_name, row, folder):
    """Copy a set and flip a bit in the HR pixels of one sample."""
    copy = shutil.copytree(shards, folder)
    split = open_split(copy, split_name)
    shard = split.shards[split.rows["shard"][row]]
    data = bytearray(shard.read_bytes())
    data[int(split.rows["hr_offset"][row]) + 7] ^= 1
    shard.write_bytes(data)
    return copy, split.key(row)


def data_of(folder, **changes):
    return {"path": str(folder), "lr_crop": 8, "batch_size": 4} | changes


def test_a_flipped_bit_is_found_by_full_verification_and_stops_the_training(shards, tmp_path):
    copy, key = damage(shards, "train", 2, tmp_path / "set")
    with pytest.raises(
        UserError,
        match=f"1 training and 0 validation or test samples are damaged; (.|\n)*{key} has other HR pixels at"
        f" offset",
    ):
        train(tiny_config(copy, tmp_path, data=data_of(copy, verify="full")))
    assert not (tmp_path / "tiny").exists()
    train(tiny_config(copy, tmp_path, adversarial=None, data=data_of(copy)))  # sizes alone do not show it


def test_bad_samples_within_the_limit_are_replaced_listed_and_counted(shards, tmp_path):
    copy, key = damage(shards, "train", 2, tmp_path / "set")
    config = tiny_config(
        copy, tmp_path, adversarial=None, data=data_of(copy, verify="full", max_bad_samples=1)
    )
    train(config)
    (counts,) = [r for r in records(tmp_path / "tiny") if "data/bad_samples" in r]
    assert counts["data/bad_samples"] == counts["data/bad_samples/hr_crc32"] == 1
    assert key in (tmp_path / "tiny" / "bad_samples.txt").read_text()


def test_a_set_of_which_every_sample_is_damaged_is_refused(shards, granite, tmp_path):
    copy, _ = damage(granite, "train", 0, tmp_path / "set")
    data = data_of(
        shards, verify="full", max_bad_samples=9, train=[{"path": str(shards)}, {"path": str(copy)}]
    )
    with pytest.raises(
        UserError, match="set: every sample of its train split is damaged, none is left to substitute"
    ):
        train(tiny_config(shards, tmp_path, data=data))


def test_a_damaged_validation_sample_stops_the_training_whatever_the_limit(shards, tmp_path):
    copy, key = damage(shards, "valid", 0, tmp_path / "set")
    with pytest.raises(
        UserError, match=f"0 training and 1 validation or test samples are damaged(.|\n)*{key}"
    ):
        train(tiny_config(copy, tmp_path, data=data_of(copy, verify="full", max_bad_samples=5)))


def test_a_limit_of_bad_samples_without_verification_is_refused(shards, tmp_path):
    with pytest.raises(
        ConfigError, match="max_bad_samples=2 needs verify=full, not size: only that finds them"
    ):
        tiny_config(shards, tmp_path, data=data_of(shards, max_bad_samples=2))


def test_a_set_without_valid_and_test_trains_and_says_so_once(shards, tmp_path, capsys):
    copy = shutil.copytree(shards, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["splits"] = {"train": manifest["splits"]["train"]}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    trained = train(tiny_config(copy, tmp_path, adversarial=None))
    assert list(trained.state.phase_ends) == ["pretrain"]
    assert capsys.readouterr().out.count(f"{copy} has no valid split: nothing is validated") == 1
