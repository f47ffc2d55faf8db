"""A lack of memory is never called damage: nothing is replaced, rebuilt or blamed for it."""

from functools import partial

import imagecodecs
import numpy as np
import PIL.PngImagePlugin
import pytest
import torch
from conftest import TINY, texture, write_folder
from webdatasets import write_shards

from srgan_dist.data import stream as streaming
from srgan_dist.data.member_image import read_member
from srgan_dist.data.split import open_set, open_split
from srgan_dist.data.stream import stream_samples
from srgan_dist.integrity import audit
from srgan_dist.integrity.audit import verify
from srgan_dist.integrity.rebuild_index import rebuild_index
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import load_generator, save_generator
from srgan_dist.packing import pack
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.run.checkpoint_writer import CheckpointWriter
from srgan_dist.storage.cache import GIB, Cache
from srgan_dist.storage.encoding import decode, encode
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.tensor_files import CheckpointError

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"


def lacking(*arguments, **options):
    raise MemoryError


def full_gpu(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.fixture(scope="module")
def png_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("png")
    options = BuildOptions(tile=80, crop=32, samples_per_shard=3, encoding="png")
    build(write_folder(root / "hr", {"coal": 4}), root / "set", options)
    return root / "set"


def test_an_image_is_not_damaged(monkeypatch):
    data = encode("png", texture(1))
    monkeypatch.setattr(PIL.PngImagePlugin, "PngImageFile", lacking)
    with pytest.raises(
        MemoryError, match=f"a PNG of {'x'.join(map(str, texture(1).shape))} pixels does not fit"
    ):
        decode("png", data, texture(1).shape, np.uint8)
    monkeypatch.setattr(imagecodecs, "png_decode", lacking)
    with pytest.raises(MemoryError, match="the image of a field hr.png does not fit into memory"):
        read_member("hr.png", data)


@pytest.mark.parametrize("spared", [False, True], ids=["named", "blank where damaged"])
def test_no_sample_of_a_set_is_replaced(png_set, tmp_path, monkeypatch, spared):
    split = open_set(png_set, Cache(tmp_path, GIB)).split("train", blank_corrupt_images=spared)
    monkeypatch.setattr(PIL.PngImagePlugin, "PngImageFile", lacking)
    with pytest.raises(
        UserError, match="train-000000.tar: the HR image of coal_.* does not fit into memory; use"
    ):
        split.shards[0].open()


def test_a_stream_is_not_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "tar_file_expander", lambda shards, **options: map(lacking, shards))
    with pytest.raises(MemoryError, match="a sample of .*000000.tar does not fit into memory"):
        list(stream_samples([str(write_shards(tmp_path) / "shards-000000.tar")]))


def test_shards_are_not_damaged(shards, monkeypatch):
    packed = open_set(shards)
    monkeypatch.setattr(audit, "_image_problem", lacking)
    with pytest.raises(MemoryError, match=r"a sample of .*-000000.tar does not fit into memory"):
        verify(packed)
    monkeypatch.setattr(np, "load", lacking)
    with pytest.raises(MemoryError, match=r"a sample of .*train-000000.tar does not fit into memory"):
        rebuild_index(packed, "train")
    with pytest.raises(UserError, match="train.index.npy of [0-9,]+ bytes does not fit into memory"):
        open_split(shards, "train")


@pytest.mark.parametrize("act", ["load_state_dict", "to"])
def test_weights_are_not_damaged(tmp_path, monkeypatch, act):
    save_generator(tmp_path / "g.safetensors", SRResNet(SRResNetConfig(num_blocks=1, num_filters=2)), {})
    monkeypatch.setattr(torch.nn.Module, act, full_gpu)
    with pytest.raises(CheckpointError, match="g.safetensors does not fit into the memory of cpu"):
        load_generator(tmp_path / "g.safetensors")


def test_a_checkpoint_is_missed_as_on_a_full_disk(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise RuntimeError(ALLOCATOR)

    monkeypatch.setattr(torch.Tensor, "clone", refused)
    writer = CheckpointWriter(torch.device("cpu"))
    save = partial(
        writer.start, tmp_path, "step-00000001", {"network": torch.nn.Linear(1, 1)}, {}, 3, (), None
    )
    with pytest.raises(CheckpointError, match="step-00000001 is not written: .* do not fit into memory"):
        save(lambda: None)
    monkeypatch.undo()
    save(lambda: None)
    writer.wait()
    assert (tmp_path / "step-00000001").exists()


def test_a_source_of_a_set_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "downsample", lacking)
    with pytest.raises(
        UserError, match="slice_0.png: does not fit into memory with its LR; use fewer processes"
    ):
        build(write_folder(tmp_path / "hr", {"coal": 4}), tmp_path / "out", TINY)
