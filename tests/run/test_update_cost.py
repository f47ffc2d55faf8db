"""What an update costs, as the dry run says: against the official networks, and against updates that are
taken.
"""

from types import SimpleNamespace

import pytest
import torch
from accelerators import accelerator_on
from conftest import REPOSITORY, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from srgan_dist.config import load_config
from srgan_dist.phases import build_phase
from srgan_dist.run import update_cost as update_cost_module
from srgan_dist.run.dry_run import cost_plan
from srgan_dist.run.training_run import build_networks
from srgan_dist.run.update_cost import update_cost

# Forward, gradient of the input and gradient of the weights: 3 passes, a multiplication and an addition each
UNFOLDED = 3 * 2 * 27 * (64 * 64 * 32**3 + 64 * 64**3)  # the convolutions behind nearest neighbours
FOLDED = 3 * 2 * 8 * 8 * (64 * 64 * 17**3 + 64 * 33**3)
OFFICIAL = {"pretrain": 116.9, "adversarial": 434.5}  # GFLOP per crop of 64^3


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_networks_for_volumes(name):
    config = load_config(REPOSITORY / "configs" / "deeprock3d_x4.yaml")
    cost = update_cost(config, getattr(config, name), "bf16", 2)
    assert (cost.flop + UNFOLDED - FOLDED) / 1e9 == pytest.approx(OFFICIAL[name], abs=0.05)
    parameters = {"pretrain": 3_877_633, "adversarial": 3_877_633 + 47_609_025}[name]
    assert cost.fixed_bytes == 20 * parameters
    in_float32 = update_cost(config, getattr(config, name), "no", 2)
    assert in_float32.flop == cost.flop
    assert in_float32.crop_bytes == pytest.approx(2 * cost.crop_bytes, rel=0.03)


def test_what_the_generator_keeps_of_a_crop():
    """Of every layer its input, in bfloat16; that of the last convolution is on the coarse grid."""
    config = load_config(REPOSITORY / "configs" / "deeprock3d_x4.yaml")
    cost = update_cost(config, config.pretrain, "bf16", 4)
    coarse = 16**3 * 64 * 2
    blocks = 16 * 3 + 1  # conv, PReLU, conv; the input of the trunk
    expected = blocks * coarse + 2 * coarse + 2 * 8 * coarse  # the stages: conv, PReLU; conv, PReLU
    assert cost.crop_bytes == pytest.approx(expected, rel=0.15)


VGG = {"name": "vgg19", "weights": "random", "layer": "relu2_2"}
CASES = {
    "l1": {},
    "vgg": {"losses": {"pixel": {"name": "l1"}, "perceptual": VGG}},
    "relativistic": {"objective": {"name": "relativistic"}},
    "micro-batches": {"gradient_accumulation_steps": 2},
    "texture": {"trains": "texture", "noise": 2},
}


@pytest.mark.parametrize("name", ["pretrain", "adversarial"])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_arithmetic_is_that_of_an_update(name, ndim, case):
    changes = {"losses": {"pixel": {"name": "l1"}}} | CASES[case]
    micro_batches = changes.pop("gradient_accumulation_steps", 1)
    generator = {"ndim": ndim, "num_blocks": 1, "num_filters": 4, "noise": changes.pop("noise", 0)}
    pretrain = {"losses": changes["losses"]}
    config = tiny_config(
        "unused",
        "unused",
        generator=generator,
        pretrain=pretrain,
        adversarial=changes,
        gradient_accumulation_steps=micro_batches,
    )
    accelerator = accelerator_on("cpu")
    phase = build_phase(getattr(config, name), build_networks(config, accelerator), accelerator)
    sides = config.data.lr_crop, *[config.hr_crop] * (1 + (generator["noise"] > 0))
    crops = [torch.zeros(2, 1 + (i == 2), *[side] * ndim) for i, side in enumerate(sides)]
    with FlopCounterMode(display=False) as counter:
        phase.update([crops] * micro_batches)
    cost = update_cost(config, getattr(config, name), "no", 2)
    assert cost.flop * 2 * micro_batches == counter.get_total_flops()
    assert 0 < cost.crop_bytes and cost.bytes_of(2) == cost.fixed_bytes + 2 * cost.crop_bytes


def test_options_that_change_memory():
    def of(**changes):
        config = tiny_config(
            "unused", "unused", **{"generator": {"num_blocks": 4, "num_filters": 8}} | changes
        )
        return update_cost(config, config.pretrain, "no", 2)

    plain, recomputed = of(), of(activation_checkpointing=True)
    assert recomputed.crop_bytes < plain.crop_bytes and recomputed.flop > plain.flop
    assert of(pretrain={"ema_decay": 0.9}).fixed_bytes == plain.fixed_bytes * 20 / 16


def test_the_gradient_penalty_costs_arithmetic_and_memory():
    with_penalty, without = (
        tiny_config("unused", "unused", adversarial={"r1_gamma": gamma, "losses": {"pixel": {"name": "l1"}}})
        for gamma in (1.0, None)
    )
    costs = [update_cost(config, config.adversarial, "no", 2) for config in (with_penalty, without)]
    assert costs[0].flop > 1.2 * costs[1].flop and costs[0].crop_bytes > costs[1].crop_bytes


def test_a_loss_that_asks_for_a_value_has_no_known_cost(monkeypatch):
    config = tiny_config("unused", "unused")

    def asking(*_):
        return SimpleNamespace(to=lambda _: AskingLoss())

    monkeypatch.setattr(update_cost_module, "build_loss", asking)
    words, cost = cost_plan(config, config.pretrain, "no", 2)
    assert words.startswith("its cost is not known (") and cost is None


class AskingLoss(torch.nn.Module):
    def forward(self, sr, hr):
        return sr.mean() if sr.mean() > 0 else hr.mean()
