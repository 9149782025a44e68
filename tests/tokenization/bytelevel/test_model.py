"""pytest tests/tokenization/bytelevel/test_model.py"""

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from penstock.errors import ConfigError, InputError
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.bytelevel.distributions import STOP
from penstock.tokenization.bytelevel.model import ByteModel
from penstock.tokenization.bytelevel.reading import BYTE_OF

CHARACTER = {byte: character for character, byte in BYTE_OF.items()}
LETTERS = "abc"


def toy_bpe(merges):
    names = {character: number for number, character in enumerate(CHARACTER.values())}
    for left, right in merges:
        names.setdefault(left + right, len(names))
    tokenizer = Tokenizer(models.BPE(vocab=names, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def toy_longest_prefix(more):
    names = dict.fromkeys([*CHARACTER.values(), *more, "[UNK]"])
    tokenizer = Tokenizer(
        models.WordPiece(
            vocab={name: number for number, name in enumerate(names)}, unk_token="[UNK]", continuing_subword_prefix=""
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens(["[UNK]"])
    return tokenizer


class Leaky:
    """A language model over tokens of some letters that gives every sequence something, encodings or not."""

    def __init__(self, tokenizer, seed, letters=LETTERS):
        names = tokenizer.get_vocab()
        self.tokenizer, self.seed = tokenizer, seed
        self.names = {number: name for name, number in names.items() if set(name) <= set(letters)}
        self.end = 1 + max(names.values())
        self.size = self.end + 1
        self.read = []  # contexts that were asked for

    @functools.cache  # noqa: B019
    def row(self, context):
        rng = np.random.default_rng([self.seed, *context])
        out = np.full(self.size, -np.inf)
        used = [*self.names, self.end]
        out[used] = 2 * rng.normal(size=len(used))
        return out

    def logits(self, contexts):
        self.read += contexts
        return np.stack([self.row(context) for context in contexts])

    # ── by brute force ───────────────────────────────────────────────────────────────────────────

    @functools.cache  # noqa: B019
    def valid(self, tokens):
        return tuple(self.tokenizer.encode("".join(self.names[t] for t in tokens)).ids) == tokens

    @functools.cache  # noqa: B019
    def following(self, tokens, local):
        row = self.row((self.end, *tokens))
        allowed = [token for token in self.names if self.valid((*tokens, token))]
        total = np.logaddexp.reduce(row[[*allowed, self.end]] if local else row)
        return {token: row[token] - total for token in [*allowed, self.end]}

    def prefix(self, text, local=True):
        """log P that a text begins so: over all minimal sequences of valid tokens that cover it."""
        return np.logaddexp.reduce([-np.inf, *(weight for _, weight in self.covers(text, local))])

    def covers(self, text, local=True):
        found, going = [], [((), "", 0.0)]
        while going:
            tokens, spelled, weight = going.pop()
            if spelled.startswith(text):
                found.append((tokens, weight))
                continue
            for token, value in self.following(tokens, local).items():
                more = spelled + self.names.get(token, "\0")
                if more.startswith(text) or text.startswith(more):
                    going.append(((*tokens, token), more, weight + value))
        return found

    def whole(self, text):
        """log P of the text and its end."""
        tokens, total = (), 0.0
        for token in self.tokenizer.encode(text).ids:
            total += self.following(tokens, True)[token]
            tokens = (*tokens, token)
        return total + self.following(tokens, True)[self.end]


def byte_model(lm, **options):
    return ByteModel(lm, lm.tokenizer, begin=[lm.end], stop=[lm.end], **options)


TOYS = {
    "bpe": lambda: toy_bpe([("a", "b"), ("b", "c"), ("ab", "c"), ("c", "c"), ("abc", "ab"), ("a", "a"), ("aa", "aa")]),
    "runs": lambda: toy_bpe([("a", "a"), ("aa", "a"), ("aa", "aa"), ("aaaa", "a")]),
    "longest prefix": lambda: toy_longest_prefix(["ab", "abc", "bc", "cab"]),
    "not closed under prefixes": lambda: toy_longest_prefix(["abc", "cbab", "bca"]),
}
every_toy = pytest.mark.parametrize("toy", TOYS)
TEXTS = ["".join(letters) for n in range(5) for letters in itertools.product(LETTERS, repeat=n)]


@functools.cache
def toy_lm(name):
    return Leaky(TOYS[name](), 3)


@every_toy
def test_the_probability_of_bytes_is_the_sum_over_their_covers(toy):
    lm = toy_lm(toy)
    found = byte_model(lm).logprob(TEXTS)
    np.testing.assert_allclose(found, [lm.prefix(text) for text in TEXTS], rtol=0, atol=1e-12)


@every_toy
def test_the_covers_are_all_minimal_valid_sequences(toy):
    lm = toy_lm(toy)
    state = byte_model(lm).start(TEXTS)
    for row, text in enumerate(TEXTS):
        expected = {tokens: weight for tokens, weight in lm.covers(text)}
        covers, weights = state.covers(row)
        assert {tuple(cover.token_ids[1:]) for cover in covers} == set(expected)
        total = np.logaddexp.reduce(list(expected.values()))
        for cover, weight in zip(covers, weights, strict=True):
            assert weight == pytest.approx(expected[tuple(cover.token_ids[1:])] - total, abs=1e-12)
            spelled = "".join(lm.names[token] for token in cover.token_ids[1:])
            assert cover.tail == spelled[len(text) :].encode()


@every_toy
def test_streaming_gives_the_ratios_of_prefix_probabilities_at_one_call_a_byte(toy):
    lm = toy_lm(toy)
    model = byte_model(lm)
    text = "abcabcccaabbcabaaaaacab"
    state = model.start([""])
    assert model.calls == 1
    for number, letter in enumerate(text):
        values = state.log_probs()[0]
        assert (model.calls, model.passes) == (1 + number, 1 + number)
        if number < 9:
            base = lm.prefix(text[:number])
            expected = [lm.prefix(text[:number] + other) - base for other in LETTERS]
            np.testing.assert_allclose(values[list(map(ord, LETTERS))], expected, rtol=0, atol=1e-12)
        assert np.exp(values).sum() == pytest.approx(1, abs=1e-12)
        state.advance([ord(letter)])
        roots = [cover for cover in state.covers(0)[0] if not cover.tail]
        assert [list(cover.token_ids[1:]) for cover in roots] == [lm.tokenizer.encode(text[: number + 1]).ids]


@every_toy
def test_the_bytes_and_the_end_of_a_leaky_model_chain_to_the_whole_text(toy):
    lm = toy_lm(toy)
    model = byte_model(lm)
    for text in ("", "a", "abcab", "ccabcabc"):
        state, total = model.start([""]), 0.0
        for letter in text.encode():
            total += state.log_probs()[0, letter]
            state.advance([letter])
        assert state.prefix_logprob[0] == pytest.approx(total, abs=1e-12)
        assert model.logprob([text])[0] == pytest.approx(total, abs=1e-12)
        total += state.log_probs()[0, STOP]
        assert total == pytest.approx(lm.whole(text), abs=1e-12)
        assert model.logprob([text], stop=True)[0] == pytest.approx(total, abs=1e-12)
        state.advance([STOP])
        assert state.prefix_logprob[0] == pytest.approx(total, abs=1e-12)


@every_toy
def test_where_a_prompt_is_cut_changes_nothing(toy):
    lm = toy_lm(toy)
    model = byte_model(lm)
    text = b"abcabccaab"
    whole = model.start([text]).log_probs()
    for cut in range(len(text)):
        state = model.start([text[:cut]])
        for byte in text[cut:]:
            state.advance([byte])
        np.testing.assert_allclose(state.log_probs(), whole, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.text("ab", min_size=1, max_size=3)), max_size=7),
    st.integers(0, 2**31),
    st.text("ab", max_size=6),
)
def test_random_merges_give_the_sum_over_all_covers(pairs, seed, text):
    merges = []
    known = {"a", "b"}
    for left, right in pairs:
        # in an order that training gives: parts first, a token once
        if left in known and right in known and left + right not in known:
            merges.append((left, right))
            known.add(left + right)
    lm = Leaky(toy_bpe(merges), seed, letters="ab")
    model = byte_model(lm)
    assert model.logprob([text])[0] == pytest.approx(lm.prefix(text), abs=1e-12)
    assert np.exp(model.start([text]).log_probs()).sum() == pytest.approx(1, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.text("ab", min_size=2, max_size=4), max_size=5), st.integers(0, 2**31), st.text("ab", max_size=6))
def test_random_vocabularies_of_longest_prefixes_give_the_sum_over_all_covers(more, seed, text):
    lm = Leaky(toy_longest_prefix(sorted(more)), seed, letters="ab")
    assert byte_model(lm).logprob([text])[0] == pytest.approx(lm.prefix(text), abs=1e-12)


def test_what_tokens_say_of_the_next_byte_is_wrong_by_almost_everything():
    class Certain(Leaky):
        """After ``a`` comes ``b`` at once, as the token ab, or c."""

        def row(self, context):
            out = np.full(self.size, -np.inf)
            number = {name: token for token, name in self.names.items()}
            if len(context) == 1:
                out[[number["ab"], number["a"]]] = np.log([0.99, 0.01])
            else:
                out[[number["c"], self.end]] = np.log([0.5, 0.5])
            return out

    lm = Certain(TOYS["bpe"](), 0)
    model = byte_model(lm)
    exact = np.exp(model.start(["a"]).log_probs()[0])
    tokens, _ = model.next_tokens([model.encode("a")])
    naive = sum(np.exp(tokens[0, number]) for number, name in lm.names.items() if name.startswith("b"))
    assert exact[ord("b")] == pytest.approx(0.99)
    assert abs(exact[ord("b")] - naive) > 0.9


class TestModes:
    def test_global_division_leaves_tokens_as_they_are(self):
        lm = toy_lm("bpe")
        model = byte_model(lm, renormalise="global")
        found = model.logprob(TEXTS[:40])
        np.testing.assert_allclose(found, [lm.prefix(text, local=False) for text in TEXTS[:40]], rtol=0, atol=1e-12)
        state = model.start(["abca"])
        base = [lm.prefix("abca" + letter, local=False) for letter in LETTERS]
        values = state.log_probs()[0]
        ratios = values[list(map(ord, LETTERS))] - np.array(base)
        np.testing.assert_allclose(ratios, ratios[0], rtol=0, atol=1e-12)
        assert np.exp(values).sum() == pytest.approx(1, abs=1e-12)
        # and that is no product of next bytes
        assert found[TEXTS.index("abc")] != pytest.approx(model.start([""]).log_probs()[0, ord("a")], abs=1e-3)

    def test_off_counts_last_tokens_that_no_encoding_has(self):
        lm = toy_lm("bpe")
        strict, off = byte_model(lm, renormalise="global"), byte_model(lm, canonical="off")
        # after a, the token bc is none of an encoding: abc is a token
        assert off.logprob(["ab"])[0] > strict.logprob(["ab"])[0] + 1e-5
        assert np.exp(off.start(["ab"]).log_probs()).sum() == pytest.approx(1, abs=1e-12)

    def test_a_model_that_only_knows_encodings_is_the_same_in_all_modes(self):
        class Proper(Leaky):
            def row(self, context):
                out = super().row(context).copy()
                for token in self.names:
                    if not self.valid((*context[1:], token)):
                        out[token] = -np.inf
                return out

        lm = Proper(TOYS["bpe"](), 1)
        models = [byte_model(lm), byte_model(lm, renormalise="global"), byte_model(lm, canonical="off")]
        found = [model.start(["", "a", "abca"]).log_probs() for model in models]
        np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(found[2], found[0], rtol=0, atol=1e-12)


# ── a model of transformers ──────────────────────────────────────────────────────────────────────

TEXT = "the water don't  run\n\n  1234567 näive 日本 🙂 I'll\r\n\tdef f(x):\n        return x  + 1"


@functools.cache
def real():
    """A Llama with random weights that say something, and a byte-level tokenizer with look-ahead."""
    tokenizer = Tokenizer.from_buffer(train_bpe([TEXT, TEXT.upper()] * 3, BPEConfig(vocabulary_size=420)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=0,
            initializer_range=0.3,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval().double(), tokenizer


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices of this size are no faster with several, and much slower where others compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model():
    return ByteModel(*real())


def test_a_prompt_cut_at_every_byte_and_one_read_byte_by_byte_agree(model):
    data = TEXT.encode()
    cut = model.logprob([data[:n] for n in range(len(data) + 1)])
    state = model.start([b""])
    before, total = model.calls, [0.0]
    for byte in data:
        values = state.log_probs()[0]
        assert np.exp(values).sum() == pytest.approx(1, abs=1e-10)
        total.append(total[-1] + values[byte])
        state.advance([byte])
    np.testing.assert_allclose(cut, total, rtol=0, atol=1e-4)  # logits of the model are kept in single precision
    # one context a byte, and one more where a space may go with the next word or not
    assert len(data) - 1 <= model.calls - before <= 1.2 * len(data)


def test_a_batch_is_its_rows_and_a_fork_goes_its_own_way(model):
    prompts = ["the wat", "", b"\xe6\x97", "x  ", "the wat"]
    together = model.start(prompts)
    alone = [model.start([prompt]) for prompt in prompts]
    branches = together.fork([0, 0, 2, 3])
    np.testing.assert_allclose(together.log_probs(), np.vstack([s.log_probs() for s in alone]), rtol=0, atol=1e-5)
    together.advance([*b"ea", 0xA5, *b" r"])
    for state, byte in zip(alone, [*b"ea", 0xA5, *b" r"], strict=True):
        state.advance([byte])
    np.testing.assert_allclose(together.log_probs(), np.vstack([s.log_probs() for s in alone]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(together.prefix_logprob, [s.prefix_logprob[0] for s in alone], rtol=0, atol=1e-5)
    before = model.calls
    branches.advance([*b"ee", 0xA5, *b" "])
    np.testing.assert_allclose(branches.log_probs()[:3], together.log_probs()[[0, 0, 2]], rtol=0, atol=1e-5)
    assert model.calls - before <= 5


def test_inside_a_character_only_its_rest_may_follow(model):
    state = model.start([b"a", "日".encode()[:1], "日".encode()[:2], "🙂".encode()[:3]])
    values = state.log_probs()
    continuing = np.arange(0x80, 0xC0)
    for row in (1, 2, 3):
        assert np.exp(values[row, continuing]).sum() == pytest.approx(1, abs=1e-10)
    assert np.isneginf(values[0, continuing]).all()
    assert np.isneginf(values[:, [0xC0, 0xC1, 0xF5, 0xFF]]).all()
    assert np.isneginf(values[1:, STOP]).all()


def test_a_row_that_is_over_stays_over(model):
    state = model.start(["the", "run"])
    state.advance([STOP, ord("s")])
    values = state.log_probs()
    assert values[0, STOP] == 0
    assert np.isneginf(values[0, :STOP]).all()
    ended = state.prefix_logprob[0]
    state.advance([STOP, ord(" ")])
    assert state.prefix_logprob[0] == ended
    assert model.logprob(["the"], stop=True)[0] == pytest.approx(ended, abs=1e-5)
    assert state.covers(0)[0] == []


def test_texts_that_spell_a_special_token_are_text_unless_asked_for(model):
    name = "<|endoftext|>"
    plain = model.start([name + "the"])
    asked = model.start([name + "the"], special=True)
    assert plain.covers(0)[0][0].token_ids[1] != 0
    assert all(list(cover.token_ids[:1]) == [0] for cover in asked.covers(0)[0])
    assert asked.prefix_logprob[0] == pytest.approx(model.logprob(["the"])[0], abs=1e-5)


def test_next_tokens_are_masked_normalised_and_read_once(model):
    ids = model.encode("the water")
    tokens, stops = model.next_tokens([ids, ids[:-1]])
    np.testing.assert_allclose(np.exp(tokens).sum(1) + np.exp(stops), 1, atol=1e-10)
    before = model.calls
    longer = [*ids, model.encode("the water r")[-1]]
    model.next_tokens([longer])
    assert model.calls - before == 1
    weight = model.logprob(["the water"], stop=True)[0]
    total = sum(model.next_tokens([ids[:n]])[0][0, ids[n]] for n in range(1, len(ids)))
    assert total + stops[0] == pytest.approx(weight, abs=1e-4)


class TestBadInput:
    def test_bytes_that_no_text_has_are_refused_or_have_no_probability(self, model):
        for data in (b"\xff", b"a\x80", b"\xed\xa0\x80"):
            with pytest.raises(InputError, match="allowed is UTF-8, cut anywhere"):
                model.start([b"the", data])
            assert np.isneginf(model.logprob([data])[0])
        state = model.start(["the"])
        with pytest.raises(InputError, match="got symbol 255, which has probability 0"):
            state.advance([0xFF])
        with pytest.raises(InputError, match="got symbol 257"):
            state.advance([257])
        with pytest.raises(InputError, match="allowed one for each of 1 rows"):
            state.advance([1, 2])

    def test_a_context_that_no_text_has_is_refused(self, model):
        with pytest.raises(InputError, match="no text is encoded so"):
            model.next_tokens([[0, *(model.encode(letter)[1] for letter in "the")]])
        with pytest.raises(InputError, match="allowed ids that begin with"):
            model.next_tokens([[5]])

    def test_a_tokenizer_of_more_ids_than_the_model_is_refused(self):
        lm = toy_lm("bpe")
        with pytest.raises(ConfigError, match="a model of 3"):
            ByteModel(type("Small", (), {"size": 3, "logits": None})(), lm.tokenizer)

    def test_a_model_with_nothing_to_read_before_a_text_is_refused(self):
        lm = toy_lm("bpe")
        with pytest.raises(ConfigError, match=r"^begin: got nothing"):
            ByteModel(lm, lm.tokenizer)
        with pytest.raises(ConfigError, match="begin: got id 9999"):
            ByteModel(lm, lm.tokenizer, begin=[9999])

    @pytest.mark.parametrize("setting", [{"canonical": "loose"}, {"renormalise": "none"}])
    def test_settings_are_checked(self, setting):
        lm = toy_lm("bpe")
        with pytest.raises(ConfigError, match=f"^{next(iter(setting))}: got"):
            byte_model(lm, **setting)

    def test_no_prompts_are_a_state_without_rows(self, model):
        state = model.start([])
        assert state.size == 0
        assert state.log_probs().shape == (0, 257)
        assert model.logprob([]).shape == (0,)
