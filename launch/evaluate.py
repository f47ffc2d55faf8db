"""Score a run: accelerate launch launch/evaluate.py RUN SHARDS [--out DIR] [--splits valid test]"""

from srgan_dist.runtime.parent_death import use_one_blas_thread

use_one_blas_thread()  # before NumPy is imported

import argparse
from pathlib import Path

from accelerate import Accelerator

from srgan_dist.evaluation.report import evaluate
from srgan_dist.runtime.cpu import use_cpu_threads
from srgan_dist.runtime.device import check_group, cpu_wanted, use_exact_float32
from srgan_dist.runtime.process_group import end_all_ranks_on_error, join
from srgan_dist.storage.cache import DEFAULT_GIB, cache_at
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.progress import tracked


def main():
    parser = argparse.ArgumentParser(
        description="Score the generators of a run against bicubic interpolation."
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
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="folder for copies of remote shards (default: in the user's cache folder)",
    )
    parser.add_argument(
        "--cache-gib",
        type=float,
        default=DEFAULT_GIB,
        metavar="N",
        help="what they may take (default: %(default)s)",
    )
    arguments = parser.parse_args()

    out = Path(arguments.out or Path(arguments.run) / "eval")
    with cli_errors():
        check_group(join(cpu_wanted(), timeout_minutes=30))
        accelerator = Accelerator()
        use_cpu_threads(accelerator)
        use_exact_float32()
        with end_all_ranks_on_error():
            table = evaluate(
                arguments.run,
                arguments.shards,
                out,
                arguments.splits,
                accelerator,
                lambda name: lambda images: tracked(images, name, "image"),
                cache_at(arguments.cache, arguments.cache_gib),
            )
    if accelerator.is_main_process:
        print(f"{table}\n\nwritten to {out}: scores.json, scores.csv, figure2.png, figure3.png")
    accelerator.end_training()


if __name__ == "__main__":
    main()
