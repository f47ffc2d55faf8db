"""Score a run: srgan-dist evaluate RUN SHARDS [--out DIR] [--splits valid test]"""

import argparse
from pathlib import Path

from srgan_dist.cli.options import add_cache_options, add_self_ensemble, add_splits
from srgan_dist.runtime.parent_death import use_one_blas_thread
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.progress import progress_bar


@cli_errors()
def main(argv=None, prog=None):
    use_one_blas_thread()  # before NumPy is imported
    arguments = parse_arguments(argv, prog)

    from accelerate import PartialState

    from srgan_dist.api import evaluate
    from srgan_dist.evaluation.report import default_out

    out = arguments.out or default_out(arguments.run)
    table = evaluate(
        arguments.run,
        arguments.shards,
        out,
        arguments.splits,
        arguments.cache,
        arguments.cache_gib,
        progress=lambda name: lambda images: progress_bar(images, name, "image"),
        measures=arguments.measures,
        threshold=arguments.threshold or ["otsu"],
        phase=arguments.phase,
        permeability=arguments.permeability,
        samples=arguments.samples,
        plugs=arguments.plug,
        self_ensemble=arguments.self_ensemble,
    )
    state = PartialState()
    if state.is_main_process:
        files = "scores.json, scores.csv, figure2.png, figure3.png"
        if arguments.measures != "off":
            files += ", measures.json, measures.csv, curves.npz"
        print(f"{table}\n\nopen {Path(out) / 'report.html'} in a browser; beside it: {files}")
    state.destroy_process_group()


def parse_arguments(argv, prog):
    parser = argparse.ArgumentParser(
        prog=prog, description="Score the generators of a run against bicubic interpolation."
    )
    parser.add_argument("run", metavar="RUN", help="run directory, e.g. runs/demo; or weights, as of upscale")
    parser.add_argument("shards", metavar="SHARDS", help="packed data set, a folder or a URL")
    parser.add_argument("--out", metavar="DIR", help="where tables and figures go (default: RUN/eval)")
    add_splits(parser)
    parser.add_argument(
        "--measures",
        default="basic",
        choices=["basic", "full", "off"],
        help="rock measures: porosity, interface, Euler number, two-point correlation, chords, pore sizes,"
        " Fourier ring correlation; full: of volumes also pore sizes and connected porosity (default: basic)",
    )
    parser.add_argument(
        "--threshold",
        action="append",
        metavar="otsu|VALUE|ROCK=VALUE",
        help="grey level between pores and rock, 0 to 1, for all rocks or for one; may be repeated (default:"
        " otsu, per rock from HR of the training split)",
    )
    parser.add_argument(
        "--phase", default="dark", choices=["dark", "bright"], help="grey levels of pores (default: dark)"
    )
    parser.add_argument(
        "--plug",
        action="append",
        default=[],
        metavar="ROCK",
        help="rock whose images show a round plug in noisy air: the air is left out of all measures; may be"
        " repeated. Air of one grey level always is left out",
    )
    add_self_ensemble(parser)
    parser.add_argument(
        "--permeability",
        action="store_true",
        help="of volumes of up to 128 voxels a side, by Stokes flow; with --measures full",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=8,
        metavar="N",
        help="draws of a generator's noise, by which calibration.json says how far their spread predicts the"
        " error; 0: none (default: 8)",
    )
    add_cache_options(parser)
    return parser.parse_args(argv)
