"""What a recipe may say about embeddings. Run: pytest tests/embedding/test_config.py"""

import pytest

from penstock.embedding.config import EmbedConfig, ModelConfig
from penstock.errors import ConfigError
from penstock.recipe import Recipe

SOURCE = "name: x\nsource: {environment: {}}\nselect: {criteria: {language: {}}}\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got neither path nor url, allowed one"),
        ({"path": "a", "url": "http://b/v1", "model": "m"}, "got both path and url, allowed one"),
        ({"path": "a", "model": "m"}, "got model or api_key_env beside path"),
        ({"path": "a", "api_key_env": "KEY"}, "got model or api_key_env beside path"),
        ({"url": "http://b/v1"}, r"model\.model: got nothing, allowed the model's name"),
        ({"url": "http://b/v1", "model": ""}, r"model\.model: got nothing"),
        ({"url": "ftp://b/v1", "model": "m"}, r"url: got 'ftp://b/v1', allowed http:// or https://"),
        ({"url": "http:///v1", "model": "m"}, "allowed http:// or https:// and a host"),
        ({"url": "http://u@b/v1", "model": "m"}, "got an address with a user, a password"),
        ({"url": "http://u:secret@b/v1", "model": "m"}, "so that no manifest holds it"),
        ({"url": "http://b/v1?key=secret", "model": "m"}, "a query or a fragment"),
        ({"url": "http://b/v1", "model": "m", "api_key_env": "sk-12 34"}, "no name of an environment variable"),
        ({"path": "a", "batch_size": 0}, "batch_size: got 0, allowed >= 1"),
        ({"path": "a", "concurrency": 0}, "concurrency: got 0, allowed >= 1"),
        ({"path": "a", "attempts": 0}, "attempts: got 0, allowed >= 1"),
        ({"path": "a", "timeout": 0.0}, "timeout: got 0.0, allowed seconds above 0"),
        ({"path": "a", "timeout": float("inf")}, "timeout: got inf"),
    ],
)
def test_a_model_that_cannot_be_is_refused_with_what_to_do(given, message):
    with pytest.raises(ConfigError, match=message) as error:
        ModelConfig(**given)
    assert "secret" not in str(error.value)
    assert "sk-12" not in str(error.value)


def test_fewer_than_one_character_is_refused():
    assert EmbedConfig(characters=1).characters == 1
    with pytest.raises(ConfigError, match=r"embed\.characters: got 0, allowed >= 1"):
        EmbedConfig(characters=0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("embed: {}", EmbedConfig()),
        ("embed: {model: static, characters: 99}", EmbedConfig(characters=99)),
        ("embed: {model: {path: m}}", EmbedConfig(model=ModelConfig(path="m"))),
        (
            "embed: {model: {url: 'http://h:1/v1', model: m, api_key_env: KEY, batch_size: 3}}",
            EmbedConfig(model=ModelConfig(url="http://h:1/v1", model="m", api_key_env="KEY", batch_size=3)),
        ),
        ("", None),
    ],
)
def test_the_three_kinds_of_model_are_read_from_a_recipe_and_written_back(text, wanted):
    recipe = Recipe.parse(SOURCE + text)
    assert recipe.embed == wanted
    assert Recipe.parse(recipe.to_yaml()).embed == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("embed: {model: sttaic}", "embed.model"),
        ("embed: {model: {path: m, batchsize: 2}}", r"unknown key embed\.model\.batchsize; did you mean batch_size\?"),
        ("group: {}", "group reads vectors: add embed: {}"),
        ("embed: {}\ndeduplicate: {semantic: {}}", r"add embed: \{\} and group: \{\}"),
        ("embed: {}\ngroup: {clusters: 0}", r"group\.clusters: got 0, allowed >= 1"),
        ("embed: {}\ngroup: {clusters: 65537}", "got 65537, allowed at most 65536"),
        ("embed: {}\ngroup: {points_per_cluster: 0}", r"group\.points_per_cluster: got 0"),
        ("embed: {}\ngroup: {iterations: 0}", r"group\.iterations: got 0"),
        ("embed: {}\ngroup: {}\ndeduplicate: {semantic: {threshold: 0}}", r"threshold: got 0.0, allowed above 0 to 1"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_with_what_to_do(text, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(SOURCE + text)
