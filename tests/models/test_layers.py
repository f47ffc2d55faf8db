import pytest
import torch
from torch import nn

from srgan_dist.models.prelu import PReLU


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
