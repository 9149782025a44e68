"""Rows of new tokens from those of base tokens."""

import numpy as np
import pytest
import torch

from penstock.errors import ConfigError
from penstock.tokenization.dynamic.embeddings import CompositionRows, rows_digest, source_rows


@pytest.fixture(scope="module")
def source(base):
    return torch.randn(len(base), 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 2, 8)


def spelled(base, token):
    ids, _ = base.spell([token])
    return ids.tolist()


def test_a_base_token_has_its_own_row(base, source):
    tokens = [token for token in base.tokens if token]
    rows = CompositionRows(base, source, match_norm=True).rows(tokens)
    assert torch.equal(rows, source[[base.ids[token] for token in tokens]])


def test_a_new_token_has_the_mean_of_its_canonical_base_tokens(base, source):
    ids = spelled(base, b" lowest bridge")
    assert len(ids) > 2
    rows = CompositionRows(base, source).rows([b" lowest bridge", b" the", b"\xff\xfe"])
    torch.testing.assert_close(rows[0], source[ids].mean(0))
    torch.testing.assert_close(rows[2], source[[base.ids[b"\xff"], base.ids[b"\xfe"]]].mean(0))


def test_by_bytes_longer_pieces_weigh_more_and_equal_ones_the_same(base, source):
    ids = spelled(base, b" lowest bridge")
    sizes = torch.from_numpy(base.sizes[ids]).float()
    rows = CompositionRows(base, source, weighting="bytes").rows([b" lowest bridge", b"\xff\xfe"])
    torch.testing.assert_close(rows[0], (source[ids] * sizes[:, None]).sum(0) / sizes.sum())
    assert not torch.allclose(rows[0], source[ids].mean(0))
    torch.testing.assert_close(rows[1], CompositionRows(base, source).rows([b"\xff\xfe"])[0])


def test_matching_norms_keeps_directions_and_gives_the_mean_norm(base, source):
    tokens = [b" lowest bridge", b"newer things"]
    plain, matched = (CompositionRows(base, source, match_norm=match).rows(tokens) for match in (False, True))
    norm = source.norm(dim=1).mean()
    torch.testing.assert_close(matched.norm(dim=1), norm.expand(2))
    torch.testing.assert_close(matched, plain / plain.norm(dim=1, keepdim=True) * norm)
    assert (plain.norm(dim=1) < 0.9 * norm).all()


def test_an_id_beyond_the_rows_or_no_spelling_gives_the_unknown_row(base, pieces_base, unigram_base):
    rows = torch.randn(len(pieces_base), 4)
    cut = rows[: len(pieces_base) - 1]
    last = pieces_base.tokens[-1]
    found = CompositionRows(pieces_base, cut).rows([last, b"X" + last, b"XY"])
    assert torch.equal(found[0], cut[0])
    assert torch.equal(found[1], cut[0])
    assert not torch.equal(found[2], cut[0])
    source = torch.randn(len(unigram_base), 4)
    assert torch.equal(CompositionRows(unigram_base, source).rows(["你".encode()])[0], source[0])
    without = torch.randn(len(base) - 1, 4)  # a vocabulary without an unknown token
    torch.testing.assert_close(CompositionRows(base, without).rows([base.tokens[-1]])[0], without.mean(0))


def test_rows_keep_the_type_of_the_source(base, source):
    assert CompositionRows(base, source.bfloat16()).rows([b" lowest bridge"]).dtype == torch.bfloat16
    assert CompositionRows(base, source).rows([]).shape == (0, 8)


def test_the_key_names_all_that_decides_the_rows(base, source):
    made = [
        CompositionRows(base, source),
        CompositionRows(base, source, weighting="bytes"),
        CompositionRows(base, source, match_norm=True),
        CompositionRows(base, source + 1),
        CompositionRows(base, source, revision="step-7"),
    ]
    assert len({one.key for one in made}) == len(made)
    assert CompositionRows(base, source.clone()).key == made[0].key
    assert rows_digest(source) in made[0].key


def test_the_scaling_of_an_embedding_layer_is_in_its_source_rows():
    class Scaled(torch.nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 3.0

    layer = Scaled(5, 2)
    torch.testing.assert_close(source_rows(layer), layer.weight.detach() * 3.0)


@pytest.mark.parametrize(
    ("options", "message"), [({"weighting": "words"}, "weighting: got 'words'"), ({}, r"source: got shape \(3,\)")]
)
def test_settings_that_make_no_sense_are_refused(base, source, options, message):
    rows = source if options else torch.zeros(3)
    with pytest.raises(ConfigError, match=message):
        CompositionRows(base, rows, **options)


def test_sizes_of_tokens_are_their_bytes(base):
    assert base.sizes[base.ids[b" "]] == 1
    assert int(np.max(base.sizes)) > 2
