import math

from jaxtyping import Float
from torch import Tensor


def attend(
    query: Float[Tensor, "batch heads query head_dim"],
    key: Float[Tensor, "batch heads key head_dim"],
    value: Float[Tensor, "batch heads key head_dim"],
    mask: Float[Tensor, "batch 1 1 key"],  # 0 for visible, the most negative number for hidden
) -> tuple[Float[Tensor, "batch heads query head_dim"], Float[Tensor, "batch heads query key"]]:
    "Scaled dot-product attention: what each query finds, and the probabilities."
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    probs = (scores + mask).softmax(dim=-1)
    return probs @ value, probs
