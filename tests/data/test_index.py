import numpy as np
import pytest
from packed_sets import edit_manifest, edit_rows, trust

from srgan_dist.data.index import index_dtype
from srgan_dist.data.split import open_split
from srgan_dist.utils.errors import UserError


@pytest.mark.parametrize(
    "field, value",
    [
        ("shard", 77),
        ("rock", 9),
        ("hr_offset", 2**40),
        ("lr_offset", 2**63),
        ("lr_offset", 2**64 - 1),
        ("lr_shape", (19, 20)),
        ("record_bytes", 2**31),
        ("record_bytes", 0),
        ("lr_shape", (18, 0)),
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


@pytest.mark.parametrize("lr_shape", [(2**30 - 1, 2**30 - 1), (2**29, 2**29 + 1), (2**31, 2**32 - 4)])
def test_sizes_that_overflow_are_refused(copy, lr_shape):
    edit_rows(copy, lambda rows: rows["lr_shape"].__setitem__(2, lr_shape))
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
        np.zeros((), index_dtype(2)),
        np.zeros((7, 1), index_dtype(2)),
        np.zeros(7, index_dtype(3)),
        np.zeros(7),
        np.array([{}, None], object),
        b"",
        b"no NPY",
        b"PK\3\4",
        b"\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': (-5,)}",
    ],
    ids=["0-d", "2-d", "volumes", "floats", "objects", "empty", "text", "zip", "negative"],
)
def test_index_files_that_hold_something_else_are_named(copy, content):
    path = copy / "train.index.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content, allow_pickle=True)
    trust(copy)
    with pytest.raises(
        UserError, match="train.index.npy (cannot be read|does not hold 7 rows of this version's index)"
    ):
        open_split(copy, "train")
