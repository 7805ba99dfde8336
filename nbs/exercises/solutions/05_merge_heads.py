from jaxtyping import Float
from torch import Tensor


def merge_heads(x: Float[Tensor, "batch heads seq head_dim"]) -> Float[Tensor, "batch seq hidden"]:
    "Put each token's pieces side by side again."
    return x.transpose(1, 2).flatten(2)
