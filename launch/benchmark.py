"""Measure this machine: python launch/benchmark.py loader|step|gpu [--json FILE], and print the tables of such files: tables FILE..."""

from srgan_dist.runtime.parent_death import use_one_blas_thread

use_one_blas_thread()  # before NumPy is imported

import argparse
import json
from pathlib import Path

from srgan_dist.benchmarks import gpu, loader, step, tables
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.files import atomic_write

PARTS = {
    "loader": (loader, "pairs per second per core, LR 48 to HR 192, batches of 16"),
    "step": (step, "one update of each phase against other loops; under torchrun how it scales"),
    "gpu": (gpu, "all that a day with a GPU should tell, the most important first"),
    "tables": (tables, "print the tables of files that the others wrote with --json, as Markdown"),
}


def main():
    parser = argparse.ArgumentParser(
        description="Measure how fast this machine runs the parts of a training."
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="|".join(PARTS))
    for name, (module, text) in PARTS.items():
        part = parts.add_parser(name, help=text, description=text)
        if name != "tables":
            part.add_argument(
                "--json", metavar="FILE", type=Path, help="write the numbers to a file too, as they come"
            )
        module.add_arguments(part)
    arguments = parser.parse_args()
    if arguments.part != "tables" and arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no folder {arguments.json.absolute().parent}")

    def save(found):
        if arguments.json:
            with atomic_write(arguments.json) as path:
                path.write_text(json.dumps(found, indent=1) + "\n")

    with cli_errors():
        PARTS[arguments.part][0].run(arguments, save)


if __name__ == "__main__":
    main()
