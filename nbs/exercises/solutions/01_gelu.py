import math

import torch
from jaxtyping import Float
from torch import Tensor


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    "Each number times the share of a normal distribution that lies below it."
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
