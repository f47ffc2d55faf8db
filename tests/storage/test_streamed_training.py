"""Shards that are streamed with webdataset: each sample once an epoch on any number of ranks."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import work
from conftest import tiny_config
from webdatasets import encoded, pair, sample, write

from srgan_dist.config import ConfigError, parse_config
from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.split import open_split
from srgan_dist.models.weights_file import read_facts
from srgan_dist.packing.index_webdataset import index_webdataset
from srgan_dist.run.data_checks import open_splits, streamed_crops
from srgan_dist.run.dry_run import dry_run_report
from srgan_dist.run.preflight import preflight
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.locks import try_lock

CPU = torch.device("cpu")


def square(seed, kind="png"):
    """Return a sample of 72x72 HR pixels, so that a crop of 18 LR pixels is the image."""
    hr, lr = pair(seed, size=(72, 72))
    return sample(seed, kind, **{f"hr.{kind}": encoded(hr, kind), f"lr.{kind}": encoded(lr, kind)})


def write_shards(folder, counts, kind="png"):
    numbers = itertools.count()
    for shard, count in enumerate(counts):
        write(folder / f"shards-{shard:06d}.tar", [square(next(numbers), kind) for _ in range(count)])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of 3, 3, 3, 3 and 2 samples; the last validates."""
    return write_shards(tmp_path_factory.mktemp("set"), (3, 3, 3, 3, 2))


def config_of(path, tmp_path, stream=(), data=(), **changes):
    stream = {
        "train": "shards-{000000..000003}.tar",
        "valid": ["shards-000004.tar"],
        "rock_field": "rock",
        "workers": 1,
        "buffer": 4,
    } | dict(stream)
    data = {
        "path": str(path),
        "reader": "webdataset",
        "stream": stream,
        "lr_crop": 18,
        "batch_size": 4,
    } | dict(data)
    return tiny_config(path, tmp_path, data=data, **{"adversarial": None} | changes)


def loader(config, rank=0, ranks=1):
    ((split, _),), _ = open_splits(config)
    streamed = streamed_crops(config, split, rank, ranks)
    data = config.data
    arguments = data.lr_crop, data.batch_size, config.seed, data.augment, rank, ranks, CPU
    return TrainLoader([(split, 1.0)], *arguments, streamed=streamed)


def crops(source, first, count):
    """Return the hashes of the crops of some updates, in order."""
    batches, found = source.batches(first), []
    with contextlib.closing(batches):
        for lr, hr in itertools.islice(batches, count):
            found += [
                hashlib.sha256(one.numpy().tobytes() + other.numpy().tobytes()).hexdigest()
                for one, other in zip(lr, hr, strict=True)
            ]
    return found


@pytest.mark.parametrize("kind", ["png", "tif", "npy"])
def test_an_epoch_has_the_crops_of_the_indexed_reader(tmp_path, kind):
    write_shards(tmp_path / "set", (3, 3, 3, 3), kind)
    index_webdataset(tmp_path / "index", {"train": [f"{tmp_path}/set/*.tar"]}, rock="coal")
    split = open_split(tmp_path / "index", "train")
    expected = crops(TrainLoader([(split, 1.0)], 18, 4, 0, "none", 0, 1, CPU), 0, 3)
    assert len(set(expected)) == 12
    for workers, ranks in ((1, 1), (2, 2)):
        stream = {"rock": "coal", "rock_field": None, "valid": None, "workers": workers}
        config = config_of(tmp_path / "set", tmp_path, stream)
        found = [crops(loader(config, rank, ranks), 0, 6) for rank in range(ranks)]
        for epoch in range(2):  # each sample once
            part = slice(epoch * 12 // ranks, (epoch + 1) * 12 // ranks)
            assert sorted(itertools.chain(*(own[part] for own in found))) == sorted(expected)
        assert found == [crops(loader(config, rank, ranks), 0, 6) for rank in range(ranks)]


def test_each_epoch_has_its_own_order_and_deals_shards_out_in_it(folder, tmp_path):
    config = config_of(folder, tmp_path, {"buffer": 1}, {"lr_crop": 18})
    found = crops(loader(config), 0, 6)
    assert found[:12] != found[12:24]
    ((split, _),), _ = open_splits(config)
    streams = [streamed_crops(config, split, rank, 2) for rank in (0, 1)]
    for epoch in range(4):
        dealt = [set(stream.shards_of(0, 0, epoch)[0]) for stream in streams]
        assert not dealt[0] & dealt[1] and len(dealt[0] | dealt[1]) == 4
    assert len({frozenset(streams[0].shards_of(0, 0, epoch)[0]) for epoch in range(8)}) > 1


def test_corners_and_orientations_are_drawn_for_every_slot(folder, tmp_path):
    config = config_of(folder, tmp_path, {}, {"lr_crop": 8, "augment": "all"})
    found = crops(loader(config), 0, 12)
    assert len(set(found)) == 48 and found == crops(loader(config), 0, 12)


def test_uneven_shards_leave_no_sample_out(tmp_path):
    """Streams of 5 and 2 samples an epoch: the second is ahead, by whole epochs of its own."""
    write_shards(tmp_path / "set", (5, 2))
    stream = {"train": ["shards-000000.tar", "shards-000001.tar"], "valid": None}
    config = config_of(tmp_path / "set", tmp_path, stream, {"batch_size": 2})
    found = [Counter(crops(loader(config, rank, 2), 0, 70)) for rank in (0, 1)]
    total = found[0] + found[1]
    assert len(total) == 7 and min(total.values()) > 10


def test_a_loader_that_begins_later_begins_a_whole_epoch(folder, tmp_path):
    config = config_of(folder, tmp_path)
    later = crops(loader(config), 5, 3)
    assert sorted(later) == sorted(crops(loader(config), 0, 3)) and later != crops(loader(config), 0, 3)
    assert later == crops(loader(config), 5, 3)


# Training


def test_a_training_streams_validates_and_goes_on_where_it_was_stopped(folder, tmp_path, capsys):
    config = config_of(folder, tmp_path, checkpoint_every=3, validate_every=3)
    report = dry_run_report(config, preflight(config))
    assert "train streamed; of its first samples 6 berea, 6 coal" in report
    assert "streamed by 1 workers a rank, shuffled in buffers of 4 samples; begins new epochs at" in report
    train(config)
    lines = [line for line in capsys.readouterr().out.splitlines() if ", valid, dB" in line]
    assert lines and all("berea" in line and "coal" in line for line in lines)
    weights = tmp_path / "tiny" / "weights" / "pretrain.safetensors"
    facts = read_facts(weights)
    assert facts["data"][0]["rocks"]["coal"]["images"] is None and len(facts["grey_ranges"]) == 2
    for path in (tmp_path / "tiny" / "checkpoints").glob("*6"):
        path.rename(tmp_path / "away")
    weights.unlink()
    again = train(config)
    assert again.state.global_step == 6 and "begins new epochs at update 3" in capsys.readouterr().out
    other = config_of(folder, tmp_path, {"train": "shards-{000000..000002}.tar"}, name="tiny")
    with pytest.raises(UserError, match="data.stream.train"):
        preflight(other)
    preflight(config_of(folder, tmp_path, {"workers": 2, "buffer": 9}))


def test_two_ranks_share_the_shards_and_go_on_together(folder, tmp_path):
    config = config_of(
        folder, tmp_path, checkpoint_every=3, adversarial={"steps": 2, "losses": {"pixel": {"name": "l1"}}}
    )
    for start in ("a new", "continues from"):
        reports = work("train", config, tmp_path / start, 2)
        assert reports[0] == reports[1]
        newest = sorted((tmp_path / "tiny" / "checkpoints").iterdir())[1:]
        assert [path.name for path in newest][-1] == "step-00000008"
        for step in newest:
            step.rename(tmp_path / f"{start} {step.name}")
    assert len(json.loads((tmp_path / "tiny" / "run.json").read_text())["starts"]) == 2


# Settings


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rock": "coal"}, "give either rock, of all samples, or rock_field"),
        ({"train": "pipe:cat shards-000000.tar"}, "no command is run to read them"),
        ({"train": "other-{0..3}.tar"}, r"other-0.tar does not exist"),
        ({"valid": "shards-000000.tar"}, "of data.stream.valid is .* of data.stream.train; give it once"),
        ({"hr": "sharp.png"}, "sample '0000' has no sharp.png.*Name its fields with data.stream.hr"),
        ({"rock_field": "name"}, "has no text or whole number 'name' in its JSON"),
        ({"workers": 3}, r"workers=3 on 2 ranks are 6 streams, .* has 4 shards; use 2 or less"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, tmp_path, change, words):
    with pytest.raises((UserError, ConfigError), match=words):
        preflight(config_of(folder, tmp_path, change), world_size=2)


@pytest.mark.parametrize(
    "data, words",
    [
        ({"stream": None}, "reader=webdataset and stream=null do not fit"),
        ({"reader": "indexed"}, "reader=indexed and stream=a table do not fit"),
        ({"verify": "full"}, "verify=full needs an index"),
        ({"block_shards": 2}, "block_shards needs an index"),
    ],
)
def test_settings_of_an_index_are_refused(folder, tmp_path, data, words):
    raw = config_of(folder, tmp_path).model_dump(mode="json")
    with pytest.raises(ConfigError, match=words):
        parse_config(raw | {"data": raw["data"] | data})


def test_samples_that_do_not_fit_the_set_are_named(folder, tmp_path):
    hr, lr = pair(1, dtype=np.uint16)
    wide = {"hr.png": encoded(hr, "png"), "lr.png": encoded(lr, "png")}
    small = {
        "hr.png": encoded(hr[:40].astype(np.uint8), "png"),
        "lr.png": encoded(lr[:10].astype(np.uint8), "png"),
    }
    for late, words in (
        (sample(99, **wide), "sample '0099' has HR of uint16 and LR of uint16, but the set has uint8"),
        (sample(99, **small), "sample '0099' has LR of 10x20 pixels, less than data.lr_crop=18"),
        (
            sample(99, **{"hr.png": encoded(lr.astype(np.uint8), "png")}),
            "sample '0099' has HR of 18x20 and LR of",
        ),
    ):
        write(tmp_path / "set" / "0.tar", [sample(i) for i in range(9)] + [late])
        config = config_of(tmp_path / "set", tmp_path, {"train": "0.tar", "valid": None})
        with pytest.raises(UserError, match=words):
            crops(loader(config), 0, 9)


@pytest.mark.parametrize("planted", ["folder of another user", "link", "streamed of another user"])
def test_a_local_part_that_somebody_else_has_put_there_is_not_used(folder, tmp_path, planted):
    config = config_of(folder, tmp_path, data={"cache": str(tmp_path / "cache")})
    place = open_splits(config)[0][0][0].place.path
    if planted == "link":
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    elif os.geteuid():
        pytest.skip("needs root, to give a folder to somebody else")
    else:
        os.chown(place if planted.startswith("folder") else place.parent, 65534, 65534)
    words = "is no folder, or a link" if planted == "link" else "belongs to another user .uid 65534."
    with pytest.raises(UserError, match=f"data.cache=.*{words}.*delete it, or give another folder"):
        open_splits(config)


def test_a_streamed_set_warns_of_a_cache_that_others_may_write_to(folder, tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    open_splits(config_of(folder, tmp_path, data={"cache": str(tmp_path / "cache")}))
    assert f"data.cache={tmp_path / 'cache'}: other users may write to this folder" in caplog.text


@pytest.mark.parametrize("kind", ["gone", "full"])
def test_a_folder_of_temporary_files_without_room_is_named(folder, tmp_path, monkeypatch, kind):
    """It is neither the cache nor a damaged image."""

    def no_room(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    config = config_of(folder, tmp_path, data={"cache": str(tmp_path / "cache")})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("gone" if kind == "gone" else "")))
    if kind == "full":
        monkeypatch.setattr(Path, "write_bytes", no_room)
    with pytest.raises(UserError, match=r"TMPDIR=.* does not hold an image of .* set TMPDIR to another"):
        open_splits(config)


def test_the_part_of_a_local_copy_that_a_killed_process_has_left_is_removed_by_the_next(folder, tmp_path):
    left, busy = (tmp_path / "cache" / "streamed" / f"{letter * 64}.part" for letter in "ab")
    for part in (left, busy):
        part.mkdir(parents=True)
        (part / "valid-000000.tar").write_bytes(bytes(9999))
    with try_lock(busy.with_suffix(".lock")):
        loader(config_of(folder, tmp_path, data={"cache": str(tmp_path / "cache")}))
    assert not left.exists() and busy.exists()
