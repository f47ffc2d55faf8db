"""WebDatasets that other people wrote with webdataset's own writer are trained on where they are."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import stream, tiny_config
from webdatasets import encoded, index, pair, refused, sample, write, write_shards

from srgan_dist.cli.index import main
from srgan_dist.cli.summarize import main as summarize
from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set, open_split
from srgan_dist.evaluation.report import evaluate
from srgan_dist.integrity.audit import verify
from srgan_dist.integrity.find_corruption import find_corrupt_samples
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError


@pytest.mark.parametrize("kind", ["png", "tif", "npy", "bmp", "mat"])
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
    train(tiny_config(folder, tmp_path / "runs", data=data, adversarial=None))
    evaluate(tmp_path / "runs" / "tiny", folder, tmp_path / "eval", ["valid"], Accelerator(cpu=True))
    table = (tmp_path / "eval" / "scores.csv").read_text()
    assert all(f"valid,{image},bicubic" in table for image in ("coal,0009", "berea,0010"))
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


@pytest.mark.parametrize("folders", [("berea",), ("berea/train", "berea/valid"), ("berea/training",)])
def test_without_a_name_the_rock_is_called_like_the_folder_of_the_shards(tmp_path, capsys, folders):
    tars = [write(tmp_path / folder / "0.tar", [sample(i)]) for i, folder in enumerate(folders)]
    options = [word for pair in zip(("--train", "--valid"), tars, strict=False) for word in pair]
    main([str(tmp_path / "out"), *map(str, options), "--hr", "hr.png", "--lr", "lr.png"])
    assert "note: the rock of all samples is called 'berea'" in capsys.readouterr().out
    assert open_set(tmp_path / "out").manifest.rocks == ["berea"]
    assert open_split(tmp_path / "out", "train").rock(0) == "berea"


def test_two_indexes_of_one_shard_have_copies_of_their_own(tmp_path):
    """With the fields of two LR images: the cache must not take one for the other."""
    hr, lr = pair(0)
    members = {"__key__": "a", "hr.png": encoded(hr, "png"), "x.png": encoded(lr, "png")}
    path = write(tmp_path / "0.tar", [members | {"y.png": encoded(lr // 2, "png")}])
    found = []
    for field in ("x.png", "y.png"):
        main([str(tmp_path / field), "--train", str(path), "--rock", "a", "--hr", "hr.png", "--lr", field])
        found.append(Reader(open_split(tmp_path / field, "train")).image(0)[0])
    assert np.array_equal(found[0], lr) and np.array_equal(found[1], lr // 2)


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


class Bomb:
    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_unpickled(tmp_path):
    Bomb.path = str(tmp_path / "ran")
    bomb = pickle.dumps(Bomb())
    write(tmp_path / "0.tar", [sample(0) | {"meta.pyd": bomb, "x.pth": bomb, "y.pickle": bomb}])
    folder = index(tmp_path, train="0.tar", valid=None)
    assert verify(open_set(folder)) == [] and not (tmp_path / "ran").exists()


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


@pytest.mark.parametrize(
    "content",
    [
        rb'{"slice": "\ud800"}',
        b'{"slice": "a\\nb"}',
        b'{"slice": [1]}',
        b'{"note": 1}',
        b"[1]",
        b"no",
        b"[" * 9999,
    ],
)
def test_a_record_that_has_become_another_is_named(tmp_path, content):
    split = open_split(index(write_shards(tmp_path), "--source-field", "slice"), "train")
    assert split.record(0, b'{"slice": 7}') == {"rock": split.rock(0), "source": "7"}
    with pytest.raises(UserError, match="000000.tar: the JSON member of .*copy the shard again"):
        split.record(0, content)
