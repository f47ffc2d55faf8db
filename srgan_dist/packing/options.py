"""The options of a build."""

import math
from dataclasses import asdict, dataclass

from srgan_dist.data.degradation import ScanLike
from srgan_dist.data.formats.bare_raw import parse_raw
from srgan_dist.data.window import parse_window
from srgan_dist.packing.slabs import parse_slabs
from srgan_dist.storage.encoding import ENCODINGS
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.scales import SCALES

# by ndim, what is used where None is given; sizes are rounded down to a multiple of scale
DEFAULTS = {2: {"tile": 500, "crop": 192}, 3: {"tile": 128, "crop": 64, "min_contrast": 0.05}}


@dataclass(frozen=True)
class BuildOptions:
    """The options that determine the bytes of a packed set, besides its images."""

    scale: int = 4
    kind: str = "unknown"  # of the LR side: "default" is bicubic, "unknown" one kernel per image
    tile: int | None = None  # HR pixels along every axis; for images whose LR is made, and for volumes
    crop: int | None = None  # HR pixels along every axis, of the training crops; no image may be smaller
    seed: int = 0
    samples_per_shard: int = 400
    dtype: str | None = None  # "uint16" stores 8-bit images times 257; None keeps the images' own type
    encoding: str = "npy"  # "png" stores compressed images, for slow links
    ndim: int = 2  # 3 cuts volumes into blocks, 2 their slices into tiles
    lr_blur: float | None = None  # makes LR like a scanner, see ScanLike, instead of by a kernel
    lr_noise: float | None = None
    lr_gain: float | None = None
    lr_offset: float | None = None
    align: float | None = None  # registers pairs; the largest shift along an axis, in HR pixels
    window: str | None = None  # LOW:HIGH, auto or PERCENT: the values that become black and white
    raw: str | None = None  # of voxels without a header, see `parse_raw`
    min_contrast: float | None = None  # of blocks, as a share of their rock's; below it they are left out
    slabs: str | None = None  # the splits of every volume, see `parse_slabs`

    def __post_init__(self):
        self._check_types()
        if self.scale not in SCALES:
            raise UserError(f"scale={self.scale} must be one of {', '.join(map(str, SCALES))}")
        if self.ndim not in (2, 3):
            raise UserError(f"ndim={self.ndim} must be 2 or 3")
        for name, value in DEFAULTS[self.ndim].items():
            if getattr(self, name) is None:
                whole = value - value % self.scale if isinstance(value, int) else value
                object.__setattr__(self, name, whole)  # frozen
        self._check_choices()
        self._check_sizes()
        self._check_scanner()
        if self.window is not None:
            parse_window(self.window)
        if self.raw is not None:
            parse_raw(self.raw)
        if self.slabs is not None:
            self._check_slabs()
        if self.align is not None and not 0 < self.align < math.inf:
            raise UserError(f"align={self.align} must be a number of HR pixels above 0")
        if self.min_contrast is not None and (self.ndim == 2 or not 0 <= self.min_contrast < 1):
            raise UserError(
                f"min_contrast={self.min_contrast} must be 0 or more and below 1, and needs ndim=3"
            )

    @property
    def scanner(self):
        """The ScanLike that makes LR, or None."""
        if self.lr_blur is None:
            return None
        gain = 1.0 if self.lr_gain is None else self.lr_gain
        return ScanLike(self.lr_blur, self.lr_noise or 0.0, gain, self.lr_offset or 0.0)

    def recorded(self):
        """Return the options as a manifest has them.

        Those that are newer than version 3 of the format are left out where they are None, so that sets that
        do not use them keep their bytes.
        """
        return {name: value for name, value in asdict(self).items() if value is not None or name == "dtype"}

    def _check_types(self):
        for name in ("scale", "ndim", "tile", "crop", "samples_per_shard", "seed"):
            value, default = getattr(self, name), getattr(BuildOptions, name)
            if type(value) is not int and not (value is None is default):
                example = DEFAULTS[2][name] if default is None else default
                raise UserError(f"{name}={value!r} must be a whole number; use e.g. {example}")
        for name in ("lr_blur", "lr_noise", "lr_gain", "lr_offset", "align", "min_contrast"):
            value = getattr(self, name)
            if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
                raise UserError(f"{name}={value!r} must be a number")

    def _check_choices(self):
        if self.kind not in ("default", "unknown"):
            raise UserError(f"kind={self.kind!r} must be default or unknown")
        if self.dtype not in (None, "uint16"):
            raise UserError(f"dtype={self.dtype!r} must be uint16, or left out to keep that of the images")
        if self.encoding not in ENCODINGS:
            raise UserError(f"encoding={self.encoding!r} must be npy or png")
        if (self.encoding, self.ndim) == ("png", 3):
            raise UserError("encoding='png' holds 2-D images only; use npy with ndim=3")

    def _check_sizes(self):
        for name in ("tile", "crop"):
            value = getattr(self, name)
            if value < self.scale or value % self.scale:
                nearest = max(1, (value + self.scale // 2) // self.scale) * self.scale
                raise UserError(f"{name}={value} is not a multiple of scale={self.scale}; use e.g. {nearest}")
        if self.tile < self.crop:
            raise UserError(
                f"tile={self.tile} is smaller than crop={self.crop}; enlarge --tile or reduce --crop"
            )
        if self.samples_per_shard < 1:
            raise UserError(f"samples_per_shard={self.samples_per_shard} must be 1 or more")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must be 0 or more")

    def _check_slabs(self):
        parse_slabs(self.slabs)
        if self.ndim == 2:
            raise UserError(f"slabs={self.slabs} cuts volumes; give --dims 3 with it, or leave it out")

    def _check_scanner(self):
        if self.lr_blur is None:
            given = [name for name in ("lr_noise", "lr_gain", "lr_offset") if getattr(self, name) is not None]
            if given:
                raise UserError(
                    f"{given[0]}={getattr(self, given[0])} makes LR like a scanner, which needs lr_blur too;"
                    f" give --lr-blur, e.g. {self.scale}"
                )
            return
        for name, valid, rule in (
            ("lr_blur", 0.1 <= self.lr_blur <= 8 * self.scale, f"from 0.1 to {8 * self.scale} HR pixels"),
            ("lr_noise", (self.lr_noise or 0) >= 0, "0 grey levels or more"),
            ("lr_gain", self.lr_gain is None or self.lr_gain > 0, "above 0"),
        ):
            if not valid:
                raise UserError(f"{name}={getattr(self, name)} must be {rule}")
