"""minibert against the reference: every intermediate tensor, every gradient, new weights, real weights."""

import pytest
import torch
import transformers
from differential import build, same

from minibert.check import SIZES, sample_batch
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.trace import record
from minibert.walk import minilm_folder

OTHER = {"encoder_hidden_states": torch.linspace(-2, 2, 3 * 5 * 30).sin().unflatten(0, (3, 5, 30))}
KINDS = {  # fields, arguments, how many tensors there are in eval mode
    "encoder": ({}, {}, 74),
    "relative_key": ({"position_embedding_type": "relative_key"}, {}, 84),
    "relative_key_query": ({"position_embedding_type": "relative_key_query"}, {}, 92),
    "decoder": ({"is_decoder": True}, {}, 74),
    "cross attention": ({"is_decoder": True, "add_cross_attention": True}, OTHER, 120),
    "head mask": ({}, {"head_mask": torch.tensor([1, 0, 1, 1, 0])}, 78),
    "sdpa": ({"attn_implementation": "sdpa"}, {"attention_mask": None}, 56),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("fields", "more", "number"), KINDS.values(), ids=KINDS.keys())
def test_every_intermediate_and_every_gradient(fields, more, number, training):
    mine, theirs = (model.train(training) for model in build(SIZES | fields))
    traces, call = [], sample_batch() | more
    for model in (mine, theirs):
        torch.manual_seed(0)
        traces.append(record(model, **call))
        torch.manual_seed(0)
        output = model(**call)
        (output.last_hidden_state.sin().sum() + output.pooler_output.sum()).backward()
    assert list(traces[0]) == list(traces[1]) and traces[0].sources == traces[1].sources
    same(tuple(traces[0].values()), tuple(traces[1].values()))
    assert training or len(traces[0]) == number
    for name, parameter in mine.named_parameters():
        same(parameter.grad, theirs.get_parameter(name).grad, name)


@pytest.mark.parametrize(
    "fields",
    [
        {"pruned_heads": {1: [0, 3]}},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True, "add_cross_attention": True},
    ],
    ids=str,
)
def test_new_weights_are_the_references(fields):
    states = []
    for model, config in ((BertModel, BertConfig), (transformers.BertModel, transformers.BertConfig)):
        torch.manual_seed(0)
        states.append(model(config(**SIZES, initializer_range=0.3, **fields)).state_dict())
    assert list(states[0]) == list(states[1])
    same(tuple(states[0].values()), tuple(states[1].values()))


@pytest.mark.parametrize("batch", [1, 3])
def test_real_weights(batch):
    theirs = transformers.BertModel.from_pretrained(minilm_folder(), attn_implementation="eager")
    mine = BertModel.from_pretrained(minilm_folder())
    inputs = sample_batch(mine.config.vocab_size, batch, seq=11)
    traces = record(mine, **inputs), record(theirs, **inputs)
    assert list(traces[0]) == list(traces[1]) and len(traces[0]) == 106
    same(tuple(traces[0].values()), tuple(traces[1].values()))


def test_bert_base_has_its_published_number_of_parameters():
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 109_482_240
    assert len(model.state_dict()) == 199
