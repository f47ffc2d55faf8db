"""The generator of the best validation of each phase."""

import json

import pytest
import torch
from safetensors.torch import load_file
from whole_runs import (
    config_of,
    edit_state,
    on_cpu_and_quick,
    records,
    stopped,
    train_undisturbed,
    weights_of,
)

from srgan_dist.models.weights_file import load_generator
from srgan_dist.optim.muon import AdamConfig
from srgan_dist.phases.schedule import Constant
from srgan_dist.run import training_run
from srgan_dist.run.training_run import TrainingRun
from srgan_dist.training import train
from srgan_dist.utils.tensor_files import CheckpointError


@pytest.fixture(autouse=True)
def surroundings():
    with on_cpu_and_quick():
        yield


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    return train_undisturbed(shards, tmp_path_factory.mktemp("whole"))


def test_the_best_generator_of_a_phase_is_exported_and_its_checkpoint_stays(shards, tmp_path):
    config = config_of(shards, tmp_path, keep_checkpoints=1, validate_every=1)
    rates = {"pretrain": 0.1, "adversarial": 0.2}
    config = config.model_copy(
        update={
            name: getattr(config, name).model_copy(
                update={
                    "learning_rate": rate,
                    "lr_schedule": Constant(name="constant"),
                    "optimizer": AdamConfig(name="adam"),
                }
            )
            for name, rate in rates.items()
        }
    )
    state = train(config.model_copy(update={"keep_checkpoints": 99, "name": "all"})).state
    train(config)
    kept = {"step-00000009", "step-00000015"}
    for phase, first, last in (("pretrain", 1, 9), ("adversarial", 10, 15)):
        name = f"val/{getattr(config, phase).best_by}"
        scores = {
            r["samples_seen"] // 4: r[name]
            for r in records(tmp_path / "all")
            if name in r and first <= r["samples_seen"] / 4 <= last
        }
        best = max(scores, key=scores.get)
        assert len(scores) == last - first + 1 and best != last
        assert (
            state.best[phase].global_step == best
            and state.best[phase].score == scores[best]
            and state.best[phase].phase_step == best - first + 1
        )
        generator, facts = load_generator(tmp_path / "run" / "weights" / "best" / f"{phase}.safetensors")
        saved = load_file(tmp_path / "all" / "checkpoints" / f"step-{best:08d}" / "generator.safetensors")
        assert all(torch.equal(value, saved[name]) for name, value in generator.state_dict().items())
        assert (
            facts["phase"] == phase
            and facts["samples_seen"] == 4 * best
            and set(facts["scores"]) == {"valid"}
        )
        kept.add(f"step-{best:08d}")
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == kept


def test_a_run_from_a_checkpoint_of_another_brings_the_best_weights_of_finished_phases_and_finds_its_own(
    shards, whole, tmp_path
):
    start = stopped(whole, tmp_path, 12) / "checkpoints" / "step-00000012"
    best = json.loads((start / "state.json").read_text())["best"]
    edit_state(
        start,
        {"best": best | {"adversarial": {"psnr": 99.0, "score": 99.0, "phase_step": 2, "global_step": 11}}},
    )
    state = train(config_of(shards, tmp_path, name="other", validate_every=1000), resume=str(start)).state
    found, expected = (
        {path.name: weights_of(path) for path in (run / "weights" / "best").iterdir()}
        for run in (tmp_path / "other", whole)
    )
    assert (
        found["pretrain.safetensors"] == expected["pretrain.safetensors"]
        and state.best["pretrain"].global_step == 9
    )
    # The only validation of that phase
    assert state.best["adversarial"].global_step == 15 and "adversarial.safetensors" in found


def test_best_weights_that_could_not_be_kept_are_not_the_best_that_is_known(
    shards, tmp_path, monkeypatch, caplog
):
    scores = iter([10.0, 30.0, 20.0])

    def keep_best(self, metrics, means):
        return keep(self, metrics | {"val/psnr": next(scores)}, means)

    def refused(path, *arguments):
        if path.parent.name == "best" and len(caplog.records) == 0 and path.exists():
            raise CheckpointError("no room")
        return save(path, *arguments)

    keep, save = TrainingRun.keep_best, training_run.save_generator
    monkeypatch.setattr(TrainingRun, "keep_best", keep_best)
    monkeypatch.setattr(training_run, "save_generator", refused)
    trained = train(config_of(shards, tmp_path, adversarial=None))
    assert "goes on without best weights: no room" in caplog.text
    assert trained.state.best["pretrain"].psnr == 20.0 and trained.state.best["pretrain"].phase_step == 9
    _, facts = load_generator(tmp_path / "run" / "weights" / "best" / "pretrain.safetensors")
    assert facts["samples_seen"] == 4 * 9
