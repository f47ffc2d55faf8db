"""report.html: one file that shows an evaluation, in words first, and loads nothing."""

import base64
import datetime
import hashlib
import platform
from pathlib import Path

import jinja2
import matplotlib
import numpy
import torch
from markupsafe import Markup

import srgan_dist
from srgan_dist.evaluation.figures import format_scores, label, title
from srgan_dist.evaluation.report_page import pictures, plot_cards, tables
from srgan_dist.evaluation.report_page.sources import OPTIONAL, read_sources
from srgan_dist.evaluation.report_page.words import MEASURES, measure_title, number
from srgan_dist.utils.files import atomic_write

NAME = "report.html"
FOLDER = Path(__file__).with_name("report_page")
MAX_EXAMPLES = 12  # with crops
MAX_ROCKS = 8  # of a split, with plots; tables have all


def write_report(out, run, examples=(), written=OPTIONAL, facts=()):
    """Write OUT/report.html from the files of an evaluation directory and of its run; returns its path.

    examples: `examples.Example`s, whose crops and overlays are shown. written: names of the files beside the
    scores that the evaluation has written; older ones are left out. facts: (name, value) pairs of where the
    data are from. What is not there is left out, and the page says how to get it. Raises UserError without
    scores.json, or where one of the files is damaged.
    """
    sources = read_sources(out, run, written)
    page = render(sources, Path(run).resolve().name, list(examples), list(facts))
    path = Path(out) / NAME
    with atomic_write(path) as unfinished:
        # Names of files may hold bytes that are no text
        unfinished.write_bytes(page.encode("utf-8", "replace"))
    return path


def render(sources, run_name, examples, facts):
    """Return the page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        run_name=run_name,
        sources=sources,
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        methods=[
            {"name": name, "title": title(name), "number": k % 5} for k, name in enumerate(sources.methods)
        ],
        numbers={name: k % 5 for k, name in enumerate(sources.methods)},
        title=title,
        measure_title=measure_title,
        number=number,
        counts=image_counts(sources),
        verdicts=tables.verdicts(sources),
        tables=tables,
        crops=crop_sections(examples[:MAX_EXAMPLES], sources),
        left_out=max(len(examples) - MAX_EXAMPLES, 0),
        overlay_colours=pictures.OVERLAY,
        plots=plot_sections(sources),
        max_rocks=MAX_ROCKS,
        training=plot_cards.training_cards(sources),
        explanations=MEASURES,
        provenance=[*facts, *versions(sources)],
    )


def image_counts(sources):
    """Return {split: number of images}."""
    return {
        split: sum(max((s["count"] for s in methods.values()), default=0) for methods in rocks.values())
        for split, rocks in sources.scores.items()
    }


def crop_sections(examples, sources):
    """Return, split by split, the crops, error maps and overlays of its examples."""
    shown = {}
    for example in examples:
        maps, limit = pictures.errors(example)
        threshold = sources.threshold(example.rock)
        bright = sources.measures.get("phase") == "bright"
        overlays = {} if threshold is None else pictures.overlays(example, threshold, bright)
        shown.setdefault(example.split, []).append(
            {
                "rock": example.rock,
                "name": label(example.rock, example.plane),
                "key": example.key,
                "crops": pictures.crops(example),
                "captions": {name: format_scores(of) for name, of in example.scores.items()},
                "errors": maps,
                "error_limit": number(limit, 2),
                "overlays": overlays,
                "voxel_size_um": example.voxel_size_um,
            }
        )
    return shown


def plot_sections(sources):
    """Return {topic: {split: {rock: cards}}}; rocks and splits without a plot are left out."""
    topics = {
        "psnr": plot_cards.psnr_card,
        "bias": plot_cards.bias_card,
        "cross": plot_cards.cross_cards,
        "curves": plot_cards.curve_cards,
        "texture": plot_cards.texture_cards,
        "uncertainty": plot_cards.calibration_cards,
    }
    sections = {topic: {} for topic in topics}
    for topic, cards_of in topics.items():
        for split, rocks in sources.scores.items():
            for rock in list(rocks)[:MAX_ROCKS]:
                if cards := cards_of(sources, split, rock):
                    sections[topic].setdefault(split, {})[rock] = cards
    return sections


def versions(sources):
    """Return (name, version) of the programs that made the report and the measures."""
    found = {
        "srgan_dist": srgan_dist.__version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "numpy": numpy.__version__,
        "matplotlib": matplotlib.__version__,
    }
    return (found | (sources.measures.get("versions") or {})).items()
