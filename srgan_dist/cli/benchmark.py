"""Measure this machine: srgan-dist benchmark loader|step|gpu|tables [options]"""

import argparse
import importlib
import json
import sys
from pathlib import Path

from srgan_dist.benchmarks.names import DEFAULT_CONFIGS, PHASES, PLAIN, STAGES, VARIANTS
from srgan_dist.runtime.parent_death import use_one_blas_thread
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.files import atomic_write


@cli_errors()
def main(argv=None, prog=None):
    use_one_blas_thread()  # before NumPy is imported
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(argv, prog)

    def save(results):
        if arguments.json:
            with atomic_write(arguments.json) as path:
                path.write_text(json.dumps(results, indent=1) + "\n")

    importlib.import_module(f"srgan_dist.benchmarks.{arguments.part}").run(arguments, save)


def parse_arguments(argv, prog=None):
    """Return the options of a part; those whose default depends on the device are None."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Measure how fast this machine runs the parts of a training."
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="|".join(PARTS))
    for name, (text, add_options) in PARTS.items():
        part = parts.add_parser(name, help=text, description=text)
        if name != "tables":
            part.add_argument(
                "--json", metavar="FILE", type=Path, help="write the numbers to a file too, as they come"
            )
        add_options(part)
    arguments = parser.parse_args(argv)
    if arguments.part != "tables" and arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no folder {arguments.json.absolute().parent}")
    arguments.argv = argv
    return arguments


def add_loader_options(parser):
    add_passes(parser, 5)


def add_passes(parser, default):
    parser.add_argument(
        "--passes",
        type=count,
        default=default,
        metavar="N",
        help="passes, whose median is taken (default: %(default)s)",
    )


def add_step_options(parser):
    networks = parser.add_mutually_exclusive_group()
    networks.add_argument(
        "--dims",
        type=int,
        choices=list(DEFAULT_CONFIGS),
        default=2,
        help="2: the report's networks; 3: the paper's networks for volumes (default: %(default)s)",
    )
    networks.add_argument("--config", type=Path, metavar="FILE", help="whose networks, in place of those")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument(
        "--blocks",
        nargs="+",
        type=count,
        metavar="N",
        help="residual blocks (default: 1 16, for volumes 16)",
    )
    parser.add_argument(
        "--batches",
        nargs="+",
        type=count,
        metavar="N",
        help="crops per update and rank (default: 2 on CPU, 16 2 64 on a GPU)",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=[PLAIN, *VARIANTS],
        metavar="NAME",
        help=f"{', '.join([PLAIN, *VARIANTS])} (default: plain, those in channels_last that the device"
        " computes by hardware, the textbook loop in DistributedDataParallel for the last of them; on a GPU"
        " it compiled too)",
    )
    parser.add_argument(
        "--threads", type=count, default=1, metavar="N", help="of a rank on CPU (default: %(default)s)"
    )
    add_passes(parser, 3)
    parser.add_argument(
        "--steps", type=count, metavar="N", help="updates per pass (default: 1 on CPU, 10 on a GPU)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=8,
        metavar="N",
        help="time after which no further case or pass is begun (default: %(default)s)",
    )
    parser.add_argument(
        "--clock",
        choices=["cpu", "wall"],
        help="cpu: CPU time, which other programs hardly disturb (default for one rank of one thread on CPU);"
        " wall: the time of the day (default otherwise). On a GPU its own events are the clock.",
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="of several ranks: the --json of one rank on this machine; without it one rank is measured"
        " first",
    )
    parser.epilog = (
        "Two ranks on CPU: ACCELERATE_USE_CPU=1 torchrun --nproc_per_node 2 launch/benchmark.py step"
    )


def add_gpu_options(parser):
    parser.add_argument(
        "--seconds", type=float, default=440, metavar="N", help="for all stages (default: %(default)s)"
    )
    parser.add_argument(
        "--rocks", metavar="DIR", help="images to train on, one sub-folder per rock (default: synthetic ones)"
    )
    parser.add_argument(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cpu: the same stages, shortened (default: %(default)s)",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=STAGES,
        default=list(STAGES),
        metavar="NAME",
        help=f"some of {', '.join(STAGES)}",
    )


def add_tables_options(parser):
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="files that loader, step or gpu have written with --json"
    )


def count(text):
    """Return the positive whole number that an option gives."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return int(text)


PARTS = {
    "loader": ("pairs per second per core, LR 48 to HR 192, batches of 16", add_loader_options),
    "step": (
        "one update of each phase against other loops; under torchrun its weak scaling",
        add_step_options,
    ),
    "gpu": (
        "versions, agreement with the CPU, tests, speed and a training of a GPU, in order of priority",
        add_gpu_options,
    ),
    "tables": (
        "print the tables of files that the others wrote with --json, as Markdown",
        add_tables_options,
    ),
}
