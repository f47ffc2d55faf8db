"""Fetch DeepRock-SR-2D and unpack it: srgan-dist download OUT [--from FILE]"""

import argparse
import shlex

from srgan_dist.utils.errors import cli_errors


@cli_errors()
def main(argv=None, prog=None):
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Fetch DeepRock-SR-2D (project 215 of the Digital Porous Media Portal) and unpack it to"
        " OUT/DeepRockSR-2D. After an interruption the same command continues.",
    )
    parser.add_argument("out", metavar="OUT", help="folder")
    parser.add_argument("--from", dest="file", metavar="FILE", help="a zip that was downloaded by hand")
    arguments = parser.parse_args(argv)

    from srgan_dist.datasets.deeprock import DOI, LICENCE, count_images, download, format_images

    result = download(arguments.out, arguments.file, say=lambda text: print(text, flush=True))
    print(format_images(count_images(result.folder)))
    if result.left_out:
        print(f"note: {result.left_out} files of the archive lie outside the 2D sets and are left out")
    if result.already_there:
        sha256 = result.record.sha256
        print(f"{result.folder} holds exactly this set already (sha256 {sha256}), nothing was written")
    build = "srgan-dist build" if prog else "python shards/build.py"
    folder = shlex.quote(str(result.folder))
    print(f"To pack it: {build} {folder} data/deeprock_x4 --kind unknown --scale 4")
    print(f"Licence of DeepRock-SR: {LICENCE}, which asks for attribution: cite {DOI}")
