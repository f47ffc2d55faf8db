"""Super-resolve images: python launch/super_resolve.py WEIGHTS INPUT OUTPUT"""

from srgan_dist.runtime.parent_death import use_one_blas_thread

use_one_blas_thread()  # before NumPy is imported

import argparse
import sys

import torch

from srgan_dist.evaluation.super_resolve import TILES, depth_scale, list_jobs, super_resolve_files
from srgan_dist.models.weights_file import load_generator
from srgan_dist.runtime.device import use_exact_float32
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.progress import tracked


def work_through(jobs, generator, tile):
    """Super-resolve every image; if it ends early, say how many outputs there are."""
    written = 0
    try:
        for _ in super_resolve_files(generator, jobs, tile, progress):
            written += 1
    except BaseException:
        print(f"{written} of {len(jobs)} outputs were written", file=sys.stderr)
        raise


def progress(info, pages):
    return tracked(pages, title=info.path.name, unit="slice", total=info.pages)


def main():
    parser = argparse.ArgumentParser(
        description="Super-resolve PNG, TIFF and NPY images, volumes slice by slice."
    )
    parser.add_argument(
        "weights", metavar="WEIGHTS", help="generator, e.g. runs/demo/weights/adversarial.safetensors"
    )
    parser.add_argument(
        "input", metavar="INPUT", help="an image, a multi-page TIFF, an NPY volume, or a folder of them"
    )
    parser.add_argument("output", metavar="OUTPUT", help="file of any of these formats, or a folder")
    parser.add_argument(
        "--tile",
        type=int,
        help="LR pixels of a tile along each axis; bounds the memory"
        f" (default: {TILES[2]} for 2-D generators, {TILES[3]} for 3-D ones)",
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s"
    )
    arguments = parser.parse_args()
    if arguments.tile is not None and arguments.tile < 1:
        parser.error(f"--tile {arguments.tile} must be 1 or more")

    with cli_errors():
        use_exact_float32()
        generator, _ = load_generator(arguments.weights, arguments.device)
        jobs, notes = list_jobs(arguments.input, arguments.output, depth_scale(generator))
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        work_through(jobs, generator, arguments.tile)
    if len(jobs) > 1:
        print(f"{len(jobs)} images written to {arguments.output}")
    else:
        (info, path), scale = jobs[0], generator.config.scale
        pages = info.pages * depth_scale(generator)
        print(f"{path}: {pages} x {info.height * scale} x {info.width * scale} {info.dtype}")


if __name__ == "__main__":
    main()
