"""Every head: saved there and loaded here, saved here and loaded there, in every form, bit for bit."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minibert import classify, model, tasks
from minibert.check import SIZES, lively_, sample_batch

INPUTS = sample_batch()
NAMES = {
    "BertModel": model,
    "BertForPreTraining": tasks,
    "BertLMHeadModel": tasks,
    "BertForMaskedLM": tasks,
    "BertForNextSentencePrediction": tasks,
    "BertForSequenceClassification": classify,
    "BertForMultipleChoice": classify,
    "BertForTokenClassification": classify,
    "BertForQuestionAnswering": classify,
}
FORMS = {
    "safetensors": {},
    "pickle": {"safe_serialization": False},
    "shards": {"max_shard_size": "20KB"},
    "pickled shards": {"safe_serialization": False, "max_shard_size": "20KB"},
}
DECODER = {"is_decoder": True, "add_cross_attention": True}

pytestmark = pytest.mark.filterwarnings("ignore:BertLMHeadModel without is_decoder")


def reference(name, **fields):
    config = transformers.BertConfig(**SIZES, **fields, attn_implementation="eager")
    return lively_(getattr(transformers, name)(config)).eval()


def load_reference(name, folder):
    return getattr(transformers, name).from_pretrained(folder, attn_implementation="eager").eval()


def assert_same_weights(mine, theirs):
    ours, reference = mine.state_dict(), theirs.state_dict()
    assert list(ours) == list(reference)
    for key, tensor in reference.items():
        assert ours[key].dtype == tensor.dtype and torch.equal(ours[key], tensor), key


def assert_same_outputs(mine, theirs, name):
    inputs = {key: x[None] for key, x in INPUTS.items()} if name == "BertForMultipleChoice" else INPUTS
    for one, other in zip(mine(**inputs).to_tuple(), theirs(**inputs).to_tuple(), strict=True):
        if isinstance(other, torch.Tensor):
            assert torch.equal(one, other)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name, form, tmp_path):
    cls, theirs = getattr(NAMES[name], name), reference(name)
    theirs.save_pretrained(tmp_path / "theirs", **FORMS[form])
    mine = cls.from_pretrained(tmp_path / "theirs")
    assert_same_weights(mine, theirs)
    assert not mine.load_report.new and not mine.load_report.mismatched
    mine.save_pretrained(tmp_path / "mine", max_shard_size="20KB" if "shards" in form else "5GB")
    back = load_reference(name, tmp_path / "mine")
    assert_same_weights(back, theirs)
    assert_same_outputs(cls.from_pretrained(tmp_path / "mine"), back, name)


@pytest.mark.parametrize("fields", [DECODER, {"position_embedding_type": "relative_key"}, {"num_labels": 5}], ids=str)
@pytest.mark.parametrize("name", ["BertModel", "BertLMHeadModel", "BertForSequenceClassification"])
def test_other_configurations(name, fields, tmp_path):
    theirs = reference(name, **fields)
    theirs.save_pretrained(tmp_path)
    mine = getattr(NAMES[name], name).from_pretrained(tmp_path)
    assert_same_weights(mine, theirs)
    assert_same_outputs(mine, load_reference(name, tmp_path), name)


@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForMaskedLM", "BertLMHeadModel"])
def test_tied_weights_are_one(name, tmp_path):
    reference(name).save_pretrained(tmp_path)
    mine = getattr(tasks, name).from_pretrained(tmp_path)
    assert mine.cls.predictions.decoder.weight is mine.bert.embeddings.word_embeddings.weight
    assert mine.cls.predictions.decoder.bias is mine.cls.predictions.bias


def test_tied_weights_that_differ(tmp_path):
    theirs = reference("BertForMaskedLM", tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cls.predictions.decoder.weight differs from .*tie_word_embeddings=False"):
        tasks.BertForMaskedLM.from_pretrained(tmp_path, tie_word_embeddings=True)
    assert_same_weights(tasks.BertForMaskedLM.from_pretrained(tmp_path), theirs)


def test_the_layout_of_bert_base_uncased(tmp_path):
    theirs = reference("BertForPreTraining")
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(SIZES["max_position_embeddings"])[None]
    old["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    mine = tasks.BertForPreTraining.from_pretrained(tmp_path)
    assert_same_weights(mine, theirs)
    assert list(mine.load_report.ignored) == ["bert.embeddings.position_ids"]
    assert len(mine.load_report.used) == len(list(mine.parameters())) and not mine.load_report.new
    guesser = tasks.BertForMaskedLM.from_pretrained(tmp_path)
    assert_same_weights(guesser, load_reference("BertForMaskedLM", tmp_path))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "BertModel"])
def test_a_new_head_on_an_old_body(name, tmp_path):
    body = lively_(model.BertModel(model.BertConfig(**SIZES)))
    body.save_pretrained(tmp_path)
    cls = getattr(NAMES[name], name)
    with pytest.raises(ValueError, match="lacks .* of the parameters of .*new_head=True makes them new"):
        cls.from_pretrained(tmp_path)
    mine = cls.from_pretrained(tmp_path, new_head=True)
    assert mine.load_report.new and all(not key.startswith("bert.") for key in mine.load_report.new)
    for key, tensor in mine.named_parameters():
        assert tensor.isfinite().all() and not tensor.is_meta, key
    kept = {key: tensor for key, tensor in body.state_dict().items() if mine.bert.pooler or "pooler" not in key}
    for key, tensor in kept.items():
        assert torch.equal(mine.bert.state_dict()[key], tensor), key
