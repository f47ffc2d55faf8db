import numpy as np
import pytest
import tifffile
from conftest import texture, write_folder
from PIL import Image

from srgan_dist.data.manifest import ROCK_RULE
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.packing.scan import find_sources
from srgan_dist.packing.tiles import check_samples, list_samples, tile_starts


def test_slices_of_a_volume_stay_in_one_split(tmp_path):
    for i in range(3):
        tifffile.imwrite(
            tmp_path / f"plug{i}.tif",
            np.stack([texture(10 * i + j, 40, 40) for j in range(4)]),
            photometric="minisblack",
        )
    np.save(tmp_path / "plug3.npy", np.stack([texture(50 + j, 40, 40) for j in range(4)]))
    sources = find_sources(tmp_path, "default", 4).sources
    assert [s.hr.slices for s in sources] == [4] * 4
    samples = list_samples(sources, BuildOptions(kind="default", tile=40, crop=16))
    splits = {}
    for sample in samples:
        splits.setdefault(sample.source, set()).add(sources[sample.source].split)
    assert len(samples) == 16 and all(len(found) == 1 for found in splits.values())
    assert samples[5].key.endswith("_plug1_p0001")


@pytest.mark.parametrize(
    "size, tile, scale, expected",
    [
        (500, 500, 4, (500, [0])),
        (1000, 500, 4, (500, [0, 500])),
        (996, 500, 4, (500, [0, 496])),  # overlap, nothing left out
        (1024, 500, 4, (500, [0, 262, 524])),
        (300, 500, 4, (300, [0])),
        (403, 500, 4, (400, [1])),  # three pixels are no multiple of the scale
        (503, 500, 4, (500, [1])),
    ],
)
def test_tiles_cover_an_axis(size, tile, scale, expected):
    assert tile_starts(size, tile, scale) == expected


def test_tiles_of_an_image_cover_every_pixel(tmp_path):
    Image.fromarray(texture(0, 130, 210)).save(tmp_path / "a.png")
    samples = list_samples(find_sources(tmp_path, "unknown", 4).sources, BuildOptions(tile=64, crop=16))
    covered = np.zeros((130, 210), bool)
    for s in samples:
        page, top, left = s.corner
        covered[top : top + 64, left : left + 64] = True
    assert covered.all() and {s.shape for s in samples} == {(1, 64, 64)}
    assert len({s.key for s in samples}) == len(samples) == 12
    assert len({s.kernel for s in samples}) > 1


def test_small_images_mixed_types_bad_and_colliding_keys_are_faults(tmp_path):
    (tmp_path / "r").mkdir()
    Image.fromarray(texture(0, 40, 40)).save(tmp_path / "r" / "small.png")
    Image.fromarray(texture(0, 64, 64, np.uint16)).save(tmp_path / "r" / "deep.png")
    Image.fromarray(texture(1, 64, 64)).save(tmp_path / "r" / "a b.png")
    Image.fromarray(texture(2, 64, 64)).save(tmp_path / "r" / "a.b.png")
    Image.fromarray(texture(3, 64, 64)).save(tmp_path / "r" / f"{'long' * 30}.png")
    sources = find_sources(tmp_path, "default", 4).sources
    samples = list_samples(sources, BuildOptions(kind="default", tile=64, crop=16))
    faults = "\n".join(check_samples(sources, samples, BuildOptions(crop=48)))
    assert "is uint8 and" in faults and "--dtype uint16" in faults
    assert "small.png: 40x40 pixels are less than crop=48" in faults
    assert "must be 1 to 90 of the characters" in faults
    assert "a.b.png: has the same key 'r_a_b' as" in faults
    assert len(faults.splitlines()) == 4
    assert "uint16" not in "\n".join(check_samples(sources, samples, BuildOptions(crop=16, dtype="uint16")))


def test_rocks_whose_name_is_not_printable_are_faults(tmp_path):
    write_folder(tmp_path, {"coal\udcff": 1, "two\nlines": 1})
    assert find_sources(tmp_path, "default", 4).faults == [
        f"{name}: {ROCK_RULE}; rename its folder" for name in (r"'coal\udcff'", r"'two\nlines'")
    ]


def test_the_same_fault_of_many_files_is_one_line_with_a_count(tmp_path):
    write_folder(tmp_path, {"coal": 30}, size=(3, 3))
    sources = find_sources(tmp_path, "default", 4).sources
    options = BuildOptions(kind="default", tile=80, crop=48)
    (fault,) = check_samples(sources, list_samples(sources, options), options)
    first = ", ".join(str(tmp_path / "coal" / f"slice_{i}.png") for i in range(3))
    assert fault.startswith(f"{first} and 27 more: 3x3 pixels")
    assert "less than crop=48, the HR square that training cuts (12 LR pixels at scale=4)" in fault


def test_blocks_of_a_volume_cover_every_voxel_in_the_order_of_its_pages(tmp_path):
    np.save(tmp_path / "plug.npy", np.zeros((30, 21, 16), np.uint8))
    options = BuildOptions(tile=16, crop=8, ndim=3)
    samples = list_samples(find_sources(tmp_path, "unknown", 4, 3).sources, options)
    covered = np.zeros((30, 21, 16), bool)
    for sample in samples:
        covered[tuple(slice(start, start + 16) for start in sample.corner)] = True
    assert covered.all() and {sample.shape for sample in samples} == {(16, 16, 16)}
    name = f"{tmp_path.name}_plug"
    assert [sample.key for sample in samples] == [
        f"{name}_z0000_y0000_x0000",
        f"{name}_z0000_y0005_x0000",
        f"{name}_z0014_y0000_x0000",
        f"{name}_z0014_y0005_x0000",
    ]


def test_a_volume_of_one_block_has_the_key_of_its_file_and_thin_ones_are_faults(tmp_path):
    np.save(tmp_path / "cube.npy", np.zeros((18, 16, 16), np.uint8))
    np.save(tmp_path / "thin.npy", np.zeros((7, 16, 16), np.uint8))
    np.save(tmp_path / "slice.npy", np.zeros((16, 16), np.uint8))
    sources = find_sources(tmp_path, "default", 4, 3).sources
    options = BuildOptions(tile=20, crop=8, ndim=3)
    samples = list_samples(sources, options)
    cube = samples[0]
    assert cube.key.endswith("_cube") and (cube.corner, cube.shape) == ((1, 0, 0), (16, 16, 16))
    faults = "\n".join(check_samples(sources, samples, options))
    assert "thin.npy: 7x16x16 voxels are less than crop=8, the HR cube that training cuts" in faults
    assert "slice.npy: 1x16x16 voxels are less than crop=8" in faults


@pytest.mark.parametrize("with_lr", [False, True])
@pytest.mark.parametrize("count, expected", [(64, "0-45 49-54 58-63"), (10, "0-5 7-7 9-9")])
def test_the_only_stack_of_a_rock_is_split_into_blocks_of_slices_with_a_gap(
    tmp_path, with_lr, count, expected
):
    stack = np.random.default_rng(0).integers(0, 255, (count, 16, 20), np.uint8)
    for side, array in (("hr", stack), ("lr", stack[:, ::2, ::2])):
        (tmp_path / side).mkdir()
        tifffile.imwrite(tmp_path / side / "core.tif", array, photometric="minisblack")
    source = (tmp_path / "hr", tmp_path / "lr") if with_lr else tmp_path / "hr"
    result = build(source, tmp_path / "out", BuildOptions(scale=2, tile=20, crop=8))
    blocks = []
    for name in ("train", "valid", "test"):
        reader = Reader(open_split(tmp_path / "out", name))
        pages = {}
        for i in range(len(reader.split)):
            (lr, hr), page = reader.image(i), reader.record(i)["page"]
            assert np.array_equal(hr, stack[page]) and (not with_lr or np.array_equal(lr, hr[::2, ::2]))
            pages[page] = reader.split.key(i)
        blocks.append(f"{min(pages)}-{max(pages)}")
        assert len(pages) == 1 + max(pages) - min(pages)
        assert all(
            key == f"hr_core_{name}" + f"_p{page:04d}" * (len(pages) > 1) for page, key in pages.items()
        )
    assert " ".join(blocks) == expected
    assert any("core.tif: its splits are slabs along z: train 0 to" in note for note in result.notes)


def test_a_short_stack_is_not_split(tmp_path):
    stack = np.random.default_rng(0).integers(0, 255, (9, 16, 20), np.uint8)
    tifffile.imwrite(tmp_path / "core.tif", stack, photometric="minisblack")
    (source,) = find_sources(tmp_path, "unknown", 4).sources
    assert source.split == "train"


def test_two_stacks_of_a_rock_are_split_inside_each_and_meet_in_one_split(tmp_path):
    """Halves of one scan: the last slices of the first and the first of the second are neighbours."""
    scan = np.random.default_rng(0).integers(0, 255, (80, 16, 20), np.uint8)
    (tmp_path / "scan" / "core").mkdir(parents=True)
    for name, part in (("0.tif", scan[:40]), ("1.tif", scan[40:])):
        tifffile.imwrite(tmp_path / "scan" / "core" / name, part, photometric="minisblack")
    build(tmp_path / "scan", tmp_path / "set", BuildOptions(tile=20, crop=16, scale=2))
    slices = {}
    for split in ("train", "valid", "test"):
        reader = Reader(open_split(tmp_path / "set", split))
        for i in range(len(reader.split)):
            record = reader.record(i)
            slices[record["page"] + 40 * record["source"].endswith("1.tif")] = split
    assert set(slices.values()) == {"train", "valid", "test"}
    assert slices[39] == slices[40] == "test" and slices[0] == slices[79] == "train"
    ordered = sorted(slices.items())
    changes = [b - a for (a, one), (b, other) in zip(ordered, ordered[1:]) if one != other]
    assert min(changes) > 2 and len(changes) == 4


def test_a_short_stack_beside_another_leaves_both_whole(tmp_path):
    (tmp_path / "core").mkdir()
    for name, count in (("0", 40), ("1", 9)):
        stack = np.random.default_rng(count).integers(0, 255, (count, 16, 20), np.uint8)
        tifffile.imwrite(tmp_path / "core" / f"{name}.tif", stack, photometric="minisblack")
    assert [source.split for source in find_sources(tmp_path, "default", 2).sources] == ["train", "valid"]
