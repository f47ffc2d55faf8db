"""The local part of a set that is streamed: all of what validates and tests, and some first samples of what
is trained on, which tell what the set is. It is made by streaming once, and then a set like any other.

CACHE/streamed/DIGEST/valid-000000.tar ...   copies of the shards, as webdataset writes them
CACHE/streamed/DIGEST/manifest.json          their index, as `index_webdataset` makes it
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil

import webdataset

from srgan_dist.data.manifest import SPLITS
from srgan_dist.data.stream import stream_samples
from srgan_dist.packing.index_webdataset import index_webdataset
from srgan_dist.packing.shard_addresses import check_repeated, expand_shards
from srgan_dist.storage.remote import Remote, is_url
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import UnusableFile, check_own_folder, unwritable_refused
from srgan_dist.utils.locks import blocking_lock, try_lock

TRAIN_SHARDS, TRAIN_SAMPLES = 8, 8  # training shards that are looked at, and samples of each


def shards_of(path, stream):
    """Return {split: addresses of all its shards} that the settings `stream` name; path: data.path."""
    shards = {}
    for split in SPLITS:
        if addresses := getattr(stream, split):
            places = [address if ":" in address else os.path.join(path, address) for address in addresses]
            shards[split] = expand_shards(f"data.stream.{split}", places)
    check_repeated(shards, "data.stream.")
    return shards


def local_part(shards, stream, cache):
    """Return the folder of the local part of a streamed set, made where there is none for these shards.

    shards: of `shards_of`, stream: the settings. Raises UserError for shards that cannot be streamed whole,
    and for samples that `index_webdataset` refuses, and where somebody else has put something there.
    """
    chosen = dict(shards)
    train = shards["train"]
    count = min(TRAIN_SHARDS, len(train))
    chosen["train"] = [train[i * len(train) // count] for i in range(count)]
    fields = stream.model_dump(include={"hr", "lr", "rock", "rock_field", "record"})
    key = [{split: list(map(_stamp, found)) for split, found in chosen.items()}, train, fields]
    folder = cache.folder / "streamed" / hashlib.sha256(json.dumps(key).encode()).hexdigest()
    with unwritable_refused(f"data.cache={cache.folder}: what data.stream validates and tests"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        cache.warn_if_shared()
        _check_own(folder.parent, cache)
        _remove_left_over(folder.parent)
        with blocking_lock(folder.with_suffix(".lock")):
            if not folder.exists():
                part = folder.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                _copy(part, chosen, fields, cache)
                os.replace(part, folder)
            _check_own(folder, cache)
    return folder


def _check_own(folder, cache):
    try:
        check_own_folder(folder)
    except UnusableFile as error:
        raise UserError(f"data.cache={cache.folder}: {error}, or give another folder") from None


def _remove_left_over(folder):
    """Remove the parts of processes that were killed while they made them."""
    for part in folder.glob("*.part"):
        with try_lock(part.with_suffix(".lock")) as lock:
            if lock:
                shutil.rmtree(part, ignore_errors=True)


def _stamp(address):
    """Return by what a shard is told from another one under its name: its size, and a file's last change."""
    if is_url(address):
        folder, _, name = address.rpartition("/")
        return [address, Remote(folder, None).size(name)]
    with contextlib.suppress(OSError):  # named when it is streamed
        status = os.stat(address)
        return [os.path.abspath(address), status.st_size, status.st_mtime_ns]
    return [address]


def _copy(folder, shards, fields, cache):
    """Stream shards into a folder, and index them there."""
    names = {}
    for split, addresses in shards.items():
        for number, address in enumerate(addresses):
            path = folder / f"{split}-{number:06d}.tar"
            names[str(path)] = address
            samples = stream_samples([address])
            with contextlib.closing(samples), open(path, "wb") as file:
                with webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
                    for sample in itertools.islice(samples, TRAIN_SAMPLES if split == "train" else None):
                        writer.write(sample)
    try:
        index_webdataset(
            folder,
            {split: sorted(map(str, folder.glob(f"{split}-*.tar"))) for split in shards},
            cache=cache,
            **fields,
        )
    except UserError as error:
        text = str(error)
        for path, address in names.items():
            text = text.replace(path, address)
        text = re.sub(r"--(hr|lr|rock|train|valid|test)\b", r"data.stream.\1", text)
        raise UserError(text.replace("data.stream.rock-field", "data.stream.rock_field")) from None
