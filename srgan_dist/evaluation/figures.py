"""Sample panels, and figures 2 and 3 of the paper; of a volume they show three orthogonal middle slices."""

import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw, ImageFont

from srgan_dist.data.sample import corner_of
from srgan_dist.evaluation.metrics import EXACT_COPY_MSE

# Of methods; others have their names as titles
TITLES = {"pretrain": "phase 1 (SRCNN)", "adversarial": "phase 2 (SRGAN)"}
COLOURS = ("#8c8c8c", "#4878a8", "#c8553d", "#5b9e62", "#8568a8")  # bicubic, phase 1, phase 2, ...
CROP = 240  # HR pixels, as in figure 2 of the paper
GAP = 4
MAX_EXAMPLES = 24  # in figure 2
MANY = 20  # values, from which on their points are spread beside one another
MAX_POINTS = 300  # of a box, spread evenly over its values
GOLDEN = 0.6180339887498949  # its multiples spread points evenly
BELOW = {"ha": "center", "va": "top", "fontsize": 8}
UNITS = (("mm", 1000.0), ("\u00b5m", 1.0), ("nm", 0.001))
PLANES = ("xy", "xz", "yz")  # of the slices of a volume across z, y and x


def title(method):
    """Return the name of a method in tables and figures."""
    return TITLES.get(method, method)


def shorten(name, most=24):
    """Return a name as a label of a plot, whose room is narrow."""
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def middle_slices(image):
    """Return {plane: [H, W]} of the middle slices of a volume [D, H, W]; of an image [H, W] itself: {"":
    image}.
    """
    if image.ndim == 2:
        return {"": image}
    return {plane: image.take(image.shape[axis] // 2, axis) for axis, plane in enumerate(PLANES)}


def name_plane(plane, record, corner, shape):
    """Return the name of the middle slice across one axis of a part of a sample, e.g. "xy, z = 64"; of an
    image "". The index is that of the source file, or of the sample where its record does not say where in
    the file it lies.

    plane: one of PLANES or "". corner, shape: of the part in the sample, in HR voxels.
    """
    if plane == "":
        return ""
    axis = PLANES.index(plane)
    first = (corner_of(record, 3) or (0, 0, 0))[axis]
    return f"{plane}, {'zyx'[axis]} = {first + corner[axis] + shape[axis] // 2}"


def size_along_bar(record, plane):
    """Return the HR voxel size in um along the rows of a slice, as its scale bar is; None where unknown.

    record: of the sample. plane: one of PLANES, or "" of an image.
    """
    sizes = record.get("voxel_sizes_um") or [record.get("voxel_size_um")] * 3
    return sizes[1] if plane == "yz" else sizes[2]


def label(name, plane):
    """Return the name of a rock or a column, with the plane of the slice if it is one of a volume."""
    return f"{name} {plane}".rstrip()


def centre(image, side):
    """Cut the central square of at most `side` pixels out of [H, W]."""
    height, width = (min(side, length) for length in image.shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def panel(lr, bicubic, sr, hr, plane="", side=CROP, voxel_size_um=None):
    """Draw LR | bicubic | SR | HR | error of one image, or of one slice of a volume, as an RGB picture with
    captions: PSNR of the crops that are shown, and a scale bar on the error, where it hides none of them.

    lr: [H, W], the others [s*H, s*W], numpy on [0, 1]; grey is stretched to the range of hr for display. The
    error |SR - HR| has a scale from 0 to a quarter of that range. plane: `name_plane` of the slice, for the
    first caption. voxel_size_um: of HR along its rows, None where it is unknown.
    """
    scale = hr.shape[0] // lr.shape[0]
    side = side // scale * scale
    black, white = float(hr.min()), float(hr.max())
    span = max(white - black, 1e-6)
    lr = np.kron(centre(lr, side // scale), np.ones((scale, scale)))
    crops = {"LR": lr, **{n: centre(x, side) for n, x in (("bicubic", bicubic), ("SR", sr), ("HR", hr))}}
    tiles = {name: _grey((crop - black) / span) for name, crop in crops.items()}
    tiles["error"] = _hot(np.abs(crops["SR"] - crops["HR"]) / (span / 4))
    captions = {name: name for name in tiles} | {
        "LR": label("LR", plane),
        **{name: f"{name} {_psnr_of_crop(crops[name], crops['HR']):.2f} dB" for name in ("bicubic", "SR")},
        "error": f"error 0 to {span / 4:.3f}",
    }
    picture = _row({captions[name]: tile for name, tile in tiles.items()})
    _draw_bar_of_panel(picture, tiles["error"].shape[1], voxel_size_um)
    return picture


def _psnr_of_crop(sr, hr):
    return -10 * math.log10(max(float(np.mean((sr - hr) ** 2)), EXACT_COPY_MSE))


def _draw_bar_of_panel(picture, width, voxel_size_um):
    """Draw a scale bar at the lower left of the last tile of a panel, `width` pixels wide."""
    length, text = scale_bar(width, voxel_size_um)
    draw, left, bottom = ImageDraw.Draw(picture), picture.width - width + 4, picture.height - 4
    draw.rectangle((left, bottom - 3, left + round(length), bottom), "white", "black")
    font, text = ImageFont.load_default(10), text.replace("\u00b5", "u")  # which the font has not
    draw.text((left, bottom - 16), text, "white", font, stroke_width=1, stroke_fill="black")


def _grey(unit):
    return np.repeat((unit.clip(0, 1) * 255).round().astype(np.uint8)[..., None], 3, axis=-1)


def _hot(unit):
    return (matplotlib.colormaps["magma"](unit.clip(0, 1))[..., :3] * 255).round().astype(np.uint8)


def _row(tiles):
    height = max(tile.shape[0] for tile in tiles.values())
    width = sum(tile.shape[1] + GAP for tile in tiles.values()) - GAP
    picture = Image.new("RGB", (width, height + 16), "white")
    draw, x = ImageDraw.Draw(picture), 0
    for name, tile in tiles.items():
        draw.text((x + 2, 2), name, "black", ImageFont.load_default(11))
        picture.paste(Image.fromarray(tile), (x, 16))
        x += tile.shape[1] + GAP
    return picture


def stack(pictures):
    """Put pictures below one another."""
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    y = 0
    for picture in pictures:
        canvas.paste(picture, (0, y))
        y += picture.height
    return canvas


def figure_2(examples):
    """Draw figure 2 of the paper: per example a full HR image with its box, crops of every method with scale
    bars, PSNR and SSIM of the whole image below, and error maps.

    examples: `examples.Example`s; bicubic is one of their methods. The error maps of an example share one
    scale, whose end is the 99th percentile of the bicubic error. More than MAX_EXAMPLES are left out.
    """
    left_out, examples = len(examples) - MAX_EXAMPLES, examples[:MAX_EXAMPLES]
    methods = [name for name in examples[0].images if name not in ("lr", "hr")]
    columns = ["full", "lr", *methods, "hr"]
    figure = Figure((2.3 * len(columns), 5.1 * len(examples)), layout="constrained")
    axes = figure.subplots(2 * len(examples), len(columns), squeeze=False)
    for row, example in enumerate(examples):
        _draw_crops(axes[2 * row], columns, example)
        _draw_errors(axes[2 * row + 1], methods, columns, example)
    if left_out > 0:
        figure.supxlabel(f"{left_out} further examples are left out", fontsize=9)
    return figure


def _draw_crops(axes, columns, example):
    hr = example.images["hr"]
    scale = hr.shape[0] // example.images["lr"].shape[0]
    side = CROP // scale * scale
    black, white = grey_range(hr)
    grey = {"cmap": "gray", "vmin": black, "vmax": white}
    for axis, column in zip(axes, columns, strict=True):
        axis.set_axis_off()
        if column == "full":
            axis.imshow(hr, **grey)
            height, width = centre(hr, side).shape
            corner = (hr.shape[1] - width) / 2, (hr.shape[0] - height) / 2
            axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="red"))
            name = f"{label(example.rock, example.plane)}\n{example.split}"
            if is_length(example.voxel_size_um):
                name += f", {example.voxel_size_um:.3g} \u00b5m per HR pixel"
            axis.set_title(name, parse_math=False, **({"fontsize": 9} if "\u00b5m" in name else {}))
            _draw_scale_bar(axis, hr.shape, 1, example.voxel_size_um)
        else:
            pixel = scale if column == "lr" else 1  # in HR pixels
            shown = centre(example.images[column], side // pixel)
            axis.imshow(shown, interpolation="nearest", **grey)
            axis.set_title(column.upper() if column in ("lr", "hr") else title(column), parse_math=False)
            _draw_scale_bar(axis, shown.shape, pixel, example.voxel_size_um)
        if column in example.scores:
            axis.text(0.5, -0.02, format_scores(example.scores[column]), **BELOW, transform=axis.transAxes)


def grey_range(hr):
    """Return the grey levels that are shown black and white: those of HR, for every method."""
    black = float(hr.min())
    return black, max(float(hr.max()), black + 1e-6)


def format_scores(scores):
    """Return the scores of an image as its caption."""
    return f"{scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}"


def is_length(voxel_size_um):
    """Return whether a voxel size is known, and one that can be."""
    return voxel_size_um is not None and 1e-6 < voxel_size_um < 1e6


def scale_bar(width, voxel_size_um=None):
    """Return the length in pixels of a scale bar for an image of `width` pixels, and its label: the largest
    of 1, 2 and 5 times a power of ten that is at most 0.4 of the width, in pixels without a voxel size.
    """
    known = is_length(voxel_size_um)
    limit = 0.4 * width * (voxel_size_um if known else 1)
    power = 10.0 ** math.floor(math.log10(limit))
    length = max(step * power for step in (1, 2, 5) if step * power <= limit * (1 + 1e-9))
    if not known:
        return max(length, 1.0), f"{max(length, 1.0):g} px"
    name, unit = next(pair for pair in UNITS if length >= pair[1] or pair is UNITS[-1])
    return length / voxel_size_um, f"{length / unit:g} {name}"


def _draw_scale_bar(axis, shape, pixel, voxel_size_um):
    """Draw a scale bar at the lower left of an image of `shape` whose pixels are `pixel` HR pixels wide."""
    length, text = scale_bar(shape[1] * pixel, voxel_size_um)
    left, bottom, thickness = 0.04 * shape[1], 0.95 * shape[0], 0.015 * shape[0]
    bar = Rectangle((left, bottom - thickness), length / pixel, thickness, color="white", ec="black", lw=0.5)
    axis.add_patch(bar)
    outline = [withStroke(linewidth=1.5, foreground="black")]
    axis.text(
        left, bottom - 2 * thickness, text, color="white", fontsize=7, va="bottom", path_effects=outline
    )


def _draw_errors(axes, methods, columns, example):
    images = example.images
    limit = error_limit(images)
    for axis, column in zip(axes, columns, strict=True):
        axis.set_axis_off()
        if column in methods:
            error = np.abs(centre(images[column], CROP) - centre(images["hr"], CROP))
            shown = axis.imshow(error, cmap="magma", vmin=0, vmax=limit, interpolation="nearest")
            axis.set_title(f"|{title(column).split(' (')[0]} - HR|", fontsize=9, parse_math=False)
            _draw_scale_bar(axis, error.shape, 1, example.voxel_size_um)
    scale = axes[-1].inset_axes([0.05, 0.02, 0.08, 0.96])
    axes[-1].figure.colorbar(shown, cax=scale, label="error, share of full scale")


def error_limit(images):
    """Return the error at the end of the scale of an example's error maps."""
    return max(float(np.percentile(np.abs(images["bicubic"] - images["hr"]), 99)), 1e-6)


def figure_3(values):
    """Draw figure 3 of the paper: box plots of per-image PSNR, a row per split and a column per rock.

    values: split -> rock -> method -> list of dB. Images are points, too.
    """
    rocks = sorted({rock for of_split in values.values() for rock in of_split})
    figure = Figure((2.9 * len(rocks) + 0.6, 3.6 * len(values)), layout="constrained")
    axes = figure.subplots(len(values), len(rocks), squeeze=False)
    for row, (split, of_split) in zip(axes, values.items(), strict=True):
        for axis, rock in zip(row, rocks, strict=True):
            if rock not in of_split:
                axis.set_axis_off()
                continue
            draw_boxes(axis, of_split[rock])
            count = len(next(iter(of_split[rock].values())))
            name = f"{rock}, {split} ({count} image{'s' * (count != 1)})"
            axis.set_title(name, fontsize=10, parse_math=False)
        row[0].set_ylabel("PSNR per image, dB")
    return figure


def draw_boxes(axis, methods, colours=COLOURS, ink="black"):
    """Draw a box per method (name -> list of values), and up to MAX_POINTS of its values as points."""
    style = {f"{part}props": {"color": ink} for part in ("whisker", "cap", "median")}
    style["boxprops"] = {"edgecolor": ink}
    style["showfliers"] = False  # they are points
    boxes = axis.boxplot(list(methods.values()), widths=0.6, patch_artist=True, **style)
    for number, (box, values) in enumerate(zip(boxes["boxes"], methods.values(), strict=True)):
        box.set_facecolor(colours[number % len(colours)])
        chosen = np.linspace(0, len(values) - 1, min(len(values), MAX_POINTS)).round().astype(int)
        points = np.sort(values)[chosen]
        aside = (np.arange(len(points)) * GOLDEN % 1 - 0.5) * 0.5 if len(values) >= MANY else 0 * points
        few = {"markersize": 3} if len(values) < MANY else {"markersize": 1.5, "alpha": 0.5}
        axis.plot(number + 1 + aside, points, ".", color=ink, **few)
    names = [shorten(title(name)).replace(" (", "\n(") for name in methods]
    axis.set_xticks(range(1, len(names) + 1), names, fontsize=8, parse_math=False)
