"""Embeddings of texts against sentence-transformers, and texts that cannot be meant."""

import pytest
import torch
from sentence_transformers import SentenceTransformer

from minibert.sentence import SentenceEncoder
from minibert.walk import minilm_folder

WORDS = "river market seven quietly because winter lamp 42 don't über 日本 🙂 [SEP] , unbelievable".split()


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.from_pretrained(minilm_folder())


@pytest.fixture(scope="module")
def reference():
    return SentenceTransformer(str(minilm_folder()), device="cpu")


def some_texts(count: int) -> list[str]:
    generator = torch.Generator().manual_seed(1)
    picks = [torch.randint(len(WORDS), (1 + i % 23,), generator=generator) for i in range(count)]
    odd = ["", " \n", "🙂", "今天天气很好。", "word " * 600, "x" * 5000, "the same", "the same"]
    return [*odd, *(" ".join(WORDS[j] for j in pick) for pick in picks)]


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_same_as_sentence_transformers(encoder, reference, batch_size):
    texts = some_texts(250)
    theirs = torch.from_numpy(reference.encode(texts, batch_size=batch_size, show_progress_bar=False))
    mine = encoder.encode(texts, batch_size=batch_size)
    assert mine.shape == theirs.shape == (258, 384) and mine.dtype == torch.float32
    assert (mine - theirs).abs().max() < 1e-6


def test_shapes(encoder):
    assert encoder.encode([]).shape == (0, 384)
    assert encoder.encode("one").shape == (384,)


def test_progress_changes_nothing(encoder):
    texts = some_texts(5)
    assert torch.equal(encoder.encode(texts, progress=True), encoder.encode(texts))


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        (["fine", 3], TypeError, r"texts\[1\] is a int"),
        (["\ud800"], ValueError, r"texts\[0\]"),
        (None, TypeError, "texts is a NoneType"),
        ({"a"}, TypeError, "texts is a set"),
    ],
)
def test_no_text(encoder, texts, error, says):
    with pytest.raises(error, match=says):
        encoder.encode(texts)
