"""Score a run: accelerate launch launch/evaluate.py RUN SHARDS [--out DIR] [--splits valid test]"""

import argparse
import sys
from pathlib import Path

from accelerate import Accelerator

from srgan_dist.evaluate import evaluate
from srgan_dist.machine import use_cpu_threads
from srgan_dist.progress import tracked


def main():
    parser = argparse.ArgumentParser(description="Score the generators of a run against bicubic interpolation.")
    parser.add_argument("run", metavar="RUN", help="run directory, e.g. runs/demo")
    parser.add_argument("shards", metavar="SHARDS", help="packed data set")
    parser.add_argument("--out", metavar="DIR", help="where tables and figures go (default: RUN/eval)")
    parser.add_argument("--splits", nargs="+", default=["valid", "test"], choices=["train", "valid", "test"],
                        help="which splits to score, of those that SHARDS has (default: valid test)")
    arguments = parser.parse_args()

    accelerator = Accelerator()
    use_cpu_threads(accelerator)
    out = Path(arguments.out or Path(arguments.run) / "eval")
    try:
        table = evaluate(arguments.run, arguments.shards, out, arguments.splits, accelerator,
                         lambda name: lambda images: tracked(images, name, "image"))
    except ValueError as error:
        if accelerator.is_main_process:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if accelerator.is_main_process:
        print(f"{table}\n\nwritten to {out}: scores.json, scores.csv, figure2.png, figure3.png")
    accelerator.end_training()


if __name__ == "__main__":
    main()
