"""What must hold of BERT whatever its weights: minibert alone, on random models and inputs, in float64."""

import dataclasses

import differential
import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from minibert.check import lively_
from minibert.config import BertConfig
from minibert.model import BertModel

FEW = settings(differential.SETTINGS, max_examples=60, derandomize=True)
CLOSE = {"atol": 1e-9, "rtol": 0}  # other shapes add in another order; an error in float64 would be far larger


@st.composite
def cases(draw, **fixed):
    """The fields of a random configuration with at least one layer, something to draw more with, and a batch."""
    d = differential.Draw(draw)
    fields = differential.draw_fields(d) | {"attn_implementation": "eager", "torchscript": False, "return_dict": True}
    fields |= {"output_attentions": False, "output_hidden_states": False} | fixed
    fields["max_position_embeddings"] += 3  # room for a few tokens
    fields["num_hidden_layers"] = max(1, fields["num_hidden_layers"])
    fields["add_cross_attention"] = False
    fields["layer_norm_eps"] = 1e-5  # with 1e-12 a norm over two or three nearly equal numbers magnifies rounding
    batch, seq = d.whole(1, 3), d.whole(2, fields["max_position_embeddings"] - 1)
    call = {"input_ids": d.ids(fields["vocab_size"], batch, seq)}
    call["token_type_ids"] = d.ids(fields["type_vocab_size"], batch, seq)
    return fields, d, call


def build(fields):
    return lively_(BertModel(BertConfig(**fields))).double().eval()


def states(model, **call):
    with torch.no_grad():
        return model(**call).last_hidden_state


def close(one, other):
    torch.testing.assert_close(one, other, **CLOSE)


@FEW
@given(cases(is_decoder=False))
def test_padding_does_not_change_what_is_not_padded(drawn):
    fields, d, call = drawn
    model = build(fields)
    batch, seq = call["input_ids"].shape
    more = d.whole(1, model.config.max_position_embeddings - seq)
    padded = {
        "input_ids": torch.cat([call["input_ids"], d.ids(model.config.vocab_size, batch, more)], dim=1),
        "token_type_ids": torch.cat([call["token_type_ids"], torch.zeros(batch, more, dtype=torch.int64)], dim=1),
        "attention_mask": (torch.arange(seq + more) < seq).expand(batch, -1),
    }
    close(states(model, **padded)[:, :seq], states(model, **call))


@FEW
@given(cases())
def test_permuting_the_batch_permutes_the_outputs(drawn):
    fields, d, call = drawn
    model = build(fields)
    order = torch.randperm(len(call["input_ids"]), generator=d.generator)
    permuted = {name: value[order] for name, value in call.items()}
    close(states(model, **permuted), states(model, **call)[order])


@FEW
@given(cases(is_decoder=False, position_embedding_type="absolute"))
def test_permuting_tokens_at_equal_positions_permutes_the_outputs(drawn):
    fields, d, call = drawn
    model = build(fields)
    batch, seq = call["input_ids"].shape
    order = torch.randperm(seq, generator=d.generator)
    here = torch.full((1, seq), d.whole(0, model.config.max_position_embeddings - 1))
    permuted = {name: value[:, order] for name, value in call.items()}
    close(states(model, **permuted, position_ids=here), states(model, **call, position_ids=here)[:, order])


@FEW
@given(cases(is_decoder=True, use_cache=True))
def test_cached_is_uncached(drawn):
    """All position types, and any number of new tokens: where the reference is wrong, too."""
    fields, d, call = drawn
    model = build(fields)
    seq = call["input_ids"].shape[1]
    cut, cache, parts = d.whole(1, seq - 1), None, []
    for piece in (slice(0, cut), slice(cut, seq)):
        with torch.no_grad():
            output = model(**{name: value[:, piece] for name, value in call.items()}, past_key_values=cache)
        parts.append(output.last_hidden_state)
        cache = output.get("past_key_values")
    close(torch.cat(parts, dim=1), states(model, **call))


@FEW
@given(cases(is_decoder=True))
def test_a_decoder_does_not_see_what_comes(drawn):
    fields, d, call = drawn
    model = build(fields)
    seq = call["input_ids"].shape[1]
    cut = d.whole(1, seq - 1)
    changed = call["input_ids"].clone()
    changed[:, cut:] = d.ids(model.config.vocab_size, *changed[:, cut:].shape)
    close(states(model, **call | {"input_ids": changed})[:, :cut], states(model, **call)[:, :cut])


@FEW
@given(cases(num_attention_heads=3, hidden_size=12, num_hidden_layers=2, pruned_heads={}))
def test_pruned_is_head_masked(drawn):
    fields, d, call = drawn
    model = build(fields)
    gone = {layer: [d.whole(0, 2)] for layer in range(2)}
    mask = torch.ones(2, 3)
    for layer, heads in gone.items():
        mask[layer, heads] = 0
    masked = states(model, **call, head_mask=mask)
    model.prune_heads(gone)
    close(states(model, **call), masked)


@FEW
@given(cases())
def test_chunked_is_whole(drawn):
    fields, d, call = drawn
    model = build(fields)
    seq = call["input_ids"].shape[1]
    whole = states(model, **call)
    size = d.one(*[size for size in range(1, seq + 1) if seq % size == 0])
    for layer in model.encoder.layer:
        layer.chunk_size_feed_forward = size
    close(states(model, **call), whole)


@FEW
@given(cases())
def test_checkpointed_is_plain(drawn):
    fields, d, call = drawn
    model = build(fields)
    results = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.train().zero_grad()
        torch.manual_seed(0)
        output = model(**call, use_cache=False).last_hidden_state
        (output * output.detach()).sum().backward()
        results.append((output, *[parameter.grad for parameter in model.parameters()]))
    for plain, checkpointed in zip(*results, strict=True):
        assert plain is checkpointed is None or torch.equal(plain, checkpointed)


@FEW
@given(cases())
def test_fused_attention_is_the_other(drawn):
    fields, _, call = drawn
    model = build(fields)
    fused = BertModel(dataclasses.replace(model.config, attn_implementation="sdpa")).double().eval()
    fused.load_state_dict(model.state_dict())
    mask = {"attention_mask": torch.ones_like(call["input_ids"]).index_fill(1, torch.tensor([1]), 0)}
    close(states(fused, **call), states(model, **call))
    close(states(fused, **call, **mask), states(model, **call, **mask))
