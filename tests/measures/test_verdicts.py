"""Verdicts say what intervals say, and no more."""

from srgan_dist.measures.verdicts import verdict

TITLES = {"bicubic": "bicubic", "pretrain": "phase 1", "adversarial": "phase 2"}


def entry(interval, level="source", other="pretrain"):
    return {"level": level, "against": {other: {"difference": 0.1, "interval": interval}}}


def test_a_measure_is_named_closer_or_further_only_where_its_interval_excludes_0():
    entries = {
        "porosity": entry([-0.01, 0.02]),
        "specific_interface": entry([-0.3, -0.1]),
        "euler_density": entry([-0.3, -0.2]),
        "chord_length": entry([-0.2, -0.0001]),
        "dice": entry([0.001, 0.1]),
        "lattice_excess": entry([1.0, 2.0]),  # texture, in no sentence about pores
        "pore_size": entry(None),
    }
    assert verdict("adversarial", entries, TITLES) == (
        "Against phase 1: closer to HR in interface, Euler number and chords; further from HR in overlap of"
        " pores; undecided in porosity."
    )


def test_an_interval_that_touches_0_decides_nothing():
    words = verdict("adversarial", {"porosity": entry([-0.1, 0.0]), "dice": entry([0.0, 0.1])}, TITLES)
    assert words == "Against phase 1: undecided in porosity and overlap of pores."


def test_without_intervals_there_is_no_verdict_but_a_reason():
    few = verdict("adversarial", {"porosity": entry(None, level=None)}, TITLES)
    assert few == "phase 2: no verdict, for fewer than 5 independent images, sources or plugs were measured."
    unknown = verdict("adversarial", {"porosity": entry(None)}, TITLES)
    assert unknown == "phase 2: no verdict, for no interval is known."


def test_of_images_without_rock_nothing_is_said():
    assert verdict("bicubic", {}, TITLES) == "bicubic: nothing was measured."
