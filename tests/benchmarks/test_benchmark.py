import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from conftest import REPOSITORY, tiny_config
from test_distributed import launch

from srgan_dist.benchmarks import gpu, loader, step, tables
from srgan_dist.benchmarks.facts import matmul_flops
from srgan_dist.benchmarks.names import STAGES
from srgan_dist.benchmarks.variants import build, crops_of, with_random_vgg
from srgan_dist.cli.benchmark import parse_arguments
from srgan_dist.config import dump_config, load_config
from srgan_dist.runtime.device import has_fast_bf16
from srgan_dist.utils.errors import UserError


def test_every_way_of_reading_gives_batches_of_the_same_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "SLICES", 1)
    split = loader._make_data(tmp_path, 32)
    for batches, channels, peak in (
        (loader._our_reader(split), 1, 1),
        (loader._webdataset(split), 1, 1),
        (loader._png_folder(tmp_path / "png"), 3, 255),
        (loader._our_loader(split, torch.device("cpu")), 1, None),
    ):
        lr, hr = next(batches)
        batches.close()
        assert lr.shape == (16, channels, 48, 48) and hr.shape == (16, channels, 192, 192)
        lr, hr = ((x.float() * peak if peak else (x + 1) / 2 * 255).mean(1, keepdim=True) for x in (lr, hr))
        means = torch.nn.functional.avg_pool2d(hr, 4)
        assert (
            torch.corrcoef(torch.stack([lr.flatten(), means.flatten()]))[0, 1] > 0.98
        )  # LR and HR of one crop


def test_the_command_prints_a_table_and_writes_json(tmp_path, monkeypatch):
    program = (
        "import sys; from srgan_dist.benchmarks import loader; loader.SLICES, loader.PAIRS = 1, 32;"
        " sys.path.insert(0, 'launch'); import benchmark; benchmark.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "loader", "--passes", "1", "--json", str(tmp_path / "l.json")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "l.json").read_text())
    assert set(found) == {
        "srgan_dist",
        "webdataset",
        "png_folder",
        "to_device",
        "first_batch_ms",
        "private_mib",
        "machine",
        "passes",
    }
    assert (
        all(found[name] > 0 for name in ("srgan_dist", "webdataset", "png_folder", "to_device"))
        and found["private_mib"] < 1024
    )
    assert len(found["first_batch_ms"]) == 2 and min(found["first_batch_ms"]) > 0
    assert (
        "WebDataset on the same shards" in done.stdout and "private memory after 10,000 pairs" in done.stdout
    )
    assert "first batch of 12,000 pairs, entered at update 1,000,000: " in done.stdout


# One update

VGG = {"name": "vgg19", "weights": "torchvision", "layer": "relu2_2", "weight": 1.0}


def step_config(**changes):
    phase = {
        "learning_rate": 1e-3,
        "adversarial_weight": 0.5,
        "losses": {"pixel": {"name": "l1"}, "perceptual": VGG},
    }
    return tiny_config("unused", "unused", adversarial=phase, **changes)


def update_once(variant, config, name):
    """Take an update; returns the gradient of the generator and the numbers."""
    update = build(variant, with_random_vgg(config), name)
    numbers = update(crops_of(config, 4, torch.device("cpu")))
    generator = update.__self__.generator
    return torch.cat([parameter.grad.flatten() for parameter in generator.parameters()]), numbers


@pytest.mark.parametrize("name", ["pretrain", "adversarial"])
def test_the_plain_loop_and_ours_train_alike(name):
    Accelerator(mixed_precision="bf16")
    plain, numbers = update_once("plain", step_config(), name)
    for variant in ("fp32", "fp32-channels_last", "ddp-fp32"):
        ours, ours_numbers = update_once(variant, step_config(), name)
        assert (ours - plain).norm() < 1e-4 * plain.norm(), variant
        assert ours_numbers["train/psnr"].item() == pytest.approx(numbers["psnr"], abs=1e-4)
    rounded, rounded_numbers = update_once("bf16-channels_last", step_config(), name)
    assert 1e-4 * plain.norm() < (rounded - plain).norm() < plain.norm()
    assert rounded_numbers["train/psnr"].item() == pytest.approx(numbers["psnr"], abs=0.1)


def test_the_floating_point_operations_are_those_of_a_count_by_hand():
    """Of the report's networks, multiply-adds of every convolution and matrix product on paper."""
    config = step_config(
        generator={
            "name": "srresnet",
            "num_blocks": 2,
            "num_filters": 8,
            "long_skip": False,
            "tanh": False,
            "init_std": None,
        }
    )
    Accelerator()
    crops = crops_of(config, 3, torch.device("cpu"))
    head, inner, tail = 9 * 8, 9 * 8 * 8, 8  # multiply-adds per pixel
    forward = 2 * (8 * 8 * (head + 5 * inner + 4 * inner) + 16 * 16 * 4 * inner + 32 * 32 * tail)
    expected = (
        3 * forward - 2 * 8 * 8 * head
    )  # backward: by weights and by inputs, of which the first layer's are nobody's
    for variant in ("plain", "fp32"):
        assert step.flop_per_crop(build(variant, config, "pretrain"), crops) == expected


@pytest.mark.slow
def test_the_networks_of_the_report_need_the_operations_that_were_counted_elsewhere():
    config = with_random_vgg(load_config(step.DEFAULT_CONFIG))
    Accelerator()
    crops = crops_of(config, 1, torch.device("cpu"))
    for variant, phase, gflop in (
        ("fp32", "pretrain", 11.7),
        ("fp32", "adversarial", 141.4),
        ("plain", "adversarial", 232.7),
    ):
        assert step.flop_per_crop(build(variant, config, phase), crops) / 1e9 == pytest.approx(
            gflop, abs=0.06
        )


def test_the_most_memory_of_some_work_is_found():
    torch.ones(2**26).sum()  # a higher peak, before
    memory = step.Memory(torch.device("cpu"))
    memory.forget_peak()
    torch.ones(2**25).sum()
    assert memory.peak_mib() == pytest.approx(128, abs=10)


def run_step(folder, *options, ranks=1, expected=0):
    config = folder / "tiny.yaml"
    config.write_text(dump_config(step_config()))
    done = launch(
        "launch/benchmark.py",
        "step",
        "--config",
        config,
        "--blocks",
        "1",
        "--batches",
        "2",
        "--passes",
        "2",
        "--json",
        folder / f"{ranks}.json",
        *options,
        ranks=ranks,
    )
    assert done.returncode == expected, done.stderr[-3000:]
    return done


DEFAULTS = ["plain", "fp32-channels_last"] + ["bf16-channels_last"] * has_fast_bf16("cpu")
DEFAULTS += [f"ddp-{DEFAULTS[-1]}"]


def test_the_command_measures_every_variant_in_every_case(tmp_path):
    done = run_step(tmp_path, "--batches", "1", "2")
    found = json.loads((tmp_path / "1.json").read_text())
    assert [(row["phase"], row["batch"], row["variant"]) for row in found["rows"]] == [
        (phase, batch, variant)
        for phase in ("pretrain", "adversarial")
        for batch in (1, 2)
        for variant in DEFAULTS
    ]
    for row in found["rows"]:
        assert row["samples_per_second"] == pytest.approx(1000 * row["batch"] / row["step_ms"])
        assert 0 < row["share_of_floor"] and row["peak_mib"] > 0 and row["passes"] == 2
        assert (row["times_plain"] == 1) == (row["variant"] == "plain")
        assert ("times_ddp" in row) == (row["variant"] == DEFAULTS[-2])
    plain, ours = (
        [
            row["gflop_per_sample"]
            for row in found["rows"]
            if row["phase"] == "adversarial" and row["variant"] == variant
        ]
        for variant in ("plain", "fp32-channels_last")
    )
    assert plain[0] == plain[1] and ours[0] == ours[1] and plain[0] > 1.3 * ours[0]
    assert (
        found["machine"]["clock"] == "cpu" and found["machine"]["ranks"] == found["machine"]["threads"] == 1
    )
    assert platform.node() not in json.dumps(found)
    lines = done.stdout.splitlines()
    assert (
        len(lines) == 2 + 4 * len(DEFAULTS)
        and len({len(line) for line in lines[1:]}) == 1
        and "weak scaling" not in lines[1]
    )
    printed = subprocess.run(
        [sys.executable, "launch/benchmark.py", "tables", tmp_path / "1.json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert printed.returncode == 0 and printed.stdout.count("| pretrain |") == 2 * len(DEFAULTS)
    for row in found["rows"]:
        assert (
            f"| {row['variant']} | {row['step_ms']:,.1f} | {row['samples_per_second']:,.2f} |"
            in printed.stdout
        )


def test_a_case_that_fails_is_a_row_and_what_there_is_no_time_for_is_said(tmp_path, monkeypatch, capsys):
    """The second of two variants lacks memory; then the time is over."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    saved, built = [], build

    def fail(variant, config, name):
        if variant == "fp32-channels_last":
            torch.empty(2**45)
        return built(variant, config, name)

    monkeypatch.setattr(step, "build", fail)
    arguments = parse_arguments(
        ["step", "--blocks", "1", "--batches", "1", "--minutes", "1e-9"]
        + ["--variants", "fp32", "fp32-channels_last"]
    )
    plan = step.plan_of(arguments, "cpu", 1)
    found = step.measure(step_config(), plan, saved.append)
    assert found["rows"] == [] and found["left_out"].startswith(
        "for want of time (--minutes 1e-09): pretrain of 1 block(s) at batch 1, "
    )
    found = step.measure(
        step_config(),
        replace(plan, minutes=5, phases=("pretrain",)),
        lambda found: saved.append(json.dumps(found)),
    )
    fine, lacking = found["rows"]
    assert fine["step_ms"] > 0 and lacking == {
        "phase": "pretrain",
        "blocks": 1,
        "batch": 1,
        "variant": "fp32-channels_last",
        "error": "out of memory",
    }
    assert (
        json.loads(saved[-1]) == json.loads(json.dumps(found)) and "out of memory" in capsys.readouterr().out
    )


def test_two_ranks_are_set_against_one_and_against_ddp(tmp_path):
    done = run_step(tmp_path, "--phases", "adversarial", "--variants", "fp32", "ddp-fp32", ranks=2)
    assert "weak scaling" in done.stdout and done.stdout.count("adversarial") == 2
    found = json.loads((tmp_path / "2.json").read_text())
    ours, ddp = found["rows"]
    assert found["machine"]["ranks"] == 2 and found["machine"]["clock"] == "wall" and ours["weak_scaling"] > 0
    assert ours["times_ddp"] == pytest.approx(ddp["step_ms"] / ours["step_ms"])
    for row in (ours, ddp):
        assert row["samples_per_second"] == pytest.approx(1000 * 2 * row["batch"] / row["step_ms"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_speed_of_a_large_product_is_found_quickly_on_any_machine(dtype):
    """Also where bfloat16 has no instructions and the largest product would take minutes."""
    began = time.process_time()
    assert matmul_flops(dtype, torch.device("cpu"), "cpu") > 1e7
    assert time.process_time() - began < 60


def test_weak_scaling_is_the_time_of_one_rank_over_that_of_several():
    row = {"phase": "pretrain", "blocks": 1, "batch": 4, "variant": "fp32", "step_ms": 100.0}
    one = {"machine": {"ranks": 1, "clock": "wall"}, "rows": [row | {"step_ms": 90.0}]}
    assert step.compared(row, one, "wall") == row | {"weak_scaling": 0.9}
    with pytest.raises(UserError, match="does not hold fp32 of pretrain with 1 block.s., batch 4"):
        step.compared(row, one | {"rows": []}, "wall")
    with pytest.raises(UserError, match="measured by 2 rank.s. and the wall clock; it has to be one rank"):
        step.compared(row, one | {"machine": {"ranks": 2, "clock": "wall"}}, "wall")


@pytest.mark.parametrize(
    "options, ranks, message",
    [
        (
            ["--clock", "cpu", "--threads", "2"],
            1,
            "--clock cpu adds the times of all 2 threads; use wall, or --threads 1",
        ),
        (["--variants", "plain"], 2, "--variants plain: the plain loop knows one process only"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, ranks, message):
    with pytest.raises(UserError, match=message):
        step.plan_of(parse_arguments(["step", *options]), "cpu", ranks)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # PyTorch's own, of its compiler
def test_a_variant_that_would_be_compiled_in_part_only_is_an_error(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    Accelerator()
    update = build("fp32-compiled", with_random_vgg(step_config()), "pretrain")
    update(crops_of(step_config(), 2, torch.device("cpu")))
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        update(crops_of(step_config(), 3, torch.device("cpu")))


@pytest.mark.parametrize("name", ["step", "step_two_ranks_pretrain", "step_two_ranks_adversarial", "loader"])
def test_the_tables_of_speed_in_the_readme_are_those_of_the_measurements(name):
    found = json.loads((REPOSITORY / "docs" / "speed" / f"{name}.json").read_text())
    assert tables.table_of(found) in (REPOSITORY / "README.md").read_text()


# A day with a GPU


def on_cpu(tmp_path, *stages, seconds=300):
    done = subprocess.run(
        [
            sys.executable,
            "launch/benchmark.py",
            "gpu",
            "--device",
            "cpu",
            "--seconds",
            str(seconds),
            "--stages",
            *stages,
            "--json",
            tmp_path / "gpu.json",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "gpu.json").read_text())["stages"], done.stdout


def test_every_stage_can_be_asked_for_by_its_name():
    assert tuple(gpu.STAGES) == STAGES


def test_the_stages_of_the_gpu_benchmark_run_on_a_cpu(tmp_path):
    stages, said = on_cpu(tmp_path, "machine", "agreement", "step", "tests", "graph")
    assert not any("error" in found for found in stages.values())
    assert (
        stages["machine"]["copy_gb_per_s"] > 0
        and stages["machine"]["launch_us"] > 0
        and platform.node() not in json.dumps(stages)
    )
    for phase in ("pretrain", "adversarial"):
        assert set(stages["agreement"][phase].values()) == {0.0}  # the CPU with itself
    assert [row["phase"] for row in stages["step"]["rows"]] == ["pretrain", "adversarial"] and stages["step"][
        "rows"
    ][0]["step_ms"] > 0
    assert stages["tests"]["exit_code"] == 0 and "skipped" in stages["tests"]["summary"]
    assert "CUDA graphs need a GPU" in stages["graph"]["left_out"]
    printed = subprocess.run(
        [sys.executable, "launch/benchmark.py", "tables", tmp_path / "gpu.json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert printed.returncode == 0 and printed.stdout.strip() == said.strip()


@pytest.mark.slow
def test_the_long_stages_of_the_gpu_benchmark_run_on_a_cpu(tmp_path):
    stages, _ = on_cpu(tmp_path, "rocks", "batches", "compiled", "others")
    assert not any("error" in found for found in stages.values()), stages
    assert (
        set(stages["rocks"]["scores"]["valid"]) == {"carbonate", "coal", "sandstone"}
        and len(stages["rocks"]["speed"]) == 2
    )
    for name in ("batches", "compiled", "others"):
        assert not any("error" in row for row in stages[name]["rows"])
    assert len(stages["others"]["kernels"]) == 15


def _crash(context):
    context.note("found", 1)
    os._exit(3)


def _hang(context):
    context.note("found", 2)
    time.sleep(1000)


def _fail(context):
    context.note("found", 3)
    raise ValueError("a fault of a stage")


def test_a_stage_that_fails_is_not_the_end_of_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        gpu,
        "STAGES",
        {"crash": (_crash, 30), "hang": (_hang, 6), "fail": (_fail, 30), "machine": (gpu.machine, 30)},
    )
    saved = []
    arguments = argparse.Namespace(device="cpu", seconds=440, rocks=None, stages=list(gpu.STAGES))
    gpu.run(arguments, lambda found: saved.append(json.dumps(found)))
    stages = json.loads(saved[-1])["stages"]
    assert [stages[name]["found"] for name in ("crash", "hang", "fail")] == [1, 2, 3]
    assert stages["crash"]["error"] == "its process has died" and "ended after 9 s" in stages["hang"]["error"]
    assert "ValueError: a fault of a stage" in stages["fail"]["error"] and "error" not in stages["machine"]
    assert "Failed: its process has died" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "launch/benchmark.py", "gpu"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert (
        done.returncode == 2
        and done.stderr
        == "no GPU: PyTorch finds none here. On a CPU, --device cpu tries the stages with tiny networks\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "x",
        "[" * 100_000,
        '{"stages": [1]}',
        '{"rows": 3}',
        '{"machine": {"device": 0}, "srgan_dist": 1, "webdataset": 0}',
    ],
    ids=["list", "no json", "deep", "stages", "rows", "zero"],
)
def test_a_file_that_is_none_of_a_benchmark_is_named(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    arguments = argparse.Namespace(files=[path], baseline=path)
    with pytest.raises(UserError, match="x.json is no file of benchmark.py loader, step or gpu"):
        tables.run(arguments, None)
    with pytest.raises(UserError, match="^--baseline .*x.json is no file that benchmark.py step has written"):
        step.read_baseline(path)


@pytest.mark.parametrize(
    "options, message",
    [
        (["loader", "--json", "no/such/x.json"], "--json no/such/x.json: there is no folder "),
        (
            ["gpu", "--device", "cpu", "--rocks", "no/such"],
            "--rocks no/such is no folder with sub-folders, one per rock",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(options, message):
    done = subprocess.run(
        [sys.executable, "launch/benchmark.py", *options], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (
        done.returncode in (1, 2)
        and message in done.stderr
        and "Traceback" not in done.stderr
        and not done.stdout
    )
