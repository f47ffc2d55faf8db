"""Updates that are not finite are skipped; a training that diverges ends with an error."""

import contextlib
import math

import pytest
import torch
from conftest import tiny_config
from run_files import records, with_steps
from safetensors.torch import load_file

from srgan_dist.run.checkpoint import newest_checkpoint
from srgan_dist.run.training_run import TrainingRun
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError


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


@pytest.mark.parametrize("ndim, accumulation", [(2, 1), (2, 2), (3, 2)])
def test_updates_that_are_not_finite_are_skipped_and_counted(
    shards_of, tmp_path, monkeypatch, ndim, accumulation
):
    poisoned(monkeypatch, {2, 3, 5, 8})  # of 6 and 4
    trained = train(tiny_config(shards_of(ndim), tmp_path, ndim, gradient_accumulation_steps=accumulation))
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
        match="pretrain has diverged: a loss or a gradient in [0-9]+ updates in a row"
        " .max_consecutive_skips=1000000.",
    ):
        train(config)
    assert not (tmp_path / "tiny" / "weights" / "pretrain.safetensors").exists()


@pytest.mark.parametrize("log_every", [1, 4, 50])
def test_a_phase_may_end_with_a_skipped_update(shards, tmp_path, monkeypatch, log_every):
    poisoned(monkeypatch, {4, 5, 9})
    assert list(train(tiny_config(shards, tmp_path, log_every=log_every)).state.phase_ends) == [
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
