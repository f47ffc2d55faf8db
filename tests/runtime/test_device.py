import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from commands import run, write_config
from conftest import tiny_config

from srgan_dist.runtime import device as machine
from srgan_dist.utils.errors import UserError


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    """Forget a launcher's variables, and put PyTorch's settings back."""
    for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    tf32 = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.mark.parametrize("launched, formed", [(None, 1), ("1", 1), ("4", 4)])
def test_a_group_of_all_launched_processes_is_right(monkeypatch, launched, formed):
    if launched:
        monkeypatch.setenv("WORLD_SIZE", launched)
    machine.check_group(SimpleNamespace(num_processes=formed))


@pytest.mark.parametrize("launched, formed", [("4", 1), ("4", 2), (None, 2)])
def test_processes_that_formed_another_group_than_launched_are_refused(monkeypatch, launched, formed):
    if launched:
        monkeypatch.setenv("WORLD_SIZE", launched)
    with pytest.raises(
        UserError, match=f"{launched or 1} processes were launched but each formed a group of {formed}"
    ):
        machine.check_group(SimpleNamespace(num_processes=formed))


@pytest.mark.parametrize("value", ["eager", "INDUCTOR"])
def test_another_way_of_compiling_is_refused(monkeypatch, value):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", value)
    with pytest.raises(
        UserError,
        match=f"ACCELERATE_DYNAMO_BACKEND={value} .--dynamo_backend. is not used here; set compile: true",
    ):
        machine.check_group(SimpleNamespace(num_processes=1))


@pytest.mark.parametrize("value, wanted", [("1", True), ("true", True), ("0", False), (None, False)])
def test_the_environment_can_ask_for_the_cpu(monkeypatch, value, wanted):
    if value:
        monkeypatch.setenv("ACCELERATE_USE_CPU", value)
    assert machine.cpu_wanted() is wanted


def test_a_config_can_ask_for_the_cpu():
    assert machine.cpu_wanted("cpu") and not machine.cpu_wanted("cuda")


@pytest.mark.parametrize(
    "device, gpus, local_rank, asks_for_cpu",
    [
        ("auto", 0, 0, "0"),
        ("auto", 0, 3, "0"),
        ("cpu", 0, 3, "0"),
        ("cpu", 1, 3, "0"),
        ("auto", 1, 3, "1"),
        ("auto", 1, 0, "0"),
        ("cuda", 1, 0, "0"),
        ("cuda", 8, 7, "0"),
    ],
)
def test_a_process_that_can_have_its_device_may_start(monkeypatch, device, gpus, local_rank, asks_for_cpu):
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setenv("ACCELERATE_USE_CPU", asks_for_cpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    machine.check_device(device)


@pytest.mark.parametrize(
    "device, gpus, local_rank, asks_for_cpu, words",
    [
        ("cuda", 0, 0, "0", "device=cuda, but PyTorch finds no GPU on"),
        ("cuda", 1, 0, "1", "device=cuda, but the launcher or the environment asks for the CPU"),
        (
            "auto",
            1,
            1,
            "0",
            r"8 processes were launched on .*, where PyTorch finds 1 GPU\(s\); launch one process per GPU",
        ),
        ("cuda", 4, 7, "0", r"8 processes were launched on .*, where PyTorch finds 4 GPU\(s\)"),
    ],
)
def test_a_process_that_cannot_have_its_device_is_refused(
    monkeypatch, device, gpus, local_rank, asks_for_cpu, words
):
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("ACCELERATE_USE_CPU", asks_for_cpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(UserError, match=words):
        machine.check_device(device)


def test_float32_convolutions_are_exact():
    torch.backends.cudnn.allow_tf32 = True
    machine.use_exact_float32()
    assert torch.backends.cudnn.allow_tf32 is False


@pytest.mark.parametrize(
    "able, fast",
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
        ({"avx512_bf16": False, "avx2": True}, False),
        ({}, False),
    ],
)
def test_auto_is_bf16_on_a_cpu_with_instructions_for_it(monkeypatch, able, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert machine.has_fast_bf16("cpu") is fast
    assert machine.precision_on("cpu", "auto") == ("bf16" if fast else "no")


def test_auto_is_no_on_an_unknown_device():
    assert machine.precision_on("abacus", "auto") == "no"


@pytest.mark.parametrize("requested", ["no", "bf16"])
@pytest.mark.parametrize("device_type", ["cpu", "abacus"])
def test_a_precision_that_is_asked_for_is_taken(monkeypatch, device_type, requested):
    monkeypatch.setattr(machine, "has_fast_bf16", lambda device_type: False)
    assert machine.precision_on(device_type, requested) == requested


@pytest.mark.parametrize(
    "able, requested, precision",
    [
        (True, "auto", "bf16"),
        (True, "bf16", "bf16"),
        (True, "no", "no"),
        (False, "auto", "no"),
        (False, "no", "no"),
    ],
)
def test_a_gpu_takes_bf16_where_it_can(monkeypatch, able, requested, precision):
    monkeypatch.setattr(machine, "has_fast_bf16", lambda device_type: able)
    assert machine.precision_on("cuda", requested) == precision


def test_a_gpu_that_cannot_do_bf16_is_named(monkeypatch):
    monkeypatch.setattr(machine, "has_fast_bf16", lambda device_type: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    with pytest.raises(UserError, match="mixed_precision=bf16 is not supported by Old GPU; use no or auto"):
        machine.precision_on("cuda", "bf16")


DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 11040; return 0; }
int cuGetProcAddress(const char *name, void **function, int version, unsigned long flags) {
    *function = 0; return 500;
}
"""
WITH_DRIVER = """
import ctypes, runpy, sys
ctypes.CDLL(sys.argv[1])
sys.argv = ["launch/train.py", sys.argv[2]]
runpy.run_path("launch/train.py", run_name="__main__")
"""


@pytest.mark.skipif(
    not shutil.which("cc") or not torch.version.cuda, reason="needs a C compiler and a PyTorch for CUDA"
)
@pytest.mark.parametrize("device, code", [("cuda", 1), ("auto", 0), ("cpu", 0)])
def test_a_driver_that_is_too_old_is_named(tmp_path, shards, device, code):
    """With a library that answers as a driver of CUDA 11.4 does, and can do nothing else."""
    source, library = tmp_path / "driver.c", tmp_path / "libcuda.so.1"
    source.write_text(DRIVER)
    options = ("-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library)
    subprocess.run(["cc", *options, source], check=True)
    config = write_config(tmp_path, tiny_config(shards, tmp_path, device=device, adversarial=None))
    done = run(sys.executable, "-c", WITH_DRIVER, library, config, ACCELERATE_USE_CPU="0")
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    words = (
        f"its driver supports CUDA 11.4, this PyTorch needs CUDA {torch.version.cuda}. Update the driver, or"
        " install a PyTorch for that CUDA"
    )
    assert (words in done.stderr) == (device != "cpu")
    assert ("device=cuda, but PyTorch cannot use the GPU" in done.stderr) == (device == "cuda")
    runs_on_cpu = "the training runs on the CPU, for PyTorch cannot use the GPU"
    assert (runs_on_cpu in done.stderr) == (device == "auto")
