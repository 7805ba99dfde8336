"""The fused attention is really called where it can be, and never where it cannot."""

import warnings

import differential
import pytest
import torch

from minibert.check import SIZES, sample_batch

FUSED = torch.nn.functional.scaled_dot_product_attention
CALLS = {
    "encoder": ({}, {}, 4),
    "decoder": ({"is_decoder": True}, {}, 4),
    "decoder with cross attention": (
        {"is_decoder": True, "add_cross_attention": True},
        {"encoder_hidden_states": torch.ones(3, 5, 30)},
        8,
    ),
    "attentions asked for": ({}, {"output_attentions": True}, 0),
    "attentions asked for by the config": ({"output_attentions": True}, {}, 0),
    "head mask": ({}, {"head_mask": torch.ones(5)}, 0),
    "relative positions": ({"position_embedding_type": "relative_key"}, {}, 0),
    "eager": ({"attn_implementation": "eager"}, {}, 0),
}


@pytest.mark.parametrize(("fields", "call", "expected"), CALLS.values(), ids=CALLS.keys())
def test_number_of_fused_calls(fields, call, expected, monkeypatch):
    made = []

    def counting(*args, **kwargs):
        made.append(args)
        return FUSED(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    mine, theirs = differential.build(SIZES | {"attn_implementation": "sdpa"} | fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = mine(**sample_batch(), **call)
        assert len(made) == expected
        differential.same(output, theirs(**sample_batch(), **call))
    assert len(made) == 2 * expected  # and the reference does the same


@pytest.mark.parametrize("call", [{"output_attentions": True}, {"head_mask": torch.ones(5)}])
def test_the_fallback_is_told(call):
    model = differential.build(SIZES | {"attn_implementation": "sdpa"})[0]
    with pytest.warns(UserWarning, match="head_mask and output_attentions need attention step by step"):
        model(**sample_batch(), **call)


def test_without_a_reason_there_is_no_warning(recwarn):
    differential.build(SIZES | {"attn_implementation": "sdpa"})[0](**sample_batch())
    assert not recwarn
