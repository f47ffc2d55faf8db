"""The memory of super resolution: that of some blocks, whatever the volume and the threads."""

import subprocess
import sys

import pytest

SOME_BLOCKS = """
import resource, sys, torch
from pathlib import Path
from srgan_dist.data.formats.bare_raw import parse_raw
from srgan_dist.data.image_files import read_header
from srgan_dist.evaluation import unfinished_volume
from srgan_dist.evaluation.super_resolve_volume import super_resolve_volume
from srgan_dist.models import build_generator
from srgan_dist.models.srresnet import SRResNetConfig

folder = Path(sys.argv[1])
torch.set_num_threads(8)
unfinished_volume._check_space = lambda output, needed: None  # 64 GB, of which a few blocks are written
volume = read_header(folder / "plug.raw", parse_raw("2000x2000x2000,uint8,little,0"))
generator = build_generator(SRResNetConfig(ndim=3, scale=2, num_blocks=4, num_filters=24)).eval()

def some(numbers, total):
    side = round(total ** (1 / 3))
    yield from numbers[side // 2 * (side * side + side + 1) :][:8]  # inner ones, whose halo is whole
    raise KeyboardInterrupt

try:
    super_resolve_volume(generator, volume, folder / "sr.mhd", "w", progress=some)
except KeyboardInterrupt:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB
"""


@pytest.mark.slow
def test_a_volume_of_2000_cubed_is_super_resolved_in_less_than_2_gib(tmp_path):
    """Some blocks of a sparse file of 8 GB by 8 threads: 1.2 GiB, 2.6 if each thread had a block."""
    with open(tmp_path / "plug.raw", "wb") as file:
        file.truncate(2000**3)
    command = [sys.executable, "-c", SOME_BLOCKS, tmp_path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout.splitlines()[-1]) < 2 * 2**20
