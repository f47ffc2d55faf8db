"""Rock measures of a set: thresholds from its training images, every image measured on one rank, rocks
pooled.
"""

import csv
from collections import Counter
from importlib.metadata import version

import numpy as np
import torch

from srgan_dist.data.reader import Reader
from srgan_dist.data.sample import corner_of
from srgan_dist.data.sampler import images_of_rank
from srgan_dist.evaluation.independent_units import LEVELS, levels_of
from srgan_dist.evaluation.metrics import radial_log_power
from srgan_dist.evaluation.texture import directional_log_power, lattice_excess, phase_dependence
from srgan_dist.measures.cells import edges_of
from srgan_dist.measures.correlation import normalised, ring_correlation
from srgan_dist.measures.pooling import alike, entry_of, gain_of, number, pool
from srgan_dist.measures.pore_sizes import radii_up_to
from srgan_dist.measures.protocol import LARGEST_RADIUS, MEASURES, Reference
from srgan_dist.measures.segmentation import SWEEP, filled
from srgan_dist.measures.statistics import choose_level
from srgan_dist.measures.verdicts import verdict
from srgan_dist.runtime.cpu import one_thread_each
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.utils.files import atomic_write, write_json

PROTOCOL = 4  # version of the measures and their intervals
CPU = torch.device("cpu")
FORMS = "raw", "median"
FACTS = "value", "hr", "bias", "bias_kind", "unit", "images", "sources", "plugs", "level", "units"  # of a row
IMAGES_OF_BAND = 3  # of which the spread of a curve is known


def measure_split(
    split, methods, thresholds, measuring, rank, world_size, device, progress=iter, chosen=None
):
    """Measure every image of a split, or those of `chosen` indices, once over all ranks; methods: name ->
    function(lr [N, *shape]).

    Returns on every rank the same list of records, in the order of the split: index, key, rock, source
    (None: unknown), voxel_size_um, corner in the source (None: unknown), shape, left_out (pixels outside of a
    plug) and images: {"hr" or method: {form: {name: sums}}}, empty where nothing of the image is rock. Beside
    the forms, "cells" has those of each cell of what is counted pixel by pixel, {form: {name: [cells, k]}}.
    Threads of the CPU measure; SR is made there too, on an accelerator (`device`) by this thread.
    """
    reader = Reader(split)

    def enlarge(lr):
        with torch.inference_mode():
            return {name: method(lr[None])[0].cpu().numpy() for name, method in methods.items()}

    def read(i):
        lr, hr = reader.image(i)
        return i, lr, hr, reader.record(i), None if device.type == "cpu" else enlarge(lr)

    def measure(sample):
        i, lr, hr, record, enlarged = sample
        rock = split.rock(i)
        unit, threshold = hr / reader.peak, thresholds[rock]["value"]
        corner = corner_of(record, split.ndim)
        edges = edges_of(corner[-split.ndim :], hr.shape) if corner else None
        extent = measuring.extent == "full", measuring.permeability
        air = thresholds[rock].get("air")
        reference = Reference(unit, threshold, measuring.phase, *extent, edges, air)
        images = {}
        if reference.valid.any():
            images = _measure_methods(reference, enlarged or enlarge(lr), split.scale)
        return {
            "index": i,
            "key": split.key(i),
            "rock": rock,
            "source": record.get("source"),
            "voxel_size_um": record.get("voxel_size_um"),
            "corner": corner,
            "shape": hr.shape,
            "left_out": int((~reference.valid).sum()),
            "images": images,
        }

    # Read in this thread: a Reader keeps one shard mapped
    chosen = range(len(split)) if chosen is None else chosen
    samples = map(read, progress([chosen[k] for k in images_of_rank(len(chosen), rank, world_size)]))
    records = gather_lists(list(one_thread_each(measure, samples, CPU)))
    return sorted(records, key=lambda record: record["index"])


def _measure_methods(reference, enlarged, scale):
    """Return {"hr" or method: {form: {name: sums}}} of an image; enlarged: {method: SR [*shape]}."""
    images, of_hr = {"hr": reference.own()}, reference.filled["raw"]
    images["hr"]["raw"] |= _texture(of_hr, of_hr, scale)
    for name, sr in enlarged.items():
        sr = sr.astype(float)
        images[name] = reference.measure(sr)
        images[name]["raw"] |= _texture(filled(sr, reference.valid), of_hr, scale)
    for forms in images.values():
        forms["cells"] = {form: forms[form].pop("cells", {}) for form in FORMS}
    return images


def _texture(sr, hr, scale):
    """Return the sums of what torch computes of images [*shape]: {name: [*values, 1]}."""
    sr, hr = (torch.from_numpy(image).float()[None] for image in (sr, hr))
    values = {
        "lattice_excess": lattice_excess(sr, hr, scale),
        "phase_dependence": phase_dependence(sr, hr, scale),
        "spectrum": radial_log_power(sr),
        "spectrum_directional": directional_log_power(sr, scale),
    }
    return {name: np.append(value.numpy().ravel(), 1.0) for name, value in values.items()}


# Pooling


def pool_split(records, methods, scale):
    """Return {rock: {method: {form: {measure: entry}}}} and {"ROCK/METHOD/NAME": curve} of the records of a
    split; lengths are in HR pixels. Images without rock have no part.
    """
    tables, curves = {}, {}
    for rock in sorted({record["rock"] for record in records}):
        of_rock = [record for record in records if record["rock"] == rock and record["images"]]
        tables[rock] = {name: {form: {} for form in FORMS} for name in methods}
        if not of_rock:
            continue
        levels = levels_of(of_rock)
        for form in FORMS:
            for measure in MEASURES:
                _pool_measure(tables[rock], of_rock, methods, form, measure, levels, scale)
        for name in ("hr", *methods):
            for key, curve in _curves_of([record["images"][name] for record in of_rock]).items():
                curves[f"{rock}/{name}/{key}"] = curve
    return tables, curves


def _pool_measure(table, records, methods, form, measure, levels, scale):
    """Add the entries of a measure to the table of a rock, and those of `frc_gain`, which follows from it."""
    found, gains, perfect = {}, {}, MEASURES[measure].perfect is not None
    for name in methods:
        arrays = [record["images"][name][form].get(measure) for record in records]
        if any(array is None for array in arrays):
            return
        places, sums = alike(arrays)
        images = [records[place]["images"] for place in places]
        of_hr = None if perfect else np.stack([image["hr"][form][measure] for image in images])
        level, units = choose_level({key: levels[key] and [levels[key][p] for p in places] for key in LEVELS})
        if level not in ("plug", "source") and levels["cells"] and measure in images[0][name]["cells"][form]:
            of_cells = [unit for place in places for unit in levels["cells"][place]]
            if choose_level({"block": of_cells})[1]:
                level, units = "block", of_cells
                sums = _stacked_cells(images, name, form, measure)
                of_hr = None if perfect else _stacked_cells(images, "hr", form, measure)
        found[name] = pool(measure, sums, of_hr, units)
        counts = {
            "images": len(places),
            "sources": len({records[place]["source"] for place in places} - {None}) or None,
            "plugs": len({levels["plug"][place] for place in places}),
        }
        table[name][form][measure] = entry_of(measure, found[name], _others(found, name), counts, level)
        if measure == "frc_resolution":
            gains[name] = gain_of(found[name], scale)
            gain = entry_of("frc_gain", gains[name], _others(gains, name), counts, level)
            table[name][form]["frc_gain"] = gain


def _stacked_cells(images, name, form, measure):
    return np.concatenate([image[name]["cells"][form][measure] for image in images])


def _others(found, name):
    """Return the methods that one is compared with: those before it."""
    return {other: pooled for other, pooled in found.items() if other != name}


def _curves_of(images):
    """Return {name: curve} of a method on a rock, from the sums of its images."""
    curves = {}
    for form in FORMS:
        suffix = "" if form == "raw" else "_median"
        summed = {name: alike([image[form][name] for image in images])[1].sum(0) for name in images[0][form]}
        curves[f"histogram{suffix}"] = summed["histogram"] / max(summed["histogram"].sum(), 1)
        if "threshold_sweep" in summed:
            curves[f"threshold_sweep{suffix}"] = summed["threshold_sweep"][:-1] / max(
                summed["threshold_sweep"][-1], 1
            )
            s2, rho = normalised(*summed["two_point"].reshape(2, -1))
            curves[f"two_point{suffix}"], curves[f"two_point_normalised{suffix}"] = s2, rho
            _, sums = alike([image[form]["two_point"] for image in images])
            of_images = normalised(*np.moveaxis(sums.reshape(len(sums), 2, -1), 1, 0))[1]
            of_images = of_images[np.isfinite(of_images).all(1)]
            if len(of_images) >= IMAGES_OF_BAND:
                curves[f"two_point_normalised_low{suffix}"] = of_images.min(0)
                curves[f"two_point_normalised_high{suffix}"] = of_images.max(0)
        if "chords" in summed:
            curves[f"chords{suffix}"] = summed["chords"] / max(summed["chords"].sum(), 1)
        if "pore_size" in summed:
            total, covered = summed["pore_size"][0], summed["pore_size"][1:]
            curves[f"pore_sizes{suffix}"] = covered / max(total, 1)
            curves[f"pore_sizes_radii{suffix}"] = radii_up_to(max(LARGEST_RADIUS.values()))[: len(covered)]
        for name in ("spectrum", "spectrum_directional"):
            if name in summed:
                curves[name] = summed[name][:-1] / max(summed[name][-1], 1)
        if "frc_resolution" in summed:
            curves[f"frc{suffix}"] = ring_correlation(summed["frc_resolution"].reshape(3, -1))
            curves[f"frc_frequency{suffix}"] = np.linspace(0, 0.5, len(curves[f"frc{suffix}"]))
    return curves


def measure_table(tables):
    """Return the measures of splits as a table: columns, and rows of texts and numbers, None where there is
    none. tables: {split: that of `pool_split`}; bias and its 95 % interval are against HR.
    """
    columns = ["split", "rock", "method", "variant", "measure", *FACTS, "low", "high"]
    rows = [
        [
            split,
            rock,
            name,
            form,
            measure,
            *(entry[fact] for fact in FACTS),
            *(entry["interval"] or [None] * 2),
        ]
        for split, rocks in tables.items()
        for rock, methods in rocks.items()
        for name, forms in methods.items()
        for form, entries in forms.items()
        for measure, entry in entries.items()
    ]
    return columns, rows


# Files


def files_of_measures(results, methods, thresholds, measuring, packed, titles):
    """Return {file: function(path) that writes it} of measures.json, measures.csv and curves.npz; results:
    {split: records of `measure_split`}.
    """
    tables, curves, scale = {}, {}, packed.manifest.scale
    sizes = _voxel_sizes([record for of_split in results.values() for record in of_split])
    for split, records in results.items():
        tables[split], of_split = pool_split(records, methods, scale)
        curves |= {f"{split}/{key}": np.asarray(curve, float) for key, curve in of_split.items()}
    measures = {
        "protocol": PROTOCOL,
        "versions": {name: version(name) for name in ("numpy", "scipy", "edt", "torch")},
        "phase": measuring.phase,
        "plugs": list(measuring.plugs),
        "thresholds": thresholds,
        "sweep": list(SWEEP),
        "scale": scale,
        "ndim": packed.manifest.ndim,
        "voxel_size_um": sizes,
        "constant_images": {split: _count_constant(of_split) for split, of_split in results.items()},
        "pixels_left_out": {s: sum(r["left_out"] for r in of_split) for s, of_split in results.items()},
        "per_split": tables,
        "verdicts": {
            split: {
                rock: {name: verdict(name, forms["raw"], titles) for name, forms in table.items()}
                for rock, table in rocks.items()
            }
            for split, rocks in tables.items()
        },
    }
    return {
        "measures.json": lambda path: write_json(path, measures),
        "measures.csv": lambda path: _write_rows(path, results, scale),
        "curves.npz": lambda path: _write_curves(path, curves),
    }


def _voxel_sizes(records):
    """Return {rock: HR voxel size in um that all of its images name, or None}."""
    found = {}
    for record in records:
        found.setdefault(record["rock"], set()).add(record["voxel_size_um"])
    return {rock: sizes.pop() if len(sizes) == 1 else None for rock, sizes in sorted(found.items())}


def _count_constant(records):
    """Return {rock: images that hold no rock, all of one grey level}, of rocks that have such images."""
    return dict(sorted(Counter(record["rock"] for record in records if not record["images"]).items()))


def _write_rows(path, results, scale):
    with atomic_write(path) as unfinished, open(unfinished, "w", newline="") as file:
        columns = ["split", "rock", "key", "source", "method", "variant", *MEASURES]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(_rows_of(results, scale))


def _write_curves(path, curves):
    with atomic_write(path) as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(file, **curves)


def _rows_of(results, scale):
    """Yield a row per image, method (and HR) and form, with the measures of the image by itself; of an image
    without rock one row, with no values.
    """
    for split, records in results.items():
        for record in records:
            identity = {"split": split, **{key: record[key] for key in ("rock", "key", "source")}}
            if not record["images"]:
                yield identity
            for name, forms in record["images"].items():
                for form in FORMS:
                    sums = forms[form]
                    values = {}
                    for measure in MEASURES.keys() & sums.keys():
                        value = float(MEASURES[measure].value(sums[measure]))
                        values[measure] = number(value)
                        if measure == "frc_resolution":
                            values["frc_gain"] = number(2 * scale / value)
                    yield {**identity, "method": name, "variant": form, **values}
