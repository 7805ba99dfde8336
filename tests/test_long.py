"""Texts of up to 4,096 tokens: the fused attention and the packed path hold no (seq, seq) tensor."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minibert.check import lively_
from minibert.config import BertConfig
from minibert.model import BertModel

LONGEST = 4096
SIZES = {
    "vocab_size": 99,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 111,
    "max_position_embeddings": LONGEST,
}


class Largest(TorchDispatchMode):
    """The most numbers that a result of any operation holds. A view holds all that it looks at a part of."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor):
                held = x.numel() if x.is_mkldnn else x.untyped_storage().nbytes() // x.element_size()
                self.numbers = max(self.numbers, held)
        return result


def build(attn_implementation="eager"):
    """The same lively weights each time."""
    config = BertConfig(attn_implementation=attn_implementation, **SIZES)
    return lively_(BertModel(config)).eval()


def batch_of(*lengths):
    """Random ids, and a mask that hides what is beyond each length."""
    ids = torch.randint(SIZES["vocab_size"], (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids, mask


def padded(seq, hidden):
    ids, mask = batch_of(seq)
    mask[:, seq - hidden :] = 0
    return ids, mask


PATHS = {
    "sdpa": lambda seq: build("sdpa")(*padded(seq, hidden=0)),
    "sdpa with padding": lambda seq: build("sdpa")(*padded(seq, hidden=100)),
    "packed": lambda seq: build().packed(*padded(seq, hidden=0)),
    "packed with padding": lambda seq: build().packed(*padded(seq, hidden=100)),
    "packed, only pooled": lambda seq: build().packed(*padded(seq, hidden=0), only_pooled=True),
    "packed, bfloat16": lambda seq: build().prepare(torch.bfloat16).packed(*padded(seq, hidden=0)),
}


@torch.no_grad()
@pytest.mark.parametrize("run", PATHS.values(), ids=PATHS.keys())
def test_no_tensor_grows_with_the_square_of_the_length(run):
    with Largest() as seen:
        output = run(LONGEST)
    assert output.pooler_output.isfinite().all()
    assert 0 < seen.numbers < LONGEST**2


def test_none_in_training_either():
    """Without dropout: torch's fused kernel for processors knows none."""
    model, (ids, mask) = build("sdpa"), batch_of(LONGEST)
    with Largest() as seen:
        model(ids, mask).pooler_output.sum().backward()
        model.packed(ids, mask).pooler_output.sum().backward()
    assert 0 < seen.numbers < LONGEST**2


@torch.no_grad()
def test_the_eager_path_has_them():
    """So the count sees what it is to see."""
    with Largest() as seen:
        build()(*batch_of(1024))
    assert seen.numbers == SIZES["num_attention_heads"] * 1024**2


@torch.no_grad()
@pytest.mark.parametrize("hidden", [0, 100])
def test_equal_to_eager(hidden):
    ids, mask = padded(1024, hidden)
    expected = build()(ids, mask)
    visible = mask.bool()
    for output in (build("sdpa")(ids, mask), build().packed(ids, mask)):
        states = output.last_hidden_state[visible]
        torch.testing.assert_close(states, expected.last_hidden_state[visible], atol=1e-5, rtol=0)
        torch.testing.assert_close(output.pooler_output, expected.pooler_output, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_longest_text_beside_the_shortest():
    ids, mask = batch_of(1, LONGEST)
    model = build("sdpa")
    output = model.packed(ids, mask)
    for row, length in enumerate((1, LONGEST)):
        alone = model(ids[row : row + 1, :length])
        together = output.last_hidden_state[row : row + 1, :length]
        torch.testing.assert_close(together, alone.last_hidden_state, atol=1e-5, rtol=0)
        torch.testing.assert_close(output.pooler_output[row : row + 1], alone.pooler_output, atol=1e-5, rtol=0)
    assert output.last_hidden_state[0, 1:].eq(0).all()


@torch.no_grad()
def test_longer_than_the_position_table():
    ids, mask = batch_of(LONGEST + 1)
    for run in (build("sdpa"), build().packed):
        with pytest.raises(ValueError, match=str(LONGEST)):
            run(ids, mask)
