"""Fetch DeepRock-SR-2D and unpack it: python shards/download.py OUT [--from FILE]"""

import argparse
import shlex

from srgan_dist.datasets.deeprock import DOI, LICENCE, count_images, download, format_images
from srgan_dist.utils.errors import cli_errors


def main():
    parser = argparse.ArgumentParser(
        description="Fetch DeepRock-SR-2D (project 215 of the Digital Porous Media Portal) and unpack it to"
        " OUT/DeepRockSR-2D. After an interruption the same command goes on where it was."
    )
    parser.add_argument("out", metavar="OUT", help="folder")
    parser.add_argument("--from", dest="file", metavar="FILE", help="a zip that was downloaded by hand")
    arguments = parser.parse_args()

    with cli_errors():
        result = download(arguments.out, arguments.file, say=lambda text: print(text, flush=True))
        print(format_images(count_images(result.folder)))
    if result.left_out:
        print(f"note: {result.left_out} files of the archive lie outside the 2D sets and are left out")
    if result.already_there:
        print(
            f"{result.folder} holds exactly this set already (sha256 {result.record.sha256}), nothing was written"
        )
    print(
        f"To pack it: python shards/build.py {shlex.quote(str(result.folder))} data/deeprock_x4 --kind unknown --scale 4"
    )
    print(f"Licence of DeepRock-SR: {LICENCE}, which asks for attribution: cite {DOI}")


if __name__ == "__main__":
    main()
