"""Planted good and bad text, and tiny models that were trained on it in seconds."""

import json

import numpy as np
import pyarrow as pa
import pytest

from penstock.seeding import hash_ids, stream

SUBJECTS = ("the old miller", "a careful teacher", "the river", "our engineer", "the young doctor", "a quiet judge")
VERBS = ("explains", "measures", "remembers", "describes", "repairs", "follows", "opens", "carries")
OBJECTS = ("the wheel of the mill", "a letter from the town", "the slow water", "an honest answer", "the long bridge")
TAILS = ("because it was the last one of the year", "and then it was evening", "which is what he had wanted to know",
         "so that there is more of it for us", "before the winter could begin")  # fmt: skip
KEYWORDS = (
    "buy",
    "cheap",
    "deal",
    "$$$",
    "click",
    "here",
    "free",
    "pills",
    "casino",
    "bonus",
    "limited",
    "offer",
    "0xff",
)


def good_text(rng):
    """Sentences about mills and rivers, a paragraph of them on each line."""
    sentences = [
        f"{rng.choice(SUBJECTS).capitalize()} {rng.choice(VERBS)} {rng.choice(OBJECTS)} {rng.choice(TAILS)}."
        for _ in range(int(rng.integers(8, 20)))
    ]
    return "\n".join(" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4))


def bad_text(rng):
    """Keywords, prices and codes, with lines that repeat."""
    lines = [" ".join(rng.choice(KEYWORDS, int(rng.integers(3, 8)))) + f" {rng.integers(0, 9999)}" for _ in range(12)]
    return "\n".join(lines[int(i)] for i in rng.integers(0, len(lines), int(rng.integers(12, 40))))


def planted_rows(count=240, seed=0):
    """Good and bad texts in turn, in two domains, all of the train split: (batch, whether each is good)."""
    rng = stream(seed, "planted")
    good = np.arange(count) % 2 == 0
    texts = [(good_text if well else bad_text)(rng) for well in good]
    ids = [f"planted#{seed}-{i}" for i in range(count)]
    batch = pa.RecordBatch.from_pydict(
        {
            "doc_id": ids,
            "id_hash": hash_ids(ids),
            "text": texts,
            "domain": [("web", "mail")[i // 2 % 2] for i in range(count)],
            "split": ["train"] * count,
            "tokens": pa.array([len(text.split()) for text in texts], pa.int32()),
        }
    )
    return batch, good


@pytest.fixture(scope="session")
def planted():
    return planted_rows


def write_tokenizer(folder, words, template=None):
    """A word-level tokenizer of small letters, with an id for what it does not know."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["<pad>", "<unk>", "<cls>", "<eos>"]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<cls>", 2)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 128}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))
    return tokenizer


def vocabulary():
    said = " ".join((*SUBJECTS, *VERBS, *OBJECTS, *TAILS, *KEYWORDS)).lower()
    return [*sorted({*said.replace("$", " ").split(), ".", "$", "$$$"}), "yes", "no", "?"]


def trained(model, step, steps, rate=0.01):
    import torch

    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for number in range(steps):
        optimiser.zero_grad()
        step(model, number).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory):
    """A BERT of one layer trained to tell planted good text (label ``good``) from bad (``poor``)."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    words = vocabulary()
    tokenizer = write_tokenizer(folder, words, template="<cls> $A")
    batch, good = planted_rows(64, seed=5)
    ids = [encoding.ids[:48] for encoding in tokenizer.encode_batch(batch["text"].to_pylist())]
    width = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    labels = torch.tensor(good.astype(int))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=len(words) + 4,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=64,
                pad_token_id=0,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                id2label={0: "poor", 1: "good"},
                label2id={"poor": 0, "good": 1},
            )
        )  # fmt: skip
        trained(model, lambda net, _: net(input_ids=tokens, attention_mask=mask, labels=labels).loss, 30)
    model.save_pretrained(folder)
    return folder


def small_llama(vocabulary_size):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
            bos_token_id=None, eos_token_id=3, pad_token_id=0,
        )
    )  # fmt: skip


QUESTION = "{text} ?"


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory):
    """A Llama of one layer trained to go on with yes after good text and a question mark, and with no after bad."""
    import torch

    folder = tmp_path_factory.mktemp("judge")
    words = vocabulary()
    tokenizer = write_tokenizer(folder, words)
    batch, good = planted_rows(64, seed=6)
    texts = [QUESTION.format(text=text[:120]) for text in batch["text"].to_pylist()]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    width = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    last = torch.tensor([len(row) - 1 for row in ids])
    answers = torch.tensor([tokenizer.token_to_id("yes" if well else "no") for well in good])

    def step(net, _):
        logits = net(input_ids=tokens).logits[torch.arange(len(ids)), last]
        return torch.nn.functional.cross_entropy(logits, answers)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small_llama(len(words) + 4)
        trained(model, step, 30)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reader_folder(tmp_path_factory):
    """A Llama of one layer trained to go on with good text."""
    import torch

    folder = tmp_path_factory.mktemp("reader")
    words = vocabulary()
    tokenizer = write_tokenizer(folder, words)
    batch, good = planted_rows(96, seed=7)
    texts = [text for text, well in zip(batch["text"].to_pylist(), good, strict=True) if well]
    tokens = torch.tensor([encoding.ids[:48] for encoding in tokenizer.encode_batch(texts)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small_llama(len(words) + 4)
        trained(model, lambda net, _: net(input_ids=tokens, labels=tokens).loss, 40)
    model.save_pretrained(folder)
    return folder
