"""Crops, error maps and overlays as data URLs of PNG files with 256 colours at most."""

import base64
import io

import matplotlib
import numpy as np
from PIL import Image

from srgan_dist.evaluation.figures import centre, error_limit, grey_range, scale_bar

# Pore of both, of HR only, of SR only: apart for all common kinds of colour vision, and in grey
OVERLAY = {"agree": (0, 90, 181), "missed": (255, 194, 10), "invented": (200, 30, 60)}
OPACITY = 0.75
SIDE = 200  # HR pixels of a crop: a page of a dozen crops stays below 5 MB
THUMBNAIL = 240  # pixels, about


def data_url(indices, palette):
    """Return a PNG file of [H, W] uint8 indices into a palette of (red, green, blue), 256 at most."""
    image = Image.fromarray(indices, "P")
    image.putpalette(np.asarray(palette, np.uint8).tobytes())
    written = io.BytesIO()
    image.save(written, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


GREYS = np.repeat(np.arange(256)[:, None], 3, 1)
MAGMA = (matplotlib.colormaps["magma"](np.linspace(0, 1, 48))[:, :3] * 255).round()


def _levels(unit, count=256):
    return (np.clip(np.nan_to_num(unit), 0, 1) * (count - 1)).round().astype(np.uint8)


def stretched(image, hr):
    """Return grey levels such that the darkest of HR is 0 and its brightest 1."""
    black, white = grey_range(hr)
    return (image - black) / (white - black)


def crops(example, side=SIDE):
    """Return what figure 2 shows of an example: a list of {name, url, width, height, bar, box}.

    bar: (share of the width, label) of the scale bar. box: of the crop within the full image in shares (left,
    top, width, height), for the full image only.
    """
    hr, lr = example.images["hr"], example.images["lr"]
    scale = hr.shape[0] // lr.shape[0]
    side = side // scale * scale
    shown = [_full(example, side)]
    for name, image in example.images.items():
        pixel = scale if name == "lr" else 1
        cut = centre(image, side // pixel)
        shown.append(_picture(name, cut, data_url(_levels(stretched(cut, hr)), GREYS), pixel, example))
    return shown


def _full(example, side):
    hr = example.images["hr"]
    factor = max(max(hr.shape) // THUMBNAIL, 1)
    height, width = (length // factor * factor for length in hr.shape)
    small = hr[:height, :width].reshape(height // factor, factor, width // factor, factor).mean((1, 3))
    picture = _picture("full", small, data_url(_levels(stretched(small, hr)), GREYS), factor, example)
    inner = np.array(centre(hr, side).shape) / hr.shape
    return picture | {"box": [float(v) for v in (*((1 - inner) / 2)[::-1], *inner[::-1])]}


def _picture(name, image, url, pixel, example):
    length, label = scale_bar(image.shape[1] * pixel, example.voxel_size_um)
    share = min(length / pixel / image.shape[1], 0.9)
    height, width = image.shape
    return {"name": name, "url": url, "width": width, "height": height, "bar": (share, label), "box": None}


def errors(example, side=SIDE):
    """Return {method: data URL} of |SR - HR| of the crops, on the one scale of figure 2, and its end."""
    limit = error_limit(example.images)
    hr = centre(example.images["hr"], side)
    maps = {
        name: data_url(_levels(np.abs(centre(image, side) - hr) / limit, len(MAGMA)), MAGMA)
        for name, image in example.images.items()
        if name not in ("lr", "hr")
    }
    return maps, limit


def overlays(example, threshold, bright=False, side=SIDE):
    """Return {method: (data URL, {"agree", "missed", "invented": share of the crop})}: the pores of HR
    against those of each method over the grey HR crop.

    threshold: grey level on [0, 1]; pores are darker, or brighter with `bright`.
    """
    hr = centre(example.images["hr"], side)
    grey = _levels(stretched(hr, example.images["hr"]), 64)
    ramp = np.repeat(np.linspace(0, 255, 64)[:, None], 3, 1)
    tints = [OPACITY * np.array(colour) + (1 - OPACITY) * ramp for colour in OVERLAY.values()]
    palette = np.concatenate([ramp, *tints]).round()
    shown = {}
    for name, image in example.images.items():
        if name in ("lr", "hr"):
            continue
        of_hr, of_sr = (cut > threshold if bright else cut < threshold for cut in (hr, centre(image, side)))
        kind = np.select([of_hr & of_sr, of_hr, of_sr], [1, 2, 3], 0)
        shares = {word: float((kind == k).mean()) for k, word in enumerate(OVERLAY, 1)}
        shown[name] = data_url((64 * kind + grey).astype(np.uint8), palette), shares
    return shown
