"""Correlations: of pores with themselves at a distance, and of SR with HR at a frequency."""

from functools import lru_cache

import numpy as np
from scipy import fft


def pairs_of(mask, r_max):
    """Return the numbers of pixel pairs at distance r = 0 .. r_max that are both in a mask, [r_max + 1]: of
    the pores over those of all that is valid they are the two-point correlation S2(r).

    Distances are rounded to whole pixels, over all directions. Images are padded, so that no pair goes around
    the border.
    """
    shape = tuple(fft.next_fast_len(n + r_max, real=True) for n in mask.shape)
    spectrum = fft.rfftn(mask.astype(np.float32), shape)
    autocorrelation = fft.irfftn(spectrum.real**2 + spectrum.imag**2, shape)
    places, ring = _near(mask.shape, r_max)
    return np.bincount(ring, weights=autocorrelation[places].ravel(), minlength=r_max + 2)[: r_max + 1]


@lru_cache(maxsize=4)
def _near(shape, r_max):
    """Return the places of all offsets up to r_max along each axis, and the ring of each (r_max + 1:
    beyond).
    """
    offsets = [np.r_[0 : min(r_max, n - 1) + 1, -min(r_max, n - 1) : 0] for n in shape]
    squares = sum(axis.astype(float) ** 2 for axis in np.meshgrid(*offsets, indexing="ij"))
    ring = np.minimum(np.rint(np.sqrt(squares)), r_max + 1).astype(np.int64)
    return np.ix_(*offsets), ring.ravel()


def normalised(pairs, all_pairs):
    """Return S2(r) and rho(r) = (S2 - phi^2) / (phi - phi^2), which is 1 at r = 0 and 0 far away (Torquato
    2002, "Random heterogeneous materials", chapter 2); rho is NaN where there is no pore, or nothing else.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        s2 = pairs / all_pairs
        phi = s2[..., :1]
        return s2, (s2 - phi**2) / (phi - phi**2)


def correlation_length(rho):
    """Return the distance in pixels at which rho falls to 1/e; the longest known where it does not."""
    below = np.flatnonzero(~(rho > np.exp(-1)))
    return int(below[0]) if len(below) else len(rho)


# Fourier ring (3-D: shell) correlation: van Heel & Schatz 2005, "Fourier shell correlation threshold
# criteria"


def ring_sums(sr, hr):
    """Return what the correlation of sr and hr by rings of frequency is made of: [3, N // 2 + 1], the
    sums over a ring of Re(A conj(B)), |A|^2 and |B|^2; N the shortest side, a ring one cycle per N pixels
    wide.

    Both images lose their mean and are multiplied by a Hann window. Sums of several images of one shape
    add up.
    """
    window, ring, twice = _rings(sr.shape)
    a, b = (fft.rfftn((x - x.mean()) * window) for x in (sr, hr))
    parts = (a.real * b.real + a.imag * b.imag, a.real**2 + a.imag**2, b.real**2 + b.imag**2)
    length = min(sr.shape) // 2 + 1
    return np.stack([np.bincount(ring, (part * twice).ravel(), length + 1)[:length] for part in parts])


@lru_cache(maxsize=4)
def _rings(shape):
    window = 1.0
    for axis, n in enumerate(shape):
        column = [1] * len(shape)
        column[axis] = n
        window = window * np.hanning(n + 2)[1:-1].reshape(column)
    frequencies = [fft.fftfreq(n) for n in shape[:-1]] + [fft.rfftfreq(shape[-1])]
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*frequencies, indexing="ij")))
    side = min(shape)
    ring = np.minimum(np.rint(radius * side), side // 2 + 1).astype(np.int64).ravel()
    twice = np.full(shape[-1] // 2 + 1, 2.0)  # the half of the spectrum that is left out is equal
    twice[0] = 1
    if shape[-1] % 2 == 0:
        twice[-1] = 1
    return window, ring, twice


def ring_correlation(sums):
    """Return the Fourier ring correlation from sums [..., 3, R]: [..., R], 1 at frequency 0."""
    product, of_sr, of_hr = np.moveaxis(np.asarray(sums), -2, 0)
    scale = np.sqrt(of_sr * of_hr)
    correlation = np.divide(product, scale, out=np.zeros_like(product), where=scale > 1e-20)
    correlation[..., 0] = 1
    return correlation


def resolved_frequency(correlation, threshold=0.5):
    """Return the frequency in cycles per pixel up to which curves [..., R] over 0 .. 0.5 stay above a
    threshold, interpolated: [...]; 0.5 where one never falls below it.

    Curves are smoothed over three rings; the first two rings are those of the window.
    """
    padded = np.concatenate([correlation[..., :1], correlation, correlation[..., -1:]], -1)
    above = (padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]) / 3 - threshold
    last = above.shape[-1] - 1
    below = above < 0
    below[..., :2] = False
    ring = np.where(below.any(-1), below.argmax(-1), last)
    here = np.take_along_axis(above, ring[..., None], -1)[..., 0]
    before = np.maximum(np.take_along_axis(above, ring[..., None] - 1, -1)[..., 0], 0)
    share = np.where(below.any(-1), before / np.where(before - here == 0, 1, before - here), 1.0)
    return 0.5 * (ring - 1 + share) / last
