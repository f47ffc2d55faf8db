"""The model card of a generator: what it was trained on, how it scores, and what it is not for."""

import numpy as np

import srgan_dist
from srgan_dist.models import noise_channels
from srgan_dist.models.summary import count_parameters

HEAD = """---
library_name: srgan_dist
pipeline_tag: image-to-image
tags: [super-resolution, micro-ct, digital-rocks]
---
"""
DEEPROCK_PAPER = "Wang, Armstrong, Mostaghimi (2020), doi:10.1029/2019WR026052"


def model_card(generator, facts):
    """Return README.md of an exported generator as text; facts: those of its weights file."""
    config, name = generator.config, (facts.get("config") or {}).get("name")
    title = f"{name}: super resolution" if name else "Super resolution"
    parts = [
        f"{HEAD}\n# {title} x{config.scale} of micro-CT {'images' if config.ndim == 2 else 'volumes'}",
        _network(generator, facts),
        f"## Use\n\n{_use(config)}",
        f"## Training data\n\n{_data(facts)}",
        f"## Scores\n\n{_scores(facts)}",
        f"## Limits of use\n\n{_limits(config, facts)}",
        f"## Provenance\n\n{_provenance(facts)}",
    ]
    return "\n\n".join(parts) + "\n"


def _network(generator, facts):
    config = generator.config
    objective = {"pretrain": "on grey levels (phase 1)", "adversarial": "against a discriminator (phase 2)"}
    trained = objective.get(facts.get("phase"), "with settings that its header names")
    seen = f", {facts['samples_seen']:,} crops seen" if facts.get("samples_seen") else ""
    texts = [
        f"`{config.name}` of srgan_dist, {count_parameters(generator):,} parameters, trained {trained}{seen}."
        f" The method is that of {DEEPROCK_PAPER}."
    ]
    if channels := noise_channels(config):
        texts.append(
            f"It takes {channels} channels of noise and makes grain of them; a draw of it is no measurement."
        )
    return " ".join(texts)


def _use(config):
    shape = "[H, W] -> [s*H, s*W]" if config.ndim == 2 else "[D, H, W] -> [s*D, s*H, s*W]"
    return f"""```python
import srgan_dist

generator = srgan_dist.from_pretrained("FOLDER, OR OWNER/NAME ON THE HUB")
sr = generator(lr)  # numpy uint8 or uint16 {shape}, s = {config.scale}
```

Or `srgan-dist upscale FOLDER scan.tif fine.tif`. Inside, grey levels 0 to 255 or 65535 become -1 to 1. The
settings of the network are in `config.json` and in the header of `model.safetensors`, which alone counts."""


def _data(facts):
    """Return a table of the training sets; a sentence where an older version wrote the weights."""
    if not (sets := facts.get("data")):
        return "The weights do not say: they were written by an older version of srgan_dist."
    lines = []
    for number, of in enumerate(sets, 1):
        title = f"Set {number} of {len(sets)}: " if len(sets) > 1 else ""
        lines += [
            f"{title}{of['dtype']}, x{of['scale']}, sha256 of its manifest `{of['sha256']}`.",
            "",
            "| rock | training images | grey levels | voxel size of HR, um |",
            "| --- | --- | --- | --- |",
            *(_rock_row(rock, row) for rock, row in of["rocks"].items()),
            "",
        ]
    if window := facts.get("window"):
        lines += [f"Values {window} of the volumes became black to white.", ""]
    if ranges := facts.get("grey_ranges"):
        lines += [_ranges(ranges, np.iinfo(sets[0]["dtype"]).max), ""]
    return "\n".join(lines).rstrip()


def _ranges(ranges, top):
    """Return a sentence with the range of LR of each rock, in several sets each of its ranges."""
    found = {}
    for own in ranges:
        levels = f"{own['low'] * top:.0f} to {own['high'] * top:.0f}"
        found.setdefault(_cell(own["rock"]), {})[levels] = None
    return (
        "The range of LR's grey levels (percentiles 1 and 99), with which that of an image is compared, of"
        f" {top}: " + "; ".join(f"{rock} {', '.join(levels)}" for rock, levels in found.items()) + "."
    )


def _rock_row(rock, row):
    sizes = row.get("voxel_size_um")
    if isinstance(sizes, list):
        sizes = " x ".join(f"{size:g}" for size in sizes)
    elif sizes is not None:
        sizes = f"{sizes:g}"
    levels = f"{row['darkest']} to {row['brightest']}"
    images = "not counted, streamed" if row["images"] is None else f"{row['images']:,}"
    return f"| {_cell(rock)} | {images} | {levels} | {sizes or 'not known'} |"


def _cell(text):
    """Return a text for a cell of a table: names of rocks are names of folders, which may be anything."""
    return " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _scores(facts):
    """Return a table of PSNR and SSIM beside bicubic; a sentence where there are none."""
    lines = []
    for split, rocks in (facts.get("scores") or {}).items():
        for rock, methods in rocks.items():
            sr, bicubic = methods.get("SR", {}), methods.get("bicubic", {})
            cells = [_pair(sr, bicubic, name, digits) for name, digits in (("psnr", 2), ("ssim", 4))]
            lines.append(f"| {split} | {_cell(rock)} | {' | '.join(cells)} |")
    if not lines:
        return "None: the run had no validation split."
    head = [
        "At the end of the phase, or at its best validation; means over whole images. PSNR in dB; both with"
        " the difference to bicubic (volumes: tricubic) interpolation.",
        "",
        "| split | rock | PSNR | SSIM |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *lines])


def _pair(sr, bicubic, name, digits):
    if (value := sr.get(name)) is None:
        return "-"
    difference = f" ({value - bicubic[name]:+.{digits}f})" if bicubic.get(name) is not None else ""
    return f"{value:.{digits}f}{difference}"


def _limits(config, facts):
    window = facts.get("window")
    lines = [
        f"- It enlarges {config.scale} times along each axis, grey images of one channel, 8 or 16 bits.",
        "- It knows the rocks, the scanner and the way LR was made that are in its training data. On other"
        " rocks, voxel sizes, kernels or noise it may be worse than interpolation: score it on a few pairs of"
        " your own first (`srgan-dist evaluate`).",
        "- Grey levels have to mean what they meant in training"
        + (f": map {window} to black and white." if window else "; nothing is rescaled."),
        "- SR is an estimate. Pores below the resolution of LR cannot be recovered; detail of a network that"
        " was trained against a discriminator is plausible, not measured. Porosity, surface and permeability"
        " of SR have a bias: measure it on pairs before relying on them.",
    ]
    return "\n".join(lines)


def _provenance(facts):
    provenance = facts.get("provenance") or {}
    rows = [f"- {name}: {value}" for name, value in provenance.items() if value is not None]
    return "\n".join([*rows, f"- exported by srgan_dist {srgan_dist.__version__}"])
