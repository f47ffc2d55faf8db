import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from packed_sets import edit_manifest

from srgan_dist.data.manifest import (
    MANIFEST_BYTES,
    MOST_SHARDS,
    ShardEntry,
    check_manifest_size,
    shard_name,
)
from srgan_dist.data.split import open_split, read_manifest
from srgan_dist.packing.layout import arrange
from srgan_dist.utils.errors import UserError


def test_folders_that_are_no_packed_set(tmp_path, copy):
    with pytest.raises(UserError, match="has no manifest.json. Make one with: srgan-dist build"):
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


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda m: m.update(dtype="object"), "dtype: Input should be 'uint8' or 'uint16'"),
        (lambda m: m.pop("scale"), "scale: Field required"),
        (
            lambda m: m["splits"]["train"]["shards"][0].pop("bytes"),
            r"splits.train.shards.0.bytes: Field required",
        ),
        (lambda m: m["splits"].update(extra=m["splits"]["train"]), "splits.extra"),
        (lambda m: m.update(scale=10**30), "scale: Input should be less than"),
        (
            lambda m: m["splits"]["train"].update(shards=[]),
            "splits.train.shards: List should have at least 1 item",
        ),
        (
            lambda m: m["splits"]["train"]["shards"][1].update(count=3),
            "splits.train: its shards have 8 samples, it says count=7",
        ),
        (
            lambda m: m["splits"]["train"].update(rocks={"coal": 3}),
            "splits.train: its rocks have 3 samples, it says count=7",
        ),
        (
            lambda m: m["splits"].update(valid=m["splits"]["train"]),
            "its top level: lists the file 'train.index.npy' 2 times",
        ),
        (
            lambda m: m["splits"]["valid"]["shards"][0].update(file="train-000000.tar"),
            "its top level: lists the file 'train-0",
        ),
        (lambda m: m.update(rocks=["coal", "coal"]), "its top level: lists the rock 'coal' 2 times"),
    ],
)
def test_a_damaged_manifest_is_named_with_the_place(copy, change, fault):
    edit_manifest(copy, change)
    with pytest.raises(UserError, match=f"manifest.json is damaged at {fault}"):
        open_split(copy, "train")


def test_a_manifest_too_deep_to_parse_is_named(copy):
    (copy / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="manifest.json cannot be read: .*recursion"):
        read_manifest(copy)


@pytest.mark.parametrize("name", ["../outside.tar", "/etc/passwd", "a/b.tar"])
def test_a_manifest_cannot_point_outside_its_folder(copy, name):
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(UserError, match="names a file outside"):
        open_split(copy, "train")


@pytest.mark.parametrize("name", ["", "..", "nul\0.tar", "two\nlines.tar", "x" * 300])
def test_names_that_no_file_of_a_set_has_are_refused(copy, name):
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(
        UserError, match="manifest.json is damaged at splits.train.shards.0.file: is not the name of a file"
    ):
        open_split(copy, "train")


def test_a_name_of_half_a_character_is_refused(copy):
    edit_manifest(
        copy, lambda manifest: manifest["splits"]["train"]["shards"][0].update(file="half\udc80.tar")
    )
    with pytest.raises(UserError, match="manifest.json cannot be read: .*surrogates not allowed"):
        open_split(copy, "train")


@pytest.mark.parametrize("rock", ["../../x", "a\nb", "", ".", "x" * 101, "\x1b[2J", "a\u202eb"])
def test_names_that_no_rock_has_are_refused(copy, rock):
    edit_manifest(copy, lambda manifest: manifest["rocks"].__setitem__(0, rock))
    with pytest.raises(UserError, match="is damaged at rocks.0: has the rock .*is called by 1 to 100"):
        read_manifest(copy)


def with_shards(manifest, count):
    train = manifest["splits"]["train"]
    shard = train["shards"][0] | {"count": 1}
    train["shards"] = [shard | {"file": f"train-{number:06d}.tar"} for number in range(count)]
    train |= {"count": count, "rocks": {manifest["rocks"][0]: count}}


def with_bytes(value):
    return lambda text: re.sub(rb'"bytes": \d+', b'"bytes": ' + value, text, count=1)


def instead(old, new):
    return lambda text: text.replace(old, new, 1)


ABUSES = {
    "depth": (lambda text: b"[" * 10**6, "cannot be read"),
    "depth inside": (instead(b'"options": {', b'"options": {"a": ' + b"[" * 10**5), "cannot be read"),
    "10^5 digits": (instead(b'"scale": 4', b'"scale": ' + b"9" * 10**5), "cannot be read"),
    "infinite bytes": (with_bytes(b"1e400"), "not JSON compliant"),
    "negative bytes": (with_bytes(b"-1"), "bytes: Input should be"),
    "bytes of 2^61": (with_bytes(b"%d" % 2**61), "bytes: Input should be"),
    "bytes as text": (with_bytes(b'"3"'), "bytes: Input should be"),
    "two versions": (instead(b'"version": 3', b'"version": 3, "version": 2'), "twice"),
    "two lists of splits": (instead(b'"splits"', b'"splits": {}, "splits"'), "twice"),
    "no text": (lambda text: b"\xff\xfe" + text, "cannot be read"),
}


@pytest.mark.parametrize("abuse", ABUSES)
def test_an_abused_manifest_is_named(copy, abuse):
    change, fault = ABUSES[abuse]
    path = copy / "manifest.json"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=f"manifest.json .*{fault}"):
        read_manifest(copy)


def test_many_shards_in_a_manifest_are_named_by_the_first_that_is_missing(copy):
    edit_manifest(copy, lambda manifest: with_shards(manifest, 10**4))
    with pytest.raises(UserError, match=r"train-\d+.tar (is missing|has \d+ bytes)"):
        open_split(copy, "train")


def test_a_million_shards_are_refused_by_name_where_they_are_read(copy):
    path = copy / "manifest.json"
    edit_manifest(copy, lambda manifest: manifest.update(splits={"train": {"shards": [0] * 10**6}}))
    with pytest.raises(UserError, match=f"{path}: 1,000,000 shards are more than the 300,000 that a set may"):
        read_manifest(copy)


def test_the_most_shards_that_may_be_are_within_the_bytes_that_are_read():
    shard = ShardEntry(file=shard_name("train", 10**6), bytes=10**10, sha256="0" * 64, count=10**6)
    entry = json.dumps({"splits": {"train": {"shards": [shard.model_dump()] * 2}}}, indent=1)
    assert MOST_SHARDS * len(entry) / 2 < MANIFEST_BYTES


def test_a_million_shards_are_refused_before_they_are_packed():
    source, sample = SimpleNamespace(split="train"), SimpleNamespace(source=0)
    options = SimpleNamespace(samples_per_shard=1)
    with pytest.raises(UserError, match="samples_per_shard=1: 1,000,000 shards are more than the 300,000"):
        arrange([source], [sample] * 10**6, ["coal"], np.dtype("uint8"), options)


def test_an_index_of_paths_that_are_too_long_is_refused_before_it_is_written():
    with pytest.raises(UserError, match="OUT=out: the manifest of 7 shards would have .* shorten the paths"):
        check_manifest_size("OUT=out", 7, bytes(MANIFEST_BYTES + 1))
