"""Packing: from sources to a directory of tar shards, the same bytes for the same input and options.

The layout of every shard follows from headers alone (`layout.py`), so pixels can then be written to their
places in any order and by many processes, each source decoded once (`pack.py`, `run_jobs.py`). Only the
layout of compressed images has to wait until all of them are encoded (`assemble.py`). The set is made in a
directory beside OUT (`build_directory.py`) and gets that name in one rename when it is complete and without
fault. An interrupted build is continued by the next one.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from srgan_dist.data.formats.bare_raw import parse_raw
from srgan_dist.data.image_files import files_of
from srgan_dist.data.manifest import VERSION, Manifest
from srgan_dist.data.split import read_manifest
from srgan_dist.packing.align_sources import align_sources
from srgan_dist.packing.build_directory import build_directory, holds_files, remove_left_over
from srgan_dist.packing.finish import write_manifest
from srgan_dist.packing.first_look import faults_at_first_look
from srgan_dist.packing.layout import arrange, place
from srgan_dist.packing.options import BuildOptions
from srgan_dist.packing.run_jobs import BuildError, decode_faults, leave_out_empty, pack_all
from srgan_dist.packing.scan import find_sources
from srgan_dist.packing.slabs import cut_as_given, cut_into_slabs
from srgan_dist.packing.source import apply_window, some
from srgan_dist.packing.tiles import check_samples, list_samples, stored_dtype
from srgan_dist.storage.encoding import encoder
from srgan_dist.storage.remote import is_url
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of, sync, unwritable_refused


@dataclass(frozen=True)
class Result:
    """A finished set: its manifest, notes for the user, and whether it existed already."""

    manifest: Manifest
    notes: list
    already_there: bool = False


def build(source, out, options, progress=None, run=map):
    """Pack `source` into the directory `out` and return a Result.

    source: a folder, or two, (HR, LR), whose images have the same names; or files instead.
    run(function, jobs): yields the results in order, as `map` and the `map` of any executor of
    concurrent.futures do; the set has the same bytes with any of them. progress(results, count, act) wraps
    the results of each act, e.g. "pack images", as tqdm does. Raises BuildError with all faults of the
    source, UserError when `out` holds something else.
    """
    if is_url(out):
        raise UserError(f"OUT={out} is a URL; give a new folder, and copy the finished set to the URL")
    out = Path(os.path.realpath(out))
    for folder in source if isinstance(source, tuple) else (source,):
        _check_out(Path(folder), out)
    counted = progress or (lambda results, count, act: results)

    # Decide everything that follows from headers, and from the registration of pairs
    scan = find_sources(
        source,
        options.kind,
        options.scale,
        options.ndim,
        aligned=options.align is not None,
        raw=options.raw and parse_raw(options.raw),
        any_dtype=options.window is not None,
        two_dtypes=options.dtype is not None,
    )
    if options.window is not None and scan.sources and not scan.faults:
        options = replace(options, window=str(apply_window(scan, options.window, options.dtype)))
    whole = list(scan.sources)
    stamps = _stamps(whole)
    if options.align is not None:
        align_sources(scan, options, run, counted)
    if options.slabs:
        cut_as_given(scan, options, {source.file: source.hr.shape for source in whole})
    else:
        cut_into_slabs(scan, options)
    samples = list_samples(scan.sources, options)
    faults = scan.faults + check_samples(scan.sources, samples, options)
    if faults:  # decode the pixels too, so that a user can correct everything at once
        decoded = decode_faults(scan.sources, samples, options, run, counted)
        raise BuildError([*faults, *scan.labels.values(), *decoded])
    if not holds_files(out):
        labels = list(scan.labels.values())
        if faults := labels or faults_at_first_look(scan.sources, samples, options, run):
            raise BuildError(faults)
    fingerprint = {"options": options.recorded(), "source_sha256": _digest(whole, run, counted)}
    if holds_files(out):
        return Result(_same_set(out, fingerprint), scan.notes, already_there=True)
    if options.ndim == 3 and options.min_contrast:
        samples, notes = leave_out_empty(scan.sources, samples, options, run, counted)
        scan.notes.extend(notes)
    dtype = stored_dtype(scan.sources, options.dtype)
    rocks = sorted({s.rock for s in scan.sources})
    tables, shards = arrange(scan.sources, samples, rocks, dtype, options)

    # Write the set beside OUT, then rename it
    needed = sum(map(place, chain(*shards.values()))) + sum(table.nbytes for table in tables.values())
    maker = {"version": VERSION, "journal": 3, "encoder": encoder(options.encoding)}
    with _write_failures_named(out, needed, options), build_directory(out, fingerprint | maker) as directory:
        notes = pack_all(scan.sources, samples, tables, shards, dtype, options, directory, run, counted)
        if changed := dict(stamps ^ _stamps(whole)):
            raise BuildError(
                [f"{some(sorted(changed))}: changed while it was packed; start again when it is done"]
            )
        manifest = write_manifest(directory.set, tables, shards, rocks, dtype, options, fingerprint, run)
        os.replace(directory.set, out)
        sync(out.parent)
    return Result(manifest, scan.notes + notes)


def _check_out(source, out):
    real = Path(os.path.realpath(source))
    if out.exists() and not out.is_dir():
        raise UserError(f"OUT={out} is a file; give the name of a new folder")
    if out == real or real in out.parents:
        raise UserError(f"OUT={out} is SOURCE={source} or inside it; give a folder outside it")
    if out in real.parents:
        raise UserError(f"SOURCE={source} is inside OUT={out}; give a folder outside it")
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


def _same_set(out, fingerprint):
    """Return the manifest of a finished set if it was made from the same images with the same options.

    An option that did not exist when the set was made had its default.
    """
    manifest = read_manifest(out)
    options = BuildOptions().recorded() | manifest.options
    if {"options": options, "source_sha256": manifest.source_sha256} == fingerprint:
        remove_left_over(out)
        return manifest
    differences = [
        f"{name}: {options.get(name)} in OUT, now {fingerprint['options'].get(name)}"
        for name in fingerprint["options"] | options
        if options.get(name) != fingerprint["options"].get(name)
    ] or ["its images are not those of SOURCE now"]
    raise UserError(
        f"OUT={out} holds another set ({'; '.join(differences)}). Give a new folder, or delete that one"
    )


def _files(source):
    return [file for side in (source.hr, source.lr) if side for file in files_of(side.path)]


def _stamps(sources):
    """Return {(file, (size, time of its last change))} of all source files, by which a change shows."""
    files = {file for source in sources for file in _files(source)}
    below = chain.from_iterable(file.rglob("*") if file.is_dir() else [file] for file in files)
    stats = {file: file.stat() for file in below if file.is_file()}
    return {(file, (stat.st_size, stat.st_mtime_ns)) for file, stat in stats.items()}


def _digest(sources, run, progress):
    """Hash names and bytes of all source files, with which the manifest lets a set be compared."""
    sides = list(map(_files, sources))
    files = list(chain(*sides))
    hashes = iter(list(progress(run(sha256_of, files), len(files), "hash files")))
    total = hashlib.sha256()
    for source, paths in zip(sources, sides, strict=True):
        parts = [source.rock, source.split, source.file, *islice(hashes, len(paths))]
        total.update(json.dumps(parts).encode())
    return total.hexdigest()


def _write_failures_named(out, needed, options):
    """Turn an OSError into a UserError that names OUT and the space the set takes."""
    # encoded images are on disk twice while their shard is assembled
    takes = f"{needed:,}" if options.encoding == "npy" else f"at most {2 * needed:,}"

    def room():
        return f"The set takes {takes} bytes, {shutil.disk_usage(_nearest_parent(out)).free:,} are free there"

    return unwritable_refused(f"OUT={out}", room)
