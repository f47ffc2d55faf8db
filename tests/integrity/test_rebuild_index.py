"""Lost and damaged index tables are read off the shards again, byte for byte."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from conftest import write_folder

from srgan_dist.cli.index import main
from srgan_dist.data.split import open_split
from srgan_dist.packing.build import BuildOptions, build


@pytest.fixture
def copy(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "set")
    return tmp_path / "set"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_lost_and_damaged_tables_come_back_byte_for_byte(copy, capsys):
    before = contents(copy)
    (copy / "train.index.npy").unlink()
    (copy / "valid.index.npy").write_bytes(b"damaged")
    main([str(copy)])
    assert contents(copy) == before
    printed = capsys.readouterr().out
    assert "train.index.npy written: " in printed and "test.index.npy is as it was written" in printed


@pytest.mark.parametrize(
    "options, size",
    [
        ({"encoding": "png", "dtype": "uint16"}, (72, 80)),
        ({"scale": 2}, (72, 80)),
        ({"scale": 2, "ndim": 3, "tile": 16, "crop": 8}, (24, 14, 16)),
    ],
    ids=["png", "x2", "3-D"],
)
def test_tables_of_every_kind_of_set_come_back(tmp_path, options, size):
    out = tmp_path / "set"
    settings = {"tile": 80, "crop": 32, "samples_per_shard": 2} | options
    build(write_folder(tmp_path / "hr", {"coal": 4}, size=size), out, BuildOptions(**settings))
    before = contents(out)
    for table in out.glob("*.npy"):
        table.unlink()
    main([str(out)])
    assert contents(out) == before


VERSION_2 = (
    "key:S90 rock:<u2 shard:<u4 hr_offset:<u8 hr_bytes:<u8 hr_height:<u4 hr_width:<u4 hr_crc32:<u4"
    " lr_offset:<u8 lr_bytes:<u8 lr_height:<u4 lr_width:<u4 lr_crc32:<u4 record_offset:<u8 record_bytes:<u4"
    " darkest:<u2 brightest:<u2"
)


def to_version_2(folder):
    """Rewrite manifest and tables of a set as version 2 of the format had them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"version": 2, "payload": manifest.pop("encoding")}
    del manifest["ndim"]
    for entry in (split["index"] for split in manifest["splits"].values()):
        rows = np.load(folder / entry["file"])
        old = np.zeros(len(rows), [tuple(column.split(":")) for column in VERSION_2.split()])
        for name in set(old.dtype.names) & set(rows.dtype.names):
            old[name] = rows[name]
        for axis, length in enumerate(("height", "width")):
            old[f"lr_{length}"] = rows["lr_shape"][:, axis]
            old[f"hr_{length}"] = 4 * rows["lr_shape"][:, axis]
        np.save(folder / entry["file"], old)
        content = (folder / entry["file"]).read_bytes()
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_tables_of_a_version_2_set_come_back_in_their_own_form(copy):
    to_version_2(copy)
    before = contents(copy)
    for table in copy.glob("*.npy"):
        table.unlink()
    main([str(copy)])
    assert contents(copy) == before and len(open_split(copy, "train")) == 7


def test_a_damaged_shard_is_named_and_nothing_is_written(copy, capsys):
    (copy / "train.index.npy").unlink()
    shard = copy / "train-000001.tar"
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SystemExit, match="1"):
        main([str(copy)])
    error = capsys.readouterr().err
    assert f"error: {shard} is missing or damaged (sha256 differs from the manifest)" in error
    assert not (copy / "train.index.npy").exists()


def test_a_manifest_with_the_index_of_another_set_is_refused(copy, capsys):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["splits"]["valid"]["index"]["sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    before = contents(copy)
    with pytest.raises(SystemExit, match="1"):
        main([str(copy)])
    assert (
        "the index of the shards of split valid is not the one that manifest.json names"
        in capsys.readouterr().err
    )
    assert contents(copy) == before


def test_a_url_is_refused(capsys):
    with pytest.raises(SystemExit, match="1"):
        main(["https://host/set"])
    assert "SHARDS=https://host/set is a URL; give a folder" in capsys.readouterr().err
