"""From the LR grid to the HR grid: every mode against the textbook's way of computing it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from srgan_dist.models.layers import CHANNELS_LAST
from srgan_dist.models.srresnet import UPSAMPLING, SRResNet, SRResNetConfig
from srgan_dist.models.upsampling import CONV, NEAREST_CONV, PixelShuffle, UpscaleLayer, stages_of

SMALL = {"num_blocks": 1, "num_filters": 4, "init_std": None, "tanh": False}


@pytest.mark.parametrize("scale, stages", [(2, [2]), (3, [3]), (4, [2, 2]), (6, [2, 3]), (8, [2, 2, 2])])
def test_the_stages_of_a_scale_are_twos_and_threes(scale, stages):
    assert stages_of(scale) == stages


@pytest.mark.parametrize("factor", [2, 3])
def test_a_pixel_shuffle_of_volumes_is_that_of_images_along_each_axis(factor):
    x = torch.arange(factor**3 * 2 * 3 * 4).float().reshape(1, factor**3, 2, 3, 4)
    volume = PixelShuffle(factor)(x)
    assert volume.shape == (1, 1, 2 * factor, 3 * factor, 4 * factor)
    for z, y, x_ in [(0, 0, 0), (factor, 1, 2), (2 * factor - 1, 3 * factor - 1, 4 * factor - 1)]:
        channel = ((z % factor) * factor + y % factor) * factor + x_ % factor
        assert volume[0, 0, z, y, x_] == x[0, channel, z // factor, y // factor, x_ // factor]
    flat = x[:, : factor**2, 0]
    assert torch.equal(PixelShuffle(factor)(flat), torch.pixel_shuffle(flat, factor))


@pytest.mark.parametrize("factor", [2, 3])
def test_the_memory_format_of_volumes_outlives_a_pixel_shuffle(factor):
    x = torch.randn(2, factor**3 * 3, 2, 3, 4)
    last = PixelShuffle(factor)(x.to(memory_format=torch.channels_last_3d))
    assert last.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(last, PixelShuffle(factor)(x)) and PixelShuffle(factor)(x).is_contiguous()


# Convolutions of what nearest neighbours have enlarged


def textbook(conv, x):
    """Return what a convolution behind nearest neighbours is said to compute, computed that way."""
    enlarged = F.interpolate(x, scale_factor=conv.factor, mode="nearest")
    return CONV[x.dim() - 2]._conv_forward(conv, enlarged, conv.weight, conv.bias)


@pytest.mark.parametrize("shape", [(5, 4), (1, 7), (4, 3, 5), (1, 1, 2)])
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_a_folded_convolution_is_the_textbooks_up_to_the_border(shape, factor, kernel, dtype, tolerance):
    torch.manual_seed(0)
    conv = NEAREST_CONV[len(shape)](3, 2, kernel, kernel // 2, factor).to(dtype)
    x = torch.randn(2, 3, *shape, dtype=dtype, requires_grad=True)
    expected = textbook(conv, x)
    found = conv(x)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    for ours, theirs in zip(
        *(torch.autograd.grad((y * weights).sum(), (x, *conv.parameters())) for y in (found, expected)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item() * 10)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_folded_convolution_in_bfloat16_errs_no_more_than_the_textbooks(ndim):
    """The sums of weights are rounded once; x and weights have values that bfloat16 holds."""
    torch.manual_seed(0)
    conv = NEAREST_CONV[ndim](16, 4, 3, 1, 2).to(memory_format=CHANNELS_LAST[ndim])
    conv.weight.data = conv.weight.bfloat16().float()
    x = torch.randn(2, 16, *[6] * ndim).bfloat16().float()
    exact = textbook(conv, x)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(y.float() - exact).square().mean().sqrt() for y in (conv(x), textbook(conv, x))]
    assert conv.weight.dtype == torch.float32 and 0 < errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("mode", UPSAMPLING)
@pytest.mark.parametrize("tail_kernel", [1, 3])
def test_every_mode_is_what_its_name_says(ndim, mode, tail_kernel):
    torch.manual_seed(0)
    config = SRResNetConfig(ndim=ndim, scale=6, upsampling=mode, tail_kernel=tail_kernel, **SMALL)
    generator = SRResNet(config).double()
    conv, lr = {2: F.conv2d, 3: F.conv3d}[ndim], torch.randn(2, 1, *(4, 3, 5)[:ndim]).double()

    x = generator.head(lr)
    x = x + generator.trunk(generator.blocks(x))
    for factor, stage in zip((2, 3), generator.upscale, strict=True):
        if mode == "nearest_before":
            x = F.interpolate(x, scale_factor=factor)
        if mode == "trilinear":
            x = F.interpolate(x, scale_factor=factor, mode={2: "bilinear", 3: "trilinear"}[ndim])
        x = conv(x, stage.conv.weight, stage.conv.bias, padding=1)
        x = F.prelu(PixelShuffle(factor)(x) if mode == "shuffle" else x, stage.prelu.weight)
        if mode == "nearest_after":
            x = F.interpolate(x, scale_factor=factor)
    expected = conv(x, generator.tail.weight, generator.tail.bias, padding=tail_kernel // 2)
    torch.testing.assert_close(generator(lr), expected, rtol=0, atol=1e-12)


def test_the_large_image_of_many_channels_is_never_made():
    config = SRResNetConfig(ndim=3, scale=4, upsampling="nearest_after", tail_kernel=3, **SMALL)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        SRResNet(config)(torch.randn(1, 1, 6, 6, 6))
    assert max(sizes) < 4 * 24**3 / 4


@pytest.mark.parametrize("ndim", [2, 3])
def test_icnr_begins_with_nearest_neighbours(ndim):
    torch.manual_seed(0)
    settings = {"ndim": ndim, "scale": 4, **SMALL}
    generator, lr = SRResNet(SRResNetConfig(icnr=True, **settings)), torch.rand(1, 1, *[5] * ndim)
    first = generator.upscale[0](generator.head(lr))
    assert torch.equal(
        first, F.interpolate(first[..., ::2, ::2] if ndim == 2 else first[..., ::2, ::2, ::2], scale_factor=2)
    )
    assert first.unique().numel() > 50
    with pytest.raises(ValueError, match="icnr=true is for upsampling=shuffle, not trilinear"):
        SRResNetConfig(icnr=True, upsampling="trilinear")


def test_icnr_of_a_stage_repeats_the_first_of_its_draws():
    torch.manual_seed(0)
    stage = UpscaleLayer(2, 3, 5, 5, 2)
    drawn = stage.conv.weight.clone()
    stage.repeat_weights()
    for position in range(4):
        assert torch.equal(stage.conv.weight[position::4], drawn[::4])


@pytest.mark.parametrize("mode", UPSAMPLING)
@pytest.mark.parametrize("scale, tail_kernel", [(2, 1), (3, 3), (4, 3), (6, 1), (8, 3)])
def test_tile_overlap_is_as_far_as_an_output_pixel_looks(mode, scale, tail_kernel):
    config = SRResNetConfig(scale=scale, upsampling=mode, tail_kernel=tail_kernel, **SMALL)
    generator = SRResNet(config).double()
    for parameter in generator.parameters():  # positive weights, so that nothing cancels
        nn.init.constant_(parameter, 0.1)
    radius = generator.tile_overlap
    side, centre = 2 * radius + 3, radius + 1
    lr = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    window = slice(centre * scale, (centre + 1) * scale)
    generator(lr)[0, 0, window, window].sum().backward()
    assert (lr.grad[0, 0].nonzero() - centre).abs().max() == radius
