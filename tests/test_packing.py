"""Packed calls give what padded ones give, by fewer and smaller computations."""

import differential
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, seed, settings
from torch.utils._python_dispatch import TorchDispatchMode

from minibert.activations import ACT2FN
from minibert.check import SIZES, lively_, sample_batch
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.packing import Packing
from minibert.sentence import SentenceEncoder
from minibert.walk import minilm_folder

TEXTS = [
    "Stop!",
    "",
    "The bread had a thick crust and smelled of rye.",
    "She reads.",
    "word " * 600,
    "日本 🙂",
    "Who won?",
]


def make(add_pooling_layer=True, **fields):
    """A model with lively weights, in eval mode."""
    return lively_(BertModel(BertConfig(**SIZES | fields), add_pooling_layer)).eval()


@st.composite
def cases(draw):
    """A random configuration, with a pooler or not, and a call; some rows may be hidden entirely, but not all."""
    d = differential.Draw(draw)
    fields = differential.draw_fields(d)
    fields |= {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
    fields |= {"chunk_size_feed_forward": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    batch, seq = d.whole(1, 5), d.whole(1, fields["max_position_embeddings"])
    call: dict[str, torch.Tensor] = {"input_ids": d.ids(fields["vocab_size"], batch, seq)}
    if d.yes():
        call["token_type_ids"] = d.ids(fields["type_vocab_size"], *d.one((batch, seq), (1, seq), (seq,)))
    if d.yes(one_in=3):
        call["position_ids"] = d.ids(fields["max_position_embeddings"], *d.one((batch, seq), (1, seq), (seq,)))
    mask = d.one(d.ids(2, batch, seq), torch.ones(batch, seq).long(), torch.ones(batch, seq).tril().long())
    mask[d.whole(0, batch - 1), d.whole(0, seq - 1)] = 1
    if d.yes(one_in=4):
        call["input_ids"] = call["input_ids"].int()
    return fields, not d.yes(one_in=4), call | {"attention_mask": d.one(mask, mask.bool(), mask.float())}


def losses(states, pooled, mask):
    """One number for the visible tokens, and one for the rows whose first token is visible."""
    weights = torch.arange(1.0, 1 + states.numel(), dtype=states.dtype).sin().view_as(states)
    whole = mask[:, 0]
    total = (states * weights)[mask].sum()
    return total if pooled is None else total + (pooled * weights[:, 0])[whole].square().sum()


@seed(0)
@settings(differential.SETTINGS, max_examples=80)
@given(cases())
def test_packed_is_padded(case):
    fields, has_pooler, call = case
    model = lively_(BertModel(BertConfig(**fields), has_pooler)).eval().double()
    mask = call["attention_mask"].bool()
    found = []
    for run in (model, model.packed):
        output = run(**call, **({"return_dict": True, "output_attentions": False} if run is model else {}))
        model.zero_grad()
        losses(output.last_hidden_state, output.pooler_output, mask).backward()
        found.append((output, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (padded, expected), (packed, gradients) = found
    torch.testing.assert_close(packed.last_hidden_state[mask], padded.last_hidden_state[mask])
    assert not packed.last_hidden_state[~mask].any()
    assert (packed.pooler_output is None) == (padded.pooler_output is None)
    for name in expected:
        mine = gradients.get(name, torch.zeros_like(expected[name]))
        torch.testing.assert_close(mine, expected[name], rtol=1e-6, atol=1e-8, msg=name)
    if packed.pooler_output is not None:
        whole, empty = mask[:, 0], ~mask.any(1)
        torch.testing.assert_close(packed.pooler_output[whole], padded.pooler_output[whole])
        assert not packed.pooler_output[empty].any()
        again = model.packed(**call, only_pooled=True)
        torch.testing.assert_close(again.pooler_output, packed.pooler_output)
        assert again.last_hidden_state is None


@pytest.mark.parametrize("fields", [{"chunk_size_feed_forward": 7}, {"num_hidden_layers": 0}, {"num_hidden_layers": 1}])
def test_configurations_of_one_padded_length(fields):
    model, batch = make(**fields), sample_batch()
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        packed, padded, pooled = model.packed(**batch), model(**batch), model.packed(**batch, only_pooled=True)
    torch.testing.assert_close(packed.last_hidden_state[mask], padded.last_hidden_state[mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled.pooler_output, padded.pooler_output, atol=1e-5, rtol=0)


def test_pruned_heads():
    model, batch = make(), sample_batch()
    model.prune_heads({0: [1, 2], 3: [0]})
    with torch.no_grad():
        packed, padded = model.packed(**batch).pooler_output, model(**batch).pooler_output
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in ACT2FN if name != "gelu"])
def test_activations(name):
    model, batch = make(hidden_act=name, num_hidden_layers=1), sample_batch()
    with torch.no_grad():
        packed, padded = model.packed(**batch).pooler_output, model(**batch).pooler_output
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)


def test_training_with_checkpointing_and_dropout():
    model, batch = make().train(), sample_batch()
    gradients = []
    for _ in range(2):
        torch.manual_seed(0)
        model.zero_grad()
        model.packed(**batch).pooler_output.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert len(gradients[0]) == len(list(model.parameters())) and all(map(torch.equal, *gradients))
    model.eval()
    still = model.packed(**batch).pooler_output
    assert torch.equal(still, model.packed(**batch).pooler_output)
    model.train()
    assert not torch.allclose(model.packed(**batch).pooler_output, still)  # dropout is on


LENGTHS = [5, 2, 5, 1, 2, 5]


def ragged():
    """Ids and a mask of rows of these lengths, out of order."""
    mask = (torch.arange(5) < torch.tensor(LENGTHS)[:, None]).long()
    return torch.arange(30).view(6, 5) + 7, mask


def fused_calls(monkeypatch, call):
    """The shapes of the queries and the keys of each fused attention."""
    fused, made = torch.nn.functional.scaled_dot_product_attention, []

    def counting(query, key, value, **options):
        made.append((tuple(query.shape), tuple(key.shape)))
        return fused(query, key, value, **options)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
        call()
    return made


def test_one_fused_call_for_each_group_and_layer(monkeypatch):
    ids, mask = ragged()
    model = make(num_hidden_layers=2)
    groups = [((3, 5, 5, 6),) * 2, ((2, 5, 2, 6),) * 2, ((1, 5, 1, 6),) * 2]
    assert fused_calls(monkeypatch, lambda: model.packed(ids, mask)) == 2 * groups
    last = [((texts, heads, 1, size), key) for (texts, heads, _, size), key in groups]
    assert fused_calls(monkeypatch, lambda: model.packed(ids, mask, only_pooled=True)) == groups + last


def test_results_are_in_the_order_of_the_rows():
    ids, mask = ragged()
    model = make()
    with torch.no_grad():
        together = model.packed(ids, mask)
        for i, length in enumerate(LENGTHS):
            alone = model(ids[i : i + 1, :length])
            torch.testing.assert_close(together.pooler_output[i], alone.pooler_output[0], atol=1e-5, rtol=0)
            states = together.last_hidden_state[i, :length]
            torch.testing.assert_close(states, alone.last_hidden_state[0], atol=1e-5, rtol=0)


class Products(TorchDispatchMode):
    """The shapes of all results, and the multiplications of dense layers."""

    def __init__(self):
        super().__init__()
        self.shapes, self.multiplications = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.shapes += [tuple(x.shape) for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]
        if function is torch.ops.aten.addmm.default:
            self.multiplications += args[1].numel() * args[2].shape[1]
        return out


def products(call):
    with torch.no_grad(), Products() as seen:
        call()
    return seen


def test_tokens_that_are_not_computed():
    ids, mask = ragged()
    model = make(num_hidden_layers=2)
    tokens, texts, hidden, wide = sum(LENGTHS), len(LENGTHS), 30, SIZES["intermediate_size"]
    layer, pooler = tokens * (4 * hidden**2 + 2 * hidden * wide), texts * hidden**2
    assert products(lambda: model.packed(ids, mask)).multiplications == 2 * layer + pooler
    last = 2 * tokens * hidden**2 + texts * (2 * hidden**2 + 2 * hidden * wide)
    only = products(lambda: model.packed(ids, mask, only_pooled=True))
    assert only.multiplications == layer + last + pooler
    padded = products(lambda: model(ids, mask))
    assert padded.multiplications == ids.numel() / tokens * 2 * layer + pooler


def test_long_rows_have_no_matrix_of_tokens_by_tokens():
    length = 1024
    model = make(num_hidden_layers=1, max_position_embeddings=length, attn_implementation="eager")
    ids = torch.arange(2 * length).view(2, length) % 99
    for call in (lambda: model.packed(ids), lambda: model.packed(ids, only_pooled=True)):
        seen = products(call)
        assert not [shape for shape in seen.shapes if len([size for size in shape if size >= length]) > 1]
    assert [shape for shape in products(lambda: model(ids)).shapes if shape[-2:] == (length, length)]  # as it does


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.from_pretrained(minilm_folder())


def test_real_embeddings(encoder):
    inputs = encoder.tokenizer(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    mask = inputs["attention_mask"]
    with torch.no_grad():
        padded = encoder.model(**inputs).last_hidden_state
        packed = encoder.model.packed(**inputs).last_hidden_state
    weights = (mask / mask.sum(1, keepdim=True))[..., None]
    means = [torch.nn.functional.normalize((weights * states).sum(1)) for states in (padded, packed)]
    torch.testing.assert_close(*means, atol=2e-6, rtol=0)
    torch.testing.assert_close(encoder.encode(TEXTS), means[0], atol=2e-6, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_together_is_alone(encoder, pooling):
    own = SentenceEncoder(encoder.model, encoder.tokenizer, max_length=64, pooling=pooling)
    together = own.encode(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(vector, own.encode(text), atol=2e-6, rtol=0)


IDS, MASK = sample_batch()["input_ids"], sample_batch()["attention_mask"]
WRONG = [
    ({"input_ids": IDS.float()}, TypeError, "input_ids has dtype torch.float32"),
    ({"input_ids": IDS[0]}, ValueError, r"input_ids has shape \(7,\)"),
    ({"input_ids": IDS.tolist()}, TypeError, "input_ids is a list"),
    ({"input_ids": IDS[:0]}, ValueError, "batch is 0"),
    ({"input_ids": IDS[:, :0]}, ValueError, r"input_ids has shape \(3, 0\)"),
    ({"input_ids": IDS.masked_fill(MASK == 0, 5).index_fill(1, torch.tensor([4]), 99)}, ValueError, r"99 at \[0, 4\]"),
    ({"input_ids": torch.ones(2, 24).long()}, ValueError, "the sequence has 24 tokens"),
    ({"token_type_ids": IDS.T % 2}, ValueError, r"token_type_ids has shape \(7, 3\)"),
    ({"token_type_ids": (IDS % 2).repeat(2, 1)}, ValueError, r"token_type_ids has shape \(6, 7\)"),
    ({"token_type_ids": MASK.bool()}, TypeError, "token_type_ids has dtype torch.bool"),
    ({"token_type_ids": MASK.tolist()}, TypeError, "token_type_ids has dtype list"),
    ({"token_type_ids": 2 * MASK}, ValueError, r"token_type_ids holds 2 at \[0, 0\]"),
    ({"position_ids": IDS[:, :1]}, ValueError, r"position_ids has shape \(3, 1\)"),
    ({"position_ids": -MASK}, ValueError, r"position_ids holds -1 at \[0, 0\]"),
    ({"attention_mask": MASK.tolist()}, TypeError, "attention_mask is a list"),
    ({"attention_mask": MASK * float("nan")}, ValueError, "attention_mask holds nan"),
    ({"attention_mask": 0 * MASK}, ValueError, "attention_mask is 'zeros alone'"),
]


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("call", "error", "says"), WRONG)
def test_wrong_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        make(num_hidden_layers=1).packed(**{"input_ids": IDS, "attention_mask": None} | call)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("lengths", [5, None, "ab", torch.tensor([3, 4]), {3: 1}])
def test_lengths_are_a_list(lengths):
    with pytest.raises(TypeError, match="lengths is a .*, expected a list of whole numbers"):
        Packing(lengths)


@pytest.mark.usefixtures("as_a_user")
def test_a_packing_that_does_not_fit():
    model, states = make(num_hidden_layers=1), torch.randn(1, 7, 30)
    for ids in (IDS, IDS[:1, :6]):  # three rows; a token too few
        with pytest.raises(ValueError, match=r"input_ids has shape .* expected \(1, 7\)"):
            model.encode_packed(Packing([3, 4]), ids)
    for others in ({"head_mask": [torch.zeros(1, 5, 1, 1)]}, {"output_attentions": True}):
        with pytest.raises(ValueError, match="attention_mask is 'a Packing'"):
            model.encoder(states, Packing([3, 4]), **others)
    relative = make(num_hidden_layers=1, position_embedding_type="relative_key")
    with pytest.raises(ValueError, match="attention_mask is 'a Packing'"):
        relative.encoder(states, Packing([3, 4]))
    assert not make(add_pooling_layer=False).packed(IDS, MASK).pooler_output
