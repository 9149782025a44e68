"""Random tokenizers that fit the texts seen last."""

import math

import numpy as np
import pytest

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.tokenizer_sampling import SamplerConfig, TokenizerSampler, substring_shares

TEXTS = ["the lowest tower and the lower town", "newest things are never lower", "é你 lower lower"]


def sampler(seed=0, **options):
    made = TokenizerSampler(SamplerConfig(**{"size": 400, **options}), seed)
    made.push(TEXTS)
    return made


def test_a_drawn_tokenizer_writes_every_text():
    drawn = sampler().draw(0)
    for text in (*TEXTS, "漢字 \n\t\x00 ünïcode"):
        ids, offsets = drawn.encode([text])
        assert offsets.tolist() == [0, len(ids)]
        assert b"".join(drawn.tokens[i] for i in ids.tolist()).removeprefix(b" ") == text.encode()


def test_without_noise_the_best_substrings_by_frequency_times_bytes_are_taken():
    made = sampler(noise=0.0, size=256 + 14 + 5)
    drawn = made.draw(0)
    counts = {}
    for text in TEXTS:
        for word in (" " + text).replace(" ", "\n ").split("\n")[1:]:
            data = word.encode()
            for start in range(0, len(data), 4):
                for stop in range(start + 2, min(start + 16, len(data) + 1)):
                    counts[data[start:stop]] = counts.get(data[start:stop], 0) + 1
    scores = sorted((count * len(name) for name, count in counts.items()), reverse=True)
    chosen = drawn.tokens[256 + 14 :]
    assert len(chosen) == 5
    assert sorted((counts[name] * len(name) for name in chosen), reverse=True) == scores[:5]
    assert drawn.sigma == 0.0


def test_all_bytes_have_the_lowest_score_and_runs_of_spaces_the_highest():
    drawn = sampler(noise=0.0).draw(0)
    score = dict(zip(drawn.tokens, drawn.scores, strict=True))
    single = [score[bytes([byte])] for byte in range(256)]
    assert set(single) == {min(drawn.scores)}
    assert [score[b" " * width] for width in range(2, 16)] == [0.0] * 14
    assert math.isfinite(min(drawn.scores))


def test_much_noise_gives_other_tokenizers_and_equal_steps_the_same():
    made = sampler(noise=1.0, spread=0.0, size=280)
    assert made.draw(1).tokens == sampler(noise=1.0, spread=0.0, size=280).draw(1).tokens
    assert set(made.draw(1).tokens) != set(made.draw(2).tokens)
    assert made.draw(1).tokens != sampler(seed=1, noise=1.0, spread=0.0, size=280).draw(1).tokens
    # what the noise made negative has the score that is as good as never
    assert min(sampler(noise=1.0, spread=0.0).draw(1).scores) == -1e5


def test_old_batches_leave_the_queue():
    made = TokenizerSampler(SamplerConfig(size=400, noise=0.0, queue=2), 0)
    made.push(["zzzzzz zzzzzz"])
    made.push(["lower", "lower"])
    assert not any(b"zz" in token for token in made.draw(0).tokens)
    fresh = TokenizerSampler(SamplerConfig(size=400, noise=0.0, queue=2), 0)
    fresh.push(["lower", "lower"])
    assert made.draw(0).scores == fresh.draw(0).scores


def test_shares_are_right_where_32_bits_would_overflow():
    shares = substring_shares(["ab", "abcd"], np.array([2**31, 2**30], np.int64))
    assert shares.tolist() == [0.5, 0.5]


def test_nothing_to_count_and_sizes_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="push texts first"):
        TokenizerSampler(SamplerConfig(size=400), 0).draw(0)
    for options in ({"size": 100}, {"queue": 0}, {"longest": 1}, {"noise": -1.0}):
        with pytest.raises(ConfigError, match="got"):
            SamplerConfig(**{"size": 400, **options})
