"""Any configuration survives the way through a file, here and in the reference, and unknown keys with it."""

from dataclasses import fields

import differential
import hypothesis.strategies as st
import transformers
from hypothesis import given, settings

from minibert.config import BertConfig

NAMES = [field.name for field in fields(BertConfig) if field.name not in BertConfig.NOT_STORED]


BOTH = {"id2label": {"0": "yes", "1": "no"}, "label2id": {"yes": 0, "no": 1}}
LABELS = [{}, {"num_labels": 1}, {"num_labels": 3}, {"id2label": {0: "no"}}, BOTH, BOTH | {"num_labels": 2}]


@st.composite
def configs(draw):
    chosen = differential.draw_fields(differential.Draw(draw)) | draw(st.sampled_from(LABELS))
    return chosen if isinstance(chosen["hidden_act"], str) else chosen | {"hidden_act": "gelu_new"}


def assert_equal(one, other):
    assert {name: getattr(one, name) for name in NAMES} == {name: getattr(other, name) for name in NAMES}


@settings(differential.SETTINGS, max_examples=100, derandomize=True)
@given(configs(), st.dictionaries(st.sampled_from(["_note", "trained_on", "finetuned_by"]), st.text()))
def test_round_trip(tmp_path_factory, chosen, unknown):
    path = tmp_path_factory.mktemp("config") / "config.json"
    mine = BertConfig.from_dict(chosen | unknown)
    mine.to_json_file(path)
    assert BertConfig.from_json_file(path).to_dict() == mine.to_dict()
    theirs = transformers.BertConfig.from_dict(transformers.BertConfig._dict_from_json_file(path))
    assert_equal(mine, theirs)
    assert all(getattr(theirs, key) == value for key, value in unknown.items())
    for use_diff in (True, False):
        theirs.to_json_file(path, use_diff=use_diff)
        back = BertConfig.from_json_file(path)
        assert_equal(back, mine)
        assert all(getattr(back, key) == value for key, value in unknown.items())
