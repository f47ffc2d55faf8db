"""Sets of the version before volumes: heights and widths as columns, and the encoding called payload."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, tiny_config, write_folder
from packed_sets import edit_manifest, edit_rows, trust

from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set, open_split, read_manifest
from srgan_dist.integrity.audit import verify
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of

ROW = np.dtype(
    [
        ("key", "S90"),
        ("rock", "<u2"),
        ("shard", "<u4"),
        ("hr_offset", "<u8"),
        ("hr_bytes", "<u8"),
        ("hr_height", "<u4"),
        ("hr_width", "<u4"),
        ("hr_crc32", "<u4"),
        ("lr_offset", "<u8"),
        ("lr_bytes", "<u8"),
        ("lr_height", "<u4"),
        ("lr_width", "<u4"),
        ("lr_crc32", "<u4"),
        ("record_offset", "<u8"),
        ("record_bytes", "<u4"),
        ("darkest", "<u2"),
        ("brightest", "<u2"),
    ]
)


def to_version_2(folder):
    """Rewrite manifest and index tables of a set as version 2 had them; the shards are the same."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["splits"].values():
        table = folder / entry["index"]["file"]
        new = np.load(table)
        old = np.zeros(len(new), ROW)
        for name in set(ROW.names) & set(new.dtype.names):
            old[name] = new[name]
        old["lr_height"], old["lr_width"] = new["lr_shape"].T
        old["hr_height"], old["hr_width"] = manifest["scale"] * new["lr_shape"].T
        np.save(table, old)
        entry["index"] |= {"bytes": table.stat().st_size, "sha256": sha256_of(table)}
    manifest |= {"version": 2, "payload": manifest.pop("encoding")}
    manifest["options"]["payload"] = manifest["options"].pop("encoding")
    del manifest["ndim"], manifest["options"]["ndim"]
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return folder


@pytest.fixture(params=["npy", "png"])
def sets(request, tmp_path):
    """The same set in both versions, and its source."""
    write_folder(tmp_path / "hr", {"sandstone": 6, "coal": 5})
    options = BuildOptions(tile=80, crop=32, samples_per_shard=3, encoding=request.param)
    for name in ("new", "old"):
        build(tmp_path / "hr", tmp_path / name, options)
    to_version_2(tmp_path / "old")
    return tmp_path / "new", tmp_path / "old", options


def batches_of(folder):
    loader = TrainLoader([(open_split(folder, "train"), 1.0)], 8, 4, 0, "all", 0, 1, torch.device("cpu"))
    batches = loader.batches(0)
    taken = [b"".join(x.numpy().tobytes() for x in next(batches)) for _ in range(5)]
    batches.close()
    return taken


def test_the_same_crops_images_and_records_are_read(sets):
    new, old, _ = sets
    assert batches_of(old) == batches_of(new)
    for name in ("train", "valid", "test"):
        one, other = open_split(new, name), open_split(old, name)
        assert np.array_equal(one.rows, other.rows) and (other.ndim, other.smallest_lr) == (2, 18)
        for i in range(len(one)):
            assert all(map(np.array_equal, Reader(one).image(i), Reader(other).image(i)))
            assert Reader(one).record(i) == Reader(other).record(i)
    assert verify(open_set(old)) == []


def test_it_is_recognised_as_the_set_of_its_source_and_stays_as_it_is(sets):
    _, old, options = sets
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in old.iterdir()}
    assert open_set(old).sha256 == before["manifest.json"]  # runs that were trained on it continue
    result = build(old.with_name("hr"), old, options)
    assert result.already_there and result.manifest.encoding == options.encoding
    with pytest.raises(UserError, match="holds another set .seed: 0 in OUT, now 1"):
        build(old.with_name("hr"), old, replace(options, seed=1))
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in old.iterdir()} == before


def test_it_trains_to_the_same_weights(tmp_path):
    states = []
    for name in ("new", "old"):
        folder = tmp_path / name
        build(write_folder(tmp_path / f"{name}_source", {"coal": 4}), folder / "set", TINY)
        if name == "old":
            to_version_2(folder / "set")
        config = tiny_config(folder / "set", folder / "runs", adversarial=None)
        states.append(train(config).generator.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_hr_sizes_that_are_not_scale_times_those_of_lr_are_refused(shards, copy):
    to_version_2(copy)
    edit_rows(copy, lambda rows: rows["hr_height"].__setitem__(2, 73))
    with pytest.raises(UserError, match="train.index.npy does not fit its shards, first at row 2"):
        open_split(copy, "train")


def test_an_old_table_of_a_set_of_volumes_is_refused(copy):
    to_version_2(copy)
    edit_manifest(copy, lambda manifest: manifest.update(version=3, ndim=3))
    edit_manifest(copy, lambda manifest: manifest.update(encoding=manifest.pop("payload")))
    trust(copy)
    assert read_manifest(copy).ndim == 3
    with pytest.raises(UserError, match="train.index.npy does not hold 7 rows of this version's index"):
        open_split(copy, "train")


def test_a_damaged_version_2_manifest_is_named(copy):
    to_version_2(copy)
    edit_manifest(copy, lambda manifest: manifest.update(options=[]))
    with pytest.raises(UserError, match="manifest.json is damaged at options: Input should be a valid dict"):
        read_manifest(copy)
