"""Each of these faults, planted in a copy of minibert, is found by the differential fuzz within 10,000 examples."""

import importlib
import shutil
import sys
import warnings
from pathlib import Path

import differential
import pytest
from hypothesis import Phase, given, seed, settings

PACKAGE = Path(__file__).resolve().parents[1] / "minibert"
FAULTS = {
    "embeddings": {
        "positions start over after the cache": ("start, default = past_key_values_length,", "start, default = 0,"),
        "segments ignored": ('"token_type_ids", token_type_ids, shape', '"token_type_ids", token_type_ids * 0, shape'),
        "absolute positions beside relative ones": ('if self.position_embedding_type == "absolute"', "if True"),
        "padding row trained": ("padding_idx=config.pad_token_id", "padding_idx=None"),
        "eps of torch's default": ("eps=config.layer_norm_eps", "eps=1e-5"),
    },
    "masking": {
        "-10000 for the most negative number": ("torch.finfo(hidden_states.dtype).min", "-10000.0"),
        "minus infinity": ("torch.finfo(hidden_states.dtype).min", "-torch.inf"),
        "one row of the mask for all queries": (
            "visible = attention_mask[:, None, :, :]",
            "visible = attention_mask[:, None, :1, :]",
        ),
        "decoder sees what comes": ("if is_decoder else", "if False else"),
    },
    "causal": {
        "a token does not see itself": ("<= place[None, :, None]", "< place[None, :, None]"),
        "a token sees the next": ("<= place[None, :, None]", "<= place[None, :, None] + 1"),
        "cached tokens hidden": ("cached = torch.ones(", "cached = torch.zeros("),
        "padding forgotten": ("* attention_mask[:, None, None, :]", "* (attention_mask * 0 + 1)[:, None, None, :]"),
    },
    "attention": {
        "scale left out": (" / math.sqrt(query.shape[-1])", ""),
        "scale by all heads": ("math.sqrt(query.shape[-1])", "math.sqrt(query.shape[1] * query.shape[-1])"),
        "mask multiplied": ("        scores = scores + mask", "        scores = scores * (mask == 0)"),
        "softmax over the queries": ("softmax(scores, dim=-1)", "softmax(scores, dim=-2)"),
        "head mask before the softmax": (
            "probs = dropout(nn",
            "head_mask, scores = None, scores if head_mask is None else scores * head_mask\n    probs = dropout(nn",
        ),
        "dropout left out": (
            "probs = dropout(nn.functional.softmax(scores, dim=-1))",
            "probs = nn.functional.softmax(scores, dim=-1)",
        ),
        "relative scores not scaled": (
            "positions.add_to(scores, query, key)",
            "positions.add_to(scores / math.sqrt(query.shape[-1]), query, key) * math.sqrt(query.shape[-1])",
        ),
        "cross attention without its mask": ("if is_self else encoder_attention_mask", "if is_self else None"),
        "new keys before the cached": ("torch.cat([past[0], key], dim=2)", "torch.cat([key, past[0]], dim=2)"),
        "cache of the last token alone": ("*([(key, value)] if", "*([(key[:, :, -1:], value[:, :, -1:])] if"),
        "keys and values swapped in the cache": ("*([(key, value)] if", "*([(value, key)] if"),
        "fused attention sees what comes": ("self.is_decoder and is_self and mask is None", "False"),
        "fused attention causal in encoders": (
            "self.is_decoder and is_self and mask is None",
            "is_self and mask is None",
        ),
        "fused attention drops in eval mode": ("self.dropout.p * self.training", "self.dropout.p"),
        "fused attention without distances": (' == "sdpa" and kind == "absolute"', ' == "sdpa"'),
        "residual left out": ("self.LayerNorm(hidden_states + input_tensor)", "self.LayerNorm(hidden_states)"),
        "heads renumbered after pruning": ("if head not in self.pruned_heads]", "][:left]"),
    },
    "relative": {
        "distances turned round": ("place[key - query :, None] - place", "place - place[key - query :, None]"),
        "cache not counted in distances": ("place[key - query :, None]", "place[:query, None]"),
        "keys have no say": ("else scores + by_query + by_key", "else scores + by_query"),
        "keys' say given to queries": ('"bhrd,lrd->bhlr", key, vectors', '"bhld,lrd->bhlr", query, vectors'),
    },
    "heads": {
        "layers of the head mask reversed": (
            "masks = head_mask[:, None, :, None, None]",
            "masks = head_mask.flip(0)[:, None, :, None, None]",
        ),
        "wrong columns cut": ("* head_dim + torch.arange(head_dim)", "+ len(heads) * torch.arange(head_dim)"),
    },
    "layer": {
        "feed-forward residual left out": (
            "self.output(self.intermediate(attended), attended)",
            "self.output(self.intermediate(attended), 0 * attended)",
        ),
        "chunks in reverse": ("in hidden_states.split(size, dim=1)]", "in hidden_states.split(size, dim=1)[::-1]]"),
        "cross cache before the other": ("others[-1] + across[-1]", "across[-1] + others[-1]"),
        "cross attention looks from the layer's input": ("self.cross(attended, ", "self.cross(hidden_states, "),
        "cross probabilities before the others": ("[*others[:-1], *across[:-1], ", "[*across[:-1], *others[:-1], "),
    },
    "encoder": {
        "embeddings not among the hidden states": ("self.hidden_states = [embeddings]", "self.hidden_states = []"),
        "first layer's head mask for all": (
            "head_mask or nothing",
            "[head_mask[0]] * len(head_mask) if head_mask else nothing",
        ),
        "first layer's cache for all": (
            "past_key_values or nothing",
            "[past_key_values[0]] * len(nothing) if past_key_values else nothing",
        ),
        "cache kept with checkpointing": (
            "if use_cache and self.is_decoder and self.gradient_checkpointing and self.training:",
            "if False:",
        ),
        "attentions in place of cross attentions": ("tuple(others[1] for", "tuple(others[0] for"),
        "embeddings returned": ("last_hidden_state=self.last", "last_hidden_state=self.hidden_states[-1]"),
    },
    "pooler": {"last token pooled": ("hidden_states[:, 0]", "hidden_states[:, -1]")},
    "model": {
        "tuple in the order of the class": (
            "return encoded[0], vectors, *encoded.to_tuple()[1:]",
            "return BaseModelOutputWithPoolingAndCrossAttentions(pooler_output=vectors, **encoded).to_tuple()",
        ),
        "encoder's mask ignored": ("make_mask(encoder_attention_mask, ", "make_mask(None, "),
        "config's switch wins over the call": ("if flag is None else flag for", "or bool(flag) for"),
    },
    "config": {"torchscript ignored": ("return self.return_dict and not self.torchscript", "return self.return_dict")},
    "surgery": {
        "new rows not as a new model's": ("    init_weights_(longer, std)\n", ""),
        "old rows shifted": (
            "longer.weight[:kept] = table.weight[:kept]",
            "longer.weight[:kept] = table.weight[-kept:]",
        ),
    },
    "sdpa": {
        "padding not hidden": ("attention_mask.ndim == 3 or not (attention_mask == 1).all()", "False"),
        "several new tokens after a cache see each other": ("query in (1, key)", "True"),
    },
    "activations": {
        "tanh for erf": ('"gelu": nn.GELU,', '"gelu": partial(nn.GELU, approximate="tanh"),'),
        "another constant in quick_gelu": ("1.702", "1.7"),
        "relu2 not squared": ("torch.square(nn.functional.relu(x))", "nn.functional.relu(x)"),
        "gelu_10 clipped at 1": ("-10, 10)", "-10, 1)"),
        "gelu_fast with the full constant": ("0.7978845608", "math.sqrt(2.0 / math.pi)"),
    },
}


@pytest.fixture
def with_fault(tmp_path, as_a_user):
    """A function that plants a fault in a copy of minibert and makes the fuzz use this copy."""
    original = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "minibert"}

    def plant(module, right, wrong):
        path = tmp_path / "minibert" / f"{module}.py"
        shutil.copytree(PACKAGE, path.parent, ignore=shutil.ignore_patterns("__pycache__"))
        source = path.read_text()
        assert right in source, "the module no longer has the line that this fault changes"
        path.write_text(source.replace(right, wrong))
        for name in original:
            del sys.modules[name]
        sys.path.insert(0, str(tmp_path))
        importlib.invalidate_caches()
        importlib.reload(differential)
        assert Path(sys.modules[f"minibert.{module}"].__file__) == path

    yield plant
    sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "minibert"]:
        del sys.modules[name]
    sys.modules.update(original)
    importlib.reload(differential)


@pytest.mark.parametrize(
    ("module", "fault"), [(module, fault) for module, faults in FAULTS.items() for fault in faults]
)
def test_fault_is_found(module, fault, with_fault, record_property):
    with_fault(module, *FAULTS[module][fault])
    tried = 0

    @seed(0)
    @settings(differential.SETTINGS, max_examples=10_000, phases=[Phase.generate])
    @given(differential.cases())
    def compare(case):
        nonlocal tried
        tried += 1
        differential.compare(case)

    # Other numbers than the reference's, or minibert's own error where the reference has none.
    with warnings.catch_warnings(), pytest.raises((AssertionError, ValueError)):
        warnings.simplefilter("ignore")
        compare()
    record_property("examples until found", tried)
