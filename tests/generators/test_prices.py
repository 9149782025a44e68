"""Price tables: from a mapping, from files, and what is none."""

import pytest

from penstock.errors import ConfigError
from penstock.generators.base import Usage
from penstock.generators.prices import Price, Prices

TABLE = {"a": {"prompt": 1, "completion": 2.5}, "*": {"prompt": 0, "completion": 0}}


def test_a_million_tokens_cost_what_the_table_says():
    price = Prices.of(TABLE).price("a")
    assert price.cost(Usage(prompt_tokens=1_000_000)) == 1.0
    assert price.cost(Usage(completion_tokens=200_000)) == 0.5


def test_a_model_that_is_not_named_has_the_price_of_the_star_or_none():
    assert Prices.of(TABLE).price("b") == Price(0.0, 0.0)
    assert Prices.of({"a": TABLE["a"]}).price("b") is None


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.yaml", "a: {prompt: 1, completion: 2.5}\n"), ("p.json", '{"a": {"prompt": 1, "completion": 2.5}}')],
)
def test_a_table_is_read_from_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert Prices.of(tmp_path / name) == Prices.of({"a": TABLE["a"]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 3", r"a: got 3, allowed \{prompt"),
        ("a: {prompt: 1}", "a: got .*prompt"),
        ("a: {prompt: 1, completion: 1, image: 2}", "a: got .*image"),
        ("a: {prompt: -1, completion: 1}", "a: got -1"),
        ("a: {prompt: .nan, completion: 1}", "a: got nan"),
        ("a: {prompt: true, completion: 1}", "a: got True"),
        ("a: {prompt: '1', completion: 1}", "a: got '1'"),
        ("[1]", "got list, allowed models with their prices"),
        ("{", "cannot be read"),
    ],
)
def test_what_is_no_table_is_refused_with_its_file(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"prices .*p.yaml: {message}"):
        Prices.of(str(tmp_path / "p.yaml"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"prices .*no.yaml: cannot be read"):
        Prices.of(tmp_path / "no.yaml")
