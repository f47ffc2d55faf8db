"""Which plots the report shows of each rock, from the files of an evaluation."""

import numpy as np

from srgan_dist.evaluation.report_page import plots
from srgan_dist.evaluation.report_page.svg import draw
from srgan_dist.evaluation.report_page.words import measure_title, physical

CROSS = ("porosity", "specific_interface", "euler_density", "chord_length")
TRAINING = (  # title, y label, scale of y, [(logged name, label)]
    ("PSNR", "PSNR, dB", "linear", [("train/psnr", "training crops"), ("val/psnr", "valid")]),
    ("Gain over bicubic", "dB", "linear", [("val/psnr_gain", "all rocks"), ("val/psnr_gain/*", "")]),
    ("Texture score", "dB", "linear", [("val/texture_score", "valid")]),
    ("Losses", "unweighted", "log", [("loss/*", "")]),
    ("Discriminator", "mean probability of real", "linear", [("d/real", "HR"), ("d/fake", "SR")]),
    (
        "Grey levels",
        "% of the range",
        "linear",
        [
            ("val/mean_shift", "shift of the mean"),
            ("val/histogram_distance", "histogram distance"),
            ("val/histogram_distance_bicubic", "the same of bicubic"),
        ],
    ),
    (
        "Spectrum errors",
        "log power",
        "linear",
        [("val/spectrum_error", "over frequency"), ("val/directional_spectrum_error", "over direction")],
    ),
    (
        "Lattice excess",
        "dB",
        "linear",
        [("val/lattice_excess", "SR"), ("val/lattice_excess_hr", "HR")],
    ),
    (
        "Phase dependence",
        "share of the detail",
        "linear",
        [("val/phase_dependence", "SR"), ("val/phase_dependence_hr", "HR")],
    ),
    ("Porosity of SR over HR, minus 1", "bias", "linear", [("val/rock/porosity_bias/*", "")]),
    ("Interface of SR over HR", "ratio", "linear", [("val/rock/interface_ratio/*", "")]),
    ("Lattice excess above HR's own", "dB", "linear", [("val/rock/lattice_excess/*", "")]),
    (
        "Phase dependence above HR's own",
        "share of the detail",
        "linear",
        [("val/rock/phase_dependence/*", "")],
    ),
    ("Norms of gradients", "before clipping", "log", [("health/grad_norm/*", "")]),
)
MAX_LINES = 10  # in a plot of the training


def psnr_card(sources, split, rock):
    """Return the box plot of figure 3 of a rock."""
    values = {}
    for row in sources.rows:
        if (row["split"], row["rock"]) == (split, rock):
            values.setdefault(row["method"], []).append(float(row["psnr"]))
    if not values:
        return []
    return [_card("PSNR per image", f"box plots of PSNR, {rock}, {split}", plots.boxes, values)]


def bias_card(sources, split, rock):
    """Return the plot of signed bias with intervals of a rock."""
    raw, median = (sources.entries(split, rock, variant) for variant in ("raw", "median"))
    raw, median = ({m: plots.without_limits(of) for m, of in found.items()} for found in (raw, median))
    count = len(plots.biased_measures(raw))
    if not count:
        return []
    name = f"signed bias of each measure against HR, {rock}, {split}"
    size = (5.2, 0.42 * count + 0.9)
    return [_card("Signed bias, 95 % intervals", name, plots.bias, raw, median, size=size)]


def cross_cards(sources, split, rock):
    """Return the cross plots of a rock: SR against HR, a point per image."""
    values = {}
    for row in sources.image_measures:
        if (row["split"], row["rock"], row["variant"]) == (split, rock, "raw"):
            values.setdefault(row["method"], {})[row["key"]] = row
    of_hr, cards = values.pop("hr", {}), []
    for measure in CROSS:
        factor, label = _in_units(sources, split, rock, measure)
        points = {
            method: [
                (factor * float(of_hr[key][measure]), factor * float(row[measure]))
                for key, row in of_images.items()
                if key in of_hr and of_hr[key].get(measure) and row.get(measure)
            ]
            for method, of_images in values.items()
        }
        if any(points.values()):
            name = f"{measure_title(measure)} of SR against HR, a point per image, {rock}, {split}"
            cards.append(_card(measure_title(measure).capitalize(), name, plots.cross, points, label))
    return cards


def _in_units(sources, split, rock, measure):
    """Return the factor of a measure's values in the plot, and its label there."""
    of_methods = sources.entries(split, rock).values()
    found = next((of[measure].get("unit") for of in of_methods if measure in of), None)
    factor, unit = physical(found or "", sources.measures.get("ndim"), sources.voxel_size_um(rock))
    return factor, f"{measure_title(measure)}, {unit}" if unit else measure_title(measure)


def curve_cards(sources, split, rock):
    """Return the plots of pore space curves: threshold sweep, two-point correlation, pore sizes."""
    length, name_of_unit = _pixel(sources, rock)
    sweep = sources.measures.get("sweep") or []
    swept = [
        {m: (100 * np.array(sweep) - 100, 100 * y) for m, y in _of(sources, split, rock, name).items()}
        for name in ("threshold_sweep", "threshold_sweep_median")
    ]
    distance = f"distance, {name_of_unit}"
    correlation = {
        m: (length * np.arange(len(y)), y)
        for m, y in _of(sources, split, rock, "two_point_normalised").items()
    }
    sizes = {
        m: (length * radii, 100 * y)
        for m, y in _of(sources, split, rock, "pore_sizes").items()
        if (radii := sources.curve(split, rock, m, "pore_sizes_radii")) is not None
    }
    labels = "threshold, % off the rock's", "porosity, %"
    cards = _curve_cards([("Porosity over thresholds", swept[0], labels, {"dashed": swept[1]})], split, rock)
    if correlation:
        band = [sources.curve(split, rock, "hr", f"two_point_normalised_{end}") for end in ("low", "high")]
        band = None if any(y is None for y in band) else (length * np.arange(len(band[0])), *band)
        title = "Two-point correlation, normalised"
        arguments = plots.correlation, correlation, distance, "correlation"
        cards.append(_card(title, f"{title}, {rock}, {split}", *arguments, band=band))
    labels = f"pore radius, {name_of_unit}", "pores at least so wide, %"
    return cards + _curve_cards([("Pore sizes", sizes, labels, {})], split, rock)


def texture_cards(sources, split, rock):
    """Return the plots of resolution and texture: FRC, spectra in both directions, histogram."""
    length, name_of_unit = _pixel(sources, rock)
    frc = {
        m: (frequency, y)
        for m, y in _of(sources, split, rock, "frc").items()
        if (frequency := sources.curve(split, rock, m, "frc_frequency")) is not None
    }
    cards = []
    if frc:
        nyquist = 0.5 / (sources.measures.get("scale") or 1)
        name = f"Fourier ring correlation of SR with HR, {rock}, {split}"
        cards.append(_card("Fourier ring correlation", name, plots.frc, frc, nyquist, length, name_of_unit))
    radial = {}
    for method, y in _of(sources, split, rock, "spectrum").items():
        frequency = sources.curve(split, rock, method, "spectrum_frequency")
        radial[method] = (np.arange(1, len(y) + 1) / (2 * len(y)) if frequency is None else frequency, y)
    angles = {
        m: (np.arange(len(y)) * 180 / len(y), y)
        for m, y in _of(sources, split, rock, "spectrum_directional").items()
    }
    levels = {
        m: (np.arange(len(y)) / max(len(y) - 1, 1), 100 * y)
        for m, y in _of(sources, split, rock, "histogram").items()
    }
    found = [
        ("Spectrum over frequency", radial, ("cycles per HR pixel", "log power"), {"x_scale": "log"}),
        ("Spectrum over direction", angles, ("angle, degrees", "log power, fine scales"), {}),
        ("Grey levels", levels, ("grey level, share of the range", "share of pixels, %"), {}),
    ]
    return cards + _curve_cards(found, split, rock)


def calibration_cards(sources, split, rock):
    """Return the plot of error over spread of the draws of a rock, in bins by spread."""
    of_methods = sources.calibration.get(split) or {}
    found = {method: (of_methods.get(method) or {}).get(rock) or {} for method in sources.methods}
    bins = {m: [pair for pair in of.get("bins") or () if plots.is_interval(pair)] for m, of in found.items()}
    draws = [of["samples"] for of in found.values() if plots.is_number(of.get("samples"))]
    if not any(bins.values()) or not draws:
        return []
    name = f"error of the mean of draws over their spread, {rock}, {split}"
    return [_card("Error over spread", name, plots.calibration, bins, draws[0])]


def _curve_cards(found, split, rock):
    return [
        _card(title, f"{title}, {rock}, {split}", plots.curves, of_methods, *labels, **options)
        for title, of_methods, labels, options in found
        if of_methods
    ]


def _of(sources, split, rock, name):
    """Return {method: array} of a curve, HR first, methods in the order of their colours."""
    arrays = {method: sources.curve(split, rock, method, name) for method in ("hr", *sources.methods)}
    return {method: array for method, array in arrays.items() if array is not None and len(array)}


def _pixel(sources, rock):
    """Return the length of an HR pixel and its unit."""
    size = sources.voxel_size_um(rock)
    return (size, "\N{MICRO SIGN}m") if size else (1.0, "HR pixels")


def training_cards(sources):
    """Return the plots of the training with their own legends: [{title, svg, legend}]."""
    ends = sorted(w["samples_seen"] for w in sources.weights if plots.is_number(w["samples_seen"]))
    cards = []
    for title, y_label, y_scale, wanted in TRAINING:
        lines = {}
        for name, label in wanted:
            if name.endswith("*"):
                of_group = [found for found in sources.training if found.startswith(name[:-1])]
                lines |= {found[len(name) - 1 :]: sources.training[found] for found in of_group}
            elif name in sources.training:
                lines[label] = sources.training[name]
        if not lines:
            continue
        lines = dict(list(lines.items())[:MAX_LINES])
        card = _card(title, f"{title} during the training", plots.training, lines, y_label, ends, y_scale)
        cards.append(card | {"legend": list(lines)})
    return cards


def _card(title, name, plot, *arguments, **options):
    return {"title": title, "svg": draw(name, plot, *arguments, **options)}
