"""docs/language_models.md: its code runs against a server, and it names every setting."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from penstock.errors import DatasetError
from penstock.generators.budget import Budget
from penstock.generators.config import GeneratorConfig

PAGE = (Path(__file__).parents[2] / "docs" / "language_models.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.server
def test_the_code_of_the_page_runs_in_its_order(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    server.rule = lambda body: (200, {"choices": [{"message": {"content": '{"river": "Elbe"}'}}]}, {})
    names = {}
    asking, structured, column = (block.replace("http://127.0.0.1:8000/v1", server.url) for block in BLOCKS)
    exec(asking, names)  # noqa: S102
    exec(structured, names)  # noqa: S102
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith('{"river": "Elbe"} {')
    assert second == "{'river': 'Elbe'}"
    with pytest.raises(DatasetError, match="documents"):  # there is no run of that name here
        exec(column, names)  # noqa: S102
    assert names["ask"].fields == ("text",)


def test_every_setting_is_named():
    for kind in (GeneratorConfig, Budget):
        for field in fields(kind):
            assert re.search(rf"\b{field.name}\b", PAGE), field.name


def test_what_the_page_says_of_defaults_holds():
    config = GeneratorConfig(url="http://a/v1", model="m")
    assert "`attempts` (6)" in PAGE
    assert "`deadline` (300 s)" in PAGE
    assert "`concurrency` (16)" in PAGE
    assert "`patience` (60 s)" in PAGE
    assert (config.attempts, config.deadline, config.concurrency, config.patience) == (6, 300.0, 16, 60.0)
