"""Scores of methods on whole images, each image once over all ranks; for validation in a training and for
evaluation.
"""

import contextlib
import itertools
from collections import defaultdict
from functools import partial

import numpy as np
import torch

from srgan_dist.data.degradation import upsample
from srgan_dist.data.reader import Reader
from srgan_dist.data.sampler import images_of_rank
from srgan_dist.data.value_range import to_metric_range, to_network_range
from srgan_dist.evaluation.metrics import (
    SMALLEST_IMAGE,
    axis_spectrum_error,
    histogram_distance,
    mean_shift,
    mse,
    psnr_of_mse,
    spectrum_error,
    ssim,
    ssim_slices,
)
from srgan_dist.evaluation.pores import pore_scores
from srgan_dist.evaluation.super_resolve import super_resolve, super_resolve_by_slices
from srgan_dist.evaluation.texture import (
    directional_spectrum_error,
    lattice_excess,
    phase_dependence,
    shows_pattern,
)
from srgan_dist.runtime.cpu import one_thread_each
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.memory import is_out_of_memory

METRICS = {
    "mse": mse,
    "ssim": ssim,
    "spectrum_error": spectrum_error,
    "mean_shift": mean_shift,
    "histogram_distance": histogram_distance,
}
TEXTURE_METRICS = {  # which take the scale too
    "directional_spectrum_error": directional_spectrum_error,
    "phase_dependence": phase_dependence,
    "lattice_excess": lattice_excess,
}
METRICS_OF_VOLUMES = {
    "ssim_slices": ssim_slices,
    **{f"spectrum_error_{name}": partial(axis_spectrum_error, axis=axis) for axis, name in enumerate("zyx")},
}
NAMED = 5  # images without grey levels in a note
OF_HR = "phase_dependence", "lattice_excess"  # whose value of HR itself belongs beside that of SR
PORE_SCORES = "porosity", "porosity_hr", "specific_interface", "specific_interface_hr"
# Scores with a mean per rock, where rows have them
AVERAGED = (
    "psnr",
    "ssim",
    "spectrum_error",
    *METRICS_OF_VOLUMES,
    *TEXTURE_METRICS,
    *(f"{name}_hr" for name in OF_HR),
)
# (device, ndim) -> images of one shape; other devices and volumes gain nothing from more than one
BATCH_SIZES = {("cuda", 2): 16}


def metrics_of(ndim, scale):
    """Return name -> metric(sr, hr) for images of `ndim` dimensions that were enlarged by `scale`;
    volumes also have the SSIM of their slices and the spectrum error along each axis.
    """
    metrics = METRICS | {
        name: lambda sr, hr, metric=metric: metric(sr, hr, scale) for name, metric in TEXTURE_METRICS.items()
    }
    metrics |= {
        f"{name}_hr": lambda sr, hr, metric=TEXTURE_METRICS[name]: metric(hr, hr, scale) for name in OF_HR
    }
    return metrics if ndim == 2 else metrics | METRICS_OF_VOLUMES


def bicubic(lr, scale, ndim=2, device="cpu"):
    """Enlarge lr [..., *shape] uint8 or uint16, ndim axes of shape, to [..., *(s*shape)] float32 in [0, 1];
    overshoot is clamped.
    """
    unit = upsample(lr, scale, ndim=ndim) / np.iinfo(lr.dtype).max
    return torch.from_numpy(unit).float().clamp(0, 1).to(device)


def methods_of(generators, scale, device, ndim=2):
    """Return name -> function(lr [N, *shape]) for bicubic and each of `generators` (name -> network in eval
    mode). A 2-D generator takes volumes slice by slice.
    """
    methods = {"bicubic": lambda lr: bicubic(lr, scale, ndim, device)}
    for name, generator in generators.items():
        method = super_resolve if generator.config.ndim == ndim else super_resolve_by_slices
        methods[name] = partial(method, generator)
    return methods


def check_scorable(split):
    """Raise UserError if a split holds images that are too small for SSIM, or none that scores can judge."""
    if not split.scorable:
        raise UserError(
            f"all {len(split)} images of the {split.name} split of {split.place} have one grey level in HR,"
            " which no score can judge; build the set with other slices in it"
        )
    smallest = split.smallest_lr * split.scale
    for needed, what in (
        (SMALLEST_IMAGE, "the window of SSIM"),
        (3 * split.scale, "three LR pixels, for statistics by sub-pixel phase"),
    ):
        if smallest < needed:
            raise UserError(
                f"the {split.name} split of {split.place} has HR images of {smallest} pixels a side;"
                f" scores need {needed} or more ({what}); pack the set with larger tiles or without such"
                " images"
            )


def score_split(split, methods, rank, world_size, device, progress=iter, thresholds=None):
    """Score every image of a split exactly once over all ranks, images of one shape together; those whose HR
    has one grey level, of which PSNR says nothing, are left out.

    methods: name -> function(lr [N, *shape]) -> [N, *(s*shape)] on [0, 1]. progress wraps the batches as
    tqdm does. thresholds: {rock: grey level between pores and rock, on [0, 1]}, for porosity and
    interface. Returns on every rank the same list of dictionaries with index, split, rock, key, method,
    psnr and all of `metrics_of`, with thresholds also those of `pore_scores`, in the order of the split.
    """
    reader, metrics = Reader(split), metrics_of(split.ndim, split.scale)
    batch_size = BATCH_SIZES.get((device.type, split.ndim), 1)
    chosen = images_of_rank(len(split.scorable), rank, world_size)
    batches = _group_by_shape(split, [split.scorable[number] for number in chosen], batch_size)

    def limits_of(batch):
        return np.array([thresholds.get(split.rock(i)) or np.nan for i in batch]) if thresholds else None

    pairs = (
        [*(np.stack(images) for images in zip(*map(reader.image, batch), strict=True)), limits_of(batch)]
        for batch in progress(batches)
    )

    def score(pair):
        return _in_halves(
            lambda *batch: _scores(*batch, methods, metrics, device),
            *pair,
            where=f"the {split.name} split of {split.place}",
        )

    with _without_cudnn_benchmark():
        scores = list(one_thread_each(score, pairs, device))  # [metrics, methods, N] each
    if scores:
        scores = torch.cat(scores, -1).cpu().permute(2, 1, 0).tolist()  # the one time that the host waits
    rows = []
    for i, of_methods in zip(itertools.chain(*batches), scores, strict=True):
        image = {"index": i, "split": split.name, "rock": split.rock(i), "key": split.key(i)}
        for name, values in zip(methods, of_methods, strict=True):
            row = dict(zip([*metrics, *(PORE_SCORES if thresholds else ())], values, strict=True))
            rows.append({**image, "method": name, "psnr": psnr_of_mse(row["mse"]), **row})
    rows = sorted(gather_lists(rows), key=lambda row: row["index"])
    assert len(rows) == len(split.scorable) * len(methods), "every image is scored once"
    return rows


def constant_note(split):
    """Return a list of at most one note: the images of a split that scores leave out."""
    if not split.constant:
        return []
    keys = ", ".join(split.key(i) for i in split.constant[:NAMED]) + ", ..." * (len(split.constant) > NAMED)
    return [
        f"{split.name}: {len(split.constant)} of {len(split)} images have one grey level in HR and are left"
        f" out of all scores: {keys}"
    ]


def pattern_notes(rows):
    """Return a note for every rock, split and generator whose SR shows a pattern with the period of the
    upsampling that HR does not show.
    """
    notes = []
    for split in dict.fromkeys(row["split"] for row in rows):
        for rock, methods in mean_scores([row for row in rows if row["split"] == split]).items():
            for method, score in methods.items():
                dependence = score["phase_dependence"] - score["phase_dependence_hr"]
                excess = score["lattice_excess"] - score["lattice_excess_hr"]
                if method != "bicubic" and shows_pattern(dependence, excess):
                    notes.append(
                        f"warning: {split}, {rock}: {method} shows a pattern with the period of the"
                        f" upsampling, above what HR shows (phase dependence {dependence:+.3f}, lattice"
                        f" excess {excess:+.1f} dB): texture, interface and thin pores cannot be trusted"
                    )
    return notes


def _group_by_shape(split, indices, batch_size):
    """Group images of one shape: lists of at most `batch_size` indices."""
    groups = defaultdict(list)
    for i in indices:
        groups[tuple(split.rows["lr_shape"][i].tolist())].append(i)
    return [group[k : k + batch_size] for group in groups.values() for k in range(0, len(group), batch_size)]


def _scores(lr, hr, limits, methods, metrics, device):
    """Return the metrics of all methods on images of one shape: lr [N, *shape], hr [N, *(s*shape)],
    limits [N] or None -> [metrics, methods, N].
    """
    hr = to_metric_range(to_network_range(torch.from_numpy(hr).to(device)))
    of_hr = {name: metric(hr, hr) for name, metric in metrics.items() if name.endswith("_hr")}  # once
    scores = []
    for method in methods.values():
        sr = method(lr)
        values = [of_hr[name] if name in of_hr else metric(sr, hr) for name, metric in metrics.items()]
        values = [value.double() for value in values]
        values += [] if limits is None else pore_scores(sr, hr, limits).values()
        scores.append(torch.stack(values))
    return torch.stack(scores, 1)


def _in_halves(score, lr, hr, limits, where):
    """Score a batch, [..., N]; where memory does not suffice, half of it at a time. Raises UserError where
    one image is too large.
    """
    try:
        return score(lr, hr, limits)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(lr) == 1:
            raise image_too_large(hr.shape[1:], where, error) from None
    parts = [[None] * 2 if x is None else np.array_split(x, 2) for x in (lr, hr, limits)]
    halves = zip(*parts, strict=True)
    return torch.cat([_in_halves(score, *half, where) for half in halves], -1)


def image_too_large(shape, where, error):
    """Return the UserError of an image that lacks memory as it is scored; shape: of HR."""
    size = "x".join(map(str, shape))
    return UserError(
        f"the scores of an image of {size} HR pixels in {where} need more memory than there is;"
        " pack the set with smaller tiles (srgan-dist build --tile)"
    )


@contextlib.contextmanager
def _without_cudnn_benchmark():
    """Let cuDNN choose algorithms by its heuristics: a search for each shape takes longer than it saves."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def mean_scores(rows):
    """Average rows over images: {rock: {method: {count, and those of AVERAGED that the rows have}}}."""
    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["rock"]][row["method"]].append(row)
    return {
        rock: {
            method: {
                **{name: mean_of(group, name) for name in AVERAGED if name in group[0]},
                "count": len(group),
            }
            for method, group in methods.items()
        }
        for rock, methods in sorted(groups.items())
    }


def score_table(scores, phase):
    """Return the mean scores of a validation as a table: columns, and rows of texts and numbers.

    scores: {split: {rock: {"bicubic" and "SR": means}}}, as `mean_scores` has them per split. phase: the name
    of SR in the table. psnr_gain is over bicubic.
    """
    first = next(iter(next(iter(next(iter(scores.values())).values())).values()))
    names = [name for name in AVERAGED if name in first and name != "psnr"]
    columns = ["split", "rock", "method", "images", "psnr", "psnr_gain", *names]
    rows = [
        [
            *(split, rock, phase if method == "SR" else method, score["count"], score["psnr"]),
            *(score["psnr"] - methods["bicubic"]["psnr"], *(score[name] for name in names)),
        ]
        for split, rocks in scores.items()
        for rock, methods in rocks.items()
        for method, score in methods.items()
    ]
    return columns, rows


def mean_of(rows, name):
    """Return the mean of one score over rows."""
    return float(np.mean([row[name] for row in rows]))
