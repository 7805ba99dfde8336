"""Each slip of the catalogue, planted in minibert's own source, is named by `compare`; none is named without need."""

import pytest
import torch
import transformers
from torch import nn

import minibert.model
from minibert.check import SIZES, lively_, sample_batch
from minibert.compare import compare
from minibert.mutations import MUTATIONS, planted
from minibert.slips import SLIPS
from minibert.trace import weighted_sum

DECODER = {"is_decoder": True, "use_cache": True}
CROSSED = DECODER | {"add_cross_attention": True}
SETTINGS = {
    "eps_outside_root": {"layer_norm_eps": 1e-3},
    "causal_missing": DECODER,
    "causal_sees_next": DECODER,
    "causal_not_self": DECODER,
    "positions_restart": DECODER,
    "cross_mask_of_decoder": CROSSED,
    "relative_after_scale": {"position_embedding_type": "relative_key"},
    "relative_reversed": {"position_embedding_type": "relative_key"},
}


def call_for(slip):
    inputs = sample_batch()
    if slip == "head_mask_before_softmax":
        inputs["head_mask"] = torch.tensor([1.0, 0.0, 1.0, 0.5, 1.0], dtype=torch.float64)
    if slip == "positions_restart":
        generator = torch.Generator().manual_seed(1)
        keys = [torch.randn(3, 5, 2, 6, generator=generator, dtype=torch.float64) for _ in range(6)]
        inputs["past_key_values"] = tuple(zip(keys[::2], keys[1::2], strict=True))
        inputs["attention_mask"] = torch.cat([torch.ones(3, 2), inputs["attention_mask"]], dim=1)
    if slip == "cross_mask_of_decoder":
        inputs["encoder_hidden_states"] = torch.randn(3, 7, 30, dtype=torch.float64)
        inputs["encoder_attention_mask"] = inputs["attention_mask"].flip(0)
    return inputs


def models(package, slip):
    fields = SIZES | {"num_hidden_layers": 3} | SETTINGS.get(slip, {})
    config = transformers.BertConfig(**fields, attn_implementation="eager")
    theirs = lively_(transformers.BertModel(config)).double().eval()
    mine = package.model.BertModel(package.config.BertConfig(**fields)).double().eval()
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


@pytest.mark.parametrize("slip", [name for name in MUTATIONS if name in SLIPS])
def test_named(slip):
    with planted(slip) as package, torch.no_grad():
        found = compare(*models(package, slip), **call_for(slip))
    assert [slip.name for slip in found.slips] == [slip], str(found)
    assert found.unexplained is None, str(found)


class Layer(nn.Module):
    """A layer written in another way: one projection for query, key and value, scaled before the product, fused or not,
    heads as (seq, heads), tokens first."""

    def __init__(self, theirs, fused):
        super().__init__()
        own, self.fused = theirs.attention.self, fused
        self.heads = own.num_attention_heads
        projections = (own.query, own.key, own.value)
        self.qkv = nn.Linear(30, 90)
        self.qkv.weight = nn.Parameter(torch.cat([p.weight for p in projections]).detach())
        self.qkv.bias = nn.Parameter(torch.cat([p.bias for p in projections]).detach())
        self.out, self.norm1 = theirs.attention.output.dense, theirs.attention.output.LayerNorm
        self.wide, self.narrow, self.norm2 = theirs.intermediate.dense, theirs.output.dense, theirs.output.LayerNorm

    def forward(self, x, hidden):
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
        if self.fused:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            mask = ~hidden[:, None, None]
            context = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        else:
            scores = torch.einsum("bqhd,bkhd->bqkh", q * q.shape[-1] ** -0.5, k)
            probs = scores.masked_fill(hidden[:, None, :, None], -1e300).softmax(2)
            context = torch.einsum("bqkh,bkhd->bqhd", probs, v)
        x = self.norm1(self.out(context.flatten(2)) + x)
        return self.norm2(x + self.narrow(nn.functional.gelu(self.wide(x))))


class Another(nn.Module):
    """A BERT that is right, with nothing but the weights in common."""

    def __init__(self, theirs, fused=False):
        super().__init__()
        self.tables = theirs.embeddings
        self.layers = nn.ModuleList([Layer(layer, fused) for layer in theirs.encoder.layer])
        self.pool = theirs.pooler.dense

    def forward(self, input_ids, token_type_ids, attention_mask):
        tables = self.tables
        positions = tables.position_embeddings.weight[: input_ids.shape[1]].expand(*input_ids.shape, -1) + 0
        x = tables.word_embeddings(input_ids) + positions + tables.token_type_embeddings(token_type_ids)
        x = tables.LayerNorm(x)
        for layer in self.layers:
            x = layer(x, attention_mask == 0)
        return x, self.pool(x[:, 0]).tanh()


@pytest.mark.parametrize("fused", [False, True])
def test_a_right_model_of_another_make_has_no_slip(fused):
    _, theirs = models(minibert, "")
    with torch.no_grad():
        found = compare(Another(theirs, fused), theirs, **sample_batch())
    assert found.agrees and found.slips == [], str(found)
    assert found.lineup.right >= (31 if fused else 37)


PAIRS = [
    ("segments_swapped", "gelu_tanh"),
    ("scale_missing", "pooler_mean"),
    ("mask_missing", "output_norm_missing"),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_two_slips_at_once(pair):
    first, second = pair
    slips = {"both": MUTATIONS[first] + MUTATIONS[second]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MUTATIONS, "both", slips["both"])
        with planted("both") as package, torch.no_grad():
            found = compare(*models(package, ""), **sample_batch())
    assert {slip.name for slip in found.slips} == set(pair), str(found)


def test_dropout_in_eval_is_named():
    with planted("dropout_active") as package, torch.no_grad():
        found = compare(*models(package, ""), **sample_batch())
    assert "dropout_active" in found.remarks[0] and "layer.0.attention.self.probs" in found.remarks[0]


def test_a_padding_row_that_learns_shows_in_the_gradients():
    with planted("padding_row_trained") as package:
        found = compare(*models(package, ""), **sample_batch(), loss=weighted_sum)
    assert found.lineup.first is None
    assert found.first.name == "gradient of embeddings.word_embeddings.weight"
    assert "padding_row_trained" in str(found)


def test_every_bit_forward_and_backward():
    mine, theirs = models(minibert, "")
    found = compare(mine, theirs, **sample_batch(), loss=weighted_sum)
    assert found.agrees and found.lineup.equal == len(found.lineup) == 58
    assert found.backward.equal == len(found.backward) == 56 + sum(1 for _ in theirs.parameters())


def test_an_unknown_mistake_is_located_and_described():
    mine, theirs = models(minibert, "")
    mine.encoder.layer[1].intermediate.register_forward_hook(lambda module, args, out: out * 1.5)
    with torch.no_grad():
        found = compare(mine, theirs, **sample_batch())
    assert found.first.name == "encoder.layer.1.output.dense" and found.slips == []


def test_gradients_that_are_cut_off_are_noticed():
    mine, theirs = models(minibert, "")
    mine.encoder.layer[1].register_forward_pre_hook(lambda module, args: (args[0].detach(), *args[1:]))
    found = compare(mine, theirs, **sample_batch(), loss=weighted_sum)
    assert found.first.name == "gradient of encoder.layer.0.output.LayerNorm"
    assert "nothing flows back" in str(found)
