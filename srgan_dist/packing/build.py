"""Packing: from sources to a directory of tar shards, the same bytes for the same input and options.

The layout of every shard follows from headers alone (`layout.py`), so pixels can then be written to their places in any
order and by many processes, each source decoded once (`pack.py`). Only the layout of compressed images has to wait until
all of them are encoded (`assemble.py`). Work happens beside OUT (`stage.py`) and gets that name
in one rename when everything is complete and without fault. A build that is cut short is continued by the next one.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from srgan_dist.data import index
from srgan_dist.packing.assemble import assemble_all
from srgan_dist.packing.build_directory import build_directory, holds_files, remove_left_over
from srgan_dist.packing.layout import arrange, place, write_skeleton
from srgan_dist.packing.pack import Facts, Job, Packed, name_of_page, pack
from srgan_dist.packing.scan import check_samples, find_sources, list_samples, stored_dtype
from srgan_dist.storage.encoding import ENCODINGS, encoder
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of, sync

FAINT = 2**14  # 16-bit images that stay below it use less than a quarter of their range


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
    encoding: str = "npy"  # "png" stores compressed images, for slow links

    def __post_init__(self):
        if self.scale < 2 or self.scale & (self.scale - 1):
            raise UserError(
                f"scale={self.scale} must be 2 or more and a power of two (2, 4, 8):"
                " generators double the size in each stage"
            )
        if self.kind not in ("default", "unknown"):
            raise UserError(f"kind={self.kind!r} must be default or unknown")
        if self.dtype not in (None, "uint16"):
            raise UserError(f"dtype={self.dtype!r} must be uint16, or left out to keep that of the images")
        if self.encoding not in ENCODINGS:
            raise UserError(f"encoding={self.encoding!r} must be npy or png")
        for name in ("tile", "crop"):
            value = getattr(self, name)
            if value < self.scale or value % self.scale:
                nearest = max(1, round(value / self.scale)) * self.scale
                raise UserError(f"{name}={value} is not a multiple of scale={self.scale}; use e.g. {nearest}")
        if self.tile < self.crop:
            raise UserError(
                f"tile={self.tile} is smaller than crop={self.crop}; enlarge --tile or reduce --crop"
            )
        if self.samples_per_shard < 1:
            raise UserError(f"samples_per_shard={self.samples_per_shard} must be 1 or more")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must be 0 or more")


class BuildError(UserError):
    """Everything that is wrong with a source, one fault per line."""

    def __init__(self, faults):
        shown = "\n".join(f"  {fault}" for fault in faults)
        super().__init__(
            f"{len(faults)} fault{'s' * (len(faults) != 1)} found, nothing was written:\n{shown}"
        )
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
    if holds_files(out):
        return Result(_same_set(out, identity), found.notes, already_there=True)

    dtype = stored_dtype(found.sources, options.dtype)
    rocks = sorted({s.rock for s in found.sources})
    tables, shards = arrange(found.sources, samples, rocks, dtype, options)
    needed = sum(map(place, chain(*shards.values()))) + sum(table.nbytes for table in tables.values())
    maker = {"version": index.VERSION, "encoder": encoder(options.encoding)}
    with _write_failures_named(out, needed, options), build_directory(out, identity | maker) as stage:
        jobs = _jobs(found.sources, samples, options, stage, dtype)
        pixels = (_pack_plain if options.encoding == "npy" else _pack_encoded)(
            jobs, tables, shards, stage, run, counted
        )
        manifest = _finish(stage.set, tables, shards, rocks, dtype, options, identity, run)
        os.replace(stage.set, out)
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
    if holds_files(out):
        if not (out / "manifest.json").is_file():
            raise UserError(f"OUT={out} holds other files; give the name of a new folder")
    elif os.path.ismount(out):
        raise UserError(
            f"OUT={out} is a mount point, which a finished set cannot replace; give a new folder inside it"
        )
    elif out == Path(os.path.realpath(".")):
        raise UserError(
            f"OUT={out} is the folder you are in, which a finished set would replace;"
            " give a new folder inside it"
        )
    elif not (parent := _nearest_parent(out)).is_dir():
        raise UserError(f"OUT={out} cannot be made: {parent} is a file; give another folder")


def _nearest_parent(path):
    return next(parent for parent in path.parents if parent.exists())


def _same_set(out, identity):
    """Return the manifest of a finished set if it was made from the same images with the same options."""
    manifest = index.read_manifest(out)
    there = {key: getattr(manifest, key) for key in identity}
    if there == identity:
        remove_left_over(out)
        return manifest
    differences = [
        f"{name}: {there['options'].get(name)} there, {value} asked for"
        for name, value in identity["options"].items()
        if there["options"].get(name) != value
    ] or ["its images are not those of SOURCE now"]
    raise UserError(
        f"OUT={out} holds another set ({'; '.join(differences)}). Give a new folder, or delete that one"
    )


def _digest(sources, run):
    """Hash names and bytes of all source files; the manifest keeps it to tell whether a set is still current."""
    sides = [[side.path for side in (source.hr, source.lr) if side] for source in sources]
    hashes = iter(run(sha256_of, list(chain(*sides))))
    total = hashlib.sha256()
    for source, paths in zip(sources, sides, strict=True):
        parts = [source.rock, source.split, source.file, *islice(hashes, len(paths))]
        total.update(json.dumps(parts).encode())
    return total.hexdigest()


@contextlib.contextmanager
def _write_failures_named(out, needed, options):
    """Turn what the disk refuses into an error that names OUT and the space the set takes."""
    try:
        yield
    except OSError as error:
        takes = (
            f"{needed:,}" if options.encoding == "npy" else f"at most {2 * needed:,}"
        )  # with what waits for its shard
        free = shutil.disk_usage(_nearest_parent(out)).free
        raise UserError(
            f"OUT={out} cannot be written ({error}). The set takes {takes} bytes, {free:,} are free there;"
            " free more, or give a folder that can be written to"
        ) from None


# Pixels


def _jobs(sources, samples, options, stage=None, dtype=None):
    """Return a Job for every source; without a stage they only look whether everything can be decoded."""
    by_source = {}
    for sample in samples:
        by_source.setdefault(sample.source, []).append(sample)
    return [
        Job(sources[i], mine, options.scale, dtype, options.encoding, known=_known(stage, i, mine))
        for i, mine in sorted(by_source.items())
    ]


def _known(stage, number, samples):
    """Return what an interrupted build noted of a source, or None."""
    if not stage or number not in stage.known:
        return None
    pages, facts = stage.known[number]
    return Packed(None, pages, [Facts(*each) for each in facts]) if len(facts) == len(samples) else None


def _pack_plain(jobs, tables, shards, stage, run, progress):
    """Write pixels straight to their places, which are known; returns _Findings."""
    for shard in chain(*shards.values()):
        write_skeleton(stage.set / shard.file, shard, place(shard))
    return _packed(_placed(jobs, tables, stage), tables, stage, run, progress)


def _pack_encoded(jobs, tables, shards, stage, run, progress):
    """Encode all images, then put the shards together, as their places depend on the bytes of all; returns _Findings."""
    jobs = [replace(job, spool=stage.spool / f"{number:06d}") for number, job in enumerate(jobs)]
    if all(job.known for job in jobs):  # then some may lie in their shards already
        _enter(tables, jobs, [job.known.facts for job in jobs])
        for shard in chain(*shards.values()):
            place(shard)
        jobs = _placed(jobs, tables, stage)
    found = _packed(jobs, tables, stage, run, progress)
    stage.settle()  # from here on spools go
    assemble_all(stage.set, list(chain(*shards.values())), jobs, found.facts, run)
    return found


def _placed(jobs, tables, stage):
    """Tell the jobs where in the shards their images belong."""
    places = {}
    for split, table in tables.items():
        for row in table:
            shard = stage.set / index.shard_name(split, row["shard"])
            places[row["key"].decode()] = shard, int(row["hr_offset"]), int(row["lr_offset"])
    return [replace(job, places=[places[sample.key] for sample in job.samples]) for job in jobs]


def _enter(tables, jobs, facts):
    """Enter what was found in the images into the tables."""
    rows = {row["key"].decode(): row for table in tables.values() for row in table}
    for job, told in zip(jobs, facts, strict=True):
        for sample, each in zip(job.samples, told, strict=True):
            for name, value in each._asdict().items():
                if name in index.INDEX.names:
                    rows[sample.key][name] = value


def _packed(jobs, tables, stage, run, progress):
    """Run all jobs and enter what they find into the tables; returns _Findings, or raises BuildError with all faults."""
    found = _work(jobs, run, progress, stage)
    if found.faults:
        raise BuildError(found.faults)
    _enter(tables, jobs, found.facts)
    return found


@dataclass
class _Findings:
    """What the jobs found together."""

    faults: list = field(default_factory=list)
    constant: list = field(default_factory=list)  # names of pages
    repeated: list = field(default_factory=list)
    first_seen: dict = field(default_factory=dict)  # content -> (split, name of the page)
    facts: list = field(default_factory=list)  # of each source, those of its samples
    earlier: int = 0  # sources that an interrupted build had packed

    def take(self, source, packed):
        """Take in what was found in one source; sources come in their order, whatever the order of the work."""
        self.facts.append(packed.facts)
        if packed.fault:
            self.faults.append(packed.fault)
        for number, content in enumerate(packed.pages):
            name = name_of_page(source, number)
            if content is None:
                self.constant.append(name)  # blank slices are alike everywhere and say nothing about leakage
                continue
            split, first = self.first_seen.setdefault(content, (source.split, name))
            if split != source.split:
                self.faults.append(
                    f"{name}: is in {source.split} and is the same picture as {first} in {split};"
                    " scores would be too good. Remove one of them"
                )
            elif first != name:
                self.repeated.append(name)

    def notes(self):
        told = (
            [f"an interrupted build had packed {self.earlier} of {len(self.facts)} images already"]
            if self.earlier
            else []
        )
        return told + [
            f"{len(names)} images {what}, e.g. {names[0]}"
            for names, what in (
                (self.constant, "have one grey level only"),
                (self.repeated, "repeat an earlier picture"),
            )
            if names
        ]


def _work(jobs, run, progress, stage=None):
    """Run all jobs, note in the journal what they tell, and return it."""
    found = _Findings(earlier=sum(job.known is not None for job in jobs))
    for number, (job, packed) in enumerate(zip(jobs, progress(run(pack, jobs)), strict=True)):
        found.take(job.source, packed)
        if stage and not job.known and not packed.fault:
            stage.note(number, [packed.pages, packed.facts])
    return found


def _faint(tables, dtype):
    """Return a note if 16-bit images use little of their range."""
    brightest = max(int(table["brightest"].max()) for table in tables.values())
    if dtype != np.uint16 or brightest >= FAINT:
        return []
    return [
        f"the brightest grey level is {brightest} of 65535 (12-bit data?): networks and scores take 65535 for white, so"
        " map the grey levels of all images onto 16 bits before packing"
    ]


# Manifest


def _finish(folder, tables, shards, rocks, dtype, options, identity, run):
    """Write index tables and manifest, everything synced to disk."""
    for split, table in tables.items():
        np.save(folder / index.index_name(split), table)
    files = [index.index_name(split) for split in tables] + [shard.file for shard in chain(*shards.values())]
    facts = dict(zip(files, run(_file_facts, [folder / file for file in files]), strict=True))
    splits = {}
    for split, table in tables.items():
        counts = Counter(table["rock"].tolist())
        splits[split] = index.SplitEntry(
            count=len(table),
            rocks={rocks[number]: count for number, count in sorted(counts.items())},
            index=index.FileEntry(**facts[index.index_name(split)]),
            shards=[index.ShardEntry(**facts[shard.file], count=len(shard.rows)) for shard in shards[split]],
        )
    totals = {rock: sum(split.rocks.get(rock, 0) for split in splits.values()) for rock in rocks}
    manifest = index.Manifest(
        scale=options.scale,
        dtype=dtype.name,
        encoding=options.encoding,
        rocks=rocks,
        totals=totals,
        splits=splits,
        **identity,
    )
    (folder / "manifest.json").write_text(json.dumps(manifest.model_dump(), indent=1, sort_keys=True) + "\n")
    sync(folder / "manifest.json")
    sync(folder)
    return manifest


def _file_facts(path):
    sync(path)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
