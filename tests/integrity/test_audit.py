import json
import re
import shutil

import numpy as np
import pytest
from packed_sets import edit_manifest

from srgan_dist.data.split import open_set, open_split
from srgan_dist.integrity.audit import verify
from srgan_dist.utils.files import sha256_of


def test_an_intact_set_verifies(shards):
    assert verify(open_set(shards)) == []


@pytest.mark.parametrize("trusted", [False, True], ids=["hash", "stream"])
def test_one_flipped_bit_is_found(shards, tmp_path, trusted):
    """Also when the manifest was made to fit the damaged shard: the crc32 of the pixels shows it."""
    copy = shutil.copytree(shards, tmp_path / "copy")
    split = open_split(copy, "train")
    row = split.rows[split.rows["shard"] == 1][0]
    data = bytearray(split.shards[1].read_bytes())
    data[int(row["lr_offset"]) + 5] ^= 1
    split.shards[1].write_bytes(data)
    if trusted:
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["splits"]["train"]["shards"][1]["sha256"] = sha256_of(split.shards[1])
        (copy / "manifest.json").write_text(json.dumps(manifest))
    (fault,) = verify(open_set(copy))
    assert "train-000001.tar" in fault
    assert ("other LR pixels than were packed" if trusted else "sha256 differs from the manifest") in fault


PLACES = ["hr_offset", "record_offset", "lr_offset", "record_bytes"]


def swap_places(rows):
    """Let two samples of one shard point at one another's pixels."""
    one, other = np.flatnonzero(rows["shard"] == 0)[:2]
    rows[PLACES][[one, other]] = rows[PLACES][[other, one]]


def darken(rows):
    rows["darkest"][0], rows["brightest"][0] = 0, 1


@pytest.mark.parametrize(
    "change, words",
    [
        (
            swap_places,
            "at offset 0 is the file '(.*)' of 5888 bytes, the index has the file '\\1' of 5888 bytes at"
            " 8704$",
        ),
        (darken, "has grey levels from .* the index says 0 to 1$"),
    ],
)
def test_pixels_are_checked_where_the_training_reads_them(shards, tmp_path, change, words):
    copy = shutil.copytree(shards, tmp_path / "copy")
    path = copy / "train.index.npy"
    rows = np.load(path)
    change(rows)
    np.save(path, rows)
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"]["index"].update(sha256=sha256_of(path)))
    faults = verify(open_set(copy))
    assert faults and all("train-000000.tar: " in fault and re.search(words, fault) for fault in faults)


def test_a_tar_that_the_manifest_does_not_list_is_named(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    shutil.copy(copy / "train-000000.tar", copy / "train-000009.tar")
    (fault,) = verify(open_set(copy))
    assert fault.startswith(f"{copy / 'train-000009.tar'}: the manifest does not list it")


def test_totals_that_are_not_the_sums_of_the_splits_are_told(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    edit_manifest(copy, lambda manifest: manifest["totals"].update(coal=99))
    (fault,) = verify(open_set(copy))
    assert "manifest.json: its totals {'coal': 99, 'sandstone': 6} are not the sums of its splits" in fault


def test_a_key_of_two_splits_is_told(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    for file in copy.glob("train*"):
        if file.suffix == ".tar" or file.name == "train.index.npy":
            shutil.copy(file, copy / file.name.replace("train", "valid"))

    def change(manifest):
        manifest["splits"]["valid"] = json.loads(
            json.dumps(manifest["splits"]["train"]).replace("train", "valid")
        )
        manifest["totals"] = {"coal": 7, "sandstone": 9}

    edit_manifest(copy, change)
    faults = verify(open_set(copy))
    assert len(faults) == 7 and all("is in 2 splits" in fault for fault in faults)


def test_a_shard_that_is_no_tar_is_named_although_its_hash_fits(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    path = copy / "train-000001.tar"
    path.write_bytes(bytes(range(256)) * (path.stat().st_size // 256))
    edit_manifest(
        copy, lambda manifest: manifest["splits"]["train"]["shards"][1].update(sha256=sha256_of(path))
    )
    (fault,) = verify(open_set(copy))
    assert fault.startswith(f"{path}: at offset 0 is no tar header (invalid header), the index has the file")
