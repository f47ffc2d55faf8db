"""Super-resolving files as the command and the API do: images page by page, and volumes by a 3-D generator
block by block.
"""

from dataclasses import dataclass

from srgan_dist.data.formats.bare_raw import RawOptions, parse_raw
from srgan_dist.data.image_files import is_raw, read_header, read_info
from srgan_dist.data.noise import Noise
from srgan_dist.data.window import Window, parse_window
from srgan_dist.evaluation.finished_outputs import FinishedOutputs
from srgan_dist.evaluation.grey_range import auto_window, check_window, range_note, ranges_in
from srgan_dist.evaluation.super_resolve import NOISE, check_halo, depth_scale
from srgan_dist.evaluation.super_resolve_files import list_jobs, super_resolve_files
from srgan_dist.evaluation.super_resolve_volume import super_resolve_volume
from srgan_dist.models.self_ensemble import SelfEnsemble
from srgan_dist.models.weights_file import generator_file
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of

AUTO = "auto"


@dataclass(frozen=True)
class Jobs:
    """What is to be super-resolved: jobs of `list_jobs`, and how their values become grey levels."""

    images: list  # go page by page
    volumes: list  # go block by block
    notes: list  # for the user
    window: Window | None
    always: bool  # whether the window is also that of uint8, whose values are grey levels already
    finished: FinishedOutputs | None  # of a folder; the outputs that it keeps are no jobs
    weights: str  # the sha256 of their file
    noise: Noise
    samples: int | None
    halo: int | None
    raw: RawOptions | None

    @property
    def kept(self):
        """The outputs that are there already."""
        return self.finished.kept if self.finished else []

    def window_of(self, info):
        """Return the Window by which the values of a Volume become grey levels, None: they are such."""
        return self.window if self.always or info.dtype != "uint8" else None


def list_images_and_volumes(
    resolver,
    source,
    target,
    weights,
    noise=NOISE,
    samples=None,
    window=None,
    raw=None,
    halo=None,
    format=None,
):
    """Return the Jobs of a file or folder; of a folder without the outputs that the same command has made.

    resolver: SuperResolver. weights: the file or folder of its generator. window: LOW:HIGH, the values
    that become black and white; "auto" for those that give all the input together the range of the
    training data; None for that of the training data, where they had one. With one the input may have any
    type. raw: SHAPE,TYPE,ORDER,OFFSET of voxels without a header. halo: LR voxels around the blocks of a
    3-D generator. format: suffix of outputs in a folder, with or without its dot. Raises UserError as
    `list_jobs` does, for options that the input cannot follow, and for a window without a value of the input.
    """
    options = None if raw is None else parse_raw(raw)
    suffix = None if format is None else f".{format.lower().removeprefix('.')}"
    given, ranges = _given_window(window), ranges_in(resolver.header)
    chosen = trained_window(resolver) if given is None else given
    generator, digest, finished = resolver.generator, sha256_of(generator_file(weights)), None
    found_raw = False
    if isinstance(generator, SelfEnsemble):
        digest += " of 8 orientations"

    def read(path):
        return read_info(path, options) if chosen is None else read_header(path, options)

    def begin(infos, folder):
        nonlocal chosen, finished, found_raw
        found_raw = any(is_raw(info.path) for info in infos)
        if chosen == AUTO and infos:
            chosen = auto_window(infos, ranges)
        if folder:
            settings = {
                "weights": digest,
                "noise": f"{noise.strength} {noise.seed}",
                "samples": samples,
                "window": chosen and str(chosen),
                "halo": halo,
            }
            finished = FinishedOutputs(folder, settings)
        return finished

    by_blocks = resolver.ndim == 3
    jobs, notes = list_jobs(source, target, depth_scale(generator), samples, read, by_blocks, begin, suffix)
    check_halo(generator, halo)
    if raw is not None and not found_raw:
        raise UserError(
            f"raw={raw} is for .raw and .vol files without a header, and INPUT={source} holds none; leave it"
            " out"
        )
    volumes = [(info, path) for info, path in jobs if by_blocks and info.slices > 1]
    images = [(info, path) for info, path in jobs if not (by_blocks and info.slices > 1)]
    always, drawn = given is not None, (noise, samples)
    found = Jobs(images, volumes, notes, chosen, always, finished, digest, *drawn, halo, options)
    if halo is not None and images:
        raise UserError(f"halo={halo} is for volumes, and {images[0][0].path} is an image; leave it out")
    if found.kept:
        notes.append(
            f"{len(found.kept)} of {len(found.kept) + len(jobs)} outputs are there already, of the same"
            " weights, settings and inputs, and are kept"
        )
    inputs = [info for info, _ in jobs]
    for info in inputs:
        check_window(info, found.window_of(info))
    notes += [note for info in inputs for note in info.notes]
    notes += _sizes_note(jobs)
    notes += range_note(inputs, map(found.window_of, inputs), ranges)
    return found


def _sizes_note(jobs):
    """Return notes, at most one per format: the outputs that lose a voxel size that their input has."""
    notes = []
    for suffix, problem in (
        (".npy", "NPY holds no voxel size"),
        (".mhd", "MetaImage holds the voxel sizes of all axes or none, and one is unknown"),
    ):
        lost = [
            (info, path)
            for info, path in jobs
            if path.suffix.lower() == suffix
            and any(sizes := info.voxel_sizes_um or ())
            and (suffix == ".npy" or not all(sizes))
        ]
        if lost:
            others = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
            source = lost[0][0].path
            notes.append(f"{lost[0][1]}{others}: {problem}, so that of {source} is lost; .tif keeps it")
    return notes


def _given_window(text):
    """Return a Window, AUTO, or None; raises UserError for a percentage, which only building takes."""
    if text is None or text == AUTO:
        return text
    window = parse_window(text)
    if not isinstance(window, Window):
        raise UserError(
            f"--window {text}: give LOW:HIGH, the values that are black and white in the training images, or"
            " auto, which gives the input the range of grey levels of these"
        )
    return window


def super_resolve_jobs(
    generator,
    jobs,
    tile=None,
    rank=0,
    ranks=1,
    tell=print,
    warn=print,
    progress=lambda items, title, unit, total: items,
):
    """Super-resolve Jobs; yields the path of each output that is written.

    progress wraps pages and blocks, as `progress_bar` does. tell, warn: are given sentences about what is
    done, and about what the user has to look at. The rest is as of `super_resolve_files` and
    `super_resolve_volume`.
    """
    for line in _window_lines(jobs):
        tell(line)

    def pages_of(info, pages):
        return progress(pages, info.path.name, "slice", info.slices * depth_scale(generator))

    options = {"tile": tile, "noise": jobs.noise, "samples": jobs.samples}
    options |= {"warn": warn, "finished": jobs.finished}
    of_pages = {"progress": pages_of, "window_of": jobs.window_of, "raw": jobs.raw}
    for _, path in super_resolve_files(generator, jobs.images, **options, **of_pages):
        yield path
    for volume, path in jobs.volumes:
        super_resolve_volume(
            generator,
            volume,
            path,
            jobs.weights,
            **options,
            halo=jobs.halo,
            window=jobs.window_of(volume),
            rank=rank,
            ranks=ranks,
            tell=tell,
            progress=lambda own, total, name=volume.path.name: progress(own, name, "block", total),
        )
        yield path


def _window_lines(jobs):
    """Return a sentence per type of the values that a window maps."""
    of_type = {}
    for info, _ in (*jobs.images, *jobs.volumes):
        if jobs.window_of(info):
            of_type.setdefault(info.dtype, []).append(info.path)
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: values {jobs.window} become"
        f" black to white, the result is mapped back to {dtype}"
        for dtype, paths in of_type.items()
    ]


def trained_window(resolver):
    """Return the Window with which the training data of a generator were built, None where there is none."""
    text = resolver.header.get("window")
    return parse_window(text) if text else None
