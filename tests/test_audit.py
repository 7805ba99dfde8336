"""Nothing that torch computes in a BERT escapes the record; and what does escape elsewhere is noticed."""

import warnings

import pytest
import torch
import transformers
from torch import nn

from minibert.audit import audit
from minibert.check import SIZES, sample_batch
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.walk import encode, load_reference, minilm_folder

SETTINGS = {
    "encoder": {},
    "sdpa": {"attn_implementation": "sdpa"},
    "decoder": {"is_decoder": True},
    "relative_key": {"position_embedding_type": "relative_key"},
    "relative_key_query": {"position_embedding_type": "relative_key_query", "is_decoder": True},
    "cross": {"is_decoder": True, "add_cross_attention": True},
    "cross, sdpa": {"is_decoder": True, "add_cross_attention": True, "attn_implementation": "sdpa"},
}


def reference(layers=2, **fields):
    fields = SIZES | {"num_hidden_layers": layers, "attn_implementation": "eager"} | fields
    return transformers.BertModel(transformers.BertConfig(**fields)).eval()


@pytest.mark.parametrize(("layers", "named", "computed"), [(2, 42, 51), (12, 202, 251)])
def test_counts_of_the_reference(layers, named, computed):
    with torch.no_grad():
        found = audit(reference(layers), **sample_batch())
    norms = 2 * layers + 1
    assert len(found.names) == named
    assert found.counts == {"computed": computed, "view": 5 + 37 * layers, "copy": 1 + 4 * layers, "in place": 1}
    assert computed == named - 1 + 2 * norms
    new = [sum(output.is_new for output in outputs) for outputs in found.behind.values()]
    assert sorted(new) == [1] * (named - norms) + [3] * norms
    assert found.escaped == []


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_escapes(setting, training, gradients):
    inputs = sample_batch()
    if "cross" in setting:
        inputs |= {"encoder_hidden_states": torch.randn(3, 4, 30), "encoder_attention_mask": torch.eye(3, 4).long()}
    fields = SIZES | {"num_hidden_layers": 2, "attn_implementation": "eager"} | SETTINGS[setting]
    for model in (reference(**fields), BertModel(BertConfig(**fields))):
        with torch.set_grad_enabled(gradients):
            found = audit(model.train(training), **inputs)
        assert found.escaped == []
        assert all(any(output.is_new for output in outputs) for outputs in found.behind.values())


def test_nothing_escapes_in_minilm():
    folder = minilm_folder()
    mine = BertModel.from_pretrained(folder)
    _, inputs, _ = encode("The cat sat on the mat because it was tired.", folder, 512)
    with torch.inference_mode():
        ours, theirs = audit(mine, **inputs), audit(load_reference(folder), **inputs)
    assert len(ours.names) == 106 and ours.escaped == theirs.escaped == []
    assert ours.names == theirs.names
    ours, theirs = ([sum(x.is_new for x in outputs) for outputs in found.behind.values()] for found in (ours, theirs))
    assert ours == theirs


def calls(function):
    class Module(nn.Module):
        def forward(self, x):
            return function(x)

    return Module()


def squared(x):
    return x * x


def scripted(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.script(squared)(x)


@torch.inference_mode()
def silently_in_place(x):
    return nn.functional.relu(x * 2, inplace=True)


def unseen(x):
    with torch._C.DisableTorchFunction():
        return x.sin()


def unseen_after_a_step(x):
    return unseen(x + 1)


@pytest.mark.parametrize(
    ("function", "escaped"),
    [
        (silently_in_place, "relu_"),
        (unseen, "sin"),
        (unseen_after_a_step, "sin"),
        (scripted, "mul"),
        (lambda x: torch.isclose(x, x + 1), "sub"),
    ],
)
def test_what_escapes_is_noticed(function, escaped):
    inside = nn.Sequential(nn.Tanh(), calls(function))
    found = audit(inside, torch.ones(2, 3))
    assert f"{escaped} in 1" in found.escaped
    assert found.names[0] == "0"
    assert not any(name.endswith(".Tensor") for name in found.names)  # the audit's own calls are not recorded


@pytest.mark.parametrize("inference", [False, True])
def test_writes_of_every_kind_are_recorded(inference):
    def writes(x):
        y = torch.zeros(2, 3)
        y[0] = x[0] * 2
        torch.sub(y, x, out=y)
        y[0] += y[1]
        return nn.functional.relu(y, inplace=True)

    with torch.inference_mode(inference):
        found = audit(calls(writes), torch.ones(2, 3))
    assert found.names == ["mul", "setitem", "sub", "add", "setitem_1", "relu"] and found.escaped == []
    assert found.counts["constant"] == 1 and found.counts["in place"] >= 4


def test_the_module_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    with pytest.raises(RuntimeError):
        audit(model, torch.ones(2, 5))
    audit(model, torch.ones(2, 3))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
