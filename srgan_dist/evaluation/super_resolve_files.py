"""Super-resolving files: which image goes where, all checked before any is computed, and written as it
comes.
"""

import itertools
import os
import re
import tempfile
from collections import Counter, deque
from functools import partial
from pathlib import Path

import numpy as np

from srgan_dist.data.image_files import (
    FORMATS,
    SLICE_SUFFIXES,
    find_images,
    is_image,
    is_store,
    left_out,
    read_header,
    read_info,
)
from srgan_dist.data.volume import BROKEN_LINK
from srgan_dist.data.write_images import check_writable, write_pages
from srgan_dist.data.write_volumes import FORMATS as VOLUME_FORMATS
from srgan_dist.data.write_volumes import check_format, is_format, parts_of
from srgan_dist.evaluation.grey_range import MeanComparison, grey_volume, step_of, values_of
from srgan_dist.evaluation.output_formats import check_suffix, in_formats
from srgan_dist.evaluation.super_resolve import (
    NOISE,
    depth_scale,
    device_of,
    super_resolve_pages,
    tile_or_default,
)
from srgan_dist.evaluation.unfinished_volume import is_all_but_removed, is_unfinished
from srgan_dist.runtime.device import memory_of
from srgan_dist.storage.remote import is_url
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import unwritable_named
from srgan_dist.utils.memory import memory_named

LISTED = 20  # faults that an error lists


def spread_path(path):
    """Return the path beside an output at which the standard deviation of its samples is written, float32; of
    a PNG, which cannot hold that, a TIFF.
    """
    return path.with_name(f"{path.stem}_spread{path.suffix if is_format(path) else '.tif'}")


def list_jobs(
    source,
    target,
    pages_per_page=1,
    samples=None,
    read=read_info,
    by_blocks=False,
    begin=lambda infos, folder: None,
    suffix=None,
):
    """Pair every image of `source` (a file or a folder) with the file to write at or below `target`: (jobs,
    notes).

    A job is (Volume, output path); notes name the files that are left out because they are no images.
    pages_per_page: `depth_scale` of the generator. samples: not None where `spread_path` is written too.
    read(path) returns its Volume. by_blocks: whether volumes go to `super_resolve_volume` and the formats of
    `write_volumes`; then a folder whose output is one such file is one volume, of slices. Raises UserError
    that lists all faults before anything is computed: images that cannot be read, outputs that exist, and
    formats that cannot hold the result. begin(infos, folder) is called with the Volumes of all inputs, and
    the folder of the outputs, None for one file; it returns None or the FinishedOutputs of the folder: those
    that are there already are no jobs and no faults, but among its `kept`. suffix: of outputs in a folder,
    None: the input's own, or .tif where that format is not written.
    """
    for name, path in (("INPUT", source), ("OUTPUT", target)):
        if is_url(path) or str(path) == "":
            raise UserError(
                f"{name}={path} is {'a URL' if path else 'empty'}; give the path of a file or folder"
            )
    source, target = Path(source), Path(target)
    if not source.exists():
        raise UserError(f"INPUT={source} does not exist")
    check_suffix(suffix)
    one_volume = by_blocks and is_format(target) and (is_store(target) or not target.is_dir())
    of_folder = source.is_dir() and not is_store(source) and not one_volume
    into = of_folder or target.is_dir() and not is_store(target)
    if suffix is not None and not into:
        raise UserError(
            f"--format {suffix[1:]} is for a folder as OUTPUT; the name of OUTPUT={target} says its format"
        )
    if of_folder:
        pairs, faults, notes = _pairs_of_folder(source, target)
    else:
        if one_volume and source.is_dir():
            _check_outside(source, target)
        pairs, faults, notes = [(source, target / source.name if into else target)], [], []
    infos = [_read_or_fault(read, path, faults) for path, _ in pairs]
    if by_blocks:
        faults += _scattered_slices(infos)
    known = [(info, output) for info, (_, output) in zip(infos, pairs, strict=True) if info]
    if into:
        known, changed = in_formats(known, suffix, by_blocks)
        notes += changed
    finished = begin([info for info, _ in known], target if of_folder else None)
    jobs = []
    for info, output in known:
        try:
            if _has_to_be_made(info, output, pages_per_page, samples, by_blocks, finished):
                jobs.append((info, output))
        except UserError as error:
            faults.append(str(error))
    written = Counter(path for _, output in known for path in _outputs_of(output, samples))
    faults += [
        f"OUTPUT={path} would be written {count} times; rename one of the inputs"
        for path, count in written.items()
        if count > 1
    ]
    if faults:
        raise UserError(_format_faults(faults))
    return jobs, notes


def _pairs_of_folder(source, target):
    """Return [(image, output)], faults and notes of a folder."""
    if target.exists() and not target.is_dir() or is_image(target) and not target.exists():
        raise UserError(f"OUTPUT={target} names a file, but INPUT={source} is a folder; give a folder")
    _check_outside(source, target)
    images, others = find_images(source)
    faults = [f"{path}: {BROKEN_LINK}" for path in others if not path.exists()]
    if not images and not faults:
        raise UserError(f"INPUT={source} holds no image in a format that is read ({FORMATS})")
    notes = left_out(source, [str(path.relative_to(source)) for path in others])
    return [(path, target / path.relative_to(source)) for path in images], faults, notes


def _scattered_slices(infos):
    """Return the faults of folders whose slices a 3-D generator would take for volumes, one by one."""
    single = [info.path for info in infos if info and info.slices == 1]
    folders = Counter(path.parent for path in single if path.suffix.lower() in SLICE_SUFFIXES)
    return [
        f"{folder}: holds {count} slices, which a 3-D generator would take for {count} volumes of one voxel"
        f" along z; to read them as one volume give INPUT={folder} and an OUTPUT that ends in one of"
        f" {', '.join(VOLUME_FORMATS)}"
        for folder, count in folders.items()
        if count > 1
    ]


def _check_outside(source, target):
    """Raise UserError for an output inside a folder that is read."""
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"OUTPUT={target} is inside INPUT={source}, where the next run would read it as input;"
            " give a folder elsewhere"
        )


def _outputs_of(output, samples):
    return [output, *([spread_path(output)] if samples else [])]


def _read_or_fault(read, path, faults):
    try:
        return read(path)
    except UserError as error:
        faults.append(str(error))
        return None


def _has_to_be_made(info, output, pages_per_page, samples, by_blocks, finished):
    """Return whether an output has to be made, which it has not where a FinishedOutputs keeps it; raises
    UserError where it cannot be made.
    """
    if by_blocks and info.slices > 1:
        check_format(output, info.tags)
        outputs = [part for whole in _outputs_of(output, samples) for part in parts_of(whole)]
        outputs = [output] if is_unfinished(output) else outputs  # the others may have their names
    else:
        check_writable(output, info.slices * pages_per_page, info.tags, info.dtype)
        outputs = _outputs_of(output, samples)
    there = [path for path in outputs if os.path.lexists(path)]
    if there and not is_all_but_removed(output):
        exist = "exist" if len(there) > 1 else "exists"
        problem = f"OUTPUT={' and '.join(map(str, there))} {exist}; give another name or delete it"
        if problem := finished.problem(info, outputs) if finished else problem:
            raise UserError(problem)
        finished.kept.append(output)
        return False
    above = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise UserError(f"OUTPUT={output} lies below {above}, which is no folder; give another name")
    return True


def _format_faults(faults):
    if len(faults) == 1:
        return faults[0]
    more = [f"and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
    return "\n  ".join([f"{len(faults)} faults found, nothing was written:", *faults[:LISTED], *more])


def super_resolve_files(
    generator,
    jobs,
    tile=None,
    progress=lambda info, pages: pages,
    noise=NOISE,
    samples=None,
    window_of=lambda info: None,
    warn=print,
    finished=None,
    raw=None,
):
    """Super-resolve the images of `list_jobs`, page by page or volume by volume; yields each job when its
    file is written.

    progress(info, pages) wraps the HR pages of a file as tqdm does. samples: see `super_resolve_pages`; then
    `spread_path` is written first. window_of(info): the Window by which its values become grey levels, and SR
    values again. warn() is given a note for each file in which the mean of SR is not that of LR. finished:
    FinishedOutputs that note each file. raw: with which voxels without a header were read.
    """
    means = deque()  # of the file that is written, and of those whose pages are computed meanwhile
    images = _images_of(jobs, generator.config.ndim, window_of, means, raw)
    results = super_resolve_pages(generator, images, tile, noise, samples)
    for info, path in jobs:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = info.slices * depth_scale(generator)
        pages = _values_of(itertools.islice(results, count), info.dtype, window_of(info), samples, means)
        facts = count, _scale_tags(info.tags, generator), _scale_sizes(info.voxel_sizes_um, generator)
        write = partial(_write_and_note, info, facts, finished)
        with memory_named(partial(_too_large, generator, info, tile, samples)):
            if samples is None:
                write(path, progress(info, pages))
            else:
                _write_mean_and_spread(path, progress(info, pages), count, write)
        for note in means.popleft().note(info.path):
            warn(note)
        yield info, path


def _too_large(generator, info, tile, samples, error):
    """Return the UserError of an image for which there is not enough memory."""
    scale, tile = generator.config.scale, tile_or_default(tile, generator, info.shape)
    depth = min(tile, info.slices) * scale if generator.config.ndim == 3 else 1
    result = depth * info.height * info.width * scale**2 * (info.dtype.itemsize + 4 * bool(samples))
    return UserError(
        f"{info.path}: {memory_of(device_of(generator))} is too small for --tile {tile} and SR of"
        f" {scale * info.height}x{scale * info.width} pixels, {result / 2**30:.2g} GiB of which are held at a"
        " time; use a smaller --tile, or cut the image into smaller ones"
    )


def _values_of(results, dtype, window, samples, means):
    """Yield pages of SR as values of the input, those of samples with their spread; adds them to the first of
    `means`.
    """
    for result in results:
        grey, *spread = result if samples else [result]
        means[0].add_sr(grey)
        page = [values_of(grey, window, dtype), *(step_of(window, dtype) * levels for levels in spread)]
        yield page if samples else page[0]


def _write_and_note(info, facts, finished, path, pages):
    """Write the pages of a file; facts: their number, tags and voxel sizes. FinishedOutputs note it."""

    def note(file):
        if finished:
            finished.add(info, path, file)

    write_pages(path, pages, *facts, before_naming=note)


def _write_mean_and_spread(path, pages, count, write):
    """Write the spread of (mean, spread) pages, and then their mean, which waits in a file beside it."""
    with unwritable_named(path), tempfile.TemporaryFile(dir=path.parent) as file:

        def spreads():
            for mean, spread in pages:
                file.write(np.ascontiguousarray(mean))
                shape.append((mean.dtype, mean.shape))
                yield spread

        shape = []
        write(spread_path(path), spreads())
        dtype, (height, width) = shape[0]
        write(path, np.memmap(file, dtype, "r", shape=(count, height, width)))


def _images_of(jobs, ndim, window_of, means, raw):
    """Yield (number in its file, image) of all files, one file after the other: pages for a 2-D generator,
    volumes for a 3-D one; appends a MeanComparison of each file to `means`.
    """
    for info, _ in jobs:
        means.append(MeanComparison(grey_volume(info, window_of(info)).dtype))
        pages = _pages_of(info, window_of(info), means[-1], raw)
        if ndim == 2:
            yield from enumerate(pages)
        else:
            yield 0, np.stack(list(pages))


def _pages_of(info, window, mean, raw):
    volume = read_header(info.path, raw)
    if (volume.shape, volume.dtype) != (info.shape, info.dtype):
        raise UserError(
            f"{info.path} has {volume.slices} slices of {volume.height}x{volume.width} {volume.dtype} now and"
            f" had {info.slices} of {info.height}x{info.width} {info.dtype} before: it was changed while it"
            " was read"
        )
    for page in grey_volume(volume, window).pages():
        mean.add_lr(page)
        yield page


def _scale_sizes(sizes, generator):
    """Return voxel sizes (z, y, x) of SR: smaller along the axes that were super-resolved."""
    scale = generator.config.scale
    z, y, x = sizes or (None,) * 3
    return z and z / depth_scale(generator), y and y / scale, x and x / scale


def _scale_tags(tags, generator):
    """Scale the resolution, as the pixels are `scale` times smaller, and the distance of slices of a volume
    in ImageJ's description.
    """
    scale, tags = generator.config.scale, dict(tags)
    if "resolution" in tags:
        tags["resolution"] = tuple((pixels * scale, units) for pixels, units in tags["resolution"])
    if generator.config.ndim == 3 and "description" in tags:
        tags["description"] = re.sub(
            r"^spacing=(\d+\.?\d*(?:e-?\d+)?)(?=\s*$)",
            lambda match: f"spacing={float(match[1]) / scale:.10g}",
            tags["description"],
            flags=re.MULTILINE | re.IGNORECASE,
        )
    return tags
