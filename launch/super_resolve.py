"""Super-resolve images: python launch/super_resolve.py WEIGHTS INPUT OUTPUT"""

import argparse

import torch

from srgan_dist.checkpoint import load_generator
from srgan_dist.errors import reported
from srgan_dist.machine import use_exact_float32
from srgan_dist.progress import tracked
from srgan_dist.super_resolve import TILE, list_jobs, super_resolve_file


def main():
    parser = argparse.ArgumentParser(description="Super-resolve PNG, TIFF and NPY images, volumes slice by slice.")
    parser.add_argument("weights", metavar="WEIGHTS", help="generator, e.g. runs/demo/weights/adversarial.safetensors")
    parser.add_argument("input", metavar="INPUT", help="an image, a multi-page TIFF, an NPY volume, or a folder of them")
    parser.add_argument("output", metavar="OUTPUT", help="file of any of these formats, or a folder")
    parser.add_argument("--tile", type=int, default=TILE, help="LR pixels per tile; bounds the memory (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.tile < 1:
        parser.error(f"--tile {arguments.tile} must be 1 or more")

    with reported():
        use_exact_float32()
        generator, _ = load_generator(arguments.weights, arguments.device)
        jobs = list_jobs(arguments.input, arguments.output)
        for info, path in jobs:
            super_resolve_file(generator, info, path, arguments.tile,
                               lambda pages, info=info: tracked(pages, info.path.name, "slice", info.pages))
            if len(jobs) == 1:
                print(f"{path}: {info.pages} x {info.height * generator.config.scale} x"
                      f" {info.width * generator.config.scale} {info.dtype}")
    if len(jobs) > 1:
        print(f"{len(jobs)} images written to {arguments.output}")


if __name__ == "__main__":
    main()
