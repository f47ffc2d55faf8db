"""A third phase, of the kind of the second: what is between phases 2 and 3 is restored whole."""

import json
import shutil

import pytest
import torch
from conftest import NDIMS, tiny_config
from pydantic import create_model

from srgan_dist.config import Config
from srgan_dist.phases.adversarial import AdversarialConfig
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError

ThreePhases = create_model("ThreePhases", __base__=Config, finetune=(AdversarialConfig, ...))


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


def config_of(shards, output, ndim=2, **third):
    raw = tiny_config(shards, output, ndim).model_dump(mode="json")
    return ThreePhases.model_validate(raw | {"finetune": raw["adversarial"] | {"steps": 3} | third})


def forget_after(run, global_step):
    for path in (run / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > global_step:
            shutil.rmtree(path)


@pytest.mark.parametrize("ndim", NDIMS)
def test_a_run_that_stops_between_two_gan_phases_goes_on_with_its_discriminator(shards_of, tmp_path, ndim):
    config = config_of(shards_of(ndim), tmp_path, ndim)
    whole = train(config)
    assert list(whole.state.phase_ends) == ["pretrain", "adversarial", "finetune"]
    forget_after(tmp_path / "tiny", 10)
    resumed = train(config)
    for name in ("generator", "discriminator"):
        expected, found = (getattr(trained, name).state_dict() for trained in (whole, resumed))
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_discriminator_waits_for_the_phase_after_one_that_does_not_train_it(shards, tmp_path):
    FourPhases = create_model(
        "FourPhases", __base__=Config, polish=(type(config_of(shards, tmp_path).pretrain), ...)
    )
    FourPhases = create_model("FourPhases", __base__=FourPhases, finetune=(AdversarialConfig, ...))
    raw = config_of(shards, tmp_path).model_dump(mode="json")
    config = FourPhases.model_validate(
        raw | {"polish": raw["pretrain"] | {"steps": 2}, "checkpoint_every": 1}
    )
    whole = train(config)
    forget_after(tmp_path / "tiny", 11)  # within the phase that does not train it
    resumed = train(config)
    expected, found = (trained.discriminator.state_dict() for trained in (whole, resumed))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_checkpoint_of_version_1_is_continued(shards, tmp_path):
    """The state and the record of a run as version 0.1 wrote them; config.yaml in the names of today."""
    config = tiny_config(shards, tmp_path, checkpoint_every=4)
    whole = train(config)
    forget_after(tmp_path / "tiny", 4)
    checkpoint = tmp_path / "tiny" / "checkpoints" / "step-00000004"
    state = json.loads((checkpoint / "state.json").read_text())
    old = {
        "version": 1,
        "updates": state["global_step"],
        "phase": state["phase"],
        "step": state["phase_step"],
        "skipped_in_row": 0,
        "phase_seconds": state["phase_seconds"],
        "ends": state["phase_ends"],
        "best": {
            phase: {"psnr": best["psnr"], "step": best["phase_step"], "updates": best["global_step"]}
            for phase, best in state["best"].items()
        },
        "wandb_id": None,
        "cpu_threads": 1,
        "cpu_ranks": 1,
        "identity": state["fingerprint"] | {"data.augment": True},
    }
    del old["identity"]["generator"]["ndim"]
    old["identity"]["discriminator"]["name"] = "discriminator"
    rewrite_state(checkpoint, old)
    resumed = train(config)
    expected, found = (trained.generator.state_dict() for trained in (whole, resumed))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_checkpoint_without_newer_settings_of_networks_is_continued_where_they_have_their_defaults(
    shards, tmp_path
):
    config = tiny_config(shards, tmp_path, checkpoint_every=4)
    whole = train(config)
    forget_after(tmp_path / "tiny", 4)
    checkpoint = tmp_path / "tiny" / "checkpoints" / "step-00000004"
    state = json.loads((checkpoint / "state.json").read_text())
    for name in ("noise", "upsampling", "upscale_filters", "input_skip"):
        del state["fingerprint"]["generator"][name]
    rewrite_state(checkpoint, state)
    with pytest.raises(UserError, match="another config \\(generator.noise: 0 -> 2"):
        train(
            tiny_config(shards, tmp_path, generator=config.generator.model_dump() | {"noise": 2}),
            resume=str(checkpoint),
        )
    expected, found = (trained.generator.state_dict() for trained in (whole, train(config)))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def rewrite_state(checkpoint, state):
    """Write a state, and its size and sha256 into the manifest."""
    from srgan_dist.utils.files import sha256_of

    path, manifest_path = checkpoint / "state.json", checkpoint / "manifest.json"
    path.write_text(json.dumps(state))
    manifest = json.loads(manifest_path.read_text())
    manifest["files"]["state.json"] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest_path.write_text(json.dumps(manifest))
