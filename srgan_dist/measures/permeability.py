"""Permeability of a volume by Stokes flow on its voxels."""

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import LinearOperator, minres

LARGEST_SIDE = 128  # voxels: some 15 s and 2 GB
BUFFER = 2  # open layers between outlet and inlet
CHECKED_EVERY, TOLERANCE = 100, 1e-3  # iterations, and the change of the flux over them at which it ends
MOST_ITERATIONS = 20_000


def permeability(pore, axis=0, buffer=BUFFER):
    """Return the permeability along an axis in square voxels; 0 where no pore leads from one end to the
    other, NaN where the flow has not settled after 20,000 iterations.

    pore: [D, H, W] or [H, W] booleans. Stokes' equations on a staggered grid (Harlow & Welch 1965):
    velocities on the faces of voxels, walls on the faces between pore and rock, also around the sample; a
    pressure gradient of 1 along the axis, which is periodic through `buffer` open layers. Viscosity 1, so
    that the mean velocity over the sample is the permeability. Solved by MINRES (Paige & Saunders 1975)
    with Jacobi's preconditioner, until the flux settles.
    """
    length = pore.shape[axis]
    open_pores = _through(np.moveaxis(pore, axis, 0), periodic=buffer == 0)
    if not open_pores.any():
        return 0.0
    layers = np.zeros((buffer, *open_pores.shape[1:]), bool)
    layers[:] = open_pores[0] | open_pores[-1]
    grid = np.concatenate([open_pores, layers])
    # Rock all around, so that what leaves at one side does not enter at the other
    grid = np.pad(grid, [(0, 0), *[(0, 1)] * (grid.ndim - 1)]) if buffer else grid
    matrix, force, diagonal, along = _equations(grid)
    flux = _solve(matrix, force, diagonal, along)
    # Over the sample alone: the pressure falls along its length, hardly in the buffer
    cross_section = np.prod(open_pores.shape[1:])
    total = length + buffer
    return float(flux / (total * cross_section) * length / total) if buffer else float(flux / pore.size)


def _through(pore, periodic):
    """Return the pores (6 neighbours) that lead from the first to the last slice."""
    regions, _ = ndimage.label(pore)
    ends = np.intersect1d(regions[0], regions[-1])
    return np.isin(regions, ends[ends > 0])


def _equations(pore):
    """Return the symmetric matrix of momentum and continuity, the right side, its positive diagonal, and the
    slice of the velocities along axis 0.
    """
    cells = np.full(pore.shape, -1)
    cells[pore] = np.arange(pore.sum())
    blocks, divergences, sizes = [], [], []
    for axis in range(pore.ndim):
        before = np.roll(pore, 1, axis)
        faces, walls = pore & before, pore ^ before
        number = np.full(pore.shape, -1)
        number[faces] = np.arange(faces.sum())
        own = np.arange(faces.sum())
        diagonal, rows, columns = np.zeros(len(own)), [], []
        for other in range(pore.ndim):
            for step in (1, -1):
                neighbour, wall = (np.roll(x, step, other)[faces] for x in (number, walls))
                known = neighbour >= 0
                rows.append(own[known])
                columns.append(neighbour[known])
                # A wall through the neighbouring face is one voxel away, one along the face half a voxel
                diagonal += np.where(known | wall | (other == axis), 1, 2)
        rows, columns = np.concatenate([*rows, own]), np.concatenate([*columns, own])
        values = np.concatenate([-np.ones(len(rows) - len(own)), diagonal])
        blocks.append(sparse.csr_matrix((values, (rows, columns)), (len(own), len(own))))
        into, out_of = cells[faces], np.roll(cells, 1, axis)[faces]
        signs = np.concatenate([np.ones(len(own)), -np.ones(len(own))])
        divergences.append(
            sparse.csr_matrix(
                (signs, (np.concatenate([out_of, into]), np.concatenate([own, own]))),
                (int(pore.sum()), len(own)),
            )
        )
        sizes.append(len(own))
    momentum, divergence = sparse.block_diag(blocks, "csr"), sparse.hstack(divergences, "csr")
    matrix = sparse.bmat([[momentum, divergence.T], [divergence, None]], "csr")
    force = np.zeros(matrix.shape[0])
    force[: sizes[0]] = 1
    diagonal = np.concatenate([momentum.diagonal(), np.ones(divergence.shape[0])])
    return matrix, force, diagonal, slice(0, sizes[0])


class _Settled(Exception):
    pass


def _solve(matrix, force, diagonal, along):
    """Return the sum of the velocities along axis 0; NaN where they do not settle."""
    flux, iterations = [0.0], 0

    def check(x):
        nonlocal iterations
        iterations += 1
        if iterations % CHECKED_EVERY == 0:
            flux.append(x[along].sum())
            if abs(flux[-1] - flux[-2]) <= TOLERANCE * abs(flux[-1]):
                raise _Settled

    jacobi = LinearOperator(matrix.shape, matvec=lambda x: x / diagonal, dtype=float)
    try:
        x, unsettled = minres(matrix, force, M=jacobi, rtol=1e-10, maxiter=MOST_ITERATIONS, callback=check)
    except _Settled:
        return flux[-1]
    return np.nan if unsettled else x[along].sum()
