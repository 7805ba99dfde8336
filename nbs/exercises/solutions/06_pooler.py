from jaxtyping import Float
from torch import Tensor, nn

from minibert.config import BertConfig


class BertPooler(nn.Module):
    "One vector for the whole sequence."

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch hidden"]:
        return self.dense(hidden_states[:, 0]).tanh()
