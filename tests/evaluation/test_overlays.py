from itertools import combinations

import numpy as np
import pytest
from report_files import example

from srgan_dist.evaluation.report_page.pictures import OVERLAY, overlays


def test_an_overlay_counts_pores_that_agree_are_missed_and_are_invented():
    shown = example(methods=("bicubic",), size=(40, 40))
    hr, sr = np.ones((40, 40)), np.ones((40, 40))
    hr[:, :20], sr[:10, 10:30] = 0, 0
    shown.images.update(hr=hr, bicubic=sr)
    for bright in (False, True):
        ((url, shares),) = overlays(shown, 0.5, bright).values()
        assert url.startswith("data:image/png") and shares["missed"] == pytest.approx(
            0.4375 if not bright else 0.0625
        )
        assert shares["agree"] == pytest.approx(0.0625 if not bright else 0.4375)
        assert shares["invented"] == pytest.approx(0.0625 if not bright else 0.4375)


# Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB
VISION = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


@pytest.mark.parametrize("vision", VISION)
def test_colours_of_overlays_are_apart_for_all_kinds_of_colour_vision(vision):
    from skimage.color import rgb2lab

    linear = (np.array(list(OVERLAY.values())) / 255) ** 2.2
    seen = (linear @ np.array(VISION[vision]).T).clip(0, 1) ** (1 / 2.2)
    lab = rgb2lab(seen[None])[0]
    assert min(np.linalg.norm(a - b) for a, b in combinations(lab, 2)) > 40
