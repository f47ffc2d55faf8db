import pytest
from packed_sets import edit_manifest

from srgan_dist.data.split import open_split, read_manifest
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


@pytest.mark.parametrize("name", ["", "..", "nul\0.tar", "half\udc80.tar", "two\nlines.tar", "x" * 300])
def test_names_that_no_file_of_a_set_has_are_refused(copy, name):
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(
        UserError, match="manifest.json is damaged at splits.train.shards.0.file: is not the name of a file"
    ):
        open_split(copy, "train")
