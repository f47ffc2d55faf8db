"""PSNR of runs against blur and noise of LR: srgan-dist robustness RUN [RUN ...] SHARDS [--blur X ...]"""

import argparse
from pathlib import Path

from srgan_dist.cli.options import add_cache_options, add_splits
from srgan_dist.runtime.parent_death import use_one_blas_thread
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.progress import progress_bar


@cli_errors()
def main(argv=None, prog=None):
    use_one_blas_thread()  # before NumPy is imported
    arguments = parse_arguments(argv, prog)
    out = arguments.out or Path(arguments.runs[0]) / "eval" / "robustness.json"

    from srgan_dist.evaluation.report import joined_accelerator
    from srgan_dist.evaluation.robustness import format_robustness, measure_robustness
    from srgan_dist.runtime.process_group import end_all_ranks_on_error
    from srgan_dist.storage.cache import cache_at
    from srgan_dist.storage.remote import is_url
    from srgan_dist.utils.errors import UserError
    from srgan_dist.utils.files import write_json

    if is_url(out) or Path(out).is_dir():
        raise UserError(f"--out={out} is a URL or a folder; name a JSON file for the table")
    accelerator = joined_accelerator()
    with end_all_ranks_on_error():
        result = measure_robustness(
            arguments.runs,
            arguments.shards,
            arguments.splits,
            {"blur": arguments.blur, "noise": arguments.noise},
            accelerator,
            cache_at(arguments.cache, arguments.cache_gib),
            lambda images: (
                progress_bar(images, "robustness", "image") if accelerator.is_main_process else images
            ),
        )
        if accelerator.is_main_process:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            write_json(out, result)
            print(f"{format_robustness(result)}\n\n{out} has each rock")
    accelerator.end_training()


def parse_arguments(argv, prog):
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure PSNR of the generators of runs, and of bicubic interpolation, against blur and"
        " noise of LR.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, e.g. runs/demo")
    parser.add_argument("shards", metavar="SHARDS", help="packed data set, a folder or a URL")
    parser.add_argument(
        "--blur",
        nargs="+",
        type=float,
        default=[0, 0.5, 1, 1.5, 2],
        metavar="SIGMA",
        help="of Gaussian blurs, in LR pixels (default: 0 0.5 1 1.5 2)",
    )
    parser.add_argument(
        "--noise",
        nargs="+",
        type=float,
        default=[0, 0.01, 0.02, 0.05, 0.1],
        metavar="SHARE",
        help="standard deviations of white noise, as shares of the range (default: 0 0.01 0.02 0.05 0.1)",
    )
    add_splits(parser)
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="JSON file for the tables (default: eval/robustness.json of the first RUN)",
    )
    add_cache_options(parser)
    return parser.parse_args(argv)
