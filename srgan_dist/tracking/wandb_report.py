"""A report of runs for wandb, made by code: titled panels of everything that the runs have logged.

`report_of` makes it without a server; `save_report` sends it to the account that holds the runs.
"""

import contextlib
import importlib.util
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from srgan_dist.tracking.tracker import X_AXIS, project_of
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import open_regular, read_regular
from srgan_dist.utils.json_text import load_json

SESSION = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(.+)")  # folder of wandb in a run directory; its run's id
COLUMNS, HEIGHT = 3, 8  # panels of a row, of 24 units together, and units of height
WIDE = {"w": 24, "h": 16}  # of images and tables

# Panels of whole images: (title, unit, names behind val/ or test/). Those of a rock end in its name
SCORES = [
    ("PSNR", "dB", "psnr"),
    ("PSNR gain over bicubic", "dB", "psnr_gain"),
    ("PSNR gain over bicubic, per rock", "dB", "psnr_gain/.+"),
    ("SSIM; of volumes also the mean over slices", "", "ssim(_slices)?"),
    ("Texture score, which chooses the best weights of phase 2", "dB", "texture_score"),
]
TEXTURE = [
    ("Spectrum error: radially averaged power of SR against HR", "", "spectrum_error"),
    ("Spectrum error along z, y, x", "", "spectrum_error_[zyx]"),
    ("Spectrum error per direction", "", "directional_spectrum_error"),
    ("Phase dependence of SR and of HR itself", "", "phase_dependence(_hr)?"),
    ("Lattice excess of SR and of HR itself", "dB", "lattice_excess(_hr)?"),
]
GREY_LEVELS = [
    ("Shift of the mean grey level", "% of the range", "mean_shift"),
    ("Distance of the histograms, of SR and of bicubic", "%", "histogram_distance(_bicubic)?"),
]
ROCKS = [
    ("Porosity of SR over HR's, minus 1", "", "rock/porosity_bias/.+"),
    ("Interface of pores of SR over HR's", "", "rock/interface_ratio/.+"),
    ("Phase dependence above HR's own", "", "rock/phase_dependence/.+"),
    ("Lattice excess above HR's own", "dB", "rock/lattice_excess/.+"),
]

# Curves: (title, what they are, panels). Names of a pattern share a panel, or have one EACH
EACH = object()
CURVES = [
    (
        "Accuracy",
        "Whole images of the validation split; PSNR of training crops for comparison.",
        [
            *((title, unit, f"val/({names})") for title, unit, names in SCORES),
            ("PSNR of training crops", "dB", "train/psnr"),
        ],
    ),
    (
        "Texture",
        "0 is the texture of HR. Phase dependence and lattice excess show patterns with the period of the"
        " upsampling; HR's own are chance.",
        [(title, unit, f"val/({names})") for title, unit, names in TEXTURE],
    ),
    (
        "Grey levels",
        "Whether thresholds that were chosen on HR hold for SR.",
        [(title, unit, f"val/({names})") for title, unit, names in GREY_LEVELS],
    ),
    (
        "Rock measures",
        "Of images segmented at Otsu's threshold of the training images.",
        [(title, unit, f"val/({names})") for title, unit, names in ROCKS],
    ),
    (
        "Losses",
        "Terms without their weights, means over the updates since the last record and over ranks.",
        [
            ("Generator: weighted sum of its terms", "", "loss/generator"),
            ("Discriminator", "", "loss/discriminator"),
            ("R1 penalty of the discriminator", "", "loss/r1"),
            (EACH, "", "loss/.+"),
            ("Share of each term in the generator's objective", "", "health/share/.+"),
            ("Learning rates", "", "lr/.+"),
        ],
    ),
    (
        "Health of the GAN",
        "The discriminator has won near 1 and 0, and has lost where it takes HR and SR for the same.",
        [
            ("Mean probability that HR, that SR is real", "", "d/(real|fake)"),
            ("Gradient norms before clipping", "", "health/grad_norm/.+"),
            ("Updates that were skipped", "", "health/skipped"),
        ],
    ),
    (
        "Speed",
        "Of the slowest rank, since the last record.",
        [
            ("Training crops per second", "samples/s", "speed/samples_per_second"),
            ("Times of single updates", "ms", "speed/step_ms_.+"),
            ("Share of the time that waits for data", "", "speed/data_wait"),
            ("Peak memory", "MiB", "speed/memory_mib"),
        ],
    ),
    ("Data", "Corrupt training samples that others replace.", [("Corrupt samples", "", "data/.+")]),
    ("Other records", "", [(EACH, "", "(?!test/).+")]),
]
BARS = [(title, unit, f"test/({names})") for title, unit, names in SCORES + TEXTURE + GREY_LEVELS + ROCKS]
BARS.append((EACH, "", "test/.+"))


@dataclass(frozen=True)
class LoggedRun:
    """What a run directory says of its run in wandb."""

    name: str
    ids: list  # of wandb
    project: str
    entity: str | None
    names: list  # of the numbers that it has logged, in their order
    images: bool  # whether there are panels of validation images
    tables: list  # names of the tables of scores that ended phases have
    best: list  # names of the best scores in the summary


def read_run(path):
    """Read a run directory; raises UserError where it has no records, or none of wandb."""
    path, names = Path(path), {}
    if not (path / "metrics.jsonl").exists():
        raise UserError(f"RUN={path} holds no metrics.jsonl; give the directory of a run, e.g. runs/NAME")
    with open_regular(path / "metrics.jsonl") as file:
        for line in file:
            try:
                names |= dict.fromkeys(load_json(line))
            except (ValueError, TypeError):  # cut off by a crash
                continue
    ids = [match[1] for folder in path.glob("wandb/*") if (match := SESSION.fullmatch(folder.name))]
    if not ids:
        raise UserError(
            f"RUN={path} holds no record of wandb (wandb/*run-*): it was trained with wandb disabled, or the"
            " folder was deleted; give another run"
        )
    config = _config_of(path / "config.yaml")
    tracking = config.get("tracking") or {}
    scored = any(re.match("(val|test)/", name) for name in names)
    ended = [file.stem for file in sorted(path.glob("weights/*.safetensors")) if scored]
    best = [file.stem for file in sorted(path.glob("weights/best/*.safetensors"))]
    return LoggedRun(
        name=str(config.get("name") or path.name),
        ids=sorted(set(ids)),
        project=project_of(tracking.get("project")),
        entity=tracking.get("entity"),
        names=[name for name in names if name not in (X_AXIS, "time")],
        images=any(path.glob("samples/*.png")),
        tables=[f"{kind}/{phase}" for phase in ended for kind in ("scores", "measures")],
        best=[f"best/{phase}/{name}" for phase in best for name in ("psnr", "score")],
    )


def _config_of(path):
    try:
        content = YAML(typ="safe", pure=True).load(read_regular(path))
        return dict(content)
    except (OSError, ValueError, TypeError, YAMLError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split()):.160}); restore it") from None


def report_of(runs, title=None, project=None, entity=""):
    """Return the Report of some LoggedRuns, an object of wandb_workspaces, without asking a server.

    project: of wandb, in which they are; None: that which they have in common. Raises UserError where they
    have none in common, or wandb_workspaces is not installed.
    """
    wr = _workspaces()
    projects = sorted({run.project for run in runs})
    if project is None and len(projects) > 1:
        raise UserError(
            f"the runs are in several projects of wandb, {', '.join(projects)}; give those of one, or say to"
            " which they were sent, with --project"
        )
    chosen = f"ID in {[id for run in runs for id in run.ids]}"
    blocks = [wr.TableOfContents()]
    for heading, text, panels in _sections(wr, runs):
        blocks += [wr.H1(heading), *([wr.P(text)] if text else [])]
        blocks.append(wr.PanelGrid(runsets=[wr.Runset(name="runs", filters=chosen)], panels=panels))
    return wr.Report(
        project=project or projects[0],
        entity=entity,
        title=(title or f"Super resolution of rocks: {', '.join(run.name for run in runs)}")[:128],
        description="Made by srgan-dist report of what the trainings logged; docs/metrics.md explains names.",
        blocks=blocks,
        width="fluid",
    )


def specification(report):
    """Return a Report as JSON text, as the server gets it."""
    return report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)


def save_report(report, ids):
    """Save a Report in the account of WANDB_API_KEY or ~/.netrc, whose project has runs of these ids; returns
    its link. Raises UserError where wandb refuses or does not have them.
    """
    with _refusals_named() as wandb:
        api = wandb.Api()
        report.entity = report.entity or api.default_entity
        place = f"{report.entity}/{report.project}"
        there = {run.id for run in api.runs(place, filters={"name": {"$in": ids}})}
    if missing := sorted(set(ids) - there):
        raise UserError(
            f"{place} of wandb has no run {', '.join(missing)}; send it with `wandb sync"
            " RUN/wandb/offline-run-*`, or name the project that has it with --entity and --project"
        )
    with _refusals_named():
        return report.save().url


@contextlib.contextmanager
def _refusals_named():
    """Raise UserError for what wandb refuses, and yield the module."""
    import wandb

    try:
        yield wandb
    except (wandb.Error, ValueError, OSError) as error:
        raise UserError(
            "a report is saved by wandb's server, in the account and the project that have the runs: set"
            " WANDB_API_KEY or run `wandb login`, and name the project with --entity and --project where it"
            f" is not your own; --json FILE writes the report without an account ({error})"
        ) from None


def _workspaces():
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError("wandb_workspaces is not installed; run `pip install 'srgan_dist[report]'`")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic, about how it defines its validators
        import wandb_workspaces.reports.v2 as reports
    return reports


def _sections(wr, runs):
    """Yield (heading, text, panels) of what the runs have logged."""
    left, (bars, *curves) = _in_order(run.names for run in runs), ([], *([] for _ in CURVES))
    if any(run.images for run in runs):
        images = wr.MediaBrowser(title="Validation images", media_keys=["samples"], layout=wr.Layout(**WIDE))
        yield (
            "Images",
            "LR, bicubic, SR, HR, error; the caption is rock, key, PSNR, gain and update.",
            [images],
        )
    for (heading, text, patterns), panels in zip(CURVES, curves, strict=True):
        for panel_title, unit, names in _matches(patterns, left):
            panels.append(
                wr.LinePlot(
                    title=panel_title,
                    x=X_AXIS,
                    y=names,
                    title_x="samples seen",
                    title_y=unit or None,
                    layout=_place(wr, panels),
                )
            )
        if panels:
            yield heading, text, panels
    for panel_title, unit, names in [
        ("Best validation of each phase", "dB", _in_order(run.best for run in runs)),
        *_matches(BARS, left),
    ]:
        if names:
            bar = wr.BarPlot(title=panel_title, metrics=names, title_x=unit or None, layout=_place(wr, bars))
            bars.append(bar)
    if bars:
        yield "Best validations, test split", "The test split is scored at the end of each phase.", bars
    tables = _in_order(run.tables for run in runs)
    if tables:
        panels = [wr.WeavePanelSummaryTable(table_name=name, layout=wr.Layout(**WIDE)) for name in tables]
        yield "Tables of scores", "Per split, rock and method, at the end of each phase.", panels
    differences = wr.RunComparer(diff_only="split" if len(runs) > 1 else None, layout=wr.Layout(**WIDE))
    yield "Settings", "With versions, commit, device and sha256 of the data of each run.", [differences]


def _in_order(lists):
    return list(dict.fromkeys(name for names in lists for name in names))


def _matches(patterns, left):
    """Yield (title, unit, names) of the panels that have some of the names `left`, which are taken out."""
    for panel_title, unit, pattern in patterns:
        names = [name for name in left if re.fullmatch(pattern, name)]
        left[:] = [name for name in left if name not in names]
        if panel_title is EACH:
            yield from ((name, unit, [name]) for name in names)
        elif names:
            yield panel_title, unit, names


def _place(wr, before):
    """Return the Layout of the panel behind those of a section."""
    row, column = divmod(len(before), COLUMNS)
    return wr.Layout(x=column * 24 // COLUMNS, y=row * HEIGHT, w=24 // COLUMNS, h=HEIGHT)
