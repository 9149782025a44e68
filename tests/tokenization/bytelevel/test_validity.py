"""pytest tests/tokenization/bytelevel/test_validity.py

With ``PENSTOCK_SHARED_DATA=FOLDER`` the same is asked of ``tokenizers/{gpt2,mistral_hf}_tokenizer.json`` in it.
"""

import functools
import itertools
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.bytelevel.reading import BYTE_OF
from penstock.tokenization.bytelevel.tokenizer import ByteTokenizer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|"
    r"\s*[\r\n]|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RIGHT_TO_LEFT = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"

FRAGMENTS = (
    *(
        "the",
        " quick",
        "brown",
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        " \n",
        "\r\n",
        "\t",
        "don't",
        "I'll",
        "'",
        "''",
        " 'tis",
    ),
    *(
        "1",
        "12",
        "1234567",
        " 99",
        "é",
        "日本",
        "🙂",
        "👍🏽",
        "!",
        "?!",
        " ...",
        "_x",
        "ſ",
        "'S",
        "’s",
        "e\u0301",
        "\u00a0",
    ),
    *("\u3000 ", "<tool>", "<tool_call>", "abba", "    ", "<|end|>", "CAN'T", "naïve", "привет", " мир", "x1y22z"),
)


@functools.cache
def corpus():
    """Code of the standard library, and words of all kinds."""
    folder = Path(os.__file__).parent
    texts = [path.read_text("utf-8", errors="ignore") for path in sorted(folder.glob("*.py"))[:20]]
    rng = random.Random(0)
    return [*texts, "".join(rng.choice(FRAGMENTS) + " " * rng.randint(0, 1) for _ in range(20_000))]


def split(pattern, behaviour="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behaviour, invert)


def spelled(text):
    by_byte = {byte: character for character, byte in BYTE_OF.items()}
    return "".join(by_byte[byte] for byte in text.encode())


def byte_level(*stages, size=2500, ignore_merges=False, regex=False, normalizer=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*stages, bytes_of])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, special_tokens=["<|end|>"]
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def with_tokens_that_no_merge_makes(tokenizer, *texts):
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for text in texts:
        vocabulary.setdefault(spelled(text), len(vocabulary))
    return Tokenizer.from_str(json.dumps(state))


def with_added(tokenizer):
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False) for text in ("<tool>", "<tool_call>", "    ", "ab", "abba")]
    )
    return tokenizer


def sentencepiece(normalizer, pre_tokenizer=None):
    """BPE of characters with byte fallback: trained on words, then used without cutting at them."""
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    special = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trained.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=3000, limit_alphabet=150, show_progress=False, special_tokens=[*special, *fallback]
        ),
    )
    state = json.loads(trained.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    made = Tokenizer.from_str(json.dumps(state))
    if normalizer is not None:
        made.normalizer = normalizer
    state = json.loads(made.to_str())
    state["pre_tokenizer"] = None
    made = Tokenizer.from_str(json.dumps(state))
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    return made


def word_piece(prefix):
    trained = json.loads(byte_level(regex=True, size=1200).to_str())["model"]["vocab"]
    names = [token for token in trained if token != "<|end|>"]
    names = dict.fromkeys([*names, *(prefix + name for name in names), "[UNK]"])
    model = models.WordPiece(
        vocab={name: number for number, name in enumerate(names)},
        unk_token="[UNK]",
        continuing_subword_prefix=prefix,
        max_input_chars_per_word=100_000,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.add_special_tokens(["[UNK]"])
    return tokenizer


def marks(front):
    replaced = normalizers.Replace(" ", "▁")
    return normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if front else replaced


MAKERS = {
    "gpt2": lambda: byte_level(regex=True),
    "llama3": lambda: with_tokens_that_no_merge_makes(
        byte_level(split(LLAMA3), ignore_merges=True),
        "xyzzy",
        " selfdom",
        "self",
        " defining",
        "1x2",
        "日本語テ",
        "   \n\n \n",
    ),
    "cl100k": lambda: byte_level(split(CL100K)),
    "o200k": lambda: byte_level(split(O200K)),
    "qwen with added tokens": lambda: with_added(byte_level(split(LLAMA3), normalizer=normalizers.NFC())),
    "digits from the right": lambda: byte_level(split(RIGHT_TO_LEFT), regex=True),
    "single digits": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True), regex=True),
    "four stages": lambda: byte_level(
        split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?[!-/:-~]+"), pre_tokenizers.Digits(individual_digits=True)
    ),
    "punctuation": lambda: byte_level(pre_tokenizers.Punctuation("contiguous"), regex=True),
    "spaces before": lambda: byte_level(split(" ", "merged_with_previous")),
    "spaces after": lambda: byte_level(split(" ", "merged_with_next")),
    "words by their gaps": lambda: byte_level(split(r"\p{L}+", "merged_with_previous", True)),
    "penstock": lambda: Tokenizer.from_buffer(train_bpe(corpus(), BPEConfig(vocabulary_size=3000))),
    "mistral": lambda: sentencepiece(marks(front=True)),
    "gemma": lambda: sentencepiece(marks(front=False), pre_tokenizers.Split(" ", "merged_with_previous")),
    "metaspace": lambda: sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="never", split=True)),
    "longest prefix": lambda: word_piece(""),
    "wordpiece": lambda: word_piece("##"),
}
FAMILIES = ("gpt2", "llama3", "mistral")


@functools.cache
def family(name):
    return ByteTokenizer.of(MAKERS[name]())


@pytest.fixture
def tokenizer(request):
    return family(request.param)


def shared(name):
    folder = os.environ.get("PENSTOCK_SHARED_DATA")
    if not folder:
        pytest.skip("PENSTOCK_SHARED_DATA names no folder")
    return ByteTokenizer.of(f"{folder}/tokenizers/{name}_tokenizer.json")


every_family = pytest.mark.parametrize("tokenizer", MAKERS, indirect=True)


def context_of(tokenizer, places):
    context = tokenizer.validity.start
    for place in places:
        context = tokenizer.validity.step(context, place)
        if context < 0:
            break
    return context


def encodes(tokenizer, places):
    """Whether the sequence is valid and its text may end."""
    context = context_of(tokenizer, places)
    return context >= 0 and tokenizer.validity.may_stop(context)


def text_of(tokenizer, places):
    data = b"".join(tokenizer.vocabulary.tokens[place] for place in places)
    return data.removeprefix(tokenizer.front)


# ── strata ───────────────────────────────────────────────────────────────────────────────────────


def is_text(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


STRATA = {
    "space runs": lambda token: token.startswith(b"  ") or token.endswith(b"  ") or token.strip(b" ") == b"",
    "apostrophes": lambda token: b"'" in token or token.lower() in (b"s", b"t", b"m", b"d", b"re", b"ve", b"ll"),
    "newlines": lambda token: any(byte in b"\n\r\t" for byte in token),
    "digits": lambda token: any(byte in b"0123456789" for byte in token),
    "partial characters": lambda token: not is_text(token),
    "ordinary": lambda token: True,
}


def random_pieces(tokenizer, data, rng):
    """The bytes as some tokens, chosen at random, half of the time mostly the longest."""
    vocabulary, out = tokenizer.vocabulary, []
    long = rng.choice((0.0, 0.9))
    while data:
        node, choices = 0, []
        for byte in data:
            node = vocabulary.child(node, byte)
            if node < 0:
                break
            low = int(vocabulary.low[node])
            choices += range(low, low + int(vocabulary.exact[node]))
        out.append(choices[-1] if rng.random() < long else rng.choice(choices))
        data = data[len(vocabulary.tokens[out[-1]]) :]
    return tuple(out)


def sequences_of(tokenizer, stratum, count, seed):
    """Pairs with a token of the stratum, other splits of their bytes, and how the tokenizer encodes them."""
    rng = random.Random(f"{stratum} {seed}")
    vocabulary = tokenizer.vocabulary
    members = [place for place, token in enumerate(vocabulary.tokens) if STRATA[stratum](token)]
    found = set()
    while len(found) < count:
        pair = [rng.choice(members), rng.randrange(vocabulary.size)]
        if rng.random() < 0.5:
            pair[1] = rng.choice(members)
        rng.shuffle(pair)
        data = b"".join(vocabulary.tokens[place] for place in pair)
        if stratum == "partial characters" and not is_text(data):
            # of bytes no text: a character cut at random places
            data = "".join(
                chr(rng.choice((rng.randrange(0xC0, 0x250), rng.randrange(0x4E00, 0x9FFF), 0x1F600))) for _ in range(2)
            ).encode()
            data = rng.choice((b"", b" ", b"a", b"\n")) + data
        if tokenizer.front:
            data = tokenizer.front + data
        if not is_text(data) or "▁" in data.decode() or data == tokenizer.front:
            continue
        found.add((data, random_pieces(tokenizer, data, rng) if rng.random() < 0.5 or tokenizer.front else tuple(pair)))
    return sorted(found)


def mismatches(tokenizer, stratum, count=5000, seed=0):
    """(sequences judged otherwise than by encoding them, valid ones among all)."""
    asked = sequences_of(tokenizer, stratum, count, seed)
    place = {number: place for place, number in enumerate(tokenizer.vocabulary.ids.tolist())}
    wrong, valid = [], 0
    for data, places in asked:
        own = tuple(place[number] for number in tokenizer.encode(data.removeprefix(tokenizer.front)))
        valid += own == places
        if encodes(tokenizer, places) != (own == places) or not encodes(tokenizer, own):
            wrong.append((data, places))
    return wrong, valid


@pytest.mark.parametrize("stratum", STRATA)
@pytest.mark.parametrize("tokenizer", FAMILIES, indirect=True)
def test_pairs_and_splits_are_judged_as_the_whole_tokenizer_does(tokenizer, stratum):
    wrong, valid = mismatches(tokenizer, stratum)
    assert not wrong
    assert 50 < valid < 4950


@pytest.mark.shared_data
@pytest.mark.parametrize("stratum", STRATA)
@pytest.mark.parametrize("name", ["gpt2", "mistral_hf"])
def test_pairs_and_splits_of_well_known_tokenizers(name, stratum):
    wrong, valid = mismatches(functools.cache(shared)(name), stratum)
    assert not wrong
    assert 50 < valid < 4950


def test_merges_alone_judge_apostrophes_wrongly():
    tokenizer = family("gpt2")
    segmentation = tokenizer.validity.segmentation
    wrong = 0
    for data, places in sequences_of(tokenizer, "apostrophes", 1000, 1):
        ids = [int(tokenizer.vocabulary.ids[place]) for place in places]
        by_merges = all(segmentation.pair_ok(*pair) for pair in itertools.pairwise(places))
        wrong += by_merges != (tokenizer.encode(data) == ids)
    assert wrong > 10


# ── both directions, every family ────────────────────────────────────────────────────────────────


@every_family
def test_the_encoding_of_a_text_is_valid_at_every_token(tokenizer):
    rng = random.Random(1)
    place = {number: place for place, number in enumerate(tokenizer.vocabulary.ids.tolist())}
    for _ in range(150):
        text = "".join(rng.choices(FRAGMENTS, k=rng.randint(0, 12)))
        context = tokenizer.validity.start
        for number in tokenizer.encode(text):
            context = tokenizer.validity.step(context, place[number])
            assert context >= 0, text
        assert tokenizer.validity.may_stop(context), text


def walk(tokenizer, rng):
    """Tokens that are allowed one after the other, until the text may end."""
    validity, vocabulary = tokenizer.validity, tokenizer.vocabulary
    context, places = validity.start, []
    while not (validity.may_stop(context) and places and rng.random() < (0.12 if len(places) < 12 else 0.7)):
        allowed = np.flatnonzero(validity.allowed(context))
        assert len(allowed), (places, "leads nowhere")
        kind = rng.choice(list(STRATA.values()))
        some = [p for p in rng.sample(allowed.tolist(), min(len(allowed), 60)) if kind(vocabulary.tokens[p])]
        places.append(rng.choice(some or allowed.tolist()))
        context = validity.step(context, places[-1])
        assert context >= 0
    return places


@every_family
def test_whatever_is_allowed_leads_to_a_text_that_is_encoded_so(tokenizer):
    rng = random.Random(2)
    for _ in range(40):
        places = walk(tokenizer, rng)
        ids = [int(tokenizer.vocabulary.ids[place]) for place in places]
        text = text_of(tokenizer, places).decode()
        if tokenizer is not family("qwen with added tokens") or normalizers.NFC().normalize_str(text) == text:
            assert tokenizer.encode(text) == ids


@every_family
def test_the_set_of_allowed_tokens_holds_those_that_a_step_takes(tokenizer):
    rng = random.Random(3)
    validity, size = tokenizer.validity, tokenizer.vocabulary.size
    for _ in range(6):
        places = walk(tokenizer, rng)
        context = context_of(tokenizer, places[: rng.randrange(len(places))])
        allowed = validity.allowed(context)
        some = rng.sample(range(size), 300) + np.flatnonzero(allowed).tolist()[:100]
        assert [bool(allowed[place]) for place in some] == [validity.step(context, place) >= 0 for place in some]


# ── cases ────────────────────────────────────────────────────────────────────────────────────────


def test_an_added_token_is_cut_out_and_the_longest_is_taken():
    tokenizer = family("qwen with added tokens")
    vocabulary = tokenizer.vocabulary
    added = {
        vocabulary.tokens[p]: p for p, n in enumerate(vocabulary.ids.tolist()) if n in tokenizer.rules.added.values()
    }
    single = {token: p for p, token in enumerate(vocabulary.tokens) if len(token) == 1}
    assert encodes(tokenizer, [added[b"abba"]])
    assert encodes(tokenizer, [added[b"ab"], single[b"b"]])
    assert not encodes(tokenizer, [added[b"ab"], single[b"b"], single[b"a"]])  # abba
    assert not encodes(tokenizer, [single[b"a"], single[b"b"]])
    assert encodes(tokenizer, [single[b"a"], added[b"ab"]])


def test_what_stands_in_front_is_no_text_and_begins_every_other():
    tokenizer = family("mistral")
    validity, vocabulary = tokenizer.validity, tokenizer.vocabulary
    assert validity.may_stop(validity.start)
    allowed = np.flatnonzero(validity.allowed(validity.start))
    assert all(vocabulary.tokens[place].startswith(b" ") for place in allowed)
    alone = vocabulary.tokens.index(b" ", 1)
    contexts = [validity.step(validity.start, place) for place in allowed if vocabulary.tokens[place] == b" "]
    assert alone >= 0
    assert len(contexts) == 1
    assert not validity.may_stop(contexts[0])


def test_a_byte_of_fallback_spells_no_character_that_has_a_token():
    tokenizer = family("mistral")
    validity, vocabulary = tokenizer.validity, tokenizer.vocabulary
    fallback = {byte: vocabulary.ids.tolist().index(number) for number, byte in tokenizer.rules.fallback.items()}
    front = next(p for p in np.flatnonzero(validity.allowed(validity.start)) if vocabulary.tokens[p] == b" ")

    def spell(text):
        return context_of(tokenizer, [int(front), *(fallback[byte] for byte in text)])

    assert spell(b"e") < 0
    assert spell("𐎀".encode()) >= 0
    assert spell("▁".encode()) < 0
    assert spell("𐎀".encode()[:2]) >= 0
    assert not validity.may_stop(spell("𐎀".encode()[:2]))
    assert spell(b"\xf0\x82") < 0
