"""Sample panels, and figures 2 and 3 of the paper; of a volume they show three orthogonal middle slices."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

# Of methods; others have their names as titles
TITLES = {"pretrain": "phase 1 (SRCNN)", "adversarial": "phase 2 (SRGAN)"}
COLOURS = ("#8c8c8c", "#4878a8", "#c8553d", "#5b9e62", "#8568a8")  # bicubic, phase 1, phase 2, ...
CROP = 240  # HR pixels, as in figure 2 of the paper
GAP = 4
PLANES = ("xy", "xz", "yz")  # of the slices of a volume across z, y and x


def title(method):
    """Return the name of a method in tables and figures."""
    return TITLES.get(method, method)


def middle_slices(image):
    """Return {plane: [H, W]} of the middle slices of a volume [D, H, W]; of an image [H, W] itself: {"":
    image}.
    """
    if image.ndim == 2:
        return {"": image}
    return {plane: image.take(image.shape[axis] // 2, axis) for axis, plane in enumerate(PLANES)}


def label(name, plane):
    """Return the name of a rock or a column, with the plane of the slice if it is one of a volume."""
    return f"{name} {plane}".rstrip()


def centre(image, side):
    """Cut the central square of at most `side` pixels out of [H, W]."""
    height, width = (min(side, length) for length in image.shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def panel(lr, bicubic, sr, hr, plane="", side=CROP):
    """Draw LR | bicubic | SR | HR | error of one image, or of one slice of a volume, as an RGB picture with
    captions.

    lr: [H, W], the others [s*H, s*W], numpy on [0, 1]; grey is stretched to the range of hr for display. The
    error |SR - HR| has a scale from 0 to a quarter of that range. plane: one of PLANES, for the first
    caption.
    """
    scale = hr.shape[0] // lr.shape[0]
    side = side // scale * scale
    black, white = float(hr.min()), float(hr.max())
    span = max(white - black, 1e-6)
    lr = np.kron(centre(lr, side // scale), np.ones((scale, scale)))
    columns = {label("LR", plane): lr, "bicubic": bicubic, "SR": sr, "HR": hr}
    tiles = {name: _grey((centre(image, side) - black) / span) for name, image in columns.items()}
    tiles["error"] = _hot(np.abs(centre(sr, side) - centre(hr, side)) / (span / 4))
    return _row(tiles)


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
    """Draw figure 2 of the paper: per rock a full HR image with its box, crops of every method, and error
    maps.

    examples: name of an image -> {"lr": image, method: image, ..., "hr": image}, all on [0, 1], lr [H, W] and
    the others [s*H, s*W]; bicubic is one of the methods. The error maps of an image share one scale, whose
    end is the 99th percentile of the bicubic error.
    """
    methods = [name for name in next(iter(examples.values())) if name not in ("lr", "hr")]
    columns = ["full", "lr", *methods, "hr"]
    figure = Figure((2.3 * len(columns), 4.9 * len(examples)), layout="constrained")
    axes = figure.subplots(2 * len(examples), len(columns), squeeze=False)
    for row, (name, images) in enumerate(examples.items()):
        _draw_crops(axes[2 * row], name, columns, images)
        _draw_errors(axes[2 * row + 1], methods, columns, images)
    return figure


def _draw_crops(axes, name, columns, images):
    hr = images["hr"]
    scale = hr.shape[0] // images["lr"].shape[0]
    side = CROP // scale * scale
    grey = {"cmap": "gray", "vmin": float(hr.min()), "vmax": max(float(hr.max()), float(hr.min()) + 1e-6)}
    for axis, column in zip(axes, columns, strict=True):
        axis.set_axis_off()
        if column == "full":
            axis.imshow(hr, **grey)
            height, width = centre(hr, side).shape
            corner = (hr.shape[1] - width) / 2, (hr.shape[0] - height) / 2
            axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="red"))
            axis.set_title(name)
        else:
            shown = centre(images[column], side // scale if column == "lr" else side)
            axis.imshow(shown, interpolation="nearest", **grey)
            axis.set_title(column.upper() if column in ("lr", "hr") else title(column))


def _draw_errors(axes, methods, columns, images):
    limit = max(float(np.percentile(np.abs(images["bicubic"] - images["hr"]), 99)), 1e-6)
    for axis, column in zip(axes, columns, strict=True):
        axis.set_axis_off()
        if column in methods:
            error = np.abs(centre(images[column], CROP) - centre(images["hr"], CROP))
            shown = axis.imshow(error, cmap="magma", vmin=0, vmax=limit, interpolation="nearest")
            axis.set_title(f"|{title(column).split(' (')[0]} - HR|", fontsize=9)
    scale = axes[-1].inset_axes([0.05, 0.02, 0.08, 0.96])
    axes[-1].figure.colorbar(shown, cax=scale, label="error, share of full scale")


def figure_3(values):
    """Draw figure 3 of the paper: box plots of per-image PSNR. values: rock -> method -> list of dB."""
    figure = Figure((2.9 * len(values) + 0.6, 3.6), layout="constrained")
    axes = figure.subplots(1, len(values), squeeze=False)
    for axis, (rock, methods) in zip(axes[0], values.items(), strict=True):
        boxes = axis.boxplot(
            list(methods.values()), widths=0.6, patch_artist=True, medianprops={"color": "black"}
        )
        for number, box in enumerate(boxes["boxes"]):
            box.set_facecolor(COLOURS[number % len(COLOURS)])
        names = [title(name).replace(" (", "\n(") for name in methods]
        axis.set_xticks(range(1, len(names) + 1), names, fontsize=8)
        count = len(next(iter(methods.values())))
        axis.set_title(f"{rock} ({count} image{'s' * (count != 1)})", fontsize=10)
    axes[0][0].set_ylabel("PSNR per image, dB")
    return figure
