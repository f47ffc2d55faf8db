"""Super-resolving files as the command and the API do: images page by page, and volumes by a 3-D generator
block by block.
"""

from srgan_dist.data.image_files import read_header, read_info
from srgan_dist.data.window import parse_window
from srgan_dist.evaluation.super_resolve import NOISE, depth_scale
from srgan_dist.evaluation.super_resolve_files import list_jobs, super_resolve_files
from srgan_dist.evaluation.super_resolve_volume import super_resolve_volume
from srgan_dist.models.self_ensemble import SelfEnsemble
from srgan_dist.utils.files import sha256_of


def list_images_and_volumes(resolver, source, target, samples=None, window=None, raw=None):
    """Return (images, volumes, notes): jobs and notes of `list_jobs`; volumes are those that go block by
    block.

    resolver: SuperResolver. window: Window with which volumes may have any type. raw: as of `read_header`.
    """

    def read(path):
        if window is not None and (volume := read_header(path, raw)).slices > 1:
            return volume
        return read_info(path, raw)

    by_blocks = resolver.ndim == 3
    jobs, notes = list_jobs(source, target, depth_scale(resolver.generator), samples, read, by_blocks)
    images, volumes = [], []
    for info, path in jobs:
        (volumes if by_blocks and info.slices > 1 else images).append((info, path))
    return images, volumes, notes


def super_resolve_jobs(
    generator,
    images,
    volumes,
    weights,
    tile=None,
    halo=None,
    noise=NOISE,
    samples=None,
    window=None,
    always=False,
    rank=0,
    ranks=1,
    tell=print,
    progress=lambda items, title, unit, total: items,
):
    """Super-resolve the jobs of `list_images_and_volumes`; yields the path of each output that is written.

    weights: the file of the generator. window: Window of volumes, always of those that are not uint8, whose
    voxels are grey levels already; always: of those too. progress wraps pages and blocks, as `progress_bar`
    does. The rest is as of `super_resolve_files` and `super_resolve_volume`.
    """

    def pages_of(info, pages):
        return progress(pages, info.path.name, "slice", info.slices * depth_scale(generator))

    for _, path in super_resolve_files(generator, images, tile, pages_of, noise, samples):
        yield path
    digest = (
        sha256_of(weights) + " of 8 orientations" * isinstance(generator, SelfEnsemble) if volumes else None
    )
    for volume, path in volumes:
        own = window if always or volume.dtype != "uint8" else None
        if own is not None:
            mapped = f"become black to white, the result is mapped back to {volume.dtype}"
            tell(f"{volume.path}: values {own} {mapped}")
        super_resolve_volume(
            generator,
            volume,
            path,
            digest,
            tile=tile,
            halo=halo,
            noise=noise,
            samples=samples,
            window=own,
            rank=rank,
            ranks=ranks,
            tell=tell,
            progress=lambda own, total, name=volume.path.name: progress(own, name, "block", total),
        )
        yield path


def trained_window(resolver):
    """Return the Window with which the training data of a 3-D generator were built, None where there is
    none.
    """
    text = resolver.header.get("window")
    return parse_window(text) if text and resolver.ndim == 3 else None
