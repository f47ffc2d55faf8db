import json
import shutil

import pytest

from srgan_dist.data.index import open_split, read_manifest
from srgan_dist.files import sha256_of
from srgan_dist.data.summary import format_counts, format_ranges, verify


def test_tables(shards):
    counts = format_counts(read_manifest(shards)).splitlines()
    assert counts[0].split() == ["x4", "uint8", "train", "valid", "test", "all"]
    assert [line.split() for line in counts[1:4]] == [["coal", "3", "1", "1", "5"], ["sandstone", "4", "1", "1", "6"], ["images", "7", "2", "2", "11"]]
    ranges = [line.split() for line in format_ranges(shards).splitlines()[1:]]
    assert [row[:3] for row in ranges] == [[s, r, "72x80"] for s in ("train", "valid", "test") for r in ("coal", "sandstone")]


def test_an_intact_set_verifies(shards):
    assert verify(shards) == []


@pytest.mark.parametrize("trusted", [False, True], ids=["hash", "stream"])
def test_one_flipped_bit_is_found(shards, tmp_path, trusted):
    """Also when the manifest was made to fit the damaged shard: the pixels' own crc32 tells."""
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
    fault, = verify(copy)
    assert "train-000001.tar" in fault
    assert ("other LR pixels than were packed" if trusted else "sha256 differs from the manifest") in fault
