"""Synthetic micro-CT slices of sandstone, carbonate and coal, for a demo and tests that need no download.

A slice is built as its rock is: grains are packed and welded, ooids and shells are laid down and cemented,
beds of coal are cracked by cleats. A scanner then images the scene, with the blur and noise of real scans.

Scenes are [size, size] in the grey levels of an 8-bit image (0 to 255); lengths are pixels, angles radians.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from srgan_dist.data.degradation import downsample, draw_kernel
from srgan_dist.utils.files import atomic_write

# --- Drawing tools ---


@lru_cache(maxsize=32)
def _band(size, finest, coarsest):
    """Return a spectrum [size, size // 2 + 1] of equal power per octave between two periods."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = 1 / size
    band = np.exp(-((frequency * finest) ** 4) - (frequency * coarsest) ** -4.0) / frequency
    return band.astype(np.float32)


def _field(rng, size, finest, coarsest):
    """Draw a smooth random field of unit variance whose features are `finest` to `coarsest` pixels wide."""
    white = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    field = np.fft.irfft2(white * _band(size, finest, coarsest), s=(size, size)).astype(np.float32)
    return field / field.std()


def _window(size, row, column, reach):
    """Return two slices that cut out the surroundings of a point, and the coordinates y [h, 1], x [w]."""
    places, axes = [], []
    for centre in (row, column):
        place = slice(max(0, int(centre - reach)), max(0, min(size, int(centre + reach) + 2)))
        places.append(place)
        axes.append((np.arange(place.start, place.stop) - centre).astype(np.float32))
    return tuple(places), axes[0][:, None], axes[1]


def _turn(y, x, angle):
    """Return the coordinates along and across a direction."""
    sine, cosine = math.sin(angle), math.cos(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def _cover(distance):
    """Turn the signed distance to an outline (negative inside) into the covered share of each pixel."""
    return np.clip(0.5 - distance, 0, 1)


def _blend(scene, grey, share):
    """Replace a share (0 to 1) of each pixel."""
    return scene + (grey - scene) * share


def _pack(rng, size, radii, spacing):
    """Place discs at random, large ones first, overlapping if `spacing` < 1; returns rows of y, x, radius."""
    discs = np.zeros((0, 3))
    for radius in np.sort(radii)[::-1]:
        centres = rng.uniform(-radius, size + radius, (25, 2))
        distances = np.hypot(centres[:, :1] - discs[:, 0], centres[:, 1:] - discs[:, 1])
        free = np.all(distances > spacing * (discs[:, 2] + radius), axis=1)
        if free.any():
            discs = np.vstack([discs, [*centres[free.argmax()], radius]])
    return discs


def _polygon(rng, y, x, radius):
    """Return the distance to a polygon, rounded by a 12-norm over its faces instead of the maximum."""
    faces = int(rng.integers(4, 9))
    angles = (np.arange(faces) + rng.uniform(-0.3, 0.3, faces)) * (2 * np.pi / faces) + rng.uniform(0, np.pi)
    axis, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.9) ** 0.5
    lengthwise = np.abs(np.cos(angles - axis)) > 0.7
    heights = radius * rng.uniform(0.75, 1.1, faces) * np.where(lengthwise, stretch, 1 / stretch)
    total = np.zeros((len(y), len(x)), np.float32)
    for angle, height in zip(angles.tolist(), heights.tolist()):
        squared = np.maximum(_turn(y, x, angle)[0] / height, 0) ** 2
        total += squared**2 * squared**2 * squared**2
    return (total ** (1 / 12) - 1) * radius


def _ellipse(rng, y, x, radius):
    """Return the distance to a slightly bent ellipse."""
    along, across = _turn(y, x, rng.uniform(0, np.pi))
    stretch, bend = rng.uniform(1, 1.7) ** 0.5, rng.uniform(-0.25, 0.25) / radius
    along = along / stretch
    return np.hypot(along, across * stretch + bend * (along**2 - radius**2 / 3)) - radius


def _shell(rng, y, x, length, thickness):
    """Return the distance to a shell: a bent band of these half sizes that thins towards its ends."""
    along, across = _turn(y, x, rng.uniform(0, np.pi))
    bend = rng.normal(0, 0.3) / length
    across = (across + bend * (along**2 - length**2 / 3)) / np.sqrt(1 + (2 * bend * along) ** 2)
    thickness = thickness * np.clip(1 - rng.uniform(0, 0.6) * (along / length) ** 2, 0.2, 1)
    return np.hypot(np.maximum(np.abs(along) - length, 0), across) - thickness


def _mosaic(rng, size, cell):
    """Fill the image with crystals, the Voronoi cells of one random seed in every cell x cell square.

    Returns for each pixel the number of its crystal and the width of a gap between crystals that would just
    reach it [size, size], and for each crystal the flat index of the pixel at its seed.
    """
    count = -(-size // cell)
    numbers = np.arange((count + 2) ** 2, dtype=np.int32).reshape(count + 2, count + 2)
    seeds = rng.random((2, count + 2, count + 2), dtype=np.float32) * cell
    pixels = np.arange(cell, dtype=np.float32) + 0.5
    # Axes [cell, cell, count, count]: the long ones last, where numpy is fast.
    nearest = np.full((cell, cell, count, count), np.inf, np.float32)
    second, owner = nearest.copy(), np.zeros(nearest.shape, np.int32)
    for i in range(3):
        for j in range(3):
            tile = slice(i, i + count), slice(j, j + count)
            dy = seeds[0][tile] + (i - 1) * cell - pixels[:, None, None, None]
            dx = seeds[1][tile] + (j - 1) * cell - pixels[:, None, None]
            distance = dy * dy + dx * dx
            np.copyto(owner, numbers[tile], where=distance < nearest)
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    gap = np.sqrt(second) - np.sqrt(nearest)
    owner, gap = (a.transpose(2, 0, 3, 1).reshape(count * cell, -1)[:size, :size] for a in (owner, gap))
    corners = np.mgrid[-1 : count + 1, -1 : count + 1] * cell
    rows, columns = (seeds + corners).clip(0, size - 1).astype(int)
    return owner, gap, (rows * size + columns).ravel()


# --- Scanner ---


def _gaussian(sigma):
    """Return the weights of a one-dimensional Gaussian filter."""
    reach = math.ceil(3.5 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def _blur(image, weights):
    """Filter rows and columns, with mirrored borders."""
    reach = len(weights) // 2
    for _ in range(2):
        padded = np.pad(image, ((reach, reach), (0, 0)), mode="symmetric")
        image = sum(weight * padded[k : k + len(image)] for k, weight in enumerate(weights)).T
    return image


def _scan(rng, scene, blur, noise, rings):
    """Image a scene as a scanner does, into uint8 [size, size].

    One Gaussian blurs the edges and correlates the noise: in real slices the noise spectrum falls like a
    Gaussian too. `blur` is its standard deviation, `noise` and `rings` are those of the noise after it and of
    the ring artefacts before it, in grey levels. The rotation axis may lie outside the slice.
    """
    size = len(scene)
    weights = _gaussian(blur)
    white = rng.standard_normal((size, size), dtype=np.float32) * (noise / float(np.sum(weights**2)))
    _, y, x = _window(size, *rng.uniform(-0.5 * size, 1.5 * size, 2).tolist(), 3 * size)
    radius = np.hypot(y, x)
    detector = rings * rng.standard_normal(3 * size) * rng.gamma(0.5, 1.15, 3 * size)  # few are strong
    image = _blur(scene + white + detector.astype(np.float32)[radius.astype(int)], weights)
    image *= 1 + 0.04 * np.clip((radius / size) ** 2 - 0.5, -0.5, 1)  # beam hardening: darker near the axis
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)


# --- Sandstone ---


# Textures of grains: (rng, grey [h, w], coordinates y [h, 1] and x [w], textures [5, h, w]) -> grey [h, w].


def _cleaved(rng, grey, y, x, textures):
    """Feldspar dissolved along its cleavage."""
    _, fine, rough, patch, _ = textures
    along, _ = _turn(y, x, rng.uniform(0, np.pi))
    lamellae = np.sin(along * (2 * math.pi / rng.uniform(4, 8)) + 0.8 * rough)
    return np.where(lamellae + 0.4 * fine + 0.9 * rough + patch > rng.uniform(1, 2), 55, grey + 4 * lamellae)


def _dissolved(rng, grey, y, x, textures):
    """Feldspar dissolved along a network of fractures."""
    _, fine, rough, patch, _ = textures
    return np.where(np.abs(rough + 0.3 * fine) < rng.uniform(0.15, 0.4) * (0.6 + patch), 52, grey + 5 * rough)


def _lithic(rng, grey, y, x, textures):
    """A rock fragment: crystals of several minerals, some very bright, with pores."""
    _, fine, rough, _, crystal = textures
    fragment = grey + 8 * crystal + 8 * rough
    fragment = np.where(crystal + rough > rng.uniform(2.2, 3.4), 175 + 15 * fine, fragment)
    return np.where(rough < -rng.uniform(1, 2), 58, fragment)


def _clay(rng, grey, y, x, textures):
    """A grain altered to clay: flakes with pores between them."""
    return textures[0]


# mineral -> (share of the grains, grey level, its spread, texture or None)
MINERALS = {
    "quartz": (0.70, 118, 2, None),
    "feldspar": (0.10, 136, 4, None),
    "cleaved feldspar": (0.05, 134, 3, _cleaved),
    "dissolved feldspar": (0.05, 130, 3, _dissolved),
    "rock fragment": (0.05, 122, 3, _lithic),
    "clay": (0.05, 80, 0, _clay),
}


def _weld(rng, size, discs):
    """Turn discs into angular grains and weld them where they overlap.

    Returns the distance to the nearest grain (negative inside), that to its contact with the second nearest,
    and the numbers of the two; all [size, size].
    """
    nearest, second = np.full((2, size, size), 99, np.float32)
    owner, neighbour = np.zeros((2, size, size), np.int32)
    for number, (row, column, radius) in enumerate(discs.tolist()):
        place, y, x = _window(size, row, column, 1.8 * radius)
        distance = _polygon(rng, y, x, radius)
        first = distance < nearest[place]
        runner_up = ~first & (distance < second[place])
        neighbour[place] = np.where(first, owner[place], np.where(runner_up, number, neighbour[place]))
        owner[place] = np.where(first, number, owner[place])
        second[place] = np.minimum(second[place], np.maximum(nearest[place], distance))
        nearest[place] = np.minimum(nearest[place], distance)
    return nearest, (second - nearest) / 2, owner, neighbour


def _mineral_greys(rng, size, discs, owner, textures):
    """Give each grain a mineral and return the grey levels of all grains [size, size]."""
    shares, levels, spreads, paints = zip(*MINERALS.values())
    kinds = rng.choice(len(MINERALS), len(discs), p=shares)
    greys = rng.normal(np.array(levels)[kinds], np.array(spreads)[kinds])
    heavy = (discs[:, 2] < 12) & (rng.random(len(discs)) < 0.3)  # zircon, pyrite: small and dense
    greys = np.where(heavy, rng.uniform(170, 240, len(discs)), greys).astype(np.float32)[owner]
    for number, (row, column, radius) in enumerate(discs.tolist()):
        paint = paints[kinds[number]]
        if paint and not heavy[number]:
            place, y, x = _window(size, row, column, 1.8 * radius)
            painted = paint(rng, greys[place], y, x, textures[:, *place])
            greys[place] = np.where(owner[place] == number, painted, greys[place])
    return greys


def _textures(rng, size):
    """Draw what grains are painted with, [5, size, size]: clay (grey levels), fine, rough, patch, crystal."""
    fine, rough, patch = _field(rng, size, 2.5, 9), _field(rng, size, 3, 40), _field(rng, size, 16, 120)
    flake, gap, seeds = _mosaic(rng, size, 5)
    crystal = rng.standard_normal(len(seeds), dtype=np.float32)[flake] + 0.6 * rough
    clay = 58 + (38 + 18 * crystal + 14 * rough + 8 * fine) * np.clip(gap + 0.6 * rough, 0, 1)
    return np.stack([np.clip(clay, 40, 145), fine, rough, patch, crystal])


def _open_contacts(rng, outline, contact, owner, neighbour, rough):
    """Return the share of open contacts between grains [size, size]; they narrow away from the pores."""
    count = max(owner.max(), neighbour.max()) + 1
    half_width = rng.uniform(-3.5, 1.1, (count, count)).astype(np.float32)  # below zero: welded
    half_width = np.maximum(half_width, half_width.T)[owner, neighbour] + 0.025 * outline + 0.35 * rough
    return _cover(contact - half_width) * (half_width > 0)


def sandstone(rng, size):
    """Angular welded grains of several minerals around connected pores, some of them filled with clay."""
    mean_radius = rng.uniform(17, 28)
    count = int(3 * (size / mean_radius + 2) ** 2 / np.pi) + 10
    radii = mean_radius * rng.lognormal(0, 0.5, count)
    discs = _pack(rng, size, np.clip(radii, 4, 2.4 * mean_radius), 0.68)
    outline, contact, owner, neighbour = _weld(rng, size, discs)

    textures = _textures(rng, size)
    clay, _, rough, patch, _ = textures
    outline += 0.7 * rough + 1.5 * patch
    outline -= np.quantile(outline, 1 - rng.uniform(0.13, 0.22))  # sets the porosity
    clayey = np.clip(3 * _field(rng, size, 20, 120) + 0.7 * rough - 2.2, 0, 1)
    pores = _blend(42 + 2 * patch, clay, clayey)
    grains = _mineral_greys(rng, size, discs, owner, textures)
    grains = _blend(grains, 50, _open_contacts(rng, outline, contact, owner, neighbour, rough))
    return _scan(rng, _blend(pores, grains, _cover(outline)), blur=0.74, noise=6.5, rings=0.7)


# --- Carbonate ---


class _Fabric(NamedTuple):
    cement: int  # grey level
    dulling: tuple  # how much darker than the cement the bodies are
    laminae: float  # contrast of their concentric layers
    angular: float  # share of bodies that are angular fragments, not ooids
    hollow_shells: float  # share of shells that are dissolved to a mould
    hollow_nuclei: float  # likewise of the other bodies' nuclei
    crystal: int  # size of the cement crystals
    porosity: tuple  # of the cement between the bodies
    ragged: float  # roughness of outlines
    noise: float


FABRICS = (
    _Fabric(  # oolitic
        cement=166,
        dulling=(2, 12),
        laminae=1.0,
        angular=0.0,
        hollow_shells=0.8,
        hollow_nuclei=0.45,
        crystal=7,
        porosity=(0.07, 0.18),
        ragged=0.5,
        noise=14.0,
    ),
    _Fabric(  # bioclastic
        cement=150,
        dulling=(-8, 34),
        laminae=0.3,
        angular=0.5,
        hollow_shells=0.1,
        hollow_nuclei=0.1,
        crystal=5,
        porosity=(0.18, 0.32),
        ragged=1.5,
        noise=11.3,
    ),
)


def _laminae(rng, depth):
    """Return the grey contrast of concentric layers at a depth below a body's surface."""
    profile = 7 * np.convolve(rng.standard_normal(128), np.ones(4) / 4, "same")
    for ring in rng.integers(3, 60, rng.integers(1, 5)):
        profile[ring : ring + 2] -= rng.uniform(10, 30)
    profile[:3] -= rng.uniform(10, 34)
    return np.interp(depth, np.arange(128), profile).astype(np.float32)


def _hollow(rng, y, x, depth, radius, shell, rough):
    """Return the depth in a mould (negative outside): a shell without its rim, or the nucleus of an ooid."""
    if shell:
        return depth - rng.uniform(4, 12)
    row, column = rng.normal(0, 0.12 * radius, 2).tolist()
    return 1.5 * rough - _ellipse(rng, y - row, x - column, radius * rng.uniform(0.25, 0.6))


def _lay_bodies(rng, size, fabric, rough):
    """Lay shells, then ooids or fragments, large ones first, without much overlap.

    Returns their grey levels, the distance to the nearest body (negative inside) and the depth below the wall
    of a mould (positive inside); all [size, size].
    """
    greys, outline = np.full((size, size), fabric.cement, np.float32), np.full((size, size), 40, np.float32)
    mould = np.full((size, size), -9, np.float32)
    count = 10 + int(80 * (size / 500) ** 2)
    radii = np.sort(np.clip(rng.lognormal(3.5, 0.5, count), 10, 90))[::-1]
    shells = rng.poisson(0.05 * count)
    for number, radius in enumerate(radii.tolist()):
        shell = number < shells
        radius = rng.uniform(50, 140) if shell else radius
        place, y, x = _window(size, *rng.uniform(-50, size + 50, 2).tolist(), 1.5 * radius + 20)
        if shell:
            distance = _shell(rng, y, x, radius, rng.uniform(8, 28))
        else:
            distance = (_polygon if rng.random() < fabric.angular else _ellipse)(rng, y, x, radius)
        distance = distance + fabric.ragged * rough[place]
        inside = distance < 0
        if not inside.any() or np.mean(outline[place][inside] < 3) > 0.08:
            continue

        mine = inside & (distance < outline[place])
        outline[place] = np.minimum(outline[place], distance)
        depth = np.maximum(-distance, 0)
        body = fabric.cement - rng.uniform(*fabric.dulling) + fabric.laminae * _laminae(rng, depth)
        greys[place] = np.where(mine, body + (2 + 3 * fabric.ragged) * rough[place], greys[place])
        if rng.random() < (fabric.hollow_shells if shell else fabric.hollow_nuclei):
            hollow = _hollow(rng, y, x, depth, radius, shell, rough[place])
            mould[place] = np.where(mine, hollow, mould[place])
    return greys, outline, mould


def _pore_shares(rng, fabric, level, mould, textures, mosaic):
    """Return the share of pores [size, size]: where their `level` in the cement is above 0, and in moulds."""
    fine, rough, patch = textures
    crystal, gap, seeds = mosaic
    # Whole crystals are there or missing, so that pores get the stepped walls of a drusy cement.
    jitter = rng.normal(0, 0.3, len(seeds)).astype(np.float32)
    pores = (level.ravel()[seeds] + jitter)[crystal] + 0.15 * fabric.ragged * fine > 0
    loose = np.clip(level + 1, 0, 1)  # near pores the crystals also part from each other
    pores = np.maximum(pores, _cover(gap - 1.6 * loose) * (loose > 0.5) * (fine > -0.2))
    # Moulds have smooth walls, some lined with crystals.
    smooth_wall = (mould > -4) & ((mould > 8) | (rough + 0.5 * patch < 0.9))
    return np.where(smooth_wall, _cover(-mould - 0.5 * rough), pores)


def carbonate(rng, size):
    """Ooids or shell fragments, some dissolved to moulds, in a cement of crystals with pores between them."""
    fabric = FABRICS[rng.integers(len(FABRICS))]
    fine, rough, patch = _field(rng, size, 2.5, 8), _field(rng, size, 3, 40), _field(rng, size, 30, 160)
    greys, outline, mould = _lay_bodies(rng, size, fabric, rough)
    mosaic = crystal, _, seeds = _mosaic(rng, size, fabric.crystal)

    # Pores prefer patches, the middle between bodies and, in ragged fabrics, their margins.
    level = 1.1 * patch + 0.7 * rough + 0.02 * outline + 0.5 * fabric.ragged * np.exp(-((outline / 3) ** 2))
    cement = outline > 0
    if cement.any():
        level -= np.quantile(level[cement], 1 - rng.uniform(*fabric.porosity))
    level = np.where(cement, level, np.maximum(mould / 3, -2))
    pores = _pore_shares(rng, fabric, level, mould, (fine, rough, patch), mosaic)

    micropores = np.clip(1.2 * (fine + 0.6 * rough + 0.6 * patch) - 2.7, 0, 0.9)
    greys += 3 * patch + rng.normal(0, 6, len(seeds)).astype(np.float32)[crystal] * cement
    scene = _blend(_blend(greys, 70, micropores), 46 + 2 * patch, pores)
    return _scan(rng, scene, blur=0.62, noise=fabric.noise, rings=0.7)


# --- Coal ---


def _draw_cleat(rng, canvas, start, angle, length, width):
    """Raise `canvas` [size, size] to the share that a crack covers: wavy, uneven, closed at its ends."""
    size = len(canvas)
    direction = np.array([math.sin(angle), math.cos(angle)])
    axis = int(np.abs(direction).argmax())  # one step along this axis of the image per point of the crack
    slant = abs(direction[axis])
    steps = np.arange(int(length * slant) + 4)
    knots = np.arange(0, len(steps) + 9, 9)
    wander = np.interp(steps, knots, np.cumsum(rng.normal(0, 0.9, len(knots))))
    half_width = width / 2 * np.interp(steps, knots, rng.uniform(0.4, 1.5, len(knots)))
    half_width *= np.sqrt(np.sin(np.pi * (steps + 1) / (len(steps) + 1)))

    centre = start[1 - axis] + steps * direction[1 - axis] / slant + wander
    across = np.rint(centre)[:, None] + np.arange(-math.ceil(width) - 2, math.ceil(width) + 3)
    along = np.broadcast_to((np.rint(start[axis]) + steps * np.sign(direction[axis]))[:, None], across.shape)
    share = _cover(np.abs(across - centre[:, None]) * slant - half_width[:, None])
    share *= np.minimum(1, 2 * half_width)[:, None]  # a crack thinner than a pixel darkens it in part
    seen = (along >= 0) & (along < size) & (across >= 0) & (across < size)
    place = (along, across) if axis == 0 else (across, along)
    place = tuple(coordinate[seen].astype(int) for coordinate in place)
    canvas[place] = np.maximum(canvas[place], share[seen])


def _cleats(rng, size, bedding):
    """Draw face cleats across the bedding, and butt cleats from one to the next.

    Returns the covered shares of the open and of the mineralised ones, each [size, size].
    """
    open_cleats, filled_cleats = np.zeros((2, size, size), np.float32)
    face = bedding + np.pi / 2 + rng.uniform(-0.5, 0.5)
    butt = face + np.pi / 2 + rng.uniform(-0.25, 0.25)
    along, across = np.array([[math.sin(face), math.cos(face)], [math.cos(face), -math.sin(face)]])
    spacing, mineralised = rng.uniform(35, 90), rng.uniform(0, 0.6)
    offset = -0.8 * size
    while offset < 0.8 * size:
        step = spacing * rng.gamma(3, 1 / 3)
        start = size / 2 + across * offset + along * rng.uniform(-0.75, 0.2) * size
        length, width = rng.uniform(0.3, 1.5) * size, rng.lognormal(0.5, 0.5)
        canvas = filled_cleats if rng.random() < mineralised else open_cleats
        _draw_cleat(rng, canvas, start, face + rng.normal(0, 0.05), length, width)
        for _ in range(rng.poisson(length / spacing)):
            canvas = filled_cleats if rng.random() < mineralised else open_cleats
            corner = start + along * rng.uniform(0.05, 0.95) * length
            angle = butt + np.pi * rng.integers(2) + rng.normal(0, 0.12)
            _draw_cleat(rng, canvas, corner, angle, step * rng.uniform(0.5, 1), width * rng.uniform(0.3, 0.9))
        offset += step
    return open_cleats, filled_cleats


def _maceral_bands(rng, size, height, fade):
    """Return the grey levels [size, size] of bands across `height` that `fade` (0 to 1) in places."""
    edges = np.sort(rng.uniform(-1.2 * size, 1.2 * size, size // 5))
    levels = rng.choice([86, 92, 98, 110], len(edges), p=[0.3, 0.3, 0.25, 0.15])
    levels = (levels + rng.normal(0, 3, len(edges))).astype(np.float32)
    return _blend(levels[np.searchsorted(edges, height) - 1], 94, fade)


def _draw_lenses(rng, scene, bedding, fine):
    """Draw lenses along the bedding: dark liptinite, and bright inertinite, cellular where it is thick."""
    size = len(scene)
    _, gap, _ = _mosaic(rng, size, 4)
    for _ in range(rng.poisson(60 * (size / 500) ** 2)):
        length, thickness = rng.lognormal(2.8, 0.7), rng.lognormal(0.6, 0.6)
        place, y, x = _window(size, *rng.uniform(0, size, 2).tolist(), 1.3 * length)
        along, across = _turn(y, x, bedding + rng.normal(0, 0.06))
        distance = (np.hypot(along / length, across / thickness) - 1) * thickness + 0.4 * fine[place]
        grey = float(rng.choice([66, 122, 140]))
        if thickness > 3 and grey > 100:
            grey = _blend(grey, 78, np.clip(gap[place] - 1, 0, 1))
        scene[place] = _blend(scene[place], grey, _cover(distance))


def _draw_pyrite(rng, scene):
    size = len(scene)
    for _ in range(rng.poisson(40 * (size / 500) ** 2)):
        radius = rng.lognormal(0.2, 0.5)
        place, y, x = _window(size, *rng.uniform(0, size, 2).tolist(), radius + 2)
        scene[place] = _blend(scene[place], rng.uniform(150, 245), _cover(np.hypot(y, x) - radius))


def coal(rng, size):
    """Bands and lenses of macerals, seams and specks of minerals, and two sets of cleats."""
    fine, patch, bend = _field(rng, size, 2.5, 10), _field(rng, size, 10, 120), _field(rng, size, 150, 500)
    swelling = _field(rng, size, 15, 150)
    bedding = rng.uniform(0, np.pi)
    _, y, x = _window(size, size / 2, size / 2, size)
    height = _turn(y, x, bedding)[1] + 6 * bend + 1.5 * patch

    scene = _maceral_bands(rng, size, height, np.clip(0.3 + 0.3 * swelling, 0, 1)) + 1.5 * patch
    _draw_lenses(rng, scene, bedding, fine)
    for _ in range(rng.poisson(size / 250)):  # mineral seams, pinching out and swelling
        middle, thickness = rng.uniform(-0.6, 0.6) * size, rng.uniform(1, 3.5)
        seam = _cover(np.abs(height - middle) - thickness - 1.5 * swelling + 0.6 * fine)
        scene = _blend(scene, 172 + 14 * fine, seam)
    open_cleats, filled_cleats = _cleats(rng, size, bedding)
    scene = _blend(scene, 188 + 12 * fine, filled_cleats * np.clip(1.2 + patch, 0, 1))
    scene = _blend(scene, 24, open_cleats)
    _draw_pyrite(rng, scene)
    return _scan(rng, scene, blur=1.05, noise=1.7, rings=0.25)


ROCKS = {"sandstone": sandstone, "carbonate": carbonate, "coal": coal}


def synthesize(rock, seed, index, size=500):
    """Make slice number `index` of a rock: uint8 [size, size].

    A pure function: the same arguments give the same bytes on one machine, whatever was made before.
    """
    if rock not in ROCKS:
        raise ValueError(f"rock={rock!r} is not known; use one of {', '.join(ROCKS)}")
    if size < 64:
        raise ValueError(f"size={size} is too small to show grains; use at least 64 pixels")
    return ROCKS[rock](np.random.default_rng([seed, index, *rock.encode()]), size)


# --- Files in DeepRock-SR's layout ---

KINDS, SCALES = ("default", "unknown"), (2, 4)


def slice_files(rock, split, number):
    """Name the files of one slice, relative to the folder that holds DeepRockSR-2D.

    Returns the HR file and a table (kind, scale) -> LR file.
    """
    prefix = f"DeepRockSR-2D/{rock}2D/{rock}2D_{split}"
    pairs = [(kind, scale) for kind in KINDS for scale in SCALES]
    lr = {(kind, scale): f"{prefix}_LR_{kind}_X{scale}/{number:04d}x{scale}.png" for kind, scale in pairs}
    return f"{prefix}_HR/{number:04d}.png", lr


def write_slice(out, rock, split, number, seed, size):
    """Synthesize one slice and write its HR and LR images below the folder `out`; returns their bytes."""
    hr_file, lr_files = slice_files(rock, split, number)
    hr = synthesize(rock, seed, number, size)
    written = _write_rgb(Path(out, hr_file), hr)
    for (kind, scale), lr_file in lr_files.items():
        kernel = draw_kernel(kind, seed, f"{rock}_{number:04d}")
        written += _write_rgb(Path(out, lr_file), downsample(hr, scale, kernel))
    return written


def _write_rgb(path, image):
    """Write a grey image as PNG with three equal channels, as DeepRock-SR's are; returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished:
        Image.fromarray(image).convert("RGB").save(
            unfinished, "png", compress_level=1
        )  # noise hardly compresses
    return path.stat().st_size
