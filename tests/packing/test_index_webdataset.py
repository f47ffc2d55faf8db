"""WebDatasets that other people wrote with webdataset's own writer are trained on where they are."""

import gzip
import io
import json
import pickle
import re
import shutil
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from accelerate import Accelerator
from conftest import stream, texture, tiny_config
from PIL import Image

from srgan_dist.cli.index import main
from srgan_dist.cli.summarize import main as summarize
from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set, open_split
from srgan_dist.evaluation.report import evaluate
from srgan_dist.integrity.audit import verify
from srgan_dist.integrity.find_corruption import find_corrupt_samples
from srgan_dist.training import train


def pair(seed, scale=4, dtype=np.uint8, size=(72, 80)):
    hr = texture(seed, *size, dtype)
    height, width = size[0] // scale, size[1] // scale
    return hr, hr.reshape(height, scale, width, scale).mean((1, 3)).astype(dtype)


def encoded(image, kind):
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, image)
    else:
        Image.fromarray(image).save(file, {"png": "PNG", "tif": "TIFF"}[kind], dpi=(254, 254))
    return file.getvalue()


def sample(seed, kind="png", **entries):
    hr, lr = pair(seed)
    return {
        "__key__": f"{seed:04d}",
        "note.txt": "of another program",
        f"lr.{kind}": encoded(lr, kind),
        "json": json.dumps(
            {"rock": "coal" if seed % 2 else "berea", "slice": seed // 2, "weight": 0.5}
        ).encode(),
        f"hr.{kind}": encoded(hr, kind),
    } | entries


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for each in samples:
            writer.write({k: v.encode() if k == "note.txt" else v for k, v in each.items()})
    return path


def write_shards(folder, kind="png", counts=(3, 3, 3, 2)):
    first = 0
    for number, count in enumerate(counts):
        write(folder / f"shards-{number:06d}.tar", [sample(first + i, kind) for i in range(count)])
        first += count
    return folder


def index(folder, *options, train="shards-{000000..000002}.tar", valid="shards-000003.tar"):
    names = ["--train", f"{folder}/{train}"] + (["--valid", f"{folder}/{valid}"] if valid else [])
    rock = [] if any(str(option).startswith("--rock") for option in options) else ["--rock-field", "rock"]
    main([str(folder), *names, *rock, *map(str, options)])
    return folder


def refused(capsys, *arguments, **names):
    with pytest.raises(SystemExit, match="1"):
        index(*arguments, **names)
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", ["png", "tif", "npy"])
def test_pixels_and_records_are_those_of_the_members(tmp_path, kind):
    """NPY is read where it is, other formats from a copy in the cache."""
    folder = index(write_shards(tmp_path / kind, kind), "--source-field", "slice")
    split = open_split(folder, "train")
    assert split.is_cached == (kind != "npy") and split.scale == 4 and len(split) == 9
    reader = Reader(split)
    for i in range(9):
        hr, lr = pair(i)
        found_lr, found_hr = reader.image(i)
        assert np.array_equal(found_hr, hr) and np.array_equal(found_lr, lr)
        assert split.key(i) == f"{i:04d}" and split.rock(i) == ("coal" if i % 2 else "berea")
        assert reader.record(i) == {"rock": split.rock(i), "source": str(i // 2)}
    assert verify(open_set(folder)) == [] and find_corrupt_samples(split) == []


def test_batches_are_the_same_from_any_format(tmp_path):
    found = []
    for kind in ("png", "tif", "npy"):
        split = open_split(index(write_shards(tmp_path / kind, kind)), "train")
        loader = TrainLoader([(split, 1.0)], 8, 4, 0, "all", 0, 1, torch.device("cpu"))
        batches = loader.batches(0)
        found.append([next(batches) for _ in range(4)])
        batches.close()
    assert found[0][0][1].unique().numel() > 50
    for other in found[1:]:
        for batch, same in zip(found[0], other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))


def test_shards_are_never_written(tmp_path):
    folder = write_shards(tmp_path / "set")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = tmp_path / "index" / "here"
    main([str(out), "--train", *sorted(map(str, folder.glob("*.tar"))), "--rock", "berea"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "train.index.npy"]
    assert len(open_split(out, "train")) == 11 and open_set(out).manifest.rocks == ["berea"]


def test_a_training_evaluation_and_summary_run_on_it(tmp_path, capsys):
    folder = index(write_shards(tmp_path / "set"), "--rock-field", "rock")
    data = {"path": str(folder), "lr_crop": 8, "batch_size": 4, "augment": "all", "verify": "full"}
    train(tiny_config(folder, tmp_path / "runs", data=data))
    evaluate(tmp_path / "runs" / "tiny", folder, tmp_path / "eval", ["valid"], Accelerator(cpu=True))
    (table,) = (tmp_path / "eval").glob("*per_image*.csv")
    assert all(key in table.read_text() for key in ("0009", "0010"))
    summarize([str(folder), "--verify"])
    assert "every byte is as it was written" in capsys.readouterr().out


def test_fields_of_any_name_and_a_folder_per_split(tmp_path):
    """Equal keys and file names in two folders, keys with folders and spaces, upper-case fields."""
    for number, split in enumerate(("train", "valid")):
        hr, lr = pair(number)
        members = {
            "__key__": "deep er/é 1",
            "Sharp.PNG": encoded(hr, "png"),
            "coarse.v2.npy": encoded(lr, "npy"),
        }
        write(tmp_path / "set" / split / "0.tar", [members])
    options = ["--hr", "sharp.png", "--lr", "coarse.v2.npy", "--rock", "berea"]
    folder = index(tmp_path / "set", *options, train="train/0.tar", valid="valid/*.tar")
    for number, split in enumerate(("train", "valid")):
        opened = open_split(folder, split)
        assert opened.key(0) == f"{split}-000000-000000-deep_er_1"
        assert np.array_equal(Reader(opened).image(0)[1], pair(number)[0])
    moved = shutil.move(folder, tmp_path / "moved")  # shards below the folder move with it
    assert verify(open_set(moved)) == []


def test_two_indexes_of_one_shard_have_copies_of_their_own(tmp_path):
    """With the fields of two LR images: the cache must not take one for the other."""
    hr, lr = pair(0)
    members = {"__key__": "a", "hr.png": encoded(hr, "png"), "x.png": encoded(lr, "png")}
    path = write(tmp_path / "0.tar", [members | {"y.png": encoded(255 - lr, "png")}])
    found = []
    for field in ("x.png", "y.png"):
        main([str(tmp_path / field), "--train", str(path), "--rock", "a", "--hr", "hr.png", "--lr", field])
        found.append(Reader(open_split(tmp_path / field, "train")).image(0)[0])
    assert np.array_equal(found[0], lr) and np.array_equal(found[1], 255 - lr)


@pytest.mark.parametrize(
    "image",
    [lambda hr: np.asfortranarray(hr), lambda hr: hr.astype(">u2"), lambda hr: hr[None], lambda hr: hr],
    ids=["fortran", "big endian", "one slice", "plain"],
)
def test_npy_of_any_order_has_the_same_pixels(tmp_path, image):
    hr, lr = pair(0, dtype=np.uint16)
    members = {"__key__": "a", "hr.npy": encoded(image(hr), "npy"), "lr.npy": encoded(image(lr), "npy")}
    write(tmp_path / "0.tar", [members])
    found = Reader(open_split(index(tmp_path, "--rock", "a", train="0.tar", valid=None), "train")).image(0)
    assert np.array_equal(found[1], hr) and np.array_equal(found[0], lr) and found[1].dtype == np.uint16


def test_volumes_are_a_set_of_three_axes(tmp_path):
    lr = np.random.default_rng(0).integers(0, 255, (8, 9, 10), np.uint8)
    hr = lr.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    write(tmp_path / "0.tar", [{"__key__": "a", "hr.npy": encoded(hr, "npy"), "lr.npy": encoded(lr, "npy")}])
    split = open_split(index(tmp_path, "--rock", "a", train="0.tar", valid=None), "train")
    assert (split.ndim, split.scale, split.is_cached) == (3, 2, False)
    assert np.array_equal(Reader(split).image(0)[1], hr)


def test_equal_colour_channels_are_grey_and_others_are_not(tmp_path, capsys):
    hr, lr = pair(0)
    grey = np.stack([hr] * 3, -1)
    write(tmp_path / "0.tar", [sample(0) | {"hr.png": encoded(grey, "png")}])
    split = open_split(index(tmp_path, train="0.tar", valid=None), "train")
    assert np.array_equal(Reader(split).image(0)[1], hr)
    grey[5, 5, 1] ^= 1
    write(tmp_path / "1.tar", [sample(0) | {"hr.png": encoded(grey, "png")}])
    (tmp_path / "manifest.json").unlink()
    assert "its three colour channels differ" in refused(capsys, tmp_path, train="1.tar", valid=None)


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
    "alpha": ({"hr.png": RGBA}, "is a PNG of type RGB with alpha"),
    "other format": ({"hr.png": encoded(pair(9)[0], "tif")}, "holds TIFF data; rename it to image.tif"),
    "forged size": ({"hr.png": FORGED}, "is cut short: its .* bytes cannot hold 16384x16384 pixels"),
    "no rock": (bad_json(rocks="a"), "has no text or whole number 'rock' in its JSON; it has 'rocks'"),
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


class Bomb:
    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_unpickled(tmp_path):
    Bomb.path = str(tmp_path / "ran")
    bomb = pickle.dumps(Bomb())
    write(tmp_path / "0.tar", [sample(0) | {"meta.pyd": bomb, "x.pth": bomb, "y.pickle": bomb}])
    folder = index(tmp_path, train="0.tar", valid=None)
    assert verify(open_set(folder)) == [] and not (tmp_path / "ran").exists()


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
        (["--train", "pipe:touch {}/ran"], "not from URLs or pipes"),
        (["--train", "https://host/0.tar"], "not from URLs or pipes"),
        (["--train", "{}/0.tar", "{}/./0.tar"], "give it once"),
        (["--train", "{}/0.tar", "--valid", "{}/0.tar"], "give it once"),
        (["--train", "{}/x-{{0..9999999999}}.tar"], "stands for 10000000000 shards"),
        (["--train", "{}/x-{{0..1}}.tar"], "x-0.tar does not exist"),
        (["--train", "{}/x*.tar"], "matches no file"),
        (["--train", "{}"], "is not a file; give the tar files"),
        (["--train", "{}/0.tar", "--hr", "hr.jpg"], "--hr hr.jpg is of no format that is read in place"),
        (["--train", "{}/0.tar", "--hr", "lr.png"], "--hr and --lr are both lr.png"),
        (
            ["--train", "{}/0.tar", "--hr", "sharp.png"],
            "has no sharp.png; it has hr.png, json, lr.png, note.txt",
        ),
        (["--train", "{}/0.tar", "--rock-field", "rock"], "give either --rock NAME"),
        (["--hr", "hr.png"], "--hr goes with --train, --valid or --test"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, capsys, arguments, words):
    write(tmp_path / "0.tar", [sample(0)])
    rock = ["--rock", "a"] if "--train" in arguments else []
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path / "out"), *(word.format(tmp_path) for word in arguments), *rock])
    assert words in capsys.readouterr().err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


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


def test_an_index_is_kept_and_comes_back(tmp_path, capsys):
    folder = index(write_shards(tmp_path / "set"))
    before = (folder / "train.index.npy").read_bytes()
    assert "holds exactly this index already" not in capsys.readouterr().out
    index(folder)
    assert "holds exactly this index already" in capsys.readouterr().out
    assert "holds the index of other shards" in refused(capsys, folder, "--rock", "all")
    (folder / "train.index.npy").unlink()
    main([str(folder)])
    assert (folder / "train.index.npy").read_bytes() == before


def test_a_packed_set_is_not_replaced(shards, tmp_path, capsys):
    copy = shutil.copytree(shards, tmp_path / "copy")
    error = refused(capsys, copy, "--rock", "a", train="train-000000.tar", valid=None)
    assert "holds a set that `build` has packed; give another folder" in error


def test_a_set_of_ours_can_be_indexed_as_any_other(shards, tmp_path):
    tars = sorted(map(str, shards.glob("train-*.tar")))
    main([str(tmp_path / "index"), "--train", *tars, "--rock-field", "rock"])
    own, other = open_split(shards, "train"), open_split(tmp_path / "index", "train")
    assert np.array_equal(own.rows["hr_offset"], other.rows["hr_offset"]) and not other.is_cached
    assert np.array_equal(own.rows["hr_crc32"], other.rows["hr_crc32"])
    assert len(stream(tars)) == len(other)


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_a_shard_that_has_changed_is_named(tmp_path, kind):
    folder = index(write_shards(tmp_path / "set", kind))
    path = folder / "shards-000001.tar"
    data = bytearray(path.read_bytes())
    row = next(row for row in open_set(folder).stored_split("train").rows if row["shard"] == 1)
    data[int(row["hr_offset"]) + 200] ^= 1
    path.write_bytes(data)
    (fault,) = verify(open_set(folder))
    assert f"{path}: sha256 differs from the manifest" in fault and "0003" in fault
    split = open_set(folder).split("train", blank_corrupt_images=True)
    (corrupt,) = find_corrupt_samples(split)
    assert split.key(corrupt.row) == "0003"


@pytest.mark.parametrize("place", ["../0.tar", "pipe:ls", "https://host/0.tar", ""])
def test_a_manifest_names_only_files(tmp_path, place):
    folder = index(write_shards(tmp_path / "set"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["file"] = place
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is damaged at splits.train.shards.0.file"):
        open_set(folder)
