"""Random configurations and calls, for which minibert and the reference must give the same bits."""

from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import torch
import transformers
from hypothesis import HealthCheck, settings
from torch import Tensor

import minibert.config
import minibert.model
from minibert.activations import ACT2FN
from minibert.check import lively_

transformers.logging.set_verbosity_error()  # it warns of fallbacks, and these are asked for here
SETTINGS = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False, print_blob=False
)


@dataclass
class Case:
    """Fields of a config, arguments of a call, and what is done to the model before it."""

    fields: dict[str, Any]
    call: dict[str, Any]
    dtype: torch.dtype = torch.float32
    add_pooling_layer: bool = True
    training: bool = False
    checkpointing: bool = False
    prune: dict[int, list[int]] = field(default_factory=dict)  # after it was built; config.pruned_heads while it is
    rows: int | None = None  # of the word table, resized


def build(fields, add_pooling_layer=True):
    """minibert's model and the reference's, with the same lively weights, in eval mode."""
    config = transformers.BertConfig(**{"attn_implementation": "eager"} | fields)
    theirs = lively_(transformers.BertModel(config, add_pooling_layer=add_pooling_layer))
    mine = minibert.model.BertModel(minibert.config.BertConfig(**fields), add_pooling_layer=add_pooling_layer)
    mine.load_state_dict(theirs.state_dict())
    return mine.eval(), theirs.eval()


def same(mine, theirs, where="output"):
    """The same structure, and the same bits in every tensor."""
    if isinstance(theirs, Tensor):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), where
        assert torch.equal(mine, theirs) or torch.equal(mine.nan_to_num(7.0), theirs.nan_to_num(7.0)), where
    elif isinstance(theirs, dict):
        assert list(mine) == list(theirs), f"{where}: {list(mine)}, {list(theirs)}"
        same(mine.to_tuple(), theirs.to_tuple(), where)
    elif theirs is None:
        assert mine is None, where
    else:
        assert type(mine) is type(theirs) is tuple and len(mine) == len(theirs), where
        for i, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            same(one, other, f"{where}[{i}]")


def tensors(output):
    """The floating-point tensors in an output, however nested."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output or ()
    return [tensor for part in parts for tensor in tensors(part)]


def without_false_cross_attentions(output, case):
    """The reference takes its cache for cross attentions when there is no encoder; minibert returns none."""
    fields, call = case.fields, case.call
    asked = call.get("output_attentions")
    asked = fields.get("output_attentions", False) if asked is None else asked
    if not (asked and fields.get("add_cross_attention") and "encoder_hidden_states" not in call):
        return output
    if isinstance(output, dict):
        kept = {name: value for name, value in output.items() if name != "cross_attentions"}
        return transformers.modeling_outputs.BaseModelOutputWithPoolingAndCrossAttentions(**kept)
    return output[:-1]


def prepared(case):
    """Both models, changed as the case says."""
    pair = build(case.fields, case.add_pooling_layer)
    for model in pair:
        if case.prune:
            model.prune_heads({layer: list(heads) for layer, heads in case.prune.items()})
        if case.rows:
            torch.manual_seed(0)
            model.resize_token_embeddings(case.rows)
        if case.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.to(case.dtype).train(case.training)
    return pair


def compare(case):
    """Raise an AssertionError if minibert and the reference disagree on the case."""
    outputs, models = [], prepared(case)
    for model in models:
        torch.manual_seed(1)
        with torch.set_grad_enabled(case.training):
            outputs.append(model(**case.call))
    mine, theirs = outputs
    theirs = without_false_cross_attentions(theirs, case)
    same(mine, theirs)
    if not case.training:
        return
    for output in (mine, theirs):
        sum((tensor * tensor.detach()).sum() for tensor in tensors(output) if tensor.requires_grad).backward()
    expected = dict(models[1].named_parameters())
    for name, parameter in models[0].named_parameters():
        same(parameter.grad, expected[name].grad, f"{name}.grad")


class Draw:
    """Short names for what a case is drawn with."""

    def __init__(self, draw):
        self.draw = draw
        self.generator = torch.Generator().manual_seed(self.whole(0, 999))

    def whole(self, least, most):
        return self.draw(st.integers(least, most))

    def one(self, *values):
        return self.draw(st.sampled_from(values))

    def yes(self, *, one_in=2):
        return self.whole(1, one_in) == one_in

    def ids(self, limit, *shape):
        return torch.randint(0, limit, shape, generator=self.generator)

    def floats(self, *shape, dtype):
        return torch.randn(*shape, generator=self.generator).to(dtype)

    def mask(self, *shape):
        """A mask in one of the types and fillings that masks come in."""
        bits = self.ids(2, *shape)
        return self.one(bits, bits.bool(), bits.float(), torch.ones_like(bits), torch.zeros(shape))


def draw_fields(d):
    """Any configuration that both models can be built from."""
    heads = d.whole(1, 4)
    layers, is_decoder = d.whole(0, 3), d.yes()
    fields = {
        "vocab_size": d.whole(2, 50),
        "hidden_size": heads * d.whole(1, 7),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": d.whole(1, 40),
        "hidden_act": d.one(*ACT2FN, torch.tanh, torch.nn.functional.softplus),
        "hidden_dropout_prob": d.one(0.0, 0.1, 0.5),
        "attention_probs_dropout_prob": d.one(0.0, 0.1, 0.5),
        "max_position_embeddings": d.whole(1, 12),
        "type_vocab_size": d.whole(1, 3),
        "layer_norm_eps": d.one(1e-12, 1e-5),
        "pad_token_id": d.one(None, 0, 1),
        "position_embedding_type": d.one("absolute", "absolute", "relative_key", "relative_key_query"),
        "attn_implementation": d.one("eager", "eager", "sdpa"),
        "is_decoder": is_decoder,
        "add_cross_attention": is_decoder and d.yes(),
        "use_cache": d.yes(),
        "output_attentions": d.yes(one_in=3),
        "output_hidden_states": d.yes(one_in=3),
        "return_dict": not d.yes(one_in=3),
        "torchscript": d.yes(one_in=20),
    }
    if heads > 1 and layers and d.yes(one_in=6):
        fields["pruned_heads"] = {d.whole(0, layers - 1): [d.whole(0, heads - 1)]}
    return fields


def heads_left(case):
    """How many heads each layer has in the end."""
    gone = [set() for _ in range(case.fields["num_hidden_layers"])]
    for pruned in (case.fields.get("pruned_heads", {}), case.prune):
        for layer, heads in pruned.items():
            gone[layer] |= set(heads)
    return [case.fields["num_attention_heads"] - len(heads) for heads in gone]


def draw_cache(d, case, batch, past, other):
    """Random keys and values, as if tokens had come before; with an encoder those of the cross attention too."""
    total = case.fields["num_attention_heads"]
    head_dim = case.fields["hidden_size"] // total
    shapes = [[(batch, n, past)] * 2 + [(batch, total, other)] * (2 if other else 0) for n in heads_left(case)]
    return tuple(tuple(d.floats(*shape, head_dim, dtype=case.dtype) for shape in layer) for layer in shapes)


def draw_head_mask(d, case, batch, seq, key, other):
    """One of the three forms, with numbers between 0 and 1 or 0 and 1 alone."""
    left, layers = heads_left(case), case.fields["num_hidden_layers"]
    shapes = [(layers, d.one(1, batch), 1, d.one(1, seq), 1 if other else d.one(1, key))]
    if len({*left, *([case.fields["num_attention_heads"]] if other else [])}) == 1:
        shapes += [(left[0],), (layers, left[0]), (layers, 1, left[0], 1, 1)]
    mask = d.ids(2, *d.one(*shapes))
    return d.one(mask, mask.float(), mask * torch.rand(mask.shape, generator=d.generator))


@st.composite
def cases(draw):
    """Any configuration with any call that the reference answers rightly (docs/deviations.md has the others)."""
    d = Draw(draw)
    fields = draw_fields(d)
    case = Case(fields, {}, d.one(torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16))
    is_relative, is_fused = fields["position_embedding_type"] != "absolute", fields["attn_implementation"] == "sdpa"
    if is_fused and fields["is_decoder"] and case.dtype == torch.float64:
        case.dtype = torch.float32  # the reference fails
    case.add_pooling_layer, case.training = not d.yes(one_in=4), d.yes(one_in=3)
    case.checkpointing = case.training and d.yes()
    heads, layers = fields["num_attention_heads"], fields["num_hidden_layers"]
    longest = fields["max_position_embeddings"]
    if heads > 2 and layers and d.yes(one_in=6):
        case.prune = {d.whole(0, layers - 1): [d.whole(0, heads - 1)]}
    if d.yes(one_in=8):
        case.rows = d.whole(2, 60)
    batch, seq = d.whole(1, 3), d.whole(1, longest)
    past = d.whole(1, longest - seq) if layers and seq < longest and d.yes() else 0
    past = 0 if is_relative and seq > 1 else past  # there the reference is wrong
    other = d.whole(1, 9) if fields["add_cross_attention"] and d.yes() else 0
    if d.yes():
        divisors = [size for size in range(1, seq + 1) if seq % size == 0]
        fields["chunk_size_feed_forward"] = d.one(0, *divisors)
    draw_call(d, case, batch, seq, past, other)
    return case


def draw_call(d, case, batch, seq, past, other):
    """Fill in the arguments."""
    fields, call, key = case.fields, case.call, past + seq
    if d.yes():
        call["input_ids"] = d.ids(case.rows or fields["vocab_size"], batch, seq)
    else:
        call["inputs_embeds"] = d.floats(batch, seq, fields["hidden_size"], dtype=case.dtype)
    if d.yes():
        call["token_type_ids"] = d.ids(fields["type_vocab_size"], d.one(1, batch), seq)
    if d.yes(one_in=3):
        call["position_ids"] = d.ids(fields["max_position_embeddings"], d.one(1, batch), seq)
    if past:
        call["past_key_values"] = draw_cache(d, case, batch, past, other)
    if d.yes(one_in=4) and fields["num_hidden_layers"]:
        call["head_mask"] = draw_head_mask(d, case, batch, seq, key, other)
    for flag in ("use_cache", "output_attentions", "output_hidden_states", "return_dict"):
        chosen = d.one(None, None, True, False)
        if chosen is not None:
            call[flag] = chosen
    has_rows = fields["attn_implementation"] == "eager"  # the reference's fused attention takes no mask for each query
    if not d.yes(one_in=3):
        rows = [seq] if has_rows and d.yes(one_in=3) else []
        call["attention_mask"] = d.mask(batch, *rows, key)
    if other:
        call["encoder_hidden_states"] = d.floats(batch, other, fields["hidden_size"], dtype=case.dtype)
        if d.yes():
            rows = [seq] if has_rows and d.yes(one_in=3) else []
            call["encoder_attention_mask"] = d.mask(batch, *rows, other)
