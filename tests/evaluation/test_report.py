import csv
import json
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from commands import run as run_command
from conftest import full_disk

from srgan_dist.cli import main
from srgan_dist.data.degradation import upsample
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.evaluation.examples import median_image
from srgan_dist.evaluation.metrics import psnr, ssim
from srgan_dist.evaluation.report import add_error_reduction, evaluate, format_table
from srgan_dist.evaluation.scoring import mean_scores, methods_of, pattern_notes, score_split
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import save_generator
from srgan_dist.utils.errors import UserError

CPU = torch.device("cpu")


def network(seed=0, scale=4):
    torch.manual_seed(seed)
    return SRResNet(SRResNetConfig(scale=scale, num_blocks=1, num_filters=4, init_std=None)).eval()


def score(split, generators=None, rank=0, world_size=1):
    return score_split(split, methods_of(generators or {}, split.scale, CPU), rank, world_size, CPU)


def test_bicubic_scores_are_those_of_matlabs_bicubic_on_whole_images(shards):
    split = open_split(shards, "valid")
    for row in score(split):
        lr, hr = Reader(split).image(row["index"])
        sr = np.clip(upsample(lr, 4) / 255, 0, 1)
        expected = 10 * np.log10(1 / np.mean((sr - hr / 255.0) ** 2))
        assert row["psnr"] == pytest.approx(expected, abs=1e-3)
        assert row["key"] == split.key(row["index"]) and row["rock"] == split.rock(row["index"])


def test_each_image_is_scored_once_by_every_method(train_split):
    rows = score(train_split, {"pretrain": network(0), "adversarial": network(1)})
    assert [row["index"] for row in rows] == [i for i in range(7) for _ in range(3)]
    assert [row["method"] for row in rows[:3]] == ["bicubic", "pretrain", "adversarial"]


def test_generator_scores_are_those_of_its_output(shards):
    split, generator = open_split(shards, "test"), network()
    row = score(split, {"pretrain": generator})[1]
    lr, hr = (torch.from_numpy(x).float() / 255 for x in Reader(split).image(0))
    with torch.no_grad():
        sr = ((generator(lr[None, None] * 2 - 1)[0, 0] + 1) / 2).clamp(0, 1)
    assert row["psnr"] == pytest.approx(psnr(sr[None], hr[None]).item(), abs=1e-3)
    assert row["ssim"] == pytest.approx(ssim(sr[None], hr[None]).item(), abs=1e-4)


def test_a_pattern_above_hrs_own_is_noted_per_split_rock_and_generator():
    def row(rock, method, dependence, excess):
        own = {"phase_dependence_hr": 0.01, "lattice_excess_hr": 4.0}
        texture = {"phase_dependence": dependence, "lattice_excess": excess, **own}
        return {"split": "valid", "rock": rock, "method": method, **texture}

    rows = [
        row("coal", "bicubic", 0.9, 40.0),  # no generator
        row("coal", "pretrain", 0.05, 13.0),
        row("coal", "adversarial", 0.01, 19.0),
        row("sandstone", "adversarial", 0.08, -20.0),
    ]
    coal, sandstone = pattern_notes(rows)
    assert coal.startswith("warning: valid, coal: adversarial shows a pattern with the period of")
    assert "(phase dependence +0.000, lattice excess +15.0 dB)" in coal
    assert sandstone.startswith("warning: valid, sandstone: adversarial") and "+0.070" in sandstone


def test_means_are_over_images_of_a_rock_and_reduction_is_per_image():
    rows = [
        {
            "split": "valid",
            "index": i,
            "rock": rock,
            "key": str(i),
            "method": method,
            "psnr": p,
            "ssim": 0.5,
            "spectrum_error": 1.0,
            "mse": e,
        }
        for i, rock, method, p, e in (
            (0, "coal", "bicubic", 20, 0.01),
            (0, "coal", "pretrain", 23, 0.005),
            (1, "coal", "bicubic", 30, 0.001),
            (1, "coal", "pretrain", 30, 0.001),
        )
    ]
    add_error_reduction(rows)
    assert [row["relative_error_reduction"] for row in rows] == [0, 0.5, 0, 0]
    means = mean_scores(rows)
    assert means == {
        "coal": {
            "bicubic": {"psnr": 25, "ssim": 0.5, "spectrum_error": 1, "count": 2},
            "pretrain": {"psnr": 26.5, "ssim": 0.5, "spectrum_error": 1, "count": 2},
        }
    }
    table = format_table(rows).splitlines()
    assert table[3].split() == [
        "valid",
        "coal",
        "phase",
        "1",
        "(SRCNN)",
        "2",
        "26.50",
        "+1.50",
        "0.5000",
        "1.000",
        "25.0%",
    ]


def test_the_example_of_a_figure_is_the_median_image():
    rows = [{"psnr": psnr, "index": index} for index, psnr in enumerate((31.0, 28.0, 25.0, 35.0, 29.0))]
    assert median_image(rows) == 4 and median_image(rows[:4]) == 0 and median_image(rows[1:2]) == 1


def test_the_best_weights_of_a_run_are_scored_when_their_folder_is_given(shards, tmp_path):
    save_generator(tmp_path / "weights" / "pretrain.safetensors", network(0), {"phase_number": 0})
    save_generator(tmp_path / "weights" / "best" / "pretrain.safetensors", network(1), {"phase_number": 0})
    for place, seed in ((tmp_path, 0), (tmp_path / "weights" / "best", 1)):
        evaluate(place, shards, tmp_path / "eval", ["valid"], Accelerator())
        found = json.loads((tmp_path / "eval" / "scores.json").read_text())["valid"]
        expected = mean_scores(score(open_split(shards, "valid"), {"pretrain": network(seed)}))
        assert {rock: set(means) for rock, means in found.items()} == {
            rock: {"bicubic", "pretrain"} for rock in expected
        }
        assert found["coal"]["pretrain"]["psnr"] == pytest.approx(
            expected["coal"]["pretrain"]["psnr"], abs=1e-5
        )


def run(*arguments):
    return run_command(sys.executable, "launch/evaluate.py", *arguments)


def test_the_command_writes_tables_and_figures(shards, tmp_path):
    for seed, phase in enumerate(("pretrain", "adversarial")):
        save_generator(tmp_path / "run" / "weights" / f"{phase}.safetensors", network(seed), {})
    done = run(tmp_path / "run", shards)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "run" / "eval"
    assert {path.name for path in out.iterdir()} == {
        "scores.json",
        "scores.csv",
        "figure2.png",
        "figure3.png",
        "measures.json",
        "measures.csv",
        "curves.npz",
        "report.html",
    }
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores) == {"valid", "test"} and set(scores["valid"]) == {"coal", "sandstone"}
    assert set(scores["test"]["coal"]) == {"bicubic", "pretrain", "adversarial"}
    assert set(scores["test"]["coal"]["bicubic"]) == {
        "psnr",
        "ssim",
        "spectrum_error",
        "directional_spectrum_error",
        "phase_dependence",
        "phase_dependence_hr",
        "lattice_excess",
        "lattice_excess_hr",
        "count",
    }
    with open(out / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3
    coal = [
        float(row["psnr"])
        for row in rows
        if (row["split"], row["rock"], row["method"]) == ("test", "coal", "pretrain")
    ]
    assert np.mean(coal) == pytest.approx(scores["test"]["coal"]["pretrain"]["psnr"])
    of_coal = [r for r in rows if (r["split"], r["rock"], r["method"]) == ("test", "coal", "pretrain")]
    for name in ("directional_spectrum_error", "phase_dependence", "lattice_excess", "lattice_excess_hr"):
        expected = scores["test"]["coal"]["pretrain"][name]
        assert np.mean([float(row[name]) for row in of_coal]) == pytest.approx(expected)
    other = run(tmp_path / "run", shards, "--out", tmp_path / "elsewhere", "--splits", "train")
    assert other.returncode == 0 and set(
        json.loads((tmp_path / "elsewhere" / "scores.json").read_text())
    ) == {"train"}


def test_the_command_names_the_fault_and_the_way_out(shards, tmp_path):
    empty = run(tmp_path, shards)
    assert empty.returncode == 1 and "holds no weights/*.safetensors" in empty.stderr
    save_generator(tmp_path / "weights" / "pretrain.safetensors", network(scale=2), {})
    wrong = run(tmp_path, shards)
    assert wrong.returncode == 1 and "Traceback" not in wrong.stderr
    assert "has scale=4, the generators of" in wrong.stderr and "have scale=2; give" in wrong.stderr
    nothing = run(tmp_path, tmp_path)
    assert nothing.returncode == 1 and "is not a packed data set" in nothing.stderr


def evaluated(run, shards, out, splits=("valid",)):
    return evaluate(run, shards, out, splits, Accelerator(cpu=True))


@pytest.mark.parametrize("name", ["bicubic", "lr", "hr", "full"])
def test_names_with_another_meaning_are_refused_before_anything_is_scored(shards, tmp_path, name):
    save_generator(tmp_path / "weights" / f"{name}.safetensors", network(), {})
    with pytest.raises(
        UserError, match=f"weights/{name}.safetensors: a generator cannot be called {name}.*rename the file"
    ):
        evaluated(tmp_path, shards, tmp_path / "out")


def test_scores_that_are_no_numbers_are_refused_by_the_name_of_the_generator(shards, tmp_path):
    broken = network()
    weights = {broken.head: 1e30, broken.trunk: 1e30, broken.tail: -1e30}  # finite, but the output overflows
    for conv, value in weights.items():
        torch.nn.init.constant_(conv.weight, value)
    save_generator(tmp_path / "weights" / "pretrain.safetensors", network(), {})
    save_generator(tmp_path / "weights" / "trial.safetensors", broken, {})
    with pytest.raises(
        UserError,
        match="trial.safetensors gives nan where images are -1 to 1: .* use the weights of another phase",
    ):
        evaluated(tmp_path, shards, tmp_path / "out")
    assert not (tmp_path / "out" / "scores.json").exists()


def test_a_split_named_twice_counts_once_and_odd_facts_sort_first(shards, tmp_path):
    for number, (name, facts) in enumerate(
        {"a": {"phase_number": 2}, "b": {"phase_number": "x"}, "c": {}}.items()
    ):
        save_generator(tmp_path / "weights" / f"{name}.safetensors", network(number), facts)
    evaluated(tmp_path, shards, tmp_path / "out", ["valid", "valid"])
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["valid"]
    assert list(scores["coal"]) == ["bicubic", "b", "c", "a"]
    assert scores["coal"]["bicubic"]["count"] == 1


def test_what_is_no_split_is_refused(shards, tmp_path):
    save_generator(tmp_path / "weights" / "pretrain.safetensors", network(), {})
    for splits in ("test", ["valid", "tset"]):
        with pytest.raises(UserError, match="is no split; give a list of some of train, valid, test"):
            evaluated(tmp_path, shards, tmp_path / "out", splits)
    with pytest.raises(UserError, match="--out=s3://b/x is a URL; name a folder"):
        evaluated(tmp_path, shards, "s3://b/x")


def test_an_out_that_is_a_file_is_refused(shards, tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(UserError, match="--out=.*out is a file; name a folder"):
        evaluated(tmp_path, shards, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_images_too_small_to_score_are_refused_before_a_training_too(tmp_path):
    from conftest import tiny_config, write_folder

    from srgan_dist.packing.build import BuildOptions, build
    from srgan_dist.run.preflight import preflight

    build(
        write_folder(tmp_path / "hr", {"coal": 3}, size=(8, 40)),
        tmp_path / "out",
        BuildOptions(tile=40, crop=8),
    )
    with pytest.raises(
        ValueError, match="the valid split of .* has HR images of 8 pixels a side; scores need 11 or more"
    ):
        preflight(
            tiny_config(
                tmp_path / "out",
                tmp_path,
                data={"path": str(tmp_path / "out"), "lr_crop": 2, "batch_size": 4},
            )
        )


def test_a_full_disk_is_named_by_the_command_with_the_file(shards, tmp_path, capsys):
    path = tmp_path / "generator.safetensors"
    save_generator(path, SRResNet(SRResNetConfig(num_blocks=1, num_filters=4)), {"phase": "pretrain"})
    command = ["evaluate", str(path), str(shards), "--out", str(tmp_path / "eval"), "--measures", "off"]
    with full_disk(2000), pytest.raises(SystemExit, match="1"):
        main([*command, "--samples", "0"])
    said = capsys.readouterr().err
    assert "error: [Errno 27] File too large: '" + str(tmp_path / "eval") in said and "Traceback" not in said
    assert [path for path in (tmp_path / "eval").iterdir() if path.stat().st_size >= 2000] == []
