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
        "scale left out": (" / math.sqrt(self.attention_head_size)", ""),
        "scale by the hidden size": ("math.sqrt(self.attention_head_size)", "math.sqrt(self.query.out_features)"),
        "softmax over the queries": ("softmax(scores, dim=-1)", "softmax(scores, dim=-2)"),
        "mask left out": ("scores = scores + attention_mask", "pass"),
        "mask multiplied": ("scores = scores + attention_mask", "scores = scores * (attention_mask == 0)"),
        "mask after the softmax": (
            "self.dropout(nn.functional.softmax(scores, dim=-1))",
            "self.dropout(nn.functional.softmax(scores - attention_mask, dim=-1)) * (attention_mask == 0)",
        ),
        "heads not transposed": (
            "x.unflatten(-1, (heads, -1)).transpose(1, 2)",
            "x.reshape(x.shape[0], heads, x.shape[1], -1)",
        ),
        "heads and columns swapped": ("x.unflatten(-1, (heads, -1))", "x.unflatten(-1, (-1, heads)).transpose(-1, -2)"),
        "query and key swapped": (
            "projections = (self.query, self.key, self.value)",
            "projections = (self.key, self.query, self.value)",
        ),
        "residual left out": ("self.LayerNorm(hidden_states + input_tensor)", "self.LayerNorm(hidden_states)"),
        "norm before the addition": (
            "self.LayerNorm(hidden_states + input_tensor)",
            "self.LayerNorm(hidden_states) + input_tensor",
        ),
    },
    "06_layer": {
        "tanh approximation for gelu": ('"gelu": nn.GELU', '"gelu": NewGELUActivation'),
        "residual from the layer's input": (
            "self.output(self.intermediate(attended), attended)",
            "self.output(self.intermediate(attended), hidden_states)",
        ),
        "feed-forward on the wrong tensor": (
            "self.output(self.intermediate(attended), attended)",
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
        "every layer fed the embeddings": ("*probs = layer(hidden_states, ", "*probs = layer(all_hidden_states[0], "),
        "attentions cut off from the graph": (
            "all_attentions += probs",
            "all_attentions += [p.detach() for p in probs]",
        ),
        "one layer short": ("for layer in self.layer:", "for layer in self.layer[:-1]:"),
        "mask for no layer": ("layer(hidden_states, attention_mask, ", "layer(hidden_states, None, "),
    },
    "09_pooler": {
        "last token": ("hidden_states[:, 0]", "hidden_states[:, -1]"),
        "mean of the tokens": ("hidden_states[:, 0]", "hidden_states.mean(1)"),
        "no tanh": ("self.activation(self.dense(hidden_states[:, 0]))", "self.dense(hidden_states[:, 0])"),
    },
    "10_model": {
        "mask forgotten": (
            "extended_attention_mask(attention_mask, embeddings)",
            "extended_attention_mask(None, embeddings)",
        ),
        "segments and positions swapped": (
            "self.embeddings(input_ids, token_type_ids, position_ids, ",
            "self.embeddings(input_ids, position_ids, token_type_ids, ",
        ),
        "pooled from the embeddings": ("self.pooler(encoded[0])", "self.pooler(embeddings)"),
        "another deviation of new weights": ("std=std)", "std=0.03)"),
        "missing weights not noticed": ("if names:", 'if names and what != "lacks":'),
        "weights shared with the file": ("{name: copy_aligned(tensor).to(", "{name: tensor.to("),
    },
    "12_walk": {
        "every row agrees": ("agree += same", "agree += 1"),
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
