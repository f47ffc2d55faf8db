"""Tell what a packed data set holds: python shards/summarize.py OUT [--verify]"""

import argparse
import sys

from srgan_dist.data.split import open_set
from srgan_dist.integrity.audit import verify
from srgan_dist.packing.summary import format_counts, format_ranges
from srgan_dist.storage.cache import DEFAULT_GIB, cache_at
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.progress import tracked


def main():
    parser = argparse.ArgumentParser(
        description="Show counts, sizes, rocks and grey levels of a packed data set."
    )
    parser.add_argument("out", metavar="OUT", help="folder made by shards/build.py, or its URL")
    parser.add_argument(
        "--verify", action="store_true", help="check every byte, and that WebDataset streams the same pairs"
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
    with cli_errors():
        packed = open_set(arguments.out, cache_at(arguments.cache, arguments.cache_gib))
        print(f"{format_counts(packed.manifest)}\n\n{format_ranges(packed)}")
        if arguments.verify:
            faults = verify(packed, lambda shards: tracked(shards, "verify", "shard"))
            for fault in faults:
                print(f"error: {fault}", file=sys.stderr)
            if faults:
                sys.exit(1)
            print("every byte is as it was written")


if __name__ == "__main__":
    main()
