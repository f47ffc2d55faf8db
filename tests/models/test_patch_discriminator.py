import pytest
import torch
from torch import nn

from srgan_dist.models import build_discriminator
from srgan_dist.models.patch_discriminator import PatchDiscriminator, PatchDiscriminatorConfig
from srgan_dist.models.summary import count_parameters, format_layers


def config(**settings):
    return PatchDiscriminatorConfig(name="patch", **{"num_filters": 4, "num_layers": 2, **settings})


def test_it_is_the_70_x_70_patchgan_of_its_paper():
    discriminator = PatchDiscriminator(PatchDiscriminatorConfig(name="patch", init_std=None), 256)
    # 2.769 million of the official code for six channels, five fewer here; and 896 biases before batch
    # normalisation
    assert count_parameters(discriminator) == 2_763_585 + 896
    assert discriminator(torch.zeros(1, 1, 256, 256)).shape == (1, 1, 30, 30)
    image = torch.randn(1, 1, 128, 128, requires_grad=True)
    discriminator.eval()(image)[0, 0, 6, 6].backward()
    reached = image.grad[0, 0].nonzero()
    assert (reached.max(0).values - reached.min(0).values + 1).tolist() == [70, 70]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_it_judges_crops_of_any_shape_in_two_and_three_dimensions(ndim, norm):
    discriminator = build_discriminator(config(norm=norm), 16, ndim)
    real, fake = discriminator(torch.randn(2, 1, *(16, 20, 24)[:ndim]), torch.randn(3, 1, *[16] * ndim))
    assert real.shape == (2, 1, *(2, 3, 4)[:ndim]) and fake.shape == (3, 1, *[2] * ndim)
    assert config().final_side(16) == 2


def test_spectral_normalisation_bounds_every_convolution_and_leaves_batch_normalisation_out():
    discriminator = PatchDiscriminator(config(norm="spectral", init_std=0.5), 32)
    for _ in range(30):  # its power iteration goes on at every forward
        discriminator(torch.randn(1, 1, 32, 32))
    convs = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    norms = [torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() for conv in convs]
    assert norms == pytest.approx([1] * len(convs), abs=0.02)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in discriminator.modules())


def test_a_crop_that_vanishes_is_refused_with_the_smallest_that_does_not():
    with pytest.raises(ValueError, match=r"an HR crop of 8 pixels vanishes .*num_layers=3.*use 24 or more"):
        PatchDiscriminatorConfig(name="patch").final_side(8)
    assert PatchDiscriminatorConfig(name="patch").final_side(24) == 1


@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_the_table_of_layers_counts_every_parameter_once(norm):
    discriminator = PatchDiscriminator(config(norm=norm), 32)
    rows = format_layers("discriminator", discriminator, (1, 32, 32)).splitlines()
    assert sum(int(row.split()[-1].replace(",", "")) for row in rows[2:-1]) == count_parameters(discriminator)
