"""Plots as SVG of the page: text as text, colours as its CSS variables, nothing that a browser would load."""

import io
import re
import warnings

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

# Colours that stand for CSS variables of the page, which differ in light and dark
INK, RULE = "#010203", "#020304"
METHODS = tuple(f"#0304{number:02x}" for number in range(5))  # bicubic, phase 1, phase 2, ...
VARIABLES = {INK: "--ink", RULE: "--rule"} | {c: f"--method-{k}" for k, c in enumerate(METHODS)}
DASHES = ("-", "--", ":", "-.")
SIZE = 3.6, 2.75  # inches; the page scales it
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "srgan_dist",
    "text.parse_math": False,
    "axes.formatter.limits": (-3, 5),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "font.size": 10,
    "axes.labelsize": 10,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


def method_style(number):
    """Return colour and dash of the method of a number; a sixth one repeats a colour with another dash."""
    return {
        "color": METHODS[number % len(METHODS)],
        "linestyle": DASHES[number // len(METHODS) % len(DASHES)],
    }


def draw(name, plot, *arguments, size=SIZE, **options):
    """Return the SVG of plot(axis, *arguments, **options), named for readers that do not see it."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks: browsers have it
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # labels leave no room
        figure = Figure(size, layout="constrained")
        axis = figure.subplots()
        axis.set_axisbelow(True)
        plot(axis, *arguments, **options)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return inline(written.getvalue(), name)


def inline(text, name):
    """Return an SVG file of matplotlib as an element of an HTML page."""
    body = text[text.index("<svg") :]
    view_box = re.search(r'viewBox="[^"]*"', body).group()
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace(' xmlns="http://www.w3.org/2000/svg"', "").replace("xlink:href", "href")
    # Groups have ids that are the same in every plot; only markers and clips are referred to
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found.group() if found[1] in used else "", body)
    body = re.sub(r"(font-family: |px )'DejaVu Sans'[^;\"]*", r"\1inherit", body)
    body = re.sub(r"font: ([\d.]+)px inherit", r"font-size: \1px", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r"\n\s*", "\n", body)
    body = re.sub(r' (?:d|x|y|transform|points)="[^"]*"', _to_tenths, body)
    title = escape(name)
    return Markup(f'<svg role="img" aria-label="{title}" {view_box}>\n<title>{title}</title>{body}')


def _to_tenths(attribute):
    """Return the coordinates of an attribute in tenths of a point."""
    return re.sub(r"(\d+\.\d)\d+", r"\1", attribute.group())
