"""Write synthetic rocks, DeepRock-SR's slices or volumes: srgan-dist synthesize OUT [options]"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

from srgan_dist.runtime.parent_death import use_one_blas_thread
from srgan_dist.utils.errors import UserError, cli_errors
from srgan_dist.utils.executors import process_pool, usable_cores
from srgan_dist.utils.files import read_regular, unwritable_named
from srgan_dist.utils.locks import output_lock
from srgan_dist.utils.progress import progress_bar

RECORD = "synthesis.json"  # the options of a set; its name is UNFINISHED until every image is written
UNFINISHED = f".{RECORD}.unfinished"
SPLITS = ("train", "valid", "test")
DEFAULTS = {  # by the number of dimensions
    2: {"train": 24, "valid": 4, "test": 4, "size": 500},
    3: {"train": 3, "valid": 1, "test": 1, "size": 128},
}
LARGEST_VOLUME = 1024  # drawing takes up to 100 bytes of memory per voxel


@cli_errors()
def main(argv=None, prog=None):
    use_one_blas_thread()  # before NumPy is imported
    from srgan_dist.datasets.synthetic import ROCKS, slice_files
    from srgan_dist.datasets.synthetic.volumes import volume_files

    arguments = parse_arguments(argv, prog, ROCKS)
    out = arguments.out
    options = {name: getattr(arguments, name) for name in ("dims", *SPLITS, "size", "seed")}
    options["rocks"] = [rock for rock in ROCKS if rock in arguments.rocks]
    images = list_images(options)
    files_of, kind = (slice_files, "slices") if arguments.dims == 2 else (volume_files, "volumes")
    pairs = [files_of(*numbered) for numbered in images]
    files = [out / file for hr, lr in pairs for file in (hr, *lr.values())]
    counts = f"{len(images)} {kind} of {', '.join(options['rocks'])} ({len(files)} files)"

    start = time.monotonic()
    if is_finished(out, options) and all(file.exists() for file in files):
        print(f"{out} holds exactly this set already, {counts}; nothing was written")
        return
    out.mkdir(parents=True, exist_ok=True)
    with unwritable_named(out), output_lock(out / UNFINISHED, out):
        (out / UNFINISHED).write_text(json.dumps(options) + "\n")
        written = write_images(out, images, options, arguments.jobs)
        (out / UNFINISHED).replace(out / RECORD)
    print(f"{out}: {counts}, {written / 1e6:.1f} MB, written in {time.monotonic() - start:.1f} s")


def parse_arguments(argv, prog, rocks):
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog or 'python shards/synthesize.py'} OUT [options]",
        description="Write synthetic rocks: slices with the layout and names of DeepRock-SR-2D, or volumes"
        " as OUT/SPLIT/ROCK/NUMBER.tif. The same options give the same bytes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder")
    parser.add_argument("--rocks", nargs="+", choices=rocks, default=list(rocks), help="one or more")
    parser.add_argument("--dims", type=int, choices=(2, 3), default=2, help="2: slices, 3: volumes")
    for name, text in {
        "train": "training images per rock",
        "valid": "validation images per rock",
        "test": "test images per rock",
        "size": "pixels or voxels along every axis of HR",
    }.items():
        text += " (default: {}; 3-D: {})".format(*(DEFAULTS[dims][name] for dims in (2, 3)))
        parser.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the rocks and the kernels")
    parser.add_argument("--jobs", type=int, default=usable_cores(), metavar="N", help="processes")
    arguments = parser.parse_args(argv)
    for name, default in DEFAULTS[arguments.dims].items():
        vars(arguments).setdefault(name, default)

    smallest = {2: 64, 3: 32}[arguments.dims]
    for name, least in {"train": 1, "valid": 0, "test": 0, "size": smallest, "seed": 0, "jobs": 1}.items():
        value = getattr(arguments, name)
        if value < least:
            parser.error(f"--{name}={value} is too small; use at least {least}")
    if arguments.size % 4:
        larger = arguments.size // 4 * 4 + 4
        parser.error(f"--size={arguments.size} is not a multiple of the largest scale, 4; use e.g. {larger}")
    if arguments.dims == 3 and arguments.size > LARGEST_VOLUME:
        parser.error(f"--size={arguments.size} is too large for a volume; use at most {LARGEST_VOLUME}")
    return arguments


def list_images(options):
    """Number the slices or volumes of each rock through its splits: [(rock, split, number)]."""
    splits = [split for split in SPLITS for _ in range(options[split])]
    return [(rock, split, number) for rock in options["rocks"] for number, split in enumerate(splits, 1)]


def is_finished(out, options):
    """Return whether `out` was finished with these options; raises UserError for other contents."""
    record = next((out / name for name in (RECORD, UNFINISHED) if (out / name).exists()), None)
    if record is None:
        _check_empty(out)
        return False
    recorded = {"dims": 2} | read_record(record)  # sets from before there were volumes
    for name, value in options.items():
        old = recorded.get(name)
        if old != value:
            raise UserError(
                f"{out} was made with {name}={old}, and {name}={value} is asked for;"
                f" go back to the old --{name}, name another folder, or delete this one"
            )
    return record.name == RECORD


def _check_empty(out):
    if out.exists() and not out.is_dir():
        raise UserError(f"OUT={out} is a file; name a new folder")
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if foreign := [name for name in names if not name.startswith(".")]:
        raise UserError(f"OUT={out} holds {foreign[0]} from elsewhere; name a new folder")


def read_record(path):
    """Return the options that a set was made with."""
    try:
        options = json.loads(read_regular(path))
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise UserError(f"{path} cannot be read; delete {path.parent} and start again")
    return options


def write_images(out, images, options, jobs):
    """Write all slices or volumes in `jobs` processes; returns the bytes written."""
    from srgan_dist.datasets.synthetic import write_slice
    from srgan_dist.datasets.synthetic.volumes import write_volume

    kind, write = {2: ("slice", write_slice), 3: ("volume", write_volume)}[options["dims"]]
    write = partial(write, out, seed=options["seed"], size=options["size"])
    with process_pool(jobs) as mapped:
        results = mapped(write, *zip(*images, strict=True))
        return sum(progress_bar(results, "synthesize", kind, total=len(images)))
