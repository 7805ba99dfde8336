"""Each demand that `check` makes is seen to fail, and what it remembers is what has passed."""

import pytest
import torch

from minibert.check import SIZES, CheckError, Checks, lively_, sample_batch

REFERENCE = torch.linspace(-1, 1, 21).view(3, 7)


def changed(index, value):
    tensor = REFERENCE.clone()
    tensor[index] = value
    return tensor


BAD = {
    "not a tensor": (REFERENCE.tolist(), REFERENCE, 0, "mine is a list, expected a torch.Tensor"),
    "reference not a tensor": (REFERENCE, 0.5, 0, "reference is a float"),
    "an axis too many": (REFERENCE[None], REFERENCE, 0, r"shape is \(1, 3, 7\), expected \(3, 7\)"),
    "stretchable": (REFERENCE[:1].clone(), REFERENCE, 0, r"shape is \(1, 7\)"),
    "dtype": (REFERENCE.double(), REFERENCE, 0, "dtype is torch.float64, expected torch.float32"),
    "nan": (changed((1, 2), torch.nan), REFERENCE, 0, r"mine holds nan at \[1, 2\]"),
    "infinity in the reference": (REFERENCE, changed((2, 0), torch.inf), 0, r"reference holds inf at \[2, 0\]"),
    "the same memory": (REFERENCE.view(3, 7), REFERENCE, 0, "share their memory"),
    "a constant": (torch.ones(3, 7), torch.ones(3, 7), 0, "spreads over 0"),
    "nothing at all": (torch.ones(0, 7), torch.ones(0, 7), 0, "no numbers"),
    "a tolerance that hides everything": (REFERENCE + 1, REFERENCE, 2.0, "more than atol"),
    "a negative tolerance": (REFERENCE.clone(), REFERENCE, -1.0, "more than atol"),
    "one bit": (REFERENCE.nextafter(torch.tensor(2.0)), REFERENCE, 0, "largest difference"),
    "more than the tolerance": (changed((0, 3), 5.0), REFERENCE, 0.1, r"at \[0, 3\] \(mine 5, reference -0.7\)"),
}


@pytest.mark.parametrize(("mine", "reference", "atol", "message"), BAD.values(), ids=BAD.keys())
def test_refuses(mine, reference, atol, message, as_a_user):
    check = Checks()
    with pytest.raises(CheckError, match=message):
        check("hidden", mine, reference, atol)
    assert check.rows == []


def test_remembers_what_has_passed(capsys):
    check = Checks()
    check("a", REFERENCE.clone(), REFERENCE)
    check("b", REFERENCE + 1e-4, REFERENCE, atol=1e-3)
    assert check.unchecked(["a", "b", "c"]) == ["c"]
    assert [row.verdict for row in check.recap()] == ["0", "≤ 0.001"]
    assert capsys.readouterr().out.count("✓") == 2
    assert check.recap()._repr_html_().count("<tr>") == 3


def test_lively_weights_leave_nothing_at_its_initial_value():
    module = lively_(torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7)))
    for parameter in module.parameters():
        assert parameter.unique().numel() == parameter.numel()
        assert (parameter != 0).all() and (parameter != 1).all()


def test_lively_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = lively_(torch.nn.Linear(5, 7), seed=3).weight
    torch.manual_seed(2)
    assert torch.equal(one, lively_(torch.nn.Linear(5, 7), seed=3).weight)
    assert not torch.equal(one, lively_(torch.nn.Linear(5, 7), seed=4).weight)


def test_the_sample_batch_has_padding_and_two_segments():
    batch = sample_batch()
    assert batch["attention_mask"].sum(1).tolist() == [7, 6, 5]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    assert (batch["input_ids"][batch["attention_mask"] == 1] > 0).all()
    assert batch["input_ids"].max() < SIZES["vocab_size"]
    assert all(set(row.tolist()) == {0, 1} for row in batch["token_type_ids"])
