"""Packing: from sources to a directory of tar shards, the same bytes for the same input and options.

The layout of every shard follows from headers alone (`_lay_out`), so pixels can then be written to their places in
any order and by many processes, each source decoded once (`pack.py`). Work happens in OUT.building, which becomes OUT in one
rename when everything is complete and without fault.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from srgan_dist.data import index
from srgan_dist.data.pack import Job, pack
from srgan_dist.data.sample import BLOCK, FIELDS, RECORD, encode_record, npy_header, padded, tar_header
from srgan_dist.data.sources import check_samples, find_sources, list_samples, stored_dtype
from srgan_dist.errors import UserError
from srgan_dist.files import sha256_of, sync
from srgan_dist.locks import exclusive_out

FAINT = 2**14  # 16-bit images that stay below it use less than a quarter of their range
MARKER = "building.json"  # tells a directory of ours from anyone else's, and is locked by the build that works in it


@dataclass(frozen=True)
class BuildOptions:
    """What decides the bytes of a packed set, beside its images."""

    scale: int = 4
    kind: str = "unknown"  # of the LR side: "default" is bicubic, "unknown" one kernel per image
    tile: int = 500  # HR pixels; for folders of HR images
    crop: int = 192  # HR pixels; the square that training will cut, no image may be smaller
    seed: int = 0
    samples_per_shard: int = 400
    dtype: str | None = None  # "uint16" stores 8-bit images times 257; None keeps the images' own type

    def __post_init__(self):
        if self.scale < 2 or self.scale & (self.scale - 1):
            raise UserError(f"scale={self.scale} must be 2 or more and a power of two (2, 4, 8):"
                            " generators double the size in each stage")
        if self.kind not in ("default", "unknown"):
            raise UserError(f"kind={self.kind!r} must be default or unknown")
        if self.dtype not in (None, "uint16"):
            raise UserError(f"dtype={self.dtype!r} must be uint16, or left out to keep that of the images")
        for name in ("tile", "crop"):
            value = getattr(self, name)
            if value < self.scale or value % self.scale:
                nearest = max(1, round(value / self.scale)) * self.scale
                raise UserError(f"{name}={value} is not a multiple of scale={self.scale}; use e.g. {nearest}")
        if self.tile < self.crop:
            raise UserError(f"tile={self.tile} is smaller than crop={self.crop}; enlarge --tile or reduce --crop")
        if self.samples_per_shard < 1:
            raise UserError(f"samples_per_shard={self.samples_per_shard} must be 1 or more")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must be 0 or more")


class BuildError(UserError):
    """Everything that is wrong with a source, one fault per line."""

    def __init__(self, faults):
        shown = "\n".join(f"  {fault}" for fault in faults)
        super().__init__(f"{len(faults)} fault{'s' * (len(faults) != 1)} found, nothing was written:\n{shown}")
        self.faults = faults


@dataclass(frozen=True)
class Result:
    """A finished set: its manifest, what is worth telling the user, and whether it stood there already."""

    manifest: index.Manifest
    notes: list
    already_there: bool = False


def build(source, out, options, progress=None, run=map):
    """Pack `source` into the directory `out` and return a Result.

    run(function, jobs): yields the results in order, as `map` and the `map` of any executor of concurrent.futures do;
    the set has the same bytes whatever it is. progress(results, count) wraps what it yields, as tqdm does.
    Raises BuildError with all faults of the source, UserError when `out` holds something else.
    """
    source, out = Path(source), Path(os.path.realpath(out))
    _check_out(source, out)
    found = find_sources(source, options.kind, options.scale)
    samples = list_samples(found.sources, options.kind, options.scale, options.tile, options.seed)
    faults = found.faults + check_samples(found.sources, samples, options.scale, options.crop, options.dtype)
    counted = partial(progress, count=len(found.sources)) if progress else iter
    if faults:  # look at the pixels too, so that a user mends everything in one go
        raise BuildError(faults + _work(_jobs(found.sources, samples, options), run, counted).faults)

    identity = {"options": asdict(options), "source_sha256": _digest(found.sources, run)}
    if _holds_files(out):
        return Result(_same_set(out, identity), found.notes, already_there=True)

    dtype = stored_dtype(found.sources, options.dtype)
    rocks = sorted({s.rock for s in found.sources})
    tables, shards = _lay_out(found.sources, samples, rocks, dtype, options)
    with _write_failures_named(out, tables, shards), _stage_of(out) as stage:
        for file, members, size in chain(*shards.values()):
            _write_skeleton(stage / file, members, size)
        pixels = _work(_jobs(found.sources, samples, options, stage, tables, dtype), run, counted, tables)
        if pixels.faults:
            raise BuildError(pixels.faults)
        manifest = _finish(stage, tables, shards, rocks, dtype, options, identity)
        os.replace(stage, out)
        (out / MARKER).unlink(missing_ok=True)  # only now: a stage without it would look like someone else's
        sync(out.parent)
    return Result(manifest, found.notes + pixels.notes() + _faint(tables, dtype))


def _check_out(source, out):
    real = Path(os.path.realpath(source))
    if out.exists() and not out.is_dir():
        raise UserError(f"OUT={out} is a file; give the name of a new folder")
    if out == real or real in out.parents:
        raise UserError(f"OUT={out} is or lies inside SOURCE={source}; give a folder apart from it")
    if out in real.parents:
        raise UserError(f"SOURCE={source} lies inside OUT={out}; give a folder apart from it")
    if _holds_files(out):
        if not (out / "manifest.json").is_file():
            raise UserError(f"OUT={out} holds other files; give the name of a new folder")
    elif os.path.ismount(out):
        raise UserError(f"OUT={out} is a mount point, which a finished set cannot replace; give a new folder inside it")
    elif out == Path(os.path.realpath(".")):
        raise UserError(f"OUT={out} is the folder you are in, which a finished set would replace;"
                        " give a new folder inside it")
    elif not (parent := _nearest_parent(out)).is_dir():
        raise UserError(f"OUT={out} cannot be made: {parent} is a file; give another folder")


def _holds_files(folder):
    return folder.exists() and any(folder.iterdir())


def _nearest_parent(path):
    return next(parent for parent in path.parents if parent.exists())


def _same_set(out, identity):
    """Return the manifest of a finished set if it was made from the same images with the same options."""
    manifest = index.read_manifest(out)
    there = {key: getattr(manifest, key) for key in identity}
    if there == identity:
        if (out / MARKER).exists():  # the build was killed between its last two acts
            (out / MARKER).unlink(missing_ok=True)
        return manifest
    differences = [
        f"{name}: {there['options'].get(name)} there, {value} asked for"
        for name, value in identity["options"].items() if there["options"].get(name) != value
    ] or ["its images are not those of SOURCE now"]
    raise UserError(f"OUT={out} holds another set ({'; '.join(differences)}). Give a new folder, or delete that one")


def _digest(sources, run):
    """Hash names and bytes of all source files; the manifest keeps it to tell whether a set is still current."""
    sides = [[side.path for side in (source.hr, source.lr) if side] for source in sources]
    hashes = iter(run(sha256_of, list(chain(*sides))))
    total = hashlib.sha256()
    for source, paths in zip(sources, sides, strict=True):
        parts = [source.rock, source.split, source.file, *islice(hashes, len(paths))]
        total.update(json.dumps(parts).encode())
    return total.hexdigest()


# Stage

@contextlib.contextmanager
def _stage_of(out):
    """Yield an empty directory beside OUT that no other build works in; it goes if the build fails with an error."""
    stage = out.with_name(out.name + ".building")
    if stage.exists() and not (stage / MARKER).is_file() and (not stage.is_dir() or any(stage.iterdir())):
        raise UserError(f"{stage} is in the way and was not made by this program; move it")
    stage.mkdir(parents=True, exist_ok=True)
    with exclusive_out(stage / MARKER, out):
        if _holds_files(out):
            _remove(stage)
            raise UserError(f"another build has just finished OUT={out}; run this one again to compare")
        try:
            _clear(stage)  # what a killed build left
            yield stage
        except (UserError, OSError):
            _remove(stage)
            raise


def _clear(stage):
    for path in stage.iterdir():
        if path.name != MARKER:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _remove(stage):
    """Remove the stage, its marker after all else, so that it can be told from others at any moment."""
    with contextlib.suppress(OSError):
        _clear(stage)
        (stage / MARKER).unlink()
        stage.rmdir()


@contextlib.contextmanager
def _write_failures_named(out, tables, shards):
    """Turn what the disk refuses into an error that names OUT and the space the set takes."""
    try:
        yield
    except OSError as error:
        needed = sum(size for _, _, size in chain(*shards.values())) + sum(table.nbytes for table in tables.values())
        free = shutil.disk_usage(_nearest_parent(out)).free
        raise UserError(f"OUT={out} cannot be written ({error}). The set takes {needed:,} bytes, {free:,} are free there;"
                        " free more, or give a folder that can be written to") from None


# Layout

def _lay_out(sources, samples, rocks, dtype, options):
    """Decide where everything goes.

    Returns {split: table of INDEX} with offsets and shapes filled in, and {split: list of (file, members, bytes)}. A
    table is in the order of the tar: samples shuffled by the seed, so that reading straight through mixes rocks and
    slices.
    """
    tables, shards = {}, {}
    for number, split in enumerate(index.SPLITS):
        chosen = [sample for sample in samples if sources[sample.source].split == split]
        if not chosen:
            continue
        order = np.random.default_rng((options.seed, number)).permutation(len(chosen))
        table = np.zeros(len(chosen), index.INDEX)
        groups = np.array_split(order, -(-len(chosen) // options.samples_per_shard))
        row = 0
        for shard, group in enumerate(groups):
            rows = table[row : row + len(group)]
            rows["shard"] = shard
            members = [_members(chosen[i], sources, dtype, options) for i in group]
            rows["rock"] = [rocks.index(sources[chosen[i].source].rock) for i in group]
            shards.setdefault(split, []).append((index.shard_name(split, shard), members, _place(members, rows)))
            row += len(group)
        tables[split] = table
    return tables, shards


def _members(sample, sources, dtype, options):
    """Describe the tar members of a sample: key, (HR height, width), (LR height, width), dtype, JSON bytes."""
    source = sources[sample.source]
    record = {
        "rock": source.rock,
        "source": source.file,
        "page": sample.page,
        "top": sample.top,
        "left": sample.left,
        "scale": options.scale,
        "kernel": sample.kernel,
        "voxel_size_um": source.hr.voxel_size_um,
    }
    hr = (sample.height, sample.width)
    lr = (sample.height // options.scale, sample.width // options.scale)
    return sample.key, hr, lr, dtype, encode_record(record)


def _heads(hr, lr, dtype, record):
    """Return what each member of a sample begins with and its whole size in bytes, in the order of the tar."""
    heads = {"hr.npy": npy_header(*hr, dtype), "json": record, "lr.npy": npy_header(*lr, dtype)}
    pixels = {"hr.npy": hr[0] * hr[1] * dtype.itemsize, "json": 0, "lr.npy": lr[0] * lr[1] * dtype.itemsize}
    return [(name, heads[name], len(heads[name]) + pixels[name]) for name in FIELDS]


def _place(members, rows):
    """Record in `rows` where the bytes of each sample of a shard belong; returns the size of the shard."""
    position = 0
    for row, (key, hr, lr, dtype, record) in zip(rows, members, strict=True):
        row["key"] = key.encode()
        row["hr_height"], row["hr_width"] = hr
        row["lr_height"], row["lr_width"] = lr
        for name, head, size in _heads(hr, lr, dtype, record):
            start = position + BLOCK
            if name == "json":
                row["record_offset"], row["record_bytes"] = start, size
            else:
                row[f"{name[:2]}_offset"] = start + len(head)
            position = start + padded(size, BLOCK)
    return padded(position + 2 * BLOCK, RECORD)


def _write_skeleton(path, members, size):
    """Write all bytes of a shard but the pixels, which stay zero."""
    with open(path, "wb") as file:
        position = 0
        for key, *content in members:
            for name, head, member_size in _heads(*content):
                file.seek(position)
                file.write(tar_header(f"{key}.{name}", member_size) + head)
                position += BLOCK + padded(member_size, BLOCK)
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk shows now, not after an hour


# Pixels

def _jobs(sources, samples, options, stage=None, tables=None, dtype=None):
    """Return a Job for every source; without a stage they only look whether everything can be decoded."""
    places = {}
    for split, table in (tables or {}).items():
        for row in table:
            shard = stage / index.shard_name(split, row["shard"])
            places[row["key"].decode()] = shard, int(row["hr_offset"]), int(row["lr_offset"])
    by_source = {}
    for sample in samples:
        by_source.setdefault(sample.source, []).append(sample)
    return [Job(sources[i], mine, [places[sample.key] for sample in mine] if stage else None, options.scale, dtype)
            for i, mine in sorted(by_source.items())]


@dataclass
class _Findings:
    """What the jobs found together."""

    faults: list = field(default_factory=list)
    constant: list = field(default_factory=list)  # names of pages
    repeated: list = field(default_factory=list)
    first_seen: dict = field(default_factory=dict)  # content -> (split, name of the page)

    def take(self, source, packed):
        """Take in what was found in one source; sources come in their order, whatever the order of the work."""
        if packed.fault:
            self.faults.append(packed.fault)
        for name, content in packed.pages:
            if content is None:
                self.constant.append(name)  # blank slices are alike everywhere and say nothing about leakage
                continue
            split, first = self.first_seen.setdefault(content, (source.split, name))
            if split != source.split:
                self.faults.append(f"{name}: is in {source.split} and is the same picture as {first} in {split};"
                                   " scores would be too good. Remove one of them")
            elif first != name:
                self.repeated.append(name)

    def notes(self):
        return [f"{len(names)} images {what}, e.g. {names[0]}"
                for names, what in ((self.constant, "have one grey level only"), (self.repeated, "repeat an earlier picture"))
                if names]


def _work(jobs, run, progress, tables=None):
    """Run all jobs, enter what they tell of the samples into the tables, and return what they found."""
    rows = {row["key"].decode(): row for table in (tables or {}).values() for row in table}
    found = _Findings()
    for job, packed in zip(jobs, progress(run(pack, jobs)), strict=True):
        found.take(job.source, packed)
        for sample, facts in zip(job.samples, packed.facts, strict=True):
            if facts is not None:
                for name, value in zip(("hr_crc32", "lr_crc32", "darkest", "brightest"), facts, strict=True):
                    rows[sample.key][name] = value
    return found


def _faint(tables, dtype):
    """Return a note if 16-bit images use little of their range."""
    brightest = max(int(table["brightest"].max()) for table in tables.values())
    if dtype != np.uint16 or brightest >= FAINT:
        return []
    return [f"the brightest grey level is {brightest} of 65535 (12-bit data?): networks and scores take 65535 for white, so"
            " map the grey levels of all images onto 16 bits before packing"]


# Manifest

def _finish(stage, tables, shards, rocks, dtype, options, identity):
    """Write index tables and manifest, everything synced to disk."""
    splits = {}
    for split, table in tables.items():
        path = stage / index.index_name(split)
        np.save(path, table)
        counts = Counter(table["rock"].tolist())
        splits[split] = index.SplitEntry(
            count=len(table),
            rocks={rocks[number]: count for number, count in sorted(counts.items())},
            index=index.FileEntry(**_file_facts(path)),
            shards=[index.ShardEntry(**_file_facts(stage / file), count=len(members))
                    for file, members, _ in shards[split]],
        )
    totals = {rock: sum(split.rocks.get(rock, 0) for split in splits.values()) for rock in rocks}
    manifest = index.Manifest(
        scale=options.scale, dtype=dtype.name, rocks=rocks, totals=totals, splits=splits, **identity
    )
    (stage / "manifest.json").write_text(json.dumps(manifest.model_dump(), indent=1, sort_keys=True) + "\n")
    sync(stage / "manifest.json")
    sync(stage)
    return manifest


def _file_facts(path):
    sync(path)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
