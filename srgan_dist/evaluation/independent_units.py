"""Which images, or blocks of them, count as independent when a measure of a rock is given an interval."""

import math
from collections import Counter
from pathlib import Path

import numpy as np

from srgan_dist.measures.cells import SIDE, places_of
from srgan_dist.measures.correlation import correlation_length, normalised
from srgan_dist.measures.statistics import SMALLEST_COUNT, separate_blocks

LEVELS = "plug", "source", "block"  # of independent units, from the highest to the lowest


def levels_of(records):
    """Return {level: the unit of every image, or None where they are unknown}, from the highest level to the
    lowest. A folder in that of a rock counts as a plug; without such folders the rock is one.

    The lowest, blocks, are parts of the sources that are two correlation lengths wide or more: images (tiles)
    that do not overlap, or, of what is summed over cells, groups of these ("cells": the unit of every cell of
    every image). Pages of one file that are nearer than two correlation lengths are in one block.
    """
    sources = [record["source"] for record in records]
    plugs = [_plug_of(record["source"], record["rock"]) for record in records]
    levels = {"plug": plugs, "source": None, "block": None, "cells": None}
    if None in sources:
        return levels
    levels["source"] = sources
    if len(set(sources)) >= SMALLEST_COUNT or not all(record["corner"] for record in records):
        return levels
    found = [record["images"]["hr"]["raw"].get("two_point") for record in records]
    lengths = [correlation_length(normalised(*sums.reshape(2, -1))[1]) for sums in found if sums is not None]
    if lengths:
        distance = max(2 * max(lengths), 1)
        levels["cells"] = _blocks_of_cells(records, distance)
        if min(min(record["shape"]) for record in records) >= distance:
            corners = [record["corner"] for record in records]
            extents = [(distance, *record["shape"])[-len(record["corner"]) :] for record in records]
            levels["block"] = _joined(sources, corners, extents)
    return levels


def _plug_of(source, rock):
    """Return the name of the folder in that of a rock in which a source is; "" where there is none."""
    folders = Path(source or "").parts[:-1]
    return "".join(folders[folders.index(rock) + 1 :][:1]) if rock in folders else ""


def _blocks_of_cells(records, distance):
    """Return the block of every cell of every image, [images][cells]: a group of cells in the grid of the
    source, `distance` pixels wide or more. Groups of which less than half is rock of these images, as at a
    border, belong to the nearest that are whole.
    """
    ndim = len(records[0]["shape"])
    together = math.ceil(distance / SIDE[ndim])
    groups, areas = [], Counter()  # of groups on each page
    pages = [record["corner"][:-ndim] or (0,) for record in records]
    stacks = _joined([record["source"] for record in records], pages, [(distance,)] * len(records))
    for record, page, stack in zip(records, pages, stacks, strict=True):
        places = places_of(record["corner"][-ndim:], record["shape"]) // together
        groups.append([(stack, *place) for place in places.tolist()])
        of_cells = record["images"]["hr"]["cells"]["raw"]["porosity"][:, 1]
        for group, area in zip(groups[-1], of_cells, strict=True):
            areas[group, page] += area
    full = (together * SIDE[ndim]) ** ndim
    whole = {group for (group, _), area in areas.items() if 2 * area >= full}
    of_stack = {}
    for group in sorted(whole):
        of_stack.setdefault(group[0], []).append(group)
    nearest = {group: _nearest(group, of_stack, whole) for group, _ in areas}
    return [[str(nearest[group]) for group in of_image] for of_image in groups]


def _nearest(group, of_stack, whole):
    """Return the whole group nearest to one, of the same stack of pages if there is any."""
    if group in whole:
        return group
    near = of_stack.get(group[0]) or sorted(whole)
    distances = [sum((a - b) ** 2 for a, b in zip(group[1:], other[1:], strict=True)) for other in near]
    return near[distances.index(min(distances))] if near else None


def _joined(sources, corners, extents):
    """Return a name for every image, the same for those of one source that are nearer than their extent along
    every axis, also in a chain. corners, extents: [images][axes]; the largest extent of a source counts.
    """
    names = [None] * len(sources)
    for source in set(sources):
        places = [place for place, of_image in enumerate(sources) if of_image == source]
        reach = np.max([extents[place] for place in places], axis=0)
        numbers = separate_blocks([corners[place] for place in places], reach)
        for place, number in zip(places, numbers, strict=True):
            names[place] = f"{source} {number}"
    return names
