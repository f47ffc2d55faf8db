import pytest
from conftest import REPOSITORY, tiny_config

from srgan_dist.config import load_config
from srgan_dist.run import cpu_ranks
from srgan_dist.run.cpu_ranks import ranks_on_cpu


@pytest.mark.parametrize(
    "cores, batch, accumulation, free_gib, expected",
    [
        (1, 16, 1, 99, 1),
        (2, 16, 1, 99, 2),
        (3, 16, 1, 99, 2),
        (6, 18, 1, 99, 6),
        (8, 16, 1, 99, 8),
        (64, 16, 1, 99, 8),  # two crops each
        (8, 16, 4, 99, 2),
        (8, 7, 1, 99, 1),
        (8, 1, 1, 99, 1),
        (8, 16, 1, 1.6, 1),
        (8, 16, 1, 7, 4),
        (8, 16, 1, 0, 1),  # a rank of these networks takes 1.5 GiB and a little
    ],
)
def test_trainings_on_cpu_take_a_rank_per_core_as_far_as_batch_and_memory_reach(
    monkeypatch, tmp_path, cores, batch, accumulation, free_gib, expected
):
    monkeypatch.setattr(cpu_ranks, "usable_cores", lambda: cores)
    monkeypatch.setattr(cpu_ranks, "free_memory", lambda: free_gib * 2**30)
    data = {"path": "unused", "lr_crop": 8, "batch_size": batch}
    config = tiny_config(
        "unused", tmp_path, cpu_ranks=None, data=data, gradient_accumulation_steps=accumulation
    )
    assert ranks_on_cpu(config) == expected
    previous = batch // accumulation
    assert ranks_on_cpu(config, previous_ranks=previous) == previous  # as many as the run has had
    assert ranks_on_cpu(config, previous_ranks=5) == expected  # which no longer share the batch
    assert ranks_on_cpu(config.model_copy(update={"cpu_ranks": 3})) == 3


@pytest.mark.parametrize("free_gib, expected", [(12.1, 3), (8.1, 2), (5.9, 1)])
def test_a_rank_of_the_full_recipe_takes_three_to_four_gigabytes(monkeypatch, free_gib, expected):
    monkeypatch.setattr(cpu_ranks, "usable_cores", lambda: 3)
    monkeypatch.setattr(cpu_ranks, "free_memory", lambda: free_gib * 2**30)
    config = load_config(
        REPOSITORY / "configs" / "deeprock_x4.yaml", ["data.batch_size=12", "cpu_ranks=null"]
    )
    assert ranks_on_cpu(config) == expected
