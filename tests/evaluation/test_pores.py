"""Porosity and interface of validation: those of the protocol."""

import numpy as np
import pytest
import torch

from srgan_dist.evaluation.pores import pore_scores, porosity, specific_interface
from srgan_dist.evaluation.validation import rock_metrics
from srgan_dist.measures import geometry


@pytest.mark.parametrize("shape", [(30, 41), (12, 9, 14)])
def test_they_are_those_of_the_protocol(shape):
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    thresholds = torch.tensor([0.2, 0.5, 0.7])
    for image, threshold, share, interface in zip(
        images.numpy(),
        thresholds.numpy(),
        porosity(images, thresholds),
        specific_interface(images, thresholds),
        strict=True,
    ):
        pore, valid = image < threshold, np.ones(shape, bool)
        assert share.item() == pytest.approx(pore.mean())
        ((length, area),) = geometry.specific_interface(pore, valid)
        assert interface.item() == pytest.approx(length / area)


def test_rock_metrics_are_of_sums_over_images():
    def row(rock, method, *values):
        names = "porosity", "porosity_hr", "specific_interface", "specific_interface_hr"
        texture = {"lattice_excess": 9.0, "lattice_excess_hr": 4.0}
        texture |= {"phase_dependence": 0.25, "phase_dependence_hr": 0.5}
        return {"rock": rock, "method": method, **dict(zip(names, values, strict=True)), **texture}

    rows = [row("sandstone", "SR", 0.1, 0.2, 3, 4), row("sandstone", "SR", 0.2, 0.2, 3, 8)]
    rows += [row("coal", "SR", 0.0, 0.0, 0.0, 0.0), row("sandstone", "bicubic", 9, 9, 9, 9)]
    assert rock_metrics("val", rows) == pytest.approx(
        {
            "val/rock/lattice_excess/sandstone": 5,
            "val/rock/phase_dependence/sandstone": -0.25,
            "val/rock/porosity_bias/sandstone": -0.25,
            "val/rock/interface_ratio/sandstone": 0.5,
            "val/rock/lattice_excess/coal": 5,
            "val/rock/phase_dependence/coal": -0.25,
        }
    )


def test_a_rock_without_a_threshold_has_no_pores():
    images = torch.rand(2, 20, 20)
    found = pore_scores(images, images, np.array([np.nan, 0.5]))
    assert found["porosity"][0] == 0 and found["specific_interface_hr"][0] == 0 and found["porosity"][1] > 0
