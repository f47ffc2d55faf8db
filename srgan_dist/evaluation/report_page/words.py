"""Names, explanations and numbers as the report writes them."""

import math
from typing import NamedTuple

NONE = "\N{EN DASH}"  # in the place of a value that there is not
PERCENT = "\N{NO-BREAK SPACE}%"
SUPERSCRIPTS = str.maketrans("-0123456789", "\N{SUPERSCRIPT MINUS}⁰¹²³⁴⁵⁶⁷⁸⁹")


class Measure(NamedTuple):
    """How a measure of measures.json is called and explained."""

    title: str
    explanation: str
    meaning: str = ""  # for work on porosity and permeability


MEASURES = {
    "grey_error": Measure(
        "grey level error",
        "root mean square difference of SR and HR, of the grey range: what PSNR is made of",
        "Every later segmentation starts from grey levels, at whatever threshold.",
    ),
    "porosity": Measure(
        "porosity",
        "share of pore pixels below the rock's threshold",
        "Pore volume, and with it fluid in place, is wrong by the same percentage.",
    ),
    "dice": Measure(
        "Dice",
        "overlap of the pores of SR and HR, 2 |A and B| / (|A| + |B|); 1 is the same pixels",
        "Simulations on this very plug need pores in their places, not only as many.",
    ),
    "invented_pores": Measure(
        "invented pores",
        "share of the pixels more than 3 pixels deep in HR's grains that are pores of SR after the median",
        "Voids where the rock is solid; porosity hides them where as many other pores are missed.",
    ),
    "specific_interface": Measure(
        "specific interface",
        "length (2-D) or area (3-D) of the pore-solid interface per area or volume, Crofton",
        "Reaction and adsorption rates follow it; Kozeny-Carman permeability falls with its square.",
    ),
    "euler_density": Measure(
        "Euler density",
        "pores minus loops (plus cavities in 3-D) per area or volume: how connected the pores are",
        "Too few pieces are lost small pores, too many broken throats, which cut permeability.",
    ),
    "two_point_error": Measure(
        "two-point error",
        "mean distance of the normalised two-point correlations of SR and HR",
        "How pores are arranged over distances, from which rocks are reconstructed.",
    ),
    "chord_length": Measure(
        "chord length",
        "mean length of straight runs through pores",
        "Too long where small pores are lost, and free paths with it.",
    ),
    "pore_size": Measure(
        "pore size",
        "mean radius of the largest disc or ball that covers a pore pixel",
        "Permeability grows with the square of the pore radius, capillary pressure falls with it.",
    ),
    "connected_porosity": Measure(
        "connected porosity",
        "share of voxels that are pores which lead from side to side, mean over axes",
        "Only these pores carry flow.",
    ),
    "frc_resolution": Measure(
        "FRC resolution",
        "shortest period at which the Fourier ring correlation with HR is above 0.5; 2 pixels is perfect",
        "Throats narrower than half of this period are not resolved, whatever they look like.",
    ),
    "frc_gain": Measure(
        "FRC gain", "frequency up to which it is above 0.5, over LR's Nyquist; 1 is nothing gained"
    ),
    "lattice_excess": Measure(
        "lattice excess", "power at the frequencies of the upsampling's own grid, more than around them"
    ),
    "phase_dependence": Measure(
        "phase dependence", "how much grey levels depend on the place within the grid of LR pixels"
    ),
    "permeability": Measure(
        "permeability", "Stokes flow through the pores of a volume", "The number itself that flow depends on."
    ),
}


def measure_title(name):
    """Return the name of a measure in plots and tables; that of an unknown one without underscores."""
    return MEASURES[name].title if name in MEASURES else name.replace("_", " ")


def meaning(name):
    """Return what a bias of a measure means for work on porosity and permeability; "" where nothing is
    said.
    """
    return MEASURES[name].meaning if name in MEASURES else ""


def number(value, digits=3, sign=False):
    """Return a number as text: integers whole, a float with `digits` significant digits and powers of ten in
    superscript, an en dash for None and what is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return NONE
    plus = "+" if sign and value > 0 else ""
    if value == 0:
        return "0"
    if isinstance(value, int) and abs(value) < 1e9:
        text = f"{value:,}"
    elif 1e-3 <= abs(value) < 1e6:
        decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
        text = f"{value:,.{decimals}f}"
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}\N{MULTIPLICATION SIGN}{power_of_ten(int(exponent))}"
    return plus + text.replace("-", "\N{MINUS SIGN}")


def power_of_ten(exponent):
    return f"10{str(exponent).translate(SUPERSCRIPTS)}"


def percent(value):
    """Return a signed share as text in %."""
    if number(value) == NONE:
        return NONE
    text = f"{100 * value:+.1f}" if abs(value) < 9.995 else f"{100 * value:+,.0f}"
    return text.replace("-", "\N{MINUS SIGN}") + PERCENT


POWERS = {"px": 1, "1/px": -1, "1/px^2": -2, "1/px^3": -3}  # units of length
MILLIDARCY = 9.8692e-4  # square micrometres


def physical(unit, ndim, voxel_size_um=None):
    """Return the factor that a value in `unit` has in micrometres, and that unit as the page writes it; of
    permeability, in px^2, in millidarcy.

    unit: of measures.json; px^n stands for px to the power of ndim. Without a voxel size pixels stay.
    """
    unit = unit.replace("^n", f"^{ndim}")
    if unit == "px^2" and voxel_size_um:
        return voxel_size_um**2 / MILLIDARCY, "mD"
    known = unit in POWERS and voxel_size_um
    factor = voxel_size_um ** POWERS[unit] if known else 1.0
    name = unit.replace("px", "\N{MICRO SIGN}m") if known else unit
    return factor, name.replace("^2", "\N{SUPERSCRIPT TWO}").replace("^3", "\N{SUPERSCRIPT THREE}")
