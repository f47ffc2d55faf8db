import copy

import pytest
import torch
from accelerate import Accelerator
from tiny_phases import L1, STANDSTILL, VGG, adversarial, as_prepared, changed, networks, pretrain, snapshot

from srgan_dist.losses.gan import Standard
from srgan_dist.losses.pixel import L1LossConfig, MSELossConfig
from srgan_dist.phases.adversarial import AdversarialConfig, AdversarialPhase


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    return Accelerator()


@pytest.fixture
def batch():
    torch.manual_seed(5)
    return torch.rand(4, 1, 8, 8) * 2 - 1, torch.rand(4, 1, 32, 32) * 2 - 1


def test_pretrain_lowers_the_l1_loss_and_names_its_numbers(accelerator, batch):
    phase = pretrain(accelerator, learning_rate=1e-3)
    history = [phase.update([batch]) for _ in range(20)]
    assert set(history[0]) == {
        "loss/pixel",
        "loss/generator",
        "train/psnr",
        "health/grad_norm/generator",
        "health/skipped",
    }
    assert history[-1]["loss/pixel"] < history[0]["loss/pixel"]
    assert all(value.shape == () and not value.requires_grad for value in history[0].values())
    assert phase.step == 20 and phase.learning_rates() == {"lr/generator": 1e-3}


def test_train_psnr_has_peak_2_on_the_signed_range(accelerator):
    generator, _ = networks()
    torch.nn.init.zeros_(generator.tail.weight)
    torch.nn.init.constant_(generator.tail.bias, 0.2)
    phase = pretrain(accelerator, generator)
    numbers = phase.update([(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 32, 32))])
    assert numbers["train/psnr"].item() == pytest.approx(20, abs=1e-3)  # 10 log10(4 / 0.04)
    assert numbers["loss/pixel"].item() == pytest.approx(0.2)


@pytest.mark.parametrize("term", ["pixel", "perceptual", "adversarial"])
def test_each_term_of_phase_2_has_a_gradient_in_the_generator(accelerator, batch, term):
    phase = adversarial(accelerator, {"pixel": L1, "perceptual": VGG})
    lr, hr = batch
    sr = phase.generator.network(lr)
    if term == "adversarial":
        value = Standard().generator(None, phase.discriminator.network(sr))
    else:
        value = phase.losses[term](sr, hr)
    gradients = torch.autograd.grad(value, list(phase.generator.network.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def gradients_of(values, parameters):
    """Return the gradient of each named value by itself: {name: [tensor per parameter]}."""
    return {name: torch.autograd.grad(value, parameters, retain_graph=True) for name, value in values.items()}


def assert_gradient_is_weighted_sum(parameters, gradients, weights):
    """Check what an update left in .grad; every weighted term makes up enough of it to be missed."""
    for number, parameter in enumerate(parameters):
        parts = {name: weight * gradients[name][number] for name, weight in weights.items()}
        assert all(part.norm() > 1e-3 * parameter.grad.norm() for part in parts.values())
        torch.testing.assert_close(
            parameter.grad, sum(parts.values()), rtol=1e-5, atol=1e-6 * float(parameter.grad.norm())
        )


def test_the_gradient_of_phase_2_is_the_weighted_sum_of_its_three_terms(accelerator, batch):
    losses = {
        "pixel": L1LossConfig(name="l1", weight=0.3),
        "perceptual": VGG.model_copy(update={"weight": 0.7}),
    }
    phase = adversarial(
        accelerator, losses, torch.float64, adversarial_weight=0.2, discriminator_learning_rate=STANDSTILL
    )
    for parameter in phase.losses["perceptual"].parameters():
        parameter.data *= 2  # untrained features are faint; so this term counts like the others
    lr, hr = (x.double() for x in batch)
    parameters = list(phase.generator.network.parameters())
    sr = phase.generator.network(lr)
    values = {name: loss(sr, hr) for name, loss in phase.losses.items()}
    values["adversarial"] = Standard().generator(None, phase.discriminator.network(sr))
    gradients = gradients_of(values, parameters)
    numbers = phase.update([(lr, hr)])
    weights = {"pixel": 0.3, "perceptual": 0.7, "adversarial": 0.2}
    assert_gradient_is_weighted_sum(parameters, gradients, weights)
    for name, value in values.items():  # the panels show them unweighted, and their weighted sum
        assert numbers[f"loss/{name}"].item() == pytest.approx(value.item(), rel=1e-6)
    assert numbers["loss/generator"].item() == pytest.approx(
        sum(weights[n] * values[n].item() for n in weights), rel=1e-6
    )


def test_the_gradient_of_phase_1_is_the_weighted_sum_of_its_losses(accelerator, batch):
    weights = {"pixel": 0.3, "squares": 0.7}
    losses = {"pixel": L1LossConfig(name="l1", weight=0.3), "squares": MSELossConfig(name="mse", weight=0.7)}
    phase = pretrain(accelerator, networks()[0].double(), losses=losses)
    lr, hr = (x.double() for x in batch)
    parameters = list(phase.generator.network.parameters())
    difference = phase.generator.network(lr) - hr
    values = {"pixel": difference.abs().mean(), "squares": difference.square().mean()}
    gradients = gradients_of(values, parameters)
    numbers = phase.update([(lr, hr)])
    assert_gradient_is_weighted_sum(parameters, gradients, weights)
    for name, value in values.items():
        assert numbers[f"loss/{name}"].item() == pytest.approx(value.item())
    assert numbers["loss/generator"].item() == pytest.approx(
        sum(weights[n] * values[n].item() for n in weights)
    )


def test_a_step_on_the_adversarial_term_alone_raises_the_discriminators_answer(accelerator, batch):
    phase = adversarial(
        accelerator,
        {"pixel": L1LossConfig(name="l1", weight=1e-9)},
        adversarial_weight=1.0,
        learning_rate=1e-4,
        discriminator_learning_rate=STANDSTILL,
    )
    lr, hr = batch
    phase.discriminator.network.eval()
    before = phase.discriminator.network(phase.generator.network(lr)).mean()
    for _ in range(3):
        phase.update([batch])
    assert phase.discriminator.network(phase.generator.network(lr)).mean() > before


def test_the_gradient_of_the_discriminator_is_of_its_own_loss_alone(accelerator, batch):
    phase = adversarial(accelerator, {"pixel": L1, "perceptual": VGG}, discriminator_learning_rate=STANDSTILL)
    lr, hr = batch
    parameters = list(phase.discriminator.network.parameters())
    loss = Standard().discriminator(
        phase.discriminator.network(hr), phase.discriminator.network(phase.generator.network(lr).detach())
    )
    expected = torch.autograd.grad(loss, parameters)
    phase.update([batch])
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert parameter.requires_grad
        atol = 1e-6 * gradient.abs().max().item()  # the sums are in another order
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=atol)


def test_the_discriminator_learns_to_tell(accelerator, batch):
    phase = adversarial(
        accelerator, {"pixel": L1}, discriminator_learning_rate=1e-3, learning_rate=STANDSTILL
    )
    history = [phase.update([batch]) for _ in range(15)]
    assert history[-1]["d/real"] > 0.6 > 0.4 > history[-1]["d/fake"]


@pytest.mark.parametrize("losses", [{"pixel": L1}, {"pixel": L1, "perceptual": VGG}])
@pytest.mark.parametrize("clip", [None, 1e-2])
def test_updates_of_phase_2_are_the_textbook_alternation(accelerator, losses, clip):
    """The same weights as a plain loop: D on real and detached fake, then G through the new D."""
    phase = adversarial(
        accelerator, losses, torch.float64, learning_rate=1e-3, adversarial_weight=0.5, max_grad_norm=clip
    )
    generator, discriminator = (network.double() for network in networks())
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-3)
    bce = torch.nn.functional.binary_cross_entropy_with_logits

    def step(network, optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()

    for update in range(5):
        torch.manual_seed(update)
        lr, hr = (torch.rand(4, 1, side, side, dtype=torch.float64) * 2 - 1 for side in (8, 32))
        phase.update([(lr, hr)])

        sr = generator(lr)
        real, fake = discriminator(hr), discriminator(sr.detach())
        step(discriminator, d_optimizer, bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake)))
        judged = discriminator(sr)
        content = sum(losses[name].weight * loss(sr, hr) for name, loss in phase.losses.items())
        step(generator, g_optimizer, content + 0.5 * bce(judged, torch.ones_like(judged)))
    for ours, plain in ((phase.generator.network, generator), (phase.discriminator.network, discriminator)):
        for name, value in plain.state_dict().items():
            if name.startswith("blocks") and name.endswith(("conv.bias", "running_mean")):
                continue  # before batch normalisation its gradient is rounding errors, which Adam magnifies
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=1e-12)


def test_phase_2_names_its_numbers(accelerator, batch):
    phase = adversarial(accelerator, {"pixel": L1, "perceptual": VGG}, discriminator_learning_rate=2e-4)
    numbers = phase.update([batch])
    assert set(numbers) == {
        "loss/pixel",
        "loss/perceptual",
        "loss/adversarial",
        "loss/generator",
        "loss/discriminator",
        "d/real",
        "d/fake",
        "train/psnr",
        "health/grad_norm/generator",
        "health/grad_norm/discriminator",
        "health/skipped",
    }
    for name in ("generator", "discriminator"):  # of the gradients that their optimisers have just taken
        gradients = torch.cat(
            [parameter.grad.flatten() for parameter in getattr(phase, name).network.parameters()]
        )
        assert numbers[f"health/grad_norm/{name}"].item() == pytest.approx(gradients.norm().item(), rel=1e-5)
    expected = numbers["loss/pixel"] + numbers["loss/perceptual"] + 5e-3 * numbers["loss/adversarial"]
    assert numbers["loss/generator"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert phase.learning_rates() == {"lr/generator": 1e-4, "lr/discriminator": 2e-4}


def test_a_gradient_is_shortened_to_its_norm_and_reported_as_it_was(accelerator, batch):
    free, clipped = (
        adversarial(accelerator, {"pixel": L1}),
        adversarial(accelerator, {"pixel": L1}, max_grad_norm=1e-3),
    )
    expected = free.update([batch])
    numbers = clipped.update([batch])
    for name, network, like in (
        ("generator", clipped.generator.network, free.generator.network),
        ("discriminator", clipped.discriminator.network, free.discriminator.network),
    ):
        norm = torch.stack([p.grad.norm() for p in network.parameters()]).norm()
        unclipped = torch.stack([p.grad.norm() for p in like.parameters()]).norm()
        assert norm.item() == pytest.approx(1e-3, rel=1e-3)
        assert numbers[f"health/grad_norm/{name}"].item() == pytest.approx(
            expected[f"health/grad_norm/{name}"].item(), rel=0.02
        )
        assert (
            expected[f"health/grad_norm/{name}"].item() == pytest.approx(unclipped.item())
            and unclipped > 1e-2
        )


def test_the_adversarial_term_rises_to_its_weight(accelerator, batch):
    phase = adversarial(accelerator, {"pixel": L1}, adversarial_weight=0.5, adversarial_warmup=3)
    shares, told = [], []
    for _ in range(5):
        numbers = phase.update([batch])
        told.append(phase.loss_weights()["adversarial"])
        shares.append(
            ((numbers["loss/generator"] - numbers["loss/pixel"]) / numbers["loss/adversarial"]).item()
        )
    assert shares == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5], rel=1e-4)
    assert told == [0.125, 0.25, 0.375, 0.5, 0.5]


class Normalised(torch.nn.Module):
    """A generator with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.PixelShuffle(4)
        )

    def forward(self, lr):
        return self.net(lr)


def with_normalised_generator(accelerator, **settings):
    torch.manual_seed(4)
    both = as_prepared(Normalised(), networks()[1])
    return AdversarialPhase(AdversarialConfig(losses={"pixel": L1}, **settings), both, accelerator)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_buffers_of_a_generator_see_every_crop_once(accelerator, batch, parts):
    phase = with_normalised_generator(accelerator)
    expected = copy.deepcopy(phase.generator.network)
    micro_batches = list(zip(*(x.chunk(parts) for x in batch), strict=True))
    for lr, _ in micro_batches:
        expected(lr)
    phase.update(micro_batches)
    for name, buffer in expected.named_buffers():
        assert torch.equal(dict(phase.generator.network.named_buffers())[name], buffer)


def test_a_skipped_update_leaves_the_buffers_of_both_networks_alone(accelerator, batch):
    phase = with_normalised_generator(accelerator, ema_decay=0.5)
    phase.update([batch])
    before = [
        snapshot(phase.generator.network),
        snapshot(phase.discriminator.network),
        snapshot(phase.ema.synchronised()),
    ]
    lr, hr = batch
    assert phase.update([(lr, hr * float("nan"))])["health/skipped"] == 1
    for module, was in zip(
        (phase.generator.network, phase.discriminator.network, phase.ema.synchronised()), before, strict=True
    ):
        assert not changed(module, was)


def test_the_average_of_the_generator_follows_its_weights_and_has_its_buffers(accelerator, batch):
    phase = with_normalised_generator(accelerator, ema_decay=0.75)
    expected = {name: value.detach().clone() for name, value in phase.generator.network.named_parameters()}
    for _ in range(3):
        phase.update([batch])
        expected = {
            name: 0.75 * expected[name] + 0.25 * value.detach()
            for name, value in phase.generator.network.named_parameters()
        }
    average = phase.stateful()["generator_average"]
    assert not any(p.requires_grad for p in average.parameters()) and average is not phase.generator.network
    for name, value in average.named_parameters():
        torch.testing.assert_close(value, expected[name])
    for name, buffer in phase.generator.network.named_buffers():
        assert torch.equal(dict(average.named_buffers())[name], buffer)


def test_the_learning_rate_reaches_the_optimiser(accelerator, batch):
    phase = pretrain(accelerator, lr_schedule={"name": "exponential", "decay_every": 1000})
    phase.step = 2000
    phase.update([batch])
    assert phase.learning_rates()["lr/generator"] == pytest.approx(1e-6)


def test_the_networks_compute_in_bf16_and_the_losses_in_float32(monkeypatch, batch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    accelerator = Accelerator(mixed_precision="bf16")
    generator, discriminator = networks()
    seen = {}
    generator.tail.register_forward_hook(lambda m, i, o: seen.update(tail=o.dtype))
    discriminator.dense1.register_forward_hook(lambda m, i, o: seen.update(dense=o.dtype))
    prepared = as_prepared(accelerator.prepare_model(generator), accelerator.prepare_model(discriminator))
    phase = AdversarialPhase(AdversarialConfig(losses={"pixel": L1}), prepared, accelerator)
    numbers = phase.update([batch])
    assert seen == {"tail": torch.bfloat16, "dense": torch.bfloat16}
    assert all(value.dtype == torch.float32 and value.isfinite() for value in numbers.values())
    assert all(p.dtype == torch.float32 for p in generator.parameters())
