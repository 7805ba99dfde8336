"""minibert against the reference: any configuration, any inputs, equal bits."""

import hypothesis.strategies as st
import pytest
import torch
import transformers
from hypothesis import given, settings

from minibert.check import SIZES, lively_, sample_batch
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.trace import record
from minibert.walk import minilm_folder


def build(**fields):
    """minibert's model and the reference's, with the same lively weights."""
    theirs = lively_(transformers.BertModel(transformers.BertConfig(**fields, attn_implementation="eager")))
    mine = BertModel(BertConfig(**fields))
    mine.load_state_dict(theirs.state_dict())
    return mine.eval(), theirs.eval()


def assert_equal(mine, theirs):
    """The same structure, and the same bits in every tensor."""
    if isinstance(theirs, torch.Tensor):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape) and torch.equal(mine, theirs)
    elif isinstance(theirs, dict):
        assert list(mine) == list(theirs)
        assert_equal(mine.to_tuple(), theirs.to_tuple())
    else:
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            assert_equal(one, other)


@st.composite
def cases(draw):
    """Fields of a config, arguments of a call, and a dtype."""

    def whole(least, most):
        return draw(st.integers(least, most))

    heads = whole(1, 4)
    fields = {
        "vocab_size": whole(2, 50),
        "hidden_size": heads * whole(1, 7),
        "num_hidden_layers": whole(0, 3),
        "num_attention_heads": heads,
        "intermediate_size": whole(1, 40),
        "hidden_act": draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu", torch.tanh])),
        "max_position_embeddings": whole(1, 12),
        "type_vocab_size": whole(1, 3),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-5])),
        "pad_token_id": draw(st.sampled_from([None, 0, 1])),
        "output_attentions": draw(st.booleans()),
        "output_hidden_states": draw(st.booleans()),
        "return_dict": draw(st.booleans()),
    }
    batch, seq = whole(1, 3), whole(1, fields["max_position_embeddings"])
    generator = torch.Generator().manual_seed(whole(0, 999))

    def ids(limit, shape=(batch, seq)):
        return torch.randint(0, limit, shape, generator=generator)

    call = {}
    if draw(st.booleans()):
        call["input_ids"] = ids(fields["vocab_size"])
    else:
        call["inputs_embeds"] = torch.randn(batch, seq, fields["hidden_size"], generator=generator)
    masks = [None, ids(2), ids(2).bool(), ids(2).float(), ids(2, (batch, seq, seq)), torch.zeros(batch, seq)]
    segments = [None, ids(fields["type_vocab_size"]), ids(fields["type_vocab_size"], (1, seq))]
    positions = [None, ids(fields["max_position_embeddings"]), ids(fields["max_position_embeddings"], (1, seq))]
    options = {"attention_mask": masks, "token_type_ids": segments, "position_ids": positions}
    for flag in ("output_attentions", "output_hidden_states", "return_dict"):
        options[flag] = [None, True, False]
    for name, values in options.items():
        chosen = values[whole(0, len(values) - 1)]
        if chosen is not None:
            call[name] = chosen
    return fields, call, draw(st.sampled_from([torch.float32, torch.float64]))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cases())
def test_any_configuration_and_call(case):
    fields, call, dtype = case
    mine, theirs = (model.to(dtype) for model in build(**fields))
    if "inputs_embeds" in call:
        call = call | {"inputs_embeds": call["inputs_embeds"].to(dtype)}
    assert_equal(mine(**call), theirs(**call))


@pytest.mark.parametrize("training", [False, True])
def test_every_intermediate_and_every_gradient(training):
    mine, theirs = (model.train(training) for model in build(**SIZES))
    traces = []
    for model in (mine, theirs):
        torch.manual_seed(0)
        traces.append(record(model, **sample_batch()))
        torch.manual_seed(0)
        output = model(**sample_batch())
        (output.last_hidden_state.sin().sum() + output.pooler_output.sum()).backward()
    assert list(traces[0]) == list(traces[1]) and traces[0].sources == traces[1].sources
    assert_equal(traces[0].values(), traces[1].values())
    for name, parameter in mine.named_parameters():
        assert torch.equal(parameter.grad, theirs.get_parameter(name).grad), name


def test_new_weights_are_the_references():
    states = []
    for model, config in ((BertModel, BertConfig), (transformers.BertModel, transformers.BertConfig)):
        torch.manual_seed(0)
        states.append(model(config(**SIZES, initializer_range=0.3)).state_dict())
    assert list(states[0]) == list(states[1])
    assert_equal(states[0].values(), states[1].values())


@pytest.mark.parametrize("batch", [1, 3])
def test_real_weights(batch):
    theirs = transformers.BertModel.from_pretrained(minilm_folder(), attn_implementation="eager")
    mine = BertModel.from_pretrained(minilm_folder())
    inputs = sample_batch(mine.config.vocab_size, batch, seq=11)
    traces = record(mine, **inputs), record(theirs, **inputs)
    assert list(traces[0]) == list(traces[1]) and len(traces[0]) == 106
    assert_equal(traces[0].values(), traces[1].values())


def test_bert_base_has_its_published_number_of_parameters():
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 109_482_240
    assert len(model.state_dict()) == 199


def test_a_model_moves_and_converts():
    mine, theirs = (model.bfloat16() for model in build(**SIZES))
    assert_equal(mine(**sample_batch()), theirs(**sample_batch()))
