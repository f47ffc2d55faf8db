"""Public functions for images as arrays: the pairs of a packed set, bicubic interpolation, rock measures."""

from typing import NamedTuple

import numpy as np

from srgan_dist.data.manifest import SPLITS
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set
from srgan_dist.evaluation import scoring
from srgan_dist.measures import correlation, geometry
from srgan_dist.measures.segmentation import histogram, otsu, pores_of
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.scales import SCALES


class Pair(NamedTuple):
    """Images of the same piece of rock: lr [*shape] and hr [*(s*shape)], uint8 or uint16."""

    key: str
    rock: str
    lr: np.ndarray
    hr: np.ndarray
    voxel_size_um: float | tuple | None  # of hr, where it is known; (z, y, x) where voxels are no cubes


class RockMeasures(NamedTuple):
    """What a laboratory measures in an image. Lengths are in pixels, or in micrometres where the voxel size
    was given; the borders of the image are no interface.
    """

    porosity: float  # share of pore pixels
    specific_interface: float  # length per area in 2-D, area per volume in 3-D, of the interface of pores
    chord_length: float  # mean length of lines through pores, along the axes; NaN without one
    euler_density: float  # Euler number per area or volume: separate pores less holes, in 3-D less tunnels
    distances: np.ndarray  # [r_max + 1], from 0
    two_point: np.ndarray  # [r_max + 1], probability that two points at a distance are both in pores


def read_pairs(shards, split="valid"):
    """Yield every pair of a packed set as a Pair, in the order of the set.

        for key, rock, lr, hr, voxel_size_um in srgan_dist.read_pairs("data/scans", "test"):

    shards: folder or URL of the set. split: "train", "valid" or "test". Raises UserError where there is none.
    """
    packed = open_set(shards)
    found = packed.split(split)
    if found is None:
        present = [name for name in SPLITS if name in packed.manifest.splits]
        raise UserError(f"{shards} has no {split} split; it has {', '.join(present)}")
    reader = Reader(found)
    for i in range(len(found)):
        record = reader.record(i)
        size = record.get("voxel_size_um") or tuple(record.get("voxel_sizes_um") or ()) or None
        yield Pair(found.key(i), found.rock(i), *reader.image(i), size)


def bicubic(lr, scale):
    """Enlarge an image by bicubic interpolation, the baseline of all scores: lr [H, W] or [D, H, W], uint8 or
    uint16 -> [s*H, s*W] or [s*D, s*H, s*W] of the same dtype, rounded; s = scale, one of 2, 3, 4, 6 and 8.
    """
    lr = _checked(lr, "lr")
    if scale not in SCALES:
        raise UserError(f"scale={scale} must be one of {', '.join(map(str, SCALES))}")
    unit = scoring.bicubic(lr, scale, lr.ndim).numpy()
    return np.round(unit.astype(np.float64) * np.iinfo(lr.dtype).max).astype(lr.dtype)


def otsu_threshold(*images):
    """Return the grey level between pores and rock that Otsu's method (1979) finds in images of uint8 or
    uint16 together, as a share of the brightest grey level of their type, in (0, 1).

    Raises UserError where every pixel has one grey level (of 256).
    """
    if not images:
        raise UserError("otsu_threshold() needs one image or more, e.g. otsu_threshold(hr)")
    counts = sum(histogram(_unit(_checked(image, "image"))) for image in images)
    found = otsu(counts)
    if found is None:
        raise UserError("the images have one grey level, which no threshold divides")
    return found


def rock_measures(image, threshold, phase="dark", voxel_size_um=None, inside=None):
    """Measure the pores of one image: [H, W] or [D, H, W], uint8 or uint16 -> RockMeasures.

        srgan_dist.rock_measures(sr, srgan_dist.otsu_threshold(hr), voxel_size_um=2.8).porosity

    threshold: between pores and rock, as a share of the brightest grey level, 0 to 1; give SR the threshold
    of HR to compare them. phase: "dark" or "bright", that of the pores. voxel_size_um: of this image, the
    same along every axis; None: lengths are in pixels. inside: [*shape] booleans, False where there is no
    rock to measure; None: all of it. `evaluate` measures more, of many images, with intervals.
    """
    image = _checked(image, "image")
    if not 0 <= threshold <= 1:
        raise UserError(
            f"threshold={threshold} must be a share of the brightest grey level, 0 to 1: e.g. 0.4 for 102 of"
            " 255"
        )
    if phase not in ("dark", "bright"):
        raise UserError(f"phase={phase!r} must be dark or bright, that of the pores")
    if voxel_size_um is not None and (np.ndim(voxel_size_um) or not 0 < voxel_size_um < np.inf):
        raise UserError(
            f"voxel_size_um={voxel_size_um} must be one number above 0, of voxels that are cubes, or None for"
            " lengths in pixels"
        )
    inside = np.ones(image.shape, bool) if inside is None else np.asarray(inside)
    if inside.shape != image.shape or inside.dtype != bool or not inside.any():
        raise UserError(
            f"inside has shape {inside.shape}, dtype {inside.dtype} and {np.count_nonzero(inside)} pixels"
            f" that count; use booleans of the image's shape {image.shape}, one True or more"
        )
    pore, unit = pores_of(_unit(image), threshold, phase), voxel_size_um or 1.0
    r_max = min(min(image.shape) // 2, 100)
    pairs = [correlation.pairs_of(mask, r_max) for mask in (pore & inside, inside)]
    sums = {
        "porosity": geometry.porosity(pore, inside),
        "specific_interface": geometry.specific_interface(pore, inside),
        "chord_length": geometry.chords(pore, inside)[0],
        "euler_density": geometry.euler(pore, inside),
    }
    power = {"specific_interface": -1, "chord_length": 1, "euler_density": -image.ndim}
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            name: above / below * unit ** power.get(name, 0) for name, ((above, below),) in sums.items()
        }
        two_point = correlation.normalised(*pairs)[0]
    return RockMeasures(
        **{name: float(value) for name, value in values.items()},
        distances=np.arange(r_max + 1) * unit,
        two_point=two_point,
    )


def _checked(image, name):
    """Return an image as an array; raises UserError unless it is [H, W] or [D, H, W] of uint8 or uint16."""
    image = np.asarray(image)
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or image.size == 0:
        raise UserError(
            f"{name} has dtype {image.dtype} and shape {image.shape}; use uint8 or uint16, [H, W] or"
            " [D, H, W]"
        )
    return image


def _unit(image):
    return image / np.iinfo(image.dtype).max
