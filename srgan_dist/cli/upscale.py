"""Super-resolve images and volumes: srgan-dist upscale [WEIGHTS] INPUT OUTPUT"""

import argparse
import contextlib
import sys

from srgan_dist.cli.options import add_self_ensemble
from srgan_dist.runtime.parent_death import use_one_blas_thread
from srgan_dist.utils.errors import UserError, cli_errors
from srgan_dist.utils.progress import progress_bar
from srgan_dist.weights import ROCKS_X4


@cli_errors()
def main(argv=None, prog=None):
    use_one_blas_thread()  # before NumPy is imported
    arguments = parse_arguments(argv, prog)

    from srgan_dist.api import load_generator
    from srgan_dist.data.noise import Noise
    from srgan_dist.evaluation.super_resolve import check_noise, depth_scale
    from srgan_dist.evaluation.super_resolve_files import spread_path
    from srgan_dist.evaluation.super_resolve_jobs import list_images_and_volumes, super_resolve_jobs

    with joined_ranks(arguments.device) as (rank, ranks, device):
        resolver = load_generator(arguments.weights, device, arguments.self_ensemble)
        generator = resolver.generator
        noise, samples = Noise(arguments.noise_seed, arguments.noise), arguments.samples
        check_noise(generator, noise, samples)
        jobs = list_images_and_volumes(
            resolver,
            arguments.input,
            arguments.output,
            arguments.weights,
            noise,
            samples,
            arguments.window,
            arguments.raw,
            arguments.halo,
            arguments.format,
        )
        check_ranks(jobs.images, ranks)
        tell = print if rank == 0 else lambda *text, **options: None

        def warn(note):
            tell(f"note: {note}", file=sys.stderr)

        for note in jobs.notes + stack_notes(jobs.images, generator):
            warn(note)
        every, written = jobs.images + jobs.volumes, 0
        try:
            for _ in super_resolve_jobs(
                generator,
                jobs,
                tile=arguments.tile,
                rank=rank,
                ranks=ranks,
                tell=tell,
                warn=warn,
                progress=progress_bar,
            ):
                written += 1
        except BaseException:
            tell(f"{written} of {len(every)} outputs were written", file=sys.stderr)
            raise
        if len(every) + len(jobs.kept) > 1 or not every:
            tell(f"{len(every)} images written to {arguments.output}")
        else:
            (info, path), scale = every[0], generator.config.scale
            pages = info.slices * depth_scale(generator)
            tell(f"{path}: {pages} x {info.height * scale} x {info.width * scale} {info.dtype}")
            if samples:
                tell(f"{spread_path(path)}: their standard deviation over {samples} samples, float32")


def parse_arguments(argv, prog):
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Super-resolve images, and volumes slice by slice or with a 3-D generator.",
    )
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        nargs="?",
        default=ROCKS_X4,
        help=f"generator, e.g. runs/demo/weights/adversarial.safetensors (default: {ROCKS_X4}, which comes"
        " with srgan_dist: x4, 2-D; docs/weights.md)",
    )
    parser.add_argument(
        "input", metavar="INPUT", help="an image or volume in a format of docs/data.md, or a folder of them"
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        help="a .png, .tif or .npy file, or a folder, in which the same command continues; of a volume by a"
        " 3-D generator also .mhd or .zarr",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help="LR pixels of a tile along each axis; bounds the memory (default: 192, with a 3-D generator so"
        " many that a block takes at most 0.5 GiB on a CPU or 6 GiB of a GPU)",
    )
    parser.add_argument(
        "--window",
        metavar="LOW:HIGH|auto",
        help="values that are black and white in the training images (--window=-9:9 with a negative one);"
        " auto: those that give the input the range of grey levels of the training images, one window for all"
        " of INPUT. Other types than uint8 and uint16 need one, unless the weights have it; the result has"
        " the type of INPUT",
    )
    parser.add_argument(
        "--format",
        metavar="SUFFIX",
        help="of the files in a folder, e.g. tif, npy or mhd (default: the input's own, or tif where that is"
        " not written)",
    )
    parser.add_argument(
        "--raw",
        metavar="SHAPE,TYPE,ORDER,OFFSET",
        help="of .raw and .vol files without a header, e.g. 400x500x600,uint16,little,0 for 400 slices",
    )
    parser.add_argument(
        "--halo",
        type=int,
        metavar="N",
        help="of volumes of a 3-D generator: LR voxels around a block that the network reads (default: so"
        " many that the result is exact); fewer are faster, and their deviation is printed",
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=1.0,
        metavar="X",
        help="strength of the noise of a generator that has some: 0 none, the smoothest image; 1 as trained",
    )
    parser.add_argument(
        "--noise-seed", type=int, default=0, metavar="N", help="seed of the noise: another one, another draw"
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="draw the noise N times; OUTPUT is the mean, and OUTPUT_spread the standard deviation, a map of"
        " how uncertain every pixel is",
    )
    add_self_ensemble(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is a GPU)")
    arguments = parser.parse_intermixed_args(argv)  # WEIGHTS may be absent, options anywhere
    if arguments.tile is not None and arguments.tile < 1:
        parser.error(f"--tile {arguments.tile} must be 1 or more")
    return arguments


@contextlib.contextmanager
def joined_ranks(device):
    """Join the ranks of a launcher, if there is one; yields (rank, ranks, device)."""
    from srgan_dist.runtime.cpu import on_cpu, use_cpu_threads
    from srgan_dist.runtime.device import check_device, check_group
    from srgan_dist.runtime.launch_variables import launched_ranks
    from srgan_dist.runtime.process_group import end_all_ranks_on_error, join

    if launched_ranks() == 1:
        yield 0, 1, device
        return
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device {device}: every rank has a GPU of its own; leave it out, or give cpu")
    check_device(device or "auto")
    state = join(on_cpu(device or "auto"), timeout_minutes=7 * 24 * 60)
    check_group(state)
    use_cpu_threads(state)
    with end_all_ranks_on_error():
        yield state.process_index, state.num_processes, str(state.device)
    state.destroy_process_group()


def check_ranks(images, ranks):
    """Raise UserError where several processes would share images."""
    if images and ranks > 1:
        raise UserError(
            f"{ranks} processes were launched, which share the blocks of volumes of a 3-D generator;"
            f" {images[0][0].path} is none, so start one process"
        )


def stack_notes(images, generator):
    """Return a list of at most one note: that a 2-D generator leaves slices as far apart as they are."""
    stacks = [info for info, _ in images if info.slices > 1 and generator.config.ndim == 2]
    if not stacks:
        return []
    return [
        f"{stacks[0].path}: a 2-D generator refines x and y only; z stays as coarse as it is, and so does its"
        " voxel size"
    ]
