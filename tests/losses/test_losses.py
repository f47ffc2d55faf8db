import hashlib
import math

import pytest
import torch
from torch.nn import functional as F

from srgan_dist.losses import VGGLossConfig, build_loss
from srgan_dist.losses.gan import Standard
from srgan_dist.losses.perceptual import LAYERS, checked_weights_file, vgg19_features
from srgan_dist.losses.pixel import L1LossConfig, MSELossConfig
from srgan_dist.models.summary import count_parameters
from srgan_dist.utils.errors import UserError

RANDOM = {"name": "vgg19", "weights": "random"}


def test_pixel_losses_worked_by_hand():
    sr, hr = torch.tensor([[[[0.0, 0.5]]]]), torch.tensor([[[[1.0, 0.25]]]])
    assert build_loss(L1LossConfig(name="l1"), 4)(sr, hr).item() == pytest.approx((1 + 0.25) / 2)
    assert build_loss(MSELossConfig(name="mse"), 4)(sr, hr).item() == pytest.approx((1 + 0.0625) / 2)


def test_adversarial_losses_are_binary_cross_entropy_on_logits():
    real, fake = torch.randn(8, 1), torch.randn(8, 1)
    ones, zeros = torch.ones(8, 1), torch.zeros(8, 1)
    expected = F.binary_cross_entropy_with_logits(real, ones) + F.binary_cross_entropy_with_logits(
        fake, zeros
    )
    assert Standard().discriminator(real, fake).item() == pytest.approx(expected.item(), rel=1e-6)
    assert Standard().generator(None, fake).item() == pytest.approx(
        F.binary_cross_entropy_with_logits(fake, ones).item(), rel=1e-6
    )
    undecided = torch.zeros(4, 1)
    assert Standard().discriminator(undecided, undecided).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit", [-100.0, -27.0, 0.0, 27.0, 100.0])
def test_adversarial_losses_are_finite_with_bounded_gradient_at_any_logit(dtype, logit):
    for loss in (
        lambda x: Standard().generator(None, x),
        lambda x: Standard().discriminator(x, torch.zeros_like(x)),
        lambda x: Standard().discriminator(torch.zeros_like(x), x),
    ):
        x = torch.full((1, 1), logit, dtype=dtype, requires_grad=True)
        value = loss(x)
        value.backward()
        assert value.isfinite() and value.dtype == torch.float32 and -1 <= x.grad.item() <= 1
    x = torch.full((1, 1), -100.0, dtype=dtype, requires_grad=True)
    Standard().generator(None, x).backward()
    assert x.grad.item() == pytest.approx(-1)  # a generator that is seen through still learns


def test_vgg_has_the_reports_parameters_and_layers():
    from torchvision.models import vgg19

    features = vgg19_features(VGGLossConfig(**RANDOM))
    assert count_parameters(features[:-1]) == 20_024_384
    assert [type(m).__name__ for m in features] == [
        type(m).__name__ for m in vgg19(weights=None, init_weights=False).features
    ]
    assert (
        len(features[: LAYERS["relu5_4"]]) == len(features[:-1])
        and type(features[LAYERS["conv5_4"] - 1]).__name__ == "Conv2d"
    )
    for layer, kind in (
        ("relu2_2", "ReLU"),
        ("relu3_4", "ReLU"),
        ("relu4_4", "ReLU"),
        ("relu5_4", "ReLU"),
        ("pool5", "MaxPool2d"),
    ):
        assert type(features[LAYERS[layer] - 1]).__name__ == kind


def test_vgg_loss_compares_normalised_grey_in_three_channels_with_gradient_for_sr_alone():
    loss = build_loss(VGGLossConfig(**RANDOM, layer="relu2_2"), 4)
    sr = (torch.rand(2, 1, 32, 32) * 2 - 1).requires_grad_()
    hr = (torch.rand(2, 1, 32, 32) * 2 - 1).requires_grad_()
    value = loss(sr, hr)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def features(image):
        rgb = ((image + 1) / 2).repeat(1, 3, 1, 1)
        return loss.features((rgb - mean.view(3, 1, 1)) / std.view(3, 1, 1))

    assert value.item() == pytest.approx(F.mse_loss(features(sr), features(hr)).item(), rel=1e-5)
    value.backward()
    assert sr.grad.abs().sum() > 0 and hr.grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())


def test_missing_vgg_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ValueError, match="weights=torchvision: .*vgg19-dcbb9e9d.pth(.|\n)*vgg19\\(weights='IMAGENET1K_V1'\\)"
    ):
        build_loss(VGGLossConfig(name="vgg19"), 4)
    with pytest.raises(
        ValueError, match="weights=/nowhere/vgg.pth: the VGG-19 weights are not at /nowhere/vgg.pth"
    ):
        checked_weights_file(VGGLossConfig(name="vgg19", weights="/nowhere/vgg.pth"))


def test_vgg_weights_from_a_file_are_checked_by_sha256_and_loaded(tmp_path):
    source = vgg19_features(VGGLossConfig(**RANDOM))
    path = tmp_path / "vgg.pth"
    torch.save(
        {f"features.{k}": v + 1 for k, v in source.state_dict().items()}
        | {"classifier.0.weight": torch.zeros(1)},
        path,
    )
    with pytest.raises(ValueError, match="which does not begin with sha256=dcbb9e9d"):
        build_loss(VGGLossConfig(name="vgg19", weights=str(path)), 4)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    loss = build_loss(VGGLossConfig(name="vgg19", weights=str(path), sha256=digest), 4)
    assert torch.equal(loss.features[0].weight, source[0].weight + 1)


def test_a_pickle_in_place_of_vgg_weights_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    path = tmp_path / "trap.pth"
    torch.save({"features.0.weight": Trap()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="does not hold the weights of torchvision's vgg19"):
        build_loss(VGGLossConfig(name="vgg19", weights=str(path), sha256=digest), 4)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("layer", LAYERS)
def test_the_smallest_crop_of_a_layer_is_the_smallest_that_it_can_compare(layer):
    config = VGGLossConfig(name="vgg19", weights="random", layer=layer)
    features, side = vgg19_features(config)[: LAYERS[layer]], config.smallest_crop
    assert features(torch.zeros(1, 3, side, side)).shape[-1] == 1
    with pytest.raises(RuntimeError, match="Output size is too small"):
        features(torch.zeros(1, 3, side - 1, side - 1))
