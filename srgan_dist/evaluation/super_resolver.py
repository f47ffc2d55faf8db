"""A generator that is called on arrays: grey levels in, grey levels out."""

import contextlib
import logging
from pathlib import Path

import numpy as np

from srgan_dist.data.noise import Noise
from srgan_dist.data.volume import Volume
from srgan_dist.evaluation.grey_range import MeanComparison, range_note, ranges_in
from srgan_dist.evaluation.super_resolve import check_halo, check_noise, check_tile, super_resolve_pages
from srgan_dist.models.hub_folder import save_folder
from srgan_dist.models.self_ensemble import SelfEnsemble
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.memory import memory_named

log = logging.getLogger(__name__)

ARRAY = Path("the array")  # where notes name a file


class SuperResolver:
    """A trained generator for numpy arrays: `sr = resolver(lr)`.

    generator: the network in eval mode, on its device; header: facts of its weights file (phase, scores,
    versions ...).
    """

    def __init__(self, generator, header=None):
        self.generator, self.header = generator, dict(header or {})
        self.scale, self.ndim = generator.config.scale, generator.config.ndim
        self.warned_of = set()  # "range", "mean"

    def __call__(self, array, tile=None, noise=1.0, noise_seed=0, samples=None, halo=None):
        """Super-resolve an array of uint8 or uint16 into an array of the same dtype; with samples into
        the mean of that many draws of the generator's noise, and their standard deviation (float32, grey
        levels).

        A 2-D generator maps [H, W] -> [s*H, s*W], and [pages, H, W] -> [pages, s*H, s*W] page by page; a
        3-D one maps [D, H, W] -> [s*D, s*H, s*W]. tile: LR pixels of a tile along each axis, which bounds
        the memory; None takes 192 in 2-D, and in 3-D as many as fit 0.5 GiB per thread or 6 GiB of a GPU.
        noise, noise_seed: strength (0: none, 1: as trained) and seed of the noise of a generator that has
        some. halo: LR voxels around a tile of a 3-D generator, which are read with it; None: so many that the
        result is exact, fewer are faster.

        Grey levels have to mean what they meant in training: nothing maps them, also where the training data
        were built with a window (`header["window"]`). A warning is logged, once per SuperResolver, for an
        array whose range is none of the training data, and for a result whose mean is not that of the array.
        Raises UserError for other dtypes, numbers of dimensions, and empty arrays.
        """
        array = np.asarray(array)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        self._check(array, tile)
        check_halo(self.generator, halo)
        shape = (*array.shape[: -self.ndim], *(self.scale * length for length in array.shape[-self.ndim :]))
        noise = Noise(noise_seed, noise)
        check_noise(self.generator, noise, samples)
        self._warn("range", lambda: self._range_note(array))
        means = MeanComparison(array.dtype)
        images = enumerate(array.reshape(-1, *array.shape[-self.ndim :]))
        pages = super_resolve_pages(self.generator, images, tile, noise, samples, halo)
        with memory_named(lambda error: self._too_large(shape, tile)):
            results = [np.empty(shape, array.dtype), *([np.empty(shape, np.float32)] if samples else [])]
            targets = zip(*(result.reshape(-1, *shape[-2:]) for result in results), strict=True)
            for of_page, page in zip(targets, pages, strict=True):
                for target, values in zip(of_page, page if samples else [page], strict=True):
                    target[...] = values
                means.add_sr(of_page[0])
        for page in array.reshape(-1, *array.shape[-2:]):
            means.add_lr(page)
        self._warn("mean", lambda: means.note(ARRAY, f"map them to it first{self._window()}"))
        return tuple(results) if samples else results[0]

    def save_pretrained(self, folder):
        """Write config.json, model.safetensors and README.md into a new folder, which `from_pretrained`
        takes, as `export` does from a weights file; self_ensemble is no part of it.

        Raises UserError where something has the folder's name already.
        """
        ensemble = isinstance(self.generator, SelfEnsemble)
        save_folder(folder, self.generator.generator if ensemble else self.generator, self.header)

    def _warn(self, kind, find_notes):
        """Log the notes of a kind, unless there were some for an array before."""
        for note in [] if kind in self.warned_of else find_notes():
            self.warned_of.add(kind)
            log.warning("%s", note)

    def _range_note(self, array):
        """Return a list of at most one note, of the range of grey levels of an array."""
        pages = array.reshape(-1, *array.shape[-2:])
        volume = Volume(ARRAY, pages.shape, pages.dtype, opened=lambda _: contextlib.nullcontext(pages))
        mapped = (
            f"numpy.round({np.iinfo(array.dtype).max} * numpy.clip((x - LOW) / (HIGH - LOW), 0, 1))"
            f".astype(numpy.{array.dtype})"
        )
        return range_note(
            [volume],
            [None],
            ranges_in(self.header),
            lambda fitting: (
                f"map them first, {mapped}, LOW and HIGH being the values that are black and white in the"
                f" training images{self._window()}; {fitting} gives this array their range"
            ),
        )

    def _window(self):
        """Name the window of the training data, where they had one."""
        window = self.header.get("window")
        return f" (values {window} of its volumes)" if window else ""

    def _too_large(self, shape, tile):
        return UserError(
            f"there is too little memory for SR of shape {shape} with tile={tile}; give parts of the array,"
            " or a smaller tile"
        )

    def _check(self, array, tile):
        if array.dtype not in (np.uint8, np.uint16):
            raise UserError(
                f"the array has dtype {array.dtype}; use uint8 or uint16 with the grey levels of the training"
                f" images{self._window()}, e.g. numpy.round(255 * x).astype(numpy.uint8) for x in [0, 1]"
            )
        if array.ndim not in (self.ndim, 3):
            shapes = "[H, W] or [pages, H, W]" if self.ndim == 2 else "[D, H, W]"
            raise UserError(
                f"the array has shape {array.shape}; use {shapes} with a {self.ndim}-D generator,"
                " e.g. array.squeeze() to drop axes of length 1"
            )
        if array.size == 0:
            raise UserError(f"the array has shape {array.shape}, which holds no pixels; give one or more")
        if array.ndim == 3 and array.shape[-1] in (3, 4) and min(array.shape[:2]) > 4:
            raise UserError(
                f"the array has shape {array.shape}, as a colour image has; use one channel, e.g."
                " array[..., 0] where all are equal"
            )
        check_tile(tile)
