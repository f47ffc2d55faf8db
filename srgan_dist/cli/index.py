"""Make a WebDataset of image pairs trainable where it is, or write lost index tables of a packed set again:
srgan-dist index OUT --train SHARDS [options], srgan-dist index SHARDS
"""

import argparse

from srgan_dist.cli.options import add_cache_options
from srgan_dist.utils.errors import UserError, cli_errors
from srgan_dist.utils.files import atomic_write
from srgan_dist.utils.progress import progress_bar

DESCRIPTION = """\
Make any WebDataset of image pairs trainable where it is, without copying or changing it:

    {command} OUT --train 'shards-{{000000..000003}}.tar' --valid shards-000004.tar

reads all shards, checks every pair, and writes manifest.json and one index table per split into OUT, which
may be the folder of the shards. OUT is then a set like those of `build`: train, evaluate and summarize take
it. Shards are uncompressed tars, by path, glob, brace expression or URL; a split has whole shards. Images are
PNG, TIFF, NPY, BMP or MAT of one grey channel of 8 or 16 bits, HR 2, 3, 4, 6 or 8 times LR. NPY is mapped,
other formats are decoded once into the cache.

    {command} SHARDS

writes lost or damaged index tables of a set again. They are read off its shards. Shards and tables must have
the sha256 that manifest.json names."""


@cli_errors()
def main(argv=None, prog=None):
    parser = argparse.ArgumentParser(
        prog=prog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION.format(command=prog or "python shards/index.py"),
    )
    parser.add_argument(
        "shards", metavar="OUT", help="folder of the index; a set, to write lost tables again"
    )
    for split in ("train", "valid", "test"):
        parser.add_argument(f"--{split}", nargs="+", metavar="SHARD", help=f"shards of the {split} split")
    parser.add_argument(
        "--hr", metavar="FIELD", help="field of the HR image, e.g. hr.png (default: the only hr.*)"
    )
    parser.add_argument(
        "--lr", metavar="FIELD", help="field of the LR image, e.g. lr.png (default: the only lr.*)"
    )
    parser.add_argument(
        "--rock", metavar="NAME", help="rock of all samples (default: the folder of the shards)"
    )
    parser.add_argument("--rock-field", metavar="NAME", help="entry of the JSON member that names the rock")
    parser.add_argument(
        "--source-field",
        metavar="NAME",
        help="entry of the JSON member that names the slice or volume an image was cut from: images of one"
        " source count as dependent in the intervals of rock measures",
    )
    parser.add_argument(
        "--record", metavar="FIELD", default="json", help="field of the JSON member (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="processes that read shards (default: as for build)"
    )
    add_cache_options(parser)
    options = vars(parser.parse_args(argv))
    cache, cache_gib = options.pop("cache"), options.pop("cache_gib")
    out, jobs, record = options.pop("shards"), options.pop("jobs"), options.pop("record")
    if jobs is not None and jobs < 1:
        parser.error(f"--jobs {jobs} must be 1 or more")

    from srgan_dist.storage.remote import is_url

    if is_url(out):
        raise UserError(f"SHARDS={out} is a URL; give a folder, on the machine that has the set")
    addresses = {split: options.pop(split) for split in ("train", "valid", "test")}
    if any(addresses.values()):
        _index(out, addresses, jobs, (cache, cache_gib), {**options, "record": record})
    elif given := [name for name, value in options.items() if value is not None]:
        raise UserError(
            f"--{given[0].replace('_', '-')} goes with --train, --valid or --test; give the shards"
        )
    else:
        _rebuild(out)


def _index(out, addresses, jobs, cache, options):
    from srgan_dist.packing.index_webdataset import index_webdataset
    from srgan_dist.packing.summary import format_counts
    from srgan_dist.storage.cache import cache_at
    from srgan_dist.utils.executors import workers

    with workers("processes", jobs) as run:
        indexed, already_there = index_webdataset(
            out,
            addresses,
            progress=lambda results, count, act: progress_bar(results, act, "shard", count),
            run=run,
            cache=cache_at(*cache),
            **options,
        )
    for note in indexed.notes:
        print(f"note: {note}")
    print(format_counts(indexed.manifest))
    print(f"{out} holds exactly this index already" if already_there else f"{out} written")


def _rebuild(address):
    from srgan_dist.data.split import open_set
    from srgan_dist.integrity.rebuild_index import is_intact, rebuild_index

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
