"""Prepared models call the kernels that they promise, match the plain ones, and are never stale or skip a part."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from minibert.check import SIZES, lively_, sample_batch
from minibert.classify import BertForSequenceClassification
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.prepare import PRECISIONS, Product, in_bytes
from minibert.sentence import SentenceEncoder
from minibert.trace import record
from minibert.walk import minilm_folder

BATCH = sample_batch()
VISIBLE = BATCH["attention_mask"].bool()
FAR = {torch.float32: 1e-6, torch.bfloat16: 0.01, torch.int8: 0.03}  # how far, of the whole, a result may be
each_precision = pytest.mark.parametrize("dtype", PRECISIONS, ids=str)


def make(**fields):
    """A model with lively weights, in eval mode."""
    return lively_(BertModel(BertConfig(**SIZES | fields))).eval()


@torch.no_grad()
def states(model, packed=True):
    """The vectors of the visible tokens."""
    return (model.packed if packed else model)(**BATCH).last_hidden_state[VISIBLE]


def apart(one, other):
    """The distance of two results, as a share of the second."""
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


class Operations(TorchDispatchMode):
    """Counts operations."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count[str(function)] += 1
        return function(*args, **(kwargs or {}))


def operations(call):
    with Operations() as seen:
        call(**BATCH)
    return seen.count


FLOAT, INT8 = "mkldnn._linear_pointwise.default", "onednn.qlinear_pointwise.default"
MAKING = {"mkldnn._reorder_linear_weight.default", "onednn.qlinear_prepack.default"}


@each_precision
@torch.no_grad()
def test_kernels_are_called(dtype):
    model = make()
    assert operations(model)["aten.addmm.default"] == 25 and operations(model)["aten.gelu.default"] == 4
    model.prepare(dtype)
    kernel = INT8 if dtype == torch.int8 else FLOAT
    for call, products in ((model.packed, 4 * 4), (model, 4 * 6)):
        assert MAKING & operations(call).keys()  # at first the weights are made ready
        counts = operations(call)
        assert counts[kernel] == products and counts["aten.addmm.default"] == 1  # the pooler's
        assert not (MAKING | {"aten.gelu.default", "aten.mm.default"}) & counts.keys()
    with torch.enable_grad():
        counts = operations(model)
    assert counts["aten.addmm.default"] == 25 and not counts[kernel]


@each_precision
@pytest.mark.parametrize("fields", [{}, {"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"num_hidden_layers": 0}])
def test_prepared_is_plain(dtype, fields):
    model = make(**fields)
    plain = states(model)
    model.prepare(dtype)
    for packed in (True, False):
        assert apart(states(model, packed), plain) < FAR[dtype]
        if dtype != torch.float32 and fields.get("num_hidden_layers") != 0:
            assert apart(states(model, packed), plain) > 1e-4  # fewer bits were really used
    model.prepare(None)
    assert torch.equal(states(model), plain)


@each_precision
def test_a_model_with_a_head(dtype):
    model = lively_(BertForSequenceClassification(BertConfig(**SIZES))).eval()
    with torch.no_grad():
        plain = model(**BATCH).logits
        assert model.prepare(dtype) is model and operations(model)[INT8 if dtype == torch.int8 else FLOAT] == 24
        assert apart(model(**BATCH).logits, plain) < FAR[dtype]


def other_weights(model):
    return {name: tensor.clone() for name, tensor in lively_(copy.deepcopy(model), seed=5).state_dict().items()}


def load(model):
    model.load_state_dict(other_weights(model))


def assign(model):
    for _ in range(3):
        model.load_state_dict(other_weights(model), assign=True)


def assign_data(model):
    for _ in range(3):
        for parameter in model.parameters():
            parameter.data = parameter.data * 0.9


def step(model):
    with torch.enable_grad():
        model(**BATCH).pooler_output.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()


def load_in_inference_mode(model):
    with torch.inference_mode():
        load(model)


class Adapter(nn.Linear):
    """A linear layer, and something on top."""

    def forward(self, x):
        return super().forward(x) + 1


def adapt(model):
    for layer in model.encoder.layer:
        for place, name in ((layer.attention.self, "query"), (layer.intermediate, "dense")):
            adapter = Adapter(*reversed(getattr(place, name).weight.shape))
            adapter.load_state_dict(getattr(place, name).state_dict())
            setattr(place, name, adapter)


def without_bias(model):
    for layer in model.encoder.layer:
        layer.intermediate.dense = nn.Linear(30, 37, bias=False)


def hook(model):
    for layer in model.encoder.layer:
        for module in (layer.attention.self.value, layer.intermediate.dense, layer.intermediate.intermediate_act_fn):
            module.register_forward_hook(lambda module, inputs, output: output + 1)
        layer.attention.self.key.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


def replace_the_function(model):
    for layer in model.encoder.layer:
        layer.intermediate.intermediate_act_fn = nn.ReLU()


def wrap(model):
    for layer in model.encoder.layer:
        layer.attention.self.value = nn.Sequential(layer.attention.self.value, nn.ReLU())


CHANGES = {
    load: True,
    assign: True,
    assign_data: True,
    step: True,
    load_in_inference_mode: True,
    lambda model: model.half().float(): False,  # changes too little for a claim that it changed
    lambda model: model.resize_token_embeddings(120): False,
    lambda model: model.prune_heads({0: [1, 3], 2: [0]}): True,
    adapt: True,
    without_bias: True,
    hook: True,
    replace_the_function: True,
    wrap: True,
}


@each_precision
@pytest.mark.parametrize(("change", "is_large"), CHANGES.items())
def test_every_change_is_noticed(dtype, change, is_large):
    model = make()
    before = states(model.prepare(dtype))
    change(model)
    after, unpacked = states(model), states(model, packed=False)
    plain = states(model.prepare(None))
    assert apart(after, plain) < FAR[dtype] and apart(unpacked, plain) < FAR[dtype]
    assert apart(before, plain) > 2 * FAR[dtype] or not is_large


@each_precision
@pytest.mark.parametrize("change", [adapt, hook, without_bias])
def test_prepared_after_the_change(dtype, change):
    model = make()
    change(model)
    plain = states(model)
    assert apart(states(model.prepare(dtype)), plain) < FAR[dtype]


@each_precision
def test_pruned_heads_stay_prepared(dtype):
    model = make().prepare(dtype)
    model.prune_heads({0: [1, 3], 2: [0]})
    with torch.no_grad():
        model.packed(**BATCH)
        counts = operations(model.packed)
    assert counts[INT8 if dtype == torch.int8 else FLOAT] == 16


@each_precision
@pytest.mark.parametrize("to", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_a_converted_model_computes_in_its_own_type(dtype, to):
    model = make().prepare(dtype)
    states(model)
    assert torch.equal(states(model.to(to)), states(copy.deepcopy(model).prepare(None)))
    states(model.float())
    with torch.no_grad():
        assert operations(model.packed)[INT8 if dtype == torch.int8 else FLOAT] == 16  # and is ready again


@each_precision
def test_autocast_chooses_itself(dtype):
    model = make()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(**BATCH).last_hidden_state
        assert torch.equal(model.prepare(dtype)(**BATCH).last_hidden_state, plain)


@each_precision
def test_names_gradients_and_copies(dtype, tmp_path):
    model = make()
    names, plain = list(model.state_dict()), model(**BATCH)
    model.prepare(dtype)
    assert list(model.state_dict()) == names and torch.equal(model(**BATCH).pooler_output, plain.pooler_output)
    model.packed(**BATCH).pooler_output.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    expected = states(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(states(other), expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(states(BertModel.from_pretrained(tmp_path)), states(make()))
    embeds = torch.randn(3, 7, 30, requires_grad=True)
    with torch.no_grad():
        assert not model(inputs_embeds=embeds).last_hidden_state.requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@each_precision
@torch.no_grad()
def test_numbers_that_are_none_are_not_hidden(dtype, value):
    layer = make().prepare(dtype).encoder.layer[0]
    tokens = torch.randn(1, 5, 30)
    tokens[0, 2, 3] = value
    for found in (layer.intermediate(tokens), layer.attention.output.dense(tokens)):
        assert not found[0, 2].isfinite().any()
    with torch.no_grad():
        layer.attention.output.dense.weight[3, 2] = value
    found = layer.attention.output.dense(torch.ones(1, 1, 30))[0, 0]
    assert not found[3].isfinite() and found[:3].isfinite().all()


@each_precision
@pytest.mark.parametrize(
    "tokens",
    [torch.zeros(4, 30), torch.full((4, 30), 3.0), torch.full((4, 30), -3.0), 1e-20 + torch.zeros(1, 4, 30)]
    + [torch.randn(30, generator=torch.Generator()), 100 + torch.randn(4, 30, generator=torch.Generator())],
    ids=["zeros", "constant", "negative", "tiny", "one", "far from zero"],
)
def test_odd_tokens(dtype, tokens):
    layer = make().encoder.layer[0].attention.output.dense
    with torch.no_grad():
        found = Product(dtype)(tokens, layer)
        assert found.shape == tokens.shape and apart(found, layer(tokens)) < FAR[dtype]


def test_bytes_are_within_half_a_step():
    steps = torch.rand(40, generator=torch.Generator().manual_seed(0)) + 1e-3
    for step in steps.tolist():
        for least in range(254):
            tokens = torch.tensor([-(least + 0.5) * step, 0.0, (253.5 - least) * step])
            whole, size, zero = in_bytes(tokens)
            assert ((whole.double() - zero) * size - tokens).abs().max() < 0.5001 * size


@each_precision
def test_threads_that_call_it_first_at_once(dtype):
    model = make()
    for _ in range(5):
        model.prepare(dtype)
        found = []
        threads = [threading.Thread(target=lambda: found.append(states(model))) for _ in range(4)]  # noqa: B023
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4 and all(torch.equal(one, found[0]) for one in found)


class Packed(nn.Module):
    """A module whose forward is the packed one."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        return self.model.packed(**inputs)


@pytest.mark.parametrize("wrap", [lambda model: model, Packed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_record_has_the_same_names(wrap, dtype):
    model = make()
    plain = record(wrap(model), **BATCH)
    assert not [name for name in plain if "past" in name]  # a text beside another is no cache
    for _ in range(2):  # the first call, which makes the weights ready, and another
        prepared = record(wrap(model.prepare(dtype)), **BATCH)
        assert list(prepared) == list(plain) and len(plain) > 70
        assert max(apart(prepared[name], plain[name]) for name in plain if name.endswith("LayerNorm")) < FAR[dtype]


@pytest.mark.usefixtures("as_a_user")
def test_what_cannot_be_prepared():
    for wrong in (torch.float16, "int8", 8):
        with pytest.raises(ValueError, match=r"dtype is .*, expected None or one of"):
            make().prepare(wrong)
    with pytest.raises(ValueError, match=r"dtype of the weights is torch.float64"):
        make().double().prepare()
    with torch.inference_mode():
        model = make()
        with pytest.raises(ValueError, match="a weight is 'made in inference mode'"):
            model.prepare()
    with pytest.raises(ValueError, match=r"dtype is torch.int8, expected a float type"):
        make().to("meta").prepare(torch.int8)


def test_processors_with_fewer_instructions():
    """Without VNNI int8 is refused, since sums would be cut; without AVX512 bfloat16 is computed by torch itself."""
    script = """if True:
        import torch
        from torch import nn
        from minibert.prepare import Product, adds_exactly
        layer, x = nn.Linear(384, 384), torch.rand(5, 384) + 5
        with torch.no_grad():
            layer.weight.uniform_(0.9, 1)
            far = (Product(torch.bfloat16)(x, layer).float() - layer(x)).norm() / layer(x).norm()
            print(adds_exactly(), bool(far < 0.01))
    """
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 0.999999), (torch.bfloat16, 0.9998), (torch.int8, 0.95)])
def test_real_embeddings(dtype, least):
    encoder = SentenceEncoder.from_pretrained(minilm_folder())
    texts = ["Stop!", "", "The bread had a thick crust and smelled of rye.", "She reads.", "日本 🙂", "Who won?"]
    plain = encoder.encode(texts)
    encoder.model.prepare(dtype)
    prepared = encoder.encode(texts)
    assert (prepared * plain).sum(1).min() > least and not torch.equal(prepared, plain)
    if dtype == torch.float32:
        torch.testing.assert_close(prepared, plain, atol=2e-6, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_gpu(dtype):
    model, batch = BertModel.from_pretrained(minilm_folder()), sample_batch(vocab_size=30522)
    with torch.no_grad():
        expected = model.packed(**batch).last_hidden_state
        model.cuda().prepare(dtype)
        found = model.packed(**{name: tensor.cuda() for name, tensor in batch.items()}).last_hidden_state.cpu()
    assert torch.cosine_similarity(found, expected, dim=-1)[batch["attention_mask"].bool()].min() > 0.999
    with pytest.raises(ValueError, match="dtype"):
        model.prepare(torch.int8)
