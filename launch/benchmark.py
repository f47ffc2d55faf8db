"""Measure this machine: python launch/benchmark.py loader|step [--json FILE]"""

from srgan_dist.launched import use_one_blas_thread

use_one_blas_thread()  # before NumPy is imported

import argparse
import json
from pathlib import Path

from srgan_dist.benchmarks import loader, step
from srgan_dist.errors import reported
from srgan_dist.files import written_whole

PARTS = {
    "loader": (loader, "pairs per second per core, LR 48 to HR 192, batches of 16"),
    "step": (step, "one update of each phase against a plain training loop; under torchrun how it scales"),
}


def main():
    parser = argparse.ArgumentParser(description="Measure how fast this machine runs the parts of a training.")
    parts = parser.add_subparsers(dest="part", required=True, metavar="|".join(PARTS))
    for name, (module, text) in PARTS.items():
        part = parts.add_parser(name, help=text, description=text)
        part.add_argument("--json", metavar="FILE", type=Path, help="write the numbers to a file too")
        module.add_arguments(part)
    arguments = parser.parse_args()
    module, _ = PARTS[arguments.part]
    with reported():
        found = module.run(arguments)
        if found is None:  # on a rank that only helps
            return
        print(module.format_table(found), flush=True)
        if arguments.json:
            with written_whole(arguments.json) as path:
                path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
