import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from conftest import full_disk, read_only
from safetensors.torch import load_file, save_file

from srgan_dist.models.discriminator import DenseDiscriminatorConfig, Discriminator
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import save_generator
from srgan_dist.run.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)
from srgan_dist.utils.tensor_files import CheckpointError


def network(seed=0):
    torch.manual_seed(seed)
    return Discriminator(DenseDiscriminatorConfig(num_filters=2, num_dense=4), 16).to(
        memory_format=torch.channels_last
    )


def trained(seed=0, steps=3):
    """A network and its Adam after some steps, so that both have a state."""
    net = network(seed)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    for step in range(steps):
        optimizer.zero_grad()
        net(torch.full((2, 1, 16, 16), step + 1.0)).square().mean().backward()
        optimizer.step()
    return net, optimizer


def save(folder, name="step-00000003", keep=3, steps=3, state=None, pinned_updates=()):
    net, optimizer = trained(steps=steps)
    save_checkpoint(
        folder, name, {"network": net, "optimizer": optimizer}, state or {"update": 3}, keep, pinned_updates
    )
    return net, optimizer


def test_networks_and_optimisers_come_back_bit_for_bit(tmp_path):
    net, optimizer = save(
        tmp_path, state={"update": 3, "best": {"pretrain": {"psnr": 1.5}}, "wandb_id": None}
    )
    other, other_optimizer = trained(seed=9, steps=1)
    path, state = newest_checkpoint(tmp_path)
    assert path.name == "step-00000003" and state == {
        "update": 3,
        "best": {"pretrain": {"psnr": 1.5}},
        "wandb_id": None,
    }
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
    other = Discriminator(DenseDiscriminatorConfig(num_filters=3, num_dense=4), 16)
    with pytest.raises(
        CheckpointError, match="step-00000003 does not fit this config: its network cannot be restored"
    ):
        load_checkpoint(tmp_path / "step-00000003", {"network": other})
    with pytest.raises(CheckpointError, match="its absent cannot be restored"):
        load_checkpoint(tmp_path / "step-00000003", {"absent": other})


def test_moments_are_restored_in_the_memory_format_of_their_parameters(tmp_path):
    save(tmp_path)
    net, optimizer = trained(seed=4)
    load_checkpoint(tmp_path / "step-00000003", {"network": net, "optimizer": optimizer})
    for parameter, entry in optimizer.state.items():
        assert (
            entry["exp_avg"].stride() == parameter.stride()
            and entry["exp_avg_sq"].stride() == parameter.stride()
        )


def test_the_newest_are_kept(tmp_path):
    for update in (1, 5, 9, 20):
        save(tmp_path, f"step-{update:08d}", keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000020", "step-00000009"]


def test_all_of_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    acts, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(descriptor):
        paths = [tmp_path, *tmp_path.rglob("*")]
        acts.append(next(path.name for path in paths if os.path.samestat(path.stat(), os.fstat(descriptor))))
        fsync(descriptor)

    def noted_replace(source, target):
        acts.append(f"{source.name} -> {target.name}")
        replace(source, target)

    save(tmp_path, "step-00000001")
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    save(tmp_path, "step-00000002", keep=1)
    assert acts == [
        "network.safetensors",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
        "step-00000002.unfinished",
        "step-00000002.unfinished -> step-00000002",
        tmp_path.name,
        "step-00000001 -> step-00000001.leaving.unfinished",
    ]


def test_landmarks_are_kept_beside_the_newest(tmp_path):
    for update in (1, 5, 9, 20, 21):
        save(tmp_path, f"step-{update:08d}", keep=1, pinned_updates={5, 20, 7})
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-00000021",
        "step-00000020",
        "step-00000005",
    ]
    assert len(list(tmp_path.iterdir())) == 3


def test_the_checkpoint_just_written_is_never_pruned_and_later_damaged_ones_are_set_aside(tmp_path):
    for update in (2, 40, 50):
        save(tmp_path, f"step-{update:08d}", keep=3)
    save(tmp_path, "step-00000003", keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000003",
        "step-00000040.damaged",
        "step-00000050.damaged",
    ]


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["network", "optimizer"])
@pytest.mark.parametrize(
    "write", [lambda encoding, file: file.write_bytes(pickle.dumps(encoding)), torch.save]
)
def test_a_pickle_in_the_place_of_tensors_is_refused_and_not_executed(tmp_path, name, write):
    net, optimizer = save(tmp_path)
    path = tmp_path / "step-00000003"
    write(Payload(tmp_path / "executed"), path / f"{name}.safetensors")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"] = {"state.json": manifest["files"]["state.json"]}
    (path / "manifest.json").write_text(json.dumps(manifest))
    read_state(path)
    with pytest.raises(CheckpointError, match=f"its {name} cannot be restored"):
        load_checkpoint(path, {"network": net, "optimizer": optimizer})
    assert not (tmp_path / "executed").exists()


def test_when_no_checkpoint_is_whole_the_error_says_what_to_do(tmp_path):
    for update in (1, 2):
        save(tmp_path, f"step-{update:08d}")
        (tmp_path / f"step-{update:08d}" / "manifest.json").unlink()
    with pytest.raises(
        CheckpointError,
        match="holds no checkpoint that is whole (.*step-00000002.*step-00000001.*) ?.*delete that folder to"
        " start",
    ):
        newest_checkpoint(tmp_path)


def test_a_manifest_that_leaves_out_the_state_is_refused(tmp_path):
    path = tmp_path / "step-00000003" / "manifest.json"
    save(tmp_path)
    manifest = json.loads(path.read_text())
    del manifest["files"]["state.json"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="does not list state.json"):
        read_state(tmp_path / "step-00000003")


FILES = ["manifest.json", "state.json", "network.safetensors", "optimizer.safetensors"]
DAMAGES = {
    "flipped": lambda file: file.write_bytes(
        bytes([*(data := file.read_bytes())[:-9], data[-9] ^ 1, *data[-8:]])
    ),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "removed": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_with_a_damaged_file_is_skipped_loudly(tmp_path, caplog, name, damage):
    save(tmp_path, "step-00000001", state={"update": 1})
    save(tmp_path, "step-00000002", state={"update": 2})
    assert sorted(path.name for path in (tmp_path / "step-00000002").iterdir()) == sorted(FILES)
    DAMAGES[damage](tmp_path / "step-00000002" / name)
    with caplog.at_level(logging.WARNING):
        path, state = newest_checkpoint(tmp_path)
    assert path.name == "step-00000001" and state == {"update": 1}
    assert "skipped a checkpoint: " in caplog.text and "step-00000002" in caplog.text
    with pytest.raises(CheckpointError, match="step-00000002"):
        read_state(tmp_path / "step-00000002")


def test_every_bit_of_the_manifest_matters_or_changes_nothing(tmp_path):
    save(tmp_path, state={"update": 3})
    path = tmp_path / "step-00000003" / "manifest.json"
    data, passed = path.read_bytes(), 0
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            state = read_state(tmp_path / "step-00000003")
        except CheckpointError:
            continue
        passed += 1
        assert state == {"update": 3}
    assert passed < len(data) / 10


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared(tmp_path):
    save(tmp_path, "step-00000001")
    (tmp_path / "step-00000002.unfinished").mkdir()
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000002.unfinished" / "whole")
    (tmp_path / "step-00000000.old.unfinished").mkdir()  # one that was being removed
    assert newest_checkpoint(tmp_path)[0].name == "step-00000001"
    save(tmp_path, "step-00000003")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_one_that_was_being_replaced_stays_where_the_new_one_is_damaged(tmp_path):
    save(tmp_path, "step-00000001")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000001.old")
    (tmp_path / "step-00000001" / "network.safetensors").write_bytes(b"")
    assert newest_checkpoint(tmp_path)[0].name == "step-00000001.old"
    save(tmp_path, "step-00000002")
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-00000001",
        "step-00000001.damaged",
        "step-00000002",
    ]
    read_state(tmp_path / "step-00000001")


def test_links_to_checkpoints_and_files_of_others_do_not_keep_the_next_from_being_saved(tmp_path):
    directory, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    for update in (1, 2):
        save(directory, f"step-{update:08d}")
    (directory / "step-00000009.damaged").write_text("a file")
    shutil.move(directory, elsewhere)
    directory.mkdir()
    for path in elsewhere.glob("step-????????"):
        (directory / path.name).symlink_to(path)
    (directory / "notes.unfinished").write_text("a file")
    (directory / "link.unfinished").symlink_to(elsewhere)
    assert newest_checkpoint(directory)[0].name == "step-00000002"
    for update in (2, 3, 4):
        save(directory, f"step-{update:08d}", keep=2)
    assert sorted(path.name for path in directory.iterdir()) == ["step-00000003", "step-00000004"]
    assert sorted(path.name for path in elsewhere.glob("step-????????")) == ["step-00000001", "step-00000002"]


def test_no_checkpoints(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("limit", [100, 1000, 3000])  # bytes: state, network and optimiser are larger
def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path, limit):
    save(tmp_path, "step-00000001", state={"update": "x" * 200})
    with (
        full_disk(limit),
        pytest.raises(
            CheckpointError, match="step-00000002 cannot be written \\(.*File too large.*\\). Make room"
        ),
    ):
        save(tmp_path, "step-00000002", keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]  # nothing that goes on filling it
    assert newest_checkpoint(tmp_path)[0].name == "step-00000001"
    save(tmp_path, "step-00000002")
    assert newest_checkpoint(tmp_path)[0].name == "step-00000002"


def test_files_are_readable_for_all_whom_the_umask_lets(tmp_path):
    save(tmp_path)
    save_generator(tmp_path / "g.safetensors", SRResNet(SRResNetConfig(num_blocks=1, num_filters=2)), {})
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


def test_a_folder_without_the_right_to_write_is_named_and_its_checkpoints_still_load(open_folder):
    folder = open_folder / "checkpoints"
    save(folder, "step-00000001")
    with (
        read_only(folder),
        pytest.raises(CheckpointError, match="step-00000002 cannot be written \\(.*Permission denied"),
    ):
        save(folder, "step-00000002", keep=1)
    with read_only(folder):
        assert newest_checkpoint(folder)[0].name == "step-00000001"
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    "name, tensor, words",
    [
        ("99.step", torch.tensor(1.0), "99.step is \\(\\) there, not known here"),
        ("0.exp_avg", torch.zeros(3), "0.exp_avg is \\(3,\\) there, \\(2, 1, 3, 3\\) here"),
        ("0.exp_avg", None, "0.exp_avg is absent there"),
    ],
)
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
