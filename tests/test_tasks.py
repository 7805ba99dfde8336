"""Every head against the reference: outputs, losses, gradients, new weights, ties; and input that cannot be meant."""

import inspect
import re
import warnings

import differential
import hypothesis.strategies as st
import pytest
import torch
import transformers
from differential import Case, Draw, same, tensors
from hypothesis import given, seed, settings
from torch import nn

from minibert import classify, tasks
from minibert.check import SIZES, lively_, sample_batch
from minibert.config import BertConfig
from minibert.model import BertModel

CLASSES = (
    tasks.BertForPreTraining,
    tasks.BertLMHeadModel,
    tasks.BertForMaskedLM,
    tasks.BertForNextSentencePrediction,
    classify.BertForSequenceClassification,
    classify.BertForMultipleChoice,
    classify.BertForTokenClassification,
    classify.BertForQuestionAnswering,
)
WORDS = CLASSES[:3]
by_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
by_words = pytest.mark.parametrize("cls", WORDS, ids=lambda cls: cls.__name__)
INPUTS = sample_batch()
CHOICES = {name: tensor.view(2, 3, 7) for name, tensor in sample_batch(batch=6).items()}

WORD_LABELS = INPUTS["input_ids"].masked_fill(torch.arange(7) % 3 == 0, -100)
FOLLOWS, NUMBERS = torch.tensor([1, 0, 1]), torch.tensor([0.5, -2.0, 1.0])
TOKEN_LABELS = (INPUTS["input_ids"] % 3).masked_fill(INPUTS["attention_mask"] == 0, -100)
SEVERAL = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.25, 1.0, 1.0]])
THREE, DECODER = {"num_labels": 3}, {"is_decoder": True}
KINDS = {  # class, fields, labels
    "pre-training": (tasks.BertForPreTraining, {}, {"labels": WORD_LABELS, "next_sentence_label": FOLLOWS}),
    "pre-training, words alone": (tasks.BertForPreTraining, {}, {"labels": WORD_LABELS}),
    "next word": (tasks.BertLMHeadModel, DECODER, {"labels": INPUTS["input_ids"]}),
    "next word, with a cache": (tasks.BertLMHeadModel, DECODER, {"labels": WORD_LABELS, "use_cache": True}),
    "next word, untied": (tasks.BertLMHeadModel, DECODER | {"tie_word_embeddings": False}, {"labels": WORD_LABELS}),
    "hidden words": (tasks.BertForMaskedLM, {}, {"labels": WORD_LABELS}),
    "hidden words, untied": (tasks.BertForMaskedLM, {"tie_word_embeddings": False}, {"labels": WORD_LABELS}),
    "hidden words, torchscript": (tasks.BertForMaskedLM, {"torchscript": True}, {"labels": WORD_LABELS}),
    "hidden words, relu": (tasks.BertForMaskedLM, {"hidden_act": "relu"}, {"labels": WORD_LABELS}),
    "next sentence": (tasks.BertForNextSentencePrediction, {}, {"labels": FOLLOWS}),
    "next sentence, not all": (tasks.BertForNextSentencePrediction, {}, {"labels": torch.tensor([[1], [-100], [0]])}),
    "label": (classify.BertForSequenceClassification, THREE, {"labels": torch.tensor([2, 0, -100])}),
    "label, a column": (classify.BertForSequenceClassification, THREE, {"labels": torch.tensor([[2], [0], [1]])}),
    "labels": (classify.BertForSequenceClassification, THREE, {"labels": SEVERAL}),
    "labels, float64": (classify.BertForSequenceClassification, THREE, {"labels": SEVERAL.double()}),
    "one of one label": (
        classify.BertForSequenceClassification,
        {"num_labels": 1, "problem_type": "multi_label_classification"},
        {"labels": SEVERAL[:, :1]},
    ),
    "number": (classify.BertForSequenceClassification, {"num_labels": 1}, {"labels": NUMBERS}),
    "number, a column": (classify.BertForSequenceClassification, {"num_labels": 1}, {"labels": NUMBERS[:, None]}),
    "whole number": (classify.BertForSequenceClassification, {"num_labels": 1}, {"labels": torch.tensor([3, 0, -7])}),
    "numbers": (
        classify.BertForSequenceClassification,
        THREE | {"problem_type": "regression", "classifier_dropout": 0.3},
        {"labels": SEVERAL},
    ),
    "choice": (classify.BertForMultipleChoice, {"classifier_dropout": 0.0}, {"labels": torch.tensor([2, 0])}),
    "label of tokens": (
        classify.BertForTokenClassification,
        THREE | {"hidden_dropout_prob": 0.3},
        {"labels": TOKEN_LABELS},
    ),
    "label of tokens, no dropout": (
        classify.BertForTokenClassification,
        THREE | {"classifier_dropout": 0.0},
        {"labels": TOKEN_LABELS},
    ),
    "answer": (
        classify.BertForQuestionAnswering,
        {},
        {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([4, 2, 3])},
    ),
    "answer, some beyond": (
        classify.BertForQuestionAnswering,
        {},
        {"start_positions": torch.tensor([[1], [7], [700]]), "end_positions": torch.tensor([8, 2, 7])},
    ),
    "beginning alone": (classify.BertForQuestionAnswering, {}, {"start_positions": torch.tensor([1, 2, 0])}),
}


def build(cls, fields):
    """minibert's model and the reference's, with the same lively weights, in eval mode."""
    config = transformers.BertConfig(**{"attn_implementation": "eager"} | fields)
    theirs = lively_(getattr(transformers, cls.__name__)(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of decoders that fill in, and encoders that predict
        mine = cls(BertConfig(**fields))
    mine.load_state_dict(theirs.state_dict())
    return mine.eval(), theirs.eval()


def compare(models, call):
    """The same outputs and the same gradients of all parameters, with dropout too, if the models are in training."""
    outputs = []
    for model in models:
        torch.manual_seed(1)
        outputs.append(model(**call))
        sum((x * x.detach()).sum() for x in tensors(outputs[-1]) if x.requires_grad).backward()
    same(*outputs)
    assert [name for name, _ in models[0].named_parameters()] == [name for name, _ in models[1].named_parameters()]
    for name, parameter in models[0].named_parameters():
        same(parameter.grad, models[1].get_parameter(name).grad, f"{name}.grad")
    return outputs[0]


@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("cls", "fields", "labels"), KINDS.values(), ids=KINDS.keys())
def test_outputs_losses_and_gradients(cls, fields, labels, training, dtype, return_dict, has_labels):
    models = [model.train(training).to(dtype) for model in build(cls, SIZES | fields)]
    inputs = CHOICES if cls is classify.BertForMultipleChoice else INPUTS
    call = inputs | (labels if has_labels else {}) | {"return_dict": return_dict, "output_hidden_states": True}
    output = compare(models, call)
    assert isinstance(output, dict) == return_dict
    assert models[0].config.problem_type == models[1].config.problem_type


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("cls", "fields", "labels"), KINDS.values(), ids=KINDS.keys())
def test_losses_in_half_precision(cls, fields, labels, dtype):
    inputs = CHOICES if cls is classify.BertForMultipleChoice else INPUTS
    labels = {name: value.to(dtype) if cls is classify.BertForSequenceClassification and value.is_floating_point()
              else value for name, value in labels.items() if isinstance(value, torch.Tensor)}  # fmt: skip
    compare([model.to(dtype) for model in build(cls, SIZES | fields)], inputs | labels)


def draw_labels(d, cls, fields, batch, seq):
    """Labels that the reference can make a loss of; none if there can't be any."""

    def whole(limit, *shape):
        labels = d.ids(limit, *shape)
        labels[labels == d.whole(0, limit - 1)] = -100
        labels.view(-1)[-1] = 0  # one at least
        return labels

    if cls is tasks.BertLMHeadModel and seq == 1:
        return {}
    if cls in (tasks.BertLMHeadModel, tasks.BertForMaskedLM):
        return {"labels": whole(fields["vocab_size"], batch, seq)}
    if cls is tasks.BertForPreTraining:
        return {"labels": whole(fields["vocab_size"], batch, seq), "next_sentence_label": whole(2, batch)}
    if cls is classify.BertForTokenClassification:
        return {"labels": whole(fields["num_labels"], batch, seq)}
    if cls is classify.BertForQuestionAnswering:
        places = [d.ids(seq + 3, batch) for _ in range(2)]
        places[0][-1] = places[1][0] = 0
        return dict(zip(("start_positions", "end_positions"), places, strict=True))
    if cls is not classify.BertForSequenceClassification:
        return {"labels": whole(2, batch)}
    number, problem = fields["num_labels"], fields.get("problem_type")
    if problem == "single_label_classification" or problem is None and number > 1 and d.yes():
        return {"labels": whole(number, batch)}
    labels = torch.rand(batch, number, generator=d.generator)
    return {"labels": labels[:, 0] if number == 1 and problem != "multi_label_classification" and d.yes() else labels}


@st.composite
def cases(draw, cls):
    """Any configuration and any call of this head that the reference answers rightly."""
    d = Draw(draw)
    fields = differential.draw_fields(d)
    fields |= {"tie_word_embeddings": d.yes(), "classifier_dropout": d.one(None, 0.0, 0.4)}
    if cls in (classify.BertForSequenceClassification, classify.BertForTokenClassification):
        fields["num_labels"] = d.whole(1, 5)
    if cls is classify.BertForSequenceClassification:
        problems = ["regression", "multi_label_classification"]
        problems += ["single_label_classification"] if fields["num_labels"] > 1 else []
        fields["problem_type"] = d.one(None, *problems)
    case = Case(fields, {}, d.one(torch.float32, torch.float64), training=d.yes())
    is_relative, is_decoder = fields["position_embedding_type"] != "absolute", fields["is_decoder"]
    if fields["attn_implementation"] == "sdpa" and is_decoder:
        case.dtype = torch.float32  # the reference fails
    takes, layers = inspect.signature(cls.forward).parameters, fields["num_hidden_layers"]
    batch, seq = d.whole(1, 3), d.whole(1, fields["max_position_embeddings"])
    past = d.whole(0, fields["max_position_embeddings"] - seq) if layers and "past_key_values" in takes else 0
    past = 0 if is_relative and seq > 1 else past  # there the reference is wrong
    other = d.whole(0, 5) if fields["add_cross_attention"] and "encoder_hidden_states" in takes else 0
    choices = d.whole(1, 3) if cls is classify.BertForMultipleChoice else 1
    if fields["num_attention_heads"] > 2 and layers and d.yes(one_in=4):
        case.prune = {d.whole(0, layers - 1): [d.whole(0, fields["num_attention_heads"] - 1)]}
    differential.draw_call(d, case, batch * choices, seq, past, other)
    if fields["add_cross_attention"] and not other:
        case.call["output_attentions"] = False  # the reference takes its cache for cross attentions
    if d.yes(one_in=4) and "input_ids" in case.call and cls in WORDS:
        case.rows = d.whole(fields["vocab_size"], 60)
    case.call = {name: value for name, value in case.call.items() if name in takes}
    if cls is classify.BertForMultipleChoice:
        case.call |= with_choices(case.call, batch, choices)
    if d.yes():
        known = fields | {"vocab_size": case.rows or fields["vocab_size"]}
        if cls is classify.BertForMultipleChoice:
            case.call["labels"] = d.ids(choices, batch)
        else:
            case.call |= draw_labels(d, cls, known, batch, seq)
    return case


def with_choices(call, batch, choices):
    """The arguments with an axis for the choices; what cannot have one is left out."""
    names = ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids", "position_ids")
    axes = {"inputs_embeds": 3}
    given_ = {name: call[name] for name in names if call.get(name) is not None}
    return {
        name: tensor.unflatten(0, (batch, choices))
        if tensor.ndim == axes.get(name, 2) and len(tensor) == batch * choices
        else None
        for name, tensor in given_.items()
    }


@by_class
def test_any_configuration_and_call(cls):
    @seed(0)
    @settings(differential.SETTINGS, max_examples=150)
    @given(cases(cls))
    def run(case):
        models = build(cls, case.fields)
        for model in models:
            if case.prune:
                model.prune_heads({layer: list(heads) for layer, heads in case.prune.items()})
            if case.rows:
                torch.manual_seed(0)
                model.resize_token_embeddings(case.rows)
            model.to(case.dtype).train(case.training)
        compare(models, case.call)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fallbacks, which are asked for here
        run()


@by_class
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"initializer_range": 0.3, "pad_token_id": 4},
        {"tie_word_embeddings": False},
        {"pruned_heads": {1: [0, 3]}},
        {"position_embedding_type": "relative_key", "is_decoder": True, "add_cross_attention": True},
    ],
    ids=str,
)
def test_new_weights_are_the_references(cls, fields):
    states = []
    for module, config in ((cls, BertConfig), (getattr(transformers, cls.__name__), transformers.BertConfig)):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            states.append(module(config(**SIZES, **fields)).state_dict())
    assert list(states[0]) == list(states[1])
    same(tuple(states[0].values()), tuple(states[1].values()))


PUBLISHED = {  # parameters of bert-base, names of parameters, names in the state dict
    "BertForPreTraining": (110_106_428, 206, 208),
    "BertLMHeadModel": (109_514_298, 202, 204),
    "BertForMaskedLM": (109_514_298, 202, 204),
    "BertForNextSentencePrediction": (109_483_778, 201, 201),
    "BertForSequenceClassification": (109_483_778, 201, 201),
    "BertForMultipleChoice": (109_483_009, 201, 201),
    "BertForTokenClassification": (108_893_186, 199, 199),
    "BertForQuestionAnswering": (108_893_186, 199, 199),
}


@by_class
def test_bert_base_has_its_published_number_of_parameters(cls):
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, theirs = cls(BertConfig()), getattr(transformers, cls.__name__)(transformers.BertConfig())
    parameters = dict(model.named_parameters())
    number = sum(parameter.numel() for parameter in parameters.values())
    assert (number, len(parameters), len(model.state_dict())) == PUBLISHED[cls.__name__]
    assert list(model.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in model.named_buffers()] == [name for name, _ in theirs.named_buffers()]
    assert all(parameter.is_meta for parameter in parameters.values())


@by_class
def test_a_head_is_on_a_bert_model(cls):
    model, _ = build(cls, SIZES | DECODER)
    assert type(model.bert) is BertModel and model.base_model is model.bert and model.bert.base_model is model.bert
    assert cls.base_model_prefix == BertModel.base_model_prefix == "bert" and model.bert.config is model.config
    assert model.get_input_embeddings() is model.bert.embeddings.word_embeddings
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and model.bert.encoder.gradient_checkpointing
    model.gradient_checkpointing_disable()
    model.prune_heads({0: [1]})
    assert not model.is_gradient_checkpointing and model.config.pruned_heads == {0: [1]}
    assert model.bert.encoder.layer[0].attention.self.num_attention_heads == 4


def assert_tied(model):
    head, table = model.cls.predictions, model.bert.embeddings.word_embeddings
    assert head.decoder.weight is table.weight and head.decoder.bias is head.bias
    assert head.decoder.out_features == len(head.bias) == table.num_embeddings == model.config.vocab_size


@by_words
def test_ties_survive_loading_resizing_and_exchange(cls):
    model, _ = build(cls, SIZES | DECODER)
    assert_tied(model)
    apart = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(apart, assign=True)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    model.tie_weights()
    assert_tied(model)
    parameter = model.get_input_embeddings().weight
    for rows in (104, 50):
        model.resize_token_embeddings(rows)
        assert_tied(model)
        assert model.get_output_embeddings().weight is parameter
    model.set_input_embeddings(nn.Embedding(60, 30))
    assert_tied(model)
    model.get_output_embeddings().weight.data[3] = 7.0
    assert (model.get_input_embeddings().weight[3] == 7).all()


@by_words
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize(("rows", "step"), [(104, None), (40, None), (101, 8), (None, 8), (None, None), (99, None)])
def test_resized_as_the_reference(cls, tie, rows, step):
    models = build(cls, SIZES | DECODER | {"tie_word_embeddings": tie, "initializer_range": 0.3})
    for model in models:
        model.double()
    scores, bias = models[0].get_output_embeddings().weight, models[0].cls.predictions.bias
    for model in models:
        torch.manual_seed(0)
        model.resize_token_embeddings(rows, pad_to_multiple_of=step)
    assert models[0].get_output_embeddings().weight is scores and models[0].cls.predictions.bias is bias
    states = [model.state_dict() for model in models]
    assert list(states[0]) == list(states[1])
    same(tuple(states[0].values()), tuple(states[1].values()))
    ids = INPUTS["input_ids"] % 40
    same(models[0](ids), models[1](ids))
    with_labels = {"labels": ids} | ({"next_sentence_label": FOLLOWS} if cls is tasks.BertForPreTraining else {})
    same(models[0](ids, **with_labels), models[1](ids, **with_labels))


@by_words
@pytest.mark.parametrize("rows", [104, 40])
def test_copies_in_place_of_ties_are_resized_as_the_reference(cls, rows):
    models = build(cls, SIZES | DECODER | {"torchscript": True})
    for model in models:
        torch.manual_seed(0)
        model.resize_token_embeddings(rows)
    states = [model.state_dict() for model in models]
    assert list(states[0]) == list(states[1])
    same(tuple(states[0].values()), tuple(states[1].values()))
    table, scores = (get().weight for get in (models[0].get_input_embeddings, models[0].get_output_embeddings))
    assert scores is not table and torch.equal(scores, table)
    same(models[0](INPUTS["input_ids"] % 40), models[1](INPUTS["input_ids"] % 40))


@by_words
def test_without_a_tie_the_scores_do_not_follow_another_table(cls):
    models, table = build(cls, SIZES | DECODER | {"tie_word_embeddings": False}), lively_(nn.Embedding(60, 30))
    scores = models[0].get_output_embeddings().weight
    for model in models:
        model.set_input_embeddings(table)
    assert models[0].get_output_embeddings().weight is scores and len(scores) == 99
    same(models[0](INPUTS["input_ids"] % 60), models[1](INPUTS["input_ids"] % 60))
    models[0].resize_token_embeddings(60)
    assert len(models[0].get_output_embeddings().weight) == len(models[0].cls.predictions.bias) == 60


@by_words
def test_a_layer_of_scores_that_does_not_fit(cls, as_a_user):
    model, _ = build(cls, SIZES | DECODER)
    with pytest.raises(ValueError, match=re.escape("new_embeddings.weight.shape is (98, 30), expected (vocab_size,")):
        model.set_output_embeddings(nn.Linear(30, 98))
    for layer in (nn.Linear(30, 99, bias=False), nn.Embedding(99, 30)):
        with pytest.raises(TypeError, match=r"expected a torch.nn.Linear with a bias"):
            model.set_output_embeddings(layer)
    assert_tied(model)
    layer = nn.Linear(30, 99)
    model.set_output_embeddings(layer)
    assert model.get_output_embeddings() is layer and model.cls.predictions.bias is layer.bias


@pytest.mark.parametrize(
    ("cls", "fields", "says"),
    [
        (tasks.BertLMHeadModel, {}, "without is_decoder=True sees the words"),
        (tasks.BertForMaskedLM, DECODER, "with is_decoder=True sees only what stands before"),
    ],
)
def test_a_head_on_the_wrong_kind_of_bert_warns(cls, fields, says):
    with pytest.warns(UserWarning, match=says):
        cls(BertConfig(**SIZES, **fields))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls(BertConfig(**SIZES, is_decoder=not fields))


def test_the_old_name_of_labels():
    mine, theirs = build(tasks.BertForNextSentencePrediction, SIZES)
    with pytest.warns(FutureWarning, match="next_sentence_label is deprecated"):
        ours = mine(**INPUTS, next_sentence_label=FOLLOWS)
    with pytest.warns(FutureWarning):
        same(ours, theirs(**INPUTS, next_sentence_label=FOLLOWS))
    with pytest.raises(ValueError, match="next_sentence_label is .*, expected None, since labels was given"):
        mine(**INPUTS, labels=FOLLOWS, next_sentence_label=FOLLOWS)
    with pytest.raises(TypeError, match="lables"):
        mine(**INPUTS, lables=FOLLOWS)


def test_labels_in_int32_and_truth_values_are_taken(as_a_user):
    """The reference fails on both."""
    for name, more in (("label", torch.int32), ("answer", torch.int32), ("hidden words", torch.int32)):
        cls, fields, labels = KINDS[name]
        mine, _ = build(cls, SIZES | fields)
        loss = mine(**INPUTS, **{key: tensor.to(more) for key, tensor in labels.items()}).loss
        assert torch.equal(loss, mine(**INPUTS, **labels).loss)
    mine, _ = build(classify.BertForSequenceClassification, SIZES | THREE)
    assert torch.equal(mine(**INPUTS, labels=SEVERAL > 0.5).loss, mine(**INPUTS, labels=(SEVERAL > 0.5).float()).loss)


NONE_THERE = torch.full((3, 7), -100)
ONE = torch.tensor([0, 0, 0])
SINGLE, MULTI = ({"problem_type": f"{kind}_label_classification"} for kind in ("single", "multi"))
WRONG = {  # class, fields, labels, what the error says
    "labels turned": ("BertForMaskedLM", {}, {"labels": WORD_LABELS.T}, "labels has shape (7, 3), expected (3, 7)"),
    "label too large": (
        "BertForMaskedLM",
        {},
        {"labels": WORD_LABELS.masked_fill(WORD_LABELS == 66, 99)},
        "labels holds 99 at [0, 5], expected 0 to 98, or -100 for none",
    ),
    "label negative": (
        "BertForTokenClassification",
        THREE,
        {"labels": TOKEN_LABELS.masked_fill(TOKEN_LABELS == -100, -1)},
        "labels holds -1 at [1, 6], expected 0 to 2, or -100 for none",
    ),
    "no label": ("BertForMaskedLM", {}, {"labels": NONE_THERE}, "labels has no label from 0 to 98, expected one"),
    "no label of a token": ("BertForTokenClassification", THREE, {"labels": NONE_THERE}, "labels has no label from 0"),
    "no next word": (
        "BertLMHeadModel",
        DECODER,
        {"labels": NONE_THERE.index_fill(1, torch.tensor([0]), 5)},
        "labels has no label from 0 to 98",
    ),
    "label of the first word too large": (
        "BertLMHeadModel",
        DECODER,
        {"labels": WORD_LABELS.index_fill(1, torch.tensor([0]), 99)},
        "labels holds 99 at [0, 0]",
    ),
    "labels for too few texts": (
        "BertForNextSentencePrediction",
        {},
        {"labels": FOLLOWS[:2]},
        "labels has shape (2,), expected (3,)",
    ),
    "third answer": ("BertForNextSentencePrediction", {}, {"labels": FOLLOWS + 1}, "labels holds 2 at [0], expected 0"),
    "third answer, pre-training": (
        "BertForPreTraining",
        {},
        {"labels": WORD_LABELS, "next_sentence_label": FOLLOWS + 1},
        "next_sentence_label holds 2 at [0], expected 0 to 1",
    ),
    "one number for all": (
        "BertForSequenceClassification",
        {"num_labels": 1},
        {"labels": NUMBERS[:1]},
        "labels has shape (1,), expected (3,)",
    ),
    "one number a text for three": (
        "BertForSequenceClassification",
        THREE | {"problem_type": "regression"},
        {"labels": NUMBERS},
        "labels has shape (3,), expected (3, 3)",
    ),
    "number that is none": (
        "BertForSequenceClassification",
        {"num_labels": 1},
        {"labels": NUMBERS / 0},
        "labels holds inf at [0, 0], expected finite numbers",
    ),
    "probability of 2": (
        "BertForSequenceClassification",
        THREE,
        {"labels": 2 * SEVERAL},
        "labels holds 2 at [0, 0], expected 0 to 1",
    ),
    "probability that is none": (
        "BertForSequenceClassification",
        THREE,
        {"labels": SEVERAL * torch.nan},
        "labels holds nan at [0, 0], expected 0 to 1",
    ),
    "one label to choose from": (
        "BertForSequenceClassification",
        SINGLE | {"num_labels": 1},
        {"labels": ONE},
        "num_labels is 1, expected 2 or more, since problem_type is 'single_label_classification'",
    ),
    "whole numbers for several labels": (
        "BertForSequenceClassification",
        MULTI | THREE,
        {"labels": ONE},
        "labels has shape (3,), expected (3, 3)",
    ),
    "place before the text": (
        "BertForQuestionAnswering",
        {},
        {"start_positions": ONE - 1, "end_positions": ONE},
        "start_positions holds -1 at [0], expected 0 or more, or -100 for none",
    ),
    "all places beyond the text": (
        "BertForQuestionAnswering",
        {},
        {"start_positions": ONE, "end_positions": ONE + 7},
        "end_positions has no label from 0 to 6, expected one at least",
    ),
}


@pytest.mark.parametrize(("name", "fields", "labels", "message"), WRONG.values(), ids=WRONG.keys())
def test_labels_that_cannot_be_meant(name, fields, labels, message, as_a_user):
    model, _ = build(next(cls for cls in CLASSES if cls.__name__ == name), SIZES | fields)
    before = model.config.problem_type
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**INPUTS, **labels)
    assert model.config.problem_type == before


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("hidden words", WORD_LABELS.float()),
        ("hidden words", WORD_LABELS.tolist()),
        ("next sentence", FOLLOWS > 0),
        ("label of tokens", TOKEN_LABELS.to(torch.int16)),
        ("label", [2, 0, 1]),
        ("number", [0.5, 1.0, 2.0]),
        ("number", NUMBERS + 1j),
        ("choice", torch.ones(2, 3)),
    ],
)
def test_labels_of_another_type(kind, labels, as_a_user):
    cls, fields, _ = KINDS[kind]
    model, _ = build(cls, SIZES | fields)
    with pytest.raises(TypeError, match="^labels (has dtype|is) .*, expected a tensor of"):
        model(**CHOICES if kind == "choice" else INPUTS, labels=labels)


@pytest.mark.parametrize("problem", [SINGLE, MULTI], ids=str)
def test_labels_of_the_type_of_another_problem(problem, as_a_user):
    model, _ = build(classify.BertForSequenceClassification, SIZES | THREE | problem)
    labels = SEVERAL if problem is SINGLE else SEVERAL + 1j
    with pytest.raises(TypeError, match="^labels (has dtype|is)"):
        model(**INPUTS, labels=labels)


def test_a_problem_that_does_not_exist(as_a_user):
    model, _ = build(classify.BertForSequenceClassification, SIZES | THREE)
    model.config.problem_type = "multi_label"
    with pytest.raises(ValueError, match="problem_type is 'multi_label', expected one of"):
        model(**INPUTS, labels=ONE)


def test_a_place_that_is_none_is_left_out():
    """The reference takes -100 for the first token."""
    mine, theirs = build(classify.BertForQuestionAnswering, SIZES)
    end, first = torch.tensor([4, 2, 3]), torch.tensor([1, 0, 0])
    none, beyond = (first.index_fill(0, torch.tensor([1]), place) for place in (-100, 7))
    ours = mine(**INPUTS, start_positions=none, end_positions=end).loss
    same(ours, mine(**INPUTS, start_positions=beyond, end_positions=end).loss)
    same(ours, theirs(**INPUTS, start_positions=beyond, end_positions=end).loss)
    reference = theirs(**INPUTS, start_positions=none, end_positions=end).loss
    same(reference, theirs(**INPUTS, start_positions=first, end_positions=end).loss)
    assert ours != reference


def test_an_answer_has_a_beginning_and_an_end():
    with pytest.raises(ValueError, match="num_labels is 3, expected 2"):
        classify.BertForQuestionAnswering(BertConfig(**SIZES, num_labels=3))


CHOICE_CALLS = {
    "no axis for choices": (INPUTS, "input_ids has shape (3, 7), expected (batch, choices, seq)"),
    "mask in rows": (
        CHOICES | {"attention_mask": torch.ones(6, 7)},
        "attention_mask has shape (6, 7), expected (2, 3, seq)",
    ),
    "segments of two choices": (
        CHOICES | {"token_type_ids": torch.zeros(2, 2, 7).long()},
        "token_type_ids has shape (2, 2, 7), expected (2, 3, seq)",
    ),
    "positions of two choices": (
        CHOICES | {"position_ids": torch.zeros(2, 2, 7).long()},
        "position_ids has shape (2, 2, 7), expected (2, 3, seq)",
    ),
    "vectors of another size": (
        {"inputs_embeds": torch.ones(2, 3, 7, 29)},
        "inputs_embeds has shape (2, 3, 7, 29), expected (2, 3, seq, 30)",
    ),
    "labels of two texts": (CHOICES | {"labels": ONE}, "labels has shape (3,), expected (2,)"),
    "a fourth choice": (CHOICES | {"labels": torch.tensor([0, 3])}, "labels holds 3 at [1], expected 0 to 2"),
    "nothing": ({}, "You have to specify either input_ids or inputs_embeds"),
    "both": (
        CHOICES | {"inputs_embeds": torch.ones(2, 3, 7, 30)},
        "You cannot specify both input_ids and inputs_embeds",
    ),
}


@pytest.mark.parametrize(("call", "message"), CHOICE_CALLS.values(), ids=CHOICE_CALLS.keys())
def test_choices_that_are_none(call, message, as_a_user):
    model, _ = build(classify.BertForMultipleChoice, SIZES)
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**call)
