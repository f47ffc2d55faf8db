import json
import shutil

import numpy as np
import pytest

from srgan_dist.data.index import INDEX, open_split, read_manifest
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def edit_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


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


def trust(folder):
    """Make the manifest fit an index table that was changed."""
    path = folder / "train.index.npy"
    facts = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    edit_manifest(folder, lambda manifest: manifest["splits"]["train"]["index"].update(facts))


def edit_rows(folder, change):
    rows = np.load(folder / "train.index.npy")
    change(rows)
    np.save(folder / "train.index.npy", rows)
    trust(folder)


@pytest.mark.parametrize(
    "field, value",
    [
        ("shard", 77),
        ("rock", 9),
        ("hr_offset", 2**40),
        ("lr_offset", 2**63),
        ("lr_offset", 2**64 - 1),
        ("hr_height", 73),
        ("record_bytes", 2**31),
        ("record_bytes", 0),
        ("lr_width", 0),
        ("brightest", 256),
        ("darkest", 65535),
    ],
)
def test_an_index_that_points_nowhere_is_refused(copy, field, value):
    edit_rows(copy, lambda rows: rows[field].__setitem__(2, value))
    with pytest.raises(UserError, match="train.index.npy does not fit its shards, first at row 2"):
        open_split(copy, "train")


@pytest.mark.parametrize("field", ["hr_offset", "record_offset", "lr_offset"])
@pytest.mark.parametrize("shift", [1, 64, 512])
def test_an_index_whose_parts_do_not_follow_one_another_as_in_a_tar_is_refused(copy, field, shift):
    edit_rows(copy, lambda rows: rows[field].__setitem__(2, rows[field][2] - shift))
    with pytest.raises(UserError, match="train.index.npy does not fit its shards, first at row 2"):
        open_split(copy, "train")


@pytest.mark.parametrize(
    "height, width", [(2**32 - 4, 2**32 - 4), (4 * 2**29, 4 * 2**29 + 4), (2**31, 2**32 - 4)]
)
def test_sizes_that_overflow_are_refused(copy, height, width):
    def change(rows):
        for side, scale in (("hr", 1), ("lr", 4)):
            rows[f"{side}_height"][2], rows[f"{side}_width"][2] = height // scale, width // scale

    edit_rows(copy, change)
    for dtype in ("uint8", "uint16"):
        edit_manifest(copy, lambda manifest, dtype=dtype: manifest.update(dtype=dtype))
        with pytest.raises(UserError, match="train.index.npy does not fit its shards"):
            open_split(copy, "train")


def test_another_pixel_type_than_the_shards_have_is_refused(copy):
    edit_manifest(copy, lambda manifest: manifest.update(dtype="uint16"))
    with pytest.raises(UserError, match="train.index.npy does not fit its shards, first at row 0"):
        open_split(copy, "train")


def test_samples_that_overlap_are_refused(copy):
    places = ["hr_offset", "record_offset", "lr_offset", "record_bytes"]

    def change(rows):
        rows[places][1] = rows[places][0]

    edit_rows(copy, change)
    with pytest.raises(UserError, match="train.index.npy lets rows 0 and 1 overlap in their shard"):
        open_split(copy, "train")


@pytest.mark.parametrize(
    "key, fault",
    [
        (b"coal_\xff", r"key 'coal_\\\\xff' must be 1 to 90"),
        (b"coal 1", "key 'coal 1' must be 1 to 90"),
        (b"", "key '' must be 1 to 90"),
        (None, "has the key '.*' 2 times"),
    ],
)
def test_keys_that_cannot_be_used_are_refused(copy, key, fault):
    edit_rows(copy, lambda rows: rows["key"].__setitem__(2, rows["key"][3] if key is None else key))
    with pytest.raises(UserError, match=f"train.index.npy .*{fault}"):
        open_split(copy, "train")


def test_counts_of_rocks_and_shards_are_those_of_the_index(copy):
    rock = np.load(copy / "train.index.npy")["rock"][0]
    edit_rows(copy, lambda rows: rows["rock"].__setitem__(0, 1 - rock))
    with pytest.raises(UserError, match="train.index.npy has [24] samples of coal, the manifest says 3"):
        open_split(copy, "train")
    edit_rows(copy, lambda rows: rows["rock"].__setitem__(0, rock))
    edit_manifest(
        copy,
        lambda manifest: [
            shard.update(count=count)
            for shard, count in zip(manifest["splits"]["train"]["shards"], (2, 3, 2))
        ],
    )
    with pytest.raises(
        UserError, match="train.index.npy has 3 samples of train-000000.tar, the manifest says 2"
    ):
        open_split(copy, "train")


@pytest.mark.parametrize(
    "content",
    [
        np.zeros((), INDEX),
        np.zeros((7, 1), INDEX),
        np.zeros(7),
        np.array([{}, None], object),
        b"",
        b"no NPY",
        b"PK\3\4",
        b"\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': (-5,)}",
    ],
    ids=["0-d", "2-d", "floats", "objects", "empty", "text", "zip", "negative"],
)
def test_index_files_that_hold_something_else_are_named(copy, content):
    path = copy / "train.index.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content, allow_pickle=True)
    trust(copy)
    with pytest.raises(
        UserError, match="train.index.npy (cannot be read|does not hold 7 rows of this version's index)"
    ):
        open_split(copy, "train")


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


@pytest.mark.parametrize("name", ["../outside.tar", "/etc/passwd", "a/b.tar"])
def test_a_manifest_cannot_point_outside_its_folder(copy, name):
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(UserError, match="names a file outside"):
        open_split(copy, "train")


@pytest.mark.parametrize("name", ["", "..", "nul\0.tar", "half\udc80.tar", "two\nlines.tar", "x" * 300])
def test_names_that_no_file_of_a_set_has_are_refused(copy, name):
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(
        UserError, match="manifest.json is damaged at splits.train.shards.0.file: is not the name of a file"
    ):
        open_split(copy, "train")
