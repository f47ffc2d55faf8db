"""Volumes that are super-resolved block by block, whole or in runs that are stopped."""

import numpy as np
import torch
from conftest import texture

from srgan_dist.data.image_files import read_header
from srgan_dist.data.write_volumes import create
from srgan_dist.evaluation.super_resolve import NOISE, super_resolve_pages
from srgan_dist.evaluation.super_resolve_volume import super_resolve_volume
from srgan_dist.models import build_generator
from srgan_dist.models.srresnet import SRResNetConfig

SMALL = {"ndim": 3, "num_blocks": 1, "num_filters": 4, "scale": 2}
SHAPE = (13, 12, 14)


def network(**changes):
    torch.manual_seed(1)
    config = {**SMALL, "tanh": False, "init_std": None, **changes}
    generator = build_generator(SRResNetConfig(**config)).eval()
    torch.nn.init.constant_(generator.tail.weight, 0.4)
    if generator.texture:
        generator.texture.start()
    return generator


def source(path, dtype=np.uint8, shape=SHAPE):
    """Write a volume with voxel sizes, where the format has them; returns its voxels."""
    depth, height, width = shape
    voxels = np.stack([texture(seed, height, width) for seed in range(depth)]).astype(dtype)
    writer = create(path, shape, dtype, (4.0, 3.0, 2.0))
    writer.write((0, 0, 0), voxels)
    writer.close()
    return voxels


def whole(generator, voxels, noise=NOISE, samples=None):
    """Return the SR of a volume in one piece; with samples the pair of their mean and spread."""
    pages = list(super_resolve_pages(generator, [(0, voxels)], tile=1000, noise=noise, samples=samples))
    return np.stack(pages) if samples is None else tuple(map(np.stack, zip(*pages, strict=True)))


def by_blocks(generator, path, output, **options):
    super_resolve_volume(generator, read_header(path), output, "w", **{"tile": 5, **options})
    volume = read_header(output)
    return volume.read((0, 0, 0), volume.shape)


class Stopped(Exception):
    """Ends a run in the middle."""


def stop_after(count):
    def progress(numbers, total):
        yield from numbers[:count]
        raise Stopped

    return progress
