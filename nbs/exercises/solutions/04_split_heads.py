from jaxtyping import Float
from torch import Tensor


def split_heads(x: Float[Tensor, "batch seq hidden"], heads: int) -> Float[Tensor, "batch heads seq head_dim"]:
    "Cut each token's vector into `heads` pieces, and put the heads before the tokens."
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
