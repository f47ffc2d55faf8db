"""Sets of volumes: blocks of 3-D images through packing, verification, reader and loader."""

import io
import json

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
import torch
import zarr
from conftest import stream
from test_augment import symmetries

from srgan_dist.data.degradation import downsample
from srgan_dist.data.image_files import read_info
from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set, open_split, read_manifest
from srgan_dist.integrity.audit import verify
from srgan_dist.integrity.find_corruption import find_corrupt_samples
from srgan_dist.packing.build import BuildError, BuildOptions, build
from srgan_dist.packing.summary import format_counts, format_ranges
from srgan_dist.utils.errors import UserError

OPTIONS = BuildOptions(scale=2, tile=16, crop=8, samples_per_shard=5, ndim=3)


def volume(seed, side=24, dtype=np.uint8):
    """Noise: every block of it differs from every other."""
    return np.random.default_rng(seed).integers(
        0, np.iinfo(dtype).max, (side, side, side), dtype, endpoint=True
    )


def write_volumes(folder, count=3, dtype=np.uint8):
    """Write volumes as TIFF and NPY by turns."""
    folder.mkdir()
    for i in range(count):
        if i % 2:
            np.save(folder / f"plug_{i}.npy", volume(i, dtype=dtype))
        else:
            tifffile.imwrite(folder / f"plug_{i}.tif", volume(i, dtype=dtype), photometric="minisblack")
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("volumes")
    build(write_volumes(root / "hr"), root / "out", OPTIONS)
    return root


def test_blocks_are_those_of_the_source(packed):
    for name, seed in (("train", 0), ("valid", 1), ("test", 2)):
        split = open_split(packed / "out", name)
        assert (split.ndim, split.scale, split.smallest_lr, len(split)) == (3, 2, 8, 8)
        reader, corners = Reader(split), set()
        for i in range(len(split)):
            (lr, hr), record = reader.image(i), reader.record(i)
            z, y, x = record["corner"]
            assert record["shape"] == [16, 16, 16] and "page" not in record and "top" not in record
            assert np.array_equal(hr, volume(seed)[z : z + 16, y : y + 16, x : x + 16])
            assert np.array_equal(hr, read_info(packed / "hr" / record["source"]).read((z, y, x), hr.shape))
            assert np.array_equal(lr, downsample(hr, 2, record["kernel"]))
            assert split.key(i).endswith(f"_z{z:04d}_y{y:04d}_x{x:04d}")
            corners.add((z, y, x))
        assert corners == {(z, y, x) for z in (0, 8) for y in (0, 8) for x in (0, 8)}


def test_the_shards_are_plain_and_any_reader_streams_them(packed):
    assert verify(open_set(packed / "out")) == []
    split = open_split(packed / "out", "train")
    assert find_corrupt_samples(split) == []
    for i, sample in enumerate(stream(split.shards)):
        lr, hr = Reader(split).image(i)
        assert sample["__key__"] == split.key(i) and json.loads(sample["json"])["rock"] == split.rock(i)
        assert np.array_equal(np.load(io.BytesIO(sample["hr.npy"])), hr)
        assert np.array_equal(np.load(io.BytesIO(sample["lr.npy"])), lr)


def test_a_flipped_bit_of_a_volume_is_found(packed, tmp_path):
    build(packed / "hr", tmp_path / "out", OPTIONS)
    split = open_split(tmp_path / "out", "train")
    data = bytearray(split.shards[0].read_bytes())
    data[int(split.rows[2]["hr_offset"]) + 16**3 - 1] ^= 1
    split.shards[0].write_bytes(data)
    (corrupt,) = find_corrupt_samples(open_split(tmp_path / "out", "train"))
    assert (corrupt.row, corrupt.cause) == (2, "hr_crc32")
    (fault,) = verify(open_set(tmp_path / "out"))
    assert "train-000000.tar: sha256 differs" in fault and "has other HR pixels than were packed" in fault


def test_crops_are_cut_at_their_corners_and_reach_all_48_orientations(packed):
    split = open_split(packed / "out", "train")
    loader = TrainLoader([(split, 1.0)], 4, 64, 1, "all", 0, 1, torch.device("cpu"))
    batches, reader = loader.batches(0), Reader(split)
    seen = set()
    for update in range(6):
        lr, hr = next(batches)
        assert lr.shape == (64, 1, 4, 4, 4) and hr.shape == (64, 1, 8, 8, 8)
        crops = loader.samplers[0].crops(range(64 * update, 64 * update + 64))
        for slot in range(64):
            for batch, whole, scale in zip((lr, hr), reader.image(crops.samples[slot]), (1, 2)):
                corner, side = crops.corners[slot] * scale, 4 * scale
                crop = whole[tuple(slice(start, start + side) for start in corner)]
                levels = ((batch[slot, 0] + 1) / 2 * 255).round().to(torch.uint8).numpy()
                if crops.orientations[slot] == 0:
                    assert np.array_equal(levels, crop)
                assert levels.tobytes() in symmetries(crop)
        seen |= set(crops.orientations.tolist())
    batches.close()
    assert seen == set(range(48))


def test_hr_crops_match_lr_crops_in_every_orientation(tmp_path):
    """HR voxels that repeat their LR voxel do so in every orientation that both share."""
    lr = volume(0, 8)
    hr = lr.repeat(3, 0).repeat(3, 1).repeat(3, 2)
    for side, image, name in (("HR", hr, "0001.npy"), ("LR_default_X3", lr, "0001x3.npy")):
        (tmp_path / "in" / f"coal3D_train_{side}").mkdir(parents=True)
        np.save(tmp_path / "in" / f"coal3D_train_{side}" / name, image)
    build(tmp_path / "in", tmp_path / "out", BuildOptions(scale=3, kind="default", tile=24, crop=12, ndim=3))
    split = open_split(tmp_path / "out", "train")
    batches = TrainLoader([(split, 1.0)], 4, 480, 0, "all", 0, 1, torch.device("cpu")).batches(0)
    lr, hr = next(batches)
    batches.close()
    assert hr.shape == (480, 1, 12, 12, 12)
    for axis in (2, 3, 4):
        lr = lr.repeat_interleave(3, axis)
    assert torch.equal(lr, hr)


def test_16_bit_volumes_keep_every_value(tmp_path):
    build(write_volumes(tmp_path / "hr", 1, np.uint16), tmp_path / "out", OPTIONS)
    reader = Reader(open_split(tmp_path / "out", "train"))
    z, y, x = reader.record(3)["corner"]
    assert np.array_equal(reader.image(3)[1], volume(0, 24, np.uint16)[z : z + 16, y : y + 16, x : x + 16])


def test_an_interrupted_build_of_volumes_is_resumed(packed, tmp_path):
    acts = []

    def interrupted(results, count, act):
        acts.append((act, count))
        for result in results:
            yield result
            if act == "pack regions":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(packed / "hr", tmp_path / "out", OPTIONS, interrupted)
    assert acts == [("hash files", 3), ("look for empty blocks in regions", 3 * 2), ("pack regions", 3 * 2)]
    result = build(packed / "hr", tmp_path / "out", OPTIONS)
    assert "an interrupted build had packed 1 of 6 regions already" in result.notes
    assert read_manifest(tmp_path / "out") == read_manifest(packed / "out")


def test_pairs_of_volumes_that_fit_a_tile_are_packed_whole(tmp_path):
    for side, step in (("HR", 1), ("LR_default_X2", 2)):
        folder = tmp_path / "in" / f"coal3D_train_{side}"
        folder.mkdir(parents=True)
        name = "0001.npy" if side == "HR" else "0001x2.npy"
        np.save(folder / name, volume(0)[::step, ::step, ::step])
    options = BuildOptions(scale=2, kind="default", crop=8, tile=24, ndim=3)
    build(tmp_path / "in", tmp_path / "out", options)
    lr, hr = Reader(open_split(tmp_path / "out", "train")).image(0)
    assert np.array_equal(hr, volume(0)) and np.array_equal(lr, volume(0)[::2, ::2, ::2])
    assert read_manifest(tmp_path / "out").totals == {"coal": 1}
    np.save(tmp_path / "in" / "coal3D_train_LR_default_X2" / "0001x2.npy", volume(0)[::3, ::2, ::2])
    with pytest.raises(BuildError, match="is 24x24x24, which is not scale=2 times 8x12x12 of its partner"):
        build(tmp_path / "in", tmp_path / "other", options)


def test_a_damaged_volume_is_a_fault_beside_those_of_headers(tmp_path):
    folder = write_volumes(tmp_path / "hr")
    np.save(folder / "thin.npy", volume(9)[:4])
    tifffile.imwrite(folder / "plug_0.tif", volume(0), compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(folder / "plug_0.tif") as tiff:
        start = tiff.pages[20].dataoffsets[0]
    data = bytearray((folder / "plug_0.tif").read_bytes())
    data[start : start + 9] = bytes(9)
    (folder / "plug_0.tif").write_bytes(data)
    with pytest.raises(BuildError) as caught:
        build(folder, tmp_path / "out", OPTIONS)
    assert len(caught.value.faults) == 2 and not (tmp_path / "out").exists()


def test_the_tables_of_a_set_of_volumes(packed):
    assert format_counts(read_manifest(packed / "out")).startswith("x2 uint8 3-D ")
    assert "16x16x16" in format_ranges(open_set(packed / "out")).splitlines()[1]


def test_volumes_of_libraries_give_the_same_blocks_as_arrays(tmp_path):
    for folder in ("arrays", "others"):
        (tmp_path / folder).mkdir()
    for i in range(3):
        np.save(tmp_path / "arrays" / f"plug_{i}.npy", volume(i))
    zarr.create_array(tmp_path / "others" / "plug_0.zarr", data=volume(0), chunks=(8, 8, 8))
    with h5py.File(tmp_path / "others" / "plug_1.h5", "w") as file:
        file.create_dataset("tomo", data=volume(1), chunks=(10, 10, 10), compression="gzip")
    scipy.io.savemat(tmp_path / "others" / "plug_2.mat", {"temp": volume(2).T}, do_compression=True)
    for folder in ("arrays", "others"):
        build(tmp_path / folder, tmp_path / f"{folder}_out", OPTIONS)
    for name in ("train", "valid", "test"):
        one, other = (Reader(open_split(tmp_path / f"{folder}_out", name)) for folder in ("arrays", "others"))
        of_one, of_other = (
            {tuple(reader.record(i)["corner"]): reader.image(i)[1] for i in range(8)}
            for reader in (one, other)
        )
        for corner, block in of_one.items():
            np.testing.assert_array_equal(block, of_other[corner])
    build(tmp_path / "others", tmp_path / "others_out", OPTIONS)  # finds the same sources
    (tmp_path / "others" / "plug_0.zarr" / "c" / "0" / "0" / "0").write_bytes(b"changed")
    with pytest.raises(UserError, match="images are not those of SOURCE"):
        build(tmp_path / "others", tmp_path / "others_out", OPTIONS)
