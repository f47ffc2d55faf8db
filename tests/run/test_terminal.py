"""What a training prints: its head, its first losses, a table of scores after each phase."""

import re
from types import SimpleNamespace

import pytest
import torch
from commands import ACCELERATE, RANKS, TORCHRUN, TRAIN, run, write_config
from conftest import TINY, tiny_config, write_folder
from run_files import records

from srgan_dist.evaluation.validation import format_scores
from srgan_dist.models.weights_file import load_generator
from srgan_dist.packing.build import build
from srgan_dist.run.header import describe_ranks


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """(all that a training has printed, its run directory)."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, tiny_config(shards, folder, log_every=100))
    done = run(*TRAIN, config, COLUMNS="110")
    assert done.returncode == 0, done.stderr
    return done.stdout, folder / "tiny"


def test_the_head_says_what_is_trained_on_what(trained, shards):
    output, directory = trained
    generator, _ = load_generator(directory / "weights" / "adversarial.safetensors")
    head = output[: output.index("pretrain 1/6")].replace("\n             ", " ").splitlines()
    assert [line for line in head if not line.startswith("ranks ")] == [
        f"run        {directory}",
        "device     cpu, 1 thread a rank",
        "precision  float32",
        f"data       {shards}: x4, uint8; 4 crops an update, of 8x8 LR pixels, 32x32 HR",
        "  train    3 coal, 4 sandstone",
        "  valid    1 coal, 1 sandstone",
        "  test     1 coal, 1 sandstone",
        f"networks   generator srresnet {sum(p.numel() for p in generator.parameters()):,} parameters",
        next(line for line in head if re.fullmatch(r" {11}discriminator dense [\d,]+ parameters", line)),
        "phases     pretrain    6 updates, 1 pixel",
        "           adversarial 4 updates, 1 pixel + 0.005 adversarial",
        "wandb      off",
    ]
    assert re.fullmatch(r"ranks      1 on \S+", head[2])


def test_the_head_is_wrapped_to_the_width_of_the_terminal(tmp_path):
    rocks = {f"a_rock_with_a_long_name_{number}": 3 for number in range(7)}
    build(write_folder(tmp_path / "hr", rocks), tmp_path / "shards", TINY)
    config = write_config(tmp_path, tiny_config("shards", "runs", adversarial=None))
    paths = (f"--data.path={tmp_path / 'shards'}", f"--output={tmp_path}")
    for columns, width in (("20", 80), ("90", 90), ("300", 110)):
        done = run(*TRAIN, config, *paths, f"--name=w{columns}", "--pretrain.steps=1", COLUMNS=columns)
        head = done.stdout[: done.stdout.index("networks")].splitlines()
        lengths = [len(line) for line in head if str(tmp_path) not in line]
        assert width - 30 < max(lengths) <= width
        for rock in rocks:
            assert f"1 {rock}" in done.stdout  # of each split, on one line


def test_gpus_are_counted_by_their_names(monkeypatch):
    def found(machines, *names):
        places = [(machine, f"{name} (80 GiB)") for machine in machines for name in names]
        monkeypatch.setattr("srgan_dist.run.header.gather_lists", lambda own: own + places[1:])
        monkeypatch.setattr("platform.node", lambda: places[0][0])
        facts = SimpleNamespace(name=names[0], total_memory=80 * 2**30)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: facts)
        return describe_ranks(torch.device("cuda", 0))

    assert found(["a"], "NVIDIA H100") == ("1 x NVIDIA H100 (80 GiB)", "1 on a")
    two = ("6 x NVIDIA H100 (80 GiB), 2 x NVIDIA A100 (80 GiB)", "8 on 2 machines: a, b")
    assert found(["a", "b"], *["NVIDIA H100"] * 3, "NVIDIA A100") == two
    assert found("abcdef", "NVIDIA H100")[1] == "6 on 6 machines: a, b, c, d, ..."


def test_the_first_losses_are_printed_at_once_and_change_no_record(trained, shards, tmp_path):
    output, directory = trained
    (first,) = re.findall(r"^pretrain 1/6 psnr ([\d.]+), pixel ([\d.e-]+), generator", output, re.MULTILINE)
    config = write_config(tmp_path, tiny_config(shards, tmp_path, log_every=1, adversarial=None))
    assert run(*TRAIN, config).returncode == 0
    every = [record for record in records(tmp_path / "tiny") if "loss/pixel" in record]
    assert first == (f"{every[0]['train/psnr']:.2f}", f"{every[0]['loss/pixel']:.3g}")
    whole = next(record for record in records(directory) if "loss/pixel" in record)
    mean = sum(record["loss/pixel"] for record in every) / 6
    assert whole["samples_seen"] == 24 and whole["loss/pixel"] == pytest.approx(mean, rel=1e-5)


def test_each_phase_ends_with_a_table_of_its_scores(trained):
    output, directory = trained
    for phase in ("pretrain", "adversarial"):
        _, facts = load_generator(directory / "weights" / f"{phase}.safetensors")
        for split in ("valid", "test"):
            table = format_scores(f"{phase}, {split}", facts["scores"][split])
            assert f"\n{table}\n" in output
    assert max(map(len, table.splitlines())) <= 80


def test_a_table_has_a_row_per_rock_and_their_mean_over_images():
    def scores(count, bicubic, sr, ssim, spectrum):
        found = {"count": count, "spectrum_error": spectrum, "ssim": ssim}
        return {"bicubic": found | {"psnr": bicubic}, "SR": found | {"psnr": sr}}

    rocks = {"coal": scores(1, 30.0, 34.0, 0.9, 1.0), "sandstone": scores(3, 20.0, 19.0, 0.5, 2.0)}
    assert format_scores("pretrain, valid", rocks).splitlines() == [
        "pretrain, valid  images  bicubic dB    SR dB    gain     SSIM  spectrum error",
        "coal                  1       30.00    34.00   +4.00   0.9000            1.00",
        "sandstone             3       20.00    19.00   -1.00   0.5000            2.00",
        "all images            4       22.50    22.75   +0.25   0.6000            1.75",
    ]
    del rocks["coal"]
    assert len(format_scores("pretrain, valid", rocks).splitlines()) == 2


# Launchers

DEFAULTS = "--num_processes 1 --num_machines 1 --dynamo_backend no".split()


def test_an_option_of_accelerate_without_effect_is_named_once(shards, tmp_path):
    config = write_config(tmp_path, tiny_config(shards, tmp_path, adversarial=None))
    options = (*DEFAULTS, "--cpu", "--mixed_precision", "fp16")
    accumulation = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}
    done = run(*ACCELERATE, *options, "launch/train.py", config, "--cpu_ranks=2", **accumulation)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "has no effect" in line]
    assert len(lines) == 2 and "Traceback" not in done.stderr
    assert "=fp16 (accelerate launch --mixed_precision)" in lines[0] and "precision is no" in lines[0]
    assert "mixed_precision: bf16 or no in the config" in lines[0]
    assert "gradient_accumulation_steps: 4 in the config" in lines[1]


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_networks_that_would_be_spread_over_ranks_are_refused(shards, tmp_path, name):
    config = write_config(tmp_path, tiny_config(shards, tmp_path))
    done = run(*TRAIN, config, **{f"ACCELERATE_USE_{name}": "true"})
    assert done.returncode == 1 and not (tmp_path / "tiny").exists()
    assert done.stderr.startswith(f"error: ACCELERATE_USE_{name}=true (--use_{name.lower()}): every rank")
    assert done.stderr.count("\n") == 1 and "--multi_gpu" in done.stderr


def test_an_error_ends_without_a_traceback_where_the_launcher_allows_it(tmp_path):
    command = ("launch/train.py", "configs/demo.yaml", f"--data.path={tmp_path}/none", "--cpu_ranks=2")
    for launcher in (
        TRAIN[:1],
        [*ACCELERATE, "-q", "--cpu", *DEFAULTS],
        [*RANKS, "--standalone", "--nproc_per_node=2"],
    ):
        done = run(*launcher, *command)
        assert done.returncode == 1 and "Traceback" not in done.stderr and "FAILED" not in done.stderr
        assert f"{tmp_path}/none is not a packed data set" in done.stderr


def test_the_traceback_of_torchs_launcher_ends_with_the_error(tmp_path):
    command = ("launch/train.py", "configs/demo.yaml", f"--data.path={tmp_path}/none")
    done = run(*TORCHRUN, "--standalone", "--nproc_per_node=2", *command)
    table = done.stderr[done.stderr.index("Root Cause") :]
    assert re.search(rf"error: rank \d: {tmp_path}/none is not a packed data set", table)
    assert "To enable traceback" not in done.stderr
