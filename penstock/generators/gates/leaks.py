"""Drop items that show how they were made: chat markers, a model's small talk, blanks to fill in, JSON, the prompt.

    leak_marker       a turn of a chat template ("<|im_start|>", "[INST]", "### Response:", "</think>")
    leak_preamble     the model speaks to who asked ("Here are 10 …:", "Sure! …", "Item 3:", "Let me know if …")
    leak_placeholder  a blank that nobody filled in ("[Your Name]", "{{topic}}", "lorem ipsum")
    leak_json         the form of the answer in place of its content ('{"text": …', "\\n" spelled out)
    leak_prompt       the task or another prompt, repeated: half of the words, or ``run`` in a row, are a prompt's

Words are compared in runs of ``_SHORT`` (5) at least, so that what is common to all texts does not count; an item with
fewer words counts where the whole of it stands in a prompt. How many human texts fall to each reason is measured
(docs/gates.md).

Price: about 100 µs a text of 1,000 characters.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from penstock.errors import ConfigError
from penstock.generators.items import Item

_SHORT = 5  # words of the shortest run that counts
_LEAST = 3  # words of the shortest item that is compared
_HALF = 0.5  # of an item's words

_MARKER = re.compile(
    r"""<\|[a-z][a-z_]{1,40}\|> | \[/?INST\] | <</?SYS>> | </?(?:start|end)_of_turn> | </?think> | <(?:bos|eos|pad)>
    | </s> | ^\#{2,4}\ ?(?:Instructions?|Response|Input|Output|Human|Assistant|System|User):?[ \t]*$
    | ^(?:Human|Assistant):\s | \A\s*(?:User|System|AI|Model|Bot):\s""",
    re.VERBOSE | re.MULTILINE,
)
_PREAMBLE = re.compile(
    r"""\A[\s"*_]*(?:
        (?:(?:sure|certainly|of\ course|absolutely|great|okay|ok|gladly|no\ problem)\b[,!.:]?\s+)?
            (?:here(?:'s|\ is|\ are)|below\ (?:is|are))\ (?:an?|the|your|my|some|another|one|exactly|\d+|two|three|four
            |five|six|seven|eight|nine|ten|twelve|fifteen|twenty)\b[^.!?\n]{0,100}:\s*$
        | (?:sure|certainly|absolutely)(?:\ thing)?!\s+(?:here|i(?:'ll|\ will|'d|\ would|\ can)|let\ me)\b
        | (?:item|piece|problem|question|example|sample|sentence|text|option|variation|version)\ ?\#?\d+\ ?[:.)]
    )
    | (?:let\ me\ know\ if\ you(?:'d|\ would|\ need|\ want|\ have)|i\ hope\ (?:this|these)\ (?:helps?|meets?)
        |feel\ free\ to\ (?:ask|let\ me))[^\n]{0,120}\Z""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_PLACEHOLDER = re.compile(
    r"""\[(?:insert|your|enter|add|fill\ in|placeholder|city|date|topic|company|number|location
        |(?:(?:first|last|full|company|product|team|city|person's|author's)\ )?name)\b[^\]\n]{0,40}\]
    | \{\{[^{}\n]{1,40}\}\} | \{(?:name|topic|city|number|subject|text|question|answer)\}
    | <(?:insert|your|enter|placeholder)\b[^>\n]{0,40}> | \blorem\ ipsum\b""",
    re.VERBOSE | re.IGNORECASE,
)
_JSON = re.compile(
    r"""\A\s*(?:```\s*json|\{\s*"|\[\s*[{"]) | (?:"\s*[}\]]\s*){1,3},?\s*(?:```)?\s*\Z
    | "(?:text|question|answer|items|prompt|prompts|reasons|topics)"\s*:\s*["\[{]
    | \\n(?!(?:abla|atural|e|earrow|eg|eq|ewcommand|ewline|exists|geq|i|leq|mid|onumber|ot|otin|parallel|sim|u)\b)
    | \\u[0-9a-f]{4} | </?(?:item|question|answer|prompt|reason|topic)>""",
    re.VERBOSE,
)
_WORD = re.compile(r"\w+")
_CHECKS = (
    ("leak_marker", _MARKER),
    ("leak_json", _JSON),
    ("leak_placeholder", _PLACEHOLDER),
    ("leak_preamble", _PREAMBLE),
)


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """Gate: one of the reasons above.

    Args:
        prompts: texts that must not be repeated: the task, and what else the model was told.
        run: words in a row that an item and a prompt may not share.

    Raises ConfigError for a run shorter than any that counts.
    """

    prompts: tuple[str, ...] = ()
    run: int = 12

    name: ClassVar[str] = "leaks"

    def __post_init__(self) -> None:
        if self.run < _SHORT:
            raise ConfigError(f"run: got {self.run} words, allowed >= {_SHORT}; shorter ones are common to all texts")

    def setup(self) -> None:
        """Nothing to load."""

    def judge(self, items: Sequence[Item]) -> list[str | None]:
        return [self._reason(item) for item in items]

    def _reason(self, item: Item) -> str | None:
        for text in (item.text, item.answer or ""):
            text = text.replace("’", "'")
            for reason, pattern in _CHECKS:
                if pattern.search(text):
                    return reason
        return "leak_prompt" if self._repeats(item.text) else None

    def _repeats(self, text: str) -> bool:
        words = _WORD.findall(text.casefold())
        if not self.prompts or len(words) < _LEAST:
            return False
        if len(words) < _SHORT:
            return f" {' '.join(words)} " in _runs(self.prompts).text
        known = _runs(self.prompts).runs
        covered = reached = longest = length = 0
        for start in range(len(words) - _SHORT + 1):
            if tuple(words[start : start + _SHORT]) in known:
                covered += start + _SHORT - max(start, reached)
                reached = start + _SHORT
                length = length + 1 if length else _SHORT
                longest = max(longest, length)
            else:
                length = 0
        return longest >= self.run or covered >= _HALF * len(words)


@dataclass(frozen=True)
class _Runs:
    text: str
    runs: frozenset[tuple[str, ...]]


@functools.lru_cache(maxsize=64)
def _runs(prompts: tuple[str, ...]) -> _Runs:
    lists = [_WORD.findall(prompt.casefold()) for prompt in prompts]
    runs = {tuple(words[i : i + _SHORT]) for words in lists for i in range(len(words) - _SHORT + 1)}
    return _Runs("".join(f" {' '.join(words)} |" for words in lists), frozenset(runs))
