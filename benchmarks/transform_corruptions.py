"""Faults planted into questions, and sound edits, both made without any part of the transforms or of their checks.

A corruption takes a question and a stream and gives a question that asks or states something else, or None where the
question offers nothing to spoil. A sound edit keeps what is asked and stated. Both know English only through the tables
below, which were written before the checks and are not read by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

Edit = Callable[[str, np.random.Generator], str | None]


def _words(text: str) -> list[str]:
    return text.split()


_NUMBER = re.compile(r"(?<![\w.,/])\d[\d,]*(?:\.\d+)?(?![\w/])")
_ONES = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_TENS = dict(zip(range(20, 100, 10), _words("twenty thirty forty fifty sixty seventy eighty ninety"), strict=True))

# each pair is turned both ways
_COMPARATIVES = _words("""
more/fewer more/less older/younger taller/shorter longer/shorter heavier/lighter faster/slower bigger/smaller
larger/smaller higher/lower greater/smaller cheaper/pricier earlier/later closer/farther nearer/further
hotter/colder warmer/cooler deeper/shallower wider/narrower thicker/thinner stronger/weaker better/worse
richer/poorer twice/half double/half triple/half most/fewest maximum/minimum highest/lowest largest/smallest
longest/shortest oldest/youngest tallest/shortest best/worst above/below over/under increased/decreased
increases/decreases increase/decrease extra/fewer additional/fewer increasing/decreasing bigger/tinier
quicker/slower
""")
_PHRASES = ("at least/at most", "more than/less than", "more expensive/less expensive", "up to/at least")
_DIRECTIONS = _words("""
gave/received gives/receives give/receive bought/sold buys/sells buy/sell found/lost finds/loses won/lost wins/loses
added/removed adds/removes earned/spent earns/spends earn/spend gained/lost gains/loses arrived/departed entered/exited
borrowed/lent collected/discarded picked/dropped ate/baked eats/bakes saved/spent saves/spends save/spend lends/borrows
makes/uses used/kept gets/loses got/lost took/returned takes/returns deposited/withdrew won/forfeited donated/received
began/ended starts/ends started/ended up/down upstairs/downstairs forward/backward hired/fired
""")
_QUANTIFIERS = _words("""
each/all every/some per/in all/some both/neither only/almost another/that total/average altogether/separately
together/apart rest/first remaining/original left/used same/different single/double whole/partial either/both
still/never always/sometimes other/same twice/once first/last half/all
""")
_TIMES = _words("""
Monday/Tuesday Tuesday/Wednesday Wednesday/Friday Thursday/Sunday Saturday/Friday Sunday/Monday January/February
March/June July/December yesterday/tomorrow before/after first/second second/third morning/evening today/yesterday
next/previous initially/finally daily/weekly weekly/monthly monthly/yearly
""")
_UNITS = (
    ("seconds", "minutes", "hours", "days", "weeks", "months", "years"),
    ("second", "minute", "hour", "day", "week", "month", "year"),
    ("inches", "feet", "yards", "miles", "meters", "kilometers", "centimeters"),
    ("inch", "foot", "yard", "mile", "meter", "kilometer", "centimeter"),
    ("ounces", "pounds", "tons", "grams", "kilograms"),
    ("ounce", "pound", "ton", "gram", "kilogram"),
    ("cups", "pints", "quarts", "gallons", "liters", "milliliters"),
    ("cup", "pint", "quart", "gallon", "liter", "milliliter"),
    ("dollars", "cents", "euros"),
    ("dozen", "hundred"),
    ("kg", "lbs", "g"),
    ("cm", "km", "mm"),
)
_SIGNS = (("$", "€"), ("%", " points"), ("%", ""), ("€", "$"), ("£", "$"))
_DEPENDENT = re.compile(
    r"^(?:he|she|they|it|his|her|their|its|then|after|afterwards|later|now|next|finally|the rest|this|these|those|that|"
    r"however|but|also|so|both|by then)\b|\b(?:he|she|they|it|him|them|then|the rest|remaining|left|also|"
    r"another|instead|the same)\b",
    re.IGNORECASE,
)
_INTRUDERS = (
    "Later, a third of them went missing.",
    "Then 4 more were added.",
    "Half of those were given away afterwards.",
    "One of them turned out to be broken and was thrown away.",
    "The rest had been sold the day before.",
    "Everyone then received twice as many.",
    "Afterwards she bought some more.",
    "He lost a few of them on the way.",
)
_LEAKS = ("The answer is {}.", "(Hint: it is {}.)", "Answer: {}", "Note that the result equals {}.")
_SURE_NAMES = _words(
    "John James Mary Jack Tom Jake Jerry Paul Tim Rachel Bob Mike Peter Sarah Jason Steven Ryan Harry Matt Lisa Emily "
    "Joe Martha Zachary Billy Jeff Fred Carla Janet Steve Michael Alex Anna Adam Jane David Dave Ben Andrew Kevin "
    "Jenny Sally Betty Tony Julia Jimmy Ken Tina Helen Susan Ron Greg Haley Kyle Brian Maria Josh Doug Bobby Andy "
    "Alice Kim Lucy Jackie Allan Danny Paco Faye Marco Lewis Olivia Sophia Ava Mia Isabella Emma Richard Joseph Robert"
)


def _choose(stream: np.random.Generator, found: Sequence[str | None]) -> str | None:
    made = [one for one in found if one is not None]
    return made[int(stream.integers(len(made)))] if made else None


def _cased(word: str, like: str) -> str:
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _swap_one(text: str, pairs: Sequence[str], stream: np.random.Generator) -> str | None:
    """One occurrence of one side of one pair becomes its other side."""
    table: dict[str, list[str]] = {}
    for pair in pairs:
        one, other = pair.split("/")
        table.setdefault(one.lower(), []).append(other)
        table.setdefault(other.lower(), []).append(one)
    pattern = r"\b(?:" + "|".join(sorted(map(re.escape, table), key=len, reverse=True)) + r")\b"
    hits = list(re.finditer(pattern, text, re.IGNORECASE))
    if not hits:
        return None
    hit = hits[int(stream.integers(len(hits)))]
    others = table[hit[0].lower()]
    other = others[int(stream.integers(len(others)))]
    return text[: hit.start()] + _cased(other, hit[0]) + text[hit.end() :]


def comparative_flipped(text: str, stream: np.random.Generator) -> str | None:
    return _swap_one(text, [*_COMPARATIVES, *_PHRASES], stream)


def direction_flipped(text: str, stream: np.random.Generator) -> str | None:
    return _swap_one(text, _DIRECTIONS, stream)


def quantifier_changed(text: str, stream: np.random.Generator) -> str | None:
    return _swap_one(text, _QUANTIFIERS, stream)


def time_changed(text: str, stream: np.random.Generator) -> str | None:
    return _swap_one(text, _TIMES, stream)


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])(?<!Mr\.)(?<!Mrs\.)(?<!Ms\.)(?<!Dr\.)\s+", text.strip()) if part]


def dependent_reordered(text: str, stream: np.random.Generator) -> str | None:
    """Two neighbouring statements change places, the second of which leans on what comes before it."""
    parts = _sentences(text)
    places = [
        i
        for i in range(len(parts) - 1)
        if _DEPENDENT.search(parts[i + 1]) and not parts[i + 1].endswith("?") and parts[i] != parts[i + 1]
        and not parts[i].endswith("?")
    ]  # fmt: skip
    if not places:
        return None
    i = places[int(stream.integers(len(places)))]
    return " ".join([*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]])


def number_changed(text: str, stream: np.random.Generator) -> str | None:
    """One number becomes another: off by a little, by a factor, digits turned, a decimal point moved; in words too."""
    hits = list(_NUMBER.finditer(text))
    words = [hit for hit in re.finditer(r"\b[a-z]+\b", text, re.IGNORECASE) if hit[0].lower() in _ONES[2:]]
    hits += words
    if not hits:
        return None
    hit = hits[int(stream.integers(len(hits)))]
    if hit[0].lower() in _ONES:
        at = _ONES.index(hit[0].lower())
        new = _ONES[(at + 1 + int(stream.integers(len(_ONES) - 1))) % len(_ONES)]
        new = _cased(new, hit[0])
    else:
        plain = hit[0].rstrip(",").replace(",", "")
        value = float(plain)
        whole = "." not in plain
        options = [value + 1, value + 10, value * 10, value * 2, max(value - 1, 0.0), value + 0.5]
        turned = plain[::-1]
        if whole and turned != plain and not turned.startswith("0"):
            options.append(float(turned))
        if value >= 10:
            options.append(value / 10)
        options = [option for option in options if option != value]
        picked = options[int(stream.integers(len(options)))]
        new = f"{picked:g}" if picked != int(picked) else str(int(picked))
        new += "," * (len(hit[0]) - len(hit[0].rstrip(",")))
    return text[: hit.start()] + new + text[hit.end() :]


def numbers_swapped(text: str, stream: np.random.Generator) -> str | None:
    """Two different numbers change places."""
    hits = list(_NUMBER.finditer(text))
    values = [float(hit[0].replace(",", "")) for hit in hits]
    pairs = [(a, b) for i, a in enumerate(hits) for j, b in enumerate(hits) if j > i and values[i] != values[j]]
    if not pairs:
        return None
    a, b = pairs[int(stream.integers(len(pairs)))]
    one, other = a[0].rstrip(","), b[0].rstrip(",")
    out = text[: b.start()] + one + text[b.start() + len(other) :]
    return out[: a.start()] + other + out[a.start() + len(one) :]


def _names(text: str) -> list[str]:
    """Names of people in it: surely names, or capitalised inside a sentence and used more than once."""
    inside = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", text)
    often = [name for name in inside if len(re.findall(rf"\b{name}\b", text)) > 1]
    sure = [name for name in _SURE_NAMES if re.search(rf"\b{name}\b", text)]
    weekdays = {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "How", "May"}
    return sorted({*often, *sure} - weekdays)


def name_captured(text: str, stream: np.random.Generator) -> str | None:
    """Two people become one, or one becomes two, or two change places in one sentence."""
    names = _names(text)
    out: list[str | None] = []
    for name in names:
        places = list(re.finditer(rf"\b{name}\b", text))
        others = [other for other in names if other != name]
        if len(places) > 1:
            stranger = [new for new in ("Quentin", "Odessa", "Ignatius", "Wilhelmina") if new not in text]
            hit = places[int(stream.integers(len(places)))]
            new = stranger[int(stream.integers(len(stranger)))]
            out.append(text[: hit.start()] + new + text[hit.end() :])
        for other in others:
            out.append(re.sub(rf"\b{name}\b", other, text))
            hit = places[int(stream.integers(len(places)))]
            out.append(text[: hit.start()] + other + text[hit.end() :])
    return _choose(stream, [made for made in out if made != text])


def sides_swapped(text: str, stream: np.random.Generator) -> str | None:
    """The two sides of a comparison change places: more than."""
    found: list[str | None] = []
    for hit in re.finditer(r"\b([A-Z][a-z]+)\b([^.?!]*\bthan )([A-Z][a-z]+)\b", text):
        if hit[1] != hit[3] and hit[1] not in ("How", "If", "She", "He", "They", "The"):
            found.append(text[: hit.start()] + hit[3] + hit[2] + hit[1] + text[hit.end() :])
    return _choose(stream, found)


def unit_swapped(text: str, stream: np.random.Generator) -> str | None:
    """A unit of measure becomes another of its kind, or a sign of money or percent another one."""
    found: list[str | None] = []
    for family in _UNITS:
        for unit in family:
            hits = list(re.finditer(rf"\b{unit}\b", text))
            for hit in hits:
                other = [one for one in family if one != unit]
                new = other[int(stream.integers(len(other)))]
                found.append(text[: hit.start()] + new + text[hit.end() :])
                if len(hits) > 1:
                    found.append(re.sub(rf"\b{unit}\b", new, text))
    for sign, new in _SIGNS:
        at = text.find(sign)
        if at >= 0:
            found.append(text[:at] + new + text[at + len(sign) :])
    return _choose(stream, found)


def things_swapped(text: str, stream: np.random.Generator) -> str | None:
    """The things that two numbers count change places: 5 apples and 3 oranges become 5 oranges and 3 apples."""
    skipped = _words(
        "more less fewer and each every foot feet which that after before from with for per have has out of"
    )
    hits = [hit for hit in re.finditer(r"\b\d+ ([a-z]{3,})\b", text) if hit[1] not in skipped]
    pairs = [(a, b) for i, a in enumerate(hits) for b in hits[i + 1 :] if a[1].rstrip("es") != b[1].rstrip("es")]
    if not pairs:
        return None
    a, b = pairs[int(stream.integers(len(pairs)))]
    out = text[: b.start(1)] + a[1] + text[b.end(1) :]
    return out[: a.start(1)] + b[1] + out[a.end(1) :]


def question_changed(text: str, stream: np.random.Generator) -> str | None:
    """Another thing is asked."""
    found: list[str | None] = []
    for old, new in (
        ("How many more", "How many"), ("how many more", "how many"), ("How much more", "How much"),
        (" in total?", " each?"), (" altogether?", " each?"), (" left?", " in total?"), (" left?", " gone?"),
        ("How many", "How many more"), ("how many", "how many fewer"), ("How much", "How much less"),
        ("how much", "how much more"), (" at first", " at last"), (" now?", " at first?"), (" each ", " total "),
        (" in all?", " on average?"), ("the total", "the average"), ("the total", "the largest"),
    ):  # fmt: skip
        at = text.rfind(old)
        if at >= 0:
            found.append(text[:at] + new + text[at + len(old) :])
    return _choose(stream, found)


def sentence_dropped(text: str, stream: np.random.Generator) -> str | None:
    """A statement with a number, or about the rest, is gone."""
    parts = _sentences(text)
    telling = re.compile(r"\d|\brest\b|\bhalf\b|\btwice\b")
    places = [i for i, part in enumerate(parts) if telling.search(part) and part[-1] != "?"]
    if not places or len(parts) < 2:
        return None
    i = places[int(stream.integers(len(places)))]
    return " ".join(parts[:i] + parts[i + 1 :])


def negated(text: str, stream: np.random.Generator) -> str | None:
    """A statement says that it was not so."""
    found: list[str | None] = []
    for old, new in (
        ("is", "is not"), ("are", "are not"), ("was", "was not"), ("were", "were not"), ("can", "cannot"),
        ("will", "will not"), ("could", "could not"), ("had", "never had"), ("does", "doesn't"), ("did", "didn't"),
        ("not", ""), ("has to", "does not have to"), ("with", "without"), ("without", "with"),
    ):  # fmt: skip
        for hit in re.finditer(rf" {old} ", text):
            found.append(f"{text[: hit.start()]} {new} {text[hit.end() :]}".replace("  ", " "))
    return _choose(stream, found)


def sentence_intruded(text: str, stream: np.random.Generator) -> str | None:
    """A sentence that changes the amounts is put between the others."""
    parts = _sentences(text)
    if len(parts) < 2:
        return None
    at = 1 + int(stream.integers(len(parts) - 1))
    return " ".join([*parts[:at], _INTRUDERS[int(stream.integers(len(_INTRUDERS)))], *parts[at:]])


def pronoun_flipped(text: str, stream: np.random.Generator) -> str | None:
    """Somebody else does it."""
    return _swap_one(text, ["he/she", "his/her", "him/them", "he/they", "she/they", "their/his", "it/they"], stream)


def answer_leaked(answer: str) -> Edit:
    """The answer stands behind the question."""

    def corrupt(text: str, stream: np.random.Generator) -> str | None:
        return f"{text} {_LEAKS[int(stream.integers(len(_LEAKS)))].format(answer)}"

    return corrupt


# the five that the claim names, and wider ones
NAMED: dict[str, tuple[Edit, ...]] = {
    "comparative flipped": (comparative_flipped, sides_swapped),
    "dependent sentences reordered": (dependent_reordered,),
    "number changed": (number_changed, numbers_swapped),
    "name captured": (name_captured,),
    "unit swapped": (unit_swapped, things_swapped),
}
WIDER: dict[str, tuple[Edit, ...]] = {
    "direction flipped": (direction_flipped,),
    "quantifier changed": (quantifier_changed,),
    "time changed": (time_changed,),
    "question changed": (question_changed,),
    "sentence dropped": (sentence_dropped,),
    "negated": (negated,),
    "sentence intruded": (sentence_intruded,),
    "pronoun flipped": (pronoun_flipped,),
}


def words_of(value: int) -> str:
    """0 to 99 in words."""
    if value <= 20:
        return _ONES[value]
    tens, ones = value // 10 * 10, value % 10
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")


def _spelled(text: str, stream: np.random.Generator) -> str | None:
    hits = [
        hit for hit in re.finditer(r"(?<=[a-z,] )\d{1,2}(?= [a-z]{3,})", text) if text[hit.start() - 2] not in "$€/"
    ]
    if not hits:
        return None
    hit = hits[int(stream.integers(len(hits)))]
    return text[: hit.start()] + words_of(int(hit[0])) + text[hit.end() :]


def _expanded(text: str, _: np.random.Generator) -> str | None:
    out = text
    for short, long in (
        ("doesn't", "does not"), ("don't", "do not"), ("didn't", "did not"), ("isn't", "is not"),
        ("What's", "What is"), ("what's", "what is"), ("can't", "cannot"), ("they've", "they have"),
        ("won't", "will not"), ("hasn't", "has not"), ("wasn't", "was not"), ("weren't", "were not"),
        ("couldn't", "could not"), ("aren't", "are not"), ("they're", "they are"), ("I'm", "I am"),
    ):  # fmt: skip
        out = out.replace(short, long)
    return out if out != text else None


def _renamed(text: str, stream: np.random.Generator) -> str | None:
    """Everybody gets a name from a list of their own; girls' names for whom the text calls she."""
    names = [name for name in _SURE_NAMES if re.search(rf"\b{name}\b", text)]
    lowered = [name for name in names if re.search(rf"\b{name.lower()}\b", text)]
    she = bool(re.search(r"\b(?:she|her|hers)\b", text, re.IGNORECASE))
    he = bool(re.search(r"\b(?:he|his|him)\b", text, re.IGNORECASE))
    if not names or lowered or (she and he):
        return None
    pool = ["Odessa", "Ottilie", "Perpetua", "Seraphina"] if she else ["Ignatius", "Leopold", "Barnaby", "Thaddeus"]
    out = text
    for name, new in zip(names[:4], stream.permutation(pool).tolist(), strict=False):
        out = re.sub(rf"\b{name}\b", new, out)
    return out if len(names) <= 4 else None


def _money(text: str, _: np.random.Generator) -> str | None:
    out = re.sub(r"\$((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?=[ .?!,])(?!\.\d)", r"\1 dollars", text)
    return out if out != text else None


def _synonyms(text: str, stream: np.random.Generator) -> str | None:
    table = {
        " in total?": " altogether?", " altogether?": " in total?", " bought ": " purchased ", " buys ": " purchases ",
        "However,": "Yet,", " because ": " since ", " wants to ": " would like to ", " decided to ": " chose to ",
        " also ": " additionally ", " began ": " started ", " huge ": " enormous ", " his friends": " his pals",
        " went to the ": " travelled to the ", " beautiful ": " lovely ", " big ": " large ", " works ": " is working ",
    }  # fmt: skip
    found = [text.replace(old, new) for old, new in table.items() if old in text]
    return found[int(stream.integers(len(found)))] if found else None


SOUND: dict[str, tuple[str, Edit]] = {
    # name: the kind it is presented as, the edit
    "number spelled": ("format", _spelled),
    "contraction expanded": ("paraphrase", _expanded),
    "people renamed": ("rename", _renamed),
    "sign of money spelled": ("format", _money),
    "synonym": ("paraphrase", _synonyms),
}
