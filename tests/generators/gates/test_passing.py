"""Items go through a row of gates; who stopped them, why, and with what verdicts is kept."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.generators.gates.passing import Finding, Judged, judged, reasons
from penstock.generators.items import Item, Verdict


@dataclass
class Without:
    """A gate that stops texts with a letter."""

    letter: str
    seen: list = field(default_factory=list)

    @property
    def name(self):
        return f"no {self.letter}"

    def setup(self):
        pass

    def judge(self, items):
        self.seen += [item.text for item in items]
        return [f"has_{self.letter}" if self.letter in item.text else None for item in items]


@dataclass
class Counts:
    """An examiner that stops texts of more than two letters and says how many there are."""

    name: str = "counts"

    async def examine(self, items):
        return [
            Finding(
                "long" if len(item.text) > 2 else None, (Verdict("counts", len(item.text) <= 2, str(len(item.text))),)
            )
            for item in items
        ]


def run(gates, *items):
    return asyncio.run(judged(gates, [Item(text=one) if isinstance(one, str) else one for one in items]))


def test_each_gate_sees_only_what_those_before_it_let_pass():
    first, last = Without("a"), Without("b")
    found = run([first, Counts(), last], "a", "bcd", "b", "c", Item(text="x", invalid="cut"))
    assert first.seen == ["a", "bcd", "b", "c"]
    assert last.seen == ["b", "c"]
    assert [(one.gate, one.reason) for one in found] == [
        ("no a", "has_a"),
        ("counts", "long"),
        ("no b", "has_b"),
        (None, None),
        ("invalid", "cut"),
    ]
    assert reasons(found) == {"has_a": 1, "long": 1, "has_b": 1, "cut": 1}


def test_verdicts_stay_with_items_whether_they_pass_or_not():
    mine = Verdict("mine", True)
    passed, stopped = run([Counts()], Item(text="a", verdicts=(mine,)), "abc")
    assert passed == Judged(Item(text="a", verdicts=(mine, Verdict("counts", True, "1"))))
    assert stopped.item.verdicts == (Verdict("counts", False, "3"),)


@given(st.lists(st.text(alphabet="abc", max_size=3)))
def test_every_item_is_passed_or_has_a_reason(texts):
    found = run([Without("a"), Counts(), Without("b")], *texts)
    assert [one.item.text for one in found] == texts
    assert sum(reasons(found).values()) + sum(one.gate is None for one in found) == len(texts)
    assert [one.reason is None for one in found] == ["a" not in t and "b" not in t and len(t) <= 2 for t in texts]


def test_a_gate_that_forgets_an_item_is_an_error():
    class Forgets(Without):
        def judge(self, items):
            return super().judge(items)[1:]

    with pytest.raises(ConfigError, match="gate no a: got 1 verdicts for 2 items"):
        run([Forgets("a")], "b", "c")
