"""The formats of untrusted files, for properties of each: what may be in a file, and how it is read."""

import contextlib
import copy
import hashlib
import io
import json
import math
import shutil
import struct

import numpy as np
import torch
from conftest import tiny_config
from foreign_content import anything, changed_bytes, changed_entries, encoded, foreign_json, nested, texts
from hypothesis import strategies as st
from packed_sets import trust
from ruamel.yaml import YAML
from test_version_2 import to_version_2
from webdatasets import sample, write

from srgan_dist.config import dump_config, load_config
from srgan_dist.data.manifest import SPLITS, parse_manifest
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set, open_split
from srgan_dist.evaluation.figures import scale_bar
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import load_generator, save_generator
from srgan_dist.packing.index_webdataset import index_webdataset
from srgan_dist.run.checkpoint import newest_checkpoint, read_state, save_checkpoint
from srgan_dist.run.run_state import BATCH, RunState, fingerprint_of, parse_state

# One class per format: `path` is named by errors, `contents` are what may be there, `place` puts it there,
# `read` reads it as a training or an evaluation does, and checks what it has read


class SetManifest:
    """manifest.json of a packed set."""

    def __init__(self, folder, shards):
        self.path = shutil.copytree(shards, folder / "set")
        self.valid = (self.path / "manifest.json").read_bytes()
        self.contents = foreign_json(json.loads(self.valid))

    def place(self, content):
        (self.path / "manifest.json").write_bytes(content)

    def read(self):
        packed = open_set(self.path)
        again = encoded(packed.manifest.model_dump(mode="json"))
        with contextlib.suppress(ValueError):  # options that JSON writes and does not read: 10**5000
            assert repr(parse_manifest(again, "again")) == repr(packed.manifest)
        for name in SPLITS:
            check_split(packed.split(name))


class ManifestInPlace(SetManifest):
    """manifest.json of a WebDataset of other people, with its fields and the places of its shards."""

    def __init__(self, folder, shards):
        folder.mkdir(exist_ok=True)
        self.path = folder / "set"
        write(self.path / "0.tar", [sample(seed, "npy") for seed in range(3)])
        index_webdataset(self.path, {"train": [str(self.path / "0.tar")]}, rock="coal")
        self.valid = (self.path / "manifest.json").read_bytes()
        document = json.loads(self.valid)
        self.contents = st.one_of(
            foreign_json(document), places.map(lambda place: encoded(with_place(document, place)))
        )

    def place(self, content):
        super().place(content)
        self.content = content

    def is_named(self, text):
        """Return whether an error begins with the set, or with a place that its manifest names."""
        files = []
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
            splits = json.loads(self.content)["splits"].values()
            files = [shard["file"] for split in splits for shard in split["shards"]]
        return str(self.path) in text or any(file and file in text for file in files)


PATHS = ("", ".", "..", "./0.tar", "a/../0.tar", "//0.tar", "/dev/zero", "0.tar\0", "x" * 5000)
URLS = ("pipe:id", "file:///0.tar", "https://u:pw@h/0.tar", "https://h/0.tar?a", "a:b")
places = texts | st.sampled_from(PATHS + URLS)


def with_place(document, place):
    """Return a manifest whose shard is at another place."""
    changed = copy.deepcopy(document)
    changed["splits"]["train"]["shards"][0]["file"] = place
    return changed


class ManifestOfVersion2(SetManifest):
    """manifest.json of a packed set of version 2."""

    def __init__(self, folder, shards):
        self.path = to_version_2(shutil.copytree(shards, folder / "set"))
        self.valid = (self.path / "manifest.json").read_bytes()
        self.contents = foreign_json(json.loads(self.valid))


class Index:
    """The index of a split, whose sha256 its maker has put into the manifest."""

    def __init__(self, folder, shards):
        self.path = shutil.copytree(shards, folder / "set")
        self.valid = (self.path / "train.index.npy").read_bytes()
        self.contents = st.binary(max_size=200) | changed_bytes(self.valid) | self.changed_rows()

    @st.composite
    def changed_rows(draw, self):
        rows = np.load(io.BytesIO(self.valid))
        for _ in range(draw(st.integers(1, 3))):
            row, name = draw(st.integers(0, len(rows) - 1)), draw(st.sampled_from(rows.dtype.names))
            if draw(st.booleans()):
                rows[row][name] = rows[draw(st.integers(0, len(rows) - 1))][name]
            elif name == "key":
                rows[row][name] = draw(st.binary(max_size=90))
            else:
                largest = np.iinfo(rows[name].dtype).max
                near = int(rows[row][name].flat[0])
                value = st.integers(0, largest) | st.integers(max(near - 600, 0), min(near + 600, largest))
                rows[row][name] = draw(value)
        file = io.BytesIO()
        np.save(file, draw(st.sampled_from((rows, rows[:-1], rows[::-1], rows[:0], rows[0]))))
        return file.getvalue()

    def place(self, content):
        (self.path / "train.index.npy").write_bytes(content)
        trust(self.path)

    def read(self):
        check_split(open_split(self.path, "train"))


def check_split(split):
    """Read all that a training and an evaluation read of a split."""
    if split is None:
        return
    assert len({split.key(i) for i in range(len(split))}) == len(split) > 0
    reader = Reader(split)
    for i in range(len(split)):
        lr, hr = reader.image(i)
        assert hr.shape == tuple(split.scale * side for side in lr.shape) and hr.dtype == split.dtype
        assert split.rock(i) in split.rocks


class Record:
    """KEY.json of a sample, of which figures and measures take source, position and voxel size."""

    def __init__(self, folder, shards):
        self.split = open_split(shards, "train")
        self.path = shards / "train-000000.tar"
        self.valid = encoded(Reader(self.split).record(0) | {"voxel_size_um": 1.5})
        self.contents = foreign_json(json.loads(self.valid))

    def place(self, content):
        self.content = content

    def read(self):
        record = self.split.record(0, self.content)
        assert record["rock"] == self.split.rock(0) and isinstance(record.get("source", ""), str | None)
        assert all(
            record.get(name, 0) is None or record.get(name, 0) >= 0 for name in ("page", "top", "left")
        )
        scale_bar(80, record.get("voxel_size_um"))


class CheckpointManifest:
    """manifest.json of a checkpoint."""

    def __init__(self, folder, shards):
        state = RunState(global_step=3).model_dump()
        save_checkpoint(
            folder, "step-3", {"generator": torch.nn.Linear(2, 2)}, state, keep=3, provenance={"a": [1]}
        )
        self.folder, self.path = folder, folder / "step-3"
        self.valid = (self.path / "manifest.json").read_bytes()
        self.contents = foreign_json(json.loads(self.valid))

    def place(self, content):
        (self.path / "manifest.json").write_bytes(content)

    def read(self):
        path, state = newest_checkpoint(self.folder)
        assert path == self.path and state["global_step"] == 3


class State:
    """The run state of a checkpoint, whose sha256 its maker has put into the manifest."""

    def __init__(self, folder, shards):
        self.config = tiny_config(shards, folder)
        self.fingerprint = json.loads(
            encoded(fingerprint_of(self.config, [(open_split(shards, "train"), 1.0)], [None]))
        )
        state = RunState(
            global_step=8,
            phase="adversarial",
            phase_step=2,
            phase_ends={"pretrain": 6},
            best={"pretrain": {"psnr": 20.0, "score": 1.0, "phase_step": 4, "global_step": 4}},
            initial_weights={"pretrain.init_weights": "0" * 64},
            fingerprint=self.fingerprint,
        )
        save_checkpoint(folder, "step-8", {}, state.model_dump(), keep=3)
        self.path = folder / "step-8"
        self.valid = (self.path / "state.json").read_bytes()
        self.contents = foreign_json(json.loads(self.valid))

    def place(self, content):
        (self.path / "state.json").write_bytes(content)
        facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (self.path / "manifest.json").write_bytes(encoded({"version": 1, "files": {"state.json": facts}}))

    def read(self):
        for new_run in (False, True):
            state = parse_state(read_state(self.path), self.path, self.config, self.fingerprint, new_run)
            phases = [name for name, _ in self.config.phases()]
            assert (
                state.finished == phases[: len(state.finished)] and 0 <= state.phase_step <= state.global_step
            )
            assert 0 <= state.samples_seen(self.fingerprint[BATCH]) < 2**63 and math.isfinite(
                state.phase_seconds
            )
            assert all(0 <= step <= state.global_step for step in state.pinned_steps())
            assert state.model_copy() == RunState.model_validate_json(state.model_dump_json())


class WeightsHeader:
    """The header of a weights file: the settings of the generator, the facts, the places of the tensors."""

    def __init__(self, folder, shards):
        self.path = folder / "g.safetensors"
        generator = SRResNet(SRResNetConfig(scale=2, num_blocks=1, num_filters=4, init_std=None))
        save_generator(
            self.path, generator, {"phase": "pretrain", "window": [0, 255], "scores": {"valid": {}}}
        )
        self.valid = self.path.read_bytes()
        (length,) = struct.unpack("<Q", self.valid[:8])
        self.header, self.values = json.loads(self.valid[8 : 8 + length]), self.valid[8 + length :]
        self.contents = st.one_of(
            st.binary(max_size=200),
            changed_bytes(self.valid[: 8 + length]).map(lambda header: header + self.values),
            foreign_json(self.header).map(self.with_header),
            *(self.with_metadata(name) for name in ("generator", "facts")),
        )

    def with_header(self, header):
        return struct.pack("<Q", len(header)) + header + self.values

    def with_metadata(self, name):
        """Files of which one JSON text inside the header is another."""
        metadata = self.header["__metadata__"]
        text = foreign_json(json.loads(metadata[name])).map(lambda content: content.decode(errors="replace"))
        changed = text.map(lambda text: self.header | {"__metadata__": metadata | {name: text}})
        return changed.map(encoded).map(self.with_header)

    def place(self, content):
        self.path.write_bytes(content)

    def read(self):
        generator, facts = load_generator(self.path)
        assert isinstance(facts, dict)
        with torch.inference_mode():
            sr = generator(torch.zeros(1, 1, 4, 4))
        assert sr.shape[-1] == 4 * generator.config.scale and sr.isfinite().all()


class ConfigFile:
    """A config, which is trusted (SECURITY.md)."""

    def __init__(self, folder, shards):
        self.path = folder / "config.yaml"
        self.valid = dump_config(tiny_config("data/set", "runs")).encode()
        document = YAML(typ="safe", pure=True).load(self.valid)
        self.contents = st.one_of(
            st.binary(max_size=200),
            texts.map(lambda text: text.encode(errors="replace")),
            changed_bytes(self.valid),
            changed_entries(document).map(encoded),  # JSON is YAML
            changed_entries(document).map(encoded),
            anything.map(encoded),
            nested(("[", "]"), ("{a: ", "}"), ("- ", ""), ("a:\n ", "b"), ("? ", ""), ("!a ", "")),
            st.integers(1, 40).map(aliases),
        )

    def place(self, content):
        self.path.write_bytes(content)

    def read(self):
        config = load_config(self.path)
        self.path.write_text(dump_config(config))
        assert load_config(self.path) == config


def aliases(depth):
    """YAML of lists of ten aliases each of the list before."""
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "\n".join(["a0: &a0 [x]", *lines]).encode()


FORMATS = (
    *(SetManifest, ManifestInPlace, ManifestOfVersion2, Index, Record),
    *(CheckpointManifest, State, WeightsHeader, ConfigFile),
)
