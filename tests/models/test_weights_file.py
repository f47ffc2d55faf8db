"""Generator weights as files: rebuilt from the file alone, refused by name where they are wrong."""

import json
import os
import struct
from functools import partial

import pytest
import torch
from conftest import full_disk
from safetensors.torch import save_file

from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import load_generator, save_generator
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.tensor_files import CheckpointError, load_tensors


def test_a_generator_is_rebuilt_from_its_file_alone(tmp_path):
    torch.manual_seed(0)
    generator = SRResNet(
        SRResNetConfig(scale=2, num_blocks=2, num_filters=6, prelu="layer", tanh=False, init_std=None)
    )
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
    save_file(
        {"a": torch.zeros(1)},
        tmp_path / "mixed.safetensors",
        {"format": "srgan_dist generator", "generator": json.dumps({"name": "srresnet"}), "facts": "{}"},
    )
    with pytest.raises(CheckpointError, match="mixed.safetensors does not hold the weights"):
        load_generator(tmp_path / "mixed.safetensors")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_filters": 4096, "num_blocks": 1000}, r"head.weight is \(2, 1, 3, 3\) in the file, \(4096, 1,"),
        ({"num_blocks": 2}, "blocks.1.* is absent in the file, "),
        ({"foo": 3}, "srresnet.foo Extra inputs are not permitted"),
    ],
)
def test_a_header_of_another_network_is_refused_before_it_takes_memory(tmp_path, change, words):
    config = SRResNetConfig(num_blocks=1, num_filters=2)
    metadata = {"format": "srgan_dist generator", "facts": "{}"}
    metadata["generator"] = json.dumps(config.model_dump(mode="json") | change)
    save_file(SRResNet(config).state_dict(), tmp_path / "g.safetensors", metadata)
    with pytest.raises(CheckpointError, match=f"that its header describes: .*{words}"):
        load_generator(tmp_path / "g.safetensors")


def test_weights_that_do_not_fit_on_the_disk_leave_those_before_them(tmp_path):
    saved_generator(tmp_path / "g.safetensors")
    before, generator = (
        (tmp_path / "g.safetensors").read_bytes(),
        load_generator(tmp_path / "g.safetensors")[0],
    )
    with (
        full_disk(500),
        pytest.raises(
            CheckpointError, match="g.safetensors cannot be written \\(.*File too large.*Make room"
        ),
    ):
        save_generator(tmp_path / "g.safetensors", generator, {"phase": "pretrain"})
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"] and (
        tmp_path / "g.safetensors"
    ).read_bytes() == before


def saved_generator(path, facts="{}"):
    """Write a tiny generator with these facts as they are; returns its tensors and its header."""
    generator = SRResNet(SRResNetConfig(scale=2, num_blocks=1, num_filters=2))
    tensors = {name: tensor.contiguous() for name, tensor in generator.state_dict().items()}
    header = {
        "format": "srgan_dist generator",
        "generator": generator.config.model_dump_json(),
        "facts": facts,
    }
    save_file(tensors, path, header)
    return tensors, header


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_generator_with_weights_that_are_no_numbers_is_refused_by_name(tmp_path, value):
    tensors, header = saved_generator(tmp_path / "g.safetensors")
    tensors["tail.weight"][-1] = value
    save_file(tensors, tmp_path / "g.safetensors", header)
    with pytest.raises(
        CheckpointError, match="g.safetensors holds NaN or infinite weights in tail.weight: .*use the"
    ):
        load_generator(tmp_path / "g.safetensors")


def raw_file(path, header, data=b"", length=None):
    """Write a safetensors file with a header as it is, and of any length that it claims."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header, length",
    [
        ({}, 2**30),
        ({}, 2**63),
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, None),  # overlap
        ({"a": entry([2], 8, 0)}, None),
        ({"a": entry([2**40], 0, 2**42)}, None),
        ({"a": entry([2**62, 2**62], 0, 16)}, None),
        ({"a": entry([2], -8, 0)}, None),
    ],
)
def test_headers_that_lie_about_their_file_are_refused(tmp_path, header, length):
    raw_file(tmp_path / "g.safetensors", header, bytes(16), length)
    for read in (load_generator, load_tensors):
        with pytest.raises(CheckpointError, match="g.safetensors is not a safetensors file"):
            read(tmp_path / "g.safetensors")


@pytest.mark.parametrize("make", [os.mkfifo, partial(os.symlink, "/dev/zero")])
def test_weights_are_a_file(tmp_path, make):
    make(tmp_path / "g.safetensors")
    with pytest.raises(CheckpointError, match="g.safetensors is not a file"):
        load_generator(tmp_path / "g.safetensors")
    with pytest.raises(CheckpointError, match="g.safetensors is no regular file"):
        load_tensors(tmp_path / "g.safetensors")


def test_weights_of_another_type_are_refused(tmp_path):
    tensors, header = saved_generator(tmp_path / "g.safetensors")
    tensors["tail.weight"] = tensors["tail.weight"].to(torch.complex64)
    save_file(tensors, tmp_path / "g.safetensors", header)
    with pytest.raises(CheckpointError, match="tail.weight is torch.complex64 there, torch.float32 in"):
        load_generator(tmp_path / "g.safetensors")


@pytest.mark.parametrize("facts", ["[1, 2]", "3", "{", "", "[" * 10**5])
def test_a_generator_whose_facts_are_no_json_object_is_refused(tmp_path, facts):
    saved_generator(tmp_path / "g.safetensors", facts)
    with pytest.raises(CheckpointError, match="g.safetensors holds facts=.* where a JSON object belongs"):
        load_generator(tmp_path / "g.safetensors")


@pytest.mark.parametrize("device", ["foo", "meta", "cuda:999"])
def test_a_device_that_is_not_there_is_not_blamed_on_the_weights(tmp_path, device):
    saved_generator(tmp_path / "g.safetensors")
    with pytest.raises(
        UserError, match=f"^--device {device} cannot be used on this machine .*; use cpu, or cuda where"
    ):
        load_generator(tmp_path / "g.safetensors", device)
