import math

import torch
from jaxtyping import Float
from torch import Tensor

Keys = Float[Tensor, "batch heads tokens head_dim"]


def cached_attend(
    query: Float[Tensor, "batch heads new head_dim"],
    key: Float[Tensor, "batch heads new head_dim"],
    value: Float[Tensor, "batch heads new head_dim"],
    past: tuple[Keys, Keys],  # keys and values of the tokens before these
) -> tuple[Float[Tensor, "batch heads new head_dim"], tuple[Keys, Keys]]:
    "What the new tokens of a decoder find, and the keys and values of all tokens so far."
    keys = torch.cat([past[0], key], dim=2)
    values = torch.cat([past[1], value], dim=2)
    place = torch.arange(keys.shape[2])
    is_hidden = place > place[-query.shape[2] :, None]
    scores = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
    probs = scores.masked_fill(is_hidden, -torch.inf).softmax(dim=-1)
    return probs @ values, (keys, values)
