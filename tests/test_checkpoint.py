import json
import logging
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from srgan_dist.checkpoint import (
    CheckpointError, list_checkpoints, load_checkpoint, load_generator, newest_checkpoint, read_state, save_checkpoint,
    save_generator,
)
from srgan_dist.errors import UserError
from srgan_dist.models.discriminator import Discriminator, DiscriminatorConfig
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig


def network(seed=0):
    torch.manual_seed(seed)
    return Discriminator(DiscriminatorConfig(num_filters=2, num_dense=4), 16).to(memory_format=torch.channels_last)


def trained(seed=0, steps=3):
    """A network and its Adam after some steps, so that both have a state."""
    net = network(seed)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    for step in range(steps):
        optimizer.zero_grad()
        net(torch.full((2, 1, 16, 16), step + 1.0)).square().mean().backward()
        optimizer.step()
    return net, optimizer


def save(folder, name="step-00000003", keep=3, steps=3, state=None):
    net, optimizer = trained(steps=steps)
    save_checkpoint(folder, name, {"network": net, "optimizer": optimizer}, state or {"update": 3}, keep)
    return net, optimizer


def test_networks_and_optimisers_come_back_bit_for_bit(tmp_path):
    net, optimizer = save(tmp_path, state={"update": 3, "best": {"pretrain": {"psnr": 1.5}}, "wandb_id": None})
    other, other_optimizer = trained(seed=9, steps=1)
    path, state = newest_checkpoint(tmp_path)
    assert path.name == "step-00000003" and state == {"update": 3, "best": {"pretrain": {"psnr": 1.5}}, "wandb_id": None}
    load_checkpoint(path, {"network": other, "optimizer": other_optimizer})
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    saved, loaded = optimizer.state_dict(), other_optimizer.state_dict()
    assert loaded["param_groups"] == saved["param_groups"] and loaded["state"].keys() == saved["state"].keys()
    for number, entry in saved["state"].items():
        assert all(torch.equal(loaded["state"][number][name], value) for name, value in entry.items())
    for n, o in ((net, optimizer), (other, other_optimizer)):  # and the next step is the same
        o.zero_grad()
        n(torch.ones(2, 1, 16, 16)).square().mean().backward()
        o.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    save(tmp_path)
    other = Discriminator(DiscriminatorConfig(num_filters=3, num_dense=4), 16)
    with pytest.raises(CheckpointError, match="step-00000003 does not fit this config: its network cannot be restored"):
        load_checkpoint(tmp_path / "step-00000003", {"network": other})
    with pytest.raises(CheckpointError, match="its absent cannot be restored"):
        load_checkpoint(tmp_path / "step-00000003", {"absent": other})


def test_moments_are_restored_in_the_memory_format_of_their_parameters(tmp_path):
    save(tmp_path)
    net, optimizer = trained(seed=4)
    load_checkpoint(tmp_path / "step-00000003", {"network": net, "optimizer": optimizer})
    for parameter, entry in optimizer.state.items():
        assert entry["exp_avg"].stride() == parameter.stride() and entry["exp_avg_sq"].stride() == parameter.stride()


def test_the_newest_are_kept(tmp_path):
    for update in (1, 5, 9, 20):
        save(tmp_path, f"step-{update:08d}", keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000020", "step-00000009"]


def test_the_checkpoint_just_written_is_never_pruned_and_later_damaged_ones_are_set_aside(tmp_path):
    for update in (2, 40, 50):
        save(tmp_path, f"step-{update:08d}", keep=3)
    save(tmp_path, "step-00000003", keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000040.damaged", "step-00000050.damaged"]


def test_when_no_checkpoint_is_whole_the_error_says_what_to_do(tmp_path):
    for update in (1, 2):
        save(tmp_path, f"step-{update:08d}")
        (tmp_path / f"step-{update:08d}" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="holds no checkpoint that is whole (.*step-00000002.*step-00000001.*) ?.*delete that folder to start"):
        newest_checkpoint(tmp_path)


def test_a_manifest_that_leaves_out_the_state_is_refused(tmp_path):
    path = tmp_path / "step-00000003" / "manifest.json"
    save(tmp_path)
    manifest = json.loads(path.read_text())
    del manifest["files"]["state.json"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="does not list state.json"):
        read_state(tmp_path / "step-00000003")


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "no manifest", "bad manifest"])
def test_a_damaged_checkpoint_is_skipped_loudly(tmp_path, caplog, damage):
    save(tmp_path, "step-00000001", state={"update": 1})
    save(tmp_path, "step-00000002", state={"update": 2})
    file = tmp_path / "step-00000002" / ("manifest.json" if "manifest" in damage else "network.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-1])
    elif damage == "bad manifest":
        file.write_text("{}")
    else:
        file.unlink()
    with caplog.at_level(logging.WARNING):
        path, state = newest_checkpoint(tmp_path)
    assert path.name == "step-00000001" and state == {"update": 1}
    assert "step-00000002" in caplog.text
    with pytest.raises(CheckpointError, match="step-00000002"):
        read_state(tmp_path / "step-00000002")


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared(tmp_path):
    save(tmp_path, "step-00000001")
    (tmp_path / "step-00000002.unfinished").mkdir()
    assert newest_checkpoint(tmp_path)[0].name == "step-00000001"
    save(tmp_path, "step-00000003")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_no_checkpoints(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_a_generator_is_rebuilt_from_its_file_alone(tmp_path):
    torch.manual_seed(0)
    generator = SRResNet(SRResNetConfig(scale=2, num_blocks=2, num_filters=6, prelu="layer", tanh=False, init_std=None))
    save_generator(tmp_path / "g.safetensors", generator, {"phase": "pretrain", "scores": {"valid": {}}})
    loaded, facts = load_generator(tmp_path / "g.safetensors")
    assert loaded.config == generator.config and facts["phase"] == "pretrain" and not loaded.training
    for name, value in generator.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    lr = torch.randn(1, 1, 9, 9)  # the memory formats differ, and with them the order of sums
    torch.testing.assert_close(loaded(lr), generator(lr), rtol=0, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]


def test_files_that_are_no_generators(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.safetensors is not a file"):
        load_generator(tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match="text.safetensors is not a safetensors file"):
        load_generator(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="foreign.safetensors holds no settings of a generator"):
        load_generator(tmp_path / "foreign.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "mixed.safetensors",
              {"format": "srgan_dist generator", "generator": json.dumps({"name": "srresnet"}), "facts": "{}"})
    with pytest.raises(CheckpointError, match="mixed.safetensors does not hold the weights"):
        load_generator(tmp_path / "mixed.safetensors")


def test_a_full_disk_is_named_and_leaves_the_earlier_checkpoint(tmp_path):
    save(tmp_path, "step-00000001")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(CheckpointError, match="network.safetensors cannot be written: .*Make room"):
            save(tmp_path, "step-00000002")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert newest_checkpoint(tmp_path)[0].name == "step-00000001"


@pytest.mark.parametrize("name, tensor, words", [
    ("99.step", torch.tensor(1.0), "99.step is \\(\\) there, not known here"),
    ("0.exp_avg", torch.zeros(3), "0.exp_avg is \\(3,\\) there, \\(2, 1, 3, 3\\) here"),
    ("0.exp_avg", None, "0.exp_avg is absent there"),
])
def test_moments_that_do_not_belong_to_the_parameters_are_refused(tmp_path, name, tensor, words):
    save(tmp_path)
    path = tmp_path / "step-00000003" / "optimizer.safetensors"
    tensors = {key: value for key, value in (load_file(path) | {name: tensor}).items() if value is not None}
    save_file(tensors, path)
    net, optimizer = trained(seed=4)
    with pytest.raises(CheckpointError, match=f"its optimizer cannot be restored \\({words}"):
        load_checkpoint(tmp_path / "step-00000003", {"network": net, "optimizer": optimizer})


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_json_of_endless_depth_is_no_checkpoint(tmp_path, name):
    save(tmp_path)
    (tmp_path / "step-00000003" / name).write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="step-00000003"):
        read_state(tmp_path / "step-00000003")


def saved_generator(path, facts="{}"):
    """Write a tiny generator with these facts as they are; returns its tensors and its header."""
    generator = SRResNet(SRResNetConfig(scale=2, num_blocks=1, num_filters=2))
    tensors = {name: tensor.contiguous() for name, tensor in generator.state_dict().items()}
    header = {"format": "srgan_dist generator", "generator": generator.config.model_dump_json(), "facts": facts}
    save_file(tensors, path, header)
    return tensors, header


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_generator_with_weights_that_are_no_numbers_is_refused_by_name(tmp_path, value):
    tensors, header = saved_generator(tmp_path / "g.safetensors")
    tensors["tail.weight"][-1] = value
    save_file(tensors, tmp_path / "g.safetensors", header)
    with pytest.raises(CheckpointError, match="g.safetensors holds NaN or infinite weights in tail.weight: .*use the"):
        load_generator(tmp_path / "g.safetensors")


@pytest.mark.parametrize("facts", ["[1, 2]", "3", "{", ""])
def test_a_generator_whose_facts_are_no_json_object_is_refused(tmp_path, facts):
    saved_generator(tmp_path / "g.safetensors", facts)
    with pytest.raises(CheckpointError, match="g.safetensors holds facts=.* where a JSON object belongs"):
        load_generator(tmp_path / "g.safetensors")


@pytest.mark.parametrize("device", ["foo", "meta", "cuda:999"])
def test_a_device_that_is_not_there_is_not_blamed_on_the_weights(tmp_path, device):
    saved_generator(tmp_path / "g.safetensors")
    with pytest.raises(UserError, match=f"^--device {device} cannot be used on this machine .*; use cpu, or cuda where"):
        load_generator(tmp_path / "g.safetensors", device)
