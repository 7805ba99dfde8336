import torch
from jaxtyping import Int
from torch import Tensor


def causal_mask(
    attention_mask: Int[Tensor, "batch key"],  # 1 for visible, 0 for hidden; cached tokens first
    query: int,  # how many of the tokens look; they are the last
) -> Int[Tensor, "batch 1 query key"]:
    "1 where a token is visible and stands no later than the one that looks, else 0."
    key = attention_mask.shape[1]
    place = torch.arange(key)
    is_seen = place <= place[key - query :, None]
    return is_seen.to(attention_mask.dtype) * attention_mask[:, None, None, :]
