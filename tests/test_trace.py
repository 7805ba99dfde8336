"""The recorder sees every tensor that the reference computes, and leaves the model as it was."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from minibert.check import SIZES, sample_batch
from minibert.trace import record


@pytest.mark.parametrize(
    ("layers", "training", "count"), [(2, False, 42), (2, True, 49), (12, False, 202), (12, True, 239)]
)
def test_counts_of_the_reference(layers, training, count):
    config = BertConfig(**SIZES | {"num_hidden_layers": layers}, attn_implementation="eager")
    assert len(record(BertModel(config).train(training), **sample_batch())) == count


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        record(model, torch.ones(2, 5))
    record(model, torch.ones(2, 3))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_copies_are_taken_before_memory_is_written_again():
    class InPlace(nn.Module):
        def forward(self, x):
            y = x + 1
            y += 10
            return y.view(-1)

    trace = record(InPlace(), torch.zeros(2, 3))
    assert {name: tensor.unique().item() for name, tensor in trace.items()} == {"add": 1, "add_1": 11}
    assert trace.sources["add_1"] == ("add",)


def test_a_module_that_runs_twice_loses_nothing():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(self.inner(x))

    trace = record(Twice(), torch.ones(2, 3))
    assert list(trace) == ["inner", "inner@2"]
    assert trace.sources["inner@2"] == ("inner",)


def test_views_and_copies_are_followed_but_not_recorded():
    class Reshape(nn.Module):
        def forward(self, x):
            return (x * 2).transpose(0, 1).contiguous().flatten().to(torch.float64).tanh()

    trace = record(Reshape(), torch.ones(2, 3))
    assert trace.sources == {"mul": (), "tanh": ("mul",)}


# The peak of a process never falls: the plain forward comes first, and what `record` adds to it is what counts.
PEAKS = """
import resource, torch
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.trace import record

torch.set_num_threads(1)
model = BertModel(BertConfig()).eval()
inputs = {"input_ids": torch.arange(512)[None]}
with torch.no_grad():
    model(**inputs)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trace = record(model, keep="stats", **inputs)
print(len(trace), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has another unit")
def test_the_statistics_of_bert_base_and_512_tokens_fit_in_200_megabytes():
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    printed = subprocess.check_output([sys.executable, "-c", PEAKS], text=True, env=environment)
    count, kilobytes = map(int, printed.split())
    assert count == 202 and kilobytes * 1024 < 200e6
