"""TopK sparse autoencoders. Run: pytest tests/selectors/targeted/test_sae.py"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from penstock.errors import ConfigError, DatasetError
from penstock.selectors.targeted.sae import (
    NAMES,
    SaeTraining,
    SparseAutoencoder,
    load_sae,
    sae_digest,
    save_sae,
    train_sae,
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    load_sae.cache_clear()
    yield
    torch.set_num_threads(before)


def planted(count=6000, width=16, features=24, active=3, seed=0):
    """Hidden states that are sums of three of 24 directions, about a centre off the origin, far from length 1."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(features, width, generator=draw)
    directions /= directions.norm(dim=1, keepdim=True)
    which = torch.rand(count, features, generator=draw).topk(active, dim=1).indices
    size = 1 + torch.rand(count, active, generator=draw)
    hidden = torch.einsum("nk,nkd->nd", size, directions[which]) + 2.0
    return 30 * hidden, directions


def test_an_autoencoder_finds_the_directions_that_hidden_states_are_made_of():
    hidden, directions = planted(count=4000)
    sae, facts = train_sae(hidden, SaeTraining(expansion=4, k=3, epochs=30, learning_rate=3e-3), seed=1)
    learned = sae.decoder / sae.decoder.norm(dim=1, keepdim=True)
    best = (directions @ learned.T).max(dim=1).values
    assert best.median() > 0.95
    assert facts["unexplained"] < 0.15
    fresh, _ = planted(count=7000)  # the weights fit hidden states as they are, not as they were scaled
    error = sae.decode(*sae.encode(fresh)) - fresh
    assert float(error.pow(2).sum() / (fresh - fresh.mean(dim=0)).pow(2).sum()) < 0.15
    # k latents that are drawn explain far less: the training did it
    untrained, before = train_sae(hidden, SaeTraining(expansion=4, k=3, epochs=1, learning_rate=1e-9), seed=1)
    assert before["unexplained"] > 0.4
    assert untrained.width == 64


def test_an_autoencoder_is_the_same_every_time_and_another_seed_gives_another():
    hidden, _ = planted(count=400)
    one, same, other = (train_sae(hidden, SaeTraining(expansion=2, k=3), seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one.encoder, same.encoder)
    assert not torch.equal(one.encoder, other.encoder)


def test_codes_are_the_largest_activations_by_hand():
    encoder = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]])
    sae = SparseAutoencoder(encoder, torch.tensor([0.0, 0.0, 0.0, -1.0]), encoder, torch.tensor([1.0, 0.0]), 2)
    values, latents = sae.encode(torch.tensor([[3.0, 1.0], [0.0, -5.0]]))
    # x - shift is (2, 1): activations 2, 1, 0, 2; then (-1, -5): 0, 0, 1, 0 after the ReLU
    assert sorted(zip(latents[0].tolist(), values[0].tolist(), strict=True)) == [(0, 2.0), (3, 2.0)]
    assert dict(zip(latents[1].tolist(), values[1].tolist(), strict=True))[2] == 1.0
    assert float(values[1].sum()) == 1.0
    # 2 (1, 0) + 2 (1, 1) + shift
    assert sae.decode(values, latents)[0].tolist() == [5.0, 2.0]


def published(folder, **changes):
    """A folder as EleutherAI publishes them."""
    folder.mkdir()
    said = {"d_in": 4, "k": 2, "expansion_factor": 2, "signed": False, "transcode": False, "activation": "topk"}
    (folder / "cfg.json").write_text(json.dumps(said | changes))
    draw = torch.Generator().manual_seed(0)
    shapes = dict(zip(NAMES, ((8, 4), (8,), (8, 4), (4,)), strict=True))
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    save_file(tensors, folder / "sae.safetensors")
    return tensors


def test_a_published_folder_and_an_autoencoder_trained_here_are_read_alike(tmp_path):
    tensors = published(tmp_path / "published")
    path = str(tmp_path / "published")
    given = load_sae(path, sae_digest(path), "cpu")
    assert (given.k, given.width) == (2, 8)
    assert torch.equal(given.decoder, tensors["W_dec"])
    x = torch.randn(3, 4)
    before = torch.relu((x - tensors["b_dec"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"])
    assert torch.allclose(given.encode(x)[0].sort(dim=1).values, before.topk(2, dim=1).values.sort(dim=1).values)

    kept, _ = save_sae(str(tmp_path / "own"), given, {"unexplained": 0.5})
    own = load_sae(kept, sae_digest(kept), "cpu", 3)
    assert own.k == 3
    assert all(
        torch.equal(getattr(own, name), getattr(given, name)) for name in ("encoder", "bias", "decoder", "shift")
    )


def test_autoencoders_that_do_not_serve_are_refused(tmp_path):
    for changes, message in (
        ({"signed": True}, "that is signed, allowed TopK"),
        ({"transcode": True}, "that is transcode"),
        ({"activation": "groupmax"}, "that is groupmax"),
        ({"k": 9}, "k: got 9, allowed 1 to 8"),
        ({"k": None}, "k: got 0, allowed 1 to 8"),
    ):
        path = tmp_path / message.split(",")[0].replace(" ", "-").replace(":", "")
        published(path, **changes)
        with pytest.raises(ConfigError, match=message):
            load_sae(str(path), sae_digest(str(path)), "cpu")
    path = tmp_path / "lacks"
    tensors = published(path)
    save_file({name: tensors[name] for name in NAMES[:2]}, path / "sae.safetensors")
    with pytest.raises(ConfigError, match=r"lacks W_dec, b_dec"):
        load_sae(str(path), sae_digest(str(path)), "cpu")
    with pytest.raises(DatasetError, match="files changed since"):
        load_sae(str(path), "0" * 64, "cpu")
    (path / "sae.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="no autoencoder that can be read"):
        load_sae(str(path), sae_digest(str(path)), "cpu")
    with pytest.raises(ConfigError, match=r"where no cfg\.json and no sae\.safetensors is"):
        sae_digest(str(tmp_path))


def test_hidden_states_and_settings_that_cannot_be_trained_on_are_refused():
    hidden, _ = planted(count=200)
    with pytest.raises(ConfigError, match="got 39 tokens to train on, allowed >= 40"):
        train_sae(hidden[:39], SaeTraining(), seed=0)
    with pytest.raises(ConfigError, match="k: got 17, allowed <= 16"):
        train_sae(hidden, SaeTraining(expansion=1, k=17), seed=0)
    with pytest.raises(ConfigError, match="all equal or no numbers"):
        train_sae(torch.ones(100, 4), SaeTraining(), seed=0)
    with pytest.raises(ConfigError, match="all equal or no numbers"):
        train_sae(torch.full((100, 4), np.nan), SaeTraining(), seed=0)
    for settings in ({"expansion": 0}, {"epochs": 0}, {"k": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ConfigError, match=f"sae {next(iter(settings))}: got 0"):
            SaeTraining(**settings)
