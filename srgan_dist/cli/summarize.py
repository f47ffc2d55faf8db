"""Show the contents of a packed data set: srgan-dist summarize OUT [--verify]"""

import argparse
import sys

from srgan_dist.cli.options import add_cache_options
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.progress import progress_bar


@cli_errors()
def main(argv=None, prog=None):
    parser = argparse.ArgumentParser(
        prog=prog, description="Show counts, sizes, rocks and grey levels of a packed data set."
    )
    build = "srgan-dist build" if prog else "shards/build.py"
    parser.add_argument("out", metavar="OUT", help=f"folder made by {build}, or its URL")
    parser.add_argument(
        "--verify", action="store_true", help="check every byte, and that WebDataset streams the same pairs"
    )
    add_cache_options(parser)
    arguments = parser.parse_args(argv)

    from srgan_dist.data.split import open_set
    from srgan_dist.packing.summary import format_counts, format_ranges
    from srgan_dist.storage.cache import cache_at

    packed = open_set(arguments.out, cache_at(arguments.cache, arguments.cache_gib))
    print(f"{format_counts(packed.manifest)}\n\n{format_ranges(packed)}")
    if arguments.verify:
        verify_or_exit(packed)


def verify_or_exit(packed):
    """Check every byte of a set; exits with code 1 after printing the faults."""
    from srgan_dist.integrity.audit import verify

    faults = verify(packed, lambda shards: progress_bar(shards, "verify", "shard"))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    print("every byte is as it was written")
