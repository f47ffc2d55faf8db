"""Volumes as laboratories have them: a folder of slices, one file, float and signed values, raw voxels."""

import json

import numpy as np
import pytest
import tifffile

from srgan_dist.data.degradation import downsample
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.packing.run_jobs import BuildError
from srgan_dist.utils.errors import UserError

SHAPE = 12, 10, 88
OPTIONS = {"ndim": 3, "scale": 2, "tile": 16, "crop": 8, "kind": "default", "min_contrast": 0}


def values(dtype=np.float32):
    """A volume whose grey levels are known: values from -1 to 1.55 in steps of 0.01."""
    return np.random.default_rng(0).integers(0, 256, SHAPE) * np.array(0.01, dtype) - 1


@pytest.fixture
def series(tmp_path):
    """One sub-folder of numbered slices in float32."""
    folder = tmp_path / "rocks" / "core"
    folder.mkdir(parents=True)
    for number, page in enumerate(values()):
        tifffile.imwrite(folder / f"slice_{number + 1}.tif", page.astype(np.float32))
    return folder.parent


def hr_blocks(out, split="train"):
    """Return {first voxel of a block: HR block} of a split."""
    reader = Reader(open_split(out, split))
    return {tuple(reader.record(i)["corner"]): reader.image(i)[1] for i in range(len(reader.split))}


def expected_grey():
    return np.random.default_rng(0).integers(0, 256, SHAPE)


def test_a_folder_of_slices_is_one_volume_whose_window_is_recorded(series, tmp_path):
    result = build(series, tmp_path / "set", BuildOptions(window="-1:1.55", **OPTIONS))
    assert result.manifest.rocks == ["core"] and result.manifest.options["window"] == "-1.0:1.55"
    blocks = hr_blocks(tmp_path / "set")
    assert len(blocks) > 1
    for corner, block in blocks.items():
        part = tuple(slice(start, start + size) for start, size in zip(corner, block.shape, strict=True))
        assert np.array_equal(block, expected_grey()[part])
    assert build(series, tmp_path / "set", BuildOptions(window="-1:1.55", **OPTIONS)).already_there


def test_slices_right_in_the_source_are_one_volume_too(series, tmp_path):
    result = build(series / "core", tmp_path / "set", BuildOptions(window="auto", **OPTIONS))
    low, high = map(float, result.manifest.options["window"].split(":"))
    assert result.manifest.rocks == ["core"] and -1 <= low < -0.98 and 1.53 < high <= 1.56
    assert build(series / "core", tmp_path / "set", BuildOptions(window="auto", **OPTIONS)).already_there


def test_float_values_need_a_window(series, tmp_path):
    with pytest.raises(BuildError, match=r"core: pixels are float32; .* --window LOW:HIGH, or --window auto"):
        build(series, tmp_path / "set", BuildOptions(**OPTIONS))
    with pytest.raises(UserError, match="window=9.0:2.0 has to be LOW:HIGH"):
        BuildOptions(window="9:2", **OPTIONS)


def test_one_file_of_raw_voxels_is_a_source(tmp_path):
    (expected_grey() - 100).astype(">i2").tofile(tmp_path / "plug.raw")
    options = BuildOptions(window="-100:155", raw="12x10x88,int16,big", **OPTIONS)
    result = build(tmp_path / "plug.raw", tmp_path / "set", options)
    assert result.manifest.rocks == ["plug"] and "slabs along x" in result.notes[0]
    for corner, block in hr_blocks(tmp_path / "set", "test").items():
        part = tuple(slice(start, start + size) for start, size in zip(corner, block.shape, strict=True))
        assert np.array_equal(block, expected_grey()[part])
    with pytest.raises(UserError, match="raw=12x10 has to be SHAPE|raw: shape="):
        BuildOptions(raw="12x10", **OPTIONS)
    np.save(tmp_path / "plug.npy", expected_grey().astype(np.uint8))
    with pytest.raises(
        BuildError, match="raw=12x10x88,int16,big is of voxels without a header; the source has"
    ):
        build(tmp_path / "plug.npy", tmp_path / "other", options)


def test_two_files_are_a_pair(tmp_path):
    hr = expected_grey().astype(np.uint8)
    np.save(tmp_path / "fine.npy", hr)
    np.save(tmp_path / "coarse.npy", downsample(hr, 2))
    build((tmp_path / "fine.npy", tmp_path / "coarse.npy"), tmp_path / "set", BuildOptions(**OPTIONS))
    reader = Reader(open_split(tmp_path / "set", "train"))
    for index in range(len(reader.split)):
        (z, y, x), (lr, high) = reader.record(index)["corner"], reader.image(index)
        d, h, w = lr.shape
        assert np.array_equal(lr, downsample(hr, 2)[z // 2 :, y // 2 :, x // 2 :][:d, :h, :w])
        assert high.shape == (2 * d, 2 * h, 2 * w)


def test_the_voxels_behind_a_header_decide_whether_a_set_is_the_same(tmp_path):
    hr = expected_grey().astype(np.uint8)
    header = "ObjectType = Image\nNDims = 3\nDimSize = 88 10 12\nElementType = MET_UCHAR\n"
    (tmp_path / "plug.mhd").write_text(f"{header}ElementDataFile = plug.raw\n")
    hr.tofile(tmp_path / "plug.raw")
    build(tmp_path / "plug.mhd", tmp_path / "set", BuildOptions(**OPTIONS))
    hr[0, 0, 0] += 1
    hr.tofile(tmp_path / "plug.raw")
    with pytest.raises(UserError, match="holds another set"):
        build(tmp_path / "plug.mhd", tmp_path / "set", BuildOptions(**OPTIONS))
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["ndim"] == 3


@pytest.mark.parametrize("where", ["plug.raw", "slices/9.tif", "slices/10.tif"])
def test_a_file_that_changes_while_it_is_packed_is_a_fault(tmp_path, where):
    """A scanner may still be writing it; what was packed would not be what the manifest says."""
    source, path = tmp_path / "in" / where.split("/")[0], tmp_path / "in" / where
    path.parent.mkdir(parents=True)
    if source == path:
        expected_grey().astype(np.uint8).tofile(path)
    else:
        for number, page in enumerate(np.random.default_rng(0).integers(0, 256, (10, 12, 12), np.uint8)):
            tifffile.imwrite(source / f"{number}.tif", page)

    def growing(results, count, act):
        for result in results:
            yield result
            if act == "pack regions":
                with open(path, "ab") as file:
                    file.write(b"more")

    options = BuildOptions(raw="12x10x88,uint8" if source == path else None, **OPTIONS)
    with pytest.raises(BuildError, match=f"{where}: changed while it was packed; start again"):
        build(source, tmp_path / "set", options, growing)
    assert not list(tmp_path.glob("set*"))


def test_a_pair_is_named_by_what_is_wrong_with_it_alone(tmp_path):
    hr = expected_grey().astype(np.uint8)
    np.save(tmp_path / "fine.npy", hr.astype(np.float32))
    np.save(tmp_path / "coarse.npy", downsample(hr, 2))
    (tmp_path / "notes.txt").write_text("no volume")
    for sides, words in (
        (("fine.npy", "coarse.npy"), "fine.npy: pixels are float32"),  # nothing about coarse.npy
        (("coarse.npy", "notes.txt"), "notes.txt: format '.txt' is not read"),
    ):
        with pytest.raises(BuildError) as caught:
            build(tuple(tmp_path / side for side in sides), tmp_path / "set", BuildOptions(**OPTIONS))
        (fault,) = caught.value.faults
        assert fault.startswith(str(tmp_path / words.split(":")[0])) and words in fault


def test_a_window_without_any_value_is_named(tmp_path):
    np.save(tmp_path / "plug.npy", values())
    options = BuildOptions(**OPTIONS | {"window": "5:6", "min_contrast": 0.05})
    with pytest.raises(BuildError, match="1 fault .*\n.*another window than 5.0:6.0, or min_contrast=0"):
        build(tmp_path / "plug.npy", tmp_path / "set", options)
