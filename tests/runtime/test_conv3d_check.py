"""The check of convolutions of volumes, against right ones and wrong ones."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.nn.modules.utils import _triple

from srgan_dist.models import build_discriminator, build_generator
from srgan_dist.models.discriminator import DenseDiscriminatorConfig
from srgan_dist.models.patch_discriminator import PatchDiscriminatorConfig
from srgan_dist.models.rrdb import RRDBConfig
from srgan_dist.models.srresnet import UPSAMPLING, SRResNetConfig
from srgan_dist.runtime import conv3d_check
from srgan_dist.runtime.conv3d_check import check_conv3d, check_cudnn_version
from srgan_dist.utils.errors import UserError

CPU = torch.device("cpu")


def test_convolutions_of_this_machine_are_right():
    check_conv3d(CPU)


def networks_of_volumes():
    """Yield every kind of network and what it is called with."""
    small = {"ndim": 3, "scale": 2, "num_blocks": 1, "num_filters": 2, "noise": 1}
    generators = [RRDBConfig(name="rrdb", growth=2, **small)]
    for upsampling, tail_kernel in itertools.product(UPSAMPLING, (1, 3)):
        generators.append(SRResNetConfig(upsampling=upsampling, tail_kernel=tail_kernel, **small))
    for config in generators:
        yield build_generator(config), (torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 8, 8, 8))
    critics = [DenseDiscriminatorConfig(num_filters=1, num_dense=1, padding=padding) for padding in (0, 1)]
    for config in (*critics, PatchDiscriminatorConfig(name="patch", num_filters=1)):
        yield build_discriminator(config, 61, 3).eval(), (torch.zeros(1, 1, 61, 61, 61),)


def test_the_cases_are_the_convolutions_of_all_networks(monkeypatch):
    found, convolve = set(), F.conv3d

    def noted(x, weight, bias=None, stride=1, padding=0):
        found.add((tuple(weight.shape[2:]), *map(_triple, (stride, padding))))
        return convolve(x, weight, bias, stride, padding)

    monkeypatch.setattr(F, "conv3d", noted)
    for network, inputs in networks_of_volumes():
        with torch.no_grad():
            network(*inputs)
    assert found == {tuple((value,) * 3 for value in case) for case in conv3d_check.CASES}


def shifted(x, *arguments):
    return F.conv3d(x.roll(1, -1), *arguments)


def without_a_channel(x, weight, *arguments):
    return F.conv3d(x[:, 1:], weight[:, 1:], *arguments)


def of_strides_that_are_infinite(x, weight, bias, stride, padding):
    return F.conv3d(x, weight, bias, stride, padding) * (torch.inf if stride == 2 else 1)


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight):
        return weight.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient[0, 0, 0, 0, 0] *= 1.5
        return gradient


def with_a_wrong_gradient(x, weight, *arguments):
    return F.conv3d(x, _WrongGradient.apply(weight), *arguments)


@pytest.mark.parametrize(
    "convolve, words",
    [
        (shifted, "the output of a kernel of 3, stride 1, is off by "),
        (without_a_channel, "the output of a kernel of 3, stride 1"),
        (of_strides_that_are_infinite, "stride 2, is off by (nan|inf)"),
        (with_a_wrong_gradient, "the gradient of the weights of a kernel of 3"),
    ],
)
def test_wrong_ones_are_named_with_the_way_out(convolve, words):
    with pytest.raises(UserError, match=f"mixed_precision=bf16: PyTorch .*{words}.*use mixed_precision=no"):
        check_conv3d(CPU, convolve)


@pytest.mark.parametrize("version, name", [(90800, "9.8"), (90907, "9.9"), (91002, "9.10")])
def test_versions_that_are_known_to_be_wrong_are_refused(version, name):
    with pytest.raises(UserError, match=f"cuDNN {name} convolves volumes wrongly"):
        check_cudnn_version(version)


@pytest.mark.parametrize("version", [0, 90701, 91100, 91501, 92400])
def test_other_versions_are_not(version):
    check_cudnn_version(version)


def test_the_seed_of_the_training_is_not_touched():
    before = torch.random.get_rng_state()
    conv3d_check.deviations(CPU, F.conv3d, 3, 1, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
