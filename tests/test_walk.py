"""The demo: a row for every tensor, an exit status that tells."""

import pytest
import transformers

from minibert import walk
from minibert.model import BertModel


@pytest.mark.parametrize("text", ["A sentence.", "x", "猫は\t'quoted' $5 \U0001f600", "very long " * 400])
def test_real_weights_agree(text, capsys):
    assert walk.main([text]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[-1] == "106 tensors compared, 106 agree bit for bit with the reference"
    assert len(rows) == 3 + 1 + 106 + 2


def test_rows_are_aligned(capsys):
    walk.main(["A sentence."])
    table = capsys.readouterr().out.splitlines()[3:-2]
    assert {len(row) for row in table} == {len(walk.HEADER)}


def test_one_difference_is_found_and_told(monkeypatch, capsys):
    load = BertModel.from_pretrained

    def spoilt(folder):
        model = load(folder)
        model.encoder.layer[3].attention.output.LayerNorm.eps = 0.1
        return model

    monkeypatch.setattr(BertModel, "from_pretrained", spoilt)
    assert walk.main(["A sentence."]) == 1
    rows = [row for row in capsys.readouterr().out.splitlines() if row.endswith("<- differs")]
    assert rows[0].startswith("encoder.layer.3.attention.output.LayerNorm")


def test_a_tensor_that_one_side_lacks_is_a_difference(capsys):
    folder = walk.minilm_folder()
    theirs = transformers.BertModel.from_pretrained(folder, attn_implementation="eager")
    mine = BertModel.from_pretrained(folder)
    del mine.encoder.layer[5]
    _, inputs, _ = walk.encode("A sentence.", folder, limit=512)
    assert walk.walk(mine, theirs, inputs) == 16 + 2
    assert capsys.readouterr().out.count("missing in minibert") == 16
