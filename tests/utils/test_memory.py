import errno
import re
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY

from srgan_dist.utils.memory import is_out_of_memory


@pytest.mark.parametrize(
    "error, lacking",
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("could not create a primitive"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("The size of tensor a must match"), False),
        (ValueError("no"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, lacking):
    assert is_out_of_memory(error) is lacking


def test_what_the_allocator_of_the_cpu_raises_is_a_lack_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**45)
    assert is_out_of_memory(raised.value)


LIMITED = """if True:
    import resource, sys
    from pathlib import Path
    import numpy as np, torch
    import srgan_dist
    from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
    from srgan_dist.models.weights_file import save_generator
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    weights, lr = folder / "g.safetensors", np.zeros((3000, 3000), np.uint16)
    save_generator(weights, SRResNet(SRResNetConfig(scale=4, num_blocks=1, num_filters=2)), {})
    for name, pixels in (("small", lr[:9, :9]), ("large", lr), ("huge", np.zeros((12000, 12000), np.uint16))):
        np.save(folder / f"{name}.npy", pixels)
    srgan_dist.super_resolve(weights, folder / "small.npy", folder / "small.tif")  # all libraries are there
    generator = srgan_dist.load_generator(weights)
    used = 4096 * int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20,) * 2)
    for act in (
        lambda: srgan_dist.super_resolve(weights, folder / "large.npy", folder / "out.tif"),
        lambda: srgan_dist.super_resolve(weights, folder / "huge.npy", folder / "out.tif"),
        lambda: generator(lr),
    ):
        try:
            act()
        except srgan_dist.UserError as error:
            print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and limits of memory")
def test_too_little_memory_of_a_machine_is_named(tmp_path):
    call = [sys.executable, "-c", LIMITED, tmp_path]
    ran = subprocess.run(call, capture_output=True, text=True, cwd=REPOSITORY)
    for words in (
        r"large.npy: .* for --tile 192 and SR of 12000x12000 pixels, 0.27 GiB .* or cut the image",
        r"huge.npy: does not fit into memory; cut it into smaller images",
        r"too little memory for SR of shape \(12000, 12000\)",
    ):
        assert re.search(words, ran.stdout), ran.stdout + ran.stderr[-2000:]
    assert not list(tmp_path.glob("*out.tif*"))
