"""Images stored as PNG: the same pixels, and nothing else is taken for one."""

import io
import json
import shutil
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import TINY, stream, texture, write_folder
from packed_sets import edit_manifest
from PIL import Image
from test_build import digests

from srgan_dist.data.split import open_set
from srgan_dist.integrity.audit import verify
from srgan_dist.packing.build import build
from srgan_dist.packing.summary import format_counts
from srgan_dist.storage.encoding import EncodingError, decode, encode
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.executors import process_pool
from srgan_dist.utils.files import sha256_of

PNG = replace(TINY, encoding="png")


@pytest.mark.parametrize("encoding", ["npy", "png"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_grey_level_comes_back(encoding, dtype):
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(-1, 16)
    image = decode(encoding, encode(encoding, levels), levels.shape, dtype)
    assert np.array_equal(image, levels) and image.dtype == dtype


@pytest.mark.parametrize("encoding", ["npy", "png"])
def test_a_part_of_a_larger_image_is_stored_alone(encoding):
    part = texture(0)[3:43, 5:55]
    assert np.array_equal(decode(encoding, encode(encoding, part), (40, 50), np.uint8), part)


def test_the_same_pixels_give_the_same_bytes():
    assert encode("png", texture(0)) == encode("png", texture(0).copy())
    assert len(encode("png", texture(0))) < texture(0).nbytes


def png(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def with_header(data, *fields):
    """Give a PNG another header, its checksum right."""
    header = b"IHDR" + struct.pack(">IIBBBBB", *fields)
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


GOOD = encode("png", texture(0))
FLIPPED = GOOD[:200] + bytes([GOOD[200] ^ 1]) + GOOD[201:]


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "is no PNG file"),
        (b"no picture", "is no PNG file"),
        (GOOD[:20], "is no PNG file"),
        (GOOD[8:], "is no PNG file"),
        (encode("png", texture(0).T), "is a PNG of 80x72 pixels, not 72x80"),
        (
            with_header(GOOD, 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0),
            "is a PNG of 2147483647x2147483647 pixels, not 72x80",
        ),
        (encode("png", texture(0, dtype=np.uint16)), "is a PNG of 16 bit grey, not of 8 bit grey"),
        (png(Image.fromarray(texture(0)).convert("RGB")), "is a PNG of 8 bit RGB, not of 8 bit grey"),
        (png(Image.fromarray(texture(0)).convert("P")), "is a PNG of 8 bit palette, not of 8 bit grey"),
        (
            with_header(GOOD, 80, 72, 8, 0, 0, 0, 1),
            r"is a PNG of 8 bit grey \(interlaced\), not of 8 bit grey",
        ),
        (GOOD[:33], "was cut short or has more in it than pixels"),
        (GOOD[:300], "is a PNG that was cut short"),
        (GOOD[:-12], "was cut short or has more in it than pixels"),
        (GOOD + b"more", "is a PNG that was cut short"),
        (GOOD + GOOD, "is a damaged PNG|was cut short"),
        (FLIPPED, r"is a damaged PNG \(the checksum of a part differs\)"),
        (png(Image.fromarray(texture(0)), dpi=(300, 300)), "has more in it than pixels"),
        (GOOD[:33] + chunk(b"IDAT", b"no zlib stream") + chunk(b"IEND", b""), "is a damaged PNG"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_not_the_expected_png_is_refused(data, words):
    with pytest.raises(EncodingError, match=words):
        decode("png", data, (72, 80), np.uint8)


def test_pixels_of_another_size_are_refused():
    with pytest.raises(EncodingError, match="has 5759 bytes of pixels, not those of 72x80 uint8"):
        decode("npy", bytes(5759), (72, 80), "uint8")


# Sets


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same images packed both ways."""
    root = tmp_path_factory.mktemp("sets")
    write_folder(root / "hr", {"sandstone": 6, "coal": 5})
    build(root / "hr", root / "npy", TINY)
    build(root / "hr", root / "png", PNG)
    return root


@pytest.fixture
def copy(sets, tmp_path):
    return shutil.copytree(sets / "png", tmp_path / "copy")


def test_webdataset_streams_the_png_set_with_the_same_pixels(sets):
    for name in ("train", "valid", "test"):
        plain, packed = (
            stream(open_set(sets / encoding).stored_split(name).shards) for encoding in ("npy", "png")
        )
        assert [sample["__key__"] for sample in plain] == [sample["__key__"] for sample in packed]
        for one, other in zip(plain, packed, strict=True):
            assert one["json"] == other["json"]
            for side in ("hr", "lr"):
                pixels = np.asarray(Image.open(io.BytesIO(other[f"{side}.png"])))
                assert np.array_equal(np.load(io.BytesIO(one[f"{side}.npy"])), pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_are_where_the_index_says(tmp_path, dtype):
    write_folder(tmp_path / "hr", {"coal": 3}, dtype)
    build(tmp_path / "hr", tmp_path / "out", PNG)
    split = open_set(tmp_path / "out").stored_split("train")
    row, data = split.rows[0], split.shards[0].read_bytes()
    start = int(row["hr_offset"])
    image = decode("png", data[start : start + int(row["hr_bytes"])], (72, 80), dtype)
    assert np.array_equal(image, texture(0, 72, 80, dtype)) and zlib.crc32(image) == row["hr_crc32"]
    assert verify(open_set(tmp_path / "out")) == []


def test_the_index_tells_the_same_of_the_pixels(sets):
    plain, packed = (open_set(sets / encoding).stored_split("train").rows for encoding in ("npy", "png"))
    for name in (
        "key",
        "rock",
        "shard",
        "lr_shape",
        "hr_crc32",
        "lr_crc32",
        "darkest",
        "brightest",
    ):
        assert np.array_equal(plain[name], packed[name])
    assert format_counts(open_set(sets / "png").manifest).startswith("x4 uint8 png ")


@pytest.mark.parametrize("jobs", [2, 3])
def test_any_number_of_processes_writes_the_same_png_set(sets, tmp_path, jobs):
    with process_pool(jobs) as run:
        build(sets / "hr", tmp_path / "out", PNG, run=run)
    assert digests(tmp_path / "out") == digests(sets / "png")


def trust(folder, file):
    """Make the manifest fit a file that was changed."""

    def change(manifest):
        split = manifest["splits"]["train"]
        for entry in (split["index"], *split["shards"]):
            if entry["file"] == file:
                entry.update(bytes=(folder / file).stat().st_size, sha256=sha256_of(folder / file))

    edit_manifest(folder, change)


def edit_rows(folder, change):
    rows = np.load(folder / "train.index.npy")
    change(rows)
    np.save(folder / "train.index.npy", rows)
    trust(folder, "train.index.npy")


@pytest.mark.parametrize(
    "field, shift",
    [
        *(
            (field, shift)
            for field in ("hr_offset", "record_offset", "lr_offset", "hr_bytes")
            for shift in (1, 64, 512)
        ),
        ("lr_bytes", 1),
        ("lr_bytes", 64),
    ],
)
def test_png_members_lie_as_in_a_tar(copy, field, shift):
    edit_rows(copy, lambda rows: rows[field].__setitem__(2, rows[field][2] - shift))
    if field.endswith("bytes") and shift < 512:  # ends in the same block: only the tar itself shows it
        faults = verify(open_set(copy))
        assert faults and "train-000000.tar: at offset" in faults[0]
    else:
        with pytest.raises(
            UserError, match="train.index.npy (does not fit its shards, first at row 2|lets rows)"
        ):
            open_set(copy).stored_split("train")


@pytest.mark.parametrize(
    "field, value",
    [
        ("hr_bytes", 0),
        ("hr_bytes", 2**64 - 1),
        ("lr_bytes", 2**63),
        ("hr_offset", 2**40),
        ("lr_offset", 2**64 - 512),
    ],
)
def test_places_outside_the_shard_are_refused(copy, field, value):
    edit_rows(copy, lambda rows: rows[field].__setitem__(2, value))
    with pytest.raises(UserError, match="train.index.npy does not fit its shards, first at row 2"):
        open_set(copy).stored_split("train")


@pytest.mark.parametrize("side", [2**16, 2**31, 2**32 - 4])
def test_sizes_that_no_png_of_so_few_bytes_has_are_refused(copy, side):
    edit_rows(copy, lambda rows: rows["lr_shape"].__setitem__(2, side // 4))
    with pytest.raises(UserError, match="train.index.npy does not fit its shards, first at row 2"):
        open_set(copy).stored_split("train")


@pytest.mark.parametrize("encoding", ["npy", "PNG", None])
def test_another_encoding_than_the_shards_have_is_refused(copy, encoding):
    edit_manifest(copy, lambda manifest: manifest.update(encoding=encoding))
    with pytest.raises(UserError, match="does not fit its shards|manifest.json is damaged at encoding"):
        open_set(copy).stored_split("train")


@pytest.mark.parametrize("trusted", [False, True], ids=["hash", "stream"])
def test_one_flipped_bit_of_a_png_is_found(copy, trusted):
    split = open_set(copy).stored_split("train")
    data = bytearray(split.shards[0].read_bytes())
    data[int(split.rows[1]["lr_offset"]) + 60] ^= 1
    split.shards[0].write_bytes(data)
    if trusted:
        trust(copy, "train-000000.tar")
    (fault,) = verify(open_set(copy))
    words = "has an LR image that is a damaged PNG (the checksum of a part differs)"
    assert "train-000000.tar: " in fault and words in fault and trusted == ("sha256" not in fault)


def test_other_pixels_in_an_intact_png_are_found(copy):
    edit_rows(copy, lambda rows: rows["hr_crc32"].__setitem__(0, rows["hr_crc32"][1]))
    (fault,) = verify(open_set(copy))
    assert "has other HR pixels than were packed (crc32 differs)" in fault


def test_another_payload_is_another_set(sets):
    with pytest.raises(UserError, match="holds another set .encoding: png in OUT, now npy"):
        build(sets / "hr", sets / "png", TINY)
    assert build(sets / "hr", sets / "png", PNG).already_there
    with pytest.raises(UserError, match="encoding='jpeg' must be npy or png"):
        replace(TINY, encoding="jpeg")
    assert json.loads((sets / "png" / "manifest.json").read_text())["encoding"] == "png"
