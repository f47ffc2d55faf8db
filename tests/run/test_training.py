import contextlib
import hashlib
import json
import math
import shutil
import subprocess
import sys
from typing import Annotated, Literal

import pytest
import torch
from accelerate import Accelerator
from conftest import REPOSITORY, tiny_config, write_folder
from pydantic import Field, create_model
from safetensors.torch import load_file

from srgan_dist.config import Config, ConfigError, dump_config
from srgan_dist.data.split import open_split
from srgan_dist.evaluation.report import evaluate
from srgan_dist.evaluation.validation import spread_over_rocks
from srgan_dist.models import GENERATORS
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import load_generator, save_generator
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.phases import PHASES
from srgan_dist.phases.pretrain import PretrainConfig, PretrainPhase
from srgan_dist.phases.schedule import Cosine
from srgan_dist.run.checkpoint import newest_checkpoint
from srgan_dist.run.dry_run import dry_run_report
from srgan_dist.run.preflight import preflight
from srgan_dist.run.training_run import TrainingRun
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.locks import file_lock
from srgan_dist.utils.settings import Settings


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def with_steps(config, **changes):
    """Replace settings of both phases or of the top level."""
    phases = {
        name: getattr(config, name).model_copy(update=changes.pop(name))
        for name in ("pretrain", "adversarial")
        if name in changes
    }
    return config.model_copy(update=changes | phases)


def test_both_phases_leave_what_the_design_promises(shards, tmp_path):
    trained = train(tiny_config(shards, tmp_path))
    run = tmp_path / "tiny"
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        "config.yaml",
        "metrics.jsonl",
        "samples",
        "checkpoints",
        "weights",
    }
    assert trained.state.finished == ["pretrain", "adversarial"] and trained.state.global_step == 10
    names = {name for record in records(run) for name in record}
    assert names >= {
        "samples_seen",
        "loss/pixel",
        "loss/adversarial",
        "loss/generator",
        "loss/discriminator",
        "d/real",
        "d/fake",
        "train/psnr",
        "val/psnr",
        "val/psnr_gain",
        "val/ssim",
        "test/psnr",
        "speed/samples_per_second",
        "speed/data_wait",
        "lr/generator",
    }
    seen = [record["samples_seen"] for record in records(run)]
    assert seen == sorted(seen) and seen[-1] == 40
    adversarial, facts = load_generator(run / "weights" / "adversarial.safetensors")
    assert (
        facts["phase"] == "adversarial"
        and facts["config"]["name"] == "tiny"
        and set(facts["scores"]) == {"valid", "test"}
    )
    for name, value in trained.generator.state_dict().items():
        assert torch.equal(adversarial.state_dict()[name], value)
    pretrain, _ = load_generator(run / "weights" / "pretrain.safetensors")
    assert not torch.equal(pretrain.tail.weight, adversarial.tail.weight)
    assert [path.name for path in sorted((run / "samples").iterdir())] == [
        "step-00000006.png",
        "step-00000010.png",
    ]


def test_the_same_config_gives_the_same_run_and_another_seed_another(shards, tmp_path):
    def losses(name, **changes):
        train(tiny_config(shards, tmp_path, name=name, **changes))
        return [
            (r["samples_seen"], r["loss/generator"])
            for r in records(tmp_path / name)
            if "loss/generator" in r
        ]

    first = losses("first")
    assert losses("second") == first and losses("third", seed=1) != first


def test_validation_psnr_is_of_whole_images_and_gain_is_over_bicubic(shards, tmp_path):
    from srgan_dist.evaluation.scoring import methods_of, score_split

    trained = train(tiny_config(shards, tmp_path, adversarial=None))
    split = open_split(shards, "valid")
    rows = score_split(
        split, methods_of({"SR": trained.generator.eval()}, 4, torch.device("cpu")), 0, 1, torch.device("cpu")
    )
    ours = [row["psnr"] for row in rows if row["method"] == "SR"]
    bicubic = [row["psnr"] for row in rows if row["method"] == "bicubic"]
    record = [r for r in records(tmp_path / "tiny") if "val/psnr" in r][-1]
    assert record["val/psnr"] == pytest.approx(sum(ours) / 2, abs=1e-4)
    assert record["val/psnr_gain"] == pytest.approx((sum(ours) - sum(bicubic)) / 2, abs=1e-4)


def test_records_after_the_checkpoint_are_forgotten_on_resume(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=4)
    train(config)
    run = tmp_path / "tiny"
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    train(config)
    seen = [r["samples_seen"] for r in records(run) if "loss/generator" in r]
    assert seen == [8, 16, 24]


def test_a_finished_run_is_not_trained_again(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None)
    train(config)
    before = (tmp_path / "tiny" / "metrics.jsonl").read_text()
    assert train(config).state.finished == ["pretrain"]
    assert (tmp_path / "tiny" / "metrics.jsonl").read_text() == before


def test_settings_that_decide_nothing_may_change_while_a_run_is_continued(shards, tmp_path):
    config = tiny_config(shards, tmp_path / "here", adversarial=None, checkpoint_every=4)
    train(config)
    shutil.rmtree(tmp_path / "here" / "tiny" / "checkpoints" / "step-00000006")
    (tmp_path / "here").rename(tmp_path / "there")
    changes = {
        "output": str(tmp_path / "there"),
        "log_every": 1,
        "num_sample_images": 0,
        "keep_checkpoints": 1,
        "cpu_threads": 2,
        "device": "cpu",
        "group_timeout_minutes": 5,
    }
    assert train(config.model_copy(update=changes)).state.finished == ["pretrain"]
    assert [r["samples_seen"] for r in records(tmp_path / "there" / "tiny") if "loss/generator" in r] == [
        8,
        16,
        20,
        24,
    ]


def test_rebuilt_data_are_told_from_those_a_run_began_with(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "set")
    config = tiny_config(copy, tmp_path, adversarial=None)
    train(config)
    shutil.rmtree(copy)
    build(
        write_folder(tmp_path / "hr", {"sandstone": 6, "coal": 5}),
        copy,
        BuildOptions(tile=80, crop=32, samples_per_shard=3, seed=1),
    )
    with pytest.raises(
        UserError,
        match="step-00000006 was saved with other settings \\(data.path \\(its content\\): \\[\\['[0-9a-f]{64}', 1.0\\]\\] -> ",
    ):
        train(config)


def test_a_run_without_a_checkpoint_starts_anew_but_keeps_finished_weights_of_another_config(
    shards, tmp_path
):
    first = train(tiny_config(shards, tmp_path, adversarial=None))
    shutil.rmtree(tmp_path / "tiny" / "checkpoints")
    with pytest.raises(ConfigError, match="holds a run with another config \\(seed: 0 -> 5\\)"):
        train(tiny_config(shards, tmp_path, adversarial=None, seed=5))
    again = train(tiny_config(shards, tmp_path, adversarial=None))
    assert torch.equal(again.generator.tail.weight, first.generator.tail.weight)
    shutil.rmtree(tmp_path / "tiny" / "checkpoints")
    shutil.rmtree(tmp_path / "tiny" / "weights")
    assert train(tiny_config(shards, tmp_path, adversarial=None, seed=5)).state.global_step == 6
    assert (
        min(r["samples_seen"] for r in records(tmp_path / "tiny")) == 8
        and len(records(tmp_path / "tiny")) == 5
    )


def test_a_record_that_a_crash_cut_off_is_dropped_on_resume(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=4)
    train(config)
    run = tmp_path / "tiny"
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    text = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(text[:2]) + '\n{"samples_seen": 16, "loss/pi')
    train(config)
    assert [r["samples_seen"] for r in records(run) if "loss/generator" in r] == [8, 16, 24]


@pytest.mark.parametrize("term", ["pretrain", "adversarial"])
def test_a_training_that_diverges_ends_with_an_error_and_keeps_what_was_good(shards, tmp_path, term):
    config = tiny_config(shards, tmp_path, checkpoint_every=2, mixed_precision="no")
    config = with_steps(config, **{term: {"learning_rate": 1e30, "steps": 40}})
    with pytest.raises(
        UserError,
        match=f"{term} has diverged: .* is not finite at update [0-9]+. .*smaller {term}.learning_rate",
    ):
        train(config)
    assert not (tmp_path / "tiny" / "weights" / f"{term}.safetensors").exists()
    for path in (tmp_path / "tiny").glob("checkpoints/*/*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    for record in records(tmp_path / "tiny"):
        assert all(math.isfinite(value) for value in record.values())


def poisoned(monkeypatch, updates):
    """Let the loader give grey levels that are no numbers at some updates."""
    from srgan_dist.run.training_run import TrainLoader

    class Poisoned(TrainLoader):
        def batches(self, first_update):
            with contextlib.closing(super().batches(first_update)) as batches:
                for number, (lr, hr) in enumerate(batches, first_update * self.gradient_accumulation_steps):
                    yield (
                        lr,
                        hr * float("nan") if number // self.gradient_accumulation_steps in updates else hr,
                    )

    monkeypatch.setattr("srgan_dist.run.training_run.TrainLoader", Poisoned)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_updates_that_are_not_finite_are_skipped_and_counted(shards, tmp_path, monkeypatch, accumulation):
    poisoned(monkeypatch, {2, 3, 5, 8})  # of 6 and 4
    trained = train(tiny_config(shards, tmp_path, gradient_accumulation_steps=accumulation))
    assert trained.state.global_step == 10
    found = [record for record in records(tmp_path / "tiny") if "health/skipped" in record]
    assert [record["health/skipped"] for record in found] == [0, 2, 1, 0, 1]
    assert ["loss/generator" in record for record in found] == [True, False, True, True, True]
    optimizer = load_file(
        newest_checkpoint(tmp_path / "tiny" / "checkpoints")[0] / "discriminator_optimizer.safetensors"
    )
    assert optimizer["0.step"] == 3


@pytest.mark.parametrize(
    "updates, max_consecutive_skips, at, row",
    [
        (set(range(3, 9)), 3, 6, 3),  # three of pretrain are enough
        (set(range(6)), 20, 6, 6),  # a phase must not end without a single update
        ({5, 6, 7, 8, 9}, 4, 10, 4),  # every phase counts for itself
    ],
)
def test_too_many_skipped_updates_in_a_row_end_the_training(
    shards, tmp_path, monkeypatch, updates, max_consecutive_skips, at, row
):
    poisoned(monkeypatch, updates)
    config = tiny_config(shards, tmp_path, max_consecutive_skips=max_consecutive_skips, checkpoint_every=2)
    phase = "pretrain" if at == 6 else "adversarial"
    with pytest.raises(
        UserError,
        match=f"{phase} has diverged: a loss or a gradient in {row} updates in a row"
        f" .max_consecutive_skips={max_consecutive_skips}. is not finite at update {at}",
    ):
        train(config)
    path, state = newest_checkpoint(tmp_path / "tiny" / "checkpoints")
    assert state["global_step"] == at - 2
    assert all(
        tensor.isfinite().all() for file in path.glob("*.safetensors") for tensor in load_file(file).values()
    )


def test_a_phase_that_ends_by_time_without_a_single_update_is_an_error(shards, tmp_path, monkeypatch):
    poisoned(monkeypatch, set(range(10**6)))
    config = with_steps(
        tiny_config(shards, tmp_path, log_every=1, max_consecutive_skips=10**6),
        pretrain={"steps": 10**6, "max_seconds": 0.05},
    )
    with pytest.raises(
        UserError,
        match="pretrain has diverged: a loss or a gradient in [0-9]+ updates in a row .max_consecutive_skips=1000000.",
    ):
        train(config)
    assert not (tmp_path / "tiny" / "weights" / "pretrain.safetensors").exists()


@pytest.mark.parametrize("log_every", [1, 4, 50])
def test_a_phase_may_end_with_a_skipped_update(shards, tmp_path, monkeypatch, log_every):
    poisoned(monkeypatch, {4, 5, 9})
    assert train(tiny_config(shards, tmp_path, log_every=log_every)).state.finished == [
        "pretrain",
        "adversarial",
    ]


@pytest.mark.parametrize("stopped_after", [3, 5])
def test_skipped_updates_in_a_row_are_counted_across_a_stop(shards, tmp_path, monkeypatch, stopped_after):
    class Died(BaseException):
        pass

    def die(self, *arguments, **options):
        save(self, *arguments, **options)
        if self.state.global_step == stopped_after:
            raise Died

    save = TrainingRun.save
    poisoned(monkeypatch, {2, 3, 4, 5})
    config = tiny_config(shards, tmp_path, max_consecutive_skips=4, checkpoint_every=1)
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(TrainingRun, "save", die)
        train(config)
    with pytest.raises(
        UserError,
        match="pretrain has diverged: a loss or a gradient in 4 updates in a row .max_consecutive_skips=4.",
    ):
        train(config)


def test_a_set_of_data_train_may_be_moved(shards, tmp_path):
    first = shutil.copytree(shards, tmp_path / "first")
    data = {"path": str(shards), "lr_crop": 8, "batch_size": 4}
    config = tiny_config(
        shards, tmp_path, data=data | {"train": [{"path": str(first)}]}, adversarial=None, checkpoint_every=3
    )
    train(config)
    second = first.rename(tmp_path / "second")
    moved = tiny_config(
        shards, tmp_path, data=data | {"train": [{"path": str(second)}]}, adversarial=None, checkpoint_every=3
    )
    assert train(moved).state.global_step == 6


def test_a_run_directory_whose_checkpoints_are_a_file_is_named_before_anything_is_trained(shards, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "checkpoints").write_text("")
    with pytest.raises(UserError, match="output=.*tiny cannot be written .*checkpoints"):
        train(tiny_config(shards, tmp_path))
    assert not (tmp_path / "tiny" / "metrics.jsonl").exists()


def test_the_way_to_a_checkpoint_may_be_a_relative_one(shards, tmp_path, monkeypatch):
    train(tiny_config(shards, tmp_path, checkpoint_every=3))
    monkeypatch.chdir(tmp_path / "tiny" / "checkpoints" / "step-00000009")
    train(tiny_config(shards, tmp_path, name="other"), resume=".")
    assert (tmp_path / "other" / "weights" / "pretrain.safetensors").exists()


def test_accelerates_own_accumulation_changes_nothing(shards, tmp_path, monkeypatch):
    expected = train(tiny_config(shards, tmp_path / "one")).generator.state_dict()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    train(tiny_config(shards, tmp_path / "two"))
    one, two = (
        [
            {
                name: value
                for name, value in record.items()
                if name != "time" and not name.startswith("speed/")
            }
            for record in records(tmp_path / number / "tiny")
        ]
        for number in ("one", "two")
    )
    assert one == two and expected


def test_a_full_disk_behind_stdout_does_not_end_a_training(shards, tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config(shards, tmp_path)))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "launch/train.py", tmp_path / "config.yaml"],
            cwd=REPOSITORY,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("stdout cannot be written ([Errno 28] No space left on device)") == 1
    assert (tmp_path / "tiny" / "weights" / "adversarial.safetensors").exists()


def test_a_guard_that_was_off_when_a_checkpoint_was_saved_begins_anew(shards, tmp_path, capsys):
    config = tiny_config(shards, tmp_path, checkpoint_every=3)
    train(config)
    guards = {"max_spike": 50.0, "ema_decay": 0.5}
    other = with_steps(config.model_copy(update={"name": "other"}), adversarial=guards)
    trained = train(other, resume=str(tmp_path / "tiny" / "checkpoints" / "step-00000009"))
    assert trained.state.global_step == 10
    said = capsys.readouterr().out
    for label in ("generator_average", "generator_usual", "discriminator_usual"):
        assert f"step-00000009 holds no {label}, which begins new" in said
    saved = load_file(
        tmp_path / "other" / "checkpoints" / "step-00000010" / "discriminator_usual.safetensors"
    )
    assert saved["counts"].tolist() == [1, 1]


def test_the_average_of_the_generator_is_validated_kept_and_continued_from(shards, tmp_path):
    averaging = {"ema_decay": 0.9}
    config = with_steps(
        tiny_config(shards, tmp_path, checkpoint_every=2, keep_checkpoints=9),
        pretrain=averaging,
        adversarial=averaging,
    )
    train(config)
    run, bare = tmp_path / "tiny", tmp_path / "tiny" / "checkpoints" / "step-00000004"
    saved = load_file(bare / "generator_average.safetensors")
    assert any(
        not torch.equal(value, load_file(bare / "generator.safetensors")[name])
        for name, value in saved.items()
    )
    for name, end in (
        ("pretrain", 6),
        ("adversarial", 10),
    ):  # a phase ends with the average, and the next begins with it
        exported = load_file(run / "weights" / f"{name}.safetensors")
        kept = load_file(run / "checkpoints" / f"step-{end:08d}" / "generator.safetensors")
        assert all(torch.equal(value, kept[key]) for key, value in exported.items())
    final = load_file(run / "weights" / "adversarial.safetensors")
    whole = records(run)
    for newer in (
        "step-00000006",
        "step-00000008",
        "step-00000010",
    ):  # as if it had been killed after update 4
        shutil.rmtree(run / "checkpoints" / newer)
    shutil.rmtree(run / "weights")
    train(config)
    assert all(
        torch.equal(value, final[key])
        for key, value in load_file(run / "weights" / "adversarial.safetensors").items()
    )
    assert [r["val/psnr"] for r in records(run) if "val/psnr" in r] == [
        r["val/psnr"] for r in whole if "val/psnr" in r
    ]
    plain = train(tiny_config(shards, tmp_path / "plain"))
    scores = [r["val/psnr"] for r in records(tmp_path / "plain" / "tiny") if "val/psnr" in r]
    assert scores != [r["val/psnr"] for r in whole if "val/psnr" in r] and plain.state.finished


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None,
    reason="torch.compile needs a C++ compiler on a CPU",
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile looks there itself
def test_compiled_networks_learn_the_same(shards, tmp_path):
    losses = {
        "pixel": {"name": "l1"},
        "perceptual": {"name": "vgg19", "weights": "random", "layer": "relu2_2", "weight": 1e-2},
    }
    adversarial = {"steps": 3, "learning_rate": 1e-3, "lr_schedule": {"name": "constant"}, "losses": losses}
    eager, compiled = (
        train(tiny_config(shards, tmp_path / str(choice), compile=choice, adversarial=adversarial))
        for choice in (False, True)
    )
    for ours, theirs in (
        (compiled.generator, eager.generator),
        (compiled.discriminator, eager.discriminator),
    ):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in eager.generator.state_dict().items():
        torch.testing.assert_close(compiled.generator.state_dict()[name], value, rtol=0, atol=2e-3)
    scores = [
        [r["val/psnr"] for r in records(tmp_path / str(choice) / "tiny") if "val/psnr" in r]
        for choice in (False, True)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_a_generator_that_is_finite_but_scores_no_number_ends_the_training_too(shards, tmp_path, monkeypatch):
    from srgan_dist.evaluation import scoring

    monkeypatch.setitem(scoring.METRICS, "mse", lambda sr, hr: torch.full((len(sr),), float("nan")))
    with pytest.raises(
        UserError,
        match="pretrain has diverged: val/psnr, .* is not finite at update 6. Start again, with a smaller",
    ):
        train(tiny_config(shards, tmp_path))
    assert (
        not (tmp_path / "tiny" / "weights").exists()
        and "NaN" not in (tmp_path / "tiny" / "metrics.jsonl").read_text()
    )


def test_two_trainings_in_one_directory_are_refused(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None)
    (tmp_path / "tiny").mkdir()
    lock = tmp_path / "tiny" / ".lock"
    with file_lock(lock, "it is held"):
        lock.write_bytes(b"process 7 on node3\xff")
        with pytest.raises(
            UserError,
            match="tiny is being trained by process 7 on node3.; wait for its end, end it, or choose",
        ):
            train(config)
        assert [path.name for path in (tmp_path / "tiny").iterdir()] == [".lock"]
    assert train(config).state.finished == ["pretrain"]


def test_a_run_from_a_checkpoint_brings_the_weights_of_finished_phases_along(shards, tmp_path):
    config = tiny_config(shards, tmp_path, checkpoint_every=3)
    train(config)
    start = tmp_path / "tiny" / "checkpoints" / "step-00000009"
    train(config.model_copy(update={"name": "other"}), resume=str(start))
    for phase in ("pretrain", "adversarial"):
        one, other = (
            load_generator(tmp_path / run / "weights" / f"{phase}.safetensors")[0]
            for run in ("tiny", "other")
        )
        assert torch.equal(one.tail.weight, other.tail.weight)
    with pytest.raises(
        UserError,
        match="was saved after pretrain, adversarial, but the phases of this config are adversarial",
    ):
        preflight(config.model_copy(update={"name": "third", "pretrain": None}), resume=str(start))
    with pytest.raises(
        ConfigError, match="--resume AUTO is none of auto, never and a checkpoint, e.g. runs/NAME/checkpoints"
    ):
        preflight(config.model_copy(update={"name": "third"}), resume="AUTO")


@pytest.mark.parametrize(
    "change",
    [
        {"global_step": -5},
        {"global_step": 2**63},
        {"phase_step": 1000},
        {"phase_seconds": None},
        {"best": {"pretrain": {"foo": 1.0}}},
        {"finished": ["adversarial"]},
        {"more": 1},
        {"phase": "gan"},
    ],
)
def test_a_state_that_cannot_be_is_refused(shards, tmp_path, change):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=4)
    train(config)
    run = tmp_path / "tiny" / "checkpoints"
    shutil.rmtree(run / "step-00000006")
    edit_state(run / "step-00000004", change)
    with pytest.raises(UserError, match="step-00000004 (holds no state|was saved after)"):
        train(config)


def edit_state(checkpoint, change):
    """Change the state of a checkpoint and its sha256 with it."""
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(state | change))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    data = (checkpoint / "state.json").read_bytes()
    manifest["files"]["state.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_resuming_by_path_continues_the_own_run_once_there_is_one(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=2)
    train(config)
    start = str(tmp_path / "tiny" / "checkpoints" / "step-00000004")
    other = config.model_copy(update={"name": "other"})
    train(other, resume=start)
    assert preflight(other, resume=start).checkpoint == tmp_path / "other" / "checkpoints" / "step-00000006"
    with pytest.raises(UserError, match="step-00000004 was saved with other settings \\(seed: 0 -> 1\\)"):
        preflight(config.model_copy(update={"name": "third", "seed": 1}), resume=start)


def test_a_resumed_phase_keeps_to_its_time_and_its_annealed_rate(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=2, log_every=1)
    config = with_steps(config, pretrain={"max_seconds": 1000.0, "lr_schedule": Cosine(name="cosine")})
    train(config)
    run = tmp_path / "tiny"
    for newer in ("step-00000006",):
        shutil.rmtree(run / "checkpoints" / newer)
    train(config)
    rates = [r["lr/generator"] for r in records(run) if "lr/generator" in r]
    assert rates == pytest.approx(
        [1e-3 * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)], rel=1e-3
    )


def test_a_new_phase_is_a_class_a_line_and_a_field(shards, tmp_path, monkeypatch):
    class PolishConfig(PretrainConfig):
        steps: int = 3

    class PolishPhase(PretrainPhase):
        pass

    monkeypatch.setitem(PHASES, PolishConfig, PolishPhase)
    WithPolish = create_model("WithPolish", __base__=Config, polish=(PolishConfig, PolishConfig()))
    config = WithPolish.model_validate(tiny_config(shards, tmp_path).model_dump(mode="json"))
    trained = train(config)
    assert trained.state.finished == ["pretrain", "adversarial", "polish"] and trained.state.global_step == 13
    table = evaluate(tmp_path / "tiny", shards, tmp_path / "eval", ["valid"], Accelerator())
    assert [line.split()[2] for line in table.splitlines()[2:6]] == ["bicubic", "phase", "phase", "polish"]


def test_a_new_generator_is_a_class_and_a_line(shards, tmp_path, monkeypatch):
    class WideConfig(Settings):
        name: Literal["wide"]
        scale: int = 4
        ndim: int = 2

    class Wide(torch.nn.Module):
        tile_overlap = 2

        def __init__(self, config):
            super().__init__()
            self.config = config
            self.conv = torch.nn.Conv2d(1, 16, 5, padding=2)

        def forward(self, lr):
            return torch.nn.functional.pixel_shuffle(self.conv(lr), 4)

    either = Annotated[SRResNetConfig | WideConfig, Field(discriminator="name")]
    monkeypatch.setitem(GENERATORS, WideConfig, Wide)
    monkeypatch.setattr("srgan_dist.models.weights_file.GeneratorConfig", either)
    WithWide = create_model("WithWide", __base__=Config, generator=(either, SRResNetConfig()))
    raw = tiny_config(shards, tmp_path, adversarial=None).model_dump(mode="json")
    trained = train(WithWide.model_validate(raw | {"generator": {"name": "wide"}}))
    loaded, _ = load_generator(tmp_path / "tiny" / "weights" / "pretrain.safetensors")
    assert isinstance(loaded, Wide) and torch.equal(loaded.conv.weight, trained.generator.conv.weight)


def test_a_run_directory_of_another_config_is_refused(shards, tmp_path):
    train(tiny_config(shards, tmp_path, adversarial=None))
    with pytest.raises(ConfigError, match="holds a run with another config \\(seed: 0 -> 7\\)"):
        train(tiny_config(shards, tmp_path, adversarial=None, seed=7))
    with pytest.raises(ConfigError, match="--resume never: .*has checkpoints of its own"):
        train(tiny_config(shards, tmp_path, adversarial=None), resume="never")


def test_a_run_can_start_from_the_checkpoint_of_another(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=4)
    train(config)
    other = train(
        config.model_copy(update={"name": "other"}),
        resume=str(tmp_path / "tiny" / "checkpoints" / "step-00000004"),
    )
    assert other.state.global_step == 6
    with pytest.raises(ValueError, match="nowhere is none of auto, never and a checkpoint"):
        train(config.model_copy(update={"name": "third"}), resume=str(tmp_path / "nowhere"))


def test_a_phase_is_skipped_by_giving_its_weights(shards, tmp_path):
    first = train(tiny_config(shards, tmp_path, name="first", adversarial=None))
    path = tmp_path / "first" / "weights" / "pretrain.safetensors"
    config = tiny_config(shards, tmp_path, name="second")
    config = with_steps(config, pretrain={"weights": str(path)})
    second = train(config)
    assert second.state.global_step == 4
    exported, _ = load_generator(tmp_path / "second" / "weights" / "pretrain.safetensors")
    assert torch.equal(exported.tail.weight, first.generator.tail.weight)


def test_a_phase_ends_with_its_time(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None)
    trained = train(with_steps(config, pretrain={"steps": 10**9, "max_seconds": 0.5}))
    assert trained.state.finished == ["pretrain"] and 2 <= trained.state.global_step < 10**6


@pytest.fixture
def granite(tmp_path):
    """A second set, of another rock, without valid and test."""
    folder = write_folder(tmp_path / "more", {"granite": 1}, size=(80, 72))
    build(folder, tmp_path / "granite", BuildOptions(tile=80, crop=32))
    return tmp_path / "granite"


def test_sets_are_mixed_by_weight(shards, granite, tmp_path):
    data = {
        "path": str(shards),
        "lr_crop": 8,
        "batch_size": 4,
        "train": [{"path": str(shards), "weight": 3.0}, {"path": str(granite)}],
    }
    config = tiny_config(shards, tmp_path, adversarial=None, data=data, checkpoint_every=4)
    report = dry_run_report(config, preflight(config))
    assert (
        f"train 3 coal, 4 sandstone of {shards}, weight 3" in report
        and f"train 1 granite of {granite}, weight 1" in report
    )
    train(config)
    alone = train(tiny_config(shards, tmp_path, name="alone", adversarial=None))
    mixed = load_generator(tmp_path / "tiny" / "weights" / "pretrain.safetensors")[0]
    assert not torch.equal(mixed.tail.weight, alone.generator.tail.weight)
    other = config.model_copy(
        update={"data": config.data.model_copy(update={"train": config.data.train[:1]})}
    )
    with pytest.raises(UserError, match="was saved with other settings .data.path .its content"):
        preflight(other)


def test_sets_that_do_not_fit_each_other_are_refused(shards, granite, tmp_path):
    def prepared(path):
        return preflight(
            tiny_config(
                shards,
                tmp_path,
                data={
                    "path": str(shards),
                    "lr_crop": 8,
                    "batch_size": 4,
                    "train": [{"path": str(granite)}, {"path": str(path)}],
                },
            )
        )

    build(tmp_path / "more", tmp_path / "wide", BuildOptions(tile=80, crop=32, dtype="uint16"))
    with pytest.raises(
        ConfigError,
        match="data.train.1.path=.*wide has uint16 images, .*granite has uint8; build one of them",
    ):
        prepared(tmp_path / "wide")
    build(tmp_path / "more", tmp_path / "double", BuildOptions(tile=80, crop=32, scale=2))
    with pytest.raises(ConfigError, match="generator.scale=4, but data.train.1.path=.*double has scale=2"):
        prepared(tmp_path / "double")


def test_an_image_that_is_trained_on_and_validated_on_is_found(shards, tmp_path):
    build(
        write_folder(tmp_path / "hr", {"sandstone": 6, "coal": 5}),
        tmp_path / "other",
        BuildOptions(tile=80, crop=32, kind="default"),
    )
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    manifest["splits"] = {"train": manifest["splits"]["valid"]}
    manifest["totals"] = manifest["splits"]["train"]["rocks"]
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    data = {"path": str(shards), "lr_crop": 8, "batch_size": 4, "train": [{"path": str(tmp_path / "other")}]}
    with pytest.raises(
        ConfigError,
        match="in valid, and .*other has the same picture in train \\(2 such\\); scores would be too good",
    ):
        preflight(tiny_config(shards, tmp_path, data=data))


def damage(shards, split_name, row, folder):
    """Copy a set and flip a bit in the HR pixels of one sample."""
    copy = shutil.copytree(shards, folder)
    split = open_split(copy, split_name)
    shard = split.shards[split.rows["shard"][row]]
    data = bytearray(shard.read_bytes())
    data[int(split.rows["hr_offset"][row]) + 7] ^= 1
    shard.write_bytes(data)
    return copy, split.key(row)


def data_of(folder, **changes):
    return {"path": str(folder), "lr_crop": 8, "batch_size": 4} | changes


def test_a_flipped_bit_is_found_by_full_verification_and_stops_the_training(shards, tmp_path):
    copy, key = damage(shards, "train", 2, tmp_path / "set")
    with pytest.raises(
        UserError,
        match=f"1 training and 0 validation or test samples are damaged; (.|\n)*{key} has other HR pixels at offset",
    ):
        train(tiny_config(copy, tmp_path, data=data_of(copy, verify="full")))
    assert not (tmp_path / "tiny").exists()
    train(tiny_config(copy, tmp_path, adversarial=None, data=data_of(copy)))  # sizes alone do not show it


def test_bad_samples_within_the_limit_are_replaced_listed_and_counted(shards, tmp_path):
    copy, key = damage(shards, "train", 2, tmp_path / "set")
    config = tiny_config(
        copy, tmp_path, adversarial=None, data=data_of(copy, verify="full", max_bad_samples=1)
    )
    train(config)
    (counts,) = [r for r in records(tmp_path / "tiny") if "data/bad_samples" in r]
    assert counts["data/bad_samples"] == counts["data/bad_samples/hr_crc32"] == 1
    assert key in (tmp_path / "tiny" / "bad_samples.txt").read_text()


def test_a_set_of_which_every_sample_is_damaged_is_refused(shards, granite, tmp_path):
    copy, _ = damage(granite, "train", 0, tmp_path / "set")
    data = data_of(
        shards, verify="full", max_bad_samples=9, train=[{"path": str(shards)}, {"path": str(copy)}]
    )
    with pytest.raises(
        UserError, match="set: every sample of its train split is damaged, none is left to substitute"
    ):
        train(tiny_config(shards, tmp_path, data=data))


def test_a_damaged_validation_sample_stops_the_training_whatever_the_limit(shards, tmp_path):
    copy, key = damage(shards, "valid", 0, tmp_path / "set")
    with pytest.raises(
        UserError, match=f"0 training and 1 validation or test samples are damaged(.|\n)*{key}"
    ):
        train(tiny_config(copy, tmp_path, data=data_of(copy, verify="full", max_bad_samples=5)))


def test_a_limit_of_bad_samples_without_verification_is_refused(shards, tmp_path):
    with pytest.raises(
        ConfigError, match="max_bad_samples=2 needs verify=full, not size: only that finds them"
    ):
        tiny_config(shards, tmp_path, data=data_of(shards, max_bad_samples=2))


def test_a_set_without_valid_and_test_trains(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["splits"] = {"train": manifest["splits"]["train"]}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    trained = train(tiny_config(copy, tmp_path, adversarial=None))
    assert trained.state.finished == ["pretrain"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data": {"path": "nowhere"}}, "nowhere is not a packed data set"),
        (
            {"data": {"lr_crop": 19}},
            "data.lr_crop=19 is larger than the smallest LR image .* which has 18 pixels",
        ),
        ({"generator": {"scale": 2}}, "generator.scale=2, but data.path=.* has scale=4"),
        (
            {"data": {"lr_crop": 4, "batch_size": 1}},
            "data.batch_size=1 over 1 ranks leaves batch normalisation one value",
        ),
        (
            {"pretrain": {"weights": "nowhere.safetensors"}},
            "pretrain.weights: nowhere.safetensors is not a file",
        ),
        (
            {"adversarial": {"losses": {"perceptual": {"name": "vgg19", "weights": "nowhere.pth"}}}},
            "adversarial.losses.perceptual: .*VGG-19 weights are not at nowhere.pth",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(shards, tmp_path, changes, words):
    raw = tiny_config(shards, tmp_path).model_dump(mode="json")
    for section, values in changes.items():
        raw[section] |= values
    from srgan_dist.config import parse_config

    with pytest.raises(ValueError, match=words):
        preflight(parse_config(raw))
    assert not (tmp_path / "tiny").exists()


def test_a_batch_that_ranks_cannot_share(shards, tmp_path):
    with pytest.raises(
        ConfigError, match="data.batch_size=4 cannot be shared by 3 ranks equally; use a multiple of 3"
    ):
        preflight(tiny_config(shards, tmp_path), world_size=3)
    with pytest.raises(
        ConfigError,
        match="data.batch_size=4 cannot be cut into gradient_accumulation_steps=4 micro-batches on each of 2 ranks;"
        " use a multiple of 8",
    ):
        preflight(tiny_config(shards, tmp_path, gradient_accumulation_steps=4), world_size=2)


def test_micro_batches_of_one_value_are_refused_as_batches_are(shards, tmp_path):
    def config(sync, accumulation):
        return tiny_config(
            shards,
            tmp_path,
            gradient_accumulation_steps=accumulation,
            data={"path": str(shards), "lr_crop": 4, "batch_size": 4},
            discriminator={"num_filters": 4, "sync_batchnorm": sync},
        )

    for sync, accumulation, ranks, refused in [
        (False, 4, 1, True),
        (False, 2, 2, True),
        (False, 1, 4, True),
        (False, 2, 1, False),
        (True, 2, 2, False),
        (True, 4, 1, True),
    ]:
        with (
            pytest.raises(ConfigError, match="leaves batch normalisation one value")
            if refused
            else contextlib.nullcontext()
        ):
            preflight(config(sync, accumulation), world_size=ranks)


def test_weights_of_another_network_are_refused(shards, tmp_path):
    config = tiny_config(shards, tmp_path)
    save_generator(
        tmp_path / "g.safetensors", SRResNet(config.generator.model_copy(update={"num_filters": 5})), {}
    )
    with pytest.raises(
        ConfigError,
        match="pretrain.weights=.*holds another generator than this config \\(num_filters: 5 -> 8\\)",
    ):
        preflight(with_steps(config, pretrain={"weights": str(tmp_path / "g.safetensors")}))


def test_dry_run_shows_config_networks_data_and_phases(shards, tmp_path):
    config = tiny_config(shards, tmp_path)
    report = dry_run_report(config, preflight(config))
    assert dump_config(config) in report
    for part in (
        "generator\n",
        "discriminator\n",
        "ResidualBlock-",
        "DiscriminatorBlock-",
        "total",
        "train 3 coal, 4 sandstone",
        "pretrain    6 updates, 1 pixel",
        "adversarial 4 updates, 1 pixel + 0.005 adversarial",
        "a new run",
    ):
        assert part in report
    assert not (tmp_path / "tiny").exists()


def test_panels_take_the_rocks_in_turn(train_split):
    chosen = [train_split.key(i) for i in spread_over_rocks(train_split, 5)]
    assert chosen == [
        "coal_slice_0",
        "sandstone_slice_0",
        "coal_slice_1",
        "sandstone_slice_1",
        "coal_slice_2",
    ]
    assert len(spread_over_rocks(train_split, 99)) == 7


def run(*arguments, launcher=(sys.executable,)):
    return subprocess.run(
        [*launcher, "launch/train.py", *map(str, arguments)], cwd=REPOSITORY, capture_output=True, text=True
    )


def test_the_command_trains_under_accelerate_launch(shards, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(tiny_config(shards, tmp_path)))
    accelerate = (
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    )
    done = run(
        path, "--pretrain.steps=2", "--mixed_precision=bf16", "--tracking.wandb=offline", launcher=accelerate
    )
    assert done.returncode == 0, done.stderr
    assert "end of pretrain, valid: coal" in done.stdout and "adversarial is finished" in done.stdout
    assert (tmp_path / "tiny" / "wandb").is_dir()


def test_the_command_says_what_is_wrong_without_a_traceback(shards, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(tiny_config(shards, tmp_path)))
    wrong = run(path, "--pretrain.step=2")
    assert (
        wrong.returncode == 1
        and "pretrain.step = 2: is not a setting; the nearest is pretrain.steps" in wrong.stderr
    )
    assert "Traceback" not in wrong.stderr
    dry = run(path, "--dry-run")
    assert dry.returncode == 0 and "406" not in dry.stderr and "phases, 4 crops an update" in dry.stdout
    stray = run(path, "extra")
    assert stray.returncode == 2 and "unexpected extra" in stray.stderr
