"""Pore sizes: the radius of the largest ball that lies in the pores and covers a pixel."""

import edt
import numpy as np

from srgan_dist.measures.cells import sums_over

STEPS = 12  # radii at most


def radii_up_to(largest):
    """Return the radii in pixels at which openings are taken: 1, 2, 3, ..., ever further apart."""
    radii, step = [1], 1
    while radii[-1] < largest and len(radii) < STEPS:
        step = max(step, round(radii[-1] / 4))
        radii.append(radii[-1] + step)
    return np.array(radii)


def opening_sums(pore, valid, radii, edges=None):
    """Return the number of pore pixels in every cell, and of those that balls of each radius cover:
    [cells, 1 + len(radii)]. edges: as in `geometry`.

    The opening by a ball of radius r: pixels nearer than r to one that is r or more away from rock
    (Hildebrand & Ruegsegger 1997, "A new method for the model-independent assessment of thickness"). The
    border is no rock.
    """
    pore = np.ascontiguousarray(pore & valid)
    distance = edt.edt(np.ascontiguousarray(pore | ~valid), black_border=False, parallel=1)
    total = sums_over(pore, edges)
    sums = np.zeros((len(total), 1 + len(radii)))
    sums[:, 0] = total
    for number, radius in enumerate(radii, start=1):
        centres = distance >= radius
        if not centres.any():
            break
        opened = edt.edt(np.ascontiguousarray(~centres), black_border=False, parallel=1) < radius
        sums[:, number] = sums_over(opened & pore, edges)
    return sums


def mean_radius(covered, total, radii):
    """Return the mean over pore pixels of the radius of the ball that covers them, in pixels: covered [...,
    len(radii)], total [...]. A pixel that no ball of the first radius covers counts as half of it.
    """
    total = np.asarray(total, float)
    shares = np.concatenate([total[..., None], covered], -1)
    exact = shares - np.concatenate([covered, np.zeros((*covered.shape[:-1], 1))], -1)
    values = np.concatenate([[radii[0] / 2], radii])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (exact * values).sum(-1) / total
