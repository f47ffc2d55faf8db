from srgan_dist.data.split import open_set, read_manifest
from srgan_dist.packing.summary import format_counts, format_ranges


def test_tables(shards):
    counts = format_counts(read_manifest(shards)).splitlines()
    assert counts[0].split() == ["x4", "uint8", "train", "valid", "test", "all"]
    assert [line.split() for line in counts[1:4]] == [
        ["coal", "3", "1", "1", "5"],
        ["sandstone", "4", "1", "1", "6"],
        ["images", "7", "2", "2", "11"],
    ]
    ranges = [line.split() for line in format_ranges(open_set(shards)).splitlines()[1:]]
    assert [row[:3] for row in ranges] == [
        [s, r, "72x80"] for s in ("train", "valid", "test") for r in ("coal", "sandstone")
    ]
