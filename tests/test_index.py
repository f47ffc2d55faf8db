import json
import shutil

import numpy as np
import pytest

from srgan_dist.data.index import open_split, read_manifest
from srgan_dist.errors import UserError
from srgan_dist.files import sha256_of


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def edit_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_split_knows_its_samples(train_split):
    assert len(train_split) == 7 and train_split.scale == 4 and train_split.dtype == np.uint8
    assert {train_split.key(i) for i in range(7)} == {f"coal_slice_{i}" for i in range(3)} | {f"sandstone_slice_{i}" for i in range(4)}
    assert all(train_split.key(i).startswith(train_split.rock(i)) for i in range(7))
    assert train_split.smallest_lr == 18


def test_an_absent_split_is_none(copy):
    edit_manifest(copy, lambda manifest: manifest["splits"].pop("test"))
    assert open_split(copy, "test") is None


def test_folders_that_are_no_packed_set(tmp_path, copy):
    with pytest.raises(UserError, match="has no manifest.json. Make one with: python shards/build.py"):
        read_manifest(tmp_path)
    edit_manifest(copy, lambda manifest: manifest.update(version=99))
    with pytest.raises(UserError, match="has version 99"):
        read_manifest(copy)
    (copy / "manifest.json").write_text('{"format": "another"}')
    with pytest.raises(UserError, match="is not a manifest of srgan_dist shards"):
        read_manifest(copy)
    (copy / "manifest.json").write_text('{"format": ')
    with pytest.raises(UserError, match="manifest.json cannot be read"):
        read_manifest(copy)


@pytest.mark.parametrize("change, fault", [
    (lambda m: m.update(dtype="object"), "dtype: Input should be 'uint8' or 'uint16'"),
    (lambda m: m.pop("scale"), "scale: Field required"),
    (lambda m: m["splits"]["train"]["shards"][0].pop("bytes"), r"splits.train.shards.0.bytes: Field required"),
    (lambda m: m["splits"].update(extra=m["splits"]["train"]), "splits.extra"),
])
def test_a_damaged_manifest_is_named_with_the_place(copy, change, fault):
    edit_manifest(copy, change)
    with pytest.raises(UserError, match=f"manifest.json is damaged at {fault}"):
        open_split(copy, "train")


@pytest.mark.parametrize("field, value", [("shard", 77), ("rock", 9), ("hr_offset", 2**40), ("lr_offset", 2**63), ("hr_height", 73),
                                          ("record_bytes", 2**31), ("lr_width", 0)])
def test_an_index_that_points_nowhere_is_refused(copy, field, value):
    path = copy / "train.index.npy"
    rows = np.load(path)
    rows[field][2] = value
    np.save(path, rows)
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"]["index"].update(sha256=sha256_of(path)))
    with pytest.raises(UserError, match="train.index.npy does not fit its shards, first at row 2"):
        open_split(copy, "train")


def test_a_shard_that_is_missing_or_has_another_size(copy):
    shard = copy / "train-000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:-512])
    with pytest.raises(UserError, match=f"train-000001.tar has {len(data) - 512} bytes, the manifest says {len(data)}"):
        open_split(copy, "train")
    shard.unlink()
    with pytest.raises(UserError, match="train-000001.tar is missing although the manifest lists it"):
        open_split(copy, "train")


def test_an_index_that_is_not_the_manifests(copy):
    rows = np.load(copy / "train.index.npy")
    rows["hr_offset"][0] += 512
    np.save(copy / "train.index.npy", rows)
    with pytest.raises(UserError, match="train.index.npy is not the index that the manifest names"):
        open_split(copy, "train")


@pytest.mark.parametrize("name", ["../outside.tar", "/etc/passwd", "a/b.tar"])
def test_a_manifest_cannot_point_outside_its_folder(copy, name):
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(UserError, match="names a file outside"):
        open_split(copy, "train")
