"""Pictures for people: sample panels, and figures 2 and 3 of the paper."""

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend has to be chosen first)

TITLES = {"bicubic": "bicubic", "pretrain": "phase 1 (SRCNN)", "adversarial": "phase 2 (SRGAN)"}
COLOURS = {"bicubic": "#8c8c8c", "pretrain": "#4878a8", "adversarial": "#c8553d"}
CROP = 240  # HR pixels, as in figure 2 of the paper
GAP = 4


def centre(image, side):
    """Cut the central square of at most `side` pixels out of [H, W]."""
    height, width = (min(side, length) for length in image.shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def panel(lr, bicubic, sr, hr, side=CROP):
    """Draw LR | bicubic | SR | HR | error of one image as an RGB picture with captions.

    lr: [H, W], the others [s*H, s*W], numpy on [0, 1]; grey is stretched to the range of hr for display. The error
    |SR - HR| is shown on a scale from 0 to a quarter of that range.
    """
    scale = hr.shape[0] // lr.shape[0]
    side = side // scale * scale
    black, white = float(hr.min()), float(hr.max())
    span = max(white - black, 1e-6)
    lr = np.kron(centre(lr, side // scale), np.ones((scale, scale)))
    columns = {"LR": lr, "bicubic": bicubic, "SR": sr, "HR": hr}
    tiles = {name: _grey((centre(image, side) - black) / span) for name, image in columns.items()}
    tiles["error"] = _hot(np.abs(centre(sr, side) - centre(hr, side)) / (span / 4))
    return _row(tiles)


def _grey(unit):
    return np.repeat((unit.clip(0, 1) * 255).round().astype(np.uint8)[..., None], 3, axis=-1)


def _hot(unit):
    return (plt.get_cmap("magma")(unit.clip(0, 1))[..., :3] * 255).round().astype(np.uint8)


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


def figure_2(path, examples):
    """Draw figure 2 of the paper: per rock a full HR image with its box, crops of every method, and error maps.

    examples: rock -> {"hr", "lr", method: image}, all on [0, 1], lr [H, W] and the others [s*H, s*W]. The error maps of
    a rock share one scale, whose end is the 99th percentile of the bicubic error.
    """
    methods = [m for m in TITLES if any(m in images for images in examples.values())]
    columns = ["full", "LR", *methods, "HR"]
    figure, axes = plt.subplots(
        2 * len(examples), len(columns), figsize=(2.3 * len(columns), 4.9 * len(examples)), squeeze=False, layout="constrained"
    )
    for row, (rock, images) in enumerate(examples.items()):
        _draw_crops(axes[2 * row], rock, columns, images)
        _draw_errors(axes[2 * row + 1], columns, images)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_crops(axes, rock, columns, images):
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
            axis.add_patch(plt.Rectangle(corner, width, height, fill=False, edgecolor="red"))
            axis.set_title(rock)
            continue
        image = images["lr"] if column == "LR" else images.get(column.lower() if column == "HR" else column)
        if image is not None:
            axis.imshow(centre(image, side // scale if column == "LR" else side), interpolation="nearest", **grey)
        axis.set_title(TITLES.get(column, column))


def _draw_errors(axes, columns, images):
    side = CROP
    limit = max(float(np.percentile(np.abs(images["bicubic"] - images["hr"]), 99)), 1e-6)
    for axis, column in zip(axes, columns, strict=True):
        axis.set_axis_off()
        if column in TITLES and column in images:
            error = np.abs(centre(images[column], side) - centre(images["hr"], side))
            shown = axis.imshow(error, cmap="magma", vmin=0, vmax=limit, interpolation="nearest")
            axis.set_title(f"|{column} - HR|", fontsize=9)
    scale = axes[-1].inset_axes([0.05, 0.02, 0.08, 0.96])
    axes[-1].figure.colorbar(shown, cax=scale, label="error, share of full scale")


def figure_3(path, values):
    """Draw figure 3 of the paper: box plots of per-image PSNR. values: rock -> method -> list of dB."""
    figure, axes = plt.subplots(1, len(values), figsize=(2.9 * len(values) + 0.6, 3.6), squeeze=False, layout="constrained")
    for axis, (rock, methods) in zip(axes[0], values.items(), strict=True):
        names = [name for name in TITLES if name in methods]
        boxes = axis.boxplot([methods[name] for name in names], widths=0.6, patch_artist=True, medianprops={"color": "black"})
        for box, name in zip(boxes["boxes"], names, strict=True):
            box.set_facecolor(COLOURS[name])
        axis.set_xticks(range(1, len(names) + 1), [TITLES[name].replace(" (", "\n(") for name in names], fontsize=8)
        axis.set_title(f"{rock} ({len(methods[names[0]])} images)", fontsize=10)
    axes[0][0].set_ylabel("PSNR per image, dB")
    figure.savefig(path, dpi=130)
    plt.close(figure)
