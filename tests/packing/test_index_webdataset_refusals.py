"""What is no WebDataset of image pairs is refused, by the name of shard, sample and rule."""

import gzip
import io
import json
import re
import tarfile

import numpy as np
import pytest
from webdatasets import encoded, index, pair, refused, sample, write, write_shards

from srgan_dist.cli.index import main
from srgan_dist.data.split import open_set


def bad_json(**entries):
    return {"json": json.dumps(entries).encode()}


FORGED = encoded(pair(9)[0], "png").replace((80).to_bytes(4) + (72).to_bytes(4), b"\0\0\x40\0" * 2)
RGBA = encoded(np.zeros((72, 80, 4), np.uint8), "png")
FAULTS = {
    "size": ({"lr.png": encoded(np.zeros((18, 21), np.uint8), "png")}, "has HR of 72x80 and LR of 18x21 "),
    "scale": ({"lr.png": encoded(pair(9, 2)[1], "png")}, "has scale 2, .* has 4; a set has one"),
    "types": ({"lr.png": encoded(pair(9, dtype=np.uint16)[1], "png")}, "HR image of uint8 and an LR image"),
    "missing": ({"lr.png": None}, "has no lr.png; it has hr.png, json, note.txt. Name its fields"),
    "cut": ({"hr.png": encoded(pair(9)[0], "png")[:900]}, "has a hr.png that cannot be used: "),
    "empty": ({"hr.png": b""}, "has a hr.png of 0 bytes"),
    "alpha": ({"hr.png": RGBA}, r"is transparent in places \(alpha of 0, opaque is 255\)"),
    "other format": ({"hr.png": encoded(pair(9)[0], "tif")}, "holds TIFF data; rename it to image.tif"),
    "forged size": ({"hr.png": FORGED}, "is cut short: its .* bytes cannot hold 16384x16384 pixels"),
    "no rock": (bad_json(rocks="a"), "has no text or whole number 'rock' in its JSON; it has 'rocks'"),
    "rock of a path": (bad_json(rock="../a"), "has the rock '../a' in its JSON; a rock is called by"),
    "rock of lists": (bad_json(rock=["a"]), "has no text or whole number 'rock'"),
    "no json": ({"json": b"{"}, "has a json that is no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_shard_sample_and_rule(tmp_path, capsys, fault):
    change, words = FAULTS[fault]
    changed = {name: content for name, content in (sample(9) | change).items() if content is not None}
    write(tmp_path / "0.tar", [sample(0), changed])
    options = ["--hr", "hr.png", "--lr", "lr.png"]
    error = refused(capsys, tmp_path, *options, train="0.tar", valid=None)
    assert f"{tmp_path}/0.tar: sample '0009' " in error
    assert re.search(words, error), error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar"]


def npy_fault(array):
    return {"hr.npy": encoded(array, "npy"), "lr.npy": encoded(pair(9)[1], "npy")}


@pytest.mark.parametrize(
    "array, words",
    [
        (pair(9)[0] / 255, "has float64 pixels; a set in place has uint8 or uint16"),
        (np.array([{"a": 1}]), "holds something other than numbers"),
        (np.zeros((72, 80, 3), np.uint8), "whose last axis looks like colour channels"),
    ],
    ids=["float", "pickle", "colour"],
)
def test_npy_faults(tmp_path, capsys, array, words):
    write(tmp_path / "0.tar", [sample(9) | npy_fault(array)])
    options = ["--hr", "hr.npy", "--lr", "lr.npy"]
    assert words in refused(capsys, tmp_path, *options, train="0.tar", valid=None)


def cut_in_header(data):
    return data[: 512 * 9 + 100]


def flip_header(data):
    damaged = bytearray(data)
    place = data.index(b"0001.lr.png")
    damaged[place] ^= 1
    return bytes(damaged)


def without_end(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        last = tar.getmembers()[-1]
    return data[: last.offset_data + -(-last.size // 512) * 512]


@pytest.mark.parametrize(
    "damage, words",
    [
        (gzip.compress, "is compressed by gzip, so nothing in it can be read by itself; decompress"),
        (lambda data: data + data, "has something other than a member at byte"),
        (cut_in_header, "is cut short"),
        (flip_header, "is cut short or damaged (bad checksum)"),
        (without_end, "is cut short: it has no mark of its end"),
        (lambda data: bytes(10240), "holds no sample"),
        (lambda data: b"<html>" * 100, "is no tar file"),
        (lambda data: b"", "is no tar file"),
    ],
    ids=["gzip", "appended", "cut", "header", "end", "zeros", "html", "nothing"],
)  # fmt: skip
def test_damaged_and_compressed_tars_are_refused(tmp_path, capsys, damage, words):
    """Also those that webdataset reads a part of without an error."""
    path = write(tmp_path / "0.tar", [sample(0), sample(1), sample(2)])
    path.write_bytes(damage(path.read_bytes()))
    options = ["--hr", "hr.png", "--lr", "lr.png"]
    error = refused(capsys, tmp_path, *options, train="0.tar", valid=None)
    assert str(path) in error and words in error


def test_links_are_no_images(tmp_path, capsys):
    path = write(tmp_path / "0.tar", [{k: v for k, v in sample(0).items() if k != "hr.png"}])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("0000.hr.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    options = ["--hr", "hr.png", "--lr", "lr.png"]
    error = refused(capsys, tmp_path, *options, train="0.tar", valid=None)
    assert "has hr.png as a symbolic link; only plain members are read" in error


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--train", "pipe:touch {}/ran"], "no command is run"),
        (["--train", "pipe://touch {}/ran"], "no command is run"),
        (["--train", "{}/0.tar", "http://host/0.tar"], "its shards are at paths and at URLs"),
        (["--train", "{}/0.tar", "{}/./0.tar"], "give it once"),
        (["--train", "{}/0.tar", "--valid", "{}/0.tar"], "give it once"),
        (["--train", "{}/x-{{0..9999999999}}.tar"], "stands for 10000000000 shards"),
        (["--train", "{}/x-{{0..1}}.tar"], "x-0.tar does not exist"),
        (["--train", "{}/x*.tar"], "matches no file"),
        (["--train", "{}"], "is a folder; give a file"),
        (["--train", "{}/0.tar", "--hr", "hr.jpg"], "--hr hr.jpg is of no format that is read in place"),
        (["--train", "{}/0.tar", "--hr", "lr.png"], "--hr and --lr are both lr.png"),
        (
            ["--train", "{}/0.tar", "--hr", "sharp.png"],
            "has no sharp.png; it has hr.png, json, lr.png, note.txt",
        ),
        (["--train", "{}/0.tar", "--rock-field", "rock"], "give either --rock NAME"),
        (["--train", "{}/0.tar", "--rock", "a/b"], "--rock 'a/b' is no name"),
        (["--hr", "hr.png"], "--hr goes with --train, --valid or --test"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, capsys, arguments, words):
    write(tmp_path / "0.tar", [sample(0)])
    rock = ["--rock", "a"] if "--train" in arguments and "--rock" not in arguments else []
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path / "out"), *(word.format(tmp_path) for word in arguments), *rock])
    assert words in capsys.readouterr().err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_a_shard_in_no_folder_that_names_a_rock_asks_for_it(tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path), "--train", "https://127.0.0.1:1/0.tar", "--hr", "hr.png", "--lr", "lr.png"])
    assert "0.tar is in no folder that names its rock; give --rock NAME" in capsys.readouterr().err


def test_unclear_fields_are_asked_for(tmp_path, capsys):
    hr, lr = pair(0)
    write(
        tmp_path / "0.tar", [{"__key__": "a", "sharp.png": encoded(hr, "png"), "lr.png": encoded(lr, "png")}]
    )
    error = refused(capsys, tmp_path, "--rock", "a", train="0.tar", valid=None)
    assert "its samples have the fields lr.png, sharp.png; say which are the pair: --hr F --lr F" in error


def test_the_same_picture_in_two_splits_is_refused(tmp_path, capsys):
    write(tmp_path / "0.tar", [sample(0), sample(1)])
    write(tmp_path / "1.tar", [sample(1) | {"__key__": "other"}])
    error = refused(capsys, tmp_path, train="0.tar", valid="1.tar")
    assert "1.tar: sample 'other' of --valid is the same picture as " in error


@pytest.mark.parametrize("place", ["../0.tar", "pipe:ls", "pipe://ls", "file:///etc/passwd", ""])
def test_a_manifest_names_only_files(tmp_path, place):
    folder = index(write_shards(tmp_path / "set"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["file"] = place
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is damaged at splits.train.shards.0.file"):
        open_set(folder)
