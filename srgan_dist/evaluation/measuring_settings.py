"""Settings of rock measures, and the thresholds between pores and rock."""

import difflib
import logging
import numbers
from dataclasses import dataclass

from srgan_dist.data.reader import Reader
from srgan_dist.measures.permeability import LARGEST_SIDE
from srgan_dist.measures.segmentation import LARGEST_POROSITY, histogram, inside, otsu
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.utils.errors import UserError

log = logging.getLogger(__name__)

IMAGES_FOR_OTSU = 64  # of a rock: its first training images


@dataclass(frozen=True)
class Measuring:
    """What is measured; see `measuring_of`."""

    extent: str
    thresholds: dict  # {rock or None for all others: "otsu" or a number on [0, 1]}
    phase: str
    permeability: bool
    samples: int
    plugs: tuple  # rocks whose images show air around a plug


def measuring_of(measures, threshold, phase, permeability, samples, plugs=()):
    """Return the settings of a measurement after checking them, with UserErrors that name the option.

    threshold: "otsu", a number, {rock: either}, or a list of texts "otsu", VALUE, ROCK=VALUE as the
    command has.
    """
    for name, value, allowed in (
        ("measures", measures, ("basic", "full", "off")),
        ("phase", phase, ("dark", "bright")),
    ):
        if value not in allowed:
            raise UserError(f"--{name} {value}: use one of {', '.join(allowed)}")
    if permeability and measures != "full":
        raise UserError(f"--permeability needs --measures full, not {measures}")
    if not (isinstance(samples, numbers.Integral) and (samples == 0 or 2 <= samples <= 1000)):
        raise UserError(f"--samples {samples}: use 0 (no calibration), or a whole number from 2 to 1000")
    if isinstance(threshold, dict):
        pairs = list(threshold.items())
    else:
        texts = threshold if isinstance(threshold, (list, tuple)) else [threshold]
        pairs = [_pair_of(text) for text in texts]
    thresholds = {}
    for rock, value in pairs:
        if rock in thresholds:
            raise UserError(f"--threshold {rock or 'for all rocks'} is given twice; give one value")
        thresholds[rock] = _checked_threshold(rock, value)
    if measures == "off" and (thresholds != {None: "otsu"} or phase != "dark" or plugs):
        raise UserError(
            "--measures off takes no measures: leave --threshold, --phase and --plug out, or --measures off"
        )
    plugs = (plugs,) if isinstance(plugs, str) else tuple(plugs)
    if repeated := next((rock for rock in plugs if plugs.count(rock) > 1), None):
        raise UserError(f"--plug {repeated} is given twice; give each rock once")
    return Measuring(measures, thresholds, phase, permeability, samples, plugs)


def _pair_of(text):
    """Return (rock or None, value) of "VALUE" or "ROCK=VALUE"."""
    rock, equals, value = str(text).rpartition("=")
    return (rock, value) if equals else (None, value)


def _checked_threshold(rock, value):
    if value == "otsu":
        return value
    try:
        number_given = float(value)
    except (TypeError, ValueError):
        number_given = float("nan")
    if not 0 < number_given < 1:
        raise UserError(
            f"--threshold {f'{rock}=' if rock else ''}{value}: use otsu, or a number between 0 and 1 (grey"
            " level over the largest of the pixel type, e.g. 90 of 255 is 0.353)"
        )
    return number_given


def check_measuring(splits, measuring):
    """Raise UserError where settings do not fit the splits of a set, before anything is computed."""
    rocks = splits[0].set.manifest.rocks
    named = [("--threshold {}=...", rock) for rock in measuring.thresholds if rock is not None]
    for option, rock in [*named, *(("--plug {}", rock) for rock in measuring.plugs)]:
        if rock not in rocks:
            near = difflib.get_close_matches(rock, rocks, 1)
            hint = f"do you mean {near[0]}? " if near else ""
            raise UserError(
                f"{option.format(rock)}: the set has no rock {rock!r}; {hint}it has {', '.join(rocks)}"
            )
    for split in splits:
        side = int(split.rows["lr_shape"].max()) * split.scale
        if measuring.permeability and (split.ndim != 3 or side > LARGEST_SIDE):
            raise UserError(
                f"--permeability needs volumes of at most {LARGEST_SIDE} voxels a side; the {split.name}"
                f" split of {split.place} has {split.ndim}-D images of up to {side} pixels;"
                + (" leave it out" if split.ndim != 3 else f" build the set with --tile {LARGEST_SIDE}")
            )


# Thresholds


def thresholds_of(packed, rocks, given, phase, rank, world_size, most=IMAGES_FOR_OTSU, plugs=()):
    """Return {rock: {"value": threshold on [0, 1] or None, "source", "refused"}} for the rocks of a set; of
    plugs also "air", the grey level below which the air around them is.

    given: {rock or None for all: "otsu" or a number on [0, 1]}. Otsu's threshold comes from at most
    `most` HR images per rock of the training split, shared over ranks; where it gives a porosity above
    0.6, two classes are not enough. Air is what is below Otsu's threshold of the images with their air; pores
    are told without it.
    """
    wanted = {rock: given.get(rock, given.get(None, "otsu")) for rock in rocks}
    by_otsu = [rock for rock in rocks if wanted[rock] == "otsu"]
    with_air = _train_histograms(
        packed, [rock for rock in rocks if rock in plugs], {}, rank, world_size, most
    )
    air = {rock: otsu(counts) for rock, (counts, _) in with_air.items()}
    if missing := [rock for rock in plugs if rock in rocks and air.get(rock) is None]:
        raise UserError(
            f"--plug {missing[0]}: the training split has no image of it with two grey levels, from which air"
            " is told; leave the option out, and crop its images to the rock"
        )
    counts = _train_histograms(packed, by_otsu, air, rank, world_size, most)
    found = {}
    for rock in rocks:
        if wanted[rock] != "otsu":
            found[rock] = {"value": wanted[rock], "source": "given", "refused": None}
        elif rock not in counts:
            found[rock] = _refused(rock, "the training split has no image of it")
        else:
            found[rock] = _otsu_of(rock, *counts[rock], phase)
        if rock in air:
            found[rock]["air"] = air[rock]
    return found


def _train_histograms(packed, rocks, air, rank, world_size, most):
    """Return {rock: (histogram of HR, images)} of the training split, without what is air: {rock: grey
    level}.
    """
    # Damaged images are left out: whether they may be trained on is not for a threshold to decide
    split = packed.split("train", blank_corrupt_images=True) if rocks else None
    if split is None:
        return {}
    chosen = {rock: [] for rock in rocks}
    for i in range(len(split)):  # shuffled when they were packed: the first ones are in the first shards
        if len(chosen.get(split.rock(i), range(most))) < most:
            chosen[split.rock(i)].append(i)
    reader, found = Reader(split), []
    for rock, images in chosen.items():
        for i in images[rank::world_size]:
            if damage := reader.corruption(i):
                log.warning("%s; the threshold of %s is found without it", damage.text, rock)
                continue
            hr = reader.unchecked_image(i)[1] / reader.peak
            found.append((rock, histogram(hr[inside(hr, air.get(rock))])))
    totals = {}
    for rock, counts in gather_lists(found):
        before, images = totals.get(rock, (0, 0))
        totals[rock] = before + counts, images + 1
    return totals


def _otsu_of(rock, counts, images, phase):
    value = otsu(counts)
    if value is None:
        return _refused(rock, "its training images have one grey level")
    dark = counts[: round(value * len(counts))].sum() / counts.sum()
    porosity = dark if phase == "dark" else 1 - dark
    if porosity > LARGEST_POROSITY:
        return _refused(
            rock,
            f"Otsu's threshold {value:.3f} gives a porosity of {porosity:.2f}: two classes are not enough",
        )
    return {"value": value, "source": f"Otsu of {images} HR images of train", "refused": None}


def _refused(rock, reason):
    hint = f"{reason}; give one: --threshold {rock}=VALUE, 0 to 1"
    return {"value": None, "source": "none", "refused": hint}
