"""Word problems made from forms, and a solver that reads nothing but the text it is given.

The solver shares no code with transforms and checks. It knows the forms below and finds their amounts wherever wording,
names, order, presentation, a story, a coined term, a hidden number or options have moved them. What it cannot read it
does not solve.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from penstock.generators.transforms.base import Problem
from penstock.seeding import stream

_GIRLS = ["Emily", "Rachel", "Sophia", "Isabella", "Karen", "Nancy"]
_BOYS = ["Jerry", "David", "Steven", "Andrew", "Carlos", "Victor"]
_THINGS = ["marbles", "stickers", "apples", "pencils", "crayons", "muffins", "seashells", "buttons"]
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_N = r"\$?([a-z0-9][a-z0-9,.\-]*)(?: dollars)?"


def _pick(options: list[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _comparison(rng: np.random.Generator, a: str, b: str, she: str, thing: str) -> tuple[str, Fraction]:
    first, more = int(rng.integers(20, 90)), int(rng.integers(2, 19))
    word, sign = [("more", 1), ("fewer", -1)][int(rng.integers(2))]
    text = f"{a} has {first} {thing}. {b} has {more} {word} {thing} than {a}. How many {thing} do they have in total?"
    return text, Fraction(2 * first + sign * more)


def _events(rng: np.random.Generator, a: str, b: str, she: str, thing: str) -> tuple[str, Fraction]:
    had, got, gave = int(rng.integers(20, 90)), int(rng.integers(2, 30)), int(rng.integers(2, 19))
    text = (
        f"{a} had {had} {thing} at the start. {she} bought {got} more {thing} at the store. Then {she.lower()} gave "
        f"{gave} {thing} to {b}. How many {thing} does {a} have left?"
    )
    return text, Fraction(had + got - gave)


def _prices(rng: np.random.Generator, a: str, b: str, she: str, thing: str) -> tuple[str, Fraction]:
    inside, price, boxes = int(rng.integers(3, 25)), int(rng.integers(2, 12)), int(rng.integers(2, 9))
    text = (
        f"A box holds {inside} {thing}. A notebook costs ${price + 1}. Each of the {thing} costs ${price}. If {a} buys "
        f"{boxes} boxes, how many dollars does {a} spend?"
    )
    return text, Fraction(inside * price * boxes)


def _percent(rng: np.random.Generator, a: str, b: str, she: str, thing: str) -> tuple[str, Fraction]:
    number, share = 20 * int(rng.integers(2, 80)), 5 * int(rng.integers(2, 18))
    text = (
        f"There are {number} {thing} in a basket that belongs to {a}. {share}% of the {thing} are red, and the rest "
        f"are green. How many green {thing} are in the basket?"
    )
    return text, Fraction(number * (100 - share), 100)


def _sharing(rng: np.random.Generator, a: str, b: str, she: str, thing: str) -> tuple[str, Fraction]:
    friends, each = int(rng.integers(3, 12)), int(rng.integers(3, 30))
    text = (
        f"{a} collected {friends * each} {thing}. {a} and {b} divide the {thing} equally among {friends} friends. "
        f"How many {thing} does each of the friends receive?"
    )
    return text, Fraction(each)


def _ages(rng: np.random.Generator, a: str, b: str, she: str, thing: str) -> tuple[str, Fraction]:
    old, more, later = int(rng.integers(5, 40)), int(rng.integers(2, 30)), int(rng.integers(2, 12))
    text = (
        f"{a} is {more} years older than {b}. {b} is {old} years old and collects {thing}. "
        f"What is the age of {a} in {later} years?"
    )
    return text, Fraction(old + more + later)


def _arithmetic(rng: np.random.Generator, a: str, b: str, she: str, thing: str) -> tuple[str, Fraction]:
    x, y, z = (int(rng.integers(3, 90)) for _ in range(3))
    text = [f"({x} + {y}) * {z}", f"{x} - {y} * {z}", f"{x} + {y} - {z}", f"{x * y} / {y}"][int(rng.integers(4))]
    return f"What is {text}?", _computed(ast.parse(text, mode="eval").body)


def _equation(rng: np.random.Generator, a: str, b: str, she: str, thing: str) -> tuple[str, Fraction]:
    x, slope, more = int(rng.integers(3, 90)), int(rng.integers(2, 30)), int(rng.integers(2, 90))
    letter = "xyz"[int(rng.integers(3))]
    return f"Solve for {letter}: {slope}*{letter} + {more} = {slope * x + more}", Fraction(x)


_FORMS: tuple[Callable[[np.random.Generator, str, str, str, str], tuple[str, Fraction]], ...] = (
    _comparison, _events, _prices, _percent, _sharing, _ages, _arithmetic, _equation,
)  # fmt: skip


def problems(count: int, seed: int, *, told: bool = False) -> list[Problem]:
    """``count`` problems of all forms in turn; ``told`` leaves out those that are arithmetic or an equation."""
    forms = _FORMS[:-2] if told else _FORMS
    found = []
    for i in range(count):
        rng = stream(seed, "word problems", i)
        names, she = (_GIRLS, "She") if rng.integers(2) else (_BOYS, "He")
        a, b = (names[j] for j in rng.permutation(len(names))[:2].tolist())
        prompt, answer = forms[i % len(forms)](rng, a, b, she, _pick(_THINGS, rng))
        found.append(Problem(problem_id=f"form-{seed}-{i}", prompt=prompt, answer=str(answer)))
    return found


def solve(prompt: str) -> str | None:
    """The answer as text: a number, or the letter of the option that says it; None where the text cannot be read."""
    text, options = _options(prompt.strip())
    text, hidden = _hidden(_decoded(text))
    try:
        value = _solved(" ".join(text.lower().split()), hidden)
    except ZeroDivisionError:  # shared among nobody
        return None
    if value is None:
        return None
    if not options:
        return str(value)
    letters = [letter for letter, said in options.items() if _number(said.lower(), {}) == value]
    return letters[0] if len(letters) == 1 else None


def _solved(text: str, hidden: dict[str, Fraction]) -> Fraction | None:
    def found(pattern: str) -> list[Fraction] | None:
        hit = re.search(pattern.replace("N", _N), text)
        if hit is None:
            return None
        values = [_number(part, hidden) for part in hit.groups()]
        return None if None in values else [value for value in values if value is not None]

    if (v := found(r"\w+ has N \w+\. \w+ has N more \w+ than")) and _asks(text, "do they have"):
        return 2 * v[0] + v[1]
    if (v := found(r"\w+ has N additional \w+ than")) and (w := found(r"^(?:.*\. )?\w+ has N \w+\.")):
        return 2 * w[0] + v[0]
    if (v := found(r"\w+ has N \w+\. \w+ has N fewer \w+ than")) and _asks(text, "do they have"):
        return 2 * v[0] - v[1]
    had, got, gave = found(r" had N \w+ at"), found(r"(?:bought|purchased) N "), found(r"then s?he gave N \w+ to")
    if had and got and gave and text.rstrip("?.").endswith("left"):
        return had[0] + got[0] - gave[0]
    inside, price = found(r"box holds N \w+"), found(r"(?:each|every one) of the \w+ costs N")
    boxes = found(r"(?:buys|purchases) N boxes")
    if inside and price and boxes and "dollars does" in text:
        return inside[0] * price[0] * boxes[0]
    number, share = found(r"there are N \w+ in a basket"), found(r"N ?(?:%|percent) of the \w+ are red")
    if number and share and "and the rest are green" in text and "green" in text.rpartition("green. ")[2]:
        return number[0] * (100 - share[0]) / 100
    got, among = found(r"(?:collected|gathered) N \w+"), found(r"(?:equally|evenly) among N friends")
    if got and among and "each of the friends receive" in text:
        return got[0] / among[0]
    more, old, later = found(r"is N years older than"), found(r"is N years old and"), found(r" in N years")
    if more and old and later:
        return old[0] + more[0] + later[0]
    return _symbols(text)


def _asks(text: str, what: str) -> bool:
    return what in text and text.rstrip("?. ").endswith(("in total", "altogether"))


def _number(word: str, hidden: dict[str, Fraction]) -> Fraction | None:
    word = word.strip("$., ")
    if word in hidden:
        return hidden[word]
    if re.fullmatch(r"-?\d[\d,]*(?:\.\d+)?|\d+/\d+", word):
        return Fraction(word.replace(",", ""))
    ones, tens = _WORDS.split(), _TENS.split()
    if word in ones:
        return Fraction(ones.index(word))
    head, _, tail = word.partition("-")
    if head in tens and (not tail or tail in ones[1:10]):
        return Fraction(20 + 10 * tens.index(head) + (ones.index(tail) if tail else 0))
    return None


def _options(prompt: str) -> tuple[str, dict[str, str]]:
    stem, marker, rest = prompt.partition("\nOptions:")
    if not marker:
        return prompt, {}
    lines = [line.strip() for line in rest.strip().splitlines()]
    return stem, {line.strip("(")[0]: line.split(maxsplit=1)[1] for line in lines}


def _decoded(text: str) -> str:
    """The sentence that says what a coined word stands for, read, cut out, and the word put back."""
    hit = re.search(r'(?:^|, |^The word )(?:a |an )?"?([a-z]+)"? (?:is|means|stands for) an? ([a-z]+)\. ', text)
    if hit is None:
        return text
    return re.sub(rf"(?i)\b{hit[1]}", hit[2], text[hit.end() :]).replace("boxs", "boxes")


def _hidden(text: str) -> tuple[str, dict[str, Fraction]]:
    """The sentence that says what a capital stands for, read and cut out."""
    hit = re.search(r"(?:Let |Suppose )?\b([A-Z]) (?:is|be|equals|stands for) ([^.]*)\.\s*", text)
    if hit is None:
        return text, {}
    numbers = [Fraction(number) for number in re.findall(r"\d+", hit[2])]
    if len(numbers) != 2:
        return text, {}
    a, b = numbers
    said = hit[2]
    for words, value in (
        (("sum", "plus", "more than", " add "), a + b),
        (("difference", "minus"), a - b),
        (("less than", "subtract"), b - a),
        (("product", "times", "multiplied"), a * b),
        (("quotient", "divid"), a / b),
    ):
        if any(word in said for word in words):
            return text[: hit.start()] + text[hit.end() :], {hit[1].lower(): value}
    return text, {}


def _symbols(text: str) -> Fraction | None:
    """Arithmetic or a linear equation, in symbols or said as "the sum of … and …"."""
    body = re.split(r"(?:what is|what's|determine|calculate|find|solve for [a-z]:)\s*", text)[-1].rstrip("?. ")
    left, equals, right = re.sub(r"\bequals\b", "=", body).partition("=")
    tree = _spoken(left.strip())
    if tree is None:
        return None
    try:
        parsed = ast.parse(tree, mode="eval").body
        if not equals:
            return _computed(parsed)
        zero, one = _computed(parsed, Fraction(0)), _computed(parsed, Fraction(1))
        return (Fraction(right.strip().replace(",", "")) - zero) / (one - zero)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _spoken(text: str) -> str | None:
    """Nested "the sum of A and B" as symbols with brackets."""
    names = {"sum of": "+", "difference between": "-", "product of": "*", "quotient of": "/"}
    while "the " in text:
        hit = re.search(
            r"the (sum of|difference between|product of|quotient of) ((?:\([^a-z]*\)|[\d.]+|[a-z]\b|\([^()]*\))) and "
            r"((?:\((?:[^()]|\([^()]*\))*\)|[\d.]+|[a-z]\b))",
            text,
        )
        if hit is None:
            return None
        text = f"{text[: hit.start()]}({hit[2]}{names[hit[1]]}{hit[3]}){text[hit.end() :]}"
    return text


def _computed(tree: ast.expr, unknown: Fraction | None = None) -> Fraction:
    if isinstance(tree, ast.BinOp):
        one, other = _computed(tree.left, unknown), _computed(tree.right, unknown)
        if isinstance(tree.op, ast.Add):
            return one + other
        if isinstance(tree.op, ast.Sub):
            return one - other
        return one * other if isinstance(tree.op, ast.Mult) else one / other
    if isinstance(tree, ast.Name) and unknown is not None:
        return unknown
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return Fraction(tree.value)
    raise ValueError(ast.dump(tree))
