"""A voyage that is killed goes on as if nothing had happened; its folder holds no other voyage."""

import asyncio
import json
import multiprocessing
import os
import random
import signal
from dataclasses import dataclass, replace

import pytest

from penstock.errors import BudgetError, DatasetError
from penstock.generators.items import Item, Verdict
from penstock.generators.voyager import Decision, RoundRecord, VoyagerSettings, explore
from penstock.storage import Folder

SETTINGS = VoyagerSettings(count=90, sample=30, anchors=6, explorer_weight="acceptance")


class Killed(BaseException):
    """As a signal would."""


def sail(explorer, embedder, folder=None, seed=1, settings=SETTINGS, gates=()):
    checkpoint = None if folder is None else Folder(str(folder))
    return asyncio.run(explore([explorer], settings, embedder=embedder, gates=gates, seed=seed, checkpoint=checkpoint))


@pytest.fixture(scope="module")
def whole(world, embedder):
    return sail(world(), embedder)


def test_a_voyage_killed_at_random_points_goes_on_as_if_nothing_had_happened(world, embedder, whole, tmp_path):
    fork = multiprocessing.get_context("fork")
    draw = random.Random(5)
    kills = 0
    while True:
        child = fork.Process(target=sail, args=(world(delay=0.01), embedder, tmp_path))
        child.start()
        # a process that is left alone long enough ends by itself
        child.join(0.03 + 0.06 * draw.random() + 0.03 * (kills > 8) * kills)
        if not child.is_alive():
            assert child.exitcode == 0
            break
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
    assert kills >= 2
    assert sail(world(), embedder, tmp_path) == whole


def test_a_voyage_stopped_between_any_two_writes_goes_on_the_same(world, embedder, whole, tmp_path, monkeypatch):
    write = Folder.write_bytes
    for number in range(len(whole.rounds)):
        left = [number]

        def failing(self, name, data, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            write(self, name, data)

        folder = tmp_path / str(number)
        monkeypatch.setattr(Folder, "write_bytes", failing)
        with pytest.raises(Killed):
            sail(world(), embedder, folder)
        monkeypatch.undo()
        assert sail(world(), embedder, folder) == whole


def test_what_was_decided_is_neither_proposed_nor_embedded_again(world, embedder, whole, tmp_path):
    sail(world(), embedder, tmp_path)

    class Silent(world):
        async def propose(self, count, *, round):
            raise AssertionError("it is all there")

    again = sail(Silent(), embedder, tmp_path)
    assert again == whole
    assert [one.vector.tobytes() for one in again.decisions] == [one.vector.tobytes() for one in whole.decisions]


@dataclass(frozen=True)
class Scripted:
    """Proposes one list after another; killed where a list is None."""

    lists: tuple
    explorer_id = prompt = "script"
    parent_id = gradient = None
    identity = {"kind": "script"}

    async def propose(self, count, *, round):
        if self.lists[max(round, 0)] is None:
            raise Killed
        return [Item(text=text) for text in self.lists[max(round, 0)]]

    async def refine(self, rejected, anchors, *, round):
        return []


def killed_once(lists, at, embedder, folder, **changes):
    """A voyage over the lists that is killed before one of them and taken up: it, and the same without the kill."""
    how = replace(SETTINGS, **{"sample": 10, "anchors": 1, "rounds": len(lists), **changes})
    with pytest.raises(Killed):
        sail(Scripted((*lists[:at], None)), embedder, folder, settings=how)
    return sail(Scripted(lists), embedder, folder, settings=how), sail(Scripted(lists), embedder, settings=how)


def test_copies_of_what_was_accepted_before_are_found_after(embedder, tmp_path):
    lists = (["river a b", "engine c d", "opera e f"], ["bread g h"], ["river a b", "bread g h"])
    found, whole = killed_once(lists, 2, embedder, tmp_path)
    assert found == whole
    assert [one.reason for one in found.decisions[-2:]] == ["exact_duplicate"] * 2


def test_rounds_without_an_item_count_on(embedder, tmp_path):
    lists = (["river a b", "engine c d", "opera e f"], *[["river a b"]] * 6)
    found, whole = killed_once(lists, 3, embedder, tmp_path, patience=4)
    assert found == whole
    assert (found.reason, found.rounds[-1].round) == ("patience", 3)


def test_a_text_keeps_the_vector_that_it_had(embedder, tmp_path):
    asked = []

    class Heard(type(embedder)):
        def embed(self, texts):
            asked.extend(texts)
            return super().embed(texts)

    lists = (["river a b", "engine c d", "river a x"], ["bread g h"], ["river a b", "river a x", "opera e f"])
    found, whole = killed_once(lists, 2, Heard(), tmp_path)
    assert found == whole
    assert asked.count("river a b") == 2  # once in each of the two voyages
    assert asked.count("river a x") == 2


def test_a_larger_budget_goes_on_from_where_the_smaller_one_ended(world, embedder, whole, tmp_path):
    class Bounded(world):
        async def refine(self, rejected, anchors, *, round):
            if round == 3:
                raise BudgetError("spent")
            return await super().refine(rejected, anchors, round=round)

    short = sail(Bounded(), embedder, tmp_path)
    assert short.reason == "budget"
    assert short.decisions == whole.decisions[: len(short.decisions)]
    assert short.rounds[-1].round == 3
    assert sail(world(), embedder, tmp_path) == whole


@pytest.mark.parametrize("change", ["seed", "settings", "root", "gates", "embedder", "identity"])
def test_a_folder_of_another_voyage_is_refused(world, embedder, tmp_path, change):
    class Gate:
        name = "open"

        def setup(self):
            pass

        def judge(self, items):
            return [None] * len(items)

    small = replace(SETTINGS, count=5)
    sail(world(), embedder, tmp_path, settings=small)
    other = {
        "seed": {"seed": 2},
        "settings": {"settings": replace(small, batch=9)},
        "root": {"explorer": world(prompt="engine")},
        "gates": {"gates": (Gate(),)},
        "embedder": {"embedder": type(embedder)(dimensions=8)},
        "identity": {"explorer": world(words=7)},
    }[change]
    with pytest.raises(DatasetError, match="holds a voyage of other settings"):
        sail(**{"explorer": world(), "embedder": embedder, "folder": tmp_path, "settings": small} | other)


@pytest.mark.parametrize(("name", "text"), [("start.json", "{"), ("sample.json", "[1]"), ("round-00000.json", "{}")])
def test_a_damaged_checkpoint_is_named(world, embedder, tmp_path, name, text):
    sail(world(), embedder, tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match="checkpoint is damaged"):
        sail(world(), embedder, tmp_path)


def test_records_come_back_from_json_without_loss(whole):
    origin = {"family": "x", "n": [1, 2.5, None]}
    item = Item(text="a \ud800 b", answer="1", verdicts=(Verdict("c", True, "d"),), invalid="cut", origin=origin)
    odd = Decision(item_id="a", item=item, explorer_id="e", round=-1, rank=0, position=2, stage="item", reason="cut")
    for one in (odd, *whole.decisions):
        back = Decision.from_json(json.loads(json.dumps(one.to_json())))
        assert back == one
        assert (back.vector is None and one.vector is None) or back.vector.tobytes() == one.vector.tobytes()
    for record in whole.rounds:
        assert RoundRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_writing_a_round_costs_the_same_however_many_went_before(world, embedder, tmp_path):
    voyage = sail(world(), embedder, tmp_path)
    for record in voyage.rounds[1:]:
        saved = json.loads((tmp_path / f"round-{record.round:05d}.json").read_text())
        assert len(saved["decisions"]) == record.proposed
        assert len(saved["anchors"]) <= 6
