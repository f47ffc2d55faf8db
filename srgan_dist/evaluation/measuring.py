"""Rock measures of a set: thresholds from its training images, every image measured on one rank, rocks
pooled.
"""

import csv
from importlib.metadata import version

import numpy as np
import torch

from srgan_dist.data.reader import Reader
from srgan_dist.data.sampler import images_of_rank
from srgan_dist.evaluation.metrics import radial_log_power
from srgan_dist.evaluation.texture import directional_log_power, lattice_excess, phase_dependence
from srgan_dist.measures.correlation import correlation_length, normalised, ring_correlation
from srgan_dist.measures.pooling import alike, entry_of, number, pool
from srgan_dist.measures.pore_sizes import radii_up_to
from srgan_dist.measures.protocol import LARGEST_RADIUS, MEASURES, Reference
from srgan_dist.measures.segmentation import SWEEP
from srgan_dist.measures.statistics import choose_level
from srgan_dist.measures.verdicts import verdict
from srgan_dist.runtime.cpu import one_thread_each
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write, write_json

PROTOCOL = 1
FORMS = "raw", "median"
LARGEST_FLOW_SIDE = 128  # voxels


def check_measurable(split, measuring):
    """Raise UserError where the permeability of a split is asked for and cannot be computed."""
    if measuring.permeability and (
        split.ndim != 3 or max(map(max, split.rows["lr_shape"])) * split.scale > LARGEST_FLOW_SIDE
    ):
        raise UserError(
            f"--permeability needs volumes of at most {LARGEST_FLOW_SIDE} voxels a side; the {split.name}"
            f" split of {split.place} has {split.ndim}-D images of up to"
            f" {int(split.rows['lr_shape'].max()) * split.scale} pixels"
        )


def measure_split(split, methods, thresholds, measuring, rank, world_size, device, progress=iter):
    """Measure every image of a split once over all ranks; methods: name -> function(lr [N, *shape]).

    Returns on every rank the same list of records, in the order of the split: index, key, rock, source,
    size and images: {"hr" or method: {form: {name: sums}}}.
    """
    reader, flow = Reader(split), measuring.permeability
    check_measurable(split, measuring)

    def measure(i):
        lr, hr = reader.image(i)
        record, unit = reader.record(i), hr / reader.peak
        threshold = thresholds[split.rock(i)]["value"]
        reference = Reference(unit, threshold, measuring.phase, measuring.extent == "full", flow)
        images, weight = {"hr": reference.own()}, float(reference.valid.any())
        of_hr = torch.from_numpy(unit).float()[None]
        with torch.inference_mode():
            for name, method in methods.items():
                sr = method(lr[None])
                images[name] = reference.measure(sr[0].cpu().numpy().astype(float))
                images[name]["raw"] |= _texture(sr, of_hr.to(sr.device), split.scale, weight)
            images["hr"]["raw"] |= _texture(of_hr, of_hr, split.scale, weight)
        return {
            "index": i,
            "key": split.key(i),
            "rock": split.rock(i),
            "source": record.get("source", split.key(i)),
            "voxel_size_um": record.get("voxel_size_um"),
            "side": min(hr.shape),
            "left_out": int((~reference.valid).sum()),
            "images": images,
        }

    images = progress(images_of_rank(len(split), rank, world_size))
    records = gather_lists(list(one_thread_each(measure, images, device)))
    return sorted(records, key=lambda record: record["index"])


def _texture(sr, hr, scale, weight):
    """Return the sums of what torch computes: [*values, 1], times the weight of the image, 1 or 0."""
    values = {
        "lattice_excess": lattice_excess(sr, hr, scale),
        "phase_dependence": phase_dependence(sr, hr, scale),
        "spectrum": radial_log_power(sr),
        "spectrum_directional": directional_log_power(sr, scale),
    }
    return {name: weight * np.append(value.cpu().numpy().ravel(), 1.0) for name, value in values.items()}


# Pooling


def pool_split(records, methods):
    """Return {rock: {method: {form: {measure: entry}}}} and {"ROCK/METHOD/NAME": curve} of the records of a
    split.
    """
    tables, curves = {}, {}
    for rock in sorted({record["rock"] for record in records}):
        of_rock = [record for record in records if record["rock"] == rock]
        level = choose_level(_levels(of_rock))
        tables[rock] = {name: {form: {} for form in FORMS} for name in methods}
        for form in FORMS:
            for measure in MEASURES:
                _pool_measure(tables[rock], of_rock, methods, form, measure, level)
        for name in ("hr", *methods):
            for key, curve in _curves_of([record["images"][name] for record in of_rock]).items():
                curves[f"{rock}/{name}/{key}"] = curve
    return tables, curves


def _levels(records):
    """Return the units of every image, from the highest level to the lowest. A rock's folder counts as
    one plug.

    Images, which may be tiles of one slice, are independent units only where they are two correlation
    lengths wide.
    """
    lengths = []
    for record in records:
        sums = record["images"]["hr"]["raw"].get("two_point")
        if sums is not None:
            lengths.append(correlation_length(normalised(*sums.reshape(2, -1))[1]))
    wide = bool(lengths) and min(record["side"] for record in records) >= 2 * max(lengths)
    return {
        "plug": [record["rock"] for record in records],
        "source": [record["source"] for record in records],
        "block": [record["key"] for record in records] if wide else None,
    }


def _pool_measure(table, records, methods, form, measure, level):
    """Add the entries of a measure to the table of a rock."""
    found = {}
    for name in methods:
        arrays = [record["images"][name][form].get(measure) for record in records]
        if any(array is None for array in arrays):
            return
        places, sums = alike(arrays)
        hr = [records[place]["images"]["hr"][form].get(measure) for place in places]
        units = [level[1][place] for place in places] if level else None
        of_hr = None if MEASURES[measure].perfect is not None else np.stack(hr)
        found[name] = pool(measure, sums, of_hr, units)
        counts = {
            "images": len(places),
            "sources": len({records[place]["source"] for place in places}),
            "plugs": 1,
        }
        before = {other: found[other] for other in methods if other in found and other != name}
        table[name][form][measure] = entry_of(
            measure, found[name], before, counts, level[0] if level else None
        )


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


# Files


def files_of_measures(results, methods, thresholds, measuring, packed, titles):
    """Return {file: function(path) that writes it} of measures.json, measures.csv and curves.npz; results:
    {split: records of `measure_split`}.
    """
    tables, curves = {}, {}
    for split, records in results.items():
        tables[split], of_split = pool_split(records, methods)
        curves |= {f"{split}/{key}": np.asarray(curve, float) for key, curve in of_split.items()}
    records = [record for of_split in results.values() for record in of_split]
    measures = {
        "protocol": PROTOCOL,
        "versions": {name: version(name) for name in ("numpy", "scipy", "edt", "torch")},
        "phase": measuring.phase,
        "thresholds": thresholds,
        "sweep": list(SWEEP),
        "scale": packed.manifest.scale,
        "ndim": packed.manifest.ndim,
        "voxel_size_um": {record["rock"]: record["voxel_size_um"] for record in records},
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
        "measures.csv": lambda path: _write_rows(path, results),
        "curves.npz": lambda path: _write_curves(path, curves),
    }


def _write_rows(path, results):
    with atomic_write(path) as unfinished, open(unfinished, "w", newline="") as file:
        writer = csv.DictWriter(file, ["split", "rock", "key", "source", "method", "variant", *MEASURES])
        writer.writeheader()
        writer.writerows(_rows_of(results))


def _write_curves(path, curves):
    with atomic_write(path) as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(file, **curves)


def _rows_of(results):
    """Yield a row per image, method (and HR) and form, with the measures of the image by itself."""
    for split, records in results.items():
        for record in records:
            for name, forms in record["images"].items():
                for form, sums in forms.items():
                    values = {
                        measure: number(float(MEASURES[measure].value(sums[measure])))
                        for measure in MEASURES
                        if measure in sums
                    }
                    identity = {key: record[key] for key in ("rock", "key", "source")}
                    yield {"split": split, **identity, "method": name, "variant": form, **values}
