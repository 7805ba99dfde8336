import torch
from jaxtyping import Float
from torch import Tensor


def relative_scores(
    query: Float[Tensor, "batch heads query head_dim"],
    table: Float[Tensor, "distances head_dim"],  # a vector for each distance, the most negative first
    key: int,  # how many keys there are; the queries are the last of their tokens
) -> Float[Tensor, "batch heads query key"]:
    "Each query times the vector of its distance from each key."
    place = torch.arange(key)
    distance = place[key - query.shape[2] :, None] - place
    vectors = table[distance + len(table) // 2]
    return torch.einsum("bhld,lrd->bhlr", query, vectors)
