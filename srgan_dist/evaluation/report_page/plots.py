"""The plots of the report, each of one rock and split, drawn on one axis.

Methods are {name: ...} in the order of their colours; HR is drawn in ink. Curves are float arrays, of which
None, empty and not finite parts are left out.
"""

import math

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from srgan_dist.evaluation.figures import draw_boxes, shorten
from srgan_dist.evaluation.report_page.svg import INK, METHODS, RULE, method_style
from srgan_dist.evaluation.report_page.words import measure_title, number, power_of_ten

MAX_POINTS = 240  # of a curve
MAX_IMAGES = 300  # of a method in a cross plot


def thin(*arrays, most=MAX_POINTS):
    """Return arrays of one length, shortened alike to at most `most` elements, ends included."""
    length = min(map(len, arrays))
    if length <= most:
        return tuple(array[:length] for array in arrays)
    chosen = np.linspace(0, length - 1, most).round().astype(int)
    return tuple(np.asarray(array)[chosen] for array in arrays)


def curves(axis, of_methods, x_label, y_label, x_scale="linear", dashed=None):
    """Draw a curve per method: {name: (x, y)}, "hr" in ink. dashed: the same after a median filter."""
    drawn = False
    for values, dash in ((of_methods, None), (dashed or {}, (0, (2, 2)))):
        for k, (method, (x, y)) in enumerate(values.items()):
            x, y = thin(np.asarray(x, float), np.asarray(y, float))
            if not (np.isfinite(x) & np.isfinite(y)).any():
                continue
            style = {"color": INK, "linewidth": 2.0} if method == "hr" else method_style(k - ("hr" in values))
            axis.plot(x, y, **style | ({"linestyle": dash, "linewidth": 1.0} if dash else {}))
            drawn = True
    axis.set(xlabel=x_label, ylabel=y_label)
    if drawn and x_scale == "log":
        _use_log(axis, "x")


def correlation(axis, of_methods, x_label, y_label, band=None):
    """Draw correlations over distance; band: (x, low, high) of HR's images, shaded."""
    if band is not None:
        axis.fill_between(*thin(*band), color=RULE, linewidth=0)
    curves(axis, of_methods, x_label, y_label)


def _use_log(axis, name):
    """Make the x or y axis logarithmic, with ticks in plain text: the usual ones are formulas."""
    axis.set(**{f"{name}scale": "log"})
    of_name = getattr(axis, f"{name}axis")
    of_name.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1)))
    of_name.set_minor_formatter(NullFormatter())


def frc(axis, of_methods, nyquist, length, unit):
    """Draw Fourier ring correlations over frequency in cycles per HR pixel, with both usual thresholds and
    the Nyquist frequency of LR; the ticks are periods. length: of an HR pixel, in the unit.
    """
    curves(axis, of_methods, f"period, {unit}", "correlation with HR")
    ticks = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    axis.set_xticks(ticks, [f"{length / frequency:.3g}" for frequency in ticks])
    axis.set_xlim(0, 0.5)
    axis.axvline(nyquist, color=INK, linewidth=0.8, linestyle=":")
    axis.set_ylim(-0.1, 1.15)
    axis.text(nyquist, 1.14, " Nyquist of LR", fontsize=8, va="top")
    for threshold, name in ((0.5, "0.5"), (1 / 7, "1/7")):
        axis.axhline(threshold, color=INK, linewidth=0.8, linestyle="--")
        axis.text(axis.get_xlim()[1], threshold, name, fontsize=8, va="bottom", ha="right")


def cross(axis, of_methods, label):
    """Draw SR against HR, a point per image and the line on which they are equal: {method: [(hr, sr)]}."""
    # Small values have their power of ten in the label
    values = [abs(value) for points in of_methods.values() for pair in points for value in pair]
    exponent = math.floor(math.log10(max(values))) if max(values) else 0
    factor = 1.0
    if exponent < -2:
        factor, power = 10.0**-exponent, power_of_ten(exponent)
        label = label.replace(", ", f", {power} ")
    for k, points in enumerate(of_methods.values()):
        x, y = thin(*factor * np.array(points, float).reshape(-1, 2).T, most=MAX_IMAGES)
        axis.plot(x, y, "osD^v"[k % 5], color=method_style(k)["color"], markersize=4, alpha=0.8)
    low = min(axis.get_xlim()[0], axis.get_ylim()[0])
    high = max(axis.get_xlim()[1], axis.get_ylim()[1])
    axis.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle="--")
    axis.set(xlim=(low, high), ylim=(low, high), xlabel=f"HR: {label}", ylabel="SR")
    axis.set_aspect("equal")
    axis.locator_params(nbins=5)


def calibration(axis, of_methods, draws):
    """Draw the error of the mean of `draws` draws over their spread: {method: [(spread, error)]}, in % of the
    range, a point per bin; on the dashed line the draws are as wide as the truth is uncertain.
    """
    top = max(value for points in of_methods.values() for pair in points for value in pair)
    for k, points in enumerate(of_methods.values()):
        x, y = np.array(points, float).reshape(-1, 2).T
        axis.plot(x, y, color=method_style(k)["color"], marker="osD^v"[k % 5], markersize=4, linewidth=1.2)
    steepness = math.sqrt((draws + 1) / draws)
    axis.plot([0, top / steepness], [0, top], color=INK, linewidth=0.8, linestyle="--")
    axis.set(xlabel="spread of the draws, %", ylabel="error of their mean, %")
    axis.set(xlim=(0, None), ylim=(0, None))


def bias(axis, raw, median):
    """Draw the signed relative bias of each measure in %, with its 95 % interval where there is one.

    raw, median: {method: {measure: entry of measures.json}}; median in hollow markers below.
    """
    names = biased_measures(raw)
    methods = list(raw)
    step = 0.8 / max(2 * len(methods), 1)
    for k, method in enumerate(methods):
        colour = method_style(k)["color"]
        for entries, fill, shift in ((raw[method], colour, 0), (median.get(method, {}), "none", 1)):
            for row, name in enumerate(names):
                if (found := _percent(entries.get(name))) is None:
                    continue
                value, interval = found
                y = row - 0.4 + (2 * k + shift + 0.5) * step
                if interval:
                    axis.plot(interval, [y, y], color=colour, linewidth=1.2)
                axis.plot([value], [y], "o", markersize=4, color=colour, markerfacecolor=fill)
    axis.axvline(0, color=INK, linewidth=1.0)
    axis.set_yticks(range(len(names)), [shorten(measure_title(name)) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("bias against HR, %")
    axis.grid(False, axis="y")
    for row in range(1, len(names)):
        axis.axhline(row - 0.5, color=RULE, linewidth=0.6)


def without_limits(entries):
    """Return entries without those whose HR value is the limit of all images, e.g. a period of 2 pixels: any
    method is far off, and others could not be seen beside it.
    """
    return {name: entry for name, entry in entries.items() if name != "frc_resolution"}


def biased_measures(entries):
    """Return the names of the measures of {method: {measure: entry}} that have a relative bias."""
    return [name for name in measures_of(entries) if any(_percent(of.get(name)) for of in entries.values())]


def _percent(entry):
    """Return (bias, interval or None) of an entry in %, None where it has no relative bias."""
    if not entry or entry.get("bias_kind") == "absolute" or not is_number(entry.get("bias")):
        return None
    interval = entry.get("interval")
    return 100 * entry["bias"], [100 * end for end in interval] if is_interval(interval) else None


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_interval(value):
    """Return whether a value is an interval of two finite ends; null means too few independent units."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value))


def measures_of(entries):
    """Return the names of the measures of {method: {measure: entry}}, in their order."""
    return list(dict.fromkeys(name for of in entries.values() for name in of))


def boxes(axis, methods):
    """Draw the PSNR per image: {method: list of dB}."""
    draw_boxes(axis, methods, METHODS, INK)
    axis.set_ylabel("PSNR per image, dB")
    axis.grid(False, axis="x")


def training(axis, of_names, y_label, phase_ends, y_scale="linear"):
    """Draw logged numbers against samples seen: {label: (x, y)}; ends of phases as dotted lines."""
    for k, (x, y) in enumerate(of_names.values()):
        marker = "." if len(x) < 30 else ""
        axis.plot(x, y, **method_style(k), marker=marker)
    if y_scale == "log" and any(value > 0 for _, y in of_names.values() for value in y):
        _use_log(axis, "y")
    for end in phase_ends:
        axis.axvline(end, color=INK, linewidth=0.8, linestyle=":")
    axis.set(xlabel="samples seen", ylabel=y_label)
    axis.xaxis.set_major_locator(MaxNLocator(5))
