"""Pipes in folders of images, which block whoever opens them, are named and never waited for."""

import os

import pytest
from conftest import TINY
from image_samples import GREY8, save

from srgan_dist.data.image_files import READERS, find_images, read_header
from srgan_dist.data.volume import ImageError
from srgan_dist.packing.build import build
from srgan_dist.utils.errors import UserError


def test_a_pipe_of_any_suffix_is_named_and_blocks_nothing(tmp_path, no_waiting):
    folder = tmp_path / "coal"
    folder.mkdir()
    good, log = save(folder / "good.png", GREY8), folder / "scan.log"
    pipes = [folder / f"pipe{suffix}" for suffix in READERS]
    for pipe in (*pipes, log):
        os.mkfifo(pipe)
    read_with_header = {folder / "pipe.raw", folder / "pipe.vol"}
    images, others = find_images(folder)
    assert set(images) == {good, *pipes} - read_with_header and others == [log]
    for pipe in pipes:
        with pytest.raises(ImageError, match=f"{pipe.name}: is no regular file"):
            read_header(pipe)
    with pytest.raises(UserError) as refused:
        build(folder, tmp_path / "out", TINY)
    for pipe in set(pipes) - read_with_header:
        assert f"{pipe}: is a broken link or no regular file" in str(refused.value)
