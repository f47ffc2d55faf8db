import pytest
import torch
from torch import nn

from srgan_dist.models.layers import POOL_AND_MODE, Conv3d, PReLU, local_means


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slopes", [1, 6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradients_have_the_bits_of_pytorchs(dtype, slopes, layout):
    torch.manual_seed(1)
    x, gradient = (torch.randn(2, 6, 5, 7).to(dtype).to(memory_format=layout) for _ in range(2))
    x[0, :, :2] = 0  # neither positive nor negative
    start = torch.linspace(
        -0.5, 0.75, slopes, dtype=torch.float64 if dtype == torch.float64 else torch.float32
    )
    found = []
    for module in (PReLU(slopes), nn.PReLU(slopes)):
        module.weight = nn.Parameter(start.clone())
        image = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = module(image)
        output.backward(gradient)
        found.append((output.detach(), image.grad, module.weight.grad))
    for ours, reference in zip(*found, strict=True):
        assert (
            ours.dtype == reference.dtype
            and ours.stride() == reference.stride()
            and torch.equal(ours, reference)
        )
    assert found[0][2].abs().min() > 0


@pytest.mark.parametrize("slopes", [1, 3])
def test_the_gradient_is_that_of_finite_differences(slopes):
    torch.manual_seed(2)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    module = PReLU(slopes).double()
    assert torch.autograd.gradcheck(
        lambda x, weight: torch.func.functional_call(module, {"weight": weight}, x), (x, module.weight)
    )


def test_a_compiled_one_is_the_same():
    torch.manual_seed(3)
    module, x = PReLU(4), torch.randn(2, 4, 3, 3)
    compiled = torch.compile(module, backend="aot_eager")
    assert torch.equal(compiled(x), module(x))
    gradients = [torch.autograd.grad(run(x).square().sum(), module.weight)[0] for run in (compiled, module)]
    torch.testing.assert_close(*gradients)


def test_prelu_of_volumes_has_pytorchs_gradient():
    torch.manual_seed(3)
    x = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    module = PReLU(3).double()
    assert torch.autograd.gradcheck(
        lambda x, slopes: torch.func.functional_call(module, {"weight": slopes}, x), (x, module.weight)
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side, kernel, stride", [(1, 3, 2), (2, 3, 1), (3, 4, 1), (4, 3, 1)])
def test_gradients_of_tiny_volumes_in_bfloat16_are_those_in_float32(side, kernel, stride, bias):
    torch.manual_seed(4)
    module = Conv3d(4, 8, kernel, stride, padding=1, bias=bias).to(memory_format=torch.channels_last_3d)
    x = torch.randn(2, 4, side, side, side).bfloat16()
    gradients = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = module(x if enabled else x.float())
        unused = [torch.full((size,), torch.nan) for size in (2**n for n in range(4, 19)) for _ in range(20)]
        del unused  # its memory is the next to be given out
        gradients.append(torch.autograd.grad(output.float().square().sum(), module.weight)[0])
    torch.testing.assert_close(*gradients, rtol=0, atol=0.03 * gradients[1].abs().max().item())


@pytest.mark.parametrize("shape", [(3, 7, 4), (1, 1, 1), (2, 9)])
def test_local_means_of_less_than_the_window_are_those_of_all_there_is(shape):
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    means = local_means(x, POOL_AND_MODE[x.dim()][0])
    assert means.shape == x.shape
    place = tuple(side // 2 for side in shape)
    around = tuple(slice(max(at - 2, 0), at + 3) for at in place)
    expected = x[:, :, *around].flatten(2).mean(2)
    assert torch.allclose(means[:, :, *place], expected, atol=1e-6)
