"""The index table of a split, rebuilt from its shards where it was lost or damaged."""

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import PngImagePlugin

from srgan_dist.data.index import index_dtype, to_version_2
from srgan_dist.data.manifest import IndexedManifest
from srgan_dist.packing.index_webdataset import read_webdataset
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of
from srgan_dist.utils.json_text import load_json
from srgan_dist.utils.memory import raise_out_of_memory


def is_intact(path, entry):
    """Return whether a file exists with the sha256 of its FileEntry in the manifest."""
    return path.is_file() and sha256_of(path) == entry.sha256


def rebuild_index(packed, name, progress=iter):
    """Return the bytes of the index table (NPY) of split `name` of a PackedSet in a folder.

    progress wraps the list of shards as tqdm does. Raises UserError where a shard or the table does not have
    the sha256 of the manifest.
    """
    manifest, split = packed.manifest, packed.manifest.splits[name]
    if isinstance(manifest, IndexedManifest):
        return _of_webdataset(packed, name, progress)
    rows = []
    for number, entry in progress(list(enumerate(split.shards))):
        rows += _rows_of_shard(_intact(packed, entry), number, manifest)
    table = np.array(rows, index_dtype(manifest.ndim))
    for version in (table, to_version_2(table, manifest.scale)) if manifest.ndim == 2 else (table,):
        content = io.BytesIO()
        np.save(content, version)
        if hashlib.sha256(content.getvalue()).hexdigest() == split.index.sha256:
            return content.getvalue()
    raise _other_index(packed, name)


def _intact(packed, entry):
    """Return the path of a shard; raises UserError where it has not the sha256 of the manifest."""
    path = packed.place.file(entry)
    if not isinstance(path, Path):
        raise UserError(f"{path} is at a URL; delete {packed.place}/manifest.json and index its shards again")
    if not is_intact(path, entry):
        raise UserError(
            f"{path} is missing or damaged (sha256 differs from the manifest), so the index cannot be read"
            f" off it; copy the file again or {packed.manifest.again}"
        )
    return path


def _other_index(packed, name):
    return UserError(
        f"{packed.place}: the index of the shards of split {name} is not the one that manifest.json names"
        f" (sha256 differs); {packed.manifest.again}"
    )


def _of_webdataset(packed, name, progress):
    """Return the table of a split of other people's WebDataset; keys depend on all splits, which are read."""
    splits = packed.manifest.splits
    paths = {split: [_intact(packed, shard) for shard in entry.shards] for split, entry in splits.items()}
    table = read_webdataset(
        packed.place.path,
        paths,
        packed.manifest.fields,
        lambda results, count, _: progress(list(results)),
        judged=False,
    ).tables[name]
    if hashlib.sha256(table).hexdigest() != splits[name].index.sha256:
        raise _other_index(packed, name)
    return table


def _rows_of_shard(path, number, manifest):
    """Return the rows of a shard whose sha256 is that of the manifest: three members per sample, HR, record,
    LR.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
            return [
                _row(tar, members[start : start + 3], number, manifest) for start in range(0, len(members), 3)
            ]
    except Exception as error:  # tar, NPY, PNG and JSON readers raise many kinds
        raise_out_of_memory(error, f"a sample of {path}")
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is not a shard of this format ({reason}); build the set again") from None


def _row(tar, members, number, manifest):
    hr, record, lr = members
    row = np.zeros((), index_dtype(manifest.ndim))
    row["key"], row["shard"] = hr.name.partition(".")[0].encode(), number
    row["rock"] = manifest.rocks.index(load_json(tar.extractfile(record).read())["rock"])
    row["record_offset"], row["record_bytes"] = record.offset_data, record.size
    images = {}
    for side, member in (("hr", hr), ("lr", lr)):
        content = tar.extractfile(member).read()
        images[side] = image = _decode(content, manifest.encoding)
        head = len(content) - image.nbytes if manifest.encoding == "npy" else 0
        row[f"{side}_offset"], row[f"{side}_bytes"] = member.offset_data + head, member.size - head
        row[f"{side}_crc32"] = zlib.crc32(image.tobytes())
    row["lr_shape"] = images["lr"].shape
    row["darkest"], row["brightest"] = images["hr"].min(), images["hr"].max()
    return row[()]


def _decode(content, encoding):
    if encoding == "npy":
        return np.load(io.BytesIO(content), allow_pickle=False)
    return np.asarray(PngImagePlugin.PngImageFile(io.BytesIO(content)))
