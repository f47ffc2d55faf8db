"""YAML that would grow without end is refused, and so are numbers that overflow."""

import pytest

from srgan_dist.config import load_config, parse_config
from srgan_dist.config_errors import ConfigError
from srgan_dist.utils.yaml_text import parse_yaml

MINIMAL = {"name": "a", "data": {"path": "shards"}}

LAUGHS = "l0: &l0 [1, 1]\n" + "".join(
    f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    "text, words",
    [
        (LAUGHS, "its aliases (*NAME) stand for more than 100,000 values; write them out"),
        ("a: &a [1, *a]", "its aliases (*NAME) stand for more than 100,000 values"),
        ("# " + "x" * 10_000_000, "it has more than 10,000,000 characters"),
    ],
    ids=["aliases of aliases", "itself", "too long"],
)
def test_a_file_that_would_grow_without_end_is_refused(tmp_path, text, words):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).startswith(f"CONFIG={path} cannot be read: {words}")
    with pytest.raises(ConfigError, match="--seed=.*: the value is not YAML: .*aliases"):
        parse_config(MINIMAL, overrides=["seed={a: &a [*a]}"])


def test_an_alias_may_stand_for_a_table():
    raw = parse_yaml("pretrain: {losses: &pixel {pixel: {name: l1}}}\nadversarial: {losses: *pixel}")
    config = parse_config(MINIMAL | raw)
    assert config.pretrain.losses == config.adversarial.losses and set(config.pretrain.losses) == {"pixel"}


@pytest.mark.parametrize(
    "override",
    [
        "pretrain.max_seconds=1.0e+300",
        "checkpoint_minutes=1.0e+12",
        f"pretrain.steps={10**30}",
        f"log_every={10**30}",
    ],
)
def test_a_number_that_overflows_clocks_or_counters_is_refused(override):
    with pytest.raises(ConfigError, match="is beyond the largest number that a setting may have"):
        parse_config(MINIMAL, overrides=[override])
