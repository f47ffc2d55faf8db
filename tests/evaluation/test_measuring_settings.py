"""Settings of rock measures, thresholds from the training split, and what has no part in a measure."""

import re
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, texture
from measured_sets import measure, settings, truth
from PIL import Image
from shapes import ball

from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set, open_split
from srgan_dist.evaluation.measuring import pool_split
from srgan_dist.evaluation.measuring_settings import check_measuring, thresholds_of
from srgan_dist.measures.segmentation import otsu
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.utils.errors import UserError


def test_thresholds_come_from_all_train_images_of_a_rock_or_are_given(shards, train_split):
    packed, reader = open_set(shards, None), Reader(train_split)
    found = thresholds_of(packed, ["coal", "sandstone"], {"coal": 0.3}, "dark", 0, 1)
    assert found["coal"] == {"value": 0.3, "source": "given", "refused": None}
    images = [reader.image(i)[1] for i in range(len(train_split)) if train_split.rock(i) == "sandstone"]
    counts = np.bincount(np.concatenate([image.ravel() for image in images]), minlength=256)
    assert found["sandstone"]["source"] == f"Otsu of {len(images)} HR images of train"
    assert found["sandstone"]["value"] == pytest.approx(otsu(counts))


def test_an_otsu_threshold_that_leaves_too_little_rock_is_refused_with_a_hint(tmp_path):
    """Of one rock 70 % of the pixels are dark, of the other 30 %."""
    for rock, share in (("coal", 0.7), ("sandstone", 0.3)):
        (tmp_path / "hr" / rock).mkdir(parents=True)
        for number in range(3):
            image = np.where(np.arange(6400).reshape(80, 80) < share * 6400, 50, 200)
            image += np.random.default_rng(number).integers(0, 20, image.shape)
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / "hr" / rock / f"slice_{number}.png")
    build(tmp_path / "hr", tmp_path / "set", TINY)
    packed = open_set(tmp_path / "set", None)
    for phase, refused, kept in (("dark", "coal", "sandstone"), ("bright", "sandstone", "coal")):
        found = thresholds_of(packed, ["coal", "sandstone"], {None: "otsu"}, phase, 0, 1)
        assert found[refused]["value"] is None and found[refused]["source"] == "none"
        assert re.fullmatch(
            r"Otsu's threshold 0\.\d{3} gives a porosity of 0\.70: two classes are not enough;"
            rf" give one: --threshold {refused}=VALUE, 0 to 1",
            found[refused]["refused"],
        )
        assert 50 / 255 < found[kept]["value"] < 200 / 255 and found[kept]["refused"] is None


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"threshold": ["coal=1.5"]}, "--threshold coal=1.5: use otsu, or a number between 0 and 1"),
        ({"threshold": 90}, "--threshold 90: use otsu"),
        ({"threshold": ["0.3", "0.4"]}, "--threshold for all rocks is given twice"),
        ({"threshold": "nan"}, "--threshold nan: use otsu"),
        ({"permeability": True}, "--permeability needs --measures full, not basic"),
        ({"measures": "all"}, "--measures all: use one of basic, full, off"),
        ({"phase": "grey"}, "--phase grey: use one of dark, bright"),
        ({"samples": 1}, "--samples 1: use 0"),
        ({"measures": "off", "threshold": 0.5}, "--measures off takes no measures: leave --threshold"),
        ({"measures": "off", "plugs": ["coal"]}, "--measures off takes no measures"),
        ({"plugs": ["coal", "coal"]}, "--plug coal is given twice"),
    ],
)
def test_wrong_settings_are_named(changes, words):
    with pytest.raises(UserError, match=words):
        settings(**changes)


def test_an_unknown_rock_is_named_with_those_there(shards):
    for changes, option in (
        ({"threshold": {"cole": 0.3}}, "threshold cole=..."),
        ({"plugs": ["cole"]}, "plug cole"),
    ):
        with pytest.raises(
            UserError, match=f"--{option}: the set has no rock 'cole'; do you mean coal[?] it has"
        ):
            check_measuring([open_split(shards, "valid")], settings(**changes))


def test_air_around_a_plug_is_told_by_the_rock_not_by_each_image(tmp_path):
    """Tiles of a slice of 10 % pores: some are wholly air, some wholly rock."""
    (tmp_path / "hr" / "core").mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:480, :480] - 240
    for number in range(4):
        pores = rng.random((60, 60)).repeat(8, 0).repeat(8, 1) < 0.1
        rock = (np.hypot(y, x) < 200) & ~pores
        image = np.where(rock, 140, 30) + rng.normal(0, 6, rock.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
            tmp_path / "hr" / "core" / f"slice_{number}.png"
        )
    build(tmp_path / "hr", tmp_path / "set", TINY)
    split = open_split(tmp_path / "set", "train")
    perfect = {"perfect": truth(split)}
    found = {}
    for plugs in ((), ("core",)):
        thresholds = thresholds_of(split.set, ["core"], {}, "dark", 0, 1, plugs=plugs)
        records = measure(split, perfect, thresholds, plugs=plugs)
        found[plugs] = pool_split(records, ["perfect"], 4)[0]["core"]["perfect"]["raw"]["porosity"]["value"]
    assert found[()] > 0.4 and found["core",] == pytest.approx(0.1, abs=0.06)


def test_permeability_of_images_is_refused(train_split):
    with pytest.raises(
        UserError, match="--permeability needs volumes of at most 128 voxels a side; the train.*leave it out"
    ):
        check_measuring([train_split], settings(measures="full", permeability=True))


def test_what_sr_draws_outside_of_a_round_plug_has_no_part_in_any_measure(tmp_path):
    (tmp_path / "hr" / "coal").mkdir(parents=True)
    plug = ball(160, 65, 2)
    for number in range(3):
        image = np.where(plug, texture(number, 160, 160), 30).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "hr" / "coal" / f"slice_{number}.png")
    build(tmp_path / "hr", tmp_path / "set", BuildOptions(tile=160, crop=32))
    split = open_split(tmp_path / "set", "train")
    far = torch.from_numpy(~ball(160, 68, 2))  # some pixels at the rim count as rock
    hatch = (0.5 + 0.4 * torch.cos(torch.pi * torch.arange(160) / 2)).expand(160, 160)
    perfect = truth(split)
    methods = {"perfect": perfect, "hatch": lambda lr: torch.where(far, hatch, perfect(lr))}
    records = measure(split, methods)
    assert all(record["left_out"] >= 160**2 - np.pi * 68**2 for record in records)
    (table,) = pool_split(records, list(methods), 4)[0].values()
    for name, entry in table["hatch"]["raw"].items():
        assert entry["value"] == pytest.approx(table["perfect"]["raw"][name]["value"], rel=1e-5, abs=1e-9), (
            name
        )
    seen = pool_split([record | {"images": record["images"]} for record in records], ["hatch"], 4)[1]
    for name in ("spectrum", "spectrum_directional"):
        assert seen[f"coal/hatch/{name}"] == pytest.approx(seen[f"coal/hr/{name}"], abs=1e-4)


def test_a_threshold_is_found_without_damaged_images_which_are_named(shards, tmp_path, caplog):
    copy = shutil.copytree(shards, tmp_path / "copy")
    split = open_set(copy).split("train")
    row = next(row for i, row in enumerate(split.rows) if split.rock(i) == "sandstone")
    intact = thresholds_of(open_set(copy), ["sandstone"], {}, "dark", 0, 1)["sandstone"]
    with open(split.shards[row["shard"]], "r+b") as file:
        file.seek(int(row["hr_offset"]))
        file.write(b"\xff" * int(row["hr_bytes"]))
    found = thresholds_of(open_set(copy), ["sandstone"], {}, "dark", 0, 1)["sandstone"]
    counts = [int(each["source"].split()[2]) for each in (intact, found)]
    assert counts[1] == counts[0] - 1 and found["value"] == pytest.approx(intact["value"], abs=0.1)
    assert f"{row['key'].decode()} has other HR pixels" in caplog.text
