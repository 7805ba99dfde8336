"""In every precision minibert is as close to the truth, computed in float64, as the reference is."""

import differential
import pytest
import torch

from minibert.check import SIZES, sample_batch

KINDS = [{}, {"position_embedding_type": "relative_key_query"}, {"is_decoder": True}, {"attn_implementation": "sdpa"}]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_distance_to_the_truth(fields, dtype):
    mine, theirs = differential.build(SIZES | fields)
    with torch.no_grad():
        truth = differential.build(SIZES | fields | {"attn_implementation": "eager"})[1].double()(**sample_batch())
        outputs = [model.to(dtype)(**sample_batch()) for model in (mine, theirs)]
    for name in ("last_hidden_state", "pooler_output"):
        far, far_too = ((output[name].double() - truth[name]).abs().max().item() for output in outputs)
        assert far <= far_too, f"{name}: {far} from the truth, the reference {far_too}"
        assert far < 100 * torch.finfo(dtype).eps, f"{name}: {far} is no rounding"
