"""Super-resolve images: srgan-dist upscale WEIGHTS INPUT OUTPUT"""

import argparse
import sys

from srgan_dist.runtime.parent_death import use_one_blas_thread
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.progress import progress_bar


def main(argv=None, prog=None):
    use_one_blas_thread()  # before NumPy is imported
    arguments = parse_arguments(argv, prog)

    from srgan_dist.api import load_generator
    from srgan_dist.data.noise import Noise
    from srgan_dist.evaluation.super_resolve import check_noise, depth_scale
    from srgan_dist.evaluation.super_resolve_files import list_jobs, spread_path

    with cli_errors():
        generator = load_generator(arguments.weights, arguments.device).generator
        noise, samples = Noise(arguments.noise_seed, arguments.noise), arguments.samples
        check_noise(generator, noise, samples)
        jobs, notes = list_jobs(arguments.input, arguments.output, depth_scale(generator), samples)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        work_through(jobs, generator, arguments.tile, noise, samples)
        if len(jobs) > 1:
            print(f"{len(jobs)} images written to {arguments.output}")
        else:
            (info, path), scale = jobs[0], generator.config.scale
            pages = info.slices * depth_scale(generator)
            print(f"{path}: {pages} x {info.height * scale} x {info.width * scale} {info.dtype}")
            if samples:
                print(f"{spread_path(path)}: their standard deviation over {samples} samples, float32")


def parse_arguments(argv, prog):
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Super-resolve images, and volumes slice by slice or with a 3-D generator.",
    )
    parser.add_argument(
        "weights", metavar="WEIGHTS", help="generator, e.g. runs/demo/weights/adversarial.safetensors"
    )
    parser.add_argument(
        "input", metavar="INPUT", help="an image or volume in a format of docs/data.md, or a folder of them"
    )
    parser.add_argument("output", metavar="OUTPUT", help="a .png, .tif or .npy file, or a folder")
    parser.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help="LR pixels of a tile along each axis; bounds the memory (default: 192, with a 3-D generator 32)",
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=1.0,
        metavar="X",
        help="strength of the noise of a generator that has some: 0 none, the smoothest image; 1 as trained",
    )
    parser.add_argument(
        "--noise-seed", type=int, default=0, metavar="N", help="seed of the noise: another one, another draw"
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="draw the noise N times; OUTPUT is the mean, and OUTPUT_spread the standard deviation, a map of"
        " how uncertain every pixel is",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is a GPU)")
    arguments = parser.parse_args(argv)
    if arguments.tile is not None and arguments.tile < 1:
        parser.error(f"--tile {arguments.tile} must be 1 or more")
    return arguments


def work_through(jobs, generator, tile, noise, samples):
    """Super-resolve every image; if it ends early, print the number of finished outputs."""
    from srgan_dist.evaluation.super_resolve import depth_scale
    from srgan_dist.evaluation.super_resolve_files import super_resolve_files

    def progress(info, pages):
        return progress_bar(pages, info.path.name, "slice", info.slices * depth_scale(generator))

    written = 0
    try:
        for _ in super_resolve_files(generator, jobs, tile, progress, noise, samples):
            written += 1
    except BaseException:
        print(f"{written} of {len(jobs)} outputs were written", file=sys.stderr)
        raise
