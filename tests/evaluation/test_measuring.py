"""Rock measures of a set: perfect SR, pooling, files."""

import csv
import dataclasses
import json
import sys
import threading

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from commands import run
from conftest import TINY, texture, write_folder
from measured_sets import CPU, THRESHOLDS, measure, settings, truth
from PIL import Image
from test_report import network

from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.evaluation import measuring
from srgan_dist.evaluation.measuring import measure_split, measure_table, pool_split
from srgan_dist.evaluation.measuring_settings import check_measuring
from srgan_dist.evaluation.report import evaluate
from srgan_dist.evaluation.scoring import methods_of
from srgan_dist.measures.protocol import MEASURES
from srgan_dist.models.weights_file import save_generator
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.utils.errors import UserError

OF_VOLUMES, OF_RAW = {"connected_porosity", "permeability"}, {"lattice_excess", "phase_dependence"}


@pytest.mark.parametrize("phase", ["dark", "bright"])
def test_perfect_sr_has_no_error_in_any_measure(train_split, phase):
    methods = {"bicubic": methods_of({}, 4, CPU)["bicubic"], "perfect": truth(train_split)}
    tables, curves = pool_split(measure(train_split, methods, phase=phase), list(methods), 4)
    assert set(tables) == {"coal", "sandstone"}
    for rock, of_rock in tables.items():
        for form in ("raw", "median"):
            found = of_rock["perfect"][form]
            assert set(found) == set(MEASURES) - OF_VOLUMES - (OF_RAW if form == "median" else set())
            for name, entry in found.items():
                assert entry["value"] == pytest.approx(entry["hr"], rel=1e-6, abs=1e-6), (rock, form, name)
                if (name, entry["hr"]) != ("euler_density", 0):  # as many pieces as holes: no relative bias
                    assert entry["bias"] == pytest.approx(0, abs=1e-6), (rock, form, name)
            assert found["dice"]["value"] == 1 and found["frc_resolution"]["value"] == pytest.approx(2)
            assert of_rock["bicubic"][form]["dice"]["value"] < 1
            assert found["frc_gain"]["value"] == pytest.approx(4)
            gain, period = (of_rock["bicubic"][form][name] for name in ("frc_gain", "frc_resolution"))
            assert period["bias"] > 0 and gain["value"] * period["value"] == pytest.approx(2 * 4)
            assert gain["hr"] == 4 and gain["bias"] == pytest.approx(gain["value"] / 4 - 1)
        for name in ("two_point", "chords", "pore_sizes", "histogram", "threshold_sweep"):
            assert np.array_equal(curves[f"{rock}/perfect/{name}"], curves[f"{rock}/hr/{name}"])
        assert curves[f"{rock}/hr/chords"].sum() == pytest.approx(1)


def write_ducts(root):
    """Pack three volumes with ducts from side to side and pores that lead nowhere, x2; returns the folder."""
    (root / "hr" / "coal").mkdir(parents=True)
    for number in range(3):
        volume = np.random.default_rng(number).integers(150, 200, (24, 24, 24), np.uint8)
        volume[:, 9:14, 9:14] = volume[9:14, :, 9:14] = volume[9:14, 9:14] = 40
        volume[2:6, 2:6, 2:6] = volume[16:20, 17:22, 2:6] = volume[2:6, 17:22, 17:22] = 40
        np.save(root / "hr" / "coal" / f"scan_{number}.npy", volume)
    options = BuildOptions(ndim=3, scale=2, kind="default", tile=24, crop=16, samples_per_shard=3)
    build(root / "hr", root / "set", options)
    return root / "set"


def test_perfect_sr_of_volumes_has_no_error_in_any_measure(tmp_path):
    split = open_split(write_ducts(tmp_path), "train")
    records = measure(split, {"perfect": truth(split)}, measures="full", permeability=True)
    (table,) = pool_split(records, ["perfect"], 2)[0].values()
    for form, found in table["perfect"].items():
        assert set(found) == set(MEASURES) - (OF_RAW if form == "median" else set())
        for name, entry in found.items():
            assert entry["bias"] == pytest.approx(0, abs=1e-6), (form, name)
        assert found["permeability"]["hr"] > 0.03 and found["connected_porosity"]["hr"] > 0.05


def test_blocks_of_one_source_give_intervals_to_what_is_a_sum_over_cells(train_split):
    methods = {"bicubic": methods_of({}, 4, CPU)["bicubic"]}
    records = measure(train_split, methods)
    parts = [
        record | {"rock": "coal", "source": "scan.tif", "corner": (0, 0, 128 * n)}
        for n, record in enumerate(records)
    ]
    entries = pool_split(parts, ["bicubic"], 4)[0]["coal"]["bicubic"]["raw"]
    assert len(records) >= 5 and {entry["level"] for entry in entries.values()} == {"block"}
    for name in ("grey_error", "porosity", "dice", "specific_interface", "chord_length", "pore_size"):
        low, high = entries[name]["interval"]
        assert low < entries[name]["bias"] < high, name
    reader, errors = Reader(train_split), []
    for i in range(len(train_split)):
        lr, hr = reader.image(i)
        errors.append(((methods["bicubic"](lr[None])[0].numpy() - hr / reader.peak) ** 2).mean())
    assert entries["grey_error"]["value"] == pytest.approx(np.mean(errors) ** 0.5, rel=1e-5)
    # Where images overlap, only what is a sum over cells has units
    chain = [record | {"corner": (0, 0, 64 * n)} for n, record in enumerate(parts)]
    entries = pool_split(chain, ["bicubic"], 4)[0]["coal"]["bicubic"]["raw"]
    assert entries["porosity"]["level"] == "block" and entries["frc_resolution"]["level"] is None


def test_a_band_of_the_two_point_correlation_holds_every_image_of_hr(train_split):
    records = measure(train_split, {"perfect": truth(train_split)})
    _, curves = pool_split(records, ["perfect"], 4)
    for rock in ("coal", "sandstone"):
        low, high = (curves[f"{rock}/hr/two_point_normalised_{end}"] for end in ("low", "high"))
        whole = curves[f"{rock}/hr/two_point_normalised"]
        assert (low <= whole + 1e-9).all() and (whole <= high + 1e-9).all() and (high > low).any()


def test_values_are_pooled_by_sums_and_counted(train_split):
    methods = {"perfect": truth(train_split)}
    records = measure(train_split, methods)
    tables, _ = pool_split(records, list(methods), 4)
    reader = Reader(train_split)
    for rock in ("coal", "sandstone"):
        images = [i for i in range(len(train_split)) if train_split.rock(i) == rock]
        pores = [reader.image(i)[1] / reader.peak < 0.5 for i in images]
        entry = tables[rock]["perfect"]["raw"]["porosity"]
        assert entry["value"] == pytest.approx(sum(p.sum() for p in pores) / sum(p.size for p in pores))
        assert (entry["images"], entry["sources"], entry["plugs"]) == (len(images), len(images), 1)
        # Fewer than five sources, each of one block: no interval, no verdict
        assert (entry["level"] is None) == (len(images) < 5)
        assert (entry["interval"] is None) == (len(images) < 5)


def test_two_ranks_measure_each_image_once(train_split, monkeypatch):
    methods, shares = {"perfect": truth(train_split)}, []
    whole = measure(train_split, methods)
    monkeypatch.setattr(measuring, "gather_lists", lambda rows: shares.extend(rows) or rows)
    for rank in range(2):
        measure(train_split, methods, rank=rank, world_size=2)
    shares.sort(key=lambda record: record["index"])
    assert [r["key"] for r in shares] == [r["key"] for r in whole]
    for one, two in zip(shares, whole, strict=True):
        for name, sums in two["images"]["perfect"]["raw"].items():
            assert np.array_equal(one["images"]["perfect"]["raw"][name], sums)


def test_a_rock_without_a_threshold_has_the_measures_of_grey_levels(train_split):
    refused = {
        rock: {"value": None, "source": "none", "refused": "two classes are not enough"}
        for rock in THRESHOLDS
    }
    methods = {"perfect": truth(train_split)}
    tables, curves = pool_split(measure(train_split, methods, refused), list(methods), 4)
    assert set(tables["coal"]["perfect"]["raw"]) == {
        "frc_resolution",
        "frc_gain",
        "lattice_excess",
        "phase_dependence",
        "grey_error",
    }
    assert "coal/perfect/frc" in curves and "coal/perfect/two_point" not in curves


def test_beside_an_accelerator_threads_of_the_cpu_measure_what_it_makes(train_split, monkeypatch):
    """A device that is no CPU, whose methods run here: one after another in this thread."""
    own = threading.current_thread()
    makers, measurers, together = set(), set(), threading.Barrier(2, timeout=30)
    perfect = truth(train_split)

    def method(lr):
        makers.add(threading.current_thread())
        return perfect(lr)

    class Noted(measuring.Reference):
        def __init__(self, *arguments):
            if threading.current_thread() not in measurers:
                measurers.add(threading.current_thread())
                together.wait()  # until two are at work
            super().__init__(*arguments)

    expected = measure(train_split, {"perfect": perfect})
    threads = torch.get_num_threads()
    monkeypatch.setattr(measuring, "Reference", Noted)
    torch.set_num_threads(2)
    try:
        found = measure_split(
            train_split, {"perfect": method}, THRESHOLDS, settings(), 0, 1, torch.device("cuda")
        )
    finally:
        torch.set_num_threads(threads)
    assert makers == {own} and len(measurers) == 2 and own not in measurers
    for one, two in zip(found, expected, strict=True):
        assert one["key"] == two["key"]
        for name, sums in two["images"]["perfect"]["raw"].items():
            assert np.array_equal(one["images"]["perfect"]["raw"][name], sums), name


def test_images_of_one_grey_level_have_no_part_in_any_measure(tmp_path):
    (tmp_path / "hr" / "coal").mkdir(parents=True)
    for number in range(7):
        image = np.full((80, 80), 90, np.uint8) if number % 2 else texture(number, 80, 80)
        Image.fromarray(image).save(tmp_path / "hr" / "coal" / f"slice_{number}.png")
    build(tmp_path / "hr", tmp_path / "set", TINY)
    split = open_split(tmp_path / "set", "train")
    methods = {"bicubic": methods_of({}, 4, CPU)["bicubic"]}
    records = measure(split, methods)
    (table,) = pool_split(records, list(methods), 4)[0].values()
    parts = [record for record in records if record["left_out"] == 0]
    assert 0 < len(parts) < len(records)
    alone = pool_split(parts, list(methods), 4)[0]["coal"]["bicubic"]["raw"]
    for name, entry in table["bicubic"]["raw"].items():
        assert entry["value"] == pytest.approx(alone[name]["value"]), name
    flat = [record for record in records if record["left_out"]]
    (only,) = pool_split(flat, list(methods), 4)[0].values()
    assert all(entry["value"] is None for entry in only["bicubic"]["raw"].values())


def test_volumes_have_permeability_and_pore_sizes_on_request(tmp_path):
    split = open_split(write_ducts(tmp_path), "valid")
    thresholds = {rock: THRESHOLDS["coal"] for rock in split.rocks}
    methods = {"perfect": truth(split)}
    basic = measure(split, methods, thresholds)[0]["images"]["perfect"]["raw"]
    full = measure(split, methods, thresholds, measures="full", permeability=True)[0]["images"]["perfect"][
        "raw"
    ]
    assert set(full) - set(basic) == {"pore_size", "connected_porosity", "permeability"}
    assert full["permeability"][0] >= 0
    wide = dataclasses.replace(settings(measures="full"), permeability=True)
    check_measuring([split], wide)
    split.rows["lr_shape"][0, 1] = 65
    with pytest.raises(UserError, match="of up to 130 pixels; build the set with --tile 128"):
        check_measuring([split], wide)


def write_plug(folder, constant=2):
    """Pack five slices of a rock, the first `constant` of them blank, and cut each into overlapping tiles."""
    write_folder(folder / "hr", {"coal": 5}, size=(96, 150))
    for number in range(constant):
        blank = np.full((96, 150), 30, np.uint8)
        Image.fromarray(blank).save(folder / "hr" / "coal" / f"slice_{number}.png")
    build(folder / "hr", folder / "set", BuildOptions(tile=96, crop=32))
    return open_split(folder / "set", "train")


def test_constant_images_have_no_part_and_are_counted(tmp_path):
    split = write_plug(tmp_path)
    noise = torch.rand(1, 96, 96, generator=torch.Generator().manual_seed(0))
    records = measure(split, {"perfect": truth(split), "noise": lambda lr: noise})
    assert len(records) == 6 and sum(not record["images"] for record in records) == 4
    tables, _ = pool_split(records, ["perfect", "noise"], 4)
    entries = tables["coal"]["noise"]["raw"]
    assert entries["porosity"]["images"] == 2 and entries["porosity"]["sources"] == 1
    assert entries["phase_dependence"]["value"] < 10  # of a blank HR it is in the thousands
    files = measuring.files_of_measures(
        {"train": records}, ["perfect", "noise"], THRESHOLDS, settings(), split.set, {}
    )
    for name, write in files.items():
        write(tmp_path / name)
    assert json.loads((tmp_path / "measures.json").read_text())["constant_images"] == {"train": {"coal": 4}}
    with open(tmp_path / "measures.csv") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["method"] == "" and row["porosity"] == "" for row in rows) == 4
    # A rock that is blank throughout
    blank = [record | {"images": {}} for record in records]
    assert pool_split(blank, ["perfect"], 4) == ({"coal": {"perfect": {"raw": {}, "median": {}}}}, {})


def test_images_of_another_shape_are_left_out_and_leave_no_interval(train_split):
    """Of six images of two shapes the ring correlation takes three, too few to resample."""
    records = measure(train_split, {"perfect": truth(train_split)}) * 2
    records = [record | {"rock": "coal", "source": str(n)} for n, record in enumerate(records[:6])]
    for record in records[:3]:
        forms = record["images"]["perfect"]
        cut = {
            form: sums | {"frc_resolution": sums["frc_resolution"][:30]} if form != "cells" else sums
            for form, sums in forms.items()
        }
        record["images"] = record["images"] | {"perfect": cut}
    entries = pool_split(records, ["perfect"], 4)[0]["coal"]["perfect"]["raw"]
    assert entries["porosity"]["images"] == 6 and entries["porosity"]["level"] == "source"
    assert entries["porosity"]["interval"] == [0, 0]
    for name in ("frc_resolution", "frc_gain"):
        assert entries[name]["images"] == 3 and entries[name]["level"] is entries[name]["interval"] is None


def test_the_voxel_size_is_the_one_that_all_images_of_a_rock_name():
    records = [{"rock": rock, "voxel_size_um": size} for rock, size in zip("aabbc", (2.5, 2.5, 1, 2, None))]
    assert measuring._voxel_sizes(records) == {"a": 2.5, "b": None, "c": None}


def test_the_command_writes_measures_that_any_json_reader_takes(shards, tmp_path):
    save_generator(tmp_path / "run" / "weights" / "pretrain.safetensors", network(), {})
    command = [sys.executable, "launch/evaluate.py", tmp_path / "run", shards, "--splits", "valid", "test"]
    done = run(*command, "--threshold", "coal=0.4", "--threshold", "otsu")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "run" / "eval"

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads((out / "measures.json").read_text(), parse_constant=refuse)
    assert found["thresholds"]["coal"]["value"] == 0.4 and set(found["per_split"]) == {"valid", "test"}
    assert set(found["verdicts"]["valid"]["coal"]) == {"bicubic", "pretrain"}
    with open(out / "measures.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"hr", "bicubic", "pretrain"}
    assert {row["variant"] for row in rows} == {"raw", "median"} and set(MEASURES) <= set(rows[0])
    with np.load(out / "curves.npz", allow_pickle=False) as curves:
        assert curves["valid/coal/pretrain/frc"].dtype == np.float64
    accelerator, off = Accelerator(cpu=True), settings(measures="off")
    evaluate(tmp_path / "run", shards, tmp_path / "off", ["valid"], accelerator, measuring=off)
    assert (tmp_path / "off" / "scores.json").exists()
    assert not (tmp_path / "off" / "measures.json").exists()
    with pytest.raises(UserError, match="no rock 'cole'"):  # before anything is done
        wrong = settings(threshold={"cole": 0.4})
        evaluate(tmp_path / "run", shards, tmp_path / "wrong", ["valid"], accelerator, measuring=wrong)
    assert not (tmp_path / "wrong").exists()
    evaluate(tmp_path / "run", shards, out, ["valid"], accelerator, measuring=off)
    assert not (out / "measures.json").exists()  # nothing of the evaluation before it stays


def test_measures_as_a_table_have_a_row_per_entry_of_the_chosen_images(train_split):
    records = measure_split(
        train_split, {"perfect": truth(train_split)}, THRESHOLDS, settings(), 0, 1, CPU, chosen=[1, 4]
    )
    assert [record["index"] for record in records] == [1, 4]
    tables = {"train": pool_split(records, ["perfect"], 4)[0]}
    columns, rows = measure_table(tables)
    found = {tuple(row[:5]): dict(zip(columns, row, strict=True)) for row in rows}
    rocks = tables["train"]
    assert found.keys() == {
        ("train", rock, "perfect", form, measure)
        for rock in rocks
        for form in ("raw", "median")
        for measure in rocks[rock]["perfect"][form]
    }
    rock = train_split.rock(1)
    entry, row = rocks[rock]["perfect"]["raw"]["porosity"], found["train", rock, "perfect", "raw", "porosity"]
    assert row["value"] == row["hr"] == entry["value"] and row["bias"] == 0 and row["low"] is None
    assert row["images"] == entry["images"] and row["unit"] == entry["unit"]
