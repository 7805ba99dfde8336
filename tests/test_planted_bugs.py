"""A bug planted in a page's own code makes that page fail: none of its checks passes by accident."""

import re

import nbformat
import nbrun
import pytest

BUGS = {
    "00_check": {
        "values never compared": ("if largest > atol:", "if largest > 1e9:"),
        "shapes may be stretched": ("if mine.shape != reference.shape:", "if mine.numel() < reference.numel():"),
        "constants accepted": ("if not spread > atol >= 0:", "if spread < 0:"),
    },
    "01_trace": {
        "no copy before the next write": ("result.detach().clone()", "result.detach()"),
        "views recorded": ("if inputs and memory(x) not in map(memory, inputs)]", "if inputs]"),
        "in-place writes lost": ("if writes(x) > n] or inputs[: is_in_place(func)]", "if False]"),
        "sources forgotten": ("list(dict.fromkeys(", "list(dict.fromkeys(() and "),
    },
    "02_config": {
        "cross attention with relative positions": (
            'config.num_attention_heads, "absolute")',
            "config.num_attention_heads, kind)",
        ),
        "one distance too few": (
            "(2 * config.max_position_embeddings - 1, head_dim)",
            "(2 * config.max_position_embeddings - 2, head_dim)",
        ),
        "cached tokens forgotten": ("batch, seq, past + seq, seq)", "batch, seq, seq, seq)"),
        "pooler always counted": (
            "config.hidden_size, config.hidden_size) if add_pooling_layer else 0",
            "config.hidden_size, config.hidden_size)",
        ),
    },
    "03_embeddings": {
        "segments ignored": (
            "embeddings = words + look_up(self.token_type_embeddings, ",
            "embeddings = words + 0 * look_up(self.token_type_embeddings, ",
        ),
        "segments off by one": (
            '"token_type_ids", token_type_ids, shape)',
            '"token_type_ids", 1 - token_type_ids, shape)',
        ),
        "positions from 1": (
            "torch.arange(config.max_position_embeddings)[None]",
            "torch.arange(1, config.max_position_embeddings + 1)[None]",
        ),
        "eps of torch's default": ("eps=config.layer_norm_eps", "eps=1e-5"),
        "no norm": ("self.dropout(self.LayerNorm(embeddings))", "self.dropout(embeddings)"),
        "padding row trained": ("padding_idx=config.pad_token_id", "padding_idx=None"),
    },
    "04_masking": {
        "mask inverted": ("(1.0 - visible.to(", "(visible.to("),
        "-10000 for the most negative number": ("torch.finfo(hidden_states.dtype).min", "-10000.0"),
        "minus infinity": ("torch.finfo(hidden_states.dtype).min", "-torch.inf"),
        "queries masked instead of keys": ("attention_mask[:, None, None, :]", "attention_mask[:, None, :, None]"),
    },
    "05_attention": {
        "scale left out": (" / math.sqrt(query.shape[-1])", ""),
        "scale by the hidden size": ("math.sqrt(query.shape[-1])", "math.sqrt(query.shape[1] * query.shape[-1])"),
        "softmax over the queries": ("softmax(scores, dim=-1)", "softmax(scores, dim=-2)"),
        "mask left out": ("scores = scores + mask", "pass"),
        "mask multiplied": ("scores = scores + mask", "scores = scores * (mask == 0)"),
        "mask after the softmax": (
            "dropout(nn.functional.softmax(scores, dim=-1))",
            "dropout(nn.functional.softmax(scores - mask, dim=-1)) * (mask == 0)",
        ),
        "heads not transposed": (
            "x.unflatten(-1, (heads, -1)).transpose(1, 2)",
            "x.reshape(x.shape[0], heads, x.shape[1], -1)",
        ),
        "heads and columns swapped": ("x.unflatten(-1, (heads, -1))", "x.unflatten(-1, (-1, heads)).transpose(-1, -2)"),
        "query and key swapped": ("scores = query @ key.transpose(-1, -2)", "scores = key @ query.transpose(-1, -2)"),
        "residual left out": ("self.LayerNorm(hidden_states + input_tensor)", "self.LayerNorm(hidden_states)"),
        "norm before the addition": (
            "self.LayerNorm(hidden_states + input_tensor)",
            "self.LayerNorm(hidden_states) + input_tensor",
        ),
    },
    "06_layer": {
        "residual from the layer's input": (
            "in_chunks(self.feed_forward, self.chunk_size_feed_forward, attended)",
            "self.output(self.intermediate(attended), hidden_states)",
        ),
        "feed-forward on the wrong tensor": (
            "in_chunks(self.feed_forward, self.chunk_size_feed_forward, attended)",
            "self.output(self.intermediate(hidden_states), attended)",
        ),
        "activation missing": ("self.intermediate_act_fn(self.dense(hidden_states))", "self.dense(hidden_states)"),
        "eps of torch's default": ("eps=config.layer_norm_eps", "eps=1e-5"),
    },
    "07_outputs": {
        "absent outputs kept": ("is not None:", "is not ...:"),
        "index by position in the dictionary's keys": ("else self.to_tuple()[key]", "else tuple(self)[key]"),
    },
    "08_encoder": {
        "every layer fed the embeddings": ("self.run(layer, kept.last, ", "self.run(layer, hidden_states, "),
        "attentions cut off from the graph": ("[x for x in others if", "[x.detach() for x in others if"),
        "one layer short": ("zip(self.layer, head_mask or nothing", "zip(self.layer[:-1], head_mask or nothing[1:]"),
        "mask for no layer": ("kept.last, attention_mask, mask", "kept.last, None, mask"),
        "everything kept": (
            "self.hidden_states += [hidden_states] if wants_states else []",
            "self.hidden_states.append(hidden_states)",
        ),
    },
    "09_pooler": {
        "last token": ("hidden_states[:, 0]", "hidden_states[:, -1]"),
        "mean of the tokens": ("hidden_states[:, 0]", "hidden_states.mean(1)"),
        "no tanh": ("self.activation(self.dense(hidden_states[:, 0]))", "self.dense(hidden_states[:, 0])"),
    },
    "10_model": {
        "mask forgotten": (
            "make_mask(attention_mask, embeddings, ",
            "make_mask(None, embeddings, ",
        ),
        "segments and positions swapped": (
            "self.embeddings(input_ids, token_type_ids, position_ids, ",
            "self.embeddings(input_ids, position_ids, token_type_ids, ",
        ),
        "pooled from the embeddings": ("self.pooler(encoded[0])", "self.pooler(encoded[0] * 2)"),
        "another deviation of new weights": (
            "init_weights_(module, config.initializer_range)",
            "init_weights_(module, 0.03)",
        ),
        "no None for a missing pooler": (
            "return encoded[0], vectors, *",
            "return encoded[0], *([] if vectors is None else [vectors]), *",
        ),
        "missing weights not noticed": ("if names:", 'if names and what != "lacks":'),
        "weights shared with the file": ("{name: copy_aligned(tensor).to(", "{name: tensor.to("),
    },
    "12_walk": {
        "every row agrees": ("agree += same", "agree += 1"),
    },
    "13_activations": {
        "tanh form not asked for": ('partial(nn.GELU, approximate="tanh")', "nn.GELU"),
        "short constant": ("0.7978845608", "0.79788456"),
        "accurate is fast": (
            '"gelu_accurate": partial(Formula, gelu_new)',
            '"gelu_accurate": partial(Formula, gelu_fast)',
        ),
        "clipped at 0": ("(x), -10, 10)", "(x), 0, 10)"),
    },
    "14_relative": {
        "distance turned round": ("place[key - query :, None] - place", "place - place[key - query :, None]"),
        "cached tokens forgotten": ("place[key - query :, None]", "place[:query, None]"),
        "rows off by one": ("+ self.longest - 1)", "+ self.longest - 2)"),
        "key's term made from the query": (
            'torch.einsum("bhrd,lrd->bhlr", key, vectors)',
            'torch.einsum("bhld,lrd->bhlr", query, vectors)',
        ),
    },
    "15_causal": {
        "a token that does not see itself": ("place[None, None, :] <= place", "place[None, None, :] < place"),
        "a token that sees the next": ("<= place[None, :, None])", "<= place[None, :, None] + 1)"),
        "cached tokens behind": ("torch.cat([cached, visible], dim=-1)", "torch.cat([visible, cached], dim=-1)"),
        "padding forgotten": (
            " * attention_mask[:, None, None, :]",
            " * torch.ones_like(attention_mask)[:, None, None, :]",
        ),
    },
    "17_cache": {
        "one cached token short": (
            "return past_key_values[0][0].shape[2] if",
            "return past_key_values[0][0].shape[2] - 1 if",
        ),
        "extra layers ignored": ("if len(past_key_values) != len(heads):", "if len(past_key_values) < len(heads):"),
        "values not compared with keys": ("for _ in range(2):", "for _ in range(1):"),
        "a third tensor ignored": ("len(layer) not in {2, len(shapes)}", "len(layer) < 2"),
    },
    "18_heads": {
        "head order lost": ("torch.arange(head_dim)).flatten()", "torch.arange(head_dim)).T.flatten()"),
        "more rows than layers accepted": ("and layers == len(sizes)", "and layers >= len(sizes)"),
        "one mask row for all layers": (
            "masks = head_mask[:, None, :, None, None]",
            "masks = head_mask[:1, None, :, None, None].expand(len(head_mask), -1, -1, -1, -1)",
        ),
        "frozen weights thawed": (
            "nn.Parameter(weight, requires_grad=linear.weight.requires_grad)",
            "nn.Parameter(weight)",
        ),
    },
    "19_surgery": {
        "new rows on top": (
            "longer.weight[:kept] = table.weight[:kept]",
            "longer.weight[-kept:] = table.weight[-kept:]",
        ),
        "another parameter": ("table.weight.data = longer.weight.data", "table.weight = longer.weight"),
        "rounded down": ("rows = -(-rows // step) * step", "rows = rows // step * step"),
        "the older kind of checkpointing": ('{"use_reentrant": False} | (', '{"use_reentrant": True} | ('),
    },
    "20_sdpa": {
        "single query causal": ("is_causal = is_causal and query.shape[2] > 1", "pass"),
        "no dropout": ("dropout_p=dropout_p, is", "dropout_p=0.0, is"),
        "no mask after a cache": ("query in (1, key)", "query <= key"),
        "rows ignored": (
            "(attention_mask.ndim == 3 or not (attention_mask == 1).all())",
            "not (attention_mask == 1).all()",
        ),
    },
}


@pytest.mark.parametrize(("page", "bug"), [(page, bug) for page, bugs in BUGS.items() for bug in bugs])
def test_page_fails(page, bug, tmp_path):
    right, wrong = BUGS[page][bug]
    nb = nbformat.read(nbrun.ROOT / "nbs" / f"{page}.ipynb", as_version=4)
    exported = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.startswith("#| export")]
    assert any(right in cell.source for cell in exported), "the page no longer has the line that this bug changes"
    for cell in exported:
        cell.source = cell.source.replace(right, wrong)
    nbformat.write(nb, tmp_path / f"{page}.ipynb")
    with pytest.raises(nbrun.NotebookFailed, match="a cell failed") as failure:
        nbrun.execute(tmp_path / f"{page}.ipynb")
    assert not re.search("(Syntax|Name|Import)Error", str(failure.value)), "the bug does not run"
