import hashlib
import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tifffile
from conftest import REPOSITORY, TINY, stream, texture, write_folder
from PIL import Image
from source_folders import write_set

from srgan_dist.data.degradation import downsample
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split, read_manifest
from srgan_dist.packing.build import BuildError, BuildOptions, build
from srgan_dist.packing.scan import find_sources
from srgan_dist.utils.scales import SCALES


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_webdataset_streams_what_our_reader_reads(shards):
    for name in ("train", "valid", "test"):
        split = open_split(shards, name)
        reader = Reader(split)
        streamed = stream(split.shards)
        assert [sample["__key__"] for sample in streamed] == [split.key(i) for i in range(len(split))]
        for i, sample in enumerate(streamed):
            lr, hr = reader.image(i)
            assert np.array_equal(np.load(io.BytesIO(sample["hr.npy"])), hr)
            assert np.array_equal(np.load(io.BytesIO(sample["lr.npy"])), lr)
            assert json.loads(sample["json"]) == reader.record(i)


def test_pixels_and_records_are_those_of_the_source(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 3}, np.uint16)
    build(tmp_path / "hr", tmp_path / "out", TINY)
    split = open_split(tmp_path / "out", "train")
    lr, hr = Reader(split).image(0)
    assert np.array_equal(hr, texture(0, 72, 80, np.uint16)) and hr.dtype == np.uint16
    record = Reader(split).record(0)
    assert np.array_equal(lr, downsample(hr, 4, record["kernel"]))
    assert record == {
        "rock": "coal",
        "source": "coal/slice_0.png",
        "page": 0,
        "top": 0,
        "left": 0,
        "scale": 4,
        "kernel": record["kernel"],
        "voxel_size_um": None,
    }


def test_tars_are_plain_ustar_without_time_or_owner(shards):
    for path in shards.glob("*.tar"):
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
        assert all(
            m.isreg() and (m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") and not m.pax_headers
            for m in members
        )
        names = [m.name.split(".", 1) for m in members]
        assert [field for _, field in names] == ["hr.npy", "json", "lr.npy"] * (len(names) // 3)
        assert path.stat().st_size % 10240 == 0


def test_same_input_and_options_give_the_same_bytes(tmp_path):
    first, second = tmp_path / "a", tmp_path / "elsewhere" / "b"
    for root in (first, second):
        write_folder(root, {"coal": 5, "sandstone": 4})
        build(root, root.with_name(root.name + "_out"), TINY)
    assert digests(tmp_path / "a_out") == digests(tmp_path / "elsewhere" / "b_out")
    build(first, tmp_path / "other_seed", BuildOptions(tile=80, crop=32, samples_per_shard=3, seed=1))
    assert digests(tmp_path / "a_out") != digests(tmp_path / "other_seed")


def test_manifest_counts_and_equal_shards(shards):
    manifest = read_manifest(shards)
    assert manifest.totals == {"coal": 5, "sandstone": 6}
    train = manifest.splits["train"]
    assert train.count == 7 and train.rocks == {"coal": 3, "sandstone": 4}
    assert [shard.count for shard in train.shards] == [3, 2, 2]
    for split in manifest.splits.values():
        for entry in (*split.shards, split.index):
            path = shards / entry.file
            assert (
                path.stat().st_size == entry.bytes
                and hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
            )


def test_samples_are_shuffled_so_that_rocks_mix(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 15, "sandstone": 15}, size=(40, 40))
    build(tmp_path / "hr", tmp_path / "out", BuildOptions(tile=40, crop=32))
    split = open_split(tmp_path / "out", "train")
    rocks = [split.rock(i) for i in range(len(split))]
    assert sum(a != b for a, b in zip(rocks, rocks[1:])) >= 5


def test_8_bit_times_257_in_16_bit_is_exact(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 2})
    Image.fromarray(texture(9, 72, 80, np.uint16)).save(tmp_path / "hr" / "coal" / "zdeep.png")
    with pytest.raises(BuildError, match="one set holds one pixel type"):
        build(tmp_path / "hr", tmp_path / "out", TINY)
    build(tmp_path / "hr", tmp_path / "out", BuildOptions(tile=80, crop=32, dtype="uint16"))
    train, test = open_split(tmp_path / "out", "train"), open_split(tmp_path / "out", "test")
    lr, hr = Reader(train).image(0)
    assert np.array_equal(hr, texture(0).astype(np.uint16) * 257)
    assert np.array_equal(
        lr, downsample(texture(0), 4, Reader(train).record(0)["kernel"]).astype(np.uint16) * 257
    )
    assert np.array_equal(Reader(test).image(0)[1], texture(9, 72, 80, np.uint16))


def test_deeprock_pairs_are_stored_as_they_are(tmp_path):
    write_set(tmp_path / "in")
    build(tmp_path / "in", tmp_path / "out", BuildOptions(crop=32))
    split = open_split(tmp_path / "out", "valid")
    i = [split.key(i) for i in range(2)].index("coal_0003")
    lr, hr = Reader(split).image(i)
    assert np.array_equal(hr, texture(3, 64, 48)) and np.array_equal(lr, texture(3, 64, 48)[::4, ::4])
    assert Reader(split).record(i)["kernel"] is None


def test_volumes_are_packed_slice_by_slice(tmp_path):
    (tmp_path / "in").mkdir()
    volume = np.stack([texture(j, 48, 52) for j in range(3)])
    for i, name in enumerate("abc"):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", volume + np.uint8(i), photometric="minisblack")
    build(tmp_path / "in", tmp_path / "out", BuildOptions(crop=32, tile=48))
    split = open_split(tmp_path / "out", "test")
    assert len(split) == 6  # three slices of two tiles, which overlap to cover 52 columns
    for i in range(len(split)):
        record, (_, hr) = Reader(split).record(i), Reader(split).image(i)
        left = record["left"]
        assert np.array_equal(hr, volume[record["page"], :, left : left + 48] + np.uint8(2))


def test_the_same_picture_in_two_splits_is_refused(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 3})
    twin = tmp_path / "hr" / "coal" / "slice_2.png"
    twin.unlink()
    tifffile.imwrite(twin.with_suffix(".tif"), texture(0))  # same pixels in another format
    with pytest.raises(
        BuildError, match="slice_2.tif: is in test and is the same picture as .*slice_0.png in train"
    ):
        build(tmp_path / "hr", tmp_path / "out", TINY)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.building").exists()


def test_blank_and_repeated_images_are_told(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 10})
    for i in (0, 9):
        Image.fromarray(np.zeros((72, 80), np.uint8)).save(tmp_path / "hr" / "coal" / f"slice_{i}.png")
    Image.fromarray(texture(1)).save(tmp_path / "hr" / "coal" / "slice_2.png")
    notes = "\n".join(build(tmp_path / "hr", tmp_path / "out", TINY).notes)
    assert "2 images have one grey level only, e.g." in notes and "slice_0.png" in notes
    assert "1 images repeat an earlier picture, e.g." in notes and "slice_2.png" in notes


def test_header_and_pixel_faults_are_reported_together(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 6})
    folder = tmp_path / "hr" / "coal"
    (folder / "slice_0.png").write_bytes(b"no picture")
    data = (folder / "slice_1.png").read_bytes()
    (folder / "slice_1.png").write_bytes(data[: len(data) // 2])
    rgb = np.stack([texture(5)] * 3, -1)
    rgb[0, 0, 0] ^= 255
    Image.fromarray(rgb).save(folder / "slice_2.png")
    with pytest.raises(BuildError) as caught:
        build(tmp_path / "hr", tmp_path / "out", TINY)
    faults = caught.value.faults
    assert len(faults) == 3 and all(any(f"slice_{i}.png" in fault for fault in faults) for i in range(3))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"scale": 5}, "scale=5 must be one of 2, 3, 4, 6, 8"),
        ({"ndim": 1}, "ndim=1 must be 2 or 3"),
        ({"ndim": 3, "encoding": "png"}, "encoding='png' holds 2-D images only; use npy with ndim=3"),
        ({"seed": -1}, "seed=-1 must be 0 or more"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number; use e.g. 0"),
        ({"tile": 128.0}, "tile=128.0 must be a whole number; use e.g. 500"),
        ({"seed": None}, "seed=None must be a whole number; use e.g. 0"),
        ({"lr_noise": 3.0}, "lr_noise=3.0 makes LR like a scanner, which needs lr_blur too"),
        ({"lr_blur": 0.0}, "lr_blur=0.0 must be from 0.1 to 32 HR pixels"),
        ({"lr_blur": "wide"}, "lr_blur='wide' must be a number"),
        ({"align": -1.0}, "align=-1.0 must be a number of HR pixels above 0"),
        ({"min_contrast": 0.1}, "min_contrast=0.1 must be 0 or more and below 1, and needs ndim=3"),
        ({"tile": 502}, "tile=502 is not a multiple of scale=4; use e.g. 50"),
        ({"crop": 600}, "tile=500 is smaller than crop=600"),
        ({"samples_per_shard": 0}, "samples_per_shard=0"),
        ({"kind": "bicubic"}, "kind='bicubic' must be default or unknown"),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(ValueError, match=words):
        BuildOptions(**options)


@pytest.mark.parametrize("scale", SCALES)
def test_all_scales(tmp_path, scale):
    write_folder(tmp_path / "hr", {"coal": 1})
    build(tmp_path / "hr", tmp_path / "out", BuildOptions(scale=scale, tile=72, crop=24))
    lr, hr = Reader(open_split(tmp_path / "out", "train")).image(0)
    assert hr.shape == (72, 72) and lr.shape == (72 // scale, 72 // scale)


def run(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=REPOSITORY, capture_output=True, text=True
    )


@pytest.mark.parametrize("peak, noted", [(4095, True), (40000, False)])
def test_16_bit_images_that_use_little_of_their_range_are_noted(tmp_path, peak, noted):
    (tmp_path / "hr" / "coal").mkdir(parents=True)
    for i in range(3):
        levels = (texture(i, dtype=np.uint16).astype(np.uint64) * peak // 65535).astype(np.uint16)
        np.save(tmp_path / "hr" / "coal" / f"{i}.npy", levels)
    notes = "".join(build(tmp_path / "hr", tmp_path / "out", BuildOptions(tile=80, crop=32)).notes)
    assert ("of 65535 (12-bit data?)" in notes) == noted


@pytest.mark.rocks
def test_real_slices_are_packed_without_losing_a_pixel(rocks, tmp_path):
    build(rocks / "slices", tmp_path / "out", BuildOptions())
    manifest = read_manifest(tmp_path / "out")
    assert {name: split.rocks for name, split in manifest.splits.items()} == {
        "train": {"carbonate": 12, "sandstone": 30},
        "valid": {"carbonate": 12, "sandstone": 6},
        "test": {"sandstone": 6},
    }
    sources = {s.file: s for s in find_sources(rocks / "slices", "unknown", 4).sources}
    covered = {file: np.zeros((s.hr.height, s.hr.width), bool) for file, s in sources.items()}
    for name in manifest.splits:
        reader = Reader(open_split(tmp_path / "out", name))
        for i in range(len(reader.split)):
            record = reader.record(i)
            assert sources[record["source"]].split == name
            covered[record["source"]][
                record["top"] : record["top"] + 500, record["left"] : record["left"] + 500
            ] = True
    assert all(mask.all() for mask in covered.values())


@pytest.mark.rocks
def test_real_deeprock_layout_is_packed(rocks, tmp_path):
    build(rocks / "deeprock_sr", tmp_path / "out", BuildOptions())
    assert read_manifest(tmp_path / "out").totals == {"carbonate": 2}
    with pytest.raises(BuildError, match="the set has carbonate2D_train_LR_unknown_X4"):
        build(rocks / "deeprock_sr", tmp_path / "x2", BuildOptions(scale=2))
