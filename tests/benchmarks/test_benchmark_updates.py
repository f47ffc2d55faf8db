"""The updates that the step benchmark compares, and the counts and ceilings it relates them to."""

import pytest
import torch
from accelerate import Accelerator
from step_configs import step_config

from srgan_dist.benchmarks.facts import matmul_flops
from srgan_dist.benchmarks.names import DEFAULT_CONFIG
from srgan_dist.benchmarks.step_case import PeakMemory, flop_per_crop
from srgan_dist.benchmarks.variants import build, crops_of, without_weight_files
from srgan_dist.config import load_config

CPU = torch.device("cpu")


def update_once(variant, config, name):
    """Take an update; returns the gradient of the generator and the metrics."""
    update = build(variant, without_weight_files(config), name)
    metrics = update(crops_of(config, 4, CPU))
    generator = update.__self__.generator
    network = getattr(generator, "network", generator)  # of our phases, of the other loops
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()]), metrics


@pytest.mark.parametrize("name", ["pretrain", "adversarial"])
def test_the_plain_loop_and_ours_train_alike(name):
    Accelerator(mixed_precision="bf16")
    plain, metrics = update_once("plain", step_config(), name)
    for variant in ("fp32", "fp32-channels_last", "ddp-fp32"):
        ours, our_metrics = update_once(variant, step_config(), name)
        assert (ours - plain).norm() < 1e-4 * plain.norm(), variant
        assert our_metrics["train/psnr"].item() == pytest.approx(metrics["psnr"], abs=1e-4)
    rounded, rounded_metrics = update_once("bf16-channels_last", step_config(), name)
    assert 1e-4 * plain.norm() < (rounded - plain).norm() < plain.norm()
    assert rounded_metrics["train/psnr"].item() == pytest.approx(metrics["psnr"], abs=0.1)


@pytest.mark.parametrize("name", ["pretrain", "adversarial"])
def test_the_loops_train_volumes_alike_and_only_the_plain_one_makes_the_large_image(name):
    Accelerator()
    generator = {"ndim": 3, "num_blocks": 1, "num_filters": 4, "init_std": None}
    # Nearly a standstill: Adam's first step turns the rounding of a gradient near 0 into a whole step
    settings = {"losses": {"pixel": {"name": "l1"}}, "learning_rate": 1e-30}
    config = step_config(
        generator=generator | {"upsampling": "nearest_after", "tail_kernel": 3},
        data={"path": "unused", "lr_crop": 8},
        adversarial=settings,
    )
    plain, metrics = update_once("plain", config, name)
    ours, our_metrics = update_once("fp32-channels_last", config, name)
    assert (ours - plain).norm() < 1e-4 * plain.norm()
    assert our_metrics["train/psnr"].item() == pytest.approx(metrics["psnr"], abs=1e-4)
    crops = crops_of(config, 1, CPU)
    assert crops[0][1].shape == (1, 1, 32, 32, 32)
    flop = [flop_per_crop(build(variant, config, name), crops) for variant in ("plain", "fp32")]
    folded = 3 * 2 * (27 * (4 * 4 * 16**3 + 4 * 32**3) - 8 * 8 * (4 * 4 * 9**3 + 4 * 17**3))
    assert flop[0] - flop[1] >= folded if name == "adversarial" else flop[0] - flop[1] == folded


def test_the_floating_point_operations_are_those_of_a_count_by_hand():
    """Of the report's networks, multiply-adds of every convolution and matrix product on paper."""
    network = {"name": "srresnet", "num_blocks": 2, "num_filters": 8}
    config = step_config(generator=network | {"long_skip": False, "tanh": False, "init_std": None})
    Accelerator()
    crops = crops_of(config, 3, CPU)
    head, inner, tail = 9 * 8, 9 * 8 * 8, 8  # multiply-adds per pixel
    forward = 2 * (8 * 8 * (head + 5 * inner + 4 * inner) + 16 * 16 * 4 * inner + 32 * 32 * tail)
    # By weights and by inputs, but not by the input of the first layer
    backward = 2 * forward - 2 * 8 * 8 * head
    for variant in ("plain", "fp32"):
        assert flop_per_crop(build(variant, config, "pretrain"), crops) == forward + backward


@pytest.mark.slow
def test_the_networks_of_the_report_need_the_operations_of_an_independent_count():
    config = without_weight_files(load_config(DEFAULT_CONFIG))
    Accelerator()
    crops = crops_of(config, 1, CPU)
    for variant, phase, gflop in (
        ("fp32", "pretrain", 11.7),
        ("fp32", "adversarial", 141.4),
        ("plain", "adversarial", 232.7),
    ):
        flop = flop_per_crop(build(variant, config, phase), crops)
        assert flop / 1e9 == pytest.approx(gflop, abs=0.06)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_variant_that_would_be_compiled_in_part_only_is_an_error():
    Accelerator()
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=False):
        update = build("fp32-compiled", without_weight_files(step_config()), "pretrain")
        update(crops_of(step_config(), 2, CPU))
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            update(crops_of(step_config(), 3, CPU))


def test_peak_memory_is_that_of_the_largest_tensor():
    torch.ones(2**26).sum()  # a higher peak, before
    memory = PeakMemory(CPU)
    memory.reset()
    torch.ones(2**25).sum()
    assert memory.mib() == pytest.approx(128, abs=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_speed_of_a_large_product_is_that_of_a_computer(dtype):
    assert 1e7 < matmul_flops(dtype, CPU, "cpu") < 1e14
