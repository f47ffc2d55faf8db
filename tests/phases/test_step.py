"""The update itself, in float64, of images and of volumes, on one rank and on two over gloo: who sends what,
what equals what, what is skipped.
"""

import functools

import pytest
import torch
from commands import launch
from conftest import NDIMS, REPOSITORY

WORKER = REPOSITORY / "tests" / "step_worker.py"


@pytest.fixture(scope="module")
def ranks_of(tmp_path_factory):
    """ranks_of(ndim): what step_worker.py makes of the same updates, {number of ranks: [results of each]}."""

    @functools.cache
    def results(ndim):
        found = {}
        for count in (1, 2):
            out = tmp_path_factory.mktemp(f"ranks{count}")
            done = launch(WORKER, out, ndim, ranks=count)
            assert done.returncode == 0, done.stderr[-3000:]
            found[count] = [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(count)]
        return found

    return results


@pytest.fixture(params=NDIMS, ids=["2-D", "3-D"])
def ranks(request, ranks_of):
    return ranks_of(request.param)


def assert_equal(one, other, atol=0.0):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            other[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("phase", ["pretrain", "adversarial"])
@pytest.mark.parametrize("count, accumulation", [(1, 2), (1, 3), (2, 1), (2, 2), (2, 3)])
def test_an_update_is_the_same_however_its_batch_is_cut(ranks, phase, count, accumulation):
    whole = ranks[1][0][phase][0]
    for rank in ranks[count]:
        assert_equal(whole["tensors"], rank[phase][accumulation - 1]["tensors"], atol=1e-10)
    for name in whole["numbers"][0].keys() - {"train/psnr"}:  # not linear in the error
        values = [
            torch.stack([numbers[name] for numbers in rank[phase][accumulation - 1]["numbers"]])
            for rank in ranks[count]
        ]
        expected = torch.stack([numbers[name] for numbers in whole["numbers"]])
        torch.testing.assert_close(torch.stack(values).mean(0), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("phase", ["pretrain", "adversarial"])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_each_networks_gradients_travel_once_per_update(ranks, phase, accumulation):
    for rank in ranks[2]:
        result = rank[phase][accumulation - 1]
        assert result["collectives"] == [result["bytes"][::-1]] * 3  # the discriminator's first
    assert ranks[1][0][phase][accumulation - 1]["collectives"] == [[], [], []]


def in_front_of_batch_norm(tensors):
    """Name the biases whose gradient is nothing but rounding errors, which Adam magnifies, and the means that
    take them up.
    """
    return {
        name
        for name in tensors
        if name.startswith("discriminator.blocks") and name.endswith(("conv.bias", "running_mean"))
    }


def assert_equal_but_for_rounding(one, other, atol):
    loose = in_front_of_batch_norm(one)
    assert_equal(
        {name: one[name] for name in one.keys() - loose},
        {name: other[name] for name in other.keys() - loose},
        atol,
    )
    assert_equal({name: one[name] for name in loose}, {name: other[name] for name in loose}, atol=1e-7)


def test_two_ranks_end_with_the_weights_of_plain_distributed_data_parallel(ranks):
    for rank in ranks[2]:
        assert_equal_but_for_rounding(rank["plain"]["tensors"], rank["own statistics"]["tensors"], atol=1e-12)
    first, second = (rank["own statistics"]["tensors"] for rank in ranks[2])
    assert {name for name in first if not torch.equal(first[name], second[name])} == {  # each rank's own
        name for name in first if "running" in name
    }


def test_with_synchronised_statistics_two_ranks_are_one(ranks):
    one = ranks[1][0]["synchronised"]["tensors"]
    assert_equal(ranks[1][0]["own statistics"]["tensors"], one)  # alone there is nothing to synchronise
    for rank in ranks[2]:
        two = rank["synchronised"]["tensors"]
        assert_equal_but_for_rounding(one, two, atol=1e-10)
    weight = "generator.head.weight"
    own = ranks[2][0]["own statistics"]["tensors"]
    assert (own[weight] - one[weight]).abs().max() > 1e-6  # the synchronisation matters


def test_a_loss_that_is_watched_for_spikes_travels_with_the_gradients(ranks):
    for rank in ranks[2]:
        for name in ("pretrain", "adversarial"):
            watched = rank["guarded"][name]
            with_loss = [size + 8 for size in watched["bytes"][::-1]]  # one more float64
            assert watched["collectives"] == [with_loss] * 3
            usual = {key: value for key, value in watched["tensors"].items() if "_usual" in key}
            assert_equal(usual, {key: ranks[2][0]["guarded"][name]["tensors"][key] for key in usual})
    one, two = (ranks[count][0]["guarded"]["pretrain"] for count in (1, 2))
    for found in (one, two):
        last = found["numbers"][-1]
        assert found["tensors"]["generator_usual.counts"].tolist() == [3, 3]
        # spikes.SETTLED is 1 there, so that the means are the last values
        torch.testing.assert_close(
            found["tensors"]["generator_usual.means"][1], last["health/grad_norm/generator"].float()
        )
    mean = torch.stack(
        [rank["guarded"]["pretrain"]["numbers"][-1]["loss/generator"] for rank in ranks[2]]
    ).mean()
    for found in (one, two):
        torch.testing.assert_close(found["tensors"]["generator_usual.means"][0], mean.float())


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("phase", ["pretrain", "adversarial"])
def test_the_average_of_the_generator_is_half_the_one_before_and_half_its_weights(ranks, phase, count):
    for rank in ranks[count]:
        _, before, after = rank["faults"][phase, "pixel", 2]["states"]
        averages = {name for name in after if name.startswith("generator_average.")}
        assert len(averages) == len([name for name in after if name.startswith("generator.")]) > 0
        for name in averages:
            weights = after[name.replace("_average", "")]
            assert not torch.equal(after[name], weights)
            torch.testing.assert_close(after[name], (before[name] + weights) / 2, rtol=0, atol=1e-15)


FAULTS = [
    ("pretrain", fault)
    for fault in (
        "pixel",
        "generator gradient",
        "infinite generator gradient",
        "pixel spike",
        "generator gradient spike",
    )
] + [
    ("adversarial", fault)
    for fault in (
        "pixel",
        "generator gradient",
        "infinite generator gradient",
        "discriminator gradient",
        "discriminator loss",
        "pixel spike",
        "generator gradient spike",
        "discriminator gradient spike",
        "discriminator loss spike",
    )
]


CASES = [(2, *fault, accumulation) for fault in FAULTS for accumulation in (1, 2)] + [
    pytest.param(3, *fault, 2, marks=pytest.mark.slow) for fault in FAULTS if "spike" not in fault[1]
]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("ndim, phase, fault, accumulation", CASES)
def test_every_rank_skips_an_update_that_is_not_sound_on_one(
    ranks_of, ndim, phase, fault, accumulation, count
):
    for rank in ranks_of(ndim)[count]:
        result = rank["faults"][phase, fault, accumulation]
        assert result["skipped"] == [0, 1, 0]
        before, skipped, after = (
            {name: value for name, value in state.items() if "_usual" not in name}
            for state in result["states"]
        )
        assert_equal(before, skipped)
        assert all(value.isfinite().all() for value in after.values())
        moved = {name for name in after if not torch.equal(after[name], skipped[name])}
        assert moved == set(after)
