"""Tell what a packed data set holds: python shards/summarize.py OUT [--verify]"""

import argparse
import sys

from srgan_dist.data.audit import verify
from srgan_dist.data.index import read_manifest
from srgan_dist.data.summary import format_counts, format_ranges
from srgan_dist.errors import reported
from srgan_dist.progress import tracked


def main():
    parser = argparse.ArgumentParser(description="Show counts, sizes, rocks and grey levels of a packed data set.")
    parser.add_argument("out", metavar="OUT", help="folder made by shards/build.py")
    parser.add_argument("--verify", action="store_true", help="check every byte, and that WebDataset streams the same pairs")
    arguments = parser.parse_args()
    with reported():
        manifest = read_manifest(arguments.out)
        print(f"{format_counts(manifest)}\n\n{format_ranges(arguments.out)}")
        if arguments.verify:
            faults = verify(arguments.out, lambda shards: tracked(shards, "verify", "shard"))
            for fault in faults:
                print(f"error: {fault}", file=sys.stderr)
            if faults:
                sys.exit(1)
            print("every byte is as it was written")


if __name__ == "__main__":
    main()
