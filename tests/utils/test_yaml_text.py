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
        ("# " + "x" * 2**16, "it has more than 65,536 characters"),
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


@pytest.mark.parametrize(
    "text",
    [
        "[" * 51,
        "{a: " * 60000,
        "- " * 30000,
        "? " * 51 + "a",
        "!a " * 51 + "a",
        "".join(" " * depth + "a:\n" for depth in range(51)),
        "".join("- [\n" + " " * depth for depth in range(1, 51)),
    ],
    ids=["lists", "tables", "dashes", "keys", "tags", "indentation", "mixed"],
)
def test_values_deep_within_one_another_are_refused_before_they_are_parsed(text):
    with pytest.raises(ValueError, match="it holds more than 50 values within one another|65,536"):
        parse_yaml(text)


def test_values_within_one_another_may_be_many():
    value = parse_yaml("".join(" " * depth + "a:\n" for depth in range(40)) + " " * 40 + "b: [{c: [1]}]")
    for _ in range(40):
        value = value["a"]
    assert value == {"b": [{"c": [1]}]}
    assert parse_yaml("a: [1]\nb:\n" + "- {c: [2]}\n" * 200) == {"a": [1], "b": 200 * [{"c": [2]}]}


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
