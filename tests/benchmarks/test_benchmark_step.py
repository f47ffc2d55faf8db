import json
import platform
import sys
from dataclasses import replace

import pytest
import torch
from commands import launch, run
from step_configs import step_config

from srgan_dist.benchmarks import step, step_case
from srgan_dist.benchmarks.step_plan import plan_of, with_weak_scaling
from srgan_dist.benchmarks.variants import build
from srgan_dist.cli.benchmark import parse_arguments
from srgan_dist.config import dump_config
from srgan_dist.runtime.device import has_fast_bf16
from srgan_dist.utils.errors import UserError

DEFAULTS = ["plain", "fp32-channels_last"] + ["bf16-channels_last"] * has_fast_bf16("cpu")
DEFAULTS += [f"ddp-{DEFAULTS[-1]}"]


def run_step(folder, *options, ranks=1):
    """Run the command on the tiny config; returns its output and its results."""
    config, path = folder / "tiny.yaml", folder / f"{ranks}.json"
    config.write_text(dump_config(step_config()))
    case = ["--config", config, "--blocks", "1", "--batches", "2", "--passes", "2", "--json", path]
    done = launch("launch/benchmark.py", "step", *case, *options, ranks=ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, json.loads(path.read_text())


def test_the_command_measures_every_variant_in_every_case(tmp_path):
    output, results = run_step(tmp_path, "--batches", "1", "2")
    rows, machine = results["rows"], results["machine"]
    assert [(row["phase"], row["batch"], row["variant"]) for row in rows] == [
        (phase, batch, variant)
        for phase in ("pretrain", "adversarial")
        for batch in (1, 2)
        for variant in DEFAULTS
    ]
    for row in rows:
        assert row["samples_per_second"] == pytest.approx(1000 * row["batch"] / row["step_ms"])
        assert 0 < row["share_of_floor"] and row["peak_mib"] > 0 and row["passes"] == 2
        assert (row["times_plain"] == 1) == (row["variant"] == "plain")
        assert ("times_ddp" in row) == (row["variant"] == DEFAULTS[-2])
    adversarial = [row for row in rows if row["phase"] == "adversarial"]
    plain, ours = (
        [row["gflop_per_sample"] for row in adversarial if row["variant"] == variant]
        for variant in ("plain", "fp32-channels_last")
    )
    assert plain[0] == plain[1] and ours[0] == ours[1] and plain[0] > 1.3 * ours[0]
    assert machine["clock"] == "cpu" and machine["ranks"] == machine["threads"] == 1
    assert platform.node() not in json.dumps(results)

    # As text, and as Markdown
    lines = output.splitlines()
    assert len(lines) == 2 + 4 * len(DEFAULTS) and len({len(line) for line in lines[1:]}) == 1
    assert "weak scaling" not in lines[1]
    tables = run(sys.executable, "launch/benchmark.py", "tables", tmp_path / "1.json")
    assert tables.returncode == 0 and tables.stdout.count("| pretrain |") == 2 * len(DEFAULTS)
    for row in rows:
        cells = row["variant"], f"{row['step_ms']:,.1f}", f"{row['samples_per_second']:,.2f}"
        assert f"| {' | '.join(cells)} |" in tables.stdout


def test_a_variant_that_fails_is_a_row_and_cases_without_time_are_listed(monkeypatch, capsys):
    """The second of two variants lacks memory; with no time at all nothing is measured."""

    def lack_memory(variant, config, name):
        if variant == "fp32-channels_last":
            torch.empty(2**45)
        return build(variant, config, name)

    monkeypatch.setattr(step_case, "build", lack_memory)
    options = ["step", "--blocks", "1", "--batches", "1", "--variants", "fp32", "fp32-channels_last"]
    plan = plan_of(parse_arguments([*options, "--minutes", "1e-9"]), "cpu", 1)
    saved = []
    results = step.measure(step_config(), plan, saved.append)
    text = "for want of time (--minutes 1e-09): pretrain of 1 block(s) at batch 1, "
    assert results["rows"] == [] and results["left_out"].startswith(text)

    plan = replace(plan, minutes=5, phases=("pretrain",))
    results = step.measure(step_config(), plan, lambda results: saved.append(json.dumps(results)))
    fine, lacking = results["rows"]
    case = {"phase": "pretrain", "blocks": 1, "batch": 1}
    assert fine["step_ms"] > 0
    assert lacking == case | {"variant": "fp32-channels_last", "error": "out of memory"}
    assert json.loads(saved[-1]) == json.loads(json.dumps(results))
    assert "out of memory" in capsys.readouterr().out


@pytest.mark.slow
def test_two_ranks_are_compared_with_one_and_with_ddp(tmp_path):
    output, results = run_step(tmp_path, "--phases", "adversarial", "--variants", "fp32", "ddp-fp32", ranks=2)
    assert "weak scaling" in output and output.count("adversarial") == 2
    ours, ddp = results["rows"]
    assert results["machine"]["ranks"] == 2 and results["machine"]["clock"] == "wall"
    assert ours["weak_scaling"] > 0
    assert ours["times_ddp"] == pytest.approx(ddp["step_ms"] / ours["step_ms"])
    for row in (ours, ddp):
        assert row["samples_per_second"] == pytest.approx(1000 * 2 * row["batch"] / row["step_ms"])


def test_weak_scaling_is_the_time_of_one_rank_over_that_of_several():
    row = {"phase": "pretrain", "blocks": 1, "batch": 4, "variant": "fp32", "step_ms": 100.0}
    one = {"machine": {"ranks": 1, "clock": "wall"}, "rows": [row | {"step_ms": 90.0}]}
    assert with_weak_scaling(row, one, "wall") == row | {"weak_scaling": 0.9}
    with pytest.raises(UserError, match="does not hold fp32 of pretrain with 1 block.s., batch 4"):
        with_weak_scaling(row, one | {"rows": []}, "wall")
    with pytest.raises(UserError, match="measured by 2 rank.s. and the wall clock; it has to be one rank"):
        with_weak_scaling(row, one | {"machine": {"ranks": 2, "clock": "wall"}}, "wall")


@pytest.mark.parametrize(
    "options, device, ranks, message",
    [
        ("--clock cpu --threads 2", "cpu", 1, "--clock cpu adds the times of all 2 threads; use wall, or "),
        ("--variants plain", "cpu", 2, "--variants plain: the plain loop knows one process only"),
        ("--clock wall", "cuda", 1, "--clock wall: on a GPU its own events are the clock; leave it out"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, device, ranks, message):
    with pytest.raises(UserError, match=message):
        plan_of(parse_arguments(["step", *options.split()]), device, ranks)
