"""Fine-tuning: phases that begin with the weights of an earlier training."""

import hashlib
import json
import shutil

import pytest
import torch
from commands import work
from conftest import tiny_config, write_folder
from run_files import with_steps
from safetensors.torch import load_file

from srgan_dist.config import ConfigError
from srgan_dist.models.weights_file import load_generator, read_facts
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.run.dry_run import dry_run_report
from srgan_dist.run.preflight import preflight
from srgan_dist.training import train

STILL = 1e-30  # a learning rate that moves no weight


@pytest.fixture(scope="module")
def first(shards, tmp_path_factory):
    """A finished run of both phases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        output = tmp_path_factory.mktemp("first")
        train(tiny_config(shards, output, name="first"))
    return output / "first"


def generator_of(run, phase="adversarial"):
    return run / "weights" / f"{phase}.safetensors"


def discriminator_of(run):
    return run / "checkpoints" / "step-00000010" / "discriminator.safetensors"


def fine_tuning(shards, output, first, **changes):
    """A config whose only phase is the second, which begins with both networks of the first run."""
    config = with_steps(
        tiny_config(shards, output, pretrain=None, **changes),
        adversarial={
            "steps": 2,
            "learning_rate": STILL,
            "init_weights": str(generator_of(first)),
            "discriminator_init_weights": str(discriminator_of(first)),
        },
    )
    return type(config).model_validate(config.model_dump(mode="json"))


def is_equal(network, tensors):
    found = network.state_dict()
    return found.keys() == tensors.keys() and all(torch.allclose(found[k], tensors[k]) for k in found)


def test_a_phase_begins_with_both_networks_of_an_earlier_run(shards, tmp_path, first, capsys):
    config = fine_tuning(shards, tmp_path, first)
    assert f"begins with the generator of {generator_of(first)}" in dry_run_report(config, preflight(config))
    trained = train(config)
    assert is_equal(trained.generator, load_file(generator_of(first)))
    parameters, saved = dict(trained.discriminator.named_parameters()), load_file(discriminator_of(first))
    assert all(torch.allclose(parameters[name], saved[name]) for name in parameters)
    said = capsys.readouterr().out
    assert "all of its weights (of phase adversarial, after 40 crops)" in said
    assert "all of its weights, after 10 updates" in said
    recorded = read_facts(generator_of(tmp_path / "tiny"))["initial_weights"]
    for setting, path in (
        ("adversarial.init_weights", generator_of(first)),
        ("adversarial.discriminator_init_weights", discriminator_of(first)),
    ):
        assert recorded[setting] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_that_is_resumed_does_not_load_them_again(shards, tmp_path, first, capsys):
    weights = shutil.copytree(first, tmp_path / "moved")
    config = tiny_config(shards, tmp_path, checkpoint_every=2, adversarial=None)
    config = with_steps(config, pretrain={"init_weights": str(generator_of(weights))})
    whole = train(config)
    shutil.rmtree(weights)
    shutil.rmtree(tmp_path / "tiny" / "checkpoints" / "step-00000006")
    capsys.readouterr()
    resumed = train(config)
    assert is_equal(resumed.generator, whole.generator.state_dict())
    assert "pretrain.init_weights is not loaded again" in capsys.readouterr().out
    assert resumed.state.initial_weights == whole.state.initial_weights != {}
    with pytest.raises(ConfigError, match="another config \\(pretrain.init_weights: .* -> other.safetensors"):
        preflight(with_steps(config, pretrain={"init_weights": "other.safetensors"}))


def test_weights_that_a_checkpoint_leaves_no_use_for_are_named(shards, tmp_path, first):
    config = fine_tuning(shards, tmp_path, first)
    plain = with_steps(
        config, adversarial={"init_weights": None, "discriminator_init_weights": None, "steps": 4}
    ).model_copy(update={"checkpoint_every": 2, "name": "plain"})
    train(plain)
    start = str(tmp_path / "plain" / "checkpoints" / "step-00000002")
    with pytest.raises(ConfigError, match="adversarial.init_weights=.* would not be used: the checkpoint to"):
        preflight(config, resume=start)


def test_of_another_scale_the_trunk_is_taken(shards, tmp_path, first, capsys):
    data = tmp_path / "x2"
    build(write_folder(tmp_path / "hr", {"coal": 3}), data, BuildOptions(scale=2, tile=80, crop=32))
    config = tiny_config(data, tmp_path, adversarial=None)
    generator = config.generator.model_copy(update={"scale": 2, "upscale_filters": None})
    config = config.model_copy(update={"generator": generator})
    phase = {"steps": 1, "learning_rate": STILL}
    new = train(with_steps(config.model_copy(update={"name": "new"}), pretrain=phase)).generator.state_dict()
    path = generator_of(first, "pretrain")
    found = train(with_steps(config, pretrain=phase | {"init_weights": str(path)})).generator.state_dict()
    trained = load_file(path)
    for name, value in found.items():
        source = trained if name.split(".")[0] in ("head", "blocks", "trunk") else new
        assert torch.allclose(value, source[name]), name
    said = capsys.readouterr().out
    assert "its trunk (head, blocks, trunk; 9 of " in said and "for scale 4 there is 2 here" in said


def test_of_another_number_of_channels_of_noise_the_texture_begins_new(shards, tmp_path, first, capsys):
    generator = tiny_config(shards, tmp_path).generator.model_copy(update={"noise": 2})
    config = fine_tuning(shards, tmp_path, first, generator=generator.model_dump())
    trained, saved = train(config).generator.state_dict(), load_file(generator_of(first))
    assert all(torch.allclose(trained[name], saved[name]) for name in saved)
    assert "all but what makes texture of noise, which begins new" in capsys.readouterr().out


def test_two_ranks_begin_with_the_same_weights(shards, tmp_path, first):
    config = fine_tuning(shards, tmp_path / "runs", first)
    one, other = work("train", config, tmp_path / "two", 2)
    assert one == other
    exported, _ = load_generator(generator_of(tmp_path / "runs" / "tiny"))
    assert is_equal(exported, load_file(generator_of(first)))


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"generator": {"num_filters": 6}},
            "adversarial.init_weights: .*holds another network .*num_filters: 8 -> 6",
        ),
        (
            {"discriminator": {"leaky_slope": 0.3}},
            "discriminator_init_weights: .*another network .*leaky_slope: 0.2 -> 0.3",
        ),
        (
            {"data": {"lr_crop": 12}},
            "discriminator_init_weights: .*HR crops of 32 -> 48 pixels, dense1.weight: ",
        ),
        (
            {"adversarial": {"discriminator_init_weights": "d.safetensors"}},
            "discriminator_init_weights: d.safetensors is not the discriminator.safetensors of a checkpoint",
        ),
        ({"adversarial": {"init_weights": "nowhere"}}, "adversarial.init_weights: nowhere is not a file"),
        (
            {"adversarial": {"weights": "a.safetensors"}},
            "adversarial.init_weights needs adversarial to be trained",
        ),
        (
            {"pretrain": {"steps": 1}},
            "adversarial.init_weights would replace the generator of pretrain.*pretrain: null",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_named_before_any_work(shards, tmp_path, first, changes, words):
    raw = fine_tuning(shards, tmp_path, first).model_dump(mode="json")
    for section, values in changes.items():
        raw[section] = (raw[section] or {}) | values
    from srgan_dist.config import parse_config

    with pytest.raises(ConfigError, match=words):
        preflight(parse_config(raw))
    assert not (tmp_path / "tiny").exists()


def test_a_damaged_discriminator_is_named(shards, tmp_path, first):
    damaged = shutil.copytree(first, tmp_path / "damaged")
    path = discriminator_of(damaged)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="discriminator.safetensors is not what was saved"):
        preflight(fine_tuning(shards, tmp_path, damaged))


def test_the_discriminator_of_a_checkpoint_of_version_1_is_read(shards, tmp_path, first):
    from whole_runs import edit_state

    from srgan_dist.run.run_state import VERSION_1

    old = shutil.copytree(first, tmp_path / "old")
    checkpoint = discriminator_of(old).parent
    state = json.loads((checkpoint / "state.json").read_text())
    del state["fingerprint"]["discriminator"]["name"]
    names = {new: name for name, new in VERSION_1.items()}
    (checkpoint / "state.json").write_text(
        json.dumps({names.get(key, key): value for key, value in state.items()})
    )
    edit_state(checkpoint, {"version": 1})
    preflight(fine_tuning(shards, tmp_path, old))
