"""The bytes of a shard are those of webdataset's own writer."""

import io

import pytest
import webdataset
from conftest import TINY, stream, write_folder

from srgan_dist.data.sample import TAR_OPTIONS
from srgan_dist.packing.build import BuildOptions, build


@pytest.mark.parametrize("encoding", ["npy", "png"])
def test_shards_are_those_that_webdataset_writes(tmp_path, encoding):
    options = BuildOptions(**vars(TINY) | {"encoding": encoding})
    build(write_folder(tmp_path / "in", {"coal": 5}), tmp_path / "set", options)
    for path in sorted((tmp_path / "set").glob("*.tar")):
        written = io.BytesIO()
        with webdataset.TarWriter(written, encoder=False, **TAR_OPTIONS) as writer:
            for sample in stream([path]):
                writer.write(sample)
        assert written.getvalue() == path.read_bytes()
