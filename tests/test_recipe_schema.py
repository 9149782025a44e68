"""The schema of recipes says of every key what the source says below it."""

import pytest
from pydantic import ConfigDict

from penstock import recipe_sections
from penstock.recipe_schema import attribute_docstrings, recipe_schema
from penstock.recipe_sections import Section


class Described(Section):
    """A model that pydantic itself reads the docstrings of."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    one: int = 1
    """First line
    and a second."""
    two: int = 2
    three: str = "x"
    """Third."""


def test_attribute_docstrings_are_those_that_pydantic_reads():
    known = {name: field.description for name, field in Described.model_fields.items() if field.description}
    assert attribute_docstrings(Described) == known == {"one": "First line\nand a second.", "three": "Third."}


SECTIONS = [
    s for s in vars(recipe_sections).values() if isinstance(s, type) and issubclass(s, Section) and s is not Section
]


@pytest.fixture(scope="module")
def schema():
    return recipe_schema()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_every_key_of_a_section_is_described(schema, section):
    properties = schema["$defs"][section.__name__]["properties"]
    for name, text in attribute_docstrings(section).items():
        assert properties[name]["description"] == text


def test_keys_of_the_recipe_and_of_row_work_are_described(schema):
    assert schema["properties"]["name"]["description"].startswith("Names the run")
    assert "cut everywhere" in schema["$defs"]["RepeatedLines"]["properties"]["max_count"]["description"]
