"""Every generator, in two and three dimensions and at every scale."""

import pytest
import torch
from pydantic import TypeAdapter

from srgan_dist.evaluation.super_resolve import super_resolve
from srgan_dist.models import GeneratorConfig, build_generator
from srgan_dist.models.summary import count_parameters
from srgan_dist.utils.scales import SCALES

SMALL = {
    "srresnet": {"num_blocks": 1, "num_filters": 4},
    "rrdb": {"num_blocks": 1, "num_filters": 4, "growth": 2},
}


def generator_of(name, **settings):
    torch.manual_seed(0)
    config = TypeAdapter(GeneratorConfig).validate_python({"name": name, **SMALL[name], **settings})
    return build_generator(config).eval()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("scale", SCALES)
def test_the_output_has_scale_times_the_shape(name, ndim, scale):
    lr = torch.rand(2, 1, *(5, 4, 3)[:ndim])
    sr = generator_of(name, ndim=ndim, scale=scale)(lr)
    assert sr.shape == (2, 1, *(scale * size for size in lr.shape[2:]))


def test_a_generator_without_a_name_is_srresnet():
    config = TypeAdapter(GeneratorConfig).validate_python({"num_blocks": 3})
    assert (config.name, config.num_blocks, config.ndim) == ("srresnet", 3, 2)


def test_rrdb_has_the_parameters_of_the_official_network_of_its_paper():
    # 16.70 million of ESRGAN's RRDBNet (3 channels); two channels less of head and tail: 2 * 2 * 9 * 64 + 2
    generator = build_generator(TypeAdapter(GeneratorConfig).validate_python({"name": "rrdb"}))
    assert count_parameters(generator) == 16_697_987 - (2 * 2 * 9 * 64 + 2)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_no_output_of_rrdb_depends_on_more_than_its_receptive_radius(scale):
    generator = generator_of("rrdb", scale=scale).double()
    for parameter in generator.parameters():  # positive weights, so that nothing cancels
        torch.nn.init.constant_(parameter, 0.1)
    radius = generator.receptive_radius
    side = 2 * radius + 3
    lr = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    centre = side // 2
    generator(lr)[
        0, 0, centre * scale : (centre + 1) * scale, centre * scale : (centre + 1) * scale
    ].sum().backward()
    assert (lr.grad[0, 0].nonzero() - centre).abs().max() == radius


def test_tiles_of_rrdb_agree_where_its_overlap_is_its_receptive_field():
    lr = torch.randint(0, 256, (24, 30), dtype=torch.uint8).numpy()
    exact = generator_of("rrdb", tile_overlap=1000)
    assert exact.tile_overlap == exact.receptive_radius
    torch.testing.assert_close(super_resolve(exact, lr, 9), super_resolve(exact, lr, 1000), atol=1e-5, rtol=0)
    near, apart = (
        (super_resolve(generator_of("rrdb", tile_overlap=n), lr, 9) - super_resolve(exact, lr, 1000))
        .abs()
        .max()
        for n in (8, 0)
    )
    assert near < 1e-3 < apart
