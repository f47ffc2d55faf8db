"""Score a run: srgan-dist evaluate RUN SHARDS [--out DIR] [--splits valid test]"""

import argparse
from pathlib import Path

from srgan_dist.cli.options import add_cache_options
from srgan_dist.runtime.parent_death import use_one_blas_thread
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.progress import progress_bar


def main(argv=None, prog=None):
    use_one_blas_thread()  # before NumPy is imported
    arguments = parse_arguments(argv, prog)
    out = arguments.out or Path(arguments.run) / "eval"

    from accelerate import PartialState

    from srgan_dist.api import evaluate

    with cli_errors():
        table = evaluate(
            arguments.run,
            arguments.shards,
            out,
            arguments.splits,
            arguments.cache,
            arguments.cache_gib,
            progress=lambda name: lambda images: progress_bar(images, name, "image"),
        )
        state = PartialState()
        if state.is_main_process:
            print(f"{table}\n\nwritten to {out}: scores.json, scores.csv, figure2.png, figure3.png")
        state.destroy_process_group()


def parse_arguments(argv, prog):
    parser = argparse.ArgumentParser(
        prog=prog, description="Score the generators of a run against bicubic interpolation."
    )
    parser.add_argument("run", metavar="RUN", help="run directory, e.g. runs/demo")
    parser.add_argument("shards", metavar="SHARDS", help="packed data set, a folder or a URL")
    parser.add_argument("--out", metavar="DIR", help="where tables and figures go (default: RUN/eval)")
    parser.add_argument(
        "--splits",
        nargs="+",
        default=["valid", "test"],
        choices=["train", "valid", "test"],
        help="which splits to score, of those that SHARDS has (default: valid test)",
    )
    add_cache_options(parser)
    return parser.parse_args(argv)
