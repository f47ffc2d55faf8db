"""The index of a split: a table with one row per sample, which says where in the shards its pixels are."""

from collections import Counter
from itertools import combinations

import numpy as np

from srgan_dist.data.manifest import IndexedManifest
from srgan_dist.data.sample import BLOCK, PARTS, key_problem, next_content
from srgan_dist.storage.encoding import LARGEST_IMAGE, LARGEST_RATIO
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.memory import raise_out_of_memory

_VERSION_2 = np.dtype(
    [
        ("key", "S90"),
        ("rock", "<u2"),
        ("shard", "<u4"),
        ("hr_offset", "<u8"),
        ("hr_bytes", "<u8"),
        ("hr_height", "<u4"),
        ("hr_width", "<u4"),
        ("hr_crc32", "<u4"),
        ("lr_offset", "<u8"),
        ("lr_bytes", "<u8"),
        ("lr_height", "<u4"),
        ("lr_width", "<u4"),
        ("lr_crc32", "<u4"),
        ("record_offset", "<u8"),
        ("record_bytes", "<u4"),
        ("darkest", "<u2"),
        ("brightest", "<u2"),
    ]
)


def index_dtype(ndim):
    """Return the type of a row for images of `ndim` axes; the shape of HR is scale times lr_shape."""
    return np.dtype(
        [
            ("key", "S90"),
            ("rock", "<u2"),  # position in the manifest's list of rocks
            ("shard", "<u4"),
            ("lr_shape", "<u4", (ndim,)),
            ("hr_offset", "<u8"),  # in the tar, of the first pixel, or of the PNG file
            ("hr_bytes", "<u8"),  # from there on
            ("hr_crc32", "<u4"),  # of the pixels, decoded
            ("lr_offset", "<u8"),
            ("lr_bytes", "<u8"),
            ("lr_crc32", "<u4"),
            ("record_offset", "<u8"),  # of the JSON member
            ("record_bytes", "<u4"),
            ("darkest", "<u2"),  # grey levels of the HR image
            ("brightest", "<u2"),
        ]
    )


def load_index(table, file, manifest, entry):
    """Read and check the index of a split from an open NPY file: rows of index_dtype(manifest.ndim).

    table: its name in errors. manifest: of the set, entry: its SplitEntry. Raises UserError for a table that
    does not fit them.
    """
    try:
        rows = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for a damaged file
        raise_out_of_memory(error, table)
        raise UserError(
            f"{table} cannot be read: {str(error) or type(error).__name__}; {manifest.again}"
        ) from None
    if isinstance(rows, np.ndarray) and rows.dtype == _VERSION_2 and manifest.ndim == 2:
        rows = _from_version_2(table, rows, manifest)
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != index_dtype(manifest.ndim)
        or rows.shape != (entry.count,)
    ):
        raise UserError(f"{table} does not hold {entry.count} rows of this version's index; {manifest.again}")
    _check_rows(table, rows, manifest, entry)
    _check_samples(table, rows, manifest, entry)
    return rows


def _from_version_2(table, old, manifest):
    """Convert the rows of a version-2 set, whose columns are heights and widths."""
    rows = np.zeros(old.shape, index_dtype(2))
    for name in rows.dtype.names:
        if name != "lr_shape":
            rows[name] = old[name]
    rows["lr_shape"] = np.stack([old["lr_height"], old["lr_width"]], axis=-1)
    hr_shape = np.stack([old["hr_height"], old["hr_width"]], axis=-1)
    _refuse(table, manifest, (hr_shape == manifest.scale * rows["lr_shape"].astype(np.uint64)).all(axis=-1))
    return rows


def to_version_2(rows, scale):
    """Convert rows of 2-D images to those of a version-2 set, whose columns are heights and widths."""
    old = np.zeros(rows.shape, _VERSION_2)
    for name in set(old.dtype.names) & set(rows.dtype.names):
        old[name] = rows[name]
    for axis, length in enumerate(("height", "width")):
        old[f"lr_{length}"] = rows["lr_shape"][:, axis]
        old[f"hr_{length}"] = scale * rows["lr_shape"][:, axis]
    return old


def _check_rows(table, rows, manifest, entry):
    """Check that shards and rocks exist, that samples are placed as in a tar, and that bytes fit shapes.

    In a WebDataset of other people members come in any order, with others between them or without a record.
    """
    in_place = isinstance(manifest, IndexedManifest)
    shard_bytes = np.array([shard.bytes for shard in entry.shards], np.uint64)
    fits = (rows["shard"] < len(shard_bytes)) & (rows["rock"] < len(manifest.rocks))
    shard_bytes = shard_bytes[np.where(fits, rows["shard"], 0)]

    # All parts end inside their shard, and images have the bytes of their shape
    fits &= (rows["lr_shape"] > 0).all(axis=1)
    lr_bytes = rows["lr_shape"].prod(axis=1, dtype=np.float64) * np.dtype(manifest.dtype).itemsize
    image_bytes = {"hr": lr_bytes * manifest.scale**manifest.ndim, "lr": lr_bytes}
    starts, ends = {}, {}
    for part in PARTS:
        offset, size = rows[f"{part}_offset"], rows[f"{part}_bytes"].astype(np.uint64)
        fits &= (size > 0) | (in_place and part == "record")
        fits &= (size <= shard_bytes) & (offset <= shard_bytes - np.minimum(size, shard_bytes))
        if part in image_bytes:
            fits &= _can_hold(size, image_bytes[part], manifest.encoding)
        starts[part], ends[part] = offset, offset + size

    if not in_place:  # members follow one another; both images have NPY headers of one size
        fits &= rows["record_offset"] == next_content(ends["hr"])
        head = rows["lr_offset"] - next_content(ends["record"])
        fits &= (head < (BLOCK if manifest.encoding == "npy" else 1)) & (rows["hr_offset"] % BLOCK == head)

    fits &= (rows["darkest"] <= rows["brightest"]) & (rows["brightest"] <= np.iinfo(manifest.dtype).max)
    _refuse(table, manifest, fits)
    if in_place:
        for one, other in combinations(PARTS, 2):
            _refuse(table, manifest, (ends[one] <= starts[other]) | (ends[other] <= starts[one]))
    else:
        _check_overlap(table, rows, ends["lr"])


def _refuse(table, manifest, fits):
    if not fits.all():
        raise UserError(
            f"{table} does not fit its shards, first at row {int(np.argmin(fits))}; {manifest.again}"
        )


def _can_hold(size, image_bytes, encoding):
    """Return whether `size` bytes in a tar can be an image of `image_bytes` bytes of pixels."""
    if encoding == "files":
        return image_bytes <= LARGEST_IMAGE
    return size == image_bytes if encoding == "npy" else image_bytes <= size * float(LARGEST_RATIO)


def _check_overlap(table, rows, ends):
    order = np.lexsort((rows["hr_offset"], rows["shard"]))
    before, after = order[:-1], order[1:]
    overlap = (rows["shard"][before] == rows["shard"][after]) & (rows["hr_offset"][after] < ends[before])
    if overlap.any():
        one, other = sorted((int(before[overlap][0]), int(after[overlap][0])))
        raise UserError(f"{table} lets rows {one} and {other} overlap in their shard; build the set again")


def _check_samples(table, rows, manifest, entry):
    """Check that keys are valid and unique, and that the counts of rocks and shards fit the manifest."""
    keys = [key.decode("ascii", "backslashreplace") for key in rows["key"].tolist()]
    problem = next(filter(None, map(key_problem, keys)), None)
    if problem:
        raise UserError(f"{table} is damaged: {problem}; {manifest.again}")
    key, count = Counter(keys).most_common(1)[0]
    if count > 1:
        raise UserError(f"{table} has the key {key!r} {count} times; {manifest.again}")
    rocks = Counter(manifest.rocks[number] for number in rows["rock"].tolist())
    shards = Counter(entry.shards[number].file for number in rows["shard"].tolist())
    for counts, listed in (
        (rocks, entry.rocks),
        (shards, {shard.file: shard.count for shard in entry.shards}),
    ):
        for name in sorted(counts.keys() | listed.keys()):
            if counts[name] != listed.get(name, 0):
                raise UserError(
                    f"{table} has {counts[name]} samples of {name}, the manifest says {listed.get(name, 0)};"
                    f" {manifest.again}"
                )
