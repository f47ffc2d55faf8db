"""Shapes and random fields that synthetic volumes are drawn with.

Scenes are [size, size, size] (z, y, x) in the grey levels of an 8-bit image (0 to 255); lengths are voxels.
"""

import numpy as np

LONGEST = 1.6  # half the length of a polyhedron over its radius, at most


def smooth_field(rng, size, finest, coarsest):
    """Draw a smooth random field of unit variance whose features are `finest` to `coarsest` voxels wide."""
    axes = np.ix_(np.fft.fftfreq(size), np.fft.fftfreq(size), np.fft.rfftfreq(size))
    frequency = np.sqrt(sum(axis**2 for axis in axes)).astype(np.float32)
    frequency[0, 0, 0] = 1 / size
    # Equal power per octave, between both
    band = np.exp(-((frequency * finest) ** 4) - (frequency * coarsest) ** -4) * frequency**-1.5
    white = np.fft.rfftn(rng.standard_normal((size, size, size), dtype=np.float32))
    field = np.fft.irfftn(white * band, s=(size,) * 3, axes=(0, 1, 2)).astype(np.float32)
    return field / field.std()


def directions(rng, count):
    """Draw unit vectors, evenly over all directions: [count, 3]."""
    return _unit(rng.standard_normal((count, 3)))


def _unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def window(size, centre, reach):
    """Return three slices that cut out the surroundings of a point, and the coordinates from it: three arrays
    that broadcast to [d, h, w].
    """
    starts = [max(0, int(middle - reach)) for middle in centre]
    ends = [max(0, min(size, int(middle + reach) + 2)) for middle in centre]
    axes = [np.arange(*span, dtype=np.float32) - np.float32(c) for span, c in zip(zip(starts, ends), centre)]
    return tuple(map(slice, starts, ends)), np.ix_(*axes)


def height(axes, direction):
    """Return the coordinate along a direction; axes: three that broadcast to [d, h, w]."""
    return sum(float(part) * axis for part, axis in zip(direction, axes))


def pack_spheres(rng, size, radii, spacing):
    """Place spheres at random, large ones first; they overlap if `spacing` < 1.

    Returns rows of (z, y, x, radius). Spheres reach over the borders of the volume, as if cut out of a rock.
    """
    spheres = np.zeros((len(radii), 4))
    count = 0
    for radius in np.sort(radii)[::-1]:
        centres = rng.uniform(-radius, size + radius, (25, 3))
        placed = spheres[:count]
        distances = np.linalg.norm(centres[:, None] - placed[:, :3], axis=2)
        free = np.all(distances > spacing * (placed[:, 3] + radius), axis=1)
        if free.any():
            spheres[count] = *centres[free.argmax()], radius
            count += 1
    return spheres[:count]


def polyhedron(rng, axes, radius, pairs):
    """Return the distance to a convex polyhedron with rounded edges (negative inside), [d, h, w].

    axes: coordinates from its centre; pairs: of faces that are roughly opposite to each other. The distance
    to the farthest face is rounded by the logarithm of a sum of exponentials. As an exponential of a sum is a
    product, the sum over faces is one product of matrices.
    """
    normals = directions(rng, pairs)
    normals = _unit(np.concatenate([normals, rng.normal(-normals, 0.25)]))
    longest = directions(rng, 1)[0]
    heights = radius * rng.uniform(0.72, 1.05, 2 * pairs)
    heights *= 1 + rng.uniform(0, 0.5) * (normals @ longest) ** 2
    sharpness = 12 / radius
    factors = [np.exp(sharpness * np.outer(normals[:, a], axes[a].ravel())) for a in range(3)]
    factors[2] *= np.exp(-sharpness * heights)[:, None]
    shape = np.broadcast_shapes(*(axis.shape for axis in axes))
    plane = factors[0][:, :, None] * factors[1][:, None]  # [2 * pairs, d, h]
    total = plane.reshape(2 * pairs, -1).T @ factors[2]
    distance = (np.log(total) / np.float32(sharpness)).reshape(shape)
    return np.maximum(distance, np.sqrt(sum(axis**2 for axis in axes)) - np.float32(LONGEST * radius))
