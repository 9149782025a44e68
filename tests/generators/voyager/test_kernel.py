"""The run kernel against its formula, its frozen bandwidth, one vector a text; which successors live on."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.generators.voyager.kernel import Embeddings, RunKernel, embedder_identity, words
from penstock.generators.voyager.successors import Living, living_on
from penstock.seeding import stream

TEXTS = ["the river runs", "The RIVER rests", "engines run hot", "a sonata in c", "of bread and salt", "?!"]


def made(embedder, texts):
    return [v.astype(np.float32) for v in embedder.embed(texts)]


def test_the_kernel_is_its_formula(embedder):
    texts = TEXTS[:5]
    vectors = made(embedder, texts)
    kernel = RunKernel.fitted(vectors, {}, 0)
    squares = [float(((a.astype(float) - b) ** 2).sum()) for i, a in enumerate(vectors) for b in vectors[:i]]
    assert kernel.gamma == pytest.approx(1 / (2 * np.median(squares)), rel=1e-6)
    matrix = kernel.over(vectors, [words(text) for text in texts]).dense()
    for i, one in enumerate(texts):
        for j, other in enumerate(texts):
            a, b = set(one.lower().split()), set(other.lower().split())
            apart = float(((vectors[i].astype(float) - vectors[j]) ** 2).sum())
            wanted = 0.7 * math.exp(-kernel.gamma * apart) + 0.3 * len(a & b) / len(a | b)
            assert matrix[i, j] == pytest.approx(wanted, abs=1e-12)
    assert (np.diagonal(matrix) == 1).all()


@given(st.lists(st.text(alphabet="ab !", max_size=6), min_size=1, max_size=8))
@settings(deadline=None)
def test_no_set_of_words_takes_the_kernel_below_zero(embedder, texts):
    vectors = made(embedder, ["x" + str(number) for number in range(len(texts))])
    matrix = RunKernel(gamma=0.7, rows=1, embedder={}).over(vectors, [words(text) for text in texts]).dense()
    assert np.linalg.eigvalsh(matrix).min() >= -1e-8


def test_vectors_that_rounding_alone_tells_apart_count_once_for_the_bandwidth(embedder):
    vectors = made(embedder, TEXTS[:3])
    noisy = [vectors[0] * np.float32(1 + 1e-7 * step) for step in range(40)]
    several = RunKernel.fitted([*vectors, *noisy], {}, 0)
    assert (several.rows, several.gamma) == (3, RunKernel.fitted(vectors, {}, 0).gamma)
    assert RunKernel.fitted(noisy, {}, 0).rows == 1  # no pair: any bandwidth will do


def test_what_names_a_kernel_changes_with_all_that_decides_it(embedder):
    base = {"gamma": 1.0, "rows": 9, "embedder": embedder_identity(embedder)}
    assert base["embedder"] == {"kind": "HashedWords", "dimensions": 24}
    kernels = [RunKernel(**base), RunKernel(**base | {"gamma": 1.5}), RunKernel(**base | {"embedder": {"kind": "x"}})]
    assert len({kernel.fingerprint for kernel in kernels}) == 3
    assert RunKernel(**base).fingerprint == kernels[0].fingerprint


def test_a_text_is_embedded_once_and_without_a_vector_is_zero(embedder):
    asked = []

    class Heard(type(embedder)):
        def embed(self, texts):
            asked.extend(texts)
            return super().embed(texts)

    embeddings = Embeddings(Heard(), 12)
    first = embeddings.of(["one two", "three", "one two", "a poison", "?!", " " * 12 + "late"])
    again = embeddings.of(["three", "one two", "three hundred and more"])
    embeddings.learn("known", again[0])
    assert embeddings.of(["known"])[0] is again[0]
    assert asked == ["one two", "three", "a poison", "?!", "three hundre"]
    assert first[0] is first[2] is again[1]
    assert not first[3].any()
    assert not first[4].any()
    assert not first[5].any()
    assert embeddings.identity == {"kind": "Heard", "dimensions": 24, "characters": 12}
    with pytest.raises(ConfigError, match="characters: got 0, allowed >= 1"):
        Embeddings(embedder, 0)


# ── successors ───────────────────────────────────────────────────────────────────────────────────


def living(world, prompts, qualities=None):
    return [
        Living(world(prompt=prompt, explorer_id=str(place)), 0, 1.0 if qualities is None else qualities[place])
        for place, prompt in enumerate(prompts)
    ]


def test_few_successors_all_live_on_and_equal_prompts_once(world, embedder):
    found = living_on(living(world, ["a", "b", "a", "c"]), 3, Embeddings(embedder, 99), stream(0, "x"))
    assert [one.explorer.explorer_id for one in found] == ["0", "1", "3"]


def test_successors_unlike_each_other_are_drawn_more_often(world, embedder):
    some, embeddings = living(world, ["the red river", "the red river runs", "opera"]), Embeddings(embedder, 99)
    drawn = Counter(
        tuple(one.explorer.explorer_id for one in living_on(some, 2, embeddings, stream(0, n))) for n in range(200)
    )
    assert drawn["0", "1"] < 60 < min(drawn["0", "2"], drawn["1", "2"])


def test_a_successor_is_drawn_by_the_square_of_its_quality(world, embedder):
    some, embeddings = living(world, ["river", "opera", "bread"], [1.0, 0.5, 0.5]), Embeddings(embedder, 99)
    drawn = Counter(living_on(some, 1, embeddings, stream(3, n))[0].explorer.explorer_id for n in range(300))
    assert abs(drawn["0"] / 300 - 1 / 1.5) < 0.08
    assert drawn["1"] > 30


@pytest.mark.parametrize("odd", ["", "?!", "poison"])
def test_prompts_that_have_no_embedding_are_compared_by_their_words(world, embedder, odd):
    some = living(world, ["river bank", "opera", odd])
    found = living_on(some, 2, Embeddings(embedder, 99), stream(0, "x"))
    assert len(found) == 2
