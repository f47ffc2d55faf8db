"""The tables of the report: scores, verdicts with what they rest on, measures, thresholds."""

from srgan_dist.evaluation.figures import title
from srgan_dist.evaluation.report_page.plots import is_interval, is_number, measures_of
from srgan_dist.evaluation.report_page.words import (
    NONE,
    PERCENT,
    meaning,
    measure_title,
    number,
    percent,
    physical,
)

TEXTURE = {"lattice_excess": "lattice excess, dB", "phase_dependence": "phase dependence"}
SPECTRA = {
    "directional_spectrum_error": "over directions",
    **{f"spectrum_error_{axis}": f"spectrum error along {axis}" for axis in "zyx"},  # of volumes
}
STARTS = {  # of a training: entry of run.json -> its name
    "global_step": "starts, at update",
    "srgan_dist": "srgan_dist",
    "commit": "git commit",
    "torch": "PyTorch",
    "python": "Python",
    "device": "device",
    "ranks": "ranks",
    "data_sha256": "sha256 of the data",
}
LEVELS = {
    "plug": "intervals by resampling plugs",
    "source": "intervals by resampling source images",
    "block": "intervals by resampling blocks of the images",
}
UNITS = {"plug": "plugs", "source": "source images", "block": "blocks"}


def cell(value, digits=3, sign=False):
    """Return a number as a table shows it and sorts it."""
    return {"text": number(value, digits, sign), "sort": value if is_number(value) else ""}


def score_rows(sources, split):
    """Return a row per rock and method of the mean scores of a split: texts first, then cells."""
    rows = []
    for rock, methods in sources.scores[split].items():
        for method, score in methods.items():
            cuts = [
                float(row["relative_error_reduction"])
                for row in sources.rows
                if (row["split"], row["rock"], row["method"]) == (split, rock, method)
            ]
            cut = sum(cuts) / len(cuts) if cuts else None
            gain = score["psnr"] - methods["bicubic"]["psnr"] if "bicubic" in methods else None
            cells = [
                {"text": f"{score['psnr']:.2f}", "sort": score["psnr"]},
                {"text": number(gain, 1) if gain is None else _signed(gain), "sort": gain},
                {"text": f"{score['ssim']:.4f}", "sort": score["ssim"]},
                *([cell(score["ssim_slices"], 4)] if "ssim_slices" in score else []),
                cell(score["spectrum_error"]),
                *(cell(score[name]) for name in SPECTRA if name in score),
                {"text": percent(cut), "sort": cut},
                *(_beside_hr(score, name) for name in TEXTURE if name in score),
                cell(score["count"], 1),
            ]
            rows.append({"rock": rock, "method": method, "cells": cells})
    return rows


def _beside_hr(score, name):
    """Return a measure of texture with HR's own value."""
    of_hr = f" (HR {number(score[f'{name}_hr'], 2)})" if f"{name}_hr" in score else ""
    return {"text": f"{number(score[name], 2)}{of_hr}", "sort": score[name]}


def _signed(value):
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def score_columns(sources, split):
    """Return the heads of the cells of `score_rows`."""
    of_split = [score for methods in sources.scores[split].values() for score in methods.values()]
    texture = [title for name, title in TEXTURE.items() if of_split and name in of_split[0]]
    slices = ["SSIM of slices"] if of_split and "ssim_slices" in of_split[0] else []
    further = [title for name, title in SPECTRA.items() if of_split and name in of_split[0]]
    spectra = "spectrum error", *further
    return ["PSNR, dB", "gain, dB", "SSIM", *slices, *spectra, "error cut", *texture, "images"]


def start_rows(sources):
    """Return (name, [texts]) of what the training was made by: a text for each set of versions, device and
    data, with the updates at which the run started with it.
    """
    made = {}
    for start in sources.starts:
        facts = tuple(_fact(start.get(name)) for name in STARTS if name != "global_step")
        made.setdefault(facts, []).append(_fact(start.get("global_step")))
    rows = zip(STARTS.values(), zip(*((", ".join(steps), *facts) for facts, steps in made.items())))
    return [(name, texts) for name, texts in rows if any(text != NONE for text in texts)]


def _fact(value):
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return NONE if value is None else str(value)


def verdicts(sources):
    """Return [{split, rocks: [{rock, basis, lines: [{method, sentence, scores, evidence}]}]}].

    sentence: of measures.json; None without it, and for a method that is compared with no other, e.g.
    bicubic. scores: numbers, without a word that no interval stands behind.
    """
    return [
        {
            "split": split,
            "rocks": [
                {
                    "rock": rock,
                    "basis": basis(sources, split, rock),
                    "lines": [_verdict(sources, split, rock, method) for method in methods],
                }
                for rock, methods in rocks.items()
            ],
        }
        for split, rocks in sources.scores.items()
    ]


def _verdict(sources, split, rock, method):
    sentences = (sources.measures.get("verdicts") or {}).get(split, {}).get(rock) or {}
    rests_on = evidence(sources.entries(split, rock).get(method, {}))
    return {
        "method": method,
        "sentence": _without_name(sentences.get(method), method) if rests_on else None,
        "scores": _score_sentence(method, sources.scores[split][rock]),
        "evidence": rests_on,
    }


def _without_name(sentence, method):
    """Return a sentence without the name of its method, beside which it stands; None without one."""
    name, found, rest = (sentence or "").partition(": ")
    return rest[:1].upper() + rest[1:] if found and name == title(method) else sentence


def _score_sentence(method, methods):
    score, bicubic = methods[method], methods.get("bicubic")
    spectrum = f"spectrum error {number(score['spectrum_error'])}"
    if method == "bicubic" or bicubic is None:
        return f"PSNR {score['psnr']:.2f} dB, {spectrum}: the baseline of this rock."
    gain = score["psnr"] - bicubic["psnr"]
    of_bicubic = number(bicubic["spectrum_error"])
    return f"PSNR {_signed(gain)} dB against bicubic; {spectrum} against {of_bicubic}."


def basis(sources, split, rock):
    """Return in words how many images a rock's numbers rest on, those of the measure with most of them."""
    entries = [entry for of in sources.entries(split, rock).values() for entry in of.values()]
    counted = [entry for entry in entries if entry.get("images")]
    if not counted:
        count = max((score["count"] for score in sources.scores[split][rock].values()), default=0)
        return f"{count} image{'s' * (count != 1)}"
    counts = _counts(max(counted, key=lambda entry: entry["images"]))
    levels = {entry.get("level") for entry in counted}
    words = LEVELS.get(next((level for level in LEVELS if level in levels), None))
    return f"{counts}; {words or 'too few independent units for intervals, so nothing is decided'}"


def _counts(entry):
    """Return in words how many images, sources and plugs an entry rests on."""
    return ", ".join(
        f"{entry[name]} {word}{'s' * (entry[name] != 1)}"
        for name, word in (("images", "image"), ("sources", "source image"), ("plugs", "plug"))
        if entry.get(name)
    )


def _rests_on(entry):
    """Return the counts of an entry in words, the units that its interval resamples, and by what it sorts."""
    units = f"{entry['units']} {UNITS.get(entry['level'])}" if entry.get("units") else "too few units"
    return {"counts": _counts(entry), "units": units, "sort": entry.get("images", "")}


def evidence(entries):
    """Return the paired comparisons of a method: [{measure, other, difference, interval, decision}]."""
    rows = []
    for name, entry in entries.items():
        for other, against in (entry.get("against") or {}).items():
            rows.append(
                {"measure": measure_title(name), "other": title(other), **_comparison(entry, against)}
            )
    return rows


def _comparison(entry, against):
    """Return the difference of |bias| to another method, its interval (known: whether there is one) and what
    that decides; against: that of the entry.
    """
    show = _shown(entry)
    interval = against.get("interval")
    return {
        "difference": show(against.get("difference")),
        "interval": interval_text(interval, show),
        "known": is_interval(interval),
        "decision": decision(interval, entry.get("level")),
    }


def _shown(entry):
    """Return the function that writes biases of an entry: in %, those of absolute ones as numbers, with the
    unit where that is %.
    """
    if entry.get("bias_kind") != "absolute":
        return percent
    unit = PERCENT if entry.get("unit") == "%" else ""
    return lambda value: number(value, sign=True) + unit * is_number(value)


def claims(sources, split, rock):
    """Return the comparisons of the methods of a rock, and a row per measure that means something for work on
    pores: ([(method, other)], [{measure, meaning, biases, cells}]); a cell per comparison says whether the
    method is closer to HR, with the difference of |bias| and its interval.
    """
    entries = sources.entries(split, rock)
    methods = list(entries)
    pairs = [
        (method, other)
        for k, method in enumerate(methods)
        for other in dict.fromkeys([methods[0], methods[k - 1]])
        if k
    ]
    rows = []
    for name in measures_of(entries):
        of_methods = [entries[method].get(name) or {} for method in methods]
        if not meaning(name) or not any(is_number(entry.get("value")) for entry in of_methods):
            continue
        rows.append(
            {
                "measure": measure_title(name),
                "meaning": meaning(name),
                "biases": [_bias_cell(entry, 1.0)["bias"] for entry in of_methods],
                "cells": [_against(entries[method].get(name) or {}, other) for method, other in pairs],
            }
        )
    return pairs, rows


def _against(entry, other):
    return _comparison(entry, (entry.get("against") or {}).get(other) or {})


def interval_text(interval, show):
    if not is_interval(interval):
        return "none"
    low, high = map(show, interval)
    return f"{low.removesuffix(PERCENT)} to {high}"


def decision(interval, level):
    """Return what the interval of a paired difference of |bias| says: less is closer to HR. level: that is
    resampled; None: none.
    """
    if not is_interval(interval):
        return "not defined in some resamples" if level else "too few units"
    if interval[1] < 0:
        return "closer to HR"
    return "further from HR" if interval[0] > 0 else "undecided"


def measure_table(sources, split, rock, variant):
    """Return the methods and a row per measure: {measure, name, unit, hr, cells, rests_on}; a cell per method
    has its value, bias, interval and whether that excludes 0. What a row rests on is that of all methods.
    """
    entries = sources.entries(split, rock, variant)
    rows = []
    for name in measures_of(entries):
        of_methods = [entries[method].get(name) or {} for method in entries]
        in_pixels = next((entry["unit"] for entry in of_methods if entry.get("unit")), "")
        factor, unit = physical(in_pixels, sources.measures.get("ndim"), sources.voxel_size_um(rock))
        hr = next((factor * entry["hr"] for entry in of_methods if is_number(entry.get("hr"))), None)
        if all(not is_number(entry.get("value")) for entry in of_methods):
            continue  # e.g. connected porosity of images
        rows.append(
            {
                "name": name,
                "measure": measure_title(name),
                "unit": unit,
                "hr": cell(hr),
                "cells": [_bias_cell(entry, factor) for entry in of_methods],
                "rests_on": _rests_on(next(entry for entry in of_methods if entry)),
            }
        )
    return list(entries), rows


def _bias_cell(entry, factor):
    show = _shown(entry)
    bias, interval = entry.get("bias"), entry.get("interval")
    known = is_number(bias)
    return {
        "value": number(factor * entry["value"] if is_number(entry.get("value")) else None),
        "bias": show(bias) if known else NONE,
        "interval": interval_text(interval, show) if is_interval(interval) else "",
        "decided": is_interval(interval) and not interval[0] <= 0 <= interval[1],
        "sort": abs(bias) if known else "",
    }


def thresholds(sources):
    """Return [{rock, value, source, refused}] of every rock that measures.json names."""
    rows = []
    for rock, found in (sources.measures.get("thresholds") or {}).items():
        value = sources.threshold(rock)
        refused = (found or {}).get("refused") or "no threshold, so no measure of its pores"
        source = (found or {}).get("source") or ""
        rows.append(
            {
                "rock": rock,
                "value": None
                if value is None
                else f"{value:.3f} of the grey range ({255 * value:.0f} of 255)",
                "source": source,
                "refused": None if value is not None else refused,
            }
        )
    return rows
