"""Tiny rocks and tiny shards, made on the fly; no GPU, no network."""

import contextlib
import gc
import os
import resource
import shutil
import signal
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import webdataset
from accelerate.state import AcceleratorState, GradientState
from browser import CHROMIUM
from PIL import Image

from srgan_dist.config import parse_config
from srgan_dist.data.split import open_split
from srgan_dist.packing.build import BuildOptions, build

torch.set_num_threads(1)  # tiny networks gain nothing from more
# A shell ignores Ctrl-C for its background jobs, nohup SIGHUP, and their children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

_cache = tempfile.TemporaryDirectory(prefix="srgan_dist_cache_")  # of this process and its children
os.environ["XDG_CACHE_HOME"] = _cache.name
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = f"{_cache.name}/hypothesis"

REPOSITORY = Path(__file__).parent.parent


def pytest_collection_modifyitems(items):
    skips = {}
    if "SRGAN_DIST_ROCKS" not in os.environ:
        skips["rocks"] = pytest.mark.skip(reason="real rock images: set SRGAN_DIST_ROCKS to their folder")
    if "SRGAN_DIST_VOLUMES" not in os.environ:
        skips["volumes"] = pytest.mark.skip(reason="real volumes: set SRGAN_DIST_VOLUMES to their folder")
    if not torch.cuda.is_available():
        skips["gpu"] = pytest.mark.skip(reason="needs a GPU")
    if CHROMIUM is None:
        skips["chromium"] = pytest.mark.skip(reason="needs Chromium: apt-get install chromium")
    for item in items:
        for marker in skips.keys() & item.keywords.keys():
            item.add_marker(skips[marker])


@pytest.fixture(autouse=True)
def on_cpu_unless_marked(request, monkeypatch):
    """Compute on the CPU also on a machine with a GPU, except in tests that are marked gpu."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", str(int("gpu" not in request.keywords)))


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Forget the settings of Accelerate and the process group of PyTorch after each test."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def wandb_environment(monkeypatch):
    """No variables of wandb but the key of no account."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 3)


@contextlib.contextmanager
def full_disk(limit):
    """Refuse to let any file of this process grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def no_waiting():
    """Make a test that blocks, e.g. as it opens a pipe, fail after 20 s."""

    def fail(number, frame):
        raise AssertionError("it blocks")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def limited_memory():
    """Let this process allocate half a GiB more, no matter by which library."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture
def little_memory():
    """A test that may allocate half a GiB."""
    with limited_memory():
        yield


@pytest.fixture
def open_folder():
    """A folder that every user reaches, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextlib.contextmanager
def read_only(folder, limited=0o555):
    """Take the right to write into a folder away, or more of its mode, for root by being somebody else."""
    mode, user = folder.stat().st_mode, os.geteuid()
    folder.chmod(limited)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)


@pytest.fixture
def rocks():
    """The folder of real rock images."""
    return Path(os.environ["SRGAN_DIST_ROCKS"])


def texture(seed, height=72, width=80, dtype=np.uint8):
    """Draw a smooth picture with edges, different for every seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = sum(np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-0.6, 0.6, (6, 3)) * [1, 1, 9])
    unit = np.clip(0.5 + 0.2 * np.sign(waves) + 0.03 * waves + rng.normal(0, 0.02, waves.shape), 0, 1)
    return (unit * np.iinfo(dtype).max).astype(dtype)


def write_folder(root, rocks, dtype=np.uint8, size=(72, 80)):
    """Write HR images, or volumes where size has three axes: rocks maps a rock to how many it has."""
    *depth, height, width = size
    for number, (rock, count) in enumerate(rocks.items()):
        (root / rock).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            seed = 100 * number + i
            if depth:
                pages = [texture((seed, z), height, width, dtype) for z in range(*depth)]
                np.save(root / rock / f"volume_{i}.npy", np.stack(pages))
            else:
                Image.fromarray(texture(seed, height, width, dtype)).save(root / rock / f"slice_{i}.png")
    return root


def stream(paths):
    """Read shards with plain WebDataset: a list of samples of bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the files open
        samples = list(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False))
        gc.collect()
    return samples


TINY = BuildOptions(tile=80, crop=32, samples_per_shard=3)
TINY_VOLUMES = BuildOptions(ndim=3, scale=2, tile=16, crop=8, samples_per_shard=3)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A packed set of two rocks with train, valid and test splits: HR 72x80, x4, uint8."""
    root = tmp_path_factory.mktemp("set")
    out = root / "shards"
    build(write_folder(root / "hr", {"sandstone": 6, "coal": 5}), out, TINY)
    return out


@pytest.fixture(scope="session")
def volume_shards(tmp_path_factory):
    """A set like `shards`, of volumes: HR 12x14x16, x2, uint8."""
    root = tmp_path_factory.mktemp("volume_set")
    out = root / "shards"
    build(write_folder(root / "hr", {"sandstone": 6, "coal": 5}, size=(12, 14, 16)), out, TINY_VOLUMES)
    return out


@pytest.fixture(scope="session")
def shards_of(request):
    """shards_of(ndim): the packed set of images or of volumes."""
    return lambda ndim: request.getfixturevalue({2: "shards", 3: "volume_shards"}[ndim])


@pytest.fixture
def copy(shards, tmp_path):
    """A copy of that set, to be changed."""
    return shutil.copytree(shards, tmp_path / "copy")


@pytest.fixture(scope="session")
def train_split(shards):
    return open_split(shards, "train")


LR_CROP, SCALE = {2: 8, 3: 4}, {2: 4, 3: 2}  # by the number of dimensions
NDIMS = [2, pytest.param(3, marks=pytest.mark.slow)]  # of tests that take seconds


def tiny_config(shards, output, ndim=2, **changes):
    """A config that trains both phases in seconds, on images x4 or volumes x2; changes replace top-level
    sections.
    """
    raw = {
        "name": "tiny",
        "output": str(output),
        "mixed_precision": "no",
        "log_every": 2,
        "validate_every": 100,
        "checkpoint_every": 100,
        "cpu_ranks": 1,
        "cpu_threads": 1,
        "num_sample_images": 1,
        "data": {"path": str(shards), "lr_crop": LR_CROP[ndim], "batch_size": 4, "augment": "all"},
        "generator": {
            "name": "srresnet",
            "ndim": ndim,
            "scale": SCALE[ndim],
            "num_blocks": 1,
            "num_filters": 8,
            "tanh": False,
            "init_std": None,
        },
        "discriminator": {"name": "dense", "num_filters": 4, "num_dense": 16, "init_std": None},
        "pretrain": {
            "steps": 6,
            "learning_rate": 1e-3,
            "lr_schedule": {"name": "constant"},
            "losses": {"pixel": {"name": "l1"}},
        },
        "adversarial": {
            "steps": 4,
            "learning_rate": 1e-3,
            "lr_schedule": {"name": "constant"},
            "losses": {"pixel": {"name": "l1"}},
        },
        "tracking": {"wandb": "disabled"},
    }
    return parse_config(raw | changes)
