"""Pack rock images into WebDataset tar shards: srgan-dist build SOURCE OUT [options]"""

import argparse
import time

from srgan_dist.cli.options import add_renamed_option
from srgan_dist.runtime.parent_death import use_one_blas_thread
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.executors import MANY, usable_cores, workers
from srgan_dist.utils.progress import progress_bar

LAYOUTS = """\
Pack images into WebDataset tar shards. SOURCE is one of

  DeepRock-SR, its root or one of its sets; these names exactly, images directly in these folders:
    SOURCE/coal2D/coal2D_train_HR/0001.png             <set>_<train|valid|test>_HR
    SOURCE/coal2D/coal2D_train_LR_unknown_X4/0001x4.png

  any folder of HR images, whose LR side is then made; each rock is split 8:1:1 in order of file names:
    SOURCE/sandstone/slice_0001.tif                    one sub-folder per rock; its only stack is split by
                                                       blocks of slices, with gaps

  the same with splits of your own; train, and if you like valid and test, these names exactly, at least one
  image in each, and neither images nor other folders beside them:
    SOURCE/train/sandstone/slice_0001.tif
    SOURCE/valid/sandstone/slice_0800.tif
    SOURCE/test/berea/slice_0001.tif

  two scans of the same rocks, as two such folders with the same names in both, beside each other or anywhere:
    SOURCE/HR/berea/1.tif   and SOURCE/LR/berea/1.tif, or 1x4.tif; any names, at any level, also below splits:
                            recognised by names, sizes and pictures
    --hr HR --lr LR         HR/berea/plug.tif and LR/berea/plug.tif; HR has exactly --scale times the size of
                            LR, or --align registers both and cuts them to their overlap

With --dims 3 the files are volumes, which are cut into blocks; a folder of numbered slices is a volume too,
and one of a DICOM series.
SOURCE, and --hr and --lr, may also be one volume. A rock of one or two volumes is split 8:1:1
into slabs along the longest axis, with a gap of a crop between them; empty blocks are left out and counted.

A layout that only resembles one of these is refused. Links are followed, hidden files and folders left out.
The same command continues a build that was interrupted.

Sets that outgrow one machine are packed by many, which need SOURCE and OUT on a file system that they share:
    {command} SOURCE OUT --executor dask:tcp://HOST:8786
                                  workers of a Dask cluster; pip install distributed
    mpiexec -n 9 {command} SOURCE OUT --executor mpi
                                  one leads, eight pack; pip install mpi4py mpich
The bytes are the same, whoever packs."""


@cli_errors()
def main(argv=None, prog=None):
    use_one_blas_thread()  # before NumPy is imported
    from srgan_dist.packing.build import BuildOptions, build
    from srgan_dist.packing.summary import format_counts

    options = parse_arguments(argv, prog, BuildOptions)
    source, out = options.pop("source"), options.pop("out")
    executor, jobs = options.pop("executor"), options.pop("jobs")

    start = time.monotonic()
    with workers(executor, jobs) as run:
        if run is None:  # this process has packed for another one
            return
        result = build(
            source,
            out,
            BuildOptions(**options),
            lambda results, count, act: progress_bar(results, act, "", count),
            run,
        )
    for note in result.notes:
        print(f"note: {note}")
    print(format_counts(result.manifest))
    if result.already_there:
        print(f"{out} holds exactly this set already, nothing was written")
    else:
        print(f"{out} written in {time.monotonic() - start:.1f} s")


def parse_arguments(argv, prog, defaults):
    """Return the options as a dictionary: source, out, jobs, executor, and the fields of BuildOptions.

    source is a folder, or a pair of them, (HR, LR).
    """
    from srgan_dist.packing.options import DEFAULTS
    from srgan_dist.storage.encoding import ENCODINGS
    from srgan_dist.utils.scales import SCALES

    def by_dims(name):
        return ", ".join(f"{values[name]} with --dims {ndim}" for ndim, values in DEFAULTS.items())

    parser = argparse.ArgumentParser(
        prog=prog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=LAYOUTS.format(command=prog or "python shards/build.py"),
    )
    parser.add_argument("source", metavar="SOURCE", nargs="?")
    parser.add_argument("out", metavar="OUT", help="new folder")
    parser.add_argument("--hr", metavar="DIR", help="HR images, instead of SOURCE")
    parser.add_argument("--lr", metavar="DIR", help="their LR images, with the same names")
    parser.add_argument(
        "--dims",
        dest="ndim",
        type=int,
        choices=[2, 3],
        default=defaults.ndim,
        help="2 packs images and the slices of volumes, 3 volumes (default: %(default)s)",
    )
    parser.add_argument(
        "--kind",
        default=defaults.kind,
        choices=["default", "unknown"],
        help="LR side: default is bicubic, unknown one kernel per image (default: %(default)s)",
    )
    parser.add_argument(
        "--scale",
        type=int,
        default=defaults.scale,
        help=f"HR size over LR size: {', '.join(map(str, SCALES))} (default: %(default)s)",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help=f"HR pixels of the tiles cut from a folder's images (default: {by_dims('tile')})",
    )
    parser.add_argument(
        "--crop",
        type=int,
        metavar="N",
        help="HR pixels of the crops of the training; smaller images are refused"
        f" (default: {by_dims('crop')})",
    )
    _add_scan_options(parser)
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="of kernels and shuffling (default: %(default)s)"
    )
    parser.add_argument(
        "--samples-per-shard",
        type=int,
        default=defaults.samples_per_shard,
        metavar="N",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help=f"processes; the bytes are the same for any number (default: one per core, {usable_cores()},"
        f" for {MANY} images and more, else one)",
    )
    parser.add_argument(
        "--executor",
        default="processes",
        metavar="NAME",
        help="who packs: processes of this machine (default), dask (a cluster made here), dask:ADDRESS, mpi,"
        " or MODULE:FACTORY for any other Executor of concurrent.futures; see above",
    )
    parser.add_argument("--dtype", choices=["uint16"], help="store 8-bit images as 16 bit, times 257")
    parser.add_argument(
        "--encoding",
        default=defaults.encoding,
        choices=ENCODINGS,
        help="store pixels as they are (npy, fastest to read) or compressed (png, for sets that are read over"
        " slow links) (default: %(default)s)",
    )
    add_renamed_option(parser, "--payload", "--encoding")
    arguments = parser.parse_intermixed_args(argv)  # for SOURCE --option OUT, as SOURCE may be missing
    if arguments.jobs is not None and arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs} must be 1 or more")
    options = {name: value for name, value in vars(arguments).items() if name != "payload"}
    align, limit = options.pop("align"), options.pop("max_shift")
    if limit is not None and not align:
        parser.error(f"--max-shift {limit:g} goes with --align")
    options["align"] = (8.0 if limit is None else limit) if align else None
    hr, lr = options.pop("hr"), options.pop("lr")
    if (hr is None) != (lr is None) or (hr is None) == (options["source"] is None):
        parser.error("give either SOURCE or both --hr and --lr")
    if hr is not None:
        options["source"] = hr, lr
    return options


def _add_scan_options(parser):
    """Add the options about values, about pairs that two scanners made, and LR images made like them."""
    parser.add_argument(
        "--window",
        metavar="LOW:HIGH|auto|PERCENT",
        help="map the values of all images to grey levels: those that become black and white, or auto (0.1"
        " percent of the voxels black, and white) or that percentage; needed for float and signed data",
    )
    parser.add_argument(
        "--raw",
        metavar="SHAPE,TYPE,ORDER,OFFSET",
        help="of voxels without a header whose name does not say it, e.g. 400x500x600,uint16,little,0 for 400"
        " slices",
    )
    parser.add_argument(
        "--align", action="store_true", help="register pairs and cut them to their overlap by whole HR pixels"
    )
    parser.add_argument(
        "--max-shift",
        type=float,
        metavar="N",
        help="with --align: refuse pairs that are shifted by more HR pixels than this (default: 8)",
    )
    parser.add_argument(
        "--slabs",
        metavar="AXIS,SPLIT=FIRST:END,...",
        help="with --dims 3: cut every volume into these splits instead, in HR voxels along z, y or x, e.g."
        " x,train=:300,test=-90: for the first 300 and the last 90; leave a gap of a crop between them, and"
        " give valid alike, or none",
    )
    for name, metavar, text in (
        ("blur", "SIGMA", "make LR as a scanner does, with a Gaussian point spread of SIGMA HR pixels"),
        ("noise", "SIGMA", "standard deviation of its noise in grey levels (default: 0)"),
        ("gain", "G", "its gain about grey level 0 (default: 1)"),
        ("offset", "LEVELS", "added grey levels (default: 0)"),
    ):
        parser.add_argument(f"--lr-{name}", type=float, metavar=metavar, help=text)
    parser.add_argument(
        "--min-contrast",
        type=float,
        metavar="SHARE",
        help="with --dims 3: blocks of one grey level, or of a smaller standard deviation than this share"
        " of their rock's median, are left out; 0 keeps all (default: 0.05)",
    )
