"""A check at the start of a training on volumes: does this device convolve them rightly in bfloat16?

cuDNN 9.8 to 9.10 returned wrong numbers without a word (pytorch/pytorch#163539); PyTorch has gone around it
since, with up to 17 times the memory (#166643).
"""

import torch
from torch.nn import functional as F

from srgan_dist.utils.errors import UserError

WRONG_CUDNN = range(90800, 91100)  # as torch.backends.cudnn.version() counts
CASES = (  # kernel, stride and padding of the networks here
    *((3, 1, 1), (2, 1, 1), (1, 1, 0), (5, 1, 2)),  # of generators; the last is that of NoiseHead's grain
    *((3, 2, 1), (3, 1, 0), (3, 2, 0), (4, 2, 1), (4, 1, 1)),  # of discriminators
)
CHANNELS, SIDE = 32, 8
# Of the largest value; rounding to bfloat16 alone moves a value by 2^-9 of itself, and a CPU that emulates it
# rounds each of the 125 places of a kernel of 5
LIMIT = 2**-5


def check_conv3d(device, convolve=F.conv3d):
    """Raise UserError unless `convolve` in bfloat16 on a device agrees with float32 on the CPU, forward and
    backward.
    """
    facts = f"PyTorch {torch.__version__}"
    if device.type == "cuda":
        version = torch.backends.cudnn.version() or 0
        facts += f", cuDNN {version}, {torch.cuda.get_device_name(device)}"
        check_cudnn_version(version)
    for kernel, stride, padding in CASES:
        for name, deviation in deviations(device, convolve, kernel, stride, padding).items():
            if not deviation <= LIMIT:  # NaN too
                raise UserError(
                    f"mixed_precision=bf16: {facts} convolves volumes wrongly: {name} of a kernel of"
                    f" {kernel}, stride {stride}, is off by {deviation:.2g} of its largest value, where"
                    f" rounding explains {LIMIT:.2g}; install another version of PyTorch, or use"
                    " mixed_precision=no"
                )


def check_cudnn_version(version):
    """Raise UserError for a version of cuDNN, as PyTorch counts it, that is known to be wrong."""
    if version in WRONG_CUDNN:
        raise UserError(
            f"mixed_precision=bf16: cuDNN {version // 10000}.{version // 100 % 100} convolves volumes wrongly"
            " in bfloat16 (pytorch/pytorch#163539), or PyTorch goes around it with many times the memory;"
            " install a PyTorch with cuDNN 9.15 or later, or use mixed_precision=no"
        )


def deviations(device, convolve, kernel, stride, padding):
    """Return the largest differences of a convolution and its two gradients between bfloat16 on a device and
    float32 on the CPU, each as a share of the largest value: {name: share}.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):  # values that bfloat16 holds, so that only the arithmetic differs
        return torch.randn(shape, generator=generator).bfloat16()

    x, weight = draw(2, CHANNELS, *[SIDE] * 3), draw(CHANNELS, CHANNELS, *[kernel] * 3)
    gradient = draw(*F.conv3d(x.float(), weight.float(), None, stride, padding).shape)

    def results(where, dtype, function):
        leaves = [
            tensor.to(where, dtype, memory_format=torch.channels_last_3d).requires_grad_()
            for tensor in (x, weight)
        ]
        y = function(*leaves, None, stride, padding)
        found = y.detach(), *torch.autograd.grad(y, leaves, gradient.to(where, dtype))
        return [tensor.float().cpu() for tensor in found]

    pairs = zip(
        results(device, torch.bfloat16, convolve), results("cpu", torch.float32, F.conv3d), strict=True
    )
    names = "the output", "the gradient of the input", "the gradient of the weights"
    return {
        name: ((found - exact).abs().max() / exact.abs().max()).item()
        for name, (found, exact) in zip(names, pairs, strict=True)
    }
