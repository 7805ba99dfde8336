"""Bad input meets an error that names the argument or the file, what was found and what was expected."""

import json
import re
import warnings

import pytest
import torch
from jaxtyping import TypeCheckError
from safetensors.torch import save_file

from minibert.attention import BertSelfAttention
from minibert.check import SIZES, lively_, sample_batch
from minibert.config import BertConfig
from minibert.layer import BertIntermediate
from minibert.model import BertModel
from minibert.walk import encode, main, minilm_folder

INPUTS = sample_batch()
IDS, MASK, SEGMENTS = INPUTS["input_ids"], INPUTS["attention_mask"], INPUTS["token_type_ids"]
EMBEDS = torch.randn(3, 7, 30, generator=torch.Generator().manual_seed(0))


def with_value(tensor, index, value):
    changed = tensor.clone()
    changed[index] = value
    return changed


CALLS = {
    "no input": ({}, "You have to specify either input_ids or inputs_embeds"),
    "two inputs": ({"input_ids": IDS, "inputs_embeds": EMBEDS}, "You cannot specify both input_ids and inputs_embeds"),
    "id too large": ({"input_ids": with_value(IDS, (2, 1), 99)}, "input_ids holds 99 at [2, 1], but vocab_size is 99"),
    "id negative": ({"input_ids": with_value(IDS, (0, 3), -1)}, "input_ids holds -1 at [0, 3], but vocab_size is 99"),
    "ids without a batch": ({"input_ids": IDS[0]}, "input_ids has shape (7,), expected (batch, seq)"),
    "no tokens": (
        {"input_ids": IDS[:, :0]},
        "input_ids has shape (3, 0), expected (batch, seq) with at least one token",
    ),
    "embeds of another size": (
        {"inputs_embeds": EMBEDS[..., :29]},
        "inputs_embeds has shape (3, 7, 29), expected (batch, seq, 30)",
    ),
    "segment too large": (
        {"input_ids": IDS, "token_type_ids": with_value(SEGMENTS, (1, 2), 2)},
        "token_type_ids holds 2 at [1, 2], but type_vocab_size is 2",
    ),
    "segments too short": (
        {"input_ids": IDS, "token_type_ids": SEGMENTS[:, :6]},
        "token_type_ids has shape (3, 6), expected (batch, seq) = (3, 7)",
    ),
    "position too large": (
        {"input_ids": IDS, "position_ids": torch.arange(17, 24)[None]},
        "position_ids holds 23 at [0, 6], but max_position_embeddings is 23",
    ),
    "sequence too long": (
        {"input_ids": torch.ones(1, 24, dtype=torch.int64)},
        "the sequence has 24 tokens, but max_position_embeddings is 23",
    ),
    "mask too long": ({"input_ids": IDS, "attention_mask": torch.ones(3, 8)}, "attention_mask has shape (3, 8)"),
    "mask of one row": ({"input_ids": IDS, "attention_mask": torch.ones(1, 7)}, "attention_mask has shape (1, 7)"),
    "mask of four axes": (
        {"input_ids": IDS, "attention_mask": torch.ones(3, 1, 1, 7)},
        "attention_mask has shape (3, 1, 1, 7)",
    ),
    "mask of halves": (
        {"input_ids": IDS, "attention_mask": with_value(MASK.float(), (1, 4), 0.5)},
        "attention_mask holds 0.5 at [1, 4]",
    ),
    "mask already additive": (
        {"input_ids": IDS, "attention_mask": (1 - MASK) * -10000},
        "attention_mask holds -10000 at [1, 6]",
    ),
    "mask not a number": (
        {"input_ids": IDS, "attention_mask": with_value(MASK.float(), (0, 0), torch.nan)},
        "attention_mask holds nan at [0, 0]",
    ),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS.keys())
def test_call(call, message, as_a_user):
    with pytest.raises(ValueError, match=re.escape(message)):
        BertModel(BertConfig(**SIZES))(**call)


def pair(heads=5, past=2, batch=3):
    return (torch.zeros(batch, heads, past, 6),) * 2


OTHER = torch.zeros(3, 4, 30)
CACHE = (pair(),) * 4
DECODER_CALLS = {
    "three axes in a head mask": ({"head_mask": torch.ones(4, 5, 1)}, "head_mask has shape (4, 5, 1), expected"),
    "head mask of one head": ({"head_mask": torch.ones(1)}, "head_mask has shape (1,), expected (heads,) = (5,)"),
    "more rows than layers": ({"head_mask": torch.ones(6, 5)}, "head_mask has shape (6, 5)"),
    "head mask of another length": ({"head_mask": torch.ones(4, 1, 1, 1, 6)}, "head_mask has shape (4, 1, 1, 1, 6)"),
    "a layer short in the cache": ({"past_key_values": CACHE[:3]}, "past_key_values has 3 items, expected one"),
    "three tensors": ({"past_key_values": ((*pair(), OTHER),) * 4}, "past_key_values[0] has 3 items, expected 2"),
    "four tensors and no encoder": (
        {"past_key_values": ((*pair(), *pair()),) * 4},
        "past_key_values[0] has 4 items, expected 2 tensors (4 only together with encoder_hidden_states)",
    ),
    "cache of other heads": ({"past_key_values": (pair(heads=6),) * 4}, "past_key_values[0][0] has shape (3, 6, 2, 6)"),
    "cache of another batch": ({"past_key_values": (pair(batch=1),) * 4}, "past_key_values[0][0] has shape (1, 5"),
    "cache of uneven length": (
        {"past_key_values": (*CACHE[:3], pair(past=3))},
        "past_key_values[3][0] has shape (3, 5, 3, 6), expected (3, 5, 2, 6)",
    ),
    "cache too long": ({"past_key_values": (pair(past=17),) * 4}, "the sequence has 7 tokens after 17 cached ones"),
    "mask without the cached tokens": (
        {"past_key_values": CACHE, "attention_mask": MASK},
        "attention_mask has shape (3, 7), expected (batch, key) = (3, 9)",
    ),
    "encoder of another size": (
        {"encoder_hidden_states": OTHER[..., :29]},
        "encoder_hidden_states has shape (3, 4, 29), expected (3, seq, 30)",
    ),
    "encoder of another batch": ({"encoder_hidden_states": OTHER[:1]}, "encoder_hidden_states has shape (1, 4, 30)"),
    "encoder mask alone": ({"encoder_attention_mask": MASK}, "encoder_hidden_states is None, expected a tensor"),
    "encoder mask of another length": (
        {"encoder_hidden_states": OTHER, "encoder_attention_mask": MASK},
        "encoder_attention_mask has shape (3, 7), expected (batch, key) = (3, 4)",
    ),
}


@pytest.mark.parametrize(("call", "message"), DECODER_CALLS.values(), ids=DECODER_CALLS.keys())
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_call_of_a_decoder(call, message, implementation, as_a_user):
    config = BertConfig(**SIZES, is_decoder=True, add_cross_attention=True, attn_implementation=implementation)
    with warnings.catch_warnings(), pytest.raises(ValueError, match=re.escape(message)):
        warnings.simplefilter("ignore")
        BertModel(config)(IDS, **call)


@pytest.mark.parametrize("fields", [{}, {"is_decoder": True}], ids=str)
def test_encoder_states_that_nobody_looks_at(fields, as_a_user):
    with pytest.raises(ValueError, match="since encoder_hidden_states was given"):
        BertModel(BertConfig(**SIZES, **fields))(IDS, encoder_hidden_states=OTHER)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_distances_that_have_no_vector(kind, as_a_user):
    model = BertModel(BertConfig(**SIZES, is_decoder=True, position_embedding_type=kind))
    with pytest.raises(ValueError, match="24 tokens, cached ones included, but max_position_embeddings is 23"):
        model(IDS, past_key_values=(pair(past=17),) * 4)


def test_a_rest_when_chunking():
    with pytest.raises(ValueError, match="chunked 7 has to be a multiple of the chunk size 2"):
        BertModel(BertConfig(**SIZES, chunk_size_feed_forward=2))(IDS)


@pytest.mark.parametrize("name", ["input_ids", "token_type_ids", "position_ids"])
def test_ids_that_are_not_whole_numbers(name, as_a_user):
    with pytest.raises(
        TypeError, match=f"{name} has dtype torch.float32, expected a tensor of torch.int64 or torch.int32"
    ):
        BertModel(BertConfig(**SIZES))(**{"input_ids": IDS} | {name: torch.zeros(3, 7)})


@pytest.mark.parametrize("value", [[[1, 2]], 1, True, "ids"])
@pytest.mark.parametrize(
    "name",
    ["input_ids", "token_type_ids", "position_ids", "inputs_embeds", "attention_mask", "head_mask", "past_key_values"],
)
def test_call_that_is_no_tensor(name, value, as_a_user):
    call = {name: value} if name in ("input_ids", "inputs_embeds") else {"input_ids": IDS, name: value}
    with pytest.raises(TypeError, match=name):
        BertModel(BertConfig(**SIZES))(**call)


FIELDS = {
    "hidden_size": [0, -768, 768.0, "768", True, None],
    "num_hidden_layers": [-1, 1.5],
    "num_attention_heads": [0],
    "vocab_size": [0],
    "hidden_dropout_prob": [-0.1, 1.1, "0.1", float("nan")],
    "attention_probs_dropout_prob": [2],
    "layer_norm_eps": [-1, float("nan"), None],
    "initializer_range": [-0.02],
    "pad_token_id": [30522, -1, 0.5],
    "position_embedding_type": ["relative", None],
    "is_decoder": [1, None],
    "use_cache": ["yes"],
    "chunk_size_feed_forward": [-1, 0.5],
    "add_cross_attention": [True],
    "attn_implementation": ["flash_attention_2", None],
    "problem_type": ["ranking"],
    "classifier_dropout": [1.5],
    "pruned_heads": [[0], {12: [0]}, {-1: [0]}],
    "hidden_act": [None, 3],
    "return_dict": ["False", 1, None],
    "output_attentions": ["no"],
}


@pytest.mark.parametrize("heads", [[12], [-1], [0.5], 0, list(range(12))])
def test_heads_that_cannot_be_pruned(heads, as_a_user):
    with pytest.raises(ValueError, match=re.escape(f"pruned_heads[3] is {heads!r}, expected")):
        BertConfig(pruned_heads={3: heads})


def test_a_refused_pruning_changes_nothing():
    model = BertModel(BertConfig(**SIZES))
    model.prune_heads({1: [0]})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for heads in ({1: [1, 2, 3, 4]}, {0: [1], 9: [0]}, {0: [5]}):
        with pytest.raises(ValueError, match="pruned_heads"):
            model.prune_heads(heads)
    assert model.config.pruned_heads == {1: [0]}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("rows", [0, -3, 2.5, "8"])
def test_a_word_table_of_no_size(rows, as_a_user):
    with pytest.raises(ValueError, match=f"new_num_tokens is {rows!r}, expected a whole number"):
        BertModel(BertConfig(**SIZES)).resize_token_embeddings(rows)


def test_a_word_table_that_does_not_fit(as_a_user):
    model = BertModel(BertConfig(**SIZES))
    with pytest.raises(TypeError, match="value is a Linear"):
        model.set_input_embeddings(torch.nn.Linear(3, 4))
    with pytest.raises(ValueError, match="value.embedding_dim is 4"):
        model.set_input_embeddings(torch.nn.Embedding(3, 4))


def test_a_config_that_json_has_no_word_for(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("as it was")
    with pytest.raises(TypeError, match="hidden_act is .* cannot be written as JSON"):
        BertConfig(hidden_act=torch.tanh).to_json_file(path)
    assert path.read_text() == "as it was"


def test_a_misspelt_attribute():
    with pytest.raises(AttributeError, match="BertConfig has no field 'hiden_size': did you mean 'hidden_size'"):
        BertConfig().hiden_size  # noqa: B018


@pytest.mark.parametrize("config", [None, {"hidden_size": 30}, BertConfig])
def test_something_else_than_a_config(config, as_a_user):
    with pytest.raises(TypeError, match="expected an instance of minibert's BertConfig"):
        BertModel(config)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in FIELDS.items() for value in values])
def test_config_field(name, value, as_a_user):
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value!r}, expected")):
        BertConfig(**{name: value})


def test_config_fields_that_do_not_fit_together():
    message = "The hidden size (33) is not a multiple of the number of attention heads (4)"
    with pytest.raises(ValueError, match=re.escape(message)):
        BertConfig(hidden_size=33, num_attention_heads=4)


def test_config_changed_after_it_was_made():
    config = BertConfig(**SIZES)
    config.num_attention_heads = 4
    with pytest.raises(ValueError, match="not a multiple"):
        BertModel(config)


LABELS = {
    "no labels": ({"num_labels": 0}, "num_labels is 0, expected a whole number from 1 up"),
    "no names": ({"id2label": {}}, "id2label is {}, expected a dictionary: 0, 1, 2, … to the names of the labels"),
    "another number": ({"id2label": {0: "no", 1: "yes"}, "num_labels": 3}, "num_labels is 3, expected 2"),
    "another number of ids": ({"label2id": {"no": 0, "yes": 1}, "num_labels": 3}, "num_labels is 3, expected 2"),
    "numbered from 1": ({"id2label": {1: "no", 2: "yes"}}, "id2label is {1: 'no', 2: 'yes'}, expected a dictionary"),
    "ids from 1": ({"label2id": {"no": 1}}, "id2label is {1: 'no'}, expected a dictionary"),
    "a list": ({"id2label": ["no", "yes"]}, "id2label is ['no', 'yes'], expected a dictionary"),
    "a list of ids": ({"label2id": ["no", "yes"]}, "label2id is ['no', 'yes'], expected a dictionary"),
}


@pytest.mark.parametrize(("fields", "message"), LABELS.values(), ids=LABELS.keys())
def test_labels_that_do_not_fit(fields, message, as_a_user):
    with pytest.raises(ValueError, match=re.escape(message)):
        BertConfig(**fields)


def test_labels_that_are_set_later(as_a_user):
    config = BertConfig(num_labels=3)
    with pytest.raises(ValueError, match="num_labels is 0, expected a whole number from 1 up"):
        config.num_labels = 0
    config.id2label = {0: "zero", 2: "two"}
    with pytest.raises(ValueError, match="id2label is {0: 'zero', 2: 'two'}, expected a dictionary"):
        BertModel(config)


def test_misspelt_config_field():
    with pytest.raises(TypeError, match="hiden_size"):
        BertConfig(hiden_size=768)


def test_unknown_activation():
    with pytest.raises(
        ValueError, match="hidden_act is 'gelllu', expected a callable or one of gelu, gelu_10, gelu_accurate"
    ):
        BertIntermediate(BertConfig(**SIZES, hidden_act="gelllu"))


def test_shapes_are_enforced():
    attention = BertSelfAttention(BertConfig(**SIZES))
    with pytest.raises(TypeCheckError):
        attention(EMBEDS, torch.zeros(3, 1, 1, 8))
    with pytest.raises(TypeCheckError):
        attention(EMBEDS[0])


@pytest.fixture
def checkpoint(tmp_path):
    """A small, complete checkpoint: the folder, its config file and its weights file."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SIZES | {"model_type": "bert"}))
    save_file(lively_(BertModel(BertConfig(**SIZES))).state_dict(), folder / "model.safetensors")
    return folder, folder / "config.json", folder / "model.safetensors"


@pytest.mark.parametrize("arguments", [[""], ["  \n"], ["a text", "--model", "no-such-folder"]])
def test_the_walk_reports_and_exits_with_2(arguments, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("Error:") == 1


@pytest.mark.parametrize("tokenizer", [None, "{", "[]"])
def test_the_walk_names_a_tokenizer_that_it_cannot_read(checkpoint, tokenizer, capsys):
    folder = checkpoint[0]
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer)
    assert main(["a text", "--model", str(folder)]) == 2
    assert "tokenizer.json" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [-1, 0, 4])
def test_no_room_for_a_token(limit):
    with pytest.raises(ValueError, match=f"limit is {limit}"):
        encode("a text", minilm_folder(), limit)
