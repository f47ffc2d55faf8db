"""What only a GPU can show; the same tests run on the CPU, so that they themselves are tested where there is
none.
"""

import contextlib
import json
import sys

import pytest
import torch
from accelerators import accelerator_on, state_of
from commands import finished, start, start_ranks, write_config
from conftest import REPOSITORY, tiny_config
from test_golden import CURVE, thirty_updates

from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.split import open_split
from srgan_dist.phases import build_phase
from srgan_dist.run.checkpoint import load_checkpoint, read_state
from srgan_dist.run.checkpoint_writer import CheckpointWriter
from srgan_dist.run.training_run import build_networks

BOTH = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
LOSSES = {
    "pixel": {"name": "l1"},
    "perceptual": {"name": "vgg19", "weights": "random", "layer": "relu2_2", "weight": 1.0},
}


def phase_on(device, name="adversarial", precision="no"):
    """Return (phase, networks, update(number)) on a device; each update has crops of its own."""
    options = {"steps": 9, "learning_rate": 1e-3, "losses": LOSSES, "ema_decay": 0.5}
    pretrain = options | {"optimizer": {"name": "muon"}}
    config = tiny_config("unused", "unused", adversarial=options, pretrain=pretrain)
    accelerator = accelerator_on(device, precision)
    networks = build_networks(config, accelerator)
    phase = build_phase(getattr(config, name), networks, accelerator)

    def update(number, hr_factor=1.0):
        generator = torch.Generator().manual_seed(number)
        lr, hr = ((torch.rand(4, 1, side, side, generator=generator) * 2 - 1).to(device) for side in (8, 32))
        return phase.update([(lr, hr * hr_factor)])

    return phase, networks, update


@BOTH
@pytest.mark.parametrize("name", ["pretrain", "adversarial"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_skipped_update_changes_no_bit(device, name, precision):
    phase, _, update = phase_on(device, name, precision)
    assert update(0)["health/skipped"] == 0
    before = state_of(phase)
    assert update(1, hr_factor=float("nan"))["health/skipped"] == 1
    after = state_of(phase)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert update(2)["health/skipped"] == 0
    moved = state_of(phase)
    assert all(value.isfinite().all() for value in moved.values())
    assert not any(
        torch.equal(value, moved[name]) for name, value in before.items() if value.is_floating_point()
    )


@BOTH
def test_a_checkpoint_goes_from_the_cpu_to_the_device_and_back(tmp_path, device):
    def saved(phase, name):
        writer = CheckpointWriter(next(phase.generator.network.parameters()).device)
        writer.start(
            tmp_path,
            name,
            phase.stateful(),
            {"name": name},
            9,
            (),
            {},
            first=lambda: None,
        )
        phase.generator.network.tail.bias.data.add_(1)  # while it is written
        writer.wait()
        assert read_state(tmp_path / name) == {"name": name}
        return tmp_path / name

    def loaded(path, where):
        phase, _, update = phase_on(where)
        load_checkpoint(path, {"generator": phase.generator.network})
        load_checkpoint(path, phase.stateful())
        return phase, update

    first, _, update = phase_on("cpu")
    update(0)
    state = state_of(first)
    there, update_there = loaded(saved(first, "step-1"), device)
    assert {
        name: value.device.type for name, value in there.generator.network.state_dict().items()
    } == dict.fromkeys(there.generator.network.state_dict(), device)
    assert all(torch.equal(value, state_of(there)[name]) for name, value in state.items())
    back, update_back = loaded(saved(there, "step-2"), "cpu")
    assert all(torch.equal(value, state_of(back)[name]) for name, value in state.items())
    there.generator.network.tail.bias.data.sub_(1)
    update_there(1), update_back(1)  # and both go on alike
    for name, value in state_of(back).items():
        if not name.startswith("discriminator.blocks") or not name.endswith(("conv.bias", "running_mean")):
            torch.testing.assert_close(state_of(there)[name].float(), value.float(), rtol=1e-3, atol=1e-4)


@BOTH
@pytest.mark.parametrize("augment", ["none", "all"])
def test_the_crops_on_the_device_are_those_of_the_cpu_byte_by_byte(shards, device, augment):
    def batches(where):
        loader = TrainLoader(
            [(open_split(shards, "train"), 1.0)], 8, 4, 3, augment, 0, 1, torch.device(where)
        )
        with contextlib.closing(loader.batches(5)) as stream:
            return [[x.cpu() for x in next(stream)] for _ in range(8)]

    for one, other in zip(batches("cpu"), batches(device), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def worker(task, tmp_path, config, device, ranks=1, **environment):
    """Run a task of gpu_worker.py; returns the results of each rank."""
    command = (REPOSITORY / "tests" / "gpu_worker.py", task, write_config(tmp_path, config), tmp_path, device)
    if "BACKEND" in environment:
        processes = start_ranks(*command, ranks=ranks, **environment)
    else:
        processes = [start(sys.executable, *command, **environment)]
    for done in map(finished, processes):
        assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(tmp_path / f"{task}{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_with_deterministic_algorithms_a_stopped_training_ends_with_the_bits_of_one_that_was_not(
    shards, tmp_path, device
):
    (found,) = worker(
        "resume",
        tmp_path,
        tiny_config(shards, tmp_path, validate_every=3),
        device,
        CUBLAS_WORKSPACE_CONFIG=":4096:8",
        ACCELERATE_USE_CPU=str(int(device == "cpu")),
    )
    assert found["whole"] == found["stopped"]


@pytest.mark.parametrize(
    "device, backend, ranks",
    [
        ("cpu", "gloo", 1),
        pytest.param("cuda", "nccl", 1, marks=pytest.mark.gpu),
        pytest.param("cuda", "gloo", 2, marks=pytest.mark.gpu),
    ],
)
def test_a_group_on_a_device_learns_what_one_process_on_the_cpu_learns(tmp_path, device, backend, ranks):
    """NCCL with one rank; gloo with two on one GPU, whose batch normalisation is over both."""
    discriminator = {"num_filters": 4, "num_dense": 16, "init_std": None, "sync_batchnorm": ranks > 1}
    config = tiny_config(
        "unused",
        tmp_path,
        discriminator=discriminator,
        adversarial={"steps": 9, "learning_rate": 1e-4, "losses": LOSSES, "adversarial_weight": 0.5},
    )
    for name in ("one", "group"):
        (tmp_path / name).mkdir()
    (expected,) = worker("group", tmp_path / "one", config, "cpu", BACKEND="gloo")
    for found in worker("group", tmp_path / "group", config, device, ranks, BACKEND=backend):
        for name, value in expected.items():
            if not name.startswith("discriminator.blocks") or not name.endswith(
                ("conv.bias", "running_mean")
            ):
                torch.testing.assert_close(found[name].float(), value.float(), rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.gpu
def test_thirty_updates_on_a_gpu_follow_the_curve_that_is_kept(tmp_path):
    kept, found = json.loads(CURVE.read_text())["records"], thirty_updates(tmp_path)
    for expected, record in zip(kept, found, strict=True):
        assert record == pytest.approx(expected, rel=1e-3), f"after {record['samples_seen']} samples"
