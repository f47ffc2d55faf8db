"""Which images, or blocks of them, count as independent when a measure of a rock is given an interval."""

import math
from collections import Counter

import numpy as np

from srgan_dist.measures.cells import SIDE, places_of
from srgan_dist.measures.correlation import correlation_length, normalised
from srgan_dist.measures.statistics import SMALLEST_COUNT, separate_blocks

LEVELS = "plug", "source", "block"  # of independent units, from the highest to the lowest


def levels_of(records):
    """Return {level: the unit of every image, or None where they are unknown}, from the highest level to the
    lowest. A set does not know its plugs, so a rock's folder counts as one.

    The lowest, blocks, are parts of the sources that are two correlation lengths wide or more: images (tiles)
    that do not overlap, or, of what is summed over cells, groups of these ("cells": the unit of every cell of
    every image). Pages of one file that are nearer than two correlation lengths are in one block.
    """
    lengths = []
    for record in records:
        sums = record["images"]["hr"]["raw"].get("two_point")
        if sums is not None:
            lengths.append(correlation_length(normalised(*sums.reshape(2, -1))[1]))
    sources = [record["source"] for record in records]
    levels = {"plug": [record["rock"] for record in records], "source": None, "block": None, "cells": None}
    if None in sources:
        return levels
    levels["source"] = sources
    if len(set(sources)) < SMALLEST_COUNT and lengths and all(record["corner"] for record in records):
        distance = max(2 * max(lengths), 1)
        levels["cells"] = _blocks_of_cells(records, distance)
        if min(min(record["shape"]) for record in records) >= distance:
            levels["block"] = _blocks_of(records, distance)
    return levels


def _blocks_of_cells(records, distance):
    """Return the block of every cell of every image, [images][cells]: a group of cells in the grid of the
    source, `distance` pixels wide or more. Groups of which less than half is rock of these images, as at a
    border, belong to the nearest that are whole.
    """
    ndim = len(records[0]["shape"])
    together = math.ceil(distance / SIDE[ndim])
    groups, areas = [], Counter()  # of groups on each page
    for record, stack in zip(records, _stacks(records, distance), strict=True):
        places = places_of(record["corner"][-ndim:], record["shape"]) // together
        groups.append([(record["source"], stack, *place) for place in places.tolist()])
        of_cells = record["images"]["hr"]["cells"]["raw"]["porosity"][:, 1]
        for group, area in zip(groups[-1], of_cells, strict=True):
            areas[group, record["corner"][:-ndim]] += area
    full = (together * SIDE[ndim]) ** ndim
    whole = {group for (group, _), area in areas.items() if 2 * area >= full}
    of_source = {}
    for group in sorted(whole):
        of_source.setdefault(group[:2], []).append(group)
    nearest = {group: _nearest(group, of_source, whole) for group, _ in areas}
    return [[str(nearest[group]) for group in of_image] for of_image in groups]


def _stacks(records, distance):
    """Return the number of the stack of pages that each image belongs to: one ends where the next page of its
    source is `distance` pixels away or more.
    """
    pages = {}
    for record in records:
        pages.setdefault(record["source"], set()).add(record["corner"][0])
    numbers = {}
    for source, of_source in pages.items():
        ordered = np.array(sorted(of_source))
        stack = np.cumsum(np.r_[0, np.diff(ordered) >= distance])
        numbers[source] = dict(zip(ordered.tolist(), stack.tolist(), strict=True))
    return [
        numbers[record["source"]][record["corner"][0]] if len(record["shape"]) == 2 else 0
        for record in records
    ]


def _nearest(group, of_source, whole):
    """Return the whole group nearest to one, of the same source and stack if there is any."""
    if group in whole:
        return group
    near = of_source.get(group[:2]) or list(whole)
    distances = [sum((a - b) ** 2 for a, b in zip(group[2:], other[2:], strict=True)) for other in near]
    return near[distances.index(min(distances))] if near else None


def _blocks_of(records, distance):
    """Return the block of every image; distance: in pixels, between pages that are independent."""
    blocks = [None] * len(records)
    for source in {record["source"] for record in records}:
        places = [place for place, record in enumerate(records) if record["source"] == source]
        reach = np.max([records[place]["shape"] for place in places], axis=0)
        reach = reach if len(reach) == 3 else [distance, *reach]
        numbers = separate_blocks([records[place]["corner"] for place in places], reach)
        for place, number_of_block in zip(places, numbers, strict=True):
            blocks[place] = f"{source} {number_of_block}"
    return blocks
