"""Write lost or damaged index tables of a packed set again: srgan-dist index SHARDS"""

import argparse

from srgan_dist.utils.errors import UserError, cli_errors
from srgan_dist.utils.files import atomic_write
from srgan_dist.utils.progress import progress_bar


def main(argv=None, prog=None):
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write lost or damaged index tables of a packed set again. They are read off its shards."
        " Shards and tables must have the sha256 that manifest.json names.",
    )
    parser.add_argument("shards", metavar="SHARDS", help="folder of a packed set")
    address = parser.parse_args(argv).shards

    from srgan_dist.data.split import open_set
    from srgan_dist.integrity.rebuild_index import is_intact, rebuild_index
    from srgan_dist.storage.remote import is_url

    with cli_errors():
        if is_url(address):
            raise UserError(f"SHARDS={address} is a URL; give a folder, on the machine that has the set")
        packed = open_set(address)
        for name, split in packed.manifest.splits.items():
            path = packed.place.file(split.index)
            if is_intact(path, split.index):
                print(f"{path} is as it was written")
                continue
            content = rebuild_index(packed, name, lambda shards: progress_bar(shards, "index", "shard"))
            with atomic_write(path, durable=True) as unfinished:
                unfinished.write_bytes(content)
            print(f"{path} written: {split.count} samples of {len(split.shards)} shards")
