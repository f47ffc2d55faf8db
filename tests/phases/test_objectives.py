"""Updates of phase 2 with every objective, discriminator and generator, in two and three dimensions."""

import pytest
import torch
from accelerate import Accelerator
from accelerators import state_of
from conftest import tiny_config

from srgan_dist.phases import build_phase
from srgan_dist.run.training_run import build_networks

PATCH = {"name": "patch", "num_filters": 4, "num_layers": 2}
VGG = {"name": "vgg19", "weights": "random", "layer": "relu2_2", "weight": 0.1}


def phase_of(monkeypatch, ndim=2, precision="no", discriminator=None, generator=None, **settings):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    generator = generator or {"name": "srresnet", "num_blocks": 1, "num_filters": 4, "tanh": False}
    discriminator = discriminator or {"name": "dense", "num_filters": 4, "num_dense": 8}
    phase = {"steps": 9, "learning_rate": 1e-3, "losses": {"pixel": {"name": "l1"}}, **settings}
    config = tiny_config(
        "unused",
        "unused",
        data={"path": "unused", "lr_crop": 4, "batch_size": 4},
        generator=generator | {"ndim": ndim, "init_std": None}
        if generator["name"] == "srresnet"
        else generator,
        discriminator=discriminator | {"init_std": None},
        adversarial=phase,
        pretrain=None,
    )
    accelerator = Accelerator(mixed_precision=precision)
    return build_phase(config.adversarial, build_networks(config, accelerator), accelerator)


def batch(ndim=2, crops=4):
    torch.manual_seed(1)
    return tuple(torch.rand(crops, 1, *[side] * ndim) * 2 - 1 for side in (4, 16))


@pytest.mark.parametrize("objective", ["standard", "relativistic", "least_squares", "hinge"])
@pytest.mark.parametrize(
    "discriminator", [None, PATCH, PATCH | {"norm": "spectral"}], ids=["dense", "patch", "spectral"]
)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_discriminator_learns_to_tell_under_every_objective(
    monkeypatch, objective, discriminator, precision
):
    phase = phase_of(
        monkeypatch, precision=precision, discriminator=discriminator, objective={"name": objective}
    )
    before = state_of(phase)
    history = [phase.update([batch()]) for _ in range(25)]
    assert history[-1]["loss/discriminator"] < history[0]["loss/discriminator"]
    assert history[-1]["d/real"] - history[-1]["d/fake"] > history[0]["d/real"] - history[0]["d/fake"]
    after = state_of(phase)
    for name in (
        "generator.head.weight",
        next(k for k in after if k.startswith("discriminator.") and "weight" in k),
    ):
        assert after[name].isfinite().all() and not torch.equal(before[name], after[name])


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_an_update_with_spectral_normalisation_that_is_skipped_leaves_all_as_it_was(
    monkeypatch, micro_batches
):
    phase = phase_of(monkeypatch, discriminator=PATCH | {"norm": "spectral"}, objective={"name": "hinge"})
    phase.update([batch()] * micro_batches)
    before = state_of(phase)
    lr, hr = batch()
    assert phase.update([(lr, hr * float("nan"))] * micro_batches)["health/skipped"] == 1
    after = state_of(phase)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_r1_is_logged_and_added_with_half_of_gamma(monkeypatch):
    plain, penalised = (phase_of(monkeypatch, r1_gamma=gamma) for gamma in (None, 10.0))
    lr, hr = batch()
    hr = hr.requires_grad_()
    network = penalised.discriminator.network
    real, _ = network(hr, hr.detach())
    (at_hr,) = torch.autograd.grad(real.sum(), hr)
    expected = at_hr.square().flatten(1).sum(1).mean()
    numbers = penalised.update([(lr, hr.detach())])
    assert numbers["loss/r1"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert numbers["loss/discriminator"].item() == pytest.approx(
        plain.update([(lr, hr.detach())])["loss/discriminator"].item(), rel=1e-5
    )
    norms = [n["health/grad_norm/discriminator"].item() for n in (numbers, plain.update([(lr, hr.detach())]))]
    assert norms[0] != pytest.approx(norms[1], rel=1e-3)
    for _ in range(30):
        last = penalised.update([(lr, hr.detach())])
    assert last["loss/r1"] < numbers["loss/r1"]  # the discriminator becomes smoother at HR


@pytest.mark.parametrize("discriminator", [None, PATCH], ids=["dense", "patch"])
def test_volumes_train_with_all_losses(monkeypatch, discriminator):
    losses = {"pixel": {"name": "l1"}, "perceptual": VGG}
    phase = phase_of(monkeypatch, ndim=3, discriminator=discriminator, losses=losses)
    history = [phase.update([batch(3, 2), batch(3, 2)]) for _ in range(5)]
    assert history[-1]["loss/pixel"] < history[0]["loss/pixel"]
    assert all(value.isfinite() for value in history[-1].values())


def test_rrdb_trains(monkeypatch):
    generator = {"name": "rrdb", "num_blocks": 1, "num_filters": 4, "growth": 4}
    phase = phase_of(monkeypatch, generator=generator)
    history = [phase.update([batch()]) for _ in range(15)]
    assert history[-1]["loss/pixel"] < history[0]["loss/pixel"]
