"""Write synthetic rocks in DeepRock-SR's layout: srgan-dist synthesize OUT [options]"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

from srgan_dist.runtime.parent_death import use_one_blas_thread
from srgan_dist.utils.errors import UserError, cli_errors
from srgan_dist.utils.executors import process_pool, usable_cores
from srgan_dist.utils.locks import output_lock
from srgan_dist.utils.progress import progress_bar

RECORD = "synthesis.json"  # the options of a set; its name is UNFINISHED until every image is written
UNFINISHED = f".{RECORD}.unfinished"
SPLITS = ("train", "valid", "test")


def main(argv=None, prog=None):
    use_one_blas_thread()  # before NumPy is imported
    from srgan_dist.datasets.synthetic import ROCKS, slice_files

    arguments = parse_arguments(argv, prog, ROCKS)
    out = arguments.out
    options = {name: getattr(arguments, name) for name in (*SPLITS, "size", "seed")}
    options["rocks"] = [rock for rock in ROCKS if rock in arguments.rocks]
    slices = list_slices(options)
    pairs = [slice_files(*numbered) for numbered in slices]
    files = [out / file for hr, lr in pairs for file in (hr, *lr.values())]
    counts = f"{len(slices)} slices of {', '.join(options['rocks'])} ({len(files)} files)"

    start = time.monotonic()
    with cli_errors():
        if is_finished(out, options) and all(file.exists() for file in files):
            print(f"{out} holds exactly this set already, {counts}; nothing was written")
            return
        out.mkdir(parents=True, exist_ok=True)
        with output_lock(out / UNFINISHED, out):
            (out / UNFINISHED).write_text(json.dumps(options) + "\n")
            written = write_slices(out, slices, options, arguments.jobs)
            (out / UNFINISHED).replace(out / RECORD)
        print(f"{out}: {counts}, {written / 1e6:.1f} MB, written in {time.monotonic() - start:.1f} s")


def parse_arguments(argv, prog, rocks):
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog or 'python shards/synthesize.py'} OUT [options]",
        description="Write synthetic rocks with the layout and names of DeepRock-SR-2D."
        " The same options give the same bytes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder")
    parser.add_argument("--rocks", nargs="+", choices=rocks, default=list(rocks), help="one or more")
    parser.add_argument("--train", type=int, default=24, metavar="N", help="training slices per rock")
    parser.add_argument("--valid", type=int, default=4, metavar="N", help="validation slices per rock")
    parser.add_argument("--test", type=int, default=4, metavar="N", help="test slices per rock")
    parser.add_argument("--size", type=int, default=500, metavar="N", help="height and width of HR slices")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the rocks and the kernels")
    parser.add_argument("--jobs", type=int, default=usable_cores(), metavar="N", help="processes")
    arguments = parser.parse_args(argv)

    for name, least in {"train": 1, "valid": 0, "test": 0, "size": 64, "seed": 0, "jobs": 1}.items():
        value = getattr(arguments, name)
        if value < least:
            parser.error(f"--{name}={value} is too small; use at least {least}")
    if arguments.size % 4:
        larger = arguments.size // 4 * 4 + 4
        parser.error(f"--size={arguments.size} is not a multiple of the largest scale, 4; use e.g. {larger}")
    return arguments


def list_slices(options):
    """Number the slices of each rock through its splits: [(rock, split, number)]."""
    splits = [split for split in SPLITS for _ in range(options[split])]
    return [(rock, split, number) for rock in options["rocks"] for number, split in enumerate(splits, 1)]


def is_finished(out, options):
    """Return whether `out` was finished with these options; raises UserError for other contents."""
    record = next((out / name for name in (RECORD, UNFINISHED) if (out / name).exists()), None)
    if record is None:
        _check_empty(out)
        return False
    recorded = read_record(record)
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
        options = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise UserError(f"{path} cannot be read; delete {path.parent} and start again")
    return options


def write_slices(out, slices, options, jobs):
    """Write all slices in `jobs` processes; returns the bytes written."""
    from srgan_dist.datasets.synthetic import write_slice

    write = partial(write_slice, out, seed=options["seed"], size=options["size"])
    with process_pool(jobs) as mapped:
        results = mapped(write, *zip(*slices, strict=True))
        return sum(progress_bar(results, "synthesize", "slice", total=len(slices)))
