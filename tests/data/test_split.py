import numpy as np
import pytest
from packed_sets import edit_manifest

from srgan_dist.data.split import open_split
from srgan_dist.utils.errors import UserError


def test_a_split_knows_its_samples(train_split):
    assert len(train_split) == 7 and train_split.scale == 4 and train_split.dtype == np.uint8
    assert {train_split.key(i) for i in range(7)} == {f"coal_slice_{i}" for i in range(3)} | {
        f"sandstone_slice_{i}" for i in range(4)
    }
    assert all(train_split.key(i).startswith(train_split.rock(i)) for i in range(7))
    assert train_split.smallest_lr == 18


def test_an_absent_split_is_none(copy):
    edit_manifest(copy, lambda manifest: manifest["splits"].pop("test"))
    assert open_split(copy, "test") is None


def test_a_folder_in_the_place_of_a_shard_is_named(copy):
    shard = copy / "train-000000.tar"
    shard.unlink()
    shard.mkdir()
    with pytest.raises(UserError, match="train-000000.tar is no regular file"):
        open_split(copy, "train")


def test_a_shard_that_is_missing_or_has_another_size(copy):
    shard = copy / "train-000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:-512])
    with pytest.raises(
        UserError, match=f"train-000001.tar has {len(data) - 512} bytes, the manifest says {len(data)}"
    ):
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
