"""minibert beside the transformers that is installed: which tensors are equal, and how exactly the others differ.

`make versions` runs this file with several versions; a plain `pytest` does not collect it. What is expected of each
version stands in EXPECTED; a case that is not named there must agree in every tensor, bit for bit.
"""

import dataclasses
import inspect
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from safetensors.torch import load_file

from minibert import classify, tasks, trace
from minibert.check import SIZES, difference, lively_, sample_batch
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.walk import encode, load_reference, minilm_folder

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
VERSION = transformers.__version__
FIRST = "encoder.layer.0.attention.self."
TEXT = "The cat sat on the mat because it was tired."
NEW = 3  # tokens that come after those of a cache


# --- The cases ---


@dataclass(frozen=True)
class Case:
    """Fields of a config, arguments of a call, and what is recorded."""

    fields: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    how: str = "forward"  # or: cached, training, gradients
    option: str = ""  # the field or argument that the case is about
    minilm: bool = True  # MiniLM's weights fit, too


def encoder_states() -> dict[str, torch.Tensor]:
    """Another model's tokens for the cross attention, some of them padding."""
    states = torch.randn(3, 5, SIZES["hidden_size"], generator=torch.Generator().manual_seed(5))
    mask = (torch.arange(5) < torch.tensor([[5], [4], [3]])).long()
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


SDPA, DECODER, FOUR = {"attn_implementation": "sdpa"}, {"is_decoder": True}, {"hidden_size": 20}
CROSS = DECODER | {"add_cross_attention": True}
KEY, KEY_QUERY = {"position_embedding_type": "relative_key"}, {"position_embedding_type": "relative_key_query"}
RELATIVE = {"option": "position_embedding_type", "minilm": False}
CASES = {
    "encoder": Case(),
    "encoder, heads of 4 numbers": Case(FOUR, minilm=False),
    "encoder, sdpa": Case(SDPA),
    "head mask": Case(call={"head_mask": "some"}, option="head_mask"),
    "relative_key": Case(KEY, **RELATIVE),
    "relative_key_query": Case(KEY_QUERY, **RELATIVE),
    "decoder": Case(DECODER, {"use_cache": False}),
    "decoder that fills a cache": Case(DECODER, {"use_cache": True}),
    "decoder, 3 new tokens after a cache": Case(DECODER, how="cached"),
    "decoder, sdpa": Case(DECODER | SDPA, {"use_cache": False}),
    "decoder, sdpa, 3 new tokens after a cache": Case(DECODER | SDPA, how="cached"),
    "cross attention": Case(CROSS, {"use_cache": False} | encoder_states(), minilm=False),
    "cross attention, 3 new tokens after a cache": Case(CROSS, encoder_states(), "cached", minilm=False),
    "relative_key decoder": Case(KEY | DECODER, {"use_cache": False}, **RELATIVE),
    "relative_key decoder that fills a cache": Case(KEY | DECODER, {"use_cache": True}, **RELATIVE),
    "relative_key_query decoder that fills a cache": Case(KEY_QUERY | DECODER, {"use_cache": True}, **RELATIVE),
    "relative_key decoder, 3 new tokens after a cache": Case(KEY | DECODER, {}, "cached", **RELATIVE),
    "training, one seed": Case(how="training"),
    "training, one seed, sdpa": Case(SDPA, how="training"),
    "parameter gradients": Case(how="gradients"),
    "parameter gradients, heads of 4 numbers": Case(FOUR, how="gradients", minilm=False),
    "parameter gradients, sdpa": Case(SDPA, how="gradients"),
}
LOADED = "encoder, from_pretrained on both sides"
RUNS = [("lively", name) for name in CASES] + [("MiniLM", name) for name, case in CASES.items() if case.minilm]
CASES[LOADED] = Case()
RUNS += [("MiniLM", LOADED)]


# --- What is expected ---


@dataclass(frozen=True)
class Expected:
    """How a case differs from minibert's; nothing given, nothing differs."""

    notes: str = ""  # keys of NOTES
    missing: frozenset[str] = frozenset()  # names that only minibert's record has, with * for the layer
    added: frozenset[str] = frozenset()  # names that only theirs has
    stretched: frozenset[str] = frozenset()  # equal to minibert's once that has a row for each token
    first: str = ""  # the first tensor that differs
    output: tuple[float, float] | None = None  # bounds of the last hidden state's difference; None: rounding
    gone: bool = False  # the case's option is swallowed: with it and without it all tensors have the same bits


NOTES = {
    "s": "*Scale.* The scores are multiplied by `head_dim**-0.5`; minibert and transformers 4 divide them by "
    "`sqrt(head_dim)`. Where head_dim is a power of four, both are exact and all bits are equal. Elsewhere "
    "`scores_scaled` of the first layer is the first tensor to differ, in its last bits.",
    "m": "*Mask.* One `where` makes the additive mask, so there is no `mask_inverted`; in an encoder, and across to "
    "one, it has a row for each token, all alike. Where it hides nothing it is 0, and that of 4 and of minibert is "
    "-0, which counts as equal here.",
    "f": "*Fused mask.* With `sdpa` the mask is made in other steps than without: in 4 by `masked_fill`, and with a "
    "row for each token; in 5 it is boolean, and a record of floating-point tensors does not have it. minibert has "
    "one mask for both. All other tensors are equal.",
    "c": "*Cache.* A first call puts its keys and values behind an empty cache, so there are tensors "
    "`key_with_past` and `value_with_past`, equal to the keys and values.",
    "g": "*Gone.* The argument or field is swallowed without a word: all tensors have the same bits with it and "
    "without it.",
    "d": "*Known deviation.* Every new token gets the position of the last; minibert's result is that without a cache "
    "(see [deviations](deviations.md)).",
    "w": "*Wrong.* Every token gets the position of the last, in the first call already, because that has a cache too.",
}

LAST = "encoder.layer.*.attention.self."
CACHED = frozenset({f"{LAST}key_with_past", f"{LAST}value_with_past"})
MASKS = frozenset({"mask_inverted", "mask_additive"})
NO_INVERSE, STRETCHED = frozenset({"mask_inverted"}), frozenset({"mask_additive"})
DISTANCE = f"{FIRST}distance_embedding"  # of another shape: for one query, not for each

# transformers 4: only the masks of the fused attention are made differently, and a deviation that minibert knows of
AFTER = Expected("d", first=DISTANCE, output=(0.05, 2))
FUSED = Expected("f", missing=NO_INVERSE, added=frozenset({"rsub"}), stretched=STRETCHED)
FUSED_DECODER = Expected("f", missing=NO_INVERSE, added=frozenset({"rsub", "masked_fill", "masked_fill_1"}))
FUSED_AFTER = dataclasses.replace(FUSED_DECODER, added=FUSED_DECODER.added | {"cat"})


def with_sub(expected: Expected) -> Expected:
    """Later versions write `torch.tensor(1.0) - mask`, not `1.0 - mask`."""
    return dataclasses.replace(expected, added=expected.added - {"rsub"} | {"sub"})


FOURTH = {
    "encoder, sdpa": FUSED,
    "training, one seed, sdpa": FUSED,
    "decoder, sdpa": FUSED_DECODER,
    "decoder, sdpa, 3 new tokens after a cache": FUSED_AFTER,
}
FOURTH_LATER = {name: with_sub(expected) for name, expected in FOURTH.items()}
DEVIATION = {"relative_key decoder, 3 new tokens after a cache": AFTER}

# transformers 4.54 to 4.57
WRONG = Expected("wc", added=CACHED, first=DISTANCE, output=(0.05, 2))
FILLED = Expected("c", added=CACHED)
BROKEN = {
    "decoder that fills a cache": FILLED,
    "relative_key decoder that fills a cache": WRONG,
    "relative_key_query decoder that fills a cache": WRONG,
}

# transformers 5
FIFTH = Expected("sm", missing=NO_INVERSE, stretched=STRETCHED, first=f"{FIRST}scores_scaled")
FIFTH_DECODER = dataclasses.replace(FIFTH, stretched=frozenset())
FIFTH_CROSS = dataclasses.replace(
    FIFTH_DECODER,
    missing=NO_INVERSE | {"cross_mask_inverted"},
    stretched=frozenset({"cross_mask_additive"}),
)
FIFTH_FUSED = Expected("f", missing=MASKS)
GONE = Expected("g", gone=True)

EXPECTED: dict[str, dict[str, Expected]] = {
    "4.43.4": FOURTH | DEVIATION,
    "4.53.3": FOURTH_LATER | DEVIATION,
    "4.57.6": FOURTH_LATER | DEVIATION | BROKEN,
    "5.23.0": {
        "encoder": FIFTH,
        LOADED: FIFTH,
        "encoder, heads of 4 numbers": Expected("m", missing=NO_INVERSE, stretched=STRETCHED),
        "encoder, sdpa": FIFTH_FUSED,
        "head mask": GONE,
        "decoder": FIFTH_DECODER,
        "decoder that fills a cache": dataclasses.replace(FIFTH_DECODER, notes="smc", added=CACHED),
        "decoder, 3 new tokens after a cache": FIFTH_DECODER,
        "decoder, sdpa": FIFTH_FUSED,
        "decoder, sdpa, 3 new tokens after a cache": FIFTH_FUSED,
        "cross attention": FIFTH_CROSS,
        "cross attention, 3 new tokens after a cache": FIFTH_CROSS,
        "training, one seed": FIFTH,
        "training, one seed, sdpa": FIFTH_FUSED,
        "parameter gradients": Expected("s", first="embeddings.word_embeddings.weight.grad"),
        **{name: GONE for name, case in CASES.items() if case.option == "position_embedding_type"},
    },
}

# What `minibert.trace.record` calls the steps of transformers 5, where that is not minibert's name.
ACROSS = "encoder.layer.*.crossattention.self."
NAMES = {
    "where": "mask_additive",
    "where_1": "cross_mask_additive",
    f"{LAST}probs_of_kept_heads": f"{LAST}scores_scaled",
    f"{ACROSS}matmul": f"{ACROSS}scores_raw",
    f"{ACROSS}mul": f"{ACROSS}scores_scaled",
    f"{ACROSS}add": f"{ACROSS}scores_masked",
    f"{ACROSS}softmax": f"{ACROSS}probs",
    f"{ACROSS}matmul_1": f"{ACROSS}context",
}

# The largest difference that rounding may grow to; it must be more than a hundredth of it.
ROUNDING = {("lively", False): 1e-5, ("lively", True): 1e-4, ("MiniLM", False): 2e-4, ("MiniLM", True): 2e-3}

# What can be asked of transformers, and what comes of it: the reference's answers, and where others differ.
FEATURES = {
    "relative positions": "`position_embedding_type` in a configuration",
    "head mask": "`head_mask` in a call",
    "prune_heads": "`prune_heads()`",
    "pruned_heads": "`pruned_heads` in a configuration",
    "tuple out": "what a cache is",
    "tuple in": "a tuple of tuples handed in as a cache",
    "unknown argument": "a misspelt argument in a call",
    "rows": "a mask with a row for each token",
    "rows, sdpa": "a mask with a row for each token, `sdpa`, encoder",
    "attentions, sdpa": "`output_attentions` with `sdpa`",
    "torchscript": "`torchscript=True` in a configuration, for an output that is a tuple",
    "fifth": "the fifth argument of a call",
}
REFERENCE = dict.fromkeys(FEATURES, "works") | {
    "tuple out": "`tuple`",
    "unknown argument": "`TypeError`",
    "rows, sdpa": "`ValueError`",
    "fifth": "`head_mask`",
}
ANSWERS: dict[str, dict[str, str]] = {
    "4.43.4": REFERENCE,
    "4.53.3": REFERENCE | {"rows, sdpa": "works"},
    "4.57.6": REFERENCE | {"rows, sdpa": "works", "tuple out": "`EncoderDecoderCache`"},
    "5.23.0": {
        "relative positions": "swallowed",
        "head mask": "swallowed",
        "prune_heads": "`AttributeError`",
        "pruned_heads": "swallowed",
        "tuple out": "`DynamicCache`",
        "tuple in": "`AttributeError`",
        "unknown argument": "swallowed",
        "rows": "`RuntimeError`",
        "rows, sdpa": "`RuntimeError`",
        "attentions, sdpa": "an empty tuple",
        "torchscript": "swallowed",
        "fifth": "`inputs_embeds`",
    },
}


# --- Both models ---


def rename(case: Case) -> dict[str, dict[str, str]]:
    """Entries for `trace.STEPS` under which this version's steps get minibert's names."""
    if VERSION.startswith("5."):
        attention = trace.ATTENTION | {"mul": "scores_scaled", "add": "scores_masked"}
        where = {"where": "mask_additive", "where_1": "cross_mask_additive"}
        return {"BertModel": where, "BertSelfAttention": attention, "BertCrossAttention": attention}
    if case.fields.get("attn_implementation") == "sdpa":
        return {"BertModel": {"masked_fill_2" if case.fields.get("is_decoder") else "masked_fill": "mask_additive"}}
    return {}


def build(weights: str, case: Case, is_loaded: bool = False):
    """minibert's model and theirs, made in the same way, with the same weights, in eval mode."""
    if is_loaded:
        return BertModel.from_pretrained(minilm_folder()).eval(), load_reference(minilm_folder()).eval()
    fields = SIZES | case.fields
    if weights == "MiniLM":
        stored = json.loads((minilm_folder() / "config.json").read_text())
        fields = {name: stored[name] for name in [*SIZES, "hidden_act", "layer_norm_eps"]} | case.fields
    mine = BertModel(BertConfig(**fields))
    theirs = transformers.BertModel(transformers.BertConfig(**{"attn_implementation": "eager"} | fields))
    if weights == "MiniLM":
        state = load_file(minilm_folder() / "model.safetensors")
        state = {name: value for name, value in state.items() if name in mine.state_dict()}
    else:
        state = lively_(mine).state_dict()
    mine.load_state_dict(state)
    theirs.load_state_dict({name: value for name, value in state.items() if name in theirs.state_dict()})
    return mine.eval(), theirs.eval()


def arguments(weights: str, case: Case, config) -> dict[str, Any]:
    """What both models are called with."""
    batch = sample_batch() if weights == "lively" else encode(TEXT, minilm_folder(), limit=512)[1]
    call = batch | case.call
    if "head_mask" in call:
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        call["head_mask"] = (torch.arange(layers * heads) % 3 > 0).float().view(layers, heads)
    return call


def observe(model, call: dict[str, Any], how: str, names: dict[str, dict[str, str]]) -> dict[str, torch.Tensor]:
    """Name → tensor: all that a forward pass computes, or the gradient of every parameter."""
    torch.manual_seed(1)
    if how == "gradients":
        output = model(**call)
        sum((x * x.detach()).sum() for x in (output.last_hidden_state, output.pooler_output)).backward()
        return {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters()}
    model.train(how == "training")
    with torch.no_grad():
        if how == "cached":
            tokens = {"input_ids", "token_type_ids"}
            before = {name: value[:, :-NEW] if name in tokens | {"attention_mask"} else value
                      for name, value in call.items()}
            past = model(**before, use_cache=True).past_key_values
            call = {name: value[:, -NEW:] if name in tokens else value for name, value in call.items()}
            call["past_key_values"] = past
        with mock.patch.dict(trace.STEPS, names):
            return dict(trace.record(model, **call))


# --- The comparison ---


def any_layer(name: str) -> str:
    return re.sub(r"layer\.\d+\.", "layer.*.", name)


def gap(mine: torch.Tensor, theirs: torch.Tensor) -> float | None:
    """The largest difference; None if the shapes differ."""
    return difference(mine, theirs).max().item() if mine.shape == theirs.shape else None


def compare(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Which names are equal, which are not, and how."""
    both = [name for name in ours if name in theirs]
    equal = [name for name in both if ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name])]
    others = [name for name in both if name not in equal]
    stretched = [
        name for name in others if "mask" in name and torch.equal(ours[name].expand_as(theirs[name]), theirs[name])
    ]
    differ = {name: gap(ours[name], theirs[name]) for name in others if name not in stretched}
    gaps = {name: size for name, size in differ.items() if size is not None}
    largest = max(gaps, key=lambda name: gaps[name], default="")
    last = [name for name in ours if re.fullmatch(r"encoder\.layer\.\d+\.output\.LayerNorm", name)][-1:]
    return {
        "tensors": len(ours),
        "equal": len(equal),
        "missing": sorted({any_layer(name) for name in ours if name not in theirs}),
        "added": sorted({any_layer(name) for name in theirs if name not in ours}),
        "stretched": sorted(stretched),
        "first": next(iter(differ), ""),
        "largest": gaps.get(largest, 0.0),
        "where": any_layer(largest),
        "output": gaps.get(last[0], 0.0) if last else None,
    }


RESULT: dict[str, Any] = {
    "transformers": VERSION,
    "torch": torch.__version__.partition("+")[0],
    "notes": NOTES,
    "questions": FEATURES,
    "names": {},
    "answers": {},
    "runs": [],
}


@pytest.fixture(scope="module", autouse=True)
def result():
    """What was found is kept for the table of versions."""
    yield
    if path := os.environ.get("VERSIONS_RESULT"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(RESULT, indent=1))


def test_this_version_is_expected():
    assert VERSION in EXPECTED, "say in EXPECTED and in ANSWERS what this version does"


@pytest.mark.parametrize(("weights", "name"), RUNS, ids=[f"{name}, {weights}" for weights, name in RUNS])
def test_every_tensor(weights, name):
    case, expected = CASES[name], EXPECTED[VERSION].get(name, Expected())
    run = {"weights": weights, "case": name, "notes": expected.notes, "gone": expected.gone}
    if expected.gone:
        assert_gone(weights, case)
        RESULT["runs"].append(run)
        return
    mine, theirs = build(weights, case, is_loaded=name == LOADED)
    call = arguments(weights, case, mine.config)
    ours = observe(mine, call, case.how, {})
    assert len(ours) >= 12 * mine.config.num_hidden_layers
    other = observe(theirs, call, case.how, rename(case))
    found = compare(ours, other)
    RESULT["runs"].append(run | found)

    assert set(found["missing"]) == expected.missing
    assert set(found["added"]) == expected.added
    assert set(found["stretched"]) == expected.stretched
    assert found["first"] == expected.first
    others = sum(name in ours for name in expected.missing | expected.stretched)
    if not expected.first:
        assert found["equal"] == found["tensors"] - others
        assert found["largest"] == 0
    elif expected.output is None:
        limit = ROUNDING[weights, case.how == "gradients"]
        assert limit / 100 < found["largest"] <= limit
    else:
        least, most = expected.output
        assert least < found["output"] < most
    if "c" in expected.notes:
        assert_only_joined(other)
    if "m" in expected.notes:
        for name in expected.stretched | {"mask_additive"}:
            assert [mask[mask == 0].signbit().unique().item() for mask in (ours[name], other[name])] == [True, False]


def assert_only_joined(record: dict[str, torch.Tensor]) -> None:
    """Keys and values behind an empty cache are the keys and values."""
    joined = [name for name in record if name.endswith("_with_past")]
    assert joined
    for name in joined:
        assert torch.equal(record[name].transpose(1, 2).flatten(2), record[name.removesuffix("_with_past")])


def assert_gone(weights: str, case: Case) -> None:
    """The option changes nothing in theirs, and something in minibert's."""
    without = dataclasses.replace(
        case,
        fields={name: value for name, value in case.fields.items() if name != case.option},
        call={name: value for name, value in case.call.items() if name != case.option},
    )
    records, state = [], {}
    for one in (case, without):
        mine, theirs = build(weights, one)
        state = state or mine.state_dict()
        for side in (mine, theirs):
            side.load_state_dict({name: state[name] for name in side.state_dict()})
        call = arguments(weights, one, mine.config)
        records.append((observe(mine, call, one.how, {}), observe(theirs, call, one.how, rename(one))))
    (mine_with, theirs_with), (mine_without, theirs_without) = records
    assert list(theirs_with) == list(theirs_without)
    assert all(torch.equal(value, theirs_without[name]) for name, value in theirs_with.items())
    last = f"encoder.layer.{mine.config.num_hidden_layers - 1}.output.LayerNorm"
    assert difference(mine_with[last], mine_without[last]).max() > 0.01


@pytest.mark.parametrize("weights", ["lively", "MiniLM"])
def test_what_the_scores_are_scaled_with(weights):
    mine, theirs = build(weights, Case())
    call, head_dim = arguments(weights, Case(), mine.config), mine.config.hidden_size // mine.config.num_attention_heads
    ours, other = observe(mine, call, "forward", {}), observe(theirs, call, "forward", rename(Case()))
    raw, scaled = f"{FIRST}scores_raw", f"{FIRST}scores_scaled"
    assert torch.equal(ours[raw], other[raw])
    assert torch.equal(ours[scaled], ours[raw] / head_dim**0.5)
    if VERSION.startswith("5."):
        assert torch.equal(other[scaled], other[raw] * head_dim**-0.5)
        assert not torch.equal(other[scaled], ours[scaled])
        assert (difference(other[scaled], ours[scaled]) <= 2.0**-22 * ours[scaled].abs()).all()  # two last bits
    else:
        assert torch.equal(other[scaled], ours[scaled])


def test_names_in_a_record():
    case = CASES["cross attention"]
    mine, theirs = build("lively", case)
    call = arguments("lively", case, mine.config)
    pairs = zip(observe(theirs, call, "forward", {}), observe(theirs, call, "forward", rename(case)), strict=True)
    RESULT["names"] = {any_layer(theirs): any_layer(ours) for theirs, ours in pairs if theirs != ours}
    assert RESULT["names"] == (NAMES if VERSION.startswith("5.") else {})


# --- Files ---


def same_weights(one, other) -> None:
    """The same names, types, shapes and bits."""
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("size", ["5GB", "20KB"], ids=["one file", "shards"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_here_loaded_there_and_back(tmp_path, size, dtype):
    mine = lively_(BertModel(BertConfig(**SIZES, initializer_range=0.03))).to(getattr(torch, dtype)).eval()
    mine.save_pretrained(tmp_path / "mine", max_shard_size=size)
    options = {"attn_implementation": "sdpa", "torch_dtype": "auto", "output_loading_info": True}
    theirs, notes = transformers.BertModel.from_pretrained(tmp_path / "mine", **options)
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    same_weights(mine.state_dict(), theirs.state_dict())
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=size)
    files = [list((tmp_path / side).glob("*.safetensors")) for side in ("mine", "theirs")]
    assert len(files[0]) == len(files[1]) and (len(files[0]) > 1) == (size != "5GB")
    back = BertModel.from_pretrained(tmp_path / "theirs", dtype="auto", attn_implementation="sdpa")
    same_weights(mine.state_dict(), back.state_dict())
    for name in [*SIZES, "hidden_act", "initializer_range", "layer_norm_eps", "pad_token_id", "hidden_dropout_prob"]:
        assert getattr(mine.config, name) == getattr(theirs.config, name) == getattr(back.config, name), name
    report = back.load_report
    assert len(report.used) == 71 and not any((report.renamed, report.ignored, report.new, report.mismatched))
    outputs = [model(**sample_batch()).last_hidden_state for model in (theirs, back)]  # fused: the same in all versions
    assert torch.equal(*outputs)


HEADS = {
    **dict.fromkeys(("PreTraining", "MaskedLM", "NextSentencePrediction"), tasks),
    **dict.fromkeys(("SequenceClassification", "MultipleChoice", "TokenClassification", "QuestionAnswering"), classify),
}


@pytest.mark.parametrize("size", ["5GB", "20KB"], ids=["one file", "shards"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_there_and_back(tmp_path, head, size):
    mine_class, their_class = getattr(HEADS[head], f"BertFor{head}"), getattr(transformers, f"BertFor{head}")
    theirs = lively_(their_class(transformers.BertConfig(**SIZES))).eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=size)
    mine = mine_class.from_pretrained(tmp_path / "theirs")
    same_weights(mine.state_dict(), theirs.state_dict())
    mine.save_pretrained(tmp_path / "mine", max_shard_size=size)
    back, notes = their_class.from_pretrained(tmp_path / "mine", output_loading_info=True)
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    same_weights(mine.state_dict(), back.state_dict())


def test_a_head_of_theirs_loaded_here(tmp_path):
    theirs = lively_(transformers.BertForPreTraining(transformers.BertConfig(**SIZES))).eval()
    theirs.save_pretrained(tmp_path)
    mine = BertModel.from_pretrained(tmp_path)
    same_weights(mine.state_dict(), theirs.bert.state_dict())
    assert mine.load_report.renamed == {f"bert.{name}": name for name in mine.state_dict()}
    assert mine.load_report.ignored and all(name.startswith("cls.") for name in mine.load_report.ignored)


# --- Features ---


def model(**fields: Any):
    return build("lively", Case(fields))[1]


def ask(feature: str) -> str:
    """What comes of it."""
    batch = sample_batch()
    ids, rows = batch["input_ids"], torch.ones(3, 7, 7).tril().long()
    past = tuple((torch.randn(3, 5, 2, 6), torch.randn(3, 5, 2, 6)) for _ in range(4))
    works = {True: "works", False: "swallowed"}
    match feature:
        case "relative positions":
            return works[any("distance_embedding" in name for name in model(**KEY).state_dict())]
        case "head mask":
            plain, masked = model()(**batch), model()(**batch, head_mask=torch.zeros(5))
            return works[not torch.equal(plain.last_hidden_state, masked.last_hidden_state)]
        case "prune_heads":
            pruned = model()
            pruned.prune_heads({0: [1]})
            return works[pruned.encoder.layer[0].attention.self.query.out_features == 24]
        case "pruned_heads":
            pruned = transformers.BertModel(transformers.BertConfig(**SIZES, pruned_heads={0: [1]}))
            return works[pruned.encoder.layer[0].attention.self.query.out_features == 24]
        case "tuple out":
            return f"`{type(model(**DECODER)(**batch).past_key_values).__name__}`"
        case "tuple in":
            plain, longer = model(**DECODER)(ids), model(**DECODER)(ids, past_key_values=past)
            return works[not torch.equal(plain.last_hidden_state, longer.last_hidden_state)]
        case "unknown argument":
            return works[model()(**batch, output_hidden_state=True).hidden_states is not None]
        case "rows" | "rows, sdpa":
            one = model(**(SDPA if "sdpa" in feature else {}))
            masked = one(ids, attention_mask=rows)
            return works[not torch.equal(one(ids).last_hidden_state, masked.last_hidden_state)]
        case "attentions, sdpa":
            attentions = model(**SDPA)(**batch, output_attentions=True).attentions
            return "an empty tuple" if attentions == () else works[len(attentions) == 4]
        case "torchscript":
            return works[isinstance(model(torchscript=True)(**batch), tuple)]
        case "fifth":
            _, *names = inspect.signature(transformers.BertModel.forward).parameters  # without self
            return f"`{names[4]}`"
    raise KeyError(feature)


@pytest.mark.parametrize("feature", FEATURES)
def test_feature(feature):
    try:
        answer = ask(feature)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        answer = f"`{type(error).__name__}`"
    RESULT["answers"][feature] = answer
    assert answer == ANSWERS[VERSION][feature]
