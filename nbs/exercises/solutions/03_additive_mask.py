import torch
from jaxtyping import Float, Int
from torch import Tensor


def additive_mask(
    attention_mask: Int[Tensor, "batch key"],  # 1 for visible, 0 for hidden
    dtype: torch.dtype,  # that of the scores
) -> Float[Tensor, "batch 1 1 key"]:
    "0 where a token is visible, the most negative finite number where it is hidden."
    hidden = 1.0 - attention_mask[:, None, None, :].to(dtype)
    return hidden * torch.finfo(dtype).min
