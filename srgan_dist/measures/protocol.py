"""The protocol: what is measured in a pair of images, and how images are pooled into one value with an
interval.

An image gives sums (`measure_pair`), sums of images add up, and a `Measure` makes its value of them. So a
measure of a rock is a ratio of sums, and any resample of the images has one at the cost of a product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from srgan_dist.measures import correlation, geometry, pore_sizes
from srgan_dist.measures.permeability import permeability
from srgan_dist.measures.segmentation import SWEEP, filled, histogram, inside, median, pores_of

LONGEST_DISTANCE = 100  # pixels of the two-point correlation in 2-D; in 3-D half of the side
SILENT = 1e-12  # power of all rings of HR together: of constant images there is nothing to resolve
LARGEST_RADIUS = {2: 40, 3: 12}  # pixels of pores
RIM = 3  # pixels at the rim of a grain, where a pore is moved rather than invented


@dataclass(frozen=True)
class Measure:
    """How a value comes from pooled sums, and how it is compared with HR's own."""

    unit: str  # of values in pixels; the report knows voxel sizes
    bias: str  # relative: value / hr - 1; absolute: value - hr
    value: Callable | None  # sums of SR [..., k] -> [...]
    perfect: float | None = (
        None  # HR's value where that is not a sum of its own: SR is compared with HR itself
    )


def ratio(sums):
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


MEASURES = {
    "grey_error": Measure("", "absolute", lambda sums: np.sqrt(ratio(sums)), perfect=0.0),
    "porosity": Measure("", "relative", ratio),
    "dice": Measure("", "absolute", ratio, perfect=1.0),
    "invented_pores": Measure("%", "absolute", lambda sums: 100 * ratio(sums), perfect=0.0),
    "specific_interface": Measure("1/px", "relative", ratio),
    "euler_density": Measure("1/px^n", "relative", ratio),
    "two_point_error": Measure("", "absolute", ratio, perfect=0.0),
    "chord_length": Measure("px", "relative", ratio),
    "pore_size": Measure(
        "px", "relative", lambda s: pore_sizes.mean_radius(s[..., 1:], s[..., 0], radii_of(s))
    ),
    "connected_porosity": Measure("", "relative", ratio),
    "frc_resolution": Measure("px", "relative", lambda s: 1 / _resolved(s), perfect=2.0),
    "frc_gain": Measure("", "relative", None),  # follows from frc_resolution: `pooling.gain_of`
    "permeability": Measure("px^2", "relative", ratio),
    "lattice_excess": Measure("dB", "absolute", ratio),
    "phase_dependence": Measure("", "absolute", ratio),
}


def radii_of(sums):
    """Return the radii that belong to sums of pore sizes [..., 1 + radii]: the first of the series."""
    return pore_sizes.radii_up_to(max(LARGEST_RADIUS.values()))[: sums.shape[-1] - 1]


def _resolved(sums):
    """Return the resolved frequency of sums of rings [..., 3 * R]; NaN where HR is constant."""
    rings = sums.reshape(*sums.shape[:-1], 3, -1)
    found = correlation.resolved_frequency(correlation.ring_correlation(rings))
    return np.where(rings[..., 2, 1:].sum(-1) > SILENT, found, np.nan)


class Reference:
    """HR's part of a pair, computed once for all methods: hr [*shape] on [0, 1], threshold on [0, 1] or None.

    full: of volumes also pore sizes and connected porosity, which take seconds; flow: and permeability.
    edges: of the cells that sums are also kept of (`cells.edges_of`). air: as in `inside`.
    """

    def __init__(self, hr, threshold, phase="dark", full=False, flow=False, edges=None, air=None):
        self.hr, self.threshold, self.phase, self.flow = hr, threshold, phase, flow
        self.edges = edges
        self.full = full or hr.ndim == 2
        self.valid = inside(hr, air)
        self.denoised = {"raw": hr, "median": median(hr)}
        self.filled = {form: filled(image, self.valid) for form, image in self.denoised.items()}
        self.r_max = min(LONGEST_DISTANCE if hr.ndim == 2 else min(hr.shape) // 2, min(hr.shape) - 1)
        self.pores, self.pairs, self.sums = {}, {}, {}
        if threshold is not None:
            self.pores = self._pores_of(self.denoised)
            self.grains = geometry.deeper_than(RIM, self.valid & ~self.pores["median"])
            self.all_pairs = correlation.pairs_of(self.valid, self.r_max)
            for form, pore in self.pores.items():
                self.pairs[form] = self._pairs_of(pore)
                self.sums[form] = self._segmented(self.pores, form, self.pairs[form])

    def _pores_of(self, images):
        return {form: pores_of(image, self.threshold, self.phase) for form, image in images.items()}

    def _pairs_of(self, pore):
        return correlation.pairs_of(pore & self.valid, self.r_max)

    def measure(self, sr):
        """Return {form: {name: sums}} of an image, forms raw and median; curves are among the names."""
        found, images = {}, {"raw": sr, "median": median(sr)}
        pores = {} if self.threshold is None else self._pores_of(images)
        for form, image in images.items():
            errors = geometry.squared_error(image, self.denoised[form], self.valid, self.edges)
            found[form] = {
                "grey_error": errors.sum(0),
                "frc_resolution": correlation.ring_sums(filled(image, self.valid), self.filled[form]).ravel(),
                "histogram": histogram(image[self.valid]),
                "cells": {},
            }
            if self.threshold is not None:
                found[form] |= self._segmented(pores, form, self._pairs_of(pores[form]))
                found[form]["threshold_sweep"] = self._sweep(image)
            found[form]["cells"]["grey_error"] = errors
        return found

    def own(self):
        """Return {form: {name: sums}} of HR itself."""
        found = {}
        for form, image in self.denoised.items():
            found[form] = {"histogram": histogram(image[self.valid])}
            if self.threshold is not None:
                found[form] |= self.sums[form] | {"threshold_sweep": self._sweep(image)}
        return found

    def _segmented(self, pores, form, pairs):
        """Return {name: sums} of what needs pores, {form: [*shape]}; `cells` are those of every cell: {name:
        [cells, k]}. pairs: those of the form's pores. Invented pores are after the median in both forms: a
        speck is none.
        """
        pore, valid, of_hr, edges = pores[form], self.valid, self.pores[form], self.edges
        rho, rho_hr = (correlation.normalised(p, self.all_pairs)[1] for p in (pairs, self.pairs[form]))
        error = float(np.abs(rho - rho_hr).mean())
        known = np.isfinite(error)
        chord_sums, chord_counts = geometry.chords(pore, valid, edges)
        cells = {
            "porosity": geometry.porosity(pore, valid, edges),
            "dice": geometry.dice(pore, of_hr, valid, edges),
            "invented_pores": geometry.porosity(pores["median"], self.grains, edges),
            "specific_interface": geometry.specific_interface(pore, valid, edges),
            "euler_density": geometry.euler(pore, valid, edges),
            "chord_length": chord_sums,
        }
        if self.full:
            radii = pore_sizes.radii_up_to(LARGEST_RADIUS[pore.ndim])
            cells["pore_size"] = pore_sizes.opening_sums(pore, valid, radii, edges)
        sums = {
            "two_point_error": (error if known else 0.0, float(known)),
            "two_point": np.stack([pairs, self.all_pairs]).ravel(),
            "chords": chord_counts,
        }
        if self.full and pore.ndim == 3:
            (sums["connected_porosity"],) = geometry.connected_porosity(pore, valid)
        if self.flow:
            along = [permeability(pore & valid, axis) for axis in range(pore.ndim)]
            sums["permeability"] = (sum(along), pore.ndim) if valid.any() else (0, 0)
        sums |= {name: of_cells.sum(0) for name, of_cells in cells.items()}
        return {name: np.asarray(value, float) for name, value in sums.items()} | {"cells": cells}

    def _sweep(self, image):
        """Return pore pixels at each of the seven thresholds, and all pixels."""
        counts = [
            (pores_of(image, factor * self.threshold, self.phase) & self.valid).sum() for factor in SWEEP
        ]
        return np.array([*counts, self.valid.sum()], float)
