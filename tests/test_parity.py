"""The bar: on real weights and on a model of full size every tensor equals the reference's, forward and backward."""

import pytest
import torch
import transformers

from minibert.check import lively_, sample_batch
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.trace import record, weighted_sum
from minibert.walk import encode, load_reference, minilm_folder

TEXT = "The cat sat on the mat because it was tired."


def minilm():
    folder = minilm_folder()
    mine = BertModel.from_pretrained(folder)
    _, inputs, _ = encode(TEXT, folder, mine.config.max_position_embeddings)
    return mine, load_reference(folder), inputs


def bert_base():
    theirs = lively_(transformers.BertModel(transformers.BertConfig(attn_implementation="eager")))
    mine = BertModel(BertConfig())
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs, sample_batch(vocab_size=30522, seq=11)


@pytest.mark.parametrize(
    ("models", "training", "count", "parameters"),
    [
        (minilm, False, 106, 103),
        (minilm, True, 125, 103),
        (bert_base, False, 202, 199),
        (bert_base, True, 239, 199),
    ],
)
def test_every_tensor_and_every_gradient(models, training, count, parameters):
    mine, theirs, inputs = models()
    records = []
    for model in (mine, theirs):
        torch.manual_seed(0)
        records.append(record(model.train(training), **inputs, loss=weighted_sum))
    ours, reference = records
    assert len(reference) == count
    assert len(reference.gradients) == count - 2  # nothing flows back into the mask
    assert len(reference.parameter_gradients) == parameters
    for part in ("sources", "gradients", "parameter_gradients"):
        assert list(getattr(ours, part)) == list(getattr(reference, part))
    for name in reference:
        assert torch.equal(ours[name], reference[name]), name
    for part in ("gradients", "parameter_gradients"):
        for name, gradient in getattr(reference, part).items():
            assert torch.equal(getattr(ours, part)[name], gradient), f"gradient of {name}"
            assert gradient.any() or name.endswith("key.bias"), f"gradient of {name} is 0"
